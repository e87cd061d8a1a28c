//! The hand-over: who owns the guest at each step.
//!
//! ```text
//!   running ──pause──▶ Paused ──give_away──▶ GivenAway ──running heard──▶ handed over
//!      ▲                 │                       │
//!      └──── resume ─────┘                       └── anything else ──▶ undecided
//! ```
//!
//! *Go* is the step from [`Paused`] to [`GivenAway`], and from there nothing resumes: the method does not exist. Before
//! it every way out ends with the guest as it was, also a panic; after it every way out that has not heard *running*
//! leaves the guest paused and whole until the user resolves it.

use std::mem::ManuallyDrop;

use super::failure::Failure;
use super::message::Running;
use super::session::Session;
use crate::record::RecordKind;
use crate::vm::{SourceVm, VmError};

/// A source that stands still and can still be resumed. Dropping it resumes it.
pub(super) struct Paused<'a>(&'a dyn SourceVm);

impl<'a> Paused<'a> {
    /// Pauses the guest. On failure it runs on.
    pub(super) fn pause(vm: &'a dyn SourceVm) -> Result<Self, VmError> {
        vm.pause()?;
        Ok(Self(vm))
    }

    /// Resumes the guest, and says whether that worked.
    pub(super) fn resume(self) -> Result<(), VmError> {
        ManuallyDrop::new(self).0.resume()
    }

    /// Says *go*.
    ///
    /// On failure before that the guest is given back, still paused; there may be no doubt that *go* was not said. From
    /// the first byte of *go* on there is, and the guest is [`GivenAway`] whatever became of the connection.
    pub(super) fn give_away(
        self,
        session: &mut Session<'_>,
    ) -> Result<(GivenAway<'a>, Result<(), Failure>), (Self, Failure)> {
        // Between *ready* and *go* the receiver has nothing to say: what is there to be read is its end.
        if let Err(failure) = session.check_peer().and_then(|()| session.check_blackout()) {
            return Err((self, failure));
        }
        if let Err(cancelled) = session.channel().cancel_token().commit() {
            return Err((self, cancelled.into()));
        }
        let given_away = GivenAway(ManuallyDrop::new(self).0);
        let said = session.send(RecordKind::Go, &[]);
        Ok((given_away, said))
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        // Only a panic gets here, and there is nobody left to tell. A machine that cannot resume says so itself.
        let _ = self.0.resume();
    }
}

/// A source that has said *go*: it never runs by itself again. Dropping it leaves it undecided.
pub(super) struct GivenAway<'a>(&'a dyn SourceVm);

impl GivenAway<'_> {
    /// Waits until the receiver runs the guest; `to` says where that is.
    pub(super) fn wait_until_running(self, session: &mut Session<'_>, to: &str) -> Result<Running, Failure> {
        let running = session.expect(RecordKind::Running)?;
        ManuallyDrop::new(self).0.handed_over(to);
        Ok(running)
    }
}

impl Drop for GivenAway<'_> {
    fn drop(&mut self) {
        self.0.undecided();
    }
}
