//! The PVH protocol (Xen, "x86/HVM direct boot ABI", `docs/misc/pvh.pandoc`).

use hw::i386::boot_entry::BootEntry;
use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::memory_map::{memory_map, place};
use super::{BootError, Given};

/// `hvm_start_info.magic`: "xEn3" with the high bit of the E set.
const START_MAGIC: u32 = 0x336e_c578;
/// The version of the start information that has a memory map.
const START_VERSION: u32 = 1;

/// Writes the start information.
pub(super) fn prepare<M: GuestMemoryBackend>(memory: &M, entry: u64, given: &Given) -> Result<BootEntry, BootError> {
    let modules: Vec<_> = given
        .initrd
        .iter()
        .map(|initrd| hvm_modlist_entry {
            paddr: initrd.start,
            size: initrd.end - initrd.start,
            cmdline_paddr: 0,
            reserved: 0,
        })
        .collect();
    let map: Vec<_> = memory_map(given.ram_bytes)
        .into_iter()
        .map(|range| hvm_memmap_table_entry {
            addr: range.start,
            size: range.bytes,
            type_: range.kind,
            reserved: 0,
        })
        .collect();
    let count = |length: usize| u32::try_from(length).expect("a handful of entries");
    let info = hvm_start_info {
        magic: START_MAGIC,
        version: START_VERSION,
        flags: 0,
        nr_modules: count(modules.len()),
        modlist_paddr: if modules.is_empty() { 0 } else { place::MODULES },
        cmdline_paddr: place::COMMAND_LINE,
        rsdp_paddr: given.rsdp,
        memmap_paddr: place::MEMORY_MAP,
        memmap_entries: count(map.len()),
        reserved: 0,
    };
    let mut params = BootParams::new(&info, GuestAddress(place::START_INFO));
    params.set_sections(&map, GuestAddress(place::MEMORY_MAP));
    params.set_modules(&modules, GuestAddress(place::MODULES));
    PvhBootConfigurator::write_bootparams(&params, memory).map_err(|error| BootError::Given(error.to_string()))?;
    Ok(BootEntry::Pvh {
        entry,
        start_info: place::START_INFO,
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{MIB, guest_memory};
    use super::*;
    use vm_memory::Bytes;

    #[test]
    fn the_start_information_is_where_ebx_points_and_names_the_acpi_tables() {
        let memory = guest_memory(16 * MIB);
        let given = Given {
            ram_bytes: 16 * MIB,
            initrd: Some(8 * MIB..8 * MIB + 5),
            rsdp: 0xe_0000,
        };
        let entry = prepare(&memory, MIB, &given).expect("fits");
        let BootEntry::Pvh { start_info, .. } = entry else {
            panic!("{entry:?}");
        };
        let magic: u32 = memory.read_obj(GuestAddress(start_info)).expect("in memory");
        let rsdp: u64 = memory.read_obj(GuestAddress(start_info + 32)).expect("in memory");
        assert_eq!((magic, rsdp), (START_MAGIC, 0xe_0000));
        let module: [u64; 2] = memory.read_obj(GuestAddress(place::MODULES)).expect("in memory");
        assert_eq!(module, [8 * MIB, 5]);
    }
}
