//! How an object answers for its properties.

use std::sync::Arc;

use super::property::Access;
use super::{Object, Property, PropertyInfo, PropertyKind, PropertyValue};

/// Why a property could not be read or set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PropertyError {
    /// The object has no such property.
    #[error("{path} ({type_name}) has no property '{name}'; it has: {known}")]
    Unknown {
        /// The object.
        path: String,
        /// Its type.
        type_name: &'static str,
        /// What was asked for.
        name: String,
        /// What there is, sorted.
        known: String,
    },
    /// The property only shows something.
    #[error("property '{name}' of {path} is read-only")]
    ReadOnly {
        /// The object.
        path: String,
        /// The property.
        name: String,
    },
    /// The object is in use and its configuration fixed.
    #[error("property '{name}' of {path} can no longer be set: the object is in use")]
    Frozen {
        /// The object.
        path: String,
        /// The property.
        name: String,
    },
    /// The value is of the wrong kind or out of range.
    #[error("{value} is not a value for property '{name}' of {path}: give {expected}")]
    BadValue {
        /// The object.
        path: String,
        /// The property.
        name: String,
        /// The value, as the user gave it.
        value: String,
        /// What is accepted.
        expected: String,
    },
    /// A link was to lead to an object that is not there.
    #[error("property '{name}' of {path} cannot link to '{target}': there is no such object")]
    NoTarget {
        /// The object.
        path: String,
        /// The property.
        name: String,
        /// The path given.
        target: String,
    },
    /// A link was to lead to an object of the wrong type.
    #[error("property '{name}' of {path} cannot link to {target}: that is a {is}, not a {expected}")]
    WrongTarget {
        /// The object.
        path: String,
        /// The property.
        name: String,
        /// The path given.
        target: String,
        /// The type of the object there.
        is: &'static str,
        /// The type that the link takes.
        expected: &'static str,
    },
    /// The property is no link.
    #[error("property '{name}' of {path} is no link")]
    NoLink {
        /// The object.
        path: String,
        /// The property.
        name: String,
    },
}

/// Properties. Children are properties too, as in QEMU: read-only, of type `child<T>`, their value is their path.
impl Object {
    /// What properties the object has, children included, sorted by name.
    #[must_use]
    pub fn properties(&self) -> Vec<PropertyInfo> {
        let frozen = self.is_frozen();
        let of_class = self.class().properties().map(|property| PropertyInfo {
            name: property.name().to_owned(),
            type_name: property.kind().type_name(),
            description: property.description(),
            default: property.default().cloned(),
            settable: property.is_settable() && !frozen,
        });
        let children = self.child_names().into_iter().map(|(name, child)| PropertyInfo {
            name: name.as_ref().to_owned(),
            type_name: PropertyKind::Child(child.type_name()).type_name(),
            description: "",
            default: None,
            settable: false,
        });
        let mut all: Vec<_> = of_class.chain(children).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The value of a property. That of a link or a child is the canonical path of its object.
    ///
    /// # Errors
    ///
    /// [`PropertyError::Unknown`].
    pub fn property(&self, name: &str) -> Result<PropertyValue, PropertyError> {
        let Some(property) = self.class().property(name) else {
            let child = self.child(name).ok_or_else(|| self.unknown_property(name))?;
            return Ok(PropertyValue::Link(Some(child.path())));
        };
        Ok(match &property.access {
            Access::Value { get, .. } => get(self),
            Access::Link { get, .. } => PropertyValue::Link(get(self).map(|target| target.path())),
        })
    }

    /// Sets a property. Text is read as a user writes it, whatever the property's kind.
    ///
    /// # Errors
    ///
    /// [`PropertyError`]; the property is unchanged then.
    pub fn set_property(&self, name: &str, value: impl Into<PropertyValue>) -> Result<(), PropertyError> {
        self.set_checked(name, &value.into())
    }

    fn set_checked(&self, name: &str, value: &PropertyValue) -> Result<(), PropertyError> {
        let property = self.settable_property(name)?;
        let accepted = property.kind().accept(value);
        let bad_value = || self.bad_value(property, value);
        match (&property.access, accepted) {
            (_, None) | (Access::Value { set: None, .. }, _) => Err(bad_value()),
            (Access::Value { set: Some(set), .. }, Some(accepted)) => {
                self.while_unfrozen(name, || set(self, &accepted).ok_or_else(bad_value))
            }
            (Access::Link { .. }, Some(PropertyValue::Link(Some(target)))) => {
                let found = self.resolve(&target).ok_or_else(|| PropertyError::NoTarget {
                    path: self.path(),
                    name: name.to_owned(),
                    target,
                })?;
                self.set_link(name, Some(&found))
            }
            (Access::Link { .. }, Some(_)) => self.set_link(name, None),
        }
    }

    /// Sets a property from text: the same as [`set_property`](Self::set_property) with [`PropertyValue::Str`].
    ///
    /// # Errors
    ///
    /// [`PropertyError`]; the property is unchanged then.
    pub fn set_property_str(&self, name: &str, text: &str) -> Result<(), PropertyError> {
        self.set_property(name, text)
    }

    /// The object that the link or child `name` leads to.
    #[must_use]
    pub fn link(&self, name: &str) -> Option<Arc<Object>> {
        match self.class().property(name) {
            Some(property) => match &property.access {
                Access::Link { get, .. } => get(self),
                Access::Value { .. } => None,
            },
            None => self.child(name),
        }
    }

    /// Lets the link `name` lead to `target`, or nowhere. The link does not keep its target alive.
    ///
    /// # Errors
    ///
    /// [`PropertyError`]; the link is unchanged then.
    pub fn set_link(&self, name: &str, target: Option<&Arc<Object>>) -> Result<(), PropertyError> {
        let property = self.settable_property(name)?;
        let (Access::Link { set, .. }, PropertyKind::Link(expected)) = (&property.access, property.kind()) else {
            return Err(PropertyError::NoLink {
                path: self.path(),
                name: name.to_owned(),
            });
        };
        self.while_unfrozen(name, || {
            set(self, &target.cloned()).ok_or_else(|| PropertyError::WrongTarget {
                path: self.path(),
                name: name.to_owned(),
                target: target.map(|target| target.path()).unwrap_or_default(),
                is: target.map_or("", |target| target.type_name()),
                expected,
            })
        })
    }

    fn settable_property(&self, name: &str) -> Result<&Arc<Property>, PropertyError> {
        match self.class().property(name) {
            Some(property) if property.is_settable() => Ok(property),
            Some(_) => Err(PropertyError::ReadOnly {
                path: self.path(),
                name: name.to_owned(),
            }),
            None if self.child(name).is_some() => Err(PropertyError::ReadOnly {
                path: self.path(),
                name: name.to_owned(),
            }),
            None => Err(self.unknown_property(name)),
        }
    }

    fn while_unfrozen(&self, name: &str, set: impl FnOnce() -> Result<(), PropertyError>) -> Result<(), PropertyError> {
        let frozen = self.frozen.read();
        if *frozen {
            return Err(PropertyError::Frozen {
                path: self.path(),
                name: name.to_owned(),
            });
        }
        set()
    }

    fn unknown_property(&self, name: &str) -> PropertyError {
        let known: Vec<_> = self.properties().into_iter().map(|property| property.name).collect();
        PropertyError::Unknown {
            path: self.path(),
            type_name: self.type_name(),
            name: name.to_owned(),
            known: if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            },
        }
    }

    fn bad_value(&self, property: &Property, value: &PropertyValue) -> PropertyError {
        PropertyError::BadValue {
            path: self.path(),
            name: property.name().to_owned(),
            value: value.to_string(),
            expected: property.kind().to_string(),
        }
    }
}
