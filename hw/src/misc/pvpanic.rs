//! pvpanic: a port by which a guest's kernel reports that it has crashed, or shut down
//! (QEMU, `docs/specs/pvpanic.rst`).

use std::sync::Arc;

use vmstate::qom::{Class, Config, Obj, Object};

use crate::core::{DeviceClass, DeviceImpl, DeviceRegion, MachineEvents, Mapping, RealizeCtx, RealizeError, Realized};
use crate::memory::{AccessRules, IoContext, MemoryRegion, RegionOps};

/// The guest has crashed and does not go on.
const PANICKED: u8 = 1 << 0;
/// The guest has crashed and goes on with a kernel that saves a dump.
const CRASH_LOADED: u8 = 1 << 1;
/// The guest has shut down in good order and wants to be switched off: a way that needs no ACPI.
const SHUTDOWN: u8 = 1 << 2;
/// All of them.
const EVENTS: u8 = PANICKED | CRASH_LOADED | SHUTDOWN;

/// The pvpanic port: a read tells which events can be reported, a write reports them.
#[derive(Object)]
#[object(name = "pvpanic", parent = "device", stateless, class_init = class_init)]
pub struct PvPanic {
    #[config(property, default = 0x505, description = "its I/O port")]
    ioport: Config<u16>,
    #[config(
        property,
        default = EVENTS,
        max = EVENTS,
        description = "events that can be reported: 1 panicked, 2 crash-loaded, 4 shutdown"
    )]
    events: Config<u8>,
    #[runtime(reason = "the host's side, made by realize")]
    wires: Realized<Wires>,
}

/// What realize makes.
pub struct Wires {
    events: Arc<dyn MachineEvents>,
    _port: Mapping,
}

fn class_init(class: &mut Class) {
    DeviceClass::implement::<PvPanic>(class);
}

impl RegionOps for PvPanic {
    fn read(&self, _cx: &mut IoContext, _offset: u64, _size: u8) -> u64 {
        u64::from(self.events.get())
    }

    fn write(&self, _cx: &mut IoContext, _offset: u64, _size: u8, value: u64) {
        let [value, ..] = value.to_le_bytes();
        let reported = value & self.events.get();
        self.wires.with(|wires| {
            if reported & PANICKED != 0 {
                wires.events.guest_panicked();
            } else if reported & CRASH_LOADED != 0 {
                wires.events.guest_crash_loaded();
            } else if reported & SHUTDOWN != 0 {
                wires.events.shutdown_requested();
            }
        });
    }
}

impl DeviceImpl for PvPanic {
    type Runtime = Wires;

    fn runtime(&self) -> &Realized<Wires> {
        &self.wires
    }

    fn realize(this: &Obj<Self>, cx: &mut RealizeCtx<'_>) -> Result<Wires, RealizeError> {
        let region = MemoryRegion::io("pvpanic", 1, DeviceRegion::ops(this.downgrade()), AccessRules::BYTES);
        Ok(Wires {
            events: cx.events(),
            _port: cx.map_ports(this.object(), this.ioport.get(), region)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::testing::{Bench, Seen};

    const PORT: u64 = 0x505;

    #[test]
    fn a_guest_finds_out_what_it_can_report() {
        let bench: Bench<PvPanic> = Bench::realized();
        assert_eq!(bench.inb(PORT), 7);
    }

    #[test]
    fn each_event_is_passed_on_and_a_panic_outweighs_a_crash_kernel() {
        let bench: Bench<PvPanic> = Bench::realized();
        for (written, seen) in [
            (1, vec![Seen::Panicked]),
            (2, vec![Seen::CrashLoaded]),
            (3, vec![Seen::Panicked]),
            (4, vec![Seen::Shutdown]),
            (7, vec![Seen::Panicked]),
        ] {
            bench.outb(PORT, written);
            assert_eq!(bench.seen.take(), seen);
        }
    }

    #[test]
    fn what_was_not_offered_is_ignored() {
        let bench: Bench<PvPanic> = Bench::new();
        let old = bench.device.object();
        old.set_property("events", PANICKED | CRASH_LOADED).expect("in range");
        bench.realize().expect("realizes");
        assert_eq!(bench.inb(PORT), 3);
        for written in [0, 4, 0xfc] {
            bench.outb(PORT, written);
        }
        assert_eq!(bench.seen.take(), []);
    }
}
