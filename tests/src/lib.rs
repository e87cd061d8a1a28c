//! Black-box tests of Tern: what a user can do, done to the program that a user gets.
//!
//! The tests themselves are in `tests/tests/`, one file per promise. Here is what they share: building the program
//! ([`binary`]), running it ([`process`]), and reading its embedded guest's console ([`guest`]), and Linux as a guest
//! ([`linux`]). What has to be seen from
//! inside is done with the library that the program is made of, in the test's own process ([`machine`]).
//!
//! Nothing here sleeps to wait for something: everything waits for a line, an exit or a deadline that is far away.

#![forbid(unsafe_code)]

pub mod binary;
pub mod compat;
pub mod elf;
pub mod fuzz;
pub mod guest;
pub mod kvm;
pub mod linux;
pub mod log;
pub mod machine;
pub mod process;
pub mod pty;
pub mod scenario;
pub mod state;
