//! What a transfer needs of a virtual machine, and nothing else: the two sides are traits, so that the engine moves
//! whatever keeps these promises (the VM of `vmm`, or the fake one of the tests).
//!
//! A transfer reads a [`SourceVm`], describes it as an [`Offer`], and has a [`DestinationFactory`] turn that into a
//! [`DestinationVm`]. Endpoints (file, TCP, unix socket) do not show here.

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use hw::memory::{RamBlock, RamError};
use vmstate::qom::sections::{IncomingSection, SectionSchema};
use vmstate::state::{Schema, Section};

use crate::cbor::{Bytes, CborError, cbor_map};
use crate::ident::ContentHash;

pub use crate::header::{Header, Identity, Parent};
pub use crate::manifest::{
    BootPayload, CpuModel, CpuidEntry, Inventory, InventoryObject, Property, RamBlockRecipe, Recipe, Setting,
    UserObject,
};

/// All that is said about a machine before a byte of its RAM moves.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Identities and features.
    pub header: Header,
    /// What to build.
    pub recipe: Recipe,
    /// What should then stand there.
    pub inventory: Inventory,
    /// The writer's description of every section that can follow.
    pub schemas: Vec<SectionSchema>,
    /// What the new instance descends from, where the endpoint is a snapshot.
    pub parent: Option<Parent>,
}

/// What a destination found when it compared an [`Offer`] with itself and its host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PreflightReport {
    /// Why the machine cannot be taken; none means that it can.
    pub refusals: Vec<Finding>,
    /// What has to hold of values that are known only later (an optional subsection, a field with a non-default value).
    pub conditions: Vec<Finding>,
    /// What differs without standing in the way.
    pub notes: Vec<Finding>,
    /// How the destination reads the states that it has conditions on, so that the source can tell whether they are met.
    pub readers: Vec<ReaderSchema>,
}

/// How a destination reads one kind of state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReaderSchema {
    /// The name of the type that has the description.
    pub description: String,
    record: Bytes,
}
cbor_map!(ReaderSchema, "reader" { 0 => description, 2 => record });

impl ReaderSchema {
    /// What `description` names is read by `schema`.
    #[must_use]
    pub fn new(description: &str, schema: &Schema) -> Self {
        Self {
            description: description.to_owned(),
            record: Bytes(schema.to_cbor()),
        }
    }

    /// The description.
    ///
    /// # Errors
    ///
    /// It comes from the other side, and may be none.
    pub fn schema(&self) -> Result<Schema, CborError> {
        Schema::from_cbor(&self.record.0).map_err(|error| CborError {
            what: format!("the reader of {}: {error}", self.description),
            offset: 0,
        })
    }
}

impl PreflightReport {
    /// Whether nothing known so far stands in the way.
    #[must_use]
    pub fn accepts(&self) -> bool {
        self.refusals.is_empty()
    }
}

impl fmt::Display for PreflightReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, finding) in self.refusals.iter().enumerate() {
            write!(f, "{}{finding}", if position == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

/// One difference, named so that a user can act on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is about: an object's path and field, `cpu`, `machine`, `memory`.
    pub subject: String,
    /// What differs, and what to do about it.
    pub because: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.because)
    }
}

/// What a VM answers when it cannot do what a transfer asks of it. The texts are for the user.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// The VM is not in a state in which this can be done.
    #[error("the VM cannot {operation}: {because}")]
    Refused {
        /// What was asked, as a verb phrase.
        operation: &'static str,
        /// Why not.
        because: String,
    },
    /// The accelerator failed, or refused a value.
    #[error("the accelerator cannot {operation}: {because}")]
    Accelerator {
        /// What was asked, as a verb phrase.
        operation: &'static str,
        /// The call, the register and the kernel's answer.
        because: String,
    },
    /// An object's state cannot be saved or loaded.
    #[error("the state of {path}: {because}")]
    State {
        /// The object's canonical path.
        path: String,
        /// The field, the values and the reason.
        because: String,
    },
    /// A RAM block cannot be made, read or written.
    #[error("RAM block {block}: {because}")]
    Memory {
        /// The block's name.
        block: String,
        /// What failed.
        because: String,
    },
    /// The machine cannot be built here.
    #[error("{subject}: {because}")]
    Build {
        /// The object, option or resource.
        subject: String,
        /// Why not, and what to do about it.
        because: String,
    },
}

/// Where the RAM of a destination comes from.
#[derive(Debug)]
pub enum RamSource {
    /// Empty blocks, which the engine fills before [`DestinationVm::load`].
    Fresh,
    /// Private maps over a snapshot file: a write of the guest never reaches the file, and nothing is read before it is used.
    PrivateFile(Vec<FileBlock>),
}

/// Where one RAM block lies in a file.
#[derive(Debug)]
pub struct FileBlock {
    /// The block's name, as in [`RamBlockRecipe`].
    pub name: String,
    /// The file, open for reading.
    pub file: File,
    /// Where in it the block begins; aligned for huge pages.
    pub offset: u64,
    /// The block's size in bytes.
    pub size: u64,
}

/// A machine that can be saved or sent.
///
/// Whoever drives a transfer calls these in the order of its phases; a failed call leaves the machine as it was before.
pub trait SourceVm: Send + Sync {
    /// Who this is.
    fn identity(&self) -> Identity;
    /// What to build it from. Constant while the machine lives, but for objects added by the user.
    fn recipe(&self) -> Recipe;
    /// The tree as it stands.
    fn inventory(&self) -> Inventory;
    /// The maximal schema of every section that this machine can have.
    fn schemas(&self) -> Vec<SectionSchema>;
    /// Every RAM block, boot payload included, in the order of the recipe.
    fn ram(&self) -> Vec<Arc<RamBlock>>;

    /// Starts logging writes of the guest for the migration client; all pages count as dirty from here.
    ///
    /// # Errors
    ///
    /// The accelerator cannot log; no slot is then left logging.
    fn dirty_log_start(&self) -> Result<(), VmError>;
    /// Brings what was written since the last call into the blocks' bitmaps.
    ///
    /// # Errors
    ///
    /// The accelerator failed; the log has to be taken as lost, and the transfer with it.
    fn dirty_log_sync(&self) -> Result<(), VmError>;
    /// Re-arms logging for bytes `range` of `block`, just before they are read for sending.
    ///
    /// # Errors
    ///
    /// As for [`Self::dirty_log_sync`].
    fn dirty_log_clear(&self, block: &RamBlock, range: Range<u64>) -> Result<(), VmError>;
    /// Ends logging. May be called when none runs.
    fn dirty_log_stop(&self);

    /// Takes all vCPUs out of the guest and reads the accelerator's state into the objects, once. Afterwards nothing
    /// writes RAM or state until [`Self::resume`]. A machine that its user has stopped is only held, and stays stopped after
    /// that. One that a transfer holds already refuses: two transfers at a time would each let it go on under the other.
    ///
    /// # Errors
    ///
    /// The machine runs on (or stays paused, if it was).
    fn pause(&self) -> Result<(), VmError>;
    /// The state of every object, from the objects alone: asked twice in one pause, it answers the same.
    ///
    /// # Errors
    ///
    /// An object refuses to be saved; the machine stays paused.
    fn sections(&self) -> Result<Vec<Section>, VmError>;
    /// The state as it is now, with the guest running, of those objects that hold it themselves: what an accelerator holds
    /// is known in a pause only. Each object's state is whole by itself.
    fn peek(&self) -> Vec<Section>;

    /// Undoes [`Self::pause`]: runs on if the machine ran before it, from the instant at which it was paused.
    ///
    /// # Errors
    ///
    /// The accelerator refuses; the machine stays paused and says so.
    fn resume(&self) -> Result<(), VmError>;

    /// The receiver runs the guest: this one never will again, and its process may end. `to` says where it went.
    fn handed_over(&self, to: &str);
    /// *Go* was said and *running* never came: keep the guest whole and paused until the user resolves it.
    fn undecided(&self);
}

/// Makes machines from offers. It holds what the host adds: the accelerator, limits, the mapping of host resources.
pub trait DestinationFactory: Send + Sync {
    /// The machine that it makes. The engine hands it back as it is, so that the caller need not cast.
    type Vm: DestinationVm;

    /// Compares an offer with what this build and this host can take, without allocating the guest.
    fn preflight(&self, offer: &Offer) -> PreflightReport;
    /// Builds the machine of the offer's recipe, with nothing loaded and nothing running.
    ///
    /// # Errors
    ///
    /// Why it cannot stand here; nothing is left behind.
    fn build(&self, offer: &Offer, ram: RamSource) -> Result<Self::Vm, VmError>;
}

/// A machine that was built from an offer and waits for its contents. Dropping it leaves nothing behind.
pub trait DestinationVm: Send {
    /// Every RAM block, in the order of the recipe. The engine fills them and then makes those read-only that the recipe
    /// says are, so none is before.
    fn ram(&self) -> Vec<Arc<RamBlock>>;
    /// Puts every section into the objects and the accelerator, after all of them were found valid. RAM is complete by
    /// now. Nothing runs afterwards.
    ///
    /// # Errors
    ///
    /// The section and field that cannot be loaded. The machine is then of no use and is dropped.
    fn load(&mut self, sections: Vec<IncomingSection>) -> Result<(), VmError>;
    /// Lets the guest run (or stand paused, where that was asked of the factory).
    ///
    /// # Errors
    ///
    /// The accelerator refuses; no instruction has run.
    fn run(&mut self) -> Result<(), VmError>;
}

/// Checks that a machine has the RAM blocks of its recipe, in that order.
///
/// # Errors
///
/// The first block that differs.
pub fn match_blocks(recipe: &Recipe, blocks: &[Arc<RamBlock>]) -> Result<(), VmError> {
    let differs = |block: &str, because: String| {
        Err(VmError::Memory {
            block: block.to_owned(),
            because,
        })
    };
    if let Some(missing) = recipe.ram.get(blocks.len()) {
        return differs(&missing.name, "the recipe has it and the machine has not".to_owned());
    }
    for (position, block) in blocks.iter().enumerate() {
        match recipe.ram.get(position) {
            Some(wanted) if (wanted.name.as_str(), wanted.size) == (block.name(), block.size()) => {}
            Some(wanted) => {
                let because = format!(
                    "the machine has '{}' of {} bytes where the recipe wants {} bytes of it",
                    block.name(),
                    block.size(),
                    wanted.size
                );
                return differs(&wanted.name, because);
            }
            None => return differs(block.name(), "the machine has it and the recipe has not".to_owned()),
        }
    }
    Ok(())
}

/// Checks that RAM that has arrived holds the boot payload that the recipe promises, and makes the read-only blocks so.
///
/// # Errors
///
/// The payload that is something else, or the block that cannot be read or protected.
pub fn finish_blocks(recipe: &Recipe, blocks: &[Arc<RamBlock>]) -> Result<(), VmError> {
    match_blocks(recipe, blocks)?;
    for payload in &recipe.boot {
        let block = blocks.iter().find(|block| block.name() == payload.block);
        let block = block.ok_or_else(|| VmError::Memory {
            block: payload.block.clone(),
            because: format!("the {} should lie in it, and there is none", payload.role),
        })?;
        if hash_of(block, payload.length)? != payload.hash {
            return Err(VmError::Memory {
                block: payload.block.clone(),
                because: format!("it does not hold the {} that the recipe promises", payload.role),
            });
        }
    }
    seal_blocks(recipe, blocks)
}

/// Makes those blocks read-only that the recipe says are, without looking at what they hold.
///
/// # Errors
///
/// The blocks are not the recipe's, or one cannot be protected.
pub fn seal_blocks(recipe: &Recipe, blocks: &[Arc<RamBlock>]) -> Result<(), VmError> {
    match_blocks(recipe, blocks)?;
    for (wanted, block) in recipe.ram.iter().zip(blocks) {
        if wanted.readonly {
            block.make_readonly().map_err(|error| memory_error(block, &error))?;
        }
    }
    Ok(())
}

/// The hash of the first `length` bytes of a block, as a recipe's boot payload has it.
///
/// # Errors
///
/// The block is shorter.
pub fn hash_of(block: &RamBlock, length: u64) -> Result<ContentHash, VmError> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 64 << 10];
    let mut offset = 0;
    while offset < length {
        let step = usize::try_from(length - offset).map_or(buffer.len(), |left| left.min(buffer.len()));
        block
            .read(offset, &mut buffer[..step])
            .map_err(|error| memory_error(block, &error))?;
        hasher.update(&buffer[..step]);
        offset += u64::try_from(step).unwrap_or(u64::MAX);
    }
    Ok(ContentHash::from_bytes(*hasher.finalize().as_bytes()))
}

pub(crate) fn memory_error(block: &RamBlock, error: &RamError) -> VmError {
    VmError::Memory {
        block: block.name().to_owned(),
        because: error.to_string(),
    }
}
