//! The names that outlive a process: identities of VMs, instances and snapshots, and hashes of contents.

use std::fmt;
use std::str::FromStr;

/// A random 128-bit identity, written as a UUID (version 4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id([u8; 16]);

impl Id {
    /// A new identity from the kernel's random numbers.
    ///
    /// # Errors
    ///
    /// The kernel's answer, where it has no random numbers to give (early boot only).
    pub fn random() -> std::io::Result<Self> {
        let mut bytes = [0; 16];
        let mut filled = 0;
        while filled < bytes.len() {
            filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
        }
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Ok(Self(bytes))
    }

    /// The identity with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes as they go over the wire.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, byte) in self.0.iter().enumerate() {
            if matches!(position, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// Text that is no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no identity: 32 hexadecimal digits are wanted, as in 1b4e28ba-2fa1-41d2-883f-0016d3cca427")]
pub struct ParseIdError(String);

impl FromStr for Id {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 16];
        let mut digits = text
            .chars()
            .filter(|&c| c != '-')
            .map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok()));
        for byte in &mut bytes {
            let (Some(Some(high)), Some(Some(low))) = (digits.next(), digits.next()) else {
                return Err(ParseIdError(text.to_owned()));
            };
            *byte = high << 4 | low;
        }
        if digits.next().is_some() {
            Err(ParseIdError(text.to_owned()))
        } else {
            Ok(Self(bytes))
        }
    }
}

/// A BLAKE3 hash: the identity of contents (integrity is a crc32's business).
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentHash([u8; 32]);

impl ContentHash {
    /// The hash of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The hash with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes as they go over the wire.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentHash({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_reads_back_from_its_own_text() {
        let id = Id::random().expect("random numbers");
        let text = id.to_string();
        assert_eq!((text.len(), text.as_bytes()[14]), (36, b'4'), "{text}");
        assert_eq!(text.parse(), Ok(id));
        assert!("12".parse::<Id>().is_err() && format!("{text}0").parse::<Id>().is_err());
    }

    #[test]
    fn two_identities_differ() {
        assert_ne!(
            Id::random().expect("random numbers"),
            Id::random().expect("random numbers")
        );
    }
}
