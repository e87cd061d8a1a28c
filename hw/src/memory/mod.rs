//! Guest memory: what lies at which address, who has to know, and which pages were written.
//!
//! - [`RamBlock`] is memory: made of a [`Backing`], with [`DirtyBitmaps`] per [`DirtyClient`].
//! - [`MemoryRegion`]s are a tree that says what lies where: containers, RAM, ROM, I/O and aliases, by priority.
//! - [`AddressSpace`] shows a tree as a [`FlatView`], which is read without a lock. Changes are made in transactions,
//!   and [`MemoryListener`]s are told how the view differs.
//! - Accesses by address ([`AddressSpace::read`], [`AddressSpace::write`]) reach RAM or a device's [`RegionOps`] in the
//!   form that its [`AccessRules`] ask for. DMA goes to [`GuestRam`], which vm-memory understands.
//!
//! ```text
//!   MemoryRegion tree --flatten--> FlatView --difference--> MemoryListener (KVM slots, ioeventfds, tests)
//!         |                           |
//!      RamBlock                  read / write (vCPU exits)      guest_memory (DMA)
//!         |                           |                              |
//!    DirtyBitmaps <---- harvest: listeners ---- marks: writes of the VMM's own threads
//! ```
//!
//! # Locks
//!
//! The topology lock of a [`MemorySystem`] is the outermost one: it is taken with no device's lock held, and is held
//! while listeners act. Reading the view, dispatching an access, marking and taking dirty pages take no lock at all.

mod access;
mod backing;
mod block;
mod contents;
mod difference;
mod dirty;
mod dispatch;
mod error;
mod guest;
mod host;
mod listener;
mod listening;
mod logging;
mod mapping;
mod ops;
mod placing;
mod populated;
mod region;
mod space;
#[cfg(test)]
pub(crate) mod testing;
mod units;
mod view;
mod zero;

pub use backing::{Backing, CAPABILITIES, Capabilities, Forkable, Origin, Support};
pub use block::{HugePages, RamBlock};
pub use dirty::{DirtyBitmaps, DirtyClient};
pub use dispatch::AccessError;
pub use error::{RamError, RegionError};
pub use guest::{GuestRam, RamWindow};
pub use listener::{EventFdSection, ListenerError, ListenerResult, MemoryListener, MemoryRegionSection};
pub use ops::{AccessRules, Endian, IoContext, RegionOps};
pub use region::MemoryRegion;
pub use space::{AddressSpace, MemorySystem};
pub use units::{HUGE_PAGE_SIZE, PAGE_SIZE};
pub use view::FlatView;
