//! What a device asks of whoever runs the machine.

/// Requests that devices make. Called by a vCPU with the device's lock held: an implementation notes the request, wakes
/// whoever carries it out, and returns.
pub trait MachineEvents: Send + Sync {
    /// The guest asked for a reset; `by` names the mechanism for people, as in "the keyboard controller".
    fn reset_requested(&self, by: &str);

    /// The guest ended itself with this status.
    fn guest_exited(&self, status: u8);
}
