//! ELF kernels, such as the `vmlinux` of a build of Linux.

use std::io::Cursor;

use hw::i386::microvm::layout;
use linux_loader::loader::KernelLoader;
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::{BootError, KernelFault};

/// The first bytes of every ELF file.
pub(super) const MAGIC: &[u8] = b"\x7fELF";
/// `e_ident[EI_CLASS]` of a 64-bit file.
const CLASS_64: u8 = 2;
/// `e_machine` of x86-64.
const MACHINE_X86_64: u64 = 62;
/// Bytes of a program header.
const PROGRAM_HEADER: usize = 56;

/// An ELF kernel in the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LoadedElf {
    /// The entry of the PVH protocol, where the kernel has a note of it.
    pub pvh_entry: Option<u64>,
    /// The entry that the file's header names, for 64-bit code.
    pub entry: u64,
    /// The first address behind the kernel.
    pub end: u64,
}

/// Copies the segments of `kernel` to their physical addresses.
///
/// `fresh` says that the memory still holds zeros, which spares the clearing of what the kernel wants zeroed.
pub(super) fn load<M: GuestMemoryBackend>(
    memory: &M,
    kernel: &[u8],
    low_end: u64,
    fresh: bool,
) -> Result<LoadedElf, BootError> {
    if kernel.get(4) != Some(&CLASS_64) || field(kernel, 18, 2) != Some(MACHINE_X86_64) {
        return Err(BootError::Kernel(KernelFault::OtherMachine));
    }
    check_segments(kernel, low_end)?;
    if !fresh {
        clear_bss(memory, kernel)?;
    }
    let loaded = Elf::load(memory, None, &mut Cursor::new(kernel), None)
        .map_err(|error| BootError::Kernel(KernelFault::Elf(error)))?;
    let pvh_entry = match loaded.pvh_boot_cap {
        PvhBootCapability::PvhEntryPresent(entry) => Some(entry.0),
        PvhBootCapability::PvhEntryNotPresent | PvhBootCapability::PvhEntryIgnored => None,
    };
    if pvh_entry.is_none()
        && let Some(fault) = what_is_no_kernel(kernel)
    {
        return Err(BootError::Kernel(fault));
    }
    let entry = loaded.kernel_load.0;
    if pvh_entry.is_none() && !segments(kernel).any(|segment| segment.contains(entry)) {
        return Err(BootError::Kernel(KernelFault::NoEntry));
    }
    Ok(LoadedElf {
        pvh_entry,
        entry,
        end: loaded.kernel_end,
    })
}

/// A loadable segment of an ELF file (System V ABI, "Program Header").
struct Segment {
    address: u64,
    file_bytes: u64,
    memory_bytes: u64,
}

impl Segment {
    fn contains(&self, address: u64) -> bool {
        address
            .checked_sub(self.address)
            .is_some_and(|offset| offset < self.memory_bytes)
    }
}

/// The little-endian number of `bytes` bytes at `at`.
fn field(kernel: &[u8], at: usize, bytes: usize) -> Option<u64> {
    let mut value = [0; 8];
    value[..bytes].copy_from_slice(kernel.get(at..at.checked_add(bytes)?)?);
    Some(u64::from_le_bytes(value))
}

/// Types and places in the file of the program headers of `kernel`.
fn program_headers(kernel: &[u8]) -> impl Iterator<Item = (u64, usize)> {
    let table = field(kernel, 32, 8)
        .and_then(|at| usize::try_from(at).ok())
        .unwrap_or(usize::MAX);
    let count = field(kernel, 56, 2)
        .and_then(|count| usize::try_from(count).ok())
        .unwrap_or(0);
    (0..count).filter_map(move |index| {
        let at = table.checked_add(index * PROGRAM_HEADER)?;
        Some((field(kernel, at, 4)?, at))
    })
}

/// What says that this is a program such as /bin/sh, which wants an interpreter, or is to be relocated from address 0 on; or a kernel
/// that lies where the machine has its tables.
fn what_is_no_kernel(kernel: &[u8]) -> Option<KernelFault> {
    const INTERPRETER: u64 = 3;
    const LOWEST: u64 = 1 << 20;
    let lowest = segments(kernel).map(|segment| segment.address).min();
    if program_headers(kernel).any(|(kind, _)| kind == INTERPRETER) || lowest == Some(0) {
        return Some(KernelFault::Program);
    }
    lowest.filter(|lowest| *lowest < LOWEST).map(KernelFault::Low)
}

/// The loadable segments of `kernel`. linux-loader keeps its own list to itself, and does not clear what lies beyond a
/// segment's bytes of the file.
fn segments(kernel: &[u8]) -> impl Iterator<Item = Segment> {
    const LOAD: u64 = 1;
    program_headers(kernel).filter_map(move |(kind, at)| {
        (kind == LOAD).then_some(())?;
        Some(Segment {
            address: field(kernel, at.checked_add(24)?, 8)?,
            file_bytes: field(kernel, at.checked_add(32)?, 8)?,
            memory_bytes: field(kernel, at.checked_add(40)?, 8)?,
        })
    })
}

/// Segments lie in low memory, and all of them together are no more than the file and the memory have: a file of a few
/// kilobytes whose headers all name the same bytes would be copied for hours.
fn check_segments(kernel: &[u8], low_end: u64) -> Result<(), BootError> {
    let (mut file_left, mut memory_left) = (u64::try_from(kernel.len()).unwrap_or(0), low_end);
    for segment in segments(kernel) {
        let bytes = segment.memory_bytes.max(segment.file_bytes);
        if segment.address.checked_add(bytes).is_none_or(|end| end > low_end) {
            return Err(BootError::KernelTooLarge {
                memory_mib: low_end >> 20,
            });
        }
        let overlapping = || BootError::Kernel(KernelFault::Overlapping);
        file_left = file_left.checked_sub(segment.file_bytes).ok_or_else(overlapping)?;
        memory_left = memory_left.checked_sub(bytes).ok_or_else(overlapping)?;
    }
    Ok(())
}

fn clear_bss<M: GuestMemoryBackend>(memory: &M, kernel: &[u8]) -> Result<(), BootError> {
    const ZEROS: [u8; 4096] = [0; 4096];
    for segment in segments(kernel) {
        let mut at = segment.address.saturating_add(segment.file_bytes);
        let mut left = segment.memory_bytes.saturating_sub(segment.file_bytes);
        while left > 0 {
            let step = left.min(layout::PAGE);
            let zeros = &ZEROS[..usize::try_from(step).unwrap_or(ZEROS.len())];
            memory.write_slice(zeros, GuestAddress(at))?;
            at += step;
            left -= step;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{MIB, elf, guest_memory};
    use super::*;

    #[test]
    fn what_the_kernel_wants_zeroed_is_zeroed_at_a_reboot() {
        let memory = guest_memory(64 * MIB);
        let bss = segments(crate::guest::EMBEDDED_GUEST)
            .find(|segment| segment.memory_bytes > segment.file_bytes)
            .expect("it has a bss");
        let last = GuestAddress(bss.address + bss.memory_bytes - 1);
        memory.write_obj(0xff_u8, last).expect("in memory");
        load(&memory, crate::guest::EMBEDDED_GUEST, 64 * MIB, false).expect("loads");
        assert_eq!(memory.read_obj::<u8>(last).expect("in memory"), 0);
    }

    #[test]
    fn an_elf_kernel_without_a_pvh_note_has_its_64_bit_entry() {
        let memory = guest_memory(16 * MIB);
        let kernel = elf(MIB + 4, &[(MIB, b"code", 0x2000)]);
        let loaded = load(&memory, &kernel, 16 * MIB, true).expect("loads");
        assert_eq!((loaded.pvh_entry, loaded.entry), (None, MIB + 4));
        assert_eq!(loaded.end, MIB + 0x2000);
        let mut code = [0; 4];
        memory.read_slice(&mut code, GuestAddress(MIB)).expect("in memory");
        assert_eq!(&code, b"code");
    }

    #[test]
    fn an_entry_outside_of_the_kernel_is_refused() {
        let kernel = elf(8 * MIB, &[(MIB, b"code", 0x1000)]);
        let error = load(&guest_memory(16 * MIB), &kernel, 16 * MIB, true).expect_err("refused");
        assert!(error.to_string().contains("entry"), "{error}");
    }

    #[test]
    fn a_program_is_no_kernel() {
        let refused = |file: &[u8]| {
            load(&guest_memory(16 * MIB), file, 16 * MIB, true)
                .expect_err("refused")
                .to_string()
        };
        // Relocated from 0 on, as a static program is.
        let error = refused(&elf(0x100, &[(0, b"code", 0x1000), (0x2000, b"data", 0x1000)]));
        assert!(error.contains("program"), "{error}");
        // With an interpreter beside its code.
        let mut linked = elf(MIB, &[(MIB, b"code", 0x1000), (2 * MIB, b"/lib/ld", 7)]);
        linked[64 + PROGRAM_HEADER] = 3;
        assert!(refused(&linked).contains("program"));
        // As "ld -Ttext=0x100000" links it: with the headers in the page before.
        let error = refused(&elf(MIB, &[(0xf_f000, b"headers", 0x1000), (MIB, b"code", 0x1000)]));
        assert!(error.contains("0xff000") && error.contains("ld -n"), "{error}");
    }

    #[test]
    fn segments_that_together_are_longer_than_the_file_are_refused_before_they_are_copied() {
        let segments = vec![(MIB, &[0x90; 4096][..], 4096); 1000];
        let mut kernel = elf(MIB, &segments);
        // All of them name the bytes of the first.
        kernel.truncate(64 + 1000 * PROGRAM_HEADER + 4096);
        let error = load(&guest_memory(16 * MIB), &kernel, 16 * MIB, true).expect_err("refused");
        assert!(matches!(error, BootError::Kernel(KernelFault::Overlapping)), "{error}");
    }

    #[test]
    fn a_kernel_for_another_processor_is_refused_by_name() {
        let mut kernel = elf(MIB, &[(MIB, b"code", 4)]);
        kernel[18] = 0xb7;
        let error = load(&guest_memory(16 * MIB), &kernel, 16 * MIB, true).expect_err("refused");
        assert!(error.to_string().contains("x86-64"), "{error}");
    }
}
