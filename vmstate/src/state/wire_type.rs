//! The types that a field can have on the wire.

use std::collections::HashSet;
use std::fmt;

use super::name::Name;
use super::schema::Schema;
use super::schema_error::TypeFault;

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
    /// Bits by number.
    Bitmap {
        /// The most bits there can be.
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
    /// A variable number of values, each with an integer by which it is found.
    Map {
        /// The type of the integers.
        key: Box<WireType>,
        /// The type of the values.
        of: Box<WireType>,
        /// The most values there can be.
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
    /// When a timer runs out.
    Deadline {
        /// The clock by which it does.
        clock: Name,
    },
    /// An open file. No channel passes one yet, so that neither a value can be written nor one be read; the kind has a
    /// number, so that a stream of a later Tern that has one is refused by the name of the field.
    Fd,
}

impl WireType {
    /// How many levels of types lie below this one.
    pub(super) fn depth(&self) -> usize {
        match self {
            Self::Array { of, .. } | Self::Seq { of, .. } | Self::Map { of, .. } | Self::Option(of) => 1 + of.depth(),
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

    pub(super) fn check(&self) -> Result<(), TypeFault> {
        if self.dimensions() > Schema::MAX_DIMENSIONS {
            return Err(TypeFault::Dimensions);
        }
        match self {
            Self::Array { len: 0, .. } => Err(TypeFault::EmptyArray),
            Self::Map { key, .. } if !key.is_integer() => Err(TypeFault::Key(key.to_string())),
            Self::Array { of, .. } | Self::Seq { of, .. } | Self::Map { of, .. } | Self::Option(of) => of.check(),
            Self::Deadline { clock } if !clock.is_field_name() => Err(TypeFault::Clock(clock.clone())),
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

    /// The schema of the struct that this is, or is made of.
    pub(super) fn nested(&self) -> Option<&Schema> {
        match self {
            Self::Array { of, .. } | Self::Seq { of, .. } | Self::Map { of, .. } | Self::Option(of) => of.nested(),
            Self::Struct(schema) => Some(schema),
            _ => None,
        }
    }

    pub(super) fn nested_mut(&mut self) -> Option<&mut Schema> {
        match self {
            Self::Array { of, .. } | Self::Seq { of, .. } | Self::Map { of, .. } | Self::Option(of) => of.nested_mut(),
            Self::Struct(schema) => Some(schema),
            _ => None,
        }
    }

    /// Whether a value of this type is an integer.
    pub(super) fn is_integer(&self) -> bool {
        matches!(
            self,
            Self::U8 | Self::U16 | Self::U32 | Self::U64 | Self::I8 | Self::I16 | Self::I32 | Self::I64
        )
    }

    /// The type of the integers that this is made of, if it is made of nothing else.
    pub(super) fn integers(&self) -> Option<&Self> {
        match self {
            Self::Array { of, .. } | Self::Seq { of, .. } | Self::Option(of) => of.integers(),
            Self::Bytes { .. } => Some(&Self::U8),
            integer => integer.is_integer().then_some(integer),
        }
    }

    /// Whether a run of this type is a run of bytes.
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
            Self::Bitmap { max } => write!(f, "up to {max} bits"),
            Self::Seq { of, max } => write!(f, "up to {max} of {of}"),
            Self::Map { key, of, max } => write!(f, "up to {max} of {of} by {key}"),
            Self::Struct(schema) => write!(f, "{}", schema.name),
            Self::Option(of) => write!(f, "optional {of}"),
            Self::Enum { variants } => {
                for (i, variant) in variants.iter().enumerate() {
                    write!(f, "{}{variant}", if i == 0 { "" } else { "|" })?;
                }
                Ok(())
            }
            Self::Deadline { clock } => write!(f, "deadline on the {clock} clock"),
            Self::Fd => f.write_str("file descriptor"),
        }
    }
}
