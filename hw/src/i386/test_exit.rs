//! A port by which a test guest ends its machine with a status.

use std::sync::Arc;

use vmstate::qom::{Class, Config, Obj, Object};

use crate::core::{DeviceClass, DeviceImpl, DeviceRegion, MachineEvents, Mapping, RealizeCtx, RealizeError, Realized};
use crate::memory::{AccessRules, IoContext, MemoryRegion, RegionOps};

/// The test-exit port: a byte that is written here ends the guest, and is the exit status of `vm run`.
///
/// Unlike QEMU's isa-debug-exit it does not shift the value, so that a guest can end with 0.
#[derive(Object)]
#[object(name = "test-exit", parent = "device", stateless, class_init = class_init)]
pub struct TestExit {
    #[config(property, default = 0xf4, description = "its I/O port")]
    iobase: Config<u16>,
    #[runtime(reason = "the host's side, made by realize")]
    wires: Realized<Wires>,
}

/// What realize makes.
pub struct Wires {
    events: Arc<dyn MachineEvents>,
    _port: Mapping,
}

fn class_init(class: &mut Class) {
    DeviceClass::implement::<TestExit>(class);
}

impl RegionOps for TestExit {
    fn read(&self, _cx: &mut IoContext, _offset: u64, _size: u8) -> u64 {
        0
    }

    fn write(&self, _cx: &mut IoContext, _offset: u64, _size: u8, value: u64) {
        let [status, ..] = value.to_le_bytes();
        self.wires.with(|wires| wires.events.guest_exited(status));
    }
}

impl DeviceImpl for TestExit {
    type Runtime = Wires;

    fn runtime(&self) -> &Realized<Wires> {
        &self.wires
    }

    fn realize(this: &Obj<Self>, cx: &mut RealizeCtx<'_>) -> Result<Wires, RealizeError> {
        let region = MemoryRegion::io("test-exit", 1, DeviceRegion::ops(this.downgrade()), AccessRules::BYTES);
        Ok(Wires {
            events: cx.events(),
            _port: cx.map_ports(this.object(), this.iobase.get(), region)?,
        })
    }
}
