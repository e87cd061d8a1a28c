//! Values as JSON: for people, for the monitor, and for the files in which schemas are kept.
//!
//! ```text
//! bool            true, false
//! integer         a number
//! f64             a text, as Rust writes it, so that nothing is rounded; of what is no number, its bits: "bits:7ff8..."
//! bytes           a text of hexadecimal digits
//! text, variant   a text
//! array           a list
//! struct          an object: its fields, and beside them its subsections
//! bitmap          {"bits": how many there are, "set": [the numbers of those that are set]}
//! map             a list of {"key": ..., "value": ...}
//! deadline        null, or a number of nanoseconds
//! option          null, or what it holds; an option or a deadline in an option is {"some": ...}
//! ```
//!
//! The writing needs no schema. The reading does, and takes back exactly what was written.

use serde_json::{Map, Value as Json, json};

use super::bitmap::Bitmap;
use super::encode::{encode, encode_value};
use super::name::Name;
use super::schema::Schema;
use super::value::{MapKey, StructValue, Value};
use super::wire_type::WireType;

const BITS: &str = "bits:";
const SOME: &str = "some";
/// How many more bits than are set a bitmap may have in JSON.
const MAX_CLEAR_BITS: u64 = 1 << 20;

impl Value {
    /// The value as JSON.
    #[must_use]
    pub fn to_json(&self) -> Json {
        match self {
            Self::Bool(value) => json!(value),
            Self::Uint(value) => json!(value),
            Self::Int(value) => json!(value),
            Self::F64(value) if value.is_finite() => json!(format!("{value:?}")),
            Self::F64(value) => json!(format!("{BITS}{:016x}", value.to_bits())),
            Self::Bytes(bytes) => json!(hex(bytes)),
            Self::Str(text) => json!(text),
            Self::Bits(bits) => json!({ "bits": bits.len(), "set": bits.ones().collect::<Vec<_>>() }),
            Self::Array(elements) => elements.iter().map(Self::to_json).collect(),
            Self::Map(entries) => entries
                .iter()
                .map(|(key, value)| json!({ "key": integer_to_json(*key), "value": value.to_json() }))
                .collect(),
            Self::Struct(value) => value.to_json(),
            Self::Option(None) => Json::Null,
            Self::Option(Some(value)) if matches!(**value, Self::Option(_) | Self::Deadline(_)) => {
                json!({ SOME: value.to_json() })
            }
            Self::Option(Some(value)) => value.to_json(),
            Self::Enum(variant) => json!(variant.as_str()),
            Self::Deadline(nanoseconds) => json!(nanoseconds),
        }
    }

    /// Reads what [`Self::to_json`] wrote of a value of this type; `None` if it is no such value.
    pub(super) fn from_json(wire: &WireType, json: &Json) -> Option<Self> {
        let value = read(wire, json)?;
        encode_value(wire, &value).ok().map(|_| value)
    }
}

impl StructValue {
    /// The fields and subsections that are there, by name, as one JSON object.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let fields = self.fields().map(|(name, value)| (name.to_string(), value.to_json()));
        let subsections = self
            .subsections()
            .map(|(name, value)| (name.to_string(), value.to_json()));
        Json::Object(fields.chain(subsections).collect::<Map<_, _>>())
    }

    /// Reads what [`Self::to_json`] wrote of a value of this schema; `None` if it is no such value.
    #[must_use]
    pub fn from_json(schema: &Schema, json: &Json) -> Option<Self> {
        let value = read_struct(schema, json)?;
        encode(schema, &value).ok().map(|_| value)
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a text takes everything");
    }
    text
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks_exact(2).map(byte).collect()
}

/// The value, in the form that belongs to the type; whether it fits the type is for the encoder to say.
fn read(wire: &WireType, json: &Json) -> Option<Value> {
    Some(match wire {
        WireType::Bool => Value::Bool(json.as_bool()?),
        WireType::U8 | WireType::U16 | WireType::U32 | WireType::U64 => Value::Uint(json.as_u64()?),
        WireType::I8 | WireType::I16 | WireType::I32 | WireType::I64 => Value::Int(json.as_i64()?),
        WireType::F64 => {
            let text = json.as_str()?;
            Value::F64(match text.strip_prefix(BITS) {
                Some(bits) => f64::from_bits(u64::from_str_radix(bits, 16).ok()?),
                None => text.parse().ok()?,
            })
        }
        WireType::Bytes { .. } => Value::Bytes(from_hex(json.as_str()?)?),
        WireType::Array { of, .. } | WireType::Seq { of, .. } if of.is_byte() => {
            Value::Bytes(from_hex(json.as_str()?)?)
        }
        WireType::Str { .. } => Value::Str(json.as_str()?.to_owned()),
        WireType::Array { of, .. } | WireType::Seq { of, .. } => {
            let elements = json.as_array()?.iter().map(|element| read(of, element));
            Value::Array(elements.collect::<Option<_>>()?)
        }
        WireType::Bitmap { .. } => Value::Bits(read_bits(json)?),
        WireType::Map { of, .. } => {
            let entry = |entry: &Json| Some((integer_from_json(entry.get("key")?)?, read(of, entry.get("value")?)?));
            Value::Map(json.as_array()?.iter().map(entry).collect::<Option<_>>()?)
        }
        WireType::Deadline { .. } if json.is_null() => Value::Deadline(None),
        WireType::Deadline { .. } => Value::Deadline(Some(json.as_u64()?)),
        WireType::Fd => return None,
        WireType::Struct(schema) => Value::Struct(read_struct(schema, json)?),
        WireType::Option(_) if json.is_null() => Value::Option(None),
        WireType::Option(of) => {
            let contents = match **of {
                WireType::Option(_) | WireType::Deadline { .. } => json.get(SOME)?,
                _ => json,
            };
            Value::Option(Some(Box::new(read(of, contents)?)))
        }
        WireType::Enum { .. } => Value::Enum(Name::from(json.as_str()?.to_owned())),
    })
}

fn read_bits(json: &Json) -> Option<Bitmap> {
    let len = u32::try_from(json.get("bits")?.as_u64()?).ok()?;
    let set = json.get("set")?.as_array()?;
    // As many bits as a text can claim would take more memory than the text.
    let longest = u64::try_from(set.len()).ok()?.saturating_add(MAX_CLEAR_BITS);
    let mut bits = Bitmap::new(Some(len).filter(|len| u64::from(*len) <= longest)?);
    let mut numbers = set.iter().map(|bit| u32::try_from(bit.as_u64()?).ok());
    numbers.try_for_each(|bit| bits.set(bit?, true).then_some(()))?;
    Some(bits)
}

/// An integer of at most 64 bits, signed or not.
pub(super) fn integer_to_json(value: MapKey) -> Json {
    u64::try_from(value).map_or_else(|_| i64::try_from(value).unwrap_or(i64::MIN).into(), Json::from)
}

pub(super) fn integer_from_json(json: &Json) -> Option<MapKey> {
    let unsigned = json.as_u64().map(MapKey::from);
    unsigned.or_else(|| json.as_i64().map(MapKey::from))
}

/// A struct's value is always one of its schema's own version.
fn read_struct(schema: &Schema, json: &Json) -> Option<StructValue> {
    let members = json.as_object()?;
    let mut value = StructValue::new(schema.version);
    for field in schema.live_fields() {
        match members.get(field.name.as_str()) {
            Some(member) => value.push(field.name.clone(), read(&field.wire, member)?),
            None if field.may_be_absent || field.skip_when_default => {}
            None => return None,
        }
    }
    for subsection in &schema.subsections {
        match members.get(subsection.name.as_str()) {
            Some(member) => value.push_subsection(subsection.name.clone(), read_struct(&subsection.schema, member)?),
            None if subsection.optional => {}
            None => return None,
        }
    }
    let taken = value.fields().len() + value.subsections().len();
    (members.len() == taken).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::super::testing::schema_and_value;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_value_reads_back_from_its_json((schema, value) in schema_and_value()) {
            let back = StructValue::from_json(&schema, &value.to_json());
            prop_assert_eq!(back.as_ref(), Some(&value));
            let wire = WireType::Struct(Box::new(schema));
            let value = Value::Struct(value);
            let text = value.to_json().to_string();
            let json: Json = serde_json::from_str(&text).expect("it is JSON");
            prop_assert_eq!(Value::from_json(&wire, &json), Some(value));
        }
    }

    #[test]
    fn what_is_no_value_of_the_type_is_none() {
        for (wire, json) in [
            (WireType::U8, json!(256)),
            (WireType::I8, json!(-129)),
            (WireType::Bytes { max: 2 }, json!("0")),
            (WireType::Bytes { max: 2 }, json!("+1")),
            (WireType::Bytes { max: 2 }, json!("000000")),
            (WireType::F64, json!("half")),
            (
                WireType::Enum {
                    variants: vec!["edge".into()],
                },
                json!("level"),
            ),
        ] {
            assert_eq!(Value::from_json(&wire, &json), None, "{wire}: {json}");
        }
    }
}
