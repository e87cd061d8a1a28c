//! The state of a whole tree, as sections.
//!
//! One section is the state that one class describes, of one object; its key is the object's canonical path and the
//! name of the type *that holds the description*: `kvm-ioapic` saves what `ioapic-common` describes, and any other
//! subclass can load it. The order of saving and loading is that of the descriptions' priorities, the highest first,
//! then path order.
//!
//! Loading has two phases. First every section is decoded, adapted to this Tern's description and made into a plain
//! state, and sections and objects are matched one to one. Only then is anything put into an object, which cannot fail;
//! hooks can, and then the tree, which was fresh, is to be dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Install, Object, StateBinding};
use crate::state::{self, DecodeError, HookError, Schema, Section, StateError};

/// The description of one section that a tree has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SectionSchema {
    /// The canonical path of the object.
    pub path: String,
    /// The name of the type that holds the description.
    pub description: String,
    /// What the section holds.
    pub schema: Schema,
}

/// A section of a stream or file that is to be loaded.
#[derive(Clone, Debug)]
pub struct IncomingSection {
    /// The canonical path of the object.
    pub path: String,
    /// The name of the type that holds the description.
    pub description: String,
    /// What the section holds according to who wrote it.
    pub writer_schema: Arc<Schema>,
    /// The encoded state.
    pub bytes: Vec<u8>,
}

/// Why a tree could not be saved.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SaveTreeError {
    /// Some objects can be neither saved nor moved.
    #[error("this machine cannot be saved or moved: {}", list_blockers(.0))]
    Unmigratable(
        /// The path of each such object, and its reason.
        Vec<(String, &'static str)>,
    ),
    /// A hook refused.
    #[error("{path} ({description}) cannot be saved: {source}")]
    Hook {
        /// The object.
        path: String,
        /// The type that holds the description.
        description: &'static str,
        /// What it says.
        source: HookError,
    },
}

fn list_blockers(blockers: &[(String, &'static str)]) -> String {
    let texts: Vec<_> = blockers
        .iter()
        .map(|(path, reason)| format!("{path} ({reason})"))
        .collect();
    texts.join("; ")
}

/// Why sections could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadTreeError {
    /// A section has no object here.
    #[error("the stream holds state of {path} ({description}), and this machine has {here}")]
    Unexpected {
        /// The path in the stream.
        path: String,
        /// The description in the stream.
        description: String,
        /// What is at that path here.
        here: String,
    },
    /// Two sections are for one object.
    #[error("the stream holds the state of {path} ({description}) twice")]
    Twice {
        /// The object.
        path: String,
        /// The type that holds the description.
        description: String,
    },
    /// Objects stay without state.
    #[error("the stream holds no state of {0}")]
    Missing(
        /// Each `path (description)`.
        String,
    ),
    /// The bytes are not what the writer's description says.
    #[error("{path} ({description}): {source}")]
    Decode {
        /// The object.
        path: String,
        /// The type that holds the description.
        description: String,
        /// The field, the offset, and what is wrong.
        source: Box<DecodeError>,
    },
    /// A field has a value that is none.
    #[error("{path} ({description}): {source}")]
    State {
        /// The object.
        path: String,
        /// The type that holds the description.
        description: String,
        /// The field, and what is wrong.
        source: Box<StateError>,
    },
    /// A hook refused.
    #[error("{path} ({description}) cannot take this state: {source}")]
    Hook {
        /// The object.
        path: String,
        /// The type that holds the description.
        description: String,
        /// What it says.
        source: HookError,
    },
}

/// The state that one class of one object describes.
struct Described {
    path: String,
    object: Arc<Object>,
    description: &'static str,
    binding: &'static StateBinding,
}

/// What a section is known by: the path, and the type that holds the description.
type Key = (String, String);

impl Described {
    fn key(&self) -> Key {
        (self.path.clone(), self.description.to_owned())
    }
}

/// Everything that the tree below `root` has state in, in the order of saving and loading.
fn described(root: &Object) -> Vec<Described> {
    let mut all = Vec::new();
    root.walk(|object| {
        let path = object.path();
        all.extend(object.states().into_iter().map(|(info, binding)| Described {
            path: path.clone(),
            object: Arc::clone(object),
            description: info.name,
            binding,
        }));
    });
    all.sort_by_key(|one| std::cmp::Reverse(one.binding.schema().priority));
    all
}

/// What keeps the tree below `root` from being saved: each object's path and reason, in path order.
#[must_use]
pub fn blockers(root: &Object) -> Vec<(String, &'static str)> {
    let mut blockers = Vec::new();
    root.walk(|object| blockers.extend(object.unmigratable().map(|reason| (object.path(), reason))));
    blockers
}

/// The description of every section that [`save_tree`] would write, in the same order.
#[must_use]
pub fn tree_schemas(root: &Object) -> Vec<SectionSchema> {
    described(root)
        .into_iter()
        .map(|one| SectionSchema {
            path: one.path,
            description: one.description.to_owned(),
            schema: one.binding.schema().clone(),
        })
        .collect()
}

/// Takes the state of the tree below `root` out. Nothing may change it meanwhile: the machine is paused. It is left as
/// it was, whatever the outcome.
///
/// # Errors
///
/// [`SaveTreeError`]: an object cannot be saved at all, or a hook refused.
pub fn save_tree(root: &Object) -> Result<Vec<Section>, SaveTreeError> {
    let blockers = blockers(root);
    if !blockers.is_empty() {
        return Err(SaveTreeError::Unmigratable(blockers));
    }
    described(root)
        .into_iter()
        .map(|one| match one.binding.save(&one.object) {
            Ok(value) => Ok(Section {
                path: one.path,
                description: one.description.to_owned(),
                value,
            }),
            Err(source) => Err(SaveTreeError::Hook {
                path: one.path,
                description: one.description,
                source,
            }),
        })
        .collect()
}

/// Loads `sections` into the fresh tree below `root`.
///
/// # Errors
///
/// [`LoadTreeError`] names object and field. Unless it is [`LoadTreeError::Hook`], no object was touched; in any case
/// the tree is to be dropped.
pub fn load_tree(root: &Object, sections: Vec<IncomingSection>) -> Result<(), LoadTreeError> {
    let described = described(root);
    let mut incoming = match_up(root, &described, sections)?;
    let mut loads = Vec::with_capacity(described.len());
    for one in described {
        let Some(section) = incoming.remove(&one.key()) else {
            continue;
        };
        loads.push(Load {
            version: section.writer_schema.version,
            install: prepare(one.binding, section)?,
            target: one,
        });
    }
    install(loads)
}

/// Pairs sections and objects one to one.
fn match_up(
    root: &Object,
    described: &[Described],
    sections: Vec<IncomingSection>,
) -> Result<BTreeMap<Key, IncomingSection>, LoadTreeError> {
    let here: BTreeSet<Key> = described.iter().map(Described::key).collect();
    let mut incoming = BTreeMap::new();
    for section in sections {
        let key = (section.path.clone(), section.description.clone());
        if !here.contains(&key) {
            return Err(unexpected(root, section));
        }
        if let Some(first) = incoming.insert(key, section) {
            return Err(LoadTreeError::Twice {
                path: first.path,
                description: first.description,
            });
        }
    }
    let missing: Vec<_> = described
        .iter()
        .filter(|one| !incoming.contains_key(&one.key()))
        .map(|one| format!("{} ({})", one.path, one.description))
        .collect();
    if missing.is_empty() {
        Ok(incoming)
    } else {
        Err(LoadTreeError::Missing(missing.join(", ")))
    }
}

fn unexpected(root: &Object, section: IncomingSection) -> LoadTreeError {
    let here = match root.resolve(&section.path) {
        None => "nothing there".to_owned(),
        Some(object) => {
            let descriptions: Vec<_> = object.states().into_iter().map(|(info, _)| info.name).collect();
            match descriptions.join(", ") {
                none if none.is_empty() => format!("a {} there, which has no state", object.type_name()),
                some => format!("{some} there"),
            }
        }
    };
    LoadTreeError::Unexpected {
        path: section.path,
        description: section.description,
        here,
    }
}

/// The first phase for one section: from bytes to a state.
fn prepare(binding: &StateBinding, section: IncomingSection) -> Result<Install, LoadTreeError> {
    let IncomingSection {
        path,
        description,
        writer_schema,
        bytes,
    } = section;
    let value = match state::decode(&writer_schema, &bytes) {
        Ok(value) => value,
        Err(source) => {
            return Err(LoadTreeError::Decode {
                path,
                description,
                source: Box::new(source),
            });
        }
    };
    binding.prepare(&value).map_err(|source| LoadTreeError::State {
        path,
        description,
        source: Box::new(source),
    })
}

/// A state on its way into its object.
struct Load {
    target: Described,
    install: Install,
    version: u32,
}

/// The second phase: all states go in, in order, and then all `post_load` hooks run, in the same order.
fn install(loads: Vec<Load>) -> Result<(), LoadTreeError> {
    let mut loaded = Vec::with_capacity(loads.len());
    for Load {
        target,
        install,
        version,
    } in loads
    {
        target
            .binding
            .pre_load(&target.object)
            .map_err(|source| refused(&target, source))?;
        install(&target.object);
        loaded.push((target, version));
    }
    for (target, version) in loaded {
        target
            .binding
            .post_load(&target.object, version)
            .map_err(|source| refused(&target, source))?;
    }
    Ok(())
}

fn refused(target: &Described, source: HookError) -> LoadTreeError {
    LoadTreeError::Hook {
        path: target.path.clone(),
        description: target.description.to_owned(),
        source,
    }
}
