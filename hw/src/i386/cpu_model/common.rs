//! The processor that several hosts share.

use super::super::cpu_feature::CpuFeature;
use super::super::cpu_feature_needs::drop_useless;
use super::super::cpuid::{CpuidTable, LEAF_EXTENDED, LEAF_FEATURES, LEAF_XSAVE};
use super::{CPU_MODELS, CpuModel, CpuSpec, ModelContents};

impl CpuSpec {
    /// The named model that makes the most of a host with these features, and the features of the host beyond it: a
    /// processor that runs on every host that has them. `None` where they are too few even for the least model.
    #[must_use]
    pub fn within(features: &CpuidTable) -> Option<Self> {
        let mut usable = features.clone();
        drop_useless(&mut usable);
        let fits = |model: &&CpuModel| {
            matches!(model.contents, ModelContents::Named(_))
                && model.features().features().all(|feature| usable.has(feature))
        };
        // The first of those that have the most: the baselines come first.
        let best = CPU_MODELS
            .iter()
            .filter(fits)
            .rev()
            .max_by_key(|model| model.features().features().count())?;
        let model = best.features();
        let beyond = usable.features().filter(|feature| !model.has(feature));
        Self::new(best, beyond.map(|feature| (feature, true))).ok()
    }
}

/// What a host can give to guests, as far as it matters to other hosts.
#[derive(Clone, Debug, Default)]
pub struct HostOffer {
    /// The table that a VM of the model `host` gets there.
    pub table: CpuidTable,
}

/// What hosts share.
#[derive(Clone, Debug)]
pub struct Common {
    /// The model for VMs that are to move between them, or `None` where they share too little.
    pub spec: Option<CpuSpec>,
    /// Features that one host has and another lacks, or cannot hold in the same way.
    pub not_shared: Vec<&'static CpuFeature>,
    /// What to know before guests move between them.
    pub notes: Vec<String>,
}

impl Common {
    /// What `one` and `other` share.
    #[must_use]
    pub fn of(one: &HostOffer, other: &HostOffer) -> Self {
        let mut shared = CpuidTable::default();
        let both = one.table.features().filter(|feature| other.table.has(feature));
        both.for_each(|feature| shared.give(feature));
        let mut notes = Vec::new();
        for (component, feature) in [(2, "avx"), (5, "avx512f"), (6, "avx512f"), (7, "avx512f"), (9, "pku")] {
            let place = |offer: &HostOffer| {
                offer
                    .table
                    .get(LEAF_XSAVE, component)
                    .map(|entry| (entry.eax, entry.ebx))
            };
            if let (Some(here), Some(there)) = (place(one), place(other))
                && here != there
                && let Some(feature) = CpuFeature::named(feature)
            {
                shared.take(feature);
                notes.push(format!(
                    "{} is left out: the hosts keep XSAVE component {component} in different places",
                    feature.name
                ));
            }
        }
        drop_useless(&mut shared);
        if one.table.vendor() != other.table.vendor() {
            notes.push(
                "the hosts' vendors differ, and a guest keeps the one of the host that it started on: \
                 it is known to work only for guests that do not choose by vendor"
                    .to_owned(),
            );
        }
        let width = |offer: &HostOffer| {
            offer
                .table
                .get(LEAF_EXTENDED + 8, 0)
                .map_or(0, |entry| entry.eax & 0xff)
        };
        if width(one) != width(other) {
            notes.push(format!(
                "physical addresses have {} bits on one host and {} on the other: \
                 start guests where they are fewer if that is below 40",
                width(one),
                width(other)
            ));
        }
        let either = one.table.features().chain(other.table.features());
        let mut not_shared: Vec<_> = either.filter(|feature| !shared.has(feature)).collect();
        not_shared.sort_by_key(|feature| (feature.leaf, feature.subleaf, feature.register, feature.bit));
        not_shared.dedup();
        Self {
            spec: CpuSpec::within(&shared),
            not_shared,
            notes,
        }
    }
}

impl HostOffer {
    /// The signature of the host's processor.
    #[must_use]
    pub fn signature(&self) -> super::Signature {
        super::Signature(self.table.get(LEAF_FEATURES, 0).map_or(0, |entry| entry.eax))
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::{host_without, rich_host, table_on};
    use super::*;

    fn offer(host: &CpuidTable) -> HostOffer {
        HostOffer {
            table: table_on(host, "host", 1).table,
        }
    }

    fn common(one: &CpuidTable, other: &CpuidTable) -> (Option<String>, Vec<String>) {
        let common = Common::of(&offer(one), &offer(other));
        (common.spec.map(|spec| spec.to_string()), common.notes)
    }

    #[test]
    fn a_host_is_within_itself() {
        let features = table_on(&rich_host(), "host", 1).table;
        let spec = CpuSpec::within(&features).expect("it has everything");
        assert!(spec.features().features().eq(features.features()));
    }

    #[test]
    fn two_hosts_share_the_best_model_that_both_have() {
        let one = host_without(&["avx", "aes"]);
        let other = host_without(&["sse4a", "avx512f", "xsave"]);
        let (spec, notes) = common(&one, &other);
        let spec = spec.expect("they share much");
        assert!(spec.starts_with("x86-64-v2-1,+pclmulqdq,"), "{spec}");
        for lacking in ["aes", "avx", "sse4a", "fma"] {
            assert!(
                !spec.split(['+', ',']).any(|name| name == lacking),
                "{spec} has {lacking}"
            );
        }
        assert_eq!(notes, [""; 0]);
    }

    #[test]
    fn what_one_host_keeps_elsewhere_is_not_shared() {
        let mut other = rich_host();
        other.entry_mut(LEAF_XSAVE, 9).ebx = 0xa80;
        let (spec, notes) = common(&rich_host(), &other);
        assert!(!spec.expect("they share much").contains("pku"));
        assert!(notes[0].contains("pku is left out"), "{notes:?}");
    }

    #[test]
    fn hosts_that_share_too_little_have_no_model() {
        let (spec, _) = common(&host_without(&["lm"]), &rich_host());
        assert_eq!(spec, None);
    }
}
