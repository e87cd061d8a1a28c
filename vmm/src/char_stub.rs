//! Stand-in for `hw::char` until it is merged.

/// Where a character device's output goes.
pub trait CharSink: Send + Sync {
    /// Takes as many of `bytes` as there is room for, and says how many.
    fn try_write(&self, bytes: &[u8]) -> usize;
    /// The device has room for input again.
    fn input_room(&self) {}
}

/// A character device as its back end sees it.
pub trait CharFrontend: Send + Sync {
    /// Hands input to the device; says how many bytes it took.
    fn receive(&self, bytes: &[u8]) -> usize;
    /// The sink takes bytes again after having refused some.
    fn writable(&self);
}
