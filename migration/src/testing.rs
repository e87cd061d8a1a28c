//! Machines made of nothing but RAM and a few fields, for tests of the engine.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use hw::memory::{Backing, DirtyClient, RamBlock};
use parking_lot::Mutex;
use vmstate::VmState;
use vmstate::qom::sections::{IncomingSection, SectionSchema};
use vmstate::state::{self, Section};

use crate::ident::Id;
use crate::vm::{
    BootPayload, CpuModel, CpuidEntry, DestinationFactory, DestinationVm, FileBlock, Finding, Identity, Inventory,
    InventoryObject, Offer, PreflightReport, Property, RamBlockRecipe, RamSource, Recipe, SourceVm, VmError, hash_of,
};

/// The name of the type that describes a fake object's state.
pub const FAKE_DESCRIPTION: &str = "fake";

/// The state of an object of a fake machine.
#[derive(VmState, Default, Clone, Debug, PartialEq)]
#[vmstate(name = "fake")]
pub struct FakeState {
    /// A number.
    pub counter: u64,
    /// A flag.
    pub armed: bool,
    /// Some bytes.
    pub fifo: [u8; 16],
}

/// A folder of its own for a test, gone when this is dropped.
#[derive(Debug)]
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    /// A new folder.
    ///
    /// # Panics
    ///
    /// There is no place for one.
    #[must_use]
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder for the test"))
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// What a fake machine does wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Misbehaviour {
    /// Nothing.
    #[default]
    None,
    /// It cannot be paused.
    Pause,
    /// An object refuses to be saved.
    Sections,
    /// It cannot go on.
    Resume,
    /// Its log of writes fails.
    DirtyLog,
}

/// Where a fake source stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FakeRun {
    /// It runs.
    Running,
    /// It is paused.
    Paused,
    /// Somebody else runs it.
    HandedOver(String),
    /// Nobody knows who runs it.
    Undecided,
}

/// A machine that can be saved and sent, whose guest is the test.
#[derive(Debug)]
pub struct FakeVm {
    identity: Identity,
    recipe: Recipe,
    blocks: Vec<Arc<RamBlock>>,
    objects: Mutex<Vec<(String, FakeState)>>,
    run: Mutex<FakeRun>,
    misbehaviour: Mutex<Misbehaviour>,
}

/// The memory of a fake machine's blocks.
const FAKE_BACKING: fn() -> Backing = || Backing::SharedMemfd;

impl FakeVm {
    /// A running machine with a block `ram` of this size, and a read-only block `boot` that holds a kernel.
    ///
    /// # Panics
    ///
    /// The host has no such memory.
    #[must_use]
    pub fn new(ram: u64) -> Self {
        let kernel = b"kernel of a fake machine";
        let blocks = vec![
            RamBlock::new("ram", ram, FAKE_BACKING()).expect("RAM"),
            RamBlock::with_contents("boot", kernel, FAKE_BACKING()).expect("boot payload"),
        ];
        let length = u64::try_from(kernel.len()).expect("short");
        let recipe = Recipe {
            machine: "fake-1.0".to_owned(),
            cpu: CpuModel {
                name: "fake-v1".to_owned(),
                cpuid: vec![CpuidEntry {
                    function: 0,
                    index: 0,
                    indexed: false,
                    registers: [1, 2, 3, 4],
                }],
                ..CpuModel::default()
            },
            cpus: vec![0, 1],
            memory: ram,
            options: vec![Property {
                name: "colour".to_owned(),
                value: "green".to_owned(),
            }],
            ram: blocks
                .iter()
                .map(|block| RamBlockRecipe {
                    name: block.name().to_owned(),
                    size: block.size(),
                    readonly: block.is_readonly(),
                })
                .collect(),
            boot: vec![BootPayload {
                role: "kernel".to_owned(),
                block: "boot".to_owned(),
                length,
                hash: hash_of(&blocks[1], length).expect("in bounds"),
            }],
            objects: Vec::new(),
            settings: None,
        };
        let object = |number: u64| {
            let path = format!("/machine/fake{number}");
            (
                path,
                FakeState {
                    counter: 1000 + number,
                    armed: number % 2 == 1,
                    ..FakeState::default()
                },
            )
        };
        Self {
            identity: Identity {
                vm: Id::random().expect("random numbers"),
                instance: Id::random().expect("random numbers"),
                name: "fake".to_owned(),
                parent: None,
            },
            recipe,
            blocks,
            objects: Mutex::new((0..3).map(object).collect()),
            run: Mutex::new(FakeRun::Running),
            misbehaviour: Mutex::default(),
        }
    }

    /// Writes as the guest would.
    ///
    /// # Panics
    ///
    /// Out of bounds.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        self.blocks[0].write(offset, bytes).expect("in bounds");
    }

    /// Fills the pages of `range` with bytes that differ from page to page and seed to seed.
    pub fn fill(&self, range: Range<u64>, seed: u64) {
        let mut state = seed.wrapping_add(range.start) | 1;
        let mut page = [0; 4096];
        for offset in range.step_by(page.len()) {
            for word in page.chunks_exact_mut(8) {
                // xorshift64
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                word.copy_from_slice(&state.to_le_bytes());
            }
            self.write(offset, &page);
        }
    }

    /// Changes the state of an object as the guest would.
    pub fn set_state(&self, object: usize, state: FakeState) {
        self.objects.lock()[object].1 = state;
    }

    /// The states of all objects by path.
    #[must_use]
    pub fn states(&self) -> Vec<(String, FakeState)> {
        self.objects.lock().clone()
    }

    /// Where the machine stands.
    #[must_use]
    pub fn run_state(&self) -> FakeRun {
        self.run.lock().clone()
    }

    /// Makes the machine do something wrong from now on.
    pub fn misbehave(&self, how: Misbehaviour) {
        *self.misbehaviour.lock() = how;
    }

    fn misbehaves(&self, how: Misbehaviour, operation: &'static str) -> Result<(), VmError> {
        if *self.misbehaviour.lock() == how {
            return Err(VmError::Accelerator {
                operation,
                because: "a test wants it so".to_owned(),
            });
        }
        Ok(())
    }
}

/// The contents of blocks, one after the other.
///
/// # Panics
///
/// A block cannot be read.
#[must_use]
pub fn contents(blocks: &[Arc<RamBlock>]) -> Vec<Vec<u8>> {
    let read = |block: &Arc<RamBlock>| {
        let mut bytes = vec![0; usize::try_from(block.size()).expect("fits")];
        block.read(0, &mut bytes).expect("in bounds");
        bytes
    };
    blocks.iter().map(read).collect()
}

impl SourceVm for FakeVm {
    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    fn recipe(&self) -> Recipe {
        self.recipe.clone()
    }

    fn inventory(&self) -> Inventory {
        let object = |(path, _): &(String, FakeState)| InventoryObject {
            path: path.clone(),
            type_name: FAKE_DESCRIPTION.to_owned(),
            properties: Vec::new(),
        };
        Inventory {
            objects: self.objects.lock().iter().map(object).collect(),
        }
    }

    fn schemas(&self) -> Vec<SectionSchema> {
        let section = |(path, _): &(String, FakeState)| SectionSchema {
            path: path.clone(),
            description: FAKE_DESCRIPTION.to_owned(),
            schema: FakeState::schema().clone(),
        };
        self.objects.lock().iter().map(section).collect()
    }

    fn ram(&self) -> Vec<Arc<RamBlock>> {
        self.blocks.clone()
    }

    fn dirty_log_start(&self) -> Result<(), VmError> {
        self.misbehaves(Misbehaviour::DirtyLog, "log writes")?;
        self.blocks
            .iter()
            .for_each(|block| block.dirty().enable(DirtyClient::Migration));
        Ok(())
    }

    fn dirty_log_sync(&self) -> Result<(), VmError> {
        // The test writes through the blocks, which record that themselves.
        self.misbehaves(Misbehaviour::DirtyLog, "read the log of writes")
    }

    fn dirty_log_clear(&self, _block: &RamBlock, _range: Range<u64>) -> Result<(), VmError> {
        self.misbehaves(Misbehaviour::DirtyLog, "clear the log of writes")
    }

    fn dirty_log_stop(&self) {
        self.blocks
            .iter()
            .for_each(|block| block.dirty().disable(DirtyClient::Migration));
    }

    fn pause(&self) -> Result<(), VmError> {
        self.misbehaves(Misbehaviour::Pause, "pause")?;
        *self.run.lock() = FakeRun::Paused;
        Ok(())
    }

    fn sections(&self) -> Result<Vec<Section>, VmError> {
        self.misbehaves(Misbehaviour::Sections, "read the state")?;
        Ok(self.peek())
    }

    fn peek(&self) -> Vec<Section> {
        let section = |(path, state): &(String, FakeState)| Section {
            path: path.clone(),
            description: FAKE_DESCRIPTION.to_owned(),
            value: state.to_value(),
        };
        self.objects.lock().iter().map(section).collect()
    }

    fn resume(&self) -> Result<(), VmError> {
        self.misbehaves(Misbehaviour::Resume, "go on")?;
        *self.run.lock() = FakeRun::Running;
        Ok(())
    }

    fn handed_over(&self, to: &str) {
        *self.run.lock() = FakeRun::HandedOver(to.to_owned());
    }

    fn undecided(&self) {
        *self.run.lock() = FakeRun::Undecided;
    }
}

/// Makes fake machines from offers, or does not.
#[derive(Clone, Debug, Default)]
pub struct FakeFactory {
    /// Why every offer is refused, if it is.
    pub refuses: Option<String>,
    /// Whether the machines that it makes fail to load.
    pub cannot_load: bool,
    /// Whether they fail to run.
    pub cannot_run: bool,
}

/// A fake machine that was built from an offer.
#[derive(Debug)]
pub struct FakeDestination {
    /// Who it is.
    pub identity: Identity,
    /// Its memory.
    pub blocks: Vec<Arc<RamBlock>>,
    /// What was loaded: every object's state by path.
    pub states: Vec<(String, FakeState)>,
    /// Whether it runs.
    pub running: bool,
    factory: FakeFactory,
}

impl DestinationFactory for FakeFactory {
    type Vm = FakeDestination;

    fn preflight(&self, _offer: &Offer) -> PreflightReport {
        let finding = |because: &String| Finding {
            subject: "machine".to_owned(),
            because: because.clone(),
        };
        PreflightReport {
            refusals: self.refuses.iter().map(finding).collect(),
            ..PreflightReport::default()
        }
    }

    fn build(&self, offer: &Offer, ram: RamSource) -> Result<Self::Vm, VmError> {
        let make = |name: &str, size, backing| {
            RamBlock::new(name, size, backing).map_err(|error| VmError::Memory {
                block: name.to_owned(),
                because: error.to_string(),
            })
        };
        let blocks: Result<Vec<_>, VmError> = match ram {
            RamSource::Fresh => offer
                .recipe
                .ram
                .iter()
                .map(|block| make(&block.name, block.size, FAKE_BACKING()))
                .collect(),
            RamSource::PrivateFile(blocks) => blocks
                .into_iter()
                .map(
                    |FileBlock {
                         name,
                         file,
                         offset,
                         size,
                     }| make(&name, size, Backing::PrivateFile { file, offset }),
                )
                .collect(),
        };
        Ok(FakeDestination {
            identity: Identity {
                parent: offer.parent,
                ..offer.header.identity.clone()
            },
            blocks: blocks?,
            states: Vec::new(),
            running: false,
            factory: self.clone(),
        })
    }
}

impl DestinationVm for FakeDestination {
    fn ram(&self) -> Vec<Arc<RamBlock>> {
        self.blocks.clone()
    }

    fn load(&mut self, sections: Vec<IncomingSection>) -> Result<(), VmError> {
        if self.factory.cannot_load {
            return Err(VmError::State {
                path: "/machine".to_owned(),
                because: "a test wants it so".to_owned(),
            });
        }
        for section in sections {
            let failed = |because: String| VmError::State {
                path: section.path.clone(),
                because,
            };
            let value = state::decode(&section.writer_schema, &section.bytes).map_err(|e| failed(e.to_string()))?;
            let state = FakeState::from_value(&value).map_err(|e| failed(e.to_string()))?;
            self.states.push((section.path.clone(), state));
        }
        Ok(())
    }

    fn run(&mut self) -> Result<(), VmError> {
        if self.factory.cannot_run {
            return Err(VmError::Accelerator {
                operation: "run",
                because: "a test wants it so".to_owned(),
            });
        }
        self.running = true;
        Ok(())
    }
}
