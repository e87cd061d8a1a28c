//! What the unit tests of this crate share.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

/// A directory that is removed with its contents at the end of the test.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        loop {
            let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("tern-test-{}-{serial}", std::process::id()));
            match fs::create_dir(&path) {
                // Left by a killed process of this number.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                made => {
                    made.expect("a fresh directory");
                    return Self(path);
                }
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Takes requests of devices that no test makes.
pub(crate) struct NoRequests;

impl hw::core::MachineEvents for NoRequests {
    fn reset_requested(&self, _: &str) {}

    fn shutdown_requested(&self) {}

    fn guest_exited(&self, _: u8) {}

    fn guest_panicked(&self) {}

    fn guest_crash_loaded(&self) {}
}
