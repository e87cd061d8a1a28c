//! Machines for the tests of precopy: a guest that writes at the worst moments, an accelerator that logs like KVM, and
//! a witness that sees it if two of them ever run at once.

use std::ops::Range;
use std::sync::Arc;

use hw::memory::{Backing, DirtyClient, RamBlock};
use parking_lot::Mutex;
use vmstate::qom::sections::{IncomingSection, SectionSchema};
use vmstate::state::{Section, VmState};

use crate::ident::{ContentHash, Id};
use crate::ram::{PAGE_SIZE, to_usize};
use crate::vm::{
    BootPayload, CpuModel, DestinationFactory, DestinationVm, Finding, Identity, Inventory, Offer, PreflightReport,
    RamBlockRecipe, RamSource, Recipe, SourceVm, VmError,
};

const PATH: &str = "/machine/fake";
const KERNEL: &[u8] = b"a kernel that nobody boots";

/// What the guest's RAM is filled with, and what the guest does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub pages: u64,
    /// Pages from the first on that are written before the migration; the others were never touched.
    pub full: u64,
    /// Pages that the guest writes before each look at the log; it also writes one of each range right after the log was
    /// armed for it. None for an idle guest.
    pub working_set: u64,
    /// How often the state is sent; once, in a machine that keeps to what it announced.
    pub sections: usize,
    /// The accelerator begins with all pages marked dirty and none armed, as KVM can.
    pub initially_set: bool,
}

impl Shape {
    pub(super) const IDLE: Self = Self {
        pages: 512,
        full: 300,
        working_set: 0,
        sections: 1,
        initially_set: false,
    };
    pub(super) const BUSY: Self = Self {
        working_set: 64,
        ..Self::IDLE
    };
}

/// Sees who runs. Shared by the two sides of one migration.
#[derive(Debug, Default)]
pub(super) struct Witness(Mutex<Vec<Run>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Run {
    Source,
    Destination,
}

impl Witness {
    fn begins(&self, who: Run) {
        let mut running = self.0.lock();
        running.push(who);
        assert_eq!(running.len(), 1, "two owners: {running:?}");
    }

    fn ends(&self, who: Run) {
        self.0.lock().retain(|&running| running != who);
    }

    pub(super) fn running(&self) -> Option<Run> {
        self.0.lock().first().copied()
    }
}

/// The device state of the fake machine.
#[derive(Clone, Debug, Default, PartialEq, VmState)]
pub(super) struct DeviceState {
    pub counter: u64,
    pub armed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Running,
    Paused,
    HandedOver,
    Undecided,
}

#[derive(Debug)]
struct Guest {
    standing: Standing,
    device: DeviceState,
    log: Option<Log>,
    steps: u64,
}

/// One bit per page of the RAM block, as an accelerator keeps them.
#[derive(Debug)]
struct Log {
    dirty: Vec<bool>,
    armed: Vec<bool>,
}

/// A source whose guest writes a counter into the pages of its working set.
#[derive(Debug)]
pub(super) struct FakeSource {
    shape: Shape,
    pub ram: Arc<RamBlock>,
    kernel: Arc<RamBlock>,
    guest: Mutex<Guest>,
    witness: Arc<Witness>,
}

impl FakeSource {
    pub(super) fn new(shape: Shape, witness: &Arc<Witness>) -> Arc<Self> {
        let ram = RamBlock::new("ram", shape.pages * PAGE_SIZE, Backing::SharedMemfd).expect("memory");
        let source = Arc::new(Self {
            shape,
            ram,
            kernel: RamBlock::with_contents("kernel", KERNEL, Backing::SharedMemfd).expect("memory"),
            guest: Mutex::new(Guest {
                standing: Standing::Running,
                device: DeviceState {
                    counter: 7,
                    armed: true,
                },
                log: None,
                steps: 1,
            }),
            witness: Arc::clone(witness),
        });
        witness.begins(Run::Source);
        let mut guest = source.guest.lock();
        (0..shape.full).for_each(|page| source.write(&mut guest, page, 1));
        drop(guest);
        source
    }

    pub(super) fn standing(&self) -> Standing {
        self.guest.lock().standing
    }

    /// The guest runs a little: writes some pages. Now and then one becomes zero, or is touched for the first time.
    fn step(&self, guest: &mut Guest, pages: impl Iterator<Item = u64>) {
        if guest.standing == Standing::Running && self.shape.working_set > 0 {
            guest.steps += 1;
            guest.device.counter += 1;
            let count = guest.steps;
            pages.for_each(|page| self.write(guest, page, (page + count) % 5));
        }
    }

    /// A write as the guest makes it: past every bitmap but the accelerator's.
    fn write(&self, guest: &mut Guest, page: u64, value: u64) {
        let mut bytes = [0; 4096];
        if value != 0 {
            bytes[..8].copy_from_slice(&page.to_le_bytes());
            bytes[8..16].copy_from_slice(&value.to_le_bytes());
        }
        let memfd = self.ram.fd().expect("a memfd");
        assert_eq!(rustix::io::pwrite(memfd, &bytes, page * PAGE_SIZE), Ok(4096));
        if let Some(log) = &mut guest.log
            && std::mem::take(&mut log.armed[to_usize(page)])
        {
            log.dirty[to_usize(page)] = true;
        }
    }

    /// The guest after a failed migration: it runs, and its memory takes writes.
    pub(super) fn assert_runs(&self) {
        let guest = self.guest.lock();
        assert_eq!(guest.standing, Standing::Running);
        assert!(guest.log.is_none(), "logging has ended");
        assert_eq!(self.witness.running(), Some(Run::Source));
    }
}

impl SourceVm for FakeSource {
    fn identity(&self) -> Identity {
        Identity {
            vm: Id::from_bytes([1; 16]),
            instance: Id::from_bytes([2; 16]),
            name: "fake".into(),
            parent: None,
        }
    }

    fn recipe(&self) -> Recipe {
        let block = |block: &RamBlock, readonly| RamBlockRecipe {
            name: block.name().into(),
            size: block.size(),
            readonly,
        };
        Recipe {
            machine: "fake-1.0".into(),
            cpu: CpuModel::default(),
            cpus: vec![0],
            memory: self.ram.size(),
            ram: vec![block(&self.ram, false), block(&self.kernel, true)],
            boot: vec![BootPayload {
                role: "kernel".into(),
                block: "kernel".into(),
                length: u64::try_from(KERNEL.len()).expect("short"),
                hash: ContentHash::of(KERNEL),
            }],
            ..Recipe::default()
        }
    }

    fn inventory(&self) -> Inventory {
        Inventory::default()
    }

    fn schemas(&self) -> Vec<SectionSchema> {
        vec![SectionSchema {
            path: PATH.into(),
            description: "fake".into(),
            schema: DeviceState::schema().clone(),
        }]
    }

    fn ram(&self) -> Vec<Arc<RamBlock>> {
        vec![Arc::clone(&self.ram), Arc::clone(&self.kernel)]
    }

    fn dirty_log_start(&self) -> Result<(), VmError> {
        for block in self.ram() {
            block.dirty().enable(DirtyClient::Migration);
        }
        let pages = to_usize(self.shape.pages);
        let set = self.shape.initially_set;
        self.guest.lock().log = Some(Log {
            dirty: vec![set; pages],
            armed: vec![!set; pages],
        });
        Ok(())
    }

    fn dirty_log_sync(&self) -> Result<(), VmError> {
        let mut guest = self.guest.lock();
        let (pages, steps) = (self.shape.pages, guest.steps);
        self.step(
            &mut guest,
            (0..self.shape.working_set).map(|page| (page * 7 + steps * 3) % pages),
        );
        let log = guest.log.as_ref().expect("logging has begun");
        for (page, _) in (0..).zip(&log.dirty).filter(|(_, dirty)| **dirty) {
            self.ram
                .dirty()
                .mark_for(DirtyClient::Migration, page * PAGE_SIZE, PAGE_SIZE);
        }
        Ok(())
    }

    fn dirty_log_clear(&self, block: &RamBlock, range: Range<u64>) -> Result<(), VmError> {
        if block.name() == self.ram.name() {
            let mut guest = self.guest.lock();
            let log = guest.log.as_mut().expect("logging has begun");
            let pages = to_usize(range.start / PAGE_SIZE)..to_usize(range.end / PAGE_SIZE);
            log.dirty[pages.clone()].fill(false);
            log.armed[pages].fill(true);
            self.step(&mut guest, std::iter::once(range.start / PAGE_SIZE));
        }
        Ok(())
    }

    fn dirty_log_stop(&self) {
        for block in self.ram() {
            block.dirty().disable(DirtyClient::Migration);
        }
        self.guest.lock().log = None;
    }

    fn pause(&self) -> Result<(), VmError> {
        let mut guest = self.guest.lock();
        assert_eq!(guest.standing, Standing::Running);
        guest.standing = Standing::Paused;
        self.witness.ends(Run::Source);
        Ok(())
    }

    fn sections(&self) -> Result<Vec<Section>, VmError> {
        let guest = self.guest.lock();
        assert_eq!(guest.standing, Standing::Paused);
        let section = Section {
            path: PATH.into(),
            description: "fake".into(),
            value: guest.device.to_value(),
        };
        Ok(vec![section; self.shape.sections])
    }

    fn resume(&self) -> Result<(), VmError> {
        let mut guest = self.guest.lock();
        assert_eq!(guest.standing, Standing::Paused);
        self.witness.begins(Run::Source);
        guest.standing = Standing::Running;
        Ok(())
    }

    fn handed_over(&self, to: &str) {
        assert!(!to.is_empty());
        self.leave(Standing::HandedOver);
    }

    fn undecided(&self) {
        self.leave(Standing::Undecided);
    }
}

impl FakeSource {
    fn leave(&self, standing: Standing) {
        let mut guest = self.guest.lock();
        assert_eq!(guest.standing, Standing::Paused);
        guest.standing = standing;
    }
}

/// Builds what it is offered, unless it is told not to.
#[derive(Debug, Default)]
pub(super) struct FakeFactory {
    pub witness: Arc<Witness>,
    pub refuse: Option<&'static str>,
    pub fail_to_build: bool,
    pub fail_to_load: bool,
}

impl DestinationFactory for FakeFactory {
    type Vm = FakeDestination;

    fn preflight(&self, offer: &Offer) -> PreflightReport {
        let finding = |because: &str| Finding {
            subject: offer.recipe.machine.clone(),
            because: because.into(),
        };
        PreflightReport {
            refusals: self.refuse.map(finding).into_iter().collect(),
            notes: vec![finding("is a fake")],
            ..PreflightReport::default()
        }
    }

    fn build(&self, offer: &Offer, ram: RamSource) -> Result<FakeDestination, VmError> {
        assert!(matches!(ram, RamSource::Fresh));
        if self.fail_to_build {
            return Err(VmError::Build {
                subject: "fake".into(),
                because: "it was told not to".into(),
            });
        }
        let block = |block: &RamBlockRecipe| {
            RamBlock::new(block.name.clone(), block.size, Backing::SharedMemfd).map_err(|error| VmError::Memory {
                block: block.name.clone(),
                because: error.to_string(),
            })
        };
        Ok(FakeDestination {
            ram: offer.recipe.ram.iter().map(block).collect::<Result<_, _>>()?,
            device: None,
            witness: Arc::clone(&self.witness),
            fail_to_load: self.fail_to_load,
        })
    }
}

#[derive(Debug)]
pub(super) struct FakeDestination {
    pub ram: Vec<Arc<RamBlock>>,
    pub device: Option<DeviceState>,
    witness: Arc<Witness>,
    fail_to_load: bool,
}

impl DestinationVm for FakeDestination {
    fn ram(&self) -> Vec<Arc<RamBlock>> {
        self.ram.clone()
    }

    fn load(&mut self, sections: Vec<IncomingSection>) -> Result<(), VmError> {
        let refuse = |because: String| VmError::State {
            path: PATH.into(),
            because,
        };
        let [section] = sections.as_slice() else {
            return Err(refuse(format!("{} sections", sections.len())));
        };
        if self.fail_to_load {
            return Err(refuse("it was told not to load".into()));
        }
        let value = vmstate::state::decode(&section.writer_schema, &section.bytes)
            .map_err(|error| refuse(error.to_string()))?;
        self.device = Some(DeviceState::from_value(&value).map_err(|error| refuse(error.to_string()))?);
        Ok(())
    }

    fn run(&mut self) -> Result<(), VmError> {
        assert!(self.device.is_some(), "nothing runs before it is loaded");
        self.witness.begins(Run::Destination);
        Ok(())
    }
}

impl Drop for FakeDestination {
    fn drop(&mut self) {
        self.witness.ends(Run::Destination);
    }
}

/// The page numbers at which two blocks differ.
pub(super) fn differing_pages(a: &RamBlock, b: &RamBlock) -> Vec<u64> {
    let mut pages = [[0; 4096]; 2];
    (0..a.size() / PAGE_SIZE)
        .filter(|page| {
            let [left, right] = &mut pages;
            a.read(page * PAGE_SIZE, left).expect("inside");
            b.read(page * PAGE_SIZE, right).expect("inside");
            left != right
        })
        .collect()
}
