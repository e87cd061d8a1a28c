//! Live migration by precopy: RAM in rounds while the guest runs, the rest in a pause, then the hand-over.
//!
//! ```text
//!      source                                        destination
//!        │  hello ────────────────────────────────────▶ │
//!        │ ◀──────────────────────────────────── hello  │
//!        │  header, schemas, manifest ────────────────▶ │ committed from the header on
//!        │ ◀──────────────────────────────── preflight  │ compared and built; nothing has moved yet
//!        │  RAM, end of round ────────────────────────▶ │ ╮
//!        │ ◀─────────────────────────── round received  │ ╯ until the pause is short enough, also when it has begun
//!        │  pause ────────────────────────────────────▶ │ ╮
//!        │  RAM, end of round, sections ──────────────▶ │ │ the guest
//!        │ ◀──────────────────────────────────── ready  │ │ stands still
//!        │  go ───────────────────────────────────────▶ │ │
//!        │ ◀────────────────────────────────── running  │ ╯ here already running
//! ```
//!
//! Until *go* the source owns the guest, and whatever fails leaves it running there; from *go* on the destination does.
//! A source that has said *go* and not heard *running* is undecided: it keeps the guest paused and whole until its user
//! says which side has it. Each side is one thread.
//!
//! [`send`] is the source, [`Receiver`] the destination. What either needs of a machine is in [`crate::vm`].

mod deadlines;
mod destination;
mod failure;
#[cfg(test)]
mod fake;
mod handover;
mod memory;
mod message;
mod pause;
mod scan;
mod session;
mod source;
#[cfg(test)]
mod tests;

pub use deadlines::Deadlines;
pub(crate) use destination::MAX_STATE;
pub use destination::{Arrived, ReceiveError, ReceiveOptions, Receiver, receive_over};
pub use failure::Failure;
pub use source::{SendError, SendOptions, SourceState, send, send_over};
