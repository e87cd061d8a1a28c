//! A machine with everything on it that can have state, and a kernel that takes no room.

use std::sync::Arc;

use hw::core::{AddedBy, MachineType, addable_types};
use migration::vm::SourceVm;
use serde_json::Value;
use vmm::vm::{Properties, Vm, VmSpec};
use vmstate::qom::sections::SectionSchema;
use vmstate::qom::{PropertyValue, StateDecl, TypeTable};

use crate::elf;
use crate::machine::{Machine, Site};

/// The least memory that a machine takes.
pub const MEMORY: u64 = 4 << 20;

/// All machines of this program that can be made, sorted.
#[must_use]
pub fn all() -> Vec<String> {
    let machines = MachineType::all(&types());
    let mut names: Vec<_> = machines.iter().map(|machine| machine.name.to_owned()).collect();
    names.sort();
    names
}

/// All types of this program that have a description of state, sorted.
#[must_use]
pub fn described_types() -> Vec<&'static str> {
    let types = types();
    let described = types
        .infos()
        .filter(|info| matches!(info.state, StateDecl::Described(_)));
    described.map(|info| info.name).collect()
}

fn types() -> Arc<TypeTable> {
    TypeTable::gathered().expect("the types fit together")
}

/// A kernel that stands still.
#[must_use]
pub fn least_kernel() -> Vec<u8> {
    /// CLI, HLT, and back to it.
    const CODE: [u8; 4] = [0xfa, 0xf4, 0xeb, 0xfc];
    elf::kernel(&CODE)
}

/// What has to be set of a device that has its default place on the machine already.
const ELSEWHERE: &[Place] = &[("serial16550", &[("iobase", "0x2f8"), ("irq", "7")])];

/// Has `vm` get one of everything that a user can add to it.
///
/// # Panics
///
/// If something cannot be added.
pub fn add_everything(vm: &Vm) {
    let types = types();
    for (name, by) in addable_types(&types) {
        let id = format!("a-{name}");
        let added = match by {
            AddedBy::DeviceAdd => {
                let place = ELSEWHERE.iter().find(|(device, _)| *device == name);
                vm.add_device(name, Some(&id), set(place, None))
            }
            AddedBy::ObjectAdd => vm.add_object(name, &id, Vec::new()),
        };
        added.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

/// What users can switch on of a device that it has on no machine by itself: type, property, value. With it come the optional parts
/// of states, which a release has to keep like all others.
pub const OPTIONS: &[(&str, &str, &str)] = &[("tern-testdev", "timer", "on")];

/// What is set of a device that has this place, and perhaps an option.
fn set(place: Option<&Place>, option: Option<(&str, &str)>) -> Properties {
    let properties = place.into_iter().flat_map(|(_, properties)| properties.iter().copied());
    let properties = properties.chain(option);
    properties
        .map(|(name, value)| (name.to_owned(), PropertyValue::from(value)))
        .collect()
}

/// A type of device, and the properties that say where one is.
type Place = (&'static str, &'static [(&'static str, &'static str)]);

/// Where a device is that has a place of its own on the machine already, and another one by [`add_everything`].
const FURTHER: &[Place] = &[(
    "tern-testdev",
    &[("mmio-base", "0xd1010000"), ("iobase", "0xe8"), ("irq", "6")],
)];

/// Has `vm` get one device more for each of the [`OPTIONS`].
///
/// # Panics
///
/// If one cannot be added.
pub fn add_options(vm: &Vm) {
    for (name, option, value) in OPTIONS {
        let place = FURTHER.iter().find(|(device, _)| device == name);
        let id = format!("{name}-with-{option}");
        vm.add_device(name, Some(&id), set(place, Some((option, value))))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

/// A machine without processors that run, with `cpus` of them and one of everything that can be added, stopped.
///
/// # Panics
///
/// If it cannot be made.
#[must_use]
#[track_caller]
pub fn full(machine: &str, cpus: u32) -> Machine {
    let kernel = least_kernel();
    let mut spec = VmSpec::new(machine, "");
    (spec.machine, spec.cpus, spec.memory) = (machine.to_owned(), cpus, MEMORY);
    spec.boot.kernel = &kernel;
    let machine = Site::new("qtest").boot(&spec);
    add_everything(&machine.vm);
    machine.vm.stop().expect("it stops");
    machine
}

/// What a machine with everything on it and one processor saves, as it is today.
#[must_use]
#[track_caller]
pub fn schemas(machine: &str) -> Vec<SectionSchema> {
    full(machine, 1).vm.schemas()
}

/// What a guest sees of the machine today.
///
/// # Panics
///
/// If there is no such machine.
#[must_use]
pub fn shape(name: &str) -> Value {
    let types = TypeTable::gathered().expect("sound types");
    let machine = MachineType::find(&types, name).unwrap_or_else(|| panic!("there is no machine {name}"));
    vmm::vm::shape(&types, machine.name, machine.class.since).expect("it can be made")
}

/// The file in a release's folder that has the shape of a machine.
#[must_use]
pub fn shape_file(machine: &str) -> String {
    format!("machine-{machine}.json")
}

/// The file in a release's folder that has all CPU models that are the same on every host.
pub const CPU_MODELS_FILE: &str = "cpu-models.json";

/// What a guest is told by each of those today.
///
/// # Panics
///
/// If this program cannot give one of them.
#[must_use]
pub fn cpu_models() -> Value {
    vmm::vm::cpu_models(&types()).expect("they can be given")
}
