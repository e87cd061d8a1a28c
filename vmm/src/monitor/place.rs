//! Names of VMs, and where their control sockets are.
//!
//! A VM called NAME listens at `NAME.sock` in a folder that is its user's alone, and holds a lock on `NAME.lock` beside it for as long as it
//! lives: whoever has the lock has the name, whatever else a crash left lying around.

use std::{
    ffi::OsStr,
    fmt, fs,
    io::{self, ErrorKind},
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    str::FromStr,
};

use rustix::{
    fs::{FlockOperation, flock, fstat},
    io::Errno,
    process::geteuid,
};

use crate::unix_socket::{PrivateListener, SocketError};

/// The name of a VM: letters, digits, `-`, `_` and `.`, beginning with a letter or digit, 64 at most.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VmName(String);

/// A name that a VM cannot have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no name for a VM: it may have up to 64 letters, digits, '-', '_' and '.', and begins with a letter or digit"
)]
pub struct VmNameError(String);

impl VmName {
    /// The name of a VM whose user gave it none; different for each process.
    #[must_use]
    pub fn of_this_process() -> Self {
        Self(format!("vm-{}", std::process::id()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VmName {
    type Err = VmNameError;

    fn from_str(text: &str) -> Result<Self, VmNameError> {
        let sound = (1..=64).contains(&text.len())
            && text.starts_with(|first: char| first.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        if sound {
            Ok(Self(text.to_owned()))
        } else {
            Err(VmNameError(text.to_owned()))
        }
    }
}

impl fmt::Display for VmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a user names a running VM: by its name, or by the path of its control socket, which is told by its slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VmAddress {
    /// By name.
    Name(VmName),
    /// By the control socket.
    Socket(PathBuf),
}

impl VmAddress {
    /// Where the VM listens, if there is such a VM.
    ///
    /// # Errors
    ///
    /// There is no folder for names; see [`PlaceError::NoFolder`].
    pub fn socket(&self) -> Result<PathBuf, PlaceError> {
        match self {
            Self::Name(name) => Ok(socket_in(&runtime_folder()?, name)),
            Self::Socket(path) => Ok(path.clone()),
        }
    }
}

impl FromStr for VmAddress {
    type Err = VmNameError;

    fn from_str(text: &str) -> Result<Self, VmNameError> {
        if text.contains('/') {
            Ok(Self::Socket(text.into()))
        } else {
            Ok(Self::Name(text.parse()?))
        }
    }
}

impl fmt::Display for VmAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Socket(path) => path.display().fmt(f),
        }
    }
}

/// Why a VM has no place.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Nothing says where a user's runtime files are.
    #[error(
        "there is no folder for control sockets: XDG_RUNTIME_DIR is not set to an absolute path; set it, or name the socket \
         itself (--control PATH to make it, PATH in place of a VM's name to use it)"
    )]
    NoFolder,
    /// The folder could be used by others.
    #[error(
        "the folder for control sockets {0:?} is not this user's alone; give it the mode 0700, or give --control PATH"
    )]
    NotPrivate(PathBuf),
    /// Somebody has the name.
    #[error("there is a VM called {0} already; choose another --name, or end that one with \"vm quit {0}\"")]
    NameTaken(VmName),
    /// Somebody has the socket.
    #[error("a VM has its control socket at {0:?} already; choose another --control")]
    SocketTaken(PathBuf),
    /// The socket could not be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The user's own place for the socket cannot be used.
    #[error("cannot make the control socket {path:?}: {error}; choose another --control")]
    Control {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// Anything that the system refuses.
    #[error(
        "cannot use {path:?} for control sockets: {error}; set XDG_RUNTIME_DIR to a folder of yours, or give --control PATH"
    )]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
}

/// The place of a VM: its name and its socket belong to this process as long as this lives.
#[derive(Debug)]
pub struct Place {
    socket: PathBuf,
    _lock: LockFile,
}

impl Place {
    /// Takes the place of a VM called `name`, or the one at `control` if that is given. Nothing listens yet.
    ///
    /// # Errors
    ///
    /// See [`PlaceError`].
    pub fn claim(name: &VmName, control: Option<&Path>) -> Result<Self, PlaceError> {
        let (socket, lock, taken): (_, _, Box<dyn FnOnce() -> PlaceError>) = match control {
            None => {
                let folder = runtime_folder()?;
                make_private(&folder)?;
                let (name, lock) = (name.clone(), folder.join(format!("{name}.lock")));
                (
                    socket_in(&folder, &name),
                    lock,
                    Box::new(move || PlaceError::NameTaken(name)),
                )
            }
            Some(path) => {
                let mut lock = path.as_os_str().to_owned();
                lock.push(".lock");
                let socket = path.to_owned();
                (
                    path.to_owned(),
                    lock.into(),
                    Box::new(move || PlaceError::SocketTaken(socket)),
                )
            }
        };
        let lock = LockFile::take(&lock).map_err(|error| match control {
            Some(path) => PlaceError::Control {
                path: path.to_owned(),
                error,
            },
            None => PlaceError::Io { path: lock, error },
        })?;
        Ok(Self {
            socket,
            _lock: lock.ok_or_else(taken)?,
        })
    }

    /// Where the VM is to listen.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Listens there.
    ///
    /// # Errors
    ///
    /// See [`SocketError`].
    pub fn listen(&self) -> Result<PrivateListener, SocketError> {
        PrivateListener::bind(&self.socket)
    }
}

/// The VMs whose sockets are in this user's folder, sorted by name. Some may be dead.
///
/// # Errors
///
/// The folder cannot be read.
pub fn list() -> Result<Vec<(VmName, PathBuf)>, PlaceError> {
    let folder = runtime_folder()?;
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(PlaceError::Io { path: folder, error }),
    };
    let mut vms: Vec<_> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let name = path.file_name()?.to_str()?.strip_suffix(".sock")?.parse().ok()?;
            Some((name, path))
        })
        .collect();
    vms.sort();
    Ok(vms)
}

fn socket_in(folder: &Path, name: &VmName) -> PathBuf {
    folder.join(format!("{name}.sock"))
}

fn runtime_folder() -> Result<PathBuf, PlaceError> {
    runtime_folder_of(std::env::var_os("XDG_RUNTIME_DIR").as_deref(), geteuid().is_root())
}

fn runtime_folder_of(xdg: Option<&OsStr>, root: bool) -> Result<PathBuf, PlaceError> {
    match xdg {
        // A relative one is to be ignored, says the specification.
        Some(folder) if Path::new(folder).is_absolute() => Ok(Path::new(folder).join("tern")),
        _ if root => Ok("/run/tern".into()),
        _ => Err(PlaceError::NoFolder),
    }
}

fn make_private(folder: &Path) -> Result<(), PlaceError> {
    let failed = |error| PlaceError::Io {
        path: folder.to_owned(),
        error,
    };
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    let found = fs::symlink_metadata(folder).map_err(failed)?;
    let private = found.is_dir() && found.uid() == geteuid().as_raw() && found.mode() & 0o077 == 0;
    if private {
        Ok(())
    } else {
        Err(PlaceError::NotPrivate(folder.to_owned()))
    }
}

/// A file that exists and is locked as long as this lives.
#[derive(Debug)]
struct LockFile {
    fd: OwnedFd,
    path: PathBuf,
}

impl LockFile {
    /// Takes the lock, or says that somebody has it.
    fn take(path: &Path) -> io::Result<Option<Self>> {
        loop {
            let options = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path);
            let fd = OwnedFd::from(options?);
            match flock(&fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            // The one who had it before may have removed the file between our opening and our locking it: then this
            // is a lock on a file that nobody else will find.
            let ours = Self {
                fd,
                path: path.to_owned(),
            };
            if ours.is_in_place() {
                return Ok(Some(ours));
            }
        }
    }

    fn is_in_place(&self) -> bool {
        match (fstat(&self.fd), fs::symlink_metadata(&self.path)) {
            (Ok(ours), Ok(there)) => (ours.st_dev, ours.st_ino) == (there.dev(), there.ino()),
            _ => false,
        }
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        if self.is_in_place() {
            // While it is still locked, so that nobody has taken it yet.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::TempDir;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn names_are_what_fits_a_file_and_a_command_line() {
        for name in ["a", "vm-1", "a.b_c", "9"] {
            assert_eq!(name.parse::<VmName>().expect(name).as_str(), name);
        }
        for name in ["", ".", "..", "-a", "a/b", "a b", "ä", &"x".repeat(65)] {
            assert!(name.parse::<VmName>().is_err(), "{name}");
        }
    }

    #[test]
    fn a_vm_is_addressed_by_name_or_by_a_path() {
        assert_eq!("a".parse(), Ok(VmAddress::Name(VmName("a".into()))));
        assert_eq!("./a".parse(), Ok(VmAddress::Socket("./a".into())));
        assert!("a b".parse::<VmAddress>().is_err());
    }

    #[test]
    fn sockets_are_in_the_users_runtime_folder_and_roots_in_run() {
        let of = |xdg: Option<&str>, root| runtime_folder_of(xdg.map(OsStr::new), root).ok();
        assert_eq!(of(Some("/run/user/7"), false), Some("/run/user/7/tern".into()));
        assert_eq!(of(Some("/x"), true), Some("/x/tern".into()));
        assert_eq!(of(Some("relative"), true), Some("/run/tern".into()));
        assert_eq!(of(None, true), Some("/run/tern".into()));
        assert_eq!(of(None, false), None);
    }

    #[test]
    fn the_folder_is_made_private_and_an_open_one_is_refused() {
        let dir = TempDir::new();
        let folder = dir.path().join("tern");
        make_private(&folder).expect("made");
        assert_eq!(fs::metadata(&folder).expect("there").mode() & 0o777, 0o700);
        make_private(&folder).expect("found");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("ours");
        assert!(matches!(make_private(&folder), Err(PlaceError::NotPrivate(_))));
    }

    #[test]
    fn a_place_is_taken_once_and_free_again_when_its_owner_goes() {
        let dir = TempDir::new();
        let control = dir.path().join("control");
        let name = VmName::of_this_process();
        let first = Place::claim(&name, Some(&control)).expect("free");
        let listener = first.listen().expect("free");
        let second = Place::claim(&name, Some(&control));
        assert!(matches!(second, Err(PlaceError::SocketTaken(_))), "{second:?}");
        drop((listener, first));
        assert_eq!(
            fs::read_dir(dir.path()).expect("there").count(),
            0,
            "nothing is left behind"
        );
        Place::claim(&name, Some(&control)).expect("free again");
    }

    #[test]
    fn a_place_of_ones_own_that_cannot_be_had_is_named_with_the_option() {
        let nowhere = Path::new("/nonexistent/control");
        let error = Place::claim(&VmName::of_this_process(), Some(nowhere)).expect_err("no such folder");
        let error = error.to_string();
        assert!(
            error.contains("/nonexistent/control\"") && error.contains("another --control"),
            "{error}"
        );
    }

    #[test]
    fn what_a_killed_process_left_behind_does_not_take_a_name() {
        let dir = TempDir::new();
        let control = dir.path().join("control");
        drop(std::os::unix::net::UnixListener::bind(&control).expect("fresh"));
        fs::write(dir.path().join("control.lock"), "").expect("fresh");
        let place = Place::claim(&VmName::of_this_process(), Some(&control)).expect("nobody holds the lock");
        place.listen().expect("the stale socket is replaced");
    }

    #[test]
    fn a_lock_on_a_file_that_was_removed_meanwhile_is_no_lock() {
        let dir = TempDir::new();
        let path = dir.path().join("lock");
        let first = LockFile::take(&path).expect("a sound path").expect("free");
        fs::remove_file(&path).expect("there");
        let second = LockFile::take(&path).expect("a sound path").expect("another file");
        drop(first);
        assert!(second.is_in_place(), "the first one removed only what was its own");
    }
}
