//! The 64-bit entry of Linux (`Documentation/x86/boot.rst`, "64-bit boot protocol"): the zero page, a descriptor table,
//! and page tables that map the first 4 GiB one to one.

use hw::i386::boot_entry::{BootEntry, LINUX_DESCRIPTORS};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::memory_map::{memory_map, place};
use super::{BootError, Given};

/// `setup_header.boot_flag`.
pub(super) const BOOT_FLAG: u16 = 0xaa55;
/// `setup_header.header`: "HdrS".
pub(super) const HEADER_MAGIC: u32 = 0x5372_6448;
/// `setup_header.type_of_loader` of a boot loader without a number of its own.
const LOADER_UNKNOWN: u8 = 0xff;

/// A page-table entry: present, writable.
const TABLE: u64 = 0x3;
/// A page-table entry: present, writable, accessed, dirty, and a page of 2 MiB.
const LARGE_PAGE: u64 = 0xe3;
/// GiB that are mapped one to one: more is never given to a kernel at its entry.
const MAPPED_GIB: u64 = 4;
/// Entries of a table of any level.
const ENTRIES: u64 = 512;

/// The header for a kernel that brings none: an ELF file.
pub(super) fn default_header() -> setup_header {
    setup_header {
        boot_flag: BOOT_FLAG,
        header: HEADER_MAGIC,
        // The whole of it was loaded above 1 MiB.
        loadflags: 1,
        kernel_alignment: 0x100_0000,
        ..setup_header::default()
    }
}

/// Writes what the entry needs. `header` is the kernel's own.
pub(super) fn prepare<M: GuestMemoryBackend>(
    memory: &M,
    entry: u64,
    header: setup_header,
    given: &Given,
) -> Result<BootEntry, BootError> {
    memory.write_obj(zero_page(header, given)?, GuestAddress(place::ZERO_PAGE))?;
    let descriptors: Vec<u8> = LINUX_DESCRIPTORS
        .iter()
        .flat_map(|descriptor| descriptor.to_le_bytes())
        .collect();
    memory.write_slice(&descriptors, GuestAddress(place::DESCRIPTORS))?;
    memory.write_slice(&page_tables(), GuestAddress(place::PAGE_TABLES))?;
    Ok(BootEntry::Linux64 {
        entry,
        zero_page: place::ZERO_PAGE,
        page_tables: place::PAGE_TABLES,
        descriptors: place::DESCRIPTORS,
    })
}

fn zero_page(header: setup_header, given: &Given) -> Result<boot_params, BootError> {
    // What is given lies below 4 GiB: the initrd at the end of low memory, the command line in conventional memory.
    let low =
        |address: u64| u32::try_from(address).map_err(|_| BootError::Given(format!("{address:#x} is not below 4 GiB")));
    let mut params = boot_params {
        acpi_rsdp_addr: given.rsdp,
        hdr: setup_header {
            type_of_loader: LOADER_UNKNOWN,
            cmd_line_ptr: low(place::COMMAND_LINE)?,
            ..header
        },
        ..boot_params::default()
    };
    if let Some(initrd) = &given.initrd {
        params.hdr.ramdisk_image = low(initrd.start)?;
        params.hdr.ramdisk_size = low(initrd.end - initrd.start)?;
    }
    let map = memory_map(given.ram_bytes);
    params.e820_entries = u8::try_from(map.len()).expect("a handful of entries");
    for (index, range) in map.into_iter().enumerate() {
        params.e820_table[index] = boot_e820_entry {
            addr: range.start,
            size: range.bytes,
            r#type: range.kind,
        };
    }
    Ok(params)
}

/// Six tables one behind the other, as they lie from [`place::PAGE_TABLES`] on.
fn page_tables() -> Vec<u8> {
    let table = |number: u64| (place::PAGE_TABLES + (number << 12)) | TABLE;
    let padded = |used: Vec<u64>| {
        let rest = usize::try_from(ENTRIES).unwrap_or(0).saturating_sub(used.len());
        used.into_iter().chain(std::iter::repeat_n(0, rest))
    };
    let fourth = padded(vec![table(1)]);
    let third = padded((0..MAPPED_GIB).map(|gib| table(2 + gib)).collect());
    let second = (0..MAPPED_GIB * ENTRIES).map(|page| (page << 21) | LARGE_PAGE);
    fourth.chain(third).chain(second).flat_map(u64::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{MIB, guest_memory};
    use super::*;

    fn given() -> Given {
        Given {
            ram_bytes: 5 << 30,
            initrd: Some(0x3000_0000..0x3000_1234),
            rsdp: 0xe_0000,
        }
    }

    /// Where `address` is mapped to.
    fn translated<M: GuestMemoryBackend>(memory: &M, root: u64, address: u64) -> u64 {
        let entry = |table: u64, level: u32| {
            let at = (table & !0xfff) + ((address >> (12 + 9 * level)) & 0x1ff) * 8;
            let entry: u64 = memory.read_obj(GuestAddress(at)).expect("in memory");
            assert_eq!(entry & 1, 1, "{address:#x} is mapped");
            entry
        };
        let second = entry(entry(entry(root, 3), 2), 1);
        assert_eq!(second & 0x80, 0x80, "a page of 2 MiB");
        (second & !0x1f_ffff) | (address & 0x1f_ffff)
    }

    #[test]
    fn the_first_4_gib_are_mapped_one_to_one() {
        let memory = guest_memory(4 * MIB);
        let entry = prepare(&memory, 0x100_0200, default_header(), &given()).expect("fits");
        let BootEntry::Linux64 { page_tables, .. } = entry else {
            panic!("{entry:?}");
        };
        for address in [0, 0x8000, 0x100_0200, 0x3fff_ffff, 0x4000_0000, 0xffff_ffff] {
            assert_eq!(translated(&memory, page_tables, address), address);
        }
    }

    #[test]
    fn the_zero_page_tells_what_is_given() {
        let page = zero_page(default_header(), &given()).expect("below 4 GiB");
        assert_eq!({ page.acpi_rsdp_addr }, 0xe_0000);
        assert_eq!({ page.hdr.cmd_line_ptr }, 0x2_0000);
        assert_eq!(
            ({ page.hdr.ramdisk_image }, { page.hdr.ramdisk_size }),
            (0x3000_0000, 0x1234)
        );
        assert_eq!((page.e820_entries, page.sentinel), (4, 0));
        let high = page.e820_table[3];
        assert_eq!(({ high.addr }, { high.size }), (4 << 30, 2 << 30));
    }

    #[test]
    fn what_a_kernel_is_given_does_not_overlap() {
        let tables = u64::try_from(page_tables().len()).expect("24 KiB");
        assert_eq!(tables, 6 << 12);
        assert!(place::ZERO_PAGE + u64::try_from(size_of::<boot_params>()).expect("a page") <= place::PAGE_TABLES);
        assert!(place::PAGE_TABLES + tables <= place::COMMAND_LINE);
    }
}
