//! Releases of Tern, as far as what a guest sees goes by them.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A release of Tern: machines and CPU models come with one, and an older one does not know them. What a guest sees changes with
/// major and minor numbers only, so a third number is read and means nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    /// The first number.
    pub major: u16,
    /// The second one.
    pub minor: u16,
}

/// Text that is no release.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no release of Tern; one is written as 0.1 or 0.1.0")]
pub struct ParseReleaseError(String);

impl Release {
    /// The release with which machines and CPU models began.
    pub const FIRST: Self = Self { major: 0, minor: 1 };

    /// The release that this program is, or is on the way to.
    ///
    /// # Panics
    ///
    /// Where the package has a version that is none.
    #[must_use]
    pub fn this() -> Self {
        env!("CARGO_PKG_VERSION").parse().expect("the package's version")
    }
}

impl FromStr for Release {
    type Err = ParseReleaseError;

    /// Reads `0.1`, `0.1.7` and `0.1.0-rc.1`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || ParseReleaseError(text.to_owned());
        let number = |text: &str| -> Option<u16> {
            let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|_| is_number)
        };
        let (numbers, _) = text.split_once('-').unwrap_or((text, ""));
        let mut parts = numbers.splitn(3, '.').map(number);
        match (parts.next().flatten(), parts.next().flatten(), parts.next()) {
            (Some(major), Some(minor), None | Some(Some(_))) => Ok(Self { major, minor }),
            _ => Err(refuse()),
        }
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_and_go_by_number_and_not_by_letter() {
        let read = |text: &str| text.parse::<Release>();
        assert_eq!(read("0.1"), Ok(Release::FIRST));
        assert_eq!(read("0.1.0-rc.1"), Ok(Release::FIRST));
        assert_eq!(read("0.1.7"), Ok(Release::FIRST));
        assert!(read("0.9").expect("one") < read("0.10").expect("one"));
        assert!(read("0.10").expect("one") < read("1.0").expect("one"));
        for wrong in ["", "1", "0.", ".1", "0.1.", "0.x", "+0.1", "0.1.2.3", "v0.1", "0.99999"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert!(Release::this() >= Release::FIRST);
    }
}
