//! Buses: what devices are plugged into.

use std::sync::Arc;

use parking_lot::Mutex;
use thiserror::Error;
use vmstate::qom::{Obj, Object, WeakObj};

use super::device::Device;

/// The name of the type [`SystemBus`].
pub const SYSTEM_BUS: &str = "system-bus";

/// The class data of `bus`: which devices it takes.
#[derive(Clone, Debug, Default)]
pub struct BusClass {
    /// The type that a device must be of; `None` takes any device.
    pub takes: Option<&'static str>,
}

/// Why a device cannot be plugged into a bus.
#[derive(Debug, Error)]
#[error("{device} is not a {wanted}, which is what {bus} takes")]
pub struct BusError {
    device: String,
    wanted: &'static str,
    bus: String,
}

/// The base class of all buses: an ordered list of the devices that were plugged in.
///
/// The bus does not own its devices; the composition tree does.
#[derive(Object)]
#[object(name = "bus", parent = "object", abstract, stateless, class_data = BusClass)]
pub struct Bus {
    #[runtime(reason = "each device enters itself when it is plugged in")]
    devices: Mutex<Vec<WeakObj<Device>>>,
}

impl Bus {
    /// Plugs `device` in, after those that are there.
    ///
    /// # Errors
    ///
    /// [`BusError`] if the bus takes another kind of device.
    pub fn plug(this: &Obj<Self>, device: &Obj<Device>) -> Result<(), BusError> {
        let class = this.object().class().data::<BusClass>();
        if let Some(wanted) = class.and_then(|class| class.takes)
            && !device.object().is_a(wanted)
        {
            return Err(BusError {
                device: device.object().path(),
                wanted,
                bus: this.object().path(),
            });
        }
        device.set_parent_bus(this);
        this.devices.lock().push(device.downgrade());
        Ok(())
    }

    /// Takes `device` off the bus; nothing happens if it is not on it.
    pub fn remove(&self, device: &Obj<Device>) {
        let is_it = |one: &WeakObj<Device>| {
            one.upgrade()
                .is_some_and(|one| Arc::ptr_eq(one.object(), device.object()))
        };
        self.devices.lock().retain(|one| !is_it(one));
    }

    /// The devices on the bus that still exist, in the order of their plugging.
    #[must_use]
    pub fn devices(&self) -> Vec<Obj<Device>> {
        self.devices.lock().iter().filter_map(WeakObj::upgrade).collect()
    }
}

/// The bus of the devices that are simply there: at fixed ports, addresses and interrupt inputs.
#[derive(Object)]
#[object(name = "system-bus", parent = "bus", stateless)]
pub struct SystemBus {}
