//! ACPI, as a guest of `microvm-1.0` meets it: hardware-reduced, so that beside the tables there is one small device.

pub mod generic_event_device;
pub mod tables;
