//! What becomes of each model-specific register that a KVM may list as worth saving, and that is no row of
//! [`super::msr::MSRS`].
//!
//! A list of KVM's tells what its host can save for any guest. Tern saves what follows from the model; this table says of
//! the rest why nothing is lost by that. A register that neither table has is one that nobody has thought about.

use super::msr::MSRS;

/// Why a register is not saved by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsrFate {
    /// It is part of something else that is saved.
    Elsewhere,
    /// It is another name of a register that is saved, or of one that no model offers.
    Alias,
    /// A guest cannot change it, or it only does something at the moment of a write.
    NoState,
    /// It belongs to a feature that no model offers, without which a guest cannot reach it.
    NotOffered,
    /// It belongs to a feature that no model offers, and a KVM may let guests write it nonetheless: a vCPU on which it has
    /// another value than at rest cannot be saved.
    Watched {
        /// The value at rest.
        rest: u64,
        /// Only processors of AMD's design have it.
        amd_only: bool,
    },
}

impl MsrFate {
    /// The fate in a word or two, for the list in the documentation.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Elsewhere => "saved elsewhere",
            Self::Alias => "alias",
            Self::NoState => "no state",
            Self::NotOffered => "not offered",
            Self::Watched { .. } => "refused if used",
        }
    }
}

/// Registers that are not saved by themselves.
#[derive(Clone, Copy, Debug)]
pub struct MsrAccount {
    /// The name, or that of the group.
    pub name: &'static str,
    /// The first register's number.
    pub first: u32,
    /// The last one's.
    pub last: u32,
    /// Why they are not saved.
    pub fate: MsrFate,
    /// The same in words.
    pub reason: &'static str,
}

const fn row(name: &'static str, first: u32, last: u32, fate: MsrFate, reason: &'static str) -> MsrAccount {
    MsrAccount {
        name,
        first,
        last,
        fate,
        reason,
    }
}

const WATCHED: MsrFate = MsrFate::Watched {
    rest: 0,
    amd_only: false,
};
const WATCHED_ON_AMD: MsrFate = MsrFate::Watched {
    rest: 0,
    amd_only: true,
};
const PMU: &str = "performance counters";
const NESTED: &str = "nested virtualisation";
const TRACE: &str = "processor trace";

/// All groups, in order of their numbers.
#[rustfmt::skip]
pub const ACCOUNTS: &[MsrAccount] = &[
    row("TSC", 0x10, 0x10, MsrFate::Elsewhere, "the record of guest time"),
    row("KVM_WALL_CLOCK, KVM_SYSTEM_TIME", 0x11, 0x12, MsrFate::Alias, "the first numbers of kvmclock; models offer the second ones"),
    row("APIC_BASE", 0x1b, 0x1b, MsrFate::Elsewhere, "the system registers"),
    row("SMI_COUNT", 0x34, 0x34, MsrFate::NoState, "there is no system management mode, and nothing to count"),
    row("BIOS_SIGN_ID", 0x8b, 0x8b, MsrFate::NoState, "the host's microcode, which guests only read"),
    row("SMBASE", 0x9e, 0x9e, MsrFate::NoState, "there is no system management mode; a vCPU in it cannot be saved"),
    row("PMC", 0xc1, 0xc8, MsrFate::NotOffered, PMU),
    row("PLATFORM_INFO", 0xce, 0xce, MsrFate::NoState, "KVM's own, which guests only read"),
    row("MCG_STATUS, MCG_CTL", 0x17a, 0x17b, WATCHED, "machine checks"),
    row("PERFEVTSEL", 0x186, 0x18d, MsrFate::NotOffered, PMU),
    row("XFD, XFD_ERR", 0x1c4, 0x1c5, MsrFate::NotOffered, "AMX"),
    row("FIXED_CTR", 0x309, 0x30c, MsrFate::NotOffered, PMU),
    row("PERF_CAPABILITIES", 0x345, 0x345, MsrFate::NotOffered, PMU),
    row("PERF_GLOBAL", 0x38d, 0x390, MsrFate::NotOffered, PMU),
    row("PEBS", 0x3f1, 0x3f2, MsrFate::NotOffered, PMU),
    row("MC_CTL, MC_STATUS, MC_ADDR, MC_MISC", 0x400, 0x47f, MsrFate::NotOffered, "machine checks"),
    row("VMX", 0x480, 0x493, MsrFate::NotOffered, NESTED),
    row("PMC (full width)", 0x4c1, 0x4c8, MsrFate::NotOffered, PMU),
    row("MCG_EXT_CTL", 0x4d0, 0x4d0, MsrFate::NotOffered, "machine checks"),
    row("RTIT_OUTPUT", 0x560, 0x561, MsrFate::NotOffered, TRACE),
    row("RTIT", 0x570, 0x572, MsrFate::NotOffered, TRACE),
    row("RTIT_ADDR", 0x580, 0x587, MsrFate::NotOffered, TRACE),
    row("DS_AREA", 0x600, 0x600, MsrFate::NotOffered, PMU),
    row("CET", 0x6a0, 0x6a8, MsrFate::NotOffered, "control-flow enforcement"),
    row("TSC_DEADLINE", 0x6e0, 0x6e0, MsrFate::Elsewhere, "the local APIC"),
    row("x2APIC", 0x800, 0x8ff, MsrFate::Elsewhere, "the local APIC"),
    row("BNDCFGS", 0xd90, 0xd90, MsrFate::NotOffered, "MPX, which processors no longer have"),
    row("Hyper-V", 0x4000_0000, 0x4000_0fff, MsrFate::NotOffered, "Hyper-V's interface"),
    row("KVM_ASYNC_PF_ACK", 0x4b56_4d07, 0x4b56_4d07, MsrFate::NoState, "does something at the moment of a write"),
    row("KVM_MIGRATION_CONTROL", 0x4b56_4d08, 0x4b56_4d08, MsrFate::NotOffered, "encrypted guests"),
    row("EFER", 0xc000_0080, 0xc000_0080, MsrFate::Elsewhere, "the system registers"),
    row("FS_BASE, GS_BASE", 0xc000_0100, 0xc000_0101, MsrFate::Elsewhere, "the segments"),
    row("TSC_RATIO", 0xc000_0104, 0xc000_0104, MsrFate::NotOffered, NESTED),
    row("PERF_CNTR_GLOBAL", 0xc000_0300, 0xc000_0303, MsrFate::NotOffered, PMU),
    // Any processor of AMD's has these four, whatever its CPUID says.
    row("K7_EVNTSEL", 0xc001_0000, 0xc001_0003, WATCHED_ON_AMD, PMU),
    row("K7_PERFCTR", 0xc001_0004, 0xc001_0007, MsrFate::NotOffered, "performance counters, which do not count while K7_EVNTSEL is at rest"),
    row("VM_CR, IGNNE, SMM_CTL", 0xc001_0114, 0xc001_0116, MsrFate::NotOffered, NESTED),
    row("VM_HSAVE_PA", 0xc001_0117, 0xc001_0117, WATCHED_ON_AMD, NESTED),
    row("OSVW", 0xc001_0140, 0xc001_0141, MsrFate::NotOffered, "the workarounds that the operating system is told of"),
    row("F15H_PERF", 0xc001_0200, 0xc001_020b, MsrFate::NotOffered, PMU),
];

/// What becomes of a register.
#[derive(Clone, Copy, Debug)]
pub enum MsrVerdict {
    /// It is saved by this name where the model has it.
    Saved(&'static str),
    /// It is not saved by itself.
    Accounted(&'static MsrAccount),
    /// Nobody has thought about it.
    Unknown,
}

/// What becomes of the register with this number.
#[must_use]
pub fn verdict(index: u32) -> MsrVerdict {
    if let Some(row) = MSRS.iter().find(|row| row.index == index) {
        return MsrVerdict::Saved(row.name);
    }
    ACCOUNTS
        .iter()
        .find(|account| (account.first..=account.last).contains(&index))
        .map_or(MsrVerdict::Unknown, MsrVerdict::Accounted)
}

/// The registers to look at before a vCPU is saved, each with its value at rest.
pub fn watched(amd: bool) -> impl Iterator<Item = (u32, u64, &'static MsrAccount)> {
    ACCOUNTS.iter().flat_map(move |account| {
        let rest = match account.fate {
            MsrFate::Watched { rest, amd_only } if amd || !amd_only => Some(rest),
            _ => None,
        };
        let indices = rest.map(|rest| (account.first..=account.last).map(move |index| (index, rest, account)));
        indices.into_iter().flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Linux lists (`msrs_to_save_all` and `emulated_msrs_all` of 6.1 to 6.18), as ranges.
    #[rustfmt::skip]
    const LINUX: &[(u32, u32)] = &[
        (0x10, 0x12), (0x34, 0x34), (0x3a, 0x3b), (0x48, 0x48), (0x8b, 0x8b), (0x9e, 0x9e), (0xc1, 0xc8), (0xce, 0xce),
        (0xe1, 0xe1), (0x10a, 0x10a), (0x122, 0x122), (0x140, 0x140), (0x174, 0x176), (0x17a, 0x17b), (0x186, 0x18d),
        (0x1a0, 0x1a0), (0x1c4, 0x1c5), (0x1d9, 0x1d9), (0x1db, 0x1de), (0x1fc, 0x1fc), (0x277, 0x277), (0x309, 0x30b),
        (0x345, 0x345), (0x38d, 0x38f), (0x3f1, 0x3f2), (0x480, 0x491), (0x4d0, 0x4d0), (0x560, 0x561), (0x570, 0x572),
        (0x580, 0x587), (0x600, 0x600), (0x6a0, 0x6a0), (0x6a2, 0x6a2), (0x6a4, 0x6a8), (0x6e0, 0x6e0), (0xd90, 0xd90),
        (0xda0, 0xda0), (0x4000_0000, 0x4000_0003), (0x4000_0020, 0x4000_0023), (0x4000_0073, 0x4000_0073),
        (0x4000_0080, 0x4000_0084), (0x4000_0090, 0x4000_009f), (0x4000_00b0, 0x4000_00b7), (0x4000_00f1, 0x4000_00ff),
        (0x4000_0100, 0x4000_0108), (0x4000_0118, 0x4000_0118), (0x4b56_4d00, 0x4b56_4d08), (0xc000_0081, 0xc000_0084),
        (0xc000_0102, 0xc000_0104), (0xc000_0300, 0xc000_0303), (0xc001_0000, 0xc001_0007), (0xc001_0015, 0xc001_0015),
        (0xc001_0117, 0xc001_0117), (0xc001_011f, 0xc001_011f), (0xc001_0200, 0xc001_020b),
    ];

    #[test]
    fn every_register_that_linux_lists_is_saved_or_accounted_for() {
        let indices = LINUX.iter().flat_map(|(first, last)| *first..=*last);
        let unknown: Vec<_> = indices
            .filter(|index| matches!(verdict(*index), MsrVerdict::Unknown))
            .collect();
        assert_eq!(unknown, [0; 0], "{unknown:x?}");
    }

    #[test]
    fn no_register_is_both_saved_and_not() {
        for account in ACCOUNTS {
            for row in MSRS {
                let within = (account.first..=account.last).contains(&row.index);
                assert!(!within, "{} is saved and in the account {}", row.name, account.name);
            }
        }
        assert!(ACCOUNTS.windows(2).all(|pair| pair[0].last < pair[1].first));
    }

    #[test]
    fn what_is_watched_depends_on_the_processor() {
        let of = |amd| watched(amd).map(|(index, ..)| index).collect::<Vec<_>>();
        assert_eq!(of(false), [0x17a, 0x17b]);
        assert_eq!(of(true).len(), 7);
    }
}
