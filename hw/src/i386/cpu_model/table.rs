//! From a model to the table that a VM gets on a host.

use super::super::cpu_feature::CpuFeature;
use super::super::cpuid::{
    CpuidEntry, CpuidTable, LEAF_EXTENDED, LEAF_FEATURES, LEAF_FREQUENCIES, LEAF_HYPERVISOR, LEAF_STRUCTURED_FEATURES,
    LEAF_XSAVE,
};
use super::super::xsave::DESCRIBED_COMPONENTS;
use super::{CpuSpec, ModelContents, topology};

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
    pub missing: Vec<&'static CpuFeature>,
}

/// The vendor whose processors announce some things in leaves of their own.
const AMD: &[u8; 12] = b"AuthenticAMD";

impl CpuSpec {
    /// The table of a VM with `cpus` processors on a host, and the features that were asked for and that the host lacks.
    #[must_use]
    pub fn table(&self, host: &HostCpu<'_>, cpus: u32) -> ModelTable {
        let mut table = CpuidTable::default();
        let mut missing = Vec::new();
        for feature in self.features().features() {
            if host.supported.has(feature) {
                table.give(feature);
            } else if !self.model().is_tied_to_host() || self.demands(feature) {
                missing.push(feature);
            }
        }
        let host_caches = self.model().is_tied_to_host().then_some(host.supported);
        identity(self, &mut table, host.supported);
        let amd = is_amd(&table);
        topology::fill(&mut table, cpus, amd, host_caches);
        xsave(&mut table, host.supported);
        hypervisor(&mut table, host);
        limits(&mut table);
        ModelTable { table, missing }
    }
}

fn is_amd(table: &CpuidTable) -> bool {
    &table.vendor() == AMD
}

fn has(table: &CpuidTable, name: &str) -> bool {
    CpuFeature::named(name).is_some_and(|feature| table.has(feature))
}

/// Vendor, signature, names, address widths.
fn identity(spec: &CpuSpec, table: &mut CpuidTable, supported: &CpuidTable) {
    let vendor = supported.get(0, 0).copied().unwrap_or_default();
    table.insert(CpuidEntry { eax: 0, ..vendor });
    table.insert(CpuidEntry {
        leaf: LEAF_EXTENDED,
        eax: 0,
        ..vendor
    });
    let host_widths = supported.get(LEAF_EXTENDED + 8, 0).map_or(0x3028, |entry| entry.eax);
    let (signature, widths) = match &spec.model().contents {
        ModelContents::Host => {
            for leaf in [2, 3, 4].map(|number| LEAF_EXTENDED + number) {
                table.insert(supported.get(leaf, 0).copied().unwrap_or(CpuidEntry::new(leaf, 0)));
            }
            let signature = supported.get(LEAF_FEATURES, 0).map_or(0, |entry| entry.eax);
            (signature, host_widths & 0xffff)
        }
        ModelContents::Named(named) => {
            brand(table, named.brand);
            let physical = (host_widths & 0xff).min(u32::from(named.physical_address_bits));
            let virtual_bits: u32 = if has(table, "la57") { 57 } else { 48 };
            (named.signature.0, (virtual_bits << 8) | physical)
        }
    };
    table.entry_mut(LEAF_FEATURES, 0).eax = signature;
    table.entry_mut(LEAF_EXTENDED + 1, 0).eax = signature;
    table.entry_mut(LEAF_EXTENDED + 8, 0).eax = widths;
    if is_amd(table) {
        // AMD repeats these features of leaf 1 here.
        let repeated = table.get(LEAF_FEATURES, 0).map_or(0, |entry| entry.edx) & REPEATED_BY_AMD;
        table.entry_mut(LEAF_EXTENDED + 1, 0).edx |= repeated;
    }
}

/// The bits of EDX that leaf 0x80000001 of AMD's processors has from leaf 1.
pub(super) const REPEATED_BY_AMD: u32 = 0x0183_f3ff;

/// The XSAVE components that host and features allow. Offsets are the host's, because only it can lay out an area.
fn xsave(table: &mut CpuidTable, supported: &CpuidTable) {
    if !has(table, "xsave") {
        return;
    }
    let mut components: u64 = 0b11;
    for (mask, feature) in [(1 << 2, "avx"), (0b111 << 5, "avx512f"), (1 << 9, "pku")] {
        if has(table, feature) {
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

/// Up to which leaf and subleaf a guest looks. It looks no further, whatever stands there.
fn limits(table: &mut CpuidTable) {
    let last = |table: &CpuidTable, below: u32| {
        let leaves = table.entries().iter().map(|entry| entry.leaf);
        leaves.filter(|leaf| *leaf < below).max().unwrap_or(0)
    };
    table.entry_mut(0, 0).eax = last(table, LEAF_HYPERVISOR);
    table.entry_mut(LEAF_EXTENDED, 0).eax = last(table, u32::MAX);
    let subleaves = table.entries().iter();
    let last = subleaves.filter(|entry| entry.leaf == LEAF_STRUCTURED_FEATURES);
    if let Some(last) = last.map(|entry| entry.subleaf).max() {
        table.entry_mut(LEAF_STRUCTURED_FEATURES, 0).eax = last;
    }
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
pub(super) mod tests {
    use super::super::super::cpu_feature::CPU_FEATURES;
    use super::super::super::cpuid::LEAF_TOPOLOGY;
    use super::*;

    /// A host that has everything that Tern knows, and something that it does not know.
    pub(in super::super) fn rich_host() -> CpuidTable {
        let mut table = CpuidTable::default();
        CPU_FEATURES.iter().for_each(|feature| table.give(feature));
        table.entry_mut(7, 0).edx |= 1 << 24;
        table.insert(CpuidEntry {
            ebx: 0x6874_7541,
            edx: 0x6974_6e65,
            ecx: 0x444d_4163,
            ..CpuidEntry::new(0, 0)
        });
        table.entry_mut(LEAF_EXTENDED + 8, 0).eax = 0x3030;
        table.entry_mut(LEAF_XSAVE, 0).eax = 0x2e7 | 1 << 17;
        for (component, size, offset) in [
            (2, 0x100, 0x240),
            (5, 0x40, 0x340),
            (6, 0x200, 0x380),
            (7, 0x400, 0x580),
            (9, 8, 0x980),
        ] {
            table.insert(CpuidEntry {
                eax: size,
                ebx: offset,
                ..CpuidEntry::new(LEAF_XSAVE, component)
            });
        }
        table
    }

    /// A host that lacks these.
    pub(in super::super) fn host_without(names: &[&str]) -> CpuidTable {
        let mut table = rich_host();
        for name in names {
            table.take(CpuFeature::named(name).expect("known"));
        }
        table
    }

    pub(in super::super) fn table_on(supported: &CpuidTable, spec: &str, cpus: u32) -> ModelTable {
        let spec: CpuSpec = spec.parse().expect("a processor");
        let tsc_khz = 2_596_130;
        spec.table(&HostCpu { supported, tsc_khz }, cpus)
    }

    fn names(features: &[&'static CpuFeature]) -> Vec<&'static str> {
        features.iter().map(|feature| feature.name).collect()
    }

    #[test]
    fn a_host_gives_no_bit_that_tern_does_not_know() {
        let given = table_on(&rich_host(), "host", 1).table;
        assert_eq!(given.get(7, 0).map(|entry| entry.edx & 1 << 24), Some(0));
        assert_eq!(given.get(LEAF_XSAVE, 0).map(|entry| entry.eax), Some(0x2e7));
    }

    #[test]
    fn a_baseline_is_the_same_on_every_host_that_has_it() {
        let given = table_on(&rich_host(), "x86-64-v1-1", 2);
        assert!(given.missing.is_empty());
        assert!(!has(&given.table, "avx"));
        assert_eq!(
            given.table.get(LEAF_EXTENDED + 8, 0).map(|entry| entry.eax),
            Some(0x3028)
        );
        assert_eq!(given.table.get(LEAF_XSAVE, 0), None);
        let poorer = host_without(&["avx", "avx512f", "sha-ni", "invtsc"]);
        assert_eq!(table_on(&poorer, "x86-64-v1-1", 2), given);
    }

    #[test]
    fn every_model_runs_on_a_host_that_has_everything() {
        for model in super::super::CPU_MODELS {
            assert_eq!(
                names(&table_on(&rich_host(), model.name, 1).missing),
                [""; 0],
                "{}",
                model.name
            );
        }
    }

    #[test]
    fn what_a_host_lacks_is_named() {
        let host = host_without(&["mtrr", "pge", "popcnt"]);
        assert_eq!(names(&table_on(&host, "x86-64-v1", 1).missing), ["mtrr", "pge"]);
        assert_eq!(names(&table_on(&host, "x86-64-v2,-mtrr", 1).missing), ["popcnt", "pge"]);
        // The host's own model lacks nothing, but for what is asked of it by name.
        assert_eq!(names(&table_on(&host, "host", 1).missing), [""; 0]);
        assert_eq!(names(&table_on(&host, "host,+popcnt", 1).missing), ["popcnt"]);
    }

    #[test]
    fn switched_off_is_not_seen_and_switched_on_is() {
        let given = table_on(&rich_host(), "x86-64-v2,-popcnt,+aes", 1).table;
        assert!(!has(&given, "popcnt") && has(&given, "aes") && has(&given, "sse4.2"));
    }

    #[test]
    fn leaves_and_subleaves_end_where_the_last_one_stands() {
        let plain = table_on(&rich_host(), "x86-64-v1", 1).table;
        let last = |table: &CpuidTable, leaf| table.get(leaf, 0).map(|entry| entry.eax);
        assert_eq!(last(&plain, 0), Some(LEAF_TOPOLOGY));
        assert_eq!(last(&plain, 7), Some(0));
        let host = table_on(&rich_host(), "host", 1).table;
        assert_eq!(last(&host, 0), Some(LEAF_XSAVE));
        // A guest that is told of no second subleaf does not look for the features there.
        assert_eq!(last(&host, 7), Some(2));
        assert_eq!(last(&host, LEAF_EXTENDED), Some(LEAF_EXTENDED + 0x21));
    }

    #[test]
    fn a_named_processor_has_its_name_and_family() {
        let given = table_on(&rich_host(), "EPYC", 1).table;
        assert_eq!(given.get(1, 0).map(|entry| entry.eax), Some(0x0080_0f12));
        assert_eq!(given.brand(), "AMD EPYC Processor");
    }
}
