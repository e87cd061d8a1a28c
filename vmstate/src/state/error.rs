//! A value that does not fit its description.

use super::name::Name;
use super::path::{FieldPath, Step};

/// A value that does not fit the description that it is meant for, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("field {path}: {mismatch}")]
pub struct StateError {
    /// The field, from the outermost struct in.
    pub path: FieldPath,
    /// What does not fit.
    pub mismatch: Mismatch,
}

impl StateError {
    /// This error seen from one level further out.
    #[must_use]
    pub fn within(self, outer: Step) -> Self {
        Self {
            path: self.path.within(outer),
            mismatch: self.mismatch,
        }
    }
}

impl From<Mismatch> for StateError {
    fn from(mismatch: Mismatch) -> Self {
        Self {
            path: FieldPath::root(),
            mismatch,
        }
    }
}

/// A value that is not the one that this machine is configured for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is {found}, and this machine is configured for {here}: {hint}")]
pub struct Misconfigured {
    /// The value that came.
    pub found: String,
    /// The value here.
    pub here: String,
    /// What to do about it.
    pub hint: String,
}

/// An integer outside of its field's range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value} is not between {least} and {most}")]
pub struct OutOfRange {
    /// The integer.
    pub value: i128,
    /// The least possible value.
    pub least: i128,
    /// The greatest possible value.
    pub most: i128,
}

/// Why a value does not fit a type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// The field is not there.
    #[error("it is missing")]
    Missing,
    /// There is a field or subsection that the description does not have.
    #[error("the description has no such field")]
    Unknown,
    /// The value is of another kind.
    #[error("{found} where {expected} belongs")]
    Kind {
        /// What belongs there.
        expected: String,
        /// What is there.
        found: &'static str,
    },
    /// The integer needs more bits, or a sign, than the type has.
    #[error("{value} is no {expected}")]
    Range {
        /// The type.
        expected: String,
        /// The integer.
        value: i128,
    },
    /// The integer is outside of the field's range.
    #[error(transparent)]
    OutOfRange(#[from] Box<OutOfRange>),
    /// Not as many elements as another field says.
    #[error("it has {len} elements, and `{field}` says {says}")]
    Count {
        /// How many there are.
        len: u64,
        /// The field that says how many there are.
        field: Name,
        /// What it says.
        says: u64,
    },
    /// Keys of a map that do not ascend.
    #[error("the key {0} of the map is there twice or not in its place")]
    KeyOrder(i128),
    /// An open file, which nothing can pass.
    #[error("it is a file descriptor, and no channel passes those yet")]
    Fd,
    /// The value is not that of this machine's configuration.
    #[error(transparent)]
    Configured(#[from] Box<Misconfigured>),
    /// Too many bytes or elements.
    #[error("its length is {len}, and at most {max} is possible")]
    TooLong {
        /// The length that it has.
        len: usize,
        /// The most that the description allows.
        max: u32,
    },
    /// Not as many bytes or elements as a fixed-size type has.
    #[error("its length is {len} instead of {expected}")]
    Length {
        /// The length that it has.
        len: usize,
        /// The length of the type.
        expected: u32,
    },
    /// No variant of the enum.
    #[error("`{0}` is none of its variants")]
    Variant(Name),
    /// A version of the description that cannot be handled here.
    #[error("it is of version {found}; possible here are {oldest} to {newest}")]
    Version {
        /// The version of the value.
        found: u32,
        /// The oldest possible one.
        oldest: u32,
        /// The newest possible one.
        newest: u32,
    },
}
