//! What a snapshot file holds, for people and tools, without its writer's types and without building anything.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use hw::memory::PAGE_SIZE;
use vmstate::qom::sections::{IncomingSection, SectionSchema};
use vmstate::state::{Schema, StructValue};

use super::chunk::ChunkSum;
use super::error::{Part, SnapshotError};
use super::index::{BlockEntry, RecordEntry};
use super::reader::{ReadSection, Snapshot, StateReader};
use super::{to_u64, to_usize};
use crate::header::{Header, Parent};
use crate::ident::ContentHash;
use crate::manifest::{BootPayload, Manifest};
use crate::progress::Progress;

/// All about a snapshot but the contents of its RAM.
#[derive(Clone, Debug)]
pub struct SnapshotInfo {
    /// Identities, features, writer.
    pub header: Header,
    /// How a child of it names it.
    pub as_parent: Parent,
    /// Recipe and inventory.
    pub manifest: Manifest,
    /// The writer's description of every section that it could have written.
    pub schemas: Vec<SectionSchema>,
    /// The state of every object, in the order of the file.
    pub sections: Vec<SectionInfo>,
    /// What could not be read, because it takes a newer Tern: each part, and why.
    pub unreadable: Vec<(String, String)>,
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
    /// The writer's description.
    pub schema: Arc<Schema>,
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
    /// How many of its bytes are in pages that are not zero: what lies in the file, as it was in memory.
    pub raw: u64,
    /// How many of its bytes are in pages of zeros, which take nothing.
    pub zero: u64,
    /// How many bytes of the file hold compressed pages. This format has none.
    pub compressed: u64,
    sums: Vec<ChunkSum>,
}

impl RamInfo {
    fn new(name: &str, size: u64, offset: u64, sums: Vec<ChunkSum>) -> Self {
        let raw = sums.iter().map(|sum| u64::from(sum.pages) * PAGE_SIZE).sum();
        Self {
            name: name.to_owned(),
            size,
            offset,
            raw,
            zero: size.saturating_sub(raw),
            compressed: 0,
            sums,
        }
    }

    /// How many chunks of RAM have a checksum of their own.
    #[must_use]
    pub fn chunks(&self) -> usize {
        self.sums.len()
    }

    /// How many chunks hold something else than in another block, by their checksums. What only one of the blocks has
    /// counts as different.
    #[must_use]
    pub fn chunks_that_differ(&self, other: &Self) -> usize {
        let pairs = self.sums.iter().zip(&other.sums);
        pairs.filter(|(one, other)| one != other).count() + self.sums.len().abs_diff(other.sums.len())
    }
}

/// Keeps what can be read, and notes what cannot.
#[derive(Default)]
struct Lenient {
    sections: Vec<(IncomingSection, StructValue)>,
    unreadable: Vec<(String, String)>,
}

impl StateReader for &mut Lenient {
    fn section(&mut self, entry: &RecordEntry, read: ReadSection) -> Result<Option<IncomingSection>, String> {
        match read {
            Ok(section) => self.sections.push(section),
            Err(because) => self.unreadable.push((entry.part().to_string(), because)),
        }
        Ok(None)
    }

    fn no_schemas(&mut self, because: String) -> Result<(), String> {
        self.unreadable.push(("the schemas record".to_owned(), because));
        Ok(())
    }
}

/// Reads everything before RAM. Device state that takes a newer Tern to read is named, and does not keep the rest from
/// being told.
///
/// # Errors
///
/// What is wrong with the file; RAM and padding are not looked at ([`verify`] does).
pub fn inspect(path: &Path) -> Result<SnapshotInfo, SnapshotError> {
    let mut state = Lenient::default();
    let snapshot = Snapshot::open_with(path, &mut state)?;
    let blocks = snapshot.layout.blocks.iter().zip(&snapshot.index.blocks);
    let ram = blocks.map(|(placement, entry)| {
        RamInfo::new(
            &placement.name,
            placement.size,
            placement.offset,
            BlockEntry::sums(entry),
        )
    });
    let ram = ram.collect();
    let metadata = snapshot.file.file.metadata();
    let metadata = metadata.map_err(|source| SnapshotError::Open {
        path: path.to_owned(),
        source,
    })?;
    let sections = state.sections.into_iter().map(|(section, state)| SectionInfo {
        path: section.path,
        description: section.description,
        length: section.bytes.len(),
        schema: section.writer_schema,
        state,
    });
    Ok(SnapshotInfo {
        as_parent: snapshot.as_parent(),
        ram,
        length: metadata.len(),
        allocated: metadata.blocks() * 512,
        schemas: snapshot.schemas.to_sections(),
        sections: sections.collect(),
        unreadable: state.unreadable,
        header: snapshot.header,
        manifest: snapshot.manifest,
    })
}

/// What was checked of a file that is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Records, each with a checksum of its header and one of its contents.
    pub records: usize,
    /// Chunks of RAM, each with a checksum.
    pub chunks: usize,
    /// Bytes of RAM that those are over: all that are not zero.
    pub ram: u64,
    /// Pieces of the boot payload, each with a BLAKE3 hash.
    pub payloads: usize,
}

/// Checks everything in a file that has a checksum or has to be zero: records, state, padding, RAM and boot payload.
///
/// # Errors
///
/// The first damage that was found, by the name of the part.
pub fn verify(path: &Path, threads: usize, progress: &dyn Progress) -> Result<Verified, SnapshotError> {
    let snapshot = Snapshot::open(path)?;
    snapshot.verify(threads, progress)?;
    let boot = &snapshot.manifest.recipe.boot;
    boot.iter().try_for_each(|payload| check_payload(&snapshot, payload))?;
    let sums: Vec<_> = snapshot.index.blocks.iter().flat_map(BlockEntry::sums).collect();
    Ok(Verified {
        // The trailer and the index itself are not in the index.
        records: snapshot.index.records.len() + 2,
        chunks: sums.len(),
        ram: sums.iter().map(|sum| u64::from(sum.pages) * PAGE_SIZE).sum(),
        payloads: boot.len(),
    })
}

/// Checks that a piece of the boot payload is what the manifest promises. That it lies in its block was checked.
fn check_payload(snapshot: &Snapshot, payload: &BootPayload) -> Result<(), SnapshotError> {
    let part = Part::Ram(payload.block.clone());
    let block = snapshot.layout.blocks.iter().find(|block| block.name == payload.block);
    let offset = block.map_or(0, |block| block.offset);
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 64 << 10];
    let mut done = 0;
    while done < payload.length {
        let step = to_usize((payload.length - done).min(to_u64(buffer.len())));
        snapshot.file.read(part.clone(), offset + done, &mut buffer[..step])?;
        hasher.update(&buffer[..step]);
        done += to_u64(step);
    }
    if ContentHash::from_bytes(*hasher.finalize().as_bytes()) == payload.hash {
        return Ok(());
    }
    let because = format!("it does not hold the {} that the manifest promises", payload.role);
    Err(snapshot.file.contents(part, offset, because))
}
