//! The class `device`: configured by properties, realized once, reset in three phases.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;
use vmstate::qom::{Class, Obj, Object, ObjectPart};

use super::realize::{RealizeCtx, RealizeError};
use super::reset::ResetKind;

/// The base class of all devices.
#[derive(Object)]
#[object(name = "device", parent = "object", abstract, stateless, class_data = DeviceClass)]
pub struct Device {
    #[runtime]
    realized: AtomicBool,
}

impl Device {
    /// Whether the device is on the machine: mapped, wired, reachable by the guest.
    #[must_use]
    pub fn is_realized(&self) -> bool {
        self.realized.load(Ordering::Acquire)
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
}

type RealizeFn = fn(&Arc<Object>, &mut RealizeCtx<'_>) -> Result<(), RealizeError>;

/// The class data of `device`: its virtual methods.
#[derive(Clone, Default)]
pub struct DeviceClass {
    realize: Option<RealizeFn>,
    unrealize: Option<fn(&Arc<Object>)>,
    reset: Option<fn(&Arc<Object>, ResetPhase, ResetKind)>,
    drive_lines: Option<fn(&Arc<Object>)>,
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

/// Realizes `object`: freezes its configuration, makes its runtime part, marks it realized.
///
/// # Errors
///
/// What the device says, or that it is none; the object is then as it was before, its configuration open again.
pub fn realize_device(object: &Arc<Object>, cx: &mut RealizeCtx<'_>) -> Result<(), RealizeError> {
    let class = device_class(object).ok_or_else(|| RealizeError::NotADevice(object.path()))?;
    let device = object
        .part::<Device>()
        .ok_or_else(|| RealizeError::NotADevice(object.path()))?;
    if device.is_realized() {
        return Err(RealizeError::Already(object.path()));
    }
    object.freeze();
    if let Some(realize) = class.realize
        && let Err(error) = realize(object, cx)
    {
        object.thaw();
        return Err(error);
    }
    device.realized.store(true, Ordering::Release);
    Ok(())
}

/// Takes a realized `object` off the machine; its configuration may be changed again. Does nothing if it is not realized.
pub fn unrealize_device(object: &Arc<Object>) {
    let Some(device) = object.part::<Device>() else { return };
    if !device.realized.swap(false, Ordering::AcqRel) {
        return;
    }
    if let Some(unrealize) = device_class(object).and_then(|class| class.unrealize) {
        unrealize(object);
    }
    object.thaw();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::testing::{Bench, Seen};
    use crate::core::{ResetKind, reset_tree};
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
