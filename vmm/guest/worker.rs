//! What every processor does: fill, dirty and verify its share, and watch its clock, its timer and its registers.

use core::sync::atomic::Ordering;

use crate::apic;
use crate::clock::{Backwards, Moment, Watch};
use crate::cmdline::Rate;
use crate::console::line;
use crate::cpu::{Cpu, Stage};
use crate::guard::{Guard, Lost};
use crate::interrupts::{FIRST_ANSWER, PING};
use crate::ledger::{Ledger, Owner};
use crate::machine::Machine;
use crate::memory::PAGE;
use crate::registers;
use crate::ring0;
use crate::timer::{TICK_NS, Timer};
use crate::working_set::Share;

/// So much of a rate is made up for after a pause, and no more.
const RATE_CATCH_UP_NS: u64 = 100_000_000;
/// Bad pages that one verification tells of, for each processor.
const TOLD_PAGES: u64 = 8;

/// The work of one processor.
pub struct Worker {
    /// What all processors share.
    pub machine: &'static Machine,
    /// The processor.
    pub cpu: &'static Cpu,
    guard: &'static mut Guard,
    share: &'static Share,
    watch: Watch,
    now: Moment,
    timer: Timer,
    answered: u64,
    dirty_next: u64,
    /// Bytes that may be dirtied now, times one second in nanoseconds.
    credit: u128,
    verification: u32,
    verify_next: Option<u64>,
    ledger: Ledger,
}

impl Worker {
    /// The work of the processor that runs this.
    pub fn new(machine: &'static Machine, cpu: &'static Cpu) -> Worker {
        apic::enable(cpu.index());
        let period_ns = if cpu.index() == 0 {
            machine.console_tick_ns
        } else {
            TICK_NS
        };
        machine.clock.start(cpu);
        let timer = Timer::start(cpu, &machine.clock, period_ns);
        let now = machine.clock.now(cpu);
        let place = &machine.places[cpu.index() as usize];
        // SAFETY: each processor makes one worker, which is the only one to take the guard of its place.
        let guard = unsafe { &mut *place.guard.get() };
        if machine.options.avx && ring0::enable_avx() {
            guard.enable_avx();
        }
        registers::prepare(cpu, machine.clock.is_paravirtual());
        let mut ledger = Ledger::new(Owner::Cpu(cpu.index()));
        registers::look(&mut ledger, cpu);
        cpu.reach(Stage::Started);
        Worker {
            machine,
            cpu,
            guard,
            share: &place.share,
            watch: Watch::new(now),
            now,
            timer,
            answered: 0,
            dirty_next: 0,
            credit: 0,
            verification: 0,
            verify_next: None,
            ledger,
        }
    }

    /// Writes every page of the share that is to be filled for the first time.
    pub fn fill(&mut self) {
        let mut next = 0;
        while next < self.share.pages() {
            next = self.queue_writes(next, self.share.pages());
            self.write_queued();
        }
        self.cpu.reach(Stage::Filled);
    }

    /// Works for ever.
    pub fn run(mut self) -> ! {
        loop {
            if !self.turn() {
                self.halt();
            }
        }
    }

    /// One turn of the main loop. Returns whether there is more to do before the next interrupt.
    pub fn turn(&mut self) -> bool {
        self.cpu.turns.fetch_add(1, Ordering::Relaxed);
        let before = self.now;
        self.watch_only();
        self.answer();
        self.verify() || self.dirty(self.now.ns.saturating_sub(before.ns))
    }

    /// A turn without work.
    pub fn watch_only(&mut self) {
        self.look_at_clocks();
        self.timer.look(self.cpu, self.watch.attended_ns);
    }

    /// Sleeps until the next interrupt.
    pub fn halt(&mut self) {
        let outcome = self.guard.halt();
        self.report(outcome);
    }

    /// The time as of this turn.
    pub fn now(&self) -> Moment {
        self.now
    }

    /// Nanoseconds that the processor has run.
    pub fn attended_ns(&self) -> u64 {
        self.watch.attended_ns
    }

    fn look_at_clocks(&mut self) {
        let index = self.cpu.index();
        self.now = self.watch.look(&self.machine.clock, self.cpu, |backwards| {
            report_clock(index, &backwards)
        });
    }

    /// Answers the first processor, once for each interrupt from it.
    fn answer(&mut self) {
        let pings = self.cpu.interrupts(PING);
        if pings != self.answered {
            self.answered = pings;
            apic::send(self.cpu, self.machine.cpus()[0], FIRST_ANSWER + self.cpu.index() as u8);
            self.cpu.answered.store(pings, Ordering::Release);
        }
    }

    fn report(&self, outcome: Result<(), Lost>) {
        if let Err(lost) = outcome {
            line!("check FAILED {} cpu {} {lost}", lost.kind(), self.cpu.index());
        }
    }

    /// Queues writes from page `next` of the share on, as many as a batch takes; returns where to go on.
    fn queue_writes(&mut self, mut next: u64, end: u64) -> u64 {
        let set = &self.machine.set;
        while next < end && !self.guard.is_full() {
            if set.is_filled(self.share.in_set(next)) {
                self.guard.push(self.share.count_write(set, next));
                self.cpu.writes.fetch_add(1, Ordering::Relaxed);
            }
            next += 1;
        }
        next
    }

    fn write_queued(&mut self) {
        let outcome = self.guard.fill();
        self.report(outcome);
    }

    /// Dirties the next pages if the rate allows. Returns whether more may be dirtied at once.
    fn dirty(&mut self, passed_ns: u64) -> bool {
        let end = self.share.busy_pages();
        if end == 0 || !self.machine.dirtying.load(Ordering::Relaxed) {
            return false;
        }
        if let Rate::MibPerSecond(rate) = self.machine.options.rate {
            const SECOND: u128 = 1_000_000_000;
            let cpus = self.machine.cpus().len() as u128;
            self.credit += u128::from(rate << 20) * u128::from(passed_ns.min(RATE_CATCH_UP_NS)) / cpus;
            let batch = (crate::guard::BATCH as u128) * u128::from(PAGE) * SECOND;
            // A slow rate is kept tick by tick, in smaller pieces.
            let pages = self.credit.min(batch) / (u128::from(PAGE) * SECOND);
            if pages == 0 {
                return false;
            }
            self.credit -= pages * u128::from(PAGE) * SECOND;
            self.dirty_up_to(pages as usize);
            return self.credit >= batch;
        }
        self.dirty_up_to(crate::guard::BATCH);
        true
    }

    fn dirty_up_to(&mut self, pages: usize) {
        let end = self.share.busy_pages();
        let set = &self.machine.set;
        // With few pages filled, one whole round bounds the search.
        for _ in 0..end {
            if self.guard.queued() == pages {
                break;
            }
            if set.is_filled(self.share.in_set(self.dirty_next)) {
                self.guard.push(self.share.count_write(set, self.dirty_next));
                self.cpu.writes.fetch_add(1, Ordering::Relaxed);
            }
            self.dirty_next = (self.dirty_next + 1) % end;
        }
        self.write_queued();
    }

    /// Compares the next pages while a verification is wanted. Returns whether it did.
    fn verify(&mut self) -> bool {
        let wanted = self.machine.verification.load(Ordering::Acquire);
        let Some(next) = self.verify_next else {
            if wanted == self.verification {
                return false;
            }
            self.verification = wanted;
            self.verify_next = Some(0);
            self.cpu.verified_pages.store(0, Ordering::Relaxed);
            self.cpu.bad_pages.store(0, Ordering::Relaxed);
            let index = self.cpu.index();
            self.watch.look_at_register(|backwards| report_clock(index, &backwards));
            registers::look(&mut self.ledger, self.cpu);
            self.share
                .check_sums(&self.machine.set, self.cpu.writes.load(Ordering::Relaxed), |wrong| {
                    self.cpu.bad_pages.fetch_add(1, Ordering::Relaxed);
                    line!("verify FAILED {wrong}");
                });
            return true;
        };
        let next = self.verify_batch(next);
        self.verify_next = (next < self.share.pages()).then_some(next);
        if self.verify_next.is_none() {
            self.cpu.verified.store(self.verification, Ordering::Release);
        }
        true
    }

    fn verify_batch(&mut self, mut next: u64) -> u64 {
        let Worker {
            machine,
            cpu,
            share,
            guard,
            ..
        } = self;
        let thorough = machine.thorough.load(Ordering::Relaxed);
        let mut pages = [0; crate::guard::BATCH];
        // Counting pages that are looked at in vain bounds a turn where few are filled.
        let end = share.pages().min(next + 64 * crate::guard::BATCH as u64);
        while next < end && !guard.is_full() {
            let page = share.in_set(next);
            if thorough || machine.set.is_filled(page) {
                pages[guard.queued()] = page;
                guard.push(machine.set.expected(page));
            }
            next += 1;
        }
        cpu.verified_pages.fetch_add(guard.queued() as u64, Ordering::Relaxed);
        let outcome = guard.compare(|position| {
            if cpu.bad_pages.fetch_add(1, Ordering::Relaxed) < TOLD_PAGES {
                match machine.set.diagnose(pages[position]) {
                    Some(finding) => line!("verify FAILED {finding}"),
                    None => line!(
                        "verify FAILED page number {} differed once, then no more",
                        pages[position]
                    ),
                }
            }
        });
        self.report(outcome);
        next
    }
}

fn report_clock(index: u32, backwards: &Backwards) {
    match backwards {
        Backwards::Tsc(by) => line!("check FAILED tsc cpu {index} went back by {by} ticks"),
        Backwards::Clock(by) => line!("check FAILED clock cpu {index} went back by {by} ns"),
        Backwards::Across(by) => line!("check FAILED clock cpu {index} is {by} ns behind another"),
    }
}
