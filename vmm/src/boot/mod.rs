//! What a guest boots from, and how it gets there.
//!
//! Kernel, initrd and command line are state of the VM: they live in read-only RAM blocks outside of the guest's map and
//! travel with the guest, so that it can reboot long after the files that they came from are gone. [`load`] copies them
//! into the guest's memory at every boot, with the tables by which the kernel finds its machine. A kernel file may be
//! anything: what is copied is bounded by the file and by the guest's memory, and what cannot boot is refused by name.
//!
//! | file | what it does |
//! | --- | --- |
//! | [`payload`] | kernel, initrd and command line as state of the VM |
//! | `elf`, `bzimage` | the two kinds of kernel files |
//! | `pvh`, `linux64` | the two entries, and what a kernel is given at each |
//! | `memory_map` | the guest's memory as its kernel is told of it |
//!
//! | kernel | entry |
//! | --- | --- |
//! | ELF with a PVH note | PVH |
//! | ELF without one | 64-bit, with a zero page |
//! | bzImage | 64-bit, with a zero page |

mod bzimage;
mod elf;
mod linux64;
mod memory_map;
pub mod payload;
mod pvh;
#[cfg(test)]
pub(crate) mod testing;

use std::ops::Range;

use hw::acpi::tables as acpi;
use hw::i386::boot_entry::{BootEntry, LINUX_DESCRIPTORS};
use hw::i386::microvm::layout;
use hw::i386::{mptable, reset_vector};
use hw::memory::RamError;
use linux_loader::loader::bootparam::setup_header;
use serde_json::{Map, Value, json};
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use vmstate::state::VmState as _;

use bzimage::BzImage;
use memory_map::{low_end, place};
pub use payload::{BootFiles, BootPayload};

/// What a kernel is told of memory, and the boot processor's state at each entry, on a machine with so much RAM: part of what a guest
/// sees of a machine, at every reset anew. The kernel itself is taken to begin at 1 MiB.
pub(crate) fn shape(ram_bytes: u64) -> Value {
    let map = memory_map::memory_map(ram_bytes).into_iter().map(|range| {
        let last = range.start + (range.bytes - 1);
        (format!("{:#x}-{last:#x}", range.start), range.kind.into())
    });
    let pvh = BootEntry::Pvh {
        entry: layout::EXTENDED,
        start_info: place::START_INFO,
    };
    let linux = BootEntry::Linux64 {
        entry: layout::EXTENDED,
        zero_page: place::ZERO_PAGE,
        page_tables: place::PAGE_TABLES,
        descriptors: place::DESCRIPTORS,
    };
    let state = |entry: BootEntry| entry.cpu_state().to_value().to_json();
    let descriptors = LINUX_DESCRIPTORS.iter().map(|descriptor| format!("{descriptor:#018x}"));
    json!({
        "memory-map": map.collect::<Map<_, _>>(),
        "pvh": state(pvh),
        "linux64": state(linux),
        "linux64-descriptors": descriptors.collect::<Vec<_>>(),
    })
}

/// Why a guest cannot boot from its payload.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BootError {
    /// The kernel's file is not one that can be booted.
    #[error("the kernel {0}")]
    Kernel(#[from] KernelFault),
    /// A segment of the kernel lies outside of the guest's memory.
    #[error("the kernel does not fit into {memory_mib} MiB of memory; give the guest more with --memory")]
    KernelTooLarge {
        /// What the guest has below 4 GiB.
        memory_mib: u64,
    },
    /// The initrd does not fit behind the kernel.
    #[error(
        "the initrd of {initrd_mib} MiB does not fit behind the kernel in {memory_mib} MiB of memory; give the guest more with --memory"
    )]
    InitrdTooLarge {
        /// What it needs.
        initrd_mib: u64,
        /// What the guest has.
        memory_mib: u64,
    },
    /// The command line is too long, or has a zero byte in it.
    #[error("the kernel's command line is {0}")]
    CommandLine(&'static str),
    /// The command line is longer than this kernel takes.
    #[error("the kernel's command line has {bytes} bytes, and this kernel takes at most {most}")]
    CommandLineTooLong {
        /// What it has.
        bytes: u64,
        /// What the kernel takes.
        most: u32,
    },
    /// The payload in a stream or snapshot is not complete.
    #[error("the boot payload has no {0}")]
    Missing(&'static str),
    /// The payload in a stream or snapshot has a part that a newer Tern may know, or one twice.
    #[error(
        "the boot payload has a part '{0}', which this program does not know or has already; a newer Tern may know it"
    )]
    UnknownPart(String),
    /// A payload's bytes are not those that were hashed when the VM was made.
    #[error("the boot payload's {0} is damaged: its hash is not the one in the manifest")]
    Damaged(String),
    /// The host refused the memory.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// What the kernel is given could not be written.
    #[error("what the kernel is given at its entry does not fit into the guest's memory: {0}")]
    Given(String),
}

impl From<vm_memory::GuestMemoryError> for BootError {
    fn from(error: vm_memory::GuestMemoryError) -> Self {
        Self::Given(error.to_string())
    }
}

/// What is wrong with a kernel's file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KernelFault {
    /// It is something else.
    #[error("is neither a bzImage (such as /boot/vmlinuz-*) nor an ELF file (such as the vmlinux of a build of Linux)")]
    Unknown,
    /// It is for another processor.
    #[error("is an ELF file, but none of 64 bits for x86-64")]
    OtherMachine,
    /// The ELF file makes no sense.
    #[error("is a damaged ELF file: {0}")]
    Elf(#[source] linux_loader::loader::Error),
    /// The ELF file's segments claim more than there is.
    #[error("is a damaged ELF file: its segments overlap")]
    Overlapping,
    /// The ELF file's entry lies nowhere.
    #[error(
        "is an ELF file with neither a PVH note (Linux has one when built with CONFIG_PVH) nor an entry in a segment"
    )]
    NoEntry,
    /// It is an ELF file that something else runs.
    #[error("is a program for an operating system and no kernel")]
    Program,
    /// A segment lies where the machine has its tables.
    #[error(
        "has a segment at {0:#x}, and a kernel begins at 0x100000 or above; where that is its ELF headers, \"ld -n\" leaves them out"
    )]
    Low(u64),
    /// The file ends before what its header announces.
    #[error("is a bzImage that is cut short")]
    CutShort,
    /// A kernel from before 2000, or one that never was.
    #[error("is a zImage or a damaged bzImage; only a bzImage that is loaded above 1 MiB can be booted")]
    OldBzImage,
    /// A 32-bit kernel, or one from before Linux 3.8.
    #[error("is a bzImage without a 64-bit entry; it takes a 64-bit kernel of Linux 3.8 or newer")]
    No64BitEntry,
    /// It wants to be where it cannot be.
    #[error("is a damaged bzImage: it wants to be loaded at {0:#x}")]
    Address(u64),
}

/// What a kernel is given beside itself, by either entry.
#[derive(Clone, Debug)]
struct Given {
    ram_bytes: u64,
    initrd: Option<Range<u64>>,
    /// Where the ACPI tables begin.
    rsdp: u64,
}

/// A kernel in the guest's memory, and what the rest has to know of it.
struct LoadedKernel {
    entry: Entry,
    end: u64,
    cmdline_max: u32,
    initrd_max: u64,
}

enum Entry {
    Pvh(u64),
    Linux64(u64, setup_header),
}

/// Copies the payload into a guest's memory and writes the tables that it needs.
///
/// `fresh` says that the memory still holds zeros, which spares the clearing of what the kernel wants zeroed.
///
/// # Errors
///
/// The payload is no kernel, or does not fit.
pub fn load<M: GuestMemoryBackend>(
    memory: &M,
    ram_bytes: u64,
    cpus: u8,
    payload: &BootPayload,
    fresh: bool,
) -> Result<BootEntry, BootError> {
    let kernel = load_kernel(memory, &payload.kernel()?, low_end(ram_bytes), fresh)?;
    let mut cmdline = payload.cmdline()?;
    let cmdline_bytes = u64::try_from(cmdline.len()).unwrap_or(u64::MAX);
    if cmdline_bytes > u64::from(kernel.cmdline_max) {
        return Err(BootError::CommandLineTooLong {
            bytes: cmdline_bytes,
            most: kernel.cmdline_max,
        });
    }
    cmdline.push(0);
    memory.write_slice(&cmdline, GuestAddress(place::COMMAND_LINE))?;
    let given = Given {
        ram_bytes,
        initrd: load_initrd(memory, payload, &kernel, ram_bytes)?,
        rsdp: u64::from(layout::ACPI_TABLES),
    };
    for (address, table) in [
        (layout::MP_TABLE, mptable::build(layout::MP_TABLE, cpus)),
        (layout::ACPI_TABLES, acpi::build(layout::ACPI_TABLES, cpus)),
        (layout::RESET_VECTOR, reset_vector::CODE.to_vec()),
    ] {
        memory.write_slice(&table, GuestAddress(u64::from(address)))?;
    }
    match kernel.entry {
        Entry::Pvh(entry) => pvh::prepare(memory, entry, &given),
        Entry::Linux64(entry, header) => linux64::prepare(memory, entry, header, &given),
    }
}

/// Finds out what `kernel` is and copies it to its place.
fn load_kernel<M: GuestMemoryBackend>(
    memory: &M,
    kernel: &[u8],
    low_end: u64,
    fresh: bool,
) -> Result<LoadedKernel, BootError> {
    if kernel.starts_with(elf::MAGIC) {
        let loaded = elf::load(memory, kernel, low_end, fresh)?;
        return Ok(LoadedKernel {
            entry: match loaded.pvh_entry {
                Some(entry) => Entry::Pvh(entry),
                None => Entry::Linux64(loaded.entry, linux64::default_header()),
            },
            end: loaded.end,
            cmdline_max: u32::MAX,
            initrd_max: u64::MAX,
        });
    }
    if bzimage::is_bzimage(kernel) {
        let image = BzImage::parse(kernel)?;
        let loaded = image.load(memory, low_end)?;
        return Ok(LoadedKernel {
            entry: Entry::Linux64(loaded.entry, image.header),
            end: loaded.end,
            cmdline_max: image.cmdline_max(),
            initrd_max: image.initrd_max(),
        });
    }
    Err(KernelFault::Unknown.into())
}

/// Copies the initrd to as high a place as the kernel takes, where no decompressing kernel grows into it.
fn load_initrd<M: GuestMemoryBackend>(
    memory: &M,
    payload: &BootPayload,
    kernel: &LoadedKernel,
    ram_bytes: u64,
) -> Result<Option<Range<u64>>, BootError> {
    let Some(bytes) = payload.initrd_length() else {
        return Ok(None);
    };
    let highest = low_end(ram_bytes).min(kernel.initrd_max.saturating_add(1));
    let start = highest.checked_sub(bytes).map(|start| start & !(layout::PAGE - 1));
    let start = start
        .filter(|start| *start >= kernel.end.max(layout::EXTENDED))
        .ok_or(BootError::InitrdTooLarge {
            initrd_mib: bytes.div_ceil(1 << 20),
            memory_mib: ram_bytes >> 20,
        })?;
    memory.write_slice(&payload.initrd()?, GuestAddress(start))?;
    Ok(Some(start..start + bytes))
}

#[cfg(test)]
mod tests {
    use super::testing::{MIB, bzimage, elf, guest_memory};
    use super::*;

    fn boot(kernel: &[u8], initrd: Option<&[u8]>, cmdline: &str) -> Result<BootEntry, BootError> {
        let files = BootFiles {
            kernel,
            initrd,
            cmdline,
        };
        let memory = guest_memory(32 * MIB);
        load(&memory, 32 * MIB, 2, &BootPayload::new(&files).expect("payload"), true)
    }

    #[test]
    fn each_kind_of_kernel_has_its_entry() {
        let embedded = boot(crate::guest::EMBEDDED_GUEST, None, "").expect("boots");
        assert!(matches!(embedded, BootEntry::Pvh { .. }));
        let plain = boot(&elf(MIB, &[(MIB, b"code", 64)]), None, "").expect("boots");
        assert!(
            matches!(plain, BootEntry::Linux64 { entry: 0x10_0000, .. }),
            "{plain:?}"
        );
        let bzimage = boot(&bzimage(b"code"), Some(b"initrd"), "quiet").expect("boots");
        assert!(
            matches!(bzimage, BootEntry::Linux64 { entry: 0x100_0200, .. }),
            "{bzimage:?}"
        );
    }

    /// A guest that has overwritten it restarts all the same the next time.
    #[test]
    fn every_boot_puts_code_to_where_a_kernel_restarts_by_firmware() {
        let memory = guest_memory(32 * MIB);
        let kernel = bzimage(b"code");
        let files = BootFiles {
            kernel: &kernel,
            initrd: None,
            cmdline: "",
        };
        let payload = BootPayload::new(&files).expect("payload");
        for fresh in [true, false] {
            load(&memory, 32 * MIB, 2, &payload, fresh).expect("boots");
            let mut code = [0; 5];
            memory.read_slice(&mut code, GuestAddress(0xf_fff0)).expect("in memory");
            // Interrupts off; 0xfe to port 0x64.
            assert_eq!(code, [0xfa, 0xb0, 0xfe, 0xe6, 0x64]);
            memory.write_slice(&[0; 16], GuestAddress(0xf_fff0)).expect("in memory");
        }
    }

    #[test]
    fn what_is_no_kernel_is_refused_with_what_would_be_one() {
        for kernel in [&b"#!/bin/sh\n"[..], b"", b"\x7fEL", &[0; 4096]] {
            let error = boot(kernel, None, "").expect_err("refused").to_string();
            assert!(error.contains("bzImage") && error.contains("vmlinux"), "{error}");
        }
    }

    #[test]
    fn an_initrd_that_does_not_fit_is_refused_with_the_remedy() {
        let initrd = vec![1; 33 << 20];
        for kernel in [crate::guest::EMBEDDED_GUEST, &bzimage(b"code")] {
            let error = boot(kernel, Some(&initrd), "").expect_err("refused").to_string();
            assert!(error.contains("--memory"), "{error}");
        }
        // Beside the kernel there would be room for it, and behind it there is none.
        let error = boot(&bzimage(b"code"), Some(&initrd[..16 << 20]), "").expect_err("refused");
        assert!(
            matches!(error, BootError::InitrdTooLarge { initrd_mib: 16, .. }),
            "{error}"
        );
    }

    #[test]
    fn a_command_line_is_no_longer_than_the_kernel_takes() {
        let mut kernel = bzimage(b"code");
        kernel[0x238..0x23c].copy_from_slice(&7_u32.to_le_bytes());
        boot(&kernel, None, "1234567").expect("boots");
        let error = boot(&kernel, None, "12345678").expect_err("refused").to_string();
        assert!(error.contains("8 bytes") && error.contains("at most 7"), "{error}");
    }

    #[test]
    fn the_initrd_lies_where_the_kernel_can_reach_it() {
        let mut kernel = bzimage(b"code");
        kernel[0x22c..0x230].copy_from_slice(&0x17f_ffff_u32.to_le_bytes());
        let memory = guest_memory(32 * MIB);
        let files = BootFiles {
            kernel: &kernel,
            initrd: Some(b"initrd"),
            cmdline: "",
        };
        load(&memory, 32 * MIB, 1, &BootPayload::new(&files).expect("payload"), true).expect("boots");
        let mut found = [0; 6];
        memory
            .read_slice(&mut found, GuestAddress(24 * MIB - 4096))
            .expect("in memory");
        assert_eq!(&found, b"initrd");
    }

    /// Whatever bytes a header has, the answer is a boot or an error, in bounded time.
    #[test]
    fn no_byte_of_a_header_is_too_much() {
        let memory = guest_memory(20 * MIB);
        let kernels = [bzimage(&[0; 64]), elf(MIB, &[(MIB, b"code", 64)])];
        for kernel in &kernels {
            for at in 0..kernel.len().min(1024) {
                for value in [0x00, 0x7f, 0x80, 0xff] {
                    let mut kernel = kernel.clone();
                    kernel[at] = value;
                    let files = BootFiles {
                        kernel: &kernel,
                        initrd: Some(b"initrd"),
                        cmdline: "quiet",
                    };
                    let payload = BootPayload::new(&files).expect("payload");
                    let _ = load(&memory, 20 * MIB, 1, &payload, true);
                }
            }
        }
    }
}
