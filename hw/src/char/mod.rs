//! Character devices, and the two traits by which they meet whatever shows their bytes to people.

mod chardev;
mod serial;

pub use chardev::{Chardev, ChardevClaim, HostChardev, RingChardev};
pub use serial::{Serial16550, SerialState};

/// Where a character device's output goes: a terminal, a socket, nothing.
///
/// Called by a vCPU with the device's lock held, so an implementation never blocks and never calls back into the device.
pub trait CharSink: Send + Sync {
    /// Takes as many of `bytes` as there is room for, and says how many. What was not taken stays with the device, which
    /// offers it again when [`CharFrontend::writable`] is called.
    fn try_write(&self, bytes: &[u8]) -> usize;

    /// The device has room for input again.
    fn input_room(&self) {}
}

/// A character device as its back end sees it.
///
/// Called from the main loop, never from inside a [`CharSink`] method.
pub trait CharFrontend: Send + Sync {
    /// Hands input to the device; says how many bytes it took. The rest is offered again after [`CharSink::input_room`].
    fn receive(&self, bytes: &[u8]) -> usize;

    /// The sink takes bytes again after having refused some.
    fn writable(&self);
}
