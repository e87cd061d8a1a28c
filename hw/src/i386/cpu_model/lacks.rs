//! What a guest was given and a host lacks.

use std::fmt;

use super::super::cpu_feature::{CPU_FEATURES, CpuFeature};
use super::super::cpuid::{
    CpuidBit, CpuidRegister, CpuidTable, LEAF_AMD_CACHES, LEAF_AMD_TOPOLOGY, LEAF_CACHE_DESCRIPTORS, LEAF_CACHES,
    LEAF_EXTENDED, LEAF_FEATURES, LEAF_FREQUENCIES, LEAF_HYPERVISOR, LEAF_TOPOLOGY, LEAF_TOPOLOGY_V2, LEAF_XSAVE,
};
use super::super::xsave::DESCRIBED_COMPONENTS;
use super::table::REPEATED_BY_AMD;
use super::topology::{CMP_LEGACY, HTT};

/// Something that a guest was given and a host lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// A feature that the host's processor or KVM does not have.
    Feature(&'static CpuFeature),
    /// A bit among the features whose meaning this Tern does not know, and so neither the state that it brings.
    UnknownBit(CpuidBit),
    /// A leaf of which this Tern knows nothing.
    UnknownLeaf(u32),
    /// A component of XSAVE areas that the host lacks.
    Component(u32),
    /// A component of XSAVE areas that lies elsewhere on the host. The guest reckons with where it was told.
    ComponentElsewhere {
        /// The component.
        component: u32,
        /// Where the guest was told that it lies.
        told: u32,
        /// Where it lies on the host.
        here: u32,
    },
    /// Physical addresses that are wider than the host's.
    AddressWidth {
        /// The bits that the guest was told.
        told: u32,
        /// The host's.
        here: u32,
    },
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Feature(feature) => feature.fmt(f),
            Self::UnknownBit(bit) => write!(f, "{bit}, which this Tern does not know"),
            Self::UnknownLeaf(leaf) => write!(f, "CPUID leaf {leaf:#X}, which this Tern does not know"),
            Self::Component(component) => write!(f, "XSAVE component {component}"),
            Self::ComponentElsewhere { component, told, here } => {
                write!(
                    f,
                    "XSAVE component {component} at {told:#x} (here it lies at {here:#x})"
                )
            }
            Self::AddressWidth { told, here } => {
                write!(f, "physical addresses of {told} bits (here they have {here})")
            }
        }
    }
}

/// Leaves that may differ from the host's without harm: the guest only reads them.
const INFORMATIVE: &[u32] = &[
    0,
    LEAF_FEATURES,
    LEAF_CACHE_DESCRIPTORS,
    LEAF_CACHES,
    LEAF_TOPOLOGY,
    LEAF_XSAVE,
    0x15,
    0x16,
    LEAF_TOPOLOGY_V2,
    LEAF_HYPERVISOR,
    LEAF_FREQUENCIES,
    LEAF_EXTENDED,
    LEAF_EXTENDED + 2,
    LEAF_EXTENDED + 3,
    LEAF_EXTENDED + 4,
    LEAF_EXTENDED + 5,
    LEAF_EXTENDED + 6,
    LEAF_EXTENDED + 8,
    LEAF_AMD_CACHES,
    LEAF_AMD_TOPOLOGY,
];

/// All that `table` offers a guest and a host that supports `supported` lacks: what keeps the guest from going there.
#[must_use]
pub fn lacks(table: &CpuidTable, supported: &CpuidTable) -> Vec<Lack> {
    let features = table.features().filter(|feature| !supported.has(feature));
    let mut lacks: Vec<_> = features.map(Lack::Feature).collect();
    unknown(table, &mut lacks);
    components(table, supported, &mut lacks);
    let width = |table: &CpuidTable| table.get(LEAF_EXTENDED + 8, 0).map(|entry| entry.eax & 0xff);
    if let (Some(told), Some(here)) = (width(table), width(supported))
        && told > here
    {
        lacks.push(Lack::AddressWidth { told, here });
    }
    lacks
}

/// Bits of a register with features that are none and mean no harm: they follow from the topology or repeat others.
fn derived(leaf: u32, register: CpuidRegister) -> u32 {
    match (leaf, register) {
        (LEAF_FEATURES, CpuidRegister::Edx) => HTT,
        (0x8000_0001, CpuidRegister::Ecx) => CMP_LEGACY,
        (0x8000_0001, CpuidRegister::Edx) => REPEATED_BY_AMD,
        _ => 0,
    }
}

/// What only a newer Tern can have put there.
fn unknown(table: &CpuidTable, lacks: &mut Vec<Lack>) {
    for entry in table.entries() {
        let here = |feature: &&CpuFeature| (feature.leaf, feature.subleaf) == (entry.leaf, entry.subleaf);
        let is_of_features = CPU_FEATURES.iter().any(|feature| feature.leaf == entry.leaf);
        if !is_of_features && !INFORMATIVE.contains(&entry.leaf) {
            let empty = CpuidRegister::ALL.iter().all(|register| entry.register(*register) == 0);
            if !empty && !lacks.contains(&Lack::UnknownLeaf(entry.leaf)) {
                lacks.push(Lack::UnknownLeaf(entry.leaf));
            }
            continue;
        }
        for register in CpuidRegister::ALL {
            let features = CPU_FEATURES
                .iter()
                .filter(here)
                .filter(|feature| feature.register == register);
            let known = features.fold(0, |known, feature| known | feature.mask());
            if known == 0 {
                continue;
            }
            let unknown = entry.register(register) & !(known | derived(entry.leaf, register));
            lacks.extend((0..32).filter(|bit| unknown & (1 << bit) != 0).map(|bit| {
                Lack::UnknownBit(CpuidBit {
                    leaf: entry.leaf,
                    subleaf: entry.subleaf,
                    register,
                    bit,
                })
            }));
        }
    }
}

fn components(table: &CpuidTable, supported: &CpuidTable, lacks: &mut Vec<Lack>) {
    let mask = |table: &CpuidTable| {
        let entry = table.get(LEAF_XSAVE, 0).copied().unwrap_or_default();
        (u64::from(entry.edx) << 32) | u64::from(entry.eax)
    };
    let (told, here) = (mask(table), mask(supported) & DESCRIBED_COMPONENTS);
    for component in (0..64u32).filter(|component| told & (1 << component) != 0) {
        let place = |table: &CpuidTable| table.get(LEAF_XSAVE, component).map_or(0, |entry| entry.ebx);
        let (told, place_here) = (place(table), place(supported));
        if here & (1 << component) == 0 {
            lacks.push(Lack::Component(component));
        } else if component > 1 && told != place_here {
            lacks.push(Lack::ComponentElsewhere {
                component,
                told,
                here: place_here,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::{host_without, rich_host, table_on};
    use super::*;

    fn told(table: &CpuidTable, host: &CpuidTable) -> Vec<String> {
        lacks(table, host).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_vm_goes_wherever_its_features_are() {
        for model in super::super::CPU_MODELS {
            let table = table_on(&rich_host(), model.name, 3).table;
            assert_eq!(told(&table, &rich_host()), [""; 0], "{}", model.name);
            assert_eq!(told(&table.for_vcpu(2), &rich_host()), [""; 0], "{}", model.name);
        }
        let table = table_on(&rich_host(), "x86-64-v2", 3).table;
        assert_eq!(
            told(&table, &host_without(&["avx", "aes", "invtsc", "topoext"])),
            [""; 0]
        );
    }

    #[test]
    fn each_feature_that_a_host_lacks_is_named_with_its_place() {
        let table = table_on(&rich_host(), "x86-64-v2,+aes", 1).table;
        assert_eq!(
            told(&table, &host_without(&["aes", "popcnt", "avx"])),
            ["popcnt (CPUID 1 ECX[23])", "aes (CPUID 1 ECX[25])"]
        );
    }

    #[test]
    fn what_a_newer_tern_offers_is_not_taken_for_nothing() {
        let mut table = table_on(&rich_host(), "x86-64-v2", 1).table;
        table.entry_mut(7, 0).edx |= 1 << 24;
        table.entry_mut(0x1d, 1).eax = 7;
        table.entry_mut(0x1d, 2).eax = 7;
        // An answer of zeros is what every leaf gives that is not there.
        table.entry_mut(0x14, 0).eax = 0;
        assert_eq!(
            told(&table, &rich_host()),
            [
                "CPUID 7.0 EDX[24], which this Tern does not know",
                "CPUID leaf 0x1D, which this Tern does not know"
            ]
        );
    }

    #[test]
    fn components_have_to_lie_where_the_guest_was_told() {
        let table = table_on(&rich_host(), "host", 1).table;
        let mut other = rich_host();
        other.entry_mut(LEAF_XSAVE, 9).ebx = 0xa80;
        other.entry_mut(LEAF_XSAVE, 0).eax &= !(1 << 7);
        assert_eq!(
            told(&table, &other),
            [
                "XSAVE component 7",
                "XSAVE component 9 at 0x980 (here it lies at 0xa80)"
            ]
        );
    }

    #[test]
    fn wider_addresses_than_the_hosts_are_a_lack() {
        let table = table_on(&rich_host(), "host", 1).table;
        let mut other = rich_host();
        other.entry_mut(LEAF_EXTENDED + 8, 0).eax = 0x3027;
        assert_eq!(
            told(&table, &other),
            ["physical addresses of 48 bits (here they have 39)"]
        );
    }
}
