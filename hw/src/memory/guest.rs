//! The guest's RAM as vm-memory and the crates built on it (virtio-queue and others) want to see it.

use std::fmt;
use std::sync::Arc;

use vm_memory::bitmap::{BS, Bitmap};
use vm_memory::guest_memory::{Error as GuestMemoryError, Result as GuestMemoryResult};
use vm_memory::{
    Address, GuestAddress, GuestMemoryRegion, GuestMemoryRegionBytes, GuestRegionCollection, GuestUsize,
    MemoryRegionAddress, VolatileSlice,
};

use super::block::RamBlock;
use super::dirty::DirtyBitmaps;
use super::listener::MemoryRegionSection;
use super::units::{to_u64, to_usize};

/// The RAM of a flat view: what devices reach by DMA. ROM and devices are not part of it.
///
/// Every write through it marks the pages of the [`RamBlock`] dirty.
pub type GuestRam = GuestRegionCollection<RamWindow>;

/// A part of a RAM block at a guest address.
#[derive(Clone)]
pub struct RamWindow {
    block: Arc<RamBlock>,
    offset: u64,
    start: u64,
    len: u64,
}

impl RamWindow {
    /// The block.
    #[must_use]
    pub fn block(&self) -> &Arc<RamBlock> {
        &self.block
    }

    /// Where in the block the window starts.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    fn of(section: &MemoryRegionSection) -> Option<Self> {
        let (block, offset) = section.ram.as_ref().filter(|_| !section.readonly)?;
        Some(Self {
            block: Arc::clone(block),
            offset: *offset,
            start: section.guest_address,
            len: section.size,
        })
    }

    /// Takes in the window that follows, if it goes on both in the guest and in the block.
    fn join(&mut self, next: &Self) -> bool {
        let goes_on = Arc::ptr_eq(&self.block, &next.block)
            && self.start + self.len == next.start
            && self.offset + self.len == next.offset;
        if goes_on {
            self.len += next.len;
        }
        goes_on
    }
}

impl fmt::Debug for RamWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.start + self.len;
        write!(
            f,
            "{:#x}..{end:#x} {}+{:#x}",
            self.start,
            self.block.name(),
            self.offset
        )
    }
}

/// The RAM among the sections of a flat view, which are in order and do not overlap.
pub(super) fn guest_ram(sections: &[MemoryRegionSection]) -> GuestRam {
    let mut windows: Vec<RamWindow> = Vec::new();
    for window in sections.iter().filter_map(RamWindow::of) {
        if !windows.last_mut().is_some_and(|last| last.join(&window)) {
            windows.push(window);
        }
    }
    // It fails for no regions, where the empty collection is right; the other reasons are excluded above.
    GuestRam::from_regions(windows).unwrap_or_default()
}

impl GuestMemoryRegion for RamWindow {
    type B = DirtyBitmaps;

    fn len(&self) -> GuestUsize {
        self.len
    }

    fn start_addr(&self) -> GuestAddress {
        GuestAddress(self.start)
    }

    fn bitmap(&self) -> BS<'_, DirtyBitmaps> {
        self.block.dirty().slice_at(to_usize(self.offset))
    }

    fn get_host_address(&self, addr: MemoryRegionAddress) -> GuestMemoryResult<*mut u8> {
        self.check_address(addr)
            .ok_or(GuestMemoryError::InvalidBackendAddress)?;
        let slice = self.get_slice(addr, 1)?;
        Ok(slice.ptr_guard_mut().as_ptr())
    }

    /// A part of the window, whose writes are recorded in the block's bitmaps.
    fn get_slice(
        &self,
        offset: MemoryRegionAddress,
        count: usize,
    ) -> GuestMemoryResult<VolatileSlice<'_, BS<'_, DirtyBitmaps>>> {
        let (start, len) = (offset.raw_value(), to_u64(count));
        start
            .checked_add(len)
            .filter(|&end| end <= self.len)
            .ok_or(GuestMemoryError::InvalidBackendAddress)?;
        self.block
            .volatile_slice(self.offset + start, len)
            .map_err(|error| GuestMemoryError::IOError(std::io::Error::other(error)))
    }
}

impl GuestMemoryRegionBytes for RamWindow {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::testing::only;
    use crate::memory::{AddressSpace, Backing, DirtyClient, MemoryRegion};
    use vm_memory::{Bytes, GuestMemoryBackend};

    const MIB: u64 = 1 << 20;

    fn two_windows() -> (Arc<RamBlock>, Arc<GuestRam>) {
        let block = RamBlock::new("ram", 2 * MIB, Backing::SharedMemfd).unwrap();
        let root = MemoryRegion::container("memory", u64::MAX);
        let low = MemoryRegion::ram_part("low", Arc::clone(&block), 0..MIB).unwrap();
        let high = MemoryRegion::ram_part("high", Arc::clone(&block), MIB..2 * MIB).unwrap();
        root.add_subregion(0, &low).unwrap();
        root.add_subregion(1 << 32, &high).unwrap();
        let rom = RamBlock::with_contents("rom", b"firmware", Backing::PrivateAnonymous).unwrap();
        root.add_subregion(0xffff_0000, &MemoryRegion::rom("rom", rom)).unwrap();
        let space = AddressSpace::new("memory", &root);
        (block, space.guest_memory())
    }

    #[test]
    fn a_devices_write_marks_the_blocks_page() {
        let (block, ram) = two_windows();
        block.dirty().enable(DirtyClient::Migration);
        ram.write_slice(&[1; 16], GuestAddress((1 << 32) + 0x1ff8)).unwrap();
        let taken = block.dirty().take(DirtyClient::Migration, 0..2 * MIB);
        assert_eq!(taken, only(MIB + 0x1000..MIB + 0x3000));
        let mut bytes = [0; 16];
        block.read(MIB + 0x1ff8, &mut bytes).unwrap();
        assert_eq!(bytes, [1; 16]);
    }

    #[test]
    fn reading_marks_nothing() {
        let (block, ram) = two_windows();
        block.dirty().enable(DirtyClient::Migration);
        ram.read_obj::<u64>(GuestAddress(0x1000)).unwrap();
        assert_eq!(block.dirty().count(DirtyClient::Migration), 0);
    }

    #[test]
    fn dma_reaches_ram_only() {
        let (_, ram) = two_windows();
        assert_eq!(ram.num_regions(), 2);
        assert!(ram.write_obj(1u8, GuestAddress(0xffff_0000)).is_err());
        assert!(ram.write_obj(1u32, GuestAddress(MIB - 2)).is_err());
        assert!(ram.write_obj(1u8, GuestAddress(MIB)).is_err());
    }

    #[test]
    fn pieces_that_go_on_are_one_window() {
        let block = RamBlock::new("ram", 2 * MIB, Backing::PrivateAnonymous).unwrap();
        let root = MemoryRegion::container("memory", u64::MAX);
        for (name, part) in [("a", 0..MIB), ("b", MIB..2 * MIB)] {
            let region = MemoryRegion::ram_part(name, Arc::clone(&block), part.clone()).unwrap();
            root.add_subregion(part.start, &region).unwrap();
        }
        let ram = AddressSpace::new("memory", &root).guest_memory();
        assert_eq!(ram.num_regions(), 1);
        ram.write_obj(7u64, GuestAddress(MIB - 4)).unwrap();
    }

    #[test]
    fn a_host_address_leads_to_the_same_byte() {
        let (block, ram) = two_windows();
        let address = ram.get_host_address(GuestAddress((1 << 32) + 5)).unwrap();
        assert_eq!(address.addr(), block.host_address() + to_usize(MIB) + 5);
    }
}
