//! The leaves of a value: every field that holds something of its own, one by one.
//!
//! For tests that must not trust in having thought of every field: one that zeroes each in turn and demands that
//! somebody notices, or one that names what differs between what was saved and what was read back.

use std::fmt;

use super::bitmap::Bitmap;
use super::path::{FieldPath, Step};
use super::schema::Schema;
use super::value::{MapKey, StructValue, Value};
use super::wire_type::WireType;

/// A path at which a value has no leaf.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the state of `{description}` has no leaf {path} here")]
pub struct NoLeaf {
    /// The description.
    pub description: String,
    /// The path.
    pub path: FieldPath,
}

impl StructValue {
    /// The paths of all leaves, in order: everything that is no struct, array, map or option. What an option holds has the
    /// option's path; an option that holds nothing, like an empty array, has no leaf.
    #[must_use]
    pub fn leaf_paths(&self) -> Vec<FieldPath> {
        let mut leaves = Vec::new();
        self.for_each_leaf(|path, value| {
            if !matches!(value, Value::Option(_) | Value::Array(_) | Value::Map(_)) {
                leaves.push(path.clone());
            }
        });
        leaves
    }

    /// Calls `each` with everything that an observer wants to see of this value, in order: every leaf with its path, and
    /// every option, array and map that has no leaf because there is nothing in it.
    pub fn for_each_leaf(&self, mut each: impl FnMut(&FieldPath, &Value)) {
        show_struct(&FieldPath::root(), self, &mut each);
    }

    /// The value at a path without "each" steps, seen through options.
    #[must_use]
    pub fn at(&self, path: &FieldPath) -> Option<&Value> {
        let (Step::Field(name), inner) = path.steps().split_first()? else {
            return None;
        };
        match self.get(name) {
            Some(value) => value.at(inner),
            None => self.subsection(name)?.at(&inner.iter().cloned().collect()),
        }
    }

    /// Zeroes one leaf: a number becomes 0, a truth value false, a text empty, an enum its first variant, bytes and bits as
    /// many zeros, and a deadline is none. Returns whether that changed anything.
    ///
    /// # Errors
    ///
    /// If there is no leaf at the path.
    pub fn set_leaf_zero(&mut self, schema: &Schema, path: &FieldPath) -> Result<bool, NoLeaf> {
        let zeroed = zero_in_struct(self, schema, path.steps());
        zeroed.ok_or_else(|| NoLeaf {
            description: schema.name.to_string(),
            path: path.clone(),
        })
    }
}

impl Value {
    fn at(&self, steps: &[Step]) -> Option<&Self> {
        match (self, steps.split_first()) {
            (Self::Option(Some(value)), _) => value.at(steps),
            (_, None) => Some(self),
            (Self::Struct(value), Some(_)) => value.at(&steps.iter().cloned().collect()),
            (Self::Array(elements), Some((Step::Index(index), inner))) => elements.get(*index)?.at(inner),
            (Self::Map(entries), Some((Step::Key(key), inner))) => entry(entries, *key)?.at(inner),
            _ => None,
        }
    }
}

/// What a map has under a key.
fn entry(entries: &[(MapKey, Value)], key: MapKey) -> Option<&Value> {
    let at = entries.binary_search_by_key(&key, |(key, _)| *key).ok()?;
    Some(&entries[at].1)
}

fn show_struct(path: &FieldPath, value: &StructValue, each: &mut dyn FnMut(&FieldPath, &Value)) {
    for (name, value) in value.fields() {
        show(&path.join(Step::Field(name.clone())), value, each);
    }
    for (name, value) in value.subsections() {
        show_struct(&path.join(Step::Field(name.clone())), value, each);
    }
}

fn show(path: &FieldPath, value: &Value, each: &mut dyn FnMut(&FieldPath, &Value)) {
    match value {
        Value::Struct(value) => show_struct(path, value, each),
        Value::Option(Some(value)) => show(path, value, each),
        Value::Array(elements) if !elements.is_empty() => {
            for (i, element) in elements.iter().enumerate() {
                show(&path.join(Step::Index(i)), element, each);
            }
        }
        Value::Map(entries) if !entries.is_empty() => {
            for (key, value) in entries {
                show(&path.join(Step::Key(*key)), value, each);
            }
        }
        leaf => each(path, leaf),
    }
}

/// Zeroes a leaf and says whether it changed; `None` if there is no leaf.
fn zero_in_struct(value: &mut StructValue, schema: &Schema, steps: &[Step]) -> Option<bool> {
    let (Step::Field(name), inner) = steps.split_first()? else {
        return None;
    };
    if let Some(subsection) = schema.subsection(name) {
        return zero_in_struct(value.subsection_mut(name)?, &subsection.schema, inner);
    }
    zero_in_value(value.get_mut(name)?, &schema.field(name)?.wire, inner)
}

fn zero_in_value(value: &mut Value, wire: &WireType, steps: &[Step]) -> Option<bool> {
    let zero = match (&mut *value, wire, steps.split_first()) {
        (Value::Option(value), WireType::Option(of), _) => return zero_in_value(value.as_deref_mut()?, of, steps),
        (Value::Struct(value), WireType::Struct(schema), _) => return zero_in_struct(value, schema, steps),
        (Value::Array(elements), WireType::Array { of, .. } | WireType::Seq { of, .. }, Some((step, inner))) => {
            let Step::Index(index) = step else { return None };
            return zero_in_value(elements.get_mut(*index)?, of, inner);
        }
        (Value::Map(entries), WireType::Map { of, .. }, Some((step, inner))) => {
            let Step::Key(key) = step else { return None };
            let at = entries.binary_search_by_key(key, |(key, _)| *key).ok()?;
            return zero_in_value(&mut entries[at].1, of, inner);
        }
        (Value::Bool(_), _, None) => Value::Bool(false),
        (Value::Uint(_), _, None) => Value::Uint(0),
        (Value::Int(_), _, None) => Value::Int(0),
        (Value::F64(_), _, None) => Value::F64(0.0),
        (Value::Bytes(bytes), _, None) => Value::Bytes(vec![0; bytes.len()]),
        (Value::Str(_), _, None) => Value::Str(String::new()),
        (Value::Bits(bits), _, None) => Value::Bits(Bitmap::new(bits.len())),
        (Value::Deadline(_), _, None) => Value::Deadline(None),
        (Value::Enum(_), WireType::Enum { variants }, None) => Value::Enum(variants.first()?.clone()),
        _ => return None,
    };
    let changed = *value != zero;
    *value = zero;
    Some(changed)
}

/// A field in which two values differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldDiff {
    /// The field.
    pub path: FieldPath,
    /// What it is on the left, if it is there.
    pub left: Option<Value>,
    /// What it is on the right, if it is there.
    pub right: Option<Value>,
}

/// A value, or that there is none.
pub(super) fn shown(value: Option<&Value>) -> String {
    value.map_or_else(|| "absent".to_owned(), Value::to_string)
}

impl fmt::Display for FieldDiff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} on the left, {} on the right",
            self.path,
            shown(self.left.as_ref()),
            shown(self.right.as_ref())
        )
    }
}

/// Names every field in which two values differ, as deep inside as it can be said. Empty if they are equal, the order
/// of their fields aside.
///
/// Arrays of different lengths, and structs of different versions, differ as a whole.
#[must_use]
pub fn diff(left: &StructValue, right: &StructValue) -> Vec<FieldDiff> {
    let mut found = Vec::new();
    diff_structs(&FieldPath::root(), left, right, &mut found);
    found
}

fn diff_structs(path: &FieldPath, left: &StructValue, right: &StructValue, found: &mut Vec<FieldDiff>) {
    let as_value = |value: &StructValue| Value::Struct(value.clone());
    if left.version() != right.version() {
        found.push(FieldDiff {
            path: path.clone(),
            left: Some(as_value(left)),
            right: Some(as_value(right)),
        });
        return;
    }
    let only_right = right.fields().filter(|(name, _)| left.get(name).is_none());
    for (name, _) in left.fields().chain(only_right) {
        diff_fields(
            &path.join(Step::Field(name.clone())),
            left.get(name),
            right.get(name),
            found,
        );
    }
    let only_right = right.subsections().filter(|(name, _)| left.subsection(name).is_none());
    for (name, _) in left.subsections().chain(only_right) {
        let path = path.join(Step::Field(name.clone()));
        match (left.subsection(name), right.subsection(name)) {
            (Some(left), Some(right)) => diff_structs(&path, left, right, found),
            (left, right) => found.push(FieldDiff {
                path,
                left: left.map(as_value),
                right: right.map(as_value),
            }),
        }
    }
}

fn diff_fields(path: &FieldPath, left: Option<&Value>, right: Option<&Value>, found: &mut Vec<FieldDiff>) {
    match (left, right) {
        (Some(Value::Struct(left)), Some(Value::Struct(right))) => diff_structs(path, left, right, found),
        (Some(Value::Option(Some(left))), Some(Value::Option(Some(right)))) => {
            diff_fields(path, Some(left), Some(right), found);
        }
        (Some(Value::Array(left)), Some(Value::Array(right))) if left.len() == right.len() => {
            for (i, (left, right)) in left.iter().zip(right).enumerate() {
                diff_fields(&path.join(Step::Index(i)), Some(left), Some(right), found);
            }
        }
        (Some(Value::Map(left)), Some(Value::Map(right))) => {
            let only_right = right.iter().filter(|(key, _)| entry(left, *key).is_none());
            for (key, _) in left.iter().chain(only_right) {
                diff_fields(
                    &path.join(Step::Key(*key)),
                    entry(left, *key),
                    entry(right, *key),
                    found,
                );
            }
        }
        (left, right) if left == right => {}
        (left, right) => found.push(FieldDiff {
            path: path.clone(),
            left: left.cloned(),
            right: right.cloned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{schema_and_value, schema_and_values};
    use super::*;
    use crate::state::{Description, FieldSchema};
    use proptest::prelude::*;

    fn paths(value: &StructValue) -> Vec<String> {
        value.leaf_paths().iter().map(ToString::to_string).collect()
    }

    fn timer() -> StructValue {
        let channel = |mode: &'static str| Value::Struct(StructValue::new(1).with("mode", Value::Enum(mode.into())));
        let mut value = StructValue::new(1)
            .with("channels", Value::Array(vec![channel("one-shot"), channel("square")]))
            .with("latch", Value::Option(Some(Box::new(Value::Bytes(vec![1, 2])))))
            .with("gate", Value::Option(None));
        value.set_subsection("speaker", StructValue::new(1).with("on", Value::Bool(true)));
        value
    }

    fn timer_schema() -> Schema {
        let variants = vec!["one-shot".into(), "square".into()];
        let mut channel = Description::new("channel");
        channel.fields = vec![FieldSchema::new("mode", WireType::Enum { variants })];
        let channel = WireType::Struct(Box::new(channel.check().expect("legal")));
        let mut speaker = Description::new("speaker");
        speaker.fields = vec![FieldSchema::new("on", WireType::Bool)];
        let mut timer = Description::new("timer");
        timer.fields = vec![
            FieldSchema::new(
                "channels",
                WireType::Array {
                    of: Box::new(channel),
                    len: 2,
                },
            ),
            FieldSchema::new("latch", WireType::Option(Box::new(WireType::Bytes { max: 2 }))),
            FieldSchema::new("gate", WireType::Option(Box::new(WireType::U8))),
        ];
        timer.subsections = vec![crate::state::SubsectionSchema {
            name: "speaker".into(),
            optional: true,
            absent: None,
            schema: speaker.check().expect("legal"),
        }];
        timer.check().expect("legal")
    }

    #[test]
    fn every_leaf_is_named_and_nothing_else() {
        assert_eq!(
            paths(&timer()),
            ["channels[0].mode", "channels[1].mode", "latch", "speaker.on"]
        );
    }

    #[test]
    fn a_zeroed_leaf_is_the_only_thing_that_differs() {
        let changed = |path: &str| {
            let mut value = timer();
            let changed = value.set_leaf_zero(&timer_schema(), &path.parse().expect("a path"));
            (
                changed,
                diff(&timer(), &value)
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(changed("channels[0].mode"), (Ok(false), vec![]), "it was zero");
        assert_eq!(
            changed("channels[1].mode"),
            (
                Ok(true),
                vec!["channels[1].mode: square on the left, one-shot on the right".to_owned()]
            )
        );
        assert_eq!(
            changed("latch"),
            (
                Ok(true),
                vec!["latch: 0x0102 on the left, 0x0000 on the right".to_owned()]
            )
        );
        assert_eq!(
            changed("speaker.on"),
            (
                Ok(true),
                vec!["speaker.on: true on the left, false on the right".to_owned()]
            )
        );
    }

    #[test]
    fn what_is_no_leaf_is_refused_by_name() {
        for path in [
            ".",
            "gate",
            "channels",
            "channels[2].mode",
            "channels[].mode",
            "latch[0]",
            "volume",
        ] {
            let error = timer()
                .set_leaf_zero(&timer_schema(), &path.parse().expect("a path"))
                .expect_err(path);
            assert!(
                error.to_string().contains(&format!("`timer` has no leaf {path} here")),
                "{error}"
            );
        }
    }

    #[test]
    fn a_subsection_on_one_side_only_differs_as_a_whole() {
        let bare = StructValue::new(1);
        let mut full = bare.clone();
        full.set_subsection("speaker", StructValue::new(1));
        let found = diff(&bare, &full);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].to_string(), "speaker: absent on the left, { } on the right");
    }

    proptest! {
        #[test]
        fn every_leaf_can_be_found_and_zeroed((schema, value) in schema_and_value()) {
            for path in value.leaf_paths() {
                let mut zeroed = value.clone();
                let changed = zeroed.set_leaf_zero(&schema, &path).expect("it was listed");
                prop_assert_eq!(changed, value.at(&path) != zeroed.at(&path));
                let differing: Vec<_> = diff(&value, &zeroed).into_iter().map(|field| field.path).collect();
                prop_assert_eq!(differing, if changed { vec![path] } else { vec![] });
            }
        }

        #[test]
        fn values_are_equal_if_and_only_if_nothing_differs((_, left, right) in schema_and_values()) {
            prop_assert!(diff(&left, &left).is_empty());
            prop_assert_eq!(diff(&left, &right).is_empty(), left == right);
        }
    }
}
