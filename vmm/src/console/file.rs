//! A file as the console's output.
//!
//! A write to a file can take as long as its disk likes, so a thread does it, and a pipe stands between. What does not fit the
//! pipe and the console's queue, because the disk stands still, is lost: a log is not worth a guest that waits.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::OwnedFd,
    path::Path,
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, open},
    pipe::{PipeFlags, pipe_with},
};

use super::port::Port;

/// The thread that writes a file.
#[derive(Debug)]
pub(super) struct FileWriter(Receiver<()>);

impl FileWriter {
    /// Opens `path`, which begins empty as QEMU's file back end has it, and starts to write what comes through the port.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Port)> {
        // Without waiting, for a pipe that nobody reads.
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = open(path, flags | OFlags::NONBLOCK, Mode::from_raw_mode(0o666))?;
        fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        let (done, is_done) = channel();
        thread::Builder::new().name("console-file".to_owned()).spawn(move || {
            copy(read, file.into());
            let _ = done.send(());
        })?;
        Ok((Self(is_done), Port::nonblocking(write)?))
    }

    /// Waits until everything is written that went through the port, which is closed; not longer than `patience`.
    pub(super) fn finish(self, patience: Duration) -> bool {
        !matches!(self.0.recv_timeout(patience), Err(RecvTimeoutError::Timeout))
    }
}

/// Copies until the end. A disk that is full takes nothing for now; what came meanwhile is lost, and the console goes on.
fn copy(from: OwnedFd, mut to: File) {
    let mut from = File::from(from);
    let mut buffer = [0; 16 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => drop(to.write_all(&buffer[..length])),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::TempDir;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn the_file_begins_empty_and_holds_everything_when_the_writer_has_finished() {
        let dir = TempDir::new();
        let path = dir.path().join("console.log");
        std::fs::write(&path, "of an earlier guest").expect("writable");
        let (writer, port) = FileWriter::open(&path).expect("a file");
        assert_eq!(port.write(b"hello\n"), Ok(6));
        drop(port);
        assert!(writer.finish(PATIENCE));
        assert_eq!(std::fs::read(&path).expect("there"), b"hello\n");
    }

    #[test]
    fn a_full_disk_ends_neither_the_thread_nor_the_guest() {
        let (writer, port) = FileWriter::open(Path::new("/dev/full")).expect("a device");
        for _ in 0..100 {
            while port.write(&[b'x'; 4096]) == Err(rustix::io::Errno::AGAIN) {
                thread::yield_now();
            }
        }
        drop(port);
        assert!(writer.finish(PATIENCE));
    }

    #[test]
    fn a_pipe_that_nobody_reads_is_refused_instead_of_waited_for() {
        let dir = TempDir::new();
        let path = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, Mode::RWXU, 0).expect("a pipe");
        assert!(FileWriter::open(&path).is_err());
    }
}
