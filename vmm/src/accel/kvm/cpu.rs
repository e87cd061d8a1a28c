//! A vCPU's registers between KVM's structures and the described ones.

use hw::i386::cpu_state::{DebugRegisters, DescriptorTable, GeneralRegisters, SegmentRegister, SystemRegisters};
use kvm_bindings::{
    KVM_SREGS2_FLAGS_PDPTRS_VALID, kvm_debugregs, kvm_dtable, kvm_regs, kvm_segment, kvm_sregs2, kvm_xcr, kvm_xcrs,
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

pub(super) fn general_to(general: &GeneralRegisters) -> kvm_regs {
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
        if let Some(what) = undescribed(&sregs) {
            return Err(AccelError::Undescribed {
                vcpu: cpu.vcpu.apic_id(),
                what: format!("the guest has {what} on, which Tern does not describe"),
            });
        }
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

/// The switches of features that bring state along of which Tern knows nothing. No model offers them.
fn undescribed(sregs: &kvm_sregs2) -> Option<&'static str> {
    const EFER_SVME: u64 = 1 << 12;
    const CR4_VMXE: u64 = 1 << 13;
    const CR4_CET: u64 = 1 << 23;
    [
        (sregs.efer & EFER_SVME, "nested virtualisation (EFER.SVME)"),
        (sregs.cr4 & CR4_VMXE, "nested virtualisation (CR4.VMXE)"),
        (sregs.cr4 & CR4_CET, "control-flow enforcement (CR4.CET)"),
    ]
    .into_iter()
    .find_map(|(on, what)| (on != 0).then_some(what))
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

pub(super) fn system_to(system: &SystemRegisters) -> kvm_sregs2 {
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
        // kvm_intel and kvm_amd show either as the other's contrary; a KVM may not, and a state that says both does not
        // depend on which of them a host looks at.
        unusable: unusable != 0 || present == 0,
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
        cpu.vcpu
            .handle()
            .fd()
            .set_debug_regs(&debug_to(&held.cpu.debug))
            .map_err(|error| refused(cpu, "the debug registers", error))
    })
}

pub(super) fn debug_to(debug: &DebugRegisters) -> kvm_debugregs {
    let DebugRegisters { dr, dr6, dr7 } = *debug;
    kvm_debugregs {
        db: dr,
        dr6,
        dr7,
        ..Default::default()
    }
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
    let mut area = vec![0; cx.xsave_size];
    for (cpu, held) in cx.each_mut(state) {
        ioctl::get_xsave(cpu.vcpu.handle().fd(), &mut area)
            .map_err(|error| refused(cpu, "to tell the XSAVE area", error))?;
        let taken = cx.xsave.take_apart(&area, cpu.components);
        held.cpu.xsave = taken.map_err(|error| AccelError::Undescribed {
            vcpu: cpu.vcpu.apic_id(),
            what: error.to_string(),
        })?;
    }
    Ok(())
}

pub(super) fn write_xsave(cx: &SyncContext<'_>, state: &HeldState) -> Outcome {
    let mut area = vec![0; cx.xsave_size];
    for (cpu, held) in cx.each(state) {
        area.fill(0);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_of_features_without_a_description_are_told_by_name() {
        let on = |efer, cr4| {
            undescribed(&kvm_sregs2 {
                efer,
                cr4,
                ..Default::default()
            })
        };
        assert_eq!(on(0xd01, 0x6f0), None);
        assert_eq!(on(0x1d01, 0), Some("nested virtualisation (EFER.SVME)"));
        assert_eq!(on(0, 0x2000), Some("nested virtualisation (CR4.VMXE)"));
        assert_eq!(on(0, 0x80_0000), Some("control-flow enforcement (CR4.CET)"));
    }

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
}
