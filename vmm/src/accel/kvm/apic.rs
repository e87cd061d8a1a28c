//! Local APICs: KVM's page of registers and the described ones.

use hw::i386::cpu_state::APIC_BASE_X2APIC;
use hw::intc::apic::ApicState;
use kvm_bindings::kvm_lapic_state;
use vmstate::qom::Object;

use super::super::AccelError;
use super::cpu::refused;
use super::state::{HeldState, KvmCpu, SyncContext};
use super::{ioctl, msr};

/// A local APIC under KVM.
#[derive(Object)]
#[object(name = "kvm-apic", parent = hw::intc::apic::Apic, stateless)]
pub struct KvmApic {}

const TSC_DEADLINE: u32 = 0x6e0;

const ID: usize = 0x20;
const TASK_PRIORITY: usize = 0x80;
const LOGICAL_DESTINATION: usize = 0xd0;
const DESTINATION_FORMAT: usize = 0xe0;
const SPURIOUS_VECTOR: usize = 0xf0;
const IN_SERVICE: usize = 0x100;
const TRIGGER_MODE: usize = 0x180;
const REQUESTED: usize = 0x200;
const ERROR_STATUS: usize = 0x280;
const LVT_CORRECTED: usize = 0x2f0;
const COMMAND_LOW: usize = 0x300;
const COMMAND_HIGH: usize = 0x310;
const LVT_TIMER: usize = 0x320;
const LVT_THERMAL: usize = 0x330;
const LVT_PERFORMANCE: usize = 0x340;
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
const LVT_ERROR: usize = 0x370;
const TIMER_INITIAL: usize = 0x380;
const TIMER_CURRENT: usize = 0x390;
const TIMER_DIVIDE: usize = 0x3e0;

type Outcome = Result<(), AccelError>;

pub(super) fn read(cx: &SyncContext<'_>, state: &mut HeldState) -> Outcome {
    for (cpu, held) in cx.each_mut(state) {
        let page = get_page(cpu)?;
        // The deadline has a row of its own, which comes before this one when reading.
        let tsc_deadline = held.apic.tsc_deadline;
        held.apic = ApicState {
            tsc_deadline,
            ..state_of(&page, is_x2apic(cpu)?)
        };
    }
    Ok(())
}

pub(super) fn write(cx: &SyncContext<'_>, state: &HeldState) -> Outcome {
    for (cpu, held) in cx.each(state) {
        // What is no state, such as the version, stays as KVM has it.
        let mut page = get_page(cpu)?;
        fill(&mut page, &held.apic, is_x2apic(cpu)?);
        set_page(cpu, &page)?;
    }
    Ok(())
}

pub(super) fn read_deadline(cx: &SyncContext<'_>, state: &mut HeldState) -> Outcome {
    for (cpu, held) in cx.each_mut(state) {
        // A KVM without the register has guests without the mode.
        held.apic.tsc_deadline = msr::get(cpu.vcpu.handle().fd(), TSC_DEADLINE).unwrap_or(0);
    }
    Ok(())
}

pub(super) fn write_deadline(cx: &SyncContext<'_>, state: &HeldState) -> Outcome {
    for (cpu, held) in cx.each(state) {
        let deadline = held.apic.tsc_deadline;
        if !msr::set(cpu.vcpu.handle().fd(), TSC_DEADLINE, deadline) && deadline != 0 {
            return Err(AccelError::CannotHold {
                field: format!("{}: tsc_deadline", cpu.apic.object().path()),
                value: format!("{deadline:#x}"),
                reason: "KVM refuses it".to_owned(),
            });
        }
    }
    Ok(())
}

fn get_page(cpu: &KvmCpu) -> Result<kvm_lapic_state, AccelError> {
    cpu.vcpu
        .handle()
        .fd()
        .get_lapic()
        .map_err(|error| refused(cpu, "to tell the local APIC", error))
}

fn set_page(cpu: &KvmCpu, page: &kvm_lapic_state) -> Outcome {
    cpu.vcpu
        .handle()
        .fd()
        .set_lapic(page)
        .map_err(|error| refused(cpu, "the local APIC", error))
}

/// KVM shows the id as the mode does: the whole register in x2APIC mode, its upper byte otherwise. (It always shows the
/// upper byte unless asked for 32-bit ids, which machines of up to 255 vCPUs do not need.)
fn is_x2apic(cpu: &KvmCpu) -> Result<bool, AccelError> {
    let sregs = ioctl::get_sregs2(cpu.vcpu.handle().fd())
        .map_err(|error| refused(cpu, "to tell the system registers", error))?;
    Ok(sregs.apic_base & APIC_BASE_X2APIC != 0)
}

pub(super) fn state_of(page: &kvm_lapic_state, x2apic: bool) -> ApicState {
    let vectors = |at: usize| std::array::from_fn(|word| get(page, at + word * 0x10));
    ApicState {
        id: get(page, ID) >> 24,
        task_priority: get(page, TASK_PRIORITY),
        // In x2APIC mode it follows from the id and cannot be written; it would only differ by KVM's version.
        logical_destination: if x2apic { 0 } else { get(page, LOGICAL_DESTINATION) },
        destination_format: get(page, DESTINATION_FORMAT),
        spurious_vector: get(page, SPURIOUS_VECTOR),
        in_service: vectors(IN_SERVICE),
        trigger_mode: vectors(TRIGGER_MODE),
        requested: vectors(REQUESTED),
        error_status: get(page, ERROR_STATUS),
        command_low: get(page, COMMAND_LOW),
        command_high: get(page, COMMAND_HIGH),
        lvt_timer: get(page, LVT_TIMER),
        lvt_thermal: get(page, LVT_THERMAL),
        lvt_performance: get(page, LVT_PERFORMANCE),
        lvt_lint0: get(page, LVT_LINT0),
        lvt_lint1: get(page, LVT_LINT1),
        lvt_error: get(page, LVT_ERROR),
        lvt_corrected: get(page, LVT_CORRECTED),
        timer_initial: get(page, TIMER_INITIAL),
        timer_current: get(page, TIMER_CURRENT),
        timer_divide: get(page, TIMER_DIVIDE),
        tsc_deadline: 0,
    }
}

pub(super) fn fill(page: &mut kvm_lapic_state, state: &ApicState, x2apic: bool) {
    // Taken apart so that a new register does not compile until it has a place here.
    let ApicState {
        id,
        task_priority,
        logical_destination,
        destination_format,
        spurious_vector,
        in_service,
        trigger_mode,
        requested,
        error_status,
        command_low,
        command_high,
        lvt_timer,
        lvt_thermal,
        lvt_performance,
        lvt_lint0,
        lvt_lint1,
        lvt_error,
        lvt_corrected,
        timer_initial,
        timer_current,
        timer_divide,
        tsc_deadline: _,
    } = state;
    for (at, value) in [
        (ID, id << 24),
        (TASK_PRIORITY, *task_priority),
        (DESTINATION_FORMAT, *destination_format),
        (SPURIOUS_VECTOR, *spurious_vector),
        (ERROR_STATUS, *error_status),
        (COMMAND_LOW, *command_low),
        (COMMAND_HIGH, *command_high),
        (LVT_TIMER, *lvt_timer),
        (LVT_THERMAL, *lvt_thermal),
        (LVT_PERFORMANCE, *lvt_performance),
        (LVT_LINT0, *lvt_lint0),
        (LVT_LINT1, *lvt_lint1),
        (LVT_ERROR, *lvt_error),
        (LVT_CORRECTED, *lvt_corrected),
        (TIMER_INITIAL, *timer_initial),
        (TIMER_CURRENT, *timer_current),
        (TIMER_DIVIDE, *timer_divide),
    ] {
        put(page, at, value);
    }
    if !x2apic {
        put(page, LOGICAL_DESTINATION, *logical_destination);
    }
    for (at, words) in [
        (IN_SERVICE, in_service),
        (TRIGGER_MODE, trigger_mode),
        (REQUESTED, requested),
    ] {
        for (word, value) in words.iter().enumerate() {
            put(page, at + word * 0x10, *value);
        }
    }
}

fn get(page: &kvm_lapic_state, at: usize) -> u32 {
    let byte = |index: usize| page.regs[at + index].to_ne_bytes()[0];
    u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)])
}

fn put(page: &mut kvm_lapic_state, at: usize, value: u32) {
    for (place, byte) in page.regs[at..at + 4].iter_mut().zip(value.to_le_bytes()) {
        *place = i8::from_ne_bytes([byte]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_register_has_its_own_place() {
        let mut state = ApicState::reset(3, true);
        state.in_service[7] = 1;
        state.trigger_mode[0] = 2;
        state.requested[1] = 0x8000_0000;
        state.logical_destination = 0x0800_0000;
        state.timer_initial = 1000;
        state.timer_current = 999;
        state.command_high = 0x0100_0000;
        let mut page = kvm_lapic_state::default();
        fill(&mut page, &state, false);
        assert_eq!(state_of(&page, false), state);
    }
}
