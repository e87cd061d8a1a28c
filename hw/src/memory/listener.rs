//! Who has to know what the memory map looks like: accelerators, dirty logging, back ends outside the process.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::block::RamBlock;
use super::region::MemoryRegion;
use super::units::{PAGE_SIZE, intersection};

/// A piece of a flat view: guest addresses behind which one part of one region lies.
#[derive(Clone)]
pub struct MemoryRegionSection {
    /// The region, RAM, ROM or I/O.
    pub region: MemoryRegion,
    /// The first guest address.
    pub guest_address: u64,
    /// How many bytes.
    pub size: u64,
    /// Where in the region the first byte lies.
    pub offset_in_region: u64,
    /// For RAM and ROM the block, and where in it the first byte lies.
    pub ram: Option<(Arc<RamBlock>, u64)>,
    /// Whether the guest cannot write here.
    pub readonly: bool,
    /// Whether the guest's writes are logged.
    pub logging: bool,
}

impl MemoryRegionSection {
    /// The guest addresses.
    #[must_use]
    pub fn guest_range(&self) -> Range<u64> {
        self.guest_address..self.guest_address + self.size
    }

    /// The part of its block that a RAM section shows, in bytes.
    #[must_use]
    pub fn block_range(&self) -> Option<Range<u64>> {
        self.ram.as_ref().map(|(_, offset)| *offset..offset + self.size)
    }

    /// Where a RAM section starts in this process.
    #[must_use]
    pub fn host_address(&self) -> Option<usize> {
        self.ram
            .as_ref()
            .map(|(block, offset)| block.host_address() + super::units::to_usize(*offset))
    }

    /// The whole pages inside, for an accelerator whose slots are made of pages: `None` if there are none, or if guest
    /// and host disagree about where a page begins.
    #[must_use]
    pub fn page_aligned(&self) -> Option<Self> {
        let start = self.guest_address.checked_next_multiple_of(PAGE_SIZE)?;
        let end = self.guest_range().end / PAGE_SIZE * PAGE_SIZE;
        let inside = self.clipped(&(start..end))?;
        let congruent = inside
            .ram
            .as_ref()
            .is_none_or(|(_, offset)| offset.is_multiple_of(PAGE_SIZE));
        congruent.then_some(inside)
    }

    /// The part inside a range of guest addresses, if any.
    #[must_use]
    pub fn clipped(&self, guest_range: &Range<u64>) -> Option<Self> {
        let inside = intersection(&self.guest_range(), guest_range)?;
        let skipped = inside.start - self.guest_address;
        let mut part = self.clone();
        part.guest_address = inside.start;
        part.size = inside.end - inside.start;
        part.offset_in_region += skipped;
        if let Some((_, offset)) = &mut part.ram {
            *offset += skipped;
        }
        Some(part)
    }

    /// The part that shows bytes of a block, if any.
    #[must_use]
    pub fn showing(&self, block: &RamBlock, bytes: &Range<u64>) -> Option<Self> {
        let (own, offset) = self.ram.as_ref()?;
        if !std::ptr::eq(Arc::as_ptr(own), block) {
            return None;
        }
        let shown = intersection(&(*offset..offset + self.size), bytes)?;
        let start = self.guest_address + (shown.start - offset);
        self.clipped(&(start..start + (shown.end - shown.start)))
    }

    /// Whether the same part of the same region lies at the same place with the same access.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.region == other.region
            && (self.guest_address, self.size) == (other.guest_address, other.size)
            && (self.offset_in_region, self.readonly) == (other.offset_in_region, other.readonly)
    }
}

impl fmt::Debug for MemoryRegionSection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match (&self.ram, self.readonly) {
            (Some(_), false) => "ram",
            (Some(_), true) => "rom",
            (None, _) => "i/o",
        };
        let Range { start, end } = self.guest_range();
        write!(
            f,
            "{start:#x}..{end:#x} {kind} {} @{:#x}",
            self.region.name(),
            self.offset_in_region
        )?;
        f.write_str(if self.logging { " (logging)" } else { "" })
    }
}

/// An eventfd that is signalled when the guest writes at an address, without an exit.
#[derive(Clone)]
pub struct EventFdSection {
    /// The guest address.
    pub guest_address: u64,
    /// The width of the write, or 0 for any.
    pub size: u8,
    /// The value that has to be written; `None` for any.
    pub match_data: Option<u64>,
    /// What is signalled.
    pub eventfd: Arc<EventFd>,
}

impl EventFdSection {
    /// Whether a write of these bytes at the address is one that signals.
    pub(super) fn is_for(&self, bytes: &[u8]) -> bool {
        if self.size != 0 && usize::from(self.size) != bytes.len() {
            return false;
        }
        let mut value = [0; 8];
        let Some(place) = value.get_mut(..bytes.len()) else {
            return false;
        };
        place.copy_from_slice(bytes);
        self.match_data.is_none_or(|wanted| wanted == u64::from_le_bytes(value))
    }

    /// Whether this is the same eventfd at the same place.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.key() == other.key()
    }

    /// The order in which lists of them are kept.
    pub(super) fn key(&self) -> (u64, u8, Option<u64>, usize) {
        (
            self.guest_address,
            self.size,
            self.match_data,
            Arc::as_ptr(&self.eventfd).addr(),
        )
    }
}

impl fmt::Debug for EventFdSection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "eventfd {:#x}/{} {:?}",
            self.guest_address, self.size, self.match_data
        )
    }
}

/// What a listener could not do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{listener} could not {what}: {reason}")]
pub struct ListenerError {
    /// Who: "kvm memory".
    pub listener: &'static str,
    /// What was wanted, as an infinitive with its object: "map 0x0..0x10000000".
    pub what: String,
    /// Why it failed.
    pub reason: String,
}

/// The answer of a listener.
pub type ListenerResult = Result<(), ListenerError>;

/// Follows an address space.
///
/// Changes are announced once per transaction, between [`begin`](Self::begin) and [`commit`](Self::commit): first all
/// that vanished ([`region_del`](Self::region_del)), then, in ascending order of addresses, what is new
/// ([`region_add`](Self::region_add)) and what stayed ([`region_nop`](Self::region_nop)). Listeners are told in
/// ascending order of [`priority`](Self::priority), and of things that go in descending order. A listener added late is
/// told of everything that is there; one that is removed, that all of it vanishes.
///
/// The calls are serialised by the memory system's lock. A listener must not call devices. When it fails the others
/// are told nonetheless, and the failure is kept in [`AddressSpace::take_failure`](super::AddressSpace::take_failure)
/// unless the caller gets it directly.
pub trait MemoryListener: Send + Sync {
    /// The listener's place among the others.
    fn priority(&self) -> i32 {
        0
    }

    /// A batch of changes begins.
    fn begin(&self) {}

    /// A section is new. With [`logging`](MemoryRegionSection::logging) set, writes to it have to be logged from the
    /// start; [`log_start`](Self::log_start) follows nonetheless.
    ///
    /// # Errors
    ///
    /// What the listener could not do.
    fn region_add(&self, section: &MemoryRegionSection) -> ListenerResult {
        let _ = section;
        Ok(())
    }

    /// A section vanishes. If it was being logged, what the log still holds is to be harvested first.
    ///
    /// # Errors
    ///
    /// What the listener could not do.
    fn region_del(&self, section: &MemoryRegionSection) -> ListenerResult {
        let _ = section;
        Ok(())
    }

    /// A section stays as it is.
    fn region_nop(&self, section: &MemoryRegionSection) {
        let _ = section;
    }

    /// From now on writes to a section are logged.
    ///
    /// # Errors
    ///
    /// What the listener could not do; the caller of `log_global_start` is told, and logging does not start.
    fn log_start(&self, section: &MemoryRegionSection) -> ListenerResult {
        let _ = section;
        Ok(())
    }

    /// Writes to a section need no longer be logged.
    ///
    /// # Errors
    ///
    /// What the listener could not do.
    fn log_stop(&self, section: &MemoryRegionSection) -> ListenerResult {
        let _ = section;
        Ok(())
    }

    /// Harvest the log of a section into the [`DirtyBitmaps`](super::DirtyBitmaps) of its block.
    ///
    /// # Errors
    ///
    /// What the listener could not do: pages may be dirty that nobody knows of, and a migration has to fail.
    fn log_sync(&self, section: &MemoryRegionSection) -> ListenerResult {
        let _ = section;
        Ok(())
    }

    /// Record writes to the pages of a section anew, as far as a harvest found them dirty. The section is made of
    /// whole pages, about to be read.
    ///
    /// A listener forgets nothing but what it has harvested: it keeps the harvested bits that were not cleared yet,
    /// and clears those.
    ///
    /// # Errors
    ///
    /// What the listener could not do: later writes would go unseen, and a migration has to fail.
    fn log_clear(&self, section: &MemoryRegionSection) -> ListenerResult {
        let _ = section;
        Ok(())
    }

    /// Harvest a log that is not kept by section. Comes before [`log_sync`](Self::log_sync) of the sections.
    ///
    /// # Errors
    ///
    /// As [`log_sync`](Self::log_sync).
    fn log_sync_global(&self) -> ListenerResult {
        Ok(())
    }

    /// All RAM will be logged; [`log_start`](Self::log_start) of each section follows.
    ///
    /// # Errors
    ///
    /// What the listener could not do; nothing is logged then.
    fn log_global_start(&self) -> ListenerResult {
        Ok(())
    }

    /// Logging of all RAM ends, after [`log_stop`](Self::log_stop) of each section.
    fn log_global_stop(&self) {}

    /// An eventfd has to be signalled from now on.
    ///
    /// # Errors
    ///
    /// What the listener could not do.
    fn eventfd_add(&self, eventfd: &EventFdSection) -> ListenerResult {
        let _ = eventfd;
        Ok(())
    }

    /// An eventfd must not be signalled any more.
    ///
    /// # Errors
    ///
    /// What the listener could not do.
    fn eventfd_del(&self, eventfd: &EventFdSection) -> ListenerResult {
        let _ = eventfd;
        Ok(())
    }

    /// The batch is complete.
    ///
    /// # Errors
    ///
    /// What a listener that acts on the batch as a whole could not do.
    fn commit(&self) -> ListenerResult {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::testing::pages;

    fn section(guest_address: u64, size: u64, offset: u64) -> MemoryRegionSection {
        let block = pages(16);
        MemoryRegionSection {
            region: MemoryRegion::ram("ram", Arc::clone(&block)),
            guest_address,
            size,
            offset_in_region: offset,
            ram: Some((block, offset)),
            readonly: false,
            logging: false,
        }
    }

    #[test]
    fn a_slot_is_made_of_the_whole_pages_inside() {
        let aligned = section(0x1800, 0x3000, 0x800).page_aligned().unwrap();
        assert_eq!(
            (aligned.guest_range(), aligned.block_range()),
            (0x2000..0x4000, Some(0x1000..0x3000))
        );
        assert!(section(0x1800, 0x1000, 0x800).page_aligned().is_none(), "no whole page");
        assert!(
            section(0x1800, 0x3000, 0).page_aligned().is_none(),
            "guest and host pages are shifted"
        );
        assert!(section(u64::MAX - 0x100, 0x100, 0).page_aligned().is_none());
    }

    #[test]
    fn a_part_keeps_guest_region_and_block_in_step() {
        let whole = section(0x10000, 0x4000, 0x2000);
        let part = whole.clipped(&(0x11000..0x20000)).unwrap();
        assert_eq!((part.guest_range(), part.offset_in_region), (0x11000..0x14000, 0x3000));
        assert_eq!(part.block_range(), Some(0x3000..0x6000));
        assert!(whole.clipped(&(0..0x10000)).is_none());
    }

    #[test]
    fn bytes_of_a_block_are_found_where_they_show() {
        let section = section(0x10000, 0x4000, 0x2000);
        let (block, _) = section.ram.clone().unwrap();
        assert_eq!(
            section.showing(&block, &(0x1000..0x3000)).unwrap().guest_range(),
            0x10000..0x11000
        );
        assert!(section.showing(&block, &(0x6000..0x7000)).is_none());
        assert!(section.showing(&pages(16), &(0x2000..0x3000)).is_none());
    }
}
