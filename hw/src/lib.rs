//! hw
pub mod memory;
