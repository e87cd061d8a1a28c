//! CPU models: what a guest is told about its processor, as data.
//!
//! A model is a name, a version and a list of features ([`CPU_MODELS`]). What a user asks for is a model with features
//! switched on and off ([`CpuSpec`]); on a host that comes to a table of CPUID ([`CpuSpec::table`]), which from then on is all that
//! counts: it travels with the VM, and a host that lacks something of it is not entered ([`lacks()`]).
//!
//! The default is a baseline that every 64-bit host has, and not the best that this host has: a VM that is started without
//! a thought about its processor can go anywhere, and means the same on every host. Who wants more says so; the models
//! that several hosts share are found by [`CpuSpec::within`].

mod common;
mod lacks;
mod models;
mod spec;
mod table;
mod topology;

pub use common::{Common, HostOffer};
pub use lacks::{Lack, lacks};
pub use models::CPU_MODELS;
pub use spec::{CpuSpec, CpuSpecError};
pub use table::{HostCpu, ModelTable};

use super::cpu_feature::{CPU_FEATURES, CpuFeature};
use super::cpuid::CpuidTable;
use crate::core::Release;

/// A CPU model.
#[derive(Clone, Copy, Debug)]
pub struct CpuModel {
    /// The name with its version.
    pub name: &'static str,
    /// Names without a version that stand for it.
    pub aliases: &'static [&'static str],
    /// What it is, in one line.
    pub description: &'static str,
    /// The release that brought it: older ones do not know it.
    pub since: Release,
    /// What it is made of.
    pub contents: ModelContents,
}

/// What a CPU model is made of.
#[derive(Clone, Copy, Debug)]
pub enum ModelContents {
    /// All of the host that Tern can describe: the VM is tied to hosts like this one.
    Host,
    /// A fixed processor.
    Named(NamedModel),
}

/// A processor that is the same on every host that has its features, but for the vendor: code in guests chooses by vendor
/// between instructions that only one has, so the vendor is the host's.
#[derive(Clone, Copy, Debug)]
pub struct NamedModel {
    /// Family, model and stepping.
    pub signature: Signature,
    /// The name that the guest reads.
    pub brand: &'static str,
    /// The width of physical addresses, which a host may have less of.
    pub physical_address_bits: u8,
    /// Names of features, in groups, parted by blanks. Each is in [`CPU_FEATURES`].
    pub features: &'static [&'static str],
    /// What QEMU's model of this name has besides, parted by blanks: features that Tern does not give to guests.
    pub left_out: &'static str,
}

/// Family, model and stepping as leaf 1 packs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature(pub u32);

impl Signature {
    /// Packs the three.
    #[must_use]
    pub const fn new(family: u32, model: u32, stepping: u32) -> Self {
        let (base, extended) = if family > 15 { (15, family - 15) } else { (family, 0) };
        Self((extended << 20) | ((model >> 4) << 16) | (base << 8) | ((model & 15) << 4) | stepping)
    }

    /// The family.
    #[must_use]
    pub fn family(self) -> u32 {
        match (self.0 >> 8) & 15 {
            15 => 15 + ((self.0 >> 20) & 0xff),
            base => base,
        }
    }

    /// The model.
    #[must_use]
    pub fn model(self) -> u32 {
        ((self.0 >> 12) & 0xf0) | ((self.0 >> 4) & 15)
    }

    /// The stepping.
    #[must_use]
    pub fn stepping(self) -> u32 {
        self.0 & 15
    }
}

/// The model of VMs whose user names none: see [the module](self) for why it is not the best that the host has.
pub const DEFAULT_CPU_MODEL: &str = "x86-64-v1-1";

impl CpuModel {
    /// The model that is called `name`, with its version or without.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        CPU_MODELS
            .iter()
            .find(|model| model.name == name || model.aliases.contains(&name))
    }

    /// Whether the model is the host's own, so that the VM is tied to hosts like it.
    #[must_use]
    pub fn is_tied_to_host(&self) -> bool {
        matches!(self.contents, ModelContents::Host)
    }

    /// The features of the model, as a table with nothing else; for `host`, everything that Tern knows.
    #[must_use]
    pub fn features(&self) -> CpuidTable {
        let mut table = CpuidTable::default();
        match &self.contents {
            ModelContents::Host => CPU_FEATURES.iter().for_each(|feature| table.give(feature)),
            ModelContents::Named(named) => named
                .features
                .iter()
                .flat_map(|group| group.split_ascii_whitespace())
                .filter_map(CpuFeature::named)
                .for_each(|feature| table.give(feature)),
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::super::cpu_feature_needs::lacking;
    use super::*;
    use std::collections::HashSet;

    fn named_models() -> impl Iterator<Item = (&'static CpuModel, &'static NamedModel)> {
        CPU_MODELS.iter().filter_map(|model| match &model.contents {
            ModelContents::Host => None,
            ModelContents::Named(named) => Some((model, named)),
        })
    }

    #[test]
    fn names_and_aliases_are_unique() {
        let names: Vec<_> = CPU_MODELS
            .iter()
            .flat_map(|model| model.aliases.iter().copied().chain([model.name]))
            .collect();
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
        assert!(CpuModel::named(DEFAULT_CPU_MODEL).is_some());
    }

    #[test]
    fn names_in_models_are_features_that_need_nothing_else() {
        for (model, named) in named_models() {
            let names: Vec<_> = named.features.iter().flat_map(|group| group.split(' ')).collect();
            for name in &names {
                assert!(CpuFeature::named(name).is_some(), "{} names {name:?}", model.name);
            }
            let table = model.features();
            assert_eq!(table.features().count(), names.len(), "{} names one twice", model.name);
            for feature in table.features() {
                assert!(lacking(feature, &table).is_empty(), "{}: {feature}", model.name);
            }
        }
    }

    #[test]
    fn what_is_left_out_is_what_tern_does_not_give() {
        for (model, named) in named_models() {
            for name in named.left_out.split_ascii_whitespace() {
                let error = CpuFeature::called(name).expect_err(name).to_string();
                assert!(error.starts_with("Tern does not give"), "{}: {error}", model.name);
            }
        }
    }

    /// The levels as the x86-64 psABI tables them, in QEMU's names: OSFXSR is the kernel's use of FXSR, SCE of SYSCALL,
    /// OSXSAVE of XSAVE; LZCNT is ABM.
    #[test]
    fn baselines_are_the_levels_of_the_psabi() {
        let levels = [
            "cmov cx8 fpu fxsr mmx syscall sse sse2",
            "cx16 lahf-lm popcnt pni sse4.1 sse4.2 ssse3",
            "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave",
            "avx512f avx512bw avx512cd avx512dq avx512vl",
        ];
        let v1 = CpuModel::named("x86-64-v1").expect("a model").features();
        for (number, model) in (1..).zip(["x86-64-v1-1", "x86-64-v2-1", "x86-64-v3-1", "x86-64-v4-1"]) {
            let expected: HashSet<_> = levels[..number].iter().flat_map(|level| level.split(' ')).collect();
            let table = CpuModel::named(model).expect("a model").features();
            let has: HashSet<_> = table.features().map(|feature| feature.name).collect();
            assert_eq!(expected.difference(&has).count(), 0, "{model}: {expected:?} in {has:?}");
            // And nothing beyond the level but what the first one has for kernels.
            let beyond: Vec<_> = table.features().filter(|feature| !v1.has(feature)).collect();
            assert!(
                beyond.iter().all(|feature| expected.contains(feature.name)),
                "{model}: {beyond:?}"
            );
        }
    }

    #[test]
    fn signatures_are_packed_as_the_manuals_say() {
        for (family, model, stepping, packed) in [
            (15, 107, 1, 0x0006_0fb1),
            (6, 94, 3, 0x0005_06e3),
            (21, 2, 0, 0x0060_0f20),
            (23, 49, 0, 0x0083_0f10),
            (25, 1, 1, 0x00a0_0f11),
        ] {
            let signature = Signature::new(family, model, stepping);
            assert_eq!(signature, Signature(packed));
            let read = (signature.family(), signature.model(), signature.stepping());
            assert_eq!(read, (family, model, stepping));
        }
    }
}
