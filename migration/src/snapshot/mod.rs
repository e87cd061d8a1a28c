//! Snapshot files: a machine's state and RAM in one file that checks itself.
//!
//! ```text
//!  0          prefix (magic, format version)
//!  16         records: header, schemas, manifest, sections, end of sections
//!             zeros up to the next page or, before a block of 2 MiB and more, the next 2 MiB
//!             RAM block by block, raw and linear; pages of zeros are holes
//!             index record: where every record lies, a checksum per record and per chunk of RAM
//!  length-72  trailer record: where the index lies, its hash, the file's length
//! ```
//!
//! Device state comes before RAM, so that a restore that maps RAM reads the beginning and the end and nothing else.
//! Every byte is covered: by a record's checksums, by a chunk's, or, between them, by having to be zero. The layout
//! follows from the manifest, so that an index cannot point anywhere else.
//!
//! [`save`] writes such a file and [`restore`] brings the machine back; [`inspect`] tells what a file holds without
//! knowing its writer's types, and [`verify`] checks every byte of it.

mod chunk;
mod diagnose;
mod error;
mod extents;
mod index;
mod inspect;
mod layout;
mod place;
mod ram_reader;
mod ram_writer;
mod reader;
mod restore;
mod work;
mod writer;

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod newer_tests;
#[cfg(test)]
mod tests;

use crate::manifest::RamBlockRecipe;

pub(crate) use layout::CHUNK;
pub(crate) use reader::MAX_STATE;

pub use error::{Part, SnapshotError};
pub use inspect::{RamInfo, SectionInfo, SnapshotInfo, Verified, inspect, verify};
pub use reader::Snapshot;
pub use restore::{RestoreError, RestoreOptions, Restored, Verify, restore};
pub use writer::{SaveError, SaveOptions, SaveReport, save};

/// Where a file whose first records end at `records_end` has RAM blocks of these sizes, and behind them its index; `None` if it would have no
/// end. It is the same in every version of Tern, since a reader finds RAM by it.
#[must_use]
pub fn places(records_end: u64, sizes: &[u64]) -> Option<(Vec<u64>, u64)> {
    let block = |size: &u64| RamBlockRecipe {
        name: String::new(),
        size: *size,
        readonly: false,
    };
    let layout = layout::Layout::new(records_end, &sizes.iter().map(block).collect::<Vec<_>>())?;
    let offsets = layout.blocks.iter().map(|block| block.offset);
    Some((offsets.collect(), layout.index))
}

/// A length or offset in memory; this is a 64-bit program.
fn to_u64(bytes: usize) -> u64 {
    bytes as u64
}

/// A length or offset of the file that is known to fit into memory.
#[expect(clippy::cast_possible_truncation, reason = "x86-64 only: usize is as wide as u64")]
fn to_usize(bytes: u64) -> usize {
    bytes as usize
}
