//! States that differ from a given one in a single field: what a release is asked whether it accepts.
//!
//! It may ask for other states in a later release: what a release accepted is kept as data ([`super::accepted`]).

use vmstate::state::{Bitmap, FieldPath, FieldSchema, Schema, Step, StructValue, Value, WireType};

use super::sample::Extreme;

/// The most elements that a sequence gets.
const MOST: u32 = 4096;
/// Ranges of so many numbers are gone through from end to end.
const FEW: i128 = 16;

/// A field, and another value for it. The field is a whole struct where something of it goes or comes, or where it says how many
/// elements another field has.
pub type Deviation = (FieldPath, Value);

/// The deviations from `here`, a value of `schema`: for each field the numbers at the ends of its range, 0, 1, single bits and an odd
/// one, every variant, nothing and something, empty and full. Of arrays, the first and the last element deviate.
#[must_use]
pub fn deviations(schema: &Schema, here: &StructValue) -> Vec<Deviation> {
    let mut found = Finder::default();
    found.in_struct(&FieldPath::root(), schema, here);
    found.0
}

#[derive(Default)]
struct Finder(Vec<Deviation>);

impl Finder {
    fn in_struct(&mut self, path: &FieldPath, schema: &Schema, here: &StructValue) {
        let mut whole = |value: StructValue| self.0.push((path.clone(), Value::Struct(value)));
        for field in schema.live_fields() {
            let name = &field.name;
            match here.get(name) {
                Some(_) if field.may_be_absent => whole(without(here, name)),
                None => values(&field.wire, field.range)
                    .into_iter()
                    .for_each(|value| whole(here.clone().with(name.clone(), value))),
                Some(_) => {}
            }
            for length in counted(schema, field) {
                whole(with_length(schema, field, here, length));
            }
        }
        for subsection in schema.subsections.iter().filter(|subsection| subsection.optional) {
            match here.subsection(&subsection.name) {
                Some(_) => whole(without(here, &subsection.name)),
                None => Extreme::ALL.iter().for_each(|extreme| {
                    let mut value = here.clone();
                    value.set_subsection(subsection.name.clone(), extreme.of(&subsection.schema));
                    whole(value);
                }),
            }
        }
        for field in schema.live_fields() {
            let is_count = schema
                .live_fields()
                .any(|other| other.length.as_ref() == Some(&field.name));
            // What has to be as the machine is configured is refused as anything else.
            if let Some(value) = here
                .get(&field.name)
                .filter(|_| field.must_equal.is_none() && !is_count)
            {
                let path = path.join(Step::Field(field.name.clone()));
                self.in_value(&path, &field.wire, field, value);
            }
        }
        for subsection in &schema.subsections {
            if let Some(value) = here.subsection(&subsection.name) {
                self.in_struct(
                    &path.join(Step::Field(subsection.name.clone())),
                    &subsection.schema,
                    value,
                );
            }
        }
    }

    fn in_value(&mut self, path: &FieldPath, wire: &WireType, field: &FieldSchema, here: &Value) {
        match (wire, here) {
            (WireType::Struct(schema), Value::Struct(here)) => return self.in_struct(path, schema, here),
            (WireType::Array { of, .. } | WireType::Seq { of, .. }, Value::Array(elements)) => {
                let last = elements.len().checked_sub(1);
                let ends = [last.map(|_| 0), last.filter(|last| *last > 0)];
                for index in ends.into_iter().flatten() {
                    self.in_value(&path.join(Step::Index(index)), of, field, &elements[index]);
                }
            }
            (WireType::Option(of), Value::Option(Some(inner))) if !is_told_apart(of) => {
                self.in_value(path, of, field, inner);
            }
            (WireType::Map { of, .. }, Value::Map(entries)) => {
                if let Some((key, value)) = entries.first() {
                    self.in_value(&path.join(Step::Key(*key)), of, field, value);
                }
            }
            _ => {}
        }
        // The elements of a fixed array deviate by themselves; the number of others is counted elsewhere.
        let bytes = match here {
            Value::Bytes(bytes) if field.length.is_some() || matches!(wire, WireType::Array { .. }) => {
                Some(bytes.len())
            }
            _ => None,
        };
        let others = match (wire, bytes) {
            (_, Some(length)) => contents(length, field.range),
            (WireType::Array { .. }, None) => return,
            (WireType::Seq { .. }, None) if field.length.is_some() => return,
            (wire, None) => values(wire, field.range),
        };
        let mut tried = vec![here.clone()];
        for other in others {
            if !tried.contains(&other) {
                tried.push(other.clone());
                self.0.push((path.clone(), other));
            }
        }
    }
}

/// Whether an option of it has JSON of its own for "something".
fn is_told_apart(of: &WireType) -> bool {
    matches!(of, WireType::Option(_) | WireType::Deadline { .. })
}

/// `value` without the field or subsection of that name.
fn without(value: &StructValue, name: &str) -> StructValue {
    let mut rest = StructValue::new(value.version());
    for (field, value) in value.fields().filter(|(field, _)| *field != name) {
        rest.set(field.clone(), value.clone());
    }
    for (subsection, value) in value.subsections().filter(|(subsection, _)| *subsection != name) {
        rest.set_subsection(subsection.clone(), value.clone());
    }
    rest
}

/// The numbers to try of a field that says how many elements another one has.
fn counted(schema: &Schema, count: &FieldSchema) -> Vec<u32> {
    let of = schema
        .live_fields()
        .filter(|field| field.length.as_ref() == Some(&count.name));
    let most = of.filter_map(|field| match &field.wire {
        WireType::Seq { max, .. } | WireType::Bytes { max } => Some((*max).min(MOST)),
        _ => None,
    });
    let Some(most) = most.min() else { return Vec::new() };
    let mut lengths = vec![0, 1, most / 2, most];
    lengths.retain(|length| {
        count
            .range
            .is_none_or(|(least, most)| (least..=most).contains(&i128::from(*length)))
    });
    lengths.dedup();
    lengths
}

/// `here` where `count` says `length`, and what it counts has as many elements.
fn with_length(schema: &Schema, count: &FieldSchema, here: &StructValue, length: u32) -> StructValue {
    let mut value = here.clone().with(count.name.clone(), Value::Uint(length.into()));
    for field in schema
        .live_fields()
        .filter(|field| field.length.as_ref() == Some(&count.name))
    {
        let wire = match &field.wire {
            WireType::Seq { of, .. } => WireType::Array {
                of: of.clone(),
                len: length,
            },
            _ => WireType::Array {
                of: Box::new(WireType::U8),
                len: length,
            },
        };
        value.set(field.name.clone(), Extreme::Most.of_type(&wire, field.range));
    }
    value
}

/// Runs of `length` bytes.
fn contents(length: usize, range: Option<(i128, i128)>) -> Vec<Value> {
    let (least, most) = range.unwrap_or((0, 0xff));
    let byte = |value: i128| u8::try_from(value).unwrap_or(u8::MAX);
    let (least, most) = (byte(least), byte(most));
    let run = |of: &dyn Fn(usize) -> u8| Value::Bytes((0..length).map(of).collect());
    let ends = [
        run(&|_| least),
        run(&|_| most),
        run(&|index| if index == 0 { most } else { least }),
        run(&|index| if index + 1 == length { most } else { least }),
        run(&|index| if index % 2 == 0 { least } else { most }),
    ];
    ends.into()
}

/// The values to try of a type.
fn values(wire: &WireType, range: Option<(i128, i128)>) -> Vec<Value> {
    let most = |max: u32| max.min(MOST);
    let both = |wire: &WireType| Extreme::ALL.map(|extreme| extreme.of_type(wire, range)).to_vec();
    let lengths = |max: u32| [0, 1, most(max)].map(|length| usize::try_from(length.min(max)).unwrap_or(0));
    match wire {
        WireType::Bool => vec![Value::Bool(false), Value::Bool(true)],
        WireType::U8 => unsigned(8, range),
        WireType::U16 => unsigned(16, range),
        WireType::U32 => unsigned(32, range),
        WireType::U64 => unsigned(64, range),
        WireType::I8 => signed(8, range),
        WireType::I16 => signed(16, range),
        WireType::I32 => signed(32, range),
        WireType::I64 => signed(64, range),
        WireType::F64 => {
            let numbers = [
                0.0,
                -0.0,
                1.0,
                -1.5,
                f64::MAX,
                f64::INFINITY,
                f64::NEG_INFINITY,
                f64::NAN,
            ];
            numbers.map(Value::F64).to_vec()
        }
        WireType::Bytes { max } => lengths(*max)
            .into_iter()
            .flat_map(|length| contents(length, range))
            .collect(),
        WireType::Seq { of, max } if **of == WireType::U8 => values(&WireType::Bytes { max: *max }, range),
        WireType::Array { of, len } if **of == WireType::U8 => contents(usize::try_from(*len).unwrap_or(0), range),
        WireType::Str { max } => lengths(*max).map(|length| Value::Str("x".repeat(length))).to_vec(),
        WireType::Seq { of, max } => {
            let of_length = |len| match len {
                0 => vec![Value::Array(Vec::new())],
                len => both(&WireType::Array { of: of.clone(), len }),
            };
            [0, 1.min(*max), most(*max)].into_iter().flat_map(of_length).collect()
        }
        WireType::Bitmap { max } => {
            let mut bitmaps = Vec::new();
            for length in [0, 1.min(*max), most(*max)] {
                let mut bits = Bitmap::new(length);
                bitmaps.push(Value::Bits(bits.clone()));
                bits.set(length.saturating_sub(1), true);
                bitmaps.push(Value::Bits(bits.clone()));
                (0..length).for_each(|bit| _ = bits.set(bit, true));
                bitmaps.push(Value::Bits(bits));
            }
            bitmaps
        }
        WireType::Map { key, of, max } => {
            let of_length = |max| {
                let (key, of) = (key.clone(), of.clone());
                Extreme::Most.of_type(&WireType::Map { key, of, max }, range)
            };
            [0, 1.min(*max), (*max).min(16)].map(of_length).to_vec()
        }
        WireType::Option(of) => {
            let something = values(of, range)
                .into_iter()
                .map(|value| Value::Option(Some(Box::new(value))));
            std::iter::once(Value::Option(None)).chain(something).collect()
        }
        WireType::Enum { variants } => variants.iter().cloned().map(Value::Enum).collect(),
        WireType::Deadline { .. } => {
            let times = [
                None,
                Some(0),
                Some(1),
                Some(1_000_000_007),
                Some(u64::MAX - 1),
                Some(u64::MAX),
            ];
            times.map(Value::Deadline).to_vec()
        }
        WireType::Struct(_) | WireType::Array { .. } => both(wire),
        WireType::Fd => Vec::new(),
    }
}

fn unsigned(bits: u32, range: Option<(i128, i128)>) -> Vec<Value> {
    let numbers = numbers(range.unwrap_or((0, (1 << bits) - 1)));
    numbers
        .filter_map(|number| u64::try_from(number).ok().map(Value::Uint))
        .collect()
}

fn signed(bits: u32, range: Option<(i128, i128)>) -> Vec<Value> {
    let numbers = numbers(range.unwrap_or((-(1 << (bits - 1)), (1 << (bits - 1)) - 1)));
    numbers
        .filter_map(|number| i64::try_from(number).ok().map(Value::Int))
        .collect()
}

/// The numbers to try from `least` to `most`.
fn numbers((least, most): (i128, i128)) -> impl Iterator<Item = i128> {
    let mut numbers: Vec<_> = if most - least < FEW {
        (least..=most).collect()
    } else {
        // All bits of registers of a byte or two; of wider ones those at which something ends.
        let bits: &[u32] = if most <= 0xffff {
            &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
        } else {
            &[0, 1, 8, 16, 31, 32, 47, 63]
        };
        let bits = bits.iter().map(|bit| 1_i128 << bit);
        let ends = [least, least + 1, most - 1, most, -1, 0, 3];
        let odd = [least + (most - least) / 3];
        let mut all: Vec<_> = bits.chain(ends).chain(odd).collect();
        all.retain(|number| (least..=most).contains(number));
        all
    };
    numbers.sort_unstable();
    numbers.dedup();
    numbers.into_iter()
}
