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
    #[error("'{value}' is not a value for property '{name}' of {path}: give {expected}")]
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
            settable: property.is_settable() && !frozen,
            ..property.info()
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::qom::{Config, Link, Object, ObjectPart, TypeTable};

    #[derive(Object)]
    #[object(name = "card", stateless, unregistered)]
    struct Card {
        #[config(property, default = 4, max = 15, description = "interrupt line")]
        irq: Config<u8>,
        #[config(property)]
        offset: Config<i16>,
        #[config(property, default = true)]
        msix: Config<bool>,
        #[config(property, size, default = 1 << 20)]
        buffer: Config<u64>,
        #[config(property)]
        label: Config<String>,
        #[config(property)]
        queues: Config<Vec<u16>>,
        #[config(property)]
        limit: Config<Option<u32>>,
        #[config(link)]
        peer: Link<Card>,
    }

    #[derive(Object)]
    #[object(name = "fast-card", parent = Card, stateless, unregistered)]
    struct FastCard {
        #[config(property, name = "x-speed", default = 10)]
        speed: Config<u32>,
    }

    fn root() -> Arc<Object> {
        let types = TypeTable::build([Card::type_info(), FastCard::type_info()]).expect("they fit");
        let root = types.new_object("container").expect("concrete");
        for (name, type_name) in [("card", "card"), ("fast", "fast-card")] {
            root.add_child(name, types.new_object(type_name).expect("concrete"))
                .expect("free");
        }
        root
    }

    fn card() -> Arc<Object> {
        root().child("card").inspect(|card| card.unparent()).expect("there")
    }

    #[test]
    fn properties_are_inherited_and_shown_sorted_with_children_among_them() {
        let root = root();
        let fast = root.child("fast").expect("there");
        fast.add_child("port", root.types().new_object("card").expect("concrete"))
            .expect("free");
        let shown: Vec<_> = fast
            .properties()
            .into_iter()
            .map(|property| format!("{}: {}", property.name, property.type_name))
            .collect();
        assert_eq!(
            shown,
            [
                "buffer: size",
                "irq: uint8",
                "label: str",
                "limit: uint32",
                "msix: bool",
                "offset: int16",
                "peer: link<card>",
                "port: child<card>",
                "queues: list<uint16>",
                "x-speed: uint32",
            ]
        );
        assert_eq!(
            fast.property("port"),
            Ok(PropertyValue::Link(Some("/fast/port".to_owned())))
        );
        assert!(fast.link("port").is_some());
        assert_eq!(fast.property("x-speed"), Ok(PropertyValue::Uint(10)));
    }

    #[test]
    fn every_kind_is_set_from_text_and_from_json_to_the_same_value() {
        for (name, text, json) in [
            ("irq", "0xf", json!(15)),
            ("offset", "-5", json!(-5)),
            ("offset", "5", json!(5)),
            ("msix", "off", json!(false)),
            ("buffer", "2M", json!(2 << 20)),
            ("label", "17", json!("17")),
            ("queues", "1,2", json!([1, 2])),
            ("queues", "", json!([])),
            ("limit", "9", json!(9)),
        ] {
            let (from_text, from_json) = (card(), card());
            from_text.set_property_str(name, text).expect("a good value");
            let value = PropertyValue::try_from(&json).expect("a property's");
            from_json.set_property(name, value).expect("a good value");
            let got = from_text.property(name).expect("known");
            assert_eq!(Ok(&got), from_json.property(name).as_ref());
            assert_eq!(serde_json::Value::from(&got), json, "{name}");
        }
    }

    #[test]
    fn a_bad_value_is_refused_with_the_same_text_from_both_and_changes_nothing() {
        for (name, text, json, message) in [
            (
                "irq",
                "16",
                json!(16),
                "'16' is not a value for property 'irq' of /: give a number from 0 to 15",
            ),
            (
                "irq",
                "many",
                json!("many"),
                "'many' is not a value for property 'irq' of /: give a number from 0 to 15",
            ),
            (
                "offset",
                "32768",
                json!(32768),
                "'32768' is not a value for property 'offset' of /: give a number from -32768 to 32767",
            ),
            (
                "msix",
                "maybe",
                json!("maybe"),
                "'maybe' is not a value for property 'msix' of /: give on or off",
            ),
        ] {
            let card = card();
            let before = card.property(name);
            let from_text = card.set_property_str(name, text).expect_err("refused").to_string();
            let value = PropertyValue::try_from(&json).expect("a property's");
            let from_json = card.set_property(name, value).expect_err("refused").to_string();
            assert_eq!((from_text.as_str(), from_json.as_str()), (message, message));
            assert_eq!(card.property(name), before);
        }
    }

    #[test]
    fn an_unknown_property_is_refused_with_those_that_there_are() {
        let root = root();
        let expected = "/ (container) has no property 'irq'; it has: card, fast";
        assert_eq!(root.property("irq").expect_err("unknown").to_string(), expected);
        assert_eq!(root.set_property("irq", 1).expect_err("unknown").to_string(), expected);
    }

    #[test]
    fn configuration_is_refused_after_freeze() {
        let root = root();
        let card = root.child("card").expect("there");
        card.set_property("irq", 5).expect("not yet frozen");
        card.freeze();
        assert!(card.is_frozen());
        let frozen = |result: Result<(), PropertyError>| matches!(result, Err(PropertyError::Frozen { .. }));
        assert!(frozen(card.set_property("irq", 6)));
        assert!(frozen(card.set_property_str("peer", "/fast")));
        assert!(frozen(card.set_link("peer", None)));
        assert_eq!(card.property("irq"), Ok(PropertyValue::Uint(5)));
        assert!(card.properties().iter().all(|property| !property.settable));
        assert_eq!(
            card.set_property("irq", 6).expect_err("frozen").to_string(),
            "property 'irq' of /card can no longer be set: the object is in use"
        );
    }

    #[test]
    fn children_are_read_only_and_values_are_no_links() {
        let root = root();
        let read_only = root.set_property_str("card", "/fast").expect_err("a child");
        assert_eq!(read_only.to_string(), "property 'card' of / is read-only");
        let card = root.child("card").expect("there");
        assert!(matches!(
            card.set_link("irq", Some(&root)),
            Err(PropertyError::NoLink { .. })
        ));
        assert!(card.link("irq").is_none());
    }

    #[test]
    fn a_link_is_set_by_path_by_object_and_to_nothing() {
        let root = root();
        let (card, fast) = (root.child("card").expect("there"), root.child("fast").expect("there"));
        card.set_property_str("peer", "/fast").expect("a subclass");
        assert!(card.link("peer").is_some_and(|peer| Arc::ptr_eq(&peer, &fast)));
        card.set_property("peer", PropertyValue::Null).expect("to nothing");
        assert!(card.link("peer").is_none());
        card.set_link("peer", Some(&card)).expect("even to itself");
        assert_eq!(card.property("peer"), Ok(PropertyValue::Link(Some("/card".to_owned()))));
        card.set_property_str("peer", "").expect("to nothing");
        assert_eq!(card.property("peer"), Ok(PropertyValue::Link(None)));
    }
}
