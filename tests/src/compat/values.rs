//! Any legal state of a description.

use std::collections::BTreeMap;

use vmstate::state::{Bitmap, FieldSchema, MapKey, Name, Schema, StructValue, Value, WireType};

use super::random::Random;

/// The most elements that a sequence gets as a rule; now and then one is full.
const USUAL: u32 = 24;
/// The most elements that a sequence gets at all.
const MOST: u32 = 4096;

/// Any value of `schema`. What has to be as the machine is configured is as in `here`, a value of the same schema.
///
/// # Panics
///
/// If the schema has a file descriptor, of which there are no values.
#[must_use]
pub fn legal_value(schema: &Schema, here: &StructValue, random: &mut Random) -> StructValue {
    let counts = counts(schema, random);
    let mut value = StructValue::new(schema.version);
    for field in schema.live_fields() {
        let here = here.get(&field.name);
        if field.may_be_absent && random.one_in(4) {
            continue;
        }
        let of_field = match here {
            Some(here) if field.must_equal.is_some() => here.clone(),
            _ => Maker {
                random,
                range: field.range,
            }
            .field(field, &counts, here),
        };
        value.set(field.name.clone(), of_field);
    }
    for subsection in &schema.subsections {
        if !subsection.optional || random.one_in(2) {
            let name = &subsection.name;
            let nothing = StructValue::new(subsection.schema.version);
            let here = here.subsection(name).unwrap_or(&nothing);
            value.set_subsection(name.clone(), legal_value(&subsection.schema, here, random));
        }
    }
    value
}

/// The values of those fields that say how many elements others have.
fn counts(schema: &Schema, random: &mut Random) -> BTreeMap<Name, u32> {
    let mut most = BTreeMap::new();
    for field in schema.live_fields() {
        if let (Some(count), WireType::Seq { max, .. } | WireType::Bytes { max }) = (&field.length, &field.wire) {
            let most = most.entry(count.clone()).or_insert(*max);
            *most = (*most).min(*max);
        }
    }
    for (name, most) in &mut most {
        let range = schema
            .field(name)
            .and_then(|count| count.range)
            .unwrap_or((0, i128::from(*most)));
        let count = random.between(range.0, range.1.min(i128::from(*most)));
        *most = u32::try_from(count).unwrap_or(0);
    }
    most
}

struct Maker<'a> {
    random: &'a mut Random,
    /// What integers can be.
    range: Option<(i128, i128)>,
}

impl Maker<'_> {
    fn field(&mut self, field: &FieldSchema, counts: &BTreeMap<Name, u32>, here: Option<&Value>) -> Value {
        if let Some(count) = counts.get(&field.name) {
            return Value::Uint(u64::from(*count));
        }
        let count = field.length.as_ref().and_then(|length| counts.get(length));
        match (&field.wire, count) {
            (WireType::Seq { of, .. }, Some(count)) => self.run(of, *count, here),
            (WireType::Bytes { .. }, Some(count)) => self.run(&WireType::U8, *count, here),
            (wire, _) => self.value(wire, here),
        }
    }

    fn value(&mut self, wire: &WireType, here: Option<&Value>) -> Value {
        match wire {
            WireType::Bool => Value::Bool(self.random.one_in(2)),
            WireType::U8 => self.unsigned(u8::MAX.into()),
            WireType::U16 => self.unsigned(u16::MAX.into()),
            WireType::U32 => self.unsigned(u32::MAX.into()),
            WireType::U64 => self.unsigned(u64::MAX),
            WireType::I8 => self.signed(i8::MIN.into(), i8::MAX.into()),
            WireType::I16 => self.signed(i16::MIN.into(), i16::MAX.into()),
            WireType::I32 => self.signed(i32::MIN.into(), i32::MAX.into()),
            WireType::I64 => self.signed(i64::MIN, i64::MAX),
            WireType::F64 => Value::F64(f64::from_bits(self.random.next())),
            WireType::Bytes { max } => {
                let len = self.length(*max);
                self.run(&WireType::U8, len, here)
            }
            WireType::Str { max } => {
                let len = self.length(*max);
                let letter = |_| char::from(b'a' + self.random.byte() % 26);
                Value::Str((0..len).map(letter).collect())
            }
            WireType::Bitmap { max } => {
                let mut bits = Bitmap::new(self.length(*max));
                (0..bits.len()).for_each(|bit| _ = bits.set(bit, self.random.one_in(2)));
                Value::Bits(bits)
            }
            WireType::Array { of, len } => self.run(of, *len, here),
            WireType::Seq { of, max } => {
                let len = self.length(*max);
                self.run(of, len, here)
            }
            WireType::Map { key, of, max } => self.map(key, of, *max, here),
            WireType::Struct(schema) => {
                let nothing = StructValue::new(schema.version);
                let here = match here {
                    Some(Value::Struct(here)) => here,
                    _ => &nothing,
                };
                Value::Struct(legal_value(schema, here, self.random))
            }
            WireType::Option(of) => {
                let there = self.random.one_in(2);
                let here = match here {
                    Some(Value::Option(Some(here))) => Some(&**here),
                    _ => None,
                };
                Value::Option(there.then(|| Box::new(self.value(of, here))))
            }
            WireType::Enum { variants } => Value::Enum(self.random.pick(variants).clone()),
            WireType::Deadline { .. } => {
                let armed = self.random.one_in(2);
                Value::Deadline(armed.then(|| self.random.next()))
            }
            WireType::Fd => panic!("no value of a file descriptor can be written"),
        }
    }

    fn unsigned(&mut self, most: u64) -> Value {
        let number = self.integer(0, most.into());
        Value::Uint(u64::try_from(number).expect("in its bounds"))
    }

    fn signed(&mut self, least: i64, most: i64) -> Value {
        let number = self.integer(least.into(), most.into());
        Value::Int(i64::try_from(number).expect("in its bounds"))
    }

    fn integer(&mut self, least: i128, most: i128) -> i128 {
        let (least, most) = self.range.unwrap_or((least, most));
        self.random.between(least, most)
    }

    fn length(&mut self, max: u32) -> u32 {
        let most = if self.random.one_in(16) { MOST } else { USUAL };
        let len = self.random.between(0, max.min(most).into());
        u32::try_from(len).expect("in its bounds")
    }

    fn run(&mut self, of: &WireType, len: u32, here: Option<&Value>) -> Value {
        let range = self.range.unwrap_or((0, 255));
        if *of == WireType::U8 {
            let byte = |_| u8::try_from(self.random.between(range.0, range.1)).expect("in its bounds");
            return Value::Bytes((0..len).map(byte).collect());
        }
        let here: &[Value] = match here {
            Some(Value::Array(here)) => here,
            _ => &[],
        };
        let len = usize::try_from(len).expect("it is bounded");
        Value::Array((0..len).map(|index| self.value(of, here.get(index))).collect())
    }

    fn map(&mut self, key: &WireType, of: &WireType, max: u32, here: Option<&Value>) -> Value {
        let here: BTreeMap<MapKey, &Value> = match here {
            Some(Value::Map(here)) => here.iter().map(|(key, value)| (*key, value)).collect(),
            _ => BTreeMap::new(),
        };
        let range = self.range.take();
        let keys = (0..self.length(max)).map(|_| match self.value(key, None) {
            Value::Uint(key) => MapKey::from(key),
            Value::Int(key) => MapKey::from(key),
            other => unreachable!("{other} is no key"),
        });
        let keys: Vec<_> = keys.collect();
        self.range = range;
        let entries = keys
            .into_iter()
            .map(|key| (key, self.value(of, here.get(&key).copied())));
        let entries: BTreeMap<_, _> = entries.collect();
        Value::Map(entries.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet, VecDeque};

    use vmstate::state::{Deadline, VirtualClock, VmState, decode, encode};

    use super::*;

    #[derive(Clone, Debug, Default, PartialEq, VmState)]
    struct Part {
        number: i16,
    }

    #[derive(Clone, Debug, Default, PartialEq, VmState)]
    struct Kinds {
        truth: bool,
        #[vmstate(range = 3..=9)]
        few: u32,
        #[vmstate(range = -2..=-1)]
        negative: [i64; 3],
        real: f64,
        #[vmstate(max = 8)]
        count: Option<Vec<u16>>,
        used: u8,
        #[vmstate(length = used)]
        table: [u32; 5],
        #[vmstate(max = 4)]
        text: String,
        #[vmstate(max = 9)]
        bits: Bitmap,
        #[vmstate(max = 6)]
        by_number: BTreeMap<u8, Part>,
        #[vmstate(max = 3)]
        queue: VecDeque<u8>,
        timer: Deadline<VirtualClock>,
        #[vmstate(must_equal(hint = "as it is"))]
        fixed: u8,
        #[vmstate(may_be_absent)]
        perhaps: Option<u8>,
        #[vmstate(subsection(needed = Kinds::has_more))]
        more: Part,
    }

    impl Kinds {
        fn has_more(&self) -> bool {
            self.more != Part::default()
        }
    }

    #[test]
    fn every_value_is_legal_and_loads_and_what_may_be_absent_sometimes_is() {
        let here = Kinds {
            fixed: 7,
            ..Kinds::default()
        }
        .to_value();
        let schema = Kinds::schema();
        let mut seen = BTreeSet::new();
        for case in 0..200 {
            let value = legal_value(schema, &here, &mut Random::new(1, "kinds", case));
            let bytes = encode(schema, &value).expect("legal");
            let kinds = Kinds::from_value(&decode(schema, &bytes).expect("whole")).expect("it loads");
            assert_eq!(kinds.fixed, 7);
            seen.insert(("used", usize::from(kinds.used)));
            seen.insert(("subsection", usize::from(value.subsection("more").is_some())));
            seen.insert(("perhaps", usize::from(value.get("perhaps").is_some())));
            seen.insert(("text", kinds.text.len()));
            seen.insert(("bits", usize::try_from(kinds.bits.len()).expect("few")));
            seen.insert(("few", usize::try_from(kinds.few).expect("few")));
        }
        let wanted = [
            ("used", 0..6),
            ("subsection", 0..2),
            ("perhaps", 0..2),
            ("text", 0..5),
            ("bits", 0..10),
            ("few", 3..10),
        ];
        let wanted: BTreeSet<_> = wanted
            .into_iter()
            .flat_map(|(what, values)| values.map(move |value| (what, value)))
            .collect();
        assert_eq!(seen, wanted);
    }
}
