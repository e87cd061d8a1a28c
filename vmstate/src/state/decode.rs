//! The walker that reads what [`encode`](super::encode()) wrote.
//!
//! It is total: any bytes whatever give a value of the schema or an error. Whatever takes memory has taken at least one
//! byte of the input, with the depth bounded by the schema's own check, and room is made for elements that are there
//! and not for those that a count claims.

use serde::de::DeserializeOwned;

use super::name::Name;
use super::path::{FieldPath, Step};
use super::schema::{FieldSchema, Schema, SubsectionSchema, WireType};
use super::value::{StructValue, Value};

/// Bytes that are no value of the schema that they are said to follow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the state of `{description}` cannot be read: field {path}, at byte {offset}: {fault}")]
pub struct DecodeError {
    /// The description of the section.
    pub description: Name,
    /// The field that was being read.
    pub path: FieldPath,
    /// How many bytes into the section it was.
    pub offset: usize,
    /// What is wrong there.
    pub fault: DecodeFault,
}

/// What is wrong with the bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeFault {
    /// The bytes end before the value does.
    #[error("the section ends in the middle of it")]
    Truncated,
    /// There are bytes behind the value.
    #[error("{0} bytes are left over behind the last field")]
    Trailing(usize),
    /// A leaf that has no such encoding.
    #[error("the bytes are no {0}")]
    Leaf(String),
    /// A length above the bound of the schema.
    #[error("it claims a length of {len}, and the description allows at most {max}")]
    TooLong {
        /// The length claimed.
        len: u32,
        /// The bound.
        max: u32,
    },
    /// A length that the bytes that follow cannot fill.
    #[error("it claims a length of {len}, and only {left} bytes follow")]
    Unfilled {
        /// The length claimed.
        len: u32,
        /// How many bytes there are.
        left: usize,
    },
    /// A text that is no UTF-8.
    #[error("the text is no UTF-8")]
    Utf8,
    /// An index that no variant has.
    #[error("it is variant {index} of {variants}")]
    Variant {
        /// The index.
        index: u32,
        /// How many variants there are.
        variants: usize,
    },
    /// A struct of another version than its schema's.
    #[error("it is of version {found}, and its description of version {described}")]
    Version {
        /// The version that the bytes give.
        found: u32,
        /// The version of the schema.
        described: u32,
    },
    /// A subsection that the schema does not have.
    #[error("the description has no subsection `{0}`")]
    UnknownSubsection(String),
    /// A subsection that is there twice or not in its place.
    #[error("its subsection `{0}` is not in its place")]
    MisplacedSubsection(Name),
    /// A subsection that is always sent is not there.
    #[error("its subsection `{0}` is missing")]
    MissingSubsection(Name),
}

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
        self.take_subsections(schema, &mut value)?;
        Ok(value)
    }

    fn take_field(&mut self, field: &FieldSchema) -> Result<Option<Value>, Fault> {
        if field.may_be_absent && !self.leaf::<bool>(&WireType::Bool)? {
            return Ok(None);
        }
        self.take(&field.wire).map(Some)
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
