//! The devices of the board: those that the program uses, and those that it only gives something to keep.
//!
//! A device may be missing; what it then reads as stays the same, and that is all that is asked. The first processor
//! alone comes here.

use crate::apic;
use crate::console::{self, line};
use crate::cpu::Cpu;
use crate::interrupts::{PIC, PIC_SECOND, PIT, SERIAL};
use crate::ledger::{Ledger, Owner};
use crate::ports;

/// Inputs of the I/O APIC. KVM's interval timer is on 0 or 2, by the VMM's choice.
const PIT_PINS: [u32; 2] = [0, 2];
const SERIAL_PIN: u32 = 4;

/// Command ports of the two 8259, and what each is told: vectors, wiring, masks. Only the interval timer comes through.
const PICS: [(u16, u8, u8, u8); 2] = [(0x20, PIC, 0x04, 0xfe), (0xa0, PIC_SECOND, 0x02, 0xff)];
const PIC_INITIALISE: u8 = 0x11;
/// Ends of interrupts are automatic.
const PIC_MODE: u8 = 0x03;
/// Which inputs are level-triggered: some that nothing uses.
const PIC_TRIGGER: [(u16, u8); 2] = [(0x4d0, 0x20), (0x4d1, 0x0c)];

const PIT_CHANNEL_0: u16 = 0x40;
const PIT_CONTROL: u16 = 0x43;
const PIT_HZ: u32 = 1_193_182;
const PIT_TICKS_PER_SECOND: u32 = 20;
/// What the channels count down from.
const PIT_RELOAD: u16 = (PIT_HZ / PIT_TICKS_PER_SECOND) as u16;
/// For each channel: low and high byte, and a mode (2 rate generator, 5 triggered strobe, 3 square wave).
const PIT_MODES: [u8; 3] = [0x34, 0x7a, 0xb6];
const PIT_LATCH_STATUS: u8 = 0xe0;
const PIT_STATUS_KEPT: u8 = 0x3f;
/// The channels that count, and the command that latches their count.
const PIT_COUNTING: [(u16, u8); 2] = [(0, 0x00), (2, 0x80)];
const PIT_SAMPLE_NS: u64 = 100_000_000;
/// A timer that has not ticked for so long, while the processor ran, is dead.
const PIT_PATIENCE_NS: u64 = 5_000_000_000;

/// Gate of the timer's channel 2, and the speaker's switch.
const SPEAKER: u16 = 0x61;
const SPEAKER_KEPT: u8 = 0x03;

const RTC_INDEX: u16 = 0x70;
const RTC_DATA: u16 = 0x71;
/// Seconds, minutes, hours, day, month, year: index, and how many there are at most.
const RTC_TIME: [(u8, u64); 6] = [(0x00, 60), (0x02, 60), (0x04, 24), (0x07, 32), (0x08, 13), (0x09, 100)];
const RTC_YEAR: u8 = 0x09;
const RTC_REGISTER_A: u8 = 0x0a;
const RTC_REGISTER_B: u8 = 0x0b;
/// The time in binary, 24 hours.
const RTC_MODE: u8 = 0x06;
/// Bytes without a meaning, and what they get.
const RTC_MEMORY: [(u8, u8); 3] = [(0x40, 0x5a), (0x41, 0xa5), (0x42, 0x42)];
/// The host's clock, which this one follows, may be set back so far.
const RTC_SLACK_S: u64 = 60;

const KEYBOARD_DATA: u16 = 0x60;
const KEYBOARD_COMMAND: u16 = 0x64;
const KEYBOARD_READ_CONTROL: u8 = 0x20;
const KEYBOARD_WRITE_CONTROL: u8 = 0x60;
const KEYBOARD_READ_OUTPUT: u8 = 0xd0;
const KEYBOARD_CONTROL: u8 = 0x44;

/// What is known of the board.
pub struct Board {
    ledger: Ledger,
    rtc_seconds: u64,
    next_sample_ns: u64,
    timers: [Timer; 2],
}

/// A way by which the ticks of the interval timer come.
struct Timer {
    name: &'static str,
    vector: u8,
    ticks: u64,
    ticked_at_ns: u64,
}

impl Board {
    /// Sets all devices up. Interrupts go to this processor.
    pub fn prepare(cpu: &Cpu) -> Board {
        (0..apic::IO_PINS).for_each(apic::prepare_input);
        for pin in PIT_PINS {
            apic::route(pin, PIT, cpu);
        }
        apic::route(SERIAL_PIN, SERIAL, cpu);
        prepare_pit();
        prepare_rtc();
        ports::write(KEYBOARD_COMMAND, KEYBOARD_WRITE_CONTROL);
        ports::write(KEYBOARD_DATA, KEYBOARD_CONTROL);
        console::prepare();

        let timer = |name, vector| Timer {
            name,
            vector,
            ticks: 0,
            ticked_at_ns: 0,
        };
        let timers = [timer("pit", PIT), timer("pit through the 8259", PIC)];
        let mut board = Board {
            ledger: Ledger::new(Owner::Board),
            rtc_seconds: 0,
            next_sample_ns: 0,
            timers,
        };
        select_for_next_look();
        board.look();
        board
    }

    /// Compares everything that is kept with what was there at first.
    pub fn look(&mut self) {
        let ledger = &mut self.ledger;
        ledger.begin();
        // What was selected at the end of the look before is still selected.
        ledger.see(format_args!("rtc selected byte"), ports::read(RTC_DATA));
        ledger.see(format_args!("ioapic selection"), apic::io_selection());
        ledger.see(format_args!("i8042 status"), ports::read(KEYBOARD_COMMAND));
        ledger.see(format_args!("i8042 output"), ports::read(KEYBOARD_DATA));
        ports::write(KEYBOARD_COMMAND, KEYBOARD_READ_CONTROL);
        ledger.see(format_args!("i8042 control"), ports::read(KEYBOARD_DATA));

        for (name, value) in console::registers() {
            ledger.see(format_args!("serial {name}"), value);
        }
        for number in 0..apic::IO_REGISTERS {
            ledger.see(format_args!("ioapic {number:#x}"), apic::read_io(number));
        }
        for (command, ..) in PICS {
            ledger.see(format_args!("i8259 {command:#x} mask"), ports::read(command + 1));
        }
        for (port, _) in PIC_TRIGGER {
            ledger.see(format_args!("i8259 {port:#x} trigger"), ports::read(port));
        }
        for channel in 0..3 {
            ports::write(PIT_CONTROL, PIT_LATCH_STATUS | 2 << channel);
            let status = ports::read(PIT_CHANNEL_0 + channel) & PIT_STATUS_KEPT;
            ledger.see(format_args!("pit {channel} mode"), status);
        }
        ledger.see(format_args!("pit gate"), ports::read(SPEAKER) & SPEAKER_KEPT);
        for index in [RTC_REGISTER_A, RTC_REGISTER_B]
            .into_iter()
            .chain(RTC_MEMORY.map(|(index, _)| index))
        {
            ledger.see(format_args!("rtc {index:#x}"), read_rtc(index));
        }
        let seconds = rtc_seconds();
        if seconds + RTC_SLACK_S < self.rtc_seconds {
            line!("check FAILED rtc went back");
        }
        self.rtc_seconds = seconds;
        select_for_next_look();
    }

    /// Watches the interval timer, where it ticked at the start. `attended_ns`: for how long the processor has run.
    pub fn watch(&mut self, cpu: &Cpu, now_ns: u64, attended_ns: u64) {
        for timer in &mut self.timers {
            let ticks = cpu.interrupts(timer.vector);
            if ticks != timer.ticks {
                timer.ticks = ticks;
                timer.ticked_at_ns = attended_ns;
            } else if ticks != 0 && attended_ns - timer.ticked_at_ns > PIT_PATIENCE_NS {
                timer.ticked_at_ns = attended_ns;
                line!("check FAILED timer {} stands at {ticks} ticks", timer.name);
            }
        }
        if now_ns >= self.next_sample_ns && self.timers[0].ticks != 0 {
            self.next_sample_ns = now_ns + PIT_SAMPLE_NS;
            for (channel, latch) in PIT_COUNTING {
                ports::write(PIT_CONTROL, latch);
                let low = ports::read(PIT_CHANNEL_0 + channel);
                let count = u16::from_le_bytes([low, ports::read(PIT_CHANNEL_0 + channel)]);
                if count > PIT_RELOAD {
                    line!("check FAILED timer pit {channel} counts from more than {PIT_RELOAD}: {count}");
                }
            }
        }
    }
}

/// Sets the two 8259 up, which must be before their interrupts are let through.
pub fn prepare_pics() {
    for (command, vectors, wiring, mask) in PICS {
        ports::write(command, PIC_INITIALISE);
        for value in [vectors, wiring, PIC_MODE, mask] {
            ports::write(command + 1, value);
        }
    }
    for (port, value) in PIC_TRIGGER {
        ports::write(port, value);
    }
}

fn prepare_pit() {
    let [low, high] = PIT_RELOAD.to_le_bytes();
    for (channel, mode) in (0..).zip(PIT_MODES) {
        ports::write(PIT_CONTROL, mode);
        ports::write(PIT_CHANNEL_0 + channel, low);
        ports::write(PIT_CHANNEL_0 + channel, high);
    }
    ports::write(SPEAKER, SPEAKER_KEPT);
}

fn prepare_rtc() {
    write_rtc(RTC_REGISTER_B, RTC_MODE);
    // A time of its own: a clock that falls back to the host's loses a year.
    write_rtc(RTC_YEAR, (read_rtc(RTC_YEAR) + 1) % 100);
    for (index, value) in RTC_MEMORY {
        write_rtc(index, value);
    }
}

/// Leaves devices in the middle of something that the next look goes on with.
fn select_for_next_look() {
    read_rtc(RTC_MEMORY[0].0);
    apic::read_io(apic::IO_REGISTERS - 1);
    ports::write(KEYBOARD_COMMAND, KEYBOARD_READ_OUTPUT);
}

fn read_rtc(index: u8) -> u8 {
    ports::write(RTC_INDEX, index);
    ports::read(RTC_DATA)
}

fn write_rtc(index: u8, value: u8) {
    ports::write(RTC_INDEX, index);
    ports::write(RTC_DATA, value);
}

/// The time, in seconds as if every month had 32 days: good for an order.
fn rtc_seconds() -> u64 {
    loop {
        let seconds = read_rtc(0);
        let time = RTC_TIME
            .iter()
            .rev()
            .fold(0, |time, &(index, radix)| time * radix + u64::from(read_rtc(index)));
        if read_rtc(0) == seconds {
            return time;
        }
    }
}
