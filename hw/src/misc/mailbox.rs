//! A mailbox: eight letters, and an interrupt as long as there are any.

use parking_lot::Mutex;
use vmstate::VmState;
use vmstate::qom::{Class, Config, Obj, Object};

use crate::core::{
    DeviceClass, DeviceImpl, DeviceRegion, IrqLine, Mapping, RealizeCtx, RealizeError, Realized, ResetKind,
};
use crate::intc::ioapic::LAST_PIN;
use crate::memory::{AccessRules, IoContext, MemoryRegion, RegionOps};

/// How many letters there is room for.
const ROOM: usize = 8;

/// All that the guest can change.
#[derive(VmState, Clone, Debug, Default, PartialEq)]
#[vmstate(name = "mailbox", version = 1)]
pub struct MailboxState {
    /// Letters that nobody has taken yet, the oldest first.
    #[vmstate(max = 8)]
    pub letters: Vec<u8>,
    /// Whether letters raise the interrupt.
    pub interrupts: bool,
}

/// The mailbox: port 0 puts in and takes out, port 1 switches the interrupt on and tells how many letters there are.
#[derive(Object)]
#[object(name = "mailbox", parent = "device", class_init = class_init)]
pub struct Mailbox {
    #[config(property, default = 0x2f0, description = "its first I/O port")]
    iobase: Config<u16>,
    #[config(property, default = 10, max = LAST_PIN, description = "its interrupt, which has a level")]
    irq: Config<u32>,
    #[runtime(reason = "the host's side, made by realize")]
    wires: Realized<Wires>,
    #[state]
    state: Mutex<MailboxState>,
}

/// What realize makes.
pub struct Wires {
    irq: IrqLine,
    _ports: Mapping,
}

fn class_init(class: &mut Class) {
    DeviceClass::implement::<Mailbox>(class);
    DeviceClass::set_hotpluggable(class);
}

impl Mailbox {
    fn drive(&self, state: &MailboxState) {
        let level = state.interrupts && !state.letters.is_empty();
        self.wires.with(|wires| wires.irq.set_level(level));
    }
}

impl RegionOps for Mailbox {
    fn read(&self, _cx: &mut IoContext, offset: u64, _size: u8) -> u64 {
        let mut state = self.state.lock();
        if offset == 1 {
            return u64::try_from(state.letters.len()).unwrap_or(u64::MAX);
        }
        if state.letters.is_empty() {
            return 0;
        }
        let letter = state.letters.remove(0);
        self.drive(&state);
        letter.into()
    }

    fn write(&self, _cx: &mut IoContext, offset: u64, _size: u8, value: u64) {
        let [value, ..] = value.to_le_bytes();
        let mut state = self.state.lock();
        if offset == 1 {
            state.interrupts = value & 1 != 0;
        } else if state.letters.len() < ROOM {
            state.letters.push(value);
        }
        self.drive(&state);
    }
}

impl DeviceImpl for Mailbox {
    type Runtime = Wires;

    fn runtime(&self) -> &Realized<Wires> {
        &self.wires
    }

    fn realize(this: &Obj<Self>, cx: &mut RealizeCtx<'_>) -> Result<Wires, RealizeError> {
        let ports = MemoryRegion::io("mailbox", 2, DeviceRegion::ops(this.downgrade()), AccessRules::BYTES);
        Ok(Wires {
            irq: cx.irq(this.object(), this.irq.get()),
            _ports: cx.map_ports(this.object(), this.iobase.get(), ports)?,
        })
    }

    fn reset_hold(&self, _kind: ResetKind) {
        let mut state = self.state.lock();
        *state = MailboxState::default();
        self.drive(&state);
    }

    fn drive_lines(&self) {
        self.drive(&self.state.lock());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::testing::{Bench, Seen};

    #[test]
    fn letters_come_out_as_they_went_in_and_the_interrupt_says_that_there_are_some() {
        let bench: Bench<Mailbox> = Bench::realized();
        bench.outb(0x2f1, 1);
        // The line was told its level, low, once more.
        bench.seen.take();
        bench.outb(0x2f0, b'a');
        assert_eq!(bench.seen.take(), [Seen::Line(10, true)]);
        assert_eq!((bench.inb(0x2f1), bench.inb(0x2f0)), (1, b'a'));
        assert_eq!(bench.seen.take(), [Seen::Line(10, false)]);
    }
}
