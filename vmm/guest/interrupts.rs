//! The interrupt descriptor table and its handlers, kept to a few instructions each since they run at ring 0.
//!
//! An interrupt adds one to its vector's counter in the processor's block and is acknowledged; ring 3 looks at the
//! counters. That of a timer which works by deadlines also sets the next one. UD2 at `ring0_gate` is a call, and three
//! instructions of `ring0.rs` may fault to say that something is not there. An I/O instruction faults where a KVM that
//! drops IOPL has moved the program to one that refuses the bitmap: it gets its IOPL back. Every other exception ends the
//! program with a message.

use core::arch::global_asm;
use core::cell::UnsafeCell;

use crate::boot::{RING0_CODE, RING3_CODE, RING3_DATA, RING3_FLAGS};
use crate::console::{self, line};
use crate::cpu::{COUNTED_VECTORS, Cpu};
use crate::ports::{self, EXIT_PANIC};

/// The local APIC's timer.
pub const TIMER: u8 = 0x20;
/// The serial port has received something.
pub const SERIAL: u8 = 0x21;
/// The interval timer of the board.
pub const PIT: u8 = 0x22;
/// The first processor asks another for an answer.
pub const PING: u8 = 0x23;
/// The board's timer by way of the first 8259, whose input 0 it is.
pub const PIC: u8 = 0x28;
/// The answers: one vector for each processor that answers, so that two cannot become one.
pub const FIRST_ANSWER: u8 = 0x30;
/// The vectors of the second 8259, which raises nothing.
pub const PIC_SECOND: u8 = 0x70;
/// What the local APIC raises when it has nothing to say; it is not acknowledged.
pub const SPURIOUS: u8 = 0x7f;

const _: () = assert!(FIRST_ANSWER as usize + crate::boot::MAX_CPUS <= PIC_SECOND as usize);

/// In RFLAGS.
const INTERRUPTS_ON: u32 = 0x200;
/// The privilege level up to which I/O needs no bitmap, in RFLAGS.
const IOPL: u32 = 0x3000;

const EXCEPTIONS: usize = 32;
const EXCEPTION_STUB_BYTES: usize = 16;
const INTERRUPT_STUB_BYTES: usize = 32;

/// A table that ring 3 fills before anything can be raised.
pub struct DescriptorTable(UnsafeCell<[[u64; 2]; 256]>);

// SAFETY: written once by the first processor before interrupts and other processors start.
unsafe impl Sync for DescriptorTable {}

/// The table that the processors' IDT registers point to.
pub static IDT: DescriptorTable = DescriptorTable(UnsafeCell::new([[0; 2]; 256]));

unsafe extern "C" {
    static exception_stubs: u8;
    static interrupt_stubs: u8;
    static exception_ud: u8;
    static exception_gp: u8;
    static interrupt_timer: u8;
    static interrupt_spurious: u8;
}

/// Fills the table.
pub fn install_handlers() {
    let address = |symbol: *const u8| symbol as u64;
    let gate = |handler: u64, privilege: u64| {
        [
            handler & 0xffff
                | u64::from(RING0_CODE) << 16
                | (0x8e00 | privilege << 13) << 32
                | (handler >> 16 & 0xffff) << 48,
            handler >> 32,
        ]
    };
    // SAFETY: called once, before anything else looks at the table.
    let table = unsafe { &mut *IDT.0.get() };
    let exceptions = address(&raw const exception_stubs);
    let interrupts = address(&raw const interrupt_stubs);
    for (vector, entry) in table[..EXCEPTIONS].iter_mut().enumerate() {
        // Breakpoint and overflow come by instructions of ring 3.
        let privilege = if vector == 3 || vector == 4 { 3 } else { 0 };
        *entry = gate(exceptions + (vector * EXCEPTION_STUB_BYTES) as u64, privilege);
    }
    table[6] = gate(address(&raw const exception_ud), 0);
    table[13] = gate(address(&raw const exception_gp), 0);
    for (number, entry) in table[EXCEPTIONS..COUNTED_VECTORS].iter_mut().enumerate() {
        *entry = gate(interrupts + (number * INTERRUPT_STUB_BYTES) as u64, 0);
    }
    table[usize::from(TIMER)] = gate(address(&raw const interrupt_timer), 0);
    table[usize::from(SPURIOUS)] = gate(address(&raw const interrupt_spurious), 0);
}

global_asm!(
    r#"
    .text
    .globl exception_stubs, interrupt_stubs, exception_ud, exception_gp, interrupt_spurious
    .globl interrupt_timer
    .balign 16
exception_stubs:
    .set vector, 0
    .rept 32
    .balign 16
    .if (0x60227d00 >> vector) & 1      // these push an error code
    .else
    push 0
    .endif
    push vector
    jmp exception
    .set vector, vector + 1
    .endr

exception_ud:
    cmp qword ptr [rsp], offset ring0_gate
    jne 1f
    add qword ptr [rsp], 2
    call rax
    iretq
1:  cmp qword ptr [rsp], offset avx_probe
    jne 1f
    mov qword ptr [rsp], offset avx_absent
    iretq
1:  push 0
    push 6
    jmp exception

exception_gp:
    cmp qword ptr [rsp + 8], offset ring0_read_msr
    je 2f
    cmp qword ptr [rsp + 8], offset ring0_wrmsr
    jne 1f
2:  mov qword ptr [rsp + 8], offset ring0_refused
    add rsp, 8
    iretq
1:  bt dword ptr [rsp + 24], 13         // an I/O instruction without IOPL: see RING3_FLAGS
    jc 1f
    push rax
    mov rax, [rsp + 16]
    cmp byte ptr [rax], 0xf3
    jne 2f
    inc rax
2:  mov al, [rax]
    and al, 0x7c                        // INS, OUTS: 6c to 6f; IN, OUT: ec to ef
    cmp al, 0x6c
    pop rax
    jne 1f
    add rsp, 8
    or dword ptr [rsp + 16], {iopl}
    iretq
1:  push 13

exception:                          // vector, error code, RIP, CS, ...: tell them to ring 3
    pop rdi
    pop rdx
    pop rsi
    mov rcx, cr2
    mov rax, rsp
    and rax, -4096
    inc dword ptr [rax + {exceptions}]
    cmp dword ptr [rax + {exceptions}], 1
    jne fatal
    push {ring3_data}
    push qword ptr [rax + {stack_top}]
    push {ring3_flags}
    push {ring3_code}
    push offset exception_at_ring3
    iretq

fatal:                              // not even the message worked: a shutdown is one, too
    push 0
    push 0
    lidt [rsp]
    ud2

exception_at_ring3:
    xor ebp, ebp
    call unexpected_exception

interrupt_timer:                    // here, as ring 3 may be about to sleep until the next tick
    push rax
    mov rax, rsp
    and rax, -4096
    inc qword ptr [rax + {counters} + 8 * {timer}]
    cmp qword ptr [rax + {deadline_ticks}], 0
    je 1f
    push rcx
    push rdx
    push r8
    mov r8, [rax + {deadline_ticks}]
    call ring0_set_deadline
    pop r8
    pop rdx
    pop rcx
1:  mov eax, 0xfee000b0             // the local APIC's end-of-interrupt register
    mov dword ptr [rax], 0
    pop rax
    iretq

interrupt_spurious:
    iretq

    .balign 32
interrupt_stubs:
    .set vector, 32
    .rept {counted_vectors} - 32
    .balign 32
    push rax
    mov rax, rsp
    and rax, -4096
    inc qword ptr [rax + {counters} + 8 * vector]
    mov eax, 0xfee000b0             // the local APIC's end-of-interrupt register
    mov dword ptr [rax], 0
    pop rax
    iretq
    .set vector, vector + 1
    .endr
"#,
    counted_vectors = const COUNTED_VECTORS,
    counters = const Cpu::COUNTERS,
    exceptions = const Cpu::EXCEPTIONS,
    ring3_flags = const RING3_FLAGS & !INTERRUPTS_ON,
    iopl = const RING3_FLAGS & IOPL,
    timer = const TIMER,
    deadline_ticks = const core::mem::offset_of!(Cpu, deadline_ticks),
    stack_top = const core::mem::offset_of!(Cpu, stack_top),
    ring3_data = const RING3_DATA,
    ring3_code = const RING3_CODE,
);

#[unsafe(no_mangle)]
extern "C" fn unexpected_exception(vector: u64, rip: u64, error: u64, cr2: u64) -> ! {
    console::seize();
    line!("panic vec={vector} rip={rip:#x} err={error:#x} cr2={cr2:#x}");
    ports::exit(EXIT_PANIC)
}
