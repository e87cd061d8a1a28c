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
}

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
    register: &'static str,
    number: usize,
    expected: u64,
    found: u64,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lost {
            register,
            number,
            expected,
            found,
        } = self;
        write!(f, "{register}{number} expected {expected:#x} found {found:#x}")
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
        (result, self.area.expected.compare(&self.area.found))
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
        // All exceptions masked; rounding, precision, flush-to-zero and denormals-are-zero vary.
        let mxcsr = 0x1f80 | (seed as u32 & 0xe040);
        let control = 0x037f ^ (seed >> 32) as u16 & 0x0c00;
        Registers {
            vectors,
            x87,
            mxcsr,
            control,
            status: 0,
        }
    }

    fn compare(&self, found: &Registers) -> Result<(), Lost> {
        let check = |register, number, expected, found| {
            if expected == found {
                Ok(())
            } else {
                Err(Lost {
                    register,
                    number,
                    expected,
                    found,
                })
            }
        };
        for (number, (expected, found)) in self.vectors.iter().zip(&found.vectors).enumerate() {
            for (word, (&expected, &found)) in expected.iter().zip(found).enumerate() {
                check(if word < 2 { "xmm" } else { "ymm" }, number, expected, found)?;
            }
        }
        for (number, (expected, found)) in self.x87.iter().zip(&found.x87).enumerate() {
            check("st", number, expected[0], found[0])?;
            check("st", number, expected[1], found[1] & 0xffff)?;
        }
        check("mxcsr", 0, self.mxcsr.into(), found.mxcsr.into())?;
        check("fcw", 0, self.control.into(), found.control.into())?;
        check("fsw", 0, self.status.into(), found.status.into())
    }
}

global_asm!(
    r#"
    .text
    .globl guarded, guarded_halt, guarded_fill, guarded_compare
guarded:                            // RDI: area, RSI: work, RDX: items, RCX: count
    push rbx
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
    pop rbx
    ret

guarded_halt:
    mov rax, offset ring0_halt
    jmp ring0_call

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
    avx = const offset_of!(Area, avx),
);
