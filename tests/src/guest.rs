//! The embedded guest as a test sees it: its lines on the console, its keys.

/// What a guest says only as it boots.
///
/// A crash is a triple fault, after which a guest boots and then works as ever, and would pass for one that has never
/// crashed. So nobody who waits for anything else passes over such a line.
#[must_use]
pub fn boots(line: &str) -> bool {
    ["tern-guest: ready", "GUEST-READY"]
        .iter()
        .any(|begin| line.starts_with(begin))
}

/// A heartbeat, and what it counts: `beat 7`, or `beat 7 t=11.4 cpus=2 rounds=95..102 timers=94 mails=95 xsaves=0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat(String);

/// How many beats may be missing where a guest goes from one console to another: a line that is torn between them is none.
const TORN: u64 = 1;
/// No clock goes on by more seconds than a test may take.
const LONGEST: u64 = 600;

impl Beat {
    /// The heartbeat that this line is.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let number = line.strip_prefix("beat ")?;
        let number = number.split_once(" t=").map_or(number, |(number, _)| number);
        number.parse::<u64>().ok()?;
        Some(Self(line.to_owned()))
    }

    /// The number behind `key`; of a range, and of a fraction, the first.
    fn count(&self, key: &str) -> Option<u64> {
        let (_, rest) = self.0.split_once(key)?;
        let end = rest.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(rest.len());
        rest[..end].parse().ok()
    }

    /// Whether one guest can have said this one later than `earliest` and no later than right after `latest`, without having
    /// been booted in between: then it would count from the beginning again.
    ///
    /// # Errors
    ///
    /// What has not gone on.
    pub fn follows(&self, earliest: &Self, latest: &Self) -> Result<(), String> {
        let has_not = |what: &str| {
            Err(format!(
                "{what} has not gone on from {earliest:?} up to {latest:?}: {self:?}"
            ))
        };
        let number = |beat: &Self| beat.count("beat ").unwrap_or_default();
        if number(self) <= number(earliest) || number(self) > number(latest) + TORN + 1 {
            return has_not("the number of heartbeats");
        }
        for key in [" t=", " rounds=", " timers=", " mails=", " xsaves="] {
            let Some(before) = earliest.count(key) else { continue };
            let most = if key == " t=" { before + LONGEST } else { u64::MAX };
            if !self.count(key).is_some_and(|count| (before..=most).contains(&count)) {
                return has_not(key);
            }
        }
        Ok(())
    }
}

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
    ///
    /// # Panics
    ///
    /// If the guest boots before, or gives up.
    #[track_caller]
    fn wait_beat(&mut self) -> Beat {
        let line = self.wait_line("a heartbeat", |line| {
            Beat::parse(line).is_some() || line.starts_with("panic") || boots(line)
        });
        Beat::parse(&line).unwrap_or_else(|| panic!("the guest has started anew, or ended: {line}\n{}", self.about()))
    }

    /// The last heartbeat so far, whether it was waited for or not.
    fn last_beat(&self) -> Option<Beat> {
        let console = self.console();
        let complete = console.rsplit_once('\n').map_or("", |(complete, _)| complete);
        complete.lines().rev().find_map(Beat::parse)
    }

    /// Has the guest verify every page, and expects that all are good; returns how many there are.
    ///
    /// # Panics
    ///
    /// If the guest names a bad page or a failed check, or boots.
    #[track_caller]
    fn verify(&mut self) -> u64 {
        self.type_keys("v");
        let line = self.wait_line("the guest's verdict", |line| {
            line.starts_with("verify ") || line.contains("FAILED") || line.starts_with("panic") || boots(line)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(line: &str) -> Beat {
        Beat::parse(line).expect("a heartbeat")
    }

    #[test]
    fn a_heartbeat_follows_another_unless_something_began_anew() {
        let follows = |earliest: &str, latest: &str, now: &str| beat(now).follows(&beat(earliest), &beat(latest));
        for (earliest, latest, now) in [
            ("beat 7", "beat 7", "beat 8"),
            // One is torn between two consoles.
            ("beat 7", "beat 7", "beat 9"),
            // A snapshot, after which its source went on.
            ("beat 7", "beat 30", "beat 8"),
            ("beat 7", "beat 30", "beat 31"),
            (
                "beat 7 t=9.9 rounds=5..9 timers=3",
                "beat 7 t=9.9",
                "beat 8 t=9.95 rounds=5..6 timers=4",
            ),
        ] {
            follows(earliest, latest, now).expect("one guest");
        }
        for (earliest, latest, now, what) in [
            ("beat 7", "beat 7", "beat 1", "heartbeats"),
            ("beat 7", "beat 7", "beat 7", "heartbeats"),
            ("beat 7", "beat 7", "beat 10", "heartbeats"),
            ("beat 1", "beat 30", "beat 1", "heartbeats"),
            ("beat 7 t=9.9", "beat 7 t=9.9", "beat 8 t=8.1", "t="),
            ("beat 7 t=9.9", "beat 7 t=9.9", "beat 8 t=9000.1", "t="),
            (
                "beat 7 t=9.9 mails=4",
                "beat 7 t=9.9 mails=4",
                "beat 8 t=9.95 mails=3",
                "mails=",
            ),
            (
                "beat 7 t=9.9 mails=4",
                "beat 7 t=9.9 mails=4",
                "beat 8 t=9.95",
                "mails=",
            ),
        ] {
            let why = follows(earliest, latest, now).expect_err(now);
            assert!(why.contains(what), "{why}");
        }
        assert_eq!(Beat::parse("beat it"), None);
        assert_eq!(Beat::parse("eat 7"), None);
    }
}
