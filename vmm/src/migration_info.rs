//! How a migration or snapshot stands, as the monitor reports it.

use std::{fmt, time::Duration};

pub use migration::stats::PauseReport;

/// Which migration, snapshot or arrival of a VM's process something is about: they are counted from 1.
///
/// One can follow another within the blink of an eye. Who asked for one tells its account and its end from those of others by this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct JobId(pub u64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Parameters to change; those that are `None` stay as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MigrationParameters {
    /// The longest pause that the guest may suffer.
    pub downtime_limit: Option<Duration>,
    /// Bytes in a second that a migration may take while the guest runs; 0 for as many as there are.
    pub max_bandwidth: Option<u64>,
    /// Bytes in a second that the connection takes in the pause, which has no limit; 0 for what the rounds show.
    pub switchover_bandwidth: Option<u64>,
}

/// Where a migration or snapshot stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MigrationStatus {
    /// There has been none.
    #[default]
    None,
    /// Connecting, listening, or comparing what both sides have.
    Setup,
    /// RAM is on its way, in rounds.
    Active,
    /// The guest is paused; the last pages and the devices' state are on their way.
    Device,
    /// The receiver runs the guest, or the file is complete.
    Completed,
    /// It came to nothing, and the guest is where it was.
    Failed,
    /// Asked to stop, not stopped yet.
    Cancelling,
    /// Stopped at the user's wish; the guest is where it was.
    Cancelled,
    /// Handed over and never heard of: the user decides which side has the guest.
    Undecided,
}

impl MigrationStatus {
    /// Every status.
    pub const ALL: [Self; 9] = [
        Self::None,
        Self::Setup,
        Self::Active,
        Self::Device,
        Self::Completed,
        Self::Failed,
        Self::Cancelling,
        Self::Cancelled,
        Self::Undecided,
    ];

    /// The name on the wire: QEMU's, and for what QEMU has no name for Tern's with its prefix.
    #[must_use]
    pub fn qmp_name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Setup => "setup",
            Self::Active => "active",
            Self::Device => "device",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
            Self::Undecided => "x-tern-undecided",
        }
    }

    /// The status with this name on the wire.
    #[must_use]
    pub fn from_qmp_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.qmp_name() == name)
    }

    /// Whether nothing more will come of this migration by itself.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled | Self::Undecided)
    }
}

/// How a migration or snapshot stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MigrationInfo {
    /// Which one this is about, if there has been any.
    pub job: Option<JobId>,
    /// The status.
    pub status: MigrationStatus,
    /// Figures about RAM, once it is on its way.
    pub ram: Option<RamInfo>,
    /// From the request until now or the end.
    pub total_time: Option<Duration>,
    /// From the request until RAM began to flow.
    pub setup_time: Option<Duration>,
    /// How long the guest stood still, once that is known.
    pub downtime: Option<Duration>,
    /// What the time went into for which it stood still, once it runs elsewhere.
    pub pause: Option<PauseReport>,
    /// Pauses that were taken back, because what was left would have broken the downtime limit.
    pub pauses_taken_back: u32,
    /// How long it would stand still if it were paused now.
    pub expected_downtime: Option<Duration>,
    /// Where it goes, or where the snapshot is written, as a URI.
    pub to: Option<String>,
    /// Where a receiver listens, as a URI that a sender can take.
    pub listening: Option<String>,
    /// Why it failed, or what its user still has to see to; a sentence.
    pub error: Option<String>,
}

/// Figures about the RAM of a migration or snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RamInfo {
    /// Bytes sent or written so far.
    pub transferred_bytes: u64,
    /// Bytes that are left to send, as far as is known.
    pub remaining_bytes: u64,
    /// Guest RAM in bytes.
    pub total_bytes: u64,
    /// Pages that were zero and cost next to nothing.
    pub zero_pages: u64,
    /// Pages whose contents were sent.
    pub normal_pages: u64,
    /// Pages that the guest dirties in a second, by the last round.
    pub dirty_pages_per_second: u64,
    /// Rounds begun.
    pub rounds: u64,
    /// Bytes that the connection took in a second, by the last round.
    pub bytes_per_second: u64,
    /// The size of a page in bytes.
    pub page_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_is_found_again_by_its_name() {
        for status in MigrationStatus::ALL {
            assert_eq!(MigrationStatus::from_qmp_name(status.qmp_name()), Some(status));
        }
        assert_eq!(MigrationStatus::from_qmp_name("colo"), None);
    }

    #[test]
    fn a_migration_that_is_being_cancelled_is_not_over() {
        assert!(!MigrationStatus::Cancelling.is_final());
        assert!(MigrationStatus::Cancelled.is_final());
    }
}
