//! Where those who have connected to a receiver wait until they have said something, so that one who says nothing
//! keeps nobody else from being heard.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::RecvFlags;

use crate::cancel::CancelToken;
use crate::channel::{Channel, ChannelError, Patience};
use crate::header::PREFIX_LEN;
use crate::listener::Listener;
use crate::record::HEADER_LEN;

/// How many may wait at once; the next one takes the place of whoever has waited longest.
const SEATS: usize = 16;

/// What a source says before it waits for an answer is longer than this: the prefix, and a record.
const OPENING: usize = PREFIX_LEN + HEADER_LEN;

/// Those who have connected and not said enough yet.
#[derive(Debug, Default)]
pub(crate) struct Lobby {
    callers: VecDeque<Caller>,
}

#[derive(Debug)]
struct Caller {
    socket: OwnedFd,
    said: [u8; OPENING],
    filled: usize,
    /// When it has to have said its opening.
    due: Option<Instant>,
}

enum Heard {
    Opening,
    TooLittle,
    Gone,
}

impl Caller {
    /// Takes what it has said, without waiting for more.
    fn hear(&mut self) -> Heard {
        while self.filled < OPENING {
            match rustix::net::recv(&self.socket, &mut self.said[self.filled..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Heard::Gone,
                Ok((received, _)) => self.filled += received,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Heard::TooLittle,
                Err(_) => return Heard::Gone,
            }
        }
        Heard::Opening
    }
}

impl Lobby {
    /// Waits until one of those who connect to `listener` has said its opening, for as long as it takes; who has not
    /// after `hello` is dropped. The channel has `patience` and `cancel`, and gives what was said already.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Cancelled`], or the listening socket failed.
    pub(crate) fn next(
        &mut self,
        listener: &Listener,
        cancel: &CancelToken,
        hello: Duration,
        patience: impl Fn() -> Patience,
    ) -> Result<Channel, ChannelError> {
        loop {
            if cancel.is_cancelled() {
                return Err(ChannelError::Cancelled);
            }
            if let Some(Caller { socket, said, .. }) = self.ready() {
                let mut channel = Channel::over(socket, cancel.clone(), patience())?;
                channel.put_back(said.to_vec());
                return Ok(channel);
            }
            match listener.try_accept()? {
                Some(socket) => self.admit(socket, hello),
                None => self.wait(listener, cancel)?,
            }
        }
    }

    fn admit(&mut self, socket: OwnedFd, hello: Duration) {
        if self.callers.len() == SEATS {
            self.callers.pop_front();
        }
        self.callers.push_back(Caller {
            socket,
            said: [0; OPENING],
            filled: 0,
            due: Instant::now().checked_add(hello),
        });
    }

    /// Whoever has said its opening; who has hung up or is late is dropped.
    fn ready(&mut self) -> Option<Caller> {
        let now = Instant::now();
        let mut index = 0;
        while let Some(caller) = self.callers.get_mut(index) {
            match caller.hear() {
                Heard::Opening => return self.callers.remove(index),
                Heard::TooLittle if caller.due.is_none_or(|due| now < due) => index += 1,
                Heard::TooLittle | Heard::Gone => _ = self.callers.remove(index),
            }
        }
        None
    }

    /// Until somebody connects, speaks or is late, or the token is cancelled.
    fn wait(&self, listener: &Listener, cancel: &CancelToken) -> Result<(), ChannelError> {
        let due = self.callers.iter().filter_map(|caller| caller.due).min();
        let left = due.map(|due| due.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        let (listening, wake) = (listener.as_fd(), cancel.wake_fd());
        let mut fds = vec![
            PollFd::new(&listening, PollFlags::IN),
            PollFd::new(&wake, PollFlags::IN),
        ];
        fds.extend(
            self.callers
                .iter()
                .map(|caller| PollFd::new(&caller.socket, PollFlags::IN)),
        );
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}
