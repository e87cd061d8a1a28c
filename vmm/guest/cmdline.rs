//! The words of the command line. Pure, so that the VMM's unit tests can run it (`vmm/src/guest.rs`).

/// How fast pages are dirtied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// So many MiB in a second, all processors together; 0 for none.
    MibPerSecond(u64),
    /// Without a pause.
    Max,
}

/// What the guest has been told to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Size of the working set; without it three quarters of RAM.
    pub mib: Option<u64>,
    /// How fast pages are dirtied.
    pub rate: Rate,
    /// How much of the working set is dirtied over and over; without it all.
    pub dirty_mib: Option<u64>,
    /// Makes the contents of pages differ from run to run.
    pub seed: u64,
    /// Milliseconds between heartbeats; 0 for none.
    pub beat_ms: u64,
    /// Seconds between verifications; 0 for those on request only.
    pub verify_s: u64,
    /// Ends the guest with status 0 after so many heartbeats; 0 for never.
    pub exit_beats: u64,
    /// Percentage of the working set's pages that are filled and dirtied; the others stay zero.
    pub fill_percent: u64,
    /// Processors, where no MP table lists them.
    pub cpus: usize,
    /// Whether AVX is used where the processor has it. Software that emulates virtualization may lose it by itself.
    pub avx: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            mib: None,
            rate: Rate::MibPerSecond(0),
            dirty_mib: None,
            seed: 1,
            beat_ms: 100,
            verify_s: 0,
            exit_beats: 0,
            fill_percent: 100,
            cpus: 1,
            avx: true,
        }
    }
}

impl Options {
    /// Reads the words of `line`, and gives those that say nothing (unknown, or no number) to `unknown`.
    pub fn parse(line: &[u8], mut unknown: impl FnMut(&[u8])) -> Options {
        let mut options = Options::default();
        for word in line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()) {
            if options.take(word).is_none() {
                unknown(word);
            }
        }
        options
    }

    fn take(&mut self, word: &[u8]) -> Option<()> {
        let equals = word.iter().position(|&byte| byte == b'=')?;
        let (name, value) = (&word[..equals], &word[equals + 1..]);
        if name == b"rate" && value == b"max" {
            self.rate = Rate::Max;
            return Some(());
        }
        let value = number(value)?;
        match name {
            b"mib" => self.mib = Some(value),
            b"rate" => self.rate = Rate::MibPerSecond(value),
            b"dirty" => self.dirty_mib = Some(value),
            b"seed" => self.seed = value,
            b"beat" => self.beat_ms = value,
            b"verify" => self.verify_s = value,
            b"exit" => self.exit_beats = value,
            b"fill" => self.fill_percent = value.min(100),
            b"avx" => self.avx = value != 0,
            b"cpus" => self.cpus = usize::try_from(value).ok()?,
            _ => return None,
        }
        Some(())
    }
}

/// A decimal number that leaves room for unit conversions.
fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 10 {
        return None;
    }
    text.iter().try_fold(0u64, |sum, &digit| {
        digit.is_ascii_digit().then(|| sum * 10 + u64::from(digit - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_set_what_they_name_and_the_rest_keeps_its_default() {
        let options = Options::parse(b"mib=96 rate=200  dirty=64 beat=1\tseed=42", |word| panic!("{word:?}"));
        assert_eq!(
            options,
            Options {
                mib: Some(96),
                rate: Rate::MibPerSecond(200),
                dirty_mib: Some(64),
                beat_ms: 1,
                seed: 42,
                ..Options::default()
            }
        );
        assert_eq!(Options::parse(b"rate=max", |_| ()).rate, Rate::Max);
    }

    #[test]
    fn a_word_that_says_nothing_is_told_and_changes_nothing() {
        let mut unknown = Vec::new();
        let line = b"console=ttyS0 quiet mib= mib=1x seed=99999999999 fill=max";
        let options = Options::parse(line, |word| unknown.push(String::from_utf8(word.to_vec()).unwrap()));
        assert_eq!(
            unknown,
            [
                "console=ttyS0",
                "quiet",
                "mib=",
                "mib=1x",
                "seed=99999999999",
                "fill=max"
            ]
        );
        assert_eq!(options, Options::default());
    }
}
