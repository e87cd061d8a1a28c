//! Reading and writing without ever waiting, on file descriptors that were not made for it.
//!
//! Standard input and output are shared with the shell and other processes: to switch them to non-blocking would switch it for all of
//! them, and it would stay so after the VM has ended. So a pipe or a terminal is opened once more, by its name under
//! `/proc/self/fd`, which gives a description of our own; a socket is asked not to wait in each call; a regular file never waits.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, fstat, open},
    io::{Errno, fcntl_dupfd_cloexec},
    net::{RecvFlags, SendFlags, recv, send},
    termios::isatty,
};

/// How a file descriptor is kept from blocking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// Its description is ours and non-blocking.
    Nonblocking,
    /// A socket.
    Socket,
    /// A file or device that is always ready.
    AlwaysReady,
    /// Shared and blocking: ask first, then move so little that it fits.
    AskFirst,
}

/// A file descriptor that is read and written without waiting.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    fd: Arc<OwnedFd>,
    manner: Manner,
}

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Input,
    Output,
}

impl Port {
    /// A pipe that polls as writable has room for so much at least, and a terminal for about that.
    const SMALL: usize = 512;

    /// A port over a descriptor that others may share, such as standard output.
    pub(crate) fn shared(fd: BorrowedFd<'_>, direction: Direction) -> io::Result<Self> {
        let own = || fcntl_dupfd_cloexec(fd, 3);
        let reopenable = match FileType::from_raw_mode(fstat(fd)?.st_mode) {
            FileType::Socket => {
                return Ok(Self {
                    fd: Arc::new(own()?),
                    manner: Manner::Socket,
                });
            }
            FileType::Fifo => true,
            FileType::CharacterDevice => isatty(fd),
            _ => false,
        };
        if !reopenable {
            return Ok(Self {
                fd: Arc::new(own()?),
                manner: Manner::AlwaysReady,
            });
        }
        let access = match direction {
            Direction::Input => OFlags::RDONLY,
            Direction::Output => OFlags::WRONLY,
        };
        let name = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        Ok(match open(name, flags, Mode::empty()) {
            Ok(fd) => Self {
                fd: Arc::new(fd),
                manner: Manner::Nonblocking,
            },
            // Somebody else's terminal (after su), or no /proc.
            Err(_) => Self {
                fd: Arc::new(own()?),
                manner: Manner::AskFirst,
            },
        })
    }

    /// A port over a socket.
    pub(crate) fn socket(fd: OwnedFd) -> Self {
        Self {
            fd: Arc::new(fd),
            manner: Manner::Socket,
        }
    }

    /// A port over a description that is ours alone, and is switched to non-blocking.
    pub(crate) fn nonblocking(fd: OwnedFd) -> io::Result<Self> {
        fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
        Ok(Self {
            fd: Arc::new(fd),
            manner: Manner::Nonblocking,
        })
    }

    pub(crate) fn fd(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.fd)
    }

    /// Whether the descriptor never has to be waited for (and cannot be).
    pub(crate) fn is_always_ready(&self) -> bool {
        self.manner == Manner::AlwaysReady
    }

    /// Writes what can be written at once.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        match self.manner {
            Manner::Nonblocking | Manner::AlwaysReady => rustix::io::write(&self.fd, bytes),
            Manner::Socket => send(&self.fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
            Manner::AskFirst => {
                self.ask(PollFlags::OUT)?;
                rustix::io::write(&self.fd, &bytes[..bytes.len().min(Self::SMALL)])
            }
        }
    }

    /// Reads what is there. Nothing means the end.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        match self.manner {
            Manner::Nonblocking | Manner::AlwaysReady => rustix::io::read(&self.fd, buffer),
            Manner::Socket => recv(&self.fd, buffer, RecvFlags::DONTWAIT).map(|(length, _)| length),
            Manner::AskFirst => {
                self.ask(PollFlags::IN)?;
                rustix::io::read(&self.fd, buffer)
            }
        }
    }

    fn ask(&self, what: PollFlags) -> Result<(), Errno> {
        let no_wait = rustix::time::Timespec::default();
        let ready = poll(&mut [PollFd::new(&self.fd.as_fd(), what)], Some(&no_wait))?;
        if ready == 0 { Err(Errno::AGAIN) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::pipe;
    use std::{io::Write, os::unix::net::UnixStream};

    /// Writes until there is no more room, and says how much fitted.
    fn fill(port: &Port) -> usize {
        let mut total = 0;
        loop {
            match port.write(&[b'x'; 4096]) {
                Ok(length) => total += length,
                Err(error) => {
                    assert_eq!(error, Errno::AGAIN);
                    return total;
                }
            }
        }
    }

    #[test]
    fn a_full_pipe_is_reported_and_its_other_users_still_block() {
        let (read, write) = pipe().expect("a pipe");
        let port = Port::shared(write.as_fd(), Direction::Output).expect("a pipe can be a port");
        assert!(fill(&port) >= 4096);
        let flags = fcntl_getfl(&write).expect("a sound descriptor");
        assert!(!flags.contains(OFlags::NONBLOCK), "the shared description was changed");
        drop(read);
        assert_eq!(port.write(b"x"), Err(Errno::PIPE));
    }

    #[test]
    fn a_full_pipe_that_cannot_be_reopened_is_asked_first() {
        let (_read, write) = pipe().expect("a pipe");
        let port = Port {
            fd: Arc::new(write),
            manner: Manner::AskFirst,
        };
        assert!(fill(&port) >= 4096);
    }

    #[test]
    fn an_empty_pipe_and_its_end_are_told_apart() {
        let (read, write) = pipe().expect("a pipe");
        let port = Port::shared(read.as_fd(), Direction::Input).expect("a pipe can be a port");
        assert_eq!(port.read(&mut [0; 8]), Err(Errno::AGAIN));
        drop(write);
        assert_eq!(port.read(&mut [0; 8]), Ok(0));
    }

    #[test]
    fn a_full_socket_is_reported() {
        let (mut near, far) = UnixStream::pair().expect("a pair of sockets");
        let port = Port::shared(far.as_fd(), Direction::Output).expect("a socket can be a port");
        assert!(fill(&port) >= 4096);
        near.write_all(b"hello").expect("room in the socket");
        assert_eq!(port.read(&mut [0; 8]), Ok(5));
    }

    #[test]
    fn dev_null_is_always_ready() {
        let null = std::fs::File::open("/dev/null").expect("there is a /dev/null");
        let port = Port::shared(null.as_fd(), Direction::Input).expect("a device can be a port");
        assert!(port.is_always_ready());
        assert_eq!(port.read(&mut [0; 8]), Ok(0));
    }
}
