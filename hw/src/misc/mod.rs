//! Devices that belong to no bus and no class of their own.

pub mod pvpanic;
