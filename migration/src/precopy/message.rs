//! What the two sides of a live migration say to each other besides the machine itself.

use crate::cbor::{self, CborError, cbor_map};
use crate::vm::{Finding, PreflightReport};

cbor_map!(Finding, "finding" { 0 => subject, 2 => because });
cbor_map!(PreflightReport, "preflight" { 0 => refusals, 2 => conditions, 3 => notes, 5 => readers });

/// A round is complete; everything that belongs to it was sent before this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RoundEnd {
    /// The round, from 1.
    pub round: u32,
    /// RAM records sent on this channel so far, so that a missing one is missed.
    pub records: u64,
}
cbor_map!(RoundEnd, "end of round" { 0 => round, 2 => records });

/// A round was received and is in the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RoundAck {
    /// The round.
    pub round: u32,
}
cbor_map!(RoundAck, "round received" { 0 => round });

/// Everything is loaded and verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ready {
    /// How long loading took, in microseconds; for the report.
    pub load_us: u64,
}
cbor_map!(Ready, "ready" { 1 => load_us });

/// The guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Running {
    /// How long it took from *go*, in microseconds; for the report.
    pub resume_us: u64,
}
cbor_map!(Running, "running" { 1 => resume_us });

/// Why the sender gives up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Abort {
    /// A sentence for the user of the other side.
    pub because: String,
}
cbor_map!(Abort, "abort" { 0 => because });

/// Turns a message into a payload and back.
pub(super) trait Message: Sized {
    /// The payload.
    fn to_payload(&self) -> Vec<u8>;
    /// Reads a payload that the peer sent.
    fn from_payload(bytes: &[u8]) -> Result<Self, CborError>;
}

impl<T: cbor::Cbor> Message for T {
    fn to_payload(&self) -> Vec<u8> {
        cbor::to_bytes(self)
    }

    fn from_payload(bytes: &[u8]) -> Result<Self, CborError> {
        cbor::from_bytes(bytes)
    }
}
