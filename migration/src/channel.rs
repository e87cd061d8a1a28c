//! One connection of a live migration: a stream socket on which nothing waits for ever.
//!
//! Every wait ends by bytes, by the peer's end, by the user's cancellation or by a deadline ([`Patience`]); there is no
//! blocking call in between. Making connections is here too ([`Channel::connect`]); accepting them is in
//! [`crate::listener`].

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType,
    sockopt,
};

use crate::cancel::CancelToken;
use crate::uri::Uri;

/// How long a side waits for its peer.
///
/// Silence is what a slow wire does not do and a dead one does, so progress resets it. The end does not move: it guards
/// what must not take long even if it moves along, above all the time for which the guest stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// The longest time without a single byte moving.
    pub silence: Duration,
    /// When it has to be over, however lively the peer.
    pub end: Option<Instant>,
}

impl Patience {
    /// For what only the peer or the user ends.
    pub const ENDLESS: Self = Self {
        silence: Duration::MAX,
        end: None,
    };
}

/// Why a channel cannot go on. It is of no use afterwards.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The peer closed the connection or died.
    #[error("the other side closed the connection")]
    Closed,
    /// The user cancelled this side.
    #[error("cancelled")]
    Cancelled,
    /// Not a byte moved for too long.
    #[error("nothing moved on the connection for {0:.1?}: the other side hangs, or the network is down")]
    Silent(Duration),
    /// The phase's deadline passed.
    #[error("the other side was not done in time")]
    Overdue,
    /// The socket failed in some other way.
    #[error("the connection failed: {0}")]
    Io(#[source] io::Error),
}

impl From<Errno> for ChannelError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::PIPE | Errno::CONNRESET | Errno::CONNABORTED => Self::Closed,
            other => Self::Io(other.into()),
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Live migration goes to a process.
    #[error("{0} is a file: a live migration goes to tcp:HOST:PORT or unix:PATH, where `vm receive` listens")]
    NotASocket(Uri),
    /// The host's name has no address.
    #[error("{uri}: no address was found for the host: {source}")]
    Resolve {
        /// Where to.
        uri: Uri,
        /// The resolver's answer.
        source: io::Error,
    },
    /// Nobody listens there, or nothing gets there.
    #[error("nobody answers at {uri} ({source}): start \"vm receive\" there, or mend the way to it")]
    Connect {
        /// Where to.
        uri: Uri,
        /// The last address's answer.
        source: ChannelError,
    },
}

/// A connected stream socket with deadlines and cancellation.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
    cancel: CancelToken,
    patience: Patience,
    sent: u64,
    received: u64,
    /// Taken from the socket before there was a channel, and not received yet.
    early: Vec<u8>,
    /// Closed by this side: what is still on its way is lost.
    closed: bool,
}

impl Channel {
    /// Connects to `uri`, trying each address that the name has.
    ///
    /// # Errors
    ///
    /// [`ConnectError`], with the last address's answer.
    pub fn connect(uri: &Uri, cancel: &CancelToken, patience: Patience) -> Result<Self, ConnectError> {
        let connected = match uri {
            Uri::File(_) => return Err(ConnectError::NotASocket(uri.clone())),
            Uri::Unix(path) => SocketAddrUnix::new(path)
                .map_err(ChannelError::from)
                .and_then(|address| Self::connect_one(AddressFamily::UNIX, &address, cancel, patience)),
            Uri::Tcp { host, port } => {
                let addresses = (host.as_str(), *port)
                    .to_socket_addrs()
                    .map_err(|source| ConnectError::Resolve {
                        uri: uri.clone(),
                        source,
                    })?;
                let mut answer = Err(ChannelError::Io(io::ErrorKind::NotFound.into()));
                for address in addresses {
                    answer = Self::connect_one(family(&address), &address, cancel, patience);
                    if matches!(answer, Ok(_) | Err(ChannelError::Cancelled)) {
                        break;
                    }
                }
                answer
            }
        };
        connected.map_err(|source| ConnectError::Connect {
            uri: uri.clone(),
            source,
        })
    }

    fn connect_one(
        family: AddressFamily,
        address: &impl rustix::net::addr::SocketAddrArg,
        cancel: &CancelToken,
        patience: Patience,
    ) -> Result<Self, ChannelError> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        let channel = Self::over(socket, cancel.clone(), patience)?;
        match rustix::net::connect(&channel.socket, address) {
            Ok(()) => {}
            Err(Errno::INPROGRESS) => {
                channel.wait(PollFlags::OUT)?;
                sockopt::socket_error(&channel.socket)??;
            }
            Err(errno) => return Err(errno.into()),
        }
        Ok(channel)
    }

    /// A channel over a connected stream socket of any kind.
    ///
    /// # Errors
    ///
    /// The descriptor is no socket.
    pub fn over(socket: OwnedFd, cancel: CancelToken, patience: Patience) -> Result<Self, ChannelError> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        match sockopt::socket_domain(&socket)? {
            // TCP sizes its buffers itself, and a size given here would end that. A small record must not wait for an
            // acknowledgement of the one before.
            AddressFamily::INET | AddressFamily::INET6 => sockopt::set_tcp_nodelay(&socket, true)?,
            _ => sockopt::set_socket_send_buffer_size(&socket, 4 << 20)?,
        }
        Ok(Self {
            socket,
            cancel,
            patience,
            sent: 0,
            received: 0,
            early: Vec::new(),
            closed: false,
        })
    }

    /// Two channels that are each other's peer.
    ///
    /// # Errors
    ///
    /// The process has no file descriptors left.
    pub fn pair(cancel: [CancelToken; 2], patience: Patience) -> Result<(Self, Self), ChannelError> {
        let (near, far) = UnixStream::pair().map_err(ChannelError::Io)?;
        let [first, second] = cancel;
        Ok((
            Self::over(near.into(), first, patience)?,
            Self::over(far.into(), second, patience)?,
        ))
    }

    /// Sets how long the calls that follow wait.
    pub fn set_patience(&mut self, patience: Patience) {
        self.patience = patience;
    }

    /// How long calls wait now.
    #[must_use]
    pub fn patience(&self) -> Patience {
        self.patience
    }

    /// The token that ends this channel's waits.
    #[must_use]
    pub fn cancel_token(&self) -> &CancelToken {
        &self.cancel
    }

    /// Makes `token` the one that ends this channel's waits.
    pub fn set_cancel_token(&mut self, token: CancelToken) {
        self.cancel = token;
    }

    /// Bytes given to the socket so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Bytes taken from the socket so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Sends all of `parts`, one behind the other.
    ///
    /// # Errors
    ///
    /// [`ChannelError`]; how much went out is then unknown.
    pub fn send(&mut self, parts: &[&[u8]]) -> Result<(), ChannelError> {
        let mut rest: Vec<io::IoSlice<'_>> = parts.iter().map(|part| io::IoSlice::new(part)).collect();
        let mut rest = rest.as_mut_slice();
        io::IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            self.check_open()?;
            let mut nothing = SendAncillaryBuffer::default();
            match rustix::net::sendmsg(&self.socket, rest, &mut nothing, SendFlags::NOSIGNAL) {
                Ok(sent) => {
                    self.sent += as_u64(sent);
                    io::IoSlice::advance_slices(&mut rest, sent);
                }
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT)?,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Fills `buffer` from the peer.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Closed`] if the peer ends before that, or another reason why it cannot be filled.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Result<(), ChannelError> {
        let mut filled = 0;
        while filled < buffer.len() {
            filled += self.receive_some(&mut buffer[filled..])?;
        }
        Ok(())
    }

    /// Waits for bytes and takes as many as there are, at least one.
    ///
    /// # Errors
    ///
    /// As [`Self::receive`].
    pub fn receive_some(&mut self, buffer: &mut [u8]) -> Result<usize, ChannelError> {
        loop {
            self.check_open()?;
            if !self.early.is_empty() {
                let length = self.early.len().min(buffer.len());
                buffer[..length].copy_from_slice(&self.early[..length]);
                self.early.drain(..length);
                self.received += as_u64(length);
                return Ok(length);
            }
            match rustix::net::recv(&self.socket, &mut *buffer, RecvFlags::empty()) {
                Ok((0, _)) => return Err(ChannelError::Closed),
                Ok((received, _)) => {
                    self.received += as_u64(received);
                    return Ok(received);
                }
                Err(Errno::AGAIN) => self.wait(PollFlags::IN)?,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Has the calls that follow receive `early` first, which the peer has said before there was this channel.
    pub(crate) fn put_back(&mut self, early: Vec<u8>) {
        self.early = early;
    }

    /// Whether the peer has said nothing that was not read, and has not closed: looks without waiting.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.early.is_empty()
            && matches!(
                rustix::net::recv(&self.socket, &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT),
                Err(Errno::AGAIN | Errno::INTR)
            )
    }

    /// Waits for `time`, or less if the peer says something or hangs up.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Cancelled`], at once.
    pub(crate) fn rest(&self, time: Duration) -> Result<(), ChannelError> {
        self.check_open()?;
        let patience = Patience {
            silence: time,
            end: None,
        };
        match wait_for(self.socket.as_fd(), PollFlags::IN, &self.cancel, patience) {
            Err(ChannelError::Silent(_)) => Ok(()),
            rested => rested,
        }
    }

    /// Reads nothing and says nothing until the peer hangs up (or the user cancels), as a process that hangs would: no
    /// deadline of its own ends that.
    pub(crate) fn stall(&self) -> ChannelError {
        match wait_for(self.socket.as_fd(), PollFlags::RDHUP, &self.cancel, Patience::ENDLESS) {
            Ok(()) => ChannelError::Closed,
            Err(error) => error,
        }
    }

    /// Says that nothing more will come, and waits until the peer has closed too, so that it gets to read what was sent
    /// before: closing with bytes unread would throw them away on its side.
    pub(crate) fn linger(&mut self) {
        if rustix::net::shutdown(&self.socket, Shutdown::Write).is_ok() {
            let mut unread = vec![0; 64 << 10];
            while self.receive_some(&mut unread).is_ok() {}
        }
    }

    /// Ends the connection in both directions; the peer sees [`ChannelError::Closed`].
    pub fn close(&mut self) {
        self.closed = true;
        // The peer may have been quicker, which leaves nothing to do.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }

    fn check_open(&self) -> Result<(), ChannelError> {
        if self.closed {
            Err(ChannelError::Closed)
        } else if self.cancel.is_cancelled() {
            Err(ChannelError::Cancelled)
        } else {
            Ok(())
        }
    }

    fn wait(&self, wanted: PollFlags) -> Result<(), ChannelError> {
        wait_for(self.socket.as_fd(), wanted, &self.cancel, self.patience)
    }
}

/// Waits until `fd` is ready for `wanted` or has failed, the token is cancelled, or patience is at its end.
pub(crate) fn wait_for(
    fd: impl AsFd,
    wanted: PollFlags,
    cancel: &CancelToken,
    patience: Patience,
) -> Result<(), ChannelError> {
    let silent_at = Instant::now().checked_add(patience.silence);
    loop {
        let now = Instant::now();
        let (due, error) = match (silent_at, patience.end) {
            (Some(silent_at), Some(end)) if end < silent_at => (Some(end), ChannelError::Overdue),
            (None, Some(end)) => (Some(end), ChannelError::Overdue),
            (silent_at, _) => (silent_at, ChannelError::Silent(patience.silence)),
        };
        let left = due.map(|due| due.saturating_duration_since(now));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(error);
        }
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        let wake = cancel.wake_fd();
        let mut fds = [PollFd::new(&fd, wanted), PollFd::new(&wake, PollFlags::IN)];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) if cancel.is_cancelled() => return Err(ChannelError::Cancelled),
            Ok(_) if !fds[0].revents().is_empty() => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn family(address: &SocketAddr) -> AddressFamily {
    if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    }
}

#[expect(clippy::as_conversions, reason = "usize has no more than 64 bits where Tern runs")]
fn as_u64(length: usize) -> u64 {
    length as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const SHORT: Patience = Patience {
        silence: Duration::from_millis(20),
        end: None,
    };
    const LONG: Patience = Patience {
        silence: Duration::from_secs(20),
        end: None,
    };

    fn token() -> CancelToken {
        CancelToken::new().expect("an eventfd")
    }

    fn pair(patience: Patience) -> (Channel, Channel) {
        Channel::pair([token(), token()], patience).expect("a socket pair")
    }

    #[test]
    fn what_is_sent_in_parts_arrives_in_order_whatever_the_buffers() {
        let (mut near, mut far) = pair(LONG);
        let long = vec![7_u8; 9 << 20];
        thread::scope(|scope| {
            scope.spawn(|| near.send(&[b"ab", b"", &long, b"z"]).expect("a live peer"));
            let mut got = vec![0; long.len() + 3];
            far.receive(&mut got).expect("a live peer");
            assert_eq!((&got[..2], got[2], got[got.len() - 1]), (&b"ab"[..], 7, b'z'));
        });
        assert_eq!(
            (near.sent(), far.received()),
            (as_u64(long.len()) + 3, as_u64(long.len()) + 3)
        );
    }

    #[test]
    fn a_silent_peer_is_given_up_in_both_directions() {
        let (mut near, _far) = pair(SHORT);
        assert!(matches!(near.receive(&mut [0]), Err(ChannelError::Silent(_))));
        let endless = vec![0; 64 << 20];
        assert!(matches!(near.send(&[&endless]), Err(ChannelError::Silent(_))));
    }

    #[test]
    fn a_slow_peer_is_not_given_up_but_an_end_is_an_end() {
        let (mut near, mut far) = pair(Patience {
            silence: Duration::from_millis(500),
            end: None,
        });
        thread::scope(|scope| {
            // Byte by byte, never silent, and together for longer than the silence that is allowed.
            const LENGTH: usize = 16 << 20;
            let slow = scope.spawn(move || {
                let (began, mut sent) = (Instant::now(), 0);
                while began.elapsed() < Duration::from_millis(600) {
                    far.send(&[&[0]]).expect("a live peer");
                    sent += 1;
                }
                far.send(&[&vec![0; LENGTH - sent]]).expect("a live peer");
                far
            });
            near.receive(&mut vec![0; LENGTH]).expect("a slow peer is alive");
            let far = slow.join().expect("no panic");
            near.set_patience(Patience {
                silence: Duration::from_secs(20),
                end: Instant::now().checked_add(Duration::from_millis(10)),
            });
            assert!(matches!(near.receive(&mut [0]), Err(ChannelError::Overdue)));
            drop(far);
        });
    }

    #[test]
    fn the_end_of_the_peer_is_told_from_silence() {
        let (mut near, far) = pair(LONG);
        assert!(near.is_quiet());
        drop(far);
        assert!(!near.is_quiet());
        assert!(matches!(near.receive(&mut [0]), Err(ChannelError::Closed)));
        assert!(matches!(near.send(&[&[0]]), Err(ChannelError::Closed)));
    }

    #[test]
    fn cancelling_ends_a_wait_that_has_begun() {
        let (mut near, _far) = pair(LONG);
        let token = near.cancel_token().clone();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| near.receive(&mut [0]));
            token.cancel().expect("nothing is committed");
            assert!(matches!(
                waiting.join().expect("no panic"),
                Err(ChannelError::Cancelled)
            ));
        });
    }

    #[test]
    fn nobody_listening_is_said_with_the_address() {
        let free = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|l| l.local_addr())
            .expect("a port")
            .port();
        for uri in [
            format!("tcp:127.0.0.1:{free}"),
            "unix:/nonexistent/socket".into(),
            "file:/tmp/x".into(),
        ] {
            let error = Channel::connect(&uri.parse().expect("a URI"), &token(), LONG).expect_err("nobody is there");
            assert!(error.to_string().contains(&uri), "{error}");
        }
    }
}
