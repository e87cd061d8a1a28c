//! The plain types that a field of a state struct can have.

use std::collections::{BTreeMap, VecDeque};

use super::bitmap::Bitmap;
use super::description::{VmField, VmSequence};
use super::error::{Mismatch, StateError};
use super::path::Step;
use super::value::{MapKey, Value};
use super::wire_type::WireType;

/// The error for a value of another kind than the one that belongs there.
pub(super) fn wrong_kind(expected: impl Into<String>, found: &Value) -> StateError {
    Mismatch::Kind {
        expected: expected.into(),
        found: found.kind(),
    }
    .into()
}

impl VmField for bool {
    fn wire_type() -> WireType {
        WireType::Bool
    }

    fn to_value(&self) -> Value {
        Value::Bool(*self)
    }

    fn from_value(value: &Value) -> Result<Self, StateError> {
        match value {
            Value::Bool(value) => Ok(*value),
            other => Err(wrong_kind("bool", other)),
        }
    }
}

macro_rules! integer {
    ($($int:ident $wire:ident $kind:ident)*) => {$(
        impl VmField for $int {
            fn wire_type() -> WireType {
                WireType::$wire
            }

            fn to_value(&self) -> Value {
                Value::$kind((*self).into())
            }

            fn from_value(value: &Value) -> Result<Self, StateError> {
                match value {
                    Value::$kind(value) => (*value).try_into().map_err(|_| {
                        Mismatch::Range { expected: stringify!($int).into(), value: (*value).into() }.into()
                    }),
                    other => Err(wrong_kind(stringify!($int), other)),
                }
            }
        }
    )*};
}

integer! { u16 U16 Uint  u32 U32 Uint  u64 U64 Uint  i8 I8 Int  i16 I16 Int  i32 I32 Int  i64 I64 Int }

impl VmField for u8 {
    fn wire_type() -> WireType {
        WireType::U8
    }

    fn to_value(&self) -> Value {
        Value::Uint((*self).into())
    }

    fn from_value(value: &Value) -> Result<Self, StateError> {
        match value {
            Value::Uint(value) => u8::try_from(*value).map_err(|_| {
                Mismatch::Range {
                    expected: "u8".into(),
                    value: (*value).into(),
                }
                .into()
            }),
            other => Err(wrong_kind("u8", other)),
        }
    }

    fn run_to_value(run: &[Self]) -> Value {
        Value::Bytes(run.to_vec())
    }

    fn run_from_value(value: &Value) -> Result<Vec<Self>, StateError> {
        match value {
            Value::Bytes(bytes) => Ok(bytes.clone()),
            other => Err(wrong_kind("bytes", other)),
        }
    }
}

impl VmField for f64 {
    fn wire_type() -> WireType {
        WireType::F64
    }

    fn to_value(&self) -> Value {
        Value::F64(*self)
    }

    fn from_value(value: &Value) -> Result<Self, StateError> {
        match value {
            Value::F64(value) => Ok(*value),
            other => Err(wrong_kind("f64", other)),
        }
    }
}

impl<T: VmField, const N: usize> VmField for [T; N] {
    fn wire_type() -> WireType {
        WireType::Array {
            of: Box::new(T::wire_type()),
            len: bounded(N),
        }
    }

    fn to_value(&self) -> Value {
        T::run_to_value(self)
    }

    fn from_value(value: &Value) -> Result<Self, StateError> {
        let elements = T::run_from_value(value)?;
        let len = elements.len();
        elements.try_into().map_err(|_| {
            Mismatch::Length {
                len,
                expected: bounded(N),
            }
            .into()
        })
    }
}

/// A length of a schema as one in memory.
pub(super) fn widened(len: u32) -> usize {
    usize::try_from(len).expect("a usize has 32 bits or more")
}

/// A length as a schema states it. No state has an array of 2^32 elements.
pub(super) fn bounded(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

impl<T: VmField> VmField for Option<T> {
    fn wire_type() -> WireType {
        WireType::Option(Box::new(T::wire_type()))
    }

    fn to_value(&self) -> Value {
        Value::Option(self.as_ref().map(|value| Box::new(value.to_value())))
    }

    fn from_value(value: &Value) -> Result<Self, StateError> {
        match value {
            Value::Option(value) => value.as_deref().map(T::from_value).transpose(),
            other => Err(wrong_kind("an option", other)),
        }
    }
}

impl<T: VmField> VmSequence for Vec<T> {
    fn wire_type(max: u32) -> WireType {
        match T::wire_type() {
            byte if byte.is_byte() => WireType::Bytes { max },
            of => WireType::Seq { of: Box::new(of), max },
        }
    }

    fn to_value(&self) -> Value {
        T::run_to_value(self)
    }

    fn from_value(value: &Value, max: u32) -> Result<Self, StateError> {
        let elements = T::run_from_value(value)?;
        check_len(elements.len(), max)?;
        Ok(elements)
    }
}

impl<T: VmField + Clone> VmSequence for VecDeque<T> {
    fn wire_type(max: u32) -> WireType {
        <Vec<T> as VmSequence>::wire_type(max)
    }

    fn to_value(&self) -> Value {
        let (front, back) = self.as_slices();
        T::run_to_value(&[front, back].concat())
    }

    fn from_value(value: &Value, max: u32) -> Result<Self, StateError> {
        <Vec<T> as VmSequence>::from_value(value, max).map(Self::from)
    }
}

impl VmSequence for String {
    fn wire_type(max: u32) -> WireType {
        WireType::Str { max }
    }

    fn to_value(&self) -> Value {
        Value::Str(self.clone())
    }

    fn from_value(value: &Value, max: u32) -> Result<Self, StateError> {
        match value {
            Value::Str(text) => check_len(text.len(), max).map(|()| text.clone()),
            other => Err(wrong_kind("a text", other)),
        }
    }
}

impl VmSequence for Bitmap {
    fn wire_type(max: u32) -> WireType {
        WireType::Bitmap { max }
    }

    fn to_value(&self) -> Value {
        Value::Bits(self.clone())
    }

    fn from_value(value: &Value, max: u32) -> Result<Self, StateError> {
        match value {
            Value::Bits(bits) => check_len(widened(bits.len()), max).map(|()| bits.clone()),
            other => Err(wrong_kind("a bitmap", other)),
        }
    }
}

impl<K: VmKey, T: VmField> VmSequence for BTreeMap<K, T> {
    fn wire_type(max: u32) -> WireType {
        WireType::Map {
            key: Box::new(K::wire_type()),
            of: Box::new(T::wire_type()),
            max,
        }
    }

    fn to_value(&self) -> Value {
        let entries = self.iter().map(|(key, value)| ((*key).into(), value.to_value()));
        Value::Map(entries.collect())
    }

    fn from_value(value: &Value, max: u32) -> Result<Self, StateError> {
        let Value::Map(entries) = value else {
            return Err(wrong_kind("a map", value));
        };
        check_len(entries.len(), max)?;
        let entry = |(key, value): &(MapKey, Value)| {
            let inside = |error: StateError| error.within(Step::Key(*key));
            let typed = K::try_from(*key).map_err(|_| {
                let expected = K::wire_type().to_string();
                inside(Mismatch::Range { expected, value: *key }.into())
            })?;
            Ok((typed, T::from_value(value).map_err(inside)?))
        };
        entries.iter().map(entry).collect()
    }
}

/// The integers, which can be keys of a map.
pub trait VmKey: VmField + Copy + Ord + Into<MapKey> + TryFrom<MapKey> {}

impl<T: VmField + Copy + Ord + Into<MapKey> + TryFrom<MapKey>> VmKey for T {}

impl<S: VmSequence> VmSequence for Option<S> {
    fn wire_type(max: u32) -> WireType {
        WireType::Option(Box::new(S::wire_type(max)))
    }

    fn to_value(&self) -> Value {
        Value::Option(self.as_ref().map(|value| Box::new(value.to_value())))
    }

    fn from_value(value: &Value, max: u32) -> Result<Self, StateError> {
        match value {
            Value::Option(value) => value.as_deref().map(|value| S::from_value(value, max)).transpose(),
            other => Err(wrong_kind("an option", other)),
        }
    }
}

/// The elements of an array of anything but bytes.
pub(super) fn elements_from_value<T: VmField>(value: &Value) -> Result<Vec<T>, StateError> {
    let Value::Array(elements) = value else {
        return Err(wrong_kind("an array", value));
    };
    let element = |(i, value)| T::from_value(value).map_err(|error| error.within(Step::Index(i)));
    elements.iter().enumerate().map(element).collect()
}

/// Holds a length against a bound.
pub(super) fn check_len(len: usize, max: u32) -> Result<(), StateError> {
    match u32::try_from(len) {
        Ok(fits) if fits <= max => Ok(()),
        _ => Err(Mismatch::TooLong { len, max }.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip<T: VmField + PartialEq + std::fmt::Debug>(original: T) {
        assert_eq!(T::from_value(&original.to_value()), Ok(original));
    }

    #[test]
    fn plain_types_survive_the_way_through_a_value() {
        round_trip(true);
        round_trip(u8::MAX);
        round_trip(u64::MAX);
        round_trip(i64::MIN);
        round_trip(-0.5);
        round_trip([1u8, 2, 3]);
        round_trip([[1u16, 2], [3, 4]]);
        round_trip(Some([false; 2]));
        round_trip(None::<u8>);
    }

    #[test]
    fn a_run_of_bytes_is_bytes_and_not_an_array() {
        assert_eq!([7u8; 3].to_value(), Value::Bytes(vec![7; 3]));
        assert_eq!(<Vec<u8> as VmSequence>::wire_type(9), WireType::Bytes { max: 9 });
    }

    #[test]
    fn an_integer_out_of_range_is_refused_with_its_value() {
        let error = u8::from_value(&Value::Uint(256)).unwrap_err();
        assert_eq!(error.to_string(), "field .: 256 is no u8");
        assert!(u8::from_value(&Value::Int(1)).is_err());
    }

    #[test]
    fn an_array_of_another_length_is_refused() {
        let error = <[u8; 4]>::from_value(&Value::Bytes(vec![0; 3])).unwrap_err();
        assert_eq!(error.mismatch, Mismatch::Length { len: 3, expected: 4 });
    }

    #[test]
    fn an_element_at_fault_is_named_by_its_index() {
        let value = Value::Array(vec![Value::Uint(1), Value::Uint(0x1_0000)]);
        let error = <[u16; 2]>::from_value(&value).unwrap_err();
        assert_eq!(error.to_string(), "field [1]: 65536 is no u16");
    }

    #[test]
    fn a_sequence_above_its_bound_is_refused() {
        let value = vec![1u32, 2, 3].to_value();
        assert!(<Vec<u32> as VmSequence>::from_value(&value, 3).is_ok());
        let error = <Vec<u32> as VmSequence>::from_value(&value, 2).unwrap_err();
        assert_eq!(error.mismatch, Mismatch::TooLong { len: 3, max: 2 });
    }

    #[test]
    fn a_map_keeps_what_is_under_each_key_and_refuses_a_key_out_of_range() {
        let map = BTreeMap::from([(3u8, true), (200, false)]);
        let value = map.to_value();
        assert_eq!(<BTreeMap<u8, bool> as VmSequence>::from_value(&value, 2), Ok(map));
        assert!(<BTreeMap<u8, bool> as VmSequence>::from_value(&value, 1).is_err());
        let error = <BTreeMap<i8, bool> as VmSequence>::from_value(&value, 2).unwrap_err();
        assert_eq!(error.to_string(), "field [=200]: 200 is no i8");
    }

    #[test]
    fn a_bitmap_keeps_each_bit_and_how_many_there_are() {
        let mut bitmap = Bitmap::new(12);
        bitmap.set(11, true);
        let value = bitmap.to_value();
        assert_eq!(<Bitmap as VmSequence>::from_value(&value, 12), Ok(bitmap));
        let error = <Bitmap as VmSequence>::from_value(&value, 11).unwrap_err();
        assert_eq!(error.mismatch, Mismatch::TooLong { len: 12, max: 11 });
    }

    #[test]
    fn a_ring_is_taken_out_in_its_order_wherever_it_starts() {
        let mut ring = VecDeque::from([1u8, 2, 3]);
        ring.rotate_left(1);
        ring.push_back(9);
        let value = ring.to_value();
        assert_eq!(value, Value::Bytes(vec![2, 3, 1, 9]));
        assert_eq!(<VecDeque<u8> as VmSequence>::from_value(&value, 4), Ok(ring));
    }
}
