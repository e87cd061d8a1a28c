//! Features by name: other spellings, what Tern knows and does not give, and what somebody may have meant.

use super::cpu_feature::{CPU_FEATURES, CpuFeature};

/// Other spellings of features. An underscore stands for a hyphen anyway.
const ALIASES: &[(&str, &str)] = &[
    ("sse3", "pni"),
    ("sse4-1", "sse4.1"),
    ("sse4-2", "sse4.2"),
    ("pclmuldq", "pclmulqdq"),
    ("xd", "nx"),
    ("ffxsr", "fxsr-opt"),
    ("i64", "lm"),
    ("lzcnt", "abm"),
];

const MACHINE_CHECKS: &str = "Tern has no description of machine-check banks";
const COUNTERS: &str = "Tern has no description of performance counters";
const NESTED: &str = "Tern has no description of nested virtualisation";
const TOPOLOGY: &str = "it follows from the number of vCPUs";
const SHADOW: &str = "Tern has no description of control-flow enforcement";
const TILES: &str = "Tern has no description of AMX";
const IDLE: &str = "KVM does not give it to guests";
const ERRATA: &str = "Tern has no description of the registers that tell of errata";

/// Features that users of QEMU know and Tern does not give, with the reason: a snapshot would forget their state.
const NOT_GIVEN: &[(&str, &str)] = &[
    ("mce", MACHINE_CHECKS),
    ("mca", MACHINE_CHECKS),
    ("pmu", COUNTERS),
    ("pdcm", COUNTERS),
    ("perfctr-core", COUNTERS),
    ("perfctr-nb", COUNTERS),
    ("vmx", NESTED),
    ("svm", NESTED),
    ("npt", NESTED),
    ("nrip-save", NESTED),
    ("svme-addr-chk", NESTED),
    ("shstk", SHADOW),
    ("ibt", SHADOW),
    ("amx-tile", TILES),
    ("amx-int8", TILES),
    ("amx-bf16", TILES),
    ("ht", TOPOLOGY),
    ("cmp-legacy", TOPOLOGY),
    ("kvm-mmu", "KVM does not offer it any more"),
    ("monitor", IDLE),
    ("osvw", ERRATA),
    ("intel-pt", "Tern has no description of processor traces"),
    ("mpx", "processors and kernels have dropped it"),
];

/// Why a feature cannot be had by a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeatureNameError {
    /// Nobody knows the name.
    #[error("there is no processor feature '{name}'{}", did_you_mean(near))]
    Unknown {
        /// The name.
        name: String,
        /// Names that are like it.
        near: Vec<&'static str>,
    },
    /// A feature that Tern cannot give to guests.
    #[error("Tern does not give {name} to guests: {reason}")]
    NotGiven {
        /// The feature.
        name: &'static str,
        /// Why not.
        reason: &'static str,
    },
}

impl CpuFeature {
    /// The feature that a user calls `name`, in any spelling that QEMU takes.
    ///
    /// # Errors
    ///
    /// Where nobody knows the name, or Tern does not give the feature to guests.
    pub fn called(name: &str) -> Result<&'static Self, FeatureNameError> {
        let spelled = name.replace('_', "-");
        let canonical = ALIASES
            .iter()
            .find(|(alias, _)| *alias == spelled)
            .map_or(spelled.as_str(), |(_, name)| name);
        if let Some(feature) = Self::named(canonical) {
            return Ok(feature);
        }
        if let Some(&(name, reason)) = NOT_GIVEN.iter().find(|(name, _)| *name == spelled) {
            return Err(FeatureNameError::NotGiven { name, reason });
        }
        let known = CPU_FEATURES
            .iter()
            .map(|feature| feature.name)
            .chain(ALIASES.iter().map(|(alias, _)| *alias));
        Err(FeatureNameError::Unknown {
            name: name.to_owned(),
            near: near(name, known),
        })
    }
}

/// Names that `wanted` may have been meant to be, the likeliest first, and not many.
pub(super) fn near(wanted: &str, known: impl Iterator<Item = &'static str>) -> Vec<&'static str> {
    const ALIKE: f64 = 0.8;
    const MOST: usize = 3;
    // Whoever gets a name wrong writes no more than a line; comparing takes the square of that.
    const LONGEST: usize = 64;
    if wanted.len() > LONGEST {
        return Vec::new();
    }
    let plain = |name: &str| name.to_ascii_lowercase().replace(['-', '_', '.'], "");
    let wanted = plain(wanted);
    let mut alike: Vec<_> = known
        .map(|name| (strsim::jaro_winkler(&wanted, &plain(name)), name))
        .filter(|(likeness, _)| *likeness > ALIKE)
        .collect();
    alike.sort_by(|(one, _), (two, _)| two.total_cmp(one));
    alike.into_iter().take(MOST).map(|(_, name)| name).collect()
}

/// The end of a message about an unknown name.
pub(super) fn did_you_mean(near: &[&str]) -> String {
    match near {
        [] => String::new(),
        [one] => format!("; did you mean {one}?"),
        [most @ .., last] => format!("; did you mean {} or {last}?", most.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(name: &str) -> Result<&'static str, FeatureNameError> {
        CpuFeature::called(name).map(|feature| feature.name)
    }

    #[test]
    fn qemus_spellings_are_understood() {
        for (spelled, name) in [
            ("popcnt", "popcnt"),
            ("pni", "pni"),
            ("sse3", "pni"),
            ("sse4.1", "sse4.1"),
            ("sse4-1", "sse4.1"),
            ("sse4_2", "sse4.2"),
            ("tsc_adjust", "tsc-adjust"),
            ("kvm_pv_eoi", "kvm-pv-eoi"),
            ("lahf_lm", "lahf-lm"),
            ("ffxsr", "fxsr-opt"),
            ("avx512_bf16", "avx512-bf16"),
        ] {
            assert_eq!(called(spelled), Ok(name), "{spelled}");
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_those_that_are_like_it() {
        let error = |name| called(name).expect_err("unknown").to_string();
        assert!(
            error("popcount").ends_with("; did you mean popcnt?"),
            "{}",
            error("popcount")
        );
        assert!(error("sse42").contains("sse4.2"), "{}", error("sse42"));
        assert!(error("AVX2").contains("avx2"), "{}", error("AVX2"));
        assert_eq!(error("zzz"), "there is no processor feature 'zzz'");
        assert!(error(&"avx".repeat(10_000)).len() < 40_000);
    }

    #[test]
    fn what_tern_does_not_give_is_told_with_the_reason() {
        assert_eq!(
            called("svm").expect_err("not given").to_string(),
            "Tern does not give svm to guests: Tern has no description of nested virtualisation"
        );
        for (name, _) in NOT_GIVEN {
            assert!(CpuFeature::named(name).is_none(), "{name} is given");
        }
    }

    #[test]
    fn aliases_lead_to_features_and_hide_none() {
        for (alias, name) in ALIASES {
            assert!(
                CpuFeature::named(name).is_some() && CpuFeature::named(alias).is_none(),
                "{alias}"
            );
        }
    }
}
