//! The block of memory that belongs to one processor: its TSS, its ring-0 stack, and what its interrupts count.
//!
//! The block is one aligned page, so that an interrupt handler finds it from the stack pointer alone.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Interrupt vectors that are counted, from 0.
pub const COUNTED_VECTORS: usize = 128;

/// One processor. Its first fields are laid out in `boot.rs` for the first processor.
#[repr(C, align(4096))]
pub struct Cpu {
    tss: UnsafeCell<[u32; 68]>,
    /// Top of the ring-3 stack.
    pub stack_top: AtomicU64,
    /// Selector of the TSS.
    pub tss_selector: AtomicU32,
    /// Position in the list of processors; 0 is the one that booted.
    pub index: AtomicU32,
    counters: [AtomicU64; COUNTED_VECTORS],
    /// What the hypervisor writes for the kvmclock of this processor.
    pub clock_page: [AtomicU64; 4],
    /// Exceptions that ended the program: more than one if the message itself failed.
    exceptions: AtomicU32,
    /// The local APIC's id.
    pub apic_id: AtomicU32,
    /// The [`Stage`] that the processor has reached; 0 for none.
    pub stage: AtomicU32,
    /// TSC ticks from one tick of the timer to the next, where it works by deadlines; else 0.
    pub deadline_ticks: AtomicU64,
    /// Turns of the processor's main loop.
    pub turns: AtomicU64,
    /// Value of the [`PING`](crate::interrupts::PING) counter that was answered last.
    pub answered: AtomicU64,
    /// What the local APIC was last told to send.
    pub last_command: AtomicU64,
    /// Pages written since the start.
    pub writes: AtomicU64,
    /// The last verification that the processor has finished, and what it found.
    pub verified: AtomicU32,
    /// Pages that the last verification looked at.
    pub verified_pages: AtomicU64,
    /// Pages of these that were not as expected.
    pub bad_pages: AtomicU64,
}

// SAFETY: only the TSS is no atomic; it is written before the processor runs, and read by the processor alone.
unsafe impl Sync for Cpu {}

/// How far a processor has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Stage {
    /// Runs at ring 3.
    Started = 1,
    /// Has filled its share of the working set.
    Filled = 2,
}

/// Words of the TSS: the low half of RSP0 and the offset of the I/O bitmap.
const TSS_RSP0: usize = 1;
const TSS_IO_MAP: usize = 25;
/// Offset of the I/O bitmap in the TSS: right behind its fixed part.
pub const IO_MAP_OFFSET: u32 = 104;
/// Bytes of the I/O bitmap: a bit for each port up to 0x4ff.
pub const IO_MAP_BYTES: u32 = 160;
/// Offset of the last byte of the TSS: one of ones ends the bitmap.
const TSS_LIMIT: u64 = (IO_MAP_OFFSET + IO_MAP_BYTES) as u64;

impl Cpu {
    /// Makes the zeroed block at `self` one that a processor can start with: all ports of the bitmap allowed.
    pub fn prepare(&'static self, index: u32, apic_id: u32, tss_selector: u16, stack_top: u64) {
        let words = self.tss.get();
        // SAFETY: the processor of this block does not run yet, so nothing else refers to its TSS.
        let words = unsafe { &mut *words };
        words[TSS_RSP0] = (self.address() + 4096) as u32;
        words[TSS_IO_MAP] = IO_MAP_OFFSET << 16;
        words[TSS_LIMIT as usize / 4] = 0xff;
        self.stack_top.store(stack_top, Ordering::Relaxed);
        self.tss_selector.store(u32::from(tss_selector), Ordering::Relaxed);
        self.index.store(index, Ordering::Relaxed);
        self.apic_id.store(apic_id, Ordering::Relaxed);
    }

    /// The descriptor of this processor's TSS (its upper half is zero: the block lies below 4 GiB).
    pub fn tss_descriptor(&self) -> [u64; 2] {
        let base = self.address();
        let low = 0x0000_8900_0000_0000 | TSS_LIMIT | (base & 0xff_ffff) << 16 | (base >> 24 & 0xff) << 56;
        [low, 0]
    }

    /// Where the block lies.
    pub fn address(&self) -> u64 {
        (&raw const *self) as u64
    }

    /// How many interrupts have come in by `vector`.
    pub fn interrupts(&self, vector: u8) -> u64 {
        self.counters[usize::from(vector)].load(Ordering::Acquire)
    }

    /// Position in the list of processors.
    pub fn index(&self) -> u32 {
        self.index.load(Ordering::Relaxed)
    }

    /// Says that the processor has come to `stage`.
    pub fn reach(&self, stage: Stage) {
        self.stage.store(stage as u32, Ordering::Release);
    }

    /// Whether the processor has come to `stage`.
    pub fn has_reached(&self, stage: Stage) -> bool {
        self.stage.load(Ordering::Acquire) >= stage as u32
    }

    /// Offset of the interrupt counters, for the handlers.
    pub const COUNTERS: usize = core::mem::offset_of!(Cpu, counters);
    /// Offset of the count of exceptions, for the same.
    pub const EXCEPTIONS: usize = core::mem::offset_of!(Cpu, exceptions);
}
