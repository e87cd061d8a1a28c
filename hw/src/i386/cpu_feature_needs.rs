//! Which features are of no use without others.
//!
//! A processor that announces one without the other does not exist, and guests do not expect it: some crash.

use super::cpu_feature::CpuFeature;
use super::cpuid::CpuidTable;

/// A feature and those that it cannot be without.
const NEEDS: &[(&str, &[&str])] = &[
    ("mmx", &["fpu"]),
    ("fxsr", &["fpu"]),
    ("sse", &["fxsr"]),
    ("sse2", &["sse"]),
    ("pni", &["sse2"]),
    ("ssse3", &["sse2"]),
    ("sse4.1", &["ssse3"]),
    ("sse4.2", &["sse4.1"]),
    ("sse4a", &["sse2"]),
    ("misalignsse", &["sse2"]),
    ("aes", &["sse2"]),
    ("pclmulqdq", &["sse2"]),
    ("gfni", &["sse2"]),
    ("sha-ni", &["sse2"]),
    ("mmxext", &["mmx"]),
    ("fxsr-opt", &["fxsr"]),
    ("xsave", &["fxsr"]),
    ("xsaveopt", &["xsave"]),
    ("xsavec", &["xsave"]),
    ("xgetbv1", &["xsave"]),
    ("xsaves", &["xsavec"]),
    ("xsaveerptr", &["xsave"]),
    ("pku", &["xsave"]),
    ("avx", &["xsave", "sse2"]),
    ("f16c", &["avx"]),
    ("fma", &["avx"]),
    ("fma4", &["avx"]),
    ("xop", &["avx"]),
    ("avx2", &["avx"]),
    ("vaes", &["avx", "aes"]),
    ("vpclmulqdq", &["avx", "pclmulqdq"]),
    ("avx-vnni", &["avx2"]),
    ("avx-ifma", &["avx2"]),
    ("avx-vnni-int8", &["avx2"]),
    ("avx-ne-convert", &["avx2"]),
    ("avx512f", &["avx2", "fma", "f16c"]),
    ("avx512dq", &["avx512f"]),
    ("avx512cd", &["avx512f"]),
    ("avx512bw", &["avx512f"]),
    ("avx512vl", &["avx512f"]),
    ("avx512ifma", &["avx512f"]),
    ("avx512vbmi", &["avx512bw"]),
    ("avx512vbmi2", &["avx512bw"]),
    ("avx512vnni", &["avx512f"]),
    ("avx512bitalg", &["avx512bw"]),
    ("avx512-vpopcntdq", &["avx512f"]),
    ("avx512-bf16", &["avx512bw"]),
    ("avx512-fp16", &["avx512bw", "avx512vl", "avx512dq"]),
    ("x2apic", &["apic"]),
    ("tsc-deadline", &["apic", "tsc"]),
    ("arat", &["apic"]),
    ("kvm-pv-eoi", &["apic"]),
    ("tsc-adjust", &["tsc"]),
    ("rdtscp", &["tsc"]),
    ("invtsc", &["tsc"]),
    ("kvmclock", &["tsc"]),
    ("kvmclock-stable-bit", &["kvmclock"]),
    ("kvm-asyncpf-int", &["kvm-asyncpf"]),
    ("pse36", &["pse"]),
    ("lm", &["pae", "msr"]),
    ("nx", &["pae"]),
    ("pcid", &["lm"]),
    ("invpcid", &["pcid"]),
    ("pdpe1gb", &["lm"]),
    ("la57", &["lm"]),
    ("lahf-lm", &["lm"]),
    ("cx16", &["lm"]),
    ("fsgsbase", &["lm"]),
];

/// What `feature` needs and `table` lacks.
pub fn lacking(feature: &CpuFeature, table: &CpuidTable) -> Vec<&'static CpuFeature> {
    NEEDS
        .iter()
        .filter(|(name, _)| *name == feature.name)
        .flat_map(|(_, needs)| needs.iter().filter_map(|name| CpuFeature::named(name)))
        .filter(|need| !table.has(need))
        .collect()
}

/// Takes from `table` the features that need something which it lacks.
pub fn drop_useless(table: &mut CpuidTable) {
    loop {
        let useless: Vec<_> = table
            .features()
            .filter(|feature| !lacking(feature, table).is_empty())
            .collect();
        if useless.is_empty() {
            return;
        }
        useless.into_iter().for_each(|feature| table.take(feature));
    }
}

#[cfg(test)]
mod tests {
    use super::super::cpu_feature::CPU_FEATURES;
    use super::*;

    fn feature(name: &str) -> &'static CpuFeature {
        CpuFeature::named(name).expect(name)
    }

    #[test]
    fn every_name_is_a_feature_and_no_feature_has_two_rows() {
        for (at, (name, needs)) in NEEDS.iter().enumerate() {
            for name in needs.iter().chain([name]) {
                assert!(CpuFeature::named(name).is_some(), "{name}");
            }
            assert!(NEEDS[..at].iter().all(|(other, _)| other != name), "{name}");
        }
    }

    #[test]
    fn without_xsave_nothing_is_left_that_it_saves() {
        let mut table = CpuidTable::default();
        CPU_FEATURES.iter().for_each(|feature| table.give(feature));
        let whole = table.clone();
        drop_useless(&mut table);
        assert_eq!(table, whole, "all together need nothing else");
        table.take(feature("xsave"));
        drop_useless(&mut table);
        for gone in ["avx", "avx2", "fma", "avx512f", "avx512-fp16", "pku", "xsaves"] {
            assert!(!table.has(feature(gone)), "{gone}");
        }
        for left in ["sse4.2", "aes", "fxsr"] {
            assert!(table.has(feature(left)), "{left}");
        }
    }
}
