//! vmstate

extern crate self as vmstate;

pub mod state;

pub use state::{VmEnum, VmState};
