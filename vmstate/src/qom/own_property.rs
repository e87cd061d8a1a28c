//! Properties of one object alone, besides those of its class: aliases, links that the program makes, what is only
//! shown.

use std::collections::btree_map::Entry;
use std::sync::{Arc, Weak};

use super::property::Access;
use super::{AddChildError, Object, Property, PropertyError, PropertyKind, check_child_name};

/// What the name of a property or of a child ends in that is to be numbered.
pub(super) const NUMBERED: &str = "[*]";

/// Why a property could not be added to an object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddPropertyError {
    /// The name cannot be one, or is taken.
    #[error(transparent)]
    Name(#[from] AddChildError),
    /// What an alias is to stand for is not there.
    #[error("alias '{name}' of {path}: {source}")]
    NoTarget {
        /// The object.
        path: String,
        /// The alias.
        name: String,
        /// What is missing.
        source: Box<PropertyError>,
    },
}

impl Object {
    /// Adds `property` to this object alone, and says under which name: one that ends in `[*]` ends in the first free
    /// number instead. An object can be in use already.
    ///
    /// # Errors
    ///
    /// [`AddPropertyError`]: the name is taken, or cannot be one; what has state is not numbered, since names of its
    /// properties are written into streams.
    pub fn add_property(&self, property: Property) -> Result<String, AddPropertyError> {
        let name = property.name().to_owned();
        let mut property = Some(property);
        let Some(base) = name.strip_suffix(NUMBERED) else {
            check_child_name(&name)?;
            self.insert_property(&name, &mut property);
            return match property {
                None => Ok(name),
                Some(_) => Err(self.name_taken(&name).into()),
            };
        };
        check_child_name(base)?;
        if self.has_state() {
            return Err(AddChildError::stateful(&name).into());
        }
        let mut numbers = 0_u64..;
        let mut name = String::new();
        while property.is_some() {
            name = format!("{base}[{}]", numbers.next().unwrap_or(u64::MAX));
            self.insert_property(&name, &mut property);
        }
        Ok(name)
    }

    /// Adds `name` as another name for `property` of `target`, which may be a child or a link of it; of an alias, it
    /// becomes another name for the same.
    ///
    /// # Errors
    ///
    /// [`AddPropertyError`]: the target has no such property, or as for [`add_property`](Self::add_property).
    pub fn add_alias(&self, name: &str, target: &Arc<Object>, property: &str) -> Result<String, AddPropertyError> {
        let no_target = |source| AddPropertyError::NoTarget {
            path: self.path(),
            name: name.to_owned(),
            source: Box::new(source),
        };
        let found = target.find_property(property);
        let alias = match (&found, target.child(property)) {
            (Some(found), _) => {
                let access = match &found.access {
                    Access::Alias { target, property } => Access::Alias {
                        target: Weak::clone(target),
                        property: property.clone(),
                    },
                    Access::Value { .. } | Access::Link { .. } => Access::Alias {
                        target: Arc::downgrade(target),
                        property: property.to_owned(),
                    },
                };
                let (kind, default) = (found.kind().clone(), found.default().cloned());
                Property::with_access(name.to_owned(), found.description(), kind, default, access)
            }
            (None, Some(child)) => {
                let access = Access::Alias {
                    target: Arc::downgrade(target),
                    property: property.to_owned(),
                };
                let kind = PropertyKind::Link(child.type_name());
                Property::with_access(name.to_owned(), "", kind, None, access)
            }
            (None, None) => return Err(no_target(target.unknown_property(property))),
        };
        self.add_property(alias)
    }

    /// Adds a link `name` to `target` that nobody can change. It does not keep its target alive.
    ///
    /// # Errors
    ///
    /// As for [`add_property`](Self::add_property).
    pub fn add_const_link(
        &self,
        name: &str,
        description: &'static str,
        target: &Arc<Object>,
    ) -> Result<String, AddPropertyError> {
        let (kind, target) = (PropertyKind::Link(target.type_name()), Arc::downgrade(target));
        let access = Access::Link {
            get: Box::new(move |_| target.upgrade()),
            set: None,
        };
        self.add_property(Property::with_access(name.to_owned(), description, kind, None, access))
    }

    /// Takes `property` as `name`, unless that is taken.
    fn insert_property(&self, name: &str, property: &mut Option<Property>) {
        if self.class().property(name).is_some() || self.child(name).is_some() {
            return;
        }
        if let Entry::Vacant(place) = self.own_properties.write().entry(Arc::from(name))
            && let Some(property) = property.take()
        {
            place.insert(Arc::new(property.named(name.to_owned())));
        }
    }

    fn name_taken(&self, name: &str) -> AddChildError {
        AddChildError::NameTaken {
            parent: self.path(),
            what: if self.child(name).is_some() {
                "child"
            } else {
                "property"
            },
            name: name.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::VmState;
    use crate::qom::{Config, Link, ObjectPart, PropertyValue, TypeTable};

    #[derive(Object)]
    #[object(name = "port", stateless, unregistered)]
    struct Port {
        #[config(property, default = 4, max = 15, description = "its interrupt")]
        irq: Config<u8>,
        #[config(link)]
        peer: Link<Port>,
    }

    #[derive(Default, VmState)]
    struct Fifo {
        level: u8,
    }

    #[derive(Object)]
    #[object(name = "buffered-port", parent = Port, unregistered)]
    struct BufferedPort {
        #[state]
        fifo: Mutex<Fifo>,
    }

    /// A board, and a port below it.
    fn board() -> (Arc<Object>, Arc<Object>) {
        let types = TypeTable::build([Port::type_info(), BufferedPort::type_info()]).expect("they fit");
        let board = types.new_object("container").expect("concrete");
        let port = types.new_object("port").expect("concrete");
        board.add_child("port", Arc::clone(&port)).expect("free");
        (board, port)
    }

    fn shown(name: &'static str) -> Property {
        Property::read_only(name, "", PropertyKind::Bool, |_| PropertyValue::Bool(true))
    }

    #[test]
    fn an_alias_is_read_and_set_as_what_it_stands_for_with_its_validation() {
        let (board, port) = board();
        board.add_alias("console-irq", &port, "irq").expect("free");
        let info = board
            .properties()
            .into_iter()
            .find(|info| info.name == "console-irq")
            .expect("added");
        assert_eq!(
            (info.type_name.as_str(), info.description, info.settable),
            ("uint8", "its interrupt", true)
        );
        assert_eq!(info.default, Some(PropertyValue::Uint(4)));
        board.set_property_str("console-irq", "7").expect("in range");
        assert_eq!(port.property("irq"), Ok(PropertyValue::Uint(7)));
        assert_eq!(board.property("console-irq"), port.property("irq"));
        assert_eq!(board.set_property("console-irq", 16), port.set_property("irq", 16));
        port.freeze();
        assert_eq!(board.set_property("console-irq", 5), port.set_property("irq", 5));
        assert!(board.properties().iter().all(|info| !info.settable));
    }

    #[test]
    fn an_alias_onto_a_childs_property_leads_where_the_child_or_link_does() {
        let (board, port) = board();
        let plug = board.types().new_object("port").expect("concrete");
        port.add_child("plug", Arc::clone(&plug)).expect("free");
        board.add_alias("plug", &port, "plug").expect("free");
        board.add_alias("peer", &port, "peer").expect("free");
        assert!(board.link("plug").is_some_and(|found| Arc::ptr_eq(&found, &plug)));
        assert_eq!(
            board.resolve("/plug").map(|found| found.path()),
            Some("/port/plug".to_owned())
        );
        assert_eq!(
            board
                .set_property_str("plug", "/port")
                .expect_err("a child")
                .to_string(),
            "property 'plug' of /port is read-only"
        );
        board.set_property_str("peer", "/port/plug").expect("of its type");
        assert!(port.link("peer").is_some_and(|found| Arc::ptr_eq(&found, &plug)));
        board.set_link("peer", None).expect("to nothing");
        assert!(port.link("peer").is_none());
    }

    #[test]
    fn an_alias_of_an_alias_is_another_name_for_the_same_and_one_of_nothing_is_refused() {
        let (board, port) = board();
        board.add_alias("one", &port, "irq").expect("free");
        board.add_alias("two", &board, "one").expect("free");
        board.set_property("two", 9).expect("in range");
        assert_eq!(port.property("irq"), Ok(PropertyValue::Uint(9)));
        let refused = board
            .add_alias("three", &port, "speed")
            .expect_err("there is none")
            .to_string();
        assert_eq!(
            refused,
            "alias 'three' of /: /port (port) has no property 'speed'; it has: irq, peer"
        );
        port.unparent();
        drop(port);
        assert_eq!(
            board.property("two").expect_err("gone").to_string(),
            "property 'two' of / stands for one of an object that is gone"
        );
        assert!(board.link("two").is_none() && board.set_property("one", 1).is_err());
    }

    #[test]
    fn a_const_link_leads_to_its_target_and_is_read_only() {
        let (board, port) = board();
        port.add_const_link("board", "what it is on", &board).expect("free");
        assert_eq!(port.property("board"), Ok(PropertyValue::Link(Some("/".to_owned()))));
        let read_only = port.set_link("board", None).expect_err("const").to_string();
        assert_eq!(read_only, "property 'board' of /port is read-only");
        port.unparent();
        drop(board);
        assert_eq!(
            port.property("board"),
            Ok(PropertyValue::Link(None)),
            "it does not hold its target"
        );
    }

    #[test]
    fn a_property_of_one_object_is_numbered_where_its_name_asks_for_it_unless_the_object_has_state() {
        let (board, port) = board();
        let added = [(); 2].map(|()| port.add_property(shown("line[*]")).expect("free"));
        assert_eq!(added, ["line[0]", "line[1]"]);
        let buffered = board.types().new_object("buffered-port").expect("concrete");
        let refused = buffered
            .add_property(shown("line[*]"))
            .expect_err("it has state")
            .to_string();
        assert!(
            refused.starts_with("'line[*]' cannot be numbered automatically"),
            "{refused}"
        );
        buffered
            .add_property(shown("line[0]"))
            .expect("a number that somebody chose");
    }

    #[test]
    fn the_names_of_properties_and_children_of_an_object_are_one_set() {
        let (board, port) = board();
        port.add_property(shown("ready")).expect("free");
        for taken in ["irq", "ready"] {
            let refused = port.add_property(shown(taken)).expect_err("taken").to_string();
            assert_eq!(
                refused,
                format!("/port already has a property '{taken}'; choose another name")
            );
        }
        assert!(board.add_property(shown("port")).is_err(), "a child has the name");
        let child = board.types().new_object("port").expect("concrete");
        assert!(port.add_child("ready", child).is_err(), "a property has the name");
        assert!(port.add_property(shown("a/b")).is_err());
    }
}
