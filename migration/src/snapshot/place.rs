//! A file that has its name only once it is whole.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};

/// A file on its way to its name. Dropped before [`Self::publish`], it leaves nothing.
///
/// It has no name at all where the file system can do that, so that even a killed process leaves none; elsewhere it is
/// called `.NAME.tmp-PID` meanwhile.
#[derive(Debug)]
pub(super) struct UnnamedFile {
    file: File,
    target: PathBuf,
    /// The name that the file has meanwhile, if it needs one.
    temporary: Option<PathBuf>,
}

impl UnnamedFile {
    /// A new file that is to become `target`, readable by its owner alone.
    ///
    /// A link is followed; what is there and is no ordinary file is refused.
    pub(super) fn create(target: &Path) -> io::Result<Self> {
        let target = &real(target)?;
        replaceable(target)?;
        match Self::without_name(target) {
            Ok(file) => Ok(Self {
                file,
                target: target.to_owned(),
                temporary: None,
            }),
            Err(_) => Self::with_name(target),
        }
    }

    fn without_name(target: &Path) -> io::Result<File> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(folder(target), flags, Mode::RUSR | Mode::WUSR)?);
        // A file without a name gets one through /proc, which a container may lack.
        proc_path(&file).metadata()?;
        Ok(file)
    }

    fn with_name(target: &Path) -> io::Result<Self> {
        let temporary = temporary_name(target);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        Ok(Self {
            file,
            target: target.to_owned(),
            temporary: Some(temporary),
        })
    }

    /// The file itself.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Makes the file durable and gives it its name, in place of a file that has it now.
    pub(super) fn publish(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        // It may have come meanwhile.
        replaceable(&self.target)?;
        if self.temporary.is_none() && !self.take_free_name()? {
            // A link replaces nothing, a rename does: so the file takes the temporary name for a moment.
            let temporary = temporary_name(&self.target);
            // Whatever is there was left by a process of this number that was killed at this very point.
            let _ = std::fs::remove_file(&temporary);
            self.link(&temporary)?;
            self.temporary = Some(temporary);
        }
        if let Some(temporary) = &self.temporary {
            std::fs::rename(temporary, &self.target)?;
        }
        self.temporary = None;
        File::open(folder(&self.target))?.sync_all()
    }

    /// Takes the target's name if nobody has it.
    fn take_free_name(&self) -> io::Result<bool> {
        match self.link(&self.target) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn link(&self, name: &Path) -> io::Result<()> {
        let flags = AtFlags::SYMLINK_FOLLOW;
        Ok(rustix::fs::linkat(CWD, proc_path(&self.file), CWD, name, flags)?)
    }
}

impl Drop for UnnamedFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // Nobody can be told; the name says whose leftover it is.
            let _ = std::fs::remove_file(temporary);
        }
    }
}

/// Where a link at `target` leads, or else `target` itself.
fn real(target: &Path) -> io::Result<PathBuf> {
    if target.is_symlink() {
        std::fs::canonicalize(target)
            .map_err(|error| io::Error::new(error.kind(), format!("this is a link that leads nowhere ({error})")))
    } else {
        Ok(target.to_owned())
    }
}

/// A snapshot takes the place of an ordinary file, and of nothing else: not of a device, a socket or a pipe that somebody
/// lives by.
fn replaceable(target: &Path) -> io::Result<()> {
    let refuse = |kind, why: &str| Err(io::Error::new(kind, why));
    match std::fs::symlink_metadata(target) {
        Ok(found) if found.is_dir() => refuse(
            io::ErrorKind::IsADirectory,
            "this is a folder; give the name of a file in it",
        ),
        Ok(found) if !found.is_file() => refuse(
            io::ErrorKind::AlreadyExists,
            "this is there already and is no ordinary file; give another name",
        ),
        Ok(_) => Ok(()),
        Err(_) if target.file_name().is_none() => refuse(io::ErrorKind::IsADirectory, "this is no name of a file"),
        // A folder that is missing is found out by whoever makes the file.
        Err(_) => Ok(()),
    }
}

fn folder(target: &Path) -> &Path {
    match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn temporary_name(target: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(format!(".tmp-{}", std::process::id()));
    folder(target).join(name)
}

fn proc_path(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scratch;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    fn entries(folder: &Path) -> Vec<OsString> {
        let mut names: Vec<_> = std::fs::read_dir(folder)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_published_file_replaces_the_old_one_and_is_its_owners_alone() {
        for create in [UnnamedFile::create, UnnamedFile::with_name] {
            let scratch = Scratch::new();
            let target = scratch.path().join("guest.snap");
            std::fs::write(&target, "old").expect("written");
            let new = create(&target).expect("created");
            new.file().write_all(b"new").expect("written");
            assert_eq!(std::fs::read(&target).expect("still there"), b"old");
            new.publish().expect("published");
            assert_eq!(std::fs::read(&target).expect("there"), b"new");
            assert_eq!(
                std::fs::metadata(&target).expect("there").permissions().mode() & 0o7777,
                0o600
            );
            assert_eq!(entries(scratch.path()), ["guest.snap"]);
        }
    }

    #[test]
    fn a_leftover_under_the_temporary_name_is_no_obstacle() {
        let scratch = Scratch::new();
        let target = scratch.path().join("guest.snap");
        std::fs::write(&target, "old").expect("written");
        std::fs::write(temporary_name(&target), "left over").expect("written");
        UnnamedFile::create(&target)
            .expect("created")
            .publish()
            .expect("published");
        assert_eq!(std::fs::read(&target).expect("there"), b"");
        assert_eq!(entries(scratch.path()), ["guest.snap"]);
    }

    #[test]
    fn a_file_that_is_given_up_leaves_nothing() {
        for create in [UnnamedFile::create, UnnamedFile::with_name] {
            let scratch = Scratch::new();
            drop(create(&scratch.path().join("guest.snap")).expect("created"));
            assert!(entries(scratch.path()).is_empty());
        }
    }

    #[test]
    fn a_file_has_no_name_while_it_grows() {
        let scratch = Scratch::new();
        let _growing = UnnamedFile::create(&scratch.path().join("guest.snap")).expect("created");
        assert!(entries(scratch.path()).is_empty(), "a killed save would leave this");
    }

    #[test]
    fn what_is_no_ordinary_file_is_not_replaced_whenever_it_comes() {
        let scratch = Scratch::new();
        let socket = scratch.path().join("control.sock");
        let early = UnnamedFile::create(&socket).expect("nothing is there");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        for error in [
            UnnamedFile::create(&socket).expect_err("a socket"),
            early.publish().expect_err("a socket by now"),
            UnnamedFile::create(Path::new("/dev/null")).expect_err("a device"),
        ] {
            assert!(error.to_string().contains("no ordinary file"), "{error}");
        }
        assert_eq!(entries(scratch.path()), ["control.sock"]);
    }

    #[test]
    fn a_link_is_followed_and_stays() {
        let scratch = Scratch::new();
        let (target, link) = (scratch.path().join("guest.snap"), scratch.path().join("link"));
        std::os::unix::fs::symlink(&target, &link).expect("a link");
        let error = UnnamedFile::create(&link).expect_err("it leads nowhere");
        assert!(error.to_string().contains("leads nowhere"), "{error}");
        std::fs::write(&target, "old").expect("written");
        UnnamedFile::create(&link)
            .expect("created")
            .publish()
            .expect("published");
        assert!(link.is_symlink());
        assert_eq!(std::fs::read(&target).expect("there"), b"");
    }

    #[test]
    fn a_folder_is_no_name_for_a_snapshot() {
        let scratch = Scratch::new();
        let error = UnnamedFile::create(scratch.path()).expect_err("a folder");
        assert!(error.to_string().contains("a folder"), "{error}");
    }
}
