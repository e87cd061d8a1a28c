//! What users ask of all objects of a type, and a machine does not take from there.

use hw::core::Machine;
use hw::i386::cpu::X86Cpu;
use hw::i386::microvm::MemoryBackend;
use vmstate::qom::{GlobalError, GlobalProperty, ObjectPart as _, TypeTable};

/// What is set of every object of a type when a machine is made, whatever was asked for: type, property, and where it comes from.
const UNREAD: [(&str, &str, &str); 5] = [
    (
        Machine::TYPE,
        "cpus",
        "--cpus sets it, whatever this says; give that instead",
    ),
    (Machine::TYPE, "memory", MEMORY),
    (MemoryBackend::TYPE, "size", MEMORY),
    (
        MemoryBackend::TYPE,
        "backing",
        "it only shows what the memory is made of",
    ),
    (
        X86Cpu::TYPE,
        "apic-id",
        "each has its own, which follows from its place among them",
    ),
];
const MEMORY: &str = "--memory sets it, whatever this says; give that instead";

/// Refuses settings that would be taken and change nothing. What comes with a VM from elsewhere is not asked: it has run with them.
///
/// # Errors
///
/// The first of them, and what there is instead.
pub(super) fn check(types: &TypeTable, globals: &[GlobalProperty]) -> Result<(), GlobalError> {
    for global in globals {
        // A type that there is not is refused with all else that cannot be followed, by the board.
        let Ok(class) = types.class(&global.type_name) else {
            continue;
        };
        let unread = |(of, property, _): &&(&str, &str, &str)| class.is_a(of) && global.property == *property;
        if let Some((_, _, reason)) = UNREAD.iter().find(unread) {
            return Err(GlobalError {
                global: global.to_string(),
                reason: (*reason).to_owned(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::{Host, Vm, VmSpec};
    use std::sync::Arc;
    use vmstate::qom::PropertyValue;

    fn made_with(global: &str) -> Result<(), String> {
        let host = Host::without_processors(TypeTable::gathered().expect("sound types"));
        let spec = VmSpec {
            memory: 8 << 20,
            globals: vec![global.parse().expect("well-formed")],
            ..VmSpec::new("test", "")
        };
        let made = Vm::create(&host, &spec, Arc::default());
        made.map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn a_setting_that_nobody_reads_is_refused_with_what_does_it() {
        for (global, remedy) in [
            ("machine.memory=1", "--memory"),
            ("microvm-1.0.memory=16777216", "--memory"),
            ("machine.cpus=2", "--cpus"),
            ("memory-backend-ram.size=1", "--memory"),
            ("memory-backend.backing=file", "only shows"),
            ("x86-cpu.apic-id=3", "follows from its place"),
        ] {
            let told = made_with(global).expect_err(global);
            assert!(
                told.starts_with(&format!("{global}: ")) && told.contains(remedy),
                "{told}"
            );
        }
        for (global, why) in [
            ("machin.memory=1", "there is no type 'machin'"),
            ("machine.colour=1", "machine has no property 'colour'"),
        ] {
            let told = made_with(global).expect_err(global);
            assert!(told.contains(why), "{told}");
        }
        assert_eq!(made_with("pvpanic.events=1"), Ok(()));
    }

    /// Whatever else can be set of what a machine has is then so.
    #[test]
    fn every_other_setting_is_what_the_objects_have() {
        let types = TypeTable::gathered().expect("sound types");
        let host = Host::without_processors(Arc::clone(&types));
        let spec = |globals| VmSpec {
            memory: 8 << 20,
            globals,
            ..VmSpec::new("test", "")
        };
        let plain = Vm::create(&host, &spec(Vec::new()), Arc::default()).expect("made");
        let mut asked = Vec::new();
        plain.root().walk(|object| {
            for (property, value) in object.configuration() {
                let name = property.name();
                let unread = UNREAD.iter().any(|(of, unread, _)| object.is_a(of) && *unread == name);
                let PropertyValue::Uint(number) = value else {
                    continue;
                };
                // Even, so that nothing comes to lie across a boundary.
                let other = number + 2;
                if !unread {
                    asked.push((object.type_name().to_owned(), name.to_owned(), other));
                }
            }
        });
        assert!(asked.len() >= 8, "{asked:?}");
        for (type_name, property, other) in asked {
            let global = format!("{type_name}.{property}={other}");
            let Ok(vm) = Vm::create(&host, &spec(vec![global.parse().expect("well-formed")]), Arc::default()) else {
                // It is read, and cannot be so.
                continue;
            };
            vm.root().walk(|object| {
                if object.type_name() == type_name {
                    let found = object.property(&property);
                    assert_eq!(found, Ok(other.into()), "{global}");
                }
            });
        }
    }
}
