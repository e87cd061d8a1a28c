//! Tern's object model and its state descriptions: what a machine is made of, and what of it can be saved.
//!
//! - [`qom`]: types, classes, objects, properties, the composition tree, and the state of a whole tree as sections;
//! - [`state`]: what one object's state consists of, as data that is printed, compared, shipped and checked.
//!
//! It knows no hardware, no accelerator and no socket.

#![forbid(unsafe_code)]

extern crate self as vmstate;

pub mod qom;
pub mod state;

pub use state::{VmEnum, VmState};

/// For the code that `#[derive(Object)]` generates.
#[doc(hidden)]
pub use linkme;
