//! The class `device`: configured by properties, realized once, reset in three phases.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use vmstate::qom::{Class, Obj, Object, ObjectPart, Property, PropertyKind, PropertyValue, WeakObj};

use super::bus::Bus;
use super::gpio::Gpios;
use super::hotplug::ask_handler;
use super::realize::{RealizeCtx, RealizeError};
use super::reset::{ResetKind, reset_tree};
use crate::char::CharFrontend;

/// The base class of all devices.
#[derive(Object)]
#[object(
    name = "device", parent = "object", abstract, stateless, class_data = DeviceClass, properties = properties
)]
pub struct Device {
    #[runtime(reason = "set by realize")]
    realized: AtomicBool,
    #[runtime(reason = "how the device came, which is told to handlers only")]
    hotplugged: AtomicBool,
    /// How many hold it in reset.
    #[runtime(reason = "a machine that is being reset is not saved")]
    resets: AtomicU32,
    /// The bus that it is plugged into.
    #[runtime(reason = "set where the device is plugged in")]
    bus: Mutex<WeakObj<Bus>>,
    #[runtime(reason = "the lines are made by realize, and driven by the devices from their states")]
    gpios: Gpios,
}

fn properties() -> Vec<Property> {
    fn shown(
        name: &'static str,
        description: &'static str,
        kind: PropertyKind,
        value: fn(&Device) -> PropertyValue,
    ) -> Property {
        Property::read_only(name, description, kind, move |object| {
            object.part().map_or(PropertyValue::Null, value)
        })
    }
    let lines = || PropertyKind::List(Box::new(PropertyKind::Str));
    vec![
        shown("gpio-in", "the lines that it listens to", lines(), |device| {
            device.gpios.describe_inputs()
        }),
        shown(
            "gpio-out",
            "the lines that it drives, and where they lead",
            lines(),
            |device| device.gpios.describe_outputs(),
        ),
        shown(
            "hotplugged",
            "it came while the machine ran",
            PropertyKind::Bool,
            |device| PropertyValue::Bool(device.is_hotplugged()),
        ),
        Property::read_only_link("parent-bus", "the bus that it is plugged into", Bus::TYPE, |object| {
            let bus = object.part::<Device>().and_then(Device::parent_bus)?;
            Some(Arc::clone(bus.object()))
        }),
        shown("realized", "it is on the machine", PropertyKind::Bool, |device| {
            PropertyValue::Bool(device.is_realized())
        }),
    ]
}

impl Device {
    /// Whether the device is on the machine: mapped, wired, reachable by the guest.
    #[must_use]
    pub fn is_realized(&self) -> bool {
        self.realized.load(Ordering::Acquire)
    }

    /// Whether it came while the machine ran.
    #[must_use]
    pub fn is_hotplugged(&self) -> bool {
        self.hotplugged.load(Ordering::Relaxed)
    }

    /// Whether somebody holds it in reset.
    #[must_use]
    pub fn is_in_reset(&self) -> bool {
        self.resets.load(Ordering::Relaxed) != 0
    }

    /// The bus that it is plugged into.
    #[must_use]
    pub fn parent_bus(&self) -> Option<Obj<Bus>> {
        self.bus.lock().upgrade()
    }

    /// Its lines.
    #[must_use]
    pub fn gpios(&self) -> &Gpios {
        &self.gpios
    }

    pub(super) fn set_parent_bus(&self, bus: &Obj<Bus>) {
        *self.bus.lock() = bus.downgrade();
    }

    /// Whether it enters reset with this.
    pub(super) fn assert_reset(&self) -> bool {
        self.resets.fetch_add(1, Ordering::Relaxed) == 0
    }

    /// Whether it leaves reset with this.
    pub(super) fn release_reset(&self) -> bool {
        let release = |resets: u32| resets.checked_sub(1);
        self.resets.fetch_update(Ordering::Relaxed, Ordering::Relaxed, release) == Ok(1)
    }
}

/// What [`Realized`] holds between realize and unrealize: a device's mappings, lines and handles.
///
/// Read on every access of the guest, so without a lock.
pub struct Realized<R>(ArcSwapOption<R>);

impl<R> Default for Realized<R> {
    fn default() -> Self {
        Self(ArcSwapOption::empty())
    }
}

impl<R> Realized<R> {
    /// The runtime part, or `None` while the device is not realized.
    #[must_use]
    pub fn get(&self) -> Option<Arc<R>> {
        self.0.load_full()
    }

    /// Calls `f` with the runtime part, if there is one.
    pub fn with<T>(&self, f: impl FnOnce(&R) -> T) -> Option<T> {
        self.0.load().as_deref().map(f)
    }
}

/// What a device's author writes.
///
/// All of it runs on the thread that builds or resets the machine, never on a vCPU's, and with no lock held.
pub trait DeviceImpl: ObjectPart + Sized {
    /// What realize makes and unrealize drops: never saved, and gone without trace when dropped.
    type Runtime: Send + Sync + 'static;

    /// The field that holds the runtime part.
    fn runtime(&self) -> &Realized<Self::Runtime>;

    /// Makes the runtime part from the configuration, which is frozen from now on.
    ///
    /// # Errors
    ///
    /// Whatever stands in the way. What was made so far is dropped, and the device may be realized again.
    fn realize(this: &Obj<Self>, cx: &mut RealizeCtx<'_>) -> Result<Self::Runtime, RealizeError>;

    /// First phase of a reset: forget local state, touch nothing outside of the device.
    fn reset_enter(&self, _kind: ResetKind) {}

    /// Second phase: all devices have entered reset, lines may be driven to their reset level.
    fn reset_hold(&self, _kind: ResetKind) {}

    /// Third phase: all devices hold, work may start again.
    fn reset_exit(&self, _kind: ResetKind) {}

    /// Drives the device's lines to the levels that its state says, after a load.
    fn drive_lines(&self) {}

    /// The ways by which the world outside of the machine reaches the device. What is missing here, no test of the
    /// state-compatibility suite does to it.
    fn inputs(_this: &Obj<Self>) -> Vec<DeviceInput> {
        Vec::new()
    }
}

/// A way by which the world outside of the machine reaches a device, for who drives devices without knowing them.
#[derive(Clone)]
pub enum DeviceInput {
    /// Bytes from a character back end.
    Characters(Arc<dyn CharFrontend>),
    /// Something that happens once: the press of a button.
    Event(Arc<dyn Fn() + Send + Sync>),
}

type RealizeFn = fn(&Arc<Object>, &mut RealizeCtx<'_>) -> Result<(), RealizeError>;

type InputsFn = fn(&Arc<Object>) -> Vec<DeviceInput>;

/// The class data of `device`: its virtual methods.
#[derive(Clone, Default)]
pub struct DeviceClass {
    realize: Option<RealizeFn>,
    unrealize: Option<fn(&Arc<Object>)>,
    reset: Option<fn(&Arc<Object>, ResetPhase, ResetKind)>,
    drive_lines: Option<fn(&Arc<Object>)>,
    inputs: Option<InputsFn>,
    hotpluggable: bool,
    kept_by_reset: &'static [&'static str],
}

/// The three phases, as one virtual method sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResetPhase {
    Enter,
    Hold,
    Exit,
}

impl DeviceClass {
    /// Fills the virtual methods from `T`. Called from the class_init of the type that `T` is the part of.
    ///
    /// # Panics
    ///
    /// If the class is no device: a mistake of the type's author that the first test of the type table finds.
    pub fn implement<T: DeviceImpl>(class: &mut Class) {
        let data = class
            .data_mut::<Self>()
            .expect("a class that implements DeviceImpl descends from `device`");
        data.realize = Some(|object, cx| {
            let this = part_of::<T>(object);
            let runtime = T::realize(&this, cx)?;
            this.runtime().0.store(Some(Arc::new(runtime)));
            Ok(())
        });
        data.unrealize = Some(|object| part_of::<T>(object).runtime().0.store(None));
        data.reset = Some(|object, phase, kind| {
            let this = part_of::<T>(object);
            match phase {
                ResetPhase::Enter => this.reset_enter(kind),
                ResetPhase::Hold => this.reset_hold(kind),
                ResetPhase::Exit => this.reset_exit(kind),
            }
        });
        data.drive_lines = Some(|object| part_of::<T>(object).drive_lines());
        data.inputs = Some(|object| T::inputs(&part_of::<T>(object)));
    }

    /// Lets devices of the class come and go while the machine runs. Called from a class_init.
    ///
    /// # Panics
    ///
    /// If the class is no device.
    pub fn set_hotpluggable(class: &mut Class) {
        let data = class
            .data_mut::<Self>()
            .expect("a class that comes and goes descends from `device`");
        data.hotpluggable = true;
    }

    /// Whether devices of the class can come and go while the machine runs.
    #[must_use]
    pub fn is_hotpluggable(&self) -> bool {
        self.hotpluggable
    }

    /// Says which fields of the state a reset leaves as they are, or changes only in part, because the hardware keeps
    /// them: on a battery, say. By the paths that the description gives them, as `msrs.pat`. All others are after a
    /// reset what they are in a new device. Called from a class_init.
    ///
    /// # Panics
    ///
    /// If the class is no device.
    pub fn set_kept_by_reset(class: &mut Class, fields: &'static [&'static str]) {
        let data = class
            .data_mut::<Self>()
            .expect("a class that can be reset descends from `device`");
        data.kept_by_reset = fields;
    }

    /// The fields that a reset does not put back to what they are in a new device.
    #[must_use]
    pub fn kept_by_reset(&self) -> &'static [&'static str] {
        self.kept_by_reset
    }

    /// Whether devices of the class can be reset by themselves. What an accelerator holds it resets.
    #[must_use]
    pub fn has_reset(&self) -> bool {
        self.reset.is_some()
    }

    /// The ways by which the world outside of the machine reaches `object`; see [`DeviceImpl::inputs`].
    #[must_use]
    pub fn inputs(&self, object: &Arc<Object>) -> Vec<DeviceInput> {
        self.inputs.map_or_else(Vec::new, |inputs| inputs(object))
    }

    pub(super) fn reset(&self, object: &Arc<Object>, phase: ResetPhase, kind: ResetKind) {
        if let Some(reset) = self.reset {
            reset(object, phase, kind);
        }
    }

    /// Drives the lines of `object` to the levels that its state says; see [`DeviceImpl::drive_lines`].
    pub fn drive_lines(&self, object: &Arc<Object>) {
        if let Some(drive) = self.drive_lines {
            drive(object);
        }
    }
}

fn part_of<T: ObjectPart>(object: &Arc<Object>) -> Obj<T> {
    Obj::new(Arc::clone(object)).expect("a class's methods are called with its own instances")
}

/// The device class of `object`, or `None` if it is no device.
#[must_use]
pub fn device_class(object: &Object) -> Option<&DeviceClass> {
    object.class().data::<DeviceClass>()
}

/// Realizes `object`: freezes its configuration, asks the handler of its bus, makes its runtime part, realizes what is
/// plugged into its own buses, resets it if the machine runs, and makes it known to the handler.
///
/// # Errors
///
/// What stands in the way at any of these steps; the object is then as it was before, its configuration open again.
pub fn realize_device(object: &Arc<Object>, cx: &mut RealizeCtx<'_>) -> Result<(), RealizeError> {
    let class = device_class(object).ok_or_else(|| RealizeError::NotADevice(object.path()))?;
    let device = object
        .part::<Device>()
        .ok_or_else(|| RealizeError::NotADevice(object.path()))?;
    if device.is_realized() {
        return Err(RealizeError::Already(object.path()));
    }
    if cx.is_hotplug() && !class.hotpluggable {
        return Err(RealizeError::NotHotpluggable(object.path()));
    }
    device.hotplugged.store(cx.is_hotplug(), Ordering::Relaxed);
    object.freeze();
    let refused = |reason| RealizeError::Handler {
        device: object.path(),
        reason,
    };
    let realized = ask_handler(object, |class| class.pre_plug)
        .map_err(refused)
        .and_then(|()| class.realize.map_or(Ok(()), |realize| realize(object, cx)))
        .and_then(|()| realize_children(object, cx))
        .and_then(|()| {
            if cx.is_hotplug() {
                reset_tree(object, ResetKind::Cold);
            }
            ask_handler(object, |class| class.plug).map_err(refused)
        });
    if let Err(error) = realized {
        take_down(object);
        return Err(error);
    }
    device.realized.store(true, Ordering::Release);
    Ok(())
}

/// Realizes what is plugged into the buses of `object`, in the order of plugging.
fn realize_children(object: &Arc<Object>, cx: &mut RealizeCtx<'_>) -> Result<(), RealizeError> {
    plugged_below(object)
        .iter()
        .try_for_each(|device| realize_device(device, cx))
}

/// The devices on the buses that `object` has, by bus and in the order of plugging.
fn plugged_below(object: &Object) -> Vec<Arc<Object>> {
    let buses = object.children().into_iter().filter_map(Obj::<Bus>::new);
    buses
        .flat_map(|bus| bus.devices())
        .map(|device| Arc::clone(device.object()))
        .collect()
}

/// Undoes whatever realize has done to `object`, the last first.
fn take_down(object: &Arc<Object>) {
    for device in plugged_below(object).iter().rev() {
        if device.part::<Device>().is_some_and(Device::is_realized) {
            // It goes with the device that it is on, whether that suits who watches over its bus or not.
            let _ = ask_handler(device, |class| class.unplug);
            unrealize_device(device);
        }
    }
    if let Some(unrealize) = device_class(object).and_then(|class| class.unrealize) {
        unrealize(object);
    }
    if let Some(device) = object.part::<Device>() {
        device.gpios.lower_outputs();
    }
    object.thaw();
}

/// Takes a realized `object` off the machine, and what is plugged into its buses before it; its configuration may be
/// changed again. Does nothing if it is not realized.
pub fn unrealize_device(object: &Arc<Object>) {
    let Some(device) = object.part::<Device>() else { return };
    if device.realized.swap(false, Ordering::AcqRel) {
        take_down(object);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::probe::{heard, machine};
    use crate::core::testing::{Bench, Seen};
    use crate::i386::i8042::I8042;
    use crate::i386::test_exit::TestExit;
    use vmstate::qom::PropertyValue;

    #[test]
    fn configuration_is_closed_by_realize_and_open_again_after_unrealize() {
        let bench: Bench<TestExit> = Bench::realized();
        let object = bench.device.object();
        assert!(object.set_property("iobase", PropertyValue::Uint(0x500)).is_err());
        unrealize_device(object);
        object.set_property("iobase", PropertyValue::Uint(0x500)).expect("open");
        bench.realize().expect("realizes again");
        bench.outb(0x500, 7);
        assert_eq!(bench.seen.take(), [Seen::Exit(7)]);
    }

    #[test]
    fn an_unrealized_device_is_off_the_map() {
        let bench: Bench<TestExit> = Bench::realized();
        unrealize_device(bench.device.object());
        assert_eq!(bench.inb(0xf4), 0xff);
    }

    #[test]
    fn a_failed_realize_leaves_nothing_behind() {
        let bench: Bench<I8042> = Bench::new();
        // The second of its two ports would lie beyond the last one.
        bench
            .device
            .object()
            .set_property("iobase", PropertyValue::Uint(0xfffe))
            .expect("a port");
        let error = bench.realize().expect_err("there is no room");
        assert!(error.to_string().contains("/device"), "{error}");
        assert_eq!(bench.inb(0xfffe), 0xff);
        bench
            .device
            .object()
            .set_property("iobase", PropertyValue::Uint(0x60))
            .expect("open again");
        bench.realize().expect("realizes");
    }

    #[test]
    fn a_device_is_realized_once() {
        let bench: Bench<TestExit> = Bench::realized();
        assert!(matches!(bench.realize(), Err(RealizeError::Already(path)) if path == "/device"));
    }

    /// A device on a watched bus that has a bus of its own with two devices, and all that its realize does.
    const NESTED: [&str; 5] = ["bus", "bus/a", "bus/a/bus", "bus/a/bus/x", "bus/a/bus/y"];
    const STEPS: [&str; 14] = [
        "/bus/a pre_plug",
        "/bus/a realize",
        "/bus/a/bus/x pre_plug",
        "/bus/a/bus/x realize",
        "/bus/a/bus/x plug",
        "/bus/a/bus/y pre_plug",
        "/bus/a/bus/y realize",
        "/bus/a/bus/y plug",
        "/bus/a plug",
        "/bus/a/bus/y unplug",
        "/bus/a/bus/y unrealize",
        "/bus/a/bus/x unplug",
        "/bus/a/bus/x unrealize",
        "/bus/a unrealize",
    ];

    #[test]
    fn a_device_is_realized_before_what_is_on_its_buses_and_unrealized_after_it() {
        let machine = machine(&NESTED);
        let device = machine.at("/bus/a");
        realize_device(&device, &mut machine.cx()).expect("nothing fails");
        assert_eq!(heard(&machine.root), STEPS[..9]);
        assert_eq!(
            machine.at("/bus/a/bus/y").property("realized"),
            Ok(PropertyValue::Bool(true))
        );
        assert_eq!(
            device.property("parent-bus"),
            Ok(PropertyValue::Link(Some("/bus".to_owned())))
        );
        unrealize_device(&device);
        assert_eq!(heard(&machine.root), STEPS[9..]);
    }

    #[test]
    fn a_failure_at_any_step_of_realize_undoes_exactly_the_steps_before_it() {
        for step in &STEPS[..9] {
            let machine = machine(&NESTED);
            let device = machine.at("/bus/a");
            machine.fail(step);
            let error = realize_device(&device, &mut machine.cx())
                .expect_err("it fails")
                .to_string();
            assert!(error.ends_with(&format!("{step} fails")), "{error}");
            let (undone, done): (Vec<_>, Vec<_>) = heard(&machine.root)
                .into_iter()
                .partition(|what| what.ends_with("unrealize") || what.ends_with("unplug"));
            let undo = |what: &String| match what.rsplit_once(' ')? {
                (path, "realize") => Some(format!("{path} unrealize")),
                // What fails has not been done.
                (path, "plug") if what != step => Some(format!("{path} unplug")),
                _ => None,
            };
            let to_undo: Vec<_> = done.iter().rev().filter_map(undo).collect();
            assert_eq!(undone, to_undo, "{step}");
            for path in ["/bus/a", "/bus/a/bus/x", "/bus/a/bus/y"] {
                let part = machine.at(path);
                assert_eq!(
                    part.property("realized"),
                    Ok(PropertyValue::Bool(false)),
                    "{step}: {path}"
                );
                part.set_property("number", 1).expect("its configuration is open again");
            }
            machine.fail("");
            realize_device(&device, &mut machine.cx()).expect("it can be realized now");
            assert_eq!(heard(&machine.root), STEPS[..9]);
        }
    }

    #[test]
    fn reset_reaches_every_device_below_the_root() {
        let bench: Bench<I8042> = Bench::realized();
        bench.outb(0x64, 0x60);
        bench.outb(0x60, 0x33);
        reset_tree(&bench.device.object().root().expect("in a tree"), ResetKind::Cold);
        bench.outb(0x64, 0x20);
        assert_ne!(bench.inb(0x60), 0x33);
    }
}
