//! Strategies for the properties: any schema, any value of it, and a schema that is a few edits away.

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::string::string_regex;

use super::relation::integer_bounds;
use super::{Bitmap, Description, FieldSchema, Name, Schema, StructValue, SubsectionSchema, Value, WireType};

/// Any schema and any value of it.
pub(super) fn schema_and_value() -> impl Strategy<Value = (Schema, StructValue)> {
    schema().prop_flat_map(|schema| (Just(schema.clone()), struct_value(&schema)))
}

/// Any schema and any two values of it.
pub(super) fn schema_and_values() -> impl Strategy<Value = (Schema, StructValue, StructValue)> {
    schema().prop_flat_map(|schema| (Just(schema.clone()), struct_value(&schema), struct_value(&schema)))
}

/// A writer's schema, a value of it, and the schema of a reader that is related to the writer.
pub(super) fn writer_value_reader() -> impl Strategy<Value = (Schema, StructValue, Schema)> {
    (schema(), edits()).prop_flat_map(|(writer, edits)| {
        let reader = edit_schema(&writer, &mut edits.into_iter());
        (Just(writer.clone()), struct_value(&writer), Just(reader))
    })
}

/// Any schema.
pub(super) fn schema() -> BoxedStrategy<Schema> {
    schema_of_depth(2)
}

fn schema_of_depth(depth: u32) -> BoxedStrategy<Schema> {
    let subsections = match depth {
        0 => Just(Vec::new()).boxed(),
        _ => vec(subsection(depth - 1), 0..3).boxed(),
    };
    let versions = (1..4u32).prop_flat_map(|version| (Just(version), 1..=version));
    (versions, any::<i32>(), vec(field(depth), 0..5), subsections)
        .prop_map(|((version, minimum_version), priority, fields, subsections)| {
            let fields = fields
                .into_iter()
                .enumerate()
                .map(|(i, field)| place(field, i, version, minimum_version));
            let subsections = subsections
                .into_iter()
                .enumerate()
                .map(|(i, subsection)| SubsectionSchema {
                    name: format!("sub{i}").into(),
                    ..subsection
                });
            let description = Description {
                name: "any".into(),
                version,
                minimum_version,
                priority,
                fields: fields.collect(),
                subsections: subsections.collect(),
            };
            description.check().expect("the strategy makes legal schemas")
        })
        .boxed()
}

/// A subsection, under no name yet.
fn subsection(depth: u32) -> impl Strategy<Value = SubsectionSchema> {
    let schema_and_absent = schema_of_depth(depth).prop_flat_map(|schema| {
        let absent = option::of(struct_value(&schema));
        (Just(schema), absent)
    });
    (any::<bool>(), schema_and_absent).prop_map(|(optional, (schema, absent))| SubsectionSchema {
        name: "unnamed".into(),
        optional,
        schema,
        absent: absent.filter(|_| optional),
    })
}

/// A field's type and default, another value, and raw numbers from which its life is made once its struct's version is
/// known.
type AnyField = (WireType, Value, Value, [bool; 4], u32, u32);

fn field(depth: u32) -> impl Strategy<Value = AnyField> {
    let wire_and_values = wire_type(depth).prop_flat_map(|wire| (Just(wire.clone()), value(&wire), value(&wire)));
    (wire_and_values, any::<[bool; 4]>(), 0..6u32, 0..6u32)
        .prop_map(|((wire, default, other), flags, since, until)| (wire, default, other, flags, since, until))
}

/// Names a field and gives it a legal life.
fn place(field: AnyField, index: usize, version: u32, minimum_version: u32) -> FieldSchema {
    let (wire, default, other, [may_be_absent, defaulted, skipped, ranged], since, until) = field;
    let since = if since < version { since + 1 } else { 1 };
    let until = (since < until && until <= version).then_some(until);
    let needs_default = since > minimum_version || until.is_some();
    let range = (ranged && wire.is_integer())
        .then(|| range_of(&default, &other))
        .flatten();
    let default = (!may_be_absent && (defaulted || needs_default)).then_some(default);
    let field = FieldSchema {
        since,
        until,
        may_be_absent,
        default,
        range,
        ..FieldSchema::new(format!("field{index}"), wire)
    };
    let skipping = FieldSchema {
        skip_when_default: skipped,
        ..field.clone()
    };
    if is_legal(&skipping) { skipping } else { field }
}

/// The range from the lesser to the greater of two integers.
fn range_of(a: &Value, b: &Value) -> Option<(i128, i128)> {
    let (a, b) = (a.integers().next()?, b.integers().next()?);
    Some((a.min(b), a.max(b)))
}

/// Whether a field is legal in some description, its life aside.
fn is_legal(field: &FieldSchema) -> bool {
    let probe = Description {
        fields: vec![FieldSchema {
            since: 1,
            until: None,
            ..field.clone()
        }],
        ..Description::new("p")
    };
    probe.check().is_ok()
}

const VARIANTS: [&str; 4] = ["edge", "level", "pulse", "none"];

fn leaf_type() -> impl Strategy<Value = WireType> {
    prop_oneof![
        Just(WireType::Bool),
        Just(WireType::U8),
        Just(WireType::U16),
        Just(WireType::U32),
        Just(WireType::U64),
        Just(WireType::I8),
        Just(WireType::I16),
        Just(WireType::I32),
        Just(WireType::I64),
        Just(WireType::F64),
        (0..9u32).prop_map(|max| WireType::Bytes { max }),
        (0..9u32).prop_map(|max| WireType::Str { max }),
        (0..20u32).prop_map(|max| WireType::Bitmap { max }),
        prop_oneof![Just("virtual"), Just("host")].prop_map(|clock| WireType::Deadline { clock: clock.into() }),
        (1..=VARIANTS.len()).prop_map(|count| WireType::Enum {
            variants: VARIANTS[..count].iter().map(|variant| Name::from(*variant)).collect()
        }),
    ]
}

fn wire_type(depth: u32) -> BoxedStrategy<WireType> {
    if depth == 0 {
        return leaf_type().boxed();
    }
    let inner = || wire_type(depth - 1).prop_map(Box::new);
    prop_oneof![
        4 => leaf_type(),
        1 => (inner(), 1..4u32).prop_map(|(of, len)| WireType::Array { of, len }),
        1 => (inner(), 0..4u32).prop_map(|(of, max)| WireType::Seq { of, max }),
        1 => (key_type(), inner(), 0..4u32).prop_map(|(key, of, max)| WireType::Map { key: Box::new(key), of, max }),
        1 => inner().prop_map(WireType::Option),
        1 => schema_of_depth(depth - 1).prop_map(|schema| WireType::Struct(Box::new(schema))),
    ]
    .boxed()
}

fn key_type() -> impl Strategy<Value = WireType> {
    prop_oneof![
        Just(WireType::U8),
        Just(WireType::U32),
        Just(WireType::I16),
        Just(WireType::I64)
    ]
}

/// Any value of a field, as a struct holds it: none if it may be left out and is.
fn field_value(field: &FieldSchema) -> BoxedStrategy<Option<Value>> {
    let values = match field.range {
        None => value(&field.wire),
        Some((least, most)) => {
            let signed = matches!(integer_bounds(&field.wire), Some((first, _)) if first < 0);
            (least..=most)
                .prop_map(move |integer| match signed {
                    true => Value::Int(integer.try_into().expect("within its type")),
                    false => Value::Uint(integer.try_into().expect("within its type")),
                })
                .boxed()
        }
    };
    let (may_be_absent, default) = (field.may_be_absent, field.default.clone());
    let skipped = default.filter(|_| field.skip_when_default);
    (values, any::<bool>())
        .prop_map(move |(value, there)| {
            let there = there || !may_be_absent;
            Some(value).filter(|value| there && skipped.as_ref() != Some(value))
        })
        .boxed()
}

/// Any value of a schema.
pub(super) fn struct_value(schema: &Schema) -> BoxedStrategy<StructValue> {
    let fields: Vec<_> = schema
        .live_fields()
        .map(|field| (Just(field.name.clone()), field_value(field)))
        .collect();
    let subsections: Vec<_> = schema
        .subsections
        .iter()
        .map(|subsection| {
            let (name, optional) = (subsection.name.clone(), subsection.optional);
            let there = if optional {
                any::<bool>().boxed()
            } else {
                Just(true).boxed()
            };
            (Just(name), there, struct_value(&subsection.schema))
        })
        .collect();
    let version = schema.version;
    (fields, subsections)
        .prop_map(move |(fields, subsections)| {
            let mut value = StructValue::new(version);
            for (name, field) in fields {
                if let Some(field) = field {
                    value.set(name, field);
                }
            }
            for (name, _, subsection) in subsections.into_iter().filter(|(_, there, _)| *there) {
                value.set_subsection(name, subsection);
            }
            value
        })
        .boxed()
}

fn value(wire: &WireType) -> BoxedStrategy<Value> {
    let elements = |of: &WireType, least: u32, most: u32| {
        let range = usize::try_from(least).expect("small")..=usize::try_from(most).expect("small");
        match of {
            WireType::U8 => vec(any::<u8>(), range).prop_map(Value::Bytes).boxed(),
            of => vec(value(of), range).prop_map(Value::Array).boxed(),
        }
    };
    match wire {
        WireType::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        WireType::U8 => any::<u8>().prop_map(|n| Value::Uint(n.into())).boxed(),
        WireType::U16 => any::<u16>().prop_map(|n| Value::Uint(n.into())).boxed(),
        WireType::U32 => any::<u32>().prop_map(|n| Value::Uint(n.into())).boxed(),
        WireType::U64 => any::<u64>().prop_map(Value::Uint).boxed(),
        WireType::I8 => any::<i8>().prop_map(|n| Value::Int(n.into())).boxed(),
        WireType::I16 => any::<i16>().prop_map(|n| Value::Int(n.into())).boxed(),
        WireType::I32 => any::<i32>().prop_map(|n| Value::Int(n.into())).boxed(),
        WireType::I64 => any::<i64>().prop_map(Value::Int).boxed(),
        WireType::F64 => any::<u64>().prop_map(|bits| Value::F64(f64::from_bits(bits))).boxed(),
        WireType::Bytes { max } => elements(&WireType::U8, 0, *max),
        WireType::Str { max } => {
            let text = string_regex(&format!("[a-z]{{0,{max}}}")).expect("a legal expression");
            text.prop_map(Value::Str).boxed()
        }
        WireType::Bitmap { max } => vec(any::<bool>(), 0..=usize::try_from(*max).expect("small"))
            .prop_map(|bits| {
                let mut bitmap = Bitmap::new(bits.len().try_into().expect("small"));
                (0..).zip(bits).for_each(|(bit, to)| _ = bitmap.set(bit, to));
                Value::Bits(bitmap)
            })
            .boxed(),
        WireType::Map { key, of, max } => {
            let keys = value(key).prop_map(|key| key.integers().next().expect("an integer is one"));
            btree_map(keys, value(of), 0..=usize::try_from(*max).expect("small"))
                .prop_map(|map| Value::Map(map.into_iter().collect()))
                .boxed()
        }
        WireType::Deadline { .. } => any::<Option<u64>>().prop_map(Value::Deadline).boxed(),
        WireType::Fd => unreachable!("no value of it can be written"),
        WireType::Array { of, len } => elements(of, *len, *len),
        WireType::Seq { of, max } => elements(of, 0, *max),
        WireType::Struct(schema) => struct_value(schema).prop_map(Value::Struct).boxed(),
        WireType::Option(of) => proptest::option::of(value(of).prop_map(Box::new))
            .prop_map(Value::Option)
            .boxed(),
        WireType::Enum { variants } => proptest::sample::select(variants.clone()).prop_map(Value::Enum).boxed(),
    }
}

/// Numbers that say what becomes of each field and type of a schema, in the order in which they are met.
fn edits() -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![2 => Just(0u8), 1 => 1..6u8], 0..40)
}

/// A schema that differs from another by the edits.
fn edit_schema(schema: &Schema, edits: &mut dyn Iterator<Item = u8>) -> Schema {
    let mut description = schema.clone().into_description();
    if edits.next().unwrap_or(0) == 5 {
        description.minimum_version = 1;
        description.version = (description.version + 1) % 4 + 1;
    }
    let version = description.version;
    let mut fields = Vec::new();
    for (i, mut field) in description.fields.into_iter().enumerate() {
        match edits.next().unwrap_or(0) {
            1 => continue,
            2 => field.name = format!("renamed{i}").into(),
            3 => field.default = None,
            4 => (field.may_be_absent, field.default, field.skip_when_default) = (true, None, false),
            5 => field.range = None,
            _ => {}
        }
        field.wire = edit_type(&field.wire, edits);
        field.since = field.since.min(version);
        field.until = field.until.filter(|until| field.since < *until && *until <= version);
        fields.push(repaired(field, description.minimum_version));
    }
    let mut subsections = Vec::new();
    for mut subsection in description.subsections {
        match edits.next().unwrap_or(0) {
            1 => continue,
            2 => subsection.optional = !subsection.optional,
            _ => {}
        }
        // It may be no value of what it becomes.
        subsection.absent = None;
        subsection.schema = edit_schema(&subsection.schema, edits);
        subsections.push(subsection);
    }
    let edited = Description {
        fields,
        subsections,
        ..Description::new(description.name)
    };
    let edited = Description {
        version,
        minimum_version: description.minimum_version,
        ..edited
    };
    edited.check().expect("the edits keep a schema legal")
}

/// A field whose range and default fit its type again, or that may be absent if it must have a substitute and has none.
fn repaired(mut field: FieldSchema, minimum_version: u32) -> FieldSchema {
    if !is_legal(&field) {
        field.range = None;
    }
    if !is_legal(&field) {
        field.skip_when_default = false;
    }
    if !is_legal(&field) {
        field.default = None;
    }
    let must = field.since > minimum_version || field.until.is_some();
    field.may_be_absent |= must && field.default.is_none();
    field
}

fn edit_type(wire: &WireType, edits: &mut dyn Iterator<Item = u8>) -> WireType {
    let edit = edits.next().unwrap_or(0);
    if edit == 1 {
        return WireType::Option(Box::new(wire.clone()));
    }
    match (wire, edit) {
        (WireType::U8, 2) | (WireType::U32, 3) => WireType::U16,
        (WireType::U16, 2) | (WireType::U64, 3) | (WireType::I64, 4) => WireType::U32,
        (WireType::I16, 2) => WireType::I64,
        (WireType::I64, 3) => WireType::I8,
        (WireType::Bytes { max }, 2) => WireType::Bytes { max: max / 2 },
        (WireType::Bytes { max }, 3) => WireType::Array {
            of: Box::new(WireType::U8),
            len: (*max).max(1),
        },
        (WireType::Bytes { max }, 4) => WireType::Seq {
            of: Box::new(WireType::U64),
            max: *max,
        },
        (WireType::Str { max }, 2) => WireType::Str { max: max / 2 },
        (WireType::Bitmap { max }, 2) => WireType::Bitmap { max: max / 2 },
        (WireType::Deadline { .. }, 2) => WireType::Deadline { clock: "host".into() },
        (WireType::Map { of, max, .. }, 2) => WireType::Map {
            key: Box::new(WireType::U8),
            of: of.clone(),
            max: *max,
        },
        (WireType::Map { key, of, max }, 3) => WireType::Map {
            key: key.clone(),
            of: of.clone(),
            max: max / 2,
        },
        (WireType::Enum { variants }, 2) => WireType::Enum {
            variants: variants[variants.len() / 2..].to_vec(),
        },
        (WireType::Enum { .. }, 3) => WireType::Enum {
            variants: vec!["other".into()],
        },
        (WireType::Array { of, len }, 2) => WireType::Array {
            of: of.clone(),
            len: len + 1,
        },
        (WireType::Seq { of, max }, 2) => WireType::Seq {
            of: of.clone(),
            max: max / 2,
        },
        (WireType::Seq { of, max }, 3) => WireType::Array {
            of: of.clone(),
            len: (*max).max(1),
        },
        (WireType::Array { of, len }, 3) => WireType::Seq {
            of: of.clone(),
            max: *len,
        },
        (WireType::Option(of), 2 | 3) => (**of).clone(),
        (WireType::Array { of, len }, _) => WireType::Array {
            of: Box::new(edit_type(of, edits)),
            len: *len,
        },
        (WireType::Seq { of, max }, _) => WireType::Seq {
            of: Box::new(edit_type(of, edits)),
            max: *max,
        },
        (WireType::Map { key, of, max }, _) => WireType::Map {
            key: key.clone(),
            of: Box::new(edit_type(of, edits)),
            max: *max,
        },
        (WireType::Option(of), _) => WireType::Option(Box::new(edit_type(of, edits))),
        (WireType::Struct(schema), _) => WireType::Struct(Box::new(edit_schema(schema, edits))),
        (other, _) => other.clone(),
    }
}

/// Names the fields of an adapted value that are not what they have to be: the writer's, to the last leaf, where it sent
/// one or left it out for its default; else the reader's default; else absent. It goes by the two values, and asks no table
/// of conversions.
pub(super) fn misarrived(sent: &StructValue, writer: &Schema, adapted: &StructValue, reader: &Schema) -> Vec<String> {
    let mut wrong = Vec::new();
    for field in &reader.fields {
        let is_live = |field: &&FieldSchema| field.is_live_at(sent.version());
        let known = writer.field(&field.name).filter(is_live).filter(|_| is_live(&field));
        let skipped = |field: &FieldSchema| field.default.clone().filter(|_| field.skip_when_default);
        let theirs = known.and_then(|known| Some((sent.get(&known.name).cloned().or_else(|| skipped(known))?, known)));
        let arrived = adapted.get(&field.name).cloned().or_else(|| skipped(field));
        let is_right = match (&theirs, &arrived) {
            (Some((theirs, known)), Some(arrived)) => is_same(theirs, &known.wire, arrived, &field.wire),
            (None, arrived) => *arrived == field.default,
            (Some(_), None) => false,
        };
        if !is_right {
            wrong.push(format!("{}: {theirs:?} became {arrived:?}", field.name));
        }
    }
    for subsection in &reader.subsections {
        let known = writer.subsection(&subsection.name);
        let theirs = known.and_then(|known| Some((sent.subsection(&known.name)?, known)));
        match (theirs, adapted.subsection(&subsection.name)) {
            (Some((theirs, known)), Some(arrived)) => {
                wrong.extend(misarrived(theirs, &known.schema, arrived, &subsection.schema));
            }
            (None, None) => {}
            (theirs, arrived) => wrong.push(format!("{}: {theirs:?} became {arrived:?}", subsection.name)),
        }
    }
    wrong
}

/// Whether a value arrived as it was: as the same number, or as the elements, entries or contents that are.
fn is_same(sent: &Value, writer: &WireType, arrived: &Value, reader: &WireType) -> bool {
    let of = |wire: &WireType| match wire {
        WireType::Array { of, .. } | WireType::Seq { of, .. } | WireType::Map { of, .. } => (**of).clone(),
        _ => WireType::U8,
    };
    let elements = |value: &Value| match value {
        Value::Array(elements) => Some(elements.clone()),
        Value::Bytes(bytes) => Some(bytes.iter().map(|byte| Value::Uint((*byte).into())).collect()),
        _ => None,
    };
    match (sent, writer, arrived, reader) {
        (Value::Option(None), _, Value::Option(None), _) => true,
        (Value::Option(Some(sent)), WireType::Option(writer), _, WireType::Option(reader)) => {
            matches!(arrived, Value::Option(Some(arrived)) if is_same(sent, writer, arrived, reader))
        }
        (_, _, Value::Option(Some(arrived)), WireType::Option(reader)) => is_same(sent, writer, arrived, reader),
        (Value::Option(Some(sent)), WireType::Option(writer), ..) => is_same(sent, writer, arrived, reader),
        (Value::Struct(sent), WireType::Struct(writer), Value::Struct(arrived), WireType::Struct(reader)) => {
            misarrived(sent, writer, arrived, reader).is_empty()
        }
        (Value::Map(sent), _, Value::Map(arrived), _) => {
            let (writer, reader) = (of(writer), of(reader));
            let mut entries = sent.iter().zip(arrived);
            sent.len() == arrived.len() && entries.all(|((i, a), (j, b))| i == j && is_same(a, &writer, b, &reader))
        }
        _ => match (elements(sent), elements(arrived)) {
            (Some(sent), Some(arrived)) => {
                let (writer, reader) = (of(writer), of(reader));
                let mut elements = sent.iter().zip(&arrived);
                sent.len() == arrived.len() && elements.all(|(a, b)| is_same(a, &writer, b, &reader))
            }
            _ => sent == arrived,
        },
    }
}
