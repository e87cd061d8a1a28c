//! An object: a header, and one part per class of its chain.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Weak};

use parking_lot::RwLock;

use super::tree::Node;
use super::{Class, ObjectPart, StateBinding, StateDecl, TypeInfo, TypeKind, TypeTable};

/// An instance of a type. It lives in an [`Arc`]: one is held by its place in the composition tree, others by whoever
/// uses it.
///
/// An object is finalised when the last of them goes: first its children lose their place, youngest first; then, from
/// its own class up, `instance_finalize` of each class runs and that class's part is dropped. No lock is held
/// meanwhile, so a finaliser may look at the tree, where the object itself is no longer to be found.
pub struct Object {
    class: Arc<Class>,
    types: Arc<TypeTable>,
    this: Weak<Object>,
    parts: Vec<Box<dyn Any + Send + Sync>>,
    pub(super) node: Node,
    /// Setting a property holds this for reading, so that nothing changes after [`Object::freeze`] has returned.
    pub(super) frozen: RwLock<bool>,
}

/// Why no object could be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// The table has no such type.
    #[error("there is no type '{name}'")]
    UnknownType {
        /// What was asked for.
        name: String,
    },
    /// Abstract types and interfaces have no objects of their own.
    #[error("type '{name}' is {} and has no objects of its own; name one of the types that {}",
        if *.interface { "an interface" } else { "abstract" }, if *.interface { "implement it" } else { "extend it" })]
    NotConcrete {
        /// What was asked for.
        name: &'static str,
        /// Whether it is an interface.
        interface: bool,
    },
}

impl Object {
    pub(super) fn instantiate(types: &Arc<TypeTable>, class: Arc<Class>) -> Result<Arc<Self>, ObjectError> {
        if !class.is_concrete() {
            let interface = class.info().kind == TypeKind::Interface;
            return Err(ObjectError::NotConcrete {
                name: class.name(),
                interface,
            });
        }
        let lineage = class.lineage();
        let parts = lineage.iter().filter_map(|info| info.part).map(|make| make()).collect();
        let object = Arc::new_cyclic(|this| Self {
            class,
            types: Arc::clone(types),
            this: Weak::clone(this),
            parts,
            node: Node::default(),
            frozen: RwLock::new(false),
        });
        for init in lineage.iter().filter_map(|info| info.instance_init) {
            init(&object);
        }
        for post_init in lineage.iter().rev().filter_map(|info| info.instance_post_init) {
            post_init(&object);
        }
        Ok(object)
    }

    /// The class of the object.
    #[must_use]
    pub fn class(&self) -> &Class {
        &self.class
    }

    /// The name of the object's type.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        self.class.name()
    }

    /// The table that the object's type comes from: what an object that makes others asks.
    #[must_use]
    pub fn types(&self) -> &Arc<TypeTable> {
        &self.types
    }

    /// Whether the object's class is the type `name`, extends it or implements it.
    #[must_use]
    pub fn is_a(&self, name: &str) -> bool {
        self.class.is_a(name)
    }

    /// The handle of this object, or `None` once it is being finalised.
    #[must_use]
    pub fn this(&self) -> Option<Arc<Self>> {
        self.this.upgrade()
    }

    pub(super) fn weak(&self) -> Weak<Self> {
        Weak::clone(&self.this)
    }

    /// The part that the type of `T` adds, or `None` where the object is no such type.
    #[must_use]
    pub fn part<T: ObjectPart>(&self) -> Option<&T> {
        self.parts.iter().rev().find_map(|part| part.downcast_ref())
    }

    pub(super) fn part_index<T: ObjectPart>(&self) -> Option<usize> {
        self.parts.iter().rposition(|part| part.is::<T>())
    }

    pub(super) fn part_at<T: ObjectPart>(&self, index: usize) -> Option<&T> {
        self.parts.get(index)?.downcast_ref()
    }

    /// The part of `T` for an accessor that the type of `T` itself declared.
    ///
    /// # Panics
    ///
    /// If the object is no `T`, which the framework rules out: it hands an accessor only to instances of its type.
    pub(super) fn own_part<T: ObjectPart>(&self) -> &T {
        self.part()
            .expect("an accessor is called for instances of its own type")
    }

    /// Refuses changes to the configuration from now on. Devices freeze when they are realized.
    pub fn freeze(&self) {
        *self.frozen.write() = true;
    }

    /// Undoes [`Object::freeze`], for an object that is taken out of use or never came into it.
    pub fn thaw(&self) {
        *self.frozen.write() = false;
    }

    /// Whether the configuration can no longer change.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        *self.frozen.read()
    }

    /// The state descriptions of the object, from the root of its chain down.
    #[must_use]
    pub fn states(&self) -> Vec<(&'static TypeInfo, &'static StateBinding)> {
        self.class
            .lineage()
            .into_iter()
            .filter_map(|info| match &info.state {
                StateDecl::Described(binding) => Some((info, binding)),
                StateDecl::Stateless | StateDecl::Unmigratable(_) => None,
            })
            .collect()
    }

    /// Why the object cannot be saved, if a class of its chain says so.
    #[must_use]
    pub fn unmigratable(&self) -> Option<&'static str> {
        self.class.lineage().into_iter().find_map(|info| match info.state {
            StateDecl::Unmigratable(reason) => Some(reason),
            StateDecl::Described(_) | StateDecl::Stateless => None,
        })
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        self.node.orphan_children();
        for info in self.class.lineage().into_iter().rev() {
            if let Some(finalize) = info.instance_finalize {
                finalize(self);
            }
            if info.part.is_some() {
                drop(self.parts.pop());
            }
        }
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Object")
            .field("type", &self.type_name())
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}
