//! ACPI, as a guest of a microvm meets it: hardware-reduced, so that beside the tables there is one small device.

pub mod generic_event_device;
pub mod tables;
