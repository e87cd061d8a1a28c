//! The guest's memory as its kernel is told of it, and where the kernel finds what it is given.

use hw::i386::microvm::layout;

/// Guest-physical places of what a kernel is given at its entry. All lie in conventional memory, which a kernel takes
/// over once it has read them.
pub(super) mod place {
    /// The descriptor table of a 64-bit entry.
    pub const DESCRIPTORS: u64 = 0x5000;
    /// PVH: `hvm_start_info`.
    pub const START_INFO: u64 = 0x6000;
    /// PVH: the list of modules.
    pub const MODULES: u64 = 0x6040;
    /// PVH: the memory map.
    pub const MEMORY_MAP: u64 = 0x7000;
    /// Linux: `boot_params`.
    pub const ZERO_PAGE: u64 = 0x8000;
    /// The page tables of a 64-bit entry: one of the fourth level, one of the third, four of the second.
    pub const PAGE_TABLES: u64 = 0x9000;
    /// The command line.
    pub const COMMAND_LINE: u64 = 0x2_0000;
}

/// E820 type of memory that the guest may use.
const USABLE: u32 = 1;
/// E820 type of memory that the guest must leave alone.
const RESERVED: u32 = 2;

/// A stretch of guest-physical addresses, as E820 and PVH describe it alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MemoryRange {
    /// Its first address.
    pub start: u64,
    /// Its length.
    pub bytes: u64,
    /// Its E820 type.
    pub kind: u32,
}

/// The memory map of a machine with so much RAM.
pub(super) fn memory_map(ram_bytes: u64) -> Vec<MemoryRange> {
    let range = |start, end: u64, kind| MemoryRange {
        start,
        bytes: end - start,
        kind,
    };
    let low_end = low_end(ram_bytes);
    let mut map = vec![
        range(0, layout::CONVENTIONAL_END, USABLE),
        range(layout::CONVENTIONAL_END, layout::EXTENDED, RESERVED),
        range(layout::EXTENDED, low_end, USABLE),
    ];
    if ram_bytes > low_end {
        map.push(range(layout::HIGH_RAM, layout::HIGH_RAM + ram_bytes - low_end, USABLE));
    }
    map
}

/// Where the RAM below 4 GiB ends.
pub(super) fn low_end(ram_bytes: u64) -> u64 {
    ram_bytes.min(layout::LOW_RAM_END)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_above_the_hole_begins_at_4_gib() {
        let map = memory_map(5 << 30);
        let last = map.last().expect("entries");
        assert_eq!((last.start, last.bytes), (layout::HIGH_RAM, 2 << 30));
        let usable = map.iter().filter(|range| range.kind == USABLE);
        assert_eq!(usable.map(|range| range.bytes).sum::<u64>(), (5 << 30) - 0x6_0000);
    }
}
