//! Sizes, durations and addresses as a user writes them.

use std::{fmt, str::FromStr, time::Duration};

use hw::timer::clock::TscPolicy;
use migration::uri::{ParseUriError, Uri};
use serde_json::Value;

/// A number of bytes, written with its unit: `256M`, `1G`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(pub(super) u64);

/// A span of time as people read it, with its unit: `12.5 ms`, `1.2 s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Time(pub(super) Duration);

impl Time {
    /// That many microseconds.
    pub(super) fn of_micros(microseconds: u64) -> Self {
        Self(Duration::from_micros(microseconds))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{:.1?}", self.0);
        let unit = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(unit);
        write!(f, "{number} {unit}")
    }
}

/// What the user may say about the TSC of a guest that arrives.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(super) struct TscArgs {
    /// Take a guest whose TSC counted at another speed than this host can give it. It counts at this host's from then on, which
    /// kvmclock makes up for; a guest that keeps time by the TSC itself keeps it wrongly.
    #[arg(long)]
    allow_tsc_mismatch: bool,
}

impl TscArgs {
    /// What that comes to.
    pub(super) fn policy(self) -> TscPolicy {
        if self.allow_tsc_mismatch {
            TscPolicy::Tolerate
        } else {
            TscPolicy::Keep
        }
    }
}

/// What is wrong with a size or a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ValueError {
    #[error("it has no unit; write for example {0}")]
    NoUnit(String),
    #[error("its unit {unit:?} is unknown; it can be {known}")]
    Unit { unit: String, known: &'static str },
    #[error("it does not begin with a whole number")]
    Number,
    #[error("it is too large")]
    TooLarge,
    #[error("it is too short: the shortest is 1ms")]
    TooShort,
    #[error("nothing would move; write \"none\" for no limit")]
    Nothing,
}

/// Number and unit.
fn split(text: &str) -> Result<(u64, &str), ValueError> {
    let end = text
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    if number.is_empty() {
        return Err(ValueError::Number);
    }
    Ok((number.parse().map_err(|_| ValueError::TooLarge)?, unit))
}

impl FromStr for Size {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (number, unit) = split(text)?;
        let unit = unit
            .strip_suffix("iB")
            .or(unit.strip_suffix('B').filter(|_| unit.len() == 1))
            .unwrap_or(unit);
        let bytes = match unit {
            // "B" alone was stripped above.
            "" if text.ends_with('B') => 1,
            "" => return Err(ValueError::NoUnit(format!("{text}M"))),
            "K" | "k" => 1 << 10,
            "M" | "m" => 1 << 20,
            "G" | "g" => 1 << 30,
            "T" | "t" => 1 << 40,
            unit => {
                return Err(ValueError::Unit {
                    unit: unit.to_owned(),
                    known: "K, M, G or T",
                });
            }
        };
        number.checked_mul(bytes).map(Self).ok_or(ValueError::TooLarge)
    }
}

impl fmt::Display for Size {
    /// With the largest unit that leaves a number of some precision.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
        let steps = (0..UNITS.len())
            .take_while(|step| self.0 >> (10 * step) >= 1024)
            .count()
            .min(UNITS.len() - 1);
        let unit = 1u64 << (10 * steps);
        if self.0.is_multiple_of(unit) {
            return write!(f, "{} {}", self.0 / unit, UNITS[steps]);
        }
        // The remainder is below 2^40, so that ten times it fits.
        write!(f, "{}.{} {}", self.0 / unit, self.0 % unit * 10 / unit, UNITS[steps])
    }
}

/// A duration, written with its unit: `300ms`, `2s`.
pub(super) fn duration(text: &str) -> Result<Duration, ValueError> {
    let (number, unit) = split(text)?;
    match unit {
        "" => Err(ValueError::NoUnit(format!("{text}ms"))),
        "us" => Ok(Duration::from_micros(number)),
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        unit => Err(ValueError::Unit {
            unit: unit.to_owned(),
            known: "us, ms or s",
        }),
    }
}

/// The limit of a pause, which QMP counts in milliseconds.
pub(super) fn downtime_limit(text: &str) -> Result<Duration, ValueError> {
    let limit = duration(text)?;
    if limit < Duration::from_millis(1) {
        return Err(ValueError::TooShort);
    }
    Ok(limit)
}

/// Bytes in a second, or none: 0 as QMP has it.
pub(super) fn bandwidth(text: &str) -> Result<u64, ValueError> {
    if text == "none" {
        return Ok(0);
    }
    match text.strip_suffix("/s").unwrap_or(text).parse()? {
        Size(0) => Err(ValueError::Nothing),
        Size(bytes) => Ok(bytes),
    }
}

/// A property's value: JSON where it is some, else a text.
pub(super) fn json_or_text(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

/// Where a guest is sent to or awaited: no file.
pub(super) fn peer(text: &str) -> Result<Uri, String> {
    match text.parse() {
        Ok(Uri::File(_)) => Err("a file is no peer; \"vm snapshot\" and \"vm restore\" are for files".into()),
        Ok(uri) => Ok(uri),
        Err(ParseUriError { because, .. }) => Err(format!("{because}; wanted is tcp:HOST:PORT or unix:PATH")),
    }
}

/// The URI with its path made absolute: the process that will use it has a working directory of its own.
pub(super) fn absolute(uri: &Uri) -> Uri {
    match uri {
        Uri::Unix(path) => Uri::Unix(std::path::absolute(path).unwrap_or_else(|_| path.clone())),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        for (text, bytes) in [
            ("1B", 1),
            ("4K", 4096),
            ("256M", 256 << 20),
            ("256MiB", 256 << 20),
            ("5G", 5 << 30),
            ("1t", 1 << 40),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn a_wrong_size_is_refused_with_what_to_write() {
        let refused = |text: &str| text.parse::<Size>().expect_err(text).to_string();
        assert!(refused("256").contains("256M"));
        assert!(refused("256X").contains("K, M, G or T"));
        assert!(refused("256MB").contains("\"MB\""));
        assert!(refused("M").contains("whole number"));
        assert!(refused("-1M").contains("whole number"));
        assert!(refused("99999999999999999999M").contains("too large"));
        assert!(refused("18446744073709551615K").contains("too large"));
    }

    #[test]
    fn sizes_are_shown_short() {
        let shown = |bytes| Size(bytes).to_string();
        assert_eq!(shown(0), "0 B");
        assert_eq!(shown(1023), "1023 B");
        assert_eq!(shown(256 << 20), "256 MiB");
        assert_eq!(shown((1 << 20) + (1 << 19)), "1.5 MiB");
        assert_eq!(shown(u64::MAX), "16777215.9 TiB");
    }

    #[test]
    fn bandwidths_are_read_with_their_units_and_can_be_none() {
        assert_eq!(bandwidth("100M"), Ok(100 << 20));
        assert_eq!(bandwidth("1GiB/s"), Ok(1 << 30));
        assert_eq!(bandwidth("none"), Ok(0));
        assert_eq!(bandwidth("0M"), Err(ValueError::Nothing));
        assert_eq!(bandwidth("100"), Err(ValueError::NoUnit("100M".into())));
        assert!(
            bandwidth("1Gbit")
                .expect_err("refused")
                .to_string()
                .contains("K, M, G or T")
        );
    }

    #[test]
    fn durations_are_read_with_their_units() {
        assert_eq!(duration("300ms"), Ok(Duration::from_millis(300)));
        assert_eq!(Time::of_micros(12_540).to_string(), "12.5 ms");
        assert_eq!(Time(Duration::from_millis(1_240)).to_string(), "1.2 s");
        assert_eq!(duration("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("50us"), Ok(Duration::from_micros(50)));
        assert_eq!(duration("300"), Err(ValueError::NoUnit("300ms".into())));
        assert!(duration("3h").expect_err("refused").to_string().contains("us, ms or s"));
        assert_eq!(duration("fast"), Err(ValueError::Number));
    }

    #[test]
    fn relative_paths_of_sockets_become_absolute() {
        let uri = absolute(&peer("unix:here").expect("a URI"));
        assert!(matches!(uri, Uri::Unix(path) if path.is_absolute()));
    }
}
