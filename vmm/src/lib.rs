//! vmm

pub mod control;
pub mod migration_info;
pub mod run_state;
