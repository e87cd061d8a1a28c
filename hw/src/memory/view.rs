//! The flat view of a region tree: what a guest sees at each address, sorted and without overlaps.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::block::RamBlock;
use super::guest::{GuestRam, guest_ram};
use super::listener::{EventFdSection, MemoryRegionSection};
use super::region::{MemoryRegion, RegionKind};

/// What an address space shows at one moment. It never changes; the next change of the tree makes another one.
pub struct FlatView {
    sections: Vec<MemoryRegionSection>,
    eventfds: Vec<EventFdSection>,
    ram: Arc<GuestRam>,
}

impl FlatView {
    /// Flattens a tree. With `logging`, all RAM that the guest can write is to be logged.
    pub(super) fn of(root: &MemoryRegion, logging: bool) -> Self {
        let mut painter = Painter {
            sections: Vec::new(),
            logging,
        };
        painter.paint(root, 0, &(0..i128::from(u64::MAX)), false);
        let sections = joined(painter.sections);
        let eventfds = eventfds_of(&sections);
        let ram = Arc::new(guest_ram(&sections));
        Self {
            sections,
            eventfds,
            ram,
        }
    }

    /// A view of nothing.
    pub(super) fn empty() -> Self {
        Self {
            sections: Vec::new(),
            eventfds: Vec::new(),
            ram: Arc::default(),
        }
    }

    /// All that can be seen, in ascending order of addresses.
    #[must_use]
    pub fn sections(&self) -> &[MemoryRegionSection] {
        &self.sections
    }

    /// What lies behind an address.
    #[must_use]
    pub fn find(&self, address: u64) -> Option<&MemoryRegionSection> {
        let after = self
            .sections
            .partition_point(|section| section.guest_address <= address);
        let section = &self.sections[after.checked_sub(1)?];
        (address - section.guest_address < section.size).then_some(section)
    }

    /// How far it is from an address to the next one behind which something lies.
    pub(super) fn gap_at(&self, address: u64) -> u64 {
        let after = self
            .sections
            .partition_point(|section| section.guest_address <= address);
        self.sections
            .get(after)
            .map_or(u64::MAX, |section| section.guest_address)
            - address
    }

    /// The RAM, for DMA.
    #[must_use]
    pub fn guest_memory(&self) -> &Arc<GuestRam> {
        &self.ram
    }

    /// The blocks of which parts can be seen, each once.
    #[must_use]
    pub fn ram_blocks(&self) -> Vec<Arc<RamBlock>> {
        let mut blocks: Vec<Arc<RamBlock>> = Vec::new();
        for (block, _) in self.sections.iter().filter_map(|section| section.ram.as_ref()) {
            if !blocks.iter().any(|known| Arc::ptr_eq(known, block)) {
                blocks.push(Arc::clone(block));
            }
        }
        blocks
    }

    /// The eventfds that can be reached, in order.
    #[must_use]
    pub fn eventfds(&self) -> &[EventFdSection] {
        &self.eventfds
    }
}

/// One line per section.
impl fmt::Display for FlatView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sections.iter().try_for_each(|section| writeln!(f, "{section:?}"))
    }
}

impl fmt::Debug for FlatView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.sections).entries(&self.eventfds).finish()
    }
}

/// Fills a view from the top down: what is painted first stays visible.
struct Painter {
    sections: Vec<MemoryRegionSection>,
    logging: bool,
}

impl Painter {
    /// Paints a region whose first byte is at `base` into what is free of `clip`. An alias may put the base below zero.
    fn paint(&mut self, region: &MemoryRegion, base: i128, clip: &Range<i128>, readonly: bool) {
        if !region.is_enabled() {
            return;
        }
        let clip = clip.start.max(base)..clip.end.min(base + i128::from(region.size()));
        if clip.is_empty() {
            return;
        }
        match region.kind() {
            RegionKind::Container => {
                for child in region.children() {
                    self.paint(&child.region, base + i128::from(child.offset), &clip, readonly);
                }
            }
            RegionKind::Alias { target, offset } => self.paint(target, base - i128::from(*offset), &clip, readonly),
            RegionKind::Ram { rom, .. } => self.fill(region, base, &clip, readonly || *rom),
            RegionKind::Io { .. } => self.fill(region, base, &clip, readonly),
        }
    }

    /// Puts a region wherever nothing is yet.
    fn fill(&mut self, region: &MemoryRegion, base: i128, clip: &Range<i128>, readonly: bool) {
        let mut free = Vec::new();
        let mut at = clip.start;
        for taken in self.sections.iter().map(|section| widened(&section.guest_range())) {
            if taken.end > at && taken.start < clip.end {
                free.push(at..taken.start);
                at = taken.end;
            }
        }
        free.push(at..clip.end);
        for place in free.into_iter().filter(|place| !place.is_empty()) {
            self.sections.push(self.section(region, base, &place, readonly));
        }
        self.sections.sort_unstable_by_key(|section| section.guest_address);
    }

    fn section(&self, region: &MemoryRegion, base: i128, place: &Range<i128>, readonly: bool) -> MemoryRegionSection {
        let offset_in_region = narrowed(place.start - base);
        let ram = region
            .ram_block()
            .map(|(block, start)| (Arc::clone(block), start + offset_in_region));
        let logging = self.logging && ram.is_some() && !readonly;
        MemoryRegionSection {
            region: region.clone(),
            guest_address: narrowed(place.start),
            size: narrowed(place.end - place.start),
            offset_in_region,
            ram,
            readonly,
            logging,
        }
    }
}

fn widened(range: &Range<u64>) -> Range<i128> {
    i128::from(range.start)..i128::from(range.end)
}

/// A place inside the clip, which starts at zero and ends at `u64::MAX`.
fn narrowed(value: i128) -> u64 {
    u64::try_from(value).expect("everything painted lies in the address space and in its region")
}

/// Puts neighbours together that are one piece of one region, as happens where two aliases meet.
fn joined(sections: Vec<MemoryRegionSection>) -> Vec<MemoryRegionSection> {
    let mut result: Vec<MemoryRegionSection> = Vec::with_capacity(sections.len());
    for section in sections {
        match result.last_mut() {
            Some(last)
                if last.region == section.region
                    && last.guest_range().end == section.guest_address
                    && last.offset_in_region + last.size == section.offset_in_region
                    && (last.readonly, last.logging) == (section.readonly, section.logging) =>
            {
                last.size += section.size;
            }
            _ => result.push(section),
        }
    }
    result
}

/// The eventfds of the regions, as far as their addresses can be seen.
fn eventfds_of(sections: &[MemoryRegionSection]) -> Vec<EventFdSection> {
    let mut found = Vec::new();
    for section in sections {
        for own in section.region.eventfds() {
            let inside = own
                .offset
                .checked_sub(section.offset_in_region)
                .filter(|&inside| inside < section.size);
            if let Some(inside) = inside.filter(|&inside| inside + u64::from(own.size) <= section.size) {
                found.push(EventFdSection {
                    guest_address: section.guest_address + inside,
                    size: own.size,
                    match_data: own.match_data,
                    eventfd: own.eventfd,
                });
            }
        }
    }
    found.sort_unstable_by_key(EventFdSection::key);
    found
}
