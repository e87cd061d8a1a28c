//! Each field of the state is lost on the way, and somebody has to notice.
//!
//! The test of the tests of split runs, and of every description: at the split, one field gets its value in a new object
//! instead of the one that was saved. If no program sees the difference, the field is none that a guest can see, or the
//! programs are too weak; either is said, field by field with its reason, in a list.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hw::core::Device;
use vmstate::qom::{ObjectPart, TypeTable};
use vmstate::state::{FieldPath, MapKey, Schema, Step, StructValue, Value, WireType};

use super::rig::{Rig, Saved};
use super::split_run::{Ending, Scenario};

/// A field of a description: the description's name, and the field's path in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Field {
    /// The type that describes the state.
    pub description: String,
    /// The path, with "each" in place of every index.
    pub path: FieldPath,
}

impl std::fmt::Display for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.description, self.path)
    }
}

/// The fields that types have, and which of them somebody misses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// All.
    pub fields: BTreeSet<Field>,
    /// Those that were missed.
    pub missed: BTreeSet<Field>,
}

impl Found {
    /// Loses each field of a type's objects that nobody has missed yet: in up to `cases` random runs, and for a device in the
    /// directed ones.
    ///
    /// # Errors
    ///
    /// The type cannot be put on the bench or saved, or its runs differ with nothing lost.
    pub fn look(&mut self, types: &Arc<TypeTable>, type_name: &str, cases: u32, seed: u64) -> Result<(), String> {
        self.look_with(types, type_name, (cases, seed), |_| Ok(()))
    }

    /// The same, and tells of each run in which a field is missed for the first time. The random ones are those of `cases`, the
    /// number of them and the seed.
    ///
    /// # Errors
    ///
    /// As [`Self::look`], and what `witness` says.
    pub fn look_with(
        &mut self,
        types: &Arc<TypeTable>,
        type_name: &str,
        (cases, seed): (u32, u64),
        mut witness: impl FnMut(&Scenario) -> Result<(), String>,
    ) -> Result<(), String> {
        let rig = Rig::new(types, type_name)?;
        let new = rig.save()?;
        for section in &new {
            let fields = fields(&section.schema).into_iter().map(|path| Field {
                description: section.description.clone(),
                path,
            });
            self.fields.extend(fields);
        }
        if rig.ground().is_inert() {
            return Ok(());
        }
        for case in 0..cases {
            if self.is_done(&new) {
                break;
            }
            let scenario = Scenario::new(types, type_name, case, seed)?;
            let looked = self.look_at(&scenario, &new, &mut witness);
            looked.map_err(|error| format!("{type_name}: {error}\n(case {case}; TERN_SEED={seed:#x})"))?;
        }
        if rig.subject().is_a(Device::TYPE) {
            for scenario in Scenario::directed(types, type_name, seed)? {
                let scenario = scenario?;
                if self.is_done(&new) {
                    break;
                }
                let looked = self.look_at(&scenario, &new, &mut witness);
                looked.map_err(|error| format!("{type_name}: {error}\n{}", scenario.describe()))?;
            }
        }
        Ok(())
    }

    /// Whether every field of these sections has been missed.
    fn is_done(&self, sections: &Saved) -> bool {
        let of_sections = |field: &&Field| sections.iter().any(|section| section.description == field.description);
        self.fields
            .iter()
            .filter(of_sections)
            .all(|field| self.missed.contains(field))
    }

    fn look_at(
        &mut self,
        scenario: &Scenario,
        new: &Saved,
        witness: &mut impl FnMut(&Scenario) -> Result<(), String>,
    ) -> Result<(), String> {
        let before = self.missed.len();
        let left = scenario.first_half()?;
        let saved = left.save()?;
        let mut whole: Option<Ending> = None;
        let mut is_sound = false;
        for (index, section) in saved.iter().enumerate() {
            let open = self
                .fields
                .difference(&self.missed)
                .filter(|field| field.description == section.description);
            let open: Vec<_> = open.cloned().collect();
            for field in open {
                let mut lost = saved.clone();
                lost[index].value = without(&section.value, Some(&new[index].value), field.path.steps());
                if lost[index].value == section.value {
                    continue;
                }
                let whole = match &whole {
                    Some(whole) => whole,
                    None => whole.insert(scenario.second_half(&scenario.first_half()?)),
                };
                let is_missed = match scenario.arrive(&left, &lost) {
                    Ok(arrived) => scenario.difference(whole, &scenario.second_half(&arrived)).is_some(),
                    // It cannot even be loaded so.
                    Err(_) => true,
                };
                if is_missed {
                    // What differs with nothing lost is no sign that this was missed.
                    if !is_sound {
                        let arrived = scenario.arrive(&left, &saved)?;
                        if let Some(difference) = scenario.difference(whole, &scenario.second_half(&arrived)) {
                            return Err(format!("split with nothing lost, {difference}"));
                        }
                        is_sound = true;
                    }
                    self.missed.insert(field);
                }
            }
        }
        if self.missed.len() > before {
            witness(scenario)
        } else {
            Ok(())
        }
    }

    /// Compares what nobody missed with the list of what nobody can miss.
    ///
    /// # Errors
    ///
    /// Each field that is not missed and not in the list, and each entry that does not belong there.
    pub fn expect(&self, listed: &BTreeMap<String, String>) -> Result<(), String> {
        let mut wrong = Vec::new();
        for field in &self.fields {
            match (self.missed.contains(field), listed.contains_key(&field.to_string())) {
                (false, false) => wrong.push(format!(
                    "{field}: lost on the way, and no program sees it. Is it state at all? Can a guest reach it, and \
                     through which registers, lines or inputs of the device? If it cannot, say why in the list"
                )),
                (true, true) => wrong.push(format!("{field}: is in the list, and somebody misses it")),
                _ => {}
            }
        }
        let names: BTreeSet<_> = self.fields.iter().map(Field::to_string).collect();
        let stale = listed.keys().filter(|entry| !names.contains(*entry));
        wrong.extend(stale.map(|entry| format!("{entry}: is in the list, and there is no such field")));
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(wrong.join("\n"))
        }
    }
}

/// Reads a list of fields: a line each, below a line `= reason`. Lines that begin with `#` say nothing.
///
/// # Errors
///
/// The line that is wrong: an entry without a reason, or one that is there twice.
pub fn read_list(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut list = BTreeMap::new();
    let mut reason = "";
    for line in text.lines().map(str::trim_end) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(given) = line.strip_prefix("= ") {
            reason = given;
        } else if reason.is_empty() {
            return Err(format!("{line} has no reason above it"));
        } else if list.insert(line.to_owned(), reason.to_owned()).is_some() {
            return Err(format!("{line} is there twice"));
        }
    }
    Ok(list)
}

/// The fields of a description that can be lost by themselves: every leaf, and everything that holds structs and can be
/// there or not, or in any number.
#[must_use]
pub fn fields(schema: &Schema) -> Vec<FieldPath> {
    let mut found = Vec::new();
    in_struct(schema, &FieldPath::root(), &mut found);
    found
}

fn in_struct(schema: &Schema, path: &FieldPath, found: &mut Vec<FieldPath>) {
    for field in schema.live_fields() {
        let path = path.join(Step::Field(field.name.clone()));
        if field.may_be_absent && has_structs(&field.wire) {
            found.push(path.clone());
        }
        in_type(&field.wire, &path, found);
    }
    for subsection in &schema.subsections {
        let path = path.join(Step::Field(subsection.name.clone()));
        found.push(path.clone());
        in_struct(&subsection.schema, &path, found);
    }
}

fn in_type(wire: &WireType, path: &FieldPath, found: &mut Vec<FieldPath>) {
    if !has_structs(wire) {
        found.push(path.clone());
        return;
    }
    match wire {
        WireType::Struct(schema) => in_struct(schema, path, found),
        WireType::Array { of, .. } => in_type(of, &path.join(Step::Each), found),
        WireType::Seq { of, .. } | WireType::Map { of, .. } => {
            found.push(path.clone());
            in_type(of, &path.join(Step::Each), found);
        }
        WireType::Option(of) => {
            found.push(path.clone());
            in_type(of, path, found);
        }
        _ => {}
    }
}

fn has_structs(wire: &WireType) -> bool {
    match wire {
        WireType::Struct(_) => true,
        WireType::Array { of, .. } | WireType::Seq { of, .. } | WireType::Map { of, .. } | WireType::Option(of) => {
            has_structs(of)
        }
        _ => false,
    }
}

/// A state with one field as it is in `new`. What `new` has no counterpart of is zero.
fn without(value: &StructValue, new: Option<&StructValue>, steps: &[Step]) -> StructValue {
    let Some((Step::Field(lost), inner)) = steps.split_first() else {
        return value.clone();
    };
    let mut result = StructValue::new(value.version());
    for (name, value) in value.fields() {
        if name != lost {
            result.set(name.clone(), value.clone());
            continue;
        }
        let of_new = new.and_then(|new| new.get(name));
        let is_absent = inner.is_empty() && new.is_some() && of_new.is_none();
        if !is_absent {
            result.set(name.clone(), value_without(value, of_new, inner));
        }
    }
    for (name, value) in value.subsections() {
        let of_new = new.and_then(|new| new.subsection(name));
        match of_new {
            _ if name != lost => result.set_subsection(name.clone(), value.clone()),
            Some(new) if inner.is_empty() => result.set_subsection(name.clone(), new.clone()),
            None if inner.is_empty() => {}
            _ => result.set_subsection(name.clone(), without(value, of_new, inner)),
        }
    }
    result
}

fn value_without(value: &Value, new: Option<&Value>, steps: &[Step]) -> Value {
    if steps.is_empty() {
        return new.cloned().unwrap_or_else(|| zeroed(value));
    }
    match value {
        Value::Option(Some(value)) => {
            let new = match new {
                Some(Value::Option(new)) => new.as_deref(),
                _ => None,
            };
            Value::Option(Some(Box::new(value_without(value, new, steps))))
        }
        Value::Struct(value) => {
            let new = match new {
                Some(Value::Struct(new)) => Some(new),
                _ => None,
            };
            Value::Struct(without(value, new, steps))
        }
        Value::Array(elements) => {
            let new = |index: usize| match new {
                Some(Value::Array(new)) => new.get(index),
                _ => None,
            };
            let elements = elements.iter().enumerate();
            Value::Array(
                elements
                    .map(|(index, value)| value_without(value, new(index), &steps[1..]))
                    .collect(),
            )
        }
        Value::Map(entries) => {
            let new = |wanted: &MapKey| match new {
                Some(Value::Map(new)) => new.iter().find(|(key, _)| key == wanted).map(|(_, value)| value),
                _ => None,
            };
            let entries = entries.iter();
            Value::Map(
                entries
                    .map(|(key, value)| (*key, value_without(value, new(key), &steps[1..])))
                    .collect(),
            )
        }
        other => other.clone(),
    }
}

fn zeroed(value: &Value) -> Value {
    match value {
        Value::Bool(_) => Value::Bool(false),
        Value::Uint(_) => Value::Uint(0),
        Value::Int(_) => Value::Int(0),
        Value::F64(_) => Value::F64(0.0),
        Value::Bytes(bytes) => Value::Bytes(vec![0; bytes.len()]),
        Value::Str(_) => Value::Str(String::new()),
        Value::Array(elements) => Value::Array(elements.iter().map(zeroed).collect()),
        Value::Option(_) => Value::Option(None),
        Value::Deadline(_) => Value::Deadline(None),
        other @ (Value::Bits(_) | Value::Map(_) | Value::Struct(_) | Value::Enum(_)) => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use vmstate::state::VmState;

    use super::*;

    #[derive(Clone, Debug, Default, PartialEq, VmState)]
    struct Part {
        a: u8,
        b: u8,
    }

    #[derive(Clone, Debug, Default, PartialEq, VmState)]
    struct Whole {
        leaf: u8,
        #[vmstate(max = 4)]
        bytes: Vec<u8>,
        one: Part,
        both: [Part; 2],
        perhaps: Option<Part>,
        #[vmstate(max = 4)]
        some: Vec<Part>,
        #[vmstate(max = 4)]
        by_number: BTreeMap<u8, Part>,
        #[vmstate(may_be_absent)]
        absent: Option<u8>,
        #[vmstate(subsection(needed = Whole::has_more))]
        more: Part,
    }

    impl Whole {
        fn has_more(&self) -> bool {
            self.more != Part::default()
        }
    }

    fn whole() -> Whole {
        let part = |a| Part { a, b: a + 1 };
        Whole {
            leaf: 1,
            bytes: vec![1, 2],
            one: part(1),
            both: [part(1), part(2)],
            perhaps: Some(part(1)),
            some: vec![part(1), part(2)],
            by_number: BTreeMap::from([(7, part(1))]),
            absent: Some(1),
            more: part(1),
        }
    }

    #[test]
    fn every_field_is_found_and_lost_by_itself() {
        let lost = |path: &FieldPath| {
            let value = without(&whole().to_value(), Some(&Whole::default().to_value()), path.steps());
            Whole::from_value(&value).expect("still a state")
        };
        let fields: Vec<_> = fields(Whole::schema());
        let names: Vec<_> = fields.iter().map(FieldPath::to_string).collect();
        let expected = [
            "leaf",
            "bytes",
            "one.a",
            "one.b",
            "both[].a",
            "both[].b",
            "perhaps",
            "perhaps.a",
            "perhaps.b",
            "some",
            "some[].a",
            "some[].b",
            "by_number",
            "by_number[].a",
            "by_number[].b",
            "absent",
            "more",
            "more.a",
            "more.b",
        ];
        assert_eq!(names, expected);
        let part = |a, b| Part { a, b };
        let new = Whole::default();
        let after = [
            Whole { leaf: 0, ..whole() },
            Whole {
                bytes: Vec::new(),
                ..whole()
            },
            Whole {
                one: part(0, 2),
                ..whole()
            },
            Whole {
                one: part(1, 0),
                ..whole()
            },
            Whole {
                both: [part(0, 2), part(0, 3)],
                ..whole()
            },
            Whole {
                both: [part(1, 0), part(2, 0)],
                ..whole()
            },
            Whole {
                perhaps: None,
                ..whole()
            },
            Whole {
                perhaps: Some(part(0, 2)),
                ..whole()
            },
            Whole {
                perhaps: Some(part(1, 0)),
                ..whole()
            },
            Whole {
                some: Vec::new(),
                ..whole()
            },
            Whole {
                some: vec![part(0, 2), part(0, 3)],
                ..whole()
            },
            Whole {
                some: vec![part(1, 0), part(2, 0)],
                ..whole()
            },
            Whole {
                by_number: BTreeMap::new(),
                ..whole()
            },
            Whole {
                by_number: BTreeMap::from([(7, part(0, 2))]),
                ..whole()
            },
            Whole {
                by_number: BTreeMap::from([(7, part(1, 0))]),
                ..whole()
            },
            Whole {
                absent: None,
                ..whole()
            },
            Whole {
                more: new.more,
                ..whole()
            },
            Whole {
                more: part(0, 2),
                ..whole()
            },
            Whole {
                more: part(1, 0),
                ..whole()
            },
        ];
        for (path, after) in fields.iter().zip(after) {
            assert_eq!(lost(path), after, "{path}");
        }
    }
}
