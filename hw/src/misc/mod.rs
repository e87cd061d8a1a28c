//! Devices that belong to no bus and no class of their own.

/// The example of `docs/add-a-device.md`, which quotes it; no VM has it.
#[cfg(test)]
pub mod mailbox;
pub mod pvpanic;
