//! The self-describing encoding of everything that is said *about* a machine: CBOR maps with integer keys.
//!
//! A struct's fields and keys are one table ([`cbor_map!`]), so that writer and reader cannot drift apart. An even key
//! is critical: a reader that does not know it refuses. An odd key is ignorable: it is skipped, and absent it is the
//! field's default. The encoding is canonical (keys ascend, lengths are definite and shortest), so that the same
//! contents are the same bytes; the reader refuses anything else but longer integers. Nothing is allocated before the bytes for it are there.

use std::convert::Infallible;
use std::fmt::Display;

use minicbor::{Decoder, Encoder};

use crate::ident::{ContentHash, Id};

/// How deeply maps and lists may be nested.
pub(crate) const MAX_DEPTH: u32 = 16;
/// The longest text or byte string.
pub(crate) const MAX_TEXT: usize = 64 << 10;
/// The longest list: what is long (checksums, schemas) is a byte string.
pub(crate) const MAX_LIST: usize = 64 << 10;

/// Metadata that cannot be read. The place is the path of keys and the offset in the record's payload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {offset}")]
pub struct CborError {
    /// What is wrong, with the name of the thing that it is wrong with.
    pub what: String,
    /// Where in the payload.
    pub offset: usize,
}

/// A value that goes into metadata.
pub(crate) trait Cbor: Sized {
    /// Appends the value.
    fn write(&self, writer: &mut Writer);
    /// Takes the value off the reader.
    fn read(reader: &mut Reader<'_>) -> Result<Self, CborError>;
    /// Whether the value is left out of a map.
    fn is_absent(&self) -> bool {
        false
    }
    /// What a field of this type is when its critical key is missing; `None` where it must be there.
    fn absent() -> Option<Self> {
        None
    }
}

/// The bytes of a value as a whole payload.
pub(crate) fn to_bytes(value: &impl Cbor) -> Vec<u8> {
    let mut writer = Writer(Encoder::new(Vec::new()));
    value.write(&mut writer);
    writer.0.into_writer()
}

/// Reads a whole payload: bytes left over are an error.
pub(crate) fn from_bytes<T: Cbor>(bytes: &[u8]) -> Result<T, CborError> {
    let mut reader = Reader {
        decoder: Decoder::new(bytes),
        depth: 0,
    };
    let value = T::read(&mut reader)?;
    if reader.decoder.position() != bytes.len() {
        return Err(reader.error("bytes are left over"));
    }
    Ok(value)
}

/// Appends canonical CBOR.
pub(crate) struct Writer(Encoder<Vec<u8>>);

impl Writer {
    fn put(&mut self, write: impl FnOnce(&mut Encoder<Vec<u8>>) -> Result<(), minicbor::encode::Error<Infallible>>) {
        write(&mut self.0).expect("a vector takes all bytes");
    }

    /// Opens a map of so many fields.
    pub(crate) fn map(&mut self, fields: usize) {
        self.put(|e| e.map(fields as u64)?.ok());
    }

    /// A field's key and value.
    pub(crate) fn field(&mut self, key: u64, value: &impl Cbor) {
        self.put(|e| e.u64(key)?.ok());
        value.write(self);
    }
}

/// Takes canonical CBOR apart.
pub(crate) struct Reader<'b> {
    decoder: Decoder<'b>,
    depth: u32,
}

impl<'b> Reader<'b> {
    /// An error about what stands here.
    pub(crate) fn error(&self, what: impl Display) -> CborError {
        CborError {
            what: what.to_string(),
            offset: self.decoder.position(),
        }
    }

    fn take<T>(
        &mut self,
        what: &str,
        read: impl FnOnce(&mut Decoder<'b>) -> Result<T, minicbor::decode::Error>,
    ) -> Result<T, CborError> {
        let offset = self.decoder.position();
        read(&mut self.decoder).map_err(|error| CborError {
            what: format!("{what} is expected ({error})"),
            offset,
        })
    }

    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, CborError>) -> Result<T, CborError> {
        if self.depth == MAX_DEPTH {
            return Err(self.error("nesting is too deep"));
        }
        self.depth += 1;
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    /// Reads the map of `what`: `field` gets each key and says whether it knows it (and has then taken the value).
    pub(crate) fn map(
        &mut self,
        what: &str,
        mut field: impl FnMut(&mut Self, u64) -> Result<bool, CborError>,
    ) -> Result<(), CborError> {
        let count = self
            .take(what, Decoder::map)?
            .ok_or_else(|| self.error("a definite length is expected"))?;
        self.nested(|reader| {
            let mut last = None;
            for _ in 0..count {
                let key = reader.take("a key", Decoder::u64)?;
                if last.is_some_and(|last| last >= key) {
                    return Err(reader.error(format_args!("key {key} of {what} is out of order")));
                }
                last = Some(key);
                if field(reader, key).map_err(|e| CborError {
                    what: format!("{what}: {}", e.what),
                    ..e
                })? {
                    continue;
                }
                if key % 2 == 0 {
                    return Err(reader.error(format_args!(
                        "key {key} of {what} is critical and unknown to this version of Tern; a newer one is needed"
                    )));
                }
                reader.take("a value", Decoder::skip)?;
            }
            Ok(())
        })
    }

    /// A list; what it holds is allocated as it is read.
    fn list<T: Cbor>(&mut self) -> Result<Vec<T>, CborError> {
        let count = self
            .take("a list", Decoder::array)?
            .ok_or_else(|| self.error("a definite length is expected"))?;
        let left = self.decoder.input().len() - self.decoder.position();
        if usize::try_from(count)
            .ok()
            .is_none_or(|count| count > left.min(MAX_LIST))
        {
            return Err(self.error(format_args!(
                "a list of {count} elements in {left} bytes (at most {MAX_LIST})"
            )));
        }
        self.nested(|reader| (0..count).map(|_| T::read(reader)).collect())
    }

    fn fixed<const N: usize>(&mut self, what: &str) -> Result<[u8; N], CborError> {
        let bytes = self.take(what, Decoder::bytes)?;
        bytes
            .try_into()
            .map_err(|_| self.error(format_args!("{what} of {} bytes instead of {N}", bytes.len())))
    }
}

/// Bytes that another layer reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl Cbor for Bytes {
    fn write(&self, writer: &mut Writer) {
        writer.put(|e| e.bytes(&self.0)?.ok());
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, CborError> {
        reader
            .take("a byte string", Decoder::bytes)
            .map(|bytes| Self(bytes.to_vec()))
    }
}

impl Cbor for String {
    fn write(&self, writer: &mut Writer) {
        writer.put(|e| e.str(self)?.ok());
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, CborError> {
        let text = reader.take("a text", Decoder::str)?;
        if text.len() > MAX_TEXT {
            return Err(reader.error(format_args!("a text of {} bytes (at most {MAX_TEXT})", text.len())));
        }
        Ok(text.to_owned())
    }
}

impl<T: Cbor> Cbor for Vec<T> {
    fn write(&self, writer: &mut Writer) {
        writer.put(|e| e.array(self.len() as u64)?.ok());
        self.iter().for_each(|element| element.write(writer));
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, CborError> {
        reader.list()
    }
}

/// An absent value has no key.
impl<T: Cbor> Cbor for Option<T> {
    fn write(&self, writer: &mut Writer) {
        if let Some(value) = self {
            value.write(writer);
        }
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, CborError> {
        T::read(reader).map(Some)
    }
    fn is_absent(&self) -> bool {
        self.is_none()
    }
    fn absent() -> Option<Self> {
        Some(None)
    }
}

impl Cbor for [u32; 4] {
    fn write(&self, writer: &mut Writer) {
        writer.put(|e| self.iter().try_fold(e.array(4)?, |e, &word| e.u32(word))?.ok());
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, CborError> {
        let words: Vec<u32> = reader.list()?;
        words.try_into().map_err(|_| reader.error("four words are expected"))
    }
}

macro_rules! leaf {
    ($($ty:ty, |$encoder:ident, $value:ident| $write:expr, |$reader:ident| $read:expr;)+) => {$(
        impl Cbor for $ty {
            fn write(&self, writer: &mut Writer) {
                let $value = self;
                writer.put(|$encoder| $write?.ok());
            }
            fn read($reader: &mut Reader<'_>) -> Result<Self, CborError> {
                $read
            }
        }
    )+};
}

leaf! {
    u64, |e, v| e.u64(*v), |r| r.take("a number", Decoder::u64);
    u32, |e, v| e.u32(*v), |r| r.take("a number below 2^32", Decoder::u32);
    u16, |e, v| e.u16(*v), |r| r.take("a number below 2^16", Decoder::u16);
    bool, |e, v| e.bool(*v), |r| r.take("a truth value", Decoder::bool);
    Id, |e, v| e.bytes(v.as_bytes()), |r| r.fixed("an identity").map(Id::from_bytes);
    ContentHash, |e, v| e.bytes(v.as_bytes()), |r| r.fixed("a hash").map(ContentHash::from_bytes);
}

/// Declares how a struct is written and read: `cbor_map!(Type "name" { key => field, … })`, keys ascending.
macro_rules! cbor_map {
    ($ty:ty, $name:literal { $($key:literal => $field:ident),+ $(,)? }) => {
        impl $crate::cbor::Cbor for $ty {
            fn write(&self, writer: &mut $crate::cbor::Writer) {
                writer.map([$($crate::cbor::Cbor::is_absent(&self.$field)),+].into_iter().filter(|absent| !absent).count());
                $(if !$crate::cbor::Cbor::is_absent(&self.$field) {
                    writer.field($key, &self.$field);
                })+
            }
            fn read(reader: &mut $crate::cbor::Reader<'_>) -> Result<Self, $crate::cbor::CborError> {
                $(let mut $field = None;)+
                reader.map($name, |reader, key| {
                    match key {
                        $($key => $field = Some($crate::cbor::Cbor::read(reader).map_err(|e: $crate::cbor::CborError| {
                            $crate::cbor::CborError { what: format!("{}: {}", stringify!($field), e.what), ..e }
                        })?),)+
                        _ => return Ok(false),
                    }
                    Ok(true)
                })?;
                Ok(Self {
                    $($field: $crate::cbor::present($field, $key)
                        .ok_or_else(|| reader.error(concat!($name, " has no ", stringify!($field))))?,)+
                })
            }
        }
    };
}
pub(crate) use cbor_map;

/// The value of a field whose key may have been missing.
pub(crate) fn present<T: Cbor>(value: Option<T>, _key: u64) -> Option<T> {
    value.or_else(T::absent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Old {
        name: String,
        sizes: Vec<u64>,
        note: Option<String>,
    }
    cbor_map!(Old, "thing" { 0 => name, 2 => sizes, 3 => note });

    #[derive(Clone, Debug, PartialEq)]
    struct New {
        name: String,
        sizes: Vec<u64>,
        remark: Option<Vec<String>>,
        must: Option<u64>,
    }
    cbor_map!(New, "thing" { 0 => name, 2 => sizes, 5 => remark, 6 => must });

    fn new(must: Option<u64>) -> Vec<u8> {
        let remark = Some(vec!["skip".to_owned(), "me".to_owned()]);
        to_bytes(&New {
            name: "a".into(),
            sizes: vec![1, 1 << 40],
            remark,
            must,
        })
    }

    #[test]
    fn an_unknown_odd_key_is_skipped_and_an_unknown_even_one_refused() {
        let old: Old = from_bytes(&new(None)).expect("loads");
        assert_eq!(
            old,
            Old {
                name: "a".into(),
                sizes: vec![1, 1 << 40],
                note: None
            }
        );
        let error = from_bytes::<Old>(&new(Some(1))).expect_err("critical");
        assert!(error.to_string().contains("key 6 of thing is critical"), "{error}");
    }

    #[test]
    fn a_missing_field_is_named() {
        let error = from_bytes::<Old>(&[0xa1, 0, 0x61, b'x']).expect_err("no sizes");
        assert!(error.to_string().contains("thing has no sizes"), "{error}");
    }

    #[test]
    fn what_is_not_canonical_is_refused() {
        for (bytes, why) in [
            (&[0xbf, 0, 0x60, 2, 0x80, 0xff][..], "definite length"),
            (&[0xa2, 2, 0x80, 0, 0x60], "out of order"),
            (&[0xa2, 0, 0x60, 0, 0x60], "out of order"),
            (&[0xa2, 0, 0x60, 2, 0x80, 0], "left over"),
        ] {
            let error = from_bytes::<Old>(bytes).expect_err(why);
            assert!(error.to_string().contains(why), "{error}");
        }
    }

    #[test]
    fn a_list_cannot_claim_more_elements_than_there_are_bytes() {
        let error = from_bytes::<Vec<u64>>(&[0x9b, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]).expect_err("hostile");
        assert!(error.to_string().contains("4294967295 elements in 0 bytes"), "{error}");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = from_bytes::<Old>(&bytes);
        }

        #[test]
        fn values_read_back(name in ".{0,40}", sizes in prop::collection::vec(any::<u64>(), 0..20), note in prop::option::of(".{0,9}")) {
            let value = Old { name, sizes, note };
            prop_assert_eq!(from_bytes::<Old>(&to_bytes(&value)).expect("reads back"), value);
        }
    }
}
