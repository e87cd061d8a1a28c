//! What a device asks of whoever runs the machine.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use vmstate::qom::Object;

/// Requests that devices make. Called by a vCPU with the device's lock held: an implementation notes the request, wakes
/// whoever carries it out, and returns.
pub trait MachineEvents: Send + Sync {
    /// The guest asked for a reset; `by` names the mechanism for people, as in "the keyboard controller".
    fn reset_requested(&self, by: &str);

    /// The guest asked to be switched off.
    fn shutdown_requested(&self);

    /// The guest ended itself with this status.
    fn guest_exited(&self, status: u8);

    /// The guest reports that it has crashed and does not go on.
    fn guest_panicked(&self);

    /// The guest reports that it has crashed and goes on, with another kernel that saves what is left of it.
    fn guest_crash_loaded(&self);

    /// The guest has let go of `device`, which a hotplug handler's `unplug_request` had asked it to: it can be taken off by
    /// [`finish_unplug`](super::finish_unplug). That is not done by who tells it, as this is the guest's own access.
    /// While the machine is being sent or saved it waits, and it does not go along: that the guest has let go is state of the handler's,
    /// which tells it again after a load.
    fn device_released(&self, device: &Arc<Object>);

    /// The time of day, as the time since 1970: the host's, unless whoever runs the machine has another one for it.
    fn wall_clock(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}
