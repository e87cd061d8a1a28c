//! What is about to happen to a vCPU, and whether it runs: pending events and the MP state.

use hw::i386::cpu_state::{CpuEvents, ExceptionEvent, InterruptEvent, MpState};
use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_SIPI_RECEIVED,
    KVM_MP_STATE_UNINITIALIZED, KVM_VCPUEVENT_VALID_NMI_PENDING, KVM_VCPUEVENT_VALID_PAYLOAD,
    KVM_VCPUEVENT_VALID_SHADOW, KVM_VCPUEVENT_VALID_TRIPLE_FAULT, KVM_X86_SHADOW_INT_MOV_SS, KVM_X86_SHADOW_INT_STI,
    kvm_mp_state, kvm_vcpu_events,
};

use super::super::AccelError;
use super::cpu::refused;
use super::state::{HeldState, SyncContext};

type Outcome = Result<(), AccelError>;

pub(super) fn read(cx: &SyncContext<'_>, state: &mut HeldState) -> Outcome {
    for (cpu, held) in cx.each_mut(state) {
        let events = cpu
            .vcpu
            .handle()
            .fd()
            .get_vcpu_events()
            .map_err(|error| refused(cpu, "to tell the pending events", error))?;
        if events.smi.smm != 0 || events.smi.pending != 0 {
            let what = "it is in system management mode, which Tern does not describe".to_owned();
            return Err(AccelError::Undescribed {
                vcpu: cpu.vcpu.apic_id(),
                what,
            });
        }
        held.cpu.events = events_of(&events);
    }
    Ok(())
}

pub(super) fn write(cx: &SyncContext<'_>, state: &HeldState) -> Outcome {
    cx.each(state).try_for_each(|(cpu, held)| {
        let events = events_to(&held.cpu.events);
        cpu.vcpu
            .handle()
            .fd()
            .set_vcpu_events(&events)
            .map_err(|error| refused(cpu, "the pending events", error))
    })
}

fn events_of(events: &kvm_vcpu_events) -> CpuEvents {
    let exception = (events.exception.injected != 0 || events.exception.pending != 0).then(|| ExceptionEvent {
        vector: events.exception.nr,
        delivering: events.exception.injected != 0,
        error_code: (events.exception.has_error_code != 0).then_some(events.exception.error_code),
        payload: (events.exception_has_payload != 0).then_some(events.exception_payload),
    });
    let interrupt = (events.interrupt.injected != 0).then_some(InterruptEvent {
        vector: events.interrupt.nr,
        software: events.interrupt.soft != 0,
    });
    let shadow = u32::from(events.interrupt.shadow);
    CpuEvents {
        exception,
        interrupt,
        shadow_sti: shadow & KVM_X86_SHADOW_INT_STI != 0,
        shadow_mov_ss: shadow & KVM_X86_SHADOW_INT_MOV_SS != 0,
        nmi_delivering: events.nmi.injected != 0,
        nmi_pending: events.nmi.pending,
        nmi_masked: events.nmi.masked != 0,
        triple_fault: events.triple_fault.pending != 0,
    }
}

pub(super) fn events_to(events: &CpuEvents) -> kvm_vcpu_events {
    let CpuEvents {
        exception,
        interrupt,
        shadow_sti,
        shadow_mov_ss,
        nmi_delivering,
        nmi_pending,
        nmi_masked,
        triple_fault,
    } = events;
    let mut out = kvm_vcpu_events {
        flags: KVM_VCPUEVENT_VALID_NMI_PENDING
            | KVM_VCPUEVENT_VALID_SHADOW
            | KVM_VCPUEVENT_VALID_PAYLOAD
            | KVM_VCPUEVENT_VALID_TRIPLE_FAULT,
        ..Default::default()
    };
    if let Some(ExceptionEvent {
        vector,
        delivering,
        error_code,
        payload,
    }) = exception
    {
        out.exception.nr = *vector;
        out.exception.injected = (*delivering).into();
        out.exception.pending = (!*delivering).into();
        out.exception.has_error_code = error_code.is_some().into();
        out.exception.error_code = error_code.unwrap_or(0);
        out.exception_has_payload = payload.is_some().into();
        out.exception_payload = payload.unwrap_or(0);
    }
    if let Some(InterruptEvent { vector, software }) = interrupt {
        out.interrupt.injected = 1;
        out.interrupt.nr = *vector;
        out.interrupt.soft = (*software).into();
    }
    for (held, bit) in [
        (shadow_sti, KVM_X86_SHADOW_INT_STI),
        (shadow_mov_ss, KVM_X86_SHADOW_INT_MOV_SS),
    ] {
        if *held {
            out.interrupt.shadow |= u8::try_from(bit).unwrap_or(0);
        }
    }
    out.nmi.injected = (*nmi_delivering).into();
    out.nmi.pending = *nmi_pending;
    out.nmi.masked = (*nmi_masked).into();
    out.triple_fault.pending = (*triple_fault).into();
    out
}

/// The start-up states by KVM's numbers.
const MP_STATES: [(u32, MpState); 5] = [
    (KVM_MP_STATE_RUNNABLE, MpState::Runnable),
    (KVM_MP_STATE_UNINITIALIZED, MpState::Uninitialized),
    (KVM_MP_STATE_INIT_RECEIVED, MpState::InitReceived),
    (KVM_MP_STATE_HALTED, MpState::Halted),
    (KVM_MP_STATE_SIPI_RECEIVED, MpState::SipiReceived),
];

pub(super) fn read_mp_state(cx: &SyncContext<'_>, state: &mut HeldState) -> Outcome {
    for (cpu, held) in cx.each_mut(state) {
        let number = cpu
            .vcpu
            .handle()
            .fd()
            .get_mp_state()
            .map_err(|error| refused(cpu, "to tell the MP state", error))?
            .mp_state;
        let found = MP_STATES
            .iter()
            .find(|(kvm, _)| *kvm == number)
            .map(|(_, state)| *state);
        held.cpu.mp_state = found.ok_or_else(|| AccelError::Undescribed {
            vcpu: cpu.vcpu.apic_id(),
            what: format!("it is in MP state {number}, which Tern does not describe"),
        })?;
    }
    Ok(())
}

pub(super) fn write_mp_state(cx: &SyncContext<'_>, state: &HeldState) -> Outcome {
    cx.each(state).try_for_each(|(cpu, held)| {
        let mp_state = kvm_mp_state {
            mp_state: mp_state_to(held.cpu.mp_state),
        };
        cpu.vcpu
            .handle()
            .fd()
            .set_mp_state(mp_state)
            .map_err(|error| refused(cpu, "the MP state", error))
    })
}

/// KVM's number of it.
pub(super) fn mp_state_to(mp_state: MpState) -> u32 {
    let found = MP_STATES.iter().find(|(_, state)| *state == mp_state);
    found.map_or(0, |(kvm, _)| *kvm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_survive_the_way_through_kvms_structures() {
        let full = CpuEvents {
            exception: Some(ExceptionEvent {
                vector: 14,
                delivering: false,
                error_code: Some(2),
                payload: Some(0x1000),
            }),
            interrupt: Some(InterruptEvent {
                vector: 0x40,
                software: true,
            }),
            shadow_sti: true,
            shadow_mov_ss: false,
            nmi_delivering: true,
            nmi_pending: 1,
            nmi_masked: true,
            triple_fault: true,
        };
        assert_eq!(events_of(&events_to(&full)), full);
        assert_eq!(events_of(&events_to(&CpuEvents::default())), CpuEvents::default());
    }

    #[test]
    fn every_start_up_state_has_a_number() {
        for state in [
            MpState::Runnable,
            MpState::Halted,
            MpState::Uninitialized,
            MpState::InitReceived,
            MpState::SipiReceived,
        ] {
            assert!(MP_STATES.iter().any(|(_, known)| *known == state));
        }
    }
}
