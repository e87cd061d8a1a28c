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

    /// Signals the eventfd that waits for a write of these bytes at an address; false if there is none.
    pub(super) fn signal(&self, address: u64, bytes: &[u8]) -> bool {
        let from = self.eventfds.partition_point(|own| own.guest_address < address);
        let mut here = self.eventfds[from..]
            .iter()
            .take_while(|own| own.guest_address == address);
        let Some(wanted) = here.find(|own| own.is_for(bytes)) else {
            return false;
        };
        // A counter that is full has been signalled as often as anybody can tell.
        let _ = wanted.eventfd.write(1);
        true
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::testing::{GIB, constant, pages, root};
    use crate::memory::{Backing, PAGE_SIZE};
    use proptest::prelude::*;

    /// What a view shows, as lines.
    fn shown(root: &MemoryRegion) -> Vec<String> {
        FlatView::of(root, false)
            .sections()
            .iter()
            .map(|section| format!("{section:?}"))
            .collect()
    }

    #[test]
    fn ram_around_the_hole_below_4_gib_is_one_block() {
        const LOW: u64 = 3 * GIB;
        let block = RamBlock::new("ram", 5 * GIB, Backing::SharedMemfd).unwrap();
        let root = root();
        root.add_subregion(0, &MemoryRegion::ram_part("low", Arc::clone(&block), 0..LOW).unwrap())
            .unwrap();
        let high = MemoryRegion::ram_part("high", Arc::clone(&block), LOW..5 * GIB).unwrap();
        root.add_subregion(4 * GIB, &high).unwrap();
        root.add_subregion(0xfec0_0000, &constant("ioapic", 0x1000, 1)).unwrap();
        let view = FlatView::of(&root, false);
        assert_eq!(view.ram_blocks().len(), 1);
        for (address, offset) in [(0, 0), (LOW - 1, LOW - 1), (4 * GIB, LOW), (6 * GIB - 1, 5 * GIB - 1)] {
            let section = view.find(address).unwrap();
            let (_, start) = section.ram.as_ref().unwrap();
            assert_eq!(start + (address - section.guest_address), offset);
            let host = section.host_address().unwrap() + usize::try_from(address - section.guest_address).unwrap();
            assert_eq!(host, block.host_address() + usize::try_from(offset).unwrap());
        }
        assert!(view.find(LOW).is_none() && view.find(6 * GIB).is_none());
        assert!(view.find(0xfec0_0fff).unwrap().ram.is_none());
        // The two halves meet in the block although not in the guest.
        let parts: Vec<_> = view
            .sections()
            .iter()
            .filter_map(|section| section.showing(&block, &(LOW - 4096..LOW + 4096)))
            .collect();
        assert_eq!(
            parts.iter().map(MemoryRegionSection::guest_range).collect::<Vec<_>>(),
            [LOW - 4096..LOW, 4 * GIB..4 * GIB + 4096]
        );
    }

    #[test]
    fn the_higher_priority_is_seen_and_of_equal_ones_the_last() {
        let root = root();
        root.add_subregion(0, &constant("plain", 0x100, 1)).unwrap();
        root.add_subregion_overlap(0x40, &constant("over", 0x40, 2), 1).unwrap();
        root.add_subregion_overlap(0x60, &constant("same", 0x40, 3), 1).unwrap();
        root.add_subregion_overlap(0, &constant("under", 0x200, 4), -1).unwrap();
        assert_eq!(
            shown(&root),
            [
                "0x0..0x40 i/o plain @0x0",
                "0x40..0x60 i/o over @0x0",
                "0x60..0xa0 i/o same @0x0",
                "0xa0..0x100 i/o plain @0xa0",
                "0x100..0x200 i/o under @0x100",
            ]
        );
    }

    #[test]
    fn a_priority_counts_within_its_container_only() {
        let (root, inner) = (root(), MemoryRegion::container("inner", 0x100));
        inner
            .add_subregion_overlap(0, &constant("loud", 0x100, 1), 1000)
            .unwrap();
        root.add_subregion(0, &inner).unwrap();
        root.add_subregion_overlap(0, &constant("top", 0x80, 2), 1).unwrap();
        assert_eq!(shown(&root), ["0x0..0x80 i/o top @0x0", "0x80..0x100 i/o loud @0x80"]);
    }

    #[test]
    fn an_alias_of_an_alias_shows_the_region_itself() {
        let ram = MemoryRegion::ram("ram", pages(16));
        let first = MemoryRegion::alias("first", &ram, 0x4000, 0x8000);
        let second = MemoryRegion::alias("second", &first, 0x1000, 0x2000);
        let root = root();
        root.add_subregion(0x10_0000, &second).unwrap();
        assert_eq!(shown(&root), ["0x100000..0x102000 ram ram @0x5000"]);
        // A window beyond the end of what it shows shows nothing there.
        root.add_subregion(0, &MemoryRegion::alias("beyond", &first, 0x7000, 0x8000))
            .unwrap();
        assert_eq!(shown(&root)[0], "0x0..0x1000 ram ram @0xb000");
    }

    #[test]
    fn two_aliases_that_meet_are_one_section() {
        let ram = MemoryRegion::ram("ram", pages(4));
        let root = root();
        for page in 0..4 {
            let window = MemoryRegion::alias("window", &ram, page * PAGE_SIZE, PAGE_SIZE);
            root.add_subregion(page * PAGE_SIZE, &window).unwrap();
        }
        assert_eq!(shown(&root), ["0x0..0x4000 ram ram @0x0"]);
        let back_to_the_start = MemoryRegion::alias("window", &ram, 0, PAGE_SIZE);
        root.add_subregion(0x4000, &back_to_the_start).unwrap();
        assert_eq!(
            shown(&root),
            ["0x0..0x4000 ram ram @0x0", "0x4000..0x5000 ram ram @0x0"]
        );
    }

    #[test]
    fn what_is_disabled_hides_nothing_and_takes_its_children_along() {
        let (root, inner) = (root(), MemoryRegion::container("inner", 0x100));
        root.add_subregion(0, &constant("below", 0x100, 1)).unwrap();
        inner.add_subregion(0, &constant("in", 0x100, 2)).unwrap();
        root.add_subregion_overlap(0, &inner, 1).unwrap();
        assert_eq!(shown(&root), ["0x0..0x100 i/o in @0x0"]);
        inner.set_enabled(false);
        assert_eq!(shown(&root), ["0x0..0x100 i/o below @0x0"]);
    }

    #[test]
    fn what_lies_beyond_a_container_is_not_seen() {
        let (root, inner) = (root(), MemoryRegion::container("inner", 0x80));
        inner.add_subregion(0x40, &constant("long", u64::MAX, 1)).unwrap();
        root.add_subregion(0x1000, &inner).unwrap();
        root.add_subregion(u64::MAX - 0x10, &constant("last", 0x100, 2))
            .unwrap();
        assert_eq!(
            shown(&root),
            [
                "0x1040..0x1080 i/o long @0x0",
                "0xffffffffffffffef..0xffffffffffffffff i/o last @0x0"
            ]
        );
    }

    #[test]
    fn only_ram_that_the_guest_can_write_is_logged() {
        let root = root();
        root.add_subregion(0, &MemoryRegion::ram("ram", pages(1))).unwrap();
        root.add_subregion(0x1_0000, &MemoryRegion::rom("rom", pages(1)))
            .unwrap();
        root.add_subregion(0x2_0000, &constant("io", 0x1000, 1)).unwrap();
        let logging: Vec<_> = FlatView::of(&root, true)
            .sections()
            .iter()
            .map(|section| section.logging)
            .collect();
        assert_eq!(logging, [true, false, false]);
    }

    /// A tree of small regions: what to put where.
    #[derive(Clone, Debug)]
    struct Spec {
        offset: u64,
        size: u64,
        priority: i32,
        enabled: bool,
        kind: Kind,
    }

    #[derive(Clone, Debug)]
    enum Kind {
        Leaf,
        Container(Vec<Spec>),
        /// A window, from an offset on, on a container of its own.
        Alias(u64, Vec<Spec>),
    }

    fn any_spec() -> impl Strategy<Value = Spec> {
        let of = |kind: BoxedStrategy<Kind>| {
            (0u64..48, 1u64..40, -2i32..3, prop::bool::weighted(0.85), kind).prop_map(
                |(offset, size, priority, enabled, kind)| Spec {
                    offset,
                    size,
                    priority,
                    enabled,
                    kind,
                },
            )
        };
        of(Just(Kind::Leaf).boxed()).prop_recursive(3, 24, 4, move |inner| {
            let children = prop::collection::vec(inner, 0..5);
            let alias = (0u64..20, children.clone()).prop_map(|(offset, children)| Kind::Alias(offset, children));
            of(prop_oneof![children.prop_map(Kind::Container), alias].boxed())
        })
    }

    fn built(spec: &Spec) -> MemoryRegion {
        let container = |size, children: &[Spec]| {
            let container = MemoryRegion::container("container", size);
            for child in children {
                container
                    .add_subregion_overlap(child.offset, &built(child), child.priority)
                    .unwrap();
            }
            container
        };
        let region = match &spec.kind {
            Kind::Leaf => constant("leaf", spec.size, 0),
            Kind::Container(children) => container(spec.size, children),
            Kind::Alias(offset, children) => MemoryRegion::alias("alias", &container(30, children), *offset, spec.size),
        };
        region.set_enabled(spec.enabled);
        region
    }

    /// What a guest sees at an address of a region, found by looking from the top down: the obvious definition.
    fn seen(region: &MemoryRegion, address: u64) -> Option<(MemoryRegion, u64)> {
        if !region.is_enabled() || address >= region.size() {
            return None;
        }
        match region.kind() {
            RegionKind::Container => region
                .children()
                .iter()
                .find_map(|child| seen(&child.region, address.checked_sub(child.offset)?)),
            RegionKind::Alias { target, offset } => seen(target, address + offset),
            RegionKind::Ram { .. } | RegionKind::Io { .. } => Some((region.clone(), address)),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// The flat view shows at every address what a look from the top down finds, in as few sections as can be.
        #[test]
        fn a_flat_view_shows_what_a_look_at_each_byte_finds(children in prop::collection::vec(any_spec(), 0..6)) {
            let root = built(&Spec { offset: 0, size: 100, priority: 0, enabled: true, kind: Kind::Container(children) });
            let view = FlatView::of(&root, false);
            for address in 0..120 {
                let found = view.find(address).map(|section| {
                    (section.region.clone(), section.offset_in_region + (address - section.guest_address))
                });
                prop_assert_eq!(found, seen(&root, address), "at {}", address);
            }
            for pair in view.sections().windows(2) {
                prop_assert!(pair[0].guest_range().end <= pair[1].guest_address);
                let goes_on = pair[0].region == pair[1].region
                    && pair[0].guest_range().end == pair[1].guest_address
                    && pair[0].offset_in_region + pair[0].size == pair[1].offset_in_region;
                prop_assert!(!goes_on);
            }
        }
    }
}
