//! What belongs to a PC and to nothing else: its machines, tables and small controllers.

pub mod cpu_feature;
pub mod cpu_model;
pub mod cpu_state;
pub mod cpuid;
pub mod msr;
pub mod xsave;
