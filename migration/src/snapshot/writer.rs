//! Saving: a machine is paused, written down, and let go on.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::fault::{FaultAction, Faults, spoil_sections};
use crate::header::{self, Header};
use crate::ident::{ContentHash, Id};
use crate::manifest::Manifest;
use crate::phases::{OutOfOrder, Phase, Side, TransferKind, Walk};
use crate::progress::Progress;
use crate::record::{Record, RecordError, RecordKind};
use crate::schemas::SchemaTable;
use crate::section::{self, SectionError};
use crate::vm::{SourceVm, VmError, match_blocks};

use super::index::{BlockEntry, Index, RecordEntry, TRAILER_LEN, Trailer};
use super::layout::{CHUNK, Layout};
use super::place::UnnamedFile;
use super::ram_writer::RamWriter;
use super::to_u64;

/// How to save.
#[derive(Clone, Debug)]
pub struct SaveOptions {
    /// Leave the guest paused where it was saved. A failed save lets it go on all the same.
    pub stop: bool,
    /// How many threads read and check RAM.
    pub threads: usize,
    /// What to break on purpose.
    pub faults: Option<Arc<dyn Faults>>,
}

impl Default for SaveOptions {
    fn default() -> Self {
        Self {
            stop: false,
            threads: 2,
            faults: None,
        }
    }
}

/// What a save did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaveReport {
    /// The identity of the snapshot.
    pub snapshot: Id,
    /// The hash by which a child knows this file.
    pub hash: ContentHash,
    /// The length of the file, holes included.
    pub length: u64,
    /// The guest's RAM.
    pub ram: u64,
    /// The part of it that is not zero and was written.
    pub data: u64,
    /// How long the guest stood still.
    pub paused: Duration,
    /// How long the whole took, until the file was durable and had its name.
    pub total: Duration,
}

/// Why there is no snapshot. But for [`SaveError::NotResumed`] the guest goes on as if nothing had been asked.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// No file can be made there.
    #[error("cannot make the snapshot {}: {source}{}", path.display(), remedy(source))]
    Create {
        /// The snapshot.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The disk is full.
    #[error(
        "cannot write the snapshot {}: no space is left, and it takes up to {} MiB; choose another folder",
        path.display(), *.needed >> 20
    )]
    NoSpace {
        /// The snapshot.
        path: PathBuf,
        /// What it takes at most, in bytes.
        needed: u64,
    },
    /// The disk failed.
    #[error("cannot write the snapshot {}: {source}", path.display())]
    Write {
        /// The snapshot.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The machine cannot be saved.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// An object's state does not fit its description.
    #[error(transparent)]
    Section(#[from] SectionError),
    /// A part of the machine's description is longer than any reader takes.
    #[error("this machine is too large for a snapshot: {0}")]
    TooLarge(#[from] RecordError),
    /// A file would have no end.
    #[error("this machine has more RAM than a file can hold")]
    TooMuchRam,
    /// The writer broke its own protocol.
    #[error(transparent)]
    OutOfOrder(#[from] OutOfOrder),
    /// Whoever watches the progress wants no more of it.
    #[error("cancelled; no snapshot was made")]
    Cancelled,
    /// A fault that a test asked for.
    #[error("a fault was injected in phase {0}")]
    Injected(Phase),
    /// The guest stands paused, because the accelerator does not let it go on.
    #[error(
        "{} and the guest cannot go on: {source}",
        match because { None => "the snapshot is complete,".to_owned(), Some(because) => format!("{because};") }
    )]
    NotResumed {
        /// Why it stands.
        source: VmError,
        /// Why there is no snapshot either; `None` if there is one.
        because: Option<Box<SaveError>>,
    },
}

/// What to do about what the system says; a refusal of our own says it already.
fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(_) => "; choose a folder that exists and can be written",
        None => "",
    }
}

/// Saves `vm` as the file `path`, in place of a file that is there. The guest stands still from the reading of its
/// state until the last of its RAM is handed to the kernel; it runs on while that becomes durable.
///
/// # Errors
///
/// Why there is no snapshot; nothing is left of it then, and a file that was there is untouched.
pub fn save(
    vm: &dyn SourceVm,
    path: &Path,
    options: &SaveOptions,
    progress: &dyn Progress,
) -> Result<SaveReport, SaveError> {
    let began = Instant::now();
    let create_failed = |source| SaveError::Create {
        path: path.to_owned(),
        source,
    };
    let file = UnnamedFile::create(path).map_err(create_failed)?;
    let snapshot = Id::random().map_err(create_failed)?;
    let writer = Writer {
        vm,
        file: file.file(),
        path,
        options,
        progress,
    };
    // What does not depend on the guest's state is ready before the guest has to wait.
    let opening = writer.describe(snapshot)?;

    let pausing = Instant::now();
    let paused = Paused::new(vm)?;
    let written = writer.write(opening);
    let stays = options.stop && written.is_ok();
    let (kept, resumed) = if stays {
        (Some(paused), Ok(()))
    } else {
        (None, paused.resume())
    };
    let stood = pausing.elapsed();
    let published = written.and_then(|written| match file.publish() {
        Ok(()) => Ok(written),
        Err(source) => Err(write_failed(path, written.length, source)),
    });
    match (published, resumed) {
        (Ok(written), Ok(())) => {
            if let Some(kept) = kept {
                kept.keep();
            }
            Ok(SaveReport {
                snapshot,
                hash: written.hash,
                length: written.length,
                ram: written.ram,
                data: written.data,
                paused: stood,
                total: began.elapsed(),
            })
        }
        (Err(error), Ok(())) => Err(error),
        (outcome, Err(source)) => Err(SaveError::NotResumed {
            source,
            because: outcome.err().map(Box::new),
        }),
    }
}

pub(super) fn write_failed(path: &Path, needed: u64, source: io::Error) -> SaveError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => SaveError::NoSpace { path, needed },
        _ => SaveError::Write { path, source },
    }
}

/// A paused machine, which goes on whenever this is dropped: by a failure, or by a panic.
struct Paused<'a>(Option<&'a dyn SourceVm>);

impl<'a> Paused<'a> {
    fn new(vm: &'a dyn SourceVm) -> Result<Self, VmError> {
        vm.pause()?;
        Ok(Self(Some(vm)))
    }

    fn resume(mut self) -> Result<(), VmError> {
        self.0.take().map_or(Ok(()), SourceVm::resume)
    }

    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        if let Some(vm) = self.0 {
            // The save has failed already and says why; a machine that cannot go on says so itself.
            let _ = vm.resume();
        }
    }
}

/// What was written.
struct Written {
    hash: ContentHash,
    length: u64,
    ram: u64,
    data: u64,
}

/// What a file begins with, as far as it does not depend on the guest's state.
struct Opening {
    records: RecordSink,
    schemas: SchemaTable,
    manifest: Manifest,
}

/// One save.
struct Writer<'a> {
    vm: &'a dyn SourceVm,
    file: &'a File,
    path: &'a Path,
    options: &'a SaveOptions,
    progress: &'a dyn Progress,
}

impl Writer<'_> {
    fn describe(&self, snapshot: Id) -> Result<Opening, SaveError> {
        let schemas = SchemaTable::new(&self.vm.schemas());
        let manifest = Manifest {
            recipe: self.vm.recipe(),
            inventory: self.vm.inventory(),
        };
        let mut records = RecordSink::new();
        self.enter(Phase::Header)?;
        records.add(
            RecordKind::Header,
            None,
            &Header::new(snapshot, self.vm.identity()).to_cbor(),
        )?;
        self.enter(Phase::Schemas)?;
        records.add(RecordKind::Schemas, None, &schemas.to_cbor())?;
        self.enter(Phase::Manifest)?;
        records.add(RecordKind::Manifest, None, &manifest.to_cbor())?;
        Ok(Opening {
            records,
            schemas,
            manifest,
        })
    }

    fn write(&self, opening: Opening) -> Result<Written, SaveError> {
        let Opening {
            mut records,
            schemas,
            manifest,
        } = opening;
        self.enter(Phase::Sections)?;
        let mut sections = self.vm.sections()?;
        if let Some(faults) = &self.options.faults {
            spoil_sections(&**faults, &schemas, &mut sections);
        }
        for section in &sections {
            records.add(
                RecordKind::Section,
                Some(&section.path),
                &section::encode(&schemas, section)?,
            )?;
        }
        records.add(RecordKind::SectionsEnd, None, &[])?;

        let blocks = self.vm.ram();
        match_blocks(&manifest.recipe, &blocks)?;
        let layout = Layout::new(records.end(), &manifest.recipe.ram).ok_or(SaveError::TooMuchRam)?;
        let failed = |source| write_failed(self.path, layout.index, source);
        self.file.write_all_at(&records.bytes, 0).map_err(failed)?;
        let ram = RamWriter {
            file: self.file,
            path: self.path,
            layout: &layout,
            blocks: &blocks,
            progress: self.progress,
            faults: self.options.faults.as_deref(),
        }
        .write(self.options.threads)?;

        self.enter(Phase::Index)?;
        let entries = layout.blocks.iter().zip(&ram.sums);
        let index = Index {
            records: records.entries,
            blocks: entries
                .map(|(block, sums)| BlockEntry::new(block.offset, block.size, CHUNK, sums))
                .collect(),
        };
        let index = index.to_cbor();
        records.walk.step(Side::Source, RecordKind::Index)?;
        records.walk.step(Side::Source, RecordKind::Trailer)?;
        let mut end = Vec::new();
        let index_length = Record::write(&mut end, RecordKind::Index, &index)?;
        let trailer = Trailer {
            index: layout.index,
            index_length,
            file_length: layout.index + index_length + TRAILER_LEN,
            hash: ContentHash::of(&index),
        };
        Record::write(&mut end, RecordKind::Trailer, &trailer.to_bytes())?;
        self.file.write_all_at(&end, layout.index).map_err(failed)?;
        // Whole, and still without its name.
        self.enter(Phase::Done)?;
        Ok(Written {
            hash: trailer.hash,
            length: trailer.file_length,
            ram: layout.blocks.iter().map(|block| block.size).sum(),
            data: ram.data,
        })
    }

    fn enter(&self, phase: Phase) -> Result<(), SaveError> {
        if self.progress.cancelled() {
            return Err(SaveError::Cancelled);
        }
        match self
            .options
            .faults
            .as_ref()
            .and_then(|faults| faults.on_phase(Side::Source, phase))
        {
            None => Ok(()),
            Some(FaultAction::Abort) => panic!("a fault was injected in phase {phase}"),
            Some(FaultAction::Stall) => Err(self.stall()),
            Some(FaultAction::Error | FaultAction::Cut) => Err(SaveError::Injected(phase)),
        }
    }

    /// Hangs until whoever watches the progress has had enough of it, who can only be asked.
    fn stall(&self) -> SaveError {
        while !self.progress.cancelled() {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        SaveError::Cancelled
    }
}

/// The records before RAM, gathered in memory (they are small) with what the index says of them.
struct RecordSink {
    bytes: Vec<u8>,
    entries: Vec<RecordEntry>,
    walk: Walk,
}

impl RecordSink {
    fn new() -> Self {
        Self {
            bytes: header::prefix().to_vec(),
            entries: Vec::new(),
            walk: Walk::new(TransferKind::File),
        }
    }

    fn end(&self) -> u64 {
        to_u64(self.bytes.len())
    }

    fn add(&mut self, kind: RecordKind, path: Option<&str>, payload: &[u8]) -> Result<(), SaveError> {
        self.walk.step(Side::Source, kind)?;
        let offset = self.end();
        let length = Record::write(&mut self.bytes, kind, payload)?;
        self.entries.push(RecordEntry {
            kind: kind.number(),
            path: path.map(ToOwned::to_owned),
            offset,
            length,
            crc: crc32fast::hash(payload),
        });
        Ok(())
    }
}
