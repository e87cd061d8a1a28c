//! The device behind hardware-reduced ACPI: sleep and reset registers, and the power button as an event
//! (ACPI 6.5, 4.8.3.7 "Sleep control and status registers" and 5.6.9 "Interrupt-signaled ACPI events").
//! The registers are those of QEMU's acpi-ged.

use std::sync::Arc;

use parking_lot::Mutex;
use vmstate::VmState;
use vmstate::qom::{Class, Config, Obj, Object};

use crate::core::{
    DeviceClass, DeviceImpl, DeviceInput, DeviceRegion, IrqLine, MachineEvents, Mapping, RealizeCtx, RealizeError,
    Realized, ResetKind,
};
use crate::intc::ioapic::LAST_PIN;
use crate::memory::{AccessRules, IoContext, MemoryRegion, RegionOps};

/// Bytes of the event register.
const EVENT_BYTES: u64 = 4;
/// Bytes of the sleep and reset registers.
const REGISTER_BYTES: u64 = 3;

/// Offsets of the sleep and reset registers.
pub mod register {
    /// Sleep control.
    pub const SLEEP_CONTROL: u32 = 0;
    /// Sleep status.
    pub const SLEEP_STATUS: u32 = 1;
    /// Reset.
    pub const RESET: u32 = 2;
}

/// Sleep control: go to sleep.
const SLEEP_ENABLE: u8 = 1 << 5;
/// Sleep control: how.
const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_TYPE_MASK: u8 = 7;
/// The type of sleep that is being off, as the tables' `\_S5` says it.
pub const SLEEP_TYPE_OFF: u8 = 5;
/// What has to be written to the reset register.
pub const RESET_VALUE: u8 = 0x42;
/// Event: the power button was pressed.
pub const EVENT_POWER_BUTTON: u32 = 1 << 1;

/// All that changes in the device.
#[derive(VmState, Clone, Debug, Default, PartialEq)]
#[vmstate(name = "acpi-ged", version = 1)]
pub struct GedState {
    /// Events that the guest has not read yet.
    pub events: u32,
}

/// The generic event device.
#[derive(Object)]
#[object(name = "acpi-ged", parent = "device", class_init = class_init)]
pub struct GenericEventDevice {
    #[config(property, default = 0xfea0_0000, description = "address of the event register")]
    events_base: Config<u32>,
    #[config(
        property,
        default = 0xfea0_0200,
        description = "address of the sleep and reset registers"
    )]
    registers_base: Config<u32>,
    #[config(property, default = 9, max = LAST_PIN, description = "its interrupt, which has a level")]
    irq: Config<u32>,
    #[runtime(reason = "the host's side, made by realize")]
    wires: Realized<Wires>,
    #[state]
    state: Mutex<GedState>,
}

/// What realize makes.
pub struct Wires {
    irq: IrqLine,
    _events: Mapping,
    _registers: Mapping,
}

fn class_init(class: &mut Class) {
    DeviceClass::implement::<GenericEventDevice>(class);
}

impl GenericEventDevice {
    /// Presses the power button: a guest that listens shuts itself down. Pressing it again before the guest has noticed
    /// changes nothing.
    pub fn press_power_button(&self) {
        let mut state = self.state.lock();
        state.events |= EVENT_POWER_BUTTON;
        self.drive(&state);
    }

    /// The line is high for as long as there is something to read, so that no event is lost over a pause.
    fn drive(&self, state: &GedState) {
        self.wires.with(|wires| wires.irq.set_level(state.events != 0));
    }
}

/// The event register; reading it takes the events.
impl RegionOps for GenericEventDevice {
    fn read(&self, _cx: &mut IoContext, _offset: u64, _size: u8) -> u64 {
        let mut state = self.state.lock();
        let events = std::mem::take(&mut state.events);
        self.drive(&state);
        u64::from(events)
    }

    fn write(&self, _cx: &mut IoContext, _offset: u64, _size: u8, _value: u64) {}
}

/// The sleep and reset registers, which hold nothing: what is written to them is done at once.
struct Registers(Arc<dyn MachineEvents>);

impl RegionOps for Registers {
    fn read(&self, _cx: &mut IoContext, _offset: u64, _size: u8) -> u64 {
        0
    }

    fn write(&self, _cx: &mut IoContext, offset: u64, _size: u8, value: u64) {
        let [value, ..] = value.to_le_bytes();
        match u32::try_from(offset) {
            Ok(register::SLEEP_CONTROL)
                if value & SLEEP_ENABLE != 0 && (value >> SLEEP_TYPE_SHIFT) & SLEEP_TYPE_MASK == SLEEP_TYPE_OFF =>
            {
                self.0.shutdown_requested();
            }
            Ok(register::RESET) if value == RESET_VALUE => self.0.reset_requested("the ACPI reset register"),
            // Other types of sleep are not offered, and a write of the status clears a wake-up that never was.
            _ => {}
        }
    }
}

impl DeviceImpl for GenericEventDevice {
    type Runtime = Wires;

    fn runtime(&self) -> &Realized<Wires> {
        &self.wires
    }

    fn realize(this: &Obj<Self>, cx: &mut RealizeCtx<'_>) -> Result<Wires, RealizeError> {
        let events = MemoryRegion::io(
            "acpi-ged-events",
            EVENT_BYTES,
            DeviceRegion::ops(this.downgrade()),
            AccessRules::DWORDS,
        );
        let registers = MemoryRegion::io(
            "acpi-ged-registers",
            REGISTER_BYTES,
            Arc::new(Registers(cx.events())),
            AccessRules::BYTES,
        );
        Ok(Wires {
            irq: cx.irq(this.object(), this.irq.get()),
            _events: cx.map_memory(this.object(), this.events_base.get().into(), events)?,
            _registers: cx.map_memory(this.object(), this.registers_base.get().into(), registers)?,
        })
    }

    fn reset_hold(&self, _kind: ResetKind) {
        let mut state = self.state.lock();
        *state = GedState::default();
        self.drive(&state);
    }

    fn drive_lines(&self) {
        self.drive(&self.state.lock());
    }

    fn inputs(this: &Obj<Self>) -> Vec<DeviceInput> {
        let this = this.downgrade();
        let press = move || {
            if let Some(device) = this.upgrade() {
                device.press_power_button();
            }
        };
        vec![DeviceInput::Event(Arc::new(press))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::reset_tree;
    use crate::core::testing::{Bench, Seen};

    const EVENTS: u64 = 0xfea0_0000;
    const REGISTERS: u64 = 0xfea0_0200;

    fn bench() -> Bench<GenericEventDevice> {
        Bench::realized()
    }

    fn write(bench: &Bench<GenericEventDevice>, register: u32, value: u8) -> Vec<Seen> {
        bench
            .memory
            .write(REGISTERS + u64::from(register), &[value])
            .expect("somebody is there");
        bench.seen.take()
    }

    fn read_events(bench: &Bench<GenericEventDevice>) -> u32 {
        let mut bytes = [0; 4];
        bench.memory.read(EVENTS, &mut bytes).expect("somebody is there");
        u32::from_le_bytes(bytes)
    }

    #[test]
    fn the_guest_switches_itself_off_by_the_one_type_of_sleep_that_is_offered() {
        let bench = bench();
        assert_eq!(write(&bench, register::SLEEP_CONTROL, 0x34), [Seen::Shutdown]);
        // Without the enable bit, or with another type.
        assert_eq!(write(&bench, register::SLEEP_CONTROL, 0x14), []);
        assert_eq!(write(&bench, register::SLEEP_CONTROL, 0x20), []);
        assert_eq!(write(&bench, register::SLEEP_STATUS, 0x80), []);
    }

    #[test]
    fn the_reset_register_takes_its_value_and_no_other() {
        let bench = bench();
        let reset = Seen::Reset("the ACPI reset register".to_owned());
        assert_eq!(write(&bench, register::RESET, RESET_VALUE), [reset]);
        assert_eq!(write(&bench, register::RESET, 0), []);
    }

    #[test]
    fn the_power_button_holds_the_line_until_the_guest_has_read_it() {
        let bench = bench();
        bench.device.press_power_button();
        assert_eq!(bench.seen.take(), [Seen::Line(9, true)]);
        assert_eq!(read_events(&bench), EVENT_POWER_BUTTON);
        assert_eq!(bench.seen.take(), [Seen::Line(9, false)]);
        assert_eq!(read_events(&bench), 0);
    }

    #[test]
    fn an_event_that_travels_raises_the_line_where_it_arrives() {
        let bench = bench();
        bench.device.state.lock().events = EVENT_POWER_BUTTON;
        bench.device.drive_lines();
        assert_eq!(bench.seen.take(), [Seen::Line(9, true)]);
    }

    #[test]
    fn reset_forgets_the_button() {
        let bench = bench();
        bench.device.press_power_button();
        reset_tree(bench.device.object(), ResetKind::Cold);
        assert_eq!(read_events(&bench), 0);
    }
}
