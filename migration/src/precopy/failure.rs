//! Why a live migration failed, on either side.

use std::time::Duration;

use crate::CborError;
use crate::cancel::Cancelled;
use crate::channel::{ChannelError, ConnectError};
use crate::conditions::Unmet;
use crate::fault::FaultAction;
use crate::header::PrefixError;
use crate::phases::{OutOfOrder, Phase};
use crate::ram::RamError;
use crate::record::{RecordError, RecordKind};
use crate::section::SectionError;
use crate::switchover::{NotConverging, PauseTooLong};
use crate::vm::{PreflightReport, VmError};

/// What ended a live migration. Which side it hit does not show here, nor what became of the guest.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The user cancelled.
    #[error("the migration was cancelled")]
    Cancelled,
    /// There was nobody to talk to.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection ended, hangs, or took too long.
    #[error("in phase {phase}: {source}")]
    Channel {
        /// What was being waited for.
        phase: Phase,
        /// What happened.
        source: ChannelError,
    },
    /// The source let the guest go on, which had stood still for too long.
    #[error(
        "the guest stood still for {stood_still:.1?} and goes on here: with a limit of {limit:.1?} it may for {allowed:.1?} at most, \
         and the receiver was not ready in time; raise the limit, or give the hosts and the connection less to do"
    )]
    StoodStill {
        /// The pause as it was.
        stood_still: Duration,
        /// The downtime limit.
        limit: Duration,
        /// The limit and its slack, or the deadline of all pauses.
        allowed: Duration,
    },
    /// *Go* came when the source may have stopped waiting: its user may have decided already.
    #[error("the source gave the guest away too late after this side was ready: it is not run here")]
    LateGo,
    /// The destination cannot take this machine.
    #[error("the receiver cannot take this machine: {0}")]
    Refused(PreflightReport),
    /// The destination could take this machine in another state.
    #[error("{0}; the guest goes on here, and may be in another state later")]
    Unmet(#[from] Unmet),
    /// The guest dirties memory faster than the connection takes it.
    #[error(transparent)]
    NotConverging(#[from] NotConverging),
    /// Whenever the guest was paused, it had just written too much for the limit.
    #[error(transparent)]
    PauseTooLong(#[from] PauseTooLong),
    /// The other side gave up.
    #[error("the other side gave up: {0}")]
    Peer(String),
    /// The machine here failed to do its part.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// Guest memory could not be reached.
    #[error(transparent)]
    Memory(#[from] hw::memory::RamError),
    /// The other side is no Tern, or one of another age.
    #[error("the other side does not speak this protocol: {0}")]
    Prefix(#[from] PrefixError),
    /// A record is damaged or unknown.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A record came at the wrong time.
    #[error(transparent)]
    OutOfOrder(#[from] OutOfOrder),
    /// A record's contents cannot be read.
    #[error("the {kind} record: {source}")]
    Contents {
        /// Which record.
        kind: RecordKind,
        /// What is wrong with it.
        source: CborError,
    },
    /// A RAM record does not fit this machine.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// A section cannot be encoded or decoded.
    #[error(transparent)]
    Section(#[from] SectionError),
    /// What the other side says contradicts itself or what it said before.
    #[error("the other side broke the protocol: {0}")]
    Protocol(String),
    /// The random numbers for the migration's identity could not be had.
    #[error("no random numbers: {0}")]
    Random(#[source] std::io::Error),
    /// A fault that was asked for.
    #[error("the fault {} was injected in phase {phase}", .action.name())]
    Injected {
        /// Where.
        phase: Phase,
        /// What.
        action: FaultAction,
    },
}

impl Failure {
    /// A channel's error in the phase in which it came.
    pub(super) fn channel(phase: Phase, source: ChannelError) -> Self {
        match source {
            ChannelError::Cancelled => Self::Cancelled,
            source => Self::Channel { phase, source },
        }
    }

    /// Whether a deadline ended it.
    pub(super) fn is_deadline(&self) -> bool {
        matches!(
            self,
            Self::Channel {
                source: ChannelError::Overdue | ChannelError::Silent(_),
                ..
            }
        )
    }

    /// Whether the peer ended the connection, so that its last words may say why.
    pub(super) fn is_end_of_peer(&self) -> bool {
        matches!(
            self,
            Self::Channel {
                source: ChannelError::Closed,
                ..
            }
        )
    }
}

impl From<Cancelled> for Failure {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}
