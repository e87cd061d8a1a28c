//! The virtual clock of a whole VM, and a device's timer by it: while the guest stands still, and wherever it goes.

use std::time::Duration;

use hw::core::{TestDev, testdev_register as register};
use migration::snapshot::{RestoreOptions, SaveOptions, restore, save};
use migration::vm::{DestinationVm as _, SourceVm as _};
use vmstate::qom::Obj;
use vmstate::state::{Deadline, Value};

use super::doorbell_tests::{Nobody, host, ringing_with};
use super::tests::Paper;
use super::*;
use crate::accel::qtest::QtestAccel;
use crate::kvm_turn;
use crate::test_support::TempDir;

/// Where the device's registers are.
const REGISTERS: u64 = 0xd100_0000;
/// A period, in microseconds.
const PERIOD: u32 = 5000;

fn micros(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

fn with_timer(accelerator: &str, paper: &Arc<Paper>) -> Arc<Vm> {
    ringing_with(accelerator, paper, vec![("timer".to_owned(), true.into())])
}

fn store(vm: &Vm, register: u64, value: u32) {
    let written = vm.board().memory().write(REGISTERS + register, &value.to_le_bytes());
    written.expect("the device is there");
}

fn load(vm: &Vm, register: u64) -> u32 {
    let mut bytes = [0; 4];
    let read = vm.board().memory().read(REGISTERS + register, &mut bytes);
    read.expect("the device is there");
    u32::from_le_bytes(bytes)
}

/// Has virtual time pass, and tells what the clock shows.
fn step(vm: &Vm, by: Duration) -> Duration {
    let accel = vm.root().resolve("/machine/accel").and_then(Obj::<QtestAccel>::new);
    accel.expect("qtest").step_clock(by)
}

fn device(vm: &Vm) -> Obj<TestDev> {
    let device = vm.root().resolve("/machine/peripheral/td").and_then(Obj::new);
    device.expect("a test device")
}

/// A VM whose timer runs out 5 ms after the VM was made, 3 ms later.
fn armed(mode: u32) -> Arc<Vm> {
    let vm = with_timer("qtest", &Arc::default());
    assert_eq!(step(&vm, micros(0)), Duration::ZERO, "a new VM's clock begins at zero");
    store(&vm, register::PERIOD, PERIOD);
    store(&vm, register::TIMER, mode);
    assert_eq!(step(&vm, micros(3000)), micros(3000));
    vm
}

/// The VM as a snapshot brings it back, not running yet.
fn restored(vm: &Vm, accelerator: &str, paper: &Arc<Paper>) -> Arrival {
    let folder = TempDir::new();
    let file = folder.path().join("a.tern");
    save(vm, &file, &SaveOptions::default(), &()).expect("saves");
    let factory = Factory::new(host(accelerator, paper), None, Arc::default(), Arc::new(Nobody));
    let restored = restore(&file, &RestoreOptions::default(), &factory, &()).expect("restores");
    restored.vm
}

#[test]
fn the_virtual_clock_stands_while_the_vm_is_paused_and_goes_on_where_it_was() {
    let vm = armed(register::RUN);
    vm.stop().expect("stops");
    assert_eq!(step(&vm, micros(10_000)), micros(3000), "it stands");
    assert_eq!(load(&vm, register::TICKS), 0, "and so does the timer");
    vm.cont().expect("goes on");
    assert_eq!(step(&vm, micros(1999)), micros(4999));
    assert_eq!(load(&vm, register::TICKS), 0);
    assert_eq!(step(&vm, micros(1)), micros(5000));
    assert_eq!((load(&vm, register::TICKS), load(&vm, register::TIMER)), (1, 0));
}

#[test]
fn an_armed_timer_runs_out_at_its_instant_in_the_vm_that_was_restored_and_once() {
    let mut arrival = restored(&armed(register::RUN), "qtest", &Arc::default());
    let vm = Arc::clone(arrival.vm());
    assert_eq!(
        step(&vm, micros(9000)),
        micros(3000),
        "loaded, it stands at the same instant"
    );
    arrival.run().expect("runs");
    assert_eq!(step(&vm, micros(1999)), micros(4999));
    assert_eq!(load(&vm, register::TICKS), 0, "not before its instant");
    step(&vm, micros(1));
    assert_eq!((load(&vm, register::TICKS), load(&vm, register::TIMER)), (1, 0));
    step(&vm, micros(100_000));
    assert_eq!(load(&vm, register::TICKS), 1, "not twice");
}

#[test]
fn a_periodic_timer_keeps_its_instants_and_a_reset_stops_it() {
    let mut arrival = restored(&armed(register::RUN | register::PERIODIC), "qtest", &Arc::default());
    let vm = Arc::clone(arrival.vm());
    arrival.run().expect("runs");
    for (at, ticks) in [(5000, 1), (9999, 1), (10_000, 2), (10_000_000, 2000)] {
        let now = step(&vm, Duration::ZERO);
        step(&vm, micros(at) - now);
        assert_eq!(load(&vm, register::TICKS), ticks, "at {at} us");
    }
    vm.reset(crate::control::ShutdownReason::HostQmpSystemReset)
        .expect("resets");
    step(&vm, micros(100_000));
    assert_eq!((load(&vm, register::TICKS), load(&vm, register::TIMER)), (0, 0));
    assert_eq!(
        step(&vm, Duration::ZERO),
        micros(10_100_000),
        "a reset turns no clock back"
    );
}

#[test]
fn a_timer_goes_with_its_device() {
    let vm = armed(register::RUN | register::PERIODIC);
    let device = device(&vm);
    vm.delete_device("td").expect("goes");
    step(&vm, micros(100_000));
    assert_eq!(device.state().lock().timer.ticks, 0);
    let sections = || {
        vm.hold().expect("pauses");
        let sections = vm.sections().expect("saved");
        vm.release().expect("goes on");
        sections
    };
    let machine = |vm: &Vm| vm.schemas().into_iter().find(|section| section.path == "/machine");
    let schema = machine(&vm).expect("described").schema;
    assert!(
        schema.subsection("virtual_clock").is_none(),
        "nobody knows any more what the clock shows"
    );
    assert!(!sections().is_empty());
}

#[test]
fn the_clock_and_the_deadline_are_shown_with_the_state_while_the_guest_runs() {
    let vm = armed(register::RUN);
    let sections = vm.peek();
    let of = |path: &str| &sections.iter().find(|section| section.path == path).expect(path).value;
    let clock = of("/machine").subsection("virtual_clock").expect("a device knows it");
    assert_eq!(clock.get("ns"), Some(&Value::Uint(3_000_000)));
    let timer = of("/machine/peripheral/td").subsection("timer").expect("in use");
    assert_eq!(timer.get("deadline"), Some(&Value::Deadline(Some(5_000_000))));
    assert_eq!(device(&vm).state().lock().timer.deadline, Deadline::at(5_000_000));
}

#[test]
fn a_released_machine_has_neither_timer_nor_clock_unless_its_user_asks() {
    let vm = ringing_with("qtest", &Arc::default(), Vec::new());
    store(&vm, register::PERIOD, PERIOD);
    store(&vm, register::TIMER, register::RUN);
    step(&vm, micros(1_000_000));
    assert_eq!((load(&vm, register::PERIOD), load(&vm, register::TICKS)), (0, 0));
    let subsections = |path: &str| {
        let sections = vm.schemas();
        let section = sections.iter().find(|section| section.path == path).expect("described");
        section.schema.subsections.len()
    };
    assert_eq!((subsections("/machine"), subsections("/machine/peripheral/td")), (0, 0));
}

#[test]
fn a_timer_runs_out_while_a_guest_runs_and_its_clock_goes_on_in_the_vm_that_was_restored() {
    let Some(_turn) = kvm_turn::turn(
        "vmm::vm::timer_tests::a_timer_runs_out_while_a_guest_runs_and_its_clock_goes_on_in_the_vm_that_was_restored",
    ) else {
        return;
    };
    let paper = Arc::<Paper>::default();
    let vm = with_timer("kvm", &paper);
    let wait_for_tick = |vm: &Vm, paper: &Paper| {
        while load(vm, register::TICKS) == 0 {
            paper.wait_for_more(1);
        }
    };
    store(&vm, register::PERIOD, PERIOD);
    store(&vm, register::TIMER, register::RUN);
    wait_for_tick(&vm, &paper);
    assert!(vm.wiring.timers.now() >= 5_000_000);
    vm.stop().expect("stops");
    let stopped = vm.wiring.timers.now();
    // Armed while the clock stands, so that it is known for when.
    store(&vm, register::TIMER, register::RUN);
    let deadline = device(&vm).state().lock().timer.deadline;
    assert_eq!(deadline, Deadline::at(stopped + 5_000_000));
    device(&vm).state().lock().timer.ticks = 0;

    let copy_paper = Arc::<Paper>::default();
    let mut arrival = restored(&vm, "kvm", &copy_paper);
    let copy = Arc::clone(arrival.vm());
    assert_eq!(copy.wiring.timers.now(), stopped, "it goes on where it was");
    assert_eq!(device(&copy).state().lock().timer.deadline, deadline);
    arrival.run().expect("arrives");
    assert_eq!(load(&copy, register::TICKS), 0, "it is stopped, as its source was");
    copy.cont().expect("runs");
    wait_for_tick(&copy, &copy_paper);
    assert!(copy.wiring.timers.now() >= stopped + 5_000_000);
}
