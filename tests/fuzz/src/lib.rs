//! The targets of the tests, built for a fuzzer.

/// The same file that the tests are built with, so that the fuzzer has no need of the rest of them.
#[path = "../../src/fuzz.rs"]
pub mod fuzz;
