//! The one table of what becomes what: how values of a writer's type turn into values of a reader's.
//!
//! [`compare`](super::compare()) reads it to predict and [`adapt`](super::adapt()) to act, so that the two cannot come
//! apart.

use super::schema::Schema;
use super::verdict::{Condition, Obstacle, Verdict};
use super::wire_type::WireType;

/// How values of one type turn into values of another.
pub(super) enum Relation<'a> {
    /// The value stays as it is, if it may.
    Stays(Verdict),
    /// Field by field.
    Structs { writer: &'a Schema, reader: &'a Schema },
    /// Element by element.
    Elements {
        writer: &'a WireType,
        reader: &'a WireType,
        /// What is asked of the number of elements.
        length: Verdict,
        /// Whether no elements at all are possible on both sides.
        may_be_empty: bool,
    },
    /// Value by value, each under its key.
    Maps {
        writer: &'a WireType,
        reader: &'a WireType,
        /// What is asked of the keys.
        keys: Verdict,
        /// What is asked of the number of values.
        length: Verdict,
    },
    /// What the option holds, if it holds something.
    Options { writer: &'a WireType, reader: &'a WireType },
    /// The value becomes the contents of an option.
    Wrapped { reader: &'a WireType },
    /// The contents of the option become the value; there must be some.
    Unwrapped { writer: &'a WireType },
}

impl<'a> Relation<'a> {
    pub(super) fn between(writer: &'a WireType, reader: &'a WireType) -> Self {
        if let (Some(writer), Some(reader)) = (Integer::of(writer), Integer::of(reader)) {
            return Self::Stays(writer.verdict_in(reader));
        }
        if let (Some(from), Some(to)) = (Run::of(writer), Run::of(reader)) {
            let length = from
                .count
                .verdict_in(to.count)
                .unwrap_or_else(|| retyped(writer, reader));
            return match (from.of, to.of) {
                (WireType::U8, WireType::U8) => Self::Stays(length),
                (writer, reader) => Self::Elements {
                    writer,
                    reader,
                    length,
                    may_be_empty: matches!((from.count, to.count), (Count::AtMost(_), Count::AtMost(_))),
                },
            };
        }
        match (writer, reader) {
            (WireType::Bool, WireType::Bool) | (WireType::F64, WireType::F64) => Self::Stays(Verdict::Loads),
            (WireType::Str { max: from }, WireType::Str { max: to }) => {
                let lengths = Count::AtMost(*from).verdict_in(Count::AtMost(*to));
                Self::Stays(lengths.unwrap_or_else(|| retyped(writer, reader)))
            }
            (WireType::Enum { variants: from }, WireType::Enum { variants: to }) => {
                let lost: Vec<_> = from.iter().filter(|variant| !to.contains(variant)).cloned().collect();
                Self::Stays(match lost.len() {
                    0 => Verdict::Loads,
                    all if all == from.len() => retyped(writer, reader),
                    _ => Verdict::LoadsOnlyIf(Condition::NoneOf(lost)),
                })
            }
            (WireType::Bitmap { max: from }, WireType::Bitmap { max: to }) => {
                let lengths = Count::AtMost(*from).verdict_in(Count::AtMost(*to));
                Self::Stays(lengths.unwrap_or_else(|| retyped(writer, reader)))
            }
            (
                WireType::Map { key, of, max },
                WireType::Map {
                    key: to,
                    of: into,
                    max: most,
                },
            ) => Self::Maps {
                writer: of,
                reader: into,
                keys: keys(key, to),
                length: Count::AtMost(*max)
                    .verdict_in(Count::AtMost(*most))
                    .unwrap_or_else(|| retyped(writer, reader)),
            },
            (WireType::Deadline { clock: from }, WireType::Deadline { clock: to }) if from == to => {
                Self::Stays(Verdict::Loads)
            }
            (WireType::Fd, WireType::Fd) => Self::Stays(Verdict::DoesNot(Obstacle::FileDescriptor)),
            (WireType::Struct(writer), WireType::Struct(reader)) => Self::Structs { writer, reader },
            (WireType::Option(writer), WireType::Option(reader)) => Self::Options { writer, reader },
            (_, WireType::Option(reader)) => Self::Wrapped { reader },
            (WireType::Option(writer), _) => Self::Unwrapped { writer },
            _ => Self::Stays(retyped(writer, reader)),
        }
    }
}

/// What is asked of the keys of a map.
fn keys(writer: &WireType, reader: &WireType) -> Verdict {
    let (Some(from), Some(to)) = (Integer::of(writer), Integer::of(reader)) else {
        return retyped(writer, reader);
    };
    match from.verdict_in(to) {
        Verdict::LoadsOnlyIf(Condition::Between { least, most }) => {
            Verdict::LoadsOnlyIf(Condition::KeysBetween { least, most })
        }
        other => other,
    }
}

/// The first and the last value of a type of integers.
pub(super) fn integer_bounds(wire: &WireType) -> Option<(i128, i128)> {
    Integer::of(wire).map(Integer::bounds)
}

fn retyped(writer: &WireType, reader: &WireType) -> Verdict {
    Verdict::DoesNot(Obstacle::Retyped {
        writer: writer.to_string(),
        reader: reader.to_string(),
    })
}

/// The range of an integer type. A change of sign is a change of type: it is never only a matter of width.
#[derive(Clone, Copy)]
struct Integer {
    signed: bool,
    bits: u32,
}

impl Integer {
    fn of(wire: &WireType) -> Option<Self> {
        let (signed, bits) = match wire {
            WireType::U8 => (false, 8),
            WireType::U16 => (false, 16),
            WireType::U32 => (false, 32),
            WireType::U64 => (false, 64),
            WireType::I8 => (true, 8),
            WireType::I16 => (true, 16),
            WireType::I32 => (true, 32),
            WireType::I64 => (true, 64),
            _ => return None,
        };
        Some(Self { signed, bits })
    }

    fn verdict_in(self, reader: Self) -> Verdict {
        if self.signed != reader.signed {
            return Verdict::DoesNot(Obstacle::Retyped {
                writer: self.to_string(),
                reader: reader.to_string(),
            });
        }
        if self.bits <= reader.bits {
            return Verdict::Loads;
        }
        let (least, most) = reader.bounds();
        Verdict::LoadsOnlyIf(Condition::Between { least, most })
    }

    fn bounds(self) -> (i128, i128) {
        match self.signed {
            false => (0, (1i128 << self.bits) - 1),
            true => (-(1i128 << (self.bits - 1)), (1i128 << (self.bits - 1)) - 1),
        }
    }
}

impl std::fmt::Display for Integer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", if self.signed { "i" } else { "u" }, self.bits)
    }
}

/// A type that is a number of elements of another: fixed arrays, sequences and bytes.
struct Run<'a> {
    of: &'a WireType,
    count: Count,
}

#[derive(Clone, Copy)]
enum Count {
    Exactly(u32),
    AtMost(u32),
}

impl<'a> Run<'a> {
    fn of(wire: &'a WireType) -> Option<Self> {
        match wire {
            WireType::Array { of, len } => Some(Self {
                of,
                count: Count::Exactly(*len),
            }),
            WireType::Seq { of, max } => Some(Self {
                of,
                count: Count::AtMost(*max),
            }),
            WireType::Bytes { max } => Some(Self {
                of: &WireType::U8,
                count: Count::AtMost(*max),
            }),
            _ => None,
        }
    }
}

impl Count {
    /// What is asked of a number of the writer's for the reader to take it, or `None` if it never can.
    fn verdict_in(self, reader: Self) -> Option<Verdict> {
        match (self, reader) {
            (Self::Exactly(from), Self::Exactly(to)) => (from == to).then_some(Verdict::Loads),
            (Self::Exactly(from), Self::AtMost(to)) => (from <= to).then_some(Verdict::Loads),
            (Self::AtMost(from), Self::AtMost(to)) if from <= to => Some(Verdict::Loads),
            (Self::AtMost(_), Self::AtMost(to)) => Some(Verdict::LoadsOnlyIf(Condition::LengthAtMost(to))),
            (Self::AtMost(from), Self::Exactly(to)) => {
                (to <= from).then_some(Verdict::LoadsOnlyIf(Condition::LengthIs(to)))
            }
        }
    }
}
