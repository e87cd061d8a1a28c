//! Names of descriptions, fields and variants.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

/// The name of a description, a field, a subsection or an enum's variant.
///
/// A name written in the source costs nothing; one that came out of a stream is shared between its schema and every
/// value decoded by it. So a hostile stream cannot make a long name be copied once for each of many small values.
#[derive(Clone)]
pub struct Name(Repr);

#[derive(Clone)]
enum Repr {
    Static(&'static str),
    Shared(Arc<str>),
}

impl Name {
    /// The longest name that a schema may use, in bytes.
    pub const MAX_LEN: usize = 64;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Repr::Static(text) => text,
            Repr::Shared(text) => text,
        }
    }

    /// Whether this can name a field, a subsection or a variant: ASCII letters, digits, `-` and `_`, so that a path
    /// made of names reads back unambiguously.
    #[must_use]
    pub fn is_field_name(&self) -> bool {
        self.is_made_of(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_')
    }

    /// Whether this can name a description: as for a field, and `.` and `/` besides.
    #[must_use]
    pub fn is_description_name(&self) -> bool {
        self.is_made_of(|c| c.is_ascii_alphanumeric() || b"-_./".contains(&c))
    }

    fn is_made_of(&self, legal: impl Fn(u8) -> bool) -> bool {
        (1..=Self::MAX_LEN).contains(&self.len()) && self.bytes().all(legal)
    }
}

impl From<&'static str> for Name {
    fn from(text: &'static str) -> Self {
        Self(Repr::Static(text))
    }
}

impl From<String> for Name {
    fn from(text: String) -> Self {
        Self(Repr::Shared(text.into()))
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        self
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        self
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Name {}

impl PartialEq<str> for Name {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Name {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_str().cmp(other)
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_static_and_a_shared_name_of_the_same_text_are_equal() {
        assert_eq!(Name::from("lvt"), Name::from(String::from("lvt")));
    }

    #[test]
    fn a_field_name_has_no_character_that_a_path_gives_a_meaning() {
        assert!(Name::from("lvt_timer-0").is_field_name());
        for bad in ["", "a.b", "a[0]", "a b", "ä", "a/b"] {
            assert!(!Name::from(bad).is_field_name(), "{bad}");
        }
        assert!(!Name::from("x".repeat(Name::MAX_LEN + 1)).is_field_name());
    }

    #[test]
    fn a_description_may_be_named_with_a_version_or_a_slash() {
        assert!(Name::from("microvm-1.0").is_description_name());
        assert!(Name::from("serial16550/fifo").is_description_name());
        assert!(!Name::from("a b").is_description_name());
    }
}
