//! Doorbells as KVM's ioeventfds: a guest's write signals an eventfd, and its vCPU goes on without an exit to Tern.
//!
//! KVM keeps ioeventfds on the bus of its interrupt controllers, where each one makes the next change of memory slots slow. So
//! they are registered last, when the guest first runs; until then they are only noted.

use std::io;
use std::sync::Arc;

use hw::memory::{EventFdSection, ListenerError, ListenerResult, MemoryListener};
use parking_lot::Mutex;

use super::ioctl::{self, GuestVm};

/// The doorbells of one address space: listens to it.
pub struct KvmDoorbells {
    vm: Arc<GuestVm>,
    bus: DoorbellBus,
    known: Mutex<Known>,
}

/// Where doorbells are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DoorbellBus {
    /// Guest-physical memory.
    Memory,
    /// I/O ports.
    Ports,
}

#[derive(Default)]
struct Known {
    /// KVM has been told of all that are in the list.
    armed: bool,
    list: Vec<EventFdSection>,
}

impl KvmDoorbells {
    /// Those of `bus`, of which there are none yet.
    pub fn new(vm: Arc<GuestVm>, bus: DoorbellBus) -> Self {
        Self {
            vm,
            bus,
            known: Mutex::default(),
        }
    }

    /// Tells KVM of all doorbells that there are, and of each later one at once. Does nothing the second time.
    pub fn arm(&self) -> ListenerResult {
        let mut known = self.known.lock();
        if !known.armed {
            known.list.iter().try_for_each(|doorbell| self.register(doorbell))?;
            known.armed = true;
        }
        Ok(())
    }

    fn register(&self, doorbell: &EventFdSection) -> ListenerResult {
        let registered = ioctl::add_ioeventfd(self.vm.fd(), self.bus == DoorbellBus::Ports, doorbell);
        registered.map_err(failure("have KVM signal", doorbell))
    }
}

impl MemoryListener for KvmDoorbells {
    fn eventfd_add(&self, doorbell: &EventFdSection) -> ListenerResult {
        let mut known = self.known.lock();
        known.list.push(doorbell.clone());
        if known.armed { self.register(doorbell) } else { Ok(()) }
    }

    fn eventfd_del(&self, doorbell: &EventFdSection) -> ListenerResult {
        let mut known = self.known.lock();
        let Some(at) = known.list.iter().position(|own| own.is_same(doorbell)) else {
            return Ok(());
        };
        known.list.swap_remove(at);
        if !known.armed {
            return Ok(());
        }
        let removed = ioctl::remove_ioeventfd(self.vm.fd(), self.bus == DoorbellBus::Ports, doorbell);
        removed.map_err(failure("have KVM no longer signal", doorbell))
    }
}

fn failure<'a>(what: &'a str, doorbell: &'a EventFdSection) -> impl FnOnce(io::Error) -> ListenerError + 'a {
    move |error| ListenerError {
        listener: "kvm doorbells",
        what: format!("{what} {doorbell:?}"),
        reason: error.to_string(),
    }
}
