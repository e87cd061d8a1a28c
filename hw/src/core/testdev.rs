//! A device for tests of what devices are given: doorbells, interrupts by eventfd, a timer, state.
//!
//! No machine has it from the start; who wants one adds it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use vmstate::VmState;
use vmstate::qom::{Class, Config, Obj, Object, WeakObj};
use vmstate::state::{Deadline, HookError, StateHooks, VirtualClock};

use super::device::{DeviceClass, DeviceImpl, Realized};
use super::doorbell::{Doorbell, DoorbellHandler, DoorbellPlace};
use super::irq::IrqFd;
use super::realize::{Mapping, RealizeCtx, RealizeError};
use super::region::DeviceRegion;
use super::reset::ResetKind;
use super::timers::{Timer, TimerHandler};
use crate::intc::ioapic::LAST_PIN;
use crate::memory::{AccessRules, IoContext, MemoryRegion, RegionOps};

/// The offsets of the device's registers, of 32 bits each.
pub mod register {
    /// Any write rings.
    pub const DOORBELL: u64 = 0x00;
    /// [`MATCH`] rings; other values are kept in [`LAST`].
    pub const MATCHING_DOORBELL: u64 = 0x04;
    /// How often it was rung, by any doorbell.
    pub const RUNG: u64 = 0x08;
    /// What was written to [`MATCHING_DOORBELL`] last and did not ring.
    pub const LAST: u64 = 0x0c;
    /// Not zero: each ring that is served, and each end of the timer, raises the interrupt.
    pub const INTERRUPTS: u64 = 0x10;
    /// For how long the timer runs, in microseconds; less than [`LEAST_PERIOD`] is as much as that.
    pub const PERIOD: u64 = 0x14;
    /// [`RUN`] starts the timer anew, with [`PERIODIC`] again and again; without it the timer stops. Reads which of them hold.
    pub const TIMER: u64 = 0x18;
    /// How often the timer has run out.
    pub const TICKS: u64 = 0x1c;
    /// The timer runs.
    pub const RUN: u32 = 1 << 0;
    /// It starts again when it has run out.
    pub const PERIODIC: u32 = 1 << 1;
    /// The least period, in microseconds: a guest cannot keep its host busy with timers.
    pub const LEAST_PERIOD: u32 = 100;
    /// The value that rings at [`MATCHING_DOORBELL`].
    pub const MATCH: u32 = 0x7e57;
}

/// All that the guest can change.
#[derive(VmState, Clone, Debug, Default, PartialEq)]
#[vmstate(name = "tern-testdev", version = 1)]
pub struct TestDevState {
    /// How often it was rung.
    pub rung: u32,
    /// What was written last and did not ring.
    pub last: u32,
    /// Whether rings and ticks raise the interrupt.
    pub interrupts: bool,
    /// The timer. Releases without one load what has not used it.
    #[vmstate(subsection(needed = TestDevState::has_used_timer))]
    pub timer: TestTimerState,
}

impl TestDevState {
    fn has_used_timer(&self) -> bool {
        self.timer != TestTimerState::default()
    }
}

/// The state of the timer.
#[derive(VmState, Clone, Debug, Default, PartialEq)]
#[vmstate(name = "tern-testdev-timer", version = 1)]
pub struct TestTimerState {
    /// For how long it runs, in microseconds, as the guest has written it.
    pub period: u32,
    /// Whether it starts again when it has run out.
    pub periodic: bool,
    /// How often it has run out.
    pub ticks: u32,
    /// When it runs out next.
    pub deadline: Deadline<VirtualClock>,
}

impl TestTimerState {
    fn period(&self) -> Duration {
        Duration::from_micros(self.period.max(register::LEAST_PERIOD).into())
    }

    /// Counts that it has run out when its clock showed `now`, also where it should have several times by then. False if
    /// its deadline has been moved meanwhile.
    fn expire(&mut self, now: u64) -> bool {
        let Some(deadline) = self.deadline.nanoseconds().filter(|deadline| *deadline <= now) else {
            return false;
        };
        let period = u64::try_from(self.period().as_nanos()).unwrap_or(u64::MAX);
        let times = if self.periodic {
            (now - deadline) / period + 1
        } else {
            1
        };
        self.deadline = if self.periodic {
            Deadline::at(deadline.saturating_add(times.saturating_mul(period)))
        } else {
            Deadline::NONE
        };
        let times = u32::try_from(times % (1 << 32)).unwrap_or_default();
        self.ticks = self.ticks.wrapping_add(times);
        true
    }
}

/// The device: registers in memory, a doorbell port of any width, and a timer.
#[derive(Object)]
#[object(name = "tern-testdev", parent = "device", hooks, class_init = class_init)]
pub struct TestDev {
    #[config(property, default = 0xd100_0000, description = "where its registers are")]
    mmio_base: Config<u64>,
    #[config(property, default = 0xe0, description = "its doorbell port")]
    iobase: Config<u16>,
    #[config(property, default = 5, max = LAST_PIN, description = "its interrupt")]
    irq: Config<u32>,
    #[config(property, default = true, description = "it has a timer")]
    timer: Config<bool>,
    #[runtime(reason = "the host's side, made by realize")]
    wires: Realized<Wires>,
    #[state]
    state: Mutex<TestDevState>,
}

/// What realize makes.
pub struct Wires {
    // The doorbells go before the regions that they are in.
    _doorbells: [Doorbell; 3],
    interrupt: IrqFd,
    timer: Option<Timer>,
    _registers: Mapping,
    _port: Mapping,
}

fn class_init(class: &mut Class) {
    DeviceClass::implement::<TestDev>(class);
    DeviceClass::set_hotpluggable(class);
}

impl TestDev {
    /// The registers.
    #[must_use]
    pub fn state(&self) -> &Mutex<TestDevState> {
        &self.state
    }

    fn rung(&self, times: u64) {
        let interrupts = {
            let mut state = self.state.lock();
            state.rung = state.rung.wrapping_add(u32::try_from(times).unwrap_or(u32::MAX));
            state.interrupts
        };
        self.interrupt_if(interrupts);
    }

    fn interrupt_if(&self, interrupts: bool) {
        if interrupts {
            self.wires.with(|wires| wires.interrupt.signal());
        }
    }

    /// Calls `f` with the timer, if the device has one and is on the machine.
    fn with_timer(&self, f: impl FnOnce(&Timer)) {
        self.wires.with(|wires| wires.timer.as_ref().map(f));
    }
}

/// Nor do timers.
struct RanOut(WeakObj<TestDev>);

impl TimerHandler for RanOut {
    fn expired(&self, now: u64) {
        let Some(device) = self.0.upgrade() else { return };
        let interrupts = {
            let mut state = device.state.lock();
            if !state.timer.expire(now) {
                return;
            }
            device.with_timer(|timer| timer.arm(state.timer.deadline));
            state.interrupts
        };
        device.interrupt_if(interrupts);
    }
}

impl StateHooks for TestDev {
    fn has_subsection(&self, _: &str) -> bool {
        self.timer.get()
    }

    fn post_load(&self, _: u32) -> Result<(), HookError> {
        self.with_timer(|timer| timer.arm(self.state.lock().timer.deadline));
        Ok(())
    }
}

/// Doorbells do not keep their device alive.
struct Rung(WeakObj<TestDev>);

impl DoorbellHandler for Rung {
    fn rung(&self, times: u64) {
        if let Some(device) = self.0.upgrade() {
            device.rung(times);
        }
    }
}

impl RegionOps for TestDev {
    fn read(&self, _: &mut IoContext, offset: u64, _: u8) -> u64 {
        let state = self.state.lock();
        match offset {
            register::RUNG => state.rung.into(),
            register::LAST => state.last.into(),
            register::INTERRUPTS => state.interrupts.into(),
            register::PERIOD => state.timer.period.into(),
            register::TIMER => {
                let timer = &state.timer;
                let run = if timer.deadline == Deadline::NONE {
                    0
                } else {
                    register::RUN
                };
                let periodic = if timer.periodic { register::PERIODIC } else { 0 };
                (run | periodic).into()
            }
            register::TICKS => state.timer.ticks.into(),
            _ => 0,
        }
    }

    fn write(&self, _: &mut IoContext, offset: u64, _: u8, value: u64) {
        let value = u32::try_from(value).unwrap_or(u32::MAX);
        let mut state = self.state.lock();
        match offset {
            register::MATCHING_DOORBELL => state.last = value,
            register::INTERRUPTS => state.interrupts = value != 0,
            register::PERIOD if self.timer.get() => state.timer.period = value,
            register::TIMER => self.with_timer(|timer| {
                let own = &mut state.timer;
                own.periodic = value & register::PERIODIC != 0;
                own.deadline = if value & register::RUN != 0 {
                    timer.after(own.period())
                } else {
                    Deadline::NONE
                };
                timer.arm(own.deadline);
            }),
            _ => {}
        }
    }
}

impl DeviceImpl for TestDev {
    type Runtime = Wires;

    fn runtime(&self) -> &Realized<Wires> {
        &self.wires
    }

    fn realize(this: &Obj<Self>, cx: &mut RealizeCtx<'_>) -> Result<Wires, RealizeError> {
        let host = |error: io::Error| RealizeError::Host {
            device: this.object().path(),
            problem: error.to_string(),
        };
        let ops = || DeviceRegion::ops(this.downgrade());
        let registers = MemoryRegion::io("testdev", 0x1000, ops(), AccessRules::DWORDS);
        let port = MemoryRegion::io("testdev-port", 4, ops(), AccessRules::default());
        let doorbells = cx.doorbells(this.object())?;
        let ring = |region: &MemoryRegion, offset, size, match_data| {
            let place = DoorbellPlace {
                offset,
                size,
                match_data,
            };
            let handler = Arc::new(Rung(this.downgrade()));
            doorbells.add(region, place, handler).map_err(host)
        };
        let matching = Some(u64::from(register::MATCH));
        let timer = this.timer.get().then(|| {
            let handler = Arc::new(RanOut(this.downgrade()));
            cx.timer(this.object(), handler)
        });
        Ok(Wires {
            _doorbells: [
                ring(&registers, register::DOORBELL, 4, None)?,
                ring(&registers, register::MATCHING_DOORBELL, 4, matching)?,
                ring(&port, 0, 0, None)?,
            ],
            timer: timer.transpose()?,
            interrupt: IrqFd::new(&cx.irq(this.object(), this.irq.get())).map_err(host)?,
            _registers: cx.map_memory(this.object(), this.mmio_base.get(), registers)?,
            _port: cx.map_ports(this.object(), this.iobase.get(), port)?,
        })
    }

    fn reset_hold(&self, _: ResetKind) {
        *self.state.lock() = TestDevState::default();
        self.with_timer(Timer::disarm);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::testing::Bench;

    #[test]
    fn a_machine_without_doorbells_refuses_the_device_by_name() {
        let error = Bench::<TestDev>::new().realize().expect_err("no doorbells").to_string();
        assert!(error.contains("/device: it has doorbells"), "{error}");
    }
}
