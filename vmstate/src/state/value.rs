//! State as data: what a device's state struct becomes before it is encoded, and after it was decoded.

use std::fmt;

use super::bitmap::Bitmap;
use super::name::Name;

/// The value of a field.
///
/// Integers are widened: the schema knows how wide a field is. A run of bytes (`[u8; N]`, `Vec<u8>`) is
/// [`Value::Bytes`] and never an array of integers.
///
/// Two floating-point values are equal if their bits are, so that a NaN that was saved and loaded equals itself.
#[derive(Clone, Debug)]
pub enum Value {
    /// A truth value.
    Bool(bool),
    /// An unsigned integer of any width.
    Uint(u64),
    /// A signed integer of any width.
    Int(i64),
    /// A floating-point number.
    F64(f64),
    /// A run of bytes, of fixed or variable length.
    Bytes(Vec<u8>),
    /// A text.
    Str(String),
    /// Bits by number.
    Bits(Bitmap),
    /// Elements of one type, of fixed or variable number.
    Array(Vec<Value>),
    /// Values by an integer, in the order of the integers.
    Map(Vec<(MapKey, Value)>),
    /// A nested struct.
    Struct(StructValue),
    /// Something or nothing.
    Option(Option<Box<Value>>),
    /// The variant of a fieldless enum, by name.
    Enum(Name),
    /// When a timer runs out, in nanoseconds of the clock that its type names, or that it is not armed.
    Deadline(Option<u64>),
}

/// The key of a map: any integer of the types that a field can have.
pub type MapKey = i128;

impl Value {
    /// What kind of value this is, for messages.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Bool(_) => "a truth value",
            Self::Uint(_) => "an unsigned integer",
            Self::Int(_) => "a signed integer",
            Self::F64(_) => "a floating-point number",
            Self::Bytes(_) => "bytes",
            Self::Str(_) => "a text",
            Self::Bits(_) => "a bitmap",
            Self::Array(_) => "an array",
            Self::Map(_) => "a map",
            Self::Struct(_) => "a struct",
            Self::Option(_) => "an option",
            Self::Enum(_) => "a variant",
            Self::Deadline(_) => "a deadline",
        }
    }
}

impl Value {
    /// The integers that this is or is made of, as far as a range can be said of them.
    pub(super) fn integers(&self) -> Box<dyn Iterator<Item = i128> + '_> {
        match self {
            Self::Uint(value) => Box::new(std::iter::once(i128::from(*value))),
            Self::Int(value) => Box::new(std::iter::once(i128::from(*value))),
            Self::Bytes(bytes) => Box::new(bytes.iter().map(|byte| i128::from(*byte))),
            Self::Array(elements) => Box::new(elements.iter().flat_map(Self::integers)),
            Self::Option(Some(value)) => value.integers(),
            _ => Box::new(std::iter::empty()),
        }
    }

    /// How many bytes, bits, elements or entries it has, if it is a number of something.
    pub(super) fn count(&self) -> Option<u64> {
        let count = match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Str(text) => text.len(),
            Self::Array(elements) => elements.len(),
            Self::Map(entries) => entries.len(),
            Self::Bits(bits) => return Some(bits.len().into()),
            _ => return None,
        };
        u64::try_from(count).ok()
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Uint(a), Self::Uint(b)) => a == b,
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::F64(a), Self::F64(b)) => a.to_bits() == b.to_bits(),
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            (Self::Str(a), Self::Str(b)) => a == b,
            (Self::Bits(a), Self::Bits(b)) => a == b,
            (Self::Array(a), Self::Array(b)) => a == b,
            (Self::Map(a), Self::Map(b)) => a == b,
            (Self::Struct(a), Self::Struct(b)) => a == b,
            (Self::Option(a), Self::Option(b)) => a == b,
            (Self::Enum(a), Self::Enum(b)) => a == b,
            (Self::Deadline(a), Self::Deadline(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Value {}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => write!(f, "{value}"),
            Self::Uint(value) => write!(f, "{value:#x}"),
            Self::Int(value) => write!(f, "{value}"),
            Self::F64(value) => write!(f, "{value:?}"),
            Self::Bytes(bytes) => {
                f.write_str("0x")?;
                bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Self::Str(text) => write!(f, "{text:?}"),
            Self::Bits(bits) => write!(f, "{bits}"),
            Self::Array(elements) => {
                f.write_str("[")?;
                for (i, element) in elements.iter().enumerate() {
                    write!(f, "{}{element}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str("]")
            }
            Self::Map(entries) => {
                f.write_str("{")?;
                for (i, (key, value)) in entries.iter().enumerate() {
                    write!(f, "{}{key}: {value}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str("}")
            }
            Self::Struct(value) => write!(f, "{value}"),
            Self::Option(None) => f.write_str("none"),
            Self::Option(Some(value)) => write!(f, "{value}"),
            Self::Enum(variant) => write!(f, "{variant}"),
            Self::Deadline(None) => f.write_str("not armed"),
            Self::Deadline(Some(nanoseconds)) => write!(f, "at {nanoseconds} ns"),
        }
    }
}

/// Things by name, in the order of their schema.
type Named<T> = Vec<(Name, T)>;

/// The values of a struct's fields, in the order of its schema, and of those subsections that are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StructValue {
    version: u32,
    fields: Named<Value>,
    subsections: Named<StructValue>,
}

impl StructValue {
    /// A value without fields, of the given version of its description.
    #[must_use]
    pub fn new(version: u32) -> Self {
        Self {
            version,
            fields: Vec::new(),
            subsections: Vec::new(),
        }
    }

    /// The version of the description that this value was taken by. After [`adapt`](super::adapt) it still is the
    /// writer's, so that `post_load` can tell.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The value of the field of that name, if it is there.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, value)| value)
    }

    /// The value of the field of that name, to be changed.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Value> {
        self.fields.iter_mut().find(|(n, _)| n == name).map(|(_, value)| value)
    }

    /// Gives a field a value, in its old place or behind all others.
    pub fn set(&mut self, name: impl Into<Name>, value: Value) {
        let name = name.into();
        match self.get_mut(&name) {
            Some(slot) => *slot = value,
            None => self.fields.push((name, value)),
        }
    }

    /// As [`set`](Self::set), for building a value in one expression.
    #[must_use]
    pub fn with(mut self, name: impl Into<Name>, value: Value) -> Self {
        self.set(name, value);
        self
    }

    /// The fields that are there, in order.
    pub fn fields(&self) -> impl ExactSizeIterator<Item = (&Name, &Value)> {
        self.fields.iter().map(|(name, value)| (name, value))
    }

    /// The subsection of that name, if it is there.
    #[must_use]
    pub fn subsection(&self, name: &str) -> Option<&StructValue> {
        self.subsections.iter().find(|(n, _)| n == name).map(|(_, value)| value)
    }

    /// The subsection of that name, to be changed.
    pub fn subsection_mut(&mut self, name: &str) -> Option<&mut StructValue> {
        self.subsections
            .iter_mut()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value)
    }

    /// Adds a subsection or replaces it.
    pub fn set_subsection(&mut self, name: impl Into<Name>, value: StructValue) {
        let name = name.into();
        match self.subsection_mut(&name) {
            Some(slot) => *slot = value,
            None => self.subsections.push((name, value)),
        }
    }

    /// The subsections that are there, in order.
    pub fn subsections(&self) -> impl ExactSizeIterator<Item = (&Name, &StructValue)> {
        self.subsections.iter().map(|(name, value)| (name, value))
    }

    /// The fields and the subsections.
    pub(super) fn into_parts(self) -> (Named<Value>, Named<StructValue>) {
        (self.fields, self.subsections)
    }

    /// Adds a field whose name is known to be new; [`set`](Self::set) without its search.
    pub(super) fn push(&mut self, name: Name, value: Value) {
        debug_assert!(self.get(&name).is_none(), "field `{name}` twice");
        self.fields.push((name, value));
    }

    /// Adds a subsection whose name is known to be new.
    pub(super) fn push_subsection(&mut self, name: Name, value: StructValue) {
        debug_assert!(self.subsection(&name).is_none(), "subsection `{name}` twice");
        self.subsections.push((name, value));
    }
}

impl fmt::Display for StructValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        let mut separator = " ";
        for (name, value) in self.fields() {
            write!(f, "{separator}{name}: {value}")?;
            separator = ", ";
        }
        for (name, value) in self.subsections() {
            write!(f, "{separator}{name}: {value}")?;
            separator = ", ";
        }
        f.write_str(" }")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_set_again_keeps_its_place() {
        let mut value = StructValue::new(1).with("a", Value::Uint(1)).with("b", Value::Uint(2));
        value.set("a", Value::Uint(3));
        let names: Vec<_> = value.fields().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(value.get("a"), Some(&Value::Uint(3)));
    }

    #[test]
    fn a_nan_equals_itself_and_the_two_zeros_differ() {
        assert_eq!(Value::F64(f64::NAN), Value::F64(f64::NAN));
        assert_ne!(Value::F64(0.0), Value::F64(-0.0));
    }

    #[test]
    fn a_value_prints_on_one_line() {
        let mut value = StructValue::new(1)
            .with("mode", Value::Enum("edge".into()))
            .with("mac", Value::Bytes(vec![0x52, 0x54]))
            .with("timer", Value::Option(None));
        value.set_subsection("fifo", StructValue::new(1).with("level", Value::Uint(16)));
        assert_eq!(
            value.to_string(),
            "{ mode: edge, mac: 0x5254, timer: none, fifo: { level: 0x10 } }"
        );
    }
}
