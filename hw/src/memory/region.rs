//! Memory regions: the tree in which a machine says what lies where.
//!
//! A region is a container of others, a part of a RAM block (writable or not), a device's registers, or a window on
//! another region (an alias). Regions are placed in containers with a priority; where two overlap the higher one is
//! seen. [`AddressSpace`](super::AddressSpace) makes a [`FlatView`](super::FlatView) of such a tree and follows its
//! changes.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, MutexGuard};
use vmm_sys_util::eventfd::EventFd;

use super::block::RamBlock;
use super::error::RegionError;
use super::ops::{AccessRules, RegionOps};
use super::placing::Child;
use super::space::SpaceInner;

/// A handle on a region; clones are the same region.
///
/// A change to a region that is part of an address space takes effect before the method returns, or at the end of the
/// outermost [`transaction`](super::AddressSpace::transaction). Changes must not be made while a device's lock is held:
/// see [`IoContext::defer`](super::IoContext::defer).
#[derive(Clone)]
pub struct MemoryRegion(Arc<Inner>);

pub(super) struct Inner {
    name: String,
    size: u64,
    kind: RegionKind,
    state: Mutex<RegionState>,
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

/// What changes about a region. It is locked for a moment only, and never two regions' at once.
pub(super) struct RegionState {
    enabled: bool,
    /// Subregions by descending priority; of equals the one that was added last comes first.
    pub(super) children: Vec<Child>,
    pub(super) container: Option<Weak<Inner>>,
    pub(super) aliases: Vec<Weak<Inner>>,
    /// The address spaces of which this is the root.
    pub(super) spaces: Vec<Weak<SpaceInner>>,
    eventfds: Vec<RegionEventFd>,
}

/// An eventfd by its place in a region.
#[derive(Clone)]
pub(super) struct RegionEventFd {
    pub(super) offset: u64,
    pub(super) size: u8,
    pub(super) match_data: Option<u64>,
    pub(super) eventfd: Arc<EventFd>,
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
        let mut state = target.state();
        state.aliases.retain(|alias| alias.strong_count() > 0);
        state.aliases.push(Arc::downgrade(&alias.0));
        drop(state);
        alias
    }

    fn new(name: String, size: u64, kind: RegionKind) -> Self {
        let state = RegionState {
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
        self.state().enabled
    }

    /// Shows or hides the region and all that is in it.
    pub fn set_enabled(&self, enabled: bool) {
        let before = std::mem::replace(&mut self.state().enabled, enabled);
        if before != enabled {
            self.changed();
        }
    }

    /// Has an eventfd signalled, instead of the device called, when the guest writes `size` bytes (0: any size) at
    /// `offset`, of the value `match_data` if one is given.
    pub fn add_eventfd(&self, offset: u64, size: u8, match_data: Option<u64>, eventfd: Arc<EventFd>) {
        self.state().eventfds.push(RegionEventFd {
            offset,
            size,
            match_data,
            eventfd,
        });
        self.changed();
    }

    /// Takes back all that [`add_eventfd`](Self::add_eventfd) did for this eventfd.
    pub fn remove_eventfd(&self, eventfd: &Arc<EventFd>) {
        self.state().eventfds.retain(|own| !Arc::ptr_eq(&own.eventfd, eventfd));
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

    pub(super) fn state(&self) -> MutexGuard<'_, RegionState> {
        self.0.state.lock()
    }

    pub(super) fn downgrade(&self) -> Weak<Inner> {
        Arc::downgrade(&self.0)
    }

    pub(super) fn kind(&self) -> &RegionKind {
        &self.0.kind
    }

    /// The subregions from the one on top to the one at the bottom.
    pub(super) fn children(&self) -> Vec<Child> {
        self.state().children.clone()
    }

    pub(super) fn eventfds(&self) -> Vec<RegionEventFd> {
        self.state().eventfds.clone()
    }

    pub(super) fn add_space(&self, space: &Arc<SpaceInner>) {
        let mut state = self.state();
        state.spaces.retain(|space| space.strong_count() > 0);
        state.spaces.push(Arc::downgrade(space));
    }
}

impl From<Arc<Inner>> for MemoryRegion {
    fn from(inner: Arc<Inner>) -> Self {
        Self(inner)
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
