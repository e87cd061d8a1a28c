//! The walker that reads what [`encode`](super::encode()) wrote.
//!
//! It is total: any bytes whatever give a value of the schema or an error. Whatever takes memory has taken at least one
//! byte of the input, with the depth bounded by the schema's own check, and room is made for elements that are there
//! and not for those that a count claims.

use serde::de::DeserializeOwned;

use super::bitmap::Bitmap;
use super::decode_error::{DecodeError, DecodeFault};
use super::error::Mismatch;
use super::name::Name;
use super::path::{FieldPath, Step};
use super::schema::{FieldSchema, Schema, SubsectionSchema};
use super::value::{MapKey, StructValue, Value};
use super::wire_type::WireType;

/// Reads a value as its schema (the writer's) says.
///
/// # Errors
///
/// If the bytes are not exactly one value of that schema.
pub fn decode(schema: &Schema, bytes: &[u8]) -> Result<StructValue, DecodeError> {
    let mut reader = Reader { bytes, offset: 0 };
    let whole = reader.take_struct(schema).and_then(|value| reader.finish(value));
    whole.map_err(|Fault { path, offset, fault }| DecodeError {
        description: schema.name.clone(),
        path,
        offset,
        fault,
    })
}

/// Reads a field's default, as the schema's own record carries it.
pub(super) fn decode_default(wire: &WireType, bytes: &[u8]) -> Option<Value> {
    let mut reader = Reader { bytes, offset: 0 };
    reader.take(wire).and_then(|value| reader.finish(value)).ok()
}

/// Reads what stands for a subsection that was not sent, as the schema's own record carries it.
pub(super) fn decode_absent(schema: &Schema, bytes: &[u8]) -> Option<StructValue> {
    let mut reader = Reader { bytes, offset: 0 };
    reader.take_struct(schema).and_then(|value| reader.finish(value)).ok()
}

/// A fault on its way out, gathering its path.
struct Fault {
    path: FieldPath,
    offset: usize,
    fault: DecodeFault,
}

impl Fault {
    fn within(self, outer: Step) -> Self {
        Self {
            path: self.path.within(outer),
            ..self
        }
    }
}

/// The bytes that are left, and how many came before them in the whole section.
struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    /// Room made at once for elements; more is made as they come.
    const ROOM_AT_ONCE: usize = 16;

    fn fault(&self, fault: DecodeFault) -> Fault {
        Fault {
            path: FieldPath::root(),
            offset: self.offset,
            fault,
        }
    }

    fn finish<T>(&self, value: T) -> Result<T, Fault> {
        match self.bytes.len() {
            0 => Ok(value),
            left => Err(self.fault(DecodeFault::Trailing(left))),
        }
    }

    fn take_struct(&mut self, schema: &Schema) -> Result<StructValue, Fault> {
        let start = self.fault(DecodeFault::Truncated);
        let found: u32 = self.leaf(&WireType::U32)?;
        let described = schema.version;
        if found != described {
            return Err(Fault {
                fault: DecodeFault::Version { found, described },
                ..start
            });
        }
        let mut value = StructValue::new(found);
        for field in schema.live_fields() {
            let inside = |fault: Fault| fault.within(Step::Field(field.name.clone()));
            if let Some(taken) = self.take_field(field).map_err(inside)? {
                value.push(field.name.clone(), taken);
            }
        }
        for field in schema.live_fields().filter(|field| field.length.is_some()) {
            let counted = value.get(&field.name).map(|counted| field.check_count(counted, &value));
            if let Some(Err(mismatch)) = counted {
                return Err(self.ruled(mismatch).within(Step::Field(field.name.clone())));
            }
        }
        self.take_subsections(schema, &mut value)?;
        Ok(value)
    }

    fn take_field(&mut self, field: &FieldSchema) -> Result<Option<Value>, Fault> {
        if (field.may_be_absent || field.skip_when_default) && !self.leaf::<bool>(&WireType::Bool)? {
            return Ok(None);
        }
        let value = self.take(&field.wire)?;
        field.check_range(&value).map_err(|mismatch| self.ruled(mismatch))?;
        // What was left out and what was not are one value.
        Ok(Some(value).filter(|value| !field.skip_when_default || field.default.as_ref() != Some(value)))
    }

    fn ruled(&self, mismatch: Mismatch) -> Fault {
        self.fault(DecodeFault::Ruled(Box::new(mismatch)))
    }

    fn take_subsections(&mut self, schema: &Schema, value: &mut StructValue) -> Result<(), Fault> {
        let count = self.len(u32::MAX)?;
        let mut next = 0;
        for _ in 0..count {
            let start = self.offset;
            let at_start = |fault| Fault {
                path: FieldPath::root(),
                offset: start,
                fault,
            };
            let name = self.text(u32::try_from(Name::MAX_LEN).unwrap_or(u32::MAX))?;
            let rest = &schema.subsections[next..];
            let Some(passed) = rest.iter().position(|subsection| subsection.name == *name) else {
                return Err(at_start(match schema.subsection(name) {
                    Some(earlier) => DecodeFault::MisplacedSubsection(earlier.name.clone()),
                    None => DecodeFault::UnknownSubsection(name.to_owned()),
                }));
            };
            check_left_out(&rest[..passed]).map_err(at_start)?;
            let subsection = &rest[passed];
            let payload = self.take_subsection(subsection);
            let payload = payload.map_err(|fault| fault.within(Step::Field(subsection.name.clone())))?;
            value.push_subsection(subsection.name.clone(), payload);
            next += passed + 1;
        }
        check_left_out(&schema.subsections[next..]).map_err(|fault| self.fault(fault))
    }

    fn take_subsection(&mut self, subsection: &SubsectionSchema) -> Result<StructValue, Fault> {
        let len = self.len(u32::MAX)?;
        let offset = self.offset;
        let mut payload = Reader {
            bytes: self.slice(len)?,
            offset,
        };
        let value = payload.take_struct(&subsection.schema)?;
        payload.finish(value)
    }

    fn take(&mut self, wire: &WireType) -> Result<Value, Fault> {
        Ok(match wire {
            WireType::Bool => Value::Bool(self.leaf(wire)?),
            WireType::U8 => Value::Uint(self.leaf::<u8>(wire)?.into()),
            WireType::U16 => Value::Uint(self.leaf::<u16>(wire)?.into()),
            WireType::U32 => Value::Uint(self.leaf::<u32>(wire)?.into()),
            WireType::U64 => Value::Uint(self.leaf(wire)?),
            WireType::I8 => Value::Int(self.leaf::<i8>(wire)?.into()),
            WireType::I16 => Value::Int(self.leaf::<i16>(wire)?.into()),
            WireType::I32 => Value::Int(self.leaf::<i32>(wire)?.into()),
            WireType::I64 => Value::Int(self.leaf(wire)?),
            WireType::F64 => Value::F64(self.leaf(wire)?),
            WireType::Bytes { max } => self.bytes(*max)?,
            WireType::Str { max } => Value::Str(self.text(*max)?.to_owned()),
            WireType::Array { of, len } if of.is_byte() => Value::Bytes(self.slice(*len)?.to_vec()),
            WireType::Seq { of, max } if of.is_byte() => self.bytes(*max)?,
            WireType::Array { of, len } => self.elements(of, *len)?,
            WireType::Seq { of, max } => {
                let len = self.len(*max)?;
                self.elements(of, len)?
            }
            WireType::Bitmap { max } => self.bits(*max)?,
            WireType::Map { key, of, max } => self.entries(key, of, *max)?,
            WireType::Deadline { .. } => Value::Deadline(self.leaf(wire)?),
            WireType::Fd => return Err(self.fault(DecodeFault::Fd)),
            WireType::Struct(schema) => Value::Struct(self.take_struct(schema)?),
            WireType::Option(of) => {
                let there: bool = self.leaf(&WireType::Bool)?;
                Value::Option(if there { Some(Box::new(self.take(of)?)) } else { None })
            }
            WireType::Enum { variants } => {
                let start = self.fault(DecodeFault::Truncated);
                let index: u32 = self.leaf(&WireType::U32)?;
                let variant = usize::try_from(index).ok().and_then(|index| variants.get(index));
                let Some(variant) = variant else {
                    let variants = variants.len();
                    return Err(Fault {
                        fault: DecodeFault::Variant { index, variants },
                        ..start
                    });
                };
                Value::Enum(variant.clone())
            }
        })
    }

    fn elements(&mut self, of: &WireType, len: u32) -> Result<Value, Fault> {
        // An element takes a byte or more: a count that cannot be filled is refused before anything is read.
        let count = self.within_what_is_left(len)?;
        let mut elements = Vec::with_capacity(count.min(Self::ROOM_AT_ONCE));
        for i in 0..count {
            elements.push(self.take(of).map_err(|fault| fault.within(Step::Index(i)))?);
        }
        Ok(Value::Array(elements))
    }

    fn bits(&mut self, max: u32) -> Result<Value, Fault> {
        let len = self.len(max)?;
        let start = self.fault(DecodeFault::Bitmap(len));
        let bytes = self.slice(len.div_ceil(8))?;
        Bitmap::from_bytes(len, bytes).map(Value::Bits).ok_or(start)
    }

    fn entries(&mut self, of_key: &WireType, of: &WireType, max: u32) -> Result<Value, Fault> {
        let len = self.len(max)?;
        let count = self.within_what_is_left(len)?;
        let mut entries: Vec<(MapKey, Value)> = Vec::with_capacity(count.min(Self::ROOM_AT_ONCE));
        for _ in 0..count {
            let key = self.take(of_key)?;
            let key = key
                .integers()
                .next()
                .ok_or_else(|| self.fault(DecodeFault::Leaf(of_key.to_string())))?;
            if entries.last().is_some_and(|(last, _)| *last >= key) {
                return Err(self.ruled(Mismatch::KeyOrder(key)));
            }
            entries.push((key, self.take(of).map_err(|fault| fault.within(Step::Key(key)))?));
        }
        Ok(Value::Map(entries))
    }

    fn bytes(&mut self, max: u32) -> Result<Value, Fault> {
        let len = self.len(max)?;
        Ok(Value::Bytes(self.slice(len)?.to_vec()))
    }

    fn text(&mut self, max: u32) -> Result<&'a str, Fault> {
        let len = self.len(max)?;
        let start = self.fault(DecodeFault::Utf8);
        std::str::from_utf8(self.slice(len)?).map_err(|_| start)
    }

    /// A length of at most `max`.
    fn len(&mut self, max: u32) -> Result<u32, Fault> {
        let start = self.fault(DecodeFault::Truncated);
        let len: u32 = self.leaf(&WireType::U32)?;
        if len > max {
            return Err(Fault {
                fault: DecodeFault::TooLong { len, max },
                ..start
            });
        }
        Ok(len)
    }

    fn slice(&mut self, len: u32) -> Result<&'a [u8], Fault> {
        let len = self.within_what_is_left(len)?;
        let (taken, left) = self.bytes.split_at(len);
        self.bytes = left;
        self.offset += len;
        Ok(taken)
    }

    fn within_what_is_left(&self, len: u32) -> Result<usize, Fault> {
        let left = self.bytes.len();
        let fits = usize::try_from(len).ok().filter(|fits| *fits <= left);
        fits.ok_or_else(|| self.fault(DecodeFault::Unfilled { len, left }))
    }

    fn leaf<T: DeserializeOwned>(&mut self, wire: &WireType) -> Result<T, Fault> {
        match postcard::take_from_bytes(self.bytes) {
            Ok((value, left)) => {
                self.offset += self.bytes.len() - left.len();
                self.bytes = left;
                Ok(value)
            }
            Err(postcard::Error::DeserializeUnexpectedEnd) => Err(self.fault(DecodeFault::Truncated)),
            Err(_) => Err(self.fault(DecodeFault::Leaf(wire.to_string()))),
        }
    }
}

/// Whether none of these, which were not sent, had to be.
fn check_left_out(subsections: &[SubsectionSchema]) -> Result<(), DecodeFault> {
    match subsections.iter().find(|subsection| !subsection.optional) {
        Some(missing) => Err(DecodeFault::MissingSubsection(missing.name.clone())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{schema, schema_and_value, schema_and_values};
    use super::*;
    use crate::state::{Description, encode};
    use proptest::prelude::*;

    fn schema_of(fields: Vec<FieldSchema>, subsections: Vec<SubsectionSchema>) -> Schema {
        let description = Description {
            fields,
            subsections,
            ..Description::new("uart")
        };
        description.check().expect("legal")
    }

    fn subsection(name: &'static str, optional: bool) -> SubsectionSchema {
        SubsectionSchema {
            name: name.into(),
            optional,
            absent: None,
            schema: schema_of(vec![FieldSchema::new("x", WireType::U8)], vec![]),
        }
    }

    fn fault(schema: &Schema, bytes: &[u8]) -> (String, usize, DecodeFault) {
        let error = decode(schema, bytes).expect_err("it should be refused");
        (error.path.to_string(), error.offset, error.fault)
    }

    /// `{ a: u16, lvt: up to 3 of { mode: edge|level } }`, in bytes: version, a, count, each version, mode, subsections.
    fn nested() -> Schema {
        let variants = vec!["edge".into(), "level".into()];
        let line = schema_of(vec![FieldSchema::new("mode", WireType::Enum { variants })], vec![]);
        let of = Box::new(WireType::Struct(Box::new(line)));
        let fields = vec![
            FieldSchema::new("a", WireType::U16),
            FieldSchema::new("lvt", WireType::Seq { of, max: 3 }),
        ];
        schema_of(fields, vec![])
    }

    #[test]
    fn the_bytes_are_those_of_the_format() {
        let bytes = [1, 0x85, 2, 2, 1, 0, 0, 1, 1, 0, 0];
        let value = decode(&nested(), &bytes).expect("it is well-formed");
        assert_eq!(
            value.to_string(),
            "{ a: 0x105, lvt: [{ mode: edge }, { mode: level }] }"
        );
        assert_eq!(encode(&nested(), &value).expect("it fits"), bytes);
    }

    #[test]
    fn an_error_names_the_field_and_the_byte() {
        let bytes = [1, 0x85, 2, 2, 1, 0, 0, 1, 9, 0, 0];
        let error = decode(&nested(), &bytes).expect_err("there is no variant 9");
        assert_eq!(
            error.to_string(),
            "the state of `uart` cannot be read: field lvt[1].mode, at byte 8: it is variant 9 of 2"
        );
    }

    #[test]
    fn a_count_is_bounded_by_the_description_and_by_the_bytes() {
        let too_long = DecodeFault::TooLong { len: 4, max: 3 };
        assert_eq!(fault(&nested(), &[1, 0, 4, 0]), ("lvt".into(), 2, too_long));
        let unfilled = DecodeFault::Unfilled { len: 3, left: 2 };
        assert_eq!(fault(&nested(), &[1, 0, 3, 1, 0]), ("lvt".into(), 3, unfilled));
    }

    #[test]
    fn five_bytes_that_claim_four_billion_elements_are_refused_at_once() {
        let of = Box::new(WireType::U64);
        let everything = schema_of(
            vec![FieldSchema::new("all", WireType::Seq { of, max: u32::MAX })],
            vec![],
        );
        let bytes = [1, 0xff, 0xff, 0xff, 0xff, 0x0f];
        let unfilled = DecodeFault::Unfilled { len: u32::MAX, left: 0 };
        assert_eq!(fault(&everything, &bytes), ("all".into(), 6, unfilled));
    }

    #[test]
    fn bytes_left_over_are_an_error() {
        assert_eq!(
            fault(&nested(), &[1, 0, 0, 0, 7]),
            (".".into(), 4, DecodeFault::Trailing(1))
        );
    }

    #[test]
    fn a_nested_struct_of_another_version_is_refused() {
        let version = DecodeFault::Version { found: 2, described: 1 };
        assert_eq!(fault(&nested(), &[1, 0, 1, 2, 0, 0, 0]), ("lvt[0]".into(), 3, version));
    }

    #[test]
    fn a_leaf_must_be_one_of_its_type() {
        let flag = schema_of(vec![FieldSchema::new("flag", WireType::Bool)], vec![]);
        assert_eq!(
            fault(&flag, &[1, 2, 0]),
            ("flag".into(), 1, DecodeFault::Leaf("bool".into()))
        );
        let text = schema_of(vec![FieldSchema::new("text", WireType::Str { max: 4 })], vec![]);
        assert_eq!(fault(&text, &[1, 1, 0xff, 0]), ("text".into(), 2, DecodeFault::Utf8));
    }

    #[test]
    fn a_subsection_is_known_in_its_place_once_and_ends_where_it_says() {
        let both = schema_of(vec![], vec![subsection("a", true), subsection("b", true)]);
        let decoded = |bytes: &[u8]| decode(&both, bytes).map(|value| value.to_string());
        assert_eq!(decoded(&[1, 1, 1, b'b', 3, 1, 5, 0]), Ok("{ b: { x: 0x5 } }".into()));

        let unknown = DecodeFault::UnknownSubsection("c".into());
        assert_eq!(fault(&both, &[1, 1, 1, b'c', 3, 1, 5, 0]), (".".into(), 2, unknown));
        let twice = [1, 2, 1, b'a', 3, 1, 5, 0, 1, b'a', 3, 1, 5, 0];
        assert_eq!(
            fault(&both, &twice),
            (".".into(), 8, DecodeFault::MisplacedSubsection("a".into()))
        );
        let swapped = [1, 2, 1, b'b', 3, 1, 5, 0, 1, b'a', 3, 1, 5, 0];
        assert_eq!(
            fault(&both, &swapped),
            (".".into(), 8, DecodeFault::MisplacedSubsection("a".into()))
        );
        let long = [1, 1, 1, b'a', 4, 1, 5, 0, 9];
        assert_eq!(fault(&both, &long), ("a".into(), 8, DecodeFault::Trailing(1)));
        let short = [1, 1, 1, b'a', 2, 1, 5, 0];
        assert_eq!(fault(&both, &short), ("a".into(), 7, DecodeFault::Truncated));
    }

    #[test]
    fn a_subsection_that_is_always_sent_must_be_there() {
        let schema = schema_of(vec![], vec![subsection("a", false), subsection("b", true)]);
        let missing = DecodeFault::MissingSubsection("a".into());
        assert_eq!(fault(&schema, &[1, 0]), (".".into(), 2, missing.clone()));
        assert_eq!(fault(&schema, &[1, 1, 1, b'b', 3, 1, 5, 0]), (".".into(), 2, missing));
    }

    /// What a value takes in memory: every value, and the room of every run.
    fn footprint(value: &Value) -> usize {
        let inside = match value {
            Value::Bytes(bytes) => bytes.capacity(),
            Value::Str(text) => text.capacity(),
            Value::Array(elements) => {
                let spare = elements.capacity() - elements.len();
                spare * size_of::<Value>() + elements.iter().map(footprint).sum::<usize>()
            }
            Value::Struct(value) => footprint_of_struct(value),
            Value::Option(value) => value.as_deref().map_or(0, footprint),
            _ => 0,
        };
        size_of::<Value>() + inside
    }

    fn footprint_of_struct(value: &StructValue) -> usize {
        let fields = value.fields().map(|(_, value)| size_of::<Name>() + footprint(value));
        let subsections = value
            .subsections()
            .map(|(_, value)| 2 * size_of::<Name>() + footprint_of_struct(value));
        size_of::<StructValue>() + fields.chain(subsections).sum::<usize>()
    }

    /// Bytes of memory that one byte of the input can cost at most: a handful of nested values, and room for growth.
    const PER_BYTE: usize = 1024;

    /// A seq of structs of the deepest array, the worst that a schema can make of few bytes.
    fn greedy() -> Schema {
        let array = |of| WireType::Array {
            of: Box::new(of),
            len: 1,
        };
        let deep = array(array(array(array(WireType::Bool))));
        let element = schema_of(vec![FieldSchema::new("deep", deep)], vec![]);
        let of = Box::new(WireType::Struct(Box::new(element)));
        schema_of(
            vec![FieldSchema::new("all", WireType::Seq { of, max: u32::MAX })],
            vec![],
        )
    }

    #[test]
    fn memory_is_bounded_by_the_bytes_whatever_the_schema() {
        let count = 1000;
        let mut bytes = vec![1, 0xe8, 0x07];
        bytes.extend([1, 1, 0].repeat(count));
        bytes.push(0);
        let value = decode(&greedy(), &bytes).expect("it is well-formed");
        assert!(
            footprint_of_struct(&value) <= PER_BYTE * bytes.len(),
            "{}",
            footprint_of_struct(&value)
        );
    }

    proptest! {
        #[test]
        fn every_value_of_every_schema_reads_back((schema, value) in schema_and_value()) {
            let bytes = encode(&schema, &value).expect("it is a value of the schema");
            prop_assert_eq!(decode(&schema, &bytes), Ok(value));
        }

        #[test]
        fn equal_values_are_equal_bytes((schema, left, right) in schema_and_values()) {
            prop_assert_eq!(left == right, encode(&schema, &left) == encode(&schema, &right));
        }

        #[test]
        fn arbitrary_bytes_give_a_value_or_an_error(
            schema in schema(), bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            if let Ok(value) = decode(&schema, &bytes) {
                prop_assert!(encode(&schema, &value).is_ok());
                prop_assert!(footprint_of_struct(&value) <= PER_BYTE * bytes.len());
            }
        }

        #[test]
        fn damaged_bytes_give_a_value_or_an_error(
            (schema, value) in schema_and_value(), at in any::<prop::sample::Index>(), to in any::<u8>(),
        ) {
            let mut bytes = encode(&schema, &value).expect("it is a value of the schema");
            let at = at.index(bytes.len());
            bytes[at] = to;
            if let Err(error) = decode(&schema, &bytes) {
                // It is told where a leaf begins, or a field that has become its default, which would have been left out.
                prop_assert!(error.offset >= at.saturating_sub(FieldSchema::MAX_SKIPPED) && error.offset <= bytes.len());
            }
        }

        #[test]
        fn truncated_bytes_are_an_error((schema, value) in schema_and_value(), at in any::<prop::sample::Index>()) {
            let bytes = encode(&schema, &value).expect("it is a value of the schema");
            prop_assert!(decode(&schema, &bytes[..at.index(bytes.len())]).is_err());
        }
    }
}
