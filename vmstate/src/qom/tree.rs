//! The composition tree: who owns whom, under which name.
//!
//! Each object has one lock over its place and one over its children. No two of them are ever held at once, and none
//! while foreign code runs, so that walkers, finalisers and changes of the tree do not wait for each other in circles.

use std::collections::BTreeMap;
use std::mem;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::Object;

/// An object that only holds others: the root of a tree and its folders. Every
/// [`TypeTable`](super::TypeTable) holds the type without being told.
#[derive(Object)]
#[object(name = "container", stateless, unregistered)]
pub struct Container {}

/// The longest name of a child, in bytes.
const MAX_NAME: usize = 128;

/// Why an object could not be put into the tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddChildError {
    /// The name cannot be part of a path.
    #[error("'{name}' cannot be the name of an object: {reason}")]
    BadName {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The parent has a child or a property of that name.
    #[error("{parent} already has a {what} '{name}'; choose another name")]
    NameTaken {
        /// The path of the parent.
        parent: String,
        /// "child" or "property".
        what: &'static str,
        /// The name.
        name: String,
    },
    /// An object has one place; take it out of the old one first.
    #[error("the object to be added as '{name}' is already in the tree, at {at}")]
    HasPlace {
        /// Its new name.
        name: String,
        /// Where it is.
        at: String,
    },
    /// The parent lies below the child, or is the child.
    #[error("'{name}' would become its own ancestor")]
    Cycle {
        /// The name.
        name: String,
    },
    /// The parent is being finalised.
    #[error("the object that would own '{name}' is being finalised")]
    ParentGone {
        /// The name.
        name: String,
    },
}

/// Checks that `name` can be a component of a path. Names are what the author or the user gave: there is no automatic
/// numbering, because the name of an object with state is written into streams.
///
/// # Errors
///
/// [`AddChildError::BadName`] for an empty name, one that holds `/` or a control character, `.`, `..`, one that ends in
/// `[*]`, and one longer than 128 bytes.
pub fn check_child_name(name: &str) -> Result<(), AddChildError> {
    let reason = if name.is_empty() {
        "it is empty"
    } else if name.len() > MAX_NAME {
        "it is longer than 128 bytes"
    } else if name == "." || name == ".." {
        "it is reserved"
    } else if name.contains('/') {
        "it holds '/'"
    } else if name.contains(char::is_control) {
        "it holds a control character"
    } else if name.ends_with("[*]") {
        "objects are not numbered automatically"
    } else {
        return Ok(());
    };
    Err(AddChildError::BadName {
        name: name.to_owned(),
        reason,
    })
}

/// An object's part in the tree.
#[derive(Default)]
pub(super) struct Node {
    place: Mutex<Option<Place>>,
    children: Mutex<Children>,
}

struct Place {
    parent: Weak<Object>,
    name: Arc<str>,
}

#[derive(Default)]
struct Children {
    by_name: BTreeMap<Arc<str>, Child>,
    added: u64,
}

struct Child {
    /// Counts up, so that the youngest can be dropped first.
    sequence: u64,
    object: Arc<Object>,
}

impl Node {
    /// Takes the places of all children away and drops them, the youngest first.
    pub(super) fn orphan_children(&mut self) {
        let mut children: Vec<_> = mem::take(&mut self.children.get_mut().by_name).into_values().collect();
        children.sort_by_key(|child| child.sequence);
        while let Some(child) = children.pop() {
            child.object.node.forget_dead_parent();
        }
    }

    /// Nobody but a dead parent can have held the place, so a child that somebody has put elsewhere meanwhile stays.
    fn forget_dead_parent(&self) {
        let mut place = self.place.lock();
        if place.as_ref().is_some_and(|place| place.parent.strong_count() == 0) {
            *place = None;
        }
    }

    /// The parent and the name under it, or `None` for the root of a tree.
    fn place(&self) -> Option<(Arc<Object>, Arc<str>)> {
        let place = self.place.lock();
        let place = place.as_ref()?;
        Some((place.parent.upgrade()?, Arc::clone(&place.name)))
    }
}

/// The composition tree.
impl Object {
    /// The name of the object under its parent; empty for the root of a tree.
    #[must_use]
    pub fn name(&self) -> String {
        self.node
            .place()
            .map(|(_, name)| name.as_ref().to_owned())
            .unwrap_or_default()
    }

    /// The object that owns this one, or `None` for the root of a tree.
    #[must_use]
    pub fn parent(&self) -> Option<Arc<Object>> {
        self.node.place().map(|(parent, _)| parent)
    }

    /// The canonical path: `/` for the root of a tree, `/machine/serial0` below it.
    #[must_use]
    pub fn path(&self) -> String {
        let mut names = Vec::new();
        let mut place = self.node.place();
        while let Some((parent, name)) = place {
            names.push(name);
            place = parent.node.place();
        }
        if names.is_empty() {
            return "/".to_owned();
        }
        names.iter().rev().fold(String::new(), |path, name| path + "/" + name)
    }

    /// The root of the tree that the object is in, which may be the object itself. `None` only while that root is
    /// being finalised.
    #[must_use]
    pub fn root(&self) -> Option<Arc<Object>> {
        let Some(mut top) = self.parent() else {
            return self.this();
        };
        while let Some(parent) = top.parent() {
            top = parent;
        }
        Some(top)
    }

    /// The children, sorted by name.
    #[must_use]
    pub fn children(&self) -> Vec<Arc<Object>> {
        self.node
            .children
            .lock()
            .by_name
            .values()
            .map(|child| Arc::clone(&child.object))
            .collect()
    }

    pub(super) fn child_names(&self) -> Vec<(Arc<str>, Arc<Object>)> {
        let children = self.node.children.lock();
        children
            .by_name
            .iter()
            .map(|(name, child)| (Arc::clone(name), Arc::clone(&child.object)))
            .collect()
    }

    /// The child `name`.
    #[must_use]
    pub fn child(&self, name: &str) -> Option<Arc<Object>> {
        self.node
            .children
            .lock()
            .by_name
            .get(name)
            .map(|child| Arc::clone(&child.object))
    }

    /// Gives `child` its place: `name` below this object, which owns it from then on.
    ///
    /// # Errors
    ///
    /// [`AddChildError`]; nothing has changed then.
    pub fn add_child(&self, name: &str, child: impl Into<Arc<Object>>) -> Result<(), AddChildError> {
        let child: Arc<Object> = child.into();
        check_child_name(name)?;
        let taken = |what| AddChildError::NameTaken {
            parent: self.path(),
            what,
            name: name.to_owned(),
        };
        if self.class().property(name).is_some() {
            return Err(taken("property"));
        }
        if self.this().is_none() {
            return Err(AddChildError::ParentGone { name: name.to_owned() });
        }
        let name: Arc<str> = Arc::from(name);
        self.claim(&child, &name)?;
        // The place is claimed before the way up is looked at: of two additions that would close a circle together, at
        // least one sees the other's claim.
        let added = if self.is_at_or_below(&child) {
            Err(AddChildError::Cycle {
                name: name.as_ref().to_owned(),
            })
        } else if self.adopt(&name, &child) {
            Ok(())
        } else {
            Err(taken("child"))
        };
        if added.is_err() {
            *child.node.place.lock() = None;
        }
        added
    }

    fn claim(&self, child: &Object, name: &Arc<str>) -> Result<(), AddChildError> {
        let mut place = child.node.place.lock();
        if place.as_ref().is_some_and(|place| place.parent.strong_count() > 0) {
            drop(place);
            return Err(AddChildError::HasPlace {
                name: name.as_ref().to_owned(),
                at: child.path(),
            });
        }
        *place = Some(Place {
            parent: self.weak(),
            name: Arc::clone(name),
        });
        Ok(())
    }

    fn adopt(&self, name: &Arc<str>, child: &Arc<Object>) -> bool {
        let mut children = self.node.children.lock();
        if children.by_name.contains_key(name) {
            return false;
        }
        let sequence = children.added;
        children.added += 1;
        children.by_name.insert(
            Arc::clone(name),
            Child {
                sequence,
                object: Arc::clone(child),
            },
        );
        true
    }

    fn is_at_or_below(&self, ancestor: &Arc<Object>) -> bool {
        let mut above = self.this();
        while let Some(object) = above {
            if Arc::ptr_eq(&object, ancestor) {
                return true;
            }
            above = object.parent();
        }
        false
    }

    /// Takes the object out of its place; it becomes the root of its own tree, and dies unless somebody holds it.
    pub fn unparent(&self) {
        let Some((parent, name)) = self.node.place() else {
            return;
        };
        let removed = {
            let mut children = parent.node.children.lock();
            let ours = children
                .by_name
                .get(&name)
                .is_some_and(|child| std::ptr::eq(child.object.as_ref(), self));
            if ours { children.by_name.remove(&name) } else { None }
        };
        if let Some(child) = removed {
            *self.node.place.lock() = None;
            drop(child);
        }
    }

    /// The object at `path`, which is absolute (`/machine/serial0`) or relative to this object (`serial0`).
    #[must_use]
    pub fn resolve(&self, path: &str) -> Option<Arc<Object>> {
        let (mut at, below) = match path.strip_prefix('/') {
            Some(below) => (self.root()?, below),
            None => (self.this()?, path),
        };
        if below.is_empty() {
            return Some(at);
        }
        for name in below.split('/') {
            at = at.child(name)?;
        }
        Some(at)
    }

    /// Visits this object and everything below it in path order: parents before children, siblings by name. The tree
    /// may change meanwhile; what the walk has not yet reached is visited as it is then.
    pub fn walk(&self, mut visit: impl FnMut(&Arc<Object>)) {
        let mut pending: Vec<_> = self.this().into_iter().collect();
        while let Some(object) = pending.pop() {
            visit(&object);
            pending.extend(object.children().into_iter().rev());
        }
    }
}
