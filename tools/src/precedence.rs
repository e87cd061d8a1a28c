//! Who goes first on processors that are shared.

use std::fs;

use rustix::process::setpriority_process;

/// The least niceness.
const FIRST: i32 = -20;

/// Has the calling thread, and what it starts from now on, go before others. Without the right to it nothing changes.
pub fn go_first() {
    // On Linux this is the calling thread's alone.
    let _ = setpriority_process(None, FIRST);
}

/// While it lives, the session goes before the others of this machine.
///
/// Where the kernel shares processors out between sessions first (autogroups, the default on many systems), the niceness
/// of a thread counts only within its own.
#[derive(Debug)]
pub struct SessionGoesFirst(());

impl SessionGoesFirst {
    /// Begins it, as far as there is the right to and the kernel knows of sessions.
    #[must_use]
    pub fn begin() -> Self {
        set(FIRST);
        Self(())
    }
}

impl Drop for SessionGoesFirst {
    fn drop(&mut self) {
        set(0);
    }
}

fn set(niceness: i32) {
    let _ = fs::write("/proc/self/autogroup", niceness.to_string());
}
