//! The schemas record: the writer's description of every section that can follow, so that a reader can tell beforehand
//! whether it can load them, and show them without the writer's types.

use std::collections::BTreeMap;
use std::sync::Arc;

use vmstate::qom::sections::SectionSchema;
use vmstate::state::Schema;

use crate::cbor::{self, Bytes, CborError, cbor_map};

/// Which section has which schema. Objects of one kind share one.
#[derive(Clone, Debug, Default)]
pub struct SchemaTable {
    schemas: Vec<Arc<Schema>>,
    /// By path and description.
    sections: BTreeMap<(String, String), u32>,
}

/// The record as it is written.
struct Wire {
    schemas: Vec<Bytes>,
    sections: Vec<WireSection>,
}
cbor_map!(Wire, "schemas" { 0 => schemas, 2 => sections });

struct WireSection {
    path: String,
    description: String,
    schema: u32,
}
cbor_map!(WireSection, "section" { 0 => path, 2 => description, 4 => schema });

impl SchemaTable {
    /// The table of these sections.
    #[must_use]
    pub fn new(sections: &[SectionSchema]) -> Self {
        let mut table = Self::default();
        for section in sections {
            let known = table.schemas.iter().position(|schema| **schema == section.schema);
            let number = known.unwrap_or_else(|| {
                table.schemas.push(Arc::new(section.schema.clone()));
                table.schemas.len() - 1
            });
            let number = u32::try_from(number).expect("as many schemas as there are types");
            table
                .sections
                .insert((section.path.clone(), section.description.clone()), number);
        }
        table
    }

    /// The schema of a section, and its number.
    #[must_use]
    pub fn get(&self, path: &str, description: &str) -> Option<(u32, &Arc<Schema>)> {
        let number = *self.sections.get(&(path.to_owned(), description.to_owned()))?;
        Some((number, self.schemas.get(usize::try_from(number).ok()?)?))
    }

    /// Every section with its schema, sorted by path.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &Arc<Schema>)> {
        self.sections.iter().filter_map(|((path, description), number)| {
            let schema = self.schemas.get(usize::try_from(*number).ok()?)?;
            Some((path.as_str(), description.as_str(), schema))
        })
    }

    /// The table as a list, sorted by path.
    #[must_use]
    pub fn to_sections(&self) -> Vec<SectionSchema> {
        let section = |(path, description, schema): (&str, &str, &Arc<Schema>)| SectionSchema {
            path: path.to_owned(),
            description: description.to_owned(),
            schema: Schema::clone(schema),
        };
        self.iter().map(section).collect()
    }

    /// The record's payload.
    #[must_use]
    pub fn to_cbor(&self) -> Vec<u8> {
        let sections = self.sections.iter().map(|((path, description), &schema)| WireSection {
            path: path.clone(),
            description: description.clone(),
            schema,
        });
        cbor::to_bytes(&Wire {
            schemas: self.schemas.iter().map(|schema| Bytes(schema.to_cbor())).collect(),
            sections: sections.collect(),
        })
    }

    /// Reads the record's payload.
    ///
    /// # Errors
    ///
    /// What is wrong with the bytes, with a schema, or with the numbers that tie them together.
    pub fn from_cbor(bytes: &[u8]) -> Result<Self, CborError> {
        let wire: Wire = cbor::from_bytes(bytes)?;
        let refuse = |what| CborError { what, offset: 0 };
        let mut table = Self::default();
        for (number, bytes) in wire.schemas.iter().enumerate() {
            let schema = Schema::from_cbor(&bytes.0).map_err(|error| refuse(format!("schema {number}: {error}")))?;
            table.schemas.push(Arc::new(schema));
        }
        for section in wire.sections {
            let WireSection {
                path,
                description,
                schema,
            } = section;
            if usize::try_from(schema)
                .ok()
                .is_none_or(|schema| schema >= table.schemas.len())
            {
                return Err(refuse(format!(
                    "the section of {path} has schema {schema}, which does not exist"
                )));
            }
            if table
                .sections
                .insert((path.clone(), description.clone()), schema)
                .is_some()
            {
                return Err(refuse(format!("the section of {path} ({description}) is listed twice")));
            }
        }
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeState;
    use vmstate::VmState;

    fn section(path: &str) -> SectionSchema {
        SectionSchema {
            path: path.into(),
            description: "fake".into(),
            schema: FakeState::schema().clone(),
        }
    }

    #[test]
    fn sections_share_a_schema_and_the_table_reads_back_the_same() {
        let table = SchemaTable::new(&[section("/machine/b"), section("/machine/a")]);
        assert_eq!(table.schemas.len(), 1);
        let back = SchemaTable::from_cbor(&table.to_cbor()).expect("reads back");
        assert_eq!(back.to_sections(), [section("/machine/a"), section("/machine/b")]);
        assert_eq!(back.to_cbor(), table.to_cbor());
        assert!(back.get("/machine/a", "fake").is_some() && back.get("/machine/a", "real").is_none());
    }

    #[test]
    fn a_schema_that_does_not_exist_is_refused() {
        let wire = Wire {
            schemas: Vec::new(),
            sections: vec![WireSection {
                path: "/x".into(),
                description: "d".into(),
                schema: 0,
            }],
        };
        let error = SchemaTable::from_cbor(&cbor::to_bytes(&wire)).expect_err("no schema 0");
        assert!(error.to_string().contains("/x has schema 0"), "{error}");
    }
}
