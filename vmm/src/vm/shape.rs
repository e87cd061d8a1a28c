//! What a guest sees of a machine, as data: what its version promises to leave as it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use hw::core::{AddedBy, HotplugError, MachineClass, Release, addable_types};
use hw::i386::cpu_model::{CPU_MODELS, CpuModel, CpuSpec};
use hw::i386::cpuid::CpuidTable;
use hw::i386::microvm::layout;
use hw::i386::msr;
use hw::memory::{AddressSpace, RamBlock};
use migration::vm::SourceVm;
use serde_json::{Map, Value, json};
use vmstate::qom::{Class, PropertyKind, TypeTable};
use vmstate::state::Schema;

use super::{CreateError, Host, Vm, VmSpec, describe, processor};
use crate::accel::HostFeatures;
use crate::boot;

/// So many vCPUs, and so much memory that some of it lies above the hole below 4 GiB.
const CPUS: u32 = 2;
const MEMORY: u64 = 5 << 30;

/// What a guest with two vCPUs and 5 GiB of memory sees of the machine called `machine`, wherever it runs:
///
/// | member | what |
/// | --- | --- |
/// | `machine`, `since` | its name, and the release that brought it |
/// | `limits` | how many vCPUs and how many bytes of memory it takes: the least and the most, and what the bytes are a multiple of |
/// | `memory`, `io` | the memory map and the I/O ports: the name of what is there, by addresses in hexadecimal |
/// | `objects` | type and properties of each object, by its path |
/// | `settable` | what can be set of objects of each type that it has or users can add: type and range, by property |
/// | `addable` | the types that users can add: by what command, and the default of each property |
/// | `state` | version, fields and subsections of each description of state, by the path of its object |
/// | `tables` | bytes of the ACPI and MP tables and of the reset vector, in rows, by their addresses |
/// | `boot` | what a kernel is told of memory, and the boot processor's state at each entry |
/// | `reset` | the state of each other object after a reset, by its path and what describes it |
/// | `cpuid` | rows of each CPU model that there was with that release, by leaf and subleaf |
///
/// Nothing of it depends on the host. It is made without an accelerator that runs guests, and the types that one
/// puts in the place of abstract ones go by those.
///
/// # Errors
///
/// There is no such machine, or the host has no memory for one.
pub fn shape(types: &Arc<TypeTable>, machine: &str, since: Release) -> Result<Value, CreateError> {
    let host = Host::without_processors(Arc::clone(types));
    let spec = VmSpec {
        machine: machine.to_owned(),
        cpus: CPUS,
        memory: MEMORY,
        ..VmSpec::new("shape", "")
    };
    let vm = Vm::create(&host, &spec, Arc::default())?;
    let addable: BTreeMap<_, _> = addable_types(types).collect();
    Ok(json!({
        "machine": machine,
        "since": since.to_string(),
        "limits": limits(vm.board().machine().class()),
        "memory": map(vm.board().memory()),
        "io": map(vm.board().io()),
        "objects": objects(&vm),
        "settable": settable(types, &vm, addable.keys().copied())?,
        "addable": defaults(&vm, &addable)?,
        "state": vm.schemas().iter().map(|section| {
            (format!("{} ({})", section.path, section.description), state(&section.schema))
        }).collect::<Map<_, _>>(),
        "tables": tables(vm.board().ram())?,
        "boot": boot::shape(MEMORY),
        "reset": reset(&vm),
        "cpuid": tables_of(types, fixed_models().filter(|model| model.since <= since))?
            .map(|(model, table)| (model.name.to_owned(), rows(&table).into()))
            .collect::<Map<_, _>>(),
    }))
}

/// What a guest with two vCPUs is told by each CPU model that is the same on every host, those that are newer than any machine
/// among them: by its name,
///
/// | member | what |
/// | --- | --- |
/// | `since` | the release that brought it |
/// | `cpuid` | rows by leaf and subleaf |
/// | `msrs` | the numbers of the registers that its features bring with them, by name |
///
/// Nothing of it depends on the host.
///
/// # Errors
///
/// A model has a feature that this program cannot give.
pub fn cpu_models(types: &Arc<TypeTable>) -> Result<Value, CreateError> {
    shapes_of(types, fixed_models())
}

fn shapes_of(types: &Arc<TypeTable>, models: impl Iterator<Item = &'static CpuModel>) -> Result<Value, CreateError> {
    let shapes = tables_of(types, models)?.map(|(model, table)| {
        let msrs = msr::rows_for(&table).map(|row| (row.name.to_owned(), format!("{:#x}", row.index).into()));
        let shape = json!({
            "since": model.since.to_string(),
            "cpuid": rows(&table),
            "msrs": msrs.collect::<Map<_, _>>(),
        });
        (model.name.to_owned(), shape)
    });
    Ok(shapes.collect::<Map<_, _>>().into())
}

fn limits(machine: &Class) -> Value {
    let most = machine.data::<MachineClass>().map_or(0, |machine| machine.max_cpus);
    json!({
        "cpus": { "least": 1, "most": most },
        "memory": { "least": layout::MIN_RAM, "most": layout::MAX_RAM, "multiple-of": layout::PAGE },
    })
}

/// The properties that a user can set, by type; types that have none are left out.
fn settable(
    types: &TypeTable,
    vm: &Vm,
    addable: impl Iterator<Item = &'static str>,
) -> Result<Map<String, Value>, CreateError> {
    let inventory = describe::inventory(vm.root(), &vm.accelerator().types());
    let of_board = inventory.objects.into_iter().map(|object| object.type_name);
    let mut settable = Map::new();
    for name in of_board.chain(addable.map(str::to_owned)) {
        let class = types.class(&name).map_err(HotplugError::from)?;
        let properties = class.properties().filter(|property| property.is_settable());
        let properties: Map<_, _> = properties
            .map(|property| (property.name().to_owned(), taken_by(property.kind())))
            .collect();
        if !properties.is_empty() {
            settable.insert(name, properties.into());
        }
    }
    Ok(settable)
}

/// What values a property takes.
fn taken_by(kind: &PropertyKind) -> Value {
    match kind {
        PropertyKind::Uint { min, max, .. } | PropertyKind::Size { min, max } => {
            json!({ "type": kind.type_name(), "least": min, "most": max })
        }
        PropertyKind::Int { min, max, .. } => json!({ "type": kind.type_name(), "least": min, "most": max }),
        PropertyKind::Enum { values, .. } => json!({ "type": kind.type_name(), "values": values }),
        PropertyKind::Optional(of) => {
            let mut taken = taken_by(of);
            taken["null"] = true.into();
            taken
        }
        PropertyKind::List(of) => json!({ "type": kind.type_name(), "each": taken_by(of) }),
        PropertyKind::Bool | PropertyKind::Str | PropertyKind::Link(_) | PropertyKind::Child(_) => {
            json!({ "type": kind.type_name() })
        }
    }
}

/// What the properties of an object are that a user adds to the machine and sets nothing of.
fn defaults(vm: &Vm, addable: &BTreeMap<&'static str, AddedBy>) -> Result<Map<String, Value>, CreateError> {
    let mut all = Map::new();
    for (name, by) in addable {
        let made = vm.board().defaults().new_object(vm.root().types(), name);
        let object = made.map_err(HotplugError::from)?;
        let defaults = object.configuration().into_iter();
        let defaults: Map<_, Value> = defaults
            .map(|(property, value)| (property.name().to_owned(), value.to_string().into()))
            .collect();
        all.insert((*name).to_owned(), json!({ "by": by.command(), "defaults": defaults }));
    }
    Ok(all)
}

fn map(space: &AddressSpace) -> Map<String, Value> {
    let view = space.view();
    let sections = view.sections().iter().map(|section| {
        let range = section.guest_range();
        let place = format!("{:#x}-{:#x}", range.start, range.end - 1);
        (place, section.region.name().into())
    });
    sections.collect()
}

fn objects(vm: &Vm) -> Map<String, Value> {
    let inventory = describe::inventory(vm.root(), &vm.accelerator().types());
    let objects = inventory.objects.into_iter().map(|object| {
        let properties = object.properties.into_iter();
        let properties: Map<_, _> = properties
            .map(|property| (property.name, property.value.into()))
            .collect();
        (
            object.path,
            json!({ "type": object.type_name, "properties": properties }),
        )
    });
    objects.collect()
}

/// Fields and subsections by name alone: how each may change is for the comparison of schemas.
fn state(schema: &Schema) -> Value {
    let fields: Vec<_> = schema.fields.iter().map(|field| field.name.to_string()).collect();
    let subsections = schema.subsections.iter();
    let subsections: Vec<_> = subsections
        .map(|subsection| subsection.schema.name.to_string())
        .collect();
    json!({ "version": schema.version, "fields": fields, "subsections": subsections })
}

/// States as they are when the machine begins; of the boot processor that is the entry's. What says where the machine comes from, and when,
/// is no part of it.
fn reset(vm: &Vm) -> Map<String, Value> {
    const OF_THIS_HOST: [&str; 3] = ["machine", "guest-clock", "mc146818rtc"];
    let boot_processor = vm.board().cpus().first().map(|cpu| cpu.path());
    let mut states = Map::new();
    vm.board().machine().walk(|object| {
        for (info, binding) in object.states() {
            if Some(object.path()) != boot_processor && !OF_THIS_HOST.contains(&info.name) {
                states.insert(
                    format!("{} ({})", object.path(), info.name),
                    binding.take(object).to_json(),
                );
            }
        }
    });
    states
}

/// Rows of sixteen bytes of what lies where a PC has its BIOS; those of zeros are left out.
fn tables(ram: &RamBlock) -> Result<Map<String, Value>, CreateError> {
    let mut rows = Map::new();
    for address in (u64::from(layout::ACPI_TABLES)..layout::EXTENDED).step_by(16) {
        let mut row = [0; 16];
        ram.read(address, &mut row)?;
        if row != [0; 16] {
            let bytes: Vec<_> = row.iter().map(|byte| format!("{byte:02x}")).collect();
            rows.insert(format!("{address:#x}"), bytes.join(" ").into());
        }
    }
    Ok(rows)
}

/// The models that are the same on every host.
fn fixed_models() -> impl Iterator<Item = &'static CpuModel> {
    CPU_MODELS.iter().filter(|model| !model.is_tied_to_host())
}

/// What each model comes to on a host that has everything.
fn tables_of(
    types: &Arc<TypeTable>,
    models: impl Iterator<Item = &'static CpuModel>,
) -> Result<impl Iterator<Item = (&'static CpuModel, CpuidTable)>, CreateError> {
    let host = HostFeatures::ask("qtest", types, &[])?;
    let tables = models.map(|model| {
        let table = processor::whole_table(&host, &CpuSpec::new(model, [])?, CPUS)?;
        Ok((model, table))
    });
    Ok(tables.collect::<Result<Vec<_>, CreateError>>()?.into_iter())
}

fn rows(table: &CpuidTable) -> Map<String, Value> {
    let rows = table.entries().iter().map(|entry| {
        let registers = [entry.eax, entry.ebx, entry.ecx, entry.edx];
        let registers: Vec<_> = registers.iter().map(|register| format!("{register:08x}")).collect();
        (
            format!("{:08x}.{}", entry.leaf, entry.subleaf),
            registers.join(" ").into(),
        )
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hw::core::MachineType;
    use hw::intc::ioapic::PINS;
    use std::sync::LazyLock;

    #[test]
    fn what_a_property_takes_is_shown_for_every_kind() {
        let number = PropertyKind::Int {
            bits: 8,
            min: -2,
            max: 5,
        };
        let shown = json!({ "type": "int8", "least": -2, "most": 5 });
        let choice = PropertyKind::Enum {
            name: "parity",
            values: vec!["none", "even"],
        };
        for (kind, taken) in [
            (number.clone(), shown.clone()),
            (choice, json!({ "type": "parity", "values": ["none", "even"] })),
            (
                PropertyKind::Optional(Box::new(number.clone())),
                json!({ "type": "int8", "least": -2, "most": 5, "null": true }),
            ),
            (
                PropertyKind::List(Box::new(number)),
                json!({ "type": "list<int8>", "each": shown }),
            ),
            (PropertyKind::Str, json!({ "type": "str" })),
        ] {
            assert_eq!(taken_by(&kind), taken, "{kind}");
        }
    }

    #[test]
    fn every_machine_shows_all_that_a_guest_sees_of_it() {
        let types = TypeTable::gathered().expect("sound types");
        for machine in MachineType::all(&types) {
            let shape = shape(&types, machine.name, machine.class.since).expect("it can be made");
            assert_eq!(shape["memory"]["0x100000000-0x17fffffff"], "ram-above-4g", "{shape:#}");
            assert_eq!(shape["io"]["0x3f8-0x3ff"], "serial16550");
            assert_eq!(
                shape["limits"],
                json!({
                    "cpus": { "least": 1, "most": 128 },
                    "memory": { "least": 4 << 20, "most": 1_u64 << 40, "multiple-of": 4096 },
                })
            );
            let port = json!({ "type": "uint16", "least": 0, "most": 0xffff });
            for device in ["serial16550", "tern-testdev", "acpi-ged"] {
                assert_eq!(shape["settable"][device]["irq"]["most"], PINS - 1, "{device}");
            }
            for device in ["serial16550", "tern-testdev", "i8042"] {
                assert_eq!(shape["settable"][device]["iobase"], port, "{device}");
            }
            assert_eq!(
                shape["addable"]["chardev-ringbuf"],
                json!({ "by": "object-add", "defaults": { "size": "65536" } })
            );
            assert_eq!(shape["addable"]["tern-testdev"]["by"], "device_add");
            assert_eq!(shape["addable"]["tern-testdev"]["defaults"]["irq"], "5");
            assert!(shape["addable"]["i8042"].is_null(), "it comes with the machine");
            assert_eq!(
                shape["objects"]["/machine/pic"]["type"], "i8259-common",
                "no accelerator is seen"
            );
            let fields = &shape["state"]["/machine/serial0 (serial16550)"]["fields"];
            assert!(fields.as_array().is_some_and(|fields| !fields.is_empty()));
            assert_eq!(
                shape["boot"]["memory-map"],
                json!({ "0x0-0x9ffff": 1, "0xa0000-0xfffff": 2, "0x100000-0xbfffffff": 1, "0x100000000-0x17fffffff": 1 })
            );
            assert_eq!(shape["boot"]["pvh"]["general"]["rip"], 0x10_0000);
            let descriptions = shape["reset"].as_object().expect("states").keys();
            let (mut processors, mut others) = (0, 0);
            for name in descriptions {
                processors += usize::from(name.ends_with("(x86-cpu)"));
                others += 1;
            }
            assert_eq!(processors, 1, "but for the boot processor");
            assert!(others > 8, "{others}");
            let rsdp = shape["tables"]["0xe0000"].as_str().expect("a row");
            assert!(rsdp.starts_with("52 53 44 20 50 54 52 20"), "{rsdp}");
            assert_eq!(
                shape["cpuid"]["x86-64-v1-1"]["00000000.0"],
                "0000000b 00000000 00000000 00000000"
            );
        }
    }

    #[test]
    fn a_cpu_model_is_shown_however_much_newer_it_is_than_the_machines() {
        static NEW: LazyLock<CpuModel> = LazyLock::new(|| CpuModel {
            name: "new-v1",
            since: Release { major: 9, minor: 9 },
            ..*CpuModel::named("x86-64-v1-1").expect("a model")
        });
        let types = TypeTable::gathered().expect("sound types");
        let shapes = shapes_of(&types, fixed_models().chain([&*NEW])).expect("they can be given");
        assert_eq!(shapes["new-v1"]["since"], "9.9");
        assert_eq!(shapes["new-v1"]["cpuid"], shapes["x86-64-v1-1"]["cpuid"]);
        assert_eq!(shapes["new-v1"]["msrs"]["kvm_system_time"], "0x4b564d01", "{shapes:#}");
        assert!(shapes["x86-64-v1-1"]["msrs"]["spec_ctrl"].is_null());
        let all = cpu_models(&types).expect("they can be given");
        let all: Vec<_> = all.as_object().into_iter().flat_map(Map::keys).collect();
        assert_eq!(all.len(), fixed_models().count());
        assert!(
            fixed_models().all(|model| all.contains(&&model.name.to_owned())),
            "{all:?}"
        );
    }
}
