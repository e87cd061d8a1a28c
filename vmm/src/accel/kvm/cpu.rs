//! A vCPU's registers between KVM's structures and the described ones.

use hw::i386::cpu_state::{
    CpuEvents, DebugRegisters, DescriptorTable, ExceptionEvent, GeneralRegisters, InterruptEvent, MpState,
    SegmentRegister, SystemRegisters,
};
use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_SIPI_RECEIVED,
    KVM_MP_STATE_UNINITIALIZED, KVM_SREGS2_FLAGS_PDPTRS_VALID, KVM_VCPUEVENT_VALID_NMI_PENDING,
    KVM_VCPUEVENT_VALID_PAYLOAD, KVM_VCPUEVENT_VALID_SHADOW, KVM_VCPUEVENT_VALID_TRIPLE_FAULT,
    KVM_X86_SHADOW_INT_MOV_SS, KVM_X86_SHADOW_INT_STI, kvm_debugregs, kvm_dtable, kvm_mp_state, kvm_regs, kvm_segment,
    kvm_sregs2, kvm_vcpu_events, kvm_xcr, kvm_xcrs,
};
use vmstate::qom::Object;

use super::super::AccelError;
use super::ioctl;
use super::state::{HeldState, KvmCpu, SyncContext};

/// A vCPU under KVM.
#[derive(Object)]
#[object(name = "kvm-x86-cpu", parent = hw::i386::cpu::X86Cpu, stateless)]
pub struct KvmX86Cpu {}

type Outcome = Result<(), AccelError>;

/// An error of KVM's that concerns one vCPU.
pub(super) fn refused(cpu: &KvmCpu, what: &str, error: impl Into<std::io::Error>) -> AccelError {
    super::refused(format!("{what} of vCPU {}", cpu.vcpu.apic_id()), error)
}

pub(super) fn read_general(cx: &SyncContext<'_>, state: &mut HeldState) -> Outcome {
    for (cpu, held) in cx.each_mut(state) {
        let regs = cpu
            .vcpu
            .handle()
            .fd()
            .get_regs()
            .map_err(|error| refused(cpu, "to tell the registers", error))?;
        held.cpu.general = general_of(&regs);
    }
    Ok(())
}

pub(super) fn write_general(cx: &SyncContext<'_>, state: &HeldState) -> Outcome {
    cx.each(state)
        .try_for_each(|(cpu, held)| set_general(cpu, &held.cpu.general))
}

/// Sets the general registers of one vCPU.
pub(super) fn set_general(cpu: &KvmCpu, general: &GeneralRegisters) -> Outcome {
    let regs = general_to(general);
    cpu.vcpu
        .handle()
        .fd()
        .set_regs(&regs)
        .map_err(|error| refused(cpu, "the registers", error))
}

fn general_of(regs: &kvm_regs) -> GeneralRegisters {
    let kvm_regs {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rsp,
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip,
        rflags,
    } = *regs;
    GeneralRegisters {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rsp,
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip,
        rflags,
    }
}

fn general_to(general: &GeneralRegisters) -> kvm_regs {
    let GeneralRegisters {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rsp,
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip,
        rflags,
    } = *general;
    kvm_regs {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rsp,
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip,
        rflags,
    }
}

pub(super) fn read_system(cx: &SyncContext<'_>, state: &mut HeldState) -> Outcome {
    for (cpu, held) in cx.each_mut(state) {
        let sregs = ioctl::get_sregs2(cpu.vcpu.handle().fd())
            .map_err(|error| refused(cpu, "to tell the system registers", error))?;
        held.cpu.system = system_of(&sregs);
    }
    Ok(())
}

pub(super) fn write_system(cx: &SyncContext<'_>, state: &HeldState) -> Outcome {
    cx.each(state)
        .try_for_each(|(cpu, held)| set_system(cpu, &held.cpu.system))
}

/// Sets the system registers of one vCPU.
pub(super) fn set_system(cpu: &KvmCpu, system: &SystemRegisters) -> Outcome {
    ioctl::set_sregs2(cpu.vcpu.handle().fd(), &system_to(system))
        .map_err(|error| refused(cpu, "the system registers", error))
}

fn system_of(sregs: &kvm_sregs2) -> SystemRegisters {
    // CR8 is the local APIC's.
    let kvm_sregs2 {
        cs,
        ds,
        es,
        fs,
        gs,
        ss,
        tr,
        ldt,
        gdt,
        idt,
        cr0,
        cr2,
        cr3,
        cr4,
        cr8: _,
        efer,
        apic_base,
        flags,
        pdptrs,
    } = *sregs;
    SystemRegisters {
        cs: segment_of(&cs),
        ds: segment_of(&ds),
        es: segment_of(&es),
        fs: segment_of(&fs),
        gs: segment_of(&gs),
        ss: segment_of(&ss),
        tr: segment_of(&tr),
        ldt: segment_of(&ldt),
        gdt: DescriptorTable {
            base: gdt.base,
            limit: gdt.limit,
        },
        idt: DescriptorTable {
            base: idt.base,
            limit: idt.limit,
        },
        cr0,
        cr2,
        cr3,
        cr4,
        efer,
        apic_base,
        pdptrs: (flags & u64::from(KVM_SREGS2_FLAGS_PDPTRS_VALID) != 0).then_some(pdptrs),
    }
}

fn system_to(system: &SystemRegisters) -> kvm_sregs2 {
    let SystemRegisters {
        cs,
        ds,
        es,
        fs,
        gs,
        ss,
        tr,
        ldt,
        gdt,
        idt,
        cr0,
        cr2,
        cr3,
        cr4,
        efer,
        apic_base,
        pdptrs,
    } = system;
    kvm_sregs2 {
        cs: segment_to(cs),
        ds: segment_to(ds),
        es: segment_to(es),
        fs: segment_to(fs),
        gs: segment_to(gs),
        ss: segment_to(ss),
        tr: segment_to(tr),
        ldt: segment_to(ldt),
        gdt: kvm_dtable {
            base: gdt.base,
            limit: gdt.limit,
            ..Default::default()
        },
        idt: kvm_dtable {
            base: idt.base,
            limit: idt.limit,
            ..Default::default()
        },
        cr0: *cr0,
        cr2: *cr2,
        cr3: *cr3,
        cr4: *cr4,
        // The local APIC is written later, and its task priority counts.
        cr8: 0,
        efer: *efer,
        apic_base: *apic_base,
        flags: if pdptrs.is_some() {
            u64::from(KVM_SREGS2_FLAGS_PDPTRS_VALID)
        } else {
            0
        },
        pdptrs: pdptrs.unwrap_or_default(),
    }
}

fn segment_of(segment: &kvm_segment) -> SegmentRegister {
    let kvm_segment {
        base,
        limit,
        selector,
        type_,
        present,
        dpl,
        db,
        s,
        l,
        g,
        avl,
        unusable,
        padding: _,
    } = *segment;
    SegmentRegister {
        selector,
        base,
        limit,
        kind: type_,
        dpl,
        code_or_data: s != 0,
        present: present != 0,
        big: db != 0,
        long: l != 0,
        granular: g != 0,
        available: avl != 0,
        unusable: unusable != 0,
    }
}

fn segment_to(segment: &SegmentRegister) -> kvm_segment {
    let SegmentRegister {
        selector,
        base,
        limit,
        kind,
        dpl,
        code_or_data,
        present,
        big,
        long,
        granular,
        available,
        unusable,
    } = *segment;
    kvm_segment {
        base,
        limit,
        selector,
        type_: kind,
        present: present.into(),
        dpl,
        db: big.into(),
        s: code_or_data.into(),
        l: long.into(),
        g: granular.into(),
        avl: available.into(),
        unusable: unusable.into(),
        padding: 0,
    }
}

pub(super) fn read_debug(cx: &SyncContext<'_>, state: &mut HeldState) -> Outcome {
    for (cpu, held) in cx.each_mut(state) {
        let debug = cpu
            .vcpu
            .handle()
            .fd()
            .get_debug_regs()
            .map_err(|error| refused(cpu, "to tell the debug registers", error))?;
        held.cpu.debug = DebugRegisters {
            dr: debug.db,
            dr6: debug.dr6,
            dr7: debug.dr7,
        };
    }
    Ok(())
}

pub(super) fn write_debug(cx: &SyncContext<'_>, state: &HeldState) -> Outcome {
    cx.each(state).try_for_each(|(cpu, held)| {
        let DebugRegisters { dr, dr6, dr7 } = held.cpu.debug;
        let debug = kvm_debugregs {
            db: dr,
            dr6,
            dr7,
            ..Default::default()
        };
        cpu.vcpu
            .handle()
            .fd()
            .set_debug_regs(&debug)
            .map_err(|error| refused(cpu, "the debug registers", error))
    })
}

pub(super) fn read_xcr0(cx: &SyncContext<'_>, state: &mut HeldState) -> Outcome {
    for (cpu, held) in cx.each_mut(state) {
        let xcrs = cpu
            .vcpu
            .handle()
            .fd()
            .get_xcrs()
            .map_err(|error| refused(cpu, "to tell XCR0", error))?;
        let count = usize::try_from(xcrs.nr_xcrs).unwrap_or(0).min(xcrs.xcrs.len());
        // A host without XSAVE has none; its guests behave as with the value after reset.
        held.cpu.xcr0 = xcrs.xcrs[..count]
            .iter()
            .find(|xcr| xcr.xcr == 0)
            .map_or(1, |xcr| xcr.value);
    }
    Ok(())
}

pub(super) fn write_xcr0(cx: &SyncContext<'_>, state: &HeldState) -> Outcome {
    for (cpu, held) in cx.each(state) {
        let mut xcrs = kvm_xcrs {
            nr_xcrs: 1,
            ..Default::default()
        };
        xcrs.xcrs[0] = kvm_xcr {
            xcr: 0,
            value: held.cpu.xcr0,
            ..Default::default()
        };
        match cpu.vcpu.handle().fd().set_xcrs(&xcrs) {
            Err(error) if held.cpu.xcr0 != 1 => return Err(refused(cpu, &format!("XCR0 {:#x}", held.cpu.xcr0), error)),
            // The value after reset needs no host that has the register.
            _ => {}
        }
    }
    Ok(())
}

pub(super) fn read_xsave(cx: &SyncContext<'_>, state: &mut HeldState) -> Outcome {
    for (cpu, held) in cx.each_mut(state) {
        let area =
            ioctl::get_xsave(cpu.vcpu.handle().fd()).map_err(|error| refused(cpu, "to tell the XSAVE area", error))?;
        held.cpu.xsave = cx.xsave.take_apart(&area).map_err(|error| AccelError::Undescribed {
            vcpu: cpu.vcpu.apic_id(),
            what: error.to_string(),
        })?;
    }
    Ok(())
}

pub(super) fn write_xsave(cx: &SyncContext<'_>, state: &HeldState) -> Outcome {
    for (cpu, held) in cx.each(state) {
        let mut area = [0; ioctl::XSAVE_AREA];
        cx.xsave
            .put_together(&held.cpu.xsave, &mut area)
            .map_err(|error| AccelError::CannotHold {
                field: format!("{}: xsave", cpu.cpu.object().path()),
                value: "in use".to_owned(),
                reason: error.to_string(),
            })?;
        ioctl::set_xsave(cpu.vcpu.handle().fd(), &area).map_err(|error| refused(cpu, "the XSAVE area", error))?;
    }
    Ok(())
}

pub(super) fn read_events(cx: &SyncContext<'_>, state: &mut HeldState) -> Outcome {
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

pub(super) fn write_events(cx: &SyncContext<'_>, state: &HeldState) -> Outcome {
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

fn events_to(events: &CpuEvents) -> kvm_vcpu_events {
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
        let number = MP_STATES
            .iter()
            .find(|(_, state)| *state == held.cpu.mp_state)
            .map_or(0, |(kvm, _)| *kvm);
        let mp_state = kvm_mp_state { mp_state: number };
        cpu.vcpu
            .handle()
            .fd()
            .set_mp_state(mp_state)
            .map_err(|error| refused(cpu, "the MP state", error))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_survive_the_way_through_kvms_structures() {
        let general = GeneralRegisters {
            rax: 1,
            r15: 2,
            rip: 3,
            rflags: 0x202,
            ..GeneralRegisters::default()
        };
        assert_eq!(general_of(&general_to(&general)), general);
        let mut system = SystemRegisters {
            pdptrs: Some([1, 2, 3, 4]),
            ..SystemRegisters::default()
        };
        system.ss.unusable = true;
        system.cs.long = true;
        assert_eq!(system_of(&system_to(&system)), system);
    }

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
