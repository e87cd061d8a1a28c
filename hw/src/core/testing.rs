//! A bare bus for tests of single devices: two address spaces, and somebody who notes what the device does.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use vmstate::qom::{Obj, Object, ObjectPart, TypeTable};

use super::{IrqSink, MachineEvents, RealizeCtx, RealizeError, realize_device};
use crate::memory::{AddressSpace, MemoryRegion, MemorySystem};

/// What a device has done to its surroundings, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Line(u32, bool),
    Reset(String),
    Exit(u8),
    Shutdown,
    Panicked,
    CrashLoaded,
    Released(String),
}

#[derive(Default)]
pub struct Surroundings {
    seen: Mutex<Vec<Seen>>,
    wall_clock: Mutex<Duration>,
}

impl Surroundings {
    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock())
    }

    /// Has the time of day be this.
    pub fn set_wall_clock(&self, now: Duration) {
        *self.wall_clock.lock() = now;
    }
}

impl IrqSink for Surroundings {
    fn set_level(&self, input: u32, level: bool) {
        self.seen.lock().push(Seen::Line(input, level));
    }
}

impl MachineEvents for Surroundings {
    fn reset_requested(&self, by: &str) {
        self.seen.lock().push(Seen::Reset(by.to_owned()));
    }

    fn shutdown_requested(&self) {
        self.seen.lock().push(Seen::Shutdown);
    }

    fn guest_exited(&self, status: u8) {
        self.seen.lock().push(Seen::Exit(status));
    }

    fn guest_panicked(&self) {
        self.seen.lock().push(Seen::Panicked);
    }

    fn guest_crash_loaded(&self) {
        self.seen.lock().push(Seen::CrashLoaded);
    }

    fn device_released(&self, device: &Arc<Object>) {
        self.seen.lock().push(Seen::Released(device.path()));
    }

    fn wall_clock(&self) -> Duration {
        *self.wall_clock.lock()
    }
}

/// A device on a bare bus.
pub struct Bench<T: ObjectPart> {
    pub device: Obj<T>,
    pub io: AddressSpace,
    pub memory: AddressSpace,
    pub seen: Arc<Surroundings>,
    _root: Arc<Object>,
}

impl<T: ObjectPart> Bench<T> {
    /// A device that is not realized.
    pub fn new() -> Self {
        let types = TypeTable::gathered().expect("the types are sound");
        let root = types.new_object("container").expect("a container");
        let device: Obj<T> = Obj::create(&types).expect("a device");
        root.add_child("device", Arc::clone(device.object()))
            .expect("a fresh tree");
        let system = MemorySystem::new();
        Self {
            device,
            io: system.address_space("io", &MemoryRegion::container("io", 1 << 16)),
            memory: system.address_space("memory", &MemoryRegion::container("memory", 1 << 32)),
            seen: Arc::default(),
            _root: root,
        }
    }

    /// A device that is realized.
    pub fn realized() -> Self {
        let bench = Self::new();
        bench.realize().expect("realizes");
        bench
    }

    pub fn realize(&self) -> Result<(), RealizeError> {
        let mut cx = RealizeCtx::new(&self.memory, &self.io, self.seen.clone(), self.seen.clone());
        realize_device(self.device.object(), &mut cx)
    }

    pub fn outb(&self, port: u64, value: u8) {
        self.io.write(port, &[value]).expect("somebody is there");
    }

    pub fn inb(&self, port: u64) -> u8 {
        let mut byte = [0];
        // A port where nobody is reads as all ones.
        let _ = self.io.read(port, &mut byte);
        byte[0]
    }
}
