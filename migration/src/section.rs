//! The section record: the state of one object, encoded as the writer's schema says.

use std::sync::Arc;

use vmstate::qom::sections::IncomingSection;
use vmstate::state::{self, Section, StructValue};

use crate::cbor::{self, Bytes, CborError, cbor_map};
use crate::schemas::SchemaTable;

/// The record as it is written.
struct Wire {
    path: String,
    description: String,
    schema: u32,
    state: Bytes,
}
cbor_map!(Wire, "section" { 0 => path, 2 => description, 4 => schema, 6 => state });

/// Why a section cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SectionError {
    /// The record around the state cannot be read.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// The schemas record does not list the section.
    #[error("the section of {path} ({description}) was not announced")]
    Unannounced {
        /// The object.
        path: String,
        /// The type that describes its state.
        description: String,
    },
    /// The state does not fit its own schema: the type's description is wrong.
    #[error("the state of {path} cannot be encoded: {source}")]
    Encode {
        /// The object.
        path: String,
        /// The field and the reason.
        source: Box<state::EncodeError>,
    },
    /// The bytes are not what the schema says.
    #[error("the state of {path} cannot be decoded: {source}")]
    Decode {
        /// The object.
        path: String,
        /// The field, the offset and the reason.
        source: Box<state::DecodeError>,
    },
}

/// The payload of a section's record.
///
/// # Errors
///
/// The section was not announced, or does not fit its schema.
pub fn encode(table: &SchemaTable, section: &Section) -> Result<Vec<u8>, SectionError> {
    let Section {
        path,
        description,
        value,
    } = section;
    let (schema, described) = table
        .get(path, description)
        .ok_or_else(|| unannounced(path, description))?;
    let bytes = state::encode(described, value).map_err(|source| SectionError::Encode {
        path: path.clone(),
        source: Box::new(source),
    })?;
    Ok(cbor::to_bytes(&Wire {
        path: path.clone(),
        description: description.clone(),
        schema,
        state: Bytes(bytes),
    }))
}

/// Reads the payload of a section's record, and its state, so that a section that cannot be decoded is found before
/// anything is built.
///
/// # Errors
///
/// What is wrong with the record or the state in it.
pub fn decode(table: &SchemaTable, payload: &[u8]) -> Result<(IncomingSection, StructValue), SectionError> {
    let Wire {
        path,
        description,
        schema,
        state: Bytes(bytes),
    } = cbor::from_bytes(payload)?;
    let (number, writer_schema) = table
        .get(&path, &description)
        .ok_or_else(|| unannounced(&path, &description))?;
    if number != schema {
        let what = format!("the section of {path} claims schema {schema}, and schema {number} was announced");
        return Err(CborError { what, offset: 0 }.into());
    }
    let value = state::decode(writer_schema, &bytes).map_err(|source| SectionError::Decode {
        path: path.clone(),
        source: Box::new(source),
    })?;
    Ok((
        IncomingSection {
            path,
            description,
            writer_schema: Arc::clone(writer_schema),
            bytes,
        },
        value,
    ))
}

fn unannounced(path: &str, description: &str) -> SectionError {
    SectionError::Unannounced {
        path: path.to_owned(),
        description: description.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeState;
    use vmstate::VmState;
    use vmstate::qom::sections::SectionSchema;

    fn table(path: &str) -> SchemaTable {
        SchemaTable::new(&[SectionSchema {
            path: path.into(),
            description: "fake".into(),
            schema: FakeState::schema().clone(),
        }])
    }

    fn section(state: &FakeState) -> Section {
        Section {
            path: "/machine/a".into(),
            description: "fake".into(),
            value: state.to_value(),
        }
    }

    #[test]
    fn a_section_reads_back() {
        let state = FakeState {
            counter: 77,
            armed: true,
            ..FakeState::default()
        };
        let (section, table) = (section(&state), table("/machine/a"));
        let payload = encode(&table, &section).expect("fits");
        let (incoming, value) = decode(&table, &payload).expect("reads back");
        assert_eq!(
            (incoming.path.as_str(), FakeState::from_value(&value)),
            ("/machine/a", Ok(state))
        );
        assert_eq!(value, section.value);
    }

    #[test]
    fn a_section_that_was_not_announced_is_refused_on_both_sides() {
        let section = section(&FakeState::default());
        assert!(matches!(
            encode(&table("/machine/b"), &section),
            Err(SectionError::Unannounced { .. })
        ));
        let payload = encode(&table("/machine/a"), &section).expect("fits");
        let error = decode(&table("/machine/b"), &payload).expect_err("another machine");
        assert!(
            error.to_string().contains("/machine/a (fake) was not announced"),
            "{error}"
        );
    }

    #[test]
    fn state_that_is_cut_off_is_refused_with_its_object_named() {
        let table = table("/machine/a");
        let mut wire: Wire =
            cbor::from_bytes(&encode(&table, &section(&FakeState::default())).expect("fits")).expect("reads back");
        wire.state.0.pop();
        let error = decode(&table, &cbor::to_bytes(&wire)).expect_err("cut off");
        assert!(
            error.to_string().contains("state of /machine/a cannot be decoded"),
            "{error}"
        );
    }
}
