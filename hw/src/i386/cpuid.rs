//! The answers that CPUID gives: a table that is made once, travels with the VM and is authoritative wherever it goes.
//!
//! One table serves all vCPUs of a VM. What differs between them is the APIC id, which [`CpuidTable::for_vcpu`] fills in.

use std::fmt;

use super::cpu_feature::{CPU_FEATURES, CpuFeature};

/// The basic leaf with the processor's signature, its first features and its initial APIC id.
pub const LEAF_FEATURES: u32 = 1;
/// Descriptors of caches, by which Intel's processors refer to [`LEAF_CACHES`].
pub const LEAF_CACHE_DESCRIPTORS: u32 = 2;
/// Intel's leaf of caches, a subleaf each.
pub const LEAF_CACHES: u32 = 4;
/// The second leaf of features.
pub const LEAF_STRUCTURED_FEATURES: u32 = 7;
/// The extended topology leaf.
pub const LEAF_TOPOLOGY: u32 = 0xb;
/// The extended topology leaf of processors with dies.
pub const LEAF_TOPOLOGY_V2: u32 = 0x1f;
/// The leaf of XSAVE's components.
pub const LEAF_XSAVE: u32 = 0xd;
/// The first leaf of the hypervisor's range, with its signature.
pub const LEAF_HYPERVISOR: u32 = 0x4000_0000;
/// KVM's paravirtual features.
pub const LEAF_KVM_FEATURES: u32 = 0x4000_0001;
/// Frequencies of the TSC (EAX) and of the APIC timer (EBX) in kHz, where hypervisors have agreed to tell them.
pub const LEAF_FREQUENCIES: u32 = 0x4000_0010;
/// The first extended leaf.
pub const LEAF_EXTENDED: u32 = 0x8000_0000;
/// AMD's leaf of caches, in the form of [`LEAF_CACHES`].
pub const LEAF_AMD_CACHES: u32 = 0x8000_001d;
/// AMD's leaf of the processor's place in the topology.
pub const LEAF_AMD_TOPOLOGY: u32 = 0x8000_001e;
/// AMD's form of [`LEAF_TOPOLOGY_V2`].
pub const LEAF_AMD_TOPOLOGY_V2: u32 = 0x8000_0026;

/// A bit of an answer of CPUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuidBit {
    /// The leaf.
    pub leaf: u32,
    /// The subleaf, zero where the leaf has none.
    pub subleaf: u32,
    /// The register.
    pub register: CpuidRegister,
    /// The number of the bit.
    pub bit: u8,
}

impl fmt::Display for CpuidBit {
    /// As manuals write it: `CPUID 7.0 EBX[5]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CPUID {:X}", self.leaf)?;
        if has_subleaves(self.leaf) {
            write!(f, ".{}", self.subleaf)?;
        }
        write!(f, " {}[{}]", self.register.name(), self.bit)
    }
}

/// One of the four registers in which CPUID answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are the registers'")]
pub enum CpuidRegister {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

impl CpuidRegister {
    /// All four, in the order in which they are listed.
    pub const ALL: [Self; 4] = [Self::Eax, Self::Ebx, Self::Ecx, Self::Edx];

    /// The name as manuals write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Eax => "EAX",
            Self::Ebx => "EBX",
            Self::Ecx => "ECX",
            Self::Edx => "EDX",
        }
    }
}

/// What CPUID answers for one leaf, or for one subleaf of a leaf that has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuidEntry {
    /// EAX of the question.
    pub leaf: u32,
    /// ECX of the question; zero where the leaf does not look at it.
    pub subleaf: u32,
    /// EAX of the answer.
    pub eax: u32,
    /// EBX of the answer.
    pub ebx: u32,
    /// ECX of the answer.
    pub ecx: u32,
    /// EDX of the answer.
    pub edx: u32,
}

impl CpuidEntry {
    /// An entry that answers zeros.
    #[must_use]
    pub fn new(leaf: u32, subleaf: u32) -> Self {
        Self {
            leaf,
            subleaf,
            ..Self::default()
        }
    }

    /// The register called `register` of the answer.
    #[must_use]
    pub fn register(&self, register: CpuidRegister) -> u32 {
        match register {
            CpuidRegister::Eax => self.eax,
            CpuidRegister::Ebx => self.ebx,
            CpuidRegister::Ecx => self.ecx,
            CpuidRegister::Edx => self.edx,
        }
    }

    /// The register called `register`, to be changed.
    pub fn register_mut(&mut self, register: CpuidRegister) -> &mut u32 {
        match register {
            CpuidRegister::Eax => &mut self.eax,
            CpuidRegister::Ebx => &mut self.ebx,
            CpuidRegister::Ecx => &mut self.ecx,
            CpuidRegister::Edx => &mut self.edx,
        }
    }
}

/// Whether `leaf` looks at ECX. This is a fact of the architecture, so entries do not carry it.
#[must_use]
pub fn has_subleaves(leaf: u32) -> bool {
    matches!(
        leaf,
        4 | 7 | 0xb | 0xd | 0xf | 0x10 | 0x12 | 0x14 | 0x17 | 0x18 | 0x1d
            ..=0x1f | 0x23 | 0x24 | 0x8000_001d | 0x8000_0026
    )
}

/// All that CPUID answers in one VM, sorted by leaf and subleaf; what is not in it answers zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuidTable {
    entries: Vec<CpuidEntry>,
}

impl CpuidTable {
    /// KVM takes no more entries than this, and no processor has more.
    pub const MAX_ENTRIES: usize = 256;

    /// A table of `entries` in any order; of two for the same question the later one counts.
    #[must_use]
    pub fn new(entries: impl IntoIterator<Item = CpuidEntry>) -> Self {
        let mut table = Self::default();
        for entry in entries {
            table.insert(entry);
        }
        table
    }

    /// The entries in order of leaf and subleaf.
    #[must_use]
    pub fn entries(&self) -> &[CpuidEntry] {
        &self.entries
    }

    /// Puts `entry` in, in place of the one that answered the same question.
    pub fn insert(&mut self, entry: CpuidEntry) {
        match self.position(entry.leaf, entry.subleaf) {
            Ok(at) => self.entries[at] = entry,
            Err(at) => self.entries.insert(at, entry),
        }
    }

    /// The answer to `leaf` and `subleaf`, or `None` where the table has none and the guest reads zeros.
    #[must_use]
    pub fn get(&self, leaf: u32, subleaf: u32) -> Option<&CpuidEntry> {
        self.position(leaf, subleaf).ok().map(|at| &self.entries[at])
    }

    /// The answer to `leaf` and `subleaf`, made of zeros first where there was none.
    pub fn entry_mut(&mut self, leaf: u32, subleaf: u32) -> &mut CpuidEntry {
        let at = self.position(leaf, subleaf).unwrap_or_else(|at| {
            self.entries.insert(at, CpuidEntry::new(leaf, subleaf));
            at
        });
        &mut self.entries[at]
    }

    /// Whether the guest sees `feature`.
    #[must_use]
    pub fn has(&self, feature: &CpuFeature) -> bool {
        self.get(feature.leaf, feature.subleaf)
            .is_some_and(|entry| entry.register(feature.register) & feature.mask() != 0)
    }

    /// The features that the guest sees.
    pub fn features(&self) -> impl Iterator<Item = &'static CpuFeature> {
        CPU_FEATURES.iter().filter(|feature| self.has(feature))
    }

    /// Lets the guest see `feature`.
    pub fn give(&mut self, feature: &CpuFeature) {
        let entry = self.entry_mut(feature.leaf, feature.subleaf);
        *entry.register_mut(feature.register) |= feature.mask();
    }

    /// Hides `feature` from the guest.
    pub fn take(&mut self, feature: &CpuFeature) {
        let entry = self.entry_mut(feature.leaf, feature.subleaf);
        *entry.register_mut(feature.register) &= !feature.mask();
    }

    /// The vendor's twelve letters, as leaf 0 spells them.
    #[must_use]
    pub fn vendor(&self) -> [u8; 12] {
        let leaf = self.get(0, 0).copied().unwrap_or_default();
        let mut vendor = [0; 12];
        for (letters, register) in vendor.chunks_exact_mut(4).zip([leaf.ebx, leaf.edx, leaf.ecx]) {
            letters.copy_from_slice(&register.to_le_bytes());
        }
        vendor
    }

    /// The processor's name, as guests show it.
    #[must_use]
    pub fn brand(&self) -> String {
        let leaves = (LEAF_EXTENDED + 2..LEAF_EXTENDED + 5).map(|leaf| self.get(leaf, 0).copied().unwrap_or_default());
        let letters: Vec<_> = leaves
            .flat_map(|entry| [entry.eax, entry.ebx, entry.ecx, entry.edx])
            .flat_map(u32::to_le_bytes)
            .take_while(|letter| *letter != 0)
            .collect();
        String::from_utf8_lossy(&letters).trim().to_owned()
    }

    /// The table as the vCPU with `apic_id` sees it.
    #[must_use]
    pub fn for_vcpu(&self, apic_id: u32) -> Self {
        let mut table = self.clone();
        for entry in &mut table.entries {
            match entry.leaf {
                // Eight bits is all that this leaf has; wider ids are read from the topology leaf.
                LEAF_FEATURES => entry.ebx = (entry.ebx & 0x00ff_ffff) | (apic_id << 24),
                LEAF_TOPOLOGY | LEAF_TOPOLOGY_V2 | LEAF_AMD_TOPOLOGY_V2 => entry.edx = apic_id,
                LEAF_AMD_TOPOLOGY => {
                    let threads = ((entry.ebx >> 8) & 0xff) + 1;
                    entry.eax = apic_id;
                    entry.ebx = (entry.ebx & !0xff) | ((apic_id / threads) & 0xff);
                }
                _ => {}
            }
        }
        table
    }

    fn position(&self, leaf: u32, subleaf: u32) -> Result<usize, usize> {
        self.entries
            .binary_search_by_key(&(leaf, subleaf), |entry| (entry.leaf, entry.subleaf))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_whatever_their_order_was() {
        let table = CpuidTable::new([
            CpuidEntry {
                eax: 7,
                ..CpuidEntry::new(7, 1)
            },
            CpuidEntry {
                eax: 1,
                ..CpuidEntry::new(0, 0)
            },
            CpuidEntry {
                eax: 6,
                ..CpuidEntry::new(7, 0)
            },
            CpuidEntry {
                eax: 8,
                ..CpuidEntry::new(7, 1)
            },
        ]);
        assert_eq!(table.get(7, 1).map(|entry| entry.eax), Some(8));
        assert_eq!(table.get(7, 2), None);
        assert_eq!(table.entries().len(), 3);
    }

    #[test]
    fn only_the_apic_id_differs_between_vcpus() {
        let mut table = CpuidTable::default();
        table.entry_mut(LEAF_FEATURES, 0).ebx = 0x0002_0800;
        table.entry_mut(LEAF_TOPOLOGY, 0).ebx = 1;
        table.entry_mut(LEAF_TOPOLOGY, 1).ebx = 2;
        let second = table.for_vcpu(1);
        assert_eq!(second.get(LEAF_FEATURES, 0).map(|entry| entry.ebx), Some(0x0102_0800));
        assert_eq!(
            second.get(LEAF_TOPOLOGY, 1).map(|entry| (entry.ebx, entry.edx)),
            Some((2, 1))
        );
        assert_eq!(table.for_vcpu(0), table);
    }

    #[test]
    fn every_leaf_with_an_apic_id_has_the_vcpus_own() {
        let leaves = [LEAF_TOPOLOGY, LEAF_TOPOLOGY_V2, LEAF_AMD_TOPOLOGY_V2];
        let mut table = CpuidTable::new(leaves.map(|leaf| CpuidEntry::new(leaf, 1)));
        // Two threads a core.
        table.entry_mut(LEAF_AMD_TOPOLOGY, 0).ebx = 0x100;
        let fourth = table.for_vcpu(3);
        for leaf in leaves {
            assert_eq!(fourth.get(leaf, 1).map(|entry| entry.edx), Some(3), "{leaf:#x}");
        }
        let place = fourth.get(LEAF_AMD_TOPOLOGY, 0).expect("there");
        assert_eq!((place.eax, place.ebx), (3, 0x101));
    }

    #[test]
    fn bits_are_written_as_in_manuals() {
        let place = |name| CpuFeature::named(name).expect("known").place().to_string();
        assert_eq!(place("popcnt"), "CPUID 1 ECX[23]");
        assert_eq!(place("avx2"), "CPUID 7.0 EBX[5]");
        assert_eq!(place("lm"), "CPUID 80000001 EDX[29]");
    }
}
