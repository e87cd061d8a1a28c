//! The few things that only ring 0 can do, done for ring 3.
//!
//! `ring0_call` executes UD2 at a known address; the handler of the exception calls the routine in RAX at ring 0 and
//! returns past the UD2. (INT and SYSCALL would be the usual ways; not every KVM lets ring 3 use them.)

use core::arch::{asm, global_asm};

use crate::boot::CR4;

global_asm!(
    r#"
    .text
    .globl ring0_call, ring0_gate, avx_probe, avx_absent, ring0_halt, ring0_read_msr, ring0_wrmsr, ring0_refused
    .globl ring0_set_deadline
ring0_call:
ring0_gate:
    ud2
    ret

avx_probe:                          // may fault: interrupts.rs then goes on at avx_absent
    vzeroupper
    mov eax, 1
    ret
avx_absent:
    xor eax, eax
    ret

ring0_halt:
    sti
    hlt
    ret

ring0_cpuid:                        // R8, RCX: leaf and sub-leaf
    mov eax, r8d
    mov r10, rbx
    cpuid
    mov r8, rbx
    mov rbx, r10
    ret

ring0_read_msr:                     // may fault: interrupts.rs then goes on at ring0_refused
    rdmsr
    xor r8d, r8d
    ret

ring0_write_msr:                    // the same
    mov eax, r8d
ring0_wrmsr:
    wrmsr
    xor r8d, r8d
    ret

ring0_refused:
    mov r8d, 1
    ret

ring0_set_deadline:                 // R8: ticks from now
    rdtsc
    shl rdx, 32
    add rax, rdx
    add rax, r8
    mov rdx, rax
    shr rdx, 32
    mov ecx, 0x6e0                  // IA32_TSC_DEADLINE
    wrmsr
    ret

ring0_read_system:                  // R8: to where, in the order of ring0::System
    mov rax, cr0
    mov [r8], rax
    mov rax, cr2
    mov [r8 + 8], rax
    mov rax, cr3
    mov [r8 + 16], rax
    mov rax, cr4
    mov [r8 + 24], rax
    mov rax, dr0
    mov [r8 + 32], rax
    mov rax, dr1
    mov [r8 + 40], rax
    mov rax, dr2
    mov [r8 + 48], rax
    mov rax, dr3
    mov [r8 + 56], rax
    mov rax, dr6
    mov [r8 + 64], rax
    mov rax, dr7
    mov [r8 + 72], rax
    sgdt [r8 + 80]
    sidt [r8 + 96]
    str word ptr [r8 + 112]
    sldt word ptr [r8 + 120]
    mov word ptr [r8 + 128], ds
    mov word ptr [r8 + 136], es
    mov word ptr [r8 + 144], fs
    mov word ptr [r8 + 152], gs
    ret

ring0_write_system:                 // R8: from where, in the order of ring0::Idle
    mov rax, [r8]
    mov cr2, rax
    mov rax, [r8 + 8]
    mov dr0, rax
    mov rax, [r8 + 16]
    mov dr1, rax
    mov rax, [r8 + 24]
    mov dr2, rax
    mov rax, [r8 + 32]
    mov dr3, rax
    mov rax, [r8 + 40]
    mov dr6, rax
    mov rax, [r8 + 48]
    mov dr7, rax
    ret

ring0_enable_avx:                   // R8: CR4
    mov cr4, r8
    xor ecx, ecx
    xor edx, edx
    mov eax, 7                      // x87, SSE, AVX
    xsetbv
    ret
"#
);

/// CPUID as the hypervisor answers it; at ring 3 it may be the host's.
pub fn cpuid(leaf: u32, sub_leaf: u32) -> [u32; 4] {
    let (a, b, c, d): (u32, u32, u32, u32);
    // SAFETY: the routine preserves RBX and changes only the registers named.
    unsafe {
        asm!(
            "mov rax, offset ring0_cpuid", "call ring0_call",
            inout("r8d") leaf => b, inout("ecx") sub_leaf => c, out("eax") a, out("edx") d, out("r10") _,
        );
    }
    [a, b, c, d]
}

/// A model-specific register, unless the processor refuses to read it.
pub fn read_msr(register: u32) -> Option<u64> {
    let (low, high, refused): (u32, u32, u32);
    // SAFETY: reading a register that is not there faults, and the handler answers that by `refused`.
    unsafe {
        asm!(
            "mov rax, offset ring0_read_msr", "call ring0_call",
            in("ecx") register, out("eax") low, out("edx") high, out("r8d") refused,
        );
    }
    (refused == 0).then_some(u64::from(high) << 32 | u64::from(low))
}

/// Writes a model-specific register. Returns whether the processor took it.
///
/// # Safety
///
/// The value must be one that the program can live with: some registers move the ground under it.
pub unsafe fn write_msr(register: u32, value: u64) -> bool {
    let refused: u32;
    // SAFETY: the routine changes only RAX beside the register; the caller answers for that.
    unsafe {
        asm!(
            "mov rax, offset ring0_write_msr", "call ring0_call",
            in("ecx") register, inout("r8d") value as u32 => refused, in("edx") (value >> 32) as u32, out("rax") _,
        );
    }
    refused == 0
}

/// Has the local APIC's timer interrupt when the TSC is so many ticks on.
pub fn set_deadline(ticks: u64) {
    // SAFETY: the routine changes the three registers. The fence orders it after the write of the timer's mode (Intel's
    // manual, volume 3, section 10.5.4.1).
    unsafe {
        asm!("mfence", "mov rax, offset ring0_set_deadline", "call ring0_call",
            in("r8") ticks, out("rax") _, out("rcx") _, out("rdx") _);
    }
}

/// Sleeps until the next interrupt.
pub fn halt() {
    // SAFETY: the routine changes RAX alone.
    unsafe { asm!("mov rax, offset ring0_halt", "call ring0_call", out("rax") _) }
}

/// Control registers, debug registers, tables and selectors.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct System {
    /// CR0, CR2, CR3, CR4.
    pub control: [u64; 4],
    /// DR0 to DR3, DR6, DR7.
    pub debug: [u64; 6],
    /// Limit and base of the GDT and of the IDT, as SGDT and SIDT store them.
    pub tables: [[u64; 2]; 2],
    /// Selectors of the TSS and of the LDT, and DS, ES, FS, GS. (Some KVMs do not show ring 3 the last four.)
    pub selectors: [u64; 6],
}

/// Reads them.
pub fn read_system() -> System {
    let mut system = System::default();
    // SAFETY: the routine writes the structure and RAX.
    unsafe {
        asm!("mov rax, offset ring0_read_system", "call ring0_call", in("r8") &raw mut system, out("rax") _);
    }
    system
}

/// Registers that nothing here uses.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Idle {
    /// CR2, which only page faults set.
    pub cr2: u64,
    /// DR0 to DR3, DR6, DR7.
    pub debug: [u64; 6],
}

/// Writes them.
///
/// # Safety
///
/// No breakpoint may be enabled by them.
pub unsafe fn write_idle(idle: &Idle) {
    // SAFETY: the routine reads the structure and changes RAX; the caller answers for the breakpoints.
    unsafe {
        asm!("mov rax, offset ring0_write_system", "call ring0_call", in("r8") &raw const *idle, out("rax") _);
    }
}

/// Enables AVX on this processor, if it has it.
pub fn enable_avx() -> bool {
    const XSAVE_AND_AVX: u32 = 1 << 26 | 1 << 28;
    const OSXSAVE: u64 = 1 << 18;
    if cpuid(1, 0)[2] & XSAVE_AND_AVX != XSAVE_AND_AVX {
        return false;
    }
    let usable: u32;
    // SAFETY: CR4 gets one bit more, which the processor has; an AVX instruction that faults all the same is caught.
    unsafe {
        asm!("mov rax, offset ring0_enable_avx", "call ring0_call", "call avx_probe",
            in("r8") CR4 | OSXSAVE, out("eax") usable, out("rcx") _, out("rdx") _, clobber_abi("C"));
    }
    usable != 0
}
