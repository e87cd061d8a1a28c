//! A VM in the words of the manifest.

use std::sync::Arc;

use hw::core::AccelTypes;
use hw::i386::cpu_model::CpuSpec;
use hw::i386::cpuid::{self, CpuidTable};
use hw::memory::RamBlock;
use migration::vm::{
    CpuModel as CpuRecipe, CpuidEntry, Inventory, InventoryObject, Property, RamBlockRecipe, Recipe, VmError,
};
use vmstate::qom::{GlobalProperty, Object, PropertyValue};

use super::VmSpec;
use crate::boot::BootPayload;

/// What to build a VM from that a user has asked for.
pub(super) fn recipe(
    spec: &VmSpec<'_>,
    cpu: &CpuSpec,
    table: &CpuidTable,
    tsc_khz: u32,
    payload: &BootPayload,
    ram: &[Arc<RamBlock>],
) -> Recipe {
    Recipe {
        machine: spec.machine.clone(),
        cpu: CpuRecipe {
            name: cpu.to_string(),
            tied_to_host: cpu.model().is_tied_to_host(),
            cpuid: table.entries().iter().map(to_recipe).collect(),
            tsc_khz: u64::from(tsc_khz),
        },
        cpus: (0..spec.cpus).collect(),
        memory: spec.memory,
        options: spec.globals.iter().map(to_option).collect(),
        ram: ram
            .iter()
            .map(|block| RamBlockRecipe {
                name: block.name().to_owned(),
                size: block.size(),
                readonly: block.is_readonly(),
            })
            .collect(),
        boot: payload.recipe(),
        objects: Vec::new(),
        settings: None,
    }
}

/// The option of a recipe that asks something of all objects of a type: its name is the type's and the property's.
fn to_option(global: &GlobalProperty) -> Property {
    Property {
        name: format!("{}.{}", global.type_name, global.property),
        value: global.value.to_string(),
    }
}

/// What an option of a recipe asks of all objects of a type, if it does.
pub(super) fn global_of(option: &Property) -> Option<GlobalProperty> {
    format!("{}={}", option.name, option.value).parse().ok()
}

/// What a recipe asks of all objects of a type. Preflight has refused every option that asks something else.
pub(super) fn globals_of(recipe: &Recipe) -> impl Iterator<Item = GlobalProperty> + '_ {
    recipe.options.iter().filter_map(global_of)
}

fn to_recipe(entry: &cpuid::CpuidEntry) -> CpuidEntry {
    CpuidEntry {
        function: entry.leaf,
        index: entry.subleaf,
        indexed: cpuid::has_subleaves(entry.leaf),
        registers: [entry.eax, entry.ebx, entry.ecx, entry.edx],
    }
}

/// The CPUID table of a recipe.
pub(super) fn cpuid_of(recipe: &Recipe) -> CpuidTable {
    CpuidTable::new(recipe.cpu.cpuid.iter().map(|entry| {
        let [eax, ebx, ecx, edx] = entry.registers;
        cpuid::CpuidEntry {
            leaf: entry.function,
            subleaf: entry.index,
            eax,
            ebx,
            ecx,
            edx,
        }
    }))
}

/// Whether the state of an object is that of something that the accelerator holds, so that the object has it only after it
/// was read, in a pause.
pub(super) fn is_held_by_accelerator(object: &Object, types: &AccelTypes) -> bool {
    subclasses(types).contains(&object.type_name())
}

fn subclasses(types: &AccelTypes) -> [&'static str; 6] {
    [
        types.cpu,
        types.apic,
        types.ioapic,
        types.i8259,
        types.i8254,
        types.clock,
    ]
}

/// How the machine below `root` is not as it stood where it comes from: the first object of another type, or configured otherwise,
/// and in what. What one of both does not have is none: a later version adds to it.
///
/// A change of a default shows here, which the recipe cannot know of.
pub(super) fn difference(root: &Object, there: &Inventory) -> Option<VmError> {
    let below_machine = |path: &str| path.split('/').nth(1) == Some("machine");
    let objects = there.objects.iter().filter(|object| below_machine(&object.path));
    let both = objects.filter_map(|object| Some((object, root.resolve(&object.path)?)));
    both.filter_map(|(there, here)| {
        let differs = |because| VmError::Build {
            subject: there.path.clone(),
            because,
        };
        if !here.is_a(&there.type_name) {
            let (was, is) = (&there.type_name, here.type_name());
            return Some(differs(format!("it is a {was} where it comes from, and a {is} here")));
        }
        let configuration = here.configuration();
        let common = configuration.iter().filter_map(|(property, value)| {
            let was = there.properties.iter().find(|was| was.name == property.name())?;
            Some((was, value))
        });
        let mut others = common.filter(|(was, value)| match value {
            // Who is linked to outside of the machine is the host's business.
            PropertyValue::Link(target) => {
                let inside = |path: &str| below_machine(path) && root.resolve(path).is_some();
                inside(&was.value) && target.as_deref() != Some(was.value.as_str())
            }
            value => value.to_string() != was.value,
        });
        let (was, value) = others.next()?;
        let Property { name, value: was } = was;
        Some(differs(format!(
            "its {name} is {was} where it comes from, and {value} here"
        )))
    })
    .next()
}

/// The tree below `root` with its effective properties. An accelerator's types go by the abstract type that they stand
/// for, and the accelerator itself is the host's business.
pub(super) fn inventory(root: &Arc<Object>, types: &AccelTypes) -> Inventory {
    let subclasses = subclasses(types);
    let mut objects = Vec::new();
    root.walk(|object| {
        let path = object.path();
        if path == "/machine/accel" {
            return;
        }
        let class = object.class();
        let stands_for = class.parent().filter(|_| subclasses.contains(&class.name()));
        let properties = object.properties().into_iter().filter_map(|info| {
            let value = object.property(&info.name).ok()?;
            Some(Property {
                name: info.name.to_string(),
                value: value.to_string(),
            })
        });
        objects.push(InventoryObject {
            path,
            type_name: stands_for.map_or(class.name(), |parent| parent.name()).to_owned(),
            properties: properties.collect(),
        });
    });
    objects.sort();
    Inventory { objects }
}
