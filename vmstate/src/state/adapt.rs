//! From the writer's description to the reader's.

use super::compare::{Condition, Obstacle, Verdict, counterpart, loss_of_field, version_obstacle};
use super::error::StateError;
use super::fields::wrong_kind;
use super::name::Name;
use super::path::{FieldPath, Step};
use super::relation::Relation;
use super::schema::{Schema, WireType};
use super::value::{StructValue, Value};

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
struct Refused {
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
        let taken = known.and_then(|known| Some((known, sent.take_field(&known.name)?)));
        let value = match (taken, &field.default) {
            (Some((known, value)), _) => Some(convert(value, &known.wire, &field.wire).map_err(inside)?),
            (None, Some(default)) => Some(default.clone()),
            (None, None) if field.may_be_absent => None,
            (None, None) if known.is_some() => return Err(inside(Condition::Sent.into())),
            (None, None) => return Err(inside(Obstacle::NoDefault.into())),
        };
        if let Some(value) = value {
            adapted.push(field.name.clone(), value);
        }
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

    fn take_subsection(&mut self, name: &str) -> Option<StructValue> {
        self.subsections.iter_mut().find(|(sent, _)| sent == name)?.1.take()
    }

    /// Refuses to lose what is left, unless it says nothing.
    fn check_losses(self, writer: &Schema) -> Result<(), Refused> {
        for (name, value) in self.fields {
            let Some(value) = value else { continue };
            let lost = match writer.field(&name).map(loss_of_field) {
                Some(Verdict::LoadsOnlyIf(condition @ Condition::Is(_))) if condition.holds(&value) => continue,
                Some(Verdict::LoadsOnlyIf(condition)) => condition.into(),
                _ => Refused::from(Obstacle::Unknown),
            };
            return Err(lost.within(Step::Field(name)));
        }
        match self.subsections.into_iter().find(|(_, value)| value.is_some()) {
            Some((name, _)) => Err(Refused::from(Obstacle::Unknown).within(Step::Field(name))),
            None => Ok(()),
        }
    }
}

fn convert(value: Value, writer: &WireType, reader: &WireType) -> Result<Value, Refused> {
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
