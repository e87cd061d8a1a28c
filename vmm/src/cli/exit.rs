//! How `vm` ends.

use std::process::ExitCode;

use crate::{
    control::{Ending, ShutdownReason},
    run_state::RunState,
};

/// What `vm --help` says about exit codes.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0      done; a VM in the foreground: ended by \"vm quit\", by its guest, or handed over;
         with --detach: its guest runs, or the receiver listens
  1      failed; the message on stderr says why and what to do. A VM in the foreground whose guest could not
         go on (internal-error) stands still until it is reset or ended; ended by \"vm quit\" or a key, it gives 1
  2      the command line was wrong
  3      there is no such VM
  4      a migration or snapshot failed or was cancelled; the guest is where it was
  5      a guest was handed over and never heard of; decide with \"vm resolve\"
  6      a VM in the foreground: its guest reported a panic, by pvpanic
  7      a VM restored with --verify=none: the file behind its guest's memory has become shorter
  128+N  a VM in the foreground was ended by signal N; while \"vm resolve\" has to decide about
         its guest, only by a second SIGINT or SIGTERM within 10 seconds
  The value that a guest writes to the test-exit port is the exit code of its VM.

NAME is the name of a running VM or, with a slash, the path of its control socket.";

/// How `vm` ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    Done,
    Failed,
    Usage,
    NoSuchVm,
    NotMoved,
    Undecided,
    GuestPanicked,
    MemoryLost,
    Signal(u8),
    Guest(u8),
}

impl Exit {
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NoSuchVm => 3,
            Self::NotMoved => 4,
            Self::Undecided => 5,
            Self::GuestPanicked => 6,
            Self::MemoryLost => 7,
            Self::Signal(number) => number.saturating_add(128),
            Self::Guest(value) => value,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

impl Exit {
    /// Of a VM in the foreground that ended so, and stood so before.
    pub(super) fn of(ending: &Ending, state: RunState) -> Self {
        match ending {
            Ending::Quit(ShutdownReason::HostSignal(number)) => Self::Signal(*number),
            Ending::GuestExit(value) => Self::Guest(*value),
            Ending::Quit(_) if state == RunState::InternalError => Self::Failed,
            Ending::Failed(_) => Self::Failed,
            Ending::GuestPanicked => Self::GuestPanicked,
            Ending::Quit(_) | Ending::GuestShutdown | Ending::HandedOver { .. } | Ending::Discarded => Self::Done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_value_and_a_signal_become_the_exit_code() {
        let code = |ending: Ending| Exit::of(&ending, RunState::Running).code();
        assert_eq!(code(Ending::GuestExit(42)), 42);
        assert_eq!(code(Ending::Quit(ShutdownReason::HostSignal(15))), 143);
        assert_eq!(code(Ending::Quit(ShutdownReason::HostQmpQuit)), 0);
        assert_eq!(code(Ending::HandedOver { to: String::new() }), 0);
        assert_eq!(code(Ending::Failed(String::new())), 1);
        assert_eq!(code(Ending::GuestPanicked), 6);
    }
}
