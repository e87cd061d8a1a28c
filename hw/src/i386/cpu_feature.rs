//! The processor features that Tern knows: each a name and a bit of CPUID.
//!
//! A feature is in this table only if all the state that it brings along is described (registers in
//! [`super::cpu`], MSRs in [`super::msr`], XSAVE components in [`super::xsave`]). Every CPU model is made of these, `host`
//! included, so a guest never sees a feature whose state a snapshot would forget. That is why machine checks,
//! performance counters, nested virtualisation, control-flow enforcement and AMX are absent.

use std::fmt;

use super::cpuid::CpuidBit;
use super::cpuid::CpuidRegister::{self, Eax, Ebx, Ecx, Edx};

/// A feature of a processor that CPUID announces by one bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuFeature {
    /// The name, as QEMU spells it.
    pub name: &'static str,
    /// The leaf of the bit.
    pub leaf: u32,
    /// The subleaf of the bit, zero where the leaf has none.
    pub subleaf: u32,
    /// The register of the bit.
    pub register: CpuidRegister,
    /// The number of the bit.
    pub bit: u8,
}

impl CpuFeature {
    /// The bit as a mask.
    #[must_use]
    pub fn mask(&self) -> u32 {
        1 << self.bit
    }

    /// Where CPUID announces it.
    #[must_use]
    pub fn place(&self) -> CpuidBit {
        CpuidBit {
            leaf: self.leaf,
            subleaf: self.subleaf,
            register: self.register,
            bit: self.bit,
        }
    }

    /// The feature whose name is `name`; [`Self::called`] knows other spellings as well.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static CpuFeature> {
        CPU_FEATURES.iter().find(|feature| feature.name == name)
    }
}

impl fmt::Display for CpuFeature {
    /// The name, and where manuals have it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.place())
    }
}

const fn row(name: &'static str, leaf: u32, subleaf: u32, register: CpuidRegister, bit: u8) -> CpuFeature {
    CpuFeature {
        name,
        leaf,
        subleaf,
        register,
        bit,
    }
}

const EXT1: u32 = 0x8000_0001;
const EXT8: u32 = 0x8000_0008;
const EXT21: u32 = 0x8000_0021;
const KVM: u32 = super::cpuid::LEAF_KVM_FEATURES;

/// Every feature that Tern can give to a guest, in order of leaf, subleaf, register and bit.
#[rustfmt::skip]
pub const CPU_FEATURES: &[CpuFeature] = &[
    row("pni", 1, 0, Ecx, 0), row("pclmulqdq", 1, 0, Ecx, 1), row("ssse3", 1, 0, Ecx, 9), row("fma", 1, 0, Ecx, 12),
    row("cx16", 1, 0, Ecx, 13), row("pcid", 1, 0, Ecx, 17), row("sse4.1", 1, 0, Ecx, 19), row("sse4.2", 1, 0, Ecx, 20),
    row("x2apic", 1, 0, Ecx, 21), row("movbe", 1, 0, Ecx, 22), row("popcnt", 1, 0, Ecx, 23),
    row("tsc-deadline", 1, 0, Ecx, 24), row("aes", 1, 0, Ecx, 25), row("xsave", 1, 0, Ecx, 26), row("avx", 1, 0, Ecx, 28),
    row("f16c", 1, 0, Ecx, 29), row("rdrand", 1, 0, Ecx, 30), row("hypervisor", 1, 0, Ecx, 31),
    row("fpu", 1, 0, Edx, 0), row("vme", 1, 0, Edx, 1), row("de", 1, 0, Edx, 2), row("pse", 1, 0, Edx, 3),
    row("tsc", 1, 0, Edx, 4), row("msr", 1, 0, Edx, 5), row("pae", 1, 0, Edx, 6), row("cx8", 1, 0, Edx, 8),
    row("apic", 1, 0, Edx, 9), row("sep", 1, 0, Edx, 11), row("mtrr", 1, 0, Edx, 12), row("pge", 1, 0, Edx, 13),
    row("cmov", 1, 0, Edx, 15), row("pat", 1, 0, Edx, 16), row("pse36", 1, 0, Edx, 17), row("clflush", 1, 0, Edx, 19),
    row("mmx", 1, 0, Edx, 23), row("fxsr", 1, 0, Edx, 24), row("sse", 1, 0, Edx, 25), row("sse2", 1, 0, Edx, 26),
    row("ss", 1, 0, Edx, 27),
    row("arat", 6, 0, Eax, 2),
    row("fsgsbase", 7, 0, Ebx, 0), row("tsc-adjust", 7, 0, Ebx, 1), row("bmi1", 7, 0, Ebx, 3), row("hle", 7, 0, Ebx, 4),
    row("avx2", 7, 0, Ebx, 5),
    row("smep", 7, 0, Ebx, 7), row("bmi2", 7, 0, Ebx, 8), row("erms", 7, 0, Ebx, 9), row("invpcid", 7, 0, Ebx, 10),
    row("rtm", 7, 0, Ebx, 11),
    row("avx512f", 7, 0, Ebx, 16), row("avx512dq", 7, 0, Ebx, 17), row("rdseed", 7, 0, Ebx, 18), row("adx", 7, 0, Ebx, 19),
    row("smap", 7, 0, Ebx, 20), row("avx512ifma", 7, 0, Ebx, 21), row("clflushopt", 7, 0, Ebx, 23),
    row("clwb", 7, 0, Ebx, 24), row("avx512cd", 7, 0, Ebx, 28), row("sha-ni", 7, 0, Ebx, 29),
    row("avx512bw", 7, 0, Ebx, 30), row("avx512vl", 7, 0, Ebx, 31),
    row("avx512vbmi", 7, 0, Ecx, 1), row("umip", 7, 0, Ecx, 2), row("pku", 7, 0, Ecx, 3), row("waitpkg", 7, 0, Ecx, 5),
    row("avx512vbmi2", 7, 0, Ecx, 6), row("gfni", 7, 0, Ecx, 8), row("vaes", 7, 0, Ecx, 9),
    row("vpclmulqdq", 7, 0, Ecx, 10), row("avx512vnni", 7, 0, Ecx, 11), row("avx512bitalg", 7, 0, Ecx, 12),
    row("avx512-vpopcntdq", 7, 0, Ecx, 14), row("la57", 7, 0, Ecx, 16), row("rdpid", 7, 0, Ecx, 22),
    row("cldemote", 7, 0, Ecx, 25), row("movdiri", 7, 0, Ecx, 27), row("movdir64b", 7, 0, Ecx, 28),
    row("fsrm", 7, 0, Edx, 4), row("md-clear", 7, 0, Edx, 10), row("serialize", 7, 0, Edx, 14),
    row("avx512-fp16", 7, 0, Edx, 23), row("spec-ctrl", 7, 0, Edx, 26), row("stibp", 7, 0, Edx, 27),
    row("flush-l1d", 7, 0, Edx, 28), row("arch-capabilities", 7, 0, Edx, 29), row("ssbd", 7, 0, Edx, 31),
    row("avx-vnni", 7, 1, Eax, 4), row("avx512-bf16", 7, 1, Eax, 5), row("fzrm", 7, 1, Eax, 10), row("fsrs", 7, 1, Eax, 11),
    row("fsrc", 7, 1, Eax, 12), row("avx-ifma", 7, 1, Eax, 23),
    row("avx-vnni-int8", 7, 1, Edx, 4), row("avx-ne-convert", 7, 1, Edx, 5),
    row("intel-psfd", 7, 2, Edx, 0), row("ipred-ctrl", 7, 2, Edx, 1), row("rrsba-ctrl", 7, 2, Edx, 2),
    row("bhi-ctrl", 7, 2, Edx, 4), row("mcdt-no", 7, 2, Edx, 5),
    row("xsaveopt", 0xd, 1, Eax, 0), row("xsavec", 0xd, 1, Eax, 1), row("xgetbv1", 0xd, 1, Eax, 2),
    row("xsaves", 0xd, 1, Eax, 3),
    row("kvm-nopiodelay", KVM, 0, Eax, 1), row("kvmclock", KVM, 0, Eax, 3), row("kvm-asyncpf", KVM, 0, Eax, 4),
    row("kvm-steal-time", KVM, 0, Eax, 5), row("kvm-pv-eoi", KVM, 0, Eax, 6), row("kvm-poll-control", KVM, 0, Eax, 12),
    row("kvm-asyncpf-int", KVM, 0, Eax, 14), row("kvmclock-stable-bit", KVM, 0, Eax, 24),
    row("lahf-lm", EXT1, 0, Ecx, 0), row("cr8legacy", EXT1, 0, Ecx, 4), row("abm", EXT1, 0, Ecx, 5),
    row("sse4a", EXT1, 0, Ecx, 6), row("misalignsse", EXT1, 0, Ecx, 7), row("3dnowprefetch", EXT1, 0, Ecx, 8),
    row("xop", EXT1, 0, Ecx, 11), row("fma4", EXT1, 0, Ecx, 16), row("tbm", EXT1, 0, Ecx, 21), row("topoext", EXT1, 0, Ecx, 22),
    row("syscall", EXT1, 0, Edx, 11), row("nx", EXT1, 0, Edx, 20), row("mmxext", EXT1, 0, Edx, 22),
    row("fxsr-opt", EXT1, 0, Edx, 25), row("pdpe1gb", EXT1, 0, Edx, 26), row("rdtscp", EXT1, 0, Edx, 27),
    row("lm", EXT1, 0, Edx, 29),
    row("invtsc", 0x8000_0007, 0, Edx, 8),
    row("clzero", EXT8, 0, Ebx, 0), row("xsaveerptr", EXT8, 0, Ebx, 2), row("wbnoinvd", EXT8, 0, Ebx, 9),
    row("ibpb", EXT8, 0, Ebx, 12), row("ibrs", EXT8, 0, Ebx, 14), row("amd-stibp", EXT8, 0, Ebx, 15),
    row("stibp-always-on", EXT8, 0, Ebx, 17), row("amd-ssbd", EXT8, 0, Ebx, 24), row("virt-ssbd", EXT8, 0, Ebx, 25),
    row("amd-no-ssb", EXT8, 0, Ebx, 26), row("amd-psfd", EXT8, 0, Ebx, 28),
    row("no-nested-data-bp", EXT21, 0, Eax, 0), row("lfence-always-serializing", EXT21, 0, Eax, 2),
    row("null-sel-clr-base", EXT21, 0, Eax, 6), row("auto-ibrs", EXT21, 0, Eax, 8),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_and_bits_are_unique() {
        let names: HashSet<_> = CPU_FEATURES.iter().map(|feature| feature.name).collect();
        let bits: HashSet<_> = CPU_FEATURES
            .iter()
            .map(|feature| {
                (
                    feature.leaf,
                    feature.subleaf,
                    format!("{:?}", feature.register),
                    feature.bit,
                )
            })
            .collect();
        assert_eq!((names.len(), bits.len()), (CPU_FEATURES.len(), CPU_FEATURES.len()));
    }

    #[test]
    fn features_without_described_state_are_not_offered() {
        for (leaf, subleaf, register, bit, what) in [
            (1, 0, Edx, 7, "machine check exception"),
            (1, 0, Edx, 14, "machine check architecture"),
            (1, 0, Ecx, 5, "VMX"),
            (EXT1, 0, Ecx, 2, "SVM"),
            (7, 0, Ecx, 7, "CET shadow stacks"),
            (7, 0, Edx, 20, "CET indirect branch tracking"),
            (7, 0, Edx, 24, "AMX"),
        ] {
            let offered = CPU_FEATURES
                .iter()
                .any(|row| (row.leaf, row.subleaf, row.register, row.bit) == (leaf, subleaf, register, bit));
            assert!(!offered, "{what} has no description");
        }
    }
}
