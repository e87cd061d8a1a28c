//! The real-time clock (Motorola MC146818): the time of day and 114 bytes of memory.
//!
//! Its alarm, periodic and update interrupts are not wired up, as in the machines of Firecracker and Cloud Hypervisor: a
//! guest that enables them gets none. What the guest sets is kept as a distance from the host's clock, so that after a
//! restore the clock shows the time of day and not that of the snapshot.

use std::sync::Arc;

use parking_lot::Mutex;
use vmstate::VmState;
use vmstate::qom::{Class, Config, Obj, Object};

use crate::core::{
    CLOCK_INPUT, Clock, DeviceClass, DeviceImpl, DeviceRegion, MachineEvents, Mapping, RealizeCtx, RealizeError,
    Realized, ResetKind,
};
use crate::memory::{AccessRules, IoContext, MemoryRegion, RegionOps};

/// The crystal by which the clock goes, as register A says it.
const CRYSTAL_HZ: u64 = 32_768;
/// Bytes of the clock's memory, time and registers included.
const BYTES: usize = 128;
/// What of a byte written to the index port is the index: the top bit masks NMI.
const INDEX: u8 = 0x7f;

/// Offsets in the clock's memory (data sheet, figure 6).
mod at {
    pub const SECONDS: u8 = 0x00;
    pub const MINUTES: u8 = 0x02;
    pub const HOURS: u8 = 0x04;
    pub const WEEKDAY: u8 = 0x06;
    pub const DAY: u8 = 0x07;
    pub const MONTH: u8 = 0x08;
    pub const YEAR: u8 = 0x09;
    pub const A: u8 = 0x0a;
    pub const B: u8 = 0x0b;
    pub const C: u8 = 0x0c;
    pub const D: u8 = 0x0d;
    pub const CENTURY: u8 = 0x32;
}

/// Register A: 32.768 kHz crystal, 1024 Hz.
const A_DEFAULT: u8 = 0x26;
/// Register A: update in progress; read-only, and never seen here, since the time is computed at the read.
const A_UPDATING: u8 = 1 << 7;
/// Register B: 24-hour mode.
const B_24_HOURS: u8 = 1 << 1;
/// Register B: binary and not BCD.
const B_BINARY: u8 = 1 << 2;
/// Register B: the enables of the periodic, alarm and update interrupts and of the square wave.
const B_CLEARED_BY_RESET: u8 = 0x78;
/// Register D: memory and time are valid.
const D_VALID: u8 = 1 << 7;
/// In 12-hour mode: afternoon.
const PM: u8 = 0x80;

/// All that the guest can change in the clock.
#[derive(VmState, Clone, Debug, PartialEq)]
#[vmstate(name = "mc146818rtc", version = 1)]
pub struct RtcState {
    /// The byte that the data port shows.
    pub index: u8,
    /// The clock's memory; the bytes of the time itself are computed from `offset` and unused here.
    pub memory: [u8; BYTES],
    /// Seconds by which the guest's clock is ahead of the host's.
    pub offset: i64,
}

impl Default for RtcState {
    fn default() -> Self {
        let mut memory = [0; BYTES];
        memory[usize::from(at::A)] = A_DEFAULT;
        memory[usize::from(at::B)] = B_24_HOURS;
        memory[usize::from(at::D)] = D_VALID;
        Self {
            index: 0,
            memory,
            offset: 0,
        }
    }
}

impl RtcState {
    /// The register that the data port shows. A stream can hold an index that no guest has written.
    fn index(&self) -> u8 {
        self.index & INDEX
    }

    fn mode(&self) -> u8 {
        self.memory[usize::from(at::B)]
    }

    fn encode(&self, value: u8) -> u8 {
        if self.mode() & B_BINARY != 0 {
            value
        } else {
            ((value / 10) << 4) | (value % 10)
        }
    }

    fn decode(&self, value: u8) -> u8 {
        if self.mode() & B_BINARY != 0 {
            value
        } else {
            (value >> 4).saturating_mul(10).saturating_add(value & 0x0f)
        }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.mode() & B_24_HOURS != 0 {
            return self.encode(hour);
        }
        let of_twelve = if hour.is_multiple_of(12) { 12 } else { hour % 12 };
        self.encode(of_twelve) | if hour >= 12 { PM } else { 0 }
    }

    fn decode_hour(&self, value: u8) -> u8 {
        if self.mode() & B_24_HOURS != 0 {
            return self.decode(value);
        }
        self.decode(value & !PM) % 12 + if value & PM != 0 { 12 } else { 0 }
    }

    fn read(&self, host_seconds: i64) -> u8 {
        let time = CivilTime::from_unix(host_seconds.saturating_add(self.offset));
        match self.index() {
            at::SECONDS => self.encode(time.second),
            at::MINUTES => self.encode(time.minute),
            at::HOURS => self.encode_hour(time.hour),
            at::WEEKDAY => self.encode(time.weekday),
            at::DAY => self.encode(time.day),
            at::MONTH => self.encode(time.month),
            at::YEAR => self.encode(u8::try_from(time.year % 100).unwrap_or(0)),
            at::CENTURY => self.encode(u8::try_from(time.year / 100).unwrap_or(0)),
            index => self.memory[usize::from(index)],
        }
    }

    fn write(&mut self, value: u8, host_seconds: i64) {
        let mut time = CivilTime::from_unix(host_seconds.saturating_add(self.offset));
        match self.index() {
            at::SECONDS => time.second = self.decode(value).min(59),
            at::MINUTES => time.minute = self.decode(value).min(59),
            at::HOURS => time.hour = self.decode_hour(value).min(23),
            at::DAY => time.day = self.decode(value).clamp(1, 31),
            at::MONTH => time.month = self.decode(value).clamp(1, 12),
            at::YEAR => time.year = time.year / 100 * 100 + i64::from(self.decode(value).min(99)),
            at::CENTURY => time.year = i64::from(self.decode(value).min(99)) * 100 + time.year % 100,
            // It follows from the date, and the status registers are read-only.
            at::WEEKDAY | at::C | at::D => return,
            at::A => {
                self.memory[usize::from(at::A)] = value & !A_UPDATING;
                return;
            }
            index => {
                self.memory[usize::from(index)] = value;
                return;
            }
        }
        self.offset = time.to_unix().saturating_sub(host_seconds);
    }
}

/// A date and time of day in the proleptic Gregorian calendar, UTC.
///
/// Own arithmetic: a time-zone library for eight fields of one device would be most of the binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CivilTime {
    year: i64,
    month: u8,
    day: u8,
    hour: u8,
    minute: u8,
    second: u8,
    /// Sunday is 1.
    weekday: u8,
}

impl CivilTime {
    /// The years that two BCD bytes can show.
    const YEARS: std::ops::RangeInclusive<i64> = 0..=9999;

    /// After Howard Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`.
    fn from_unix(seconds: i64) -> Self {
        let days = seconds.div_euclid(86_400).clamp(-719_468, 2_932_896);
        let of_day = seconds.rem_euclid(86_400);
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let month = if shifted_month < 10 {
            shifted_month + 3
        } else {
            shifted_month - 9
        };
        Self {
            year: (year_of_era + era * 400 + i64::from(month <= 2)).clamp(*Self::YEARS.start(), *Self::YEARS.end()),
            month: small(month),
            day: small(day_of_year - (153 * shifted_month + 2) / 5 + 1),
            hour: small(of_day / 3_600),
            minute: small(of_day / 60 % 60),
            second: small(of_day % 60),
            weekday: small((days + 4).rem_euclid(7) + 1),
        }
    }

    /// The inverse, `days_from_civil`.
    fn to_unix(self) -> i64 {
        let month = i64::from(self.month);
        let year = self.year - i64::from(month <= 2);
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let shifted_month = if month > 2 { month - 3 } else { month + 9 };
        let day_of_year = (153 * shifted_month + 2) / 5 + i64::from(self.day) - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * 146_097 + day_of_era - 719_468;
        days * 86_400 + i64::from(self.hour) * 3_600 + i64::from(self.minute) * 60 + i64::from(self.second)
    }
}

/// A calendar field, which its arithmetic keeps below 100.
fn small(value: i64) -> u8 {
    u8::try_from(value).unwrap_or(0)
}

/// The real-time clock at ports 0x70 and 0x71.
#[derive(Object)]
#[object(name = "mc146818rtc", parent = "device", class_init = class_init, instance_init = instance_init)]
pub struct Rtc {
    #[config(property, default = 0x70, description = "its index port; the data port follows")]
    iobase: Config<u16>,
    #[runtime(reason = "the host's side, made by realize")]
    wires: Realized<Wires>,
    #[state]
    state: Mutex<RtcState>,
}

/// What realize makes.
pub struct Wires {
    events: Arc<dyn MachineEvents>,
    _ports: Mapping,
}

fn class_init(class: &mut Class) {
    DeviceClass::implement::<Rtc>(class);
    // The chip runs on its battery.
    DeviceClass::set_kept_by_reset(class, &["index", "memory", "offset"]);
}

fn instance_init(object: &Arc<Object>) {
    Clock::add_to(object, CLOCK_INPUT, CRYSTAL_HZ).expect("a new object has no children");
}

impl Rtc {
    fn host_seconds(&self) -> i64 {
        let now = self.wires.with(|wires| wires.events.wall_clock());
        now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX))
    }
}

impl RegionOps for Rtc {
    fn read(&self, _cx: &mut IoContext, offset: u64, _size: u8) -> u64 {
        // The index port is write-only.
        if offset == 0 {
            0xff
        } else {
            u64::from(self.state.lock().read(self.host_seconds()))
        }
    }

    fn write(&self, _cx: &mut IoContext, offset: u64, _size: u8, value: u64) {
        let [value, ..] = value.to_le_bytes();
        let mut state = self.state.lock();
        if offset == 0 {
            state.index = value & INDEX;
        } else {
            state.write(value, self.host_seconds());
        }
    }
}

impl DeviceImpl for Rtc {
    type Runtime = Wires;

    fn runtime(&self) -> &Realized<Wires> {
        &self.wires
    }

    fn realize(this: &Obj<Self>, cx: &mut RealizeCtx<'_>) -> Result<Wires, RealizeError> {
        let region = MemoryRegion::io(
            "mc146818rtc",
            2,
            DeviceRegion::ops(this.downgrade()),
            AccessRules::BYTES,
        );
        Ok(Wires {
            events: cx.events(),
            _ports: cx.map_ports(this.object(), this.iobase.get(), region)?,
        })
    }

    /// The chip runs on its battery, and so do its memory and the time; its RESET pin ends what was asked of it (data
    /// sheet, "RESET").
    fn reset_hold(&self, _kind: ResetKind) {
        self.state.lock().memory[usize::from(at::B)] &= !B_CLEARED_BY_RESET;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::core::reset_tree;
    use crate::core::testing::Bench;

    /// 2026-11-24 15:50:48 UTC, a Tuesday.
    const NOW: i64 = 1_795_535_448;

    fn at(state: &mut RtcState, index: u8) -> u8 {
        state.index = index;
        state.read(NOW)
    }

    #[test]
    fn the_date_is_the_hosts_in_bcd() {
        let mut state = RtcState::default();
        let shown = [
            at::CENTURY,
            at::YEAR,
            at::MONTH,
            at::DAY,
            at::HOURS,
            at::MINUTES,
            at::SECONDS,
            at::WEEKDAY,
        ]
        .map(|index| at(&mut state, index));
        assert_eq!(shown, [0x20, 0x26, 0x11, 0x24, 0x15, 0x50, 0x48, 3]);
    }

    #[test]
    fn twelve_hour_mode_marks_the_afternoon() {
        let mut state = RtcState {
            index: at::B,
            ..RtcState::default()
        };
        state.write(B_BINARY, NOW);
        assert_eq!(at(&mut state, at::HOURS), 3 | PM);
    }

    #[test]
    fn what_the_guest_sets_is_a_distance_from_the_hosts_clock() {
        let mut state = RtcState {
            index: at::HOURS,
            ..RtcState::default()
        };
        state.write(0x17, NOW);
        assert_eq!(state.offset, 2 * 3_600);
        assert_eq!(state.read(NOW + 60), 0x17);
    }

    #[test]
    fn no_byte_that_a_guest_writes_or_a_stream_holds_is_too_much() {
        for index in 0..=u8::MAX {
            for value in 0..=u8::MAX {
                let mut state = RtcState {
                    index,
                    ..RtcState::default()
                };
                state.write(value, NOW);
                state.read(NOW);
            }
        }
    }

    #[test]
    fn a_reset_ends_what_was_asked_of_the_clock_and_leaves_time_and_memory() {
        let bench: Bench<Rtc> = Bench::realized();
        let set = |index, value| {
            bench.outb(0x70, index);
            bench.outb(0x71, value);
        };
        set(at::B, 0xff);
        set(0x40, 0x5a);
        set(at::CENTURY, 99);
        let before = bench.device.state.lock().clone();
        reset_tree(bench.device.object(), ResetKind::Cold);
        let mut expected = before;
        expected.memory[usize::from(at::B)] = 0x87;
        assert_eq!(*bench.device.state.lock(), expected);
    }

    #[test]
    fn the_time_of_day_is_that_of_whoever_runs_the_machine() {
        let bench: Bench<Rtc> = Bench::realized();
        bench.seen.set_wall_clock(Duration::from_secs(NOW.unsigned_abs()));
        bench.outb(0x70, at::MINUTES);
        assert_eq!(bench.inb(0x71), 0x50);
    }

    #[test]
    fn civil_time_is_its_own_inverse() {
        for days in (-719_000..2_900_000).step_by(997) {
            let seconds = days * 86_400 + 12_345;
            assert_eq!(CivilTime::from_unix(seconds).to_unix(), seconds);
        }
    }
}
