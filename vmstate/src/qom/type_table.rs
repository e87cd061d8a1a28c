//! The types that a program or a test knows, as a value.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use super::{
    Class, Container, OBJECT, Object, ObjectError, ObjectPart, Phase, Property, StateDecl, TypeInfo, TypeKind,
    check_child_name,
};

/// Why declarations do not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TypeTableError {
    /// Two declarations of one name.
    #[error("type '{name}' is declared twice: at {first} and at {second}")]
    Duplicate {
        /// The name.
        name: &'static str,
        /// One place.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// A name that cannot be typed or sent.
    #[error("type '{name}' at {at} has no good name: use lower-case letters, digits, '-', '_' and '.'")]
    BadName {
        /// The name.
        name: &'static str,
        /// Where it is declared.
        at: &'static str,
    },
    /// A type extends one that nobody declares.
    #[error("type '{name}' at {at} extends '{parent}', which is not declared anywhere (is its crate linked in?)")]
    MissingParent {
        /// The name.
        name: &'static str,
        /// Where it is declared.
        at: &'static str,
        /// The name that is missing.
        parent: &'static str,
    },
    /// A type has no parent, or one of the wrong kind.
    #[error("type '{name}' at {at} cannot extend {parent}: interfaces extend interfaces and other types do not")]
    WrongParent {
        /// The name.
        name: &'static str,
        /// Where it is declared.
        at: &'static str,
        /// The parent and its place, or "nothing".
        parent: String,
    },
    /// Types extend one another in a circle.
    #[error("types extend one another in a circle: {circle}")]
    ParentCycle {
        /// Every type of the circle with its place.
        circle: String,
    },
    /// A type implements an interface that nobody declares.
    #[error("type '{name}' at {at} implements '{interface}', which is not declared anywhere (is its crate linked in?)")]
    MissingInterface {
        /// The name.
        name: &'static str,
        /// Where it is declared.
        at: &'static str,
        /// The name that is missing.
        interface: &'static str,
    },
    /// A type implements something that is no interface.
    #[error("type '{name}' at {at} implements '{interface}', which is no interface (declared at {declared_at})")]
    NoInterface {
        /// The name.
        name: &'static str,
        /// Where it is declared.
        at: &'static str,
        /// What it names.
        interface: &'static str,
        /// Where that is declared.
        declared_at: &'static str,
    },
    /// An interface has what only instances have.
    #[error("interface '{name}' at {at} has {what}, but interfaces have no instances")]
    InterfaceWithInstances {
        /// The name.
        name: &'static str,
        /// Where it is declared.
        at: &'static str,
        /// What it has.
        what: &'static str,
    },
    /// A property exists already, in the type or above it.
    #[error("property '{property}' of type '{name}' at {at} exists already, in type '{other}' at {other_at}")]
    DuplicateProperty {
        /// The type.
        name: &'static str,
        /// Where it is declared.
        at: &'static str,
        /// The property.
        property: &'static str,
        /// The type that has it first.
        other: &'static str,
        /// Where that is declared.
        other_at: &'static str,
    },
    /// A property cannot be what it says.
    #[error("property '{property}' of type '{name}' at {at}: {reason}")]
    BadProperty {
        /// The type.
        name: &'static str,
        /// Where it is declared.
        at: &'static str,
        /// The property.
        property: &'static str,
        /// What is wrong.
        reason: String,
    },
}

/// The type table: every type by name, its class once somebody has asked for it. Immutable, and shared by any number of
/// machines.
#[derive(Debug)]
pub struct TypeTable {
    types: BTreeMap<&'static str, Entry>,
}

#[derive(Debug)]
struct Entry {
    info: &'static TypeInfo,
    properties: Vec<Arc<Property>>,
    class: OnceLock<Arc<Class>>,
}

impl TypeTable {
    /// The table of all types that the linked crates declare.
    ///
    /// # Errors
    ///
    /// [`TypeTableError`] where the declarations do not fit together.
    pub fn gathered() -> Result<Arc<Self>, TypeTableError> {
        Self::build(Phase::ALL.into_iter().flat_map(Phase::declared))
    }

    /// The table of `infos`, [`OBJECT`] and [`Container`]. Which error is reported does not depend on the order of `infos`.
    ///
    /// # Errors
    ///
    /// [`TypeTableError`] where the declarations do not fit together.
    pub fn build(infos: impl IntoIterator<Item = &'static TypeInfo>) -> Result<Arc<Self>, TypeTableError> {
        let mut infos: Vec<_> = infos.into_iter().collect();
        infos.extend([&OBJECT, Container::type_info()]);
        infos.sort_by_key(|info| (info.name, info.declared_at));
        let mut types = BTreeMap::new();
        for info in infos {
            check_name(info)?;
            let properties = (info.properties)().into_iter().map(Arc::new).collect();
            let entry = Entry {
                info,
                properties,
                class: OnceLock::new(),
            };
            if let Some(first) = types.insert(info.name, entry) {
                return Err(TypeTableError::Duplicate {
                    name: info.name,
                    first: first.info.declared_at,
                    second: info.declared_at,
                });
            }
        }
        let table = Self { types };
        for entry in table.types.values() {
            table.check_parent(entry.info)?;
            table.check_interfaces(entry.info)?;
        }
        for entry in table.types.values() {
            table.check_cycle(entry.info)?;
        }
        for entry in table.types.values() {
            table.check_properties(entry)?;
        }
        Ok(Arc::new(table))
    }

    /// The names of all types, sorted.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.types.keys().copied()
    }

    /// The declarations of all types, sorted by name.
    pub fn infos(&self) -> impl Iterator<Item = &'static TypeInfo> + '_ {
        self.types.values().map(|entry| entry.info)
    }

    /// The declaration of type `name`.
    #[must_use]
    pub fn info(&self, name: &str) -> Option<&'static TypeInfo> {
        self.types.get(name).map(|entry| entry.info)
    }

    /// The class of type `name`, initialised now if nobody has asked before, its ancestors' first.
    ///
    /// # Errors
    ///
    /// [`ObjectError::UnknownType`].
    pub fn class(&self, name: &str) -> Result<Arc<Class>, ObjectError> {
        let unknown = || ObjectError::UnknownType { name: name.to_owned() };
        let entry = self.types.get(name).ok_or_else(unknown)?;
        if let Some(class) = entry.class.get() {
            return Ok(Arc::clone(class));
        }
        let parent = entry.info.parent.map(|parent| self.class(parent)).transpose()?;
        let class = entry.class.get_or_init(|| {
            let interfaces = entry
                .info
                .interfaces
                .iter()
                .flat_map(|interface| self.lineage(interface));
            Arc::new(Class::initialise(
                entry.info,
                parent,
                interfaces.map(|info| info.name),
                &entry.properties,
            ))
        });
        Ok(Arc::clone(class))
    }

    /// Makes an object of type `name`, which has no place in a tree yet.
    ///
    /// # Errors
    ///
    /// [`ObjectError`] where there is no such type, or it is abstract or an interface.
    pub fn new_object(self: &Arc<Self>, name: &str) -> Result<Arc<Object>, ObjectError> {
        Object::instantiate(self, self.class(name)?)
    }

    /// `name` and what it extends, upwards; ends at a name that is not declared. Only for tables without a circle.
    fn lineage<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'static TypeInfo> + 'a {
        std::iter::successors(self.info(name), |info| self.info(info.parent?))
    }

    fn check_parent(&self, info: &'static TypeInfo) -> Result<(), TypeTableError> {
        let is_interface = info.kind == TypeKind::Interface;
        let (name, at) = (info.name, info.declared_at);
        let Some(parent) = info.parent else {
            if is_interface || std::ptr::eq(info, &OBJECT) {
                return Ok(());
            }
            return Err(TypeTableError::WrongParent {
                name,
                at,
                parent: "nothing".to_owned(),
            });
        };
        let parent = self
            .info(parent)
            .ok_or(TypeTableError::MissingParent { name, at, parent })?;
        if (parent.kind == TypeKind::Interface) == is_interface {
            return Ok(());
        }
        Err(TypeTableError::WrongParent {
            name,
            at,
            parent: format!("'{}' at {}", parent.name, parent.declared_at),
        })
    }

    fn check_interfaces(&self, info: &'static TypeInfo) -> Result<(), TypeTableError> {
        let (name, at) = (info.name, info.declared_at);
        for &interface in info.interfaces {
            let found = self
                .info(interface)
                .ok_or(TypeTableError::MissingInterface { name, at, interface })?;
            if found.kind != TypeKind::Interface {
                return Err(TypeTableError::NoInterface {
                    name,
                    at,
                    interface,
                    declared_at: found.declared_at,
                });
            }
        }
        if info.kind == TypeKind::Interface {
            let what = if info.part.is_some() {
                "a part"
            } else if info.instance_init.or(info.instance_post_init).is_some() || info.instance_finalize.is_some() {
                "instance functions"
            } else if !matches!(info.state, StateDecl::Stateless) {
                "state"
            } else if !info.interfaces.is_empty() {
                "interfaces that it implements (let it extend one)"
            } else {
                return Ok(());
            };
            return Err(TypeTableError::InterfaceWithInstances { name, at, what });
        }
        Ok(())
    }

    /// Every parent exists by now, so a chain of more types than there are goes in a circle.
    fn check_cycle(&self, info: &'static TypeInfo) -> Result<(), TypeTableError> {
        let mut chain: Vec<&'static TypeInfo> = Vec::new();
        let mut at = Some(info);
        while let Some(info) = at {
            if let Some(start) = chain.iter().position(|seen| seen.name == info.name) {
                let mut circle: Vec<_> = chain[start..]
                    .iter()
                    .map(|info| format!("'{}' at {}", info.name, info.declared_at))
                    .collect();
                circle.push(format!("'{}'", info.name));
                return Err(TypeTableError::ParentCycle {
                    circle: circle.join(" extends "),
                });
            }
            chain.push(info);
            at = info.parent.and_then(|parent| self.info(parent));
        }
        Ok(())
    }

    fn check_properties(&self, entry: &Entry) -> Result<(), TypeTableError> {
        let (name, at) = (entry.info.name, entry.info.declared_at);
        for (index, property) in entry.properties.iter().enumerate() {
            let bad = |reason| TypeTableError::BadProperty {
                name,
                at,
                property: property.name(),
                reason,
            };
            check_child_name(property.name()).map_err(|error| bad(error.to_string()))?;
            if let Some(default) = property.default()
                && property.kind().accept(default).is_none()
            {
                return Err(bad(format!("its default {default} is not {}", property.kind())));
            }
            let above = self.lineage(entry.info.name).skip(1).find(|info| {
                self.types[info.name]
                    .properties
                    .iter()
                    .any(|inherited| inherited.name() == property.name())
            });
            let within = entry.properties[..index]
                .iter()
                .any(|other| other.name() == property.name());
            if let Some(other) = above.or(within.then_some(entry.info)) {
                return Err(TypeTableError::DuplicateProperty {
                    name,
                    at,
                    property: property.name(),
                    other: other.name,
                    other_at: other.declared_at,
                });
            }
        }
        Ok(())
    }
}

fn check_name(info: &TypeInfo) -> Result<(), TypeTableError> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    if !info.name.is_empty() && info.name.chars().all(good) {
        return Ok(());
    }
    Err(TypeTableError::BadName {
        name: info.name,
        at: info.declared_at,
    })
}
