//! The serial console: lines out, characters in.
//!
//! The transmitter holds 16 bytes, so a line costs two exits for each 16 bytes: one to see that it is empty and one
//! for `rep outsb`. Every processor may print; a line is never torn.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use crate::ports;

const BASE: u16 = 0x3f8;
const DATA: u16 = BASE;
const INTERRUPT_ENABLE: u16 = BASE + 1;
const FIFO_CONTROL: u16 = BASE + 2;
const LINE_CONTROL: u16 = BASE + 3;
const MODEM_CONTROL: u16 = BASE + 4;
const LINE_STATUS: u16 = BASE + 5;

const FIFO_ENABLE_AND_CLEAR: u8 = 0x07;
const RECEIVED_DATA_INTERRUPT: u8 = 0x01;
const EIGHT_BITS_NO_PARITY: u8 = 0x03;
/// DTR, RTS, and OUT2, which lets the interrupt through.
const MODEM_READY: u8 = 0x0b;
const DATA_READY: u8 = 0x01;
const TRANSMITTER_EMPTY: u8 = 0x20;
const FIFO_BYTES: usize = 16;

static BUSY: AtomicBool = AtomicBool::new(false);

/// The first bytes out, before anything else is set up: uses nothing but the stack, and the transmitter is empty.
pub fn announce() {
    ports::write(FIFO_CONTROL, FIFO_ENABLE_AND_CLEAR);
    ports::write_all(DATA, b"tern-guest\n");
}

/// Lets the port receive by interrupt.
pub fn enable_input() {
    ports::write(LINE_CONTROL, EIGHT_BITS_NO_PARITY);
    ports::write(MODEM_CONTROL, MODEM_READY);
    ports::write(INTERRUPT_ENABLE, RECEIVED_DATA_INTERRUPT);
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
    while BUSY.swap(true, Ordering::Acquire) {
        core::hint::spin_loop();
    }
    for chunk in bytes.chunks(FIFO_BYTES) {
        while ports::read(LINE_STATUS) & TRANSMITTER_EMPTY == 0 {
            core::hint::spin_loop();
        }
        ports::write_all(DATA, chunk);
    }
    BUSY.store(false, Ordering::Release);
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
