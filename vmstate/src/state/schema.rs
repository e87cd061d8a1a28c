//! Descriptions as data: what a section holds, field by field, without the Rust type that it was taken from.

use std::collections::HashSet;
use std::fmt;
use std::ops::Deref;

use super::encode::encode_default;
use super::error::StateError;
use super::name::Name;
use super::value::Value;

/// How a field is written.
///
/// Every type takes at least one byte on the wire, so a count that a stream claims is bounded by the bytes that follow
/// it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WireType {
    /// A truth value, one byte.
    Bool,
    /// An unsigned integer of 8 bits.
    U8,
    /// An unsigned integer of 16 bits.
    U16,
    /// An unsigned integer of 32 bits.
    U32,
    /// An unsigned integer of 64 bits.
    U64,
    /// A signed integer of 8 bits.
    I8,
    /// A signed integer of 16 bits.
    I16,
    /// A signed integer of 32 bits.
    I32,
    /// A signed integer of 64 bits.
    I64,
    /// A floating-point number of 64 bits.
    F64,
    /// A run of bytes of variable length.
    Bytes {
        /// The most bytes there can be.
        max: u32,
    },
    /// A text in UTF-8.
    Str {
        /// The most bytes (not characters) there can be.
        max: u32,
    },
    /// A fixed number of elements. One of [`WireType::U8`] is a run of bytes.
    Array {
        /// The type of each element.
        of: Box<WireType>,
        /// How many there are; at least one.
        len: u32,
    },
    /// A variable number of elements.
    Seq {
        /// The type of each element.
        of: Box<WireType>,
        /// The most elements there can be.
        max: u32,
    },
    /// A nested struct, which carries its own version.
    Struct(Box<Schema>),
    /// Something or nothing.
    Option(Box<WireType>),
    /// The variant of a fieldless enum: an index into this schema's variants on the wire, a name everywhere else.
    Enum {
        /// The variants, in the order of their indices; the first is the one that stands for zero.
        variants: Vec<Name>,
    },
}

impl WireType {
    /// How many levels of types lie below this one.
    fn depth(&self) -> usize {
        match self {
            Self::Array { of, .. } | Self::Seq { of, .. } | Self::Option(of) => 1 + of.depth(),
            Self::Struct(schema) => 1 + schema.depth(),
            _ => 0,
        }
    }

    /// In how many dimensions this is an array of fixed size.
    fn dimensions(&self) -> usize {
        match self {
            Self::Array { of, .. } => 1 + of.dimensions(),
            _ => 0,
        }
    }

    fn check(&self) -> Result<(), TypeFault> {
        if self.dimensions() > Schema::MAX_DIMENSIONS {
            return Err(TypeFault::Dimensions);
        }
        match self {
            Self::Array { len: 0, .. } => Err(TypeFault::EmptyArray),
            Self::Array { of, .. } | Self::Seq { of, .. } | Self::Option(of) => of.check(),
            Self::Enum { variants } => {
                let mut seen = HashSet::new();
                if variants.is_empty() || variants.len() > Schema::MAX_VARIANTS {
                    return Err(TypeFault::Variants(variants.len()));
                }
                match variants.iter().find(|v| !v.is_field_name() || !seen.insert(v.as_str())) {
                    Some(bad) => Err(TypeFault::Variant(bad.clone())),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// Whether a value of this type is a run of bytes.
    pub(super) fn is_byte(&self) -> bool {
        matches!(self, Self::U8)
    }
}

impl fmt::Display for WireType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool => f.write_str("bool"),
            Self::U8 => f.write_str("u8"),
            Self::U16 => f.write_str("u16"),
            Self::U32 => f.write_str("u32"),
            Self::U64 => f.write_str("u64"),
            Self::I8 => f.write_str("i8"),
            Self::I16 => f.write_str("i16"),
            Self::I32 => f.write_str("i32"),
            Self::I64 => f.write_str("i64"),
            Self::F64 => f.write_str("f64"),
            Self::Bytes { max } => write!(f, "bytes up to {max}"),
            Self::Str { max } => write!(f, "text up to {max}"),
            Self::Array { of, len } => write!(f, "[{of}; {len}]"),
            Self::Seq { of, max } => write!(f, "up to {max} of {of}"),
            Self::Struct(schema) => write!(f, "{}", schema.name),
            Self::Option(of) => write!(f, "optional {of}"),
            Self::Enum { variants } => {
                for (i, variant) in variants.iter().enumerate() {
                    write!(f, "{}{variant}", if i == 0 { "" } else { "|" })?;
                }
                Ok(())
            }
        }
    }
}

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
            None => Ok(Schema(self)),
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
        let misfit = encode_default(field).err();
        misfit.map(|error| SchemaFault::Default(Box::new(error)))
    }

    fn depth(&self) -> usize {
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
pub struct Schema(Description);

impl Schema {
    /// How many levels of types may lie below a description.
    pub const MAX_DEPTH: usize = 16;
    /// How many dimensions an array may have. Each costs memory and takes nothing on the wire.
    pub const MAX_DIMENSIONS: usize = 4;
    /// How many variants an enum may have.
    pub const MAX_VARIANTS: usize = 1 << 12;

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

impl WireType {
    /// The schema of the struct that this is, or is made of.
    fn nested(&self) -> Option<&Schema> {
        match self {
            Self::Array { of, .. } | Self::Seq { of, .. } | Self::Option(of) => of.nested(),
            Self::Struct(schema) => Some(schema),
            _ => None,
        }
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

/// A description that cannot be a schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the description `{description}`{} is ill-formed: {fault}", .field.as_ref().map(|field| format!(", field `{field}`,")).unwrap_or_default())]
pub struct SchemaError {
    /// The description.
    pub description: Name,
    /// The field that is at fault, if it is one.
    pub field: Option<Name>,
    /// What is wrong.
    pub fault: SchemaFault,
}

/// What is wrong with a description.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaFault {
    /// A name that is empty, too long, or has characters that a path gives a meaning.
    #[error("its name is empty, longer than {} bytes, or has illegal characters", Name::MAX_LEN)]
    Name,
    /// Two fields or subsections of one name.
    #[error("its name is used twice")]
    Twice,
    /// The minimum version is no version, or above the current one.
    #[error("it loads from version {minimum} on, and its version is {version}")]
    Versions {
        /// The current version.
        version: u32,
        /// The oldest that it claims to load.
        minimum: u32,
    },
    /// A field that lives at no version.
    #[error("it is there from version {since} {}, in a description of version {version}", .until.map_or_else(|| "on".to_owned(), |until| format!("until {until}")))]
    Life {
        /// The first version with the field.
        since: u32,
        /// The first version without it.
        until: Option<u32>,
        /// The description's version.
        version: u32,
    },
    /// A field that may be absent needs no default, and could not tell the two apart.
    #[error("it may be absent and has a default; only one of the two is possible")]
    AbsentAndDefault,
    /// A field that some loadable version lacks has no default.
    #[error("some version that can be loaded lacks it, and it has no default")]
    NoDefault,
    /// The default is no value of the field's type.
    #[error("its default does not fit: {0}")]
    Default(Box<StateError>),
    /// The type is empty, unbounded or ambiguous.
    #[error("{0}")]
    Type(TypeFault),
}

/// What is wrong with a type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TypeFault {
    /// Types nested too deep.
    #[error("its types are nested deeper than {} levels", Schema::MAX_DEPTH)]
    Depth,
    /// An array of too many dimensions.
    #[error("its array has more than {} dimensions", Schema::MAX_DIMENSIONS)]
    Dimensions,
    /// An array without elements.
    #[error("its array has no elements, and would take no bytes")]
    EmptyArray,
    /// An enum with no or too many variants.
    #[error("its enum has {0} variants; there must be 1 to {max}", max = Schema::MAX_VARIANTS)]
    Variants(usize),
    /// A variant whose name is illegal or used twice.
    #[error("its variant `{0}` is there twice, or its name has illegal characters")]
    Variant(Name),
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
