//! The cases, as they follow from the list of phases that drives both sides, and what has to become of the guest in each.

use migration::fault::{FaultAction, phase_name};
use migration::phases::{Phase, Side, TransferKind};

/// What happens to one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Its own work fails.
    Error,
    /// The thread that does it dies.
    Abort,
    /// The connection is cut.
    Cut,
    /// It hangs.
    Stall,
    /// Its process is killed.
    Kill,
    /// Its user cancels.
    Cancel,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Self; 6] = [
        Self::Error,
        Self::Abort,
        Self::Cut,
        Self::Stall,
        Self::Kill,
        Self::Cancel,
    ];

    /// What the engine does by itself; what comes from outside finds the side held in its phase.
    fn action(self) -> FaultAction {
        match self {
            Self::Error => FaultAction::Error,
            Self::Abort => FaultAction::Abort,
            Self::Cut => FaultAction::Cut,
            Self::Stall | Self::Kill | Self::Cancel => FaultAction::Stall,
        }
    }
}

/// One fault in one phase of one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Whom it hits.
    pub side: Side,
    /// When.
    pub phase: Phase,
    /// What.
    pub fault: Fault,
}

/// What becomes of the process that had the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceEnd {
    /// It runs the guest as before.
    RunsOn,
    /// It has said *go* and not heard *running*: it keeps the guest for its user to decide.
    Undecided,
    /// One of these two: the receiver fails just when it has said that it is ready.
    RunsOnOrUndecided,
    /// It was killed.
    Killed,
}

/// What becomes of the process that waits for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiverEnd {
    /// It has not met a source, only a stranger, and waits for the next.
    Waits,
    /// It ends and says why.
    Fails,
    /// It runs the guest.
    Runs,
    /// It was killed.
    Killed,
}

impl Case {
    /// Every case: phase × fault × side. When everything is done nothing can fail any more.
    pub fn all() -> Vec<Self> {
        let phases = Phase::of(TransferKind::Precopy).filter(|&phase| phase != Phase::Done);
        // In this order one source can suffer all faults of its side, one migration after the other, and then serve for
        // those of the other side.
        let sides = [Side::Source, Side::Destination];
        let places = phases.flat_map(|phase| sides.map(|side| (side, phase)));
        let all = places.flat_map(|(side, phase)| Fault::ALL.map(|fault| Self { side, phase, fault }));
        let mut all: Vec<_> = all.collect();
        all.sort_by_key(|case| (case.side == Side::Destination, case.phase));
        all
    }

    /// The engine's fault as a plan names it, and the side that suffers it.
    ///
    /// A source whose guest has gone does not stay in its last phase for long, so what comes from outside finds it there
    /// by holding the destination.
    pub fn planned(self) -> (Side, String) {
        let from_outside = matches!(self.fault, Fault::Kill | Fault::Cancel);
        let side = match self.phase {
            Phase::Running if from_outside => Side::Destination,
            _ => self.side,
        };
        let name = match side {
            Side::Source => "source",
            Side::Destination => "destination",
        };
        let (phase, action) = (phase_name(self.phase), self.fault.action().name());
        (side, format!("{name}:{phase}:{action}"))
    }

    /// Whether the side has committed itself, so that its user cannot cancel any more.
    pub fn is_committed(self) -> bool {
        match self.side {
            Side::Source => self.phase >= Phase::Running,
            Side::Destination => self.phase >= Phase::Go,
        }
    }

    /// What has to become of the source.
    pub fn source(self) -> SourceEnd {
        match (self.side, self.phase, self.fault) {
            (Side::Source, _, Fault::Kill) => SourceEnd::Killed,
            (_, Phase::Running, _) => SourceEnd::Undecided,
            (Side::Destination, Phase::Go, Fault::Stall | Fault::Cancel) => SourceEnd::Undecided,
            (Side::Destination, Phase::Go, _) => SourceEnd::RunsOnOrUndecided,
            _ => SourceEnd::RunsOn,
        }
    }

    /// What has to become of the receiver.
    pub fn receiver(self) -> ReceiverEnd {
        match (self.side, self.phase, self.fault) {
            (Side::Destination, _, Fault::Kill) => ReceiverEnd::Killed,
            (Side::Destination, _, Fault::Abort) => ReceiverEnd::Fails,
            (Side::Destination, phase, Fault::Cancel) if phase < Phase::Running => ReceiverEnd::Fails,
            (_, phase, _) if phase <= Phase::Header => ReceiverEnd::Waits,
            // It strikes with the header just there and not yet looked at: whoever sent it is still a stranger.
            (Side::Destination, Phase::Schemas, Fault::Error | Fault::Stall) => ReceiverEnd::Waits,
            (Side::Destination, Phase::Running, Fault::Error) => ReceiverEnd::Fails,
            (_, Phase::Running, _) => ReceiverEnd::Runs,
            _ => ReceiverEnd::Fails,
        }
    }
}
