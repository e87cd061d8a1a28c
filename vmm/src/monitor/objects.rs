//! The composition tree and its types, as QMP's clients see them.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use vmstate::qom::{Class, Object, PropertyError, PropertyInfo, PropertyValue, ResolveError, TypeKind};

use super::{
    live_state,
    qmp::{ErrorClass, QmpError},
};
use crate::control::{Control, ControlError};

fn object(vm: &dyn Control, path: &str) -> Result<Arc<Object>, QmpError> {
    let not_found = || QmpError::new(ErrorClass::DeviceNotFound, format!("Device '{path}' not found"));
    let root = vm.root().ok_or_else(not_found)?;
    root.find(path, None).map_err(|error| match error {
        ResolveError::NotFound { .. } => not_found(),
        error @ ResolveError::Ambiguous { .. } => QmpError::generic(error.to_string()),
    })
}

/// Every object has its type as a property, and QEMU's lists begin with it.
const TYPE: &str = "type";

/// A property as QMP's `ObjectPropertyInfo` describes it.
fn described(property: &PropertyInfo) -> Value {
    let mut entry = json!({ "name": property.name, "type": property.type_name });
    if !property.description.is_empty() {
        entry["description"] = property.description.into();
    }
    if let Some(default) = &property.default {
        entry["default-value"] = default.into();
    }
    entry
}

fn with_type(properties: impl Iterator<Item = PropertyInfo>) -> Value {
    let own_type = json!({ "name": TYPE, "type": "string" });
    std::iter::once(own_type)
        .chain(properties.map(|property| described(&property)))
        .collect()
}

pub(super) fn list(vm: &dyn Control, path: &str) -> Result<Value, QmpError> {
    let object = object(vm, path)?;
    let mut list = with_type(object.properties().into_iter());
    if let (Value::Array(entries), Some(state)) = (&mut list, live_state::listed(&object)) {
        entries.push(state);
    }
    Ok(list)
}

pub(super) fn get(vm: &dyn Control, path: &str, property: &str) -> Result<Value, QmpError> {
    let object = object(vm, path)?;
    match object.property(property) {
        Ok(value) => Ok((&value).into()),
        Err(PropertyError::Unknown { .. }) if property == TYPE => Ok(object.type_name().into()),
        Err(error @ PropertyError::Unknown { .. }) if property == live_state::NAME => {
            live_state::read(vm, &object)?.ok_or_else(|| error.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Sets a property by the rules of the object model: an object that is in use has its configuration fixed.
pub(super) fn set(vm: &dyn Control, path: &str, property: &str, value: &Value) -> Result<(), QmpError> {
    let object = object(vm, path)?;
    let value = PropertyValue::from(value);
    vm.qom_set(&object, property, value).map_err(|error| match error {
        ControlError::Property(PropertyError::Unknown { path, name, .. })
            if name == TYPE || name == live_state::NAME =>
        {
            PropertyError::ReadOnly { path, name }.into()
        }
        error => error.into(),
    })
}

pub(super) fn list_types(vm: &dyn Control, implements: Option<&str>, with_abstract: bool) -> Result<Value, QmpError> {
    let types = vm.types();
    let mut list = Vec::new();
    for info in types.infos() {
        let is_abstract = info.kind != TypeKind::Concrete;
        if is_abstract && !with_abstract {
            continue;
        }
        if let Some(wanted) = implements
            && !class(vm, info.name)?.is_a(wanted)
        {
            continue;
        }
        let mut entry = Map::new();
        entry.insert("name".to_owned(), info.name.into());
        if let Some(parent) = info.parent {
            entry.insert("parent".to_owned(), parent.into());
        }
        if is_abstract {
            entry.insert("abstract".to_owned(), true.into());
        }
        list.push(Value::Object(entry));
    }
    Ok(list.into())
}

fn class(vm: &dyn Control, name: &str) -> Result<Arc<Class>, QmpError> {
    let unknown = |_| QmpError::new(ErrorClass::DeviceNotFound, format!("Class '{name}' not found"));
    vm.types().class(name).map_err(unknown)
}

/// What properties the objects of a type have, their children apart.
pub(super) fn list_type_properties(vm: &dyn Control, type_name: &str) -> Result<Value, QmpError> {
    let class = class(vm, type_name)?;
    if class.info().kind == TypeKind::Interface {
        return Err(QmpError::generic("Parameter 'typename' expects a QOM class"));
    }
    Ok(with_type(class.properties().map(|property| property.info())))
}

/// What properties a device of a type can be made with: as with QEMU, what it only shows is not among them.
pub(super) fn list_device_properties(vm: &dyn Control, type_name: &str) -> Result<Value, QmpError> {
    let class = class(vm, type_name)
        .map_err(|_| QmpError::new(ErrorClass::DeviceNotFound, format!("Device '{type_name}' not found")))?;
    if !class.is_a("device") || !class.is_concrete() {
        let message = "Parameter 'typename' expects a non-abstract device type";
        return Err(QmpError::generic(message));
    }
    let given = class.properties().filter(|property| property.is_settable());
    Ok(given.map(|property| described(&property.info())).collect())
}

impl From<PropertyError> for QmpError {
    /// The object model's own words.
    fn from(error: PropertyError) -> Self {
        Self::generic(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_vm::FakeVm;

    #[test]
    fn objects_are_listed_and_their_properties_read() {
        let vm = FakeVm::default();
        let list = list(&vm, "/").expect("the root is an object");
        assert_eq!(list[0], json!({ "name": "type", "type": "string" }));
        assert_eq!(list[1], json!({ "name": "machine", "type": "child<container>" }));
        assert_eq!(get(&vm, "/", "machine"), Ok(json!("/machine")));
        assert_eq!(get(&vm, "/machine", "type"), Ok(json!("container")));
        let nobody = get(&vm, "/nowhere", "type").expect_err("no such object");
        assert_eq!(nobody.class, ErrorClass::DeviceNotFound);
        let nothing = get(&vm, "/", "colour").expect_err("no such property");
        assert!(nothing.description.contains("colour"));
    }

    #[test]
    fn a_property_is_set_by_the_rules_and_refused_in_the_words_of_the_object_model() {
        let vm = FakeVm::default();
        let root = vm.root().expect("a fake has objects");
        let serial = vm.types().new_object("serial16550").expect("a device");
        root.add_child("serial", Arc::clone(&serial)).expect("a fresh name");
        set(&vm, "/serial", "iobase", &json!(0x2f8)).expect("it is not in use");
        set(&vm, "/serial", "iobase", &json!("0x2e8")).expect("as the command line has it");
        assert_eq!(get(&vm, "/serial", "iobase"), Ok(json!(0x2e8)));

        let refused = |property: &str, value: Value| {
            let error = set(&vm, "/serial", property, &value).expect_err("refused");
            assert_eq!(error.class, ErrorClass::Generic);
            error.description
        };
        for (property, value) in [("iobase", "low"), ("colour", "red"), ("iobase", "1.5")] {
            let own_words = serial.set_property(property, value).expect_err("refused").to_string();
            assert_eq!(refused(property, json!(value)), own_words);
        }
        assert_eq!(refused("type", json!("x")), "property 'type' of /serial is read-only");
        assert_eq!(refused("iobase", json!(1.5)), refused("iobase", json!("1.5")));
        serial.freeze();
        assert_eq!(
            refused("iobase", json!(0x3f8)),
            "property 'iobase' of /serial can no longer be set: it is fixed once the object is made"
        );
        let nobody = set(&vm, "/nowhere", "x", &json!(1)).expect_err("no such object");
        assert_eq!(nobody.class, ErrorClass::DeviceNotFound);
    }

    #[test]
    fn types_are_listed_by_what_they_are() {
        let vm = FakeVm::default();
        let names = |implements, with_abstract| -> Vec<String> {
            let list = list_types(&vm, implements, with_abstract).expect("a list");
            let names = list
                .as_array()
                .into_iter()
                .flatten()
                .map(|entry| entry["name"].as_str());
            names.map(|name| name.expect("text").to_owned()).collect()
        };
        let all = names(None, true);
        assert!(all.contains(&"container".to_owned()) && all.is_sorted());
        assert_eq!(names(Some("container"), true), ["container"]);
        assert!(!names(None, false).contains(&"device".to_owned()));
    }

    #[test]
    fn properties_of_types_are_listed_without_an_object() {
        let vm = FakeVm::default();
        let device = list_device_properties(&vm, "serial16550").expect("a device");
        let iobase = device
            .as_array()
            .into_iter()
            .flatten()
            .find(|entry| entry["name"] == "iobase");
        assert_eq!(iobase.expect("it has one")["type"], "uint16");
        let of_type = list_type_properties(&vm, "serial16550").expect("a type");
        assert_eq!(of_type[0]["name"], "type");
        let names = |list: &Value| -> Vec<_> {
            let entries = list.as_array().expect("a list").iter();
            entries
                .map(|entry| entry["name"].as_str().expect("text").to_owned())
                .collect()
        };
        assert_eq!(names(&device), ["chardev", "iobase", "irq"]);
        let of_type = names(&of_type);
        for shown in ["baud", "gpio-in", "parent-bus", "realized"] {
            assert!(of_type.contains(&shown.to_owned()), "{of_type:?}");
        }
        list_type_properties(&vm, "machine").expect("an abstract type has properties too");

        for refusal in [
            list_type_properties(&vm, "pentium"),
            list_device_properties(&vm, "pentium"),
        ] {
            assert_eq!(refusal.expect_err("no such type").class, ErrorClass::DeviceNotFound);
        }
        for no_device in ["container", "device"] {
            let error = list_device_properties(&vm, no_device).expect_err("refused");
            assert_eq!(
                error.description,
                "Parameter 'typename' expects a non-abstract device type"
            );
        }
    }
}
