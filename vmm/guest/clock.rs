//! The clocks: the TSC, and the paravirtual clock of KVM where the hypervisor offers it.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering, fence};

use crate::apic;
use crate::cpu::Cpu;
use crate::ring0;

const KVM_LEAF: u32 = 0x4000_0000;
const KVM_SIGNATURE: [u32; 3] = [0x4b4d_564b, 0x564b_4d56, 0x4d]; // KVMKVMKVM
const KVM_FEATURE_CLOCK: u32 = 1 << 3;
const TSC_REGISTER: u32 = 0x10;
const KVM_CLOCK_MSR: u32 = 0x4b56_4d01;
const CLOCK_ENABLE: u64 = 1;

/// How far a clock may step back on one processor, and be behind that of another.
///
/// KVM may round its parameters anew; and on a host whose own TSC is not steady it promises no order at all (it then
/// leaves a flag out), so that only a clock that was lost can be told from a sound one.
const SLACK: Slack = Slack {
    same_cpu_ns: 50_000,
    across_ns: 1_000_000,
};
const UNSTEADY_SLACK: Slack = Slack {
    same_cpu_ns: 200_000_000,
    across_ns: 200_000_000,
};
const FLAG_STEADY: u64 = 1 << 40;

struct Slack {
    same_cpu_ns: u64,
    across_ns: u64,
}

/// How long a pause counts at most as time during which the processor ran: longer ones are the host's.
const ATTENTION_NS: u64 = 100_000_000;

/// Both clocks at one point.
#[derive(Clone, Copy)]
pub struct Moment {
    /// The time stamp counter.
    pub tsc: u64,
    /// Nanoseconds.
    pub ns: u64,
    /// Whether the nanoseconds are in order across processors.
    steady: bool,
}

/// What the processors need to read the time.
pub struct Clock {
    paravirtual: bool,
    /// Nanoseconds in 2^32 ticks of the TSC, for use without the paravirtual clock.
    scale: u64,
    /// The latest time that any processor has seen.
    latest_ns: AtomicU64,
}

impl Clock {
    /// Finds the clocks of this machine. The timer of this processor runs, with a period of `period_ns`.
    pub fn find(period_ns: u32) -> Clock {
        let [_, b, c, d] = ring0::cpuid(KVM_LEAF, 0);
        let paravirtual = [b, c, d] == KVM_SIGNATURE && ring0::cpuid(KVM_LEAF + 1, 0)[0] & KVM_FEATURE_CLOCK != 0;
        let scale = if paravirtual { 0 } else { measure_tsc(period_ns) };
        Clock {
            paravirtual,
            scale,
            latest_ns: AtomicU64::new(0),
        }
    }

    /// Whether the hypervisor offers its clock.
    pub fn is_paravirtual(&self) -> bool {
        self.paravirtual
    }

    /// How many ticks of the TSC of this processor take so long.
    pub fn tsc_ticks(&self, cpu: &Cpu, ns: u32) -> u64 {
        let (multiplier, shift) = match self.paravirtual {
            true => clock_parameters(cpu.clock_page[3].load(Ordering::Acquire)),
            false => (self.scale, 0),
        };
        let ticks = (u64::from(ns) << 32) / multiplier.max(1);
        if shift >= 0 { ticks >> shift } else { ticks << -shift }
    }

    /// Has the hypervisor keep the clock page of this processor.
    pub fn start(&self, cpu: &'static Cpu) {
        if self.paravirtual {
            let page = (&raw const cpu.clock_page) as u64;
            // SAFETY: the hypervisor will write the clock page, which is only read here, as atomics.
            unsafe { ring0::write_msr(KVM_CLOCK_MSR, page | CLOCK_ENABLE) };
        }
    }

    /// The time on this processor.
    pub fn now(&self, cpu: &Cpu) -> Moment {
        if !self.paravirtual {
            let tsc = read_tsc();
            return Moment {
                tsc,
                ns: scaled(tsc, self.scale),
                steady: true,
            };
        }
        loop {
            let page = cpu.clock_page.each_ref().map(|word| word.load(Ordering::Acquire));
            let tsc = read_tsc();
            fence(Ordering::Acquire);
            let [version, tsc_then, ns_then, parameters] = page;
            // An odd version is one that the hypervisor is writing.
            if version & 1 == 1 || cpu.clock_page[0].load(Ordering::Relaxed) != version {
                continue;
            }
            let (multiplier, shift) = clock_parameters(parameters);
            let passed = tsc.wrapping_sub(tsc_then);
            let passed = if shift >= 0 { passed << shift } else { passed >> -shift };
            return Moment {
                tsc,
                ns: ns_then.wrapping_add(scaled(passed, multiplier)),
                steady: parameters & FLAG_STEADY != 0,
            };
        }
    }
}

/// What a clock that goes back is told by.
pub enum Backwards {
    /// The TSC of one processor, by so many ticks.
    Tsc(u64),
    /// The clock of one processor, by so many nanoseconds.
    Clock(u64),
    /// The clock of one processor behind that of another, by so many nanoseconds.
    Across(u64),
}

/// Watches the clocks of one processor.
pub struct Watch {
    last: Moment,
    last_register: u64,
    /// Nanoseconds during which the processor ran: what time-outs count, so that a host that takes the processor away
    /// for seconds raises no alarm.
    pub attended_ns: u64,
}

impl Watch {
    /// Begins to watch.
    pub fn new(now: Moment) -> Watch {
        Watch {
            last: now,
            last_register: 0,
            attended_ns: 0,
        }
    }

    /// Looks at the TSC as ring 0 sees it, which need not be what RDTSC reads at ring 3 if the hypervisor is software.
    pub fn look_at_register(&mut self, mut report: impl FnMut(Backwards)) {
        let Some(now) = ring0::read_msr(TSC_REGISTER) else {
            return;
        };
        if now < self.last_register {
            report(Backwards::Tsc(self.last_register - now));
        }
        self.last_register = now;
    }

    /// Reads the time, and tells what went back.
    pub fn look(&mut self, clock: &Clock, cpu: &Cpu, mut report: impl FnMut(Backwards)) -> Moment {
        let latest = clock.latest_ns.load(Ordering::Acquire);
        let now = clock.now(cpu);
        if now.tsc < self.last.tsc {
            report(Backwards::Tsc(self.last.tsc - now.tsc));
        }
        let slack = if now.steady { SLACK } else { UNSTEADY_SLACK };
        if now.ns + slack.same_cpu_ns < self.last.ns {
            report(Backwards::Clock(self.last.ns - now.ns));
            // Else every other look would tell of it again.
            clock.latest_ns.store(now.ns, Ordering::Release);
        } else if now.ns + slack.across_ns < latest {
            report(Backwards::Across(latest - now.ns));
            clock.latest_ns.store(now.ns, Ordering::Release);
        } else {
            clock.latest_ns.fetch_max(now.ns, Ordering::AcqRel);
        }
        self.attended_ns += now.ns.saturating_sub(self.last.ns).min(ATTENTION_NS);
        self.last = now;
        now
    }
}

/// Nanoseconds in 2^32 ticks that have been shifted (to the left where positive) before.
fn clock_parameters(word: u64) -> (u64, i8) {
    (word & 0xffff_ffff, (word >> 32) as i8)
}

fn scaled(ticks: u64, multiplier: u64) -> u64 {
    ((u128::from(ticks) * u128::from(multiplier)) >> 32) as u64
}

fn read_tsc() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a register. The fence keeps it from being read ahead of the loads before.
    unsafe { asm!("lfence", "rdtsc", out("eax") low, out("edx") high, options(nostack, preserves_flags)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Nanoseconds in 2^32 ticks of the TSC, by the local APIC's timer, taken to count nanoseconds as KVM's does.
fn measure_tsc(period_ns: u32) -> u64 {
    let (mut ticks, mut ns) = (0u64, 0u64);
    let (mut tsc, mut count) = (read_tsc(), apic::timer_count());
    while ns < u64::from(period_ns) {
        let (tsc_now, count_now) = (read_tsc(), apic::timer_count());
        // Past the end of a period the difference says nothing.
        if count_now <= count {
            ticks += tsc_now - tsc;
            ns += u64::from(count - count_now);
        }
        (tsc, count) = (tsc_now, count_now);
    }
    (ns << 32) / ticks.max(1)
}
