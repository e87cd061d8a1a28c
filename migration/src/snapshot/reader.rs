//! A snapshot file, opened: everything before RAM is read and checked, and nothing of it is trusted.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use vmstate::qom::sections::IncomingSection;
use vmstate::state::StructValue;

use super::diagnose::diagnose;
use super::error::{Part, SnapshotError};
use super::index::{Index, RecordEntry, TRAILER_LEN, Trailer};
use super::layout::{CHUNK, Layout};
use super::to_u64;
use crate::header::{self, Header, PREFIX_LEN, Parent};
use crate::ident::ContentHash;
use crate::manifest::Manifest;
use crate::phases::{Side, TransferKind, Walk};
use crate::record::{HEADER_LEN, RecordError, RecordHeader, RecordKind};
use crate::schemas::SchemaTable;
use crate::section;
use crate::vm::{FileBlock, Offer};

/// The most device state that a reader takes, all sections together. Real machines have a hundredth of it.
pub(crate) const MAX_STATE: u64 = 64 << 20;

/// An opened snapshot. Its records are whole and consistent; its RAM and padding have not been looked at.
#[derive(Debug)]
pub struct Snapshot {
    pub(super) file: SnapshotFile,
    pub(super) header: Header,
    pub(super) manifest: Manifest,
    pub(super) schemas: SchemaTable,
    pub(super) sections: Vec<IncomingSection>,
    pub(super) index: Index,
    pub(super) layout: Layout,
    hash: ContentHash,
}

impl Snapshot {
    /// Opens a file that may hold anything.
    ///
    /// # Errors
    ///
    /// What is wrong with it, and which part that is.
    pub fn open(path: &Path) -> Result<Self, SnapshotError> {
        Self::open_with(path, Strict)
    }

    /// As [`Self::open`]; `each` sees every part that describes or is device state on the way, and what is wrong with it.
    /// It gives back the sections that are wanted, and decides whether to go on without one.
    pub(super) fn open_with(path: &Path, mut each: impl StateReader) -> Result<Self, SnapshotError> {
        let file = SnapshotFile::open(path)?;
        let trailer = file.read_trailer().map_err(|error| diagnose(&file, error))?;
        let index = file.read_index(&trailer)?;
        let mut contents = Contents::default();
        let mut walk = Walk::new(TransferKind::File);
        let mut end = to_u64(PREFIX_LEN);
        for entry in &index.records {
            if entry.offset != end {
                let because = format!(
                    "{} should begin at byte {end}, and it says {}",
                    entry.part(),
                    entry.offset
                );
                return Err(file.contents(Part::Record(RecordKind::Index), trailer.index, because));
            }
            let payload = file.entry(entry, trailer.index)?;
            end += entry.length;
            let Some((kind, payload)) = payload else { continue };
            let wrong = |because: String| file.contents(entry.part(), entry.offset, because);
            walk.step(Side::Source, kind)
                .map_err(|error| wrong(error.to_string()))?;
            contents.take(kind, &payload, entry, &mut each).map_err(wrong)?;
        }
        walk.step(Side::Source, RecordKind::Index)
            .map_err(|error| file.contents(Part::Record(RecordKind::Index), trailer.index, error.to_string()))?;
        let Contents {
            header: Some(header),
            manifest: Some(manifest),
            schemas,
            sections,
            ..
        } = contents
        else {
            let because = "it lists no header or no manifest".to_owned();
            return Err(file.contents(Part::Record(RecordKind::Index), trailer.index, because));
        };
        let layout = check_layout(&manifest, &index, end, trailer.index)
            .map_err(|because| file.contents(Part::Record(RecordKind::Index), trailer.index, because))?;
        Ok(Self {
            file,
            header,
            manifest,
            schemas,
            sections,
            index,
            layout,
            hash: trailer.hash,
        })
    }

    /// Everything that is said about the machine.
    #[must_use]
    pub fn offer(&self) -> Offer {
        Offer {
            header: self.header.clone(),
            recipe: self.manifest.recipe.clone(),
            inventory: self.manifest.inventory.clone(),
            schemas: self.schemas.to_sections(),
            parent: Some(self.as_parent()),
        }
    }

    /// How a child of this snapshot names it.
    #[must_use]
    pub fn as_parent(&self) -> Parent {
        Parent {
            snapshot: self.header.snapshot,
            hash: self.hash,
        }
    }

    /// Where each RAM block lies in the file, for mapping it.
    ///
    /// # Errors
    ///
    /// The process has no file descriptor left.
    pub fn file_blocks(&self) -> Result<Vec<FileBlock>, SnapshotError> {
        let block = |placement: &super::layout::Placement| {
            let part = Part::Ram(placement.name.clone());
            Ok(FileBlock {
                name: placement.name.clone(),
                file: self
                    .file
                    .file
                    .try_clone()
                    .map_err(|e| self.file.failed(part, placement.offset, e))?,
                offset: placement.offset,
                size: placement.size,
            })
        };
        self.layout.blocks.iter().map(block).collect()
    }

    /// The device state, to be loaded.
    #[must_use]
    pub fn into_sections(self) -> Vec<IncomingSection> {
        self.sections
    }
}

/// Looks at device state as it is read from a file.
pub(super) trait StateReader {
    /// A section was read, or could not be.
    ///
    /// # Errors
    ///
    /// Why the file is of no use without it.
    fn section(&mut self, entry: &RecordEntry, read: ReadSection) -> Result<Option<IncomingSection>, String>;

    /// The descriptions of the sections could not be read.
    ///
    /// # Errors
    ///
    /// Why the file is of no use without them.
    fn no_schemas(&mut self, because: String) -> Result<(), String> {
        Err(because)
    }
}

/// A section with its decoded state, or why it could not be read.
pub(super) type ReadSection = Result<(IncomingSection, StructValue), String>;

/// Takes every section as it is, and no file with one that cannot be read.
struct Strict;

impl StateReader for Strict {
    fn section(&mut self, _: &RecordEntry, read: ReadSection) -> Result<Option<IncomingSection>, String> {
        read.map(|(section, _)| Some(section))
    }
}

/// What the records say, as they are read.
#[derive(Default)]
struct Contents {
    header: Option<Header>,
    manifest: Option<Manifest>,
    schemas: SchemaTable,
    sections: Vec<IncomingSection>,
    /// Path and description of each section so far.
    seen: BTreeSet<(String, String)>,
    state: u64,
}

impl Contents {
    fn take(
        &mut self,
        kind: RecordKind,
        payload: &[u8],
        entry: &RecordEntry,
        each: &mut impl StateReader,
    ) -> Result<(), String> {
        match kind {
            RecordKind::Header => self.header = Some(Header::from_cbor(payload).map_err(text)?),
            RecordKind::Schemas => match SchemaTable::from_cbor(payload) {
                Ok(schemas) => self.schemas = schemas,
                Err(error) => each.no_schemas(error.to_string())?,
            },
            RecordKind::Manifest => self.manifest = Some(Manifest::from_cbor(payload).map_err(text)?),
            RecordKind::Section => {
                self.state += entry.length;
                if self.state > MAX_STATE {
                    return Err(format!("the device state is larger than {} MiB", MAX_STATE >> 20));
                }
                let read = self.read_section(payload, entry);
                self.sections.extend(each.section(entry, read)?);
            }
            RecordKind::SectionsEnd if !payload.is_empty() => return Err("it should be empty".to_owned()),
            // The walk lets no other kind through.
            _ => {}
        }
        Ok(())
    }
}

impl Contents {
    fn read_section(&mut self, payload: &[u8], entry: &RecordEntry) -> ReadSection {
        let (section, value) = section::decode(&self.schemas, payload).map_err(text)?;
        if entry.path.as_ref() != Some(&section.path) {
            return Err(format!("it is the section of {}", section.path));
        }
        if !self.seen.insert((section.path.clone(), section.description.clone())) {
            return Err(format!("it is there twice ({})", section.description));
        }
        Ok((section, value))
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// The layout, which the index has to agree with in everything.
fn check_layout(manifest: &Manifest, index: &Index, records_end: u64, found: u64) -> Result<Layout, String> {
    let layout = Layout::new(records_end, &manifest.recipe.ram).ok_or("the RAM is larger than a file can be")?;
    if layout.index != found {
        return Err(format!("it should begin at byte {}", layout.index));
    }
    if index.blocks.len() != layout.blocks.len() {
        return Err(format!(
            "it has {} RAM blocks and the recipe {}",
            index.blocks.len(),
            layout.blocks.len()
        ));
    }
    for (entry, placement) in index.blocks.iter().zip(&layout.blocks) {
        if (entry.offset, entry.size, entry.chunk) != (placement.offset, placement.size, CHUNK)
            || !entry.has_sums_for(placement.chunks())
        {
            return Err(format!(
                "its entry of RAM block {} contradicts the recipe",
                placement.name
            ));
        }
    }
    Ok(layout)
}

/// The file, with the errors that name it.
#[derive(Debug)]
pub(super) struct SnapshotFile {
    pub(super) file: File,
    pub(super) path: PathBuf,
    pub(super) length: u64,
}

impl SnapshotFile {
    fn open(path: &Path) -> Result<Self, SnapshotError> {
        let failed = |source| SnapshotError::Open {
            path: path.to_owned(),
            source,
        };
        // A pipe would make the opening wait for its writer.
        let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
        let file = File::options()
            .read(true)
            .custom_flags(nonblock)
            .open(path)
            .map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(SnapshotError::NoFile(path.to_owned()));
        }
        let file = Self {
            file,
            path: path.to_owned(),
            length: metadata.len(),
        };
        let mut prefix = [0; PREFIX_LEN];
        // A file that is too short to be one is no snapshot; only what begins like one has lost the rest.
        let there = usize::try_from(file.length).map_or(PREFIX_LEN, |length| length.min(PREFIX_LEN));
        file.read(Part::Prefix, 0, &mut prefix[..there])?;
        if header::may_begin_with(&prefix[..there]) {
            file.read(Part::Prefix, 0, &mut prefix)?;
        }
        header::check_prefix(&prefix).map_err(|source| SnapshotError::Prefix {
            path: path.to_owned(),
            source,
        })?;
        Ok(file)
    }

    /// The trailer, if it is one for a file of this length.
    fn read_trailer(&self) -> Result<Trailer, SnapshotError> {
        let part = Part::Record(RecordKind::Trailer);
        let offset = self
            .length
            .checked_sub(TRAILER_LEN)
            .ok_or_else(|| SnapshotError::Truncated {
                path: self.path.clone(),
                part: part.clone(),
                length: self.length,
            })?;
        let (_, payload) = self.known_record(&part, RecordKind::Trailer, offset, self.length)?;
        let wrong = |because: String| self.contents(part.clone(), offset, because);
        let trailer = Trailer::from_bytes(&payload).ok_or_else(|| wrong("it is too short".to_owned()))?;
        if trailer.file_length != self.length {
            let because = format!(
                "it says that the file has {} bytes, and it has {}",
                trailer.file_length, self.length
            );
            return Err(wrong(because));
        }
        if trailer.index.checked_add(trailer.index_length) != Some(offset) {
            return Err(wrong(format!(
                "it says that the index begins at byte {}",
                trailer.index
            )));
        }
        Ok(trailer)
    }

    /// The index that the trailer knows.
    fn read_index(&self, trailer: &Trailer) -> Result<Index, SnapshotError> {
        let part = Part::Record(RecordKind::Index);
        let end = trailer.index + trailer.index_length;
        let (header, payload) = self.known_record(&part, RecordKind::Index, trailer.index, end)?;
        let wrong = |because: String| self.contents(part.clone(), trailer.index, because);
        if record_len(&header) != trailer.index_length || ContentHash::of(&payload) != trailer.hash {
            return Err(wrong("it is not the one that the trailer knows".to_owned()));
        }
        Index::from_cbor(&payload).map_err(|error| wrong(error.to_string()))
    }

    /// The record of an entry; `None` for one that this build does not know and may skip.
    fn entry(&self, entry: &RecordEntry, limit: u64) -> Result<Option<(RecordKind, Vec<u8>)>, SnapshotError> {
        let part = entry.part();
        let (header, payload) = self.record(&part, entry.offset, limit)?;
        if record_len(&header) != entry.length || header.payload_crc() != entry.crc || header.number() != entry.kind {
            let because = "it is not the record that the index knows: damaged, or of another file".to_owned();
            return Err(self.contents(part, entry.offset, because));
        }
        Ok(header.kind.map(|kind| (kind, payload)))
    }

    /// A record of this very kind.
    pub(super) fn known_record(
        &self,
        part: &Part,
        kind: RecordKind,
        offset: u64,
        limit: u64,
    ) -> Result<(RecordHeader, Vec<u8>), SnapshotError> {
        let (header, payload) = self.record(part, offset, limit)?;
        if header.kind != Some(kind) {
            let found = header
                .kind
                .map_or_else(|| "an unknown record".to_owned(), |kind| format!("the {kind} record"));
            return Err(self.contents(part.clone(), offset, format!("{found} lies where it should be")));
        }
        Ok((header, payload))
    }

    /// The record at `offset`, which has to end by `limit`.
    pub(super) fn record(
        &self,
        part: &Part,
        offset: u64,
        limit: u64,
    ) -> Result<(RecordHeader, Vec<u8>), SnapshotError> {
        let damaged = |source| self.damaged(part, offset, source);
        let mut bytes = [0; HEADER_LEN];
        self.read(part.clone(), offset, &mut bytes)?;
        let header = RecordHeader::from_bytes(&bytes).map_err(damaged)?;
        // The limit also bounds what is allocated: no more than the file has.
        if offset
            .checked_add(record_len(&header))
            .is_none_or(|end| end > limit.min(self.length))
        {
            return Err(self.truncated(part.clone()));
        }
        let mut payload = vec![0; usize::try_from(header.length).unwrap_or_default()];
        self.read(part.clone(), offset + to_u64(HEADER_LEN), &mut payload)?;
        header.check(&payload).map_err(damaged)?;
        Ok((header, payload))
    }

    /// Fills `bytes` from `offset`.
    pub(super) fn read(&self, part: Part, offset: u64, bytes: &mut [u8]) -> Result<(), SnapshotError> {
        self.file
            .read_exact_at(bytes, offset)
            .map_err(|source| match source.kind() {
                io::ErrorKind::UnexpectedEof => self.truncated(part),
                _ => self.failed(part, offset, source),
            })
    }

    pub(super) fn truncated(&self, part: Part) -> SnapshotError {
        SnapshotError::Truncated {
            path: self.path.clone(),
            part,
            length: self.length,
        }
    }

    pub(super) fn contents(&self, part: Part, offset: u64, because: String) -> SnapshotError {
        SnapshotError::Contents {
            path: self.path.clone(),
            part,
            offset,
            because,
        }
    }

    pub(super) fn failed(&self, part: Part, offset: u64, source: io::Error) -> SnapshotError {
        SnapshotError::Read {
            path: self.path.clone(),
            part,
            offset,
            source,
        }
    }

    fn damaged(&self, part: &Part, offset: u64, source: RecordError) -> SnapshotError {
        SnapshotError::Record {
            path: self.path.clone(),
            part: part.clone(),
            offset,
            source,
        }
    }
}

/// A record's length with its header.
pub(super) fn record_len(header: &RecordHeader) -> u64 {
    u64::from(header.length) + to_u64(HEADER_LEN)
}
