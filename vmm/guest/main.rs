//! The embedded guest: a program without an operating system that shows whether a virtual machine lost anything.
//!
//! It fills memory with a pattern, dirties it at a given rate, and verifies it; beside that it watches clocks, timers,
//! interrupts between processors and the floating-point registers. `README.md` describes the protocol on its console.
//!
//! Nearly everything runs at ring 3, where every KVM runs code at full speed. Ring 0 is a few hundred instructions:
//! `boot.rs` on the way in, the handlers of `interrupts.rs`, and what ring 3 calls of it by `ring0.rs`.

#![no_std]
#![no_main]

mod apic;
mod board;
mod boot;
mod clock;
mod cmdline;
mod conductor;
mod console;
mod cpu;
mod guard;
mod interrupts;
mod ledger;
mod libc;
mod machine;
mod memory;
mod pattern;
mod ports;
mod registers;
mod ring0;
mod smp;
mod timer;
mod worker;
mod working_set;

use core::cell::UnsafeCell;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, AtomicU32};

use crate::board::Board;
use crate::clock::Clock;
use crate::cmdline::{Options, Rate};
use crate::conductor::Conductor;
use crate::console::line;
use crate::cpu::{Cpu, Stage};
use crate::guard::Guard;
use crate::machine::{Machine, Place};
use crate::memory::{Memory, PAGE, StartInfo};
use crate::pattern::{Pattern, mix};
use crate::smp::{ApicIds, CpuList};
use crate::timer::TICK_NS;
use crate::worker::Worker;
use crate::working_set::{Share, WorkingSet};

const MIB: u64 = 1 << 20;
/// A processor that has not started for so long, while the first one ran, will not.
const START_PATIENCE_NS: u64 = 20_000_000_000;

/// The first processor at ring 3.
#[unsafe(no_mangle)]
extern "C" fn bsp_main(start_info: u32) -> ! {
    console::announce();
    libc::clear_bss();
    memory::map_devices();
    interrupts::install_handlers();
    let machine = set_up(start_info);
    machine.publish();
    machine.list.start();
    let mut worker = Worker::new(machine, machine.cpus()[0]);
    worker.fill();
    wait_for_others(&mut worker);
    let board = Board::prepare(worker.cpu);
    announce_ready(machine);
    Conductor::new(&worker, board).run(worker)
}

/// Another processor at ring 3.
#[unsafe(no_mangle)]
extern "C" fn ap_main(cpu: &'static Cpu) -> ! {
    let mut worker = Worker::new(Machine::published(), cpu);
    worker.fill();
    worker.run()
}

/// Finds out what there is, and makes everything that the processors use.
fn set_up(start_info: u32) -> &'static Machine {
    let Some(info) = StartInfo::read(start_info) else {
        fail("no PVH start info")
    };
    let mut memory = Memory::find(&info);
    board::prepare_pics();
    apic::enable(0);
    apic::start_timer(TICK_NS);
    let clock = Clock::find(TICK_NS);
    // Only now, as a console that takes nothing is waited for with the timer.
    let options = Options::parse(info.cmdline(), |word| {
        line!("tern-guest: unknown word {}", word.escape_ascii())
    });
    match build(&mut memory, options, clock) {
        Some(machine) => machine,
        None => fail("too little memory"),
    }
}

fn build(memory: &mut Memory, options: Options, clock: Clock) -> Option<&'static Machine> {
    memory.map()?;
    let ids = ApicIds::find(options.cpus);
    let list = CpuList::prepare(memory, &ids)?;
    let cpus = ids.count() as u64;
    let wanted = options.mib.map_or(memory.ram_bytes / 4 * 3, |mib| mib * MIB) / PAGE;
    let set = WorkingSet::take(memory, wanted, options.fill_percent, Pattern::new(options.seed), cpus)?;
    let busy_pages = options.dirty_mib.map_or(set.pages(), |mib| mib * MIB / PAGE);
    let console_tick_ns = match options.beat_ms {
        0 => TICK_NS,
        ms => TICK_NS.min((ms * 1_000_000).try_into().unwrap_or(TICK_NS)),
    };
    let places = memory.take_array(cpus, |memory, index| {
        let guard = UnsafeCell::new(Guard::new(mix(options.seed) ^ index));
        Some(Place {
            guard,
            share: Share::take(memory, &set, busy_pages, index, cpus)?,
        })
    })?;
    memory.put(Machine {
        options,
        clock,
        set,
        list,
        places,
        console_tick_ns,
        dirtying: AtomicBool::new(true),
        verification: AtomicU32::new(0),
        thorough: AtomicBool::new(false),
    })
}

fn wait_for_others(worker: &mut Worker) {
    let machine = worker.machine;
    let since = worker.attended_ns();
    while let Some(cpu) = machine.cpus().iter().find(|cpu| !cpu.has_reached(Stage::Filled)) {
        worker.watch_only();
        if !cpu.has_reached(Stage::Started) && worker.attended_ns() - since > START_PATIENCE_NS {
            line!("check FAILED cpu {} did not start", cpu.index());
            ports::exit(ports::EXIT_PANIC);
        }
        worker.halt();
    }
}

fn announce_ready(machine: &Machine) {
    let (cpus, pages, seed) = (machine.cpus().len(), machine.set.pages(), machine.options.seed);
    match machine.options.rate {
        Rate::MibPerSecond(rate) => line!("tern-guest: ready cpus={cpus} pages={pages} seed={seed} rate={rate}"),
        Rate::Max => line!("tern-guest: ready cpus={cpus} pages={pages} seed={seed} rate=max"),
    }
}

fn fail(why: &str) -> ! {
    line!("panic {why}");
    ports::exit(ports::EXIT_PANIC)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    console::seize();
    line!("panic {info}");
    ports::exit(ports::EXIT_PANIC)
}
