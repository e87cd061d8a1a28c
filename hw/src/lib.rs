//! hw
pub mod i386;
pub mod intc;
pub mod memory;
pub mod timer;
