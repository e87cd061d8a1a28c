//! Memory
mod backing;
mod block;
mod dirty;
mod host;
mod mapping;
mod populated;
mod units;
mod zero;

pub use backing::{Backing, CAPABILITIES, Capabilities, Forkable, Origin, Support};
pub use block::{HugePages, RamBlock, RamError};
pub use dirty::{DirtyBitmaps, DirtyClient};
pub use units::{HUGE_PAGE_SIZE, PAGE_SIZE};
