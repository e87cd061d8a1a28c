//! What properties are; how objects answer for them is in `property_access`.

use std::fmt;
use std::sync::Arc;

use super::{Object, PropertyKind, PropertyValue};

/// A property of a class.
pub struct Property {
    name: &'static str,
    description: &'static str,
    kind: PropertyKind,
    default: Option<PropertyValue>,
    pub(super) access: Access,
}

type Get<T> = Box<dyn Fn(&Object) -> T + Send + Sync>;
/// Returns `None` where the value, although of the property's kind, is refused.
type Set<T> = Box<dyn Fn(&Object, &T) -> Option<()> + Send + Sync>;

/// How an object's value is reached.
pub(super) enum Access {
    /// A value, and without `set` one that is only shown.
    Value {
        get: Get<PropertyValue>,
        set: Option<Set<PropertyValue>>,
    },
    /// A link to an object elsewhere in the tree.
    Link {
        get: Get<Option<Arc<Object>>>,
        set: Set<Option<Arc<Object>>>,
    },
}

impl Property {
    pub(super) fn with_access(
        name: &'static str,
        description: &'static str,
        kind: PropertyKind,
        default: Option<PropertyValue>,
        access: Access,
    ) -> Self {
        Self {
            name,
            description,
            kind,
            default,
            access,
        }
    }

    /// A property that is computed, and only shown.
    #[must_use]
    pub fn read_only(
        name: &'static str,
        description: &'static str,
        kind: PropertyKind,
        get: impl Fn(&Object) -> PropertyValue + Send + Sync + 'static,
    ) -> Self {
        Self::with_access(
            name,
            description,
            kind,
            None,
            Access::Value {
                get: Box::new(get),
                set: None,
            },
        )
    }

    /// The name, unique in the chain of a class.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What the property is for.
    #[must_use]
    pub fn description(&self) -> &'static str {
        self.description
    }

    /// What values it takes.
    #[must_use]
    pub fn kind(&self) -> &PropertyKind {
        &self.kind
    }

    /// The value that it has unless set.
    #[must_use]
    pub fn default(&self) -> Option<&PropertyValue> {
        self.default.as_ref()
    }

    /// Whether it can be set at all, before the object is frozen.
    #[must_use]
    pub fn is_settable(&self) -> bool {
        !matches!(self.access, Access::Value { set: None, .. })
    }

    /// What a user is told about it, of an object that is not in use yet.
    #[must_use]
    pub fn info(&self) -> PropertyInfo {
        PropertyInfo {
            name: self.name.to_owned(),
            type_name: self.kind.type_name(),
            description: self.description,
            default: self.default.clone(),
            settable: self.is_settable(),
        }
    }
}

impl fmt::Debug for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Property")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// What a user is told about a property: of a class, or a child of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PropertyInfo {
    /// The name.
    pub name: String,
    /// The type, as in `uint16`, `link<x86-cpu>`, `child<container>`.
    pub type_name: String,
    /// What it is for.
    pub description: &'static str,
    /// The value that it has unless set.
    pub default: Option<PropertyValue>,
    /// Whether it can be set now.
    pub settable: bool,
}
