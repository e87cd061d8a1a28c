//! The console's input: read only as fast as the guest takes it.

use std::{os::fd::OwnedFd, sync::Arc};

use rustix::io::Errno;

use super::{clients::Clients, port::Port};
use crate::{
    event_loop::SourceId,
    terminal::{EscapeKeys, Leave},
};

/// How much is read ahead of the guest at most.
const CHUNK: usize = 4096;

#[derive(Default)]
pub(super) struct Input {
    port: Option<Port>,
    /// Read and not taken by the guest yet.
    pending: Vec<u8>,
    /// The client has said that it sends nothing more, and may still take output.
    ended: bool,
    /// Where the user types at a terminal: looks for the leave key.
    keys: Option<EscapeKeys>,
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
    LeaveKey,
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

    /// Reads what is there.
    pub(super) fn read(&mut self) -> Got {
        let Some(port) = &self.port else { return Got::NothingYet };
        let mut buffer = [0; CHUNK];
        let length = match port.read(&mut buffer) {
            Ok(0) => return Got::TheEnd,
            Ok(length) => length,
            Err(Errno::AGAIN | Errno::INTR) => return Got::NothingYet,
            // A terminal that was hung up, a client that was reset.
            Err(_) => return Got::TheEnd,
        };
        match &mut self.keys {
            None => self.pending.extend_from_slice(&buffer[..length]),
            Some(keys) => {
                if keys.filter(&buffer[..length], &mut self.pending) == Leave::Yes {
                    return Got::LeaveKey;
                }
                // Typed ahead of a guest that takes nothing: as a terminal does, the rest is dropped.
                self.pending.truncate(CHUNK);
            }
        }
        Got::Something
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
    fn the_leave_key_is_found_at_a_terminal_only() {
        for (keys, got) in [(None, Got::Something), (Some(EscapeKeys::default()), Got::LeaveKey)] {
            let (read, write) = pipe().expect("a pipe");
            let mut input = Input::default();
            input.connect(Port::shared(read.as_fd(), Direction::Input).expect("a port"), keys);
            assert_eq!(input.read(), Got::NothingYet);
            rustix::io::write(&write, b"\x01x").expect("room in the pipe");
            assert_eq!(input.read(), got);
            assert!(!input.offer(|_| 0) || got == Got::LeaveKey);
            drop(write);
            assert_eq!(input.read(), Got::TheEnd);
        }
    }
}
