//! vmm

pub mod clock;
pub mod control;
pub mod event_loop;
pub mod migration_info;
pub mod run_state;
pub mod timers;
