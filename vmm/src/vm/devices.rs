//! Objects and devices that a user adds to a VM, and takes away again.
//!
//! They are part of the recipe, in the order of their coming: what the VM becomes elsewhere has them too. A destination
//! builds only what needs nothing of its host.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hw::core::{AddedBy, DeviceName, HotplugError, NewDevice, Unplugged, finish_unplug, unplug_device};
use migration::vm::{PreflightReport, Property, Recipe, Setting, UserObject};
use thiserror::Error;
use vmstate::qom::{
    Configuration, Object, PropertyError, PropertyValue, TypeTable, UserObjectError, add_user_object,
    delete_user_object,
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
    /// A property.
    #[error(transparent)]
    Property(#[from] PropertyError),
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
        self.changes.lock().added(object.path(), names);
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
            name: id.map_or(DeviceName::Numbered, DeviceName::Id),
            configuration: properties.into(),
            hotplugged: true,
        };
        let device = self.board.add_device(new, &self.wiring)?;
        self.changes.lock().added(device.path(), names);
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
            self.device_is_gone(path);
        }
        Ok(())
    }

    /// Keeps all devices where they are until what is returned is dropped: whoever describes the machine and then takes its state
    /// needs both to be of the same devices. A device that the guest lets go of meanwhile goes afterwards.
    #[must_use]
    pub(crate) fn keep_whole(self: &Arc<Self>) -> KeptWhole {
        // Who takes a device off at this moment does so under this lock.
        let _life = self.lifecycle.lock();
        self.kept_whole.fetch_add(1, Ordering::SeqCst);
        KeptWhole(Arc::clone(self))
    }

    /// Takes the devices off that the guest has let go of. The lifecycle's lock is held.
    pub(super) fn finish_unplugs(&self) {
        if self.kept_whole.load(Ordering::SeqCst) > 0 {
            return;
        }
        for device in self.requests.take_released() {
            let path = device.path();
            match finish_unplug(&device) {
                Ok(()) => self.device_is_gone(path),
                Err(_) => {
                    let device = id_of(&path);
                    self.status.events.publish(&Event::DeviceStays { device, path });
                }
            }
        }
    }

    fn device_is_gone(&self, path: String) {
        let device = id_of(&path);
        self.status.events.publish(&Event::DeviceDeleted { device, path });
    }

    /// Sets a property of an object of the tree, of one in use where that can be; the VM has it wherever it goes.
    ///
    /// # Errors
    ///
    /// [`ChangeError`].
    pub fn set_property(&self, object: &Object, name: &str, value: PropertyValue) -> Result<(), ChangeError> {
        let _life = self.changing()?;
        object.set_property(name, value)?;
        self.changes.lock().set(object.path(), name);
        Ok(())
    }

    /// Adds what the recipe says that a user added where the VM comes from, and sets what it says was set there.
    pub(super) fn add_arriving(&self) -> Result<(), CreateError> {
        let mut changes = self.changes.lock();
        for added in &self.recipe.objects {
            let configuration = Configuration {
                properties: values(&added.properties),
                in_effect: values(added.in_effect.as_deref().unwrap_or_default()),
            };
            let type_name = &added.type_name;
            if let Some(name) = DeviceName::of_path(&added.path) {
                let new = NewDevice {
                    type_name,
                    name,
                    configuration,
                    hotplugged: false,
                };
                self.board.add_device(new, &self.wiring)?;
            } else {
                let (_, id) = added.path.rsplit_once('/').unwrap_or(("", &added.path));
                add_user_object(self.root(), self.board.defaults(), type_name, id, configuration)?;
            }
            let names = added.properties.iter().map(|property| property.name.clone());
            changes.added(added.path.clone(), names.collect());
        }
        for Setting { path, property } in self.recipe.settings.iter().flatten() {
            let object = self
                .root()
                .resolve(path)
                .ok_or_else(|| CreateError::NoObject(path.clone()))?;
            object.set_property(&property.name, property.value.as_str())?;
            changes.set(path.clone(), &property.name);
        }
        Ok(())
    }

    /// The recipe with what users have added and set.
    pub(super) fn recipe_now(&self) -> Recipe {
        let changes = self.changes.lock();
        let settings: Vec<_> = changes.settings(self.root());
        Recipe {
            objects: changes.objects(self.root()),
            settings: (!settings.is_empty()).then_some(settings),
            ..self.recipe.clone()
        }
    }
}

/// The id that its user gave a device.
fn id_of(path: &str) -> Option<String> {
    let id = path.strip_prefix(PERIPHERAL)?.strip_prefix('/')?;
    Some(id.to_owned())
}

/// While there is one, no device goes; see [`Vm::keep_whole`].
pub(crate) struct KeptWhole(Arc<Vm>);

impl Drop for KeptWhole {
    fn drop(&mut self) {
        self.0.kept_whole.fetch_sub(1, Ordering::SeqCst);
        self.0.requests.wake();
    }
}

/// What users have changed of a VM since it was built, by the paths of objects.
#[derive(Default)]
pub(super) struct Changes {
    /// The objects that were added, in order, and which properties their users have set.
    added: Vec<(String, Vec<String>)>,
    /// What was set of others.
    set: BTreeSet<(String, String)>,
}

impl Changes {
    pub(super) fn added(&mut self, path: String, names: Vec<String>) {
        // One of the same path is gone.
        self.added.retain(|(other, _)| *other != path);
        self.set.retain(|(other, _)| *other != path);
        self.added.push((path, names));
    }

    pub(super) fn set(&mut self, path: String, name: &str) {
        self.set.insert((path, name.to_owned()));
    }

    /// What was added and is still there, as it is now.
    pub(super) fn objects(&self, root: &Object) -> Vec<UserObject> {
        let there = self
            .added
            .iter()
            .filter_map(|(path, names)| Some((root.resolve(path)?, names)));
        there.map(|(object, names)| self.user_object(&object, names)).collect()
    }

    pub(super) fn settings(&self, root: &Object) -> Vec<Setting> {
        let settings = self.set.iter().filter_map(|(path, name)| {
            Some(Setting {
                path: path.clone(),
                property: property(name, &root.resolve(path)?.property(name).ok()?),
            })
        });
        settings.collect()
    }

    /// What is set later is left out: it may lead to an object that comes later.
    fn user_object(&self, object: &Object, set_by_user: &[String]) -> UserObject {
        let path = object.path();
        let is_set_later = |name: &str| self.set.contains(&(path.clone(), name.to_owned()));
        let of_user = set_by_user.iter().filter(|name| !is_set_later(name));
        let properties = of_user.filter_map(|name| {
            let value = object.property(name).ok()?;
            (value != PropertyValue::Null).then(|| property(name, &value))
        });
        let others = object.configuration().into_iter();
        let others = others.filter(|(other, value)| {
            let is_known = is_set_later(other.name()) || set_by_user.iter().any(|name| name == other.name());
            !is_known && (*value != PropertyValue::Null || other.default() != Some(value))
        });
        UserObject {
            type_name: object.type_name().to_owned(),
            properties: properties.collect(),
            in_effect: Some(others.map(|(other, value)| property(other.name(), &value)).collect()),
            path: path.clone(),
        }
    }
}

fn property(name: &str, value: &PropertyValue) -> Property {
    Property {
        name: name.to_owned(),
        value: value.to_string(),
    }
}

fn values(properties: &[Property]) -> Properties {
    let values = properties.iter();
    values
        .map(|one| (one.name.clone(), PropertyValue::from(one.value.as_str())))
        .collect()
}

fn names(properties: &Properties) -> Vec<String> {
    properties.iter().map(|(name, _)| name.clone()).collect()
}

/// Refuses what a recipe asks for that users cannot add here.
pub(super) fn check_added(types: &TypeTable, recipe: &Recipe, report: &mut PreflightReport) {
    for added in &recipe.objects {
        let by = match DeviceName::of_path(&added.path) {
            Some(_) => AddedBy::DeviceAdd,
            None => AddedBy::ObjectAdd,
        };
        let can_be_made = types.class(&added.type_name).is_ok_and(|class| by.adds(&class));
        if !can_be_made {
            report.refuse(
                &added.path,
                format!("this Tern cannot build a {} from a stream", added.type_name),
            );
        }
    }
}
