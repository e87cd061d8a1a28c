//! KVM: guests run by the processor's own virtualisation, interrupt controllers and timers held by the kernel.
//!
//! ```text
//!   Accelerator calls --> KvmVm --+-- KvmSystem   /dev/kvm, what the host supports
//!                                 +-- KvmMemory   its slots and dirty logs; a MemoryListener
//!                                 +-- KvmDoorbells  its ioeventfds; a MemoryListener too
//!                                 +-- Lines       inputs of its interrupt controllers, irqfds among them
//!                                 +-- Vcpu        a thread in KVM_RUN each; exits go to the address spaces or to events
//!                                 +-- state       the order in which everything is read and written
//! ```
//!
//! What each kind of object holds is moved by the file of its name: [`cpu`], `msr`, [`apic`], [`ioapic`], [`i8259`],
//! [`i8254`], [`clock`]. Unsafe code is in `ioctl` alone.

use std::io;
use std::sync::{Arc, OnceLock};

use hw::core::AccelTypes;
use vmstate::qom::{Obj, Object, TypeTable};

use super::{AccelError, CreatedAccel, VcpuEvents};

pub mod apic;
pub mod clock;
mod compare;
pub mod cpu;
mod cpu_events;
#[cfg(test)]
mod doorbell_tests;
mod doorbells;
mod exit;
pub mod exits;
pub mod i8254;
pub mod i8259;
pub mod ioapic;
mod ioctl;
mod lines;
mod listener;
mod msr;
mod state;
mod structures;
mod system;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod vcpu;
mod vm;

pub use compare::{TOLERATED, Tolerated};
pub use exit::{CrashCause, CrashReport};
pub use state::{ORDER, SyncRow};
pub use structures::{Structure, StructuresError, structures};
pub use vm::KvmVm;

/// The subclasses under KVM.
pub const TYPES: AccelTypes = AccelTypes {
    cpu: "kvm-x86-cpu",
    apic: "kvm-apic",
    ioapic: "kvm-ioapic",
    i8259: "kvm-i8259",
    i8254: "kvm-i8254",
    clock: "kvm-guest-clock",
};

/// The accelerator as users see it in the tree, at `/machine/accel`.
#[derive(Object)]
#[object(name = "kvm-accel", parent = super::AccelObject, stateless)]
pub struct KvmAccel {
    #[runtime(reason = "the accelerator of this host")]
    vm: OnceLock<Arc<KvmVm>>,
}

impl KvmAccel {
    /// The VM behind the object.
    #[must_use]
    pub fn vm(&self) -> Option<&Arc<KvmVm>> {
        self.vm.get()
    }
}

/// Makes a VM under KVM.
pub(super) fn create(types: &Arc<TypeTable>, events: Arc<dyn VcpuEvents>) -> Result<CreatedAccel, AccelError> {
    let accel: Obj<KvmAccel> = Obj::create(types)?;
    let vm = Arc::new(KvmVm::new(events)?);
    let vm = accel.vm.get_or_init(|| vm);
    Ok(CreatedAccel {
        object: Arc::clone(accel.object()),
        accelerator: Arc::clone(vm) as _,
    })
}

/// An error of KVM's while `what` was being asked for.
fn refused(what: impl Into<String>, error: impl Into<io::Error>) -> AccelError {
    AccelError::Refused {
        what: what.into(),
        source: error.into(),
    }
}
