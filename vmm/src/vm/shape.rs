//! What a guest sees of a machine, as data: what its version promises to leave as it is.

use std::sync::Arc;

use hw::core::Release;
use hw::i386::cpu_model::{CPU_MODELS, CpuSpec};
use hw::i386::cpuid::CpuidTable;
use hw::i386::microvm::layout;
use hw::memory::{AddressSpace, RamBlock};
use migration::vm::SourceVm;
use serde_json::{Map, Value, json};
use vmstate::qom::TypeTable;
use vmstate::state::Schema;

use super::{CreateError, Host, Vm, VmSpec, describe, processor};

/// So many vCPUs, and so much memory that some of it lies above the hole below 4 GiB.
const CPUS: u32 = 2;
const MEMORY: u64 = 5 << 30;

/// What a guest with two vCPUs and 5 GiB of memory sees of the machine called `machine`, wherever it runs:
///
/// | member | what |
/// | --- | --- |
/// | `machine`, `since` | its name, and the release that brought it |
/// | `memory`, `io` | the memory map and the I/O ports: the name of what is there, by addresses in hexadecimal |
/// | `objects` | type and properties of each object, by its path |
/// | `state` | version, fields and subsections of each description of state, by the path of its object |
/// | `tables` | bytes of the ACPI and MP tables and of the reset vector, in rows, by their addresses |
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
    Ok(json!({
        "machine": machine,
        "since": since.to_string(),
        "memory": map(vm.board().memory()),
        "io": map(vm.board().io()),
        "objects": objects(&vm),
        "state": vm.schemas().iter().map(|section| {
            (format!("{} ({})", section.path, section.description), state(&section.schema))
        }).collect::<Map<_, _>>(),
        "tables": tables(vm.board().ram())?,
        "cpuid": processors(&host, &vm, since)?,
    }))
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

fn processors(host: &Host, vm: &Vm, since: Release) -> Result<Map<String, Value>, CreateError> {
    let mut processors = Map::new();
    let fixed = CPU_MODELS.iter().filter(|model| !model.is_tied_to_host());
    for model in fixed.filter(|model| model.since <= since) {
        let spec: CpuSpec = model.name.parse()?;
        let table = processor::table(host, vm.accelerator().as_ref(), &spec, CPUS)?;
        processors.insert(model.name.to_owned(), rows(&table).into());
    }
    Ok(processors)
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

    #[test]
    fn every_machine_shows_all_that_a_guest_sees_of_it() {
        let types = TypeTable::gathered().expect("sound types");
        for machine in MachineType::all(&types) {
            let shape = shape(&types, machine.name, machine.class.since).expect("it can be made");
            assert_eq!(shape["memory"]["0x100000000-0x17fffffff"], "ram-above-4g", "{shape:#}");
            assert_eq!(shape["io"]["0x3f8-0x3ff"], "serial16550");
            assert_eq!(
                shape["objects"]["/machine/pic"]["type"], "i8259-common",
                "no accelerator is seen"
            );
            let fields = &shape["state"]["/machine/serial0 (serial16550)"]["fields"];
            assert!(fields.as_array().is_some_and(|fields| !fields.is_empty()));
            let rsdp = shape["tables"]["0xe0000"].as_str().expect("a row");
            assert!(rsdp.starts_with("52 53 44 20 50 54 52 20"), "{rsdp}");
            assert_eq!(
                shape["cpuid"]["x86-64-v1-1"]["00000000.0"],
                "0000000b 00000000 00000000 00000000"
            );
        }
    }
}
