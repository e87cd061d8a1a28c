//! From the PVH entry to ring 3: static tables and the few instructions that run at CPL0.
//!
//! Both the first processor (from [`pvh_entry`](self), EBX = `hvm_start_info`) and the others (from the trampoline in
//! `smp.rs`, EBX = 0) come through `enter_long_mode`. What follows at ring 3 finishes the tables natively, since all
//! memory, these tables included, is mapped for the user.

use core::arch::global_asm;
use core::mem::offset_of;

use crate::cpu::{Cpu, IO_MAP_BYTES, IO_MAP_OFFSET};

/// Selector of the flat 64-bit code segment of ring 0.
pub const RING0_CODE: u16 = 0x10;
/// Selector of the flat data segment of ring 0.
pub const RING0_DATA: u16 = 0x18;
/// Selector of the flat data segment of ring 3.
pub const RING3_DATA: u16 = 0x23;
/// Selector of the flat 64-bit code segment of ring 3.
pub const RING3_CODE: u16 = 0x2b;
/// RFLAGS at ring 3: interrupts on, and IOPL 3. The latter is for QEMU's emulated SVM, which refuses the I/O bitmap of a
/// TSS that KVM has loaded; the bitmap is for a KVM whose IRETQ drops IOPL. A guest that has moved from the latter to the
/// former gets it back by the handler of its general-protection faults.
pub const RING3_FLAGS: u32 = 0x3202;
/// Selector of the first processor's TSS; the others follow in steps of 16.
pub const FIRST_TSS: u16 = 0x30;
/// How many processors the descriptor table has room for.
pub const MAX_CPUS: usize = 64;
/// Bytes of a ring-3 stack.
pub const STACK_BYTES: usize = 32 << 10;

/// CR4 as every processor runs with it: PAE, MCE, OSFXSR, OSXMMEXCPT. (MCE as every operating system has it: KVM on AMD runs
/// guests with the host's, and keeps that from them by an intercept that an emulated processor was seen to miss.)
pub const CR4: u64 = 0x660;
/// CR0 as every processor runs with it: PG, NE, ET, MP, PE.
pub const CR0: u64 = 0x8000_0033;

global_asm!(
    r#"
    .section .note.Xen, "a", @note
    .balign 4
    .long 4, 8, 18                  // name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_entry

    .section .boot, "ax"
    .code32
    .globl pvh_entry, enter_long_mode
pvh_entry:
enter_long_mode:
    mov eax, {cr4}
    mov cr4, eax
    mov eax, offset pml4
    mov cr3, eax
    mov ecx, 0xc0000080             // EFER
    mov eax, 0x100                  // LME
    xor edx, edx
    wrmsr
    mov eax, {cr0}
    mov cr0, eax
    lgdt [gdt_pointer]
    .byte 0xea                      // far jump
    .long long_mode
    .word {ring0_code}

    .code64
long_mode:
    mov edx, offset bsp_cpu
    test ebx, ebx
    jnz 1f
    mov eax, 0xfee00020             // the local APIC's id
    mov eax, [rax]
    shr eax, 24
    mov rdx, [cpu_by_apic_id + rax * 8]
1:  lidt [idt_pointer]
    ltr word ptr [rdx + {tss_selector}]
    lea rsp, [rdx + 4096]
    push {ring3_data}
    push qword ptr [rdx + {stack_top}]
    push {ring3_flags}
    push {ring3_code}
    push offset ring3_entry
    mov edi, ebx
    mov rsi, rdx
    iretq

    .text
ring3_entry:
    mov eax, {ring3_data}           // 64-bit code needs no segments; they are here to be kept
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    xor ebp, ebp
    test edi, edi
    jz 1f
    call bsp_main
1:  mov rdi, rsi
    call ap_main

    .section .tables, "aw"
    .balign 4096
    .globl pml4, pdpt, gdt, bsp_cpu
pml4:                               // flags: present, writable, user, accessed
    .quad pdpt + 0x27
    .fill 511, 8, 0
pdpt:                               // the rest of memory is mapped by ring 3 (memory.rs)
    .quad low_gib + 0x27, 0, 0, device_gib + 0x27
    .fill 508, 8, 0
low_gib:                            // 2 MiB pages, accessed and dirty already, so that nobody has to write that
    .set page, 0
    .rept 512
    .quad page * 0x200000 + 0xe7
    .set page, page + 1
    .endr

bsp_cpu:                            // struct Cpu of the first processor
    .long 0
    .quad bsp_cpu + 4096            // TSS: RSP0
    .fill 90, 1, 0
    .word {io_map_offset}           // TSS: the I/O bitmap, all its ports allowed
    .fill {io_map_bytes}, 1, 0
    .byte 0xff
    .balign 16, 0
    .fill {stack_top} - (. - bsp_cpu), 1, 0
    .quad bsp_stack + {stack_bytes}
    .fill {tss_selector} - (. - bsp_cpu), 1, 0
    .word {first_tss}
    .balign 4096, 0

    .balign 16
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff        // 08: ring 0 code, 32 bits
    .quad 0x00af9b000000ffff        // 10: ring 0 code, 64 bits
    .quad 0x00cf93000000ffff        // 18: ring 0 data
    .quad 0x00cff3000000ffff        // 20: ring 3 data
    .quad 0x00affb000000ffff        // 28: ring 3 code, 64 bits
    .quad bsp_tss_descriptor, 0     // 30: the TSS of each processor
    .fill ({max_cpus} - 1) * 2, 8, 0
gdt_end:

    .balign 16
    .globl gdt_pointer
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt
idt_pointer:
    .word 256 * 16 - 1
    .quad {idt}

    .section .bss
    .balign 4096
    .globl device_gib
device_gib:                         // the interrupt controllers are here (memory.rs)
    .skip 4096

    .section .noinit, "aw", @nobits
    .balign 4096
bsp_stack:
    .skip {stack_bytes}
    .text
"#,
    cr4 = const CR4,
    cr0 = const CR0,
    ring0_code = const RING0_CODE,
    ring3_data = const RING3_DATA,
    ring3_code = const RING3_CODE,
    ring3_flags = const RING3_FLAGS,
    first_tss = const FIRST_TSS,
    max_cpus = const MAX_CPUS,
    stack_bytes = const STACK_BYTES,
    io_map_offset = const IO_MAP_OFFSET,
    io_map_bytes = const IO_MAP_BYTES,
    tss_selector = const offset_of!(Cpu, tss_selector),
    stack_top = const offset_of!(Cpu, stack_top),
    idt = sym crate::interrupts::IDT,
);
