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

/// Something that a user adds to a machine.
#[derive(Clone, Debug)]
pub struct Addition {
    /// By which command.
    pub by: AddedBy,
    /// Its type.
    pub type_name: &'static str,
    /// What it is called.
    pub id: String,
    /// Which of its properties are set, and to what.
    pub properties: Vec<(&'static str, &'static str)>,
}

impl Addition {
    /// Where it is on the machine.
    #[must_use]
    pub fn path(&self) -> String {
        let parent = match self.by {
            AddedBy::DeviceAdd => "/machine/peripheral",
            AddedBy::ObjectAdd => "/objects",
        };
        format!("{parent}/{}", self.id)
    }

    /// The command of QEMU's monitor by which a user adds it.
    #[must_use]
    pub fn command(&self) -> String {
        let command = match self.by {
            AddedBy::DeviceAdd => "device_add",
            AddedBy::ObjectAdd => "object_add",
        };
        let properties = self.properties.iter().map(|(name, value)| format!(",{name}={value}"));
        let properties: String = properties.collect();
        format!("{command} {},id={}{properties}", self.type_name, self.id)
    }

    fn add_to(&self, vm: &Vm) {
        let (name, id) = (self.type_name, &self.id);
        let value = |&(name, value): &(&str, &str)| (name.to_owned(), PropertyValue::from(value));
        let properties: Properties = self.properties.iter().map(value).collect();
        let added = match self.by {
            AddedBy::DeviceAdd => vm.add_device(name, Some(id), properties),
            AddedBy::ObjectAdd => vm.add_object(name, id, properties),
        };
        added.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

/// A type of device, and the properties that say where one is.
type Place = (&'static str, &'static [(&'static str, &'static str)]);

/// What has to be set of a device that has its default place on the machine already.
const ELSEWHERE: &[Place] = &[("serial16550", &[("iobase", "0x2f8"), ("irq", "7")])];

/// What is set of a device of this type for it to have its place among `places`.
fn place(places: &[Place], type_name: &str) -> Vec<(&'static str, &'static str)> {
    let place = places.iter().find(|(device, _)| *device == type_name);
    place.map_or_else(Vec::new, |(_, properties)| properties.to_vec())
}

/// One of everything that a user can add to a machine.
#[must_use]
pub fn everything() -> Vec<Addition> {
    let addition = |(type_name, by)| Addition {
        by,
        type_name,
        id: format!("a-{type_name}"),
        properties: place(ELSEWHERE, type_name),
    };
    addable_types(&types()).map(addition).collect()
}

/// Has `vm` get one of everything that a user can add to it.
///
/// # Panics
///
/// If something cannot be added.
pub fn add_everything(vm: &Vm) {
    everything().iter().for_each(|addition| addition.add_to(vm));
}

/// The same by ids of the greatest length, and of all that an id can have.
///
/// # Panics
///
/// If something cannot be added.
pub fn add_everything_by_long_ids(vm: &Vm) {
    const LENGTH: usize = 128;
    for addition in everything() {
        let id = format!("A.b_{:Z<1$}", addition.type_name, LENGTH - 4);
        Addition { id, ..addition }.add_to(vm);
    }
}

/// What users can switch on of a device that it has on no machine by itself: type, property, value. With it come the optional parts
/// of states, which a release has to keep like all others.
pub const OPTIONS: &[(&str, &str, &str)] = &[("tern-testdev", "timer", "on")];

/// Where a device is that has a place of its own on the machine already, and another one by [`everything`].
const FURTHER: &[Place] = &[(
    "tern-testdev",
    &[("mmio-base", "0xd1010000"), ("iobase", "0xe8"), ("irq", "6")],
)];

/// One device more than [`everything`] for each of the [`OPTIONS`].
#[must_use]
pub fn options() -> Vec<Addition> {
    let addition = |&(type_name, option, value): &(&'static str, &'static str, &'static str)| Addition {
        by: AddedBy::DeviceAdd,
        type_name,
        id: format!("{type_name}-with-{option}"),
        properties: [place(FURTHER, type_name), vec![(option, value)]].concat(),
    };
    OPTIONS.iter().map(addition).collect()
}

/// Has `vm` get one device more for each of the [`OPTIONS`].
///
/// # Panics
///
/// If one cannot be added.
pub fn add_options(vm: &Vm) {
    options().iter().for_each(|addition| addition.add_to(vm));
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

/// What a machine with everything on it, all options with it, and one processor saves, as it is today.
#[must_use]
#[track_caller]
pub fn schemas(machine: &str) -> Vec<SectionSchema> {
    let machine = full(machine, 1);
    add_options(&machine.vm);
    machine.vm.schemas()
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
