//! What a Tern guest sees, and what stands behind it.
//!
//! | room | what lives there |
//! | --- | --- |
//! | [`memory`] | regions, address spaces, flat views and listeners; RAM blocks and their dirty bitmaps |
//! | [`core`] | devices, buses, interrupt lines, realize and reset |
//! | [`mod@char`] | character devices: the 16550 serial port |
//! | [`intc`] | interrupt controllers, as descriptions that an accelerator fills |
//! | [`timer`] | clocks and timers |
//! | [`acpi`] | ACPI: the tables, and the device behind sleep, reset and the power button |
//! | [`misc`] | pvpanic |
//! | [`i386`] | the machines `microvm-1.0` and `microvm-1.1`, vCPUs and their models, the MP table, small PC controllers |
//!
//! A device is a file here, with everything about it: registers, behaviour, properties, type and state. Nothing here knows
//! which accelerator runs the guest or how state travels.

pub mod acpi;
pub mod char;
pub mod core;
pub mod i386;
pub mod intc;
pub mod memory;
pub mod misc;
pub mod timer;
