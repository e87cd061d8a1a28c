//! The clocks that an event loop's timers are set on.
//!
//! | clock | counts | stands |
//! | --- | --- | --- |
//! | realtime | time since the host booted | never |
//! | host | the time of day, since 1970; an administrator may set it | never, but it jumps |
//!
//! A VM's own clock, the virtual one, and its devices' timers are in `hw` (`hw/src/core/timers.rs`): a VM need not have an
//! event loop.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A clock that a timer can be set on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Time since the host booted.
    Realtime,
    /// The host's wall clock, as time since 1970.
    Host,
}

impl Clock {
    /// What the clock shows.
    #[must_use]
    pub fn now(&self) -> Duration {
        let id = match self {
            Self::Realtime => ClockId::Monotonic,
            Self::Host => ClockId::Realtime,
        };
        // Both clocks are past zero on any host that has booted; a wall clock set before 1970 reads as 1970.
        Duration::try_from(clock_gettime(id)).unwrap_or(Duration::ZERO)
    }
}
