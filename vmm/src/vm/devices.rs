//! Objects and devices that a user adds to a VM, and takes away again.
//!
//! They are part of the recipe, in the order of their coming: what the VM becomes elsewhere has them too. A destination
//! builds only what needs nothing of its host.

use std::sync::Arc;

use hw::core::{DeviceClass, HotplugError, NewDevice, Unplugged, unplug_device};
use migration::vm::{PreflightReport, Property, Recipe, UserObject};
use thiserror::Error;
use vmstate::qom::{
    Object, PropertyValue, TypeTable, USER_OBJECTS, UserCreatable, UserObjectError, add_user_object, delete_user_object,
};

use super::factory::Refuse as _;
use super::lifecycle::LifecycleError;
use super::{CreateError, Vm};
use crate::control::Event;

/// What is set of a new object, in order.
pub type Properties = Vec<(String, PropertyValue)>;

/// Where the devices of users are.
const PERIPHERAL: &str = "/machine/peripheral";

/// Why an object or a device did not come or go. Nothing has changed then.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// The VM is not in a state in which it can be changed.
    #[error(transparent)]
    Lifecycle(#[from] LifecycleError),
    /// The object.
    #[error(transparent)]
    Object(#[from] UserObjectError),
    /// The device.
    #[error(transparent)]
    Device(#[from] HotplugError),
    /// There is no such device.
    #[error("there is no device '{0}'")]
    NoDevice(String),
}

impl Vm {
    /// Makes an object under `/objects`.
    ///
    /// # Errors
    ///
    /// [`ChangeError`].
    pub fn add_object(&self, type_name: &str, id: &str, properties: Properties) -> Result<(), ChangeError> {
        let _life = self.changing()?;
        let names = names(&properties);
        let object = add_user_object(self.root(), self.board.defaults(), type_name, id, properties)?;
        self.note(&object, &names);
        Ok(())
    }

    /// Deletes an object under `/objects`.
    ///
    /// # Errors
    ///
    /// [`ChangeError`]; something uses it, for example.
    pub fn delete_object(&self, id: &str) -> Result<(), ChangeError> {
        let _life = self.changing()?;
        delete_user_object(self.root(), id)?;
        self.forget(&format!("/{USER_OBJECTS}/{id}"));
        Ok(())
    }

    /// Adds a device to the machine, whether it runs or not.
    ///
    /// # Errors
    ///
    /// [`ChangeError`].
    pub fn add_device(&self, type_name: &str, id: Option<&str>, properties: Properties) -> Result<(), ChangeError> {
        let _life = self.changing()?;
        let names = names(&properties);
        let new = NewDevice {
            type_name,
            id,
            properties,
            hotplugged: true,
        };
        let device = self.plug(new)?;
        self.note(&device, &names);
        Ok(())
    }

    /// Takes the device that has this id or path off the machine, or asks the guest to let go of it first. Whoever
    /// listens hears when it is gone.
    ///
    /// # Errors
    ///
    /// [`ChangeError`].
    pub fn delete_device(&self, id: &str) -> Result<(), ChangeError> {
        let _life = self.changing()?;
        let path = if id.starts_with('/') {
            id.to_owned()
        } else {
            format!("{PERIPHERAL}/{id}")
        };
        let device = self.root().resolve(&path).filter(|object| object.is_a("device"));
        let device = device.ok_or_else(|| ChangeError::NoDevice(id.to_owned()))?;
        let path = device.path();
        if unplug_device(&device)? == Unplugged::Gone {
            self.forget(&path);
            let device = path
                .strip_prefix(PERIPHERAL)
                .map(|id| id.trim_start_matches('/').to_owned());
            self.status.events.publish(&Event::DeviceDeleted { device, path });
        }
        Ok(())
    }

    fn plug(&self, new: NewDevice<'_>) -> Result<Arc<Object>, HotplugError> {
        self.board.add_device(new, &self.wiring)
    }

    /// Adds what the recipe says that a user added where the VM comes from.
    pub(super) fn add_arriving(&self) -> Result<(), CreateError> {
        for added in &self.recipe.objects {
            let (_, id) = added.path.rsplit_once('/').unwrap_or(("", &added.path));
            let properties = added.properties.iter();
            let properties = properties
                .map(|one| (one.name.clone(), PropertyValue::from(one.value.as_str())))
                .collect();
            if is_device(&added.path) {
                // One without an id is numbered as it was: those before it have come first.
                let id = (!id.contains('[')).then_some(id);
                self.plug(NewDevice {
                    type_name: &added.type_name,
                    id,
                    properties,
                    hotplugged: false,
                })?;
            } else {
                add_user_object(self.root(), self.board.defaults(), &added.type_name, id, properties)?;
            }
        }
        self.added.lock().clone_from(&self.recipe.objects);
        Ok(())
    }

    /// The recipe with what users have added.
    pub(super) fn recipe_now(&self) -> Recipe {
        Recipe {
            objects: self.added.lock().clone(),
            ..self.recipe.clone()
        }
    }

    /// Keeps notes for the recipe: what was set of `object`, as the object understood it.
    fn note(&self, object: &Object, names: &[String]) {
        let properties = names.iter().filter_map(|name| {
            let value = object.property(name).ok()?;
            (value != PropertyValue::Null).then(|| Property {
                name: name.clone(),
                value: value.to_string(),
            })
        });
        self.added.lock().push(UserObject {
            type_name: object.type_name().to_owned(),
            path: object.path(),
            properties: properties.collect(),
        });
    }

    fn forget(&self, path: &str) {
        self.added.lock().retain(|added| added.path != path);
    }
}

fn names(properties: &Properties) -> Vec<String> {
    properties.iter().map(|(name, _)| name.clone()).collect()
}

fn is_device(path: &str) -> bool {
    path.starts_with("/machine/")
}

/// Refuses what a recipe asks for that users cannot add here.
pub(super) fn check_added(types: &TypeTable, recipe: &Recipe, report: &mut PreflightReport) {
    for added in &recipe.objects {
        let class = types.class(&added.type_name).ok();
        let can_be_made = class.is_some_and(|class| {
            if is_device(&added.path) {
                class.data::<DeviceClass>().is_some_and(DeviceClass::is_hotpluggable)
            } else {
                class.is_a(UserCreatable::TYPE)
            }
        });
        if !can_be_made {
            report.refuse(
                &added.path,
                format!("this Tern cannot build a {} from a stream", added.type_name),
            );
        }
    }
}
