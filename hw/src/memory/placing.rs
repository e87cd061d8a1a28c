//! Where regions lie in their containers, and telling address spaces when that changes.

use std::ops::Range;
use std::sync::{Arc, Weak};

use super::error::RegionError;
use super::region::{MemoryRegion, RegionKind, RegionState};
use super::space::regions_changed;
use super::units::intersection;

/// A region's place in its container.
#[derive(Clone)]
pub(super) struct Child {
    pub(super) region: MemoryRegion,
    pub(super) offset: u64,
    priority: i32,
    may_overlap: bool,
}

impl Child {
    fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.region.size())
    }
}

/// The name of the region that is in the way of another.
struct InTheWay(String);

impl MemoryRegion {
    /// Places a region at an offset of this container, where no other may lie.
    ///
    /// # Errors
    ///
    /// A [`RegionError`]; nothing has changed then.
    pub fn add_subregion(&self, offset: u64, region: &Self) -> Result<(), RegionError> {
        self.place(&Child {
            region: region.clone(),
            offset,
            priority: 0,
            may_overlap: false,
        })
    }

    /// Places a region at an offset of this container, over all others of lower priority. Plainly added ones have
    /// priority 0; of equal ones the one that came last is seen.
    ///
    /// # Errors
    ///
    /// A [`RegionError`]; nothing has changed then.
    pub fn add_subregion_overlap(&self, offset: u64, region: &Self, priority: i32) -> Result<(), RegionError> {
        self.place(&Child {
            region: region.clone(),
            offset,
            priority,
            may_overlap: true,
        })
    }

    fn place(&self, child: &Child) -> Result<(), RegionError> {
        let (region, container) = (child.region.name().to_owned(), self.name().to_owned());
        if !matches!(self.kind(), RegionKind::Container) {
            return Err(RegionError::NotAContainer { region, container });
        }
        if self.is_part_of(&child.region) {
            return Err(RegionError::Cycle { region, container });
        }
        // The child is claimed before it is placed, so that two containers cannot both get it; no two regions are
        // ever locked at once.
        if let Some(holder) = child.region.claim(self) {
            return Err(RegionError::AlreadyPlaced {
                region,
                container: holder,
            });
        }
        let inserted = self.state().insert(child);
        if let Err(in_the_way) = inserted {
            child.region.state().container = None;
            return Err(self.collision(child, in_the_way));
        }
        self.changed();
        Ok(())
    }

    /// Notes `container` as this region's; the name of the present one if there is one.
    fn claim(&self, container: &Self) -> Option<String> {
        let mut state = self.state();
        if let Some(holder) = state.container.as_ref().and_then(Weak::upgrade) {
            return Some(Self::from(holder).name().to_owned());
        }
        state.container = Some(container.downgrade());
        None
    }

    /// Takes a region out of this container.
    ///
    /// # Errors
    ///
    /// [`RegionError::NotPlacedThere`].
    pub fn remove_subregion(&self, region: &Self) -> Result<(), RegionError> {
        let removed = self.state().remove(region);
        removed.ok_or_else(|| self.does_not_hold(region))?;
        region.state().container = None;
        self.changed();
        Ok(())
    }

    /// Moves a region that is placed in this container to another offset of it. Of regions of its priority it is the
    /// last then.
    ///
    /// # Errors
    ///
    /// [`RegionError::NotPlacedThere`], or [`RegionError::Collides`] as for
    /// [`add_subregion`](Self::add_subregion); nothing has changed then.
    pub fn move_subregion(&self, region: &Self, offset: u64) -> Result<(), RegionError> {
        let mut state = self.state();
        let before = state.children.clone();
        let child = state.remove(region).ok_or_else(|| self.does_not_hold(region))?;
        let moved = Child { offset, ..child };
        let inserted = state.insert(&moved);
        if inserted.is_err() {
            state.children = before;
        }
        drop(state);
        inserted.map_err(|in_the_way| self.collision(&moved, in_the_way))?;
        self.changed();
        Ok(())
    }

    fn collision(&self, child: &Child, InTheWay(other): InTheWay) -> RegionError {
        let Range { start, end } = child.range();
        let (region, container) = (child.region.name().to_owned(), self.name().to_owned());
        RegionError::Collides {
            region,
            other,
            container,
            start,
            end,
        }
    }

    fn does_not_hold(&self, region: &Self) -> RegionError {
        RegionError::NotPlacedThere {
            region: region.name().to_owned(),
            container: self.name().to_owned(),
        }
    }

    /// Tells the address spaces that this region is part of.
    pub(super) fn changed(&self) {
        let mut spaces = Vec::new();
        self.walk_up(&mut |region| {
            for space in region.state().spaces.iter().filter_map(Weak::upgrade) {
                if !spaces.iter().any(|known| Arc::ptr_eq(known, &space)) {
                    spaces.push(space);
                }
            }
        });
        regions_changed(&spaces);
    }

    /// Whether this region is `other`, or would be seen through it.
    fn is_part_of(&self, other: &Self) -> bool {
        let mut found = false;
        self.walk_up(&mut |region| found |= region == other);
        found
    }

    /// Visits this region, and all in which it is placed or shown.
    fn walk_up(&self, visit: &mut impl FnMut(&Self)) {
        visit(self);
        let above: Vec<_> = {
            let state = self.state();
            state
                .aliases
                .iter()
                .chain(&state.container)
                .filter_map(Weak::upgrade)
                .collect()
        };
        for region in above {
            Self::from(region).walk_up(visit);
        }
    }
}

impl RegionState {
    /// Puts a child where its priority belongs: over all that are not above it.
    fn insert(&mut self, child: &Child) -> Result<(), InTheWay> {
        let collides = |other: &&Child| {
            !(child.may_overlap || other.may_overlap) && intersection(&child.range(), &other.range()).is_some()
        };
        if let Some(other) = self.children.iter().find(collides) {
            return Err(InTheWay(other.region.name().to_owned()));
        }
        let place = self.children.partition_point(|other| other.priority > child.priority);
        self.children.insert(place, child.clone());
        Ok(())
    }

    fn remove(&mut self, region: &MemoryRegion) -> Option<Child> {
        let index = self.children.iter().position(|child| child.region == *region)?;
        Some(self.children.remove(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str, size: u64) -> MemoryRegion {
        MemoryRegion::container(name, size)
    }

    #[test]
    fn a_region_has_one_place() {
        let (a, b, child) = (
            container("a", 0x1000),
            container("b", 0x1000),
            container("child", 0x100),
        );
        a.add_subregion(0, &child).unwrap();
        let error = b.add_subregion(0, &child).unwrap_err();
        assert_eq!(
            error.to_string(),
            "region 'child' is already placed in 'a'; show it elsewhere through an alias"
        );
        a.remove_subregion(&child).unwrap();
        b.add_subregion(0, &child).unwrap();
        assert!(matches!(
            a.remove_subregion(&child),
            Err(RegionError::NotPlacedThere { .. })
        ));
    }

    #[test]
    fn plain_regions_do_not_overlap_and_a_refusal_leaves_nothing_behind() {
        let (root, first, second) = (
            container("root", 0x1000),
            container("first", 0x100),
            container("second", 0x100),
        );
        root.add_subregion(0x80, &first).unwrap();
        let error = root.add_subregion(0x100, &second).unwrap_err();
        assert_eq!(
            error.to_string(),
            "region 'second' at 0x100..0x200 of 'root' collides with 'first'"
        );
        root.add_subregion(0x180, &second).unwrap();
        assert!(matches!(
            root.move_subregion(&second, 0),
            Err(RegionError::Collides { .. })
        ));
        assert_eq!(root.children().iter().map(|child| child.offset).max(), Some(0x180));
        root.move_subregion(&second, 0x400).unwrap();
        root.add_subregion_overlap(0, &container("over", 0x1000), 1).unwrap();
    }

    #[test]
    fn a_region_never_contains_itself() {
        let (outer, inner) = (container("outer", 0x1000), container("inner", 0x100));
        outer.add_subregion(0, &inner).unwrap();
        assert!(matches!(inner.add_subregion(0, &outer), Err(RegionError::Cycle { .. })));
        assert!(matches!(inner.add_subregion(0, &inner), Err(RegionError::Cycle { .. })));
        let window = MemoryRegion::alias("window", &outer, 0, 0x100);
        assert!(matches!(
            inner.add_subregion(0, &window),
            Err(RegionError::Cycle { .. })
        ));
    }

    #[test]
    fn only_containers_hold_regions() {
        let (root, child) = (container("root", 0x1000), container("child", 0x100));
        let alias = MemoryRegion::alias("alias", &root, 0, 0x100);
        assert!(matches!(
            alias.add_subregion(0, &child),
            Err(RegionError::NotAContainer { .. })
        ));
    }

    #[test]
    fn a_region_outlives_its_container() {
        let child = container("child", 0x100);
        container("short-lived", 0x1000).add_subregion(0, &child).unwrap();
        container("next", 0x1000).add_subregion(0, &child).unwrap();
    }
}
