//! What a user asks for: a model with single features on and off.

use std::fmt;
use std::str::FromStr;

use super::super::cpu_feature::CpuFeature;
use super::super::cpu_feature_names::{FeatureNameError, did_you_mean, near};
use super::super::cpu_feature_needs::{drop_useless, lacking};
use super::super::cpuid::CpuidTable;
use super::{CPU_MODELS, CpuModel};

/// A model, and the features that a user switched on and off.
///
/// It is written as QEMU writes it: `x86-64-v2,-popcnt,+aes`, `x86-64-v2,popcnt=off,aes=on` or `x86-64-v2,aes`. With a
/// feature goes what is of no use without it: `-xsave` takes AVX away as well.
#[derive(Clone, Debug)]
pub struct CpuSpec {
    model: &'static CpuModel,
    on: CpuidTable,
    off: CpuidTable,
}

/// Why a text names no processor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpuSpecError {
    /// Nobody knows the model.
    #[error(
        "there is no CPU model '{name}'{}; \"vm cpu list\" lists those that there are",
        did_you_mean(near)
    )]
    NoSuchModel {
        /// The name.
        name: String,
        /// Models whose names are like it.
        near: Vec<&'static str>,
    },
    /// A feature cannot be had by this name.
    #[error(transparent)]
    Feature(#[from] FeatureNameError),
    /// Something other than a feature between two commas.
    #[error("'{item}' switches no feature: write +FEATURE, -FEATURE, FEATURE=on or FEATURE=off")]
    Item {
        /// What stands there.
        item: String,
    },
    /// A feature is to be on and off.
    #[error("{feature} is switched on and off: leave one of the two out")]
    OnAndOff {
        /// The feature.
        feature: &'static str,
    },
    /// A feature is to be on without others that it is of no use without.
    #[error("{feature} is of no use without {}: add {}", .needs.join(" and "), added(needs))]
    Needs {
        /// The feature.
        feature: &'static str,
        /// What it needs and the processor would lack.
        needs: Vec<&'static str>,
    },
}

fn added(needs: &[&str]) -> String {
    let added: Vec<_> = needs.iter().map(|name| format!("+{name}")).collect();
    added.join(",")
}

impl CpuSpec {
    /// `model`, with these features switched on and off.
    ///
    /// # Errors
    ///
    /// Where that is no processor.
    pub fn new<'a>(
        model: &'static CpuModel,
        switches: impl IntoIterator<Item = (&'a CpuFeature, bool)>,
    ) -> Result<Self, CpuSpecError> {
        let mut spec = Self {
            model,
            on: CpuidTable::default(),
            off: CpuidTable::default(),
        };
        for (feature, on) in switches {
            let side = if on { &mut spec.on } else { &mut spec.off };
            side.give(feature);
        }
        spec.check()?;
        spec.leave_out_what_changes_nothing();
        Ok(spec)
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &'static CpuModel {
        self.model
    }

    /// The features that were switched on and off and make a difference, in order of the table of features.
    pub fn switches(&self) -> impl Iterator<Item = (&'static CpuFeature, bool)> {
        let on = self.on.features().map(|feature| (feature, true));
        on.chain(self.off.features().map(|feature| (feature, false)))
    }

    /// Whether the user asked for `feature` by its name.
    pub(super) fn demands(&self, feature: &CpuFeature) -> bool {
        self.on.has(feature)
    }

    /// The features of the processor, as a table with nothing else; of `host` those that it would have if the host had
    /// everything.
    #[must_use]
    pub fn features(&self) -> CpuidTable {
        let mut table = self.model.features();
        self.on.features().for_each(|feature| table.give(feature));
        self.off.features().for_each(|feature| table.take(feature));
        drop_useless(&mut table);
        table
    }

    fn check(&self) -> Result<(), CpuSpecError> {
        if let Some(both) = self.on.features().find(|feature| self.off.has(feature)) {
            return Err(CpuSpecError::OnAndOff { feature: both.name });
        }
        let features = self.features();
        match self.on.features().find(|feature| !features.has(feature)) {
            None => Ok(()),
            Some(useless) => Err(CpuSpecError::Needs {
                feature: useless.name,
                needs: lacking(useless, &features).iter().map(|need| need.name).collect(),
            }),
        }
    }

    fn leave_out_what_changes_nothing(&mut self) {
        // What `host` has is not known here, so that a feature that is asked for of it is a demand.
        let (model, whole) = (self.model.features(), self.features());
        if !self.model.is_tied_to_host() {
            model.features().for_each(|feature| self.on.take(feature));
        }
        let off: Vec<_> = self.off.features().collect();
        for feature in off {
            let mut without = self.clone();
            without.off.take(feature);
            if without.features().features().eq(whole.features()) {
                self.off.take(feature);
            }
        }
    }
}

impl PartialEq for CpuSpec {
    fn eq(&self, other: &Self) -> bool {
        let switches = |spec: &Self| -> Vec<_> { spec.switches().map(|(feature, on)| (feature.name, on)).collect() };
        self.model.name == other.model.name && switches(self) == switches(other)
    }
}

impl Eq for CpuSpec {}

impl fmt::Display for CpuSpec {
    /// The form by which VMs and snapshots remember it: the model with its version, what was added, what was taken away.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.model.name)?;
        for (feature, on) in self.switches() {
            write!(f, ",{}{}", if on { '+' } else { '-' }, feature.name)?;
        }
        Ok(())
    }
}

impl FromStr for CpuSpec {
    type Err = CpuSpecError;

    fn from_str(text: &str) -> Result<Self, CpuSpecError> {
        let mut items = text.split(',');
        let name = items.next().unwrap_or_default();
        let model = CpuModel::named(name).ok_or_else(|| no_such_model(name))?;
        let switches = items.map(switch).collect::<Result<Vec<_>, _>>()?;
        Self::new(model, switches)
    }
}

fn no_such_model(name: &str) -> CpuSpecError {
    let known = CPU_MODELS
        .iter()
        .flat_map(|model| model.aliases.iter().copied().chain([model.name]));
    CpuSpecError::NoSuchModel {
        name: name.to_owned(),
        near: near(name, known),
    }
}

/// One item between commas.
fn switch(item: &str) -> Result<(&'static CpuFeature, bool), CpuSpecError> {
    let not_one = || CpuSpecError::Item { item: item.to_owned() };
    let (name, on) = if let Some(name) = item.strip_prefix('+') {
        (name, true)
    } else if let Some(name) = item.strip_prefix('-') {
        (name, false)
    } else if let Some((name, value)) = item.split_once('=') {
        let on = match value {
            "on" | "yes" | "true" | "y" => true,
            "off" | "no" | "false" | "n" => false,
            _ => return Err(not_one()),
        };
        (name, on)
    } else {
        (item, true)
    };
    if name.is_empty() {
        return Err(not_one());
    }
    Ok((CpuFeature::called(name)?, on))
}

#[cfg(test)]
mod tests {
    use super::super::super::cpu_feature::CPU_FEATURES;
    use super::*;
    use proptest::prelude::*;

    fn canonical(text: &str) -> String {
        text.parse::<CpuSpec>().expect(text).to_string()
    }

    fn refused(text: &str) -> String {
        text.parse::<CpuSpec>().expect_err(text).to_string()
    }

    #[test]
    fn a_name_without_a_version_stands_for_one_with() {
        for (alias, name) in [
            ("host", "host"),
            ("x86-64-v1", "x86-64-v1-1"),
            ("x86-64-v3", "x86-64-v3-1"),
            // Of QEMU's models it is what QEMU takes it for.
            ("EPYC", "EPYC-v1"),
            ("EPYC-IBPB", "EPYC-v2"),
            ("Haswell-noTSX-IBRS", "Haswell-v4"),
        ] {
            assert_eq!(canonical(alias), name);
            assert_eq!(canonical(name), name);
        }
    }

    #[test]
    fn features_are_switched_in_each_of_qemus_ways() {
        let expected = "x86-64-v2-1,+aes,-popcnt";
        for text in [
            "x86-64-v2,+aes,-popcnt",
            "x86-64-v2-1,-popcnt,+aes",
            "x86-64-v2,popcnt=off,aes=on",
            "x86-64-v2,popcnt=no,aes",
            "x86-64-v2,+aes,+aes,-popcnt,+sse4_1",
        ] {
            assert_eq!(canonical(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_of_no_use_goes_with_what_it_needs() {
        let spec: CpuSpec = "x86-64-v3,-xsave,-avx".parse().expect("a processor");
        let features = spec.features();
        for gone in ["xsave", "avx", "avx2", "fma"] {
            assert!(!features.has(CpuFeature::named(gone).expect(gone)), "{gone}");
        }
        assert_eq!(spec.to_string(), "x86-64-v3-1,-xsave");
        assert_eq!(refused("x86-64-v1,+avx2"), "avx2 is of no use without avx: add +avx");
        assert_eq!(
            refused("host,-xsave,+avx"),
            "avx is of no use without xsave: add +xsave"
        );
    }

    #[test]
    fn what_is_asked_of_the_host_is_kept() {
        assert_eq!(canonical("host,+aes,-pku"), "host,+aes,-pku");
    }

    #[test]
    fn wrong_names_are_refused_with_the_remedy() {
        assert_eq!(
            refused("haswell-notsx"),
            "there is no CPU model 'haswell-notsx'; did you mean Haswell-noTSX, Haswell-noTSX-IBRS or Haswell-v2?; \
             \"vm cpu list\" lists those that there are"
        );
        assert!(refused("").contains("''; \"vm cpu list\""));
        assert!(refused("x86-64-v2,+popcount").contains("did you mean popcnt?"));
        assert!(refused("x86-64-v2,+svm").contains("nested"));
        assert!(refused("x86-64-v2,popcnt=perhaps").contains("FEATURE=off"));
        assert!(refused("x86-64-v2,").contains("''"));
        assert!(refused("x86-64-v2,+").contains("'+'"));
        assert_eq!(
            refused("x86-64-v2,+popcnt,-popcnt"),
            "popcnt is switched on and off: leave one of the two out"
        );
    }

    fn some_spec() -> impl Strategy<Value = String> {
        let model = prop::sample::select(CPU_MODELS).prop_map(|model| model.name.to_owned());
        let feature = prop::sample::select(CPU_FEATURES).prop_map(|feature| feature.name);
        let switch = (feature, 0..4).prop_map(|(name, how)| match how {
            0 => format!("+{name}"),
            1 => format!("-{name}"),
            2 => format!("{}=on", name.replace('-', "_")),
            _ => format!("{name}=off"),
        });
        (model, prop::collection::vec(switch, 0..6)).prop_map(|(mut text, switches)| {
            for switch in switches {
                text.push(',');
                text.push_str(&switch);
            }
            text
        })
    }

    proptest! {
        #[test]
        fn any_text_is_a_processor_or_an_error(text in "\\PC{0,200}") {
            let _ = text.parse::<CpuSpec>().map_err(|error| error.to_string());
        }

        #[test]
        fn the_canonical_form_means_the_same(text in some_spec()) {
            if let Ok(spec) = text.parse::<CpuSpec>() {
                let again: CpuSpec = spec.to_string().parse().expect("the canonical form is one");
                prop_assert_eq!(again.to_string(), spec.to_string());
                prop_assert!(again.features().features().eq(spec.features().features()));
                for feature in spec.features().features() {
                    prop_assert!(lacking(feature, &spec.features()).is_empty());
                }
            }
        }
    }
}
