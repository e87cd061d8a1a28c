//! What will happen to a writer's state at a reader, told from the two schemas alone.
//!
//! The same comparison serves the preflight of a migration, the static check of two releases and the tests. Where it
//! says "only if", the values decide: [`adapt`](super::adapt()) of the value as it is then tells.

use std::fmt;

use super::name::Name;
use super::path::{FieldPath, Step};
use super::relation::Relation;
use super::schema::{FieldSchema, Schema, SubsectionSchema, WireType};
use super::value::Value;

/// Whether what a writer sends can be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Whatever its value is, it loads.
    Loads,
    /// It loads if the value meets the condition.
    LoadsOnlyIf(Condition),
    /// No value of it loads.
    DoesNot(Obstacle),
}

/// What is asked of a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Condition {
    /// It is not sent, or there is nothing in it (none, no elements): the reader could not load what would be sent.
    #[error("nothing is sent in it, because: {because}")]
    Nothing {
        /// Why the reader could not load it.
        because: Obstacle,
    },
    /// It is sent, and is not none: the reader has nothing to put in its place.
    #[error("it is sent, because the reader cannot do without it")]
    Sent,
    /// It has its default, which loses nothing: the reader does not know it.
    #[error("it is {0}, its default, because the reader does not know it")]
    Is(Value),
    /// It fits a narrower integer.
    #[error("it is between {least} and {most}")]
    Between {
        /// The least that fits.
        least: i128,
        /// The most that fits.
        most: i128,
    },
    /// It has no more bytes or elements than the reader has room for.
    #[error("its length is at most {0}")]
    LengthAtMost(u32),
    /// It has exactly as many bytes or elements as the reader's array.
    #[error("its length is {0}")]
    LengthIs(u32),
    /// It is a variant that the reader knows.
    #[error("it is none of {}, which the reader does not know", list(.0))]
    NoneOf(Vec<Name>),
}

fn list(names: &[Name]) -> String {
    names
        .iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

impl Condition {
    /// Whether a value that is there meets this condition.
    pub(super) fn holds(&self, value: &Value) -> bool {
        let integer = match value {
            Value::Uint(value) => Some(i128::from(*value)),
            Value::Int(value) => Some(i128::from(*value)),
            _ => None,
        };
        let length = match value {
            Value::Bytes(bytes) => Some(bytes.len()),
            Value::Str(text) => Some(text.len()),
            Value::Array(elements) => Some(elements.len()),
            _ => None,
        };
        let length = length.and_then(|length| u32::try_from(length).ok());
        match self {
            Self::Nothing { .. } => *value == Value::Option(None) || length == Some(0),
            Self::Sent => *value != Value::Option(None),
            Self::Is(default) => value == default,
            Self::Between { least, most } => integer.is_some_and(|integer| (*least..=*most).contains(&integer)),
            Self::LengthAtMost(most) => length.is_some_and(|length| length <= *most),
            Self::LengthIs(exact) => length == Some(*exact),
            Self::NoneOf(lost) => matches!(value, Value::Enum(variant) if !lost.contains(variant)),
        }
    }
}

/// Why no value can be loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// The struct's version is not among those that the reader loads.
    #[error("it is of version {found}, and the reader loads versions {oldest} to {newest}")]
    Version {
        /// The writer's version.
        found: u32,
        /// The oldest that the reader loads.
        oldest: u32,
        /// The newest that the reader loads.
        newest: u32,
    },
    /// The types have nothing in common.
    #[error("the writer's {writer} is no {reader}, as which the reader knows it")]
    Retyped {
        /// The writer's type.
        writer: String,
        /// The reader's type.
        reader: String,
    },
    /// The reader has no such field or subsection (any more, or yet).
    #[error("the reader does not know it, and it would be lost")]
    Unknown,
    /// The writer has no such field or subsection.
    #[error("the writer does not know it, and the reader has no default for it")]
    NoDefault,
}

/// The verdict on one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldVerdict {
    /// The field; one that is an element's stands for all elements (`lvt[].mode`).
    pub path: FieldPath,
    /// Whether it can be loaded.
    pub verdict: Verdict,
}

/// The verdicts on all fields and subsections of a writer and a reader.
///
/// A field has one entry, or one for each condition on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// The verdicts, in the order of the reader's fields; what only the writer has comes last.
    pub fields: Vec<FieldVerdict>,
}

impl Comparison {
    /// The verdict on the whole: the worst one, and the first of several.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let obstacle = self
            .fields
            .iter()
            .find(|field| matches!(field.verdict, Verdict::DoesNot(_)));
        let worst = obstacle.or_else(|| self.complaints().next());
        worst.map_or(Verdict::Loads, |field| field.verdict.clone())
    }

    /// The fields that do not load whatever their value is.
    pub fn complaints(&self) -> impl Iterator<Item = &FieldVerdict> {
        self.fields.iter().filter(|field| field.verdict != Verdict::Loads)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loads => f.write_str("loads"),
            Self::LoadsOnlyIf(condition) => write!(f, "loads only if {condition}"),
            Self::DoesNot(obstacle) => write!(f, "does not load: {obstacle}"),
        }
    }
}

impl fmt::Display for FieldVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.path, self.verdict)
    }
}

/// Each complaint on a line of its own, or `loads`.
impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let complaints: Vec<_> = self.complaints().map(ToString::to_string).collect();
        f.write_str(if complaints.is_empty() { "loads" } else { "" })?;
        f.write_str(&complaints.join("\n"))
    }
}

/// Tells for each field whether what `writer` describes can be loaded by `reader`.
///
/// - If all verdicts are [`Verdict::Loads`], [`adapt`](super::adapt()) takes every value.
/// - If one is [`Verdict::DoesNot`], it takes none.
/// - Otherwise it takes those values that meet the conditions.
#[must_use]
pub fn compare(writer: &Schema, reader: &Schema) -> Comparison {
    Comparison {
        fields: structs(&FieldPath::root(), writer, reader),
    }
}

type Verdicts = Vec<FieldVerdict>;

fn one(path: &FieldPath, verdict: Verdict) -> Verdicts {
    vec![FieldVerdict {
        path: path.clone(),
        verdict,
    }]
}

fn structs(path: &FieldPath, writer: &Schema, reader: &Schema) -> Verdicts {
    if let Some(obstacle) = version_obstacle(writer.version, reader) {
        return one(path, Verdict::DoesNot(obstacle));
    }
    let inside = |name: &Name| path.join(Step::Field(name.clone()));
    let mut verdicts = Vec::new();
    for field in &reader.fields {
        let path = inside(&field.name);
        verdicts.extend(match counterpart(writer, field) {
            Some(sent) => fields(&path, sent, field),
            None if field.is_dispensable() => one(&path, Verdict::Loads),
            None => one(&path, Verdict::DoesNot(Obstacle::NoDefault)),
        });
    }
    for subsection in &reader.subsections {
        let path = inside(&subsection.name);
        verdicts.extend(match writer.subsection(&subsection.name) {
            Some(sent) => subsections(&path, sent, subsection),
            None if subsection.optional => one(&path, Verdict::Loads),
            None => one(&path, Verdict::DoesNot(Obstacle::NoDefault)),
        });
    }
    let lost_fields = writer
        .live_fields()
        .filter(|field| !is_known(reader, writer.version, &field.name));
    verdicts.extend(lost_fields.flat_map(|field| one(&inside(&field.name), loss_of_field(field))));
    let lost_subsections = writer
        .subsections
        .iter()
        .filter(|lost| reader.subsection(&lost.name).is_none());
    verdicts.extend(lost_subsections.flat_map(|lost| one(&inside(&lost.name), loss_of_subsection(lost))));
    verdicts
}

/// Why a reader does not load a version, if it does not.
pub(super) fn version_obstacle(found: u32, reader: &Schema) -> Option<Obstacle> {
    let (oldest, newest) = (reader.minimum_version, reader.version);
    (!(oldest..=newest).contains(&found)).then_some(Obstacle::Version { found, oldest, newest })
}

/// The writer's field for a field of the reader's, if the reader has it at the writer's version.
pub(super) fn counterpart<'a>(writer: &'a Schema, field: &FieldSchema) -> Option<&'a FieldSchema> {
    let sent = writer.field(&field.name).filter(|sent| sent.is_live_at(writer.version));
    sent.filter(|_| field.is_live_at(writer.version))
}

/// Whether a reader has a field of that name at the writer's version.
fn is_known(reader: &Schema, version: u32, name: &str) -> bool {
    reader.field(name).is_some_and(|field| field.is_live_at(version))
}

/// What is asked of a field that the reader does not know.
pub(super) fn loss_of_field(field: &FieldSchema) -> Verdict {
    match &field.default {
        _ if field.may_be_absent => Verdict::LoadsOnlyIf(Condition::Nothing {
            because: Obstacle::Unknown,
        }),
        Some(default) => Verdict::LoadsOnlyIf(Condition::Is(default.clone())),
        None => Verdict::DoesNot(Obstacle::Unknown),
    }
}

fn loss_of_subsection(subsection: &SubsectionSchema) -> Verdict {
    match subsection.optional {
        true => Verdict::LoadsOnlyIf(Condition::Nothing {
            because: Obstacle::Unknown,
        }),
        false => Verdict::DoesNot(Obstacle::Unknown),
    }
}

fn fields(path: &FieldPath, writer: &FieldSchema, reader: &FieldSchema) -> Verdicts {
    let contents = types(path, &writer.wire, &reader.wire);
    match (writer.may_be_absent, reader.is_dispensable()) {
        (false, _) => contents,
        (true, true) => or_nothing(path, contents),
        (true, false) => and_sent(path, contents),
    }
}

fn subsections(path: &FieldPath, writer: &SubsectionSchema, reader: &SubsectionSchema) -> Verdicts {
    let contents = structs(path, &writer.schema, &reader.schema);
    match (writer.optional, reader.optional) {
        (false, _) => contents,
        (true, true) => or_nothing(path, contents),
        (true, false) => and_sent(path, contents),
    }
}

fn types(path: &FieldPath, writer: &WireType, reader: &WireType) -> Verdicts {
    match Relation::between(writer, reader) {
        Relation::Stays(verdict) => one(path, verdict),
        Relation::Structs { writer, reader } => structs(path, writer, reader),
        Relation::Options { writer, reader } => or_nothing(path, types(path, writer, reader)),
        Relation::Wrapped { reader } => types(path, writer, reader),
        Relation::Unwrapped { writer } => and_sent(path, types(path, writer, reader)),
        Relation::Elements {
            length: Verdict::DoesNot(obstacle),
            ..
        } => one(path, Verdict::DoesNot(obstacle)),
        Relation::Elements {
            writer,
            reader,
            length,
            may_be_empty,
        } => {
            let each = types(&path.join(Step::Each), writer, reader);
            let mut verdicts = if may_be_empty { or_nothing(path, each) } else { each };
            if length != Verdict::Loads {
                verdicts.extend(one(path, length));
            }
            verdicts
        }
    }
}

/// The verdicts on something that need not be there: an obstacle in it is a reason not to send it.
fn or_nothing(path: &FieldPath, contents: Verdicts) -> Verdicts {
    let obstacle = contents.iter().find_map(|field| match &field.verdict {
        Verdict::DoesNot(obstacle) => Some(obstacle.clone()),
        _ => None,
    });
    match obstacle {
        Some(because) => one(path, Verdict::LoadsOnlyIf(Condition::Nothing { because })),
        None => contents,
    }
}

/// The verdicts on something that need not be there, for a reader that must have it.
fn and_sent(path: &FieldPath, contents: Verdicts) -> Verdicts {
    let mut verdicts = one(path, Verdict::LoadsOnlyIf(Condition::Sent));
    verdicts.extend(contents);
    verdicts
}
