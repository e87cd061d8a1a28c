//! What a guest asks of its machine, on the way from a vCPU to whoever may act on it.

use std::sync::{Arc, OnceLock, Weak};

use hw::core::MachineEvents;
use parking_lot::Mutex;
use vmstate::qom::Object;

use super::{Runner, Vm};
use crate::accel::{VcpuEvent, VcpuEvents};
use crate::control::Event;

/// Something that the guest asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Request {
    /// To begin anew; what asked.
    Reset(String),
    /// To end with a status.
    Exit(u8),
    /// To be switched off.
    Shutdown,
    /// Nothing any more: it has crashed, as it says itself.
    Panic,
    /// Nothing any more: it cannot go on, for this reason.
    Crash(String),
}

/// The requests of one VM. The first that is not yet served stands; what a guest asks for after it does not count. Each device that
/// it lets go of does.
pub(super) struct Requests {
    runner: Arc<dyn Runner>,
    vm: OnceLock<Weak<Vm>>,
    pending: Mutex<Option<Request>>,
    released: Mutex<Vec<Weak<Object>>>,
}

impl Requests {
    pub(super) fn new(runner: Arc<dyn Runner>) -> Arc<Self> {
        Arc::new(Self {
            runner,
            vm: OnceLock::new(),
            pending: Mutex::new(None),
            released: Mutex::default(),
        })
    }

    /// From now on, requests are those of `vm`.
    pub(super) fn serve(&self, vm: &Arc<Vm>) {
        self.vm.set(Arc::downgrade(vm)).expect("requests belong to one VM");
    }

    /// The request that stands, which is then no more.
    pub(super) fn take(&self) -> Option<Request> {
        self.pending.lock().take()
    }

    /// The devices that the guest has let go of, each once, which are then nobody's to take off but the caller's.
    pub(super) fn take_released(&self) -> Vec<Arc<Object>> {
        let released = std::mem::take(&mut *self.released.lock());
        let mut devices: Vec<Arc<Object>> = Vec::new();
        for device in released.iter().filter_map(Weak::upgrade) {
            let is_there = device.parent().is_some();
            if is_there && !devices.iter().any(|known| Arc::ptr_eq(known, &device)) {
                devices.push(device);
            }
        }
        devices
    }

    fn note(&self, request: Request) {
        {
            let mut pending = self.pending.lock();
            if pending.is_some() {
                return;
            }
            *pending = Some(request);
        }
        self.wake();
    }

    /// Has what the guest asked for served soon, if there is anything.
    pub(super) fn wake(&self) {
        if self.pending.lock().is_none() && self.released.lock().is_empty() {
            return;
        }
        if let Some(vm) = self.vm.get().cloned() {
            self.runner.defer(Box::new(move || {
                if let Some(vm) = vm.upgrade() {
                    vm.serve_request();
                }
            }));
        }
    }
}

impl MachineEvents for Requests {
    fn reset_requested(&self, by: &str) {
        self.note(Request::Reset(by.to_owned()));
    }

    fn shutdown_requested(&self) {
        self.note(Request::Shutdown);
    }

    fn guest_exited(&self, status: u8) {
        self.note(Request::Exit(status));
    }

    fn guest_panicked(&self) {
        self.note(Request::Panic);
    }

    fn device_released(&self, device: &Arc<Object>) {
        self.released.lock().push(Arc::downgrade(device));
        self.wake();
    }

    fn guest_crash_loaded(&self) {
        // Nothing is to be done, and it must not stand in the way of what the guest asks for next.
        if let Some(vm) = self.vm.get().and_then(Weak::upgrade) {
            vm.status.events.publish(&Event::GuestCrashLoaded);
        }
    }
}

impl VcpuEvents for Requests {
    fn vcpu_event(&self, _: u32, event: VcpuEvent) {
        self.note(match event {
            VcpuEvent::ResetRequested { by } => Request::Reset(by.to_owned()),
            VcpuEvent::ShutdownRequested => Request::Shutdown,
            VcpuEvent::Crashed(report) => Request::Crash(report.to_string()),
        });
    }
}
