//! What every device is made of: realize and unrealize, interrupt lines, buses, three-phase reset.
//!
//! A device's author writes a struct with three groups of fields (configuration, runtime, state), implements
//! [`DeviceImpl`] and, if the guest can reach it, [`RegionOps`](crate::memory::RegionOps), and names both in the type's
//! `class_init`. Everything else (order, unwinding, who calls what) is here.
//!
//! What does not live here: the devices themselves (`char`, `intc`, `timer`, `i386`) and the memory map (`memory`).

mod accel_types;
mod bus;
mod device;
mod doorbell;
mod irq;
mod machine;
mod machine_events;
mod realize;
mod region;
mod reset;
mod testdev;
#[cfg(test)]
pub(crate) mod testing;

pub use accel_types::AccelTypes;
pub use bus::{Bus, BusClass, BusError, SYSTEM_BUS, SystemBus};
pub use device::{Device, DeviceClass, DeviceImpl, Realized, device_class, realize_device, unrealize_device};
pub use doorbell::{Doorbell, DoorbellHandler, DoorbellPlace, Doorbells, NeverQuiet};
pub use irq::{IrqFd, IrqLine, IrqSink};
pub use machine::{Machine, MachineClass, MachineType};
pub use machine_events::MachineEvents;
pub use realize::{Mapping, RealizeCtx, RealizeError};
pub use region::DeviceRegion;
pub use reset::{ResetKind, reset_tree};
pub use testdev::{TestDev, TestDevState, register as testdev_register};
