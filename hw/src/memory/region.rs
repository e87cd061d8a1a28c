//! Memory regions: the tree in which a machine says what lies where.
//!
//! A region is a container of others, a part of a RAM block (writable or not), a device's registers, or a window on
//! another region (an alias). Regions are placed in containers with a priority; where two overlap the higher one is
//! seen. [`AddressSpace`](super::AddressSpace) makes a [`FlatView`](super::FlatView) of such a tree and follows its
//! changes.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use vmm_sys_util::eventfd::EventFd;

use super::block::RamBlock;
use super::ops::{AccessRules, RegionOps};
use super::space::{SpaceInner, regions_changed};
use super::units::intersection;

/// A handle on a region; clones are the same region.
///
/// A change to a region that is part of an address space takes effect before the method returns, or at the end of the
/// outermost [`transaction`](super::AddressSpace::transaction). Changes must not be made while a device's lock is held:
/// see [`IoContext::defer`](super::IoContext::defer).
#[derive(Clone)]
pub struct MemoryRegion(Arc<Inner>);

struct Inner {
    name: String,
    size: u64,
    kind: RegionKind,
    state: Mutex<State>,
}

/// What a region is made of.
#[derive(Clone)]
pub(super) enum RegionKind {
    Container,
    Ram {
        block: Arc<RamBlock>,
        offset: u64,
        rom: bool,
    },
    Io {
        ops: Arc<dyn RegionOps>,
        rules: AccessRules,
    },
    Alias {
        target: MemoryRegion,
        offset: u64,
    },
}

struct State {
    enabled: bool,
    /// Subregions by descending priority; of equals the one that was added last comes first.
    children: Vec<Child>,
    container: Option<Weak<Inner>>,
    aliases: Vec<Weak<Inner>>,
    /// The address spaces of which this is the root.
    spaces: Vec<Weak<SpaceInner>>,
    eventfds: Vec<RegionEventFd>,
}

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

/// An eventfd by its place in a region.
#[derive(Clone)]
pub(super) struct RegionEventFd {
    pub(super) offset: u64,
    pub(super) size: u8,
    pub(super) match_data: Option<u64>,
    pub(super) eventfd: Arc<EventFd>,
}

/// Why a region could not be made or placed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegionError {
    /// A subregion was given to a region that is no container.
    #[error("'{container}' is no container, '{region}' cannot be placed in it")]
    NotAContainer {
        /// The region that was to be placed.
        region: String,
        /// Where.
        container: String,
    },
    /// A region has one place; an alias gives it another.
    #[error("region '{region}' is already placed in '{container}'; show it elsewhere through an alias")]
    AlreadyPlaced {
        /// The region that was to be placed.
        region: String,
        /// Where it is.
        container: String,
    },
    /// A region that is not in the container.
    #[error("region '{region}' is not placed in '{container}'")]
    NotPlacedThere {
        /// The region.
        region: String,
        /// The container.
        container: String,
    },
    /// Two regions at the same addresses, neither of which was meant to lie over the other.
    #[error("region '{region}' at {start:#x}..{end:#x} of '{container}' collides with '{other}'")]
    Collides {
        /// The region that was to be placed.
        region: String,
        /// The region that is there.
        other: String,
        /// The container of both.
        container: String,
        /// Where it was to start.
        start: u64,
        /// Where it was to end.
        end: u64,
    },
    /// A region would contain itself.
    #[error("region '{region}' cannot be placed in '{container}', which is part of it")]
    Cycle {
        /// The region that was to be placed.
        region: String,
        /// Where.
        container: String,
    },
    /// A part that the RAM block has not got.
    #[error("region '{region}' cannot show {start:#x}..{end:#x} of RAM block '{block}', which has {size:#x} bytes")]
    NoSuchPart {
        /// The region.
        region: String,
        /// The block.
        block: String,
        /// The block's size.
        size: u64,
        /// Where the part starts.
        start: u64,
        /// Where it ends.
        end: u64,
    },
}

impl MemoryRegion {
    /// A region that only holds others. What lies beyond its size is not seen.
    #[must_use]
    pub fn container(name: impl Into<String>, size: u64) -> Self {
        Self::new(name.into(), size, RegionKind::Container)
    }

    /// All of a RAM block.
    #[must_use]
    pub fn ram(name: impl Into<String>, block: Arc<RamBlock>) -> Self {
        let size = block.size();
        Self::new(
            name.into(),
            size,
            RegionKind::Ram {
                block,
                offset: 0,
                rom: false,
            },
        )
    }

    /// A part of a RAM block, given in bytes. Several regions may show parts of one block.
    ///
    /// # Errors
    ///
    /// [`RegionError::NoSuchPart`].
    pub fn ram_part(name: impl Into<String>, block: Arc<RamBlock>, part: Range<u64>) -> Result<Self, RegionError> {
        let name = name.into();
        if part.start > part.end || part.end > block.size() {
            let (start, end) = (part.start, part.end);
            return Err(RegionError::NoSuchPart {
                region: name,
                block: block.name().to_owned(),
                size: block.size(),
                start,
                end,
            });
        }
        Ok(Self::new(
            name,
            part.end - part.start,
            RegionKind::Ram {
                block,
                offset: part.start,
                rom: false,
            },
        ))
    }

    /// All of a RAM block, which the guest cannot write.
    #[must_use]
    pub fn rom(name: impl Into<String>, block: Arc<RamBlock>) -> Self {
        let size = block.size();
        Self::new(
            name.into(),
            size,
            RegionKind::Ram {
                block,
                offset: 0,
                rom: true,
            },
        )
    }

    /// A device's registers. Give a `Weak` of the device as `ops` so that the map does not keep it alive.
    ///
    /// # Panics
    ///
    /// For [`AccessRules`] that are not [sound](AccessRules::are_sound), which are a mistake of the device's author.
    #[must_use]
    pub fn io(name: impl Into<String>, size: u64, ops: Arc<dyn RegionOps>, rules: AccessRules) -> Self {
        let name = name.into();
        assert!(
            rules.are_sound(),
            "the access rules of region '{name}' are no rules: {rules:?}"
        );
        Self::new(name, size, RegionKind::Io { ops, rules })
    }

    /// A window of `size` bytes on another region, from `offset` in it on. The other region need not be placed
    /// anywhere; if it is disabled, nothing shows.
    #[must_use]
    pub fn alias(name: impl Into<String>, target: &Self, offset: u64, size: u64) -> Self {
        let alias = Self::new(
            name.into(),
            size,
            RegionKind::Alias {
                target: target.clone(),
                offset,
            },
        );
        let mut state = target.0.state.lock();
        state.aliases.retain(|alias| alias.strong_count() > 0);
        state.aliases.push(Arc::downgrade(&alias.0));
        drop(state);
        alias
    }

    fn new(name: String, size: u64, kind: RegionKind) -> Self {
        let state = State {
            enabled: true,
            children: Vec::new(),
            container: None,
            aliases: Vec::new(),
            spaces: Vec::new(),
            eventfds: Vec::new(),
        };
        Self(Arc::new(Inner {
            name,
            size,
            kind,
            state: Mutex::new(state),
        }))
    }

    /// The name, for messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.0.size
    }

    /// Whether the region and what is in it can be seen.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.0.state.lock().enabled
    }

    /// Shows or hides the region and all that is in it.
    pub fn set_enabled(&self, enabled: bool) {
        let before = std::mem::replace(&mut self.0.state.lock().enabled, enabled);
        if before != enabled {
            self.changed();
        }
    }

    /// Places a region at an offset of this container, where no other may lie.
    ///
    /// # Errors
    ///
    /// A [`RegionError`]; nothing has changed then.
    pub fn add_subregion(&self, offset: u64, region: &Self) -> Result<(), RegionError> {
        self.place(Child {
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
        self.place(Child {
            region: region.clone(),
            offset,
            priority,
            may_overlap: true,
        })
    }

    fn place(&self, child: Child) -> Result<(), RegionError> {
        let (region, container) = (child.region.name().to_owned(), self.name().to_owned());
        if !matches!(self.0.kind, RegionKind::Container) {
            return Err(RegionError::NotAContainer { region, container });
        }
        if self.is_part_of(&child.region) {
            return Err(RegionError::Cycle { region, container });
        }
        // The child is claimed before it is placed, so that two containers cannot both get it; no two region locks are
        // ever held at once.
        if let Some(holder) = child.region.claim(self) {
            return Err(RegionError::AlreadyPlaced {
                region,
                container: holder,
            });
        }
        let placed = child.region.clone();
        if let Err(other) = self.insert(child.clone()) {
            placed.0.state.lock().container = None;
            let Range { start, end } = child.range();
            return Err(RegionError::Collides {
                region,
                other,
                container,
                start,
                end,
            });
        }
        self.changed();
        Ok(())
    }

    /// Notes `container` as this region's; the name of the present one if there is one.
    fn claim(&self, container: &Self) -> Option<String> {
        let mut state = self.0.state.lock();
        if let Some(holder) = state.container.as_ref().and_then(Weak::upgrade) {
            return Some(holder.name.clone());
        }
        state.container = Some(Arc::downgrade(&container.0));
        None
    }

    /// Puts a child where its priority belongs; the name of the one that is in its way if there is one.
    fn insert(&self, child: Child) -> Result<(), String> {
        let mut state = self.0.state.lock();
        let collides = |other: &&Child| {
            !(child.may_overlap || other.may_overlap) && intersection(&child.range(), &other.range()).is_some()
        };
        if let Some(other) = state.children.iter().find(collides) {
            return Err(other.region.name().to_owned());
        }
        let place = state.children.partition_point(|other| other.priority > child.priority);
        state.children.insert(place, child);
        Ok(())
    }

    /// Takes a region out of this container.
    ///
    /// # Errors
    ///
    /// [`RegionError::NotPlacedThere`].
    pub fn remove_subregion(&self, region: &Self) -> Result<(), RegionError> {
        let mut state = self.0.state.lock();
        let Some(index) = state.children.iter().position(|child| child.region == *region) else {
            return Err(self.does_not_hold(region));
        };
        state.children.remove(index);
        drop(state);
        region.0.state.lock().container = None;
        self.changed();
        Ok(())
    }

    /// Moves a region that is placed in this container to another offset of it.
    ///
    /// # Errors
    ///
    /// [`RegionError::NotPlacedThere`], or [`RegionError::Collides`] as for
    /// [`add_subregion`](Self::add_subregion); nothing has changed then.
    pub fn move_subregion(&self, region: &Self, offset: u64) -> Result<(), RegionError> {
        let taken = {
            let mut state = self.0.state.lock();
            let index = state.children.iter().position(|child| child.region == *region);
            index.map(|index| state.children.remove(index))
        };
        let Some(child) = taken else {
            return Err(self.does_not_hold(region));
        };
        let moved = Child {
            offset,
            ..child.clone()
        };
        let Range { start, end } = moved.range();
        if let Err(other) = self.insert(moved) {
            // Back to where it was a moment ago; in between only a concurrent placing could have taken the place.
            let _ = self.insert(child);
            let (region, container) = (region.name().to_owned(), self.name().to_owned());
            return Err(RegionError::Collides {
                region,
                other,
                container,
                start,
                end,
            });
        }
        self.changed();
        Ok(())
    }

    fn does_not_hold(&self, region: &Self) -> RegionError {
        RegionError::NotPlacedThere {
            region: region.name().to_owned(),
            container: self.name().to_owned(),
        }
    }

    /// Has an eventfd signalled, instead of the device called, when the guest writes `size` bytes (0: any size) at
    /// `offset`, of the value `match_data` if one is given.
    pub fn add_eventfd(&self, offset: u64, size: u8, match_data: Option<u64>, eventfd: Arc<EventFd>) {
        self.0.state.lock().eventfds.push(RegionEventFd {
            offset,
            size,
            match_data,
            eventfd,
        });
        self.changed();
    }

    /// Takes back all that [`add_eventfd`](Self::add_eventfd) did for this eventfd.
    pub fn remove_eventfd(&self, eventfd: &Arc<EventFd>) {
        self.0
            .state
            .lock()
            .eventfds
            .retain(|own| !Arc::ptr_eq(&own.eventfd, eventfd));
        self.changed();
    }

    /// The block behind RAM and ROM, and where in it the region starts.
    #[must_use]
    pub fn ram_block(&self) -> Option<(&Arc<RamBlock>, u64)> {
        match &self.0.kind {
            RegionKind::Ram { block, offset, .. } => Some((block, *offset)),
            _ => None,
        }
    }

    pub(super) fn kind(&self) -> &RegionKind {
        &self.0.kind
    }

    /// The subregions from the one on top to the one at the bottom.
    pub(super) fn children(&self) -> Vec<Child> {
        self.0.state.lock().children.clone()
    }

    pub(super) fn eventfds(&self) -> Vec<RegionEventFd> {
        self.0.state.lock().eventfds.clone()
    }

    pub(super) fn add_space(&self, space: &Arc<SpaceInner>) {
        let mut state = self.0.state.lock();
        state.spaces.retain(|space| space.strong_count() > 0);
        state.spaces.push(Arc::downgrade(space));
    }

    /// Tells the address spaces that this region is part of.
    fn changed(&self) {
        let mut spaces = Vec::new();
        self.walk_up(&mut |region| {
            let state = region.0.state.lock();
            for space in state.spaces.iter().filter_map(Weak::upgrade) {
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
            let state = self.0.state.lock();
            state
                .aliases
                .iter()
                .chain(&state.container)
                .filter_map(Weak::upgrade)
                .collect()
        };
        for region in above {
            Self(region).walk_up(visit);
        }
    }
}

/// Two handles are equal if they are of the same region.
impl PartialEq for MemoryRegion {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for MemoryRegion {}

impl fmt::Debug for MemoryRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.0.kind {
            RegionKind::Container => "container",
            RegionKind::Ram { rom: false, .. } => "ram",
            RegionKind::Ram { rom: true, .. } => "rom",
            RegionKind::Io { .. } => "i/o",
            RegionKind::Alias { .. } => "alias",
        };
        write!(f, "{kind} '{}' of {:#x} bytes", self.0.name, self.0.size)
    }
}
