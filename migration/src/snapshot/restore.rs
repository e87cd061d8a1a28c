//! Restoring: a machine is built from a file, filled, and handed back ready to run.

use std::path::Path;
use std::time::{Duration, Instant};

use super::error::SnapshotError;
use super::reader::Snapshot;
use crate::header::Parent;
use crate::progress::Progress;
use crate::vm::{
    DestinationFactory, DestinationVm, PreflightReport, RamSource, VmError, finish_blocks, match_blocks, seal_blocks,
};

/// What is checked of RAM before the guest may run. Everything else is always checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// All of it, while it is read into memory.
    #[default]
    All,
    /// Nothing: the file is mapped privately and read as the guest uses it. Damage reaches the guest unseen.
    None,
}

/// How to restore.
#[derive(Clone, Copy, Debug)]
pub struct RestoreOptions {
    /// What is checked beforehand.
    pub verify: Verify,
    /// How many threads read and check RAM.
    pub threads: usize,
}

impl Default for RestoreOptions {
    fn default() -> Self {
        Self {
            verify: Verify::All,
            threads: 2,
        }
    }
}

/// A machine from a snapshot, loaded and not running.
#[derive(Debug)]
pub struct Restored<V> {
    /// The machine.
    pub vm: V,
    /// What the machine descends from now.
    pub parent: Parent,
    /// What differs without standing in the way.
    pub preflight: PreflightReport,
    /// How long it took.
    pub took: Duration,
}

/// Why a snapshot was not restored. Nothing is left of the machine, and the file is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The file is damaged, or no snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The machine cannot be had here.
    #[error("this snapshot cannot be restored here: {0}")]
    Refused(PreflightReport),
    /// Building or loading the machine failed.
    #[error(transparent)]
    Vm(#[from] VmError),
}

/// Brings the machine of the snapshot `path` back, up to but without its first instruction.
///
/// # Errors
///
/// Why it cannot be; whatever was built is gone again.
pub fn restore<F: DestinationFactory + ?Sized>(
    path: &Path,
    options: &RestoreOptions,
    factory: &F,
    progress: &dyn Progress,
) -> Result<Restored<F::Vm>, RestoreError> {
    let began = Instant::now();
    let snapshot = Snapshot::open(path)?;
    let offer = snapshot.offer();
    let preflight = factory.preflight(&offer);
    if !preflight.accepts() {
        return Err(RestoreError::Refused(preflight));
    }
    let source = match options.verify {
        Verify::All => RamSource::Fresh,
        Verify::None => RamSource::PrivateFile(snapshot.file_blocks()?),
    };
    let mut vm = factory.build(&offer, source)?;
    let blocks = vm.ram();
    match options.verify {
        Verify::All => {
            match_blocks(&offer.recipe, &blocks)?;
            snapshot.load_ram(&blocks, options.threads, progress)?;
            finish_blocks(&offer.recipe, &blocks)?;
        }
        // To hash the boot payload would read what is not to be read.
        Verify::None => seal_blocks(&offer.recipe, &blocks)?,
    }
    let parent = snapshot.as_parent();
    vm.load(snapshot.into_sections())?;
    Ok(Restored {
        vm,
        parent,
        preflight,
        took: began.elapsed(),
    })
}
