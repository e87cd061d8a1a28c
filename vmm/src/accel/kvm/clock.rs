//! Guest time under KVM: kvmclock and TSCs, sampled once per pause and set before the guest goes on.

use std::time::{SystemTime, UNIX_EPOCH};

use kvm_bindings::{KVM_CLOCK_REALTIME, kvm_clock_data};
use vmstate::qom::Object;

use super::super::AccelError;
use super::cpu::refused;
use super::state::{HeldState, KvmCpu, SyncContext};
use super::{ioctl, msr};

/// The record of guest time under KVM.
#[derive(Object)]
#[object(name = "kvm-guest-clock", parent = hw::timer::clock::GuestClock, stateless)]
pub struct KvmGuestClock {}

const TSC: u32 = 0x10;

/// TSCs whose frequencies differ by less than this are taken for the same: no clock that a guest disciplines sees it.
const TOLERATED_PPM: u64 = 250;

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
    let base = offset(first);
    // A KVM without offsets keeps the TSCs of a VM together by itself.
    state.clock.tsc_differences = cx
        .cpus
        .iter()
        .map(|cpu| {
            base.zip(offset(cpu))
                .map_or(0, |(base, own)| own.wrapping_sub(base).cast_signed())
        })
        .collect();
    Ok(())
}

/// Sets all TSCs so that the first vCPU's goes on from the record's value, and the others with their differences to it.
///
/// Offsets do that exactly and whatever the scale: if the first TSC reads `now` with one offset, it reads `wanted` at that
/// instant with an offset larger by `wanted - now`. (Some KVMs take an offset and do not heed it; their guests see the
/// host's TSC, whatever is tried.)
pub(super) fn write_tsc(cx: &SyncContext<'_>, state: &HeldState) -> Outcome {
    let Some(first) = cx.cpus.first() else { return Ok(()) };
    let record = &state.clock;
    for cpu in cx.cpus {
        set_frequency(cpu, record.tsc_khz)?;
    }
    let differences = record.tsc_differences.iter().copied().chain(std::iter::repeat(0));
    let base = tsc(first)
        .zip(offset(first))
        .map(|(now, offset)| offset.wrapping_add(record.tsc).wrapping_sub(now));
    for (cpu, difference) in cx.cpus.iter().zip(differences) {
        let set = match base {
            Some(base) => ioctl::set_tsc_offset(cpu.vcpu.handle().fd(), base.wrapping_add_signed(difference)).is_ok(),
            None => msr::set(cpu.vcpu.handle().fd(), TSC, record.tsc.wrapping_add_signed(difference)),
        };
        if !set {
            return Err(AccelError::CannotHold {
                field: format!("the TSC of vCPU {}", cpu.vcpu.apic_id()),
                value: record.tsc.to_string(),
                reason: "KVM refuses it".to_owned(),
            });
        }
    }
    Ok(())
}

/// Whether this KVM heeds offsets; some take them and go on with the host's TSC. All vCPUs are parked.
pub(super) fn heeds_offsets(cx: &SyncContext<'_>) -> bool {
    let Some(cpu) = cx.cpus.first() else { return false };
    let fd = cpu.vcpu.handle().fd();
    let Some(offset) = offset(cpu) else { return false };
    let probe = offset.wrapping_add(1 << 20);
    let heeds = ioctl::set_tsc_offset(fd, probe).is_ok() && ioctl::get_tsc_offset(fd).is_ok_and(|now| now == probe);
    heeds && ioctl::set_tsc_offset(fd, offset).is_ok()
}

/// Has the TSC count at the guest's speed, if that is not the host's.
fn set_frequency(cpu: &KvmCpu, wanted_khz: u32) -> Outcome {
    let own_khz = tsc_khz(cpu);
    if wanted_khz == 0 || wanted_khz == own_khz || cpu.vcpu.handle().fd().set_tsc_khz(wanted_khz).is_ok() {
        return Ok(());
    }
    let difference = u64::from(own_khz.abs_diff(wanted_khz));
    if difference * 1_000_000 <= u64::from(own_khz) * TOLERATED_PPM {
        return Ok(());
    }
    Err(AccelError::CannotHold {
        field: format!("the TSC frequency of vCPU {}", cpu.vcpu.apic_id()),
        value: format!("{wanted_khz} kHz"),
        reason: format!("this host counts at {own_khz} kHz and cannot scale"),
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
