//! Tools around Tern: the benchmark.
//!
//! `cargo run --release -p tern-tools --bin bench` measures the program from outside: every time is the host's clock at a
//! byte that the guest printed, so that nothing that a VMM says about itself is believed.

#![forbid(unsafe_code)]

pub mod bench;
pub mod contender;
pub mod memory;
pub mod precedence;
pub mod report;
pub mod silence;
pub mod stamped;
pub mod stats;
