//! Asking a running transfer to stop, from any thread.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// A handle that cancels one transfer, until the transfer has committed itself (for a source: until *go*).
///
/// Which of the two came first is decided by one atomic step, so that a user who was told "cancelled" never finds the
/// guest gone. Clones share the decision.
#[derive(Clone, Debug)]
pub struct CancelToken(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    decision: AtomicU8,
    /// Readable once cancelled, so that a transfer that waits for its peer wakes up.
    wake: OwnedFd,
}

const OPEN: u8 = 0;
const CANCELLED: u8 = 1;
const COMMITTED: u8 = 2;

/// The transfer had committed itself before it could be cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is too late to cancel: the receiver has been told to run the guest")]
pub struct TooLate;

/// The transfer was cancelled before it could commit itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cancelled")]
pub struct Cancelled;

impl CancelToken {
    /// A token that nobody has cancelled.
    ///
    /// # Errors
    ///
    /// The process has no file descriptor left.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self(Arc::new(Shared {
            decision: AtomicU8::new(OPEN),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })))
    }

    /// Cancels. Doing it twice is the same as once.
    ///
    /// # Errors
    ///
    /// [`TooLate`] if the transfer has committed itself; it then goes on to its end.
    pub fn cancel(&self) -> Result<(), TooLate> {
        match self.decide(CANCELLED) {
            COMMITTED => Err(TooLate),
            _ => {
                // Full only after 2^64 - 1 cancellations, and then it is readable already.
                let _ = rustix::io::write(&self.0.wake, &1_u64.to_ne_bytes());
                Ok(())
            }
        }
    }

    /// Whether somebody has cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.decision.load(Ordering::Acquire) == CANCELLED
    }

    /// Rules out cancellation from here on.
    pub(crate) fn commit(&self) -> Result<(), Cancelled> {
        match self.decide(COMMITTED) {
            CANCELLED => Err(Cancelled),
            _ => Ok(()),
        }
    }

    /// Readable once cancelled; for polling beside a socket.
    pub(crate) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.0.wake.as_fd()
    }

    /// Makes `wanted` the decision if none was made, and returns the decision that holds.
    fn decide(&self, wanted: u8) -> u8 {
        match self
            .0
            .decision
            .compare_exchange(OPEN, wanted, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => wanted,
            Err(standing) => standing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_first_stands() {
        let token = CancelToken::new().expect("an eventfd");
        assert!(!token.is_cancelled());
        assert_eq!(token.cancel(), Ok(()));
        assert_eq!(token.cancel(), Ok(()));
        assert_eq!(token.commit(), Err(Cancelled));

        let token = CancelToken::new().expect("an eventfd");
        assert_eq!(token.commit(), Ok(()));
        assert_eq!(token.clone().cancel(), Err(TooLate));
        assert!(!token.is_cancelled());
    }
}
