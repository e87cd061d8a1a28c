//! How whoever started a transfer watches it, and stops it.

/// Told how far a transfer is. Called from several threads, and often: an implementation is quick.
pub trait Progress: Sync {
    /// So many bytes of RAM are done, of so many. `total` may grow while a guest runs.
    fn advanced(&self, done: u64, total: u64) {
        let _ = (done, total);
    }

    /// Whether the transfer should end here. Asked often; a transfer that can no longer be stopped does not ask.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Nobody watches.
impl Progress for () {}
