//! Memory: what the VMM says there is, its mapping for ring 3, and what is taken for tables before the working set.

use core::ptr;

/// Bytes of a page.
pub const PAGE: u64 = 4096;
const GIB: u64 = 1 << 30;
const LARGE_PAGE: u64 = 2 << 20;
/// Present, writable, user, accessed; and for a large page dirty, and large.
const TABLE_FLAGS: u64 = 0x27;
const LARGE_PAGE_FLAGS: u64 = 0xe7;
const UNCACHED: u64 = 0x10;
/// Address of the I/O interrupt controller.
pub const IO_APIC: u64 = 0xfec0_0000;
/// Address of each processor's own.
pub const LOCAL_APIC: u64 = 0xfee0_0000;
/// GiBs that the one table of level 3 spans.
const MAPPABLE_GIBS: u64 = 512;
/// The GiB of the interrupt controllers: no memory is used there.
const DEVICE_GIB: u64 = 3;

const START_INFO_MAGIC: u32 = 0x336e_c578;
const RAM: u32 = 1;
/// Longest command line that is looked at.
const CMDLINE_BYTES: usize = 1024;

/// `hvm_start_info` of the PVH boot protocol, version 1.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    module_count: u32,
    modules: u64,
    cmdline: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct MapEntry {
    start: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

impl StartInfo {
    /// What the VMM left at `address`.
    pub fn read(address: u32) -> Option<StartInfo> {
        // SAFETY: the boot protocol promises the structure at this address, below 1 GiB, which is mapped.
        let info = unsafe { ptr::with_exposed_provenance::<StartInfo>(address as usize).read_unaligned() };
        (info.magic == START_INFO_MAGIC && info.version >= 1).then_some(info)
    }

    /// The command line.
    pub fn cmdline(&self) -> &'static [u8] {
        if self.cmdline == 0 {
            return b"";
        }
        let text = ptr::with_exposed_provenance::<u8>(self.cmdline as usize);
        // SAFETY: as for the structure: the string lies below 1 GiB and ends with a zero.
        let length = (0..CMDLINE_BYTES)
            .take_while(|&index| unsafe { text.add(index).read() } != 0)
            .count();
        // SAFETY: just read; nothing writes there until the program has read the words (main.rs).
        unsafe { core::slice::from_raw_parts(text, length) }
    }

    fn memory_map(&self) -> impl Iterator<Item = MapEntry> + use<> {
        let entries = ptr::with_exposed_provenance::<MapEntry>(self.memory_map as usize);
        // SAFETY: as for the structure.
        (0..self.memory_map_entries as usize).map(move |index| unsafe { entries.add(index).read_unaligned() })
    }
}

/// A run of whole pages.
#[derive(Clone, Copy, Default)]
pub struct Region {
    /// Address of the first byte.
    pub start: u64,
    /// Address behind the last byte.
    pub end: u64,
}

impl Region {
    /// Pages in it.
    pub fn pages(self) -> u64 {
        (self.end - self.start) / PAGE
    }
}

/// How many runs of memory are used at most.
pub const MAX_REGIONS: usize = 8;

/// The memory behind the program, in ascending order.
pub struct Memory {
    regions: [Region; MAX_REGIONS],
    count: usize,
    /// All RAM of the machine, the program's own included.
    pub ram_bytes: u64,
}

unsafe extern "C" {
    static mut device_gib: [u64; 512];
    static image_end: u8;
    static mut pdpt: [u64; 512];
}

/// Maps the interrupt controllers, uncached. No other address of their table has been used yet.
pub fn map_devices() {
    for address in [IO_APIC, LOCAL_APIC] {
        let entry = (address % GIB / LARGE_PAGE) as usize;
        let page = address / LARGE_PAGE * LARGE_PAGE;
        // SAFETY: a table in the image, which only this changes.
        unsafe { device_gib[entry] = page | LARGE_PAGE_FLAGS | UNCACHED }
    }
}

impl Memory {
    /// The memory that the VMM tells of.
    pub fn find(info: &StartInfo) -> Memory {
        let free = (&raw const image_end) as u64;
        let mut memory = Memory {
            regions: [Region::default(); MAX_REGIONS],
            count: 0,
            ram_bytes: 0,
        };
        for entry in info.memory_map().filter(|entry| entry.kind == RAM) {
            memory.ram_bytes += entry.size;
            let start = entry.start.max(free).next_multiple_of(PAGE);
            let end = entry.start.saturating_add(entry.size).min(MAPPABLE_GIBS * GIB) / PAGE * PAGE;
            let below = Region {
                start,
                end: end.min(DEVICE_GIB * GIB),
            };
            let above = Region {
                start: start.max((DEVICE_GIB + 1) * GIB),
                end,
            };
            for region in [below, above] {
                if region.start < region.end && memory.count < MAX_REGIONS {
                    memory.regions[memory.count] = region;
                    memory.count += 1;
                }
            }
        }
        memory.regions[..memory.count].sort_unstable_by_key(|region| region.start);
        memory
    }

    /// Takes zeroed pages from the start of the first run.
    pub fn take(&mut self, bytes: u64) -> Option<u64> {
        let bytes = bytes.next_multiple_of(PAGE);
        let region = self.regions[..self.count]
            .first_mut()
            .filter(|region| region.end - region.start >= bytes)?;
        let start = region.start;
        region.start += bytes;
        clear(start, bytes);
        Some(start)
    }

    /// Takes pages from the end of all, as they are; their runs come in ascending order.
    pub fn take_last(&mut self, pages: u64) -> Option<[Region; MAX_REGIONS]> {
        let mut taken = [Region::default(); MAX_REGIONS];
        let mut missing = pages;
        for (region, taken) in self.regions[..self.count].iter_mut().zip(&mut taken).rev() {
            let pages = missing.min(region.pages());
            *taken = Region {
                start: region.end - pages * PAGE,
                end: region.end,
            };
            region.end = taken.start;
            missing -= pages;
        }
        (missing == 0).then_some(taken)
    }

    /// Pages that are not taken.
    pub fn free_pages(&self) -> u64 {
        self.regions[..self.count].iter().map(|region| region.pages()).sum()
    }

    /// Takes room for `count` values for which zero bytes are a value.
    pub fn take_slice<T: Zeroable>(&mut self, count: u64) -> Option<&'static [T]> {
        let start = self.take(count.max(1) * size_of::<T>() as u64)?;
        // SAFETY: the pages are the caller's alone from here on, zeroed, and T may be all zeros.
        Some(unsafe { core::slice::from_raw_parts(ptr::with_exposed_provenance(start as usize), count as usize) })
    }

    /// Takes room for `count` values and makes each of them; making one may take more memory.
    pub fn take_array<T>(
        &mut self,
        count: u64,
        mut make: impl FnMut(&mut Memory, u64) -> Option<T>,
    ) -> Option<&'static [T]> {
        let start = self.take(count * size_of::<T>() as u64)?;
        let place = ptr::with_exposed_provenance_mut::<T>(start as usize);
        for index in 0..count {
            let value = make(self, index)?;
            // SAFETY: within the pages just taken, which are the caller's alone.
            unsafe { place.add(index as usize).write(value) }
        }
        // SAFETY: each value has been written.
        Some(unsafe { core::slice::from_raw_parts(place, count as usize) })
    }

    /// Takes room for one value and puts it there.
    pub fn put<T>(&mut self, value: T) -> Option<&'static T> {
        let mut value = Some(value);
        self.take_array(1, |_, _| value.take())?.first()
    }

    /// Maps all memory for ring 3, one table a GiB.
    pub fn map(&mut self) -> Option<()> {
        for index in 0..self.count {
            let Region { start, end } = self.regions[index];
            for gib in start / GIB..end.div_ceil(GIB) {
                // SAFETY: only the first processor changes the table, before the others start.
                if unsafe { pdpt[gib as usize] } == 0 {
                    let table = self.take(PAGE)?;
                    let pages = ptr::with_exposed_provenance_mut::<u64>(table as usize);
                    for page in 0..512 {
                        let address = gib * GIB + page * LARGE_PAGE;
                        // SAFETY: the table was just taken, and nothing refers to it yet.
                        unsafe { pages.add(page as usize).write(address | LARGE_PAGE_FLAGS) }
                    }
                    // SAFETY: as above; the address was not mapped, so that no translation is stale.
                    unsafe { pdpt[gib as usize] = table | TABLE_FLAGS }
                }
            }
        }
        Some(())
    }
}

/// Types for which all bytes zero are a value.
///
/// # Safety
///
/// They must be.
pub unsafe trait Zeroable {}
// SAFETY: any bytes are.
unsafe impl Zeroable for core::sync::atomic::AtomicU32 {}
// SAFETY: any bytes are.
unsafe impl Zeroable for core::sync::atomic::AtomicU64 {}
// SAFETY: made of numbers and atomics (and a TSS, which is numbers).
unsafe impl Zeroable for crate::cpu::Cpu {}

/// Clears memory that nothing refers to.
fn clear(start: u64, bytes: u64) {
    let place = ptr::with_exposed_provenance_mut::<u8>(start as usize);
    // SAFETY: the only caller has just taken the pages out of the free memory, which is mapped: the first GiB is from
    // the start, and the tables of the others come first.
    unsafe { ptr::write_bytes(place, 0, bytes as usize) }
}
