//! What the unit tests of this crate share.

use std::path::Path;

/// A directory that is removed with its contents at the end of the test.
pub(crate) struct TempDir(tempfile::TempDir);

impl TempDir {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a fresh directory"))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
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

    fn device_released(&self, _: &std::sync::Arc<vmstate::qom::Object>) {}
}
