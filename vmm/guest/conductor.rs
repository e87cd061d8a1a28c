//! What only the first processor does: the heartbeat, the console's commands, and the interrupts between processors.

use core::sync::atomic::Ordering;

use crate::apic;
use crate::board::Board;
use crate::console::{self, line};
use crate::cpu::Cpu;
use crate::interrupts::{FIRST_ANSWER, PING, SERIAL, TIMER};
use crate::machine::Machine;
use crate::ports;
use crate::worker::Worker;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;

/// Heartbeats shorter than this are one character.
const SHORT_BEAT_MS: u64 = 10;
/// Nanoseconds between interrupts to another processor.
const PING_NS: u64 = 50 * MS;
/// An interrupt is lost if the processor took so many of its own timer's meanwhile.
const PING_TICKS: u64 = 200;
/// A processor that did nothing for so long, while the first one ran, is reported.
const SILENCE_NS: u64 = 15 * SECOND;
/// How often the console is looked at without an interrupt.
const INPUT_POLL_NS: u64 = SECOND;

/// What the first processor keeps of another one: they exchange one interrupt each way at a time.
#[derive(Clone, Copy, Default)]
struct Peer {
    /// What the counters will be when the exchange is through.
    pings: u64,
    answers: u64,
    /// When it began: in time, in the other's ticks, and (once it has answered) in own ticks.
    began_ns: u64,
    its_ticks: u64,
    own_ticks: Option<u64>,
    /// The last turn of the other that was seen, and when.
    turns: u64,
    turned_at_ns: u64,
}

/// The first processor's own duties.
pub struct Conductor {
    machine: &'static Machine,
    cpu: &'static Cpu,
    beats: u64,
    next_beat_ns: u64,
    next_verify_ns: u64,
    /// Requests that came while a verification ran.
    verify_again: bool,
    verifying: bool,
    input_interrupts: u64,
    next_poll_ns: u64,
    unnoticed_input: bool,
    exit_follows: bool,
    board: Board,
    peers: [Peer; crate::boot::MAX_CPUS],
}

impl Conductor {
    /// Begins with the first heartbeat one interval from now.
    pub fn new(worker: &Worker, board: Board) -> Conductor {
        let now = worker.now().ns;
        let options = &worker.machine.options;
        Conductor {
            machine: worker.machine,
            cpu: worker.cpu,
            beats: 0,
            next_beat_ns: now + options.beat_ms * MS,
            next_verify_ns: now + options.verify_s * SECOND,
            verify_again: false,
            verifying: false,
            input_interrupts: 0,
            next_poll_ns: now,
            unnoticed_input: false,
            exit_follows: false,
            board,
            peers: [Peer {
                turned_at_ns: worker.attended_ns(),
                ..Peer::default()
            }; crate::boot::MAX_CPUS],
        }
    }

    /// Works for ever.
    pub fn run(mut self, mut worker: Worker) -> ! {
        loop {
            let more = worker.turn();
            let now = worker.now().ns;
            self.look_at_input(now);
            self.board.watch(self.cpu, now, worker.attended_ns());
            for index in 1..self.machine.cpus().len() {
                self.look_at_peer(index, now, worker.attended_ns());
            }
            self.verify(now);
            self.beat(now);
            if !more {
                worker.halt();
            }
        }
    }

    fn beat(&mut self, now: u64) {
        let options = &self.machine.options;
        let interval = options.beat_ms * MS;
        // A tick that comes a little early is the one meant.
        if interval == 0 || now + u64::from(self.machine.console_tick_ns) / 4 < self.next_beat_ns {
            return;
        }
        self.next_beat_ns = (self.next_beat_ns + interval).max(now);
        self.beats += 1;
        if options.beat_ms < SHORT_BEAT_MS {
            console::write(b".");
        } else {
            line!("beat {}", self.beats);
        }
        if self.beats == options.exit_beats {
            ports::exit(0);
        }
    }

    fn look_at_input(&mut self, now: u64) {
        let interrupts = self.cpu.interrupts(SERIAL);
        let interrupted = interrupts != self.input_interrupts;
        if !interrupted && now < self.next_poll_ns {
            return;
        }
        self.input_interrupts = interrupts;
        self.next_poll_ns = now + INPUT_POLL_NS;
        if !interrupted && console::has_input() {
            // It may have come just now; the next look tells.
            if self.unnoticed_input {
                line!("check FAILED serial input without an interrupt");
                self.read_input(now);
            }
            self.unnoticed_input = !self.unnoticed_input;
            return;
        }
        self.unnoticed_input = false;
        self.read_input(now);
    }

    fn read_input(&mut self, now: u64) {
        while let Some(character) = console::read() {
            self.obey(character, now);
        }
    }

    fn obey(&mut self, character: u8, now: u64) {
        if core::mem::take(&mut self.exit_follows) && character.is_ascii_digit() {
            ports::exit(character - b'0');
        }
        match character {
            b'v' | b'V' => {
                self.machine.thorough.fetch_or(character == b'V', Ordering::Relaxed);
                self.verify_again = true;
            }
            b'p' => {
                let paused = self.machine.dirtying.fetch_xor(true, Ordering::Relaxed);
                line!("dirtying {}", if paused { "paused" } else { "resumed" });
            }
            b's' => self.tell_status(now),
            b'q' => ports::exit(0),
            b'e' => self.exit_follows = true,
            b'r' => ports::reset(),
            _ => {}
        }
    }

    fn tell_status(&self, now: u64) {
        let status = |cpu: &Cpu| {
            line!(
                "status cpu {} clock={now} ticks={} pings={} writes={} turns={}",
                cpu.index(),
                cpu.interrupts(TIMER),
                cpu.interrupts(PING),
                cpu.writes.load(Ordering::Relaxed),
                cpu.turns.load(Ordering::Relaxed),
            );
        };
        self.machine.cpus().iter().for_each(|cpu| status(cpu));
    }

    /// Starts the verification that is wanted, and tells what it found when all processors are through.
    fn verify(&mut self, now: u64) {
        let interval = self.machine.options.verify_s * SECOND;
        if interval != 0 && now >= self.next_verify_ns {
            self.next_verify_ns = now + interval;
            self.verify_again = true;
        }
        let number = self.machine.verification.load(Ordering::Relaxed);
        let cpus = self.machine.cpus();
        if self.verifying && cpus.iter().all(|cpu| cpu.verified.load(Ordering::Acquire) == number) {
            self.verifying = false;
            self.machine.thorough.store(false, Ordering::Relaxed);
            let sum = |value: fn(&Cpu) -> u64| cpus.iter().map(|cpu| value(cpu)).sum::<u64>();
            let pages = sum(|cpu| cpu.verified_pages.load(Ordering::Relaxed));
            match sum(|cpu| cpu.bad_pages.load(Ordering::Relaxed)) {
                0 => line!("verify ok {pages} pages"),
                bad => line!("verify FAILED {bad} of {pages} pages"),
            }
        }
        if self.verify_again && !self.verifying {
            self.verify_again = false;
            self.verifying = true;
            self.board.look();
            self.machine
                .verification
                .store(number.wrapping_add(1), Ordering::Release);
        }
    }

    fn look_at_peer(&mut self, index: usize, now: u64, attended: u64) {
        let other = self.machine.cpus()[index];
        let peer = &mut self.peers[index];
        let turns = other.turns.load(Ordering::Relaxed);
        if turns != peer.turns {
            peer.turns = turns;
            peer.turned_at_ns = attended;
        } else if attended - peer.turned_at_ns > SILENCE_NS {
            peer.turned_at_ns = attended;
            line!("check FAILED cpu {index} silent");
        }
        let (its_ticks, own_ticks) = (other.interrupts(TIMER), self.cpu.interrupts(TIMER));
        // The answer is counted last of all, so read in the other direction these cannot be ahead of each other.
        let answered = other.answered.load(Ordering::Acquire);
        let answers = self.cpu.interrupts(FIRST_ANSWER + index as u8);
        let pings = other.interrupts(PING);
        if answered == peer.pings && peer.own_ticks.is_none() {
            peer.own_ticks = Some(own_ticks);
        }
        let through = if pings > peer.pings || answers > peer.answers {
            line!("check FAILED ipi cpu {index} took {pings} and answered {answers}, one too many");
            true
        } else if pings < peer.pings {
            let lost = its_ticks - peer.its_ticks > PING_TICKS;
            if lost {
                line!("check FAILED ipi to cpu {index} lost after {pings}");
            }
            lost
        } else if answers < peer.answers {
            let lost = peer.own_ticks.is_some_and(|then| own_ticks - then > PING_TICKS);
            if lost {
                line!("check FAILED ipi from cpu {index} lost after {answers}");
            }
            lost
        } else {
            true
        };
        if through && now >= peer.began_ns + PING_NS {
            *peer = Peer {
                pings: pings + 1,
                answers: answers + 1,
                began_ns: now,
                its_ticks,
                own_ticks: None,
                ..*peer
            };
            apic::send(self.cpu, other, PING);
        }
    }
}
