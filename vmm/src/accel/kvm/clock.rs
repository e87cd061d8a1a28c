//! Guest time under KVM: kvmclock and TSCs, sampled once per pause and set before the guest goes on.

use std::time::{SystemTime, UNIX_EPOCH};

use hw::timer::clock::{HostTsc, TscPolicy};
use kvm_bindings::{KVM_CAP_TSC_CONTROL, KVM_CLOCK_REALTIME, kvm_clock_data};
use vmstate::qom::Object;

use super::super::AccelError;
use super::cpu::refused;
use super::ioctl::GuestVm;
use super::state::{HeldState, KvmCpu, SyncContext};
use super::{ioctl, msr};

/// The record of guest time under KVM.
#[derive(Object)]
#[object(name = "kvm-guest-clock", parent = hw::timer::clock::GuestClock, stateless)]
pub struct KvmGuestClock {}

const TSC: u32 = 0x10;

type Outcome = Result<(), AccelError>;

pub(super) fn read_kvmclock(cx: &SyncContext<'_>, state: &mut HeldState) -> Outcome {
    let clock = cx
        .vm
        .fd()
        .get_clock()
        .map_err(|error| super::refused("to tell the guest's clock", error))?;
    state.clock.kvmclock_ns = clock.clock;
    // KVM tells the wall clock of the very instant where it can.
    state.clock.realtime_ns = if clock.flags & KVM_CLOCK_REALTIME == 0 {
        realtime_ns()
    } else {
        clock.realtime
    };
    Ok(())
}

pub(super) fn write_kvmclock(cx: &SyncContext<'_>, state: &HeldState) -> Outcome {
    let clock = kvm_clock_data {
        clock: state.clock.kvmclock_ns,
        ..Default::default()
    };
    cx.vm
        .fd()
        .set_clock(&clock)
        .map_err(|error| super::refused("the guest's clock", error))
}

pub(super) fn read_tsc(cx: &SyncContext<'_>, state: &mut HeldState) -> Outcome {
    let Some(first) = cx.cpus.first() else { return Ok(()) };
    state.clock.tsc_khz = tsc_khz(first);
    state.clock.tsc = tsc(first).unwrap_or(0);
    let steady = offsets_stand_still(first);
    let base = if steady { offset(first) } else { tsc(first) };
    // A KVM without offsets keeps the TSCs of a VM together by itself.
    let differences = cx.cpus.iter().skip(1).map(|cpu| {
        let own = if steady { offset(cpu) } else { tsc(cpu) };
        base.zip(own)
            .map_or(0, |(base, own)| own.wrapping_sub(base).cast_signed())
    });
    state.clock.tsc_differences = std::iter::once(0).chain(differences).collect();
    Ok(())
}

/// Sets all TSCs so that the first vCPU's goes on from the record's value, and the others with their differences to it.
///
/// Offsets do that exactly and whatever the scale: if a TSC reads `now` with one offset, it reads `wanted` at that instant
/// with an offset larger by `wanted - now`; and what one vCPU's is to another's stays as it is. (Some KVMs take an offset
/// and do not heed it; their guests see the host's TSC, whatever is tried.)
pub(super) fn write_tsc(cx: &SyncContext<'_>, state: &HeldState) -> Outcome {
    let Some(first) = cx.cpus.first() else { return Ok(()) };
    let record = &state.clock;
    for cpu in cx.cpus {
        set_frequency(cx, cpu, record.tsc_khz)?;
    }
    let base = offset_to_read(first, record.tsc).filter(|_| offsets_stand_still(first));
    let differences = record.tsc_differences.iter().copied().chain(std::iter::repeat(0));
    for (cpu, difference) in cx.cpus.iter().zip(differences) {
        let fd = cpu.vcpu.handle().fd();
        let wanted = record.tsc.wrapping_add_signed(difference);
        let offset = base
            .map(|base| base.wrapping_add_signed(difference))
            .or_else(|| offset_to_read(cpu, wanted));
        let set = match offset {
            Some(offset) => ioctl::set_tsc_offset(fd, offset).is_ok(),
            None => msr::set(fd, TSC, wanted),
        };
        if !set {
            return Err(AccelError::CannotHold {
                field: format!("the TSC of vCPU {}", cpu.vcpu.apic_id()),
                value: wanted.to_string(),
                reason: "KVM refuses it".to_owned(),
            });
        }
    }
    Ok(())
}

/// The offset with which the TSC of `cpu` would read `wanted` now; `None` for a KVM without offsets.
fn offset_to_read(cpu: &KvmCpu, wanted: u64) -> Option<u64> {
    let now = tsc(cpu)?;
    Some(offset(cpu)?.wrapping_add(wanted).wrapping_sub(now))
}

/// Whether offsets mean something by themselves. On a host whose own TSC is not steady, KVM has the TSC of each vCPU stand
/// still while it does not run, by a new offset each time that it touches the vCPU; there, only values can be compared.
fn offsets_stand_still(cpu: &KvmCpu) -> bool {
    let [before, after] = [offset(cpu), offset(cpu)];
    before == after
}

/// Whether this KVM heeds offsets; some take them and go on with the host's TSC. All vCPUs are parked.
pub(super) fn heeds_offsets(cx: &SyncContext<'_>) -> bool {
    let Some(cpu) = cx.cpus.first() else { return false };
    let fd = cpu.vcpu.handle().fd();
    let Some(offset) = offset(cpu) else { return false };
    let probe = offset.wrapping_add(1 << 20);
    let heeds = ioctl::set_tsc_offset(fd, probe).is_ok() && ioctl::get_tsc_offset(fd).is_ok_and(|now| now == probe);
    ioctl::set_tsc_offset(fd, offset).is_ok() && heeds
}

/// Whether the processor can scale guests' TSCs. A KVM that cannot takes higher frequencies all the same and makes up for
/// them at each exit, by which a guest's TSC would jump; so it is not asked.
pub(super) fn scales(vm: &GuestVm) -> bool {
    vm.fd().check_extension_raw(KVM_CAP_TSC_CONTROL.into()) > 0
}

/// Has the TSC count at the guest's speed, if that is not the host's.
fn set_frequency(cx: &SyncContext<'_>, cpu: &KvmCpu, wanted_khz: u32) -> Outcome {
    let own_khz = tsc_khz(cpu);
    if wanted_khz == 0 || wanted_khz == own_khz {
        return Ok(());
    }
    let host = HostTsc {
        khz: own_khz,
        scales: scales(cx.vm),
    };
    let near = host.is_near(wanted_khz.into());
    if host.counts_at(wanted_khz.into()) && cpu.vcpu.handle().fd().set_tsc_khz(wanted_khz).is_ok() {
        return Ok(());
    }
    if near || cx.tsc == TscPolicy::Tolerate {
        return Ok(());
    }
    Err(AccelError::CannotHold {
        field: format!("the TSC frequency of vCPU {}", cpu.vcpu.apic_id()),
        value: format!("{wanted_khz} kHz"),
        reason: format!("this host counts at {own_khz} kHz and cannot scale to that"),
    })
}

/// Tells the guest's watchdogs that it has stood still.
pub(super) fn notify_of_pause(cx: &SyncContext<'_>, _: &HeldState) -> Outcome {
    for cpu in cx.cpus {
        match cpu.vcpu.handle().fd().kvmclock_ctrl() {
            // A guest that does not use kvmclock has no watchdog that could be told.
            Err(error) if error.errno() != libc::EINVAL => {
                return Err(refused(cpu, "to tell of the pause through kvmclock", error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn tsc(cpu: &KvmCpu) -> Option<u64> {
    msr::get(cpu.vcpu.handle().fd(), TSC)
}

fn offset(cpu: &KvmCpu) -> Option<u64> {
    ioctl::get_tsc_offset(cpu.vcpu.handle().fd()).ok()
}

fn tsc_khz(cpu: &KvmCpu) -> u32 {
    cpu.vcpu.handle().fd().get_tsc_khz().unwrap_or(0)
}

/// The host's wall clock, in nanoseconds since 1970.
pub(super) fn realtime_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
