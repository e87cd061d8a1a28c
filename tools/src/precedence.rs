//! Who goes first on a processor that is shared.

use rustix::process::setpriority_process;

/// What the calling thread, and all that it starts from now on, has in common with the system's other work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precedence {
    /// An equal share.
    None,
    /// It goes first: what else runs on the machine hardly shows in what is measured.
    OverOthers,
}

impl Precedence {
    /// Takes it for the calling thread. Without the right to it nothing changes.
    pub fn take(self) {
        let niceness = match self {
            Self::None => 0,
            Self::OverOthers => -20,
        };
        // On Linux this is the calling thread's alone.
        let _ = setpriority_process(None, niceness);
    }
}
