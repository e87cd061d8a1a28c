//! Defaults that two descriptions do not share.
//!
//! A default is what stands for a field in the state of whoever did not have it. Two Terns that both have the field send it
//! to each other whatever their defaults are; but a third one's state, from before, becomes one thing here and another there.
//! So does the state of anybody who had no need to send an optional subsection, if that stands for something else now.

use std::fmt;

use super::adapt::convert;
use super::leaves::shown;
use super::name::Name;
use super::path::{FieldPath, Step};
use super::relation::Relation;
use super::schema::{FieldSchema, Schema, SubsectionSchema};
use super::value::{StructValue, Value};
use super::wire_type::WireType;

/// A field or an optional subsection that both sides have, and that is something else at the reader where it was not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedDefault {
    /// The field or subsection; one that is an element's stands for all elements.
    pub path: FieldPath,
    /// What it is at the writer where it was not sent; `None` if it is absent then.
    pub writer: Option<Value>,
    /// What it is at the reader; `None` if it is absent then.
    pub reader: Option<Value>,
}

/// Without the path, as a verdict.
impl fmt::Display for ChangedDefault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (writer, reader) = (shown(self.writer.as_ref()), shown(self.reader.as_ref()));
        write!(
            f,
            "has another default ({writer} at the writer, {reader} at the reader): \
             what was saved without it loads as something else"
        )
    }
}

/// The fields of both whose defaults differ, live or retired. Where a default has only become of a wider type, or the
/// contents of an option, it is the same. One that the reader's type cannot hold is left to the verdicts on types.
///
/// [`compare`](super::compare()) does not ask: what the writer sends arrives as it is. Between two releases each is a break.
#[must_use]
pub fn changed_defaults(writer: &Schema, reader: &Schema) -> Vec<ChangedDefault> {
    let mut found = Vec::new();
    in_structs(&FieldPath::root(), writer, reader, &mut found);
    found
}

fn in_structs(path: &FieldPath, writer: &Schema, reader: &Schema, found: &mut Vec<ChangedDefault>) {
    let inside = |name: &Name| path.join(Step::Field(name.clone()));
    for field in &reader.fields {
        let Some(sent) = writer.field(&field.name) else {
            continue;
        };
        let path = inside(&field.name);
        if is_changed(sent, field) {
            found.push(ChangedDefault {
                path: path.clone(),
                writer: sent.default.clone(),
                reader: field.default.clone(),
            });
        }
        in_types(&path, &sent.wire, &field.wire, found);
    }
    for subsection in &reader.subsections {
        if let Some(sent) = writer.subsection(&subsection.name) {
            let path = inside(&subsection.name);
            if stands_for_another(sent, subsection) {
                found.push(ChangedDefault {
                    path: path.clone(),
                    writer: sent.absent.clone().map(Value::Struct),
                    reader: subsection.absent.clone().map(Value::Struct),
                });
            }
            in_structs(&path, &sent.schema, &subsection.schema, found);
        }
    }
}

fn in_types(path: &FieldPath, writer: &WireType, reader: &WireType, found: &mut Vec<ChangedDefault>) {
    match Relation::between(writer, reader) {
        Relation::Structs { writer, reader } => in_structs(path, writer, reader, found),
        Relation::Elements { writer, reader, .. } | Relation::Maps { writer, reader, .. } => {
            in_types(&path.join(Step::Each), writer, reader, found);
        }
        Relation::Options { writer, reader } => in_types(path, writer, reader, found),
        Relation::Wrapped { reader: inner } => in_types(path, writer, inner, found),
        Relation::Unwrapped { writer: inner } => in_types(path, inner, reader, found),
        Relation::Stays(_) => {}
    }
}

fn is_changed(writer: &FieldSchema, reader: &FieldSchema) -> bool {
    match (&writer.default, &reader.default) {
        (Some(before), Some(now)) => {
            let converted = convert(before.clone(), &writer.wire, &reader.wire);
            converted.is_ok_and(|before| !is_same(&before, now))
        }
        // Without any substitute, what lacks the field is refused by its name, and becomes nothing else.
        (Some(_), None) => reader.may_be_absent,
        (None, Some(_)) => writer.may_be_absent,
        (None, None) => false,
    }
}

/// Whether the subsection means something else where it is not sent. Of one side that does not say nothing is known.
fn stands_for_another(writer: &SubsectionSchema, reader: &SubsectionSchema) -> bool {
    let (Some(before), Some(now)) = (&writer.absent, &reader.absent) else {
        return false;
    };
    let wire = |schema: &Schema| WireType::Struct(Box::new(schema.clone()));
    let before = Value::Struct(before.clone());
    let converted = convert(before, &wire(&writer.schema), &wire(&reader.schema));
    converted.is_ok_and(|before| !is_same(&before, &Value::Struct(now.clone())))
}

/// Whether two values of a type are one. Structs have to agree in the fields that both have, since one of them may have
/// retired some or got new ones.
fn is_same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Struct(a), Value::Struct(b)) => is_same_struct(a, b),
        (Value::Option(Some(a)), Value::Option(Some(b))) => is_same(a, b),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b)),
        (Value::Map(a), Value::Map(b)) => {
            let mut entries = a.iter().zip(b);
            a.len() == b.len() && entries.all(|((i, a), (j, b))| i == j && is_same(a, b))
        }
        (a, b) => a == b,
    }
}

fn is_same_struct(a: &StructValue, b: &StructValue) -> bool {
    a.fields().all(|(name, a)| b.get(name).is_none_or(|b| is_same(a, b)))
        && a.subsections().len() == b.subsections().len()
        && a.subsections()
            .all(|(name, a)| b.subsection(name).is_some_and(|b| is_same_struct(a, b)))
}

#[cfg(test)]
mod tests {
    use super::super::testing::schema;
    use super::*;
    use crate::state::Description;
    use proptest::prelude::*;

    /// A description whose field `x` has this type and default, alone, nested and in a subsection.
    fn of(wire: &WireType, default: Option<Value>) -> Schema {
        let x = FieldSchema {
            default,
            ..FieldSchema::new("x", wire.clone())
        };
        let plain = |fields| Description {
            fields,
            ..Description::new("line")
        };
        let inner = plain(vec![x.clone()]).check().expect("legal");
        let lines = WireType::Array {
            of: Box::new(WireType::Struct(Box::new(inner.clone()))),
            len: 2,
        };
        let description = Description {
            subsections: vec![SubsectionSchema {
                name: "sub".into(),
                optional: true,
                absent: None,
                schema: inner,
            }],
            ..plain(vec![x, FieldSchema::new("lines", lines)])
        };
        description.check().expect("legal")
    }

    /// The fields that are told.
    fn told(writer: &Schema, reader: &Schema) -> Vec<String> {
        let changed = changed_defaults(writer, reader);
        changed.iter().map(|changed| changed.path.to_string()).collect()
    }

    const EVERYWHERE: [&str; 3] = ["x", "lines[].x", "sub.x"];

    #[test]
    fn another_default_is_told_wherever_the_field_is() {
        let (zero, seven) = (Some(Value::Uint(0)), Some(Value::Uint(7)));
        let (before, after) = (of(&WireType::U8, zero), of(&WireType::U8, seven.clone()));
        assert_eq!(told(&before, &before), [""; 0]);
        assert_eq!(told(&before, &after), EVERYWHERE);
        assert_eq!(
            told(&before, &of(&WireType::U32, seven)),
            EVERYWHERE,
            "in a wider type too"
        );
        assert_eq!(
            changed_defaults(&before, &after)[0].to_string(),
            "has another default (0x0 at the writer, 0x7 at the reader): what was saved without it loads as something else"
        );
    }

    #[test]
    fn a_default_in_another_form_and_one_that_is_new_are_no_change() {
        let three = Some(Value::Uint(3));
        let before = of(&WireType::U8, three.clone());
        assert_eq!(told(&before, &of(&WireType::U32, three.clone())), [""; 0]);
        let option = WireType::Option(Box::new(WireType::U8));
        let wrapped = three.clone().map(|three| Value::Option(Some(Box::new(three))));
        assert_eq!(told(&before, &of(&option, wrapped)), [""; 0]);
        assert_eq!(told(&before, &of(&option, Some(Value::Option(None)))), EVERYWHERE);
        assert_eq!(told(&of(&WireType::U8, None), &before), [""; 0]);
        assert_eq!(
            told(&before, &of(&WireType::U8, None)),
            [""; 0],
            "what lacks it is refused"
        );
        assert_eq!(
            told(&before, &of(&WireType::Bool, Some(Value::Bool(true)))),
            [""; 0],
            "another type is told as such"
        );
    }

    #[test]
    fn a_retired_field_and_one_that_is_left_out_keep_their_defaults_and_absence_stays_absence() {
        let field = |default: Option<u64>, edit: fn(&mut FieldSchema)| {
            let mut field = FieldSchema {
                default: default.map(Value::Uint),
                ..FieldSchema::new("x", WireType::U8)
            };
            edit(&mut field);
            let description = Description {
                version: 2,
                fields: vec![field],
                ..Description::new("uart")
            };
            description.check().expect("legal")
        };
        for edit in [
            (|field| field.until = Some(2)) as fn(&mut FieldSchema),
            |field| field.since = 2,
            |field| field.skip_when_default = true,
        ] {
            assert_eq!(told(&field(Some(0), edit), &field(Some(7), edit)), ["x"]);
            assert_eq!(told(&field(Some(7), edit), &field(Some(7), edit)), [""; 0]);
        }
        let absent = field(None, |field| field.may_be_absent = true);
        assert_eq!(told(&absent, &field(Some(0), |_| {})), ["x"]);
        assert_eq!(told(&field(Some(0), |_| {}), &absent), ["x"]);
    }

    #[test]
    fn a_subsection_that_was_not_sent_stands_for_the_same() {
        let of = |baud: Option<(WireType, u64)>, fields: &[&'static str]| {
            let wire = baud.clone().map_or(WireType::U8, |(wire, _)| wire);
            let others = fields.iter().map(|name| FieldSchema {
                default: Some(Value::Uint(5)),
                ..FieldSchema::new(*name, WireType::U8)
            });
            let line = Description {
                fields: [FieldSchema::new("baud", wire)].into_iter().chain(others).collect(),
                ..Description::new("line")
            };
            let absent = baud.map(|(_, baud)| {
                let value = StructValue::new(1).with("baud", Value::Uint(baud));
                fields
                    .iter()
                    .fold(value, |value, name| value.with(*name, Value::Uint(5)))
            });
            let description = Description {
                subsections: vec![SubsectionSchema {
                    name: "sub".into(),
                    optional: true,
                    schema: line.check().expect("legal"),
                    absent,
                }],
                ..Description::new("uart")
            };
            description.check().expect("legal")
        };
        let before = of(Some((WireType::U8, 9)), &[]);
        assert_eq!(told(&before, &of(Some((WireType::U8, 12)), &[])), ["sub"]);
        let text = changed_defaults(&before, &of(Some((WireType::U8, 12)), &[]))[0].to_string();
        assert!(text.contains("what was saved without it"), "{text}");
        for same in [
            of(Some((WireType::U8, 9)), &[]),
            of(Some((WireType::U32, 9)), &[]),
            of(Some((WireType::U8, 9)), &["parity"]),
        ] {
            assert_eq!(told(&before, &same), [""; 0]);
        }
        assert_eq!(
            told(&of(None, &[]), &before),
            [""; 0],
            "of who does not say nothing is known"
        );
    }

    #[test]
    fn a_nested_struct_in_a_default_may_get_a_field() {
        let line = |version, x: u64, y: u64| {
            let mut line = Description {
                version,
                fields: vec![FieldSchema::new("x", WireType::U8)],
                ..Description::new("line")
            };
            let mut value = StructValue::new(version).with("x", Value::Uint(x));
            if version == 2 {
                line.fields.push(FieldSchema {
                    since: 2,
                    default: Some(Value::Uint(1)),
                    ..FieldSchema::new("y", WireType::U8)
                });
                value.set("y", Value::Uint(y));
            }
            let field = FieldSchema {
                default: Some(Value::Struct(value)),
                ..FieldSchema::new("line", WireType::Struct(Box::new(line.check().expect("legal"))))
            };
            let uart = Description {
                fields: vec![field],
                ..Description::new("uart")
            };
            uart.check().expect("legal")
        };
        assert_eq!(told(&line(1, 3, 0), &line(2, 3, 1)), [""; 0]);
        assert_eq!(told(&line(1, 3, 0), &line(2, 4, 1)), ["line"]);
        let another = told(&line(1, 3, 0), &line(2, 3, 9));
        assert_eq!(
            another,
            ["line"],
            "the new field would be 1 by way of the old version, and 9 without it"
        );
    }

    proptest! {
        #[test]
        fn a_description_has_its_own_defaults_and_any_two_can_be_compared(one in schema(), other in schema()) {
            prop_assert_eq!(changed_defaults(&one, &one), []);
            let _ = changed_defaults(&one, &other);
        }
    }
}
