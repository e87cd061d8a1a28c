//! What a snapshot file holds, for people and tools, without its writer's types and without building anything.

use std::path::Path;

use hw::memory::PAGE_SIZE;
use vmstate::state::StructValue;

use super::error::SnapshotError;
use super::index::BlockEntry;
use super::reader::Snapshot;
use crate::header::{Header, Parent};
use crate::manifest::Manifest;

/// All about a snapshot but the contents of its RAM.
#[derive(Clone, Debug)]
pub struct SnapshotInfo {
    /// Identities, features, writer.
    pub header: Header,
    /// How a child of it names it.
    pub as_parent: Parent,
    /// Recipe and inventory.
    pub manifest: Manifest,
    /// The state of every object, in the order of the file.
    pub sections: Vec<SectionInfo>,
    /// The RAM blocks, in the order of the recipe.
    pub ram: Vec<RamInfo>,
    /// The length of the file in bytes, holes included.
    pub length: u64,
    /// What it takes of the disk, in bytes.
    pub allocated: u64,
}

/// The state of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SectionInfo {
    /// The object.
    pub path: String,
    /// The type that describes the state.
    pub description: String,
    /// Its encoded length in bytes.
    pub length: usize,
    /// The fields by name, as the writer's schema has them.
    pub state: StructValue,
}

/// Where a RAM block lies, and how much of it was used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RamInfo {
    /// The block's name.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// Where in the file it begins.
    pub offset: u64,
    /// How many of its bytes are in pages that are not zero.
    pub data: u64,
}

/// Reads everything before RAM.
///
/// # Errors
///
/// What is wrong with the file; RAM and padding are not looked at ([`Snapshot::verify`] does).
pub fn inspect(path: &Path) -> Result<SnapshotInfo, SnapshotError> {
    use std::os::unix::fs::MetadataExt;

    let mut sections = Vec::new();
    let snapshot = Snapshot::open_with(path, |section, state| {
        sections.push(SectionInfo {
            path: section.path.clone(),
            description: section.description.clone(),
            length: section.bytes.len(),
            state,
        });
    })?;
    let ram = snapshot
        .layout
        .blocks
        .iter()
        .zip(&snapshot.index.blocks)
        .map(|(placement, entry)| RamInfo {
            name: placement.name.clone(),
            size: placement.size,
            offset: placement.offset,
            data: BlockEntry::sums(entry)
                .iter()
                .map(|sum| u64::from(sum.pages) * PAGE_SIZE)
                .sum(),
        });
    let ram = ram.collect();
    let metadata = snapshot.file.file.metadata();
    let metadata = metadata.map_err(|source| SnapshotError::Open {
        path: path.to_owned(),
        source,
    })?;
    Ok(SnapshotInfo {
        as_parent: snapshot.as_parent(),
        ram,
        length: metadata.len(),
        allocated: metadata.blocks() * 512,
        sections,
        header: snapshot.header,
        manifest: snapshot.manifest,
    })
}
