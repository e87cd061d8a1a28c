//! Whole saves and restores of fake machines.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;
use crate::fault::{FaultAction, Faults, PageFault};
use crate::phases::{Phase, Side, TransferKind};
use crate::progress::Progress;
use crate::testing::{FakeDestination, FakeFactory, FakeRun, FakeState, FakeVm, Misbehaviour, Scratch, contents};
use crate::vm::{DestinationVm, SourceVm, VmError};

const MIB: u64 = 1 << 20;

/// A machine with RAM that is used here and there, and a place to save it.
struct Fixture {
    vm: FakeVm,
    scratch: Scratch,
}

impl Fixture {
    fn new() -> Self {
        let vm = FakeVm::new(8 * MIB);
        vm.fill(0..4096, 1);
        vm.fill(MIB - 8192..MIB + 8192, 2);
        vm.fill(5 * MIB..7 * MIB, 3);
        // Used, and zero again.
        vm.write(3 * MIB, &[0; 65536]);
        vm.write(8 * MIB - 1, &[9]);
        let state = FakeState {
            counter: 42,
            armed: true,
            fifo: *b"sixteen bytes...",
        };
        vm.set_state(1, state);
        Self {
            vm,
            scratch: Scratch::new(),
        }
    }

    fn path(&self) -> PathBuf {
        self.scratch.path().join("guest.snap")
    }

    fn save(&self) -> SaveReport {
        save(&self.vm, &self.path(), &SaveOptions::default(), &()).expect("saved")
    }

    fn restore(&self, verify: Verify) -> FakeDestination {
        let options = RestoreOptions {
            verify,
            ..RestoreOptions::default()
        };
        restore(&self.path(), &options, &FakeFactory::default(), &())
            .expect("restored")
            .vm
    }

    /// The save fails, the guest runs on, and nothing is left.
    fn fails_cleanly(&self, options: &SaveOptions, progress: &dyn Progress) -> SaveError {
        let error = save(&self.vm, &self.path(), options, progress).expect_err("fails");
        assert_eq!(self.vm.run_state(), FakeRun::Running, "after {error}");
        self.nothing_is_left();
        error
    }

    fn nothing_is_left(&self) {
        assert_eq!(fs::read_dir(self.scratch.path()).expect("a folder").count(), 0);
    }
}

#[test]
fn a_machine_comes_back_as_it_was_saved() {
    let fixture = Fixture::new();
    let report = fixture.save();
    for verify in [Verify::All, Verify::None] {
        let mut restored = fixture.restore(verify);
        assert!(
            contents(&restored.blocks) == contents(&fixture.vm.ram()),
            "RAM differs with {verify:?}"
        );
        assert!(restored.blocks[1].is_readonly() && !restored.blocks[0].is_readonly());
        assert_eq!(restored.states, fixture.vm.states());
        assert_eq!(restored.identity.vm, fixture.vm.identity().vm);
        let parent = restored.identity.parent.expect("comes from a snapshot");
        assert_eq!((parent.snapshot, parent.hash), (report.snapshot, report.hash));
        assert!(!restored.running);
        restored.run().expect("runs");
    }
}

#[test]
fn the_guest_goes_on_unless_it_is_asked_to_stop() {
    let fixture = Fixture::new();
    fixture.save();
    assert_eq!(fixture.vm.run_state(), FakeRun::Running);
    let options = SaveOptions {
        stop: true,
        ..SaveOptions::default()
    };
    save(&fixture.vm, &fixture.path(), &options, &()).expect("saved");
    assert_eq!(fixture.vm.run_state(), FakeRun::Paused);
}

#[test]
fn pages_of_zeros_take_no_space_in_the_file_and_no_memory_after_it() {
    let fixture = Fixture::new();
    let report = fixture.save();
    let used = 2 * MIB + 5 * 4096 + 4096 + 4096;
    assert_eq!((report.ram, report.data), (8 * MIB + 4096, used));
    let metadata = fs::metadata(fixture.path()).expect("there");
    assert_eq!(metadata.len(), report.length);
    assert!(
        metadata.blocks() * 512 < used + 128 * 1024,
        "{} bytes for {used}",
        metadata.blocks() * 512
    );
    let restored = fixture.restore(Verify::All);
    let populated = restored.blocks[0].populated_ranges().expect("known");
    assert_eq!(
        populated.iter().map(|range| range.end - range.start).sum::<u64>(),
        used - 4096
    );
}

#[test]
fn a_copy_without_holes_restores_without_writing_zeros() {
    let fixture = Fixture::new();
    let report = fixture.save();
    let bytes = fs::read(fixture.path()).expect("there");
    fs::write(fixture.path(), bytes).expect("written");
    let restored = fixture.restore(Verify::All);
    // To read a hole fills it, so this comes first.
    let populated = restored.blocks[0].populated_ranges().expect("known");
    assert_eq!(
        populated.iter().map(|range| range.end - range.start).sum::<u64>(),
        report.data - 4096
    );
    assert!(contents(&restored.blocks) == contents(&fixture.vm.ram()));
}

#[test]
fn a_snapshot_is_its_owners_alone_and_replaces_the_one_before() {
    let fixture = Fixture::new();
    fs::write(fixture.path(), "an old one").expect("written");
    fixture.save();
    assert_eq!(
        fs::metadata(fixture.path()).expect("there").permissions().mode() & 0o7777,
        0o600
    );
    assert_eq!(fs::read_dir(fixture.scratch.path()).expect("a folder").count(), 1);
    fixture.restore(Verify::All);
}

#[test]
fn a_mapped_guest_never_changes_the_file() {
    let fixture = Fixture::new();
    fixture.save();
    let before = fs::read(fixture.path()).expect("there");
    let restored = fixture.restore(Verify::None);
    restored.blocks[0].write(0, &[0xff; 4096]).expect("in bounds");
    assert!(fs::read(fixture.path()).expect("there") == before);
    Snapshot::open(&fixture.path())
        .expect("whole")
        .verify(1, &())
        .expect("undamaged");
}

#[test]
fn saving_twice_gives_the_same_device_state_byte_for_byte() {
    let fixture = Fixture::new();
    let options = SaveOptions {
        stop: true,
        ..SaveOptions::default()
    };
    let sections = |name: &str| {
        let path = fixture.scratch.path().join(name);
        save(&fixture.vm, &path, &options, &()).expect("saved");
        let snapshot = Snapshot::open(&path).expect("whole");
        let bytes = fs::read(&path).expect("there");
        let header = &snapshot.index.records[0];
        let start = to_usize(header.offset + header.length);
        bytes[start..to_usize(snapshot.layout.records_end)].to_vec()
    };
    assert!(sections("a") == sections("b"));
}

#[test]
fn a_machine_that_will_not_pause_or_tell_its_state_is_left_running_and_no_file_is_made() {
    for how in [Misbehaviour::Pause, Misbehaviour::Sections] {
        let fixture = Fixture::new();
        fixture.vm.misbehave(how);
        let error = fixture.fails_cleanly(&SaveOptions::default(), &());
        assert!(matches!(error, SaveError::Vm(VmError::Accelerator { .. })), "{error}");
    }
}

#[test]
fn a_machine_that_cannot_go_on_says_so_and_its_snapshot_is_complete() {
    let fixture = Fixture::new();
    fixture.vm.misbehave(Misbehaviour::Resume);
    let error = save(&fixture.vm, &fixture.path(), &SaveOptions::default(), &()).expect_err("stands");
    assert!(
        error
            .to_string()
            .contains("the snapshot is complete, and the guest cannot go on"),
        "{error}"
    );
    fixture.restore(Verify::All);
}

#[test]
fn a_folder_that_is_not_there_is_named_before_the_guest_is_paused() {
    let fixture = Fixture::new();
    fixture.vm.misbehave(Misbehaviour::Pause);
    let error = save(
        &fixture.vm,
        Path::new("/nonexistent/x.snap"),
        &SaveOptions::default(),
        &(),
    )
    .expect_err("no folder");
    assert!(
        matches!(error, SaveError::Create { .. }) && error.to_string().contains("/nonexistent/x.snap"),
        "{error}"
    );
}

/// Breaks one phase.
struct Break(Phase, FaultAction);

impl Faults for Break {
    fn on_phase(&self, side: Side, phase: Phase) -> Option<FaultAction> {
        (side == Side::Source && phase == self.0).then_some(self.1)
    }
}

#[test]
fn an_error_or_a_panic_in_any_phase_lets_the_guest_go_on_and_leaves_no_file() {
    let mut cases = 0;
    for phase in Phase::of(TransferKind::File) {
        for action in [FaultAction::Error, FaultAction::Abort] {
            let fixture = Fixture::new();
            let faults: Option<Arc<dyn Faults>> = Some(Arc::new(Break(phase, action)));
            // A save that stops the guest does not if it fails.
            let options = SaveOptions {
                stop: true,
                faults,
                ..SaveOptions::default()
            };
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                save(&fixture.vm, &fixture.path(), &options, &()).map_err(drop)
            }));
            assert!(!matches!(outcome, Ok(Ok(_))), "{action:?} in {phase} did not fire");
            assert_eq!(fixture.vm.run_state(), FakeRun::Running, "{action:?} in {phase}");
            fixture.nothing_is_left();
            cases += 1;
        }
    }
    assert_eq!(cases, 12);
}

/// Cancels once so many bytes are done.
struct CancelAt(u64, AtomicU64);

impl Progress for CancelAt {
    fn advanced(&self, done: u64, total: u64) {
        assert!(done <= total, "{done} of {total}");
        self.1.fetch_max(done, Ordering::Relaxed);
    }
    fn cancelled(&self) -> bool {
        self.1.load(Ordering::Relaxed) >= self.0
    }
}

#[test]
fn a_save_can_be_cancelled_at_any_time() {
    for at in [0, 1, MIB] {
        let error = Fixture::new().fails_cleanly(&SaveOptions::default(), &CancelAt(at, AtomicU64::new(0)));
        assert!(matches!(error, SaveError::Cancelled), "{error}");
    }
}

/// Takes the folder away while the snapshot is being written.
struct Vandal<'a>(&'a Path);

impl Progress for Vandal<'_> {
    fn advanced(&self, _done: u64, _total: u64) {
        let _ = fs::remove_dir(self.0);
    }
}

#[test]
fn a_snapshot_that_cannot_get_its_name_has_failed_and_the_guest_goes_on() {
    let fixture = Fixture::new();
    let folder = fixture.scratch.path().join("folder");
    fs::create_dir(&folder).expect("a folder");
    let options = SaveOptions {
        stop: true,
        ..SaveOptions::default()
    };
    let error = save(&fixture.vm, &folder.join("x.snap"), &options, &Vandal(&folder)).expect_err("no folder any more");
    assert!(matches!(error, SaveError::Write { .. }), "{error}");
    assert_eq!(fixture.vm.run_state(), FakeRun::Running);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_ram_holds_comes_back(writes in prop::collection::vec((0..3 * MIB, prop::collection::vec(any::<u8>(), 1..9000)), 0..20)) {
        let (vm, scratch) = (FakeVm::new(3 * MIB + 16384), Scratch::new());
        for (offset, bytes) in writes {
            vm.write(offset, &bytes);
        }
        let path = scratch.path().join("x.snap");
        save(&vm, &path, &SaveOptions::default(), &()).expect("saved");
        let restored = restore(&path, &RestoreOptions::default(), &FakeFactory::default(), &()).expect("restored").vm;
        prop_assert!(contents(&restored.blocks) == contents(&vm.ram()));
    }
}

#[test]
fn progress_ends_at_its_total() {
    let fixture = Fixture::new();
    let watch = CancelAt(u64::MAX, AtomicU64::new(0));
    let report = save(&fixture.vm, &fixture.path(), &SaveOptions::default(), &watch).expect("saved");
    assert!(watch.1.load(Ordering::Relaxed) >= report.data);
    let watch = CancelAt(u64::MAX, AtomicU64::new(0));
    restore(
        &fixture.path(),
        &RestoreOptions::default(),
        &FakeFactory::default(),
        &watch,
    )
    .expect("restored");
    assert_eq!(watch.1.load(Ordering::Relaxed), report.data);
}

/// Spoils one page.
struct Spoil(u64, PageFault);

impl Faults for Spoil {
    fn on_page(&self, block: &str, page: u64) -> Option<PageFault> {
        (block == "ram" && page == self.0).then_some(self.1)
    }
}

#[test]
fn a_page_that_a_fault_spoils_arrives_spoiled() {
    for fault in [PageFault::Drop, PageFault::Zero, PageFault::SwapWith(1281)] {
        let fixture = Fixture::new();
        let options = SaveOptions {
            faults: Some(Arc::new(Spoil(1280, fault))),
            ..SaveOptions::default()
        };
        save(&fixture.vm, &fixture.path(), &options, &()).expect("saved");
        let (there, here) = (
            contents(&fixture.restore(Verify::All).blocks),
            contents(&fixture.vm.ram()),
        );
        let pages = there[0].chunks(4096).zip(here[0].chunks(4096)).enumerate();
        let different: Vec<usize> = pages.filter(|(_, (a, b))| a != b).map(|(number, _)| number).collect();
        assert_eq!(different, [1280], "{fault:?}");
    }
}

#[test]
fn a_snapshot_tells_what_it_holds_without_its_writers_types() {
    let fixture = Fixture::new();
    let report = fixture.save();
    let info = inspect(&fixture.path()).expect("whole");
    assert_eq!(
        (info.header.snapshot, info.as_parent.hash, info.length),
        (report.snapshot, report.hash, report.length)
    );
    assert_eq!(info.manifest.recipe, fixture.vm.recipe());
    assert_eq!(info.sections.len(), 3);
    assert_eq!(info.sections[1].path, "/machine/fake1");
    assert!(
        info.sections[1].state.to_string().contains("counter: 0x2a"),
        "{}",
        info.sections[1].state
    );
    assert_eq!(info.ram.iter().map(|block| block.raw).sum::<u64>(), report.data);
    assert!(info.allocated < info.length);
}

#[test]
fn a_destination_that_refuses_or_cannot_load_says_why() {
    let fixture = Fixture::new();
    fixture.save();
    let restore = |factory: FakeFactory| {
        restore(&fixture.path(), &RestoreOptions::default(), &factory, &()).expect_err("cannot be restored")
    };
    let refused = restore(FakeFactory {
        refuses: Some("no fakes here".into()),
        ..FakeFactory::default()
    });
    assert_eq!(
        refused.to_string(),
        "this snapshot cannot be restored here: machine: no fakes here"
    );
    let failed = restore(FakeFactory {
        cannot_load: true,
        ..FakeFactory::default()
    });
    assert!(matches!(failed, RestoreError::Vm(VmError::State { .. })), "{failed}");
}

#[test]
fn what_is_no_snapshot_is_called_so() {
    let scratch = Scratch::new();
    let text = scratch.path().join("text");
    fs::write(&text, "this is some text and no snapshot").expect("written");
    assert!(
        Snapshot::open(&text)
            .expect_err("text")
            .to_string()
            .contains("no Tern snapshot")
    );
    fs::write(&text, "").expect("written");
    assert!(matches!(
        Snapshot::open(&text),
        Err(SnapshotError::Truncated { part: Part::Prefix, .. })
    ));
    let folder = Snapshot::open(scratch.path()).expect_err("a folder");
    assert!(matches!(folder, SnapshotError::NoFile(_)), "{folder}");
    let pipe = scratch.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .expect("a pipe");
    assert!(
        matches!(Snapshot::open(&pipe), Err(SnapshotError::NoFile(_))),
        "a pipe must not block"
    );
    assert!(matches!(
        Snapshot::open(&scratch.path().join("none")),
        Err(SnapshotError::Open { .. })
    ));
}
