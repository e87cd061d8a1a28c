//! How an object answers for its properties.

use std::sync::{Arc, Weak};

use super::property::{Access, Refused};
use super::{Object, Property, PropertyInfo, PropertyKind, PropertyValue, ResolveError};

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
    /// The object is made (a device realized, a user's object completed) and its configuration fixed.
    #[error("property '{name}' of {path} can no longer be set: it is fixed once the object is made")]
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
    /// The property's check objects to a value of the right kind.
    #[error("property '{name}' of {path} cannot be '{value}': {reason}")]
    Refused {
        /// The object.
        path: String,
        /// The property.
        name: String,
        /// The value, as the user gave it.
        value: String,
        /// What the check says.
        reason: String,
    },
    /// An alias has outlived the object that it stands for a property of.
    #[error("property '{name}' of {path} stands for one of an object that is gone")]
    AliasOfNothing {
        /// The object with the alias.
        path: String,
        /// The alias.
        name: String,
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
        let described = self.declared_properties().into_iter().map(|property| PropertyInfo {
            settable: self.is_settable_now(&property),
            ..property.info()
        });
        let children = self.child_names().into_iter().map(|(name, child)| PropertyInfo {
            name: name.as_ref().to_owned(),
            type_name: PropertyKind::Child(child.type_name()).type_name(),
            description: "",
            default: None,
            settable: false,
        });
        let mut all: Vec<_> = described.chain(children).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Those of the class and of this object alone, without children.
    pub(super) fn declared_properties(&self) -> Vec<Arc<Property>> {
        let own = self.own_properties.read();
        self.class().properties().chain(own.values()).cloned().collect()
    }

    /// Whether a property can be set at all, before the object is in use. Of an alias, what it stands for decides.
    #[must_use]
    pub fn can_be_set(&self, property: &Property) -> bool {
        self.is_settable_if(property, &|_, _| true)
    }

    fn is_settable_now(&self, property: &Property) -> bool {
        self.is_settable_if(property, &|object, property| property.is_live() || !object.is_frozen())
    }

    fn is_settable_if(&self, property: &Property, allowed: &dyn Fn(&Self, &Property) -> bool) -> bool {
        match &property.access {
            Access::Alias { target, property } => target.upgrade().is_some_and(|target| {
                let found = target.find_property(property);
                found.is_some_and(|found| target.is_settable_if(&found, allowed))
            }),
            Access::Value { .. } | Access::Link { .. } => property.is_settable() && allowed(self, property),
        }
    }

    /// The property `name` of the class or of this object alone.
    #[must_use]
    pub fn find_property(&self, name: &str) -> Option<Arc<Property>> {
        let of_class = self.class().property(name).cloned();
        of_class.or_else(|| self.own_properties.read().get(name).cloned())
    }

    /// The value of a property. That of a link or a child is the canonical path of its object.
    ///
    /// # Errors
    ///
    /// [`PropertyError::Unknown`], or an alias whose target is gone.
    pub fn property(&self, name: &str) -> Result<PropertyValue, PropertyError> {
        let Some(property) = self.find_property(name) else {
            let child = self.child(name).ok_or_else(|| self.unknown_property(name))?;
            return Ok(PropertyValue::Link(Some(child.path())));
        };
        match &property.access {
            Access::Value { get, .. } => Ok(get(self)),
            Access::Link { get, .. } => Ok(PropertyValue::Link(get(self).map(|target| target.path()))),
            Access::Alias { target, property } => self.alias_target(name, target)?.property(property),
        }
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
        match (&property.access, accepted) {
            (Access::Alias { target, property }, _) => self.alias_target(name, target)?.set_checked(property, value),
            (_, None) | (Access::Value { set: None, .. }, _) => Err(self.bad_value(&property, value)),
            (Access::Value { set: Some(set), .. }, Some(accepted)) => self.while_settable(&property, || {
                set(self, &accepted).map_err(|refused| match refused {
                    Refused::Kind => self.bad_value(&property, value),
                    Refused::Because(reason) => self.refused_value(&property, value, reason),
                })
            }),
            (Access::Link { .. }, Some(PropertyValue::Link(Some(target)))) => {
                let found = self.link_target(&property, target)?;
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
        match self.find_property(name) {
            Some(property) => match &property.access {
                Access::Link { get, .. } => get(self),
                Access::Alias { target, property } => target.upgrade()?.link(property),
                Access::Value { .. } => None,
            },
            None => self.child(name),
        }
    }

    /// Lets the link `name` lead to `target`, or nowhere.
    ///
    /// # Errors
    ///
    /// [`PropertyError`]; the link is unchanged then.
    pub fn set_link(&self, name: &str, target: Option<&Arc<Object>>) -> Result<(), PropertyError> {
        let property = self.settable_property(name)?;
        let (set, expected) = match (&property.access, property.kind()) {
            (Access::Alias { target: of, property }, _) => {
                return self.alias_target(name, of)?.set_link(property, target);
            }
            (Access::Link { set: Some(set), .. }, PropertyKind::Link(expected)) => (set, *expected),
            _ => {
                return Err(PropertyError::NoLink {
                    path: self.path(),
                    name: name.to_owned(),
                });
            }
        };
        let target_path = || target.map(|target| target.path()).unwrap_or_default();
        let displaced = self.while_settable(&property, || {
            set(self, &target.cloned()).map_err(|refused| match refused {
                Refused::Kind => PropertyError::WrongTarget {
                    path: self.path(),
                    name: name.to_owned(),
                    target: target_path(),
                    is: target.map_or("", |target| target.type_name()),
                    expected,
                },
                Refused::Because(reason) => self.refused_value(&property, &PropertyValue::Str(target_path()), reason),
            })
        });
        // Whatever dies of this does so without a lock.
        displaced.map(drop)
    }

    /// The object that a user means by `target`: a path, absolute or from here, or the end of one.
    fn link_target(&self, property: &Property, target: String) -> Result<Arc<Object>, PropertyError> {
        if let Some(found) = self.resolve(&target) {
            return Ok(found);
        }
        let of_type = match property.kind() {
            PropertyKind::Link(expected) => Some(*expected),
            _ => None,
        };
        self.find(&target, of_type).map_err(|error| match error {
            ResolveError::Ambiguous { .. } => {
                let reason = error.to_string();
                self.refused_value(property, &PropertyValue::Str(target), reason)
            }
            ResolveError::NotFound { .. } => PropertyError::NoTarget {
                path: self.path(),
                name: property.name().to_owned(),
                target,
            },
        })
    }

    fn alias_target(&self, name: &str, target: &Weak<Object>) -> Result<Arc<Object>, PropertyError> {
        target.upgrade().ok_or_else(|| PropertyError::AliasOfNothing {
            path: self.path(),
            name: name.to_owned(),
        })
    }

    fn settable_property(&self, name: &str) -> Result<Arc<Property>, PropertyError> {
        match self.find_property(name) {
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

    fn while_settable<R>(
        &self,
        property: &Property,
        set: impl FnOnce() -> Result<R, PropertyError>,
    ) -> Result<R, PropertyError> {
        let frozen = self.frozen.read();
        if *frozen && !property.is_live() {
            return Err(PropertyError::Frozen {
                path: self.path(),
                name: property.name().to_owned(),
            });
        }
        set()
    }

    pub(super) fn unknown_property(&self, name: &str) -> PropertyError {
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

    fn refused_value(&self, property: &Property, value: &PropertyValue, reason: String) -> PropertyError {
        PropertyError::Refused {
            path: self.path(),
            name: property.name().to_owned(),
            value: value.to_string(),
            reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::qom::{Config, ConfigEnum, Link, Obj, Object, ObjectPart, StrongLink, TypeTable};

    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    enum Duplex {
        #[default]
        Full,
        Half,
    }

    impl ConfigEnum for Duplex {
        const NAME: &'static str = "duplex";
        const VALUES: &'static [(&'static str, Self)] = &[("full", Self::Full), ("half", Self::Half)];
    }

    /// A card links to another one that is not itself linked to anything.
    fn no_chains(_: &Object, peer: &Obj<FastCard>) -> Result<(), String> {
        let leads_on = peer.object().link("backup").is_some();
        if leads_on {
            Err(format!("{} has a backup itself", peer.object().path()))
        } else {
            Ok(())
        }
    }

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
        #[config(property)]
        duplex: Config<Duplex>,
        #[config(property, live, max = 9)]
        level: Config<u8>,
        #[config(link, check = no_chains)]
        backup: Link<FastCard>,
        #[config(link, live)]
        held: StrongLink<Card>,
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
                "backup: link<fast-card>",
                "buffer: size",
                "duplex: duplex",
                "held: link<card>",
                "irq: uint8",
                "label: str",
                "level: uint8",
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
            let value = PropertyValue::from(&json);
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
            (
                "irq",
                "2.0",
                json!(2.0),
                "'2.0' is not a value for property 'irq' of /: give a number from 0 to 15",
            ),
            (
                "msix",
                "{}",
                json!({}),
                "'{}' is not a value for property 'msix' of /: give on or off",
            ),
        ] {
            let card = card();
            let before = card.property(name);
            let from_text = card.set_property_str(name, text).expect_err("refused").to_string();
            let value = PropertyValue::from(&json);
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
            "property 'irq' of /card can no longer be set: it is fixed once the object is made"
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

    #[test]
    fn a_choice_is_made_by_name_and_a_wrong_name_refused_with_the_right_ones() {
        let fast = root().child("fast").expect("there");
        assert_eq!(fast.property("duplex"), Ok(PropertyValue::from("full")));
        fast.set_property_str("duplex", "half").expect("a name");
        assert_eq!(fast.part::<FastCard>().expect("its own").duplex.get(), Duplex::Half);
        let refused = |value: PropertyValue| fast.set_property("duplex", value).expect_err("no name").to_string();
        assert!(refused("Half".into()).ends_with("give one of full, half"));
        assert!(refused(PropertyValue::Uint(1)).ends_with("give one of full, half"));
    }

    #[test]
    fn what_is_declared_live_is_set_in_use_with_the_same_checks_and_nothing_else_is() {
        let root = root();
        let fast = root.child("fast").expect("there");
        fast.freeze();
        fast.set_property("level", 9).expect("live");
        assert!(matches!(
            fast.set_property("level", 10),
            Err(PropertyError::BadValue { .. })
        ));
        fast.set_property_str("held", "/card").expect("live");
        let settable: Vec<_> = fast
            .properties()
            .into_iter()
            .filter(|one| one.settable)
            .map(|one| one.name)
            .collect();
        assert_eq!(settable, ["held", "level"]);
    }

    #[test]
    fn a_link_is_refused_by_its_check_with_the_reason() {
        let root = root();
        let types = root.types();
        root.add_child("faster", types.new_object("fast-card").expect("concrete"))
            .expect("free");
        let (fast, faster) = (root.child("fast").expect("there"), root.child("faster").expect("there"));
        fast.set_property_str("backup", "/faster").expect("it leads nowhere");
        let refused = faster
            .set_property_str("backup", "/fast")
            .expect_err("a chain")
            .to_string();
        assert_eq!(
            refused,
            "property 'backup' of /faster cannot be '/fast': /fast has a backup itself"
        );
        assert!(faster.link("backup").is_none());
        fast.set_property("backup", PropertyValue::Null)
            .expect("nothing is always allowed");
        faster.set_property_str("backup", "fast").expect("now it may");
    }

    #[test]
    fn a_link_is_set_by_the_end_of_a_path_and_an_ambiguous_one_is_refused_with_the_candidates() {
        let root = root();
        let card = root.child("card").expect("there");
        for name in ["a", "b"] {
            let folder = root.types().new_object("container").expect("concrete");
            folder
                .add_child("nic", root.types().new_object("card").expect("concrete"))
                .expect("free");
            root.add_child(name, folder).expect("free");
        }
        card.set_property_str("peer", "a/nic").expect("one fits");
        assert_eq!(
            card.property("peer"),
            Ok(PropertyValue::Link(Some("/a/nic".to_owned())))
        );
        assert_eq!(
            card.set_property_str("peer", "nic").expect_err("two fit").to_string(),
            "property 'peer' of /card cannot be 'nic': 'nic' fits several objects; say which: /a/nic, /b/nic"
        );
    }

    #[test]
    fn a_strong_link_keeps_its_target_alive_and_a_weak_one_does_not() {
        let root = root();
        let (card, fast) = (root.child("card").expect("there"), root.child("fast").expect("there"));
        for link in ["held", "peer"] {
            fast.set_property_str(link, "/card").expect("of its type");
        }
        let weak = Arc::downgrade(&card);
        card.unparent();
        drop(card);
        assert!(fast.link("held").is_some() && fast.link("peer").is_some());
        fast.set_link("held", None).expect("live");
        assert!(weak.upgrade().is_none() && fast.link("peer").is_none());
    }
}
