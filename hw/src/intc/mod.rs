//! Interrupt controllers, as descriptions that an accelerator fills.

pub mod apic;
pub mod i8259;
pub mod ioapic;
