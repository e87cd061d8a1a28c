//! Figures of a live migration: while it runs ([`Gauges`]) and afterwards ([`SendReport`], [`ReceiveReport`]).

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::phases::Phase;
use crate::ram::{Added, PAGE_SIZE};

/// Where a live migration stands, for whoever watches it from another thread. Clones show the same migration.
#[derive(Clone, Default)]
pub struct Gauges(Arc<Shared>);

#[derive(Default)]
struct Shared {
    figures: Mutex<Figures>,
    on_phase: OnceLock<OnPhase>,
    on_round: OnceLock<OnRound>,
}

/// Told of every phase as it is entered, on the thread of the migration: it is quick, and does not block.
pub type OnPhase = Box<dyn Fn(Phase) + Send + Sync>;

/// Told the number of every round as a source begins it, as [`OnPhase`] is of phases.
pub type OnRound = Box<dyn Fn(u32) + Send + Sync>;

impl fmt::Debug for Gauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.read().fmt(f)
    }
}

/// What [`Gauges`] knows at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// The phase that the conversation is in; `None` before there is one.
    pub phase: Option<Phase>,
    /// When the migration began.
    pub began: Option<Instant>,
    /// From the beginning until RAM began to flow.
    pub setup: Option<Duration>,
    /// Guest RAM in bytes.
    pub total_bytes: u64,
    /// Bytes sent or received so far, everything included.
    pub transferred_bytes: u64,
    /// Bytes of RAM that are left to send, as far as is known.
    pub remaining_bytes: u64,
    /// Pages whose contents were sent so far, counted each time.
    pub raw_pages: u64,
    /// Pages that were zero, counted each time that they were looked at.
    pub zero_pages: u64,
    /// Rounds begun.
    pub rounds: u32,
    /// Bytes that the guest dirtied in a second, by the last round.
    pub dirty_bytes_per_second: u64,
    /// Bytes that the connection took in a second, by the last round.
    pub bytes_per_second: u64,
    /// Pauses that were taken back, because what was left would have broken the limit.
    pub pauses_taken_back: u32,
    /// How long the guest would stand still if it were paused now.
    pub expected_downtime: Option<Duration>,
    /// How long the guest stood still, once that is known.
    pub downtime: Option<Duration>,
}

impl Figures {
    /// Bytes that the connection has taken in a second since RAM began to flow, for as long as no round is over that would say it
    /// better.
    #[must_use]
    pub fn average_bytes_per_second(&self) -> u64 {
        match (self.began, self.setup) {
            (Some(began), Some(setup)) => per_second(self.transferred_bytes, began.elapsed().saturating_sub(setup)),
            _ => 0,
        }
    }
}

impl Gauges {
    /// A migration that has not begun.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The figures as they are now.
    #[must_use]
    pub fn read(&self) -> Figures {
        *self.0.figures.lock()
    }

    /// Has `told` called with every phase that is entered from now on. Once per migration; later calls change nothing.
    pub fn on_phase(&self, told: OnPhase) {
        let _ = self.0.on_phase.set(told);
    }

    /// Has `told` called with every round that begins from now on. Once per migration; later calls change nothing.
    pub fn on_round(&self, told: OnRound) {
        let _ = self.0.on_round.set(told);
    }

    /// Notes that a source begins a round, and tells whoever wants to know.
    pub(crate) fn begin_round(&self, number: u32) {
        self.update(|figures| figures.rounds = number);
        if let Some(told) = self.0.on_round.get() {
            told(number);
        }
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Figures)) {
        change(&mut self.0.figures.lock());
    }

    /// Tells whoever wants to know that a phase has been entered, with the figures of that moment in place.
    pub(crate) fn entered(&self, phase: Phase) {
        if let Some(told) = self.0.on_phase.get() {
            told(phase);
        }
    }
}

/// One round of precopy.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RoundReport {
    /// Which, from 1. The last one was sent with the guest paused.
    pub number: u32,
    /// Pages whose contents were sent.
    pub raw_pages: u64,
    /// Pages that were zero.
    pub zero_pages: u64,
    /// Bytes that went over the connection.
    pub sent_bytes: u64,
    /// From its beginning until the receiver had it.
    pub took: Duration,
    /// Bytes that were dirty afterwards.
    pub left_bytes: u64,
}

impl RoundReport {
    /// Bytes that the connection took in a second.
    #[must_use]
    pub fn bytes_per_second(&self) -> u64 {
        per_second(self.sent_bytes, self.took)
    }

    /// Bytes that the guest dirtied in a second while the round was under way.
    #[must_use]
    pub fn dirty_bytes_per_second(&self) -> u64 {
        per_second(self.left_bytes, self.took)
    }

    pub(crate) fn count(&mut self, added: Added) {
        self.raw_pages += added.raw;
        self.zero_pages += added.zero;
    }
}

fn per_second(bytes: u64, took: Duration) -> u64 {
    let per_second = u128::from(bytes) * 1_000_000_000 / took.as_nanos().max(1);
    u64::try_from(per_second).unwrap_or(u64::MAX)
}

/// The time for which the guest stood still, and what it went into. The parts follow each other.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PauseReport {
    /// What it was predicted to last when it began.
    pub predicted: Duration,
    /// Taking the vCPUs out of the guest and their state out of the accelerator.
    pub stop: Duration,
    /// Taking the state out of the objects, and encoding it.
    pub save: Duration,
    /// The last look at the dirty log, and sending what it showed.
    pub ram: Duration,
    /// Sending the state.
    pub state: Duration,
    /// Until the receiver was ready.
    pub ready: Duration,
    /// From *go* until *running*.
    pub handover: Duration,
    /// Of `ready`: what the receiver says that loading took.
    pub load: Duration,
    /// Of `handover`: what the receiver says that letting the guest run took.
    pub resume: Duration,
    /// Bytes of RAM that were sent.
    pub ram_bytes: u64,
    /// Bytes of device state that were sent.
    pub state_bytes: u64,
}

impl PauseReport {
    /// From the first step of the pause until the source heard that the guest runs: a bound on what the guest missed.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.stop + self.save + self.ram + self.state + self.ready + self.handover
    }
}

/// A pause that was taken back, because what was left would have broken the limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TakenBack {
    /// The round that went before it.
    pub after_round: u32,
    /// How long the guest stood still.
    pub stood_still: Duration,
    /// How long it would have stood still.
    pub predicted: Duration,
    /// Bytes of RAM that were left.
    pub left_bytes: u64,
}

/// How a migration went, as its source saw it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SendReport {
    /// From the beginning to the end.
    pub total: Duration,
    /// From the beginning until RAM began to flow.
    pub setup: Duration,
    /// Guest RAM in bytes.
    pub ram_bytes: u64,
    /// Bytes sent, everything included.
    pub sent_bytes: u64,
    /// The rounds, the last of them with the guest paused.
    pub rounds: Vec<RoundReport>,
    /// The pauses that were taken back.
    pub taken_back: Vec<TakenBack>,
    /// The pause that ended it.
    pub pause: PauseReport,
    /// What the receiver noted without refusing, as `subject: text`.
    pub notes: Vec<String>,
    /// When each phase was entered, from the beginning on.
    pub phases: Vec<(Phase, Duration)>,
}

/// How a migration went, as its destination saw it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReceiveReport {
    /// From the accepted connection to the running guest.
    pub total: Duration,
    /// Bytes received, everything included.
    pub received_bytes: u64,
    /// Rounds received.
    pub rounds: u32,
    /// Pages received with contents, counted each time.
    pub raw_pages: u64,
    /// Loading the state.
    pub load: Duration,
    /// Letting the guest run.
    pub resume: Duration,
    /// When each phase was entered, from the beginning on.
    pub phases: Vec<(Phase, Duration)>,
}

/// Guest RAM in bytes, of so many pages.
pub(crate) fn bytes(pages: u64) -> u64 {
    pages * PAGE_SIZE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_per_second_and_no_length_of_time_breaks_them() {
        let round = RoundReport {
            sent_bytes: 3 << 20,
            left_bytes: 1 << 20,
            took: Duration::from_millis(500),
            ..RoundReport::default()
        };
        assert_eq!(
            (round.bytes_per_second(), round.dirty_bytes_per_second()),
            (6 << 20, 2 << 20)
        );
        let instant = RoundReport {
            sent_bytes: u64::MAX,
            ..RoundReport::default()
        };
        assert_eq!(instant.bytes_per_second(), u64::MAX);
    }

    #[test]
    fn whoever_watches_sees_what_the_engine_writes() {
        let gauges = Gauges::new();
        let watcher = gauges.clone();
        let told = Arc::new(Mutex::new(Vec::new()));
        let hear = Arc::clone(&told);
        watcher.on_round(Box::new(move |number| hear.lock().push(number)));
        gauges.begin_round(3);
        assert_eq!((watcher.read().rounds, told.lock().as_slice()), (3, [3].as_slice()));
    }
}
