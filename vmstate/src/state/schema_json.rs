//! A schema as JSON: the form in which released ones are kept in files, compared and reviewed.
//!
//! ```text
//! schema     = { "name", "version", "minimum-version", "priority", "fields": [field...], "subsections": [subsection...] }
//! field      = { "name", "type", ?"since", ?"until", ?"may-be-absent", ?"default", ?"skip-when-default",
//!                ?"range": [least, most], ?"length": name, ?"must-equal": hint }
//! subsection = { "name", "optional", "schema", ?"absent" }
//! type       = "bool" | "u8" | ... | "f64" | "file-descriptor"
//!            | { "bytes": max } | { "text": max } | { "bitmap": max } | { "deadline": clock } | { "enum": [variant...] }
//!            | { "array": type, "length": n } | { "sequence": type, "max": n } | { "map": type, "key": type, "max": n }
//!            | { "struct": schema } | { "option": type }
//! ```
//!
//! What is optional and not there has its usual value. A member that is not known here is refused: nothing of a kept
//! schema may be overlooked.

use serde_json::{Map, Value as Json, json};

use super::json::{integer_from_json, integer_to_json};
use super::name::Name;
use super::schema::{Description, FieldSchema, Schema, SubsectionSchema};
use super::schema_error::SchemaError;
use super::value::{StructValue, Value};
use super::wire_type::WireType;

/// JSON that is no schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaJsonError {
    /// A member is missing, unknown, or of another form.
    #[error("the {part} in a schema: {problem}")]
    Malformed {
        /// Which part of a schema.
        part: String,
        /// What is wrong with it.
        problem: String,
    },
    /// All is in order, but what it says makes no schema.
    #[error("{0}")]
    IllFormed(Box<SchemaError>),
}

impl From<SchemaError> for SchemaJsonError {
    fn from(error: SchemaError) -> Self {
        Self::IllFormed(Box::new(error))
    }
}

impl Schema {
    /// The schema as JSON.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let subsection = |subsection: &SubsectionSchema| {
            let mut json = json!({
                "name": subsection.name.as_str(),
                "optional": subsection.optional,
                "schema": subsection.schema.to_json(),
            });
            if let Some(absent) = &subsection.absent {
                json["absent"] = absent.to_json();
            }
            json
        };
        json!({
            "name": self.name.as_str(),
            "version": self.version,
            "minimum-version": self.minimum_version,
            "priority": self.priority,
            "fields": self.fields.iter().map(field_to_json).collect::<Json>(),
            "subsections": self.subsections.iter().map(subsection).collect::<Json>(),
        })
    }

    /// Reads what [`Self::to_json`] wrote, and checks it.
    ///
    /// # Errors
    ///
    /// If it is no schema, or an ill-formed one.
    pub fn from_json(json: &Json) -> Result<Self, SchemaJsonError> {
        let mut members = Members::of("description", json)?;
        let description = Description {
            name: members.name("name")?,
            version: members.number("version")?,
            minimum_version: members.number("minimum-version")?,
            priority: members.number("priority")?,
            fields: members.list("fields", field_from_json)?,
            subsections: members.list("subsections", |json| {
                let mut members = Members::of("subsection", json)?;
                let schema = Self::from_json(members.required("schema")?)?;
                let absent = members.take("absent").map(|absent| {
                    let value = StructValue::from_json(&schema, absent);
                    value.ok_or_else(|| malformed("subsection", format!("{absent} is no value of {}", schema.name)))
                });
                let subsection = SubsectionSchema {
                    name: members.name("name")?,
                    optional: members.flag("optional")?,
                    absent: absent.transpose()?,
                    schema,
                };
                members.end(subsection)
            })?,
        };
        Ok(members.end(description)?.check()?)
    }
}

fn field_to_json(field: &FieldSchema) -> Json {
    let mut json = json!({ "name": field.name.as_str(), "type": type_to_json(&field.wire) });
    if field.since > 1 {
        json["since"] = field.since.into();
    }
    if let Some(until) = field.until {
        json["until"] = until.into();
    }
    if field.may_be_absent {
        json["may-be-absent"] = true.into();
    }
    if let Some(default) = &field.default {
        json["default"] = default.to_json();
    }
    if field.skip_when_default {
        json["skip-when-default"] = true.into();
    }
    if let Some((least, most)) = field.range {
        json["range"] = json!([integer_to_json(least), integer_to_json(most)]);
    }
    if let Some(length) = &field.length {
        json["length"] = length.as_str().into();
    }
    if let Some(hint) = &field.must_equal {
        json["must-equal"] = hint.as_str().into();
    }
    json
}

fn field_from_json(json: &Json) -> Result<FieldSchema, SchemaJsonError> {
    let mut members = Members::of("field", json)?;
    let name = members.name("name")?;
    let wire = type_from_json(members.required("type")?)?;
    let default = match members.take("default") {
        None => None,
        Some(default) => {
            // An unchecked type must not be walked.
            let probe = Description {
                fields: vec![FieldSchema::new("probe", wire.clone())],
                ..Description::new("probe")
            };
            probe.check()?;
            let value = Value::from_json(&wire, default);
            Some(value.ok_or_else(|| malformed("field", format!("{default} is no default of `{name}`, a {wire}")))?)
        }
    };
    let field = FieldSchema {
        name,
        wire,
        since: members.optional_number("since")?.unwrap_or(1),
        until: members.optional_number("until")?,
        may_be_absent: members.optional_flag("may-be-absent")?,
        default,
        skip_when_default: members.optional_flag("skip-when-default")?,
        range: members.take("range").map(range_from_json).transpose()?,
        length: members.optional_name("length")?,
        must_equal: members.optional_name("must-equal")?.map(|hint| hint.to_string()),
    };
    members.end(field)
}

fn range_from_json(json: &Json) -> Result<(i128, i128), SchemaJsonError> {
    match json.as_array().map(Vec::as_slice) {
        Some([least, most]) => integer_from_json(least).zip(integer_from_json(most)),
        _ => None,
    }
    .ok_or_else(|| malformed("field", format!("{json} is no range")))
}

/// The types that are told by their name alone.
const PLAIN: [(&str, WireType); 11] = [
    ("bool", WireType::Bool),
    ("u8", WireType::U8),
    ("u16", WireType::U16),
    ("u32", WireType::U32),
    ("u64", WireType::U64),
    ("i8", WireType::I8),
    ("i16", WireType::I16),
    ("i32", WireType::I32),
    ("i64", WireType::I64),
    ("f64", WireType::F64),
    ("file-descriptor", WireType::Fd),
];

fn type_to_json(wire: &WireType) -> Json {
    if let Some((name, _)) = PLAIN.iter().find(|(_, plain)| plain == wire) {
        return json!(name);
    }
    match wire {
        WireType::Bytes { max } => json!({ "bytes": max }),
        WireType::Str { max } => json!({ "text": max }),
        WireType::Bitmap { max } => json!({ "bitmap": max }),
        WireType::Array { of, len } => json!({ "array": type_to_json(of), "length": len }),
        WireType::Seq { of, max } => json!({ "sequence": type_to_json(of), "max": max }),
        WireType::Map { key, of, max } => {
            json!({ "map": type_to_json(of), "key": type_to_json(key), "max": max })
        }
        WireType::Struct(schema) => json!({ "struct": schema.to_json() }),
        WireType::Option(of) => json!({ "option": type_to_json(of) }),
        WireType::Enum { variants } => {
            json!({ "enum": variants.iter().map(Name::as_str).collect::<Vec<_>>() })
        }
        WireType::Deadline { clock } => json!({ "deadline": clock.as_str() }),
        plain => unreachable!("{plain} is in the table of plain types"),
    }
}

fn type_from_json(json: &Json) -> Result<WireType, SchemaJsonError> {
    const PART: &str = "type";
    if let Some(name) = json.as_str() {
        let plain = PLAIN.iter().find(|(plain, _)| *plain == name);
        return match plain {
            Some((_, plain)) => Ok(plain.clone()),
            None => Err(malformed(PART, format!("there is none called {name:?}"))),
        };
    }
    let mut members = Members::of(PART, json)?;
    let inner = |json: &Json| type_from_json(json).map(Box::new);
    let wire = if let Some(max) = members.optional_number("bytes")? {
        WireType::Bytes { max }
    } else if let Some(max) = members.optional_number("text")? {
        WireType::Str { max }
    } else if let Some(max) = members.optional_number("bitmap")? {
        WireType::Bitmap { max }
    } else if let Some(of) = members.take("array") {
        WireType::Array {
            of: inner(of)?,
            len: members.number("length")?,
        }
    } else if let Some(of) = members.take("sequence") {
        WireType::Seq {
            of: inner(of)?,
            max: members.number("max")?,
        }
    } else if let Some(of) = members.take("map") {
        WireType::Map {
            of: inner(of)?,
            key: inner(members.required("key")?)?,
            max: members.number("max")?,
        }
    } else if let Some(schema) = members.take("struct") {
        WireType::Struct(Box::new(Schema::from_json(schema)?))
    } else if let Some(of) = members.take("option") {
        WireType::Option(inner(of)?)
    } else if let Some(clock) = members.optional_name("deadline")? {
        WireType::Deadline { clock }
    } else {
        WireType::Enum {
            variants: members.list("enum", |json| {
                let variant = json.as_str().map(|text| Name::from(text.to_owned()));
                variant.ok_or_else(|| malformed(PART, format!("{json} is no name")))
            })?,
        }
    };
    members.end(wire)
}

fn malformed(part: &str, problem: impl Into<String>) -> SchemaJsonError {
    SchemaJsonError::Malformed {
        part: part.to_owned(),
        problem: problem.into(),
    }
}

/// The members of a JSON object, each taken once; none may be left over.
struct Members<'a> {
    part: &'static str,
    object: &'a Map<String, Json>,
    taken: usize,
}

type Read<T> = Result<T, SchemaJsonError>;

impl<'a> Members<'a> {
    fn of(part: &'static str, json: &'a Json) -> Read<Self> {
        let object = json.as_object();
        let object = object.ok_or_else(|| malformed(part, "it is no JSON object"))?;
        Ok(Self { part, object, taken: 0 })
    }

    fn take(&mut self, name: &str) -> Option<&'a Json> {
        let member = self.object.get(name)?;
        self.taken += 1;
        Some(member)
    }

    fn required(&mut self, name: &str) -> Read<&'a Json> {
        self.take(name)
            .ok_or_else(|| malformed(self.part, format!("it has no {name:?}")))
    }

    fn wrong(&self, name: &str, json: &Json) -> SchemaJsonError {
        malformed(self.part, format!("{json} is no {name}"))
    }

    fn name(&mut self, name: &str) -> Read<Name> {
        let json = self.required(name)?;
        let text = json.as_str().ok_or_else(|| self.wrong(name, json))?;
        Ok(Name::from(text.to_owned()))
    }

    fn number<T: TryFrom<i64>>(&mut self, name: &str) -> Read<T> {
        let json = self.required(name)?;
        let number = json.as_i64().and_then(|number| T::try_from(number).ok());
        number.ok_or_else(|| self.wrong(name, json))
    }

    fn flag(&mut self, name: &str) -> Read<bool> {
        let json = self.required(name)?;
        json.as_bool().ok_or_else(|| self.wrong(name, json))
    }

    fn optional_name(&mut self, name: &str) -> Read<Option<Name>> {
        self.object.contains_key(name).then(|| self.name(name)).transpose()
    }

    fn optional_number<T: TryFrom<i64>>(&mut self, name: &str) -> Read<Option<T>> {
        self.object.contains_key(name).then(|| self.number(name)).transpose()
    }

    fn optional_flag(&mut self, name: &str) -> Read<bool> {
        let flag = self.object.contains_key(name).then(|| self.flag(name));
        Ok(flag.transpose()?.unwrap_or(false))
    }

    fn list<T>(&mut self, name: &str, item: impl FnMut(&'a Json) -> Read<T>) -> Read<Vec<T>> {
        let json = self.required(name)?;
        let items = json.as_array().ok_or_else(|| self.wrong(name, json))?;
        items.iter().map(item).collect()
    }

    /// What was read, if nothing is left over.
    fn end<T>(self, read: T) -> Read<T> {
        if self.taken == self.object.len() {
            return Ok(read);
        }
        let names: Vec<_> = self.object.keys().map(|name| format!("{name:?}")).collect();
        Err(malformed(
            self.part,
            format!("some of its members are not known here: {}", names.join(", ")),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::schema;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_schema_reads_back_from_its_json(schema in schema()) {
            let text = schema.to_json().to_string();
            let json: Json = serde_json::from_str(&text).expect("it is JSON");
            prop_assert_eq!(Schema::from_json(&json), Ok(schema));
        }
    }

    fn refused(change: impl FnOnce(&mut Json)) -> String {
        let mut description = Description::new("uart");
        description.fields = vec![FieldSchema {
            default: Some(Value::Uint(3)),
            ..FieldSchema::new("lcr", WireType::U8)
        }];
        let mut json = description.check().expect("legal").to_json();
        change(&mut json);
        Schema::from_json(&json).expect_err("it should be refused").to_string()
    }

    #[test]
    fn a_member_that_is_not_known_is_refused_and_so_is_one_that_is_missing() {
        let error = refused(|json| json["fields"][0]["sinse"] = 2.into());
        assert!(error.contains("\"sinse\""), "{error}");
        let error = refused(|json| json["version"] = Json::Null);
        assert!(error.contains("null is no version"), "{error}");
        let error = refused(|json| json["fields"][0]["type"] = json!({ "sequence": "u8" }));
        assert!(error.contains("it has no \"max\""), "{error}");
        let error = refused(|json| json["fields"][0]["default"] = 300.into());
        assert!(error.contains("300 is no default of `lcr`, a u8"), "{error}");
        let error = refused(|json| json["fields"] = json!([{ "name": "a", "type": "u7" }]));
        assert!(error.contains("there is none called \"u7\""), "{error}");
    }

    #[test]
    fn what_makes_no_schema_is_refused_although_its_json_is_in_order() {
        let error = refused(|json| json["version"] = 0.into());
        assert!(error.contains("ill-formed"), "{error}");
    }
}
