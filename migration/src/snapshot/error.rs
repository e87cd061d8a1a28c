//! What can be wrong with a snapshot file, told by the part that is wrong.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::header::PrefixError;
use crate::record::{RecordError, RecordKind};

/// A part of a snapshot file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Magic number and format version.
    Prefix,
    /// A record of which the file has one.
    Record(RecordKind),
    /// A record of a kind that this build does not know and may skip.
    UnknownRecord(u16),
    /// The state of the object with this path.
    Section(String),
    /// The zeros before the RAM block of this name.
    PaddingBefore(String),
    /// The RAM block of this name.
    Ram(String),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix => f.write_str("the prefix"),
            Self::Record(kind) => write!(f, "the {kind} record"),
            Self::UnknownRecord(number) => write!(f, "the record of unknown kind {number}"),
            Self::Section(path) => write!(f, "the section of {path}"),
            Self::PaddingBefore(block) => write!(f, "the padding before RAM block {block}"),
            Self::Ram(block) => write!(f, "RAM block {block}"),
        }
    }
}

/// Why a file cannot be used as a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file cannot be opened.
    #[error("cannot open the snapshot {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A folder, device or pipe.
    #[error("{} is no regular file, and so no snapshot", .0.display())]
    NoFile(PathBuf),
    /// Another kind of file, or one of a newer Tern.
    #[error("{}: {source}", path.display())]
    Prefix {
        /// The file.
        path: PathBuf,
        /// What its first bytes say.
        source: PrefixError,
    },
    /// The disk failed, or the file shrank under the reader.
    #[error("{}: reading {part} at byte {offset} failed: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What was being read.
        part: Part,
        /// Where.
        offset: u64,
        /// The system's answer.
        source: io::Error,
    },
    /// The file ends too early: a copy that was cut off.
    #[error(
        "{} is truncated: it ends at byte {length}, within or before {part}; copy it again from where it was written",
        path.display()
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The first part that is not wholly there.
        part: Part,
        /// The file's length.
        length: u64,
    },
    /// Bytes follow where the file should end.
    #[error("{}: {extra} bytes follow {part}, where a snapshot ends", path.display(), part = Part::Record(RecordKind::Trailer))]
    Overlong {
        /// The file.
        path: PathBuf,
        /// How many.
        extra: u64,
    },
    /// A record is damaged.
    #[error("{}: {part} at byte {offset}: {source}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Which record.
        part: Part,
        /// Where it begins.
        offset: u64,
        /// What is wrong with it.
        source: RecordError,
    },
    /// A record is whole and what it says cannot be.
    #[error("{}: {part} at byte {offset}: {because}", path.display())]
    Contents {
        /// The file.
        path: PathBuf,
        /// Which record.
        part: Part,
        /// Where it begins.
        offset: u64,
        /// What it says.
        because: String,
    },
    /// Padding that is not zero.
    #[error("{}: {part} is damaged: byte {offset} is not zero", path.display())]
    Padding {
        /// The file.
        path: PathBuf,
        /// Which padding.
        part: Part,
        /// The first such byte.
        offset: u64,
    },
    /// RAM that is not what was saved.
    #[error(
        "{}: {part} is damaged between its bytes {start:#x} and {end:#x} (byte {offset} of the file): {because}",
        path.display()
    )]
    Chunk {
        /// The file.
        path: PathBuf,
        /// Which block.
        part: Part,
        /// Where in the block the damaged chunk begins.
        start: u64,
        /// Where it ends.
        end: u64,
        /// Where it begins in the file.
        offset: u64,
        /// How it is known.
        because: String,
    },
    /// Whoever watches the progress wants no more of it.
    #[error("cancelled")]
    Cancelled,
}

impl SnapshotError {
    /// The part that is wrong, where it is one.
    #[must_use]
    pub fn part(&self) -> Option<Part> {
        match self {
            Self::Open { .. } | Self::NoFile(_) | Self::Cancelled => None,
            Self::Prefix { .. } => Some(Part::Prefix),
            Self::Overlong { .. } => Some(Part::Record(RecordKind::Trailer)),
            Self::Read { part, .. }
            | Self::Truncated { part, .. }
            | Self::Record { part, .. }
            | Self::Contents { part, .. }
            | Self::Padding { part, .. }
            | Self::Chunk { part, .. } => Some(part.clone()),
        }
    }
}
