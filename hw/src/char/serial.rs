//! The 16550A UART (National Semiconductor PC16550D data sheet, section 8).
//!
//! Both FIFOs, the loopback mode and the interrupt priorities are there. Time is not: a byte is on the wire as soon as the
//! sink takes it, whatever the divisor says, and what lies below the receive trigger counts as timed out at once. A sink
//! that takes nothing keeps the transmitter busy, so that a guest waits for a slow console and nobody else does.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use vmstate::VmState;
use vmstate::qom::{Class, Config, Link, Obj, Object, Property, PropertyKind, PropertyValue, WeakObj};

use super::{CharFrontend, CharSink, Chardev, ChardevClaim};
use crate::core::{
    CLOCK_INPUT, Clock, DeviceClass, DeviceImpl, DeviceInput, DeviceRegion, IrqLine, Mapping, RealizeCtx, RealizeError,
    Realized, ResetKind,
};
use crate::intc::ioapic::LAST_PIN;
use crate::memory::{AccessRules, IoContext, MemoryRegion, RegionOps};

/// The crystal of a PC's serial port.
const CRYSTAL_HZ: u64 = 1_843_200;
/// Cycles of the clock, after the divisor, for each bit.
const CYCLES_PER_BIT: u64 = 16;
/// Bytes that each FIFO holds.
const FIFO: usize = 16;
/// Ports that the UART decodes.
const PORTS: u64 = 8;

/// Interrupt enable register.
mod ier {
    pub const RECEIVED: u8 = 1 << 0;
    pub const TRANSMIT_EMPTY: u8 = 1 << 1;
    pub const LINE_STATUS: u8 = 1 << 2;
    pub const MODEM_STATUS: u8 = 1 << 3;
    pub const ALL: u8 = 0x0f;
}

/// Interrupt identification register.
mod iir {
    pub const NONE: u8 = 0x01;
    pub const MODEM_STATUS: u8 = 0x00;
    pub const TRANSMIT_EMPTY: u8 = 0x02;
    pub const RECEIVED: u8 = 0x04;
    pub const LINE_STATUS: u8 = 0x06;
    pub const TIMED_OUT: u8 = 0x0c;
    pub const FIFOS: u8 = 0xc0;
}

/// FIFO control register.
mod fcr {
    pub const ENABLE: u8 = 1 << 0;
    pub const CLEAR_RECEIVE: u8 = 1 << 1;
    pub const CLEAR_TRANSMIT: u8 = 1 << 2;
    pub const KEPT: u8 = 0xc9;
}

/// Line status register.
mod lsr {
    pub const DATA_READY: u8 = 1 << 0;
    pub const OVERRUN: u8 = 1 << 1;
    pub const ERRORS: u8 = 0x1e;
    pub const TRANSMIT_EMPTY: u8 = 1 << 5;
    pub const IDLE: u8 = 1 << 6;
}

/// Line control register: the divisor latch is what ports 0 and 1 show.
const LCR_DLAB: u8 = 1 << 7;
/// Modem control register: loopback.
const MCR_LOOPBACK: u8 = 1 << 4;
/// Bits of the modem control register that exist.
const MCR_MASK: u8 = 0x1f;
/// Modem status of a connected line: carrier, data set ready, clear to send.
const MSR_CONNECTED: u8 = 0xb0;
/// 115200 / 9600: the divisor that firmware leaves behind.
const DIVISOR_9600: u16 = 12;

/// All that the guest can change in the UART.
#[derive(VmState, Clone, Debug, PartialEq)]
#[vmstate(name = "serial16550", version = 1)]
pub struct SerialState {
    /// Interrupt enable.
    pub ier: u8,
    /// FIFO control, the bits that stay.
    pub fcr: u8,
    /// Line control.
    pub lcr: u8,
    /// Modem control.
    pub mcr: u8,
    /// Sticky error bits of the line status; the rest of that register follows from the FIFOs.
    pub line_errors: u8,
    /// Modem status, with its delta bits.
    pub msr: u8,
    /// Scratch.
    pub scratch: u8,
    /// Divisor latch.
    pub divisor: u16,
    /// The transmitter ran empty and the guest has not yet been told, or not yet looked.
    pub transmit_pending: bool,
    /// Received and not yet read, oldest first.
    #[vmstate(max = 16)]
    pub received: VecDeque<u8>,
    /// Written and not yet taken by the sink, oldest first.
    #[vmstate(max = 16)]
    pub transmit: VecDeque<u8>,
}

impl Default for SerialState {
    fn default() -> Self {
        Self {
            ier: 0,
            fcr: 0,
            lcr: 0,
            mcr: 0,
            line_errors: 0,
            msr: MSR_CONNECTED,
            scratch: 0,
            divisor: DIVISOR_9600,
            transmit_pending: false,
            received: VecDeque::new(),
            transmit: VecDeque::new(),
        }
    }
}

impl SerialState {
    fn fifos(&self) -> bool {
        self.fcr & fcr::ENABLE != 0
    }

    fn capacity(&self) -> usize {
        if self.fifos() { FIFO } else { 1 }
    }

    fn trigger(&self) -> usize {
        if !self.fifos() {
            return 1;
        }
        [1, 4, 8, 14][usize::from(self.fcr >> 6)]
    }

    fn line_status(&self) -> u8 {
        let mut status = self.line_errors;
        if !self.received.is_empty() {
            status |= lsr::DATA_READY;
        }
        if self.transmit.is_empty() {
            status |= lsr::TRANSMIT_EMPTY | lsr::IDLE;
        }
        status
    }

    /// The interrupt that is due, highest priority first (data sheet, table IV).
    fn interrupt(&self) -> u8 {
        if self.ier & ier::LINE_STATUS != 0 && self.line_errors != 0 {
            iir::LINE_STATUS
        } else if self.ier & ier::RECEIVED != 0 && self.received.len() >= self.trigger() {
            iir::RECEIVED
        } else if self.ier & ier::RECEIVED != 0 && !self.received.is_empty() {
            iir::TIMED_OUT
        } else if self.ier & ier::TRANSMIT_EMPTY != 0 && self.transmit_pending {
            iir::TRANSMIT_EMPTY
        } else if self.ier & ier::MODEM_STATUS != 0 && self.msr & 0x0f != 0 {
            iir::MODEM_STATUS
        } else {
            iir::NONE
        }
    }

    /// Whether the console may have been refused, although the guest need not read anything for it to be heard again.
    fn holds_input_up(&self) -> bool {
        self.mcr & MCR_LOOPBACK != 0 || !self.received.is_empty()
    }

    fn take_input(&mut self, bytes: &[u8]) -> usize {
        let room = self.capacity().saturating_sub(self.received.len());
        let taken = room.min(bytes.len());
        self.received.extend(&bytes[..taken]);
        taken
    }

    /// Loopback feeds the transmitter back into the receiver, and the modem outputs into the modem inputs.
    fn loop_back(&mut self, byte: u8) {
        if self.take_input(&[byte]) == 0 {
            self.line_errors |= lsr::OVERRUN;
        }
        self.transmit_pending = true;
    }

    fn modem_status(&self) -> u8 {
        if self.mcr & MCR_LOOPBACK == 0 {
            return self.msr;
        }
        let out = self.mcr;
        (self.msr & 0x0f) | (out & 0x02) << 3 | (out & 0x01) << 5 | (out & 0x0c) << 4
    }
}

/// A 16550A serial port on the system bus.
#[derive(Object)]
#[object(
    name = "serial16550", parent = "device", class_init = class_init, instance_init = instance_init,
    properties = properties
)]
pub struct Serial16550 {
    #[config(property, default = 0x3f8, description = "first of its eight I/O ports")]
    iobase: Config<u16>,
    #[config(property, default = 4, max = LAST_PIN, description = "interrupt input of the machine")]
    irq: Config<u32>,
    #[config(link, description = "where its bytes go")]
    chardev: Link<Chardev>,
    #[runtime(reason = "the host's side, made by realize")]
    wires: Realized<Wires>,
    #[state]
    state: Mutex<SerialState>,
}

/// What realize makes.
pub struct Wires {
    irq: IrqLine,
    chardev: Option<ChardevClaim>,
    _ports: Mapping,
}

impl Wires {
    fn sink(&self) -> Option<&Arc<dyn CharSink>> {
        self.chardev.as_ref()?.sink()
    }
}

fn class_init(class: &mut Class) {
    DeviceClass::implement::<Serial16550>(class);
    DeviceClass::set_hotpluggable(class);
}

fn instance_init(object: &Arc<Object>) {
    Clock::add_to(object, CLOCK_INPUT, CRYSTAL_HZ).expect("a new object has no children");
}

fn properties() -> Vec<Property> {
    let bits_per_second = PropertyKind::Uint {
        bits: 64,
        min: 0,
        max: u64::MAX,
    };
    vec![Property::read_only(
        "baud",
        "bits per second, as the guest has set it",
        bits_per_second,
        |object| {
            let hz = object
                .child(CLOCK_INPUT)
                .and_then(Obj::<Clock>::new)
                .map_or(0, |clock| clock.hz());
            let divisor = object.part::<Serial16550>().map_or(0, |port| port.state.lock().divisor);
            // A divisor of zero stops the transmitter.
            PropertyValue::Uint((hz / CYCLES_PER_BIT).checked_div(u64::from(divisor)).unwrap_or(0))
        },
    )]
}

impl Serial16550 {
    /// The port as its back end sees it.
    #[must_use]
    pub fn frontend(this: &Obj<Self>) -> Arc<dyn CharFrontend> {
        Arc::new(Frontend(this.downgrade()))
    }

    /// A copy of the state, for tests and for people.
    #[must_use]
    pub fn state(&self) -> SerialState {
        self.state.lock().clone()
    }

    fn changed(&self, state: &SerialState) {
        self.wires
            .with(|wires| wires.irq.set_level(state.interrupt() != iir::NONE));
    }

    /// Offers what waits in the transmitter to the sink.
    fn transmit(&self, state: &mut SerialState) {
        let sent = self.wires.with(|wires| match wires.sink() {
            Some(sink) => sink.try_write(state.transmit.make_contiguous()),
            None => state.transmit.len(),
        });
        state.transmit.drain(..sent.unwrap_or(0));
        if state.transmit.is_empty() {
            state.transmit_pending = true;
        }
    }

    /// Tells the console that its input may be taken now. Without the state's lock, because it may offer some at once.
    fn tell_of_room(&self) {
        self.wires.with(|wires| wires.sink().map(|sink| sink.input_room()));
    }

    fn write_data(&self, state: &mut SerialState, byte: u8) {
        state.transmit_pending = false;
        if state.mcr & MCR_LOOPBACK != 0 {
            state.loop_back(byte);
            return;
        }
        // More than fits is what a stream can hold that no guest has made.
        if state.transmit.len() >= state.capacity() {
            // As in the hardware: the guest did not wait for the transmitter, and the newest byte wins its place.
            state.transmit.pop_back();
        }
        state.transmit.push_back(byte);
        self.transmit(state);
    }

    fn write_fifo_control(state: &mut SerialState, value: u8) {
        let switched = (state.fcr ^ value) & fcr::ENABLE != 0;
        if switched || value & fcr::CLEAR_RECEIVE != 0 {
            state.received.clear();
        }
        if switched || value & fcr::CLEAR_TRANSMIT != 0 {
            state.transmit.clear();
            state.transmit_pending = true;
        }
        state.fcr = if value & fcr::ENABLE == 0 { 0 } else { value & fcr::KEPT };
    }
}

impl RegionOps for Serial16550 {
    fn read(&self, _cx: &mut IoContext, offset: u64, _size: u8) -> u64 {
        let mut state = self.state.lock();
        let mut room = false;
        let latch = state.lcr & LCR_DLAB != 0;
        let [low, high] = state.divisor.to_le_bytes();
        let value = match offset {
            0 if latch => low,
            1 if latch => high,
            0 => {
                let byte = state.received.pop_front().unwrap_or(0);
                room = state.received.is_empty();
                byte
            }
            1 => state.ier,
            2 => {
                let id = state.interrupt();
                if id == iir::TRANSMIT_EMPTY {
                    state.transmit_pending = false;
                }
                id | if state.fifos() { iir::FIFOS } else { 0 }
            }
            3 => state.lcr,
            4 => state.mcr,
            5 => {
                let status = state.line_status();
                state.line_errors = 0;
                status
            }
            6 => {
                let status = state.modem_status();
                state.msr &= 0xf0;
                status
            }
            _ => state.scratch,
        };
        self.changed(&state);
        drop(state);
        if room {
            self.tell_of_room();
        }
        u64::from(value)
    }

    fn write(&self, _cx: &mut IoContext, offset: u64, _size: u8, value: u64) {
        let [value, ..] = value.to_le_bytes();
        let mut state = self.state.lock();
        let held_up = state.holds_input_up();
        let latch = state.lcr & LCR_DLAB != 0;
        let [low, high] = state.divisor.to_le_bytes();
        match offset {
            0 if latch => state.divisor = u16::from_le_bytes([value, high]),
            1 if latch => state.divisor = u16::from_le_bytes([low, value]),
            0 => self.write_data(&mut state, value),
            1 => {
                let enabled = value & ier::ALL;
                // Enabling the transmit interrupt with an empty transmitter raises it, which drivers count on.
                if enabled & !state.ier & ier::TRANSMIT_EMPTY != 0 && state.transmit.is_empty() {
                    state.transmit_pending = true;
                }
                state.ier = enabled;
            }
            2 => Self::write_fifo_control(&mut state, value),
            3 => state.lcr = value,
            4 => state.mcr = value & MCR_MASK,
            // The status registers are read-only outside of factory tests.
            5 | 6 => {}
            _ => state.scratch = value,
        }
        state.line_errors &= lsr::ERRORS;
        self.changed(&state);
        let room = held_up && !state.holds_input_up();
        drop(state);
        if room {
            self.tell_of_room();
        }
    }
}

impl DeviceImpl for Serial16550 {
    type Runtime = Wires;

    fn runtime(&self) -> &Realized<Wires> {
        &self.wires
    }

    fn realize(this: &Obj<Self>, cx: &mut RealizeCtx<'_>) -> Result<Wires, RealizeError> {
        let region = MemoryRegion::io(
            "serial16550",
            PORTS,
            DeviceRegion::ops(this.downgrade()),
            AccessRules::BYTES,
        );
        let claim = |chardev: Obj<Chardev>| ChardevClaim::new(&chardev, this.object());
        let chardev = this.chardev.get().map(claim).transpose();
        Ok(Wires {
            irq: cx.irq(this.object(), this.irq.get()),
            chardev: chardev.map_err(|problem| RealizeError::Property {
                device: this.object().path(),
                property: "chardev".to_owned(),
                problem,
            })?,
            _ports: cx.map_ports(this.object(), this.iobase.get(), region)?,
        })
    }

    fn reset_hold(&self, _kind: ResetKind) {
        let mut state = self.state.lock();
        *state = SerialState::default();
        self.changed(&state);
        drop(state);
        self.tell_of_room();
    }

    fn drive_lines(&self) {
        self.changed(&self.state.lock());
    }

    fn inputs(this: &Obj<Self>) -> Vec<DeviceInput> {
        vec![DeviceInput::Characters(Self::frontend(this))]
    }
}

struct Frontend(WeakObj<Serial16550>);

impl CharFrontend for Frontend {
    fn receive(&self, bytes: &[u8]) -> usize {
        let Some(port) = self.0.upgrade() else {
            return bytes.len();
        };
        let mut state = port.state.lock();
        if state.mcr & MCR_LOOPBACK != 0 {
            return 0;
        }
        let taken = state.take_input(bytes);
        port.changed(&state);
        taken
    }

    fn writable(&self) {
        let Some(port) = self.0.upgrade() else { return };
        let mut state = port.state.lock();
        if !state.transmit.is_empty() {
            port.transmit(&mut state);
            port.changed(&state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::testing::{Bench, Seen};
    use crate::core::{realize_device, reset_tree, unrealize_device};

    const BASE: u64 = 0x3f8;

    /// A console that takes as many bytes as it is told to.
    #[derive(Default)]
    struct Paper {
        room: Mutex<usize>,
        written: Mutex<Vec<u8>>,
        told_of_room: Mutex<u32>,
    }

    impl CharSink for Paper {
        fn try_write(&self, bytes: &[u8]) -> usize {
            let mut room = self.room.lock();
            let taken = bytes.len().min(*room);
            *room -= taken;
            self.written.lock().extend(&bytes[..taken]);
            taken
        }

        fn input_room(&self) {
            *self.told_of_room.lock() += 1;
        }
    }

    fn port(room: usize) -> (Bench<Serial16550>, Arc<Paper>) {
        let bench: Bench<Serial16550> = Bench::new();
        let paper = Arc::new(Paper {
            room: Mutex::new(room),
            ..Paper::default()
        });
        let chardev = bench
            .device
            .object()
            .types()
            .new_object("chardev-host")
            .expect("concrete");
        chardev
            .part::<Chardev>()
            .expect("its parent class")
            .set_sink(paper.clone());
        let root = bench.device.object().root().expect("a tree");
        root.add_child("chardev", Arc::clone(&chardev)).expect("free");
        bench
            .device
            .object()
            .set_link("chardev", Some(&chardev))
            .expect("of its type");
        bench.realize().expect("realizes");
        (bench, paper)
    }

    fn last_level(bench: &Bench<Serial16550>) -> Option<bool> {
        bench.seen.take().into_iter().rev().find_map(|seen| match seen {
            Seen::Line(4, level) => Some(level),
            _ => None,
        })
    }

    #[test]
    fn the_baud_rate_follows_from_clock_and_divisor() {
        let (bench, _paper) = port(100);
        let object = bench.device.object();
        assert_eq!(object.property("baud"), Ok(PropertyValue::Uint(9600)));
        bench.outb(BASE + 3, LCR_DLAB);
        bench.outb(BASE, 1);
        assert_eq!(object.property("baud"), Ok(PropertyValue::Uint(115_200)));
        let clock: Obj<Clock> = object.child(CLOCK_INPUT).and_then(Obj::new).expect("it has one");
        clock.set_hz(2 * CRYSTAL_HZ);
        assert_eq!(object.property("baud"), Ok(PropertyValue::Uint(230_400)));
        bench.outb(BASE, 0);
        assert_eq!(object.property("baud"), Ok(PropertyValue::Uint(0)));
    }

    #[test]
    fn a_second_port_does_not_get_the_back_end_of_the_first() {
        let (bench, _paper) = port(100);
        let root = bench.device.object().root().expect("a tree");
        let second = root.types().new_object("serial16550").expect("concrete");
        root.add_child("second", Arc::clone(&second)).expect("free");
        second.set_property_str("chardev", "/chardev").expect("of its type");
        second.set_property("iobase", 0x2f8).expect("a port");
        let mut cx = RealizeCtx::new(&bench.memory, &bench.io, bench.seen.clone(), bench.seen.clone());
        let refused = realize_device(&second, &mut cx).expect_err("in use").to_string();
        assert_eq!(refused, "/second: property chardev /chardev is in use by /device");
        unrealize_device(bench.device.object());
        realize_device(&second, &mut cx).expect("it is free now");
    }

    #[test]
    fn bytes_reach_the_console_in_order() {
        let (bench, paper) = port(100);
        for byte in b"tern" {
            bench.outb(BASE, *byte);
        }
        assert_eq!(*paper.written.lock(), b"tern");
    }

    #[test]
    fn a_slow_console_keeps_the_transmitter_busy_until_it_takes_more() {
        let (bench, paper) = port(0);
        bench.outb(BASE + 2, fcr::ENABLE);
        bench.outb(BASE, b'a');
        assert_eq!(bench.inb(BASE + 5) & lsr::TRANSMIT_EMPTY, 0);
        *paper.room.lock() = 10;
        Serial16550::frontend(&bench.device).writable();
        assert_eq!(bench.inb(BASE + 5) & lsr::TRANSMIT_EMPTY, lsr::TRANSMIT_EMPTY);
        assert_eq!(*paper.written.lock(), b"a");
    }

    #[test]
    fn input_that_was_refused_is_asked_for_again_however_the_room_came() {
        let ways: [fn(&Bench<Serial16550>); 3] = [
            |bench| bench.outb(BASE + 2, fcr::ENABLE | fcr::CLEAR_RECEIVE),
            |bench| reset_tree(bench.device.object(), ResetKind::Cold),
            |bench| assert_eq!(bench.inb(BASE), b'x'),
        ];
        for make_room in ways {
            let (bench, paper) = port(0);
            assert_eq!(Serial16550::frontend(&bench.device).receive(b"xy"), 1);
            make_room(&bench);
            assert_eq!(*paper.told_of_room.lock(), 1);
        }
        let (bench, paper) = port(0);
        bench.outb(BASE + 4, MCR_LOOPBACK);
        assert_eq!(Serial16550::frontend(&bench.device).receive(b"x"), 0);
        bench.outb(BASE + 4, 0);
        assert_eq!(*paper.told_of_room.lock(), 1);
    }

    #[test]
    fn a_transmitter_that_arrives_overfull_does_not_grow() {
        let (bench, _) = port(0);
        bench.device.state.lock().transmit = (0..16).collect();
        for byte in 0..100 {
            bench.outb(BASE, byte);
        }
        assert_eq!(bench.device.state.lock().transmit.len(), 16);
    }

    #[test]
    fn input_interrupts_and_is_read_in_order_and_the_line_falls_with_the_last_byte() {
        let (bench, _paper) = port(0);
        bench.outb(BASE + 2, fcr::ENABLE);
        bench.outb(BASE + 1, ier::RECEIVED);
        assert_eq!(Serial16550::frontend(&bench.device).receive(b"xy"), 2);
        assert_eq!(last_level(&bench), Some(true));
        assert_eq!(bench.inb(BASE + 2), iir::FIFOS | iir::RECEIVED);
        assert_eq!([bench.inb(BASE), bench.inb(BASE)], *b"xy");
        assert_eq!(last_level(&bench), Some(false));
    }

    #[test]
    fn input_beyond_the_fifo_stays_with_the_back_end() {
        let (bench, _paper) = port(0);
        let frontend = Serial16550::frontend(&bench.device);
        assert_eq!(frontend.receive(b"abc"), 1);
        bench.outb(BASE + 2, fcr::ENABLE);
        assert_eq!(frontend.receive(&[0; 40]), FIFO);
    }

    #[test]
    fn a_port_that_is_taken_away_leaves_no_interrupt_behind() {
        let (bench, _paper) = port(0);
        bench.outb(BASE + 1, ier::TRANSMIT_EMPTY);
        assert_eq!(last_level(&bench), Some(true));
        unrealize_device(bench.device.object());
        assert_eq!(last_level(&bench), Some(false));
        let object = bench.device.object();
        assert!(
            object.set_property("irq", LAST_PIN + 1).is_err(),
            "the machine has no such input"
        );
    }

    #[test]
    fn enabling_the_transmit_interrupt_of_an_idle_port_raises_it_and_looking_clears_it() {
        let (bench, _paper) = port(0);
        bench.outb(BASE + 1, ier::TRANSMIT_EMPTY);
        assert_eq!(last_level(&bench), Some(true));
        assert_eq!(bench.inb(BASE + 2), iir::TRANSMIT_EMPTY);
        assert_eq!(last_level(&bench), Some(false));
    }

    #[test]
    fn loopback_returns_what_is_sent_and_shows_nothing() {
        let (bench, paper) = port(100);
        bench.outb(BASE + 4, MCR_LOOPBACK | 0x0a);
        assert_eq!(bench.inb(BASE + 6) & 0xf0, 0x90);
        bench.outb(BASE, 0x42);
        assert_eq!(bench.inb(BASE), 0x42);
        assert!(paper.written.lock().is_empty());
    }

    #[test]
    fn the_divisor_hides_behind_its_latch() {
        let (bench, _paper) = port(0);
        bench.outb(BASE + 3, LCR_DLAB | 3);
        bench.outb(BASE, 0x34);
        bench.outb(BASE + 1, 0x12);
        bench.outb(BASE + 3, 3);
        assert_eq!(bench.device.state().divisor, 0x1234);
        assert_eq!(bench.inb(BASE + 1), 0);
    }

    #[test]
    fn a_loaded_port_drives_its_line_when_asked() {
        let (bench, _paper) = port(0);
        bench.device.state.lock().ier = ier::TRANSMIT_EMPTY;
        bench.device.state.lock().transmit_pending = true;
        bench.device.drive_lines();
        assert_eq!(last_level(&bench), Some(true));
    }

    #[test]
    fn reset_forgets_everything_and_lowers_the_line() {
        let (bench, _paper) = port(0);
        bench.outb(BASE + 1, ier::TRANSMIT_EMPTY);
        reset_tree(bench.device.object(), ResetKind::Cold);
        assert_eq!(bench.device.state(), SerialState::default());
        assert_eq!(last_level(&bench), Some(false));
    }

    #[test]
    fn a_port_that_is_gone_takes_no_input_and_harms_nobody() {
        let (bench, _paper) = port(0);
        let frontend = Serial16550::frontend(&bench.device);
        unrealize_device(bench.device.object());
        assert_eq!(frontend.receive(b"x"), 1);
    }
}
