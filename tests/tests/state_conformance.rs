//! Every registered type with state keeps what all of them owe.
//!
//! Types are found in the table of types, so that a new one is covered by being registered. `TERN_CASES` says how many
//! cases of each are looked at, `TERN_SEED` what they are made of; a failure names both.

use std::collections::BTreeSet;
use std::sync::Arc;

use hw::core::device_class;
use migration::vm::SourceVm;
use tern_tests::compat::conformance::{self, Outcome, expect_reset, types_with_state};
use tern_tests::compat::random::{Random, cases, seed};
use tern_tests::compat::rig::{Saved, SavedSection};
use tern_tests::compat::values::legal_value;
use tern_tests::machine::{Machine, Site};
use vmm::control::ShutdownReason;
use vmm::vm::VmSpec;
use vmstate::qom::TypeTable;
use vmstate::qom::sections::{IncomingSection, load_tree};

/// The types of the program that users get; one that is not linked in here is not tested.
const TYPES: &str = include_str!("types.txt");

fn types() -> Arc<TypeTable> {
    let types = TypeTable::gathered().expect("the types fit together");
    assert_eq!(types.names().collect::<Vec<_>>(), TYPES.lines().collect::<Vec<_>>());
    types
}

/// What describes the state of objects of a type.
fn descriptions(types: &TypeTable, name: &str) -> Vec<&'static str> {
    let class = types.class(name).expect("it is in the table");
    let described = class
        .lineage()
        .iter()
        .filter(|info| matches!(info.state, vmstate::qom::StateDecl::Described(_)));
    described.map(|info| info.name).collect()
}

#[test]
fn every_type_with_state_loads_what_it_has_saved_and_refuses_what_is_damaged() {
    let types = types();
    let machine = stopped_machine();
    let reset_here: BTreeSet<_> = sections(&machine)
        .into_iter()
        .map(|section| section.description)
        .collect();
    let mut wrong = Vec::new();
    let mut all = Outcome::default();
    for name in types_with_state(&types) {
        match conformance::check(&types, name, cases(8), seed()) {
            Ok(outcome) => {
                all.accepted += outcome.accepted;
                all.damage_refused += outcome.damage_refused;
                all.damage_harmless += outcome.damage_harmless;
                // What is not reset alone is reset in the test below, if a machine has it.
                let of_type = descriptions(&types, name);
                if outcome.is_reset_by_accelerator && !of_type.iter().all(|one| reset_here.contains(*one)) {
                    wrong.push(format!(
                        "{name}: nothing that is tested resets what {of_type:?} describes"
                    ));
                }
            }
            Err(error) => wrong.push(error),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert!(
        all.accepted > 0 && all.damage_refused > 0 && all.damage_harmless > 0,
        "nothing was tested: {all:?}"
    );
}

fn stopped_machine() -> Machine {
    let spec = VmSpec {
        cpus: 2,
        memory: 8 << 20,
        ..VmSpec::new("reset", "")
    };
    let machine = Site::new("qtest").boot(&spec);
    machine.vm.stop().expect("stops");
    machine
}

fn sections(machine: &Machine) -> Saved {
    let schemas = machine.vm.schemas();
    let sections = machine.vm.sections().expect("the state can be saved");
    let saved = sections.into_iter().zip(schemas).map(|(section, schema)| SavedSection {
        path: section.path,
        description: section.description,
        schema: Arc::new(schema.schema),
        value: section.value,
    });
    saved.collect()
}

#[test]
fn a_machine_that_is_reset_is_as_a_new_one_whatever_it_was_but_for_what_hardware_keeps() {
    let new = stopped_machine();
    new.vm.reset(ShutdownReason::HostQmpSystemReset).expect("resets");
    let expected = sections(&new);
    for case in 0..cases(4) {
        let used = stopped_machine();
        let mut random = Random::new(seed(), "machine", case);
        let mut any = sections(&used);
        for section in &mut any {
            section.value = legal_value(&section.schema, &section.value, &mut random);
        }
        let incoming = any.iter().map(|section| IncomingSection {
            path: section.path.clone(),
            description: section.description.clone(),
            writer_schema: Arc::clone(&section.schema),
            bytes: section.bytes().expect("a legal state"),
        });
        load_tree(used.vm.root(), incoming.collect(), &[]).expect("loaded");
        used.vm.reset(ShutdownReason::HostQmpSystemReset).expect("resets");
        for (section, expected) in sections(&used).iter().zip(&expected) {
            let object = used.vm.root().resolve(&section.path).expect("it is there");
            // What is no device is not reset.
            let Some(class) = device_class(&object) else { continue };
            let reset = expect_reset(class.kept_by_reset(), section, &expected.value);
            reset.unwrap_or_else(|error| panic!("{error}\n(case {case}; TERN_SEED={:#x})", seed()));
        }
    }
}
