//! The processor that several hosts share.

use super::super::cpu_feature::{CPU_FEATURES, CpuFeature};
use super::super::cpu_feature_needs::drop_useless;
use super::super::cpuid::{CpuidTable, LEAF_EXTENDED, LEAF_XSAVE};
use super::{CPU_MODELS, CpuModel, CpuSpec, ModelContents};

/// Features that promise something that differs between hosts though all of them have the feature: the frequency of the
/// TSC, what the processor is immune against. They are not proposed for guests that are to move.
const TYING: [&str; 2] = ["invtsc", "arch-capabilities"];

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
        let beyond = usable
            .features()
            .filter(|feature| !model.has(feature) && !TYING.contains(&feature.name));
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
    /// Features that some have and others lack, or cannot hold in the same way.
    pub not_shared: Vec<&'static CpuFeature>,
    /// What to know before guests move between them.
    pub notes: Vec<String>,
}

impl Common {
    /// What all of `hosts` share.
    #[must_use]
    pub fn of(hosts: &[HostOffer]) -> Self {
        let mut shared = CpuidTable::default();
        let on_all = |feature: &&CpuFeature| hosts.iter().all(|host| host.table.has(feature));
        CPU_FEATURES
            .iter()
            .filter(on_all)
            .for_each(|feature| shared.give(feature));
        let mut notes = Vec::new();
        for (component, feature) in [(2, "avx"), (5, "avx512f"), (6, "avx512f"), (7, "avx512f"), (9, "pku")] {
            let place = |host: &HostOffer| {
                host.table
                    .get(LEAF_XSAVE, component)
                    .map(|entry| (entry.eax, entry.ebx))
            };
            let places = hosts.iter().filter_map(place);
            if let Some(feature) = CpuFeature::named(feature)
                && shared.has(feature)
                && differ(places)
            {
                shared.take(feature);
                notes.push(format!(
                    "{} is left out: the hosts keep XSAVE component {component} in different places",
                    feature.name
                ));
            }
        }
        drop_useless(&mut shared);
        if differ(hosts.iter().map(|host| host.table.vendor())) {
            notes.push(
                "the hosts are of different vendors: a guest keeps the vendor of the host that it started on, and has to \
                 get along with the other's processor"
                    .to_owned(),
            );
        }
        let width = |host: &HostOffer| host.table.get(LEAF_EXTENDED + 8, 0).map_or(0, |entry| entry.eax & 0xff);
        let least = hosts.iter().map(width).min().unwrap_or_default();
        if least < NAMED_ADDRESS_BITS && differ(hosts.iter().map(width)) {
            notes.push(format!(
                "start guests on a host whose physical addresses have {least} bits: others are given wider ones"
            ));
        }
        let on_some = |feature: &&CpuFeature| hosts.iter().any(|host| host.table.has(feature));
        Self {
            spec: CpuSpec::within(&shared),
            not_shared: CPU_FEATURES
                .iter()
                .filter(on_some)
                .filter(|feature| !shared.has(feature))
                .collect(),
            notes,
        }
    }
}

/// The physical addresses of named models, where the host has as wide ones.
const NAMED_ADDRESS_BITS: u32 = 40;

fn differ<T: PartialEq>(mut values: impl Iterator<Item = T>) -> bool {
    values.next().is_some_and(|first| values.any(|other| other != first))
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
        let common = Common::of(&[offer(one), offer(other)]);
        (common.spec.map(|spec| spec.to_string()), common.notes)
    }

    #[test]
    fn a_host_is_within_itself() {
        let features = table_on(&rich_host(), "host", 1).table;
        let spec = CpuSpec::within(&features).expect("it has everything");
        let proposed = |feature: &&CpuFeature| !TYING.contains(&feature.name);
        assert!(spec.features().features().eq(features.features().filter(proposed)));
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
