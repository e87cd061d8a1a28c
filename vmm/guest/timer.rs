//! The timer of a processor's own interrupt controller: periodic on every other processor, and on those between by TSC
//! deadline where there is that, so that either kind is at work in a machine with two processors.

use core::sync::atomic::Ordering;

use crate::apic;
use crate::clock::Clock;
use crate::console::line;
use crate::cpu::Cpu;
use crate::interrupts::TIMER;
use crate::ring0;

/// Nanoseconds between the ticks of a processor's timer.
pub const TICK_NS: u32 = 10_000_000;
/// A timer that has not ticked for so long, while its processor ran, is dead.
const PATIENCE_NS: u64 = 5_000_000_000;

const FEATURE_TSC_DEADLINE: u32 = 1 << 24;

/// The timer of one processor.
pub struct Timer {
    ticks: u64,
    ticked_at_ns: u64,
}

impl Timer {
    /// Starts the timer of this processor, whose clock runs already.
    pub fn start(cpu: &Cpu, clock: &Clock, period_ns: u32) -> Timer {
        let by_deadline = cpu.index() % 2 == 1 && ring0::cpuid(1, 0)[2] & FEATURE_TSC_DEADLINE != 0;
        if by_deadline {
            let ticks = clock.tsc_ticks(cpu, period_ns);
            cpu.deadline_ticks.store(ticks, Ordering::Release);
            apic::set_timer_to_deadline();
            ring0::set_deadline(ticks);
        } else {
            apic::start_timer(period_ns);
        }
        Timer {
            ticks: 0,
            ticked_at_ns: 0,
        }
    }

    /// Tells if the timer is dead. `attended_ns`: for how long the processor has run.
    pub fn look(&mut self, cpu: &Cpu, attended_ns: u64) {
        let ticks = cpu.interrupts(TIMER);
        if ticks != self.ticks {
            self.ticks = ticks;
            self.ticked_at_ns = attended_ns;
        } else if attended_ns - self.ticked_at_ns > PATIENCE_NS {
            self.ticked_at_ns = attended_ns;
            line!("check FAILED timer cpu {} stands at {ticks} ticks", cpu.index());
        }
    }
}
