//! The state of a whole tree, as sections.
//!
//! One section is the state that one class describes, of one object; its key is the object's canonical path and the
//! name of the type *that holds the description*: `kvm-ioapic` saves what `ioapic-common` describes, and any other
//! subclass can load it. The order of saving and loading is that of the descriptions' priorities, the highest first,
//! then path order.
//!
//! Loading has two phases. First every section is decoded, adapted to this Tern's description and made into a plain
//! state, and sections and objects are matched one to one. Then all `pre_load` hooks run, all states are put in, which
//! cannot fail, and all `post_load` hooks run; so no hook meets an object that has no state yet. If a hook refuses, the
//! tree, which was fresh, is to be dropped.

mod load;
mod moves;
mod save;
#[cfg(test)]
mod testing;

use std::sync::Arc;

use super::{Object, StateBinding};
use crate::state::{Schema, Section};

pub use load::{IncomingSection, LoadTreeError, SectionFault, check_sections, load_tree};
pub use moves::{Move, whereabouts};
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

/// The state of the tree below `root` as it is now, of the objects that `wanted` picks. No hook runs and nothing has to stand
/// still: each state is whole by itself, and those of two objects may be of two instants.
#[must_use]
pub fn peek_tree(root: &Object, wanted: impl Fn(&Object) -> bool) -> Vec<Section> {
    let wanted = described(root).into_iter().filter(|one| wanted(&one.object));
    wanted
        .map(|one| Section {
            value: one.binding.take(&one.object),
            path: one.path,
            description: one.description.to_owned(),
        })
        .collect()
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
            schema: one.binding.schema_of(&one.object).into_owned(),
        })
        .collect()
}
