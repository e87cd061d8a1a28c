//! A save that fails, whatever the reason and the phase, leaves no file, and the guest runs on.

use migration::fault::{FaultAction, phase_name};
use migration::phases::{Phase, TransferKind};
use serde_json::json;
use tern_tests::guest::EmbeddedGuest;
use tern_tests::needs_kvm;
use tern_tests::process::{Scratch, VmProcess};

/// What is saved.
const PAGES: u64 = 4 * 256;
const NAME: &str = "a";
const CMDLINE: &str = "mib=4 beat=20 rate=4 dirty=1";

/// Exit code of `vm snapshot` when there is none.
const NOT_SAVED: i32 = 4;

/// Every phase of a file, the last included: the file is whole then, and has no name.
fn phases() -> Vec<Phase> {
    let phases: Vec<_> = Phase::of(TransferKind::File).collect();
    assert_eq!(phases.len(), 6);
    phases
}

fn fault(phase: Phase, action: FaultAction) -> String {
    format!("source:{}:{}", phase_name(phase), action.name())
}

/// Starts a guest each of whose saves suffers the next of these faults.
fn start(home: &Scratch, faults: &[String]) -> VmProcess {
    let args = ["run", "--name", NAME, "--memory", "16M", "--cmdline", CMDLINE];
    let mut command = home.command(&args);
    command.env("TERN_FAULTS", faults.join(","));
    let mut vm = VmProcess::start(command);
    vm.wait_ready();
    vm
}

/// A folder for snapshots with an old one, which has to stay as it is.
struct Shelf(Scratch);

impl Shelf {
    const NAME: &str = "guest.tern";
    const OLD: &str = "an older snapshot";

    fn new(with_old: bool) -> Self {
        let shelf = Self(Scratch::new());
        if with_old {
            std::fs::write(shelf.0.file(Self::NAME), Self::OLD).expect("a file");
        }
        shelf
    }

    /// Begins a save into the folder that suffers `fault`, which then has struck so many times.
    fn save(&self, home: &Scratch, vm: &VmProcess, fault: &str, times: usize) -> VmProcess {
        let path = self.0.file(Self::NAME);
        let path = path.to_str().expect("the folder's name is text");
        let command = VmProcess::start(home.command(&["snapshot", NAME, path]));
        vm.wait_message("the fault to strike", |text| {
            (text.matches(&format!("the fault {fault} strikes\n")).count() == times).then_some(())
        });
        command
    }

    fn is_as_before(&self, with_old: bool) {
        let contents = self.0.contents();
        if with_old {
            assert_eq!(contents, [Self::NAME]);
            let old = std::fs::read(self.0.file(Self::NAME)).expect("it is there");
            assert_eq!(old, Self::OLD.as_bytes());
        } else {
            assert_eq!(contents, [""; 0]);
        }
    }
}

/// Has every phase of a save suffer `action`, with and without a file of that name before, and `then` do more to it.
fn survive(action: FaultAction, then: impl Fn(&Scratch)) {
    let home = Scratch::new();
    let faults: Vec<_> = phases()
        .into_iter()
        .flat_map(|phase| [fault(phase, action), fault(phase, action)])
        .collect();
    let mut vm = start(&home, &faults);
    for (fault, with_old) in faults.iter().zip([false, true].into_iter().cycle()) {
        let shelf = Shelf::new(with_old);
        let mut command = shelf.save(&home, &vm, fault, if with_old { 2 } else { 1 });
        then(&home);
        assert_eq!(
            command.wait_exit().code(),
            Some(NOT_SAVED),
            "{fault}: {}",
            command.messages()
        );
        shelf.is_as_before(with_old);
        assert_eq!(vm.verify(), PAGES, "{fault}");
    }
    vm.type_keys("q");
    assert!(vm.wait_exit().success(), "{}", vm.messages());
    assert_eq!(home.contents(), [""; 0]);
}

#[test]
fn an_error_in_any_phase_of_a_save_leaves_no_file_and_the_guest_running() {
    needs_kvm!();
    survive(FaultAction::Error, |_| {});
}

#[test]
fn a_thread_that_dies_in_any_phase_of_a_save_leaves_no_file_and_the_guest_running() {
    needs_kvm!();
    survive(FaultAction::Abort, |_| {});
}

#[test]
fn cancelling_in_any_phase_of_a_save_leaves_no_file_and_the_guest_running() {
    needs_kvm!();
    survive(FaultAction::Stall, |home| {
        let answer = home.monitor(NAME).execute("migrate_cancel", json!({}));
        answer.expect("a save can be cancelled to the end");
    });
}

#[test]
fn a_process_that_is_killed_in_any_phase_of_a_save_leaves_no_file() {
    needs_kvm!();
    for phase in phases() {
        for with_old in [false, true] {
            let fault = fault(phase, FaultAction::Stall);
            let (home, shelf) = (Scratch::new(), Shelf::new(with_old));
            let mut vm = start(&home, std::slice::from_ref(&fault));
            let mut command = shelf.save(&home, &vm, &fault, 1);
            vm.kill();
            assert_eq!(command.wait_exit().code(), Some(1), "{fault}: {}", command.messages());
            shelf.is_as_before(with_old);
        }
    }
}
