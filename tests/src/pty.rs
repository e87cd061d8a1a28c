//! A program at a terminal, as a user sits before it.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};
use rustix::time::Timespec;

use crate::log::{Log, PATIENCE};

/// A process with a pseudo-terminal for all its streams. It is killed when dropped.
#[derive(Debug)]
pub struct AtTerminal {
    child: Child,
    keys: File,
    /// The program's end, kept open so that the terminal is there after it.
    terminal: File,
    screen: Arc<Log>,
    read_to: usize,
    before: String,
}

impl AtTerminal {
    /// Starts `command` at a terminal of its own.
    ///
    /// # Panics
    ///
    /// If there is no pseudo-terminal, or the program cannot be started.
    #[must_use]
    pub fn start(mut command: Command) -> Self {
        let keys = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
        grantpt(&keys).and_then(|()| unlockpt(&keys)).expect("it can be used");
        let name = ptsname(&keys, Vec::new()).expect("it has a name").into_bytes();
        let mut options = File::options();
        options.read(true).write(true);
        let terminal = options.open(OsString::from_vec(name)).expect("it can be opened");
        let size = Winsize {
            ws_row: 50,
            ws_col: 120,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&terminal, size).expect("it has a size");
        let before = modes(&terminal);
        let stream = || Stdio::from(terminal.try_clone().expect("a descriptor"));
        let child = command
            .env("TERM", "xterm")
            .stdin(stream())
            .stdout(stream())
            .stderr(stream())
            .spawn()
            .expect("it starts");
        let keys = File::from(keys);
        Self {
            child,
            screen: Log::follow(keys.try_clone().expect("a descriptor")),
            keys,
            terminal,
            read_to: 0,
            before,
        }
    }

    /// Presses keys, all at once.
    ///
    /// # Panics
    ///
    /// If the terminal is gone.
    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("a terminal takes keys");
    }

    /// Waits until `text` is written, after what was waited for before.
    ///
    /// # Panics
    ///
    /// If it never is.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) {
        let found = self.screen.wait(self.read_to, |screen| screen.find(text));
        match found {
            Ok(at) => self.read_to += at + text.len(),
            Err(why) => panic!("waiting for {text:?}: {why}\n{:?}", self.screen.text()),
        }
    }

    /// Everything that was written so far.
    #[must_use]
    pub fn screen(&self) -> String {
        self.screen.text()
    }

    /// What was written after what was waited for last.
    #[must_use]
    pub fn since(&self) -> String {
        self.screen.text().split_off(self.read_to)
    }

    /// Whether the terminal is as it was before the program had it.
    #[must_use]
    pub fn is_as_before(&self) -> bool {
        modes(&self.terminal) == self.before
    }

    /// Waits for the end of the program.
    ///
    /// # Panics
    ///
    /// If it does not end.
    #[track_caller]
    pub fn wait_exit(&mut self) -> ExitStatus {
        let pid = Pid::from_child(&self.child);
        let end = pidfd_open(pid, PidfdFlags::empty()).expect("the child is there until it is waited for");
        let patience = Timespec::try_from(PATIENCE).expect("a sound duration");
        let ended = poll(&mut [PollFd::new(&end, PollFlags::IN)], Some(&patience));
        assert_eq!(ended, Ok(1), "it does not end\n{:?}", self.screen.text());
        self.child.wait().expect("a child can be waited for")
    }
}

impl Drop for AtTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All modes of a terminal.
fn modes(terminal: &File) -> String {
    format!("{:?}", tcgetattr(terminal).expect("a terminal"))
}
