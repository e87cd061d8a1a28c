//! Devices that come and go while the machine runs.
//!
//! A bus may have a handler, an object that implements [`HotplugHandler`]: it may refuse a device before that is
//! realized, hears of one that is, and decides how one goes: at once, or by asking the guest first.

use std::sync::Arc;

use thiserror::Error;
use vmstate::qom::{
    AddChildError, AddPropertyError, Configuration, NewObjectError, Obj, Object, ObjectError, PropertyDefaults,
    PropertyError, check_id,
};

use super::AddedBy;
use super::bus::{Bus, BusError};
use super::device::{Device, realize_device, unrealize_device};
use super::realize::{RealizeCtx, RealizeError};

/// What a handler of a bus says of a device: fine, or why not.
pub type HotplugAnswer = Result<(), String>;

/// The interface of those who watch over a bus.
#[derive(Object)]
#[object(name = "hotplug-handler", interface, class_data = HotplugHandlerClass)]
pub struct HotplugHandler;

type Handle = fn(handler: &Arc<Object>, device: &Arc<Object>) -> HotplugAnswer;

/// The virtual methods of the interface. What a class does not set is fine with it.
#[derive(Clone, Copy, Default)]
pub struct HotplugHandlerClass {
    /// Before the device is realized: may refuse it.
    pub pre_plug: Option<Handle>,
    /// The device is realized: makes it known. If this fails, the device is unrealized again.
    pub plug: Option<Handle>,
    /// Asks the guest to let go of the device. Without it the device goes at once.
    pub unplug_request: Option<Handle>,
    /// The device is about to be unrealized: forgets it. May refuse.
    pub unplug: Option<Handle>,
}

/// The name of the link from a bus to its handler.
const HANDLER: &str = "hotplug-handler";

/// Lets `handler` watch over `bus`.
///
/// # Errors
///
/// [`AddPropertyError`]: the bus has a handler already.
pub fn set_hotplug_handler(bus: &Object, handler: &Arc<Object>) -> Result<(), AddPropertyError> {
    bus.add_const_link(HANDLER, "who is told of its devices", handler)
        .map(drop)
}

/// What the handler of a device's bus says; fine where there is none.
pub(super) fn ask_handler(device: &Arc<Object>, method: fn(&HotplugHandlerClass) -> Option<Handle>) -> HotplugAnswer {
    let Some(handler) = handler_of(device) else {
        return Ok(());
    };
    match handler.class().data::<HotplugHandlerClass>().and_then(method) {
        Some(handle) => handle(&handler, device),
        None => Ok(()),
    }
}

fn handler_of(device: &Object) -> Option<Arc<Object>> {
    device.part::<Device>()?.parent_bus()?.object().link(HANDLER)
}

/// Why a device did not come or go. Nothing has changed then.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HotplugError {
    /// There are no objects of that type.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The type is none that comes while the machine runs.
    #[error("a '{type_name}' cannot be added to a machine that runs; what can: {known}")]
    NotHotpluggable {
        /// The type asked for.
        type_name: String,
        /// The types that can, sorted.
        known: String,
    },
    /// A device with state needs a name that stays.
    #[error("a '{type_name}' has state, which is saved under its name: give it an id")]
    NoId {
        /// The type asked for.
        type_name: String,
    },
    /// The id is taken, or cannot be one.
    #[error(transparent)]
    Id(#[from] AddChildError),
    /// A property does not take its value.
    #[error(transparent)]
    Property(#[from] PropertyError),
    /// The bus takes other devices.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The device cannot become real.
    #[error(transparent)]
    Realize(#[from] RealizeError),
    /// The device does not come out.
    #[error("{device} cannot be unplugged: {reason}")]
    Stays {
        /// Its canonical path.
        device: String,
        /// Why.
        reason: String,
    },
}

impl From<NewObjectError> for HotplugError {
    fn from(error: NewObjectError) -> Self {
        match error {
            NewObjectError::Object(error) => error.into(),
            NewObjectError::Property(error) => error.into(),
        }
    }
}

/// What a device is called that is added to a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceName<'a> {
    /// By its user, under `peripheral`.
    Id(&'a str),
    /// By the first free number, under `peripheral-anon`, which only a device without state can be.
    Numbered,
    /// As it was numbered where it comes from.
    Anonymous(&'a str),
}

impl<'a> DeviceName<'a> {
    /// The folders in which devices are that were added, below the machine.
    pub const FOLDERS: [&'static str; 2] = ["peripheral", "peripheral-anon"];

    /// The name of a device that had `path`; `None` where devices of users never are.
    #[must_use]
    pub fn of_path(path: &'a str) -> Option<Self> {
        let (folder, name) = path.strip_prefix("/machine/")?.split_once('/')?;
        let at = Self::FOLDERS.iter().position(|known| *known == folder)?;
        (!name.contains('/')).then_some(if at == 0 { Self::Id(name) } else { Self::Anonymous(name) })
    }

    fn place(self) -> (&'static str, &'a str) {
        match self {
            Self::Id(id) => (Self::FOLDERS[0], id),
            Self::Numbered => (Self::FOLDERS[1], "device[*]"),
            Self::Anonymous(name) => (Self::FOLDERS[1], name),
        }
    }
}

/// A device that is to be added to a machine.
pub struct NewDevice<'a> {
    /// Its type.
    pub type_name: &'a str,
    /// What it is called.
    pub name: DeviceName<'a>,
    /// What is set of it.
    pub configuration: Configuration,
    /// It comes to a machine that is ready, and not with one that is still being built.
    pub hotplugged: bool,
}

/// Makes a device, plugs it into `bus`, and realizes it with `cx`. `machine` owns it, below `peripheral` or
/// `peripheral-anon`.
///
/// # Errors
///
/// [`HotplugError`]; nothing is left of the device then.
///
/// # Panics
///
/// If the machine has no such folders, which every board makes.
pub fn add_device(
    machine: &Object,
    bus: &Obj<Bus>,
    defaults: &PropertyDefaults,
    new: NewDevice<'_>,
    cx: &mut RealizeCtx<'_>,
) -> Result<Arc<Object>, HotplugError> {
    let types = machine.types();
    let class = types.class(new.type_name)?;
    if !AddedBy::DeviceAdd.adds(&class) {
        return Err(HotplugError::NotHotpluggable {
            type_name: new.type_name.to_owned(),
            known: AddedBy::DeviceAdd.list(types),
        });
    }
    if let DeviceName::Id(id) = new.name {
        check_id(id)?;
    }
    let object = defaults.new_object(types, new.type_name)?;
    if !matches!(new.name, DeviceName::Id(_)) && object.has_state() {
        return Err(HotplugError::NoId {
            type_name: new.type_name.to_owned(),
        });
    }
    cx.set_hotplug(new.hotplugged);
    let (folder, name) = new.name.place();
    let folder = machine.child(folder).expect("a board makes them");
    folder.add_child(name, Arc::clone(&object))?;
    let device: Obj<Device> = Obj::new(Arc::clone(&object)).expect("its class is a device's");
    let added = Bus::plug(bus, &device)
        .map_err(HotplugError::from)
        .and_then(|()| {
            new.configuration.apply(&object)?;
            Ok(())
        })
        .and_then(|()| Ok(realize_device(&object, cx)?));
    if let Err(error) = added {
        take_away(&device);
        return Err(error);
    }
    Ok(object)
}

/// How far a device has gone that was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unplugged {
    /// It is gone.
    Gone,
    /// The guest has been asked; [`finish_unplug`] follows when it has let go.
    Asked,
}

/// Takes `device` off the machine, or asks the guest to let go of it first where its bus's handler does so.
///
/// # Errors
///
/// [`HotplugError`]: the device is there for good, or the handler refuses.
pub fn unplug_device(device: &Arc<Object>) -> Result<Unplugged, HotplugError> {
    let stays = |reason| HotplugError::Stays {
        device: device.path(),
        reason,
    };
    if !AddedBy::DeviceAdd.adds(device.class()) {
        return Err(stays(format!("a {} is there for good", device.type_name())));
    }
    let folder = device.parent();
    let was_added = folder.is_some_and(|folder| DeviceName::FOLDERS.contains(&folder.name().as_str()));
    if !was_added {
        return Err(stays("it is part of the board".to_owned()));
    }
    let asks = |class: &HotplugHandlerClass| class.unplug_request;
    let handler = handler_of(device);
    let class = handler
        .as_ref()
        .and_then(|handler| handler.class().data::<HotplugHandlerClass>());
    if class.and_then(asks).is_some() {
        ask_handler(device, asks).map_err(stays)?;
        return Ok(Unplugged::Asked);
    }
    finish_unplug(device)?;
    Ok(Unplugged::Gone)
}

/// Takes `device` off the machine, which the guest has let go of: unrealizes it, and takes it out of bus and tree.
///
/// # Errors
///
/// [`HotplugError::Stays`]: the handler refuses.
pub fn finish_unplug(device: &Arc<Object>) -> Result<(), HotplugError> {
    ask_handler(device, |class| class.unplug).map_err(|reason| HotplugError::Stays {
        device: device.path(),
        reason,
    })?;
    unrealize_device(device);
    if let Some(device) = Obj::<Device>::new(Arc::clone(device)) {
        take_away(&device);
    }
    Ok(())
}

fn take_away(device: &Obj<Device>) {
    if let Some(bus) = device.parent_bus() {
        bus.remove(device);
    }
    device.object().unparent();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::probe::{ProbeMachine, heard, machine_of};
    use vmstate::qom::PropertyValue;

    /// A machine under a root of that type with a bus and the folders for devices that are added.
    fn machine(root: &str) -> ProbeMachine {
        let machine = machine_of(root, &["bus"]);
        for folder in ["peripheral", "peripheral-anon"] {
            let folder_object = machine.root.types().new_object("container").expect("concrete");
            machine.root.add_child(folder, folder_object).expect("free");
        }
        machine
    }

    fn add(machine: &ProbeMachine, type_name: &str, id: Option<&str>, number: u64) -> Result<Arc<Object>, String> {
        let bus = Obj::new(machine.at("/bus")).expect("a bus");
        let new = NewDevice {
            type_name,
            name: id.map_or(DeviceName::Numbered, DeviceName::Id),
            configuration: vec![("number".to_owned(), PropertyValue::Uint(number))].into(),
            hotplugged: true,
        };
        add_device(
            &machine.root,
            &bus,
            &PropertyDefaults::default(),
            new,
            &mut machine.cx(),
        )
        .map_err(|error| error.to_string())
    }

    fn on_bus(machine: &ProbeMachine) -> usize {
        Obj::<Bus>::new(machine.at("/bus")).expect("a bus").devices().len()
    }

    #[test]
    fn a_device_that_comes_is_checked_realized_reset_and_made_known_in_that_order_and_goes_the_other_way() {
        let machine = machine("probe-root");
        let device = add(&machine, "probe", Some("p"), 3).expect("it fits");
        let steps = ["pre_plug", "realize", "Enter Cold", "Hold Cold", "Exit Cold", "plug"];
        assert_eq!(heard(&machine.root), steps.map(|step| format!("/peripheral/p {step}")));
        assert_eq!(device.property("hotplugged"), Ok(PropertyValue::Bool(true)));
        let weak = Arc::downgrade(&device);
        assert_eq!(unplug_device(&device).expect("it goes"), Unplugged::Gone);
        drop(device);
        assert_eq!(
            heard(&machine.root),
            ["/peripheral/p unplug", "/peripheral/p unrealize"]
        );
        assert!(weak.upgrade().is_none() && on_bus(&machine) == 0);
    }

    #[test]
    fn a_device_that_was_there_before_the_machine_ran_is_not_hotplugged() {
        let machine = machine_of("probe-root", &["a"]);
        realize_device(&machine.at("/a"), &mut machine.cx()).expect("nothing fails");
        assert_eq!(machine.at("/a").property("hotplugged"), Ok(PropertyValue::Bool(false)));
    }

    #[test]
    fn a_device_that_fails_to_come_at_any_step_leaves_nothing_behind() {
        let machine = machine("probe-root");
        for (type_name, id, number, fails, message) in [
            ("prob", Some("p"), 1, "", "there is no type 'prob'"),
            (
                "container",
                Some("p"),
                1,
                "",
                "a 'container' cannot be added to a machine that runs; what can: ",
            ),
            (
                "i8042",
                Some("p"),
                1,
                "",
                "a 'i8042' cannot be added to a machine that runs; what can: ",
            ),
            (
                "serial16550",
                None,
                1,
                "",
                "a 'serial16550' has state, which is saved under its name: give it an id",
            ),
            (
                "serial16550",
                Some("p"),
                1,
                "",
                "/peripheral/p is not a probe, which is what /bus takes",
            ),
            (
                "probe",
                Some("a/b"),
                1,
                "",
                "'a/b' cannot be the name of an object: it holds '/'",
            ),
            (
                "probe",
                Some("p"),
                10,
                "",
                "'10' is not a value for property 'number' of /peripheral/p",
            ),
            (
                "probe",
                Some("p"),
                1,
                "/peripheral/p pre_plug",
                "/peripheral/p: /peripheral/p pre_plug fails",
            ),
            (
                "probe",
                Some("p"),
                1,
                "/peripheral/p realize",
                "/peripheral/p: /peripheral/p realize fails",
            ),
            (
                "probe",
                Some("p"),
                1,
                "/peripheral/p plug",
                "/peripheral/p: /peripheral/p plug fails",
            ),
        ] {
            machine.fail(fails);
            let error = add(&machine, type_name, id, number).expect_err("refused");
            assert!(error.starts_with(message), "{error}");
            assert!(
                machine.at("/peripheral").children().is_empty() && on_bus(&machine) == 0,
                "{message}"
            );
        }
        machine.fail("");
        add(&machine, "probe", Some("p"), 1).expect("nothing of the others is in its way");
        let taken = add(&machine, "probe", Some("p"), 1).expect_err("taken");
        assert_eq!(taken, "/peripheral already has a child 'p'; choose another name");
    }

    #[test]
    fn a_device_without_state_or_id_is_numbered() {
        let machine = machine("probe-root");
        for number in 0..2 {
            let device = add(&machine, "probe", None, number).expect("it fits");
            assert_eq!(device.path(), format!("/peripheral-anon/device[{number}]"));
        }
    }

    #[test]
    fn a_guest_that_is_asked_keeps_the_device_until_it_lets_go() {
        let machine = machine("probe-asking-root");
        let device = add(&machine, "probe", Some("p"), 1).expect("it fits");
        heard(&machine.root);
        assert_eq!(unplug_device(&device).expect("the guest is asked"), Unplugged::Asked);
        assert_eq!(heard(&machine.root), ["/peripheral/p unplug_request"]);
        assert_eq!(device.property("realized"), Ok(PropertyValue::Bool(true)));
        finish_unplug(&device).expect("the guest has let go");
        assert_eq!(
            heard(&machine.root),
            ["/peripheral/p unplug", "/peripheral/p unrealize"]
        );
        assert!(machine.at("/peripheral").children().is_empty());
    }

    #[test]
    fn a_device_stays_where_the_handler_refuses_or_it_is_there_for_good() {
        let machine = machine("probe-root");
        let device = add(&machine, "probe", Some("p"), 1).expect("it fits");
        machine.fail("/peripheral/p unplug");
        assert_eq!(
            unplug_device(&device).map_err(|error| error.to_string()),
            Err("/peripheral/p cannot be unplugged: /peripheral/p unplug fails".to_owned())
        );
        assert_eq!(device.property("realized"), Ok(PropertyValue::Bool(true)));
        let fixed = machine.root.types().new_object("i8042").expect("concrete");
        let error = unplug_device(&fixed).expect_err("for good").to_string();
        assert_eq!(error, "/ cannot be unplugged: a i8042 is there for good");
    }
}
