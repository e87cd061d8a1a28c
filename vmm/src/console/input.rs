//! The console's input: read only as fast as the guest takes it.

use std::{collections::VecDeque, os::fd::OwnedFd, sync::Arc};

use rustix::io::Errno;

use super::{
    clients::Clients,
    keys::{EscapeKeys, Key},
    port::Port,
};
use crate::event_loop::SourceId;

/// How much is read ahead of the guest at most.
const CHUNK: usize = 4096;

#[derive(Default)]
pub(super) struct Input {
    port: Option<Port>,
    /// Read and not taken by the guest yet.
    pending: Vec<u8>,
    /// The client has said that it sends nothing more, and may still take output.
    ended: bool,
    /// Where the user types at a terminal: looks for the console's own keys.
    keys: Option<EscapeKeys>,
    /// Typed at a terminal, and not looked through yet.
    typed: VecDeque<u8>,
    /// What is typed is for the prompt that shares the terminal, and not for the guest.
    pub(super) prompt_has_keys: bool,
    /// Typed for the prompt.
    pub(super) for_prompt: Vec<u8>,
    /// The loop's watch for input.
    pub(super) watched: Option<SourceId>,
    /// Where clients come from.
    pub(super) clients: Option<Clients>,
}

/// What reading gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Got {
    Something,
    NothingYet,
    TheEnd,
    /// A key of the console's own, and perhaps something before it.
    Key(Key),
}

impl Input {
    pub(super) fn connect(&mut self, port: Port, keys: Option<EscapeKeys>) {
        self.port = Some(port);
        self.keys = keys;
        self.ended = false;
    }

    pub(super) fn disconnect(&mut self) -> Option<SourceId> {
        self.port = None;
        self.ended = false;
        self.watched.take()
    }

    pub(super) fn fd(&self) -> Option<Arc<OwnedFd>> {
        self.port.as_ref().map(Port::fd)
    }

    pub(super) fn is_always_ready(&self) -> bool {
        self.port.as_ref().is_some_and(Port::is_always_ready)
    }

    /// Offers what is pending to `receive`, which says how much it took; whether everything was taken.
    pub(super) fn offer(&mut self, receive: impl Fn(&[u8]) -> usize) -> bool {
        let mut offered = 0;
        while offered < self.pending.len() {
            let taken = receive(&self.pending[offered..]);
            if taken == 0 {
                break;
            }
            offered += taken;
        }
        self.pending.drain(..offered);
        self.pending.is_empty()
    }

    /// Whether this has to be read whatever the guest takes, because the user may want to leave.
    pub(super) fn looks_for_keys(&self) -> bool {
        self.keys.is_some() && self.port.is_some()
    }

    /// Whether the other side is a client, after which others may come.
    pub(super) fn is_a_client(&self) -> bool {
        self.clients.is_some() && self.port.is_some()
    }

    /// Notes that nothing more comes; whether this is the end of the input alone. It is not where output goes nowhere either.
    pub(super) fn end(&mut self) -> bool {
        self.ended = matches!(self.clients, Some(Clients::Socket(..)));
        self.ended
    }

    /// Whether only output is left to a client.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Takes what a client sent before it went, within a bound.
    pub(super) fn read_the_rest(&mut self) {
        while self.pending.len() < 16 * CHUNK && self.read() == Got::Something {}
    }

    /// Reads what is there, up to the next key of the console's own.
    pub(super) fn read(&mut self) -> Got {
        let mut buffer = [0; CHUNK];
        let read = match &self.port {
            // The rest of what was read before comes first.
            Some(_) if !self.typed.is_empty() => 0,
            Some(port) => match port.read(&mut buffer) {
                Ok(0) => return Got::TheEnd,
                Ok(length) => length,
                Err(Errno::AGAIN | Errno::INTR) => return Got::NothingYet,
                // A terminal that was hung up, a client that was reset.
                Err(_) => return Got::TheEnd,
            },
            None => return Got::NothingYet,
        };
        let Some(keys) = &mut self.keys else {
            self.pending.extend_from_slice(&buffer[..read]);
            return Got::Something;
        };
        self.typed.extend(&buffer[..read]);
        let plain = if self.prompt_has_keys {
            &mut self.for_prompt
        } else {
            &mut self.pending
        };
        let key = keys.next(&mut self.typed, plain);
        // Typed ahead of a guest that takes nothing: as a terminal does, the rest is dropped.
        plain.truncate(CHUNK);
        key.map_or(Got::Something, Got::Key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::port::Direction;
    use rustix::pipe::pipe;
    use std::os::fd::AsFd;

    #[test]
    fn what_the_guest_does_not_take_is_offered_again_in_order() {
        let mut input = Input {
            pending: b"abcdef".to_vec(),
            ..Input::default()
        };
        let room = std::cell::Cell::new(4);
        let receive = |bytes: &[u8]| bytes.len().min(3).min(room.replace(room.get().max(3) - 3));
        assert!(!input.offer(receive));
        assert_eq!(input.pending, b"ef");
        assert!(input.offer(<[u8]>::len));
    }

    #[test]
    fn the_consoles_own_keys_are_found_at_a_terminal_only() {
        for (keys, got) in [
            (None, Got::Something),
            (Some(EscapeKeys::default()), Got::Key(Key::Leave)),
        ] {
            let (read, write) = pipe().expect("a pipe");
            let mut input = Input::default();
            input.connect(Port::shared(read.as_fd(), Direction::Input).expect("a port"), keys);
            assert_eq!(input.read(), Got::NothingYet);
            rustix::io::write(&write, b"\x01x").expect("room in the pipe");
            assert_eq!(input.read(), got);
            assert!(!input.offer(|_| 0) || got == Got::Key(Key::Leave));
            drop(write);
            assert_eq!(input.read(), Got::TheEnd);
        }
    }
}
