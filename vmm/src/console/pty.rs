//! A pseudo-terminal as the console: other programs (`screen`, `minicom`) open its other end by name, one after another.

use std::{
    io,
    os::{fd::OwnedFd, unix::ffi::OsStringExt},
    path::{Path, PathBuf},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{Mode, OFlags, open},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{OptionalActions, tcgetattr, tcsetattr},
    time::Timespec,
};

use super::port::Port;

/// A pseudo-terminal whose master is the console's.
#[derive(Debug)]
pub(super) struct Pty {
    master: OwnedFd,
    path: PathBuf,
}

impl Pty {
    /// Makes a pseudo-terminal. It is raw: what a guest prints reaches the other end as it is, and nothing is echoed.
    pub(super) fn open() -> io::Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?.into_bytes();
        let path = PathBuf::from(std::ffi::OsString::from_vec(name));
        // Opened and closed once, so that from the beginning the master shows that nobody is there.
        let slave = open(&path, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
        let mut modes = tcgetattr(&slave)?;
        modes.make_raw();
        tcsetattr(&slave, OptionalActions::Now, &modes)?;
        Ok(Self { master, path })
    }

    /// The other end's name, such as `/dev/pts/7`.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the other end, for a program that is started with it.
    pub(super) fn open_other_end(&self) -> io::Result<OwnedFd> {
        Ok(open(
            &self.path,
            OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
            Mode::empty(),
        )?)
    }

    /// Whether a program has the other end open. The kernel announces only that the last one has gone, so this is asked.
    pub(super) fn has_client(&self) -> bool {
        let no_wait = Timespec::default();
        let mut fds = [PollFd::new(&self.master, PollFlags::IN)];
        poll(&mut fds, Some(&no_wait)).is_ok_and(|_| !fds[0].revents().contains(PollFlags::HUP))
    }

    /// The master for one direction.
    pub(super) fn port(&self) -> io::Result<Port> {
        Port::nonblocking(self.master.try_clone()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs::File,
        io::{Read, Write},
    };

    #[test]
    fn a_client_is_seen_while_it_is_there_and_bytes_pass_unchanged() {
        let pty = Pty::open().expect("a pseudo-terminal");
        assert!(!pty.has_client());
        let port = pty.port().expect("a descriptor");
        let mut client = File::options()
            .read(true)
            .write(true)
            .open(pty.path())
            .expect("it can be opened");
        assert!(pty.has_client());
        assert_eq!(port.write(b"a\nb"), Ok(3));
        let mut got = [0; 3];
        client.read_exact(&mut got).expect("three bytes");
        assert_eq!(&got, b"a\nb", "no carriage return was added");
        client.write_all(b"\x03\r").expect("room");
        assert_eq!(port.read(&mut [0; 8]), Ok(2), "neither a signal nor a line end");
        drop(client);
        assert!(!pty.has_client());
    }
}
