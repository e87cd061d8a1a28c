//! The model-specific registers of a vCPU, read and written as the model's table says.

use hw::i386::msr::{MsrRow, MsrState};
use hw::i386::msr_account;
use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress};

use super::super::AccelError;
use super::cpu::refused;
use super::exit::Bus;
use super::state::{HeldState, KvmCpu, SyncContext};

/// The register through which a guest asks for the wall-clock time of its start.
const KVM_WALL_CLOCK: u32 = 0x4b56_4d00;

pub(super) fn read(cx: &SyncContext<'_>, state: &mut HeldState) -> Result<(), AccelError> {
    for (cpu, held) in cx.each_mut(state) {
        held.cpu.msrs = read_one(cpu)?;
    }
    Ok(())
}

/// Reads the registers of one vCPU. One that this host's KVM does not know keeps its value after reset: a guest cannot
/// have changed it.
fn read_one(cpu: &KvmCpu) -> Result<MsrState, AccelError> {
    let mut state = MsrState::default();
    let mut rows = cpu.msrs.as_slice();
    while !rows.is_empty() {
        let mut batch = batch(rows.iter().map(|row| (row.index, 0)))?;
        let count = cpu
            .vcpu
            .handle()
            .fd()
            .get_msrs(&mut batch)
            .map_err(|error| refused(cpu, "to tell the model-specific registers", error))?;
        for (row, entry) in rows.iter().zip(batch.as_slice()).take(count) {
            (row.set)(&mut state, entry.data);
        }
        // KVM stops at the first one that it refuses.
        rows = rows.get(count + 1..).unwrap_or_default();
    }
    Ok(state)
}

/// Refuses a vCPU that holds state in registers which Tern does not describe. No model offers the features that they
/// belong to, but some KVMs let guests write them all the same, and what a guest put there would be lost.
pub(super) fn check_undescribed(cx: &SyncContext<'_>) -> Result<(), AccelError> {
    cx.cpus.iter().try_for_each(|cpu| check_watched(cpu))
}

fn check_watched(cpu: &KvmCpu) -> Result<(), AccelError> {
    let amd = matches!(&cpu.cpuid.vendor(), b"AuthenticAMD" | b"HygonGenuine");
    let watched: Vec<_> = msr_account::watched(amd).collect();
    let mut left = watched.as_slice();
    while !left.is_empty() {
        let mut batch = batch(left.iter().map(|(index, ..)| (*index, 0)))?;
        let count = cpu
            .vcpu
            .handle()
            .fd()
            .get_msrs(&mut batch)
            .map_err(|error| refused(cpu, "to tell the model-specific registers", error))?;
        for ((index, rest, account), entry) in left.iter().zip(batch.as_slice()).take(count) {
            if entry.data != *rest {
                return Err(AccelError::Undescribed {
                    vcpu: cpu.vcpu.apic_id(),
                    what: format!(
                        "the guest uses {}, which Tern does not describe (MSR {index:#x} of {} is {:#x})",
                        account.reason, account.name, entry.data
                    ),
                });
            }
        }
        // What this KVM does not know, no guest can have changed.
        left = left.get(count + 1..).unwrap_or_default();
    }
    Ok(())
}

pub(super) fn write(cx: &SyncContext<'_>, state: &HeldState) -> Result<(), AccelError> {
    cx.each(state)
        .try_for_each(|(cpu, held)| write_one(cpu, &held.cpu.msrs))
}

/// Writes the registers of one vCPU that do not hold their values yet. Of a new VM these are few; some KVMs refuse, or note in
/// the host's log, also what changes nothing.
fn write_one(cpu: &KvmCpu, state: &MsrState) -> Result<(), AccelError> {
    let held = read_one(cpu)?;
    let wall_clock = WallClock::keep(cpu, state);
    let differing: Vec<_> = cpu
        .msrs
        .iter()
        .copied()
        .filter(|row| (row.get)(state) != (row.get)(&held))
        .collect();
    let mut rows = differing.as_slice();
    while !rows.is_empty() {
        let batch = batch(rows.iter().map(|row| (row.index, (row.get)(state))))?;
        let count = cpu
            .vcpu
            .handle()
            .fd()
            .set_msrs(&batch)
            .map_err(|error| refused(cpu, "the model-specific registers", error))?;
        if let Some(row) = rows.get(count) {
            check_refused(cpu, row, (row.get)(state))?;
        }
        rows = rows.get(count + 1..).unwrap_or_default();
    }
    wall_clock.put_back(cpu.vcpu.bus());
    Ok(())
}

/// A register that KVM refuses is no loss where it already has the value, or where it is unknown here and the value is
/// that after reset.
fn check_refused(cpu: &KvmCpu, row: &MsrRow, value: u64) -> Result<(), AccelError> {
    let fresh = get(cpu.vcpu.handle().fd(), row.index).unwrap_or_else(|| (row.get)(&MsrState::default()));
    if value == fresh {
        return Ok(());
    }
    Err(AccelError::CannotHold {
        field: format!("{}: msrs.{} (MSR {:#x})", cpu.cpu.object().path(), row.name, row.index),
        value: format!("{value:#x}"),
        reason: format!("KVM refuses it, and would leave {fresh:#x}"),
    })
}

/// The value of one register, or `None` where KVM refuses it.
pub(super) fn get(vcpu: &VcpuFd, index: u32) -> Option<u64> {
    let mut msrs = batch([(index, 0)]).ok()?;
    (vcpu.get_msrs(&mut msrs) == Ok(1)).then(|| msrs.as_slice()[0].data)
}

/// Sets one register; false where KVM refuses it.
pub(super) fn set(vcpu: &VcpuFd, index: u32, value: u64) -> bool {
    batch([(index, value)]).is_ok_and(|msrs| vcpu.set_msrs(&msrs) == Ok(1))
}

fn batch(entries: impl IntoIterator<Item = (u32, u64)>) -> Result<Msrs, AccelError> {
    let entries: Vec<_> = entries
        .into_iter()
        .map(|(index, data)| kvm_msr_entry {
            index,
            data,
            ..Default::default()
        })
        .collect();
    Msrs::from_entries(&entries).map_err(|_| {
        super::refused(
            "a list of model-specific registers",
            std::io::Error::from_raw_os_error(libc::E2BIG),
        )
    })
}

/// The guest's copy of the wall-clock time of its start.
///
/// KVM writes it anew whenever the register is set, from the host's clock and a kvmclock that has not been set yet. What
/// the guest was told stays true as long as kvmclock goes on as it was, so the bytes in RAM are put back.
struct WallClock(Option<(GuestAddress, [u8; 12])>);

impl WallClock {
    fn keep(cpu: &KvmCpu, state: &MsrState) -> Self {
        let asked = cpu
            .msrs
            .iter()
            .find(|row| row.index == KVM_WALL_CLOCK)
            .map_or(0, |row| (row.get)(state));
        let mut bytes = [0; 12];
        let address = GuestAddress(asked);
        let memory = cpu.vcpu.bus().memory.guest_memory();
        Self((asked != 0 && memory.read_slice(&mut bytes, address).is_ok()).then_some((address, bytes)))
    }

    fn put_back(self, bus: &Bus) {
        if let Some((address, bytes)) = self.0 {
            // It was readable a moment ago, and nothing else changes the map of a VM that does not run.
            let _ = bus.memory.guest_memory().write_slice(&bytes, address);
        }
    }
}
