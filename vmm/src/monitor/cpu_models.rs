//! CPU models in QMP's words.
//!
//! A model with its version is what QMP calls static: it means the same on every host and in every release. So a static
//! expansion is such a model with what is switched on and off; that of `host` is the named model that comes nearest to it.

use hw::i386::cpu_feature::CPU_FEATURES;
use hw::i386::cpu_feature_names::FeatureNameError;
use hw::i386::cpu_model::{CPU_MODELS, CpuModel, CpuSpec, CpuSpecError, Signature};
use hw::i386::cpuid::LEAF_FEATURES;
use serde_json::{Map, Value, json};

use super::qmp::QmpError;
use crate::accel::HostFeatures;

/// What `query-cpu-definitions` returns: every name, and what this host lacks for it.
pub(super) fn definitions(host: &HostFeatures) -> Value {
    let mut list = Vec::new();
    for model in CPU_MODELS {
        let spec = CpuSpec::new(model, []).expect("a model is a processor");
        let missing: Vec<_> = host
            .table(&spec, 1)
            .missing
            .iter()
            .map(|feature| feature.name)
            .collect();
        let entry = |name: &str| {
            json!({
                "name": name,
                "typename": format!("{name}-x86_64-cpu"),
                "static": name == model.name && !model.is_tied_to_host(),
                "migration-safe": !model.is_tied_to_host(),
                "unavailable-features": missing,
                "deprecated": false,
            })
        };
        list.push(entry(model.name));
        for alias in model.aliases {
            let mut entry = entry(alias);
            entry["alias-of"] = model.name.into();
            list.push(entry);
        }
    }
    list.into()
}

/// What `query-cpu-model-expansion` returns for `model`, an object with a name and perhaps properties.
pub(super) fn expansion(kind: &str, model: &Map<String, Value>, host: &HostFeatures) -> Result<Value, QmpError> {
    let spec = read(model)?;
    let (name, properties) = match kind {
        "static" => as_static(&spec, host)?,
        _ => (spec.model().name, full(&spec, host)),
    };
    Ok(json!({ "model": { "name": name, "props": properties } }))
}

fn read(model: &Map<String, Value>) -> Result<CpuSpec, QmpError> {
    if let Some(member) = model.keys().find(|key| !matches!(key.as_str(), "name" | "props")) {
        return Err(QmpError::generic(format!("Parameter 'model.{member}' is unexpected")));
    }
    let name = model.get("name").and_then(Value::as_str);
    let name = name.ok_or_else(|| QmpError::generic("Parameter 'model.name' is missing"))?;
    let found = CpuModel::named(name).ok_or_else(|| QmpError::generic(format!("CPU model '{name}' not found")))?;
    let nothing = Map::new();
    let properties = match model.get("props") {
        None => &nothing,
        Some(Value::Object(properties)) => properties,
        Some(_) => {
            return Err(QmpError::generic(
                "Invalid parameter type for 'model.props', expected: object",
            ));
        }
    };
    let mut switches = Vec::new();
    for (name, value) in properties {
        let feature = feature(name).map_err(|error| QmpError::generic(error.to_string()))?;
        let on = value.as_bool().ok_or_else(|| {
            QmpError::generic(format!(
                "Invalid parameter type for 'model.props.{name}', expected: boolean"
            ))
        })?;
        switches.push((feature, on));
    }
    CpuSpec::new(found, switches).map_err(|error: CpuSpecError| QmpError::generic(error.to_string()))
}

fn feature(name: &str) -> Result<&'static hw::i386::cpu_feature::CpuFeature, FeatureNameError> {
    hw::i386::cpu_feature::CpuFeature::called(name)
}

fn as_static(spec: &CpuSpec, host: &HostFeatures) -> Result<(&'static str, Value), QmpError> {
    let nearest;
    let spec = if spec.model().is_tied_to_host() {
        nearest = CpuSpec::within(&host.table(spec, 1).table).ok_or_else(|| {
            QmpError::generic("No named CPU model runs on this host: it can be expanded to \"full\" only")
        })?;
        &nearest
    } else {
        spec
    };
    let switches = spec
        .switches()
        .map(|(feature, on)| (feature.name.to_owned(), on.into()));
    Ok((spec.model().name, Value::Object(switches.collect())))
}

/// Every feature, and what identifies the processor. Of a named model that is what it promises, whatever this host lacks.
fn full(spec: &CpuSpec, host: &HostFeatures) -> Value {
    let table = host.table(spec, 1).table;
    let features = if spec.model().is_tied_to_host() {
        table.clone()
    } else {
        spec.features()
    };
    let mut properties: Map<String, Value> = CPU_FEATURES
        .iter()
        .map(|feature| (feature.name.to_owned(), features.has(feature).into()))
        .collect();
    let signature = Signature(table.get(LEAF_FEATURES, 0).map_or(0, |entry| entry.eax));
    for (name, number) in [
        ("family", signature.family()),
        ("model", signature.model()),
        ("stepping", signature.stepping()),
    ] {
        properties.insert(name.to_owned(), number.into());
    }
    properties.insert("vendor".to_owned(), table.vendor().escape_ascii().to_string().into());
    properties.insert("model-id".to_owned(), table.brand().into());
    properties.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hw::i386::cpu_feature::CpuFeature;
    use hw::i386::cpuid::CpuidTable;

    fn host_without(names: &[&str]) -> HostFeatures {
        let mut supported = CpuidTable::default();
        CPU_FEATURES.iter().for_each(|feature| supported.give(feature));
        for name in names {
            supported.take(CpuFeature::named(name).expect("known"));
        }
        HostFeatures { supported, tsc_khz: 0 }
    }

    fn expand(kind: &str, model: Value) -> Result<Value, String> {
        let Value::Object(model) = model else {
            unreachable!("tests give objects")
        };
        expansion(kind, &model, &host_without(&["avx512f"]))
            .map(|expanded| expanded["model"].clone())
            .map_err(|error| error.description)
    }

    #[test]
    fn definitions_say_what_the_host_lacks_and_what_names_stand_for() {
        let list = definitions(&host_without(&["popcnt"]));
        let list = list.as_array().expect("a list");
        let find = |name: &str| list.iter().find(|entry| entry["name"] == name).expect(name);
        assert_eq!(find("x86-64-v2-1")["unavailable-features"], json!(["popcnt"]));
        assert_eq!(find("x86-64-v2")["alias-of"], "x86-64-v2-1");
        assert_eq!(find("x86-64-v1-1")["unavailable-features"], json!([]));
        assert_eq!(find("EPYC-v1")["static"], true);
        assert_eq!(find("EPYC")["static"], false);
        assert_eq!(find("host")["migration-safe"], false);
    }

    #[test]
    fn a_static_expansion_is_a_model_with_a_version_and_the_difference() {
        let model = json!({ "name": "x86-64-v2", "props": { "popcnt": false, "aes": true, "sse4_1": true } });
        assert_eq!(
            expand("static", model),
            Ok(json!({ "name": "x86-64-v2-1", "props": { "aes": true, "popcnt": false } }))
        );
        let host = expand("static", json!({ "name": "host" })).expect("it is near to some model");
        assert_ne!(host["name"], "host");
        // What it expands to can be asked about again, and is the same.
        assert_eq!(expand("static", host.clone()), Ok(host));
    }

    #[test]
    fn a_full_expansion_has_every_feature_and_the_processors_identity() {
        let full = expand("full", json!({ "name": "EPYC", "props": { "avx2": false } })).expect("a model");
        assert_eq!(full["name"], "EPYC-v1");
        let properties = &full["props"];
        assert_eq!(properties["family"], 23);
        assert_eq!(properties["model-id"], "AMD EPYC Processor");
        assert_eq!((&properties["avx"], &properties["avx2"]), (&json!(true), &json!(false)));
        assert!(CPU_FEATURES.iter().all(|feature| properties[feature.name].is_boolean()));
        // The host's own is what it has.
        let host = expand("full", json!({ "name": "host" })).expect("a model");
        assert_eq!(host["props"]["avx512f"], false);
    }

    #[test]
    fn what_is_no_model_is_refused_in_qemus_words() {
        assert_eq!(
            expand("full", json!({ "name": "nope" })),
            Err("CPU model 'nope' not found".to_owned())
        );
        assert_eq!(
            expand("full", json!({})),
            Err("Parameter 'model.name' is missing".to_owned())
        );
        let refused =
            |props: Value| expand("full", json!({ "name": "x86-64-v2", "props": props })).expect_err("refused");
        assert!(refused(json!({ "popcount": true })).contains("did you mean popcnt?"));
        assert!(refused(json!({ "popcnt": "on" })).contains("expected: boolean"));
        assert!(refused(json!({ "avx2": true })).contains("no use without"));
        assert!(refused(json!(1)).contains("expected: object"));
        assert!(
            expand("full", json!({ "name": "host", "more": 1 }))
                .expect_err("refused")
                .contains("model.more")
        );
    }
}
