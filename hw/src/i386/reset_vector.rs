//! Where firmware is entered after a reset, a machine without firmware has code that resets it.
//!
//! Linux restarts by way of F000:FFF0 in real mode when it has nothing better. With hardware-reduced ACPI it counts on EFI to
//! restart it, asks neither the reset register nor the keyboard controller, and without EFI ends here (`reboot_init` and
//! `native_machine_emergency_restart` in `arch/x86/kernel/reboot.c`).

use super::i8042;

/// The real-mode code, to lie at [`super::microvm::layout::RESET_VECTOR`]: it has the keyboard controller pull the reset
/// line, and waits for that.
pub const CODE: [u8; 8] = {
    const CLI: u8 = 0xfa;
    const MOV_AL: u8 = 0xb0;
    const OUT_AL: u8 = 0xe6;
    const HLT: u8 = 0xf4;
    const JMP: u8 = 0xeb;
    const BACK_TO_HLT: u8 = 0xfd;
    [
        CLI,
        MOV_AL,
        i8042::command::PULSE_RESET,
        OUT_AL,
        i8042::COMMAND,
        HLT,
        JMP,
        BACK_TO_HLT,
    ]
};

#[cfg(test)]
mod tests {
    use super::super::microvm::layout;
    use super::super::mptable;
    use super::*;

    #[test]
    fn the_code_lies_at_f000_fff0_behind_the_tables() {
        assert_eq!(layout::RESET_VECTOR, (0xf000 << 4) + 0xfff0);
        let end = layout::RESET_VECTOR + u32::try_from(CODE.len()).expect("short");
        assert!(u64::from(end) <= layout::EXTENDED);
        let most = u8::try_from(layout::MAX_CPUS).expect("8-bit APIC ids");
        let table = u32::try_from(mptable::build(layout::MP_TABLE, most).len()).expect("short");
        assert!(layout::MP_TABLE + table <= layout::RESET_VECTOR);
    }
}
