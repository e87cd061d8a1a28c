//! How long each phase of a live migration may take.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::channel::Patience;
use crate::phases::Phase;

/// The time that a side gives its peer. Both sides have their own.
///
/// While the guest runs, time costs nothing and silence alone means trouble: data, acknowledgements and heartbeats keep
/// a slow but live connection going. While it stands still there is one deadline for everything, which no heartbeat
/// moves: a half-open connection must not hold a paused guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// Until the connection stands.
    pub connect: Duration,
    /// Until both sides have said who they are. Short: a port scan that says nothing must not keep a receiver busy.
    pub hello: Duration,
    /// The longest silence while the guest runs.
    pub silence: Duration,
    /// How often a side that is busy says that it is alive; well below the peer's `silence`.
    pub heartbeat: Duration,
    /// From the pause until the receiver is ready. A source ends the pause earlier if its downtime limit wants that.
    pub blackout: Duration,
    /// From *go* until the receiver runs the guest; afterwards the source is undecided. A receiver that is ready takes *go*
    /// for half as long: no longer than its source can still be waiting.
    pub running: Duration,
}

/// A moment that does not move, by clocks that go on while a process is stopped and while the host sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    instant: Option<Instant>,
    since_boot: Duration,
}

impl End {
    /// So long from now.
    pub(super) fn after(duration: Duration) -> Self {
        Self {
            instant: Instant::now().checked_add(duration),
            since_boot: since_boot().saturating_add(duration),
        }
    }

    /// When waits that cannot see a sleep of the host end.
    pub(super) fn instant(self) -> Option<Instant> {
        self.instant
    }

    /// The earlier of two.
    pub(super) fn min(self, other: Self) -> Self {
        if other.since_boot < self.since_boot {
            other
        } else {
            self
        }
    }

    pub(super) fn has_passed(self) -> bool {
        since_boot() >= self.since_boot
    }
}

/// The host's uptime, its sleep included.
fn since_boot() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default()
}

/// How much longer than its downtime limit a pause may get on a host that is busy, before the source takes it back.
const SLACK: Duration = Duration::from_secs(1);

/// The longest that a source lets its guest stand still without having said *go*.
///
/// The limit decides which pauses begin, by what they will cost. One that has begun gets some slack beyond it: that
/// something else had the host's CPUs for a moment is no reason to throw a migration away.
pub(super) fn longest_pause(limit: Duration) -> Duration {
    limit.saturating_mul(2).max(limit.saturating_add(SLACK))
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            hello: Duration::from_secs(5),
            silence: Duration::from_secs(20),
            heartbeat: Duration::from_secs(1),
            blackout: Duration::from_secs(10),
            running: Duration::from_secs(10),
        }
    }
}

impl Deadlines {
    /// For waiting until the connection stands.
    pub(super) fn connecting(&self) -> Patience {
        self.at_most(self.connect)
    }

    /// For waiting in `phase`, which begins now. `blackout_end` is when the pause has to be over, if it has begun.
    pub(super) fn patience(&self, phase: Phase, blackout_end: Option<End>) -> Patience {
        match phase {
            Phase::Hello | Phase::HelloBack | Phase::Header => self.at_most(self.hello),
            Phase::Running => self.at_most(self.running),
            _ => match blackout_end {
                Some(end) => Patience {
                    silence: self.blackout,
                    end: end.instant(),
                },
                None => Patience {
                    silence: self.silence,
                    end: None,
                },
            },
        }
    }

    /// When a pause that begins now has to be over.
    pub(super) fn blackout_end(&self) -> End {
        End::after(self.blackout)
    }

    /// Until when a receiver that says *ready* now takes *go*.
    ///
    /// Its source says *go* later than *ready* is said, and waits for `running` from then on: it cannot have given up
    /// before this has passed.
    pub(super) fn go_end(&self) -> End {
        End::after(self.running / 2)
    }

    fn at_most(&self, duration: Duration) -> Patience {
        Patience {
            silence: self.silence.max(duration),
            end: Instant::now().checked_add(duration),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phases::TransferKind;

    #[test]
    fn every_phase_has_a_limit_and_the_pause_has_one_that_does_not_move() {
        let deadlines = Deadlines::default();
        let end = Some(deadlines.blackout_end());
        for phase in Phase::of(TransferKind::Precopy) {
            assert!(
                deadlines.patience(phase, None).silence <= Duration::from_secs(60),
                "{phase}"
            );
        }
        for phase in [Phase::Pause, Phase::Sections, Phase::Ready, Phase::Go] {
            assert_eq!(
                deadlines.patience(phase, end).end,
                end.and_then(End::instant),
                "{phase}"
            );
        }
    }

    #[test]
    fn a_pause_that_has_begun_may_break_its_limit_by_some_slack_and_no_more() {
        let seconds = Duration::from_secs;
        assert_eq!(longest_pause(Duration::ZERO), seconds(1));
        assert_eq!(longest_pause(Duration::from_millis(300)), Duration::from_millis(1300));
        assert_eq!(longest_pause(seconds(3)), seconds(6));
        assert_eq!(longest_pause(Duration::MAX), Duration::MAX);
    }

    #[test]
    fn an_end_passes_and_one_of_far_away_does_not() {
        assert!(End::after(Duration::ZERO).has_passed());
        assert!(!End::after(Duration::MAX).has_passed());
    }
}
