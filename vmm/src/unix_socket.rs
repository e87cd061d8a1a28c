//! Listening unix sockets that only their owner may connect to, and that do not outlive the process by mistake.

use std::{
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::{FileTypeExt, MetadataExt},
            net::UnixStream,
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{Mode, fchmod},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with},
};

/// Why a socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The kernel's limit.
    #[error("the socket path {0:?} is longer than the 107 bytes that the kernel allows; choose a shorter one")]
    PathTooLong(PathBuf),
    /// Somebody listens there.
    #[error("the socket {0:?} is in use by another process; choose another path")]
    InUse(PathBuf),
    /// There is something, and it is not ours to remove.
    #[error("{0:?} exists and is no socket; remove it or choose another path")]
    NotASocket(PathBuf),
    /// Anything that the system refuses.
    #[error("cannot make the socket {path:?}: {error}")]
    Io {
        /// The socket's path.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
}

/// A listening unix socket with mode 0600. Dropping it removes it from the file system, unless another one has taken its place.
#[derive(Debug)]
pub struct PrivateListener {
    fd: Arc<OwnedFd>,
    path: PathBuf,
    inode: (u64, u64),
}

impl PrivateListener {
    /// Listens at `path`. A socket that a dead process left behind is replaced.
    ///
    /// # Errors
    ///
    /// See [`SocketError`].
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |error: io::Error| SocketError::Io {
            path: path.to_owned(),
            error,
        };
        let address = SocketAddrUnix::new(path).map_err(|_| SocketError::PathTooLong(path.to_owned()))?;
        remove_stale(path)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(|e| failed(e.into()))?;
        // Linux takes the mode of the new file from the socket, so that it is private from its first moment.
        fchmod(&fd, Mode::RUSR | Mode::WUSR).map_err(|e| failed(e.into()))?;
        bind(&fd, &address).map_err(|errno| match errno {
            rustix::io::Errno::ADDRINUSE => SocketError::InUse(path.to_owned()),
            errno => failed(errno.into()),
        })?;
        listen(&fd, 16).map_err(|e| failed(e.into()))?;
        let made = fs::symlink_metadata(path).map_err(failed)?;
        Ok(Self {
            fd: Arc::new(fd),
            path: path.to_owned(),
            inode: (made.dev(), made.ino()),
        })
    }

    /// The descriptor to watch for reading.
    #[must_use]
    pub fn fd(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.fd)
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next client, if one waits. Its socket does not block.
    ///
    /// # Errors
    ///
    /// The process is out of file descriptors; the client goes on waiting.
    pub fn accept(&self) -> io::Result<Option<OwnedFd>> {
        use rustix::io::Errno;
        match accept_with(self.fd.as_fd(), SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(client) => Ok(Some(client)),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for PrivateListener {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.inode) {
            // There is nobody left to tell.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn remove_stale(path: &Path) -> Result<(), SocketError> {
    match fs::symlink_metadata(path) {
        Err(_) => return Ok(()),
        Ok(found) if !found.file_type().is_socket() => return Err(SocketError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| SocketError::Io {
                path: path.to_owned(),
                error,
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        _ => Err(SocketError::InUse(path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::TempDir;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_socket_is_private_and_goes_with_its_listener() {
        let dir = TempDir::new();
        let path = dir.path().join("s");
        let listener = PrivateListener::bind(&path).expect("a fresh path");
        assert_eq!(
            fs::metadata(&path).expect("it exists").permissions().mode() & 0o777,
            0o600
        );
        assert!(listener.accept().expect("a sound listener").is_none());
        let _client = UnixStream::connect(&path).expect("somebody listens");
        assert!(listener.accept().expect("a sound listener").is_some());
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_in_use_is_refused_and_a_stale_one_replaced() {
        let dir = TempDir::new();
        let path = dir.path().join("s");
        let living = std::os::unix::net::UnixListener::bind(&path).expect("a fresh path");
        assert!(matches!(PrivateListener::bind(&path), Err(SocketError::InUse(_))));
        drop(living);
        PrivateListener::bind(&path).expect("nobody listens any more");
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let dir = TempDir::new();
        let path = dir.path().join("precious");
        fs::write(&path, "data").expect("a writable directory");
        let error = PrivateListener::bind(&path).expect_err("a file is in the way");
        assert!(error.to_string().contains("is no socket"), "{error}");
        assert_eq!(fs::read(&path).expect("still there"), b"data");
    }

    #[test]
    fn a_successor_at_the_same_path_is_not_removed() {
        let dir = TempDir::new();
        let path = dir.path().join("s");
        let first = PrivateListener::bind(&path).expect("a fresh path");
        fs::remove_file(&path).expect("it exists");
        let _second = PrivateListener::bind(&path).expect("a fresh path again");
        drop(first);
        assert!(path.exists());
    }

    #[test]
    fn a_path_too_long_is_named_with_the_limit() {
        let path = Path::new("/tmp").join("x".repeat(120));
        let error = PrivateListener::bind(&path).expect_err("too long");
        assert!(error.to_string().contains("107 bytes"), "{error}");
    }
}
