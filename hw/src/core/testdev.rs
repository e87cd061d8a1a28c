//! A device for tests of what devices are given: doorbells, interrupts by eventfd, state.
//!
//! No machine has it from the start; who wants one adds it.

use std::io;

use parking_lot::Mutex;
use vmstate::VmState;
use vmstate::qom::{Class, Config, Obj, Object, WeakObj};

use super::device::{DeviceClass, DeviceImpl, Realized};
use super::doorbell::{Doorbell, DoorbellHandler, DoorbellPlace};
use super::irq::IrqFd;
use super::realize::{Mapping, RealizeCtx, RealizeError};
use super::region::DeviceRegion;
use super::reset::ResetKind;
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
    /// Not zero: each ring that is served raises the interrupt.
    pub const INTERRUPTS: u64 = 0x10;
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
    /// Whether rings raise the interrupt.
    pub interrupts: bool,
}

/// The device: registers in memory, and a doorbell port of any width.
#[derive(Object)]
#[object(name = "tern-testdev", parent = "device", class_init = class_init)]
pub struct TestDev {
    #[config(property, default = 0xd100_0000, description = "where its registers are")]
    mmio_base: Config<u64>,
    #[config(property, default = 0xe0, description = "its doorbell port")]
    iobase: Config<u16>,
    #[config(property, default = 5, max = LAST_PIN, description = "its interrupt")]
    irq: Config<u32>,
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
        if interrupts {
            self.wires.with(|wires| wires.interrupt.signal());
        }
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
            _ => 0,
        }
    }

    fn write(&self, _: &mut IoContext, offset: u64, _: u8, value: u64) {
        let value = u32::try_from(value).unwrap_or(u32::MAX);
        let mut state = self.state.lock();
        match offset {
            register::MATCHING_DOORBELL => state.last = value,
            register::INTERRUPTS => state.interrupts = value != 0,
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
            let handler = std::sync::Arc::new(Rung(this.downgrade()));
            doorbells.add(region, place, handler).map_err(host)
        };
        let matching = Some(u64::from(register::MATCH));
        Ok(Wires {
            _doorbells: [
                ring(&registers, register::DOORBELL, 4, None)?,
                ring(&registers, register::MATCHING_DOORBELL, 4, matching)?,
                ring(&port, 0, 0, None)?,
            ],
            interrupt: IrqFd::new(&cx.irq(this.object(), this.irq.get())).map_err(host)?,
            _registers: cx.map_memory(this.object(), this.mmio_base.get(), registers)?,
            _port: cx.map_ports(this.object(), this.iobase.get(), port)?,
        })
    }

    fn reset_hold(&self, _: ResetKind) {
        *self.state.lock() = TestDevState::default();
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
