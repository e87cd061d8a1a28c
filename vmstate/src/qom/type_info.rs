//! The static declaration of a type.

use std::any::Any;
use std::sync::Arc;

use super::{Class, ClassData, Object, Property, StateBinding};

/// What may be made of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TypeKind {
    /// Objects can be made of it.
    Concrete,
    /// Only its descendants have objects.
    Abstract,
    /// A contract that classes promise to keep; it has no instances and no parts.
    Interface,
}

/// What a type says about the state of its objects. There is no default: whoever declares a type decides.
#[derive(Clone, Copy, Debug)]
pub enum StateDecl {
    /// The type adds state of its own, described here.
    Described(StateBinding),
    /// The type adds no state to what its parent has.
    Stateless,
    /// Objects of the type cannot be saved or moved; the user is shown the reason.
    Unmigratable(&'static str),
}

/// A type, declared once as static data.
///
/// `#[derive(Object)]` writes it; by hand one starts from [`TypeInfo::new`], so that a field added here later costs
/// nothing there:
///
/// ```
/// use vmstate::qom::{StateDecl, TypeInfo, TypeKind};
///
/// static BUS: TypeInfo = TypeInfo {
///     kind: TypeKind::Abstract,
///     ..TypeInfo::new("bus", StateDecl::Stateless, concat!(file!(), ":", line!()))
/// };
/// # assert_eq!(BUS.parent, Some("object"));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct TypeInfo {
    /// The name by which the type is known to users and in streams.
    pub name: &'static str,
    /// The type it extends; only [`OBJECT`] and interfaces have none.
    pub parent: Option<&'static str>,
    /// Concrete, abstract or interface.
    pub kind: TypeKind,
    /// Interfaces that the class implements, besides the inherited ones.
    pub interfaces: &'static [&'static str],
    /// Makes the part that this type adds to an object.
    pub part: Option<fn() -> Box<dyn Any + Send + Sync>>,
    /// Makes the data that this type adds to its class and those of its descendants.
    pub class_data: Option<fn() -> Box<dyn ClassData>>,
    /// Fills the class, after everything was inherited.
    pub class_init: Option<fn(&mut Class)>,
    /// Runs for the class of every descendant, before that one's own `class_init`.
    pub class_base_init: Option<fn(&mut Class)>,
    /// Runs for a new object, from the root of the chain down.
    pub instance_init: Option<fn(&Arc<Object>)>,
    /// Runs once the object is whole, from its own class up.
    pub instance_post_init: Option<fn(&Arc<Object>)>,
    /// Runs when the object dies, from its own class up. No lock is held, the parts of more derived classes are gone.
    pub instance_finalize: Option<fn(&Object)>,
    /// The properties that the type adds.
    pub properties: fn() -> Vec<Property>,
    /// What the type says about state.
    pub state: StateDecl,
    /// The place of the declaration, for errors: `file:line`.
    pub declared_at: &'static str,
}

impl TypeInfo {
    /// A concrete child of `object` that adds nothing yet.
    #[must_use]
    pub const fn new(name: &'static str, state: StateDecl, declared_at: &'static str) -> Self {
        Self {
            name,
            parent: Some("object"),
            kind: TypeKind::Concrete,
            interfaces: &[],
            part: None,
            class_data: None,
            class_init: None,
            class_base_init: None,
            instance_init: None,
            instance_post_init: None,
            instance_finalize: None,
            properties: Vec::new,
            state,
            declared_at,
        }
    }

    /// An interface without parents.
    #[must_use]
    pub const fn interface(name: &'static str, declared_at: &'static str) -> Self {
        Self {
            parent: None,
            kind: TypeKind::Interface,
            ..Self::new(name, StateDecl::Stateless, declared_at)
        }
    }
}

/// The root of all types that have objects. Every [`TypeTable`](super::TypeTable) holds it without being told.
pub static OBJECT: TypeInfo = TypeInfo {
    parent: None,
    kind: TypeKind::Abstract,
    ..TypeInfo::new("object", StateDecl::Stateless, concat!(file!(), ":", line!()))
};
