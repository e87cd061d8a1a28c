//! Ending a VM in the foreground at its user's wish: a signal, the console's leave key.
//!
//! One wish is enough, but where the process may hold the only copy of a guest: there the first one is answered with what
//! to do, and only a second one soon after it ends the VM.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde_json::json;

use super::messages::Messages;
use crate::{
    control::{Control, ShutdownReason},
    signals,
};

/// See the module's description.
pub(super) struct Leave {
    vm: Arc<dyn Control>,
    messages: Messages,
    warned: Mutex<Option<Instant>>,
}

impl Leave {
    /// Long enough to read the warning.
    const SOON: Duration = Duration::from_secs(10);
    /// `timeout` and shells that pass a signal on send it twice within a moment, and nobody has insisted then.
    const DELIBERATE: Duration = Duration::from_millis(200);

    pub(super) fn new(vm: &Arc<dyn Control>, messages: Messages) -> Self {
        Self {
            vm: Arc::clone(vm),
            messages,
            warned: Mutex::default(),
        }
    }

    /// The user wishes that the VM ends.
    pub(super) fn wish(&self, reason: ShutdownReason) {
        self.wish_at(reason, Instant::now());
    }

    fn wish_at(&self, reason: ShutdownReason, now: Instant) {
        let Err(why) = self.vm.quit(reason) else { return };
        let mut warned = self.warned.lock();
        let since = warned.map(|at| now.saturating_duration_since(at));
        // A terminal that goes away has decided nothing, and there is nobody to warn; the control socket is there still.
        let insists = since.is_some_and(|since| (Self::DELIBERATE..=Self::SOON).contains(&since))
            && reason != ShutdownReason::HostSignal(signals::HANGUP);
        if insists {
            self.vm.quit_anyway(reason);
        } else if since.is_none_or(|since| since > Self::SOON) {
            *warned = Some(now);
            let seconds = Self::SOON.as_secs();
            self.messages.news(
                "not-ended",
                format_args!(
                    "{} does not end: {why}; to end it all the same, ask once more within {seconds} seconds",
                    self.vm.name()
                ),
                json!({ "name": self.vm.name(), "why": why.to_string() }),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fake_vm::{Asked, FakeVm},
        run_state::RunState,
    };

    const TERM: ShutdownReason = ShutdownReason::HostSignal(15);
    const HANGUP: ShutdownReason = ShutdownReason::HostSignal(signals::HANGUP);

    /// What comes of wishes at these times in milliseconds, in this state.
    fn wishes(state: RunState, wishes: &[(ShutdownReason, u64)]) -> Vec<Asked> {
        let vm = Arc::new(FakeVm::default());
        *vm.status.lock() = state;
        let control: Arc<dyn Control> = vm.clone();
        let leave = Leave::new(&control, Messages::new(true));
        let start = Instant::now();
        for (reason, millis) in wishes {
            leave.wish_at(*reason, start + Duration::from_millis(*millis));
        }
        vm.asked()
    }

    #[test]
    fn one_wish_ends_a_vm() {
        assert_eq!(wishes(RunState::Running, &[(TERM, 0)]), [Asked::Quit(TERM)]);
        assert_eq!(wishes(RunState::Paused, &[(HANGUP, 0)]), [Asked::Quit(HANGUP)]);
    }

    #[test]
    fn what_may_be_the_only_copy_of_a_guest_ends_at_the_second_wish_that_comes_soon() {
        let undecided = |times: &[(ShutdownReason, u64)]| wishes(RunState::PostMigrate, times);
        assert_eq!(undecided(&[(TERM, 0)]), []);
        assert_eq!(undecided(&[(TERM, 0), (TERM, 1500)]), [Asked::Quit(TERM)]);
        let key = ShutdownReason::HostUi;
        assert_eq!(undecided(&[(key, 0), (key, 1500)]), [Asked::Quit(key)]);
        assert_eq!(undecided(&[(TERM, 0), (TERM, 11_000)]), [], "the warning is repeated");
        assert_eq!(
            undecided(&[(TERM, 0), (TERM, 11_000), (TERM, 12_000)]),
            [Asked::Quit(TERM)]
        );
    }

    #[test]
    fn nobody_insists_by_a_signal_that_comes_twice_at_once_or_by_a_terminal_that_closes() {
        let undecided = |times: &[(ShutdownReason, u64)]| wishes(RunState::PostMigrate, times);
        assert_eq!(undecided(&[(TERM, 0), (TERM, 1)]), []);
        assert_eq!(undecided(&[(HANGUP, 0), (HANGUP, 1500)]), []);
        assert_eq!(undecided(&[(TERM, 0), (HANGUP, 1500)]), []);
    }
}
