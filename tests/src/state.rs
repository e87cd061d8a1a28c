//! States that no machine gets into by itself: every field holds something.

use vmstate::state::{Bitmap, MapKey, Schema, StructValue, Value, WireType};

/// A value of the description in which no leaf is zero: no number, no truth value, no option, no sequence, no subsection.
#[must_use]
pub fn nowhere_zero(schema: &Schema) -> StructValue {
    Filler::default().fill(schema)
}

/// Numbers the leaves, so that two that change places differ too.
#[derive(Default)]
struct Filler(u64);

impl Filler {
    fn fill(&mut self, schema: &Schema) -> StructValue {
        let mut value = StructValue::new(schema.version);
        for field in &schema.fields {
            value.set(field.name.clone(), self.value(&field.wire));
        }
        for subsection in &schema.subsections {
            value.set_subsection(subsection.name.clone(), self.fill(&subsection.schema));
        }
        value
    }

    fn value(&mut self, wire: &WireType) -> Value {
        match wire {
            WireType::Bool => Value::Bool(true),
            WireType::U8 => Value::Uint(self.number(u8::MAX.into())),
            WireType::U16 => Value::Uint(self.number(u16::MAX.into())),
            WireType::U32 => Value::Uint(self.number(u32::MAX.into())),
            WireType::U64 => Value::Uint(self.number(u64::MAX)),
            WireType::I8 => Value::Int(self.signed(127)),
            WireType::I16 | WireType::I32 | WireType::I64 => Value::Int(self.signed(i16::MAX)),
            WireType::F64 => Value::F64(f64::from(self.signed_16(i16::MAX))),
            WireType::Bytes { max } => self.bytes(*max),
            WireType::Str { max } => Value::Str("x".repeat(usize::from(*max > 0))),
            WireType::Array { of, len } if **of == WireType::U8 => self.bytes(*len),
            WireType::Seq { of, max } if **of == WireType::U8 => self.bytes((*max).min(3)),
            WireType::Array { of, len } => Value::Array((0..*len).map(|_| self.value(of)).collect()),
            WireType::Seq { of, max } => Value::Array((0..(*max).min(2)).map(|_| self.value(of)).collect()),
            WireType::Bitmap { max } => {
                let mut bits = Bitmap::new((*max).min(9));
                bits.set(0, true);
                Value::Bits(bits)
            }
            WireType::Map { of, max, .. } => {
                let keys = 1..=MapKey::from((*max).min(2));
                Value::Map(keys.map(|key| (key, self.value(of))).collect())
            }
            WireType::Deadline { .. } => Value::Deadline(Some(self.number(u64::MAX))),
            WireType::Fd => panic!("no value of a file descriptor can be written"),
            WireType::Struct(schema) => Value::Struct(self.fill(schema)),
            WireType::Option(of) => Value::Option(Some(Box::new(self.value(of)))),
            WireType::Enum { variants } => Value::Enum(variants.last().expect("an enum has variants").clone()),
        }
    }

    /// A number from 1 to `max`.
    fn number(&mut self, max: u64) -> u64 {
        self.0 += 1;
        self.0 % max + 1
    }

    fn signed_16(&mut self, max: i16) -> i16 {
        let number = self.number(max.unsigned_abs().into());
        i16::try_from(number).expect("below its own type's bound")
    }

    fn signed(&mut self, max: i16) -> i64 {
        i64::from(self.signed_16(max))
    }

    fn bytes(&mut self, count: u32) -> Value {
        let byte = |_| u8::try_from(self.number(u8::MAX.into())).expect("a byte");
        Value::Bytes((0..count).map(byte).collect())
    }
}
