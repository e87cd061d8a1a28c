//! A schema as a record of a stream: CBOR maps with integer keys.
//!
//! Not everything that a later Tern will say of a field is known today. So each thing is a map; a reader that meets a
//! key which it does not know refuses if the key is even, for then the meaning of the rest may depend on it, and skips
//! it if the key is odd. Keys ascend and lengths are definite, so that equal schemas are equal bytes, and their hash is
//! the schema's identity.
//!
//! ```text
//! schema     = { 0: name, 2: version, 4: minimum version, 6: priority, 8: [field...], 10: [subsection...] }
//! field      = { 0: name, 2: type, ?4: since (else 1), ?6: until, ?8: may be absent (else false), ?10: default,
//!                ?12: left out when it has its default (else false), ?13: [least, most], ?15: the field with its length,
//!                ?17: hint if it must be as configured }
//! subsection = { 0: name, 2: optional, 4: schema, ?5: what stands for it where it was not sent }
//! type       = { 0: kind, ?2: element type, ?4: length or bound, ?6: schema, ?8: [variant...], ?10: type of keys,
//!                ?12: clock }
//! default, what stands for it = a byte string: the value as a section would hold it
//! ```

use std::convert::Infallible;

use minicbor::data::Int;
use minicbor::decode::{Decoder, Error as CborError};
use minicbor::encode::{Encoder, Error as PutError};

use super::decode::{decode_absent, decode_default};
use super::encode::{encode_absent, encode_default};
use super::name::Name;
use super::schema::{Description, FieldSchema, Schema, SubsectionSchema};
use super::schema_error::SchemaError;
use super::wire_type::WireType;

/// Bytes that are no schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaReadError {
    /// The bytes are not CBOR, or something else is where a part of the schema belongs.
    #[error("the {part} in a schema is malformed at byte {offset}: {problem}")]
    Malformed {
        /// The part of the schema.
        part: &'static str,
        /// Where.
        offset: usize,
        /// What is wrong.
        problem: String,
    },
    /// A critical key that this version does not know.
    #[error("the {part} in a schema has the critical key {key} at byte {offset}; reading it takes a newer Tern")]
    UnknownKey {
        /// The part of the schema.
        part: &'static str,
        /// The key.
        key: u64,
        /// Where.
        offset: usize,
    },
    /// A key that must be there is not.
    #[error("the {part} in a schema that ends at byte {offset} lacks its key {key}")]
    MissingKey {
        /// The part of the schema.
        part: &'static str,
        /// The key.
        key: u64,
        /// Where the part ends.
        offset: usize,
    },
    /// The parts are in order, but what they say makes no schema.
    #[error("{0}")]
    IllFormed(Box<SchemaError>),
}

impl From<SchemaError> for SchemaReadError {
    fn from(error: SchemaError) -> Self {
        Self::IllFormed(Box::new(error))
    }
}

impl Schema {
    /// The schema as a record. Equal schemas give equal bytes.
    #[must_use]
    pub fn to_cbor(&self) -> Vec<u8> {
        let mut out = Encoder::new(Vec::new());
        put_schema(&mut out, self).expect("a vector takes every byte");
        out.into_writer()
    }

    /// Reads the record of a schema, and checks it.
    ///
    /// # Errors
    ///
    /// If the bytes are no schema, one that takes a newer Tern to understand, or an ill-formed one. The effort is
    /// bounded by the number of bytes.
    pub fn from_cbor(bytes: &[u8]) -> Result<Self, SchemaReadError> {
        let mut reader = Reader(Decoder::new(bytes));
        let schema = reader.schema(0)?;
        match bytes.len() - reader.0.position() {
            0 => Ok(schema),
            left => Err(reader.malformed("end", format!("{left} bytes are left over"))),
        }
    }
}

type Put = Result<(), PutError<Infallible>>;

fn put_schema(out: &mut Encoder<Vec<u8>>, schema: &Schema) -> Put {
    out.map(6)?;
    out.u8(0)?.str(&schema.name)?;
    out.u8(2)?.u32(schema.version)?;
    out.u8(4)?.u32(schema.minimum_version)?;
    out.u8(6)?.i32(schema.priority)?;
    out.u8(8)?.array(count(&schema.fields))?;
    schema.fields.iter().try_for_each(|field| put_field(out, field))?;
    out.u8(10)?.array(count(&schema.subsections))?;
    schema.subsections.iter().try_for_each(|subsection| {
        let absent = encode_absent(subsection).expect("what stands for a schema's subsections fits them");
        out.map(3 + u64::from(absent.is_some()))?;
        out.u8(0)?.str(&subsection.name)?;
        out.u8(2)?.bool(subsection.optional)?;
        out.u8(4)?;
        put_schema(out, &subsection.schema)?;
        match absent {
            Some(absent) => out.u8(5)?.bytes(&absent)?.ok(),
            None => Ok(()),
        }
    })
}

fn put_field(out: &mut Encoder<Vec<u8>>, field: &FieldSchema) -> Put {
    let default = encode_default(field).expect("a schema's defaults fit their types");
    let optional = [
        field.since > 1,
        field.until.is_some(),
        field.may_be_absent,
        default.is_some(),
        field.skip_when_default,
        field.range.is_some(),
        field.length.is_some(),
        field.must_equal.is_some(),
    ];
    out.map(2 + count(&optional.iter().filter(|there| **there).collect::<Vec<_>>()))?;
    out.u8(0)?.str(&field.name)?;
    out.u8(2)?;
    put_type(out, &field.wire)?;
    if field.since > 1 {
        out.u8(4)?.u32(field.since)?;
    }
    if let Some(until) = field.until {
        out.u8(6)?.u32(until)?;
    }
    if field.may_be_absent {
        out.u8(8)?.bool(true)?;
    }
    if let Some(default) = default {
        out.u8(10)?.bytes(&default)?;
    }
    if field.skip_when_default {
        out.u8(12)?.bool(true)?;
    }
    if let Some((least, most)) = field.range {
        out.u8(13)?.array(2)?.int(integer(least))?.int(integer(most))?;
    }
    if let Some(length) = &field.length {
        out.u8(15)?.str(length)?;
    }
    if let Some(hint) = &field.must_equal {
        out.u8(17)?.str(hint)?;
    }
    Ok(())
}

/// An end of a range, which a checked schema has within a type of at most 64 bits.
fn integer(value: i128) -> Int {
    Int::try_from(value).expect("a range lies within its type")
}

/// The plain kinds of types and their numbers, which never change.
const PLAIN: [(u8, WireType); 11] = [
    (1, WireType::Bool),
    (2, WireType::U8),
    (3, WireType::U16),
    (4, WireType::U32),
    (5, WireType::U64),
    (6, WireType::I8),
    (7, WireType::I16),
    (8, WireType::I32),
    (9, WireType::I64),
    (10, WireType::F64),
    (11, WireType::Fd),
];
const BYTES: u8 = 16;
const STR: u8 = 17;
const ARRAY: u8 = 18;
const SEQ: u8 = 19;
const STRUCT: u8 = 20;
const OPTION: u8 = 21;
const ENUM: u8 = 22;
const BITMAP: u8 = 23;
const MAP: u8 = 24;
const DEADLINE: u8 = 25;

fn put_type(out: &mut Encoder<Vec<u8>>, wire: &WireType) -> Put {
    if let Some((kind, _)) = PLAIN.iter().find(|(_, plain)| plain == wire) {
        return out.map(1)?.u8(0)?.u8(*kind)?.ok();
    }
    let mut open = |keys, kind| out.map(keys)?.u8(0)?.u8(kind)?.ok();
    match wire {
        WireType::Bytes { max } => {
            open(2, BYTES)?;
            out.u8(4)?.u32(*max)?.ok()
        }
        WireType::Str { max } => {
            open(2, STR)?;
            out.u8(4)?.u32(*max)?.ok()
        }
        WireType::Array { of, len: bound } | WireType::Seq { of, max: bound } => {
            open(
                3,
                if matches!(wire, WireType::Array { .. }) {
                    ARRAY
                } else {
                    SEQ
                },
            )?;
            put_type(out.u8(2)?, of)?;
            out.u8(4)?.u32(*bound)?.ok()
        }
        WireType::Bitmap { max } => {
            open(2, BITMAP)?;
            out.u8(4)?.u32(*max)?.ok()
        }
        WireType::Map { key, of, max } => {
            open(4, MAP)?;
            put_type(out.u8(2)?, of)?;
            out.u8(4)?.u32(*max)?;
            put_type(out.u8(10)?, key)
        }
        WireType::Deadline { clock } => {
            open(2, DEADLINE)?;
            out.u8(12)?.str(clock)?.ok()
        }
        WireType::Struct(schema) => {
            open(2, STRUCT)?;
            put_schema(out.u8(6)?, schema)
        }
        WireType::Option(of) => {
            open(2, OPTION)?;
            put_type(out.u8(2)?, of)
        }
        WireType::Enum { variants } => {
            open(2, ENUM)?;
            out.u8(8)?.array(count(variants))?;
            variants.iter().try_for_each(|variant| out.str(variant)?.ok())
        }
        plain => unreachable!("{plain} is in the table of plain types"),
    }
}

fn count<T>(items: &[T]) -> u64 {
    u64::try_from(items.len()).unwrap_or(u64::MAX)
}

struct Reader<'b>(Decoder<'b>);

type Read<T> = Result<T, SchemaReadError>;

impl<'b> Reader<'b> {
    fn malformed(&self, part: &'static str, problem: impl Into<String>) -> SchemaReadError {
        SchemaReadError::Malformed {
            part,
            offset: self.0.position(),
            problem: problem.into(),
        }
    }

    fn take<T>(&mut self, part: &'static str, read: impl FnOnce(&mut Decoder<'b>) -> Result<T, CborError>) -> Read<T> {
        let offset = self.0.position();
        read(&mut self.0).map_err(|error| SchemaReadError::Malformed {
            part,
            offset,
            problem: error.to_string(),
        })
    }

    fn name(&mut self, part: &'static str) -> Read<Name> {
        self.take(part, |cbor| cbor.str().map(|text| Name::from(text.to_owned())))
    }

    fn u32(&mut self, part: &'static str) -> Read<u32> {
        self.take(part, Decoder::u32)
    }

    /// Reads a map; `field` takes the value of each key that it knows, and says of others that it does not.
    fn map(&mut self, part: &'static str, mut field: impl FnMut(&mut Self, u64) -> Read<Known>) -> Read<()> {
        let keys = self
            .take(part, Decoder::map)?
            .ok_or_else(|| self.malformed(part, "its length is indefinite"))?;
        let mut next = 0;
        for _ in 0..keys {
            let offset = self.0.position();
            let key = self.take(part, Decoder::u64)?;
            if key < next {
                return Err(self.malformed(part, format!("key {key} is there twice or not in its place")));
            }
            next = key.saturating_add(1);
            match field(self, key)? {
                Known::Yes => {}
                Known::No if key % 2 == 1 => self.take(part, Decoder::skip)?,
                Known::No => return Err(SchemaReadError::UnknownKey { part, key, offset }),
            }
        }
        Ok(())
    }

    fn list<T>(&mut self, part: &'static str, mut item: impl FnMut(&mut Self) -> Read<T>) -> Read<Vec<T>> {
        let len = self
            .take(part, Decoder::array)?
            .ok_or_else(|| self.malformed(part, "its length is indefinite"))?;
        // No room is made for what is only claimed: an item that is not there ends the loop with an error.
        let mut items = Vec::new();
        for _ in 0..len {
            items.push(item(self)?);
        }
        Ok(items)
    }

    fn required<T>(&self, part: &'static str, key: u64, value: Option<T>) -> Read<T> {
        value.ok_or_else(|| SchemaReadError::MissingKey {
            part,
            key,
            offset: self.0.position(),
        })
    }

    /// Refuses what is nested deeper than a schema can be, before the stack could tell.
    fn check_depth(&self, depth: usize) -> Read<()> {
        if depth > Schema::MAX_DEPTH {
            return Err(self.malformed("type", format!("it is nested deeper than {} levels", Schema::MAX_DEPTH)));
        }
        Ok(())
    }

    fn schema(&mut self, depth: usize) -> Read<Schema> {
        const PART: &str = "description";
        self.check_depth(depth)?;
        let (mut name, mut version, mut minimum_version, mut priority) = (None, None, None, None);
        let (mut fields, mut subsections) = (None, None);
        self.map(PART, |reader, key| {
            match key {
                0 => name = Some(reader.name(PART)?),
                2 => version = Some(reader.u32(PART)?),
                4 => minimum_version = Some(reader.u32(PART)?),
                6 => priority = Some(reader.take(PART, Decoder::i32)?),
                8 => fields = Some(reader.list(PART, |reader| reader.field(depth))?),
                10 => subsections = Some(reader.list(PART, |reader| reader.subsection(depth + 1))?),
                _ => return Ok(Known::No),
            }
            Ok(Known::Yes)
        })?;
        let description = Description {
            name: self.required(PART, 0, name)?,
            version: self.required(PART, 2, version)?,
            minimum_version: self.required(PART, 4, minimum_version)?,
            priority: self.required(PART, 6, priority)?,
            fields: self.required(PART, 8, fields)?,
            subsections: self.required(PART, 10, subsections)?,
        };
        Ok(description.check()?)
    }

    fn field(&mut self, depth: usize) -> Read<FieldSchema> {
        const PART: &str = "field";
        let (mut name, mut wire, mut since, mut until) = (None, None, 1, None);
        let (mut may_be_absent, mut default, mut skip_when_default) = (false, None, false);
        let (mut range, mut length, mut must_equal) = (None, None, None);
        self.map(PART, |reader, key| {
            match key {
                0 => name = Some(reader.name(PART)?),
                2 => wire = Some(reader.wire_type(depth)?),
                4 => since = reader.u32(PART)?,
                6 => until = Some(reader.u32(PART)?),
                8 => may_be_absent = reader.take(PART, Decoder::bool)?,
                10 => default = Some(reader.take(PART, Decoder::bytes)?),
                12 => skip_when_default = reader.take(PART, Decoder::bool)?,
                13 => range = Some(reader.range(PART)?),
                15 => length = Some(reader.name(PART)?),
                17 => must_equal = Some(reader.take(PART, |cbor| cbor.str().map(str::to_owned))?),
                _ => return Ok(Known::No),
            }
            Ok(Known::Yes)
        })?;
        let wire = self.required(PART, 2, wire)?;
        let default = match default {
            None => None,
            Some(bytes) => {
                // The type is checked only with the whole description, and an unchecked one must not be walked.
                let no_value = || self.malformed(PART, format!("its default is no {wire}"));
                let probe = Description {
                    fields: vec![FieldSchema::new("probe", wire.clone())],
                    ..Description::new("probe")
                };
                probe.check()?;
                Some(decode_default(&wire, bytes).ok_or_else(no_value)?)
            }
        };
        Ok(FieldSchema {
            name: self.required(PART, 0, name)?,
            wire,
            since,
            until,
            may_be_absent,
            default,
            skip_when_default,
            range,
            length,
            must_equal,
        })
    }

    fn range(&mut self, part: &'static str) -> Read<(i128, i128)> {
        match self.list(part, |reader| reader.take(part, Decoder::int).map(i128::from))?[..] {
            [least, most] => Ok((least, most)),
            _ => Err(self.malformed(part, "a range has two ends")),
        }
    }

    fn subsection(&mut self, depth: usize) -> Read<SubsectionSchema> {
        const PART: &str = "subsection";
        let (mut name, mut optional, mut schema, mut absent) = (None, None, None, None);
        self.map(PART, |reader, key| {
            match key {
                0 => name = Some(reader.name(PART)?),
                2 => optional = Some(reader.take(PART, Decoder::bool)?),
                4 => schema = Some(reader.schema(depth)?),
                5 => absent = Some(reader.take(PART, Decoder::bytes)?),
                _ => return Ok(Known::No),
            }
            Ok(Known::Yes)
        })?;
        let schema = self.required(PART, 4, schema)?;
        let no_value = || {
            self.malformed(
                PART,
                "what stands for it where it was not sent is no value of it".to_owned(),
            )
        };
        let absent = absent.map(|bytes| decode_absent(&schema, bytes).ok_or_else(no_value));
        Ok(SubsectionSchema {
            name: self.required(PART, 0, name)?,
            optional: self.required(PART, 2, optional)?,
            absent: absent.transpose()?,
            schema,
        })
    }

    fn wire_type(&mut self, depth: usize) -> Read<WireType> {
        const PART: &str = "type";
        self.check_depth(depth)?;
        let (mut kind, mut of, mut bound, mut schema, mut variants) = (None, None, None, None, None);
        let (mut key_type, mut clock) = (None, None);
        self.map(PART, |reader, key| {
            match key {
                0 => kind = Some(reader.take(PART, Decoder::u8)?),
                2 => of = Some(reader.wire_type(depth + 1)?),
                4 => bound = Some(reader.u32(PART)?),
                6 => schema = Some(reader.schema(depth + 1)?),
                8 => variants = Some(reader.list(PART, |reader| reader.name(PART))?),
                10 => key_type = Some(reader.wire_type(depth + 1)?),
                12 => clock = Some(reader.name(PART)?),
                _ => return Ok(Known::No),
            }
            Ok(Known::Yes)
        })?;
        let kind = self.required(PART, 0, kind)?;
        if let Some((_, plain)) = PLAIN.iter().find(|(number, _)| *number == kind) {
            return Ok(plain.clone());
        }
        match kind {
            BYTES => Ok(WireType::Bytes {
                max: self.required(PART, 4, bound)?,
            }),
            STR => Ok(WireType::Str {
                max: self.required(PART, 4, bound)?,
            }),
            ARRAY => Ok(WireType::Array {
                of: Box::new(self.required(PART, 2, of)?),
                len: self.required(PART, 4, bound)?,
            }),
            SEQ => Ok(WireType::Seq {
                of: Box::new(self.required(PART, 2, of)?),
                max: self.required(PART, 4, bound)?,
            }),
            BITMAP => Ok(WireType::Bitmap {
                max: self.required(PART, 4, bound)?,
            }),
            MAP => Ok(WireType::Map {
                of: Box::new(self.required(PART, 2, of)?),
                max: self.required(PART, 4, bound)?,
                key: Box::new(self.required(PART, 10, key_type)?),
            }),
            DEADLINE => Ok(WireType::Deadline {
                clock: self.required(PART, 12, clock)?,
            }),
            STRUCT => Ok(WireType::Struct(Box::new(self.required(PART, 6, schema)?))),
            OPTION => Ok(WireType::Option(Box::new(self.required(PART, 2, of)?))),
            ENUM => Ok(WireType::Enum {
                variants: self.required(PART, 8, variants)?,
            }),
            unknown => Err(self.malformed(PART, format!("kind {unknown} takes a newer Tern"))),
        }
    }
}

/// Whether a key of a map is known to this version.
enum Known {
    Yes,
    No,
}

#[cfg(test)]
mod tests {
    use super::super::testing::schema;
    use super::*;
    use proptest::prelude::*;

    fn empty() -> Vec<u8> {
        Description::new("a").check().expect("legal").to_cbor()
    }

    /// The record of an empty schema with one more key.
    fn with_key(key: u8, value: &[u8]) -> Vec<u8> {
        let mut record = empty();
        record[0] += 1;
        record.extend([&[key], value].concat());
        record
    }

    #[test]
    fn an_unknown_even_key_is_refused_by_name() {
        let error = Schema::from_cbor(&with_key(12, &[1])).expect_err("it is critical");
        let expected = SchemaReadError::UnknownKey {
            part: "description",
            key: 12,
            offset: empty().len(),
        };
        assert_eq!(error, expected);
        assert!(error.to_string().contains("the critical key 12 at byte "), "{error}");
    }

    #[test]
    fn an_unknown_odd_key_is_skipped_whatever_it_holds() {
        for value in [&[1][..], &[0x82, 0xa1, 1, 2, 0x61, b'x'], &[0x9f, 1, 0xff]] {
            assert_eq!(Schema::from_cbor(&with_key(13, value)), Schema::from_cbor(&empty()));
        }
    }

    #[test]
    fn keys_are_there_once_and_in_order() {
        let swapped = [0xa2, 2, 1, 0, 0x61, b'a'];
        let error = Schema::from_cbor(&swapped).expect_err("0 comes before 2");
        assert!(
            error.to_string().contains("key 0 is there twice or not in its place"),
            "{error}"
        );
        let missing = Schema::from_cbor(&[0xa1, 0, 0x61, b'a']).expect_err("there is no version");
        let expected = SchemaReadError::MissingKey {
            part: "description",
            key: 2,
            offset: 4,
        };
        assert_eq!(missing, expected);
    }

    #[test]
    fn bytes_left_over_are_refused() {
        let error = Schema::from_cbor(&[empty(), vec![0]].concat()).expect_err("a byte too many");
        assert!(error.to_string().contains("1 bytes are left over"), "{error}");
    }

    #[test]
    fn nesting_ends_before_the_stack_does() {
        let option = [0xa2, 0, OPTION, 2];
        let head = [&[0xa6, 0, 0x61, b'a', 2, 1, 4, 1, 6, 0, 8, 0x81, 0xa2, 0, 0x61, b'f', 2][..]];
        let bottomless = [&head.concat()[..], &option.repeat(100_000)].concat();
        let error = Schema::from_cbor(&bottomless).expect_err("it has no bottom");
        assert!(error.to_string().contains("deeper than 16 levels"), "{error}");
    }

    #[test]
    fn an_ill_formed_schema_is_refused_although_its_record_is_in_order() {
        let mut record = empty();
        let version = record
            .iter()
            .position(|byte| *byte == 2)
            .expect("the key of the version")
            + 1;
        record[version] = 0;
        let error = Schema::from_cbor(&record).expect_err("versions start at 1");
        assert!(matches!(error, SchemaReadError::IllFormed(_)), "{error}");
    }

    proptest! {
        #[test]
        fn every_schema_reads_back(schema in schema()) {
            prop_assert_eq!(Schema::from_cbor(&schema.to_cbor()), Ok(schema));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Schema::from_cbor(&bytes);
        }

        #[test]
        fn damage_gives_a_legal_schema_or_an_error(
            schema in schema(), at in any::<prop::sample::Index>(), to in any::<u8>(),
        ) {
            let mut bytes = schema.to_cbor();
            let at = at.index(bytes.len());
            bytes[at] = to;
            if let Ok(other) = Schema::from_cbor(&bytes) {
                prop_assert_eq!(Schema::from_cbor(&other.to_cbor()), Ok(other));
            }
        }

        #[test]
        fn a_truncated_record_is_an_error(schema in schema(), at in any::<prop::sample::Index>()) {
            let bytes = schema.to_cbor();
            prop_assert!(Schema::from_cbor(&bytes[..at.index(bytes.len())]).is_err());
        }
    }
}
