//! The registers of an x86 processor, by name: what a snapshot holds of a vCPU.
//!
//! Left out on purpose: CR8, which is the local APIC's task priority; the TSC, which belongs to the record of guest time
//! ([`crate::timer::clock`]); what follows from the model. A vCPU in system management mode or in a nested guest has
//! state that is not here; an accelerator refuses to save it.

use vmstate::state::{VmEnum, VmState};

use super::msr::MsrState;
use super::xsave::XsaveState;

/// The general registers.
#[derive(VmState, Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the names are the registers'")]
pub struct GeneralRegisters {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
}

impl Default for GeneralRegisters {
    /// The values after reset, but for RDX, which tells the processor's signature.
    fn default() -> Self {
        Self {
            rax: 0,
            rbx: 0,
            rcx: 0,
            rdx: 0,
            rsi: 0,
            rdi: 0,
            rsp: 0,
            rbp: 0,
            r8: 0,
            r9: 0,
            r10: 0,
            r11: 0,
            r12: 0,
            r13: 0,
            r14: 0,
            r15: 0,
            rip: 0xfff0,
            rflags: 2,
        }
    }
}

/// A segment register with the part of it that instructions do not show.
#[derive(VmState, Default, Clone, Debug, PartialEq)]
pub struct SegmentRegister {
    /// The selector.
    pub selector: u16,
    /// The base address.
    pub base: u64,
    /// The limit in bytes.
    pub limit: u32,
    /// The type field of the descriptor.
    pub kind: u8,
    /// The descriptor's privilege level.
    pub dpl: u8,
    /// Code or data, and no system segment (the S bit).
    pub code_or_data: bool,
    /// The segment is present (P).
    pub present: bool,
    /// Operands have 32 bits (D or B).
    pub big: bool,
    /// 64-bit code (L).
    pub long: bool,
    /// The limit counts pages (G).
    pub granular: bool,
    /// The bit that is left to software (AVL).
    pub available: bool,
    /// The register holds no segment.
    pub unusable: bool,
}

impl SegmentRegister {
    /// A data segment of real mode at `base`.
    #[must_use]
    pub fn real_mode_data(selector: u16, base: u64) -> Self {
        Self {
            selector,
            base,
            limit: 0xffff,
            kind: 3,
            code_or_data: true,
            present: true,
            ..Self::default()
        }
    }

    /// A flat segment of 4 GiB with 32-bit operands for privilege level 0: code if `code`, data otherwise.
    #[must_use]
    pub fn flat_32(selector: u16, code: bool) -> Self {
        Self {
            selector,
            limit: 0xffff_ffff,
            kind: if code { 0xb } else { 3 },
            code_or_data: true,
            present: true,
            big: true,
            granular: true,
            ..Self::default()
        }
    }
}

/// The register of a descriptor table.
#[derive(VmState, Default, Clone, Debug, PartialEq)]
pub struct DescriptorTable {
    /// Where the table starts.
    pub base: u64,
    /// The offset of its last byte.
    pub limit: u16,
}

/// Segments, control registers and the rest that rules how addresses and modes work.
#[derive(VmState, Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the names are the registers'")]
pub struct SystemRegisters {
    pub cs: SegmentRegister,
    pub ds: SegmentRegister,
    pub es: SegmentRegister,
    pub fs: SegmentRegister,
    pub gs: SegmentRegister,
    pub ss: SegmentRegister,
    pub tr: SegmentRegister,
    pub ldt: SegmentRegister,
    pub gdt: DescriptorTable,
    pub idt: DescriptorTable,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    pub apic_base: u64,
    /// The page-directory pointers of PAE paging as the processor has loaded them, where it has.
    pub pdptrs: Option<[u64; 4]>,
}

/// EFER.SCE, SYSCALL is enabled.
pub const EFER_SCE: u64 = 1;
/// EFER.LMA, long mode is active.
pub const EFER_LMA: u64 = 1 << 10;
/// APIC_BASE.BSP, this is the bootstrap processor.
pub const APIC_BASE_BSP: u64 = 1 << 8;
/// APIC_BASE.EXTD, the local APIC is in x2APIC mode.
pub const APIC_BASE_X2APIC: u64 = 1 << 10;
/// APIC_BASE.EN, the local APIC is enabled.
pub const APIC_BASE_ENABLED: u64 = 1 << 11;
/// Where the local APIC is after reset.
pub const APIC_DEFAULT_BASE: u64 = 0xfee0_0000;

impl Default for SystemRegisters {
    /// The values after reset.
    fn default() -> Self {
        let data = || SegmentRegister::real_mode_data(0, 0);
        Self {
            cs: SegmentRegister {
                kind: 0xb,
                ..SegmentRegister::real_mode_data(0xf000, 0xffff_0000)
            },
            ds: data(),
            es: data(),
            fs: data(),
            gs: data(),
            ss: data(),
            tr: SegmentRegister {
                limit: 0xffff,
                kind: 0xb,
                present: true,
                ..SegmentRegister::default()
            },
            ldt: SegmentRegister {
                limit: 0xffff,
                kind: 2,
                present: true,
                ..SegmentRegister::default()
            },
            gdt: DescriptorTable { base: 0, limit: 0xffff },
            idt: DescriptorTable { base: 0, limit: 0xffff },
            cr0: 0x6000_0010,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            efer: 0,
            apic_base: APIC_DEFAULT_BASE | APIC_BASE_ENABLED,
            pdptrs: None,
        }
    }
}

/// The debug registers.
#[derive(VmState, Clone, Debug, PartialEq)]
pub struct DebugRegisters {
    /// DR0 to DR3, the addresses of breakpoints.
    pub dr: [u64; 4],
    /// What was hit.
    pub dr6: u64,
    /// What is watched.
    pub dr7: u64,
}

impl Default for DebugRegisters {
    /// The values after reset.
    fn default() -> Self {
        Self {
            dr: [0; 4],
            dr6: 0xffff_0ff0,
            dr7: 0x400,
        }
    }
}

/// An exception on its way to the guest.
#[derive(VmState, Default, Clone, Debug, PartialEq)]
pub struct ExceptionEvent {
    /// Its vector.
    pub vector: u8,
    /// Its delivery has begun: what it changes besides (CR2, DR6) is changed already.
    pub delivering: bool,
    /// The error code, where the vector has one.
    pub error_code: Option<u32>,
    /// The value that delivery will put into CR2 or DR6.
    pub payload: Option<u64>,
}

/// An interrupt whose delivery has begun and has not ended.
#[derive(VmState, Default, Clone, Debug, PartialEq)]
pub struct InterruptEvent {
    /// Its vector.
    pub vector: u8,
    /// It comes from an INT instruction.
    pub software: bool,
}

/// What is about to happen to a processor between two instructions.
#[derive(VmState, Default, Clone, Debug, PartialEq)]
pub struct CpuEvents {
    /// An exception that is pending or being delivered.
    pub exception: Option<ExceptionEvent>,
    /// An interrupt that is being delivered.
    pub interrupt: Option<InterruptEvent>,
    /// No interrupt is taken before the next instruction, as after STI.
    pub shadow_sti: bool,
    /// No interrupt is taken before the next instruction, as after MOV SS.
    pub shadow_mov_ss: bool,
    /// An NMI is being delivered.
    pub nmi_delivering: bool,
    /// So many NMIs are pending.
    pub nmi_pending: u8,
    /// NMIs wait for the next IRET.
    pub nmi_masked: bool,
    /// A triple fault is pending.
    pub triple_fault: bool,
}

/// What a processor is doing, as far as multiprocessor start-up is concerned.
#[derive(VmEnum, Default, Clone, Copy, Debug, PartialEq, Eq)]
pub enum MpState {
    /// It executes instructions.
    #[default]
    Runnable,
    /// It has been halted and waits for an interrupt.
    Halted,
    /// It has not been started: it waits for INIT.
    Uninitialized,
    /// It has got INIT and waits for SIPI.
    InitReceived,
    /// It has got SIPI and is about to start.
    SipiReceived,
}

/// The state of one processor.
#[derive(VmState, Clone, Debug, PartialEq)]
#[vmstate(name = "x86-cpu")]
pub struct CpuState {
    /// The general registers.
    pub general: GeneralRegisters,
    /// Segments and control registers.
    pub system: SystemRegisters,
    /// The debug registers.
    pub debug: DebugRegisters,
    /// The components that XSAVE may manage.
    pub xcr0: u64,
    /// Floating point, vectors and the other components of XSAVE.
    pub xsave: XsaveState,
    /// The model-specific registers of the model.
    pub msrs: MsrState,
    /// Exceptions and interrupts in flight.
    pub events: CpuEvents,
    /// Running, halted or not yet started.
    pub mp_state: MpState,
}

impl Default for CpuState {
    /// The state after reset of a processor that starts by itself.
    fn default() -> Self {
        Self {
            general: GeneralRegisters::default(),
            system: SystemRegisters::default(),
            debug: DebugRegisters::default(),
            xcr0: 1,
            xsave: XsaveState::default(),
            msrs: MsrState::default(),
            events: CpuEvents::default(),
            mp_state: MpState::default(),
        }
    }
}

impl CpuState {
    /// The state after reset: the bootstrap processor is ready to run, the others wait to be started.
    #[must_use]
    pub fn reset(bootstrap: bool) -> Self {
        let mut state = Self::default();
        if bootstrap {
            state.system.apic_base |= APIC_BASE_BSP;
        } else {
            state.mp_state = MpState::Uninitialized;
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_bootstrap_processor_starts_by_itself() {
        assert_eq!(CpuState::reset(true).mp_state, MpState::Runnable);
        assert_eq!(CpuState::reset(false).mp_state, MpState::Uninitialized);
        assert_eq!(CpuState::reset(false).system.apic_base & APIC_BASE_BSP, 0);
    }

    #[test]
    fn state_survives_its_own_description() {
        let mut state = CpuState::reset(true);
        state.events.exception = Some(ExceptionEvent {
            vector: 14,
            error_code: Some(2),
            ..ExceptionEvent::default()
        });
        state.system.pdptrs = Some([1, 2, 3, 4]);
        state.mp_state = MpState::Halted;
        let value = VmState::to_value(&state);
        assert_eq!(<CpuState as VmState>::from_value(&value).expect("loads"), state);
    }
}
