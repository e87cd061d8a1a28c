//! The embedded guest as a test sees it: its lines on the console, its keys.

use crate::process::VmProcess;

impl VmProcess {
    /// Waits until the guest has filled its memory and begun its work.
    #[track_caller]
    pub fn wait_ready(&mut self) -> String {
        self.wait_line("the guest to be ready", |line| line.starts_with("tern-guest: ready"))
    }

    /// Waits for the next heartbeat.
    #[track_caller]
    pub fn wait_beat(&mut self) {
        self.wait_line("a heartbeat", |line| line.starts_with("beat "));
    }

    /// Has the guest verify every page, and expects that all are good; returns how many there are.
    ///
    /// # Panics
    ///
    /// If the guest names a bad page or a failed check.
    #[track_caller]
    pub fn verify(&mut self) -> u64 {
        self.type_keys("v");
        let line = self.wait_line("the guest's verdict", |line| {
            line.starts_with("verify ") || line.contains("FAILED") || line.starts_with("panic")
        });
        let pages = line
            .strip_prefix("verify ok ")
            .and_then(|rest| rest.strip_suffix(" pages"));
        let pages = pages.and_then(|pages| pages.parse().ok());
        let pages = pages.unwrap_or_else(|| panic!("the guest says: {line}\n{}", self.messages()));
        self.check_no_failure();
        pages
    }

    /// Expects that no check of the guest has failed so far.
    ///
    /// # Panics
    ///
    /// If one has.
    #[track_caller]
    pub fn check_no_failure(&self) {
        let console = self.console();
        let bad = console
            .lines()
            .find(|line| line.contains("FAILED") || line.starts_with("panic"));
        assert!(bad.is_none(), "the guest says: {}", bad.unwrap_or_default());
    }
}
