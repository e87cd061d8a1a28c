//! What belongs to a PC and to nothing else: its machines, tables and small controllers.

pub mod boot_entry;
pub mod cpu;
pub mod cpu_feature;
pub mod cpu_feature_names;
pub mod cpu_feature_needs;
pub mod cpu_model;
pub mod cpu_state;
pub mod cpuid;
pub mod i8042;
pub mod microvm;
pub mod mptable;
pub mod msr;
pub mod msr_account;
pub mod reset_vector;
pub mod test_exit;
pub mod xsave;
