//! The other processors: who they are, and how they start.

use core::arch::global_asm;
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::apic;
use crate::boot::{CR0, FIRST_TSS, MAX_CPUS, RING0_DATA, STACK_BYTES};
use crate::cpu::{Cpu, Stage};
use crate::memory::Memory;

/// Where the trampoline goes; what the VMM left in low memory has been read by then.
const TRAMPOLINE: usize = 0x8000;

/// Blocks of the processors by local APIC id, for `boot.rs`.
#[unsafe(export_name = "cpu_by_apic_id")]
static CPU_BY_APIC_ID: [AtomicU64; 256] = [const { AtomicU64::new(0) }; 256];

unsafe extern "C" {
    static bsp_cpu: Cpu;
    static mut gdt: [[u64; 2]; FIRST_TSS as usize / 16 + MAX_CPUS];
    static trampoline_start: u8;
    static trampoline_end: u8;
}

// Real mode, at TRAMPOLINE: to protected mode, and on with EBX = 0 as the first processor went.
global_asm!(
    r#"
    .section .boot, "ax"
    .code16
    .globl trampoline_start, trampoline_end
trampoline_start:
    cli
    mov ax, cs
    mov ds, ax
    .byte 0x66, 0x0f, 0x01, 0x16    // lgdt, 32 bits
    .word gdt_pointer_copy - trampoline_start
    mov eax, {protected}
    mov cr0, eax
    .byte 0x66, 0xea                // far jump, 32 bits
    .long protected_mode
    .word 8
    .balign 4
gdt_pointer_copy:
    .word 0x37
    .long gdt
trampoline_end:

    .code32
protected_mode:
    mov eax, {ring0_data}
    mov ds, eax
    xor ebx, ebx
    jmp enter_long_mode
    .code64
    .text
"#,
    ring0_data = const RING0_DATA,
    protected = const CR0 & !(1 << 31),
);

/// The local APIC ids of all processors; the one that booted comes first.
pub struct ApicIds {
    ids: [u32; MAX_CPUS],
    count: usize,
}

impl ApicIds {
    /// Those that the MP table lists, or else `count` from 0.
    pub fn find(count: usize) -> ApicIds {
        let mut found = ApicIds {
            ids: [apic::id(); MAX_CPUS],
            count: 1,
        };
        if !mp_table::each_processor(|id| found.add(id)) {
            (0..count.min(MAX_CPUS) as u32).for_each(|id| found.add(id));
        }
        found
    }

    fn add(&mut self, id: u32) {
        if id != self.ids[0] && self.count < MAX_CPUS {
            self.ids[self.count] = id;
            self.count += 1;
        }
    }

    /// How many processors.
    pub fn count(&self) -> usize {
        self.count
    }
}

/// All processors; the one that booted is the first.
pub struct CpuList {
    cpus: [&'static Cpu; MAX_CPUS],
    count: usize,
}

impl CpuList {
    /// Makes what the processors need to start: block, stack, TSS.
    pub fn prepare(memory: &mut Memory, ids: &ApicIds) -> Option<CpuList> {
        // SAFETY: the block lies in the image, and what is used of it from here on are atomics.
        let first = unsafe { &bsp_cpu };
        first.apic_id.store(ids.ids[0], Ordering::Relaxed);
        let mut list = CpuList {
            cpus: [first; MAX_CPUS],
            count: ids.count,
        };
        for (index, &id) in ids.ids[..ids.count].iter().enumerate().skip(1) {
            let [cpu] = memory.take_slice::<Cpu>(1)? else {
                return None;
            };
            let stack = memory.take(STACK_BYTES as u64)?;
            cpu.prepare(
                index as u32,
                id,
                FIRST_TSS + 16 * index as u16,
                stack + STACK_BYTES as u64,
            );
            // SAFETY: descriptors of processors that do not run yet.
            unsafe { gdt[usize::from(FIRST_TSS) / 16 + index] = cpu.tss_descriptor() }
            CPU_BY_APIC_ID[id as usize & 0xff].store(cpu.address(), Ordering::Release);
            list.cpus[index] = cpu;
        }
        Some(list)
    }

    /// All processors.
    pub fn cpus(&self) -> &[&'static Cpu] {
        &self.cpus[..self.count]
    }

    /// Starts all but the first.
    pub fn start(&self) {
        // SAFETY: low memory holds nothing that is still needed, and the trampoline is code, not data.
        unsafe {
            let start = &raw const trampoline_start;
            let length = (&raw const trampoline_end).offset_from(start) as usize;
            ptr::copy_nonoverlapping(start, ptr::with_exposed_provenance_mut(TRAMPOLINE), length);
        }
        let (first, others) = (self.cpus[0], &self.cpus()[1..]);
        for cpu in others {
            apic::send_init(first, cpu);
        }
        for _ in 0..2 {
            // Hardware wants the second one if it missed the first.
            for cpu in others.iter().filter(|cpu| !cpu.has_reached(Stage::Started)) {
                apic::send_startup(first, cpu, (TRAMPOLINE >> 12) as u8);
            }
        }
    }
}

/// The list of processors by Intel's MultiProcessor Specification 1.4, chapter 4.
mod mp_table {
    use core::ptr;

    /// Where the pointer to the table may be: the last KiB of base memory, or the BIOS.
    const AREAS: [(usize, usize); 2] = [(0x9fc00, 0xa0000), (0xf0000, 0x100000)];
    const HEADER_BYTES: usize = 44;
    const PROCESSOR: u8 = 0;
    const PROCESSOR_BYTES: usize = 20;
    const OTHER_BYTES: usize = 8;
    const ENABLED: u8 = 1;
    /// Processors alone could be 255, and there are other entries.
    const MAX_ENTRIES: u16 = 1024;

    fn read<T: Copy>(address: usize) -> T {
        // SAFETY: the callers read numbers from memory below 4 GiB, all mapped (what is no RAM reads as ones).
        unsafe { ptr::with_exposed_provenance::<T>(address).read_unaligned() }
    }

    /// Gives each processor's local APIC id to `found`. Returns whether there is a table.
    pub fn each_processor(mut found: impl FnMut(u32)) -> bool {
        let places = AREAS.iter().flat_map(|&(start, end)| (start..end).step_by(16));
        let Some(pointer) = places.into_iter().find(|&place| read::<[u8; 4]>(place) == *b"_MP_") else {
            return false;
        };
        let table = read::<u32>(pointer + 4) as usize;
        if table == 0 || read::<[u8; 4]>(table) != *b"PCMP" {
            return false;
        }
        let mut entry = table + HEADER_BYTES;
        for _ in 0..read::<u16>(table + 34).min(MAX_ENTRIES) {
            if read::<u8>(entry) != PROCESSOR {
                entry += OTHER_BYTES;
                continue;
            }
            if read::<u8>(entry + 3) & ENABLED != 0 {
                found(u32::from(read::<u8>(entry + 1)));
            }
            entry += PROCESSOR_BYTES;
        }
        true
    }
}
