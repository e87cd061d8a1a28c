//! The clocks that timers are set on.
//!
//! | clock | counts | stops |
//! | --- | --- | --- |
//! | virtual | time in which a VM's guest could run | while that VM is paused |
//! | realtime | time since the host booted | never |
//! | host | the host's wall clock, which an administrator may set | never, but it jumps |
//!
//! Each VM has its own virtual clock; the other two are the host's.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};

use crate::event_loop::LoopHandle;

/// A clock that a timer can be set on.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The virtual clock of one VM.
    Virtual(Arc<VirtualClock>),
    /// Time since the host booted.
    Realtime,
    /// The host's wall clock, as time since 1970.
    Host,
}

impl Clock {
    /// What the clock shows.
    #[must_use]
    pub fn now(&self) -> Duration {
        match self {
            Self::Virtual(clock) => clock.now(),
            Self::Realtime => read(ClockId::Monotonic),
            Self::Host => read(ClockId::Realtime),
        }
    }

    /// Whether both are the same clock, not merely clocks of a kind.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Virtual(one), Self::Virtual(two)) => Arc::ptr_eq(one, two),
            (Self::Realtime, Self::Realtime) | (Self::Host, Self::Host) => true,
            _ => false,
        }
    }
}

fn read(clock: ClockId) -> Duration {
    // Both clocks are past zero on any host that has booted; a wall clock set before 1970 reads as 1970.
    Duration::try_from(clock_gettime(clock)).unwrap_or(Duration::ZERO)
}

/// Counts the time in which a VM's guest could run. Made stopped, at zero.
#[derive(Debug)]
pub struct VirtualClock {
    state: Mutex<State>,
    /// The loop that sleeps until this clock's timers are due, and has to think again when the clock starts.
    waker: LoopHandle,
}

#[derive(Clone, Copy, Debug)]
struct State {
    /// What the clock showed when it was last started or stopped.
    shown: Duration,
    /// The realtime clock when it was started, or `None` while it stands.
    since: Option<Duration>,
}

impl VirtualClock {
    /// A clock that stands at zero, for timers on the loop behind `waker`.
    #[must_use]
    pub fn new(waker: LoopHandle) -> Arc<Self> {
        let state = State {
            shown: Duration::ZERO,
            since: None,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            waker,
        })
    }

    /// What the clock shows.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.state.lock().at(Clock::Realtime.now())
    }

    /// Lets the clock go; a running one runs on.
    pub fn start(&self) {
        self.state.lock().since.get_or_insert_with(|| Clock::Realtime.now());
        self.waker.wake();
    }

    /// Stops the clock; it keeps showing the moment.
    pub fn stop(&self) {
        let mut state = self.state.lock();
        let shown = state.at(Clock::Realtime.now());
        *state = State { shown, since: None };
    }

    /// Sets the clock, as a restored VM does before it runs. It goes on running or standing.
    pub fn set(&self, shown: Duration) {
        let mut state = self.state.lock();
        state.shown = shown;
        state.since = state.since.map(|_| Clock::Realtime.now());
        drop(state);
        self.waker.wake();
    }

    /// When, on the realtime clock, this one will show `deadline`; never while it stands.
    pub(crate) fn reaches(&self, deadline: Duration) -> Option<Duration> {
        let state = *self.state.lock();
        state.since.map(|since| since + deadline.saturating_sub(state.shown))
    }
}

impl State {
    fn at(&self, realtime: Duration) -> Duration {
        self.shown
            + self
                .since
                .map_or(Duration::ZERO, |since| realtime.saturating_sub(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event_loop::EventLoop;

    fn clock() -> Arc<VirtualClock> {
        VirtualClock::new(EventLoop::new().expect("an event loop").handle())
    }

    #[test]
    fn a_virtual_clock_stands_until_it_is_started_and_after_it_is_stopped() {
        let clock = clock();
        assert_eq!(clock.now(), Duration::ZERO);
        assert_eq!(clock.reaches(Duration::from_secs(1)), None);
        clock.start();
        let early = clock.now();
        while clock.now() == early {}
        clock.stop();
        let stopped = clock.now();
        assert!(stopped > early);
        assert_eq!(clock.now(), stopped);
    }

    #[test]
    fn a_set_clock_goes_on_from_there() {
        let clock = clock();
        clock.set(Duration::from_secs(100));
        assert_eq!(clock.now(), Duration::from_secs(100));
        clock.start();
        clock.set(Duration::from_secs(1000));
        assert!((1000..1010).contains(&clock.now().as_secs()));
    }

    #[test]
    fn virtual_clocks_of_two_vms_are_two_clocks() {
        let (one, two) = (Clock::Virtual(clock()), Clock::Virtual(clock()));
        assert!(one.is(&one.clone()));
        assert!(!one.is(&two));
        assert!(!Clock::Host.is(&Clock::Realtime));
    }
}
