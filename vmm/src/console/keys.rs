//! The keys of a console in a terminal that are its own, as QEMU's multiplexer has them: Ctrl-A, and then one more.

use std::collections::VecDeque;

/// What Ctrl-A H shows.
pub(super) const HELP: &str = "\r\n\
    Ctrl-A H       this help\r\n\
    Ctrl-A X       leave, which ends the VM\r\n\
    Ctrl-A C       switch between the console and a monitor prompt\r\n\
    Ctrl-A Ctrl-A  send Ctrl-A (also Ctrl-A A)\r\n";

/// A key of the console's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// The user asks which keys there are.
    Help,
    /// The user wants to leave the VM.
    Leave,
    /// The user wants to talk to the other one: the guest, or the monitor.
    Switch,
}

/// Finds the console's own keys in what the user types. Ctrl-A before anything else is dropped with it.
#[derive(Debug, Default)]
pub(crate) struct EscapeKeys {
    after_ctrl_a: bool,
}

impl EscapeKeys {
    const CTRL_A: u8 = 1;

    /// Takes what was typed up to the next key of the console's own, and appends what is for somebody else to `plain`.
    pub(crate) fn next(&mut self, typed: &mut VecDeque<u8>, plain: &mut Vec<u8>) -> Option<Key> {
        while let Some(byte) = typed.pop_front() {
            let after_ctrl_a = std::mem::take(&mut self.after_ctrl_a);
            match (after_ctrl_a, byte) {
                (false, Self::CTRL_A) => self.after_ctrl_a = true,
                (false, byte) => plain.push(byte),
                (true, b'h' | b'H' | b'?') => return Some(Key::Help),
                (true, b'x' | b'X') => return Some(Key::Leave),
                (true, b'c' | b'C') => return Some(Key::Switch),
                (true, Self::CTRL_A | b'a' | b'A') => plain.push(Self::CTRL_A),
                (true, _) => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is for the guest, and the console's own keys, of what was typed in these pieces.
    fn typed(pieces: &[&str]) -> (String, Vec<Key>) {
        let (mut keys, mut guest, mut own) = (EscapeKeys::default(), Vec::new(), Vec::new());
        for piece in pieces {
            let mut piece = piece.bytes().collect();
            while let Some(key) = keys.next(&mut piece, &mut guest) {
                own.push(key);
            }
            assert!(piece.is_empty());
        }
        (String::from_utf8(guest).expect("ASCII"), own)
    }

    #[test]
    fn ordinary_keys_reach_the_guest_unchanged() {
        assert_eq!(typed(&["ls\r\u{3}"]), ("ls\r\u{3}".to_owned(), vec![]));
    }

    #[test]
    fn the_consoles_own_keys_are_found_even_when_they_come_in_two_pieces() {
        assert_eq!(typed(&["a\u{1}xb"]), ("ab".to_owned(), vec![Key::Leave]));
        assert_eq!(typed(&["\u{1}", "X"]), (String::new(), vec![Key::Leave]));
        assert_eq!(
            typed(&["\u{1}c\u{1}h\u{1}C\u{1}?"]).1,
            [Key::Switch, Key::Help, Key::Switch, Key::Help]
        );
    }

    #[test]
    fn ctrl_a_twice_is_one_for_the_guest_and_not_the_start_of_another() {
        assert_eq!(typed(&["\u{1}\u{1}x"]), ("\u{1}x".to_owned(), vec![]));
        assert_eq!(typed(&["\u{1}ax\u{1}A"]), ("\u{1}x\u{1}".to_owned(), vec![]));
    }

    #[test]
    fn an_unknown_key_after_ctrl_a_is_dropped() {
        assert_eq!(typed(&["\u{1}qx"]), ("x".to_owned(), vec![]));
    }
}
