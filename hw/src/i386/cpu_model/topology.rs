//! Where a vCPU stands among the others, and the caches that it seems to have.
//!
//! A VM is one package of single-threaded cores, numbered by APIC id without gaps. First- and second-level caches are a
//! core's own, the third is everybody's.

use super::super::cpu_feature::CpuFeature;
use super::super::cpuid::{
    CpuidEntry, CpuidTable, LEAF_AMD_CACHES, LEAF_AMD_TOPOLOGY, LEAF_CACHE_DESCRIPTORS, LEAF_CACHES, LEAF_EXTENDED,
    LEAF_FEATURES, LEAF_TOPOLOGY,
};

/// The bit of leaf 1 EDX that says that the number of processors in EBX counts.
pub(super) const HTT: u32 = 1 << 28;
/// The bit of leaf 0x80000001 ECX that says that those processors are cores, not threads.
pub(super) const CMP_LEGACY: u32 = 1 << 1;

/// A cache as the leaves of caches describe it.
struct Cache {
    level: u32,
    /// 1 for data, 2 for instructions, 3 for both.
    kind: u32,
    kib: u32,
    ways: u32,
}

/// The bytes of a line, the same in all of them.
const LINE: u32 = 64;

const fn cache(level: u32, kind: u32, kib: u32, ways: u32) -> Cache {
    Cache { level, kind, kib, ways }
}

/// The caches of every named model. Guests choose sizes of blocks by them and need no truth.
const CACHES: [Cache; 4] = [
    cache(1, 1, 32, 8),
    cache(1, 2, 32, 8),
    cache(2, 3, 512, 8),
    cache(3, 3, 16384, 16),
];

/// Fills in the leaves of topology and caches. The caches are those of `host`, if it is given and tells of any.
pub(super) fn fill(table: &mut CpuidTable, cpus: u32, amd: bool, host: Option<&CpuidTable>) {
    let id_bits = cpus.max(1).next_power_of_two().trailing_zeros();
    let features = table.entry_mut(LEAF_FEATURES, 0);
    features.ebx = (LINE / 8) << 8 | (cpus.min(0xff) << 16);
    if cpus > 1 {
        features.edx |= HTT;
    }
    const SMT: u32 = 1 << 8;
    const CORE: u32 = 2 << 8;
    table.insert(CpuidEntry {
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
    let has_topoext = CpuFeature::named("topoext").is_some_and(|topoext| table.has(topoext));
    if amd {
        if cpus > 1 {
            table.entry_mut(LEAF_EXTENDED + 1, 0).ecx |= CMP_LEGACY;
        }
        table.entry_mut(LEAF_EXTENDED + 8, 0).ecx = (id_bits << 12) | cpus.saturating_sub(1).min(0xff);
        summaries(table, host);
        if has_topoext {
            caches(table, LEAF_AMD_CACHES, cpus, host);
            table.insert(CpuidEntry::new(LEAF_AMD_TOPOLOGY, 0));
        }
    } else {
        caches(table, LEAF_CACHES, cpus, host);
        // One descriptor, which says that the other leaf tells.
        table.insert(CpuidEntry {
            eax: 0x00ff_0001,
            ..CpuidEntry::new(LEAF_CACHE_DESCRIPTORS, 0)
        });
    }
}

/// The caches, a subleaf each and an empty one, in the form in which Intel has them in one leaf and AMD in another.
fn caches(table: &mut CpuidTable, leaf: u32, cpus: u32, host: Option<&CpuidTable>) {
    let of_host = |subleaf| host?.get(leaf, subleaf).filter(|entry| entry.eax & 0x1f != 0).copied();
    let mut found: Vec<_> = (0..8).map_while(of_host).collect();
    if found.is_empty() {
        found = CACHES.iter().map(described).collect();
    }
    let cores_beyond_first = cpus.saturating_sub(1);
    for (subleaf, mut entry) in (0..).zip(found) {
        (entry.leaf, entry.subleaf) = (leaf, subleaf);
        // Bits 14 to 25: how many threads share it, less one. Bits 26 to 31: how many cores are in the package, less one.
        let level = (entry.eax >> 5) & 7;
        let sharing = if level < 3 { 0 } else { cores_beyond_first.min(0xfff) };
        let cores = if leaf == LEAF_CACHES {
            cores_beyond_first.min(0x3f)
        } else {
            0
        };
        entry.eax = (entry.eax & 0x3fff) | (sharing << 14) | (cores << 26);
        table.insert(entry);
    }
}

fn described(cache: &Cache) -> CpuidEntry {
    const SELF_INITIALIZING: u32 = 1 << 8;
    let sets = cache.kib * 1024 / LINE / cache.ways;
    CpuidEntry {
        eax: cache.kind | (cache.level << 5) | SELF_INITIALIZING,
        ebx: (LINE - 1) | ((cache.ways - 1) << 22),
        ecx: sets - 1,
        ..CpuidEntry::default()
    }
}

/// AMD's two older leaves of caches.
fn summaries(table: &mut CpuidTable, host: Option<&CpuidTable>) {
    let (first, second) = (LEAF_EXTENDED + 5, LEAF_EXTENDED + 6);
    if let Some((one, two)) = host.and_then(|host| Some((host.get(first, 0)?, host.get(second, 0)?))) {
        table.insert(*one);
        table.insert(*two);
        return;
    }
    let [data, instructions, level2, level3] = &CACHES;
    let of_first_level = |cache: &Cache| (cache.kib << 24) | (cache.ways << 16) | (1 << 8) | LINE;
    // Their codes of 8 and 16 ways.
    const WAYS_8: u32 = 6;
    const WAYS_16: u32 = 8;
    table.insert(CpuidEntry {
        ecx: of_first_level(data),
        edx: of_first_level(instructions),
        ..CpuidEntry::new(first, 0)
    });
    table.insert(CpuidEntry {
        ecx: (level2.kib << 16) | (WAYS_8 << 12) | (1 << 8) | LINE,
        edx: ((level3.kib / 512) << 18) | (WAYS_16 << 12) | (1 << 8) | LINE,
        ..CpuidEntry::new(second, 0)
    });
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::{rich_host, table_on};
    use super::*;

    fn intel_host() -> CpuidTable {
        let mut host = rich_host();
        host.insert(CpuidEntry {
            ebx: u32::from_le_bytes(*b"Genu"),
            edx: u32::from_le_bytes(*b"ineI"),
            ecx: u32::from_le_bytes(*b"ntel"),
            ..CpuidEntry::new(0, 0)
        });
        host
    }

    #[test]
    fn the_topology_counts_the_processors() {
        for host in [rich_host(), intel_host()] {
            let given = table_on(&host, "x86-64-v1-1", 3).table;
            assert_eq!(
                given.get(LEAF_TOPOLOGY, 1).map(|entry| (entry.eax, entry.ebx)),
                Some((2, 3))
            );
            let features = given.get(LEAF_FEATURES, 0).expect("there");
            assert_eq!((features.ebx >> 16, features.edx & HTT), (3, HTT));
        }
        let one = table_on(&rich_host(), "x86-64-v1-1", 1).table;
        assert_eq!(one.get(LEAF_FEATURES, 0).map(|entry| entry.edx & HTT), Some(0));
    }

    /// Level, kind, bytes, and how many share it, as a kernel computes them.
    fn read(table: &CpuidTable, leaf: u32) -> Vec<(u32, u32, u32, u32)> {
        (0..)
            .map_while(|subleaf| table.get(leaf, subleaf))
            .map(|entry| {
                let (line, ways) = ((entry.ebx & 0xfff) + 1, (entry.ebx >> 22) + 1);
                let bytes = line * ways * (entry.ecx + 1);
                let sharing = ((entry.eax >> 14) & 0xfff) + 1;
                ((entry.eax >> 5) & 7, entry.eax & 0x1f, bytes, sharing)
            })
            .collect()
    }

    #[test]
    fn each_vendor_tells_of_caches_where_guests_look() {
        let expected = [
            (1, 1, 32 << 10, 1),
            (1, 2, 32 << 10, 1),
            (2, 3, 512 << 10, 1),
            (3, 3, 16 << 20, 4),
        ];
        let intel = table_on(&intel_host(), "Haswell-noTSX", 4).table;
        assert_eq!(read(&intel, LEAF_CACHES), expected);
        assert_eq!(intel.get(LEAF_CACHES, 0).map(|entry| entry.eax >> 26), Some(3));
        assert_eq!(intel.get(LEAF_AMD_CACHES, 0), None);
        let amd = table_on(&rich_host(), "EPYC", 4).table;
        assert_eq!(read(&amd, LEAF_AMD_CACHES), expected);
        assert_eq!(amd.get(LEAF_CACHES, 0), None);
        assert_eq!(
            amd.for_vcpu(3)
                .get(LEAF_AMD_TOPOLOGY, 0)
                .map(|entry| (entry.eax, entry.ebx)),
            Some((3, 3))
        );
        // A guest that does not know the leaf asks the older ones.
        let plain = table_on(&rich_host(), "x86-64-v1", 4).table;
        assert_eq!(plain.get(LEAF_AMD_CACHES, 0), None);
        assert_eq!(plain.get(LEAF_EXTENDED + 6, 0).map(|entry| entry.ecx >> 16), Some(512));
    }

    #[test]
    fn the_hosts_model_has_the_hosts_caches_shared_as_the_vm_is_built() {
        let mut host = intel_host();
        let big = CpuidEntry {
            leaf: LEAF_CACHES,
            ..described(&cache(3, 3, 65536, 16))
        };
        // Sixty-four threads in thirty-two cores share it.
        host.insert(CpuidEntry {
            eax: big.eax | (63 << 14) | (31 << 26),
            ..big
        });
        assert_eq!(
            read(&table_on(&host, "host", 2).table, LEAF_CACHES),
            [(3, 3, 64 << 20, 2)]
        );
    }
}
