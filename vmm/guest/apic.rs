//! The interrupt controllers, driven from ring 3 through their memory.

use core::ptr;
use core::sync::atomic::Ordering;

use crate::cpu::Cpu;
use crate::interrupts::{SPURIOUS, TIMER};
use crate::memory::{IO_APIC, LOCAL_APIC};

const LOCAL: usize = LOCAL_APIC as usize;
const ID: usize = 0x20;
const TASK_PRIORITY: usize = 0x80;
const LOGICAL_DESTINATION: usize = 0xd0;
const DESTINATION_FORMAT: usize = 0xe0;
const SPURIOUS_VECTOR: usize = 0xf0;
const COMMAND_LOW: usize = 0x300;
const COMMAND_HIGH: usize = 0x310;
const LINT0: usize = 0x350;
const LVT_TIMER: usize = 0x320;
const INITIAL_COUNT: usize = 0x380;
const CURRENT_COUNT: usize = 0x390;
const DIVIDE: usize = 0x3e0;

/// Interrupts of the local APIC itself that are not used.
const IDLE_INTERRUPTS: [(&str, usize); 5] = [
    ("lint0", LINT0),
    ("lint1", 0x360),
    ("error", 0x370),
    ("thermal", 0x330),
    ("performance", 0x340),
];
const IDLE_VECTOR: u32 = 0x70;
/// A priority that holds back only vectors of exceptions.
const BELOW_ALL_VECTORS: u32 = 0x10;

const SOFTWARE_ENABLE: u32 = 0x100;
const MASKED: u32 = 1 << 16;
const PERIODIC: u32 = 1 << 17;
/// Delivered as the 8259 says.
const EXTERNAL: u32 = 7 << 8;
const TSC_DEADLINE: u32 = 2 << 17;
const DIVIDE_BY_ONE: u32 = 0xb;
const SEND_PENDING: u32 = 1 << 12;
const ASSERT: u32 = 1 << 14;
const INIT: u32 = 5 << 8;
const STARTUP: u32 = 6 << 8;

const IO_SELECT: usize = IO_APIC as usize;
const IO_WINDOW: usize = IO_SELECT + 0x10;
const IO_REDIRECTION: u32 = 0x10;
/// Inputs of the I/O APIC.
pub const IO_PINS: u32 = 24;
/// Registers of the I/O APIC.
pub const IO_REGISTERS: u32 = IO_REDIRECTION + 2 * IO_PINS;
const LEVEL_TRIGGERED: u32 = 1 << 15;
const ACTIVE_LOW: u32 = 1 << 13;
const REMOTE_PENDING: u32 = 1 << 14;

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

/// Makes the local APIC of this processor take part. What it does not use gets values that can be told from none. The
/// first processor takes the interrupts of the 8259.
pub fn enable(index: u32) {
    for (number, (_, register)) in (0..).zip(IDLE_INTERRUPTS) {
        write(LOCAL + register, MASKED | (IDLE_VECTOR + number));
    }
    if index == 0 {
        write(LOCAL + LINT0, EXTERNAL);
    }
    write(LOCAL + DESTINATION_FORMAT, u32::MAX);
    write(LOCAL + LOGICAL_DESTINATION, 1 << (24 + index % 8));
    write(LOCAL + TASK_PRIORITY, BELOW_ALL_VECTORS);
    write(LOCAL + SPURIOUS_VECTOR, SOFTWARE_ENABLE | u32::from(SPURIOUS));
}

/// The registers that keep what is written to them, by name.
pub fn registers() -> impl Iterator<Item = (&'static str, u32)> {
    let used = [
        ("id", ID),
        ("task priority", TASK_PRIORITY),
        ("logical destination", LOGICAL_DESTINATION),
        ("destination format", DESTINATION_FORMAT),
        ("spurious vector", SPURIOUS_VECTOR),
        ("timer", LVT_TIMER),
        ("initial count", INITIAL_COUNT),
        ("divide", DIVIDE),
    ];
    used.into_iter()
        .chain(IDLE_INTERRUPTS)
        .map(|(name, register)| (name, read(LOCAL + register) & !SEND_PENDING))
}

/// Starts the timer of this processor. `period_ns` is what KVM's timer, which counts nanoseconds, makes of it.
pub fn start_timer(period_ns: u32) {
    write(LOCAL + DIVIDE, DIVIDE_BY_ONE);
    write(LOCAL + LVT_TIMER, PERIODIC | u32::from(TIMER));
    write(LOCAL + INITIAL_COUNT, period_ns);
}

/// Has the timer of this processor interrupt when the TSC reaches a deadline.
pub fn set_timer_to_deadline() {
    write(LOCAL + LVT_TIMER, TSC_DEADLINE | u32::from(TIMER));
}

/// What the timer has left to count.
pub fn timer_count() -> u32 {
    read(LOCAL + CURRENT_COUNT)
}

fn command(from: &Cpu, to: &Cpu, command: u32) {
    while read(LOCAL + COMMAND_LOW) & SEND_PENDING != 0 {
        core::hint::spin_loop();
    }
    let (high, low) = (to.apic_id.load(Ordering::Relaxed) << 24, ASSERT | command);
    write(LOCAL + COMMAND_HIGH, high);
    write(LOCAL + COMMAND_LOW, low);
    from.last_command
        .store(u64::from(high) << 32 | u64::from(low), Ordering::Relaxed);
}

/// The command that this processor sent last, as its local APIC has it.
pub fn last_command() -> u64 {
    u64::from(read(LOCAL + COMMAND_HIGH)) << 32 | u64::from(read(LOCAL + COMMAND_LOW) & !SEND_PENDING)
}

/// Interrupts another processor; `from` runs this.
pub fn send(from: &Cpu, to: &Cpu, vector: u8) {
    command(from, to, u32::from(vector));
}

/// Resets another processor, so that it waits for a start.
pub fn send_init(from: &Cpu, to: &Cpu) {
    command(from, to, INIT);
}

/// Starts a processor that waits, in real mode at `page`.
pub fn send_startup(from: &Cpu, to: &Cpu, page: u8) {
    command(from, to, STARTUP | u32::from(page));
}

/// Sends an input of the I/O APIC to a processor, edge-triggered.
pub fn route(pin: u32, vector: u8, to: &Cpu) {
    write_io(IO_REDIRECTION + 2 * pin + 1, to.apic_id.load(Ordering::Relaxed) << 24);
    write_io(IO_REDIRECTION + 2 * pin, u32::from(vector));
}

/// Masks an input of the I/O APIC that is not used, with a setting that can be told from none.
pub fn prepare_input(pin: u32) {
    write_io(
        IO_REDIRECTION + 2 * pin,
        MASKED | LEVEL_TRIGGERED | ACTIVE_LOW | (IDLE_VECTOR + pin % 8),
    );
    write_io(IO_REDIRECTION + 2 * pin + 1, (pin + 1) << 24);
}

/// A register of the I/O APIC, without what comes and goes.
pub fn read_io(number: u32) -> u32 {
    write(IO_SELECT, number);
    let transient = if number >= IO_REDIRECTION && number.is_multiple_of(2) {
        SEND_PENDING | REMOTE_PENDING
    } else {
        0
    };
    read(IO_WINDOW) & !transient
}

/// The number of the register that is selected.
pub fn io_selection() -> u32 {
    read(IO_SELECT)
}

fn write_io(number: u32, value: u32) {
    write(IO_SELECT, number);
    write(IO_WINDOW, value);
}
