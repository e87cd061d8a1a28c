//! The embedded guest as a test sees it: its lines on the console, its keys.

/// A console with the embedded guest behind it.
pub trait EmbeddedGuest {
    /// Types `keys` on the guest's console.
    fn type_keys(&mut self, keys: &str);

    /// Waits for a complete console line that `wanted` accepts, after those that were waited for before; returns it.
    #[track_caller]
    fn wait_line(&mut self, what: &str, wanted: impl FnMut(&str) -> bool) -> String;

    /// Everything on the console so far.
    fn console(&self) -> String;

    /// What is known beside the console, for a test that fails.
    fn about(&self) -> String;

    /// Waits until the guest has filled its memory and begun its work.
    #[track_caller]
    fn wait_ready(&mut self) -> String {
        self.wait_line("the guest to be ready", |line| line.starts_with("tern-guest: ready"))
    }

    /// Waits for the next heartbeat.
    #[track_caller]
    fn wait_beat(&mut self) {
        self.wait_line("a heartbeat", |line| line.starts_with("beat "));
    }

    /// Has the guest verify every page, and expects that all are good; returns how many there are.
    ///
    /// # Panics
    ///
    /// If the guest names a bad page or a failed check.
    #[track_caller]
    fn verify(&mut self) -> u64 {
        self.type_keys("v");
        let line = self.wait_line("the guest's verdict", |line| {
            line.starts_with("verify ") || line.contains("FAILED") || line.starts_with("panic")
        });
        let pages = line
            .strip_prefix("verify ok ")
            .and_then(|rest| rest.strip_suffix(" pages"));
        let pages = pages.and_then(|pages| pages.parse().ok());
        let pages = pages.unwrap_or_else(|| panic!("the guest says: {line}\n{}", self.about()));
        self.check_no_failure();
        pages
    }

    /// Waits for the end of a verification that was asked for and that has to fail; returns the first line that names a
    /// bad page, and how many there are.
    ///
    /// # Panics
    ///
    /// If the guest finds its pages good, or names none.
    #[track_caller]
    fn failed_verdict(&mut self) -> (String, u64) {
        let mut first = None;
        let last = self.wait_line("a verification that fails", |line| {
            if line.starts_with("verify FAILED page 0x") {
                first.get_or_insert_with(|| line.to_owned());
            }
            line.starts_with("verify ok ") || line.starts_with("verify FAILED ") && line.ends_with(" pages")
        });
        let bad = last
            .strip_prefix("verify FAILED ")
            .and_then(|rest| rest.split_once(" of "));
        let bad = bad.and_then(|(bad, _)| bad.parse().ok());
        match (first, bad) {
            (Some(first), Some(bad)) => (first, bad),
            _ => panic!("the guest finds no bad page: {last}\n{}", self.about()),
        }
    }

    /// Expects that no check of the guest has failed so far.
    ///
    /// # Panics
    ///
    /// If one has.
    #[track_caller]
    fn check_no_failure(&self) {
        let console = self.console();
        let bad = console
            .lines()
            .find(|line| line.contains("FAILED") || line.starts_with("panic"));
        assert!(bad.is_none(), "the guest says: {}", bad.unwrap_or_default());
    }
}
