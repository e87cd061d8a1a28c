//! How the boot processor stands at the entry of a kernel that is booted directly, without firmware.

use super::cpu_state::{CpuState, DescriptorTable, SegmentRegister};

/// Selector of the 64-bit code segment that Linux expects (`__BOOT_CS`).
const LINUX_CODE: u16 = 0x10;
/// Selector of the data segment that Linux expects (`__BOOT_DS`).
const LINUX_DATA: u16 = 0x18;

/// CR0: protected mode, and the bit that is always set.
const CR0_PROTECTED: u64 = 0x11;
/// CR0: paging.
const CR0_PAGING: u64 = 1 << 31;
/// CR4: page tables with entries of eight bytes.
const CR4_PAE: u64 = 1 << 5;
/// EFER: long mode is enabled and active.
const EFER_LONG_MODE: u64 = (1 << 8) | (1 << 10);

/// The descriptor table that goes with [`BootEntry::Linux64`]: nothing, nothing, code, data, and a TSS of two entries.
pub const LINUX_DESCRIPTORS: [u64; 6] = [
    0,
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x0000_8b00_0000_0067,
    0,
];

/// Where the boot processor starts, by which protocol, and the guest-physical addresses of what it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootEntry {
    /// PVH (Xen, "x86/HVM direct boot ABI"): 32-bit protected mode without paging.
    Pvh {
        /// EIP.
        entry: u64,
        /// EBX: the start information.
        start_info: u64,
    },
    /// The 64-bit entry of Linux (`Documentation/x86/boot.rst`, "64-bit boot protocol"): long mode, what is needed at
    /// first mapped one to one.
    Linux64 {
        /// RIP.
        entry: u64,
        /// RSI: `boot_params`, the "zero page".
        zero_page: u64,
        /// CR3.
        page_tables: u64,
        /// GDTR: where [`LINUX_DESCRIPTORS`] lies.
        descriptors: u64,
    },
}

impl BootEntry {
    /// The boot processor's state: that after a reset, but for what the protocol says. Interrupts are off.
    #[must_use]
    pub fn cpu_state(&self) -> CpuState {
        match *self {
            Self::Pvh { entry, start_info } => pvh(entry, start_info),
            Self::Linux64 {
                entry,
                zero_page,
                page_tables,
                descriptors,
            } => {
                let mut state = linux64(entry, zero_page);
                state.system.cr3 = page_tables;
                state.system.gdt = DescriptorTable {
                    base: descriptors,
                    limit: u16::try_from(size_of_val(&LINUX_DESCRIPTORS) - 1).expect("a few descriptors"),
                };
                state
            }
        }
    }
}

fn pvh(entry: u64, start_info: u64) -> CpuState {
    let mut state = CpuState::reset(true);
    set_segments(
        &mut state,
        SegmentRegister::flat_32(0x8, true),
        &SegmentRegister::flat_32(0x10, false),
        0x18,
    );
    state.system.cr0 = CR0_PROTECTED;
    state.general.rip = entry;
    state.general.rbx = start_info;
    state
}

fn linux64(entry: u64, zero_page: u64) -> CpuState {
    let mut state = CpuState::reset(true);
    let code = SegmentRegister {
        big: false,
        long: true,
        ..SegmentRegister::flat_32(LINUX_CODE, true)
    };
    set_segments(&mut state, code, &SegmentRegister::flat_32(LINUX_DATA, false), 0x20);
    state.system.cr0 = CR0_PROTECTED | CR0_PAGING;
    state.system.cr4 = CR4_PAE;
    state.system.efer = EFER_LONG_MODE;
    state.general.rip = entry;
    state.general.rsi = zero_page;
    state
}

fn set_segments(state: &mut CpuState, code: SegmentRegister, data: &SegmentRegister, task: u16) {
    let system = &mut state.system;
    system.cs = code;
    for register in [
        &mut system.ds,
        &mut system.es,
        &mut system.fs,
        &mut system.gs,
        &mut system.ss,
    ] {
        *register = data.clone();
    }
    // A busy TSS, which PVH asks for and no processor runs without.
    system.tr = SegmentRegister {
        selector: task,
        limit: 0x67,
        kind: 0xb,
        present: true,
        ..SegmentRegister::default()
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pvh_begins_in_flat_protected_mode_without_paging() {
        let state = BootEntry::Pvh {
            entry: 0x10_0000,
            start_info: 0x6000,
        }
        .cpu_state();
        assert_eq!((state.general.rip, state.general.rbx), (0x10_0000, 0x6000));
        assert_eq!((state.system.cr0, state.system.efer), (0x11, 0));
        assert!(state.system.cs.big && !state.system.cs.long);
        assert_eq!(state.general.rflags, 2, "interrupts are off");
    }

    #[test]
    fn linux_begins_in_long_mode_with_the_segments_that_the_table_has() {
        let state = BootEntry::Linux64 {
            entry: 0x100_0200,
            zero_page: 0x8000,
            page_tables: 0x9000,
            descriptors: 0x5000,
        }
        .cpu_state();
        assert_eq!((state.general.rip, state.general.rsi), (0x100_0200, 0x8000));
        assert_eq!((state.system.cr3, state.system.gdt.base), (0x9000, 0x5000));
        assert_eq!(state.system.gdt.limit, 47);
        assert_eq!(state.system.efer, 0x500);
        assert!(state.system.cs.long && !state.system.cs.big);
        for (selector, kind) in [(LINUX_CODE, 0xb), (LINUX_DATA, 0x3), (0x20, 0xb)] {
            let descriptor = LINUX_DESCRIPTORS[usize::from(selector / 8)];
            assert_eq!((descriptor >> 40) & 0xf, kind, "selector {selector:#x}");
        }
    }
}
