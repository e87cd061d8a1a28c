//! What properties are; how objects answer for them is in `property_access`.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, Weak};

use super::{Object, PropertyKind, PropertyValue};

/// A property of a class, or of one object.
pub struct Property {
    name: Cow<'static, str>,
    description: &'static str,
    kind: PropertyKind,
    default: Option<PropertyValue>,
    live: bool,
    pub(super) access: Access,
}

type Get<T> = Box<dyn Fn(&Object) -> T + Send + Sync>;
type Set<T, R> = Box<dyn Fn(&Object, &T) -> Result<R, Refused> + Send + Sync>;
/// What a link leads to.
type Target = Option<Arc<Object>>;

/// Why a value is refused that is of the property's kind.
pub(super) enum Refused {
    /// The type behind the property is narrower than its kind, or the target of a link is of another type.
    Kind,
    /// The property's check objects, for this reason.
    Because(String),
}

/// How an object's value is reached.
pub(super) enum Access {
    /// A value, and without `set` one that is only shown.
    Value {
        get: Get<PropertyValue>,
        set: Option<Set<PropertyValue, ()>>,
    },
    /// A link to an object elsewhere in the tree, and without `set` one that only the program makes.
    Link {
        get: Get<Target>,
        /// Gives back what the link held until then, which dies when nobody else holds it: not under a lock.
        set: Option<Set<Target, Target>>,
    },
    /// Another name for `property` of `target`.
    Alias { target: Weak<Object>, property: String },
}

impl Property {
    pub(super) fn with_access(
        name: impl Into<Cow<'static, str>>,
        description: &'static str,
        kind: PropertyKind,
        default: Option<PropertyValue>,
        access: Access,
    ) -> Self {
        Self {
            name: name.into(),
            description,
            kind,
            default,
            live: false,
            access,
        }
    }

    /// A property that is computed, and only shown.
    #[must_use]
    pub fn read_only(
        name: impl Into<Cow<'static, str>>,
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

    /// A link to an object of that type which the program makes, and which users only see and follow.
    #[must_use]
    pub fn read_only_link(
        name: impl Into<Cow<'static, str>>,
        description: &'static str,
        target: &'static str,
        get: impl Fn(&Object) -> Option<Arc<Object>> + Send + Sync + 'static,
    ) -> Self {
        Self::with_access(
            name,
            description,
            PropertyKind::Link(target),
            None,
            Access::Link {
                get: Box::new(get),
                set: None,
            },
        )
    }

    /// The same, but it can be set while the object is in use.
    #[must_use]
    pub fn live(mut self) -> Self {
        self.live = true;
        self
    }

    pub(super) fn named(mut self, name: String) -> Self {
        self.name = name.into();
        self
    }

    /// The name, unique in the chain of a class and among what its objects have of their own.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
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
        !matches!(
            self.access,
            Access::Value { set: None, .. } | Access::Link { set: None, .. }
        )
    }

    /// Whether it can be set while the object is in use: only where its author says so.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// What a user is told about it, of an object that is not in use yet.
    #[must_use]
    pub fn info(&self) -> PropertyInfo {
        PropertyInfo {
            name: self.name.clone().into_owned(),
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
