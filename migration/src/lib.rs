//! Transfer: snapshot files and live migration.

pub mod cancel;
pub mod channel;
pub mod listener;
pub mod switchover;
pub mod uri;
