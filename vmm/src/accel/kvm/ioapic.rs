//! The I/O APIC: KVM's structure and the described one.

use hw::intc::ioapic::{BASE_ADDRESS, IoapicState, PINS};
use kvm_bindings::kvm_ioapic_state;
use vmstate::qom::Object;

use super::super::AccelError;
use super::state::{HeldState, SyncContext};
use super::{ioctl, refused};

/// The I/O APIC under KVM.
#[derive(Object)]
#[object(name = "kvm-ioapic", parent = hw::intc::ioapic::Ioapic, stateless)]
pub struct KvmIoapic {}

pub(super) fn read(cx: &SyncContext<'_>, state: &mut HeldState) -> Result<(), AccelError> {
    let (ioapic, redirection) =
        ioctl::get_ioapic(cx.vm.fd()).map_err(|error| refused("to tell the I/O APIC's registers", error))?;
    state.ioapic = IoapicState {
        id: ioapic.id,
        register_select: ioapic.ioregsel,
        requested: ioapic.irr,
        redirection,
    };
    Ok(())
}

pub(super) fn write(cx: &SyncContext<'_>, state: &HeldState) -> Result<(), AccelError> {
    let (ioapic, redirection) = state_to(&state.ioapic);
    ioctl::set_ioapic(cx.vm.fd(), ioapic, redirection).map_err(|error| refused("the I/O APIC's registers", error))
}

/// KVM's structure, and the redirection table that goes into it.
pub(super) fn state_to(state: &IoapicState) -> (kvm_ioapic_state, &[u64; PINS]) {
    let IoapicState {
        id,
        register_select,
        requested,
        redirection,
    } = state;
    let ioapic = kvm_ioapic_state {
        base_address: BASE_ADDRESS,
        ioregsel: *register_select,
        id: *id,
        irr: *requested,
        ..Default::default()
    };
    (ioapic, redirection)
}
