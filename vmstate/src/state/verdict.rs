//! What a comparison says of each field: it loads, it does not because of an obstacle, or it does under a condition.

use std::fmt;

use super::name::Name;
use super::path::FieldPath;
use super::value::Value;

/// Whether what a writer sends can be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Whatever its value is, it loads.
    Loads,
    /// It loads if the value meets the condition.
    LoadsOnlyIf(Condition),
    /// No value of it loads.
    DoesNot(Obstacle),
}

/// What is asked of a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Condition {
    /// It is not sent, or there is nothing in it (none, no elements): the reader could not load what would be sent.
    #[error("nothing is sent in it, because: {because}")]
    Nothing {
        /// Why the reader could not load it.
        because: Obstacle,
    },
    /// It is sent, and is not none: the reader has nothing to put in its place.
    #[error("it is sent, because the reader cannot do without it")]
    Sent,
    /// It has its default, which loses nothing: the reader does not know it.
    #[error("it is {0}, its default, because the reader does not know it")]
    Is(Value),
    /// It fits a narrower integer.
    #[error("it is between {least} and {most}")]
    Between {
        /// The least that fits.
        least: i128,
        /// The most that fits.
        most: i128,
    },
    /// Every key of the map fits a narrower integer.
    #[error("every key of it is between {least} and {most}")]
    KeysBetween {
        /// The least that fits.
        least: i128,
        /// The greatest that fits.
        most: i128,
    },
    /// It is what the machine that loads it is configured for; the writer lets it be something else.
    #[error("it is as the reader's machine is configured")]
    AsConfigured,
    /// It has as many elements as another field says.
    #[error("it has as many elements as `{0}` says")]
    LengthIsField(Name),
    /// It has no more bytes or elements than the reader has room for.
    #[error("its length is at most {0}")]
    LengthAtMost(u32),
    /// It has exactly as many bytes or elements as the reader's array.
    #[error("its length is {0}")]
    LengthIs(u32),
    /// It is a variant that the reader knows.
    #[error("it is none of {}, which the reader does not know", list(.0))]
    NoneOf(Vec<Name>),
}

fn list(names: &[Name]) -> String {
    names
        .iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

impl Condition {
    /// Whether a value that is there meets this condition.
    pub(super) fn holds(&self, value: &Value) -> bool {
        let length = value.count();
        match self {
            Self::Nothing { .. } => *value == Value::Option(None) || length == Some(0),
            Self::Sent => *value != Value::Option(None),
            Self::Is(default) => value == default,
            Self::Between { least, most } => value.integers().all(|integer| (*least..=*most).contains(&integer)),
            Self::KeysBetween { least, most } => {
                matches!(value, Value::Map(entries) if entries.iter().all(|(key, _)| (*least..=*most).contains(key)))
            }
            Self::LengthAtMost(most) => length.is_some_and(|length| length <= u64::from(*most)),
            Self::LengthIs(exact) => length == Some(u64::from(*exact)),
            // Only the struct around it can tell, or the machine.
            Self::LengthIsField(_) | Self::AsConfigured => true,
            Self::NoneOf(lost) => matches!(value, Value::Enum(variant) if !lost.contains(variant)),
        }
    }
}

/// Why no value can be loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// The struct's version is not among those that the reader loads.
    #[error("it is of version {found}, and the reader loads versions {oldest} to {newest}")]
    Version {
        /// The writer's version.
        found: u32,
        /// The oldest that the reader loads.
        oldest: u32,
        /// The newest that the reader loads.
        newest: u32,
    },
    /// The types have nothing in common.
    #[error("the writer's {writer} is no {reader}, as which the reader knows it")]
    Retyped {
        /// The writer's type.
        writer: String,
        /// The reader's type.
        reader: String,
    },
    /// The reader has no such field or subsection (any more, or yet).
    #[error("the reader does not know it, and it would be lost")]
    Unknown,
    /// No value that the writer allows is one that the reader allows.
    #[error("the writer has {} to {} there, and the reader takes {} to {}", .writer.0, .writer.1, .reader.0, .reader.1)]
    Disjoint {
        /// The first and the last value of the writer's.
        writer: (i128, i128),
        /// The first and the last value of the reader's.
        reader: (i128, i128),
    },
    /// It is an open file, which no channel passes.
    #[error("it is a file descriptor, and no channel passes those yet")]
    FileDescriptor,
    /// The writer has no such field or subsection.
    #[error("the writer does not know it, and the reader has no default for it")]
    NoDefault,
}

/// The verdict on one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldVerdict {
    /// The field; one that is an element's stands for all elements (`lvt[].mode`).
    pub path: FieldPath,
    /// Whether it can be loaded.
    pub verdict: Verdict,
}

/// The verdicts on all fields and subsections of a writer and a reader.
///
/// A field has one entry, or one for each condition on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// The verdicts, in the order of the reader's fields; what only the writer has comes last.
    pub fields: Vec<FieldVerdict>,
}

impl Comparison {
    /// The verdict on the whole: the worst one, and the first of several.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let obstacle = self
            .fields
            .iter()
            .find(|field| matches!(field.verdict, Verdict::DoesNot(_)));
        let worst = obstacle.or_else(|| self.complaints().next());
        worst.map_or(Verdict::Loads, |field| field.verdict.clone())
    }

    /// The fields that do not load whatever their value is.
    pub fn complaints(&self) -> impl Iterator<Item = &FieldVerdict> {
        self.fields.iter().filter(|field| field.verdict != Verdict::Loads)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loads => f.write_str("loads"),
            Self::LoadsOnlyIf(condition) => write!(f, "loads only if {condition}"),
            Self::DoesNot(obstacle) => write!(f, "does not load: {obstacle}"),
        }
    }
}

impl fmt::Display for FieldVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.path, self.verdict)
    }
}

/// Each complaint on a line of its own, or `loads`.
impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let complaints: Vec<_> = self.complaints().map(ToString::to_string).collect();
        f.write_str(if complaints.is_empty() { "loads" } else { "" })?;
        f.write_str(&complaints.join("\n"))
    }
}
