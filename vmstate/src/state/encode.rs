//! The walker that writes a value as its schema says.
//!
//! ```text
//! struct      = version (varint), each live field, count of subsections (varint), each subsection
//! field       = its value; one that may be absent, or is left out when it has its default, has a byte before it:
//!               0 not there, 1 there
//! subsection  = name (length, bytes), length of the payload (varint), payload (a struct)
//! array       = the elements; of bytes, the bytes
//! seq, bytes, text = length (varint), then the elements or bytes
//! bitmap      = how many bits (varint), then eight of them a byte, the lowest first
//! map         = how many values (varint), then key and value of each, the keys ascending
//! option      = 0, or 1 and the value
//! deadline    = 0, or 1 and the nanoseconds
//! enum        = the variant's index in the schema (varint)
//! other leaf  = as postcard writes it
//! ```
//!
//! Only leaves are given to postcard: it writes no names, so of a whole struct it could not tell a reordered field from
//! the right one.

use serde::Serialize;

use super::error::{Mismatch, StateError};
use super::fields::{check_len, widened, wrong_kind};
use super::name::Name;
use super::path::Step;
use super::relation::integer_bounds;
use super::schema::{FieldSchema, Schema, SubsectionSchema};
use super::value::{MapKey, StructValue, Value};
use super::wire_type::WireType;

/// A value that its schema cannot write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the state of `{description}` cannot be saved: {error}")]
pub struct EncodeError {
    /// The description of the section.
    pub description: Name,
    /// What does not fit, and where.
    pub error: StateError,
}

/// Writes a value as its schema says.
///
/// # Errors
///
/// If the value is not one of the schema's current version: a live field or a subsection that is always sent is
/// missing, there is one that the schema does not know, or something is of another type, too large or too long.
pub fn encode(schema: &Schema, value: &StructValue) -> Result<Vec<u8>, EncodeError> {
    let mut out = Vec::new();
    match put_struct(&mut out, schema, value) {
        Ok(()) => Ok(out),
        Err(error) => Err(EncodeError {
            description: schema.name.clone(),
            error,
        }),
    }
}

/// Writes a field's default, as the schema's own record carries it.
pub(super) fn encode_default(field: &FieldSchema) -> Result<Option<Vec<u8>>, StateError> {
    let encoded = field.default.as_ref().map(|default| encode_value(&field.wire, default));
    encoded.transpose()
}

/// Writes what stands for a subsection that was not sent, as the schema's own record carries it.
pub(super) fn encode_absent(subsection: &SubsectionSchema) -> Result<Option<Vec<u8>>, StateError> {
    let encode = |absent| {
        let mut out = Vec::new();
        put_struct(&mut out, &subsection.schema, absent).map(|()| out)
    };
    subsection.absent.as_ref().map(encode).transpose()
}

/// Writes a value of some type by itself.
pub(super) fn encode_value(wire: &WireType, value: &Value) -> Result<Vec<u8>, StateError> {
    let mut out = Vec::new();
    put(&mut out, wire, value).map(|()| out)
}

fn put_struct(out: &mut Vec<u8>, schema: &Schema, value: &StructValue) -> Result<(), StateError> {
    if value.version() != schema.version {
        let (found, newest) = (value.version(), schema.version);
        return Err(Mismatch::Version {
            found,
            oldest: newest,
            newest,
        }
        .into());
    }
    leaf(out, &value.version());

    let mut written = 0;
    for field in schema.live_fields() {
        let inside = |error: StateError| error.within(Step::Field(field.name.clone()));
        let has_flag = field.may_be_absent || field.skip_when_default;
        match value.get(&field.name) {
            Some(value) if field.skip_when_default && field.default.as_ref() == Some(value) => {
                leaf(out, &false);
                written += 1;
            }
            Some(given) => {
                if has_flag {
                    leaf(out, &true);
                }
                let ruled = field.check_range(given).and_then(|()| field.check_count(given, value));
                ruled.map_err(|ruled| inside(ruled.into()))?;
                put(out, &field.wire, given).map_err(inside)?;
                written += 1;
            }
            None if has_flag => leaf(out, &false),
            None => return Err(inside(Mismatch::Missing.into())),
        }
    }
    if written < value.fields().len() {
        let is_live = |name: &str| schema.live_fields().any(|field| field.name == *name);
        let unknown = value.fields().map(|(name, _)| name).find(|name| !is_live(name));
        return Err(unknown_field(unknown));
    }
    put_subsections(out, schema, value)
}

fn put_subsections(out: &mut Vec<u8>, schema: &Schema, value: &StructValue) -> Result<(), StateError> {
    put_len(out, value.subsections().len(), u32::MAX)?;
    let mut written = 0;
    for subsection in &schema.subsections {
        let inside = |error: StateError| error.within(Step::Field(subsection.name.clone()));
        match value.subsection(&subsection.name) {
            Some(value) => {
                let mut payload = Vec::new();
                put_struct(&mut payload, &subsection.schema, value).map_err(inside)?;
                put_bytes(out, subsection.name.as_bytes(), u32::MAX)?;
                put_bytes(out, &payload, u32::MAX).map_err(inside)?;
                written += 1;
            }
            None if subsection.optional => {}
            None => return Err(inside(Mismatch::Missing.into())),
        }
    }
    if written < value.subsections().len() {
        let unknown = value
            .subsections()
            .map(|(name, _)| name)
            .find(|name| schema.subsection(name).is_none());
        return Err(unknown_field(unknown));
    }
    Ok(())
}

fn unknown_field(name: Option<&Name>) -> StateError {
    let error = StateError::from(Mismatch::Unknown);
    match name {
        Some(name) => error.within(Step::Field(name.clone())),
        None => error,
    }
}

fn put(out: &mut Vec<u8>, wire: &WireType, value: &Value) -> Result<(), StateError> {
    match (wire, value) {
        (WireType::Bool, Value::Bool(value)) => leaf(out, value),
        (WireType::U8, Value::Uint(value)) => leaf(out, &narrow::<u8, _>(wire, *value)?),
        (WireType::U16, Value::Uint(value)) => leaf(out, &narrow::<u16, _>(wire, *value)?),
        (WireType::U32, Value::Uint(value)) => leaf(out, &narrow::<u32, _>(wire, *value)?),
        (WireType::U64, Value::Uint(value)) => leaf(out, value),
        (WireType::I8, Value::Int(value)) => leaf(out, &narrow::<i8, _>(wire, *value)?),
        (WireType::I16, Value::Int(value)) => leaf(out, &narrow::<i16, _>(wire, *value)?),
        (WireType::I32, Value::Int(value)) => leaf(out, &narrow::<i32, _>(wire, *value)?),
        (WireType::I64, Value::Int(value)) => leaf(out, value),
        (WireType::F64, Value::F64(value)) => leaf(out, value),
        (WireType::Bytes { max }, Value::Bytes(bytes)) => put_bytes(out, bytes, *max)?,
        (WireType::Str { max }, Value::Str(text)) => put_bytes(out, text.as_bytes(), *max)?,
        (WireType::Array { of, len }, Value::Bytes(bytes)) if of.is_byte() => {
            check_exact(bytes.len(), *len)?;
            out.extend_from_slice(bytes);
        }
        (WireType::Seq { of, max }, Value::Bytes(bytes)) if of.is_byte() => put_bytes(out, bytes, *max)?,
        (WireType::Array { of, len }, Value::Array(elements)) if !of.is_byte() => {
            check_exact(elements.len(), *len)?;
            put_elements(out, of, elements)?;
        }
        (WireType::Seq { of, max }, Value::Array(elements)) if !of.is_byte() => {
            put_len(out, elements.len(), *max)?;
            put_elements(out, of, elements)?;
        }
        (WireType::Bitmap { max }, Value::Bits(bits)) => {
            put_len(out, widened(bits.len()), *max)?;
            out.extend_from_slice(bits.as_bytes());
        }
        (WireType::Map { key, of, max }, Value::Map(entries)) => {
            put_len(out, entries.len(), *max)?;
            put_entries(out, key, of, entries)?;
        }
        (WireType::Deadline { .. }, Value::Deadline(nanoseconds)) => leaf(out, nanoseconds),
        (WireType::Fd, _) => return Err(Mismatch::Fd.into()),
        (WireType::Struct(schema), Value::Struct(value)) => put_struct(out, schema, value)?,
        (WireType::Option(of), Value::Option(value)) => {
            leaf(out, &value.is_some());
            if let Some(value) = value {
                put(out, of, value)?;
            }
        }
        (WireType::Enum { variants }, Value::Enum(name)) => {
            let index = variants.iter().position(|variant| variant == name);
            let index = index.ok_or_else(|| Mismatch::Variant(name.clone()))?;
            put_len(out, index, u32::MAX)?;
        }
        (_, other) => return Err(wrong_kind(wire.to_string(), other)),
    }
    Ok(())
}

fn put_elements(out: &mut Vec<u8>, of: &WireType, elements: &[Value]) -> Result<(), StateError> {
    let mut numbered = elements.iter().enumerate();
    numbered.try_for_each(|(i, element)| put(out, of, element).map_err(|error| error.within(Step::Index(i))))
}

fn put_entries(
    out: &mut Vec<u8>,
    of_key: &WireType,
    of: &WireType,
    entries: &[(MapKey, Value)],
) -> Result<(), StateError> {
    let mut last = None;
    for (key, value) in entries {
        if last.replace(*key).is_some_and(|last| last >= *key) {
            return Err(Mismatch::KeyOrder(*key).into());
        }
        let inside = |error: StateError| error.within(Step::Key(*key));
        put(out, of_key, &key_value(of_key, *key).map_err(inside)?).map_err(inside)?;
        put(out, of, value).map_err(inside)?;
    }
    Ok(())
}

/// A key as a value of its type.
fn key_value(wire: &WireType, key: MapKey) -> Result<Value, StateError> {
    let is_signed = matches!(integer_bounds(wire), Some((least, _)) if least < 0);
    Ok(if is_signed {
        Value::Int(narrow(wire, key)?)
    } else {
        Value::Uint(narrow(wire, key)?)
    })
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8], max: u32) -> Result<(), StateError> {
    put_len(out, bytes.len(), max)?;
    out.extend_from_slice(bytes);
    Ok(())
}

/// Writes a length or an index.
fn put_len(out: &mut Vec<u8>, len: usize, max: u32) -> Result<(), StateError> {
    check_len(len, max)?;
    let len = u32::try_from(len).map_err(|_| Mismatch::TooLong { len, max })?;
    leaf(out, &len);
    Ok(())
}

fn check_exact(len: usize, expected: u32) -> Result<(), StateError> {
    if u32::try_from(len) == Ok(expected) {
        Ok(())
    } else {
        Err(Mismatch::Length { len, expected }.into())
    }
}

fn narrow<T, V>(wire: &WireType, value: V) -> Result<T, StateError>
where
    V: Copy + TryInto<T> + Into<i128>,
{
    value.try_into().map_err(|_| {
        Mismatch::Range {
            expected: wire.to_string(),
            value: value.into(),
        }
        .into()
    })
}

fn leaf<T: Serialize>(out: &mut Vec<u8>, value: &T) {
    let mut longest = [0; 11];
    let written = postcard::to_slice(value, &mut longest)
        .expect("a leaf takes at most the ten bytes of a varint u64 and one that says whether it is there");
    out.extend_from_slice(written);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Description, SubsectionSchema};

    fn uart() -> Schema {
        let fields = vec![
            FieldSchema::new("divisor", WireType::U16),
            FieldSchema {
                may_be_absent: true,
                ..FieldSchema::new("fifo", WireType::Bytes { max: 2 })
            },
        ];
        let timer = Description::new("timer").check().expect("legal");
        let subsections = vec![SubsectionSchema {
            name: "timer".into(),
            optional: false,
            absent: None,
            schema: timer,
        }];
        let description = Description {
            fields,
            subsections,
            ..Description::new("uart")
        };
        description.check().expect("legal")
    }

    fn value() -> StructValue {
        let mut value = StructValue::new(1).with("divisor", Value::Uint(12));
        value.set_subsection("timer", StructValue::new(1));
        value
    }

    fn refusal(value: &StructValue) -> String {
        encode(&uart(), value).expect_err("it should be refused").to_string()
    }

    #[test]
    fn a_field_that_may_be_absent_costs_a_byte_either_way() {
        let timer = [1, 5, b't', b'i', b'm', b'e', b'r', 2, 1, 0];
        assert_eq!(encode(&uart(), &value()), Ok([&[1, 12, 0][..], &timer].concat()));
        let full = value().with("fifo", Value::Bytes(vec![7, 8]));
        assert_eq!(encode(&uart(), &full), Ok([&[1, 12, 1, 2, 7, 8][..], &timer].concat()));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let wide = value().with("divisor", Value::Uint(0x1_0000));
        assert_eq!(
            refusal(&wide),
            "the state of `uart` cannot be saved: field divisor: 65536 is no u16"
        );
        let long = value().with("fifo", Value::Bytes(vec![0; 3]));
        assert!(refusal(&long).contains("field fifo: its length is 3, and at most 2 is possible"));
        let other = value().with("divisor", Value::Bool(true));
        assert!(refusal(&other).contains("field divisor: a truth value where u16 belongs"));
    }

    #[test]
    fn what_is_missing_or_unknown_is_named() {
        assert!(refusal(&value().with("dlab", Value::Bool(true))).contains("field dlab: the description has no such"));
        let mut value = StructValue::new(1).with("divisor", Value::Uint(12));
        assert!(refusal(&value).contains("field timer: it is missing"));
        value.set_subsection("timer", StructValue::new(1));
        value.set_subsection("modem", StructValue::new(1));
        assert!(refusal(&value).contains("field modem: the description has no such"));
        assert!(refusal(&StructValue::new(1)).contains("field divisor: it is missing"));
    }

    #[test]
    fn a_value_of_another_version_is_refused() {
        assert!(refusal(&StructValue::new(2)).contains("it is of version 2; possible here are 1 to 1"));
    }
}
