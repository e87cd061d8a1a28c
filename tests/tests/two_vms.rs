//! Several VMs in one process, moving past each other at once, have nothing in common.

use std::collections::BTreeMap;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use hw::core::testdev_register as register;
use migration::cancel::CancelToken;
use migration::listener::Reach;
use migration::phases::Phase;
use migration::precopy::{ReceiveOptions, Receiver, SendOptions, send};
use migration::stats::{Gauges, SendReport};
use migration::uri::Uri;
use parking_lot::{Condvar, Mutex};
use tern_tests::guest::EmbeddedGuest;
use tern_tests::log::PATIENCE;
use tern_tests::machine::{Machine, Site, assert_same_state, encoded_state, ram_differences};
use tern_tests::needs_kvm;
use tern_tests::process::Scratch;
use vmm::accel::qtest::QtestAccel;
use vmm::run_state::RunState;
use vmm::vm::{Vm, VmSpec};
use vmstate::qom::PropertyValue;

/// How often each machine without processors moves; that takes a few milliseconds.
const LEGS: u64 = 10;
/// How often each guest moves.
const GUEST_LEGS: u64 = 3;

/// Where a VM goes.
struct Way {
    receiver: Receiver,
    to: Site,
}

impl Way {
    fn new(uri: &str, accelerator: &str) -> Self {
        let uri: Uri = uri.parse().expect("an address");
        Self {
            receiver: Receiver::bind(&uri, Reach::Loopback).expect("a free address"),
            to: Site::new(accelerator),
        }
    }

    /// Moves `vm`, as soon as the others are ready to move too; between two rounds waits for the `guest` to do something.
    fn go(&self, vm: &Vm, others: &Barrier, guest: &Arc<Pulse>) -> (Machine, SendReport) {
        let [sending, receiving] = [(); 2].map(|()| CancelToken::new().expect("a file descriptor"));
        thread::scope(|scope| {
            let arriving = scope.spawn(|| {
                let (factory, options) = (self.to.factory(), ReceiveOptions::default());
                self.receiver.accept(&factory, &options, &receiving, &Gauges::new())
            });
            others.wait();
            let options = SendOptions {
                limits: Duration::from_secs(1).into(),
                ..SendOptions::default()
            };
            let (gauges, guest) = (Gauges::new(), Arc::clone(guest));
            gauges.on_phase(Box::new(move |phase| {
                if phase == Phase::Rounds {
                    guest.wait_for_more();
                }
            }));
            let sent = send(vm, self.receiver.local_uri(), &options, &sending, &gauges);
            if sent.is_err() {
                let _ = receiving.cancel();
            }
            let report = sent.expect("it is sent");
            let arrived = arriving.join().expect("no panic").expect("it arrives");
            assert!(arrived.source_not_told.is_none());
            (self.to.machine(arrived.vm.vm()), report)
        })
    }
}

/// One over TCP, one over a unix socket.
fn ways(folder: &Scratch, accelerator: &str) -> [Way; 2] {
    let socket = format!("unix:{}", folder.file("socket").display());
    [Way::new("tcp:127.0.0.1:0", accelerator), Way::new(&socket, accelerator)]
}

/// Moves both machines at once; returns them where they have arrived, and how they went.
fn move_both(machines: &[Machine; 2], ways: &[Way; 2], guests: &[Arc<Pulse>; 2]) -> [(Machine, SendReport); 2] {
    let barrier = Barrier::new(2);
    let go = |number: usize| ways[number].go(&machines[number].vm, &barrier, &guests[number]);
    thread::scope(|scope| {
        let one = scope.spawn(|| go(0));
        let other = go(1);
        [one.join().expect("no panic"), other]
    })
}

/// How much a thread in the place of a guest has done; one that does nothing is not waited for.
#[derive(Default)]
struct Pulse {
    count: Mutex<Option<u64>>,
    beat: Condvar,
}

impl Pulse {
    fn count(&self, count: u64) {
        *self.count.lock() = Some(count);
        self.beat.notify_all();
    }

    /// Waits for some more.
    fn wait_for_more(&self) {
        const MORE: u64 = 50;
        let (deadline, mut count) = (Instant::now() + PATIENCE, self.count.lock());
        let Some(wanted) = count.map(|count| count + MORE) else {
            return;
        };
        while *count < Some(wanted) {
            assert!(
                !self.beat.wait_until(&mut count, deadline).timed_out(),
                "the writer has stopped"
            );
        }
    }
}

/// What a thread in the place of a guest has written last, by place.
#[derive(Debug, Default, PartialEq)]
struct Written {
    /// What each page is full of.
    pages: BTreeMap<u64, u8>,
    scratch: Option<u8>,
    /// The real-time clock's memory.
    clock: BTreeMap<u8, u8>,
}

const PAGE: u64 = 4096;
/// Above the kernel, which is not disturbed: only its own memory could tell.
const FIRST_PAGE: u64 = 512;
const PAGES: u64 = 1024;
const SERIAL_SCRATCH: u64 = 0x3ff;
const PVPANIC: u64 = 0x505;
const CLOCK_INDEX: u64 = 0x70;
const CLOCK_DATA: u64 = 0x71;
/// Bytes of the clock's memory that mean nothing to it.
const CLOCK_MEMORY: std::ops::Range<u8> = 0x40..0x70;

/// Ends two machines when it goes, and with them what writes on them, also where a test fails.
struct EndBoth<'a>(&'a [Machine; 2]);

impl Drop for EndBoth<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|machine| machine.vm.accelerator().shutdown());
    }
}

/// Writes memory and registers of `vm` as long as it lives here.
fn write_on(vm: &Vm, processor: &QtestAccel, seed: u64, pulse: &Pulse) -> Written {
    let mut written = Written::default();
    let mut number = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let (memory, io) = (vm.board().memory(), vm.board().io());
    for count in 0.. {
        pulse.count(count);
        // Xorshift (Marsaglia, 2003).
        number ^= number << 13;
        number ^= number >> 7;
        number ^= number << 17;
        let [value, place, ..] = number.to_le_bytes();
        let page = FIRST_PAGE + (number >> 16) % PAGES;
        let cell = CLOCK_MEMORY.start + place % (CLOCK_MEMORY.end - CLOCK_MEMORY.start);
        let done = processor.execute(|| {
            memory.write(page * PAGE, &[value; 4096]).expect("RAM");
            io.write(SERIAL_SCRATCH, &[value]).expect("a serial port");
            io.write(CLOCK_INDEX, &[cell]).expect("a clock");
            io.write(CLOCK_DATA, &[value]).expect("a clock");
        });
        if done.is_none() {
            break;
        }
        written.pages.insert(page, value);
        written.scratch = Some(value);
        written.clock.insert(cell, value);
    }
    written
}

/// Expects that a VM holds what was written where it came from.
fn holds(machine: &Machine, written: &Written) {
    let (memory, io) = (machine.vm.board().memory(), machine.vm.board().io());
    let mut page = [0; 4096];
    for (&number, &value) in &written.pages {
        memory.read(number * PAGE, &mut page).expect("RAM");
        assert!(page.iter().all(|&byte| byte == value), "page {number}");
    }
    let port = |port| {
        let mut value = [0];
        io.read(port, &mut value).expect("a device");
        value[0]
    };
    assert_eq!(Some(port(SERIAL_SCRATCH)), written.scratch);
    for (&cell, &value) in &written.clock {
        io.write(CLOCK_INDEX, &[cell]).expect("a clock");
        assert_eq!(port(CLOCK_DATA), value, "byte {cell:#x} of the clock");
    }
}

#[test]
fn two_machines_that_are_written_to_move_past_each_other_and_lose_nothing() {
    let folder = Scratch::new();
    let spec = |name: &str| VmSpec {
        memory: 8 << 20,
        ..VmSpec::new(name.to_owned(), "")
    };
    let mut machines = ["one", "other"].map(|name| Site::new("qtest").boot(&spec(name)));
    let ids = machines.each_ref().map(|machine| machine.vm.identity().vm);
    assert_ne!(ids[0], ids[1]);
    for leg in 0..LEGS {
        let ways = ways(&folder, "qtest");
        let pulses = <[Arc<Pulse>; 2]>::default();
        let (arrived, written) = thread::scope(|scope| {
            let writers = [(0, leg * 2 + 1), (1, leg * 2 + 2)].map(|(number, seed): (usize, u64)| {
                let (machine, pulse) = (&machines[number], &pulses[number]);
                pulse.count(0);
                scope.spawn(move || write_on(&machine.vm, &machine.processor(), seed, pulse))
            });
            let arrived = {
                let _then = EndBoth(&machines);
                move_both(&machines, &ways, &pulses)
            };
            (arrived, writers.map(|writer| writer.join().expect("no panic")))
        });
        assert_ne!(written[0], written[1]);
        let mut there = Vec::new();
        for ((source, (target, report)), written) in machines.iter().zip(arrived).zip(&written) {
            assert_eq!(source.vm.status().run_state.get(), RunState::Shutdown);
            assert_eq!(target.vm.status().run_state.get(), RunState::Running);
            assert_eq!(target.vm.identity().vm, source.vm.identity().vm);
            assert!(report.rounds.len() >= 2, "{report:?}");
            assert!(
                report.rounds[1..].iter().any(|round| round.sent_bytes > 0),
                "{report:?}"
            );
            assert_eq!(ram_differences(&source.vm, &target.vm), []);
            assert_same_state("moved", &encoded_state(&source.vm), &encoded_state(&target.vm));
            holds(&target, written);
            there.push(target);
        }
        machines = there.try_into().unwrap_or_else(|_| unreachable!("two have left"));
    }
}

#[test]
fn every_version_of_the_machine_moves_with_what_its_user_asks_of_its_types() {
    let folder = Scratch::new();
    let boot = |machine: &str| {
        Site::new("qtest").boot(&VmSpec {
            machine: machine.to_owned(),
            memory: 8 << 20,
            globals: vec!["serial16550.irq=3".parse().expect("well-formed")],
            ..VmSpec::new(machine.to_owned(), "")
        })
    };
    let sources = ["microvm-1.0", "microvm-1.1"].map(boot);
    let arrived = move_both(&sources, &ways(&folder, "qtest"), &Default::default());
    for ((source, (target, _)), events) in sources.iter().zip(&arrived).zip([3, 7]) {
        assert_eq!(target.vm.recipe(), source.vm.recipe());
        let mut offered = [0];
        target.vm.board().io().read(PVPANIC, &mut offered).expect("a device");
        assert_eq!(offered, [events], "{}", target.vm.recipe().machine);
        let serial = target.vm.board().serial().object();
        assert_eq!(serial.property("irq"), Ok(PropertyValue::Uint(3)));
    }
}

#[test]
fn an_armed_timer_moves_live_and_runs_out_at_its_instant_and_once() {
    const REGISTERS: u64 = 0xd100_0000;
    let store = |machine: &Machine, register: u64, value: u32| {
        let written = machine
            .vm
            .board()
            .memory()
            .write(REGISTERS + register, &value.to_le_bytes());
        written.expect("the device is there");
    };
    let ticks = |machine: &Machine| {
        let mut ticks = [0; 4];
        let read = machine
            .vm
            .board()
            .memory()
            .read(REGISTERS + register::TICKS, &mut ticks);
        read.expect("the device is there");
        u32::from_le_bytes(ticks)
    };
    let step = |machine: &Machine, by: u64| machine.processor().step_clock(Duration::from_micros(by));
    // One runs out 2 ms after it has come, and the other after 4 ms.
    let lefts = [2000, 4000];
    let sources = lefts.map(|left| {
        let machine = Site::new("qtest").boot(&VmSpec::new(format!("due-in-{left}"), ""));
        let timer = vec![("timer".to_owned(), true.into())];
        machine
            .vm
            .add_device("tern-testdev", Some("td"), timer)
            .expect("it is added");
        store(&machine, register::PERIOD, 5000);
        store(&machine, register::TIMER, register::RUN);
        step(&machine, 5000 - left);
        machine
    });
    let folder = Scratch::new();
    let arrived = move_both(&sources, &ways(&folder, "qtest"), &Default::default());
    for (left, (target, _)) in lefts.into_iter().zip(&arrived) {
        assert_eq!(
            step(target, 0),
            Duration::from_micros(5000 - left),
            "the clock came along"
        );
        step(target, left - 1);
        assert_eq!(ticks(target), 0, "not before its instant");
        step(target, 1);
        assert_eq!(ticks(target), 1);
        step(target, 100_000);
        assert_eq!(ticks(target), 1, "not twice");
    }
}

#[test]
fn two_guests_move_past_each_other_and_find_every_page_as_they_left_it() {
    needs_kvm!();
    let folder = Scratch::new();
    let boot = |seed: u64| {
        let cmdline = format!("mib=32 beat=20 rate=max dirty=8 seed={seed}");
        let spec = VmSpec {
            memory: 64 << 20,
            ..VmSpec::new(format!("guest-{seed}"), &cmdline)
        };
        let mut guest = Site::new("kvm").boot(&spec);
        guest.wait_ready();
        guest
    };
    let mut guests = [1, 2].map(boot);
    for _ in 0..GUEST_LEGS {
        let arrived = move_both(&guests, &ways(&folder, "kvm"), &Default::default());
        for (source, (_, report)) in guests.iter().zip(&arrived) {
            assert_eq!(source.vm.status().run_state.get(), RunState::Shutdown);
            assert!(report.rounds.len() >= 2, "{report:?}");
        }
        guests = arrived.map(|(guest, _)| guest);
        for guest in &mut guests {
            guest.wait_beat();
            assert_eq!(guest.verify(), 32 * 256);
        }
    }
}
