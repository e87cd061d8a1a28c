//! All long work happens with the floating-point and vector registers full of values that nothing else knows.
//!
//! The loops that fill and compare pages, and the sleep until the next interrupt, use integer registers only. Around
//! each, every x87, SSE and (where enabled) AVX register and both control words get a value that differs from call to
//! call, and are compared afterwards. Whoever stops the processor meanwhile and loses part of that state is found out;
//! and since the values come from a counter in memory, so is memory that is older than the registers.

use core::arch::global_asm;
use core::fmt;
use core::mem::offset_of;

use crate::pattern::mix;

/// How many pages a piece of work has at most.
pub const BATCH: usize = 64;

/// A page to fill or to compare: word *i* is `first + i * step`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Item {
    /// Address of the page.
    pub address: u64,
    /// Its first word.
    pub first: u64,
    /// What is added from word to word.
    pub step: u64,
}

/// The registers under guard.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Registers {
    vectors: [[u64; 4]; 16],
    x87: [[u64; 2]; 8],
    mxcsr: u32,
    control: u16,
    status: u16,
    general: [u64; GENERAL.len()],
}

/// The general registers under guard: those that no work uses, and those that only sleeping leaves alone.
const GENERAL: [&str; 14] = [
    "rsi", "rbp", "r11", "r12", "r13", "r14", "r15", "rax", "rbx", "rcx", "rdx", "r8", "r9", "r10",
];
const GENERAL_AT_WORK: usize = 7;

/// What `guarded_*` work on.
#[repr(C, align(64))]
struct Area {
    expected: Registers,
    found: Registers,
    avx: u64,
    items: [Item; BATCH],
}

/// The guard of one processor.
pub struct Guard {
    area: Area,
    salt: u64,
    calls: u64,
    queued: usize,
}

/// A register that came back with another value.
pub struct Lost {
    kind: &'static str,
    register: &'static str,
    number: Option<usize>,
    expected: u64,
    found: u64,
}

impl Lost {
    /// What is to blame: `fpu` or `general`.
    pub fn kind(&self) -> &'static str {
        self.kind
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lost {
            register,
            number,
            expected,
            found,
            ..
        } = self;
        f.write_str(register)?;
        if let Some(number) = number {
            write!(f, "{number}")?;
        }
        write!(f, " expected {expected:#x} found {found:#x}")
    }
}

unsafe extern "C" {
    /// Runs `work` on the first `count` items under guard; what it returns is what `work` returns.
    fn guarded(area: *mut Area, work: unsafe extern "C" fn(), items: *const Item, count: usize) -> usize;
    fn guarded_halt();
    fn guarded_fill();
    fn guarded_compare();
}

impl Guard {
    /// A guard whose values depend on `salt`.
    pub const fn new(salt: u64) -> Guard {
        let registers = Registers {
            vectors: [[0; 4]; 16],
            x87: [[0; 2]; 8],
            mxcsr: 0,
            control: 0,
            status: 0,
            general: [0; GENERAL.len()],
        };
        let items = [Item {
            address: 0,
            first: 0,
            step: 0,
        }; BATCH];
        let area = Area {
            expected: registers,
            found: registers,
            avx: 0,
            items,
        };
        Guard {
            area,
            salt,
            calls: 0,
            queued: 0,
        }
    }

    /// Whether no more items fit in.
    pub fn is_full(&self) -> bool {
        self.queued == BATCH
    }

    /// Guards the AVX registers, too.
    pub fn enable_avx(&mut self) {
        self.area.avx = 1;
    }

    /// How many pages have been pushed.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Adds a page to the next piece of work.
    pub fn push(&mut self, item: Item) {
        self.area.items[self.queued] = item;
        self.queued += 1;
    }

    /// Sleeps until the next interrupt.
    pub fn halt(&mut self) -> Result<(), Lost> {
        self.run(guarded_halt, 0).1
    }

    /// Fills the pages pushed.
    pub fn fill(&mut self) -> Result<(), Lost> {
        let count = core::mem::take(&mut self.queued);
        self.run(guarded_fill, count).1
    }

    /// Compares the pages pushed with what they should hold; gives those that differ to `differs`.
    pub fn compare(&mut self, mut differs: impl FnMut(usize)) -> Result<(), Lost> {
        let count = core::mem::take(&mut self.queued);
        let mut outcome = Ok(());
        let mut position = 0;
        while position < count {
            let (equal, found) = self.run_from(guarded_compare, position, count - position);
            outcome = outcome.and(found);
            position += equal;
            if position < count {
                differs(position);
                position += 1;
            }
        }
        outcome
    }

    fn run(&mut self, work: unsafe extern "C" fn(), count: usize) -> (usize, Result<(), Lost>) {
        self.run_from(work, 0, count)
    }

    fn run_from(&mut self, work: unsafe extern "C" fn(), from: usize, count: usize) -> (usize, Result<(), Lost>) {
        self.calls += 1;
        let seed = mix(self.salt.wrapping_add(self.calls));
        self.area.expected = Registers::distinctive(seed, self.area.avx != 0);
        let items = self.area.items[from..from + count].as_ptr();
        // SAFETY: the items are pages of the working set of this processor, which nothing else refers to, and the
        // registers that the call leaves changed are those that the calling convention lets it change.
        let result = unsafe { guarded(&raw mut self.area, work, items, count) };
        let asleep = core::ptr::fn_addr_eq(work, guarded_halt as unsafe extern "C" fn());
        let general = if asleep { GENERAL.len() } else { GENERAL_AT_WORK };
        (result, self.area.expected.compare(&self.area.found, general))
    }
}

impl Registers {
    /// Values that differ from register to register and from `seed` to `seed`.
    fn distinctive(seed: u64, avx: bool) -> Registers {
        let mut word = seed;
        let mut next = || {
            word = word
                .wrapping_mul(0xd134_2543_de82_ef95)
                .wrapping_add(0x2545_f491_4f6c_dd1d);
            word
        };
        let mut vectors = [[0; 4]; 16];
        for vector in &mut vectors {
            let words = if avx { 4 } else { 2 };
            vector[..words].fill_with(&mut next);
        }
        let mut x87 = [[0; 2]; 8];
        for number in &mut x87 {
            // A normal number: explicit leading bit, an exponent around that of 1.0.
            *number = [next() | 1 << 63, 0x3f00 + (next() >> 57)];
        }
        // All exceptions masked; rounding, flush-to-zero and denormals-are-zero vary, and never is rounding as at reset.
        let rounding = 1 + seed % 3;
        let mxcsr = 0x1f80 | (rounding as u32) << 13 | (seed >> 32) as u32 & 0x8040;
        let control = 0x037f | (rounding as u16) << 10;
        let mut general = [0; GENERAL.len()];
        general.fill_with(&mut next);
        Registers {
            vectors,
            x87,
            mxcsr,
            control,
            status: 0,
            general,
        }
    }

    /// Compares all, of the general registers the first `general`.
    fn compare(&self, found: &Registers, general: usize) -> Result<(), Lost> {
        let fpu = |register, number, expected: u64, found: u64| differ("fpu", register, number, expected, found);
        for (number, (expected, found)) in self.vectors.iter().zip(&found.vectors).enumerate() {
            for (word, (&expected, &found)) in expected.iter().zip(found).enumerate() {
                fpu(if word < 2 { "xmm" } else { "ymm" }, Some(number), expected, found)?;
            }
        }
        for (number, (expected, found)) in self.x87.iter().zip(&found.x87).enumerate() {
            fpu("st", Some(number), expected[0], found[0])?;
            fpu("st", Some(number), expected[1], found[1] & 0xffff)?;
        }
        fpu("mxcsr", None, self.mxcsr.into(), found.mxcsr.into())?;
        fpu("fcw", None, self.control.into(), found.control.into())?;
        fpu("fsw", None, self.status.into(), found.status.into())?;
        for (register, (&expected, &found)) in GENERAL[..general].iter().zip(self.general.iter().zip(&found.general)) {
            differ("general", register, None, expected, found)?;
        }
        Ok(())
    }
}

fn differ(
    kind: &'static str,
    register: &'static str,
    number: Option<usize>,
    expected: u64,
    found: u64,
) -> Result<(), Lost> {
    if expected == found {
        return Ok(());
    }
    Err(Lost {
        kind,
        register,
        number,
        expected,
        found,
    })
}

global_asm!(
    r#"
    .text
    .globl guarded, guarded_halt, guarded_fill, guarded_compare
guarded:                            // RDI: area, RSI: work, RDX: items, RCX: count
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov [rdi + {expected_general}], rsi
    mov rbp, [rdi + {expected_general} + 8]
    .irp number, 11, 12, 13, 14, 15
    mov r\number, [rdi + {expected_general} + 16 + 8 * (\number - 11)]
    .endr
    fninit
    .irp number, 7, 6, 5, 4, 3, 2, 1, 0
    fld tbyte ptr [rdi + {expected_x87} + 16 * \number]
    .endr
    fldcw word ptr [rdi + {expected_control}]
    ldmxcsr dword ptr [rdi + {expected_mxcsr}]
    cmp qword ptr [rdi + {avx}], 0
    jne 1f
    .irp number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movups xmm\number, xmmword ptr [rdi + {expected_vectors} + 32 * \number]
    .endr
    jmp 2f
1:  .irp number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    vmovups ymm\number, ymmword ptr [rdi + {expected_vectors} + 32 * \number]
    .endr

2:  call rsi

    mov [rdi + {found_general}], rsi
    mov [rdi + {found_general} + 8], rbp
    .irp number, 11, 12, 13, 14, 15
    mov [rdi + {found_general} + 16 + 8 * (\number - 11)], r\number
    .endr
    cmp qword ptr [rdi + {avx}], 0
    jne 3f
    .irp number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movups xmmword ptr [rdi + {found_vectors} + 32 * \number], xmm\number
    .endr
    jmp 4f
3:  .irp number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    vmovups ymmword ptr [rdi + {found_vectors} + 32 * \number], ymm\number
    .endr
    vzeroupper
4:  stmxcsr dword ptr [rdi + {found_mxcsr}]
    fnstcw word ptr [rdi + {found_control}]
    fnstsw word ptr [rdi + {found_status}]
    .irp number, 0, 1, 2, 3, 4, 5, 6, 7
    fstp tbyte ptr [rdi + {found_x87} + 16 * \number]
    .endr
    fninit
    push 0x1f80
    ldmxcsr dword ptr [rsp]
    pop rcx
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

guarded_halt:                       // here the rest of the general registers is free, too
    mov rax, offset ring0_halt
    mov [rdi + {expected_general} + 8 * 7], rax
    .set position, 8
    .irp register, rbx, rcx, rdx, r8, r9, r10
    mov \register, [rdi + {expected_general} + 8 * position]
    .set position, position + 1
    .endr
    call ring0_call
    .set position, 7
    .irp register, rax, rbx, rcx, rdx, r8, r9, r10
    mov [rdi + {found_general} + 8 * position], \register
    .set position, position + 1
    .endr
    ret

guarded_fill:                       // eight words a turn
    test rcx, rcx
    jz 3f
1:  mov r8, [rdx]
    mov rax, [rdx + 8]
    mov r9, [rdx + 16]
    lea r10, [r8 + 4096]
2:  .irp word, 0, 1, 2, 3, 4, 5, 6, 7
    mov [r8 + 8 * \word], rax
    add rax, r9
    .endr
    add r8, 64
    cmp r8, r10
    jne 2b
    add rdx, 24
    dec rcx
    jnz 1b
3:  ret

guarded_compare:                    // returns how many pages are right before the first wrong one
    mov rbx, rcx
    test rcx, rcx
    jz 3f
1:  mov r8, [rdx]
    mov rax, [rdx + 8]
    mov r9, [rdx + 16]
    lea r10, [r8 + 4096]
2:  .irp word, 0, 1, 2, 3, 4, 5, 6, 7
    cmp [r8 + 8 * \word], rax
    jne 3f
    add rax, r9
    .endr
    add r8, 64
    cmp r8, r10
    jne 2b
    add rdx, 24
    dec rcx
    jnz 1b
3:  mov rax, rbx
    sub rax, rcx
    ret
"#,
    expected_vectors = const offset_of!(Area, expected) + offset_of!(Registers, vectors),
    expected_x87 = const offset_of!(Area, expected) + offset_of!(Registers, x87),
    expected_mxcsr = const offset_of!(Area, expected) + offset_of!(Registers, mxcsr),
    expected_control = const offset_of!(Area, expected) + offset_of!(Registers, control),
    found_vectors = const offset_of!(Area, found) + offset_of!(Registers, vectors),
    found_x87 = const offset_of!(Area, found) + offset_of!(Registers, x87),
    found_mxcsr = const offset_of!(Area, found) + offset_of!(Registers, mxcsr),
    found_control = const offset_of!(Area, found) + offset_of!(Registers, control),
    found_status = const offset_of!(Area, found) + offset_of!(Registers, status),
    expected_general = const offset_of!(Area, expected) + offset_of!(Registers, general),
    found_general = const offset_of!(Area, found) + offset_of!(Registers, general),
    avx = const offset_of!(Area, avx),
);
