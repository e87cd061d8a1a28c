//! The keyboard controller, as far as a guest without a keyboard needs it: the reset line, and enough of its commands that
//! a driver that looks for it finds a controller with nothing connected.

use std::sync::Arc;

use parking_lot::Mutex;
use vmstate::VmState;
use vmstate::qom::{Class, Config, Obj, Object};

use crate::core::{
    DeviceClass, DeviceImpl, DeviceRegion, MachineEvents, Mapping, RealizeCtx, RealizeError, Realized, ResetKind,
};
use crate::memory::{AccessRules, IoContext, MemoryRegion, RegionOps};

/// Offset of the command and status port from the data port.
const COMMAND_PORT: u64 = 4;
/// The command port where a PC has it.
pub(super) const COMMAND: u8 = 0x64;

/// Status: the output buffer holds a byte for the guest.
const STATUS_OUTPUT_FULL: u8 = 1 << 0;
/// Status: self-test passed.
const STATUS_SYSTEM: u8 = 1 << 2;
/// Status: the last write went to the command port.
const STATUS_COMMAND: u8 = 1 << 3;
/// Status: the keyboard is not locked.
const STATUS_UNLOCKED: u8 = 1 << 4;

/// Output port: the system is not in reset.
const OUTPUT_NOT_RESET: u8 = 1 << 0;

/// Commands that the controller answers.
pub(super) mod command {
    pub const READ_CONTROL: u8 = 0x20;
    pub const WRITE_CONTROL: u8 = 0x60;
    pub const TEST_AUXILIARY: u8 = 0xa9;
    pub const SELF_TEST: u8 = 0xaa;
    pub const TEST_KEYBOARD: u8 = 0xab;
    pub const READ_OUTPUT: u8 = 0xd0;
    pub const WRITE_OUTPUT: u8 = 0xd1;
    pub const LOOP_AUXILIARY: u8 = 0xd3;
    pub const PULSE_RESET: u8 = 0xfe;
}

/// Answer to a test of a port: nothing is wrong with its lines.
const LINES_ARE_FINE: u8 = 0x00;
/// Answer to a test of a port: its clock line does not move.
const CLOCK_IS_LOW: u8 = 0x01;

/// All that the guest can change in the controller.
#[derive(VmState, Clone, Debug, PartialEq)]
#[vmstate(name = "i8042", version = 1)]
pub struct I8042State {
    /// Status register.
    pub status: u8,
    /// Controller configuration byte.
    pub control: u8,
    /// Output port.
    pub output: u8,
    /// Command that waits for its data byte; zero if none does.
    pub command: u8,
    /// The byte that the data port shows.
    pub buffer: u8,
}

impl Default for I8042State {
    fn default() -> Self {
        Self {
            status: STATUS_SYSTEM | STATUS_UNLOCKED,
            control: 0x04,
            output: OUTPUT_NOT_RESET | 0x02,
            command: 0,
            buffer: 0,
        }
    }
}

impl I8042State {
    fn answer(&mut self, byte: u8) {
        self.buffer = byte;
        self.status |= STATUS_OUTPUT_FULL;
    }
}

/// The keyboard controller at ports 0x60 and 0x64.
#[derive(Object)]
#[object(name = "i8042", parent = "device", class_init = class_init)]
pub struct I8042 {
    #[config(
        property,
        default = 0x60,
        description = "its data port; the command port is four higher"
    )]
    iobase: Config<u16>,
    #[runtime(reason = "the host's side, made by realize")]
    wires: Realized<Wires>,
    #[state]
    state: Mutex<I8042State>,
}

/// What realize makes.
pub struct Wires {
    events: Arc<dyn MachineEvents>,
    _data: Mapping,
    _command: Mapping,
}

fn class_init(class: &mut Class) {
    DeviceClass::implement::<I8042>(class);
}

impl I8042 {
    fn reset_machine(&self) {
        self.wires
            .with(|wires| wires.events.reset_requested("the keyboard controller"));
    }

    fn write_data(&self, state: &mut I8042State, value: u8) {
        state.status &= !STATUS_COMMAND;
        match std::mem::take(&mut state.command) {
            command::WRITE_CONTROL => state.control = value,
            command::WRITE_OUTPUT => {
                state.output = value;
                if value & OUTPUT_NOT_RESET == 0 {
                    self.reset_machine();
                }
            }
            // There is no auxiliary port, by which it would come back: it comes without the mark of that.
            command::LOOP_AUXILIARY => state.answer(value),
            // Bytes for a keyboard that is not there.
            _ => {}
        }
    }

    fn write_command(&self, state: &mut I8042State, value: u8) {
        state.status |= STATUS_COMMAND;
        state.command = 0;
        match value {
            command::READ_CONTROL => state.answer(state.control),
            command::READ_OUTPUT => state.answer(state.output),
            command::SELF_TEST => state.answer(0x55),
            command::TEST_KEYBOARD => state.answer(LINES_ARE_FINE),
            command::TEST_AUXILIARY => state.answer(CLOCK_IS_LOW),
            command::WRITE_CONTROL | command::WRITE_OUTPUT | command::LOOP_AUXILIARY => state.command = value,
            command::PULSE_RESET => self.reset_machine(),
            _ => {}
        }
    }
}

impl RegionOps for I8042 {
    fn read(&self, _cx: &mut IoContext, offset: u64, _size: u8) -> u64 {
        let mut state = self.state.lock();
        if offset == COMMAND_PORT {
            return u64::from(state.status);
        }
        state.status &= !STATUS_OUTPUT_FULL;
        u64::from(state.buffer)
    }

    fn write(&self, _cx: &mut IoContext, offset: u64, _size: u8, value: u64) {
        let [value, ..] = value.to_le_bytes();
        let mut state = self.state.lock();
        if offset == COMMAND_PORT {
            self.write_command(&mut state, value);
        } else {
            self.write_data(&mut state, value);
        }
    }
}

/// The command port, which lies four ports above the data port, with another device's ports between them.
struct CommandPort(Arc<dyn RegionOps>);

impl RegionOps for CommandPort {
    fn read(&self, cx: &mut IoContext, offset: u64, size: u8) -> u64 {
        self.0.read(cx, offset + COMMAND_PORT, size)
    }

    fn write(&self, cx: &mut IoContext, offset: u64, size: u8, value: u64) {
        self.0.write(cx, offset + COMMAND_PORT, size, value);
    }
}

impl DeviceImpl for I8042 {
    type Runtime = Wires;

    fn runtime(&self) -> &Realized<Wires> {
        &self.wires
    }

    fn realize(this: &Obj<Self>, cx: &mut RealizeCtx<'_>) -> Result<Wires, RealizeError> {
        let ops = DeviceRegion::ops(this.downgrade());
        let data = MemoryRegion::io("i8042-data", 1, Arc::clone(&ops), AccessRules::BYTES);
        let command = MemoryRegion::io("i8042-command", 1, Arc::new(CommandPort(ops)), AccessRules::BYTES);
        let iobase = this.iobase.get();
        let command_port = iobase.checked_add(4).ok_or_else(|| RealizeError::Property {
            device: this.object().path(),
            property: "iobase".to_owned(),
            problem: format!("{iobase:#x} leaves no room for the command port"),
        })?;
        Ok(Wires {
            events: cx.events(),
            _data: cx.map_ports(this.object(), iobase, data)?,
            _command: cx.map_ports(this.object(), command_port, command)?,
        })
    }

    fn reset_hold(&self, _kind: ResetKind) {
        *self.state.lock() = I8042State::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::testing::{Bench, Seen};

    fn reset() -> Vec<Seen> {
        vec![Seen::Reset("the keyboard controller".to_owned())]
    }

    #[test]
    fn a_pulse_of_the_reset_line_resets_the_machine() {
        let bench: Bench<I8042> = Bench::realized();
        bench.outb(0x64, 0xfe);
        assert_eq!(bench.seen.take(), reset());
    }

    #[test]
    fn the_output_port_has_the_reset_line_too() {
        let bench: Bench<I8042> = Bench::realized();
        bench.outb(0x64, 0xd1);
        bench.outb(0x60, 0x03);
        assert_eq!(bench.seen.take(), []);
        bench.outb(0x64, 0xd1);
        bench.outb(0x60, 0x02);
        assert_eq!(bench.seen.take(), reset());
    }

    #[test]
    fn an_answer_is_announced_until_it_is_read() {
        let bench: Bench<I8042> = Bench::realized();
        bench.outb(0x64, 0xaa);
        assert_eq!(bench.inb(0x64) & STATUS_OUTPUT_FULL, STATUS_OUTPUT_FULL);
        assert_eq!(bench.inb(0x60), 0x55);
        assert_eq!(bench.inb(0x64) & STATUS_OUTPUT_FULL, 0);
    }

    /// A driver waits half a second for each answer that does not come, with interrupts off.
    #[test]
    fn who_looks_for_an_auxiliary_port_is_told_at_once_that_there_is_none() {
        const STATUS_AUXILIARY: u8 = 1 << 5;
        let bench: Bench<I8042> = Bench::realized();
        bench.outb(0x64, command::LOOP_AUXILIARY);
        assert_eq!(bench.inb(0x64) & STATUS_OUTPUT_FULL, 0);
        bench.outb(0x60, 0xa5);
        assert_eq!(
            bench.inb(0x64) & (STATUS_OUTPUT_FULL | STATUS_AUXILIARY),
            STATUS_OUTPUT_FULL
        );
        bench.outb(0x64, command::TEST_AUXILIARY);
        assert_eq!(bench.inb(0x64) & STATUS_OUTPUT_FULL, STATUS_OUTPUT_FULL);
        assert_eq!(bench.inb(0x60), CLOCK_IS_LOW);
        bench.outb(0x64, command::TEST_KEYBOARD);
        assert_eq!(bench.inb(0x60), LINES_ARE_FINE);
        assert_eq!(bench.inb(0x64) & STATUS_OUTPUT_FULL, 0);
    }

    #[test]
    fn data_without_a_command_goes_to_the_keyboard_that_is_not_there() {
        let bench: Bench<I8042> = Bench::realized();
        bench.outb(0x60, 0xfe);
        assert_eq!(bench.seen.take(), []);
    }
}
