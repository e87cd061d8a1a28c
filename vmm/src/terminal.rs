//! The user's terminal: raw while a guest has it, restored whatever happens.

use std::{
    io::{self, stdin},
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::{
    process::getpgrp,
    termios::{
        LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, Termios, isatty, tcgetattr, tcgetpgrp, tcsetattr,
    },
};

use crate::signals::before_fatal_signals;

/// What standard input's terminal was like before any guest had it. A process has one standard input, so this is about the process
/// and not about a VM; a signal handler finds it here.
static BEFORE: OnceLock<Termios> = OnceLock::new();
static IS_RAW: AtomicBool = AtomicBool::new(false);

/// Keeps the terminal of standard input raw; dropping it restores the terminal. So does a panic that unwinds, and a fatal signal.
#[derive(Debug)]
pub struct RawTerminal(());

impl RawTerminal {
    /// Makes the terminal of standard input raw: keys come one by one. Output is left as it was, so that messages of the VMM still begin
    /// at the left edge.
    ///
    /// Until there is a guest, Ctrl-C still interrupts the process; from [`keys_are_the_guests`] on it is a key like any other.
    ///
    /// `None` where standard input is no terminal, or belongs to another job now (`vm run &`), or is raw already.
    ///
    /// # Errors
    ///
    /// The terminal refused.
    pub fn enter() -> io::Result<Option<Self>> {
        let stdin = stdin();
        if !isatty(&stdin) || tcgetpgrp(&stdin).is_ok_and(|foreground| foreground != getpgrp()) {
            return Ok(None);
        }
        let before = tcgetattr(&stdin)?;
        let mut raw = raw(&before);
        raw.local_modes |= LocalModes::ISIG;
        // Not those that would leave a raw terminal behind: nothing is typed to stop or to dump a process.
        for other in [SpecialCodeIndex::VSUSP, SpecialCodeIndex::VQUIT] {
            raw.special_codes[other] = DISABLED;
        }
        let _ = BEFORE.set(before);
        before_fatal_signals(restore)?;
        if IS_RAW.swap(true, Ordering::SeqCst) {
            return Ok(None);
        }
        let guard = Self(());
        tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Some(guard))
    }
}

/// The special character of a terminal that nobody can type (`_POSIX_VDISABLE`).
const DISABLED: u8 = 0;

fn raw(before: &Termios) -> Termios {
    let mut raw = before.clone();
    raw.make_raw();
    raw.output_modes |= before.output_modes & (OutputModes::OPOST | OutputModes::ONLCR);
    raw
}

/// From now on every key is the guest's, Ctrl-C among them; where no terminal is raw, nothing happens. Not to be called while the
/// [`RawTerminal`] may be dropped.
pub fn keys_are_the_guests() {
    if IS_RAW.load(Ordering::SeqCst)
        && let Some(before) = BEFORE.get()
    {
        // A terminal that is gone has no keys.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &raw(before));
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Restores the terminal if it is raw. Async-signal-safe.
fn restore() {
    if IS_RAW.swap(false, Ordering::SeqCst)
        && let Some(before) = BEFORE.get()
    {
        // The handle was made by `enter` and gives its descriptor without locking, so this may run in a signal handler. A terminal that is
        // gone needs no restoring.
        let _ = tcsetattr(stdin(), OptionalActions::Now, before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use std::{
        fs::File,
        io::{Read, Write},
        process::Command,
    };

    const ENDING: &str = "TERN_TEST_ENDING";

    /// The other half of the tests below, which run it in a process that has a terminal: makes it raw, waits for a key, and ends as told.
    /// Run as one test among others it does nothing.
    #[test]
    fn in_a_terminal() {
        let Ok(ending) = std::env::var(ENDING) else { return };
        let raw = RawTerminal::enter()
            .expect("the terminal obeys")
            .expect("it is a terminal");
        assert!(RawTerminal::enter().expect("no trouble").is_none(), "one guest has it");
        let modes = tcgetattr(stdin()).expect("a terminal").local_modes;
        assert!(
            modes.contains(LocalModes::ISIG) && !modes.intersects(LocalModes::ICANON | LocalModes::ECHO),
            "Ctrl-C interrupts until there is a guest"
        );
        keys_are_the_guests();
        stdin().read_exact(&mut [0]).expect("a key");
        match ending.as_str() {
            "drop" => drop(raw),
            "panic" => panic!("on purpose"),
            _ => std::process::abort(),
        }
    }

    /// Whether the terminal is raw while the process runs, and afterwards what it was before.
    fn ends_well_by(ending: &str) {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
        grantpt(&master)
            .and_then(|()| unlockpt(&master))
            .expect("it can be used");
        let name = ptsname(&master, Vec::new())
            .expect("it has a name")
            .into_string()
            .expect("of ASCII");
        let terminal = File::options()
            .read(true)
            .write(true)
            .open(name)
            .expect("it can be opened");
        let is_raw = || {
            let modes = tcgetattr(&terminal).expect("a terminal");
            !modes
                .local_modes
                .intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
        };
        assert!(!is_raw());
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "terminal::tests::in_a_terminal"])
            .env(ENDING, ending)
            .stdin(terminal.try_clone().expect("a second handle"))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("the test can be run again");
        while !is_raw() {
            assert!(
                child.try_wait().expect("a child").is_none(),
                "it ended without having been raw"
            );
            std::thread::yield_now();
        }
        let before = tcgetattr(&terminal).expect("a terminal").output_modes;
        assert!(
            before.contains(OutputModes::OPOST),
            "messages still begin at the left edge"
        );
        File::from(master.try_clone().expect("a second handle"))
            .write_all(b"x")
            .expect("a key can be pressed");
        child.wait().expect("a child");
        assert!(!is_raw(), "the terminal was left raw by {ending}");
    }

    #[test]
    fn the_terminal_is_restored_when_the_guest_lets_go_of_it() {
        ends_well_by("drop");
    }

    #[test]
    fn the_terminal_is_restored_by_a_panic() {
        ends_well_by("panic");
    }

    #[test]
    fn the_terminal_is_restored_by_an_abort() {
        ends_well_by("abort");
    }
}
