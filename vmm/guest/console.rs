//! The serial console: lines out, characters in.
//!
//! The transmitter holds 16 bytes, so a line costs two exits for each 16 bytes: one to see that it is empty and one
//! for `rep outsb`. Every processor may print; a line is never torn.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use crate::ports;
use crate::ring0;

const BASE: u16 = 0x3f8;
const DATA: u16 = BASE;
const INTERRUPT_ENABLE: u16 = BASE + 1;
const FIFO_CONTROL: u16 = BASE + 2;
const LINE_CONTROL: u16 = BASE + 3;
const MODEM_CONTROL: u16 = BASE + 4;
const LINE_STATUS: u16 = BASE + 5;
const MODEM_STATUS: u16 = BASE + 6;
const SCRATCH: u16 = BASE + 7;

const FIFO_ENABLE_AND_CLEAR: u8 = 0x07;
const RECEIVED_DATA_INTERRUPT: u8 = 0x01;
const EIGHT_BITS_NO_PARITY: u8 = 0x03;
/// DTR, RTS, and OUT2, which lets the interrupt through.
const MODEM_READY: u8 = 0x0b;
const DATA_READY: u8 = 0x01;
const TRANSMITTER_EMPTY: u8 = 0x20;
const FIFO_BYTES: usize = 16;
/// A transmitter that is still busy after so many looks is looked at again at the next interrupt only.
const PATIENT_LOOKS: u32 = 64;
/// In the line control register: the first two ports show the divisor.
const DIVISOR_LATCH: u8 = 0x80;
/// 9600 baud, not that anything depended on it.
const DIVISOR_LOW: u8 = 12;
const DIVISOR_HIGH: u8 = 0;
const SCRATCH_KEPT: u8 = 0x5a;
/// In the interrupt identification register, at the port of the FIFO control.
const FIFOS_ENABLED: u8 = 0xc0;
/// In the modem status register: the lines' levels, not their changes.
const MODEM_LINES: u8 = 0xf0;

static BUSY: AtomicBool = AtomicBool::new(false);

/// The first bytes out, before anything else is set up: uses nothing but the stack, and the transmitter is empty.
pub fn announce() {
    ports::write(FIFO_CONTROL, FIFO_ENABLE_AND_CLEAR);
    ports::write_all(DATA, b"tern-guest\n");
}

/// Sets the port up, reception by interrupt included. Registers without a use get something to keep.
pub fn prepare() {
    let _guard = lock();
    ports::write(LINE_CONTROL, EIGHT_BITS_NO_PARITY | DIVISOR_LATCH);
    ports::write(DATA, DIVISOR_LOW);
    ports::write(INTERRUPT_ENABLE, DIVISOR_HIGH);
    ports::write(LINE_CONTROL, EIGHT_BITS_NO_PARITY);
    ports::write(MODEM_CONTROL, MODEM_READY);
    ports::write(SCRATCH, SCRATCH_KEPT);
    ports::write(INTERRUPT_ENABLE, RECEIVED_DATA_INTERRUPT);
}

/// The registers that keep what was written to them, by name.
pub fn registers() -> [(&'static str, u8); 8] {
    let _guard = lock();
    let interrupt_enable = ports::read(INTERRUPT_ENABLE);
    let line_control = ports::read(LINE_CONTROL);
    ports::write(LINE_CONTROL, line_control | DIVISOR_LATCH);
    let divisor = [ports::read(DATA), ports::read(INTERRUPT_ENABLE)];
    ports::write(LINE_CONTROL, line_control);
    [
        ("interrupt enable", interrupt_enable),
        ("line control", line_control),
        ("divisor low", divisor[0]),
        ("divisor high", divisor[1]),
        ("fifos enabled", ports::read(FIFO_CONTROL) & FIFOS_ENABLED),
        ("modem control", ports::read(MODEM_CONTROL)),
        ("modem status", ports::read(MODEM_STATUS) & MODEM_LINES),
        ("scratch", ports::read(SCRATCH)),
    ]
}

/// Whether a character waits.
pub fn has_input() -> bool {
    ports::read(LINE_STATUS) & DATA_READY != 0
}

/// The next character that was received.
pub fn read() -> Option<u8> {
    has_input().then(|| ports::read(DATA))
}

/// Writes bytes, waiting while the console does not take them.
pub fn write(bytes: &[u8]) {
    let _guard = lock();
    for chunk in bytes.chunks(FIFO_BYTES) {
        let mut looks = 0;
        while ports::read(LINE_STATUS) & TRANSMITTER_EMPTY == 0 {
            looks += 1;
            if looks > PATIENT_LOOKS {
                ring0::halt();
            }
        }
        ports::write_all(DATA, chunk);
    }
}

/// The port belongs to the holder.
struct Lock;

fn lock() -> Lock {
    while BUSY.swap(true, Ordering::Acquire) {
        core::hint::spin_loop();
    }
    Lock
}

impl Drop for Lock {
    fn drop(&mut self) {
        BUSY.store(false, Ordering::Release);
    }
}

/// Lets the next line out whoever was printing: the program ends, maybe in the middle of a line.
pub fn seize() {
    BUSY.store(false, Ordering::Release);
}

/// A line being put together; what does not fit is cut off.
pub struct Line {
    bytes: [u8; 192],
    length: usize,
}

impl Line {
    /// Formats and writes one line.
    pub fn print(arguments: fmt::Arguments<'_>) {
        let mut line = Line {
            bytes: [0; 192],
            length: 0,
        };
        // A line that is cut off is still worth printing.
        let _ = line.write_fmt(arguments);
        line.bytes[line.length] = b'\n';
        write(&line.bytes[..=line.length]);
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.bytes.len() - 1;
        let room = &mut self.bytes[self.length..end];
        let taken = text.len().min(room.len());
        room[..taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.length += taken;
        if taken == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// Prints one line.
macro_rules! line {
    ($($argument:tt)*) => { $crate::console::Line::print(format_args!($($argument)*)) };
}
pub(crate) use line;
