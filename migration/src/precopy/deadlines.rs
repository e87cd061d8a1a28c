//! How long each phase of a live migration may take.

use std::time::{Duration, Instant};

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
    /// From the pause until the receiver is ready.
    pub blackout: Duration,
    /// From *go* until the receiver runs the guest; afterwards the source is undecided.
    pub running: Duration,
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
    pub(super) fn patience(&self, phase: Phase, blackout_end: Option<Instant>) -> Patience {
        match phase {
            Phase::Hello | Phase::HelloBack | Phase::Header => self.at_most(self.hello),
            Phase::Running => self.at_most(self.running),
            _ => match blackout_end {
                Some(end) => Patience {
                    silence: self.blackout,
                    end: Some(end),
                },
                None => Patience {
                    silence: self.silence,
                    end: None,
                },
            },
        }
    }

    /// When a pause that begins now has to be over.
    pub(super) fn blackout_end(&self) -> Option<Instant> {
        Instant::now().checked_add(self.blackout)
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
        let end = deadlines.blackout_end();
        for phase in Phase::of(TransferKind::Precopy) {
            assert!(
                deadlines.patience(phase, None).silence <= Duration::from_secs(60),
                "{phase}"
            );
        }
        for phase in [Phase::Pause, Phase::Sections, Phase::Ready, Phase::Go] {
            assert_eq!(deadlines.patience(phase, end).end, end, "{phase}");
        }
    }
}
