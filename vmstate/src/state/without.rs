//! A description without the optional subsections that a version of a machine does not have, wherever in it they are.
//!
//! A subsection is called as its fields lead to it, the elements of a run or map being all alike: `fifo`, `channels.fifo`.

use std::borrow::Cow;

use super::name::Name;
use super::schema::Schema;
use super::value::{StructValue, Value};

/// Whether the subsection of that name is one that there is not.
pub type Lacks<'a> = &'a dyn Fn(&str) -> bool;

/// The description without what it lacks; the same if that is nothing.
pub fn without<'a>(schema: &'a Schema, lacks: Lacks<'_>) -> Cow<'a, Schema> {
    in_schema("", schema, lacks).map_or(Cow::Borrowed(schema), Cow::Owned)
}

impl StructValue {
    /// The value without the subsections that its description has not, wherever in it they are.
    #[must_use]
    pub fn without_others(self, schema: &Schema) -> Self {
        let version = self.version();
        let (fields, subsections) = self.into_parts();
        let mut kept = Self::new(version);
        for (name, field) in fields {
            let nested = schema.field(&name).and_then(|field| field.wire.nested());
            let field = match nested {
                Some(nested) => stripped_value(field, nested),
                None => field,
            };
            kept.push(name, field);
        }
        for (name, subsection) in subsections {
            if let Some(known) = schema.subsection(&name) {
                kept.push_subsection(name, subsection.without_others(&known.schema));
            }
        }
        kept
    }
}

/// The first subsection of a value that its description lacks.
pub fn lacking_in(schema: &Schema, value: &StructValue, lacks: Lacks<'_>) -> Option<String> {
    in_struct("", schema, value, lacks)
}

fn joined(path: &str, name: &str) -> String {
    match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    }
}

/// `None` where nothing changes.
fn in_schema(path: &str, schema: &Schema, lacks: Lacks<'_>) -> Option<Schema> {
    if !has_optional(schema) {
        return None;
    }
    let mut description = schema.clone().into_description();
    let mut changed = false;
    description.subsections.retain_mut(|subsection| {
        let path = joined(path, &subsection.name);
        if subsection.optional && lacks(&path) {
            changed = true;
            return false;
        }
        if let Some(inner) = in_schema(&path, &subsection.schema, lacks) {
            changed = true;
            subsection.absent = subsection.absent.take().map(|absent| absent.without_others(&inner));
            subsection.schema = inner;
        }
        true
    });
    for field in &mut description.fields {
        let path = joined(path, &field.name);
        let inner = field.wire.nested().and_then(|nested| in_schema(&path, nested, lacks));
        if let Some(inner) = inner {
            changed = true;
            field.default = field.default.take().map(|default| stripped_value(default, &inner));
            *field.wire.nested_mut().expect("it has one") = inner;
        }
    }
    let whole = || {
        description
            .check()
            .expect("a description without one of its parts is still one")
    };
    changed.then(whole)
}

fn has_optional(schema: &Schema) -> bool {
    let fields = schema.fields.iter().filter_map(|field| field.wire.nested());
    let subsections = schema.subsections.iter();
    subsections.clone().any(|subsection| subsection.optional)
        || subsections
            .map(|subsection| &subsection.schema)
            .chain(fields)
            .any(has_optional)
}

/// A value that is, or is made of, structs of the description.
fn stripped_value(value: Value, schema: &Schema) -> Value {
    match value {
        Value::Struct(value) => Value::Struct(value.without_others(schema)),
        Value::Array(elements) => Value::Array(
            elements
                .into_iter()
                .map(|element| stripped_value(element, schema))
                .collect(),
        ),
        Value::Map(entries) => {
            let entries = entries
                .into_iter()
                .map(|(key, value)| (key, stripped_value(value, schema)));
            Value::Map(entries.collect())
        }
        Value::Option(Some(value)) => Value::Option(Some(Box::new(stripped_value(*value, schema)))),
        other => other,
    }
}

fn in_struct(path: &str, schema: &Schema, value: &StructValue, lacks: Lacks<'_>) -> Option<String> {
    if !has_optional(schema) {
        return None;
    }
    let in_subsection = |(name, value): (&Name, &StructValue)| {
        let (known, path) = (schema.subsection(name)?, joined(path, name));
        if known.optional && lacks(&path) {
            return Some(path);
        }
        in_struct(&path, &known.schema, value, lacks)
    };
    let in_field = |(name, value): (&Name, &Value)| {
        let nested = schema.field(name)?.wire.nested()?;
        in_value(&joined(path, name), nested, value, lacks)
    };
    let mut subsections = value.subsections();
    subsections
        .find_map(in_subsection)
        .or_else(|| value.fields().find_map(in_field))
}

fn in_value(path: &str, schema: &Schema, value: &Value, lacks: Lacks<'_>) -> Option<String> {
    match value {
        Value::Struct(value) => in_struct(path, schema, value, lacks),
        Value::Array(elements) => elements
            .iter()
            .find_map(|element| in_value(path, schema, element, lacks)),
        Value::Map(entries) => entries
            .iter()
            .find_map(|(_, value)| in_value(path, schema, value, lacks)),
        Value::Option(Some(value)) => in_value(path, schema, value, lacks),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::{schema, struct_value};
    use crate::state::{Description, FieldSchema, SubsectionSchema, WireType, encode};
    use proptest::prelude::*;

    fn plain(name: &'static str, fields: Vec<FieldSchema>, subsections: Vec<SubsectionSchema>) -> Schema {
        let description = Description {
            fields,
            subsections,
            ..Description::new(name)
        };
        description.check().expect("legal")
    }

    fn subsection(name: &'static str, schema: Schema, absent: Option<StructValue>) -> SubsectionSchema {
        SubsectionSchema {
            name: name.into(),
            optional: true,
            schema,
            absent,
        }
    }

    /// Channels with a `fifo` each, and a subsection `more` with another one.
    fn card() -> (Schema, StructValue) {
        let fifo = || plain("fifo", vec![], vec![]);
        let with_fifo = || {
            let mut value = StructValue::new(1);
            value.set_subsection("fifo", StructValue::new(1));
            value
        };
        let channel = plain("channel", vec![], vec![subsection("fifo", fifo(), None)]);
        let more = plain("more", vec![], vec![subsection("fifo", fifo(), None)]);
        let channels = WireType::Array {
            of: Box::new(WireType::Struct(Box::new(channel))),
            len: 2,
        };
        let values = Value::Array(vec![Value::Struct(StructValue::new(1)), Value::Struct(with_fifo())]);
        let field = FieldSchema {
            default: Some(values.clone()),
            ..FieldSchema::new("channels", channels)
        };
        let schema = plain("card", vec![field], vec![subsection("more", more, Some(with_fifo()))]);
        let mut value = StructValue::new(1).with("channels", values);
        value.set_subsection("more", with_fifo());
        (schema, value)
    }

    #[test]
    fn a_subsection_within_a_field_or_another_one_can_be_left_out() {
        let (schema, value) = card();
        let cases: [(&[&str], Option<&str>); 5] = [
            (&[], None),
            (&["fifo"], None),
            (&["channels.fifo"], Some("channels.fifo")),
            (&["more.fifo", "channels.fifo"], Some("more.fifo")),
            (&["more", "channels.fifo"], Some("more")),
        ];
        for (lacking, found) in cases {
            let lacks = |path: &str| lacking.contains(&path);
            assert_eq!(lacking_in(&schema, &value, &lacks).as_deref(), found, "{lacking:?}");
            let rest = without(&schema, &lacks);
            let is_whole = encode(&rest, &value).is_ok();
            assert_eq!(is_whole, found.is_none(), "{lacking:?}");
            assert_eq!(without(&rest, &lacks).as_ref(), rest.as_ref(), "{lacking:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_left_describes_exactly_the_values_without_what_is_lacking(
            (schema, value) in schema().prop_flat_map(|schema| (Just(schema.clone()), struct_value(&schema))),
            number in 0..3u8,
        ) {
            let name = format!("sub{number}");
            let lacks = |path: &str| path == name || path.ends_with(&format!(".{name}"));
            let rest = without(&schema, &lacks);
            let lacking = lacking_in(&schema, &value, &lacks);
            prop_assert_eq!(encode(&rest, &value).is_ok(), lacking.is_none());
            prop_assert!(encode(&rest, &value.without_others(&rest)).is_ok());
        }
    }
}
