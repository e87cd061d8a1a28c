//! What of the shape of a released machine or CPU model may change, and what may not.

use serde_json::{Map, Value};

/// Where a machine is not what it was: each place with what was there and what is. A member that `was` has not yet is not compared.
///
/// A guest sees the same for ever. Fields of state go by the rules of schemas. What somebody could ask for can still be asked for, and
/// is what it was: limits and ranges become wider and never narrower, and no property goes, or changes its type or its default.
#[must_use]
pub fn changes(was: &Value, is: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for (member, was) in was.as_object().into_iter().flatten() {
        let (place, is) = (format!(".{member}"), &is[member]);
        match member.as_str() {
            "state" => differences(&place, was, &with_fields_of(was, is), &mut found),
            "limits" | "settable" | "addable" => losses(&place, was, is, &mut found),
            _ => differences(&place, was, is, &mut found),
        }
    }
    found
}

/// Where a CPU model is not what it was. None goes, and each has for ever what a guest is told by it; what is new does not matter.
#[must_use]
pub fn model_changes(was: &Value, is: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for (model, was) in was.as_object().into_iter().flatten() {
        match is.get(model) {
            None => found.push(format!(".{model}: it is gone")),
            Some(is) => differences(&format!(".{model}"), was, is, &mut found),
        }
    }
    found
}

/// Versions and fields go on by the rules of schemas, which the schema lock holds.
fn with_fields_of(was: &Value, is: &Value) -> Value {
    let mut is = is.clone();
    for (section, was) in was.as_object().into_iter().flatten() {
        for member in ["version", "fields"] {
            is[section][member] = was[member].clone();
        }
    }
    is
}

fn differences(place: &str, was: &Value, is: &Value, found: &mut Vec<String>) {
    match (was, is) {
        (Value::Object(was), Value::Object(is)) => {
            let mut names: Vec<_> = was.keys().chain(is.keys()).collect();
            names.sort();
            names.dedup();
            for name in names {
                let member = |of: &Map<String, Value>| of.get(name).cloned().unwrap_or_default();
                differences(&format!("{place}.{name}"), &member(was), &member(is), found);
            }
        }
        (was, is) if was == is => {}
        (was, is) => found.push(format!("{place}: was {was}, is {is}")),
    }
}

/// What bounds a value; where there was none there must be none.
const BOUNDS: [&str; 5] = ["least", "most", "multiple-of", "values", "each"];

/// What could be asked for and cannot any more, or is something else now. What is new does not matter.
fn losses(place: &str, was: &Value, is: &Value, found: &mut Vec<String>) {
    let (Value::Object(was), Value::Object(is)) = (was, is) else {
        return differences(place, was, is, found);
    };
    for (name, was) in was {
        let place = format!("{place}.{name}");
        match is.get(name) {
            None => found.push(format!("{place}: was {was}, is gone")),
            Some(is) if was.is_object() => losses(&place, was, is, found),
            Some(is) if !is_as_wide(name, was, is) => found.push(format!("{place}: was {was}, is {is}")),
            Some(_) => {}
        }
    }
    // A property that is called like a bound is an object.
    let new = is
        .iter()
        .filter(|(name, is)| BOUNDS.contains(&name.as_str()) && !is.is_object());
    for (name, is) in new.filter(|(name, _)| !was.contains_key(*name)) {
        found.push(format!("{place}.{name}: was not there, is {is}"));
    }
}

fn is_as_wide(bound: &str, was: &Value, is: &Value) -> bool {
    let number = |value: &Value| value.as_i64().map(i128::from).or(value.as_u64().map(i128::from));
    if let (Some(was), Some(is)) = (number(was), number(is)) {
        return match bound {
            "least" => is <= was,
            "most" => is >= was,
            "multiple-of" => is > 0 && was % is == 0,
            _ => is == was,
        };
    }
    match (bound, was, is) {
        ("values", Value::Array(was), Value::Array(is)) => was.iter().all(|value| is.contains(value)),
        _ => was == is,
    }
}
