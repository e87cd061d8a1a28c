//! What a receiver loads only if the values allow it: looked at by the source, which has the values.
//!
//! A receiver that finds conditions sends its own descriptions along with its verdict. The source then tries on its
//! values what the receiver will do with them: before any RAM moves, after each round, and once more with the guest
//! paused, where a refusal lets it go on.

use std::collections::BTreeMap;
use std::sync::Arc;

use vmstate::state::{AdaptError, Schema, Section, adapt};

use crate::CborError;
use crate::schemas::SchemaTable;
use crate::vm::PreflightReport;

/// A value that the receiver cannot load.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path} is in a state that the receiver cannot load: field {} {}", .source.path, .source.refusal)]
pub struct Unmet {
    /// The object.
    pub path: String,
    /// The field and the condition.
    pub source: Box<AdaptError>,
}

/// The descriptions of the receiver's by which some values load and others do not.
#[derive(Debug, Default)]
pub(crate) struct Conditions {
    /// The writer's and the reader's description of each section, by path and description.
    sections: BTreeMap<(String, String), (Arc<Schema>, Arc<Schema>)>,
}

impl Conditions {
    /// The conditions of a receiver on what `table` announces.
    pub(crate) fn new(verdict: &PreflightReport, table: &SchemaTable) -> Result<Self, CborError> {
        let mut readers = BTreeMap::new();
        for reader in &verdict.readers {
            readers.insert(reader.description.as_str(), Arc::new(reader.schema()?));
        }
        let conditional = table.iter().filter_map(|(path, description, writer)| {
            let reader = readers.get(description)?;
            let key = (path.to_owned(), description.to_owned());
            Some((key, (Arc::clone(writer), Arc::clone(reader))))
        });
        Ok(Self {
            sections: conditional.collect(),
        })
    }

    /// Whether every value loads.
    pub(crate) fn is_empty(&self) -> bool {
        self.sections.is_empty()
    }

    /// Tries what the receiver would do with these.
    pub(crate) fn check(&self, sections: &[Section]) -> Result<(), Unmet> {
        if self.is_empty() {
            return Ok(());
        }
        for section in sections {
            let key = (section.path.clone(), section.description.clone());
            if let Some((writer, reader)) = self.sections.get(&key) {
                adapt(section.value.clone(), writer, reader).map_err(|refused| Unmet {
                    path: section.path.clone(),
                    source: Box::new(refused),
                })?;
            }
        }
        Ok(())
    }
}
