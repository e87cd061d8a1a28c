//! The model-specific registers that are a vCPU's state, by name.
//!
//! Which of them a VM has follows from what its CPUID table offers, and not from what the host's kernel happens to list:
//! so the set is the same on both sides of a migration. EFER, the APIC base and the segment bases stand with the system
//! registers in [`super::cpu`], the TSC in [`crate::timer::clock`], the TSC deadline with the local APIC's timer.

use vmstate::state::VmState;

use super::cpu_feature::CpuFeature;
use super::cpuid::CpuidTable;

/// When a VM has a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsrNeed {
    /// Whatever the model.
    Always,
    /// If the model offers any of these features.
    AnyOf(&'static [&'static str]),
    /// If the model's vendor is this.
    Vendor(&'static [u8; 12]),
}

/// A row of the table of registers.
pub struct MsrRow {
    /// The name, that of the field in [`MsrState`].
    pub name: &'static str,
    /// The register's number.
    pub index: u32,
    /// When a VM has it.
    pub need: MsrNeed,
    /// What the register holds, and where in the order of rows it stands for a reason, why.
    pub reason: &'static str,
    /// Reads the field.
    pub get: fn(&MsrState) -> u64,
    /// Writes the field.
    pub set: fn(&mut MsrState, u64),
}

impl MsrRow {
    /// Whether a VM with this table has the register.
    #[must_use]
    pub fn is_needed(&self, cpuid: &CpuidTable) -> bool {
        match self.need {
            MsrNeed::Always => true,
            MsrNeed::AnyOf(names) => names
                .iter()
                .filter_map(|name| CpuFeature::named(name))
                .any(|feature| cpuid.has(feature)),
            MsrNeed::Vendor(vendor) => cpuid.vendor() == *vendor,
        }
    }
}

/// The register of [`MsrState::misc_enable`].
pub const MISC_ENABLE: u32 = 0x1a0;

/// The rows that a VM with this table has, in the order in which they are read and written.
pub fn rows_for(cpuid: &CpuidTable) -> impl Iterator<Item = &'static MsrRow> {
    MSRS.iter().filter(|row| row.is_needed(cpuid))
}

const AMD: MsrNeed = MsrNeed::Vendor(b"AuthenticAMD");
const MTRR: MsrNeed = MsrNeed::AnyOf(&["mtrr"]);
const KVMCLOCK: MsrNeed = MsrNeed::AnyOf(&["kvmclock"]);
/// Any of the features that Intel and AMD have for the control of speculation.
const SPECULATION: MsrNeed = MsrNeed::AnyOf(&[
    "spec-ctrl",
    "stibp",
    "ssbd",
    "ibrs",
    "amd-stibp",
    "amd-ssbd",
    "amd-psfd",
    "psfd",
    "bhi-ctrl",
]);

/// Declares a field of [`MsrState`] and its row at once, so that neither can be forgotten.
macro_rules! msrs {
    ($($name:ident = $index:literal, $need:expr, $reset:expr, $reason:literal;)*) => {
        /// The values of the model-specific registers. One that the VM has not got has its reset value.
        #[derive(VmState, Clone, Debug, PartialEq)]
        pub struct MsrState {
            $(#[doc = $reason] pub $name: u64,)*
        }

        impl Default for MsrState {
            /// The values after reset.
            fn default() -> Self {
                Self { $($name: $reset,)* }
            }
        }

        impl MsrState {
            /// The values after a reset of a processor whose values were `before`: what it is immune against stays.
            #[must_use]
            pub fn reset(before: &Self) -> Self {
                Self { arch_capabilities: before.arch_capabilities, ..Self::default() }
            }
        }

        /// All registers, in the order in which they are read and written.
        pub const MSRS: &[MsrRow] = &[$(MsrRow {
            name: stringify!($name),
            index: $index,
            need: $need,
            reason: $reason,
            get: |state| state.$name,
            set: |state, value| state.$name = value,
        },)*];
    };
}

msrs! {
    arch_capabilities = 0x10a, MsrNeed::AnyOf(&["arch-capabilities"]), 0,
        "What the processor is immune against. First, as it decides which bits others may have.";
    misc_enable = 0x1a0, MsrNeed::Always, 1,
        "Switches of the processor, fast strings among them. What it is after reset differs between KVMs, so it is set.";
    hwcr = 0xc001_0015, AMD, 0, "AMD's hardware configuration.";
    pat = 0x277, MsrNeed::AnyOf(&["pat"]), 0x0007_0406_0007_0406, "The page attribute table.";
    sysenter_cs = 0x174, MsrNeed::AnyOf(&["sep"]), 0, "The code segment that SYSENTER loads.";
    sysenter_esp = 0x175, MsrNeed::AnyOf(&["sep"]), 0, "The stack that SYSENTER loads.";
    sysenter_eip = 0x176, MsrNeed::AnyOf(&["sep"]), 0, "The entry that SYSENTER jumps to.";
    star = 0xc000_0081, MsrNeed::AnyOf(&["syscall"]), 0, "The segments of SYSCALL and SYSRET.";
    lstar = 0xc000_0082, MsrNeed::AnyOf(&["syscall"]), 0, "The entry of SYSCALL from 64-bit code.";
    cstar = 0xc000_0083, MsrNeed::AnyOf(&["syscall"]), 0, "The entry of SYSCALL from 32-bit code.";
    sfmask = 0xc000_0084, MsrNeed::AnyOf(&["syscall"]), 0, "The flags that SYSCALL clears.";
    kernel_gs_base = 0xc000_0102, MsrNeed::AnyOf(&["lm"]), 0, "The base that SWAPGS swaps in.";
    tsc_aux = 0xc000_0103, MsrNeed::AnyOf(&["rdtscp", "rdpid"]), 0, "What RDTSCP and RDPID tell besides.";
    tsc_adjust = 0x3b, MsrNeed::AnyOf(&["tsc-adjust"]), 0, "What the guest has added to its TSC. It moves no TSC when a VMM writes it.";
    spec_ctrl = 0x48, SPECULATION, 0, "The guest's control of speculation.";
    virt_spec_ctrl = 0xc001_011f, MsrNeed::AnyOf(&["virt-ssbd"]), 0, "The same as a hypervisor offers it on AMD.";
    umwait_control = 0xe1, MsrNeed::AnyOf(&["waitpkg"]), 0, "How long UMWAIT may wait.";
    xss = 0xda0, MsrNeed::AnyOf(&["xsaves"]), 0, "The supervisor components of XSAVES.";
    debugctl = 0x1d9, MsrNeed::Always, 0, "Branch tracing and single-stepping of branches.";
    mtrr_phys_base_0 = 0x200, MTRR, 0, "Base of variable memory range 0.";
    mtrr_phys_mask_0 = 0x201, MTRR, 0, "Mask of variable memory range 0.";
    mtrr_phys_base_1 = 0x202, MTRR, 0, "Base of variable memory range 1.";
    mtrr_phys_mask_1 = 0x203, MTRR, 0, "Mask of variable memory range 1.";
    mtrr_phys_base_2 = 0x204, MTRR, 0, "Base of variable memory range 2.";
    mtrr_phys_mask_2 = 0x205, MTRR, 0, "Mask of variable memory range 2.";
    mtrr_phys_base_3 = 0x206, MTRR, 0, "Base of variable memory range 3.";
    mtrr_phys_mask_3 = 0x207, MTRR, 0, "Mask of variable memory range 3.";
    mtrr_phys_base_4 = 0x208, MTRR, 0, "Base of variable memory range 4.";
    mtrr_phys_mask_4 = 0x209, MTRR, 0, "Mask of variable memory range 4.";
    mtrr_phys_base_5 = 0x20a, MTRR, 0, "Base of variable memory range 5.";
    mtrr_phys_mask_5 = 0x20b, MTRR, 0, "Mask of variable memory range 5.";
    mtrr_phys_base_6 = 0x20c, MTRR, 0, "Base of variable memory range 6.";
    mtrr_phys_mask_6 = 0x20d, MTRR, 0, "Mask of variable memory range 6.";
    mtrr_phys_base_7 = 0x20e, MTRR, 0, "Base of variable memory range 7.";
    mtrr_phys_mask_7 = 0x20f, MTRR, 0, "Mask of variable memory range 7.";
    mtrr_fix_64k_00000 = 0x250, MTRR, 0, "Types of the first 512 KiB.";
    mtrr_fix_16k_80000 = 0x258, MTRR, 0, "Types of the 128 KiB at 0x80000.";
    mtrr_fix_16k_a0000 = 0x259, MTRR, 0, "Types of the 128 KiB at 0xa0000.";
    mtrr_fix_4k_c0000 = 0x268, MTRR, 0, "Types of the 32 KiB at 0xc0000.";
    mtrr_fix_4k_c8000 = 0x269, MTRR, 0, "Types of the 32 KiB at 0xc8000.";
    mtrr_fix_4k_d0000 = 0x26a, MTRR, 0, "Types of the 32 KiB at 0xd0000.";
    mtrr_fix_4k_d8000 = 0x26b, MTRR, 0, "Types of the 32 KiB at 0xd8000.";
    mtrr_fix_4k_e0000 = 0x26c, MTRR, 0, "Types of the 32 KiB at 0xe0000.";
    mtrr_fix_4k_e8000 = 0x26d, MTRR, 0, "Types of the 32 KiB at 0xe8000.";
    mtrr_fix_4k_f0000 = 0x26e, MTRR, 0, "Types of the 32 KiB at 0xf0000.";
    mtrr_fix_4k_f8000 = 0x26f, MTRR, 0, "Types of the 32 KiB at 0xf8000.";
    mtrr_def_type = 0x2ff, MTRR, 0, "The switch of the memory ranges, and the type outside them. After the ranges, as it puts them into force.";
    kvm_wall_clock = 0x4b56_4d00, KVMCLOCK, 0,
        "Where the guest asked for the wall-clock time of its start. KVM writes there whenever it is set, so RAM comes first.";
    kvm_system_time = 0x4b56_4d01, KVMCLOCK, 0,
        "Where KVM keeps kvmclock for this vCPU. KVM writes there before the next entry.";
    kvm_steal_time = 0x4b56_4d03, MsrNeed::AnyOf(&["kvm-steal-time"]), 0, "Where KVM accounts the time that the vCPU waited.";
    kvm_pv_eoi = 0x4b56_4d04, MsrNeed::AnyOf(&["kvm-pv-eoi"]), 0, "Where KVM and the guest settle ends of interrupts.";
}

#[cfg(test)]
mod tests {
    use super::super::cpuid::{CpuidEntry, LEAF_EXTENDED, LEAF_FEATURES};
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_row_reaches_its_own_field() {
        let mut state = MsrState::default();
        for (value, row) in (1..).zip(MSRS) {
            (row.set)(&mut state, value);
        }
        for (value, row) in (1..).zip(MSRS) {
            assert_eq!((row.get)(&state), value, "{}", row.name);
        }
        let indices: HashSet<_> = MSRS.iter().map(|row| row.index).collect();
        assert_eq!(indices.len(), MSRS.len());
    }

    #[test]
    fn features_named_by_rows_exist() {
        for row in MSRS {
            if let MsrNeed::AnyOf(names) = row.need {
                for name in names {
                    assert!(CpuFeature::named(name).is_some(), "{} names {name}", row.name);
                }
            }
        }
    }

    #[test]
    fn the_set_follows_the_model() {
        let plain = CpuidTable::default();
        let names = |table: &CpuidTable| rows_for(table).map(|row| row.name).collect::<Vec<_>>();
        assert_eq!(names(&plain), ["misc_enable", "debugctl"]);
        let long_mode = CpuidTable::new([
            CpuidEntry {
                edx: 1 << 11,
                ..CpuidEntry::new(LEAF_FEATURES, 0)
            },
            CpuidEntry {
                edx: 1 << 29,
                ..CpuidEntry::new(LEAF_EXTENDED + 1, 0)
            },
        ]);
        assert!(names(&long_mode).contains(&"kernel_gs_base") && names(&long_mode).contains(&"sysenter_cs"));
    }
}
