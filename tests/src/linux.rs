//! The Linux test guest of `tools/guest-linux`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::guest::{EmbeddedGuest, boots};
use crate::process::Scratch;

const INITRD: &str = "initrd-min.cpio";

/// What no line of a healthy guest contains.
const BAD: [&str; 7] = [
    " BAD ",
    "Kernel panic",
    "BUG:",
    "Oops",
    "WARNING:",
    "rcu: INFO",
    "soft lockup",
];

/// The guest's kernel and its initramfs.
#[derive(Clone, Debug)]
pub struct LinuxGuest {
    folder: PathBuf,
}

impl LinuxGuest {
    /// The guest for several processors and ACPI, from the cache outside of the checkout. Where it is not there it is built,
    /// which takes some minutes once.
    ///
    /// # Panics
    ///
    /// If it cannot be built; the message names the remedy.
    #[must_use]
    pub fn built() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/guest-linux/build.sh");
        let built = Command::new(&script)
            .args(["--variant", "full"])
            .output()
            .expect("tools/guest-linux/build.sh can be run");
        let complaint = String::from_utf8_lossy(&built.stderr);
        assert!(
            built.status.success(),
            "the Linux test guest is not there and cannot be built; `tools/setup tests` installs what that takes:\n{complaint}"
        );
        let folder = String::from_utf8_lossy(&built.stdout);
        let folder = folder.lines().last().expect("the script's last line is the folder");
        Self { folder: folder.into() }
    }

    /// The same guest in another folder.
    ///
    /// # Panics
    ///
    /// If it cannot be copied.
    #[must_use]
    pub fn copied_to(&self, folder: &Scratch) -> Self {
        for name in ["vmlinux", "bzImage", INITRD] {
            std::fs::copy(self.folder.join(name), folder.file(name)).expect("a file can be copied");
        }
        Self {
            folder: folder.path().to_owned(),
        }
    }

    /// The arguments of `vm run` that boot it by one of its kernels, `vmlinux` or `bzImage`.
    #[must_use]
    pub fn args(&self, kernel: &str) -> [String; 4] {
        let file = |name: &str| self.folder.join(name).display().to_string();
        ["--kernel".to_owned(), file(kernel), "--initrd".to_owned(), file(INITRD)]
    }
}

/// A console with the Linux guest behind it.
pub trait LinuxConsole: EmbeddedGuest {
    /// Waits for a line that begins with `begin`; returns it.
    ///
    /// # Panics
    ///
    /// If the guest complains before, or boots.
    #[track_caller]
    fn wait_for(&mut self, begin: &str) -> String {
        let line = self.wait_line(begin, |line| {
            line.contains(begin) || boots(line) || BAD.iter().any(|bad| line.contains(bad))
        });
        assert!(line.contains(begin), "the guest says: {line}\n{}", self.about());
        line
    }

    /// Has the guest verify all its pages, and expects that all are good.
    ///
    /// # Panics
    ///
    /// If one is not.
    #[track_caller]
    fn verify_memory(&mut self) {
        self.type_keys("v");
        self.wait_for("verify ok ");
        let console = self.console();
        let bad = console.lines().find(|line| BAD.iter().any(|bad| line.contains(bad)));
        assert!(bad.is_none(), "the guest says: {}", bad.unwrap_or_default());
    }
}

impl<G: EmbeddedGuest> LinuxConsole for G {}
