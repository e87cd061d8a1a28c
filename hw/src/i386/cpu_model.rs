//! CPU models: what a guest is told about its processor, as data.
//!
//! A model is a name, a version and a list of features; the table that a VM gets is the model cut down to what the host
//! can do, and from then on only the table counts. A released model never changes: a better one is a new version.

use super::cpu_feature::{CPU_FEATURES, CpuFeature};
use super::cpuid::{
    CpuidEntry, CpuidTable, LEAF_EXTENDED, LEAF_FEATURES, LEAF_FREQUENCIES, LEAF_HYPERVISOR, LEAF_TOPOLOGY, LEAF_XSAVE,
};
use super::xsave::DESCRIBED_COMPONENTS;

/// A CPU model.
#[derive(Debug)]
pub struct CpuModel {
    /// The name with its version.
    pub name: &'static str,
    /// What it is, in one line.
    pub description: &'static str,
    /// What it is made of.
    pub contents: ModelContents,
}

/// What a CPU model is made of.
#[derive(Debug)]
pub enum ModelContents {
    /// All of the host that Tern can describe: the VM is tied to hosts like this one.
    Host,
    /// A fixed list.
    Baseline {
        /// Family, model and stepping as leaf 1 tells them.
        signature: u32,
        /// The width of physical addresses, which a host may have less of.
        physical_address_bits: u8,
        /// The names of features, each in [`CPU_FEATURES`].
        features: &'static [&'static str],
    },
}

/// The model of VMs whose user names none: the newest baseline.
pub const DEFAULT_CPU_MODEL: &str = "x86-64-v1-1";

/// All models.
pub const CPU_MODELS: &[CpuModel] = &[
    CpuModel {
        name: "host",
        description: "everything that this host and Tern both know; moves only to hosts that have it all",
        contents: ModelContents::Host,
    },
    CpuModel {
        name: "x86-64-v1-1",
        description: "the x86-64 baseline with KVM's clock: runs on, and moves between, all 64-bit hosts",
        contents: ModelContents::Baseline {
            signature: 0x0006_0fb1,
            physical_address_bits: 40,
            features: &[
                "fpu",
                "de",
                "pse",
                "tsc",
                "msr",
                "pae",
                "cx8",
                "apic",
                "sep",
                "mtrr",
                "pge",
                "cmov",
                "pat",
                "pse36",
                "clflush",
                "mmx",
                "fxsr",
                "sse",
                "sse2",
                "x2apic",
                "tsc-deadline",
                "hypervisor",
                "arat",
                "tsc-adjust",
                "syscall",
                "nx",
                "lm",
                "kvm-nopiodelay",
                "kvmclock",
                "kvm-steal-time",
                "kvm-pv-eoi",
                "kvmclock-stable-bit",
            ],
        },
    },
];

impl CpuModel {
    /// The model called `name`.
    ///
    /// # Errors
    ///
    /// [`NoSuchModel`], which lists those that there are.
    pub fn named(name: &str) -> Result<&'static Self, NoSuchModel> {
        CPU_MODELS
            .iter()
            .find(|model| model.name == name)
            .ok_or_else(|| NoSuchModel(name.to_owned()))
    }

    /// Whether the model is the host's own, so that the VM is tied to hosts like it.
    #[must_use]
    pub fn is_tied_to_host(&self) -> bool {
        matches!(self.contents, ModelContents::Host)
    }

    /// The features that the model promises; for `host`, everything that Tern knows.
    pub fn features(&self) -> Vec<&'static CpuFeature> {
        match self.contents {
            ModelContents::Host => CPU_FEATURES.iter().collect(),
            ModelContents::Baseline { features, .. } => CPU_FEATURES
                .iter()
                .filter(|feature| features.contains(&feature.name))
                .collect(),
        }
    }

    /// The table of a VM with `cpus` processors on a host whose accelerator supports `supported`, and the features that
    /// the model has and the host lacks.
    #[must_use]
    pub fn table(&self, host: &HostCpu<'_>, cpus: u32) -> ModelTable {
        let mut table = CpuidTable::default();
        let mut missing = Vec::new();
        for feature in self.features() {
            if host.supported.has(feature) {
                *table
                    .entry_mut(feature.leaf, feature.subleaf)
                    .register_mut(feature.register) |= feature.mask();
            } else if !self.is_tied_to_host() {
                missing.push(feature.name);
            }
        }
        self.identity(&mut table, host.supported);
        topology(&mut table, cpus);
        xsave(&mut table, host.supported);
        hypervisor(&mut table, host);
        ModelTable { table, missing }
    }

    /// Vendor, signature, names, address widths.
    fn identity(&self, table: &mut CpuidTable, supported: &CpuidTable) {
        // Code in guests chooses by vendor between instructions that only one has, so the vendor is always the host's.
        let vendor = supported.get(0, 0).copied().unwrap_or_default();
        table.insert(CpuidEntry {
            eax: LEAF_XSAVE,
            ..vendor
        });
        let extended = CpuidEntry {
            leaf: LEAF_EXTENDED,
            eax: LEAF_EXTENDED + 0x21,
            ..vendor
        };
        table.insert(extended);
        let host_widths = supported.get(LEAF_EXTENDED + 8, 0).map_or(0x3028, |entry| entry.eax);
        let (signature, widths, name) = match self.contents {
            ModelContents::Host => {
                let signature = supported.get(LEAF_FEATURES, 0).map_or(0, |entry| entry.eax);
                (signature, host_widths & 0xffff, None)
            }
            ModelContents::Baseline {
                signature,
                physical_address_bits,
                ..
            } => {
                let physical = (host_widths & 0xff).min(u32::from(physical_address_bits));
                (
                    signature,
                    48 << 8 | physical,
                    Some(format!("Tern virtual CPU {}", self.name)),
                )
            }
        };
        table.entry_mut(LEAF_FEATURES, 0).eax = signature;
        table.entry_mut(LEAF_EXTENDED + 1, 0).eax = signature;
        table.entry_mut(LEAF_EXTENDED + 8, 0).eax = widths;
        if &table.vendor() == b"AuthenticAMD" {
            // AMD repeats these features of leaf 1 here.
            let repeated = table.get(LEAF_FEATURES, 0).map_or(0, |entry| entry.edx) & 0x0183_f3ff;
            table.entry_mut(LEAF_EXTENDED + 1, 0).edx |= repeated;
        }
        match name {
            Some(name) => brand(table, &name),
            None => {
                for leaf in [2, 3, 4, 5, 6].map(|number| LEAF_EXTENDED + number) {
                    table.insert(supported.get(leaf, 0).copied().unwrap_or(CpuidEntry::new(leaf, 0)));
                }
            }
        }
    }
}

/// No model has the name that was asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct NoSuchModel(pub String);

impl std::error::Error for NoSuchModel {}

impl std::fmt::Display for NoSuchModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "there is no CPU model '{}'; there are", self.0)?;
        for (index, model) in CPU_MODELS.iter().enumerate() {
            write!(f, "{} {}", if index == 0 { "" } else { "," }, model.name)?;
        }
        Ok(())
    }
}

/// What a model's table depends on besides the model.
#[derive(Clone, Copy, Debug)]
pub struct HostCpu<'a> {
    /// What the accelerator can give to guests on this host.
    pub supported: &'a CpuidTable,
    /// How fast guests' TSCs count here, in kHz.
    pub tsc_khz: u32,
}

/// What a model came to on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelTable {
    /// The table for the VM.
    pub table: CpuidTable,
    /// The features of the model that the host lacks.
    pub missing: Vec<&'static str>,
}

/// The features that `table` offers and a host does not support: what keeps a VM from coming here.
#[must_use]
pub fn features_lacking(table: &CpuidTable, supported: &CpuidTable) -> Vec<&'static str> {
    CPU_FEATURES
        .iter()
        .filter(|feature| table.has(feature) && !supported.has(feature))
        .map(|feature| feature.name)
        .collect()
}

/// One package of single-threaded cores, numbered by APIC id without gaps.
fn topology(table: &mut CpuidTable, cpus: u32) {
    let id_bits = cpus.max(1).next_power_of_two().trailing_zeros();
    let features = table.entry_mut(LEAF_FEATURES, 0);
    features.ebx = (8 << 8) | (cpus.min(0xff) << 16);
    if cpus > 1 {
        features.edx |= 1 << 28; // the number of logical processors in EBX counts
    }
    const SMT: u32 = 1 << 8;
    const CORE: u32 = 2 << 8;
    table.insert(CpuidEntry {
        eax: 0,
        ebx: 1,
        ecx: SMT,
        ..CpuidEntry::new(LEAF_TOPOLOGY, 0)
    });
    table.insert(CpuidEntry {
        eax: id_bits,
        ebx: cpus,
        ecx: CORE | 1,
        ..CpuidEntry::new(LEAF_TOPOLOGY, 1)
    });
    if &table.vendor() == b"AuthenticAMD" {
        if cpus > 1 {
            table.entry_mut(LEAF_EXTENDED + 1, 0).ecx |= 1 << 1; // the processors of leaf 1 are cores, not threads
        }
        table.entry_mut(LEAF_EXTENDED + 8, 0).ecx = (id_bits << 12) | cpus.saturating_sub(1).min(0xff);
    }
}

/// The XSAVE components that host and features allow. Offsets are the host's, because only it can lay out an area.
fn xsave(table: &mut CpuidTable, supported: &CpuidTable) {
    let has = |name| CpuFeature::named(name).is_some_and(|feature| table.has(feature));
    if !has("xsave") {
        return;
    }
    let mut components: u64 = 0b11;
    for (mask, feature) in [(1 << 2, "avx"), (0b111 << 5, "avx512f"), (1 << 9, "pku")] {
        if has(feature) {
            components |= mask;
        }
    }
    let host = supported.get(LEAF_XSAVE, 0).copied().unwrap_or_default();
    components &= (u64::from(host.edx) << 32 | u64::from(host.eax)) & DESCRIBED_COMPONENTS;
    let mut size = 0x240;
    for component in 2..63u32 {
        if components & 1 << component != 0
            && let Some(entry) = supported.get(LEAF_XSAVE, component)
        {
            size = size.max(entry.ebx + entry.eax);
            table.insert(*entry);
        }
    }
    let low = components & 0xffff_ffff;
    let entry = table.entry_mut(LEAF_XSAVE, 0);
    entry.eax = u32::try_from(low).unwrap_or(0);
    // EBX follows XCR0 in the running guest; this is its value for all components.
    (entry.ebx, entry.ecx) = (size, size);
}

/// The hypervisor's leaves.
fn hypervisor(table: &mut CpuidTable, host: &HostCpu<'_>) {
    let signature = |letters: &[u8; 4]| u32::from_le_bytes(*letters);
    table.insert(CpuidEntry {
        eax: LEAF_FREQUENCIES,
        ebx: signature(b"KVMK"),
        ecx: signature(b"VMKV"),
        edx: signature(b"M\0\0\0"),
        ..CpuidEntry::new(LEAF_HYPERVISOR, 0)
    });
    const APIC_TIMER_KHZ: u32 = 1_000_000;
    table.insert(CpuidEntry {
        eax: host.tsc_khz,
        ebx: APIC_TIMER_KHZ,
        ..CpuidEntry::new(LEAF_FREQUENCIES, 0)
    });
}

/// Writes the name of up to 47 letters that leaves 0x80000002 to 0x80000004 hold.
fn brand(table: &mut CpuidTable, name: &str) {
    let mut letters = [0u8; 48];
    let length = name.len().min(47);
    letters[..length].copy_from_slice(&name.as_bytes()[..length]);
    for (leaf, part) in (LEAF_EXTENDED + 2..).zip(letters.chunks_exact(16)) {
        let word = |at: usize| u32::from_le_bytes([part[at], part[at + 1], part[at + 2], part[at + 3]]);
        table.insert(CpuidEntry {
            eax: word(0),
            ebx: word(4),
            ecx: word(8),
            edx: word(12),
            ..CpuidEntry::new(leaf, 0)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supported() -> CpuidTable {
        let mut table = CpuidTable::default();
        for feature in CPU_FEATURES {
            *table
                .entry_mut(feature.leaf, feature.subleaf)
                .register_mut(feature.register) |= feature.mask();
        }
        // A bit that Tern does not know must never reach a guest.
        table.entry_mut(7, 0).edx |= 1 << 24;
        table.insert(CpuidEntry {
            ebx: 0x6874_7541,
            edx: 0x6974_6e65,
            ecx: 0x444d_4163,
            ..CpuidEntry::new(0, 0)
        });
        table.entry_mut(LEAF_EXTENDED + 8, 0).eax = 0x3030;
        table.insert(CpuidEntry {
            eax: 0x2e7 | 1 << 17,
            ..CpuidEntry::new(LEAF_XSAVE, 0)
        });
        table.insert(CpuidEntry {
            eax: 0x100,
            ebx: 0x240,
            ..CpuidEntry::new(LEAF_XSAVE, 2)
        });
        table
    }

    fn table(model: &str, cpus: u32) -> ModelTable {
        let supported = supported();
        CpuModel::named(model).expect("exists").table(
            &HostCpu {
                supported: &supported,
                tsc_khz: 2_596_130,
            },
            cpus,
        )
    }

    #[test]
    fn names_in_models_are_features() {
        for model in CPU_MODELS {
            if let ModelContents::Baseline { features, .. } = model.contents {
                for name in features {
                    assert!(CpuFeature::named(name).is_some(), "{} names {name}", model.name);
                }
                assert_eq!(model.features().len(), features.len());
            }
        }
    }

    #[test]
    fn the_default_exists_and_another_name_is_refused_with_the_list() {
        assert!(CpuModel::named(DEFAULT_CPU_MODEL).is_ok());
        let error = CpuModel::named("pentium").expect_err("unknown").to_string();
        assert_eq!(error, "there is no CPU model 'pentium'; there are host, x86-64-v1-1");
    }

    #[test]
    fn a_host_gives_no_bit_that_tern_does_not_know() {
        let given = table("host", 1).table;
        assert_eq!(given.get(7, 0).map(|entry| entry.edx & 1 << 24), Some(0));
        assert_eq!(given.get(LEAF_XSAVE, 0).map(|entry| entry.eax), Some(0x2e7));
    }

    #[test]
    fn a_baseline_is_the_same_on_every_host_that_has_it() {
        let given = table("x86-64-v1-1", 2);
        assert!(given.missing.is_empty());
        assert!(!given.table.has(CpuFeature::named("avx").expect("known")));
        assert_eq!(
            given.table.get(LEAF_EXTENDED + 8, 0).map(|entry| entry.eax),
            Some(0x3028)
        );
        assert_eq!(given.table.get(LEAF_XSAVE, 0), None);
    }

    #[test]
    fn the_baseline_does_without_what_only_16_bit_guests_use() {
        // Emulated hosts lack it, and some processors have it with an erratum.
        let mut host = supported();
        host.entry_mut(LEAF_FEATURES, 0).edx &= !CpuFeature::named("vme").expect("known").mask();
        let host = HostCpu {
            supported: &host,
            tsc_khz: 1,
        };
        let baseline = CpuModel::named("x86-64-v1-1").expect("exists");
        assert_eq!(baseline.table(&host, 1).missing, [""; 0]);
    }

    #[test]
    fn what_a_host_lacks_is_named() {
        let mut host = supported();
        host.entry_mut(LEAF_FEATURES, 0).edx &= !(1 << 12 | 1 << 13);
        let model = CpuModel::named("x86-64-v1-1").expect("exists");
        let given = model.table(
            &HostCpu {
                supported: &host,
                tsc_khz: 1,
            },
            1,
        );
        assert_eq!(given.missing, ["mtrr", "pge"]);
        assert_eq!(features_lacking(&table("x86-64-v1-1", 1).table, &host), ["mtrr", "pge"]);
        assert!(features_lacking(&given.table, &host).is_empty());
    }

    #[test]
    fn the_topology_counts_the_processors() {
        let given = table("x86-64-v1-1", 3).table;
        assert_eq!(
            given.get(LEAF_TOPOLOGY, 1).map(|entry| (entry.eax, entry.ebx)),
            Some((2, 3))
        );
        assert_eq!(given.get(LEAF_FEATURES, 0).map(|entry| entry.ebx >> 16), Some(3));
    }
}
