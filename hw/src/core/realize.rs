//! What a device is given to become real, and how it takes its place on the memory map.

use std::sync::Arc;

use thiserror::Error;
use vmstate::qom::{Object, PropertyError};

use super::device::Device;
use super::doorbell::Doorbells;
use super::gpio::SYSBUS_IRQ;
use super::irq::{IrqLine, IrqSink};
use super::machine_events::MachineEvents;
use super::timers::{Timer, TimerHandler, Timers};
use crate::memory::{AddressSpace, MemoryRegion};

/// Why a device could not be realized. Whatever it had already taken has been given back.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RealizeError {
    /// A required property has no value, or one that the device cannot work with.
    #[error("{device}: property {property} {problem}")]
    Property {
        /// Canonical path of the device.
        device: String,
        /// The property's name.
        property: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The device's place on the map is taken or impossible.
    #[error("{device}: cannot map {region}: {problem}")]
    Map {
        /// Canonical path of the device.
        device: String,
        /// The region's name.
        region: String,
        /// Why not.
        problem: String,
    },
    /// The type has no `realize`: it is abstract hardware, or not a device.
    #[error("{0} is not a device that can be realized")]
    NotADevice(String),
    /// The device is realized already.
    #[error("{0} is realized already")]
    Already(String),
    /// The accelerator or the host refused.
    #[error("{device}: {problem}")]
    Host {
        /// Canonical path of the device.
        device: String,
        /// What was refused, and the remedy where there is one.
        problem: String,
    },
    /// The device is to come to a machine that runs, and its type cannot.
    #[error("{0} cannot come to a machine that runs")]
    NotHotpluggable(String),
    /// The handler of the device's bus refuses it.
    #[error("{device}: {reason}")]
    Handler {
        /// Canonical path of the device.
        device: String,
        /// What the handler says.
        reason: String,
    },
    /// A property operation failed.
    #[error(transparent)]
    PropertyAccess(#[from] PropertyError),
}

/// What an accelerator and a VM offer to the devices of a machine.
#[derive(Clone)]
pub struct Wiring {
    /// The inputs of the interrupt controllers.
    pub interrupts: Arc<dyn IrqSink>,
    /// Who takes what devices ask of the machine as a whole.
    pub events: Arc<dyn MachineEvents>,
    /// The machine's doorbells.
    pub doorbells: Arc<Doorbells>,
    /// The timers of the machine's devices, and its virtual clock.
    pub timers: Arc<Timers>,
}

/// What a device may use while it becomes real: the two address spaces and the interrupt inputs of its machine.
///
/// Everything that it takes from here comes as a guard ([`Mapping`]) or a handle ([`IrqLine`]) that the device keeps in
/// its runtime part; dropping that part gives everything back.
pub struct RealizeCtx<'a> {
    memory: &'a AddressSpace,
    io: &'a AddressSpace,
    interrupts: Arc<dyn IrqSink>,
    events: Arc<dyn MachineEvents>,
    doorbells: Option<Arc<Doorbells>>,
    timers: Option<Arc<Timers>>,
    hotplug: bool,
}

impl<'a> RealizeCtx<'a> {
    /// A context over a machine's address spaces, the sink of its interrupt lines and the taker of its requests.
    #[must_use]
    pub fn new(
        memory: &'a AddressSpace,
        io: &'a AddressSpace,
        interrupts: Arc<dyn IrqSink>,
        events: Arc<dyn MachineEvents>,
    ) -> Self {
        Self {
            memory,
            io,
            interrupts,
            events,
            doorbells: None,
            timers: None,
            hotplug: false,
        }
    }

    /// Whether the next device comes to a machine that is ready.
    pub(super) fn set_hotplug(&mut self, hotplug: bool) {
        self.hotplug = hotplug;
    }

    pub(super) fn is_hotplug(&self) -> bool {
        self.hotplug
    }

    /// The same with the machine's doorbells, for devices that have some.
    #[must_use]
    pub fn with_doorbells(mut self, doorbells: &Arc<Doorbells>) -> Self {
        self.doorbells = Some(Arc::clone(doorbells));
        self
    }

    /// The machine's doorbells.
    ///
    /// # Errors
    ///
    /// [`RealizeError::Host`] where it has none.
    pub fn doorbells(&self, device: &Object) -> Result<Arc<Doorbells>, RealizeError> {
        self.doorbells.clone().ok_or_else(|| RealizeError::Host {
            device: device.path(),
            problem: "it has doorbells, and this machine cannot serve any".to_owned(),
        })
    }

    /// The same with the machine's timers, for devices that have some.
    #[must_use]
    pub fn with_timers(mut self, timers: &Arc<Timers>) -> Self {
        self.timers = Some(Arc::clone(timers));
        self
    }

    /// A timer that runs by the machine's virtual clock. It is not armed: a device that is loaded arms it by its state then,
    /// in `post_load`.
    ///
    /// # Errors
    ///
    /// [`RealizeError::Host`] where the machine has no clock, or the host no thread.
    pub fn timer(&self, device: &Object, handler: Arc<dyn TimerHandler>) -> Result<Timer, RealizeError> {
        let refused = |problem| RealizeError::Host {
            device: device.path(),
            problem,
        };
        let timers = self.timers.as_ref();
        let timers = timers.ok_or_else(|| refused("it has a timer, and this machine has no clock".to_owned()))?;
        timers.add(handler).map_err(|error| refused(error.to_string()))
    }

    /// Where the device's requests to the machine go.
    #[must_use]
    pub fn events(&self) -> Arc<dyn MachineEvents> {
        Arc::clone(&self.events)
    }

    /// Maps `region` at `port` of the I/O space for as long as the returned guard lives.
    ///
    /// # Errors
    ///
    /// [`RealizeError::Map`] if the region does not fit there.
    pub fn map_ports(&self, device: &Object, port: u16, region: MemoryRegion) -> Result<Mapping, RealizeError> {
        Mapping::new(device, self.io, u64::from(port), region)
    }

    /// Maps `region` at guest-physical `address` for as long as the returned guard lives.
    ///
    /// # Errors
    ///
    /// [`RealizeError::Map`] if the region does not fit there.
    pub fn map_memory(&self, device: &Object, address: u64, region: MemoryRegion) -> Result<Mapping, RealizeError> {
        Mapping::new(device, self.memory, address, region)
    }

    /// The device's line `sysbus-irq[0]`, connected to interrupt input `gsi` of the machine.
    #[must_use]
    pub fn irq(&self, device: &Object, gsi: u32) -> IrqLine {
        let line = IrqLine::new(Arc::clone(&self.interrupts), gsi);
        let Some(device) = device.part::<Device>() else {
            return line;
        };
        let mut outputs = device.gpios().init_outputs(SYSBUS_IRQ, 1);
        match (outputs.pop(), device.gpios().connect(SYSBUS_IRQ, 0, line.clone())) {
            (Some(output), Ok(())) => output,
            _ => line,
        }
    }
}

/// A region's place on the map; dropping it takes the region off again.
pub struct Mapping {
    space: AddressSpace,
    region: MemoryRegion,
}

impl Mapping {
    fn new(device: &Object, space: &AddressSpace, at: u64, region: MemoryRegion) -> Result<Self, RealizeError> {
        space
            .root()
            .add_subregion(at, &region)
            .map_err(|error| RealizeError::Map {
                device: device.path(),
                region: region.name().to_owned(),
                problem: error.to_string(),
            })?;
        Ok(Self {
            space: space.clone(),
            region,
        })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.space
            .root()
            .remove_subregion(&self.region)
            .expect("the region is where this guard put it");
    }
}
