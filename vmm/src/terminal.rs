//! The user's terminal: raw while a guest has it, restored whatever happens, left by Ctrl-A X.

use std::{
    io::{self, stdin},
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::{
    process::getpgrp,
    termios::{OptionalActions, OutputModes, Termios, isatty, tcgetattr, tcgetpgrp, tcsetattr},
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
    /// Makes the terminal of standard input raw: keys reach the guest one by one, Ctrl-C among them. Output is left as it was, so that
    /// messages of the VMM still begin at the left edge.
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
        let mut raw = before.clone();
        raw.make_raw();
        raw.output_modes |= before.output_modes & (OutputModes::OPOST | OutputModes::ONLCR);
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

/// What a key meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// The user goes on typing.
    No,
    /// The user wants to leave the VM.
    Yes,
}

/// Finds the leave key in what the user types: Ctrl-A X leaves, Ctrl-A Ctrl-A is one Ctrl-A for the guest, and Ctrl-A before
/// anything else is dropped with it.
#[derive(Debug, Default)]
pub struct EscapeKeys {
    after_ctrl_a: bool,
}

impl EscapeKeys {
    const CTRL_A: u8 = 1;

    /// Appends to `guest` what the guest is to get of `typed`.
    pub fn filter(&mut self, typed: &[u8], guest: &mut Vec<u8>) -> Leave {
        for &byte in typed {
            match (self.after_ctrl_a, byte) {
                (false, Self::CTRL_A) => self.after_ctrl_a = true,
                (false, byte) => guest.push(byte),
                (true, b'x' | b'X') => return Leave::Yes,
                (true, byte) => {
                    self.after_ctrl_a = false;
                    if byte == Self::CTRL_A {
                        guest.push(byte);
                    }
                }
            }
        }
        Leave::No
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(pieces: &[&[u8]]) -> (Vec<u8>, Leave) {
        let (mut keys, mut guest) = (EscapeKeys::default(), Vec::new());
        let leave = pieces.iter().map(|piece| keys.filter(piece, &mut guest)).last();
        (guest, leave.expect("at least one piece"))
    }

    #[test]
    fn ordinary_keys_reach_the_guest_unchanged() {
        assert_eq!(typed(&[b"ls\r\x03"]), (b"ls\r\x03".to_vec(), Leave::No));
    }

    #[test]
    fn ctrl_a_x_leaves_even_when_it_comes_in_two_pieces() {
        assert_eq!(typed(&[b"a\x01x"]), (b"a".to_vec(), Leave::Yes));
        assert_eq!(typed(&[b"\x01", b"X"]), (Vec::new(), Leave::Yes));
    }

    #[test]
    fn ctrl_a_twice_is_one_for_the_guest_and_not_the_start_of_another() {
        assert_eq!(typed(&[b"\x01\x01x"]), (b"\x01x".to_vec(), Leave::No));
    }

    #[test]
    fn an_unknown_key_after_ctrl_a_is_dropped() {
        assert_eq!(typed(&[b"\x01qx"]), (b"x".to_vec(), Leave::No));
    }
}
