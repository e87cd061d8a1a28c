//! The interrupt controllers, driven from ring 3 through their memory.

use core::ptr;

use crate::interrupts::{SPURIOUS, TIMER};
use crate::ports;

const LOCAL: usize = 0xfee0_0000;
const ID: usize = 0x20;
const TASK_PRIORITY: usize = 0x80;
const LOGICAL_DESTINATION: usize = 0xd0;
const DESTINATION_FORMAT: usize = 0xe0;
const SPURIOUS_VECTOR: usize = 0xf0;
const COMMAND_LOW: usize = 0x300;
const COMMAND_HIGH: usize = 0x310;
const LVT_TIMER: usize = 0x320;
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
const LVT_ERROR: usize = 0x370;
const INITIAL_COUNT: usize = 0x380;
const CURRENT_COUNT: usize = 0x390;
const DIVIDE: usize = 0x3e0;

const SOFTWARE_ENABLE: u32 = 0x100;
const MASKED: u32 = 1 << 16;
const PERIODIC: u32 = 1 << 17;
const DIVIDE_BY_ONE: u32 = 0xb;
const SEND_PENDING: u32 = 1 << 12;
const ASSERT: u32 = 1 << 14;
const INIT: u32 = 5 << 8;
const STARTUP: u32 = 6 << 8;

const IO_SELECT: usize = 0xfec0_0000;
const IO_WINDOW: usize = 0xfec0_0010;
const IO_REDIRECTION: u32 = 0x10;

const PIC_MASKS: [u16; 2] = [0x21, 0xa1];

const PIT_CHANNEL_0: u16 = 0x40;
const PIT_CONTROL: u16 = 0x43;
const PIT_RATE_GENERATOR: u8 = 0x34;
const PIT_HZ: u32 = 1_193_182;

fn read(register: usize) -> u32 {
    // SAFETY: the registers are mapped for ring 3 (boot.rs), and reading one has no effect on memory.
    unsafe { ptr::with_exposed_provenance::<u32>(register).read_volatile() }
}

fn write(register: usize, value: u32) {
    // SAFETY: as for `read`; what the callers write has no effect on memory.
    unsafe { ptr::with_exposed_provenance_mut::<u32>(register).write_volatile(value) }
}

/// The id of this processor's local APIC.
pub fn id() -> u32 {
    read(LOCAL + ID) >> 24
}

/// Makes the local APIC of this processor take part.
pub fn enable(index: u32) {
    write(LOCAL + LVT_LINT0, MASKED);
    write(LOCAL + LVT_LINT1, MASKED);
    write(LOCAL + LVT_ERROR, MASKED);
    write(LOCAL + DESTINATION_FORMAT, u32::MAX);
    write(LOCAL + LOGICAL_DESTINATION, 1 << (24 + index % 8));
    write(LOCAL + TASK_PRIORITY, 0);
    write(LOCAL + SPURIOUS_VECTOR, SOFTWARE_ENABLE | u32::from(SPURIOUS));
}

/// Starts the timer of this processor. `period_ns` is what KVM's timer, which counts nanoseconds, makes of it.
pub fn start_timer(period_ns: u32) {
    write(LOCAL + DIVIDE, DIVIDE_BY_ONE);
    write(LOCAL + LVT_TIMER, PERIODIC | u32::from(TIMER));
    write(LOCAL + INITIAL_COUNT, period_ns);
}

/// What the timer has left to count.
pub fn timer_count() -> u32 {
    read(LOCAL + CURRENT_COUNT)
}

fn command(apic_id: u32, command: u32) {
    while read(LOCAL + COMMAND_LOW) & SEND_PENDING != 0 {
        core::hint::spin_loop();
    }
    write(LOCAL + COMMAND_HIGH, apic_id << 24);
    write(LOCAL + COMMAND_LOW, ASSERT | command);
}

/// Interrupts another processor.
pub fn send(apic_id: u32, vector: u8) {
    command(apic_id, u32::from(vector));
}

/// Resets another processor, so that it waits for a start.
pub fn send_init(apic_id: u32) {
    command(apic_id, INIT);
}

/// Starts a processor that waits, in real mode at `page`.
pub fn send_startup(apic_id: u32, page: u8) {
    command(apic_id, STARTUP | u32::from(page));
}

/// Sends an input of the I/O APIC to a processor, edge-triggered.
pub fn route(pin: u32, vector: u8, apic_id: u32) {
    let entry = [(1, apic_id << 24), (0, u32::from(vector))];
    for (half, value) in entry {
        write(IO_SELECT, IO_REDIRECTION + 2 * pin + half);
        write(IO_WINDOW, value);
    }
}

/// Silences the two 8259: all interrupts come through the I/O APIC.
pub fn mask_legacy() {
    for port in PIC_MASKS {
        ports::write(port, 0xff);
    }
}

/// Lets the interval timer tick.
pub fn start_pit(hz: u32) {
    let [low, high, ..] = (PIT_HZ / hz).to_le_bytes();
    ports::write(PIT_CONTROL, PIT_RATE_GENERATOR);
    ports::write(PIT_CHANNEL_0, low);
    ports::write(PIT_CHANNEL_0, high);
}
