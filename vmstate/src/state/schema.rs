//! Descriptions as data: what a section holds, field by field, without the Rust type that it was taken from.

use std::collections::HashSet;
use std::fmt;
use std::ops::Deref;

use super::encode::{encode_absent, encode_default};
use super::error::{Mismatch, OutOfRange};
use super::name::Name;
use super::relation::integer_bounds;
use super::schema_error::{SchemaError, SchemaFault, TypeFault};
use super::value::{StructValue, Value};
use super::wire_type::WireType;

/// What a schema says of one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldSchema {
    /// The name by which writer and reader match it.
    pub name: Name,
    /// How it is written.
    pub wire: WireType,
    /// The first version of the description that has it.
    pub since: u32,
    /// The first version that no longer has it, for a field kept to load what older versions wrote.
    pub until: Option<u32>,
    /// Whether a value may leave it out.
    pub may_be_absent: bool,
    /// What it is when the writer has no such field.
    pub default: Option<Value>,
    /// Whether it is not written when it has its default.
    pub skip_when_default: bool,
    /// The integers that it can be, or be made of, the first and the last one included: fewer than its type has.
    pub range: Option<(i128, i128)>,
    /// The field of the same struct that says how many elements this one has.
    pub length: Option<Name>,
    /// That it has to be what the machine that loads it is configured for, and what a user can do if it is not.
    pub must_equal: Option<String>,
}

impl FieldSchema {
    /// A field that every version of the description has.
    #[must_use]
    pub fn new(name: impl Into<Name>, wire: WireType) -> Self {
        Self {
            name: name.into(),
            wire,
            since: 1,
            until: None,
            may_be_absent: false,
            default: None,
            skip_when_default: false,
            range: None,
            length: None,
            must_equal: None,
        }
    }

    /// The largest default, in bytes as it is written, of a field that is left out when it has it: who reads a stream
    /// takes memory for that which has taken none of the stream.
    pub const MAX_SKIPPED: usize = 64;

    /// Refuses a value that the field's range rules out.
    pub(super) fn check_range(&self, value: &Value) -> Result<(), Mismatch> {
        let Some((least, most)) = self.range else { return Ok(()) };
        match value.integers().find(|value| !(least..=most).contains(value)) {
            None => Ok(()),
            Some(value) => Err(Box::new(OutOfRange { value, least, most }).into()),
        }
    }

    /// Refuses a number of elements that is not what another field of `of` says.
    pub(super) fn check_count(&self, value: &Value, of: &StructValue) -> Result<(), Mismatch> {
        let Some(field) = &self.length else { return Ok(()) };
        let (Some(len), Some(Value::Uint(says))) = (value.count(), of.get(field)) else {
            return Ok(());
        };
        let (says, field) = (*says, field.clone());
        if len == says {
            Ok(())
        } else {
            Err(Mismatch::Count { len, field, says })
        }
    }

    /// Whether the description has this field at that version.
    #[must_use]
    pub fn is_live_at(&self, version: u32) -> bool {
        self.since <= version && self.until.is_none_or(|until| version < until)
    }

    /// Whether a reader can do without the writer's value.
    #[must_use]
    pub fn is_dispensable(&self) -> bool {
        self.may_be_absent || self.default.is_some()
    }
}

/// What a schema says of one subsection: a part of the state that has its own description and that may be left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubsectionSchema {
    /// The name by which writer and reader match it.
    pub name: Name,
    /// Whether the writer sends it only when it is needed, and the reader does without it.
    pub optional: bool,
    /// What it holds.
    pub schema: Schema,
    /// What the reader takes an optional one for that was not sent. The writer's word for it is what two releases are held
    /// against; `None` where it comes from a Tern that did not say so yet.
    pub absent: Option<StructValue>,
}

impl SubsectionSchema {
    fn fault(&self) -> Option<SchemaFault> {
        let error = encode_absent(self).err()?;
        Some(SchemaFault::Absent(Box::new(error)))
    }
}

/// The contents of a [`Schema`], not yet checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// What is described: a type's name, such as `serial16550`.
    pub name: Name,
    /// The version that values are taken by.
    pub version: u32,
    /// The oldest version that can still be loaded.
    pub minimum_version: u32,
    /// Descriptions of higher priority are loaded first.
    pub priority: i32,
    /// The fields, in the order in which they are written.
    pub fields: Vec<FieldSchema>,
    /// The subsections, in the order in which they are written.
    pub subsections: Vec<SubsectionSchema>,
}

impl Description {
    /// The first version of a description that has no fields yet.
    #[must_use]
    pub fn new(name: impl Into<Name>) -> Self {
        Self {
            name: name.into(),
            version: 1,
            minimum_version: 1,
            priority: 0,
            fields: Vec::new(),
            subsections: Vec::new(),
        }
    }

    /// Checks the description and makes a schema of it.
    ///
    /// # Errors
    ///
    /// Whatever would make the description ambiguous or unbounded, or leave a field without a value when an old
    /// stream is loaded.
    pub fn check(self) -> Result<Schema, SchemaError> {
        match self.fault() {
            None => {
                let is_configured = self.is_configured();
                Ok(Schema(self, is_configured))
            }
            Some((field, fault)) => Err(SchemaError {
                description: self.name,
                field,
                fault,
            }),
        }
    }

    fn fault(&self) -> Option<(Option<Name>, SchemaFault)> {
        if !self.name.is_description_name() {
            return Some((None, SchemaFault::Name));
        }
        if !(1..=self.version).contains(&self.minimum_version) {
            return Some((
                None,
                SchemaFault::Versions {
                    version: self.version,
                    minimum: self.minimum_version,
                },
            ));
        }
        let mut seen = HashSet::new();
        let subsections = self.subsections.iter().map(|s| &s.name);
        for name in self.fields.iter().map(|f| &f.name).chain(subsections) {
            if !name.is_field_name() {
                return Some((Some(name.clone()), SchemaFault::Name));
            }
            if !seen.insert(name) {
                return Some((Some(name.clone()), SchemaFault::Twice));
            }
        }
        let of_field = |field: &FieldSchema| self.field_fault(field).map(|fault| (Some(field.name.clone()), fault));
        if let Some(fault) = self.fields.iter().find_map(of_field) {
            return Some(fault);
        }
        let of_subsection = |subsection: &SubsectionSchema| {
            let fault = subsection.fault()?;
            Some((Some(subsection.name.clone()), fault))
        };
        if let Some(fault) = self.subsections.iter().find_map(of_subsection) {
            return Some(fault);
        }
        (self.depth() > Schema::MAX_DEPTH).then_some((None, SchemaFault::Type(TypeFault::Depth)))
    }

    fn field_fault(&self, field: &FieldSchema) -> Option<SchemaFault> {
        let retired = field.until;
        if !(1..=self.version).contains(&field.since)
            || retired.is_some_and(|until| until <= field.since || until > self.version)
        {
            return Some(SchemaFault::Life {
                since: field.since,
                until: retired,
                version: self.version,
            });
        }
        if field.may_be_absent && field.default.is_some() {
            return Some(SchemaFault::AbsentAndDefault);
        }
        let in_every_stream = field.since <= self.minimum_version && retired.is_none();
        if !in_every_stream && !field.is_dispensable() {
            return Some(SchemaFault::NoDefault);
        }
        if let Err(fault) = field.wire.check() {
            return Some(SchemaFault::Type(fault));
        }
        // Before a default is walked along with its type, that type must be known to be shallow.
        if field.wire.depth() > Schema::MAX_DEPTH {
            return Some(SchemaFault::Type(TypeFault::Depth));
        }
        if let Some((least, most)) = field.range {
            let bounds = field.wire.integers().and_then(integer_bounds);
            let within = bounds.is_some_and(|(first, last)| first <= least && most <= last);
            if !within || least > most {
                return Some(SchemaFault::Range { least, most });
            }
        }
        if let Some(length) = field.length.as_ref().filter(|length| !self.can_count(length, field)) {
            return Some(SchemaFault::Length(length.clone()));
        }
        if let Some(Err(mismatch)) = field.default.as_ref().map(|default| field.check_range(default)) {
            return Some(SchemaFault::Default(Box::new(mismatch.into())));
        }
        match encode_default(field) {
            Err(error) => Some(SchemaFault::Default(Box::new(error))),
            Ok(Some(default)) if field.skip_when_default && default.len() <= FieldSchema::MAX_SKIPPED => None,
            Ok(_) => field.skip_when_default.then_some(SchemaFault::SkippedDefault),
        }
    }

    /// Whether the field called `length` can say how many elements `field` has.
    fn can_count(&self, length: &Name, field: &FieldSchema) -> bool {
        let is_run = matches!(field.wire, WireType::Seq { .. } | WireType::Bytes { .. });
        let counts = |count: &FieldSchema| {
            count.wire.is_integer()
                && matches!(integer_bounds(&count.wire), Some((0, _)))
                && !count.may_be_absent
                && !count.skip_when_default
                && count.since <= field.since
                && count.until.is_none()
        };
        is_run && self.fields.iter().any(|count| count.name == *length && counts(count))
    }

    fn is_configured(&self) -> bool {
        let field =
            |field: &FieldSchema| field.must_equal.is_some() || field.wire.nested().is_some_and(Schema::is_configured);
        self.fields.iter().any(field)
            || self
                .subsections
                .iter()
                .any(|subsection| subsection.schema.is_configured())
    }

    pub(super) fn depth(&self) -> usize {
        let fields = self.fields.iter().map(|field| field.wire.depth());
        let subsections = self.subsections.iter().map(|subsection| 1 + subsection.schema.depth());
        fields.chain(subsections).max().unwrap_or(0)
    }
}

/// A checked description: what a section holds and how it is written.
///
/// Its fields are read as those of [`Description`]; they cannot be changed, so whoever is given a schema relies on its
/// names being unique and legal, its versions in order, its depth bounded, its types never empty, and every field that
/// some loadable version lacks having a substitute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema(Description, IsConfigured);

/// Whether anything in a schema must equal what the machine is configured for; looked up once, because hardly any does.
type IsConfigured = bool;

impl Schema {
    /// How many levels of types may lie below a description.
    pub const MAX_DEPTH: usize = 16;
    /// How many dimensions an array may have. Each costs memory and takes nothing on the wire.
    pub const MAX_DIMENSIONS: usize = 4;
    /// How many variants an enum may have.
    pub const MAX_VARIANTS: usize = 1 << 12;

    /// Whether some field in it must equal what the machine is configured for.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        self.1
    }

    /// The field of that name, live or retired.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&FieldSchema> {
        self.fields.iter().find(|field| field.name == *name)
    }

    /// The fields that a value of this schema's version has, in the order in which they are written.
    pub fn live_fields(&self) -> impl Iterator<Item = &FieldSchema> {
        self.fields.iter().filter(|field| field.is_live_at(self.version))
    }

    /// The subsection of that name.
    #[must_use]
    pub fn subsection(&self, name: &str) -> Option<&SubsectionSchema> {
        self.subsections.iter().find(|subsection| subsection.name == *name)
    }

    /// The description, to derive another one from it.
    #[must_use]
    pub fn into_description(self) -> Description {
        self.0
    }

    fn print(&self, f: &mut fmt::Formatter<'_>, indent: usize) -> fmt::Result {
        for field in &self.fields {
            write!(f, "\n{:indent$}{}: {}", "", field.name, field.wire)?;
            if field.since > 1 {
                write!(f, ", since {}", field.since)?;
            }
            if let Some(until) = field.until {
                write!(f, ", until {until}")?;
            }
            if field.may_be_absent {
                f.write_str(", may be absent")?;
            }
            if let Some(default) = &field.default {
                write!(f, ", default {default}")?;
            }
            if field.skip_when_default {
                f.write_str(", left out when default")?;
            }
            if let Some((least, most)) = field.range {
                write!(f, ", from {least} to {most}")?;
            }
            if let Some(length) = &field.length {
                write!(f, ", as many as `{length}` says")?;
            }
            if let Some(hint) = &field.must_equal {
                write!(f, ", as configured ({hint:?})")?;
            }
            if let Some(nested) = field.wire.nested() {
                write!(f, " (version {})", nested.version)?;
                nested.print(f, indent + 2)?;
            }
        }
        for subsection in &self.subsections {
            let when = if subsection.optional { "when needed" } else { "always" };
            let (name, version) = (&subsection.name, subsection.schema.version);
            write!(f, "\n{:indent$}{name}: subsection, {when} (version {version})", "")?;
            subsection.schema.print(f, indent + 2)?;
        }
        Ok(())
    }
}

impl Deref for Schema {
    type Target = Description;

    fn deref(&self) -> &Description {
        &self.0
    }
}

/// The whole description, a field a line, nested ones indented.
impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} version {}", self.name, self.version)?;
        if self.minimum_version < self.version {
            write!(f, " (loads from version {})", self.minimum_version)?;
        }
        self.print(f, 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_field(field: FieldSchema) -> Result<Schema, SchemaError> {
        let description = Description {
            version: 3,
            minimum_version: 1,
            fields: vec![field],
            ..Description::new("uart")
        };
        description.check()
    }

    fn fault(field: FieldSchema) -> SchemaFault {
        with_field(field).expect_err("it should be refused").fault
    }

    fn nested(levels: usize) -> WireType {
        (0..levels).fold(WireType::U8, |of, _| WireType::Option(Box::new(of)))
    }

    fn array(of: WireType, len: u32) -> WireType {
        WireType::Array { of: Box::new(of), len }
    }

    #[test]
    fn a_field_that_some_version_lacks_needs_a_substitute() {
        let late = FieldSchema {
            since: 2,
            ..FieldSchema::new("a", WireType::U8)
        };
        assert_eq!(fault(late.clone()), SchemaFault::NoDefault);
        let retired = FieldSchema {
            until: Some(2),
            ..FieldSchema::new("a", WireType::U8)
        };
        assert_eq!(fault(retired), SchemaFault::NoDefault);
        let default = Some(Value::Uint(1));
        assert!(with_field(FieldSchema { default, ..late }).is_ok());
    }

    #[test]
    fn a_default_is_a_value_of_its_field() {
        let wide = FieldSchema {
            default: Some(Value::Uint(256)),
            ..FieldSchema::new("a", WireType::U8)
        };
        let error = with_field(wide).expect_err("256 is no u8");
        assert_eq!(
            error.to_string(),
            "the description `uart`, field `a`, is ill-formed: its default does not fit: field .: 256 is no u8"
        );
    }

    #[test]
    fn a_field_lives_within_the_versions() {
        for (since, until) in [(0, None), (4, None), (2, Some(2)), (1, Some(4))] {
            let field = FieldSchema {
                since,
                until,
                ..FieldSchema::new("a", WireType::U8)
            };
            let version = 3;
            assert_eq!(fault(field), SchemaFault::Life { since, until, version });
        }
    }

    #[test]
    fn names_are_legal_and_unique() {
        assert_eq!(fault(FieldSchema::new("a.b", WireType::U8)), SchemaFault::Name);
        let twice = Description {
            fields: vec![FieldSchema::new("a", WireType::U8)],
            subsections: vec![SubsectionSchema {
                name: "a".into(),
                optional: true,
                absent: None,
                schema: Description::new("sub").check().expect("legal"),
            }],
            ..Description::new("uart")
        };
        assert_eq!(twice.check().map_err(|error| error.fault), Err(SchemaFault::Twice));
        let nameless = Description::new("").check();
        assert_eq!(nameless.map_err(|error| error.fault), Err(SchemaFault::Name));
    }

    #[test]
    fn types_are_neither_empty_nor_bottomless() {
        let refused = |wire| match fault(FieldSchema::new("a", wire)) {
            SchemaFault::Type(fault) => fault,
            other => panic!("{other}"),
        };
        assert_eq!(refused(array(WireType::U8, 0)), TypeFault::EmptyArray);
        assert_eq!(
            refused(WireType::Option(Box::new(array(WireType::U8, 0)))),
            TypeFault::EmptyArray
        );
        assert_eq!(refused(WireType::Enum { variants: vec![] }), TypeFault::Variants(0));
        let twice = vec!["edge".into(), "edge".into()];
        assert_eq!(
            refused(WireType::Enum { variants: twice }),
            TypeFault::Variant("edge".into())
        );
        assert_eq!(refused(nested(Schema::MAX_DEPTH + 1)), TypeFault::Depth);
        let five = (0..5).fold(WireType::U8, |of, _| array(of, 1));
        assert_eq!(refused(five), TypeFault::Dimensions);
        assert!(with_field(FieldSchema::new("a", nested(Schema::MAX_DEPTH))).is_ok());
    }

    #[test]
    fn depth_counts_through_nested_structs() {
        let inner = with_field(FieldSchema::new("a", nested(Schema::MAX_DEPTH))).expect("as deep as possible");
        let wire = WireType::Struct(Box::new(inner));
        assert_eq!(fault(FieldSchema::new("a", wire)), SchemaFault::Type(TypeFault::Depth));
    }
}
