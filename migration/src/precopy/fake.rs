//! The fake machines of [`crate::testing`] for the tests of precopy: with a guest that writes at the worst moments, an
//! accelerator that logs like KVM, and a witness that sees it if two of them ever run at once.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use hw::memory::{DirtyClient, RamBlock};
use parking_lot::Mutex;
use vmstate::qom::sections::{IncomingSection, SectionSchema};
use vmstate::state::{Schema, Section};

use crate::ram::{PAGE_SIZE, to_usize};
use crate::switchover::DowntimeLimit;
use crate::testing::{FAKE_DESCRIPTION, FakeDestination, FakeFactory, FakeRun, FakeState, FakeVm};
use crate::vm::{
    DestinationFactory, DestinationVm, Finding, Identity, Inventory, Offer, PreflightReport, RamSource, ReaderSchema,
    Recipe, SourceVm, VmError,
};

/// What a guest's RAM holds, and what the guest does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub pages: u64,
    /// Pages from the first on that are written before the migration; the others were never touched.
    pub full: u64,
    /// Pages that the guest writes before each look at the log; it also writes one of each range right after the log was
    /// armed for it. None for an idle guest.
    pub working_set: u64,
    /// How often the state is sent; once, by a machine that keeps to what it announced.
    pub copies_of_state: usize,
    /// The accelerator begins with all pages marked dirty and none armed, as KVM can.
    pub initially_set: bool,
}

impl Shape {
    pub(super) const IDLE: Self = Self {
        pages: 512,
        full: 300,
        working_set: 0,
        copies_of_state: 1,
        initially_set: false,
    };
    pub(super) const BUSY: Self = Self {
        working_set: 64,
        ..Self::IDLE
    };
}

/// Sees who runs. Shared by the two sides of one migration.
#[derive(Debug, Default)]
pub(super) struct Witness(Mutex<Vec<Owner>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Source,
    Destination,
}

impl Witness {
    fn begins(&self, who: Owner) {
        let mut running = self.0.lock();
        running.push(who);
        assert_eq!(running.len(), 1, "two owners: {running:?}");
    }

    fn ends(&self, who: Owner) {
        self.0.lock().retain(|&running| running != who);
    }

    pub(super) fn running(&self) -> Option<Owner> {
        self.0.lock().first().copied()
    }
}

/// A source whose guest writes while it is being sent.
#[derive(Debug)]
pub(super) struct FakeSource {
    pub vm: FakeVm,
    shape: Shape,
    accelerator: Mutex<Accelerator>,
    witness: Arc<Witness>,
    pub user: Mutex<User>,
}

/// What the user does to the downtime limit at certain moments of the migration.
#[derive(Debug, Default)]
pub(super) struct User {
    /// The limit.
    pub limit: Option<DowntimeLimit>,
    /// What it is set to whenever the log is looked at with the guest running.
    pub at_a_look: Option<Duration>,
    /// What it is set to at each of the first pauses, the last one first.
    pub at_pauses: Vec<Duration>,
    /// What it is set to whenever the guest goes on.
    pub at_resume: Option<Duration>,
    /// What the counter of the first object is set to in each pause.
    pub counter_in_pause: Option<u64>,
}

impl User {
    fn set(&self, limit: Option<Duration>) {
        if let (Some(this), Some(limit)) = (&self.limit, limit) {
            this.set(limit);
        }
    }
}

#[derive(Debug, Default)]
struct Accelerator {
    steps: u64,
    log: Option<Log>,
}

/// What an accelerator knows of each page of RAM.
#[derive(Debug)]
struct Log {
    dirty: Vec<bool>,
    armed: Vec<bool>,
}

impl FakeSource {
    pub(super) fn new(shape: Shape, witness: &Arc<Witness>) -> Arc<Self> {
        let source = Self {
            vm: FakeVm::new(shape.pages * PAGE_SIZE),
            shape,
            accelerator: Mutex::default(),
            witness: Arc::clone(witness),
            user: Mutex::default(),
        };
        witness.begins(Owner::Source);
        let mut accelerator = source.accelerator.lock();
        (0..shape.full).for_each(|page| source.write(&mut accelerator, page, 1));
        drop(accelerator);
        Arc::new(source)
    }

    /// After a failed migration: the guest runs, as if nothing had been.
    pub(super) fn assert_runs(&self) {
        assert_eq!(
            (self.vm.run_state(), self.witness.running()),
            (FakeRun::Running, Some(Owner::Source))
        );
        assert!(self.accelerator.lock().log.is_none(), "logging has ended");
    }

    /// Sets the counter of the first object.
    pub(super) fn set_counter(&self, counter: u64) {
        let state = self.vm.states()[0].1.clone();
        self.vm.set_state(0, FakeState { counter, ..state });
    }

    /// The user decides that an undecided guest goes on here.
    pub(super) fn resolve_resume(&self) {
        assert_eq!(self.vm.run_state(), FakeRun::Undecided);
        self.vm.resume().expect("a fake resumes");
        self.witness.begins(Owner::Source);
    }

    /// The guest runs a little: writes some pages. Now and then one becomes zero, or is touched for the first time.
    fn step(&self, accelerator: &mut Accelerator, pages: impl Iterator<Item = u64>) {
        if self.shape.working_set == 0 || self.vm.run_state() != FakeRun::Running {
            return;
        }
        accelerator.steps += 1;
        let count = accelerator.steps;
        pages.for_each(|page| self.write(accelerator, page, (page + count) % 5));
        let mut state = self.vm.states()[0].1.clone();
        state.counter += 1;
        self.vm.set_state(0, state);
    }

    /// A write as the guest makes it: past every bitmap but the accelerator's.
    fn write(&self, accelerator: &mut Accelerator, page: u64, value: u64) {
        let mut bytes = [0; 4096];
        if value != 0 {
            bytes[..8].copy_from_slice(&page.to_le_bytes());
            bytes[8..16].copy_from_slice(&value.to_le_bytes());
        }
        let ram = &self.vm.ram()[0];
        let memfd = ram.fd().expect("a memfd");
        assert_eq!(rustix::io::pwrite(memfd, &bytes, page * PAGE_SIZE), Ok(bytes.len()));
        if let Some(log) = &mut accelerator.log
            && std::mem::take(&mut log.armed[to_usize(page)])
        {
            log.dirty[to_usize(page)] = true;
        }
    }
}

impl SourceVm for FakeSource {
    fn identity(&self) -> Identity {
        self.vm.identity()
    }

    fn recipe(&self) -> Recipe {
        self.vm.recipe()
    }

    fn inventory(&self) -> Inventory {
        self.vm.inventory()
    }

    fn schemas(&self) -> Vec<SectionSchema> {
        self.vm.schemas()
    }

    fn ram(&self) -> Vec<Arc<RamBlock>> {
        self.vm.ram()
    }

    fn dirty_log_start(&self) -> Result<(), VmError> {
        self.vm.dirty_log_start()?;
        let (pages, set) = (to_usize(self.shape.pages), self.shape.initially_set);
        self.accelerator.lock().log = Some(Log {
            dirty: vec![set; pages],
            armed: vec![!set; pages],
        });
        Ok(())
    }

    fn dirty_log_sync(&self) -> Result<(), VmError> {
        self.vm.dirty_log_sync()?;
        if self.vm.run_state() == FakeRun::Running {
            let user = self.user.lock();
            user.set(user.at_a_look);
        }
        let mut accelerator = self.accelerator.lock();
        let (pages, steps) = (self.shape.pages, accelerator.steps);
        self.step(
            &mut accelerator,
            (0..self.shape.working_set).map(|page| (page * 7 + steps * 3) % pages),
        );
        let log = accelerator.log.as_ref().expect("logging has begun");
        let ram = &self.vm.ram()[0];
        for (page, _) in (0..).zip(&log.dirty).filter(|(_, dirty)| **dirty) {
            ram.dirty()
                .mark_for(DirtyClient::Migration, page * PAGE_SIZE, PAGE_SIZE);
        }
        Ok(())
    }

    fn dirty_log_clear(&self, block: &RamBlock, range: Range<u64>) -> Result<(), VmError> {
        self.vm.dirty_log_clear(block, range.clone())?;
        if block.name() == "ram" {
            let mut accelerator = self.accelerator.lock();
            let log = accelerator.log.as_mut().expect("logging has begun");
            let pages = to_usize(range.start / PAGE_SIZE)..to_usize(range.end / PAGE_SIZE);
            log.dirty[pages.clone()].fill(false);
            log.armed[pages].fill(true);
            self.step(&mut accelerator, std::iter::once(range.start / PAGE_SIZE));
        }
        Ok(())
    }

    fn dirty_log_stop(&self) {
        self.vm.dirty_log_stop();
        self.accelerator.lock().log = None;
    }

    fn pause(&self) -> Result<(), VmError> {
        self.vm.pause()?;
        self.witness.ends(Owner::Source);
        let mut user = self.user.lock();
        let limit = user.at_pauses.pop();
        user.set(limit);
        if let Some(counter) = user.counter_in_pause {
            self.set_counter(counter);
        }
        Ok(())
    }

    fn sections(&self) -> Result<Vec<Section>, VmError> {
        assert_eq!(self.vm.run_state(), FakeRun::Paused);
        Ok(vec![self.vm.sections()?; self.shape.copies_of_state].concat())
    }

    fn peek(&self) -> Vec<Section> {
        assert_eq!(self.vm.run_state(), FakeRun::Running);
        self.vm.peek()
    }

    fn resume(&self) -> Result<(), VmError> {
        assert_eq!(self.vm.run_state(), FakeRun::Paused);
        self.vm.resume()?;
        self.witness.begins(Owner::Source);
        let user = self.user.lock();
        user.set(user.at_resume);
        Ok(())
    }

    fn handed_over(&self, to: &str) {
        assert_eq!(self.vm.run_state(), FakeRun::Paused);
        self.vm.handed_over(to);
    }

    fn undecided(&self) {
        assert_eq!(self.vm.run_state(), FakeRun::Paused);
        self.vm.undecided();
    }
}

/// Makes fake machines that the witness sees.
#[derive(Debug, Default)]
pub(super) struct WitnessedFactory {
    pub factory: FakeFactory,
    pub witness: Arc<Witness>,
    /// Building fails although the preflight found nothing.
    pub cannot_build: bool,
    /// How this side reads the fake state, where it is not by the type.
    pub reader: Option<Schema>,
}

impl DestinationFactory for WitnessedFactory {
    type Vm = Witnessed;

    fn preflight(&self, offer: &Offer) -> PreflightReport {
        let mut report = self.factory.preflight(offer);
        report.notes.push(Finding {
            subject: offer.recipe.machine.clone(),
            because: "is a fake".to_owned(),
        });
        if let Some(reader) = &self.reader {
            report.readers.push(ReaderSchema::new(FAKE_DESCRIPTION, reader));
        }
        report
    }

    fn build(&self, offer: &Offer, ram: RamSource) -> Result<Witnessed, VmError> {
        assert!(matches!(ram, RamSource::Fresh));
        if self.cannot_build {
            return Err(VmError::Build {
                subject: "fake".to_owned(),
                because: "a test wants it so".to_owned(),
            });
        }
        Ok(Witnessed {
            vm: self.factory.build(offer, ram)?,
            witness: Arc::clone(&self.witness),
        })
    }
}

/// A fake destination that the witness sees.
#[derive(Debug)]
pub(super) struct Witnessed {
    pub vm: FakeDestination,
    witness: Arc<Witness>,
}

impl DestinationVm for Witnessed {
    fn ram(&self) -> Vec<Arc<RamBlock>> {
        self.vm.ram()
    }

    fn load(&mut self, sections: Vec<IncomingSection>) -> Result<(), VmError> {
        self.vm.load(sections)
    }

    fn run(&mut self) -> Result<(), VmError> {
        assert!(!self.vm.states.is_empty(), "nothing runs before it is loaded");
        self.vm.run()?;
        self.witness.begins(Owner::Destination);
        Ok(())
    }
}

impl Drop for Witnessed {
    fn drop(&mut self) {
        self.witness.ends(Owner::Destination);
    }
}

/// The numbers of the pages at which two machines' RAM differs.
pub(super) fn differing_pages(source: &FakeSource, arrived: &Witnessed) -> Vec<u64> {
    let (here, there) = (&source.vm.ram()[0], &arrived.vm.blocks[0]);
    let mut pages = [[0; 4096]; 2];
    (0..here.size() / PAGE_SIZE)
        .filter(|page| {
            let [left, right] = &mut pages;
            here.read(page * PAGE_SIZE, left).expect("inside");
            there.read(page * PAGE_SIZE, right).expect("inside");
            left != right
        })
        .collect()
}
