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

mod load;
mod save;
#[cfg(test)]
mod testing;

use std::sync::Arc;

use super::{Object, StateBinding};
use crate::state::Schema;

pub use load::{IncomingSection, LoadTreeError, SectionFault, load_tree};
pub use save::{SaveTreeError, save_tree};

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
