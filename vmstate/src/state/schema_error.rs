//! What makes a description ill-formed.

use super::error::StateError;
use super::name::Name;
use super::schema::{FieldSchema, Schema};

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
    /// What stands for a subsection that was not sent is no value of it.
    #[error("what stands for it where it is not sent does not fit: {0}")]
    Absent(Box<StateError>),
    /// Left out when it has its default, and without a default of a few bytes.
    #[error(
        "it is left out when it has its default; that takes a default of at most {} bytes, and no `may_be_absent`",
        FieldSchema::MAX_SKIPPED
    )]
    SkippedDefault,
    /// A range that does not lie within the type, or is no range.
    #[error("its range {least} to {most} is none of integers of its type")]
    Range {
        /// Its least value.
        least: i128,
        /// Its greatest value.
        most: i128,
    },
    /// The field that says how many elements there are cannot.
    #[error(
        "how many elements it has cannot be the value of `{0}`: that is an unsigned integer that is always there, and this a sequence"
    )]
    Length(Name),
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
    /// A map whose keys are no integers.
    #[error("its map has keys of type {0}, and only integers can be keys")]
    Key(String),
    /// A clock with an illegal name.
    #[error("its clock `{0}` has an illegal name")]
    Clock(Name),
}
