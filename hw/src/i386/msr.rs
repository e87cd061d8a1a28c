//! The model-specific registers that are a vCPU's state, by name.
//!
//! Which of them a VM has follows from what its CPUID table offers, and not from what the host's kernel happens to list:
//! so the set is the same on both sides of a migration. EFER, the APIC base and the segment bases stand with the system
//! registers in [`super::cpu`], the TSC in [`crate::timer::clock`], the TSC deadline with the local APIC's timer.

use vmstate::state::VmState;

use super::cpu_feature::CpuFeature;
use super::cpu_model::Lack;
use super::cpuid::CpuidTable;

/// When a VM has a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsrNeed {
    /// Whatever the model.
    Always,
    /// If the model offers any of these features.
    AnyOf(&'static [&'static str]),
    /// If the model's vendor is one of these.
    Vendors(&'static [&'static [u8; 12]]),
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
            MsrNeed::Vendors(vendors) => vendors.contains(&&cpuid.vendor()),
        }
    }
}

/// The register of [`MsrState::misc_enable`].
pub const MISC_ENABLE: u32 = 0x1a0;

/// The rows that a VM with this table has, in the order in which they are read and written.
pub fn rows_for(cpuid: &CpuidTable) -> impl Iterator<Item = &'static MsrRow> {
    MSRS.iter().filter(|row| row.is_needed(cpuid))
}

/// The rows that a VM with this table has only because of features that are among `lacks`.
pub fn rows_lost(cpuid: &CpuidTable, lacks: &[Lack]) -> impl Iterator<Item = &'static MsrRow> {
    let mut left = cpuid.clone();
    for lack in lacks {
        if let Lack::Feature(feature) = lack {
            left.take(feature);
        }
    }
    rows_for(cpuid).filter(move |row| !row.is_needed(&left))
}

/// AMD's processors and those of the same design.
const AMD: MsrNeed = MsrNeed::Vendors(&[b"AuthenticAMD", b"HygonGenuine"]);
/// Intel's processors and those that are virtualised in the same way.
const INTEL: MsrNeed = MsrNeed::Vendors(&[b"GenuineIntel", b"CentaurHauls", b"  Shanghai  "]);
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
    "intel-psfd",
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
            /// The values after a reset of a processor whose values were `before`: what it is immune against stays, and
            /// what firmware would set up again.
            #[must_use]
            pub fn reset(before: &Self) -> Self {
                Self {
                    arch_capabilities: before.arch_capabilities,
                    de_cfg: before.de_cfg,
                    ..Self::default()
                }
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
    misc_features_enables = 0x140, MsrNeed::Always, 0, "Whether CPUID faults outside the kernel.";
    feature_control = 0x3a, INTEL, 0,
        "Intel's lock of features that firmware decides about. Kernels lock it where firmware has not.";
    power_ctl = 0x1fc, INTEL, 0, "Intel's switches of power management, which KVM keeps for whoever reads them back.";
    tsx_ctrl = 0x122, MsrNeed::AnyOf(&["arch-capabilities"]), 0, "Whether transactions are switched off.";
    hwcr = 0xc001_0015, AMD, 0, "AMD's hardware configuration.";
    de_cfg = 0xc001_1029, AMD, 0, "AMD's configuration of the decoder: whether LFENCE serialises.";
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
    last_branch_from_ip = 0x1db, AMD, 0, "Where the last branch was, while DEBUGCTL records branches.";
    last_branch_to_ip = 0x1dc, AMD, 0, "Where the last branch led to.";
    last_interrupt_from_ip = 0x1dd, AMD, 0, "Where the last branch before an interrupt or exception was.";
    last_interrupt_to_ip = 0x1de, AMD, 0, "Where it led to.";
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
    kvm_poll_control = 0x4b56_4d05, MsrNeed::AnyOf(&["kvm-poll-control"]), 1, "Whether KVM polls for a while before a halt.";
    kvm_async_pf_vector = 0x4b56_4d06, MsrNeed::AnyOf(&["kvm-asyncpf-int"]), 0,
        "The interrupt by which KVM tells that a page has come. Before the switch below, which counts on it.";
    kvm_async_pf = 0x4b56_4d02, MsrNeed::AnyOf(&["kvm-asyncpf"]), 0,
        "Where KVM tells of pages that are not there yet. When it is set KVM wakes all that waited for one.";
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
        assert_eq!(names(&plain), ["misc_enable", "misc_features_enables", "debugctl"]);
        let of_vendor = |letters: &[u8; 12]| {
            let word = |at: usize| u32::from_le_bytes([letters[at], letters[at + 1], letters[at + 2], letters[at + 3]]);
            CpuidTable::new([CpuidEntry {
                ebx: word(0),
                edx: word(4),
                ecx: word(8),
                ..CpuidEntry::new(0, 0)
            }])
        };
        assert!(names(&of_vendor(b"GenuineIntel")).contains(&"feature_control"));
        assert!(names(&of_vendor(b"HygonGenuine")).contains(&"de_cfg"));
        assert!(!names(&of_vendor(b"HygonGenuine")).contains(&"feature_control"));
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
        let syscall = CpuFeature::named("sep").map(Lack::Feature);
        let lost: Vec<_> = rows_lost(&long_mode, syscall.as_slice()).map(|row| row.name).collect();
        assert_eq!(lost, ["sysenter_cs", "sysenter_esp", "sysenter_eip"]);
        assert!(names(&long_mode).contains(&"kernel_gs_base") && names(&long_mode).contains(&"sysenter_cs"));
    }
}
