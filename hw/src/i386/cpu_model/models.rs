//! The models themselves. What a released one says never changes: a better one is a new version.
//!
//! The baselines are the levels of the x86-64 psABI with what a kernel needs besides. The others carry the names,
//! features, families and brands of QEMU's models, version by version, so that a name means the same processor here and
//! there; `tests/tests/qemu_cpu_models.rs` compares them with an installed QEMU.

use super::{CpuModel, ModelContents, NamedModel, Signature};
use crate::core::Release;

/// What KVM gives by itself, whatever the processor. QEMU adds the same to its models under KVM.
const PARAVIRTUAL: &str = "x2apic hypervisor kvm-nopiodelay kvmclock kvm-steal-time kvm-pv-eoi kvmclock-stable-bit";

/// The first level of the psABI, and what every 64-bit kernel takes for granted. `vme` is not among it: emulated hosts
/// lack it, and some processors have it with an erratum.
const V1: &str = "fpu de pse tsc msr pae cx8 apic sep mtrr pge cmov pat pse36 clflush mmx fxsr sse sse2 syscall nx lm \
                  tsc-deadline arat tsc-adjust";
/// What the second level adds.
const V2: &str = "cx16 lahf-lm popcnt pni sse4.1 sse4.2 ssse3";
/// What the third level adds. Its OSXSAVE is the kernel's answer to XSAVE.
const V3: &str = "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave";
/// What the fourth level adds.
const V4: &str = "avx512f avx512bw avx512cd avx512dq avx512vl";

/// What all of QEMU's models have.
const QEMU: &str =
    "fpu de pse tsc msr pae cx8 apic sep mtrr pge cmov pat pse36 clflush mmx fxsr sse sse2 pni syscall nx lm";

/// What most models have in common. The family is the one that says least, so that no guest takes the processor for one
/// whose errata it knows.
const NAMED: NamedModel = NamedModel {
    signature: Signature::new(15, 107, 1),
    brand: "",
    physical_address_bits: 40,
    features: &[],
    left_out: "",
};

const fn baseline(
    name: &'static str,
    aliases: &'static [&'static str],
    description: &'static str,
    contents: NamedModel,
) -> CpuModel {
    CpuModel {
        name,
        aliases,
        description,
        since: Release::FIRST,
        contents: ModelContents::Named(contents),
    }
}

const fn qemu(name: &'static str, aliases: &'static [&'static str], contents: NamedModel) -> CpuModel {
    CpuModel {
        name,
        aliases,
        description: contents.brand,
        since: Release::FIRST,
        contents: ModelContents::Named(contents),
    }
}

/// All models, in the order in which they are listed.
#[rustfmt::skip]
pub const CPU_MODELS: &[CpuModel] = &[
    CpuModel {
        name: "host",
        aliases: &[],
        description: "everything that this host and Tern both know; moves only to hosts that have it all",
        since: Release::FIRST,
        contents: ModelContents::Host,
    },
    baseline("x86-64-v1-1", &["x86-64-v1"], "psABI level 1, with KVM's clock: runs on every 64-bit host", NamedModel {
        brand: "Tern virtual CPU x86-64-v1-1",
        features: &[PARAVIRTUAL, V1],
        ..NAMED
    }),
    baseline("x86-64-v2-1", &["x86-64-v2"], "psABI level 2, to SSE4.2 and POPCNT: hosts from 2009 on", NamedModel {
        brand: "Tern virtual CPU x86-64-v2-1",
        features: &[PARAVIRTUAL, V1, V2],
        ..NAMED
    }),
    baseline("x86-64-v3-1", &["x86-64-v3"], "psABI level 3, to AVX2 and BMI2: Haswell, Zen and later", NamedModel {
        brand: "Tern virtual CPU x86-64-v3-1",
        features: &[PARAVIRTUAL, V1, V2, V3],
        ..NAMED
    }),
    baseline("x86-64-v4-1", &["x86-64-v4"], "psABI level 4, AVX-512: Skylake-SP, Zen 4 and later", NamedModel {
        brand: "Tern virtual CPU x86-64-v4-1",
        features: &[PARAVIRTUAL, V1, V2, V3, V4],
        ..NAMED
    }),
    qemu("qemu64-v1", &["qemu64"], NamedModel {
        signature: Signature::new(15, 107, 1),
        brand: "QEMU Virtual CPU version 2.5+",
        features: &[PARAVIRTUAL, QEMU, "cx16 lahf-lm"],
        left_out: "mca mce svm",
        ..NAMED
    }),
    qemu("kvm64-v1", &["kvm64"], NamedModel {
        signature: Signature::new(15, 6, 1),
        brand: "Common KVM processor",
        features: &[PARAVIRTUAL, QEMU, "cx16"],
        left_out: "mca mce",
        ..NAMED
    }),
    qemu("Nehalem-v1", &["Nehalem"], NamedModel {
        signature: Signature::new(6, 26, 3),
        brand: "Intel Core i7 9xx (Nehalem Class Core i7)",
        features: &[PARAVIRTUAL, QEMU, "ssse3 cx16 sse4.1 sse4.2 popcnt lahf-lm"],
        left_out: "mca mce",
        ..NAMED
    }),
    qemu("Nehalem-v2", &["Nehalem-IBRS"], NamedModel {
        signature: Signature::new(6, 26, 3),
        brand: "Intel Core i7 9xx (Nehalem Core i7, IBRS update)",
        features: &[PARAVIRTUAL, QEMU, "ssse3 cx16 sse4.1 sse4.2 popcnt spec-ctrl lahf-lm"],
        left_out: "mca mce",
        ..NAMED
    }),
    qemu("Westmere-v1", &["Westmere"], NamedModel {
        signature: Signature::new(6, 44, 1),
        brand: "Westmere E56xx/L56xx/X56xx (Nehalem-C)",
        features: &[PARAVIRTUAL, QEMU, "pclmulqdq ssse3 cx16 sse4.1 sse4.2 popcnt aes arat lahf-lm"],
        left_out: "mca mce",
        ..NAMED
    }),
    qemu("SandyBridge-v1", &["SandyBridge"], NamedModel {
        signature: Signature::new(6, 42, 1),
        brand: "Intel Xeon E312xx (Sandy Bridge)",
        features: &[PARAVIRTUAL, QEMU, "pclmulqdq ssse3 cx16 sse4.1 sse4.2 popcnt tsc-deadline aes xsave avx arat \
                       xsaveopt lahf-lm rdtscp"],
        left_out: "mca mce",
        ..NAMED
    }),
    qemu("IvyBridge-v1", &["IvyBridge"], NamedModel {
        signature: Signature::new(6, 58, 9),
        brand: "Intel Xeon E3-12xx v2 (Ivy Bridge)",
        features: &[PARAVIRTUAL, QEMU, "pclmulqdq ssse3 cx16 sse4.1 sse4.2 popcnt tsc-deadline aes xsave avx f16c rdrand \
                       arat fsgsbase smep erms xsaveopt lahf-lm rdtscp"],
        left_out: "mca mce",
        ..NAMED
    }),
    qemu("Haswell-v2", &["Haswell-noTSX"], NamedModel {
        signature: Signature::new(6, 60, 1),
        brand: "Intel Core Processor (Haswell, no TSX)",
        features: &[PARAVIRTUAL, QEMU, "pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 movbe popcnt tsc-deadline aes xsave \
                       avx f16c rdrand arat fsgsbase bmi1 avx2 smep bmi2 erms invpcid xsaveopt lahf-lm \
                       abm rdtscp"],
        left_out: "mca mce",
        ..NAMED
    }),
    qemu("Haswell-v4", &["Haswell-noTSX-IBRS"], NamedModel {
        signature: Signature::new(6, 60, 1),
        brand: "Intel Core Processor (Haswell, no TSX, IBRS)",
        features: &[PARAVIRTUAL, QEMU, "pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 movbe popcnt tsc-deadline aes xsave \
                       avx f16c rdrand arat fsgsbase bmi1 avx2 smep bmi2 erms invpcid spec-ctrl \
                       xsaveopt lahf-lm abm rdtscp"],
        left_out: "mca mce",
        ..NAMED
    }),
    qemu("Skylake-Client-v3", &["Skylake-Client-noTSX-IBRS"], NamedModel {
        signature: Signature::new(6, 94, 3),
        brand: "Intel Core Processor (Skylake, IBRS, no TSX)",
        features: &[PARAVIRTUAL, QEMU, "pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 movbe popcnt tsc-deadline aes xsave \
                       avx f16c rdrand arat fsgsbase bmi1 avx2 smep bmi2 erms invpcid rdseed adx smap \
                       spec-ctrl xsaveopt xsavec xgetbv1 lahf-lm abm 3dnowprefetch rdtscp"],
        left_out: "mca mce",
        ..NAMED
    }),
    qemu("Skylake-Server-v3", &["Skylake-Server-noTSX-IBRS"], NamedModel {
        signature: Signature::new(6, 85, 4),
        brand: "Intel Xeon Processor (Skylake, IBRS, no TSX)",
        features: &[PARAVIRTUAL, QEMU, "pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 movbe popcnt tsc-deadline aes xsave \
                       avx f16c rdrand arat fsgsbase bmi1 avx2 smep bmi2 erms invpcid avx512f avx512dq \
                       rdseed adx smap clwb avx512cd avx512bw avx512vl pku spec-ctrl xsaveopt xsavec \
                       xgetbv1 lahf-lm abm 3dnowprefetch pdpe1gb rdtscp"],
        left_out: "mca mce",
        ..NAMED
    }),
    qemu("Opteron_G5-v1", &["Opteron_G5"], NamedModel {
        signature: Signature::new(21, 2, 0),
        brand: "AMD Opteron 63xx class CPU",
        features: &[PARAVIRTUAL, QEMU, "pclmulqdq ssse3 fma cx16 sse4.1 sse4.2 popcnt aes xsave avx f16c lahf-lm abm \
                       sse4a misalignsse 3dnowprefetch xop fma4 tbm pdpe1gb rdtscp"],
        left_out: "mca mce npt nrip-save svm",
        ..NAMED
    }),
    qemu("EPYC-v1", &["EPYC"], NamedModel {
        signature: Signature::new(23, 1, 2),
        brand: "AMD EPYC Processor",
        features: &[PARAVIRTUAL, QEMU, "pclmulqdq ssse3 fma cx16 sse4.1 sse4.2 movbe popcnt aes xsave avx f16c rdrand \
                       arat fsgsbase bmi1 avx2 smep bmi2 rdseed adx smap clflushopt sha-ni xsaveopt \
                       xsavec xgetbv1 lahf-lm cr8legacy abm sse4a misalignsse 3dnowprefetch topoext \
                       mmxext fxsr-opt pdpe1gb rdtscp"],
        left_out: "mca mce monitor npt nrip-save osvw svm",
        ..NAMED
    }),
    qemu("EPYC-v2", &["EPYC-IBPB"], NamedModel {
        signature: Signature::new(23, 1, 2),
        brand: "AMD EPYC Processor (with IBPB)",
        features: &[PARAVIRTUAL, QEMU, "pclmulqdq ssse3 fma cx16 sse4.1 sse4.2 movbe popcnt aes xsave avx f16c rdrand \
                       arat fsgsbase bmi1 avx2 smep bmi2 rdseed adx smap clflushopt sha-ni xsaveopt \
                       xsavec xgetbv1 lahf-lm cr8legacy abm sse4a misalignsse 3dnowprefetch topoext \
                       mmxext fxsr-opt pdpe1gb rdtscp ibpb"],
        left_out: "mca mce monitor npt nrip-save osvw svm",
        ..NAMED
    }),
    qemu("EPYC-v3", &[], NamedModel {
        signature: Signature::new(23, 1, 2),
        brand: "AMD EPYC Processor",
        features: &[PARAVIRTUAL, QEMU, "pclmulqdq ssse3 fma cx16 sse4.1 sse4.2 movbe popcnt aes xsave avx f16c rdrand \
                       arat fsgsbase bmi1 avx2 smep bmi2 rdseed adx smap clflushopt sha-ni xsaveopt \
                       xsavec xgetbv1 xsaves lahf-lm cr8legacy abm sse4a misalignsse 3dnowprefetch \
                       topoext mmxext fxsr-opt pdpe1gb rdtscp clzero xsaveerptr ibpb"],
        left_out: "mca mce monitor npt nrip-save osvw perfctr-core svm",
        ..NAMED
    }),
    qemu("EPYC-Rome-v1", &["EPYC-Rome"], NamedModel {
        signature: Signature::new(23, 49, 0),
        brand: "AMD EPYC-Rome Processor",
        features: &[PARAVIRTUAL, QEMU, "pclmulqdq ssse3 fma cx16 sse4.1 sse4.2 movbe popcnt aes xsave avx f16c rdrand \
                       arat fsgsbase bmi1 avx2 smep bmi2 rdseed adx smap clflushopt clwb sha-ni umip \
                       rdpid xsaveopt xsavec xgetbv1 xsaves lahf-lm cr8legacy abm sse4a misalignsse \
                       3dnowprefetch topoext mmxext fxsr-opt pdpe1gb rdtscp clzero xsaveerptr wbnoinvd \
                       ibpb amd-stibp"],
        left_out: "mca mce monitor npt nrip-save osvw perfctr-core svm",
        ..NAMED
    }),
    qemu("EPYC-Rome-v2", &[], NamedModel {
        signature: Signature::new(23, 49, 0),
        brand: "AMD EPYC-Rome Processor",
        features: &[PARAVIRTUAL, QEMU, "pclmulqdq ssse3 fma cx16 sse4.1 sse4.2 movbe popcnt aes xsave avx f16c rdrand \
                       arat fsgsbase bmi1 avx2 smep bmi2 rdseed adx smap clflushopt clwb sha-ni umip \
                       rdpid xsaveopt xsavec xgetbv1 xsaves lahf-lm cr8legacy abm sse4a misalignsse \
                       3dnowprefetch topoext mmxext fxsr-opt pdpe1gb rdtscp clzero xsaveerptr wbnoinvd \
                       ibpb ibrs amd-stibp amd-ssbd"],
        left_out: "mca mce monitor npt nrip-save osvw perfctr-core svm",
        ..NAMED
    }),
    qemu("EPYC-Milan-v1", &["EPYC-Milan"], NamedModel {
        signature: Signature::new(25, 1, 1),
        brand: "AMD EPYC-Milan Processor",
        features: &[PARAVIRTUAL, QEMU, "pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 movbe popcnt aes xsave avx f16c \
                       rdrand arat fsgsbase bmi1 avx2 smep bmi2 erms invpcid rdseed adx smap clflushopt \
                       clwb sha-ni umip pku rdpid fsrm xsaveopt xsavec xgetbv1 xsaves lahf-lm cr8legacy \
                       abm sse4a misalignsse 3dnowprefetch topoext mmxext fxsr-opt pdpe1gb rdtscp \
                       clzero xsaveerptr wbnoinvd ibpb ibrs amd-stibp amd-ssbd"],
        left_out: "mca mce monitor npt nrip-save osvw perfctr-core svm svme-addr-chk",
        ..NAMED
    }),
];
