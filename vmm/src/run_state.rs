//! What a VM is doing, and which change may follow which.
//!
//! ```text
//!   created ──► running ◄──► paused ◄──► post-migrate      (resolve resumes, or discards into shutdown)
//!      │         │   ▲         ▲
//!      ▼         │   │         │ (system_reset)
//!  in-migrate ───┘   └── guest-panicked, internal-error
//!
//!   every state ──► shutdown
//! ```
//!
//! [`RunState`] is the list, [`TRANSITIONS`] the table, and [`RunStateCell`] the one place that holds a VM's state: a
//! change that the table lacks is an error, never a silent repair.

use std::fmt;

use parking_lot::Mutex;

/// What a VM is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RunState {
    /// Built, and not yet started.
    Created,
    /// The vCPUs execute guest code.
    Running,
    /// The vCPUs stand still; the guest can go on at any time.
    Paused,
    /// Waits for a guest to arrive, or is loading one.
    InMigrate,
    /// Handed the guest over and never heard that it runs: held whole and paused until somebody decides.
    PostMigrate,
    /// Over; the process is about to end.
    Shutdown,
    /// The guest reported that it crashed.
    GuestPanicked,
    /// The guest cannot go on. It stands still, whole as far as it could be read, until it is reset.
    InternalError,
}

use RunState::{Created, GuestPanicked, InMigrate, InternalError, Paused, PostMigrate, Running, Shutdown};

/// Every legal change, as (from, to). Staying in a state is no change and always allowed.
pub const TRANSITIONS: &[(RunState, RunState)] = &[
    (Created, Running),
    (Created, Paused),
    (Created, InMigrate),
    (Created, Shutdown),
    (Running, Paused),
    (Running, Shutdown),
    (Running, GuestPanicked),
    (Running, InternalError),
    (Paused, Running),
    (Paused, PostMigrate),
    (Paused, Shutdown),
    // A vCPU that completes its pending access on the way out can still fail.
    (Paused, InternalError),
    (InMigrate, Running),
    (InMigrate, Paused),
    (InMigrate, InternalError),
    (InMigrate, Shutdown),
    // Only by an explicit decision: `resolve`.
    (PostMigrate, Paused),
    (PostMigrate, Running),
    (PostMigrate, Shutdown),
    // A reset makes the guest fit to run again, and its user lets it.
    (GuestPanicked, Paused),
    (GuestPanicked, Shutdown),
    (InternalError, Paused),
    (InternalError, Shutdown),
];

impl RunState {
    /// Every state.
    pub const ALL: [Self; 8] = [
        Created,
        Running,
        Paused,
        InMigrate,
        PostMigrate,
        Shutdown,
        GuestPanicked,
        InternalError,
    ];

    /// The name that people read.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Created => "created",
            Running => "running",
            Paused => "paused",
            InMigrate => "in-migrate",
            PostMigrate => "post-migrate",
            Shutdown => "shutdown",
            GuestPanicked => "guest-panicked",
            InternalError => "internal-error",
        }
    }

    /// The name that QMP clients know from QEMU.
    #[must_use]
    pub fn qmp_name(self) -> &'static str {
        match self {
            Created => "prelaunch",
            InMigrate => "inmigrate",
            PostMigrate => "postmigrate",
            Running | Paused | Shutdown | GuestPanicked | InternalError => self.name(),
        }
    }

    /// Whether the table has a change from here to `to`.
    #[must_use]
    pub fn may_become(self, to: Self) -> bool {
        self == to || TRANSITIONS.contains(&(self, to))
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A change of state that the table does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a VM that is {from} cannot become {to}")]
pub struct IllegalTransition {
    /// The state at the time.
    pub from: RunState,
    /// The state asked for.
    pub to: RunState,
}

/// Holds the state of one VM.
#[derive(Debug)]
pub struct RunStateCell(Mutex<RunState>);

impl RunStateCell {
    /// A VM that has just been built.
    #[must_use]
    pub fn new() -> Self {
        Self(Mutex::new(Created))
    }

    /// The state now; another thread may change it the moment after.
    #[must_use]
    pub fn get(&self) -> RunState {
        *self.0.lock()
    }

    /// Goes to `to`.
    ///
    /// # Errors
    ///
    /// [`IllegalTransition`], and nothing has changed.
    pub fn set(&self, to: RunState) -> Result<(), IllegalTransition> {
        let mut state = self.0.lock();
        let from = *state;
        if !from.may_become(to) {
            return Err(IllegalTransition { from, to });
        }
        *state = to;
        Ok(())
    }
}

impl Default for RunStateCell {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_pair_of_states_is_allowed_exactly_where_the_table_says_so() {
        for from in RunState::ALL {
            for to in RunState::ALL {
                let cell = RunStateCell(Mutex::new(from));
                let legal = from == to || TRANSITIONS.contains(&(from, to));
                assert_eq!(
                    cell.set(to),
                    if legal {
                        Ok(())
                    } else {
                        Err(IllegalTransition { from, to })
                    }
                );
                assert_eq!(cell.get(), if legal { to } else { from }, "{from} to {to}");
            }
        }
    }

    #[test]
    fn the_table_names_no_change_twice_and_no_standing_still() {
        for (index, change) in TRANSITIONS.iter().enumerate() {
            assert_ne!(change.0, change.1);
            assert!(!TRANSITIONS[..index].contains(change), "{change:?}");
        }
    }

    #[test]
    fn shutdown_is_reached_from_everywhere_and_left_for_nowhere() {
        for state in RunState::ALL {
            assert!(state.may_become(Shutdown), "{state}");
            assert!(state == Shutdown || !Shutdown.may_become(state), "{state}");
        }
    }

    #[test]
    fn a_guest_that_was_handed_over_never_comes_back_from_the_receiving_side_states() {
        assert!(!PostMigrate.may_become(InMigrate));
        assert!(
            !Running.may_become(PostMigrate),
            "a guest is paused before it is handed over"
        );
    }

    #[test]
    fn names_are_distinct_and_qmp_uses_qemus() {
        assert_eq!(
            RunState::ALL.map(RunState::name).iter().collect::<BTreeSet<_>>().len(),
            8
        );
        let qmp: Vec<_> = RunState::ALL.iter().map(|state| state.qmp_name()).collect();
        assert_eq!(
            qmp,
            [
                "prelaunch",
                "running",
                "paused",
                "inmigrate",
                "postmigrate",
                "shutdown",
                "guest-panicked",
                "internal-error"
            ]
        );
    }

    #[test]
    fn a_refused_change_says_what_was_and_what_was_wanted() {
        let error = RunStateCell::new().set(PostMigrate).expect_err("illegal");
        assert_eq!(error.to_string(), "a VM that is created cannot become post-migrate");
    }
}
