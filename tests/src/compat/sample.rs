//! Values of a schema at its two ends: the least that a writer can have, and the most.

use vmstate::state::{Bitmap, FieldSchema, MapKey, Schema, StructValue, Value, WireType};

/// Which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extreme {
    /// The lowest numbers, the first variants, and nothing where there can be nothing.
    Least,
    /// The highest numbers, the last variants, everything that there can be, and as much of it as fits.
    Most,
}

impl Extreme {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Least, Self::Most];

    /// The value of `schema` at this end, of its own version. What is left out when it is its default is left out.
    ///
    /// # Panics
    ///
    /// If the schema has a file descriptor, of which there are no values.
    #[must_use]
    pub fn of(self, schema: &Schema) -> StructValue {
        let mut value = StructValue::new(schema.version);
        for field in schema.live_fields() {
            let contents = self.of_field(schema, field);
            let is_absent = field.may_be_absent && self == Self::Least;
            let is_skipped = field.skip_when_default && field.default.as_ref() == Some(&contents);
            if !is_absent && !is_skipped {
                value.set(field.name.clone(), contents);
            }
        }
        for subsection in &schema.subsections {
            if !subsection.optional || self == Self::Most {
                value.set_subsection(subsection.name.clone(), self.of(&subsection.schema));
            }
        }
        value
    }

    fn of_field(self, schema: &Schema, field: &FieldSchema) -> Value {
        // A field that says how many elements another one has says how many that one has here.
        let counted = schema
            .live_fields()
            .find(|other| other.length.as_ref() == Some(&field.name));
        if let Some(counted) = counted {
            let length = match (self, &counted.wire) {
                (Self::Most, WireType::Seq { max, .. } | WireType::Bytes { max }) => *max,
                _ => 0,
            };
            return Value::Uint(length.into());
        }
        self.of_type(&field.wire, field.range)
    }

    /// The value of a type at this end, where integers can be those of `range`.
    ///
    /// # Panics
    ///
    /// As [`Self::of`].
    #[must_use]
    pub fn of_type(self, wire: &WireType, range: Option<(i128, i128)>) -> Value {
        let unsigned = |bits: u32| {
            let (least, most) = range.unwrap_or((0, (1 << bits) - 1));
            Value::Uint(u64::try_from(self.pick(least, most)).expect("within 64 bits"))
        };
        let signed = |bits: u32| {
            let (least, most) = range.unwrap_or((-(1 << (bits - 1)), (1 << (bits - 1)) - 1));
            Value::Int(i64::try_from(self.pick(least, most)).expect("within 64 bits"))
        };
        let length = |max: u32| usize::try_from(self.pick(0, max)).expect("small enough to be made");
        let repeat = |of: &WireType, count: usize| match of {
            WireType::U8 => {
                let (least, most) = range.unwrap_or((0, 0xff));
                let byte = u8::try_from(self.pick(least, most)).expect("a byte");
                Value::Bytes(vec![byte; count])
            }
            of => Value::Array(vec![self.of_type(of, range); count]),
        };
        match wire {
            WireType::Bool => Value::Bool(self == Self::Most),
            WireType::U8 => unsigned(8),
            WireType::U16 => unsigned(16),
            WireType::U32 => unsigned(32),
            WireType::U64 => unsigned(64),
            WireType::I8 => signed(8),
            WireType::I16 => signed(16),
            WireType::I32 => signed(32),
            WireType::I64 => signed(64),
            WireType::F64 => Value::F64(self.pick(f64::NEG_INFINITY, f64::INFINITY)),
            WireType::Bytes { max } => repeat(&WireType::U8, length(*max)),
            WireType::Str { max } => Value::Str("x".repeat(length(*max))),
            WireType::Array { of, len } => repeat(of, usize::try_from(*len).expect("small enough to be made")),
            WireType::Seq { of, max } => repeat(of, length(*max)),
            WireType::Bitmap { max } => {
                let mut bits = Bitmap::new(self.pick(0, *max));
                (0..bits.len()).for_each(|bit| _ = bits.set(bit, true));
                Value::Bits(bits)
            }
            WireType::Map { key, of, max } => {
                let last = match self.of_type(key, None) {
                    Value::Int(key) => MapKey::from(key),
                    Value::Uint(key) => MapKey::from(key),
                    other => unreachable!("{other} is no key"),
                };
                let keys = last - MapKey::from(self.pick(0, *max)) + 1..=last;
                Value::Map(keys.map(|key| (key, self.of_type(of, range))).collect())
            }
            WireType::Struct(schema) => Value::Struct(self.of(schema)),
            WireType::Option(of) => Value::Option((self == Self::Most).then(|| Box::new(self.of_type(of, range)))),
            WireType::Enum { variants } => {
                let variant = self.pick(variants.first(), variants.last());
                Value::Enum(variant.expect("an enum has variants").clone())
            }
            WireType::Deadline { .. } => Value::Deadline(self.pick(None, Some(u64::MAX))),
            WireType::Fd => panic!("no value of a file descriptor can be written"),
        }
    }

    fn pick<T>(self, least: T, most: T) -> T {
        match self {
            Self::Least => least,
            Self::Most => most,
        }
    }
}
