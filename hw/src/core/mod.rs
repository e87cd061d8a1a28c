//! What every device is made of: realize and unrealize, lines, clocks, timers, buses, hot-plug, three-phase reset.
//!
//! A device's author writes a struct with three groups of fields (configuration, runtime, state), implements
//! [`DeviceImpl`] and, if the guest can reach it, [`RegionOps`](crate::memory::RegionOps), and names both in the type's
//! `class_init`. Everything else (order, unwinding, who calls what) is here.
//!
//! What does not live here: the devices themselves (`char`, `intc`, `timer`, `i386`) and the memory map (`memory`).

mod accel_types;
mod addable;
mod bus;
mod clock;
mod device;
mod doorbell;
mod gpio;
mod hotplug;
mod irq;
mod machine;
mod machine_events;
#[cfg(test)]
mod probe;
mod realize;
mod region;
mod release;
mod reset;
mod testdev;
#[cfg(test)]
pub(crate) mod testing;
mod timers;

pub use accel_types::AccelTypes;
pub use addable::{AddedBy, addable_types};
pub use bus::{Bus, BusClass, BusError, SYSTEM_BUS, SystemBus};
pub use clock::{CLOCK_INPUT, Clock};
pub use device::{
    Device, DeviceClass, DeviceImpl, DeviceInput, Realized, device_class, realize_device, unrealize_device,
};
pub use doorbell::{Doorbell, DoorbellHandler, DoorbellPlace, Doorbells, NeverQuiet};
pub use gpio::{GpioError, Gpios, SYSBUS_IRQ};
pub use hotplug::{
    DeviceName, HotplugAnswer, HotplugError, HotplugHandler, HotplugHandlerClass, NewDevice, Unplugged, add_device,
    finish_unplug, set_hotplug_handler, unplug_device,
};
pub use irq::{IrqFd, IrqLine, IrqSink};
pub use machine::{Machine, MachineClass, MachineState, MachineType, VirtualClockState};
pub use machine_events::MachineEvents;
pub use realize::{Mapping, RealizeCtx, RealizeError, Wiring};
pub use region::DeviceRegion;
pub use release::{ParseReleaseError, Release};
pub use reset::{ResetKind, assert_reset, release_reset, reset_tree};
pub use testdev::{TestDev, TestDevState, TestTimerState, register as testdev_register};
pub use timers::{Timer, TimerHandler, Timers};
