//! The life of a VM, driven under `qtest` by a thread that does what a guest would, and once under KVM.

use std::mem::take;
use std::time::{Duration, Instant};

use hw::char::SerialState;
use migration::vm::SourceVm;
use parking_lot::{Condvar, Mutex};
use vmstate::qom::{Obj, PropertyValue, TypeTable};
use vmstate::state::Section;

use super::*;
use crate::accel::kvm::{CrashCause, CrashReport};
use crate::accel::qtest::QtestAccel;
use crate::accel::{VcpuEvent, VcpuEvents};
use crate::control::{Ending, EventSink, ShutdownReason};
use crate::kvm_turn;
use crate::run_state::RunState;

const SERIAL_DATA: u64 = 0x3f8;
const SERIAL_SCRATCH: u64 = 0x3ff;
const RESET_PORT: u64 = 0x64;
const RESET: u8 = 0xfe;
const TEST_EXIT: u64 = 0xf4;
const PVPANIC: u64 = 0x505;
const SLEEP_CONTROL: u64 = 0xfea0_0200;
const SLEEP_OFF: u8 = 0x34;

/// A console without room, until it is given some.
#[derive(Default)]
struct Console {
    room: Mutex<usize>,
    text: Mutex<Vec<u8>>,
    asked_for_input: Mutex<u32>,
}

impl CharSink for Console {
    fn try_write(&self, bytes: &[u8]) -> usize {
        let mut room = self.room.lock();
        let taken = bytes.len().min(*room);
        *room -= taken;
        self.text.lock().extend(&bytes[..taken]);
        taken
    }

    fn input_room(&self) {
        *self.asked_for_input.lock() += 1;
    }
}

/// Does what it is given when the test says so: any time may pass before a vCPU's request is served.
#[derive(Default)]
struct Later(Mutex<Vec<Box<dyn FnOnce() + Send>>>);

impl Runner for Later {
    fn defer(&self, work: Box<dyn FnOnce() + Send>) {
        self.0.lock().push(work);
    }
}

impl Later {
    fn now(&self) {
        let work = take(&mut *self.0.lock());
        work.into_iter().for_each(|work| work());
    }
}

#[derive(Default)]
struct Heard(Mutex<Vec<Event>>);

impl EventSink for Heard {
    fn event(&self, event: &Event) {
        self.0.lock().push(event.clone());
    }
}

struct Rig {
    vm: Arc<Vm>,
    accel: Obj<QtestAccel>,
    console: Arc<Console>,
    later: Arc<Later>,
    heard: Arc<Heard>,
}

impl Rig {
    /// A machine that runs, with nothing behind its processor.
    fn running() -> Self {
        Self::with(&VmSpec::new("rig", ""))
    }

    /// The same as its user asks for it, but for its memory.
    fn with(spec: &VmSpec<'_>) -> Self {
        let (console, later) = (Arc::<Console>::default(), Arc::<Later>::default());
        let host = Host {
            types: TypeTable::gathered().expect("sound types"),
            accelerator: "qtest".to_owned(),
            console: Some(console.clone()),
            runner: later.clone(),
            hidden_features: Vec::new(),
            tsc: Default::default(),
        };
        let spec = VmSpec {
            memory: 8 << 20,
            ..spec.clone()
        };
        let vm = Vm::create(&host, &spec, Arc::default()).expect("made");
        let heard = Arc::<Heard>::default();
        vm.status().events.subscribe(heard.clone());
        vm.start().expect("runs");
        let accel = vm.root().resolve("/machine/accel").and_then(Obj::new).expect("qtest's");
        Self {
            vm,
            accel,
            console,
            later,
            heard,
        }
    }

    /// The guest writes to a port.
    fn out(&self, port: u64, value: u8) {
        let written = self.accel.execute(|| self.vm.board().io().write(port, &[value]));
        written.expect("the VM has not ended").expect("a device is there");
    }

    /// The guest writes to memory.
    fn store(&self, address: u64, value: u8) {
        let written = self.accel.execute(|| self.vm.board().memory().write(address, &[value]));
        written.expect("the VM has not ended").expect("a device is there");
    }

    fn serial(&self) -> SerialState {
        self.vm.board().serial().state()
    }

    fn sections(&self) -> Vec<Section> {
        self.vm.sections().expect("saves")
    }

    fn state(&self) -> RunState {
        self.vm.status().run_state.get()
    }

    fn heard(&self, event: &Event) -> bool {
        self.heard.0.lock().contains(event)
    }
}

fn guest_reset() -> Event {
    Event::Reset {
        reason: ShutdownReason::GuestReset,
        by: "the keyboard controller".to_owned(),
    }
}

#[test]
fn a_guest_that_panics_ends_its_vm_and_everybody_is_told_in_qemus_order() {
    let rig = Rig::running();
    rig.out(PVPANIC, 1);
    rig.later.now();
    assert_eq!(rig.state(), RunState::GuestPanicked);
    assert_eq!(rig.vm.status().ending(), Some(Ending::GuestPanicked));
    let told = [
        Event::GuestPanicked,
        Event::Shutdown(ShutdownReason::GuestPanic),
        Event::Ended,
    ];
    assert!(rig.heard.0.lock().ends_with(&told));
}

/// A report of a processor that cannot go on, as KVM's vCPUs make them.
fn crash() -> VcpuEvent {
    VcpuEvent::Crashed(Box::new(CrashReport {
        vcpu: 0,
        cause: CrashCause::ContextInvalid,
        rip: Some(0x1000),
        mode: None,
        instruction: Vec::new(),
    }))
}

#[test]
fn a_guest_that_cannot_go_on_stands_still_to_be_looked_at_until_it_is_reset_as_with_qemu() {
    let rig = Rig::running();
    rig.out(SERIAL_SCRATCH, 9);
    rig.vm.requests.vcpu_event(0, crash());
    rig.later.now();
    assert_eq!((rig.state(), rig.vm.status().ending()), (RunState::InternalError, None));
    let why = rig.vm.status().trouble().expect("told");
    assert_eq!(why.matches("vCPU 0").count(), 1, "{why}");
    assert!(rig.heard.0.lock().ends_with(&[Event::CannotGoOn { why }, Event::Stop]));

    assert_eq!(rig.serial().scratch, 9, "it is as it was");
    for refused in [rig.vm.cont(), rig.vm.stop(), rig.vm.press_power_button()] {
        assert!(matches!(
            refused,
            Err(LifecycleError::WrongState(RunState::InternalError))
        ));
    }
    rig.vm.pause().expect_err("it could go on nowhere");

    rig.vm.reset(ShutdownReason::HostQmpSystemReset).expect("resets");
    assert_eq!((rig.state(), rig.serial().scratch), (RunState::Paused, 0));
    assert_eq!(rig.vm.status().trouble(), None);
    rig.vm.cont().expect("begins anew");
    rig.out(SERIAL_SCRATCH, 8);
    assert_eq!((rig.state(), rig.serial().scratch), (RunState::Running, 8));
}

#[test]
fn a_guest_that_could_not_go_on_until_the_pause_is_not_paused_and_not_lost() {
    for pause in [|vm: &Vm| vm.pause().is_ok(), |vm: &Vm| vm.stop().is_ok()] {
        let rig = Rig::running();
        rig.vm.requests.vcpu_event(0, crash());
        assert!(!pause(&rig.vm));
        rig.later.now();
        assert_eq!((rig.state(), rig.vm.status().ending()), (RunState::InternalError, None));
        rig.vm.reset(ShutdownReason::HostQmpSystemReset).expect("resets");
    }
}

#[test]
fn a_guest_that_saves_a_dump_after_its_crash_runs_on_and_can_reset_the_machine() {
    let rig = Rig::running();
    rig.out(PVPANIC, 2);
    rig.out(RESET_PORT, RESET);
    rig.later.now();
    assert!(rig.heard(&Event::GuestCrashLoaded));
    assert!(rig.heard(&guest_reset()));
    assert_eq!(rig.state(), RunState::Running);
}

#[test]
fn a_guest_switches_itself_off_by_the_acpi_register() {
    let rig = Rig::running();
    rig.store(SLEEP_CONTROL, SLEEP_OFF);
    rig.later.now();
    assert_eq!(rig.state(), RunState::Shutdown);
    assert_eq!(rig.vm.status().ending(), Some(Ending::GuestShutdown));
    assert!(rig.heard(&Event::Shutdown(ShutdownReason::GuestShutdown)));
}

#[test]
fn the_power_button_is_pressed_while_the_guest_runs_and_at_no_other_time() {
    const EVENTS: u64 = 0xfea0_0000;
    const IRQ: u32 = 9;
    let rig = Rig::running();
    rig.vm.stop().expect("stops");
    rig.vm.press_power_button().expect_err("its state has been taken out");
    rig.vm.cont().expect("goes on");
    rig.vm.pause().expect("pauses");
    assert!(matches!(rig.vm.press_power_button(), Err(LifecycleError::HandingOver)));
    rig.vm.resume().expect("goes on");
    assert!(!rig.heard(&Event::Powerdown) && !rig.accel.line(IRQ));

    rig.vm.press_power_button().expect("it runs");
    assert!(rig.heard(&Event::Powerdown) && rig.accel.line(IRQ));
    let mut events = [0; 4];
    let read = rig.accel.execute(|| rig.vm.board().memory().read(EVENTS, &mut events));
    read.expect("the VM has not ended").expect("a device is there");
    assert_eq!((u32::from_le_bytes(events), rig.accel.line(IRQ)), (2, false));
}

#[test]
fn what_is_typed_while_a_transfer_has_the_guest_is_neither_taken_nor_lost() {
    let rig = Rig::running();
    rig.vm.pause().expect("pauses");
    let held = rig.sections();
    assert_eq!(rig.vm.console().receive(b"v"), 0);
    assert_eq!(rig.sections(), held);
    assert_eq!(*rig.console.asked_for_input.lock(), 0);
    rig.vm.resume().expect("goes on");
    assert_eq!(*rig.console.asked_for_input.lock(), 1, "the console offers it again");
    assert_eq!(rig.vm.console().receive(b"v"), 1);
    assert_eq!(rig.serial().received, [b'v']);
}

#[test]
fn what_the_guest_wrote_is_shown_by_one_side_of_a_transfer_only() {
    let rig = Rig::running();
    rig.out(SERIAL_DATA, b'x');
    assert_eq!(rig.serial().transmit, [b'x'], "the console has no room");
    rig.vm.pause().expect("pauses");
    let held = rig.sections();
    *rig.console.room.lock() = 10;
    rig.vm.console().writable();
    assert_eq!(rig.sections(), held);
    assert!(rig.console.text.lock().is_empty(), "the destination shows it");
    rig.vm.resume().expect("goes on");
    assert_eq!(*rig.console.text.lock(), b"x");
}

#[test]
fn a_reset_that_was_asked_for_until_the_pause_is_part_of_what_is_saved() {
    for pause in [|vm: &Vm| vm.pause().is_ok(), |vm: &Vm| vm.stop().is_ok()] {
        let rig = Rig::running();
        rig.out(SERIAL_SCRATCH, 7);
        rig.out(RESET_PORT, RESET);
        assert!(pause(&rig.vm));
        assert_eq!(rig.state(), RunState::Paused);
        assert_eq!(rig.serial().scratch, 0, "the machine was reset");
        assert!(rig.heard(&guest_reset()));
        rig.later.now();
        assert_eq!(rig.state(), RunState::Paused);
    }
}

#[test]
fn a_guest_that_ended_until_the_pause_is_not_moved_anywhere() {
    for pause in [|vm: &Vm| vm.pause().is_ok(), |vm: &Vm| vm.stop().is_ok()] {
        let rig = Rig::running();
        rig.out(TEST_EXIT, 5);
        assert!(!pause(&rig.vm));
        assert_eq!(rig.state(), RunState::Shutdown);
        assert_eq!(rig.vm.status().ending(), Some(Ending::GuestExit(5)));
        rig.later.now();
        rig.vm.cont().expect_err("has ended");
    }
}

#[test]
fn a_reset_by_the_user_outruns_what_the_guest_asked_for() {
    let rig = Rig::running();
    rig.out(TEST_EXIT, 5);
    rig.vm.reset(ShutdownReason::HostQmpSystemReset).expect("resets");
    rig.later.now();
    assert_eq!(rig.state(), RunState::Running);
    assert_eq!(rig.vm.status().ending(), None);
}

#[test]
fn a_reset_that_is_refused_takes_nothing_from_the_guest() {
    let rig = Rig::running();
    rig.vm.pause().expect("pauses");
    rig.vm.undecided();
    rig.vm
        .reset(ShutdownReason::HostQmpSystemReset)
        .expect_err("nobody knows whose it is");
    assert_eq!(rig.state(), RunState::PostMigrate);
}

#[test]
fn only_the_first_request_of_a_guest_counts() {
    let rig = Rig::running();
    rig.out(RESET_PORT, RESET);
    rig.out(TEST_EXIT, 5);
    rig.later.now();
    assert_eq!(rig.state(), RunState::Running);
    rig.out(TEST_EXIT, 6);
    rig.later.now();
    assert_eq!(rig.vm.status().ending(), Some(Ending::GuestExit(6)));
}

#[test]
fn a_guest_that_a_transfer_has_is_nobody_elses() {
    let rig = Rig::running();
    rig.vm.pause().expect("pauses");
    for refused in [
        rig.vm.cont(),
        rig.vm.stop(),
        rig.vm.reset(ShutdownReason::HostQmpSystemReset),
    ] {
        assert!(matches!(refused, Err(LifecycleError::HandingOver)));
    }
    rig.vm.resume().expect("goes on");
    assert_eq!(rig.state(), RunState::Running);
}

#[test]
fn a_guest_that_its_user_stopped_is_saved_and_stays_stopped() {
    let rig = Rig::running();
    rig.vm.stop().expect("stops");
    let stopped = rig.sections();
    rig.vm.pause().expect("pauses");
    assert_eq!(rig.sections(), stopped);
    rig.vm.resume().expect("ends the pause");
    assert_eq!((rig.state(), rig.sections()), (RunState::Paused, stopped));
    rig.vm.cont().expect("goes on");
    assert_eq!(rig.state(), RunState::Running);
}

#[test]
fn a_guest_that_runs_elsewhere_never_runs_here_again() {
    let rig = Rig::running();
    rig.vm.pause().expect("pauses");
    rig.vm.handed_over("tcp:elsewhere:1");
    assert_eq!(rig.state(), RunState::Shutdown);
    rig.vm.cont().expect_err("gone");
    rig.vm.pause().expect_err("gone");
    rig.vm.resolve_resume().expect_err("decided");
    assert_eq!(rig.vm.console().receive(b"v"), 0);
}

#[test]
fn a_guest_whose_whereabouts_are_unknown_is_decided_about_once() {
    let decide = |vm: &Vm, discard| {
        if discard {
            vm.resolve_discard()
        } else {
            vm.resolve_resume()
        }
    };
    for (discard, end) in [(false, RunState::Running), (true, RunState::Shutdown)] {
        let rig = Rig::running();
        rig.vm.resolve_discard().expect_err("nothing to decide");
        rig.vm.pause().expect("pauses");
        rig.vm.undecided();
        rig.vm.cont().expect_err("not by the way");
        rig.vm
            .pause()
            .expect_err("no other transfer begins, which would end with the guest running");
        assert_eq!(rig.state(), RunState::PostMigrate);
        decide(&rig.vm, discard).expect("decided");
        assert_eq!(rig.state(), end);
        for again in [false, true] {
            decide(&rig.vm, again).expect_err("decided already");
        }
        assert_eq!(rig.state(), end);
        assert_eq!(rig.vm.status().ending().is_some(), end == RunState::Shutdown);
    }
}

#[test]
fn a_guest_that_may_run_elsewhere_is_not_saved_or_sent_and_so_never_resumed_by_the_way() {
    let gone: [fn(&Vm); 2] = [|vm| vm.undecided(), |vm| vm.handed_over("tcp:elsewhere:1")];
    for hand_over in gone {
        let rig = Rig::running();
        rig.vm.pause().expect("pauses");
        hand_over(&rig.vm);
        let state = rig.state();
        rig.vm.pause().expect_err("not this side's to save");
        let _ = rig.vm.resume();
        assert_eq!(rig.state(), state);
        assert_eq!(rig.vm.console().receive(b"v"), 0, "it does not run");
    }
}

#[test]
fn a_processor_that_stands_still_does_nothing_until_it_goes_on() {
    let rig = Rig::running();
    rig.vm.stop().expect("stops");
    std::thread::scope(|scope| {
        let guest = scope.spawn(|| rig.out(SERIAL_SCRATCH, 9));
        assert_eq!(rig.serial().scratch, 0);
        rig.vm.cont().expect("goes on");
        guest.join().expect("no panic");
    });
    assert_eq!(rig.serial().scratch, 9);
    rig.vm.accelerator().shutdown();
    assert_eq!(rig.accel.execute(|| ()), None);
}

/// A console that remembers what was written.
#[derive(Default)]
pub(super) struct Paper {
    text: Mutex<String>,
    grown: Condvar,
}

impl CharSink for Paper {
    fn try_write(&self, bytes: &[u8]) -> usize {
        self.text.lock().push_str(&String::from_utf8_lossy(bytes));
        self.grown.notify_all();
        bytes.len()
    }
}

impl Paper {
    /// How much was written so far.
    pub(super) fn length(&self) -> usize {
        self.text.lock().len()
    }

    /// Waits until so much more is written.
    pub(super) fn wait_for_more(&self, more: usize) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut text = self.text.lock();
        let wanted = text.len() + more;
        while text.len() < wanted {
            assert!(
                !self.grown.wait_until(&mut text, deadline).timed_out(),
                "the guest is silent"
            );
        }
    }

    pub(super) fn wait_for(&self, wanted: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut text = self.text.lock();
        while !text.contains(wanted) {
            assert!(
                !self.grown.wait_until(&mut text, deadline).timed_out(),
                "no {wanted:?} in: {text}"
            );
        }
    }
}

#[test]
fn versions_of_the_machine_differ_in_what_a_guest_can_do_and_the_oldest_is_as_it_was() {
    for (machine, events, switched_off) in [("microvm-1.0", 3, false), ("microvm-1.1", 7, true)] {
        let rig = Rig::with(&VmSpec {
            machine: machine.to_owned(),
            ..VmSpec::new("rig", "")
        });
        let mut offered = [0];
        rig.vm
            .board()
            .io()
            .read(PVPANIC, &mut offered)
            .expect("a device is there");
        assert_eq!(offered, [events], "{machine}");
        rig.out(PVPANIC, 4);
        rig.later.now();
        assert_eq!(
            rig.vm.status().ending() == Some(Ending::GuestShutdown),
            switched_off,
            "{machine}"
        );
    }
}

#[test]
fn what_a_user_asks_of_a_type_outweighs_what_the_version_of_the_machine_asks() {
    let global = "pvpanic.events=1".parse().expect("well-formed");
    let rig = Rig::with(&VmSpec {
        machine: "microvm-1.0".to_owned(),
        globals: vec![global],
        ..VmSpec::new("rig", "")
    });
    let pvpanic = rig.vm.root().resolve("/machine/pvpanic").expect("on the board");
    assert_eq!(pvpanic.property("events"), Ok(PropertyValue::Uint(1)));
}

#[test]
fn the_folders_of_the_tree_hold_what_stands_behind_the_machine() {
    let rig = Rig::running();
    let value = |path: &str, property: &str| {
        let object = rig.vm.root().resolve(path).expect(path);
        object.property(property).expect("known")
    };
    let leads_to = |path: &str| PropertyValue::Link(Some(path.to_owned()));
    assert_eq!(value("/chardevs/console", "user"), leads_to("/machine/serial0"));
    assert_eq!(value("/machine/serial0", "chardev"), leads_to("/chardevs/console"));
    assert_eq!(value("/machine/serial0", "parent-bus"), leads_to("/machine/bus"));
    for (through, object) in [
        ("/machine/serial0/parent-bus", "/machine/bus"),
        ("/chardevs/console/user/chardev", "/chardevs/console"),
        ("/machine/pit/clk/source", "/machine/oscillator"),
    ] {
        assert_eq!(rig.vm.root().resolve(through).expect(through).path(), object);
    }
    assert_eq!(value("/machine", "ram"), leads_to("/backend/ram"));
    assert_eq!(value("/machine/ram", "size"), PropertyValue::Uint(8 << 20));
    assert_eq!(value("/machine/pit/clk", "source"), leads_to("/machine/oscillator"));
    assert_eq!(value("/machine/pit/clk", "hz"), PropertyValue::Uint(1_193_182));
    assert_eq!(value("/machine/rtc/clk", "hz"), PropertyValue::Uint(32_768));
    let line = PropertyValue::Str("sysbus-irq[0]=4".to_owned());
    assert_eq!(value("/machine/serial0", "gpio-out"), PropertyValue::List(vec![line]));
    assert!(
        rig.vm
            .root()
            .child("objects")
            .is_some_and(|objects| objects.children().is_empty())
    );
}

#[test]
fn a_guest_goes_on_after_a_stop() {
    let Some(_turn) = kvm_turn::turn("vmm::vm::tests::a_guest_goes_on_after_a_stop") else {
        return;
    };
    let paper = Arc::new(Paper::default());
    let host = Host {
        types: TypeTable::gathered().expect("sound types"),
        accelerator: "kvm".to_owned(),
        console: Some(paper.clone()),
        runner: Arc::new(ThreadRunner),
        hidden_features: Vec::new(),
        tsc: Default::default(),
    };
    let spec = VmSpec {
        cpus: 2,
        memory: 64 << 20,
        ..VmSpec::new("test", "mib=8 beat=10")
    };
    let vm = Vm::create(&host, &spec, Arc::default()).expect("made");
    vm.start().expect("runs");
    paper.wait_for("beat 2");
    vm.stop().expect("stops");
    vm.cont().expect("goes on");
    paper.wait_for("beat 5");
}
