//! Port I/O, which the I/O bitmap of the TSS allows ring 3 to do, and the two ports that end the program.

use core::arch::asm;

/// Exit status of a guest that met an exception, or a fault of its own.
pub const EXIT_PANIC: u8 = 101;

const TEST_EXIT: u16 = 0xf4;
const KEYBOARD_COMMAND: u16 = 0x64;
const PULSE_RESET: u8 = 0xfe;

/// Reads a byte.
pub fn read(port: u16) -> u8 {
    let value: u8;
    // SAFETY: port I/O touches no memory, and the devices here do nothing to the program's memory either.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Writes a byte.
pub fn write(port: u16, value: u8) {
    // SAFETY: as for `read`.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) };
}

/// Writes several bytes to one port: one exit to the VMM for all of them.
pub fn write_all(port: u16, bytes: &[u8]) {
    // SAFETY: reads exactly the bytes of the slice.
    unsafe {
        asm!(
            "rep outsb",
            in("dx") port, inout("rsi") bytes.as_ptr() => _, inout("rcx") bytes.len() => _,
            options(readonly, nostack, preserves_flags),
        );
    }
}

/// Ends the guest with an exit status.
pub fn exit(status: u8) -> ! {
    write(TEST_EXIT, status);
    stop()
}

/// Resets the machine through the keyboard controller.
pub fn reset() -> ! {
    write(KEYBOARD_COMMAND, PULSE_RESET);
    stop()
}

/// What remains where the machine has neither port: nothing more happens.
fn stop() -> ! {
    loop {
        core::hint::spin_loop();
    }
}
