//! The registers of a processor that nothing here needs: they get distinctive values, which must stay.
//!
//! What a virtual machine's state holds for system calls, breakpoints or memory types is idle in this program. So it can
//! be filled with anything, and whoever loses it is found out at the next verification.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::apic;
use crate::cpu::Cpu;
use crate::ledger::Ledger;
use crate::ring0::{self, Idle};

/// What a model-specific register is set to.
#[derive(Clone, Copy)]
enum Value {
    /// As it is.
    Given,
    /// The same on all processors.
    Same(u64),
    /// With the number of the processor added.
    Own(u64),
}
use Value::{Given, Own, Same};

/// One that the processor refuses is left out; one that keeps less than was written is expected to go on keeping that.
const MSRS: [(&str, u32, Value); 31] = [
    ("misc_enable", 0x1a0, Given),
    ("apic_base", 0x1b, Given),
    ("tsc_adjust", 0x3b, Given),
    ("efer", 0xc000_0080, Given),
    ("kvm_system_time", 0x4b56_4d01, Given),
    ("kvm_wall_clock", 0x4b56_4d00, Given),
    ("pat", 0x277, Same(0x0105_0406_0007_0406)),
    ("sysenter_cs", 0x174, Own(0x1170)),
    ("sysenter_esp", 0x175, Own(0x1175_0000)),
    ("sysenter_eip", 0x176, Own(0x1176_0000)),
    ("star", 0xc000_0081, Own(0x0018_0010_0000_0000)),
    ("lstar", 0xc000_0082, Own(0xffff_8000_c082_0000)),
    ("cstar", 0xc000_0083, Own(0xffff_8000_c083_0000)),
    ("sfmask", 0xc000_0084, Same(0x0004_7700)),
    ("fs_base", 0xc000_0100, Own(0x0000_7000_c100_0000)),
    ("gs_base", 0xc000_0101, Own(0x0000_7000_c101_0000)),
    ("kernel_gs_base", 0xc000_0102, Own(0x0000_7000_c102_0000)),
    ("tsc_aux", 0xc000_0103, Own(0xc103_0000)),
    ("umwait_control", 0xe1, Same(0x0001_0000)),
    ("mtrr_fix", 0x250, WRITE_BACK),
    ("mtrr_fix", 0x258, WRITE_BACK),
    ("mtrr_fix", 0x259, WRITE_BACK),
    ("mtrr_fix", 0x268, WRITE_BACK),
    ("mtrr_fix", 0x269, WRITE_BACK),
    ("mtrr_fix", 0x26a, WRITE_BACK),
    ("mtrr_fix", 0x26b, WRITE_BACK),
    ("mtrr_fix", 0x26c, WRITE_BACK),
    ("mtrr_fix", 0x26d, WRITE_BACK),
    ("mtrr_fix", 0x26e, WRITE_BACK),
    ("mtrr_fix", 0x26f, WRITE_BACK),
    ("mtrr_def_type", 0x2ff, Same(0xc06)),
];

/// The type of eight ranges.
const WRITE_BACK: Value = Same(0x0606_0606_0606_0606);

const MTRR_CAPABILITIES: u32 = 0xfe;
const MTRR_BASE_0: u32 = 0x200;
/// Uncacheable ranges of 16 MiB in the hole for devices, and the mask for them, valid.
const MTRR_HOLE: u64 = 0xc000_0000;
const MTRR_RANGE: u64 = 16 << 20;
const MTRR_MASK: u64 = 0xf_ff00_0800;

const KVM_WALL_CLOCK: u32 = 0x4b56_4d00;

/// Where the hypervisor writes the wall-clock time of the start.
static WALL_CLOCK: [AtomicU32; 3] = [const { AtomicU32::new(0) }; 3];

/// Gives the registers their values. `has_kvmclock`: whether there are those of the hypervisor.
pub fn prepare(cpu: &Cpu, has_kvmclock: bool) {
    let index = u64::from(cpu.index());
    let write = |register, value| {
        // SAFETY: none of the registers above is used here: no system calls, no use of the segments' bases; the
        // memory types are those in force already, or of addresses without memory; the wall clock is only read.
        unsafe { ring0::write_msr(register, value) };
    };
    if has_kvmclock {
        write(KVM_WALL_CLOCK, WALL_CLOCK.as_ptr() as u64);
    }
    for number in 0..variable_ranges() {
        write(MTRR_BASE_0 + 2 * number, MTRR_HOLE + u64::from(number) * MTRR_RANGE);
        write(MTRR_BASE_0 + 2 * number + 1, MTRR_MASK);
    }
    for (_, register, value) in MSRS {
        match value {
            Given => {}
            Same(value) => write(register, value),
            Own(value) => write(register, value + index),
        }
    }
    let breakpoint = |number: u64| 0x0000_7000_0d00_0000 + number * 0x1000 + index;
    let idle = Idle {
        cr2: 0x0000_7000_0c02_0000 + index,
        // DR6: as if breakpoints 0 and 2 had been hit; DR7: kinds and lengths, but nothing enabled.
        debug: [
            breakpoint(0),
            breakpoint(1),
            breakpoint(2),
            breakpoint(3),
            0xffff_0ff5,
            0xd515_0400,
        ],
    };
    // SAFETY: none is enabled.
    unsafe { ring0::write_idle(&idle) }
}

/// Ranges of memory types that the processor has.
fn variable_ranges() -> u32 {
    ring0::read_msr(MTRR_CAPABILITIES)
        .map_or(0, |capabilities| capabilities as u32 & 0xff)
        .min(8)
}

/// Enters all registers into the ledger.
pub fn look(ledger: &mut Ledger, cpu: &Cpu) {
    ledger.begin();
    let system = ring0::read_system();
    for (number, value) in [0, 2, 3, 4].into_iter().zip(system.control) {
        ledger.see(format_args!("cr{number}"), value);
    }
    for (number, value) in [0, 1, 2, 3, 6, 7].into_iter().zip(system.debug) {
        ledger.see(format_args!("dr{number}"), value);
    }
    for (name, [limit_and_base, base]) in ["gdt", "idt"].into_iter().zip(system.tables) {
        ledger.see(format_args!("{name} limit and base"), limit_and_base);
        ledger.see(format_args!("{name} base"), base);
    }
    for (name, selector) in ["tr", "ldtr", "ds", "es", "fs", "gs"].into_iter().zip(system.selectors) {
        ledger.see(format_args!("{name}"), selector);
    }
    for (name, register, _) in MSRS {
        // One that cannot be read stays so.
        ledger.see(
            format_args!("{name} {register:#x}"),
            ring0::read_msr(register).unwrap_or(u64::MAX),
        );
    }
    for register in MTRR_BASE_0..MTRR_BASE_0 + 2 * variable_ranges() {
        ledger.see(
            format_args!("mtrr_phys {register:#x}"),
            ring0::read_msr(register).unwrap_or(u64::MAX),
        );
    }
    for (name, value) in apic::registers() {
        ledger.see(format_args!("apic {name}"), value);
    }
    let sent = cpu.last_command.load(Ordering::Relaxed);
    ledger.see(
        format_args!("apic command (differing bits)"),
        apic::last_command() ^ sent,
    );
}
