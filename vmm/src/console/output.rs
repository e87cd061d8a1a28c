//! The console's output: straight through where that does not wait, a bounded queue where it would.

use std::{
    collections::VecDeque,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    time::Timespec,
};

use super::port::Port;
use crate::event_loop::{EventLoop, Interest, Ready, SourceId};

/// What the queue holds at most. It is also how much of the latest output a client of a socket finds that connects late.
pub(super) const CAPACITY: usize = 64 << 10;

#[derive(Default)]
pub(super) struct Output {
    port: Option<Port>,
    /// Nobody will ever read, so nothing is kept.
    discards: bool,
    /// What does not fit the queue is dropped, rather than that the guest waits.
    is_lossy: bool,
    queue: VecDeque<u8>,
    /// The device has bytes that were not taken.
    refused: bool,
    /// The loop has been called to drain the queue, and has not come yet.
    pub(super) called: bool,
    /// The loop's watch for room, while there is a queue to drain.
    pub(super) watched: Option<SourceId>,
}

impl Output {
    pub(super) fn discard(&mut self) {
        self.discards = true;
    }

    pub(super) fn lose_what_does_not_fit(&mut self) {
        self.is_lossy = true;
    }

    pub(super) fn connect(&mut self, port: Port) {
        self.port = Some(port);
    }

    /// The reader has gone; the next one begins with what this one did not take.
    pub(super) fn disconnect(&mut self) -> Option<SourceId> {
        self.port = None;
        self.watched.take()
    }

    /// Lets go of the port, and of the loop's watch on it. What follows is kept for the next one, the latest at least.
    pub(super) fn release(&mut self) -> (Option<Port>, Option<SourceId>) {
        (self.port.take(), self.watched.take())
    }

    /// Drops what is kept.
    pub(super) fn forget(&mut self) {
        self.queue.clear();
    }

    pub(super) fn fd(&self) -> Option<Arc<OwnedFd>> {
        self.port.as_ref().map(Port::fd)
    }

    /// Whether bytes wait for the loop to write them.
    pub(super) fn must_drain(&self) -> bool {
        self.port.is_some() && !self.queue.is_empty()
    }

    /// Whether the device was refused before and has room now. Says so once.
    pub(super) fn take_room(&mut self) -> bool {
        let room = self.refused && (self.port.is_none() || self.queue.len() <= CAPACITY / 2);
        self.refused &= !room;
        room
    }

    pub(super) fn try_write(&mut self, bytes: &[u8]) -> usize {
        let written = if self.queue.is_empty() {
            self.write_through(bytes)
        } else {
            0
        };
        let rest = &bytes[written..];
        if self.port.is_none() {
            self.keep_the_latest(rest);
            return bytes.len();
        }
        let queued = rest.len().min(CAPACITY - self.queue.len());
        self.queue.extend(&rest[..queued]);
        if self.is_lossy {
            return bytes.len();
        }
        self.refused |= queued < rest.len();
        written + queued
    }

    /// Writes what the port takes at once.
    fn write_through(&mut self, bytes: &[u8]) -> usize {
        let mut written = 0;
        while let Some(port) = &self.port
            && written < bytes.len()
        {
            match port.write(&bytes[written..]) {
                Ok(length) => written += length,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // A pipe without a reader, a full disk: the guest is not to blame and goes on.
                Err(_) => self.port = None,
            }
        }
        written
    }

    fn keep_the_latest(&mut self, bytes: &[u8]) {
        if self.discards {
            return;
        }
        let bytes = &bytes[bytes.len().saturating_sub(CAPACITY)..];
        let too_many = (self.queue.len() + bytes.len()).saturating_sub(CAPACITY);
        self.queue.drain(..too_many);
        self.queue.extend(bytes);
    }

    /// Writes what is queued, as far as the port takes it.
    pub(super) fn drain(&mut self) {
        while self.must_drain() {
            let (front, _) = self.queue.as_slices();
            // At most 64 KiB, and rarely more than a line.
            let front = front.to_vec();
            let written = self.write_through(&front);
            self.queue.drain(..written);
            if written < front.len() {
                break;
            }
        }
    }

    /// Drains, and has `callback` called when there is room for more, until the queue is empty.
    pub(super) fn drain_on(
        &mut self,
        event_loop: &mut EventLoop,
        callback: impl FnMut(&mut EventLoop, Ready) + Send + 'static,
    ) {
        self.drain();
        match (self.must_drain(), self.watched) {
            (true, None) => {
                let fd = self.fd().expect("what must be drained has a port");
                self.watched = event_loop.watch(fd, Interest::Write, callback).ok();
            }
            (false, Some(source)) => {
                event_loop.unwatch(source);
                self.watched = None;
            }
            _ => {}
        }
    }

    /// Drains, waiting for the reader as long as it takes something within `patience`.
    pub(super) fn flush(&mut self, patience: Duration) {
        let patience = Timespec::try_from(patience).unwrap_or_default();
        self.drain();
        while self.must_drain()
            && let Some(fd) = self.fd()
            && poll(&mut [PollFd::new(&fd.as_fd(), PollFlags::OUT)], Some(&patience)).is_ok_and(|ready| ready > 0)
        {
            self.drain();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::port::Direction;
    use rustix::pipe::pipe;
    use std::{io::Read, thread};

    fn over_a_pipe() -> (Output, std::fs::File) {
        let (read, write) = pipe().expect("a pipe");
        let mut output = Output::default();
        output.connect(Port::shared(write.as_fd(), Direction::Output).expect("a pipe can be a port"));
        (output, read.into())
    }

    #[test]
    fn a_reader_that_keeps_up_gets_everything_at_once_and_nothing_is_queued() {
        let (mut output, mut reader) = over_a_pipe();
        assert_eq!(output.try_write(b"hello"), 5);
        assert!(!output.must_drain());
        let mut got = [0; 5];
        reader.read_exact(&mut got).expect("five bytes");
        assert_eq!(&got, b"hello");
    }

    #[test]
    fn a_reader_that_stands_still_costs_a_bounded_queue_and_then_the_device_is_refused() {
        let (mut output, mut reader) = over_a_pipe();
        let numbered: Vec<u8> = (0..400_000u32).map(|n| n.to_le_bytes()[0]).collect();
        let taken = output.try_write(&numbered);
        assert!(output.must_drain());
        assert!(
            taken < numbered.len(),
            "a pipe and a queue hold less than 400,000 bytes"
        );
        assert_eq!(output.try_write(b"more"), 0);
        assert!(!output.take_room());

        let received = thread::scope(|scope| {
            let received = scope.spawn(|| {
                let mut received = vec![0; taken];
                reader.read_exact(&mut received).expect("everything that was taken");
                received
            });
            output.flush(Duration::from_secs(10));
            received.join().expect("no panic")
        });
        assert_eq!(received, numbered[..taken], "in order, nothing lost and nothing twice");
        assert!(output.take_room());
        assert!(!output.take_room(), "said once");
    }

    #[test]
    fn without_a_reader_the_latest_output_is_kept_for_the_next_one() {
        let mut output = Output::default();
        assert_eq!(output.try_write(&vec![b'a'; CAPACITY]), CAPACITY);
        assert_eq!(output.try_write(b"latest"), 6);
        assert_eq!(output.queue.len(), CAPACITY);
        assert!(output.queue.iter().rev().take(6).eq(b"tsetal"));
        assert!(!output.must_drain());
    }

    #[test]
    fn a_lossy_output_takes_everything_and_keeps_what_fits() {
        let (mut output, _reader) = over_a_pipe();
        output.lose_what_does_not_fit();
        for _ in 0..10 {
            assert_eq!(output.try_write(&[0; CAPACITY]), CAPACITY);
        }
        assert!(output.queue.len() <= CAPACITY);
        assert!(!output.refused);
    }

    #[test]
    fn a_reader_that_has_gone_never_stops_the_guest() {
        let (mut output, reader) = over_a_pipe();
        drop(reader);
        for _ in 0..3 {
            assert_eq!(output.try_write(&[0; CAPACITY]), CAPACITY);
        }
    }

    #[test]
    fn a_discarding_output_keeps_nothing() {
        let mut output = Output::default();
        output.discard();
        assert_eq!(output.try_write(b"gone"), 4);
        assert!(output.queue.is_empty());
    }
}
