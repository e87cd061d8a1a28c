//! The types that a program or a test knows, as a value.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use super::{
    Class, Container, OBJECT, Object, ObjectError, ObjectPart, Phase, Property, StateDecl, TypeInfo, TypeKind,
    TypeTableError, UserCreatable, check_child_name,
};

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
        Self::by_phase(Phase::declared)
    }

    /// The table of what `declared` says that takes effect in each phase. It is asked once for each, in their order, and what is
    /// declared for one builds on nothing of a later one.
    ///
    /// # Errors
    ///
    /// [`TypeTableError`] where the declarations do not fit together.
    pub fn by_phase(declared: impl FnMut(Phase) -> Vec<&'static TypeInfo>) -> Result<Arc<Self>, TypeTableError> {
        let mut declared = declared;
        let mut phases = BTreeMap::new();
        let mut infos = Vec::new();
        for phase in Phase::ALL {
            for info in declared(phase) {
                phases.entry(info.name).or_insert(phase);
                infos.push(info);
            }
        }
        let table = Self::build(infos)?;
        let of = |name: &str| phases.get(name).copied().unwrap_or(Phase::ALL[0]);
        for (name, phase) in &phases {
            let info = table.types[name].info;
            let builds_on = info.parent.iter().chain(info.interfaces);
            if let Some(later) = builds_on.into_iter().find(|other| of(other) > *phase) {
                return Err(TypeTableError::LaterPhase {
                    name: info.name,
                    at: info.declared_at,
                    phase: *phase,
                    later,
                    later_phase: of(later),
                });
            }
        }
        Ok(table)
    }

    /// The table of `infos`, [`OBJECT`], [`Container`] and [`UserCreatable`]. Which error is reported does not depend on the order of `infos`.
    ///
    /// # Errors
    ///
    /// [`TypeTableError`] where the declarations do not fit together.
    pub fn build(infos: impl IntoIterator<Item = &'static TypeInfo>) -> Result<Arc<Self>, TypeTableError> {
        let mut infos: Vec<_> = infos.into_iter().collect();
        infos.extend([&OBJECT, Container::type_info(), UserCreatable::type_info()]);
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

    /// The types whose class is `wanted`, sorted, for a message: `none` if there are none.
    #[must_use]
    pub fn list(&self, wanted: impl Fn(&Class) -> bool) -> String {
        let is_wanted = |name: &&'static str| self.class(name).is_ok_and(|class| wanted(&class));
        let wanted: Vec<_> = self.names().filter(is_wanted).collect();
        if wanted.is_empty() {
            "none".to_owned()
        } else {
            wanted.join(", ")
        }
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
            Arc::new(Class::initialise(entry.info, parent, interfaces, &entry.properties))
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
                property: property.name().to_owned(),
                reason,
            };
            check_child_name(property.name()).map_err(|error| bad(error.to_string()))?;
            if let Some(default) = property.default()
                && property.kind().accept(default).is_none()
            {
                return Err(bad(format!(
                    "its default is '{default}', which is not {}",
                    property.kind()
                )));
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
                    property: property.name().to_owned(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qom::{PropertyKind, PropertyValue};

    const fn at(name: &'static str, parent: Option<&'static str>, declared_at: &'static str) -> TypeInfo {
        TypeInfo {
            parent,
            ..TypeInfo::new(name, StateDecl::Stateless, declared_at)
        }
    }

    static DEVICE: TypeInfo = at("device", Some("object"), "device.rs:1");
    static DEVICE_AGAIN: TypeInfo = at("device", Some("object"), "copy.rs:9");
    static SERIAL: TypeInfo = TypeInfo {
        interfaces: &["hot"],
        ..at("serial", Some("device"), "serial.rs:2")
    };
    static HOT: TypeInfo = TypeInfo {
        parent: Some("plug"),
        ..TypeInfo::interface("hot", "hot.rs:3")
    };
    static PLUG: TypeInfo = TypeInfo::interface("plug", "plug.rs:4");

    fn refused(infos: impl IntoIterator<Item = &'static TypeInfo>) -> String {
        TypeTable::build(infos)
            .expect_err("the declarations do not fit")
            .to_string()
    }

    #[test]
    fn names_are_sorted_whatever_the_order_of_the_linker() {
        let one = TypeTable::build([&DEVICE, &SERIAL, &HOT, &PLUG]).expect("they fit");
        let other = TypeTable::build([&PLUG, &SERIAL, &HOT, &DEVICE]).expect("they fit");
        let names: Vec<_> = one.names().collect();
        assert_eq!(
            names,
            [
                "container",
                "device",
                "hot",
                "object",
                "plug",
                "serial",
                "user-creatable"
            ]
        );
        assert!(one.names().eq(other.names()));
    }

    #[test]
    fn a_duplicate_name_names_both_places() {
        let text = "type 'device' is declared twice: at copy.rs:9 and at device.rs:1";
        assert_eq!(refused([&DEVICE, &DEVICE_AGAIN]), text);
        assert_eq!(refused([&DEVICE_AGAIN, &DEVICE]), text);
    }

    #[test]
    fn a_missing_parent_and_a_missing_interface_are_named_with_who_wants_them() {
        assert_eq!(
            refused([&SERIAL, &HOT, &PLUG]),
            "type 'serial' at serial.rs:2 extends 'device', which is not declared anywhere (is its crate linked in?)"
        );
        assert_eq!(
            refused([&SERIAL, &DEVICE]),
            "type 'serial' at serial.rs:2 implements 'hot', which is not declared anywhere (is its crate linked in?)"
        );
    }

    #[test]
    fn a_parent_cycle_names_every_place() {
        static A: TypeInfo = at("a", Some("c"), "a.rs:1");
        static B: TypeInfo = at("b", Some("a"), "b.rs:2");
        static C: TypeInfo = at("c", Some("b"), "c.rs:3");
        static BELOW: TypeInfo = at("a-below", Some("a"), "below.rs:4");
        assert_eq!(
            refused([&BELOW, &C, &B, &A]),
            "types extend one another in a circle: 'a' at a.rs:1 extends 'c' at c.rs:3 extends 'b' at b.rs:2 extends 'a'"
        );
    }

    #[test]
    fn interfaces_and_types_do_not_extend_one_another() {
        static ODD: TypeInfo = at("odd", Some("plug"), "odd.rs:1");
        static ODD_INTERFACE: TypeInfo = TypeInfo {
            parent: Some("device"),
            ..TypeInfo::interface("odd", "odd.rs:1")
        };
        static ROOTLESS: TypeInfo = at("odd", None, "odd.rs:1");
        static IMPLEMENTS_A_TYPE: TypeInfo = TypeInfo {
            interfaces: &["device"],
            ..at("odd", Some("object"), "odd.rs:1")
        };
        for odd in [&ODD, &ODD_INTERFACE, &ROOTLESS] {
            let error = TypeTable::build([odd, &DEVICE, &PLUG]).expect_err("wrong parent");
            assert!(matches!(error, TypeTableError::WrongParent { .. }), "{error}");
        }
        assert_eq!(
            refused([&IMPLEMENTS_A_TYPE, &DEVICE]),
            "type 'odd' at odd.rs:1 implements 'device', which is no interface (declared at device.rs:1)"
        );
    }

    #[test]
    fn an_interface_has_nothing_that_only_instances_have() {
        static PART: TypeInfo = TypeInfo {
            part: Some(|| Box::new(())),
            ..TypeInfo::interface("odd", "odd.rs:1")
        };
        static INIT: TypeInfo = TypeInfo {
            instance_finalize: Some(|_| ()),
            ..TypeInfo::interface("odd", "odd.rs:1")
        };
        static STATE: TypeInfo = TypeInfo {
            state: StateDecl::Unmigratable("because"),
            ..TypeInfo::interface("odd", "odd.rs:1")
        };
        for (odd, what) in [(&PART, "a part"), (&INIT, "instance functions"), (&STATE, "state")] {
            assert_eq!(
                refused([odd]),
                format!("interface 'odd' at odd.rs:1 has {what}, but interfaces have no instances")
            );
        }
    }

    #[test]
    fn names_are_such_as_can_be_typed_and_sent() {
        static BAD: [TypeInfo; 3] = [
            at("", Some("object"), "bad.rs:1"),
            at("Upper", Some("object"), "bad.rs:2"),
            at("a/b", Some("object"), "bad.rs:3"),
        ];
        for bad in &BAD {
            let error = TypeTable::build([bad]).expect_err("a bad name");
            assert!(matches!(error, TypeTableError::BadName { .. }), "{error}");
        }
    }

    fn property(name: &'static str) -> Property {
        Property::read_only(name, "", PropertyKind::Bool, |_| PropertyValue::Bool(true))
    }

    #[test]
    fn a_property_exists_once_in_a_chain_and_both_places_are_named() {
        static BASE: TypeInfo = TypeInfo {
            properties: || vec![property("size")],
            ..at("base", Some("object"), "base.rs:1")
        };
        static CHILD: TypeInfo = TypeInfo {
            properties: || vec![property("size")],
            ..at("child", Some("base"), "child.rs:2")
        };
        static TWICE: TypeInfo = TypeInfo {
            properties: || vec![property("size"), property("size")],
            ..at("twice", Some("object"), "twice.rs:3")
        };
        static SLASH: TypeInfo = TypeInfo {
            properties: || vec![property("a/b")],
            ..at("slash", Some("object"), "slash.rs:4")
        };
        assert_eq!(
            refused([&BASE, &CHILD]),
            "property 'size' of type 'child' at child.rs:2 exists already, in type 'base' at base.rs:1"
        );
        assert!(matches!(
            TypeTable::build([&TWICE]),
            Err(TypeTableError::DuplicateProperty { .. })
        ));
        assert!(refused([&SLASH]).contains("it holds '/'"));
    }

    #[test]
    fn abstract_types_interfaces_and_unknown_ones_refuse_instantiation_by_name() {
        let types = TypeTable::build([&PLUG]).expect("they fit");
        let refusal = |name| types.new_object(name).expect_err("no such objects").to_string();
        assert_eq!(
            refusal("object"),
            "type 'object' is abstract and has no objects of its own; name one of the types that extend it"
        );
        assert_eq!(
            refusal("plug"),
            "type 'plug' is an interface and has no objects of its own; name one of the types that implement it"
        );
        assert_eq!(refusal("serial"), "there is no type 'serial'");
    }
}
