//! The interrupt controllers, driven from ring 3 through their memory.

use core::ptr;
use core::sync::atomic::Ordering;

use crate::cpu::Cpu;
use crate::interrupts::{SPURIOUS, TIMER};
use crate::memory::{IO_APIC, LOCAL_APIC};
use crate::ports;

const LOCAL: usize = LOCAL_APIC as usize;
const ID: usize = 0x20;
const TASK_PRIORITY: usize = 0x80;
const LOGICAL_DESTINATION: usize = 0xd0;
const DESTINATION_FORMAT: usize = 0xe0;
const SPURIOUS_VECTOR: usize = 0xf0;
const COMMAND_LOW: usize = 0x300;
const COMMAND_HIGH: usize = 0x310;
const LVT_TIMER: usize = 0x320;
const INITIAL_COUNT: usize = 0x380;
const CURRENT_COUNT: usize = 0x390;
const DIVIDE: usize = 0x3e0;

/// Interrupts of the local APIC itself that are not used.
const IDLE_INTERRUPTS: [(&str, usize); 5] = [
    ("lint0", 0x350),
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
const DIVIDE_BY_ONE: u32 = 0xb;
const SEND_PENDING: u32 = 1 << 12;
const ASSERT: u32 = 1 << 14;
const INIT: u32 = 5 << 8;
const STARTUP: u32 = 6 << 8;

const IO_SELECT: usize = IO_APIC as usize;
const IO_WINDOW: usize = IO_SELECT + 0x10;
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

/// Makes the local APIC of this processor take part. What it does not use gets values that can be told from none.
pub fn enable(index: u32) {
    for (number, (_, register)) in (0..).zip(IDLE_INTERRUPTS) {
        write(LOCAL + register, MASKED | (IDLE_VECTOR + number));
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
