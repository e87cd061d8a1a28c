//! What the processors share.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};

use crate::clock::Clock;
use crate::cmdline::Options;
use crate::cpu::Cpu;
use crate::guard::Guard;
use crate::smp::CpuList;
use crate::working_set::{Share, WorkingSet};

/// What the first processor sets up and all use.
pub struct Machine {
    /// What the command line says.
    pub options: Options,
    /// The clocks.
    pub clock: Clock,
    /// The pages under test.
    pub set: WorkingSet,
    /// All processors.
    pub list: CpuList,
    /// One for each processor, in the same order.
    pub places: &'static [Place],
    /// Nanoseconds between the ticks of the first processor, which prints the heartbeat.
    pub console_tick_ns: u32,
    /// Whether pages are dirtied.
    pub dirtying: AtomicBool,
    /// Number of the verification that is wanted.
    pub verification: AtomicU32,
    /// Whether it looks at the pages, too, that were never filled.
    pub thorough: AtomicBool,
}

/// What one processor works with.
pub struct Place {
    /// Taken by the processor's worker.
    pub guard: UnsafeCell<Guard>,
    /// Its pages.
    pub share: Share,
}

// SAFETY: only the processor of the place takes its guard (worker.rs).
unsafe impl Sync for Place {}

static MACHINE: AtomicPtr<Machine> = AtomicPtr::new(core::ptr::null_mut());

impl Machine {
    /// Makes the machine known to the other processors.
    pub fn publish(&'static self) {
        MACHINE.store((&raw const *self).cast_mut(), Ordering::Release);
    }

    /// The machine that the first processor published.
    pub fn published() -> &'static Machine {
        // SAFETY: the first processor publishes before it starts another one, and never takes it back.
        unsafe { &*MACHINE.load(Ordering::Acquire) }
    }

    /// All processors; the one that booted is the first.
    pub fn cpus(&self) -> &[&'static Cpu] {
        self.list.cpus()
    }
}
