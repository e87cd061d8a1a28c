//! Who goes first on processors that are shared.

use std::process::{Command, Stdio};

use rustix::thread::gettid;

/// Before what does a thread go? Each goes before those that are named above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precedence {
    /// Before all that has no precedence: for what is measured, on a machine that others use.
    ///
    /// Niceness would not do. It counts within a session only where the kernel shares processors out between sessions first
    /// (autogroups), and a thread that wakes up waits for the next tick of one that computes, up to four milliseconds.
    Measured = 1,
    /// Before what is measured too: for who looks at the clock.
    Clock = 2,
}

impl Precedence {
    /// Takes it for the calling thread, and for all that it starts from now on. Returns whether there was the right to, and
    /// the program `chrt` (util-linux) that does it.
    #[must_use]
    pub fn take(self) -> bool {
        let (priority, thread) = ((self as u8).to_string(), gettid().to_string());
        Command::new("chrt")
            .args(["--rr", "--pid", &priority, &thread])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }
}
