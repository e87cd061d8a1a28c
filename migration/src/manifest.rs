//! The manifest: what to build a machine from (recipe), and what should then stand there (inventory).

use crate::cbor::{self, CborError, cbor_map};
use crate::ident::ContentHash;

/// The contents of the manifest record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// What the machine is built from.
    pub recipe: Recipe,
    /// The tree as it stood: never used for building, but what is built has to be like it.
    pub inventory: Inventory,
}
cbor_map!(Manifest, "manifest" { 0 => recipe, 2 => inventory });

/// What a machine is built from: everything the destination needs, and nothing of the host's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recipe {
    /// The machine's versioned name, such as `microvm-1.0`.
    pub machine: String,
    /// The CPU model with the whole table that the guest sees.
    pub cpu: CpuModel,
    /// The APIC ids of the vCPUs, in the order of creation.
    pub cpus: Vec<u32>,
    /// Guest memory in bytes, as the user asked for it.
    pub memory: u64,
    /// Options of the machine that hold under any accelerator, by name.
    pub options: Vec<Property>,
    /// Every RAM block, boot payload included, in the machine's order.
    pub ram: Vec<RamBlockRecipe>,
    /// What the guest boots from, and boots from again after a reset.
    pub boot: Vec<BootPayload>,
    /// The objects that the user gave or added later, in that order.
    pub objects: Vec<UserObject>,
    /// What the user has set of the machine's own objects while they were in use; `None` if nothing.
    pub settings: Option<Vec<Setting>>,
}
cbor_map!(Recipe, "recipe" {
    0 => machine, 2 => cpu, 4 => cpus, 6 => memory, 8 => options, 10 => ram, 12 => boot, 14 => objects, 16 => settings
});

/// A CPU model: a name for people, and the table that is authoritative.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuModel {
    /// The model's versioned name, or `host`.
    pub name: String,
    /// Whether the table was taken from the host, which ties the VM to such hosts.
    pub tied_to_host: bool,
    /// The CPUID table as the first vCPU sees it; per-vCPU leaves (APIC ids) are derived from it.
    pub cpuid: Vec<CpuidEntry>,
    /// How fast the guest's TSC counts, in kHz; 0 where the accelerator has none.
    pub tsc_khz: u64,
}
cbor_map!(CpuModel, "cpu" { 0 => name, 2 => tied_to_host, 4 => cpuid, 6 => tsc_khz });

/// One row of a CPUID table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CpuidEntry {
    /// EAX on entry.
    pub function: u32,
    /// ECX on entry, where `indexed`.
    pub index: u32,
    /// Whether the answer depends on ECX.
    pub indexed: bool,
    /// The answer: EAX, EBX, ECX, EDX.
    pub registers: [u32; 4],
}
cbor_map!(CpuidEntry, "cpuid entry" { 0 => function, 2 => index, 4 => indexed, 6 => registers });

/// A name and a value, both as text (properties are typed where they are used, not where they are carried).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Property {
    /// The property's name.
    pub name: String,
    /// Its value, as the command line and `qom-get` write it.
    pub value: String,
}
cbor_map!(Property, "property" { 0 => name, 2 => value });

/// One RAM block of the recipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RamBlockRecipe {
    /// The block's name, unique in the machine.
    pub name: String,
    /// Its size in bytes, a multiple of the page size.
    pub size: u64,
    /// Whether the guest can never write it (boot payload).
    pub readonly: bool,
}
cbor_map!(RamBlockRecipe, "RAM block" { 0 => name, 2 => size, 4 => readonly });

/// A piece of what the guest boots from, kept in a read-only RAM block so that it travels with the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootPayload {
    /// What it is: `kernel`, `initrd`, `cmdline`.
    pub role: String,
    /// The RAM block that holds it.
    pub block: String,
    /// How many bytes of the block it takes, from the block's start.
    pub length: u64,
    /// The hash of those bytes.
    pub hash: ContentHash,
}
cbor_map!(BootPayload, "boot payload" { 0 => role, 2 => block, 4 => length, 6 => hash });

/// An object that the user created, in the terms of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserObject {
    /// Its type.
    pub type_name: String,
    /// Where it stands in the tree.
    pub path: String,
    /// The properties that the user set, in order. No host resource is among them.
    pub properties: Vec<Property>,
    /// Those that can be set and that the user left as they are, such as the defaults of the writer's version. A reader that does not
    /// know one of them goes by its own ways. Writers before release 0.1.0 did not tell.
    pub in_effect: Option<Vec<Property>>,
}
cbor_map!(UserObject, "object" { 0 => type_name, 2 => path, 4 => properties, 5 => in_effect });

/// A property of one object that was set while that was in use.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Setting {
    /// The object's canonical path.
    pub path: String,
    /// What was set.
    pub property: Property,
}
cbor_map!(Setting, "setting" { 0 => path, 2 => property });

/// The whole tree with its effective properties. It is never used for building; what is built has to be like it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Every object, sorted by path.
    pub objects: Vec<InventoryObject>,
}
cbor_map!(Inventory, "inventory" { 0 => objects });

/// One object of the inventory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InventoryObject {
    /// The canonical path.
    pub path: String,
    /// The type; of an accelerator's subclass, the abstract type that it fills.
    pub type_name: String,
    /// The effective properties, sorted by name.
    pub properties: Vec<Property>,
}
cbor_map!(InventoryObject, "object" { 0 => path, 2 => type_name, 4 => properties });

/// RAM blocks of a machine; far above what any machine has.
pub(crate) const MAX_BLOCKS: usize = 256;
/// RAM blocks are made of pages.
const PAGE: u64 = 4096;

impl Manifest {
    /// The record's payload.
    #[must_use]
    pub fn to_cbor(&self) -> Vec<u8> {
        cbor::to_bytes(self)
    }

    /// Reads the record's payload and checks what every reader relies on: unique names, whole pages, payloads that lie
    /// in their blocks, an inventory in order.
    ///
    /// # Errors
    ///
    /// What is wrong with the bytes or with what they say.
    pub fn from_cbor(bytes: &[u8]) -> Result<Self, CborError> {
        let manifest: Self = cbor::from_bytes(bytes)?;
        manifest.check().map_err(|what| CborError { what, offset: 0 })?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        let ram = &self.recipe.ram;
        if ram.len() > MAX_BLOCKS {
            return Err(format!("{} RAM blocks (at most {MAX_BLOCKS})", ram.len()));
        }
        let mut total = 0u64;
        for (position, block) in ram.iter().enumerate() {
            if block.size == 0 || block.size % PAGE != 0 {
                return Err(format!(
                    "RAM block {} has a size of {} bytes, which is not whole pages",
                    block.name, block.size
                ));
            }
            if ram[..position].iter().any(|other| other.name == block.name) {
                return Err(format!("two RAM blocks are named {}", block.name));
            }
            total = total
                .checked_add(block.size)
                .filter(|&total| i64::try_from(total).is_ok())
                .ok_or("RAM without end")?;
        }
        for payload in &self.recipe.boot {
            let block = ram.iter().find(|block| block.name == payload.block);
            if block.is_none_or(|block| payload.length > block.size) {
                return Err(format!(
                    "the {} does not lie in RAM block {}",
                    payload.role, payload.block
                ));
            }
        }
        if !self.inventory.objects.is_sorted_by(|a, b| a.path < b.path) {
            return Err("the inventory is not sorted".to_owned());
        }
        Ok(())
    }
}
