//! The Tern virtual machine monitor.

pub mod accel;
pub mod boot;
pub mod cli;
pub mod clock;
pub mod console;
pub mod control;
pub mod event_loop;
#[cfg(test)]
mod fake_vm;
pub mod guest;
pub mod instance;
pub mod migration_info;
pub mod monitor;
pub mod run_state;
pub mod signals;
pub mod terminal;
#[cfg(test)]
mod test_support;
pub mod timers;
pub mod unix_socket;
pub mod vm;
