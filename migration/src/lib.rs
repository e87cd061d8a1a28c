//! Transfer: saving, restoring and moving a machine are one operation with different endpoints.
//!
//! What lives here: the records and the phases that every transfer is made of ([`record`], [`phases`]), what is said
//! about a machine before its contents ([`hello`], [`header`], [`manifest`]), what the engine needs of a machine ([`vm`]),
//! snapshot files ([`snapshot`]) and live migration ([`precopy`]). What does not: which accelerator runs the guest, and what the monitor says about it.

#![forbid(unsafe_code)]

pub mod cancel;
mod cbor;
pub mod channel;
mod conditions;
pub mod fault;
pub mod header;
pub mod hello;
pub mod ident;
pub mod listener;
mod lobby;
pub mod manifest;
pub mod pacing;
pub mod phases;
pub mod precopy;
pub mod progress;
pub mod promises;
pub mod ram;
pub mod record;
pub mod schemas;
pub mod section;
pub mod snapshot;
pub mod stats;
pub mod switchover;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod uri;
pub mod vm;

pub use cbor::CborError;
pub use conditions::Unmet;
