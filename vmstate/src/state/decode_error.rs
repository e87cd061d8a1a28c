//! Why bytes could not be read.

use super::error::Mismatch;
use super::name::Name;
use super::path::FieldPath;

/// Bytes that are no value of the schema that they are said to follow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the state of `{description}` cannot be read: field {path}, at byte {offset}: {fault}")]
pub struct DecodeError {
    /// The description of the section.
    pub description: Name,
    /// The field that was being read.
    pub path: FieldPath,
    /// How many bytes into the section it was.
    pub offset: usize,
    /// What is wrong there.
    pub fault: DecodeFault,
}

/// What is wrong with the bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeFault {
    /// The bytes end before the value does.
    #[error("the section ends in the middle of it")]
    Truncated,
    /// There are bytes behind the value.
    #[error("{0} bytes are left over behind the last field")]
    Trailing(usize),
    /// A leaf that has no such encoding.
    #[error("the bytes are no {0}")]
    Leaf(String),
    /// A length above the bound of the schema.
    #[error("it claims a length of {len}, and the description allows at most {max}")]
    TooLong {
        /// The length claimed.
        len: u32,
        /// The bound.
        max: u32,
    },
    /// A length that the bytes that follow cannot fill.
    #[error("it claims a length of {len}, and only {left} bytes follow")]
    Unfilled {
        /// The length claimed.
        len: u32,
        /// How many bytes there are.
        left: usize,
    },
    /// A text that is no UTF-8.
    #[error("the text is no UTF-8")]
    Utf8,
    /// Bytes with a bit set beyond the last of a bitmap.
    #[error("a bit is set beyond the last of {0}")]
    Bitmap(u32),
    /// A value that the description rules out.
    #[error("{0}")]
    Ruled(Box<Mismatch>),
    /// An open file, which no channel passes.
    #[error("it is a file descriptor, and no channel passes those yet")]
    Fd,
    /// An index that no variant has.
    #[error("it is variant {index} of {variants}")]
    Variant {
        /// The index.
        index: u32,
        /// How many variants there are.
        variants: usize,
    },
    /// A struct of another version than its schema's.
    #[error("it is of version {found}, and its description of version {described}")]
    Version {
        /// The version that the bytes give.
        found: u32,
        /// The version of the schema.
        described: u32,
    },
    /// A subsection that the schema does not have.
    #[error("the description has no subsection `{0}`")]
    UnknownSubsection(String),
    /// A subsection that is there twice or not in its place.
    #[error("its subsection `{0}` is not in its place")]
    MisplacedSubsection(Name),
    /// A subsection that is always sent is not there.
    #[error("its subsection `{0}` is missing")]
    MissingSubsection(Name),
}
