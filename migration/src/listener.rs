//! Where a receiver waits for its source: a listening socket that leaves nothing behind.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::cancel::CancelToken;
use crate::channel::{Channel, ChannelError, Patience, wait_for};
use crate::uri::Uri;

/// Whether a receiver may be reached from other hosts.
///
/// A connection is neither encrypted nor authenticated: whoever reaches the socket can give this host a guest to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// Only from this host.
    #[default]
    Loopback,
    /// From wherever the address can be reached.
    Anywhere,
}

/// Why a receiver cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A file does not connect to anybody.
    #[error("{0} is a file: a receiver listens on tcp:ADDRESS:PORT or unix:PATH; a file is restored with `vm restore`")]
    NotASocket(Uri),
    /// The address would be reachable from elsewhere.
    #[error(
        "{0} can be reached from other hosts, and a migration is neither encrypted nor authenticated: \
         listen on 127.0.0.1 and tunnel, or start `vm receive` with --allow-remote"
    )]
    NotLoopback(Uri),
    /// Somebody else has the address.
    #[error("{uri} is in use; take another {}", other_than(.0), uri = .0)]
    InUse(Uri),
    /// The host's name has no address, or the system refuses to listen.
    #[error("cannot listen on {uri}: {source}")]
    Io {
        /// Where.
        uri: Uri,
        /// The system's answer.
        source: io::Error,
    },
}

/// What else a user can take whose address is taken.
fn other_than(uri: &Uri) -> &'static str {
    match uri {
        Uri::Tcp { .. } => "port, or port 0 for any that is free",
        Uri::Unix(_) | Uri::File(_) => "path",
    }
}

/// A listening socket. Dropping it closes it and removes its file.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    local: Uri,
    // Dropped behind the socket.
    _file: Option<SocketFile>,
}

impl Listener {
    /// Listens on `uri`.
    ///
    /// # Errors
    ///
    /// [`BindError`]; nothing is left behind.
    pub fn bind(uri: &Uri, reach: Reach) -> Result<Self, BindError> {
        let bound = match uri {
            Uri::File(_) => return Err(BindError::NotASocket(uri.clone())),
            Uri::Tcp { host, port } => bind_tcp(host, *port, reach, uri)?,
            Uri::Unix(path) => bind_unix(path).map(|(socket, file)| Self {
                socket,
                local: uri.clone(),
                _file: Some(file),
            }),
        };
        bound.map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse(uri.clone()),
            _ => BindError::Io {
                uri: uri.clone(),
                source,
            },
        })
    }

    /// Where a source connects to: as given, with the port that was picked.
    #[must_use]
    pub fn local_uri(&self) -> &Uri {
        &self.local
    }

    /// Waits for the next connection, for as long as it takes; the channel has `patience` and the same token.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Cancelled`], or the socket failed.
    pub fn accept(&self, cancel: &CancelToken, patience: Patience) -> Result<Channel, ChannelError> {
        loop {
            if cancel.is_cancelled() {
                return Err(ChannelError::Cancelled);
            }
            match self.try_accept()? {
                Some(socket) => return Channel::over(socket, cancel.clone(), patience),
                None => wait_for(self.socket.as_fd(), PollFlags::IN, cancel, Patience::ENDLESS)?,
            }
        }
    }

    /// The next connection if there is one.
    pub(crate) fn try_accept(&self) -> Result<Option<OwnedFd>, ChannelError> {
        loop {
            match rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => return Ok(Some(socket)),
                Err(Errno::AGAIN) => return Ok(None),
                // Who had connected was gone again before it was accepted.
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn bind_tcp(host: &str, port: u16, reach: Reach, uri: &Uri) -> Result<io::Result<Listener>, BindError> {
    let addresses: Vec<SocketAddr> = match (host, port).to_socket_addrs() {
        Ok(addresses) => addresses.collect(),
        Err(error) => return Ok(Err(error)),
    };
    if reach == Reach::Loopback && !addresses.iter().all(|address| address.ip().is_loopback()) {
        return Err(BindError::NotLoopback(uri.clone()));
    }
    Ok(TcpListener::bind(&*addresses).and_then(|listener| {
        listener.set_nonblocking(true)?;
        let local = Uri::Tcp {
            host: host.to_owned(),
            port: listener.local_addr()?.port(),
        };
        Ok(Listener {
            socket: listener.into(),
            local,
            _file: None,
        })
    }))
}

fn bind_unix(path: &Path) -> io::Result<(OwnedFd, SocketFile)> {
    let address = SocketAddrUnix::new(path)?;
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    if let Err(errno) = rustix::net::bind(&socket, &address) {
        if errno != Errno::ADDRINUSE {
            return Err(errno.into());
        }
        if !is_socket(path) {
            return Err(io::Error::other(
                "it exists and is no socket; remove it or take another path",
            ));
        }
        if !is_abandoned(&address) {
            return Err(errno.into());
        }
        fs::remove_file(path)?;
        rustix::net::bind(&socket, &address)?;
    }
    let file = SocketFile::at(path)?;
    // Nobody can connect before `listen`, so there is no moment at which others could.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    rustix::net::listen(&socket, 16)?;
    Ok((socket, file))
}

/// Whether a socket file is what a killed process left behind: connecting to it is refused.
fn is_abandoned(address: &SocketAddrUnix) -> bool {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .is_ok_and(|probe| rustix::net::connect(&probe, address) == Err(Errno::CONNREFUSED))
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

/// The file of a unix socket, removed with its listener unless somebody has put another one there.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            identity: identity(path)?,
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            // Gone already is as good.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    const PATIENCE: Patience = Patience {
        silence: Duration::from_secs(20),
        end: None,
    };

    fn token() -> CancelToken {
        CancelToken::new().expect("an eventfd")
    }

    fn uri(text: &str) -> Uri {
        text.parse().expect("a URI")
    }

    fn temporary(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("tern-listener-{}-{name}", std::process::id()))
    }

    #[test]
    fn port_zero_picks_one_and_reports_it() {
        for address in ["127.0.0.1", "[::1]", "localhost"] {
            let listener = Listener::bind(&uri(&format!("tcp:{address}:0")), Reach::Loopback).expect("a port");
            let mut near = Channel::connect(listener.local_uri(), &token(), PATIENCE).expect("a listener");
            let mut far = listener.accept(&token(), PATIENCE).expect("a connection");
            near.send(&[b"x"]).expect("a live peer");
            far.receive(&mut [0]).expect("a live peer");
        }
    }

    #[test]
    fn other_hosts_have_to_be_allowed_by_name() {
        for everywhere in ["tcp:0.0.0.0:0", "tcp:[::]:0"] {
            let error = Listener::bind(&uri(everywhere), Reach::Loopback).expect_err("not loopback");
            assert!(matches!(error, BindError::NotLoopback(_)), "{error}");
        }
        Listener::bind(&uri("tcp:0.0.0.0:0"), Reach::Anywhere).expect("allowed");
    }

    #[test]
    fn an_address_in_use_is_named() {
        let first = Listener::bind(&uri("tcp:127.0.0.1:0"), Reach::Loopback).expect("a port");
        let error = Listener::bind(first.local_uri(), Reach::Loopback).expect_err("taken");
        assert!(
            matches!(&error, BindError::InUse(taken) if taken == first.local_uri()),
            "{error}"
        );

        let path = temporary("in-use");
        let _first = Listener::bind(&Uri::Unix(path.clone()), Reach::Loopback).expect("a path");
        let error = Listener::bind(&Uri::Unix(path.clone()), Reach::Loopback).expect_err("taken");
        assert!(matches!(&error, BindError::InUse(_)), "{error}");
        assert!(!error.to_string().contains("port"), "{error}");
        assert!(path.exists(), "the first one's file stays");
    }

    #[test]
    fn a_unix_socket_is_private_and_leaves_no_file_behind() {
        let path = temporary("private");
        let listener = Listener::bind(&Uri::Unix(path.clone()), Reach::Loopback).expect("a path");
        let mode = fs::metadata(&path).expect("the socket's file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_killed_process_left_is_taken_over_but_no_ordinary_file_is() {
        let path = temporary("abandoned");
        drop(UnixListener::bind(&path).expect("a path"));
        assert!(path.exists(), "the standard library leaves the file");
        drop(Listener::bind(&Uri::Unix(path.clone()), Reach::Loopback).expect("abandoned"));

        fs::write(&path, "a user's file").expect("a file");
        let error = Listener::bind(&Uri::Unix(path.clone()), Reach::Loopback).expect_err("not a socket");
        assert!(error.to_string().contains("is no socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).expect("untouched"), "a user's file");
        fs::remove_file(&path).expect("the test's own file");
    }

    #[test]
    fn waiting_for_a_source_can_be_cancelled() {
        let listener = Listener::bind(&uri("tcp:127.0.0.1:0"), Reach::Loopback).expect("a port");
        let cancel = token();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| listener.accept(&cancel, PATIENCE));
            cancel.cancel().expect("nothing is committed");
            assert!(matches!(
                waiting.join().expect("no panic"),
                Err(ChannelError::Cancelled)
            ));
        });
    }
}
