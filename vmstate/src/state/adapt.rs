//! From the writer's description to the reader's.

use super::compare::{counterpart, loss_of_field, loss_of_subsection, version_obstacle};
use super::error::StateError;
use super::fields::wrong_kind;
use super::name::Name;
use super::path::{FieldPath, Step};
use super::relation::Relation;
use super::schema::{FieldSchema, Schema};
use super::value::{StructValue, Value};
use super::verdict::{Condition, Obstacle, Verdict};
use super::wire_type::WireType;

/// A value that the reader cannot load.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the state of `{description}` cannot be loaded here: field {path} {refusal}")]
pub struct AdaptError {
    /// The reader's description.
    pub description: Name,
    /// The field.
    pub path: FieldPath,
    /// Why not.
    pub refusal: Box<Refusal>,
}

/// Why a field cannot be loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No value of it could be; the comparison of the two schemas says so beforehand.
    #[error("does not load: {0}")]
    Obstacle(Obstacle),
    /// This value cannot be, and the comparison of the two schemas names the condition.
    #[error("loads only if {0}")]
    Condition(Condition),
    /// It is no value of the writer's schema, so it did not come from [`decode`](super::decode()).
    #[error("is no value of the writer's description: {0}")]
    NotTheWriters(StateError),
}

/// Turns a value of the writer's schema into one that the reader's type is made of.
///
/// Fields are matched by name. A field that the writer does not have gets the reader's default; one that the reader
/// does not have may be lost only if it has the writer's default. The result has all fields of the reader's
/// description, retired ones included, and keeps the writer's version.
///
/// # Errors
///
/// What [`compare`](super::compare()) foretells.
pub fn adapt(value: StructValue, writer: &Schema, reader: &Schema) -> Result<StructValue, AdaptError> {
    structs(value, writer, reader).map_err(|Refused { path, refusal }| AdaptError {
        description: reader.name.clone(),
        path,
        refusal,
    })
}

/// A refusal on its way out, gathering its path.
pub(super) struct Refused {
    path: FieldPath,
    refusal: Box<Refusal>,
}

impl Refused {
    fn within(self, outer: Step) -> Self {
        Self {
            path: self.path.within(outer),
            ..self
        }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self {
            path: FieldPath::root(),
            refusal: Box::new(refusal),
        }
    }
}

impl From<Obstacle> for Refused {
    fn from(obstacle: Obstacle) -> Self {
        Refusal::Obstacle(obstacle).into()
    }
}

impl From<Condition> for Refused {
    fn from(condition: Condition) -> Self {
        Refusal::Condition(condition).into()
    }
}

fn structs(value: StructValue, writer: &Schema, reader: &Schema) -> Result<StructValue, Refused> {
    let version = value.version();
    if let Some(obstacle) = version_obstacle(version, reader) {
        return Err(obstacle.into());
    }
    let mut sent = Sent::from(value);
    let mut adapted = StructValue::new(version);
    for field in &reader.fields {
        let inside = |refused: Refused| refused.within(Step::Field(field.name.clone()));
        let known = counterpart(writer, field);
        let taken = known.and_then(|known| Some((known, sent.take_or_skipped(known)?)));
        let value = match (taken, &field.default) {
            (Some((known, value)), _) => Some(convert_field(value, known, field).map_err(inside)?),
            (None, Some(default)) => Some(default.clone()),
            (None, None) if field.may_be_absent => None,
            (None, None) if known.is_some() => return Err(inside(Condition::Sent.into())),
            (None, None) => return Err(inside(Obstacle::NoDefault.into())),
        };
        let skipped = field.skip_when_default && value == field.default;
        if let Some(value) = value.filter(|_| !skipped) {
            adapted.push(field.name.clone(), value);
        }
    }
    let is_sent = |field: &&FieldSchema| counterpart(writer, field).is_some();
    for field in reader
        .fields
        .iter()
        .filter(|field| field.length.is_some())
        .filter(is_sent)
    {
        check_count(&adapted, field)?;
    }
    for subsection in &reader.subsections {
        let inside = |refused: Refused| refused.within(Step::Field(subsection.name.clone()));
        let known = writer.subsection(&subsection.name);
        match known.and_then(|known| Some((known, sent.take_subsection(&known.name)?))) {
            Some((known, value)) => {
                let value = structs(value, &known.schema, &subsection.schema).map_err(inside)?;
                adapted.push_subsection(subsection.name.clone(), value);
            }
            None if subsection.optional => {}
            None if known.is_some() => return Err(inside(Condition::Sent.into())),
            None => return Err(inside(Obstacle::NoDefault.into())),
        }
    }
    sent.check_losses(writer)?;
    Ok(adapted)
}

/// Refuses a number of elements that is not what another field of the adapted value says.
fn check_count(adapted: &StructValue, field: &FieldSchema) -> Result<(), Refused> {
    let (Some(value), Some(length)) = (adapted.get(&field.name), &field.length) else {
        return Ok(());
    };
    let checked = field.check_count(value, adapted);
    checked.map_err(|_| Refused::from(Condition::LengthIsField(length.clone())).within(Step::Field(field.name.clone())))
}

/// Turns a field of the writer's into one of the reader's, which may allow fewer values.
fn convert_field(value: Value, writer: &FieldSchema, reader: &FieldSchema) -> Result<Value, Refused> {
    let value = convert(value, &writer.wire, &reader.wire)?;
    match (reader.check_range(&value), reader.range) {
        (Err(_), Some((least, most))) => Err(Condition::Between { least, most }.into()),
        _ => Ok(value),
    }
}

/// What the writer sent and nobody has taken yet.
struct Sent {
    fields: Vec<(Name, Option<Value>)>,
    subsections: Vec<(Name, Option<StructValue>)>,
}

impl From<StructValue> for Sent {
    fn from(value: StructValue) -> Self {
        let (fields, subsections) = value.into_parts();
        Self {
            fields: fields.into_iter().map(|(name, value)| (name, Some(value))).collect(),
            subsections: subsections
                .into_iter()
                .map(|(name, value)| (name, Some(value)))
                .collect(),
        }
    }
}

impl Sent {
    fn take_field(&mut self, name: &str) -> Option<Value> {
        self.fields.iter_mut().find(|(sent, _)| sent == name)?.1.take()
    }

    /// What was sent of a field: also if that was left out because it is the writer's default.
    fn take_or_skipped(&mut self, field: &FieldSchema) -> Option<Value> {
        let skipped = || field.default.clone().filter(|_| field.skip_when_default);
        self.take_field(&field.name).or_else(skipped)
    }

    fn take_subsection(&mut self, name: &str) -> Option<StructValue> {
        self.subsections.iter_mut().find(|(sent, _)| sent == name)?.1.take()
    }

    /// Refuses to lose what is left, unless it says nothing.
    fn check_losses(self, writer: &Schema) -> Result<(), Refused> {
        for (name, value) in self.fields {
            let Some(value) = value else { continue };
            let loss = writer.field(&name).map(loss_of_field);
            match loss {
                Some(Verdict::LoadsOnlyIf(Condition::Is(default))) if value == default => {}
                loss => return Err(refused_loss(loss).within(Step::Field(name))),
            }
        }
        match self.subsections.into_iter().find(|(_, value)| value.is_some()) {
            Some((name, _)) => {
                let loss = writer.subsection(&name).map(loss_of_subsection);
                Err(refused_loss(loss).within(Step::Field(name)))
            }
            None => Ok(()),
        }
    }
}

/// The refusal of a loss, for the reason that the comparison gives.
fn refused_loss(verdict: Option<Verdict>) -> Refused {
    match verdict {
        Some(Verdict::LoadsOnlyIf(condition)) => condition.into(),
        _ => Obstacle::Unknown.into(),
    }
}

pub(super) fn convert(value: Value, writer: &WireType, reader: &WireType) -> Result<Value, Refused> {
    match Relation::between(writer, reader) {
        Relation::Stays(verdict) => judge(&verdict, &value).map(|()| value),
        Relation::Structs { writer, reader } => match value {
            Value::Struct(value) => structs(value, writer, reader).map(Value::Struct),
            other => Err(not_the_writers("a struct", &other)),
        },
        Relation::Elements {
            writer, reader, length, ..
        } => {
            judge(&length, &value)?;
            let elements = into_elements(value)?
                .into_iter()
                .enumerate()
                .map(|(i, element)| convert(element, writer, reader).map_err(|refused| refused.within(Step::Index(i))));
            from_elements(elements.collect::<Result<_, _>>()?, reader)
        }
        Relation::Maps {
            writer,
            reader,
            keys,
            length,
        } => {
            judge(&keys, &value).or_else(|refused| if value.count() == Some(0) { Ok(()) } else { Err(refused) })?;
            judge(&length, &value)?;
            let Value::Map(entries) = value else {
                return Err(not_the_writers("a map", &value));
            };
            let entries = entries
                .into_iter()
                .map(|(key, value)| match convert(value, writer, reader) {
                    Ok(value) => Ok((key, value)),
                    Err(refused) => Err(refused.within(Step::Key(key))),
                });
            entries.collect::<Result<_, _>>().map(Value::Map)
        }
        Relation::Options { writer, reader } => match value {
            Value::Option(Some(value)) => Ok(some(convert(*value, writer, reader)?)),
            Value::Option(None) => Ok(value),
            other => Err(not_the_writers("an option", &other)),
        },
        Relation::Wrapped { reader } => Ok(some(convert(value, writer, reader)?)),
        Relation::Unwrapped { writer } => match value {
            Value::Option(Some(value)) => convert(*value, writer, reader),
            Value::Option(None) => Err(Condition::Sent.into()),
            other => Err(not_the_writers("an option", &other)),
        },
    }
}

fn judge(verdict: &Verdict, value: &Value) -> Result<(), Refused> {
    match verdict {
        Verdict::Loads => Ok(()),
        Verdict::LoadsOnlyIf(condition) if condition.holds(value) => Ok(()),
        Verdict::LoadsOnlyIf(condition) => Err(condition.clone().into()),
        Verdict::DoesNot(obstacle) => Err(obstacle.clone().into()),
    }
}

fn some(value: Value) -> Value {
    Value::Option(Some(Box::new(value)))
}

/// The elements of a run. Bytes become integers where a reader has made them wider.
fn into_elements(value: Value) -> Result<Vec<Value>, Refused> {
    match value {
        Value::Array(elements) => Ok(elements),
        Value::Bytes(bytes) => Ok(bytes.into_iter().map(|byte| Value::Uint(byte.into())).collect()),
        other => Err(not_the_writers("elements", &other)),
    }
}

/// The run of these elements, in the form that its type has.
fn from_elements(elements: Vec<Value>, of: &WireType) -> Result<Value, Refused> {
    if !of.is_byte() {
        return Ok(Value::Array(elements));
    }
    let byte = |element: &Value| match element {
        Value::Uint(byte) => u8::try_from(*byte).ok(),
        _ => None,
    };
    let bytes = elements
        .iter()
        .map(|element| byte(element).ok_or_else(|| not_the_writers("a byte", element)));
    bytes.collect::<Result<_, _>>().map(Value::Bytes)
}

fn not_the_writers(expected: &str, found: &Value) -> Refused {
    Refusal::NotTheWriters(wrong_kind(expected, found)).into()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{misarrived, schema, schema_and_value, writer_value_reader};
    use super::*;
    use crate::state::{compare, diff};
    use proptest::prelude::*;

    /// What a refusal says in the comparison: the same obstacle or condition, at the path or around it (an obstacle in
    /// something optional is a condition on whether it is sent).
    fn was_foretold(error: &AdaptError, writer: &Schema, reader: &Schema) -> bool {
        let path = error.path.described();
        compare(writer, reader).complaints().any(|complaint| {
            let around = path.steps().starts_with(complaint.path.steps());
            match (&complaint.verdict, &*error.refusal) {
                // Of several obstacles the first one that is met is named.
                (Verdict::DoesNot(_), _) => true,
                (Verdict::LoadsOnlyIf(Condition::Nothing { .. }), _) => around,
                (Verdict::LoadsOnlyIf(foretold), Refusal::Condition(met)) => path == complaint.path && foretold == met,
                _ => false,
            }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]

        #[test]
        fn the_comparison_foretells_what_happens((writer, value, reader) in writer_value_reader()) {
            let comparison = compare(&writer, &reader);
            let adapted = adapt(value, &writer, &reader);
            match comparison.verdict() {
                Verdict::Loads => prop_assert!(adapted.is_ok(), "{adapted:?}"),
                Verdict::DoesNot(_) => prop_assert!(adapted.is_err(), "{comparison}"),
                Verdict::LoadsOnlyIf(_) => {}
            }
            if let Err(error) = adapted {
                prop_assert!(was_foretold(&error, &writer, &reader), "{error}\nbut only\n{comparison}");
            }
        }

        #[test]
        fn what_loads_has_the_writers_values_and_else_the_readers_defaults((writer, value, reader) in writer_value_reader()) {
            if let Ok(adapted) = adapt(value.clone(), &writer, &reader) {
                prop_assert_eq!(misarrived(&value, &writer, &adapted, &reader), Vec::<String>::new());
            }
        }

        #[test]
        fn an_adapted_value_has_every_field_of_the_reader((writer, value, reader) in writer_value_reader()) {
            if let Ok(adapted) = adapt(value, &writer, &reader) {
                for field in reader.fields.iter().filter(|field| !field.may_be_absent && !field.skip_when_default) {
                    prop_assert!(adapted.get(&field.name).is_some(), "{}", field.name);
                }
            }
        }

        #[test]
        fn between_equal_descriptions_only_retired_fields_are_added((schema, value) in schema_and_value()) {
            prop_assert_eq!(compare(&schema, &schema).verdict(), Verdict::Loads);
            let adapted = adapt(value.clone(), &schema, &schema).expect("it is the same description");
            for added in diff(&value, &adapted) {
                prop_assert!(added.left.is_none(), "{added}");
            }
        }

        #[test]
        fn a_value_of_another_schema_never_panics(
            (schema, value) in schema_and_value(), other in schema(),
        ) {
            let _ = adapt(value, &other, &schema);
        }
    }

    #[test]
    fn the_edits_of_these_tests_reach_all_three_verdicts() {
        use proptest::strategy::ValueTree;
        use proptest::test_runner::TestRunner;

        let mut runner = TestRunner::deterministic();
        let mut reached = [0; 3];
        for _ in 0..256 {
            let (writer, _, reader) = writer_value_reader().new_tree(&mut runner).expect("a tree").current();
            reached[match compare(&writer, &reader).verdict() {
                Verdict::Loads => 0,
                Verdict::LoadsOnlyIf(_) => 1,
                Verdict::DoesNot(_) => 2,
            }] += 1;
        }
        assert!(reached.iter().all(|count| *count >= 16), "{reached:?}");
    }
}
