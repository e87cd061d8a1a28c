//! What a guest boots from, and how it gets there: the PVH protocol
//! (Xen, "x86/HVM direct boot ABI", `docs/misc/pvh.pandoc`).
//!
//! Kernel, initrd and command line are state of the VM: they live in read-only RAM blocks outside of the guest's map and
//! travel with the guest, so that it can reboot long after the files that they came from are gone. [`load`] copies them
//! into the guest's memory at every boot.

use std::io::Cursor;
use std::sync::Arc;

use hw::i386::microvm::layout;
use hw::i386::mptable;
use hw::memory::{Backing, RamBlock, RamError};
use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::KernelLoader;
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use migration::ident::ContentHash;
use migration::vm::BootPayload as PayloadRecipe;
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

/// Guest-physical places of what the PVH entry is given.
mod place {
    pub const START_INFO: u64 = 0x6000;
    pub const MODULES: u64 = 0x6040;
    pub const MEMORY_MAP: u64 = 0x7000;
    pub const COMMAND_LINE: u64 = 0x2_0000;
}

/// `hvm_start_info.magic`: "xEn3" with the high bit of the E set.
const START_MAGIC: u32 = 0x336e_c578;
/// The version of the start information that has a memory map.
const START_VERSION: u32 = 1;
/// E820 type of memory that the guest may use.
const USABLE: u32 = 1;
/// E820 type of memory that the guest must leave alone.
const RESERVED: u32 = 2;
/// The longest command line, its final zero included (Linux's COMMAND_LINE_SIZE on x86).
const COMMAND_LINE_MAX: usize = 2048;

/// Role and name of the payload's blocks, in the recipe's order.
const KERNEL: (&str, &str) = ("kernel", "boot.kernel");
const INITRD: (&str, &str) = ("initrd", "boot.initrd");
const COMMAND_LINE: (&str, &str) = ("cmdline", "boot.cmdline");

/// Why a guest cannot boot from its payload.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BootError {
    /// The kernel is none.
    #[error("the kernel is no ELF file for x86-64; give an uncompressed one, such as the vmlinux of a build of Linux")]
    NotElf(#[source] linux_loader::loader::Error),
    /// The kernel has no PVH entry.
    #[error("the kernel has no PVH entry; Linux has one when built with CONFIG_PVH")]
    NoPvhEntry,
    /// A segment of the kernel lies outside of the guest's memory.
    #[error("the kernel does not fit into {memory_mib} MiB of memory; give the guest more with --memory")]
    KernelTooLarge {
        /// What the guest has.
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
    /// The payload in a stream or snapshot is not complete.
    #[error("the boot payload has no {0}")]
    Missing(&'static str),
    /// A payload's bytes are not those that were hashed when the VM was made.
    #[error("the boot payload's {0} is damaged: its hash is not the one in the manifest")]
    Damaged(String),
    /// The host refused the memory.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// The start information could not be written.
    #[error("the start information does not fit into the guest's memory: {0}")]
    StartInfo(String),
}

/// What a guest boots from, as bytes.
#[derive(Clone, Copy, Debug)]
pub struct BootFiles<'a> {
    /// An ELF kernel with a PVH note.
    pub kernel: &'a [u8],
    /// An initrd, if any.
    pub initrd: Option<&'a [u8]>,
    /// The kernel's command line.
    pub cmdline: &'a str,
}

/// Where the boot processor begins, in 32-bit protected mode with flat segments and paging off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootEntry {
    /// EIP.
    pub entry: u32,
    /// EBX: the address of the start information.
    pub start_info: u32,
}

/// One part of the payload in its block.
#[derive(Clone, Debug)]
struct Part {
    block: Arc<RamBlock>,
    recipe: PayloadRecipe,
}

impl Part {
    fn new((role, name): (&str, &str), bytes: &[u8]) -> Result<Self, BootError> {
        let length = u64::try_from(bytes.len()).expect("a slice is shorter than 2^64");
        // A block has at least one page, even for an empty command line.
        let padded = if bytes.is_empty() { &[0][..] } else { bytes };
        let block = RamBlock::with_contents(name, padded, Backing::PrivateAnonymous)?;
        let recipe = PayloadRecipe {
            role: role.to_owned(),
            block: name.to_owned(),
            length,
            hash: ContentHash::of(bytes),
        };
        Ok(Self { block, recipe })
    }

    fn bytes(&self) -> Result<Vec<u8>, BootError> {
        let mut bytes = vec![0; usize::try_from(self.recipe.length).unwrap_or(usize::MAX)];
        self.block.read(0, &mut bytes)?;
        Ok(bytes)
    }
}

/// A VM's boot payload in its read-only blocks.
#[derive(Clone, Debug)]
pub struct BootPayload {
    kernel: Part,
    initrd: Option<Part>,
    cmdline: Part,
}

impl BootPayload {
    /// Copies `files` into blocks.
    ///
    /// # Errors
    ///
    /// The command line is too long or the host has no memory for the blocks.
    pub fn new(files: &BootFiles<'_>) -> Result<Self, BootError> {
        if files.cmdline.len() >= COMMAND_LINE_MAX {
            return Err(BootError::CommandLine("longer than 2047 bytes"));
        }
        if files.cmdline.bytes().any(|byte| byte == 0) {
            return Err(BootError::CommandLine("broken: it holds a zero byte"));
        }
        Ok(Self {
            kernel: Part::new(KERNEL, files.kernel)?,
            initrd: files.initrd.map(|bytes| Part::new(INITRD, bytes)).transpose()?,
            cmdline: Part::new(COMMAND_LINE, files.cmdline.as_bytes())?,
        })
    }

    /// The payload that a recipe describes, over blocks that have just been filled from a stream.
    ///
    /// # Errors
    ///
    /// A part is missing.
    pub fn from_recipe(recipes: &[PayloadRecipe], blocks: &[Arc<RamBlock>]) -> Result<Self, BootError> {
        let part = |role: &'static str| {
            let recipe = recipes.iter().find(|recipe| recipe.role == role)?;
            let block = blocks.iter().find(|block| block.name() == recipe.block)?;
            (recipe.length <= block.size()).then(|| Part {
                block: Arc::clone(block),
                recipe: recipe.clone(),
            })
        };
        Ok(Self {
            kernel: part(KERNEL.0).ok_or(BootError::Missing(KERNEL.0))?,
            initrd: part(INITRD.0),
            cmdline: part(COMMAND_LINE.0).ok_or(BootError::Missing(COMMAND_LINE.0))?,
        })
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        [Some(&self.kernel), self.initrd.as_ref(), Some(&self.cmdline)]
            .into_iter()
            .flatten()
    }

    /// The payload's blocks, in the recipe's order.
    #[must_use]
    pub fn blocks(&self) -> Vec<Arc<RamBlock>> {
        self.parts().map(|part| Arc::clone(&part.block)).collect()
    }

    /// The payload as the recipe names it.
    #[must_use]
    pub fn recipe(&self) -> Vec<PayloadRecipe> {
        self.parts().map(|part| part.recipe.clone()).collect()
    }

    /// Compares every part with its hash.
    ///
    /// # Errors
    ///
    /// [`BootError::Damaged`] names the part.
    pub fn verify(&self) -> Result<(), BootError> {
        for part in self.parts() {
            if ContentHash::of(&part.bytes()?) != part.recipe.hash {
                return Err(BootError::Damaged(part.recipe.role.clone()));
            }
        }
        Ok(())
    }
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
    let kernel = payload.kernel.bytes()?;
    let low_end = ram_bytes.min(layout::LOW_RAM_END);
    check_segments(&kernel, low_end, ram_bytes)?;
    if !fresh {
        clear_bss(memory, &kernel)?;
    }
    let loaded = Elf::load(memory, None, &mut Cursor::new(kernel.as_slice()), None).map_err(BootError::NotElf)?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        return Err(BootError::NoPvhEntry);
    };
    let entry = u32::try_from(entry.0).map_err(|_| BootError::NoPvhEntry)?;

    let modules = match &payload.initrd {
        Some(initrd) => vec![load_initrd(memory, initrd, loaded.kernel_end, low_end, ram_bytes)?],
        None => Vec::new(),
    };
    let mut cmdline = payload.cmdline.bytes()?;
    cmdline.push(0);
    let table = mptable::build(layout::MP_TABLE, cpus);
    memory
        .write_slice(&cmdline, GuestAddress(place::COMMAND_LINE))
        .and_then(|()| memory.write_slice(&table, GuestAddress(u64::from(layout::MP_TABLE))))
        .map_err(|error| BootError::StartInfo(error.to_string()))?;
    write_start_info(memory, ram_bytes, &modules)?;
    let start_info = u32::try_from(place::START_INFO).expect("the start information lies below 4 GiB");
    Ok(BootEntry { entry, start_info })
}

fn load_initrd<M: GuestMemoryBackend>(
    memory: &M,
    initrd: &Part,
    kernel_end: u64,
    low_end: u64,
    ram_bytes: u64,
) -> Result<hvm_modlist_entry, BootError> {
    let size = initrd.recipe.length;
    let too_large = || BootError::InitrdTooLarge {
        initrd_mib: size.div_ceil(1 << 20),
        memory_mib: ram_bytes >> 20,
    };
    // At the end of low memory, where no decompressing kernel grows into it.
    let at = low_end
        .checked_sub(size)
        .map(|at| at & !(layout::PAGE - 1))
        .ok_or_else(too_large)?;
    if at < kernel_end.max(layout::EXTENDED) {
        return Err(too_large());
    }
    memory
        .write_slice(&initrd.bytes()?, GuestAddress(at))
        .map_err(|_| too_large())?;
    Ok(hvm_modlist_entry {
        paddr: at,
        size,
        cmdline_paddr: 0,
        reserved: 0,
    })
}

fn write_start_info<M: GuestMemoryBackend>(
    memory: &M,
    ram_bytes: u64,
    modules: &[hvm_modlist_entry],
) -> Result<(), BootError> {
    let map = memory_map(ram_bytes);
    let count = |length: usize| u32::try_from(length).expect("a handful of entries");
    let info = hvm_start_info {
        magic: START_MAGIC,
        version: START_VERSION,
        flags: 0,
        nr_modules: count(modules.len()),
        modlist_paddr: if modules.is_empty() { 0 } else { place::MODULES },
        cmdline_paddr: place::COMMAND_LINE,
        rsdp_paddr: 0,
        memmap_paddr: place::MEMORY_MAP,
        memmap_entries: count(map.len()),
        reserved: 0,
    };
    let mut params = BootParams::new(&info, GuestAddress(place::START_INFO));
    params.set_sections(&map, GuestAddress(place::MEMORY_MAP));
    params.set_modules(modules, GuestAddress(place::MODULES));
    PvhBootConfigurator::write_bootparams(&params, memory).map_err(|error| BootError::StartInfo(error.to_string()))
}

/// The memory map of a machine with so much RAM.
fn memory_map(ram_bytes: u64) -> Vec<hvm_memmap_table_entry> {
    let entry = |addr, end: u64, type_| hvm_memmap_table_entry {
        addr,
        size: end - addr,
        type_,
        reserved: 0,
    };
    let low_end = ram_bytes.min(layout::LOW_RAM_END);
    let mut map = vec![
        entry(0, layout::CONVENTIONAL_END, USABLE),
        entry(layout::CONVENTIONAL_END, layout::EXTENDED, RESERVED),
        entry(layout::EXTENDED, low_end, USABLE),
    ];
    if ram_bytes > low_end {
        map.push(entry(layout::HIGH_RAM, layout::HIGH_RAM + ram_bytes - low_end, USABLE));
    }
    map
}

/// A loadable segment of an ELF file (System V ABI, "Program Header").
struct Segment {
    address: u64,
    file_bytes: u64,
    memory_bytes: u64,
}

/// The loadable segments of `kernel`. linux-loader keeps its own list to itself, and does not clear what lies beyond a
/// segment's bytes of the file.
fn segments(kernel: &[u8]) -> impl Iterator<Item = Segment> {
    const LOAD: u64 = 1;
    let field = |at: usize, bytes: usize| {
        let mut value = [0; 8];
        value[..bytes].copy_from_slice(kernel.get(at..at.checked_add(bytes)?)?);
        Some(u64::from_le_bytes(value))
    };
    let table = field(32, 8)
        .and_then(|at| usize::try_from(at).ok())
        .unwrap_or(usize::MAX);
    let count = field(56, 2).and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
    (0..count).filter_map(move |index| {
        let at = table.checked_add(index * 56)?;
        (field(at, 4)? == LOAD).then_some(())?;
        Some(Segment {
            address: field(at.checked_add(24)?, 8)?,
            file_bytes: field(at.checked_add(32)?, 8)?,
            memory_bytes: field(at.checked_add(40)?, 8)?,
        })
    })
}

fn check_segments(kernel: &[u8], low_end: u64, ram_bytes: u64) -> Result<(), BootError> {
    for segment in segments(kernel) {
        let bytes = segment.memory_bytes.max(segment.file_bytes);
        if segment.address.checked_add(bytes).is_none_or(|end| end > low_end) {
            return Err(BootError::KernelTooLarge {
                memory_mib: ram_bytes >> 20,
            });
        }
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
            memory
                .write_slice(zeros, GuestAddress(at))
                .map_err(|error| BootError::StartInfo(error.to_string()))?;
            at += step;
            left -= step;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::GuestMemoryMmap;

    const MIB: u64 = 1 << 20;

    fn guest_memory(bytes: u64) -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), usize::try_from(bytes).expect("64-bit"))]).expect("memory")
    }

    fn payload(initrd: Option<&[u8]>) -> BootPayload {
        BootPayload::new(&BootFiles {
            kernel: crate::guest::EMBEDDED_GUEST,
            initrd,
            cmdline: "mib=1",
        })
        .expect("payload")
    }

    #[test]
    fn the_embedded_guest_loads_and_its_start_information_is_where_ebx_points() {
        let memory = guest_memory(64 * MIB);
        let entry = load(&memory, 64 * MIB, 2, &payload(None), true).expect("loads");
        let magic: u32 = memory
            .read_obj(GuestAddress(u64::from(entry.start_info)))
            .expect("in memory");
        assert_eq!(magic, START_MAGIC);
    }

    #[test]
    fn what_the_kernel_wants_zeroed_is_zeroed_at_a_reboot() {
        let memory = guest_memory(64 * MIB);
        let payload = payload(None);
        let bss = segments(crate::guest::EMBEDDED_GUEST)
            .find(|s| s.memory_bytes > s.file_bytes)
            .expect("it has a bss");
        let last = GuestAddress(bss.address + bss.memory_bytes - 1);
        memory.write_obj(0xff_u8, last).expect("in memory");
        load(&memory, 64 * MIB, 1, &payload, false).expect("loads");
        assert_eq!(memory.read_obj::<u8>(last).expect("in memory"), 0);
    }

    #[test]
    fn a_text_file_is_no_kernel() {
        let files = BootFiles {
            kernel: b"#!/bin/sh\n",
            initrd: None,
            cmdline: "",
        };
        let error = load(
            &guest_memory(16 * MIB),
            16 * MIB,
            1,
            &BootPayload::new(&files).expect("payload"),
            true,
        );
        assert!(error.expect_err("refused").to_string().contains("no ELF file"));
    }

    #[test]
    fn an_initrd_that_does_not_fit_is_refused_with_the_remedy() {
        let initrd = vec![1; 17 << 20];
        let error = load(&guest_memory(16 * MIB), 16 * MIB, 1, &payload(Some(&initrd)), true).expect_err("refused");
        assert!(error.to_string().contains("--memory"), "{error}");
    }

    #[test]
    fn memory_above_the_hole_begins_at_4_gib() {
        let map = memory_map(5 << 30);
        let last = map.last().expect("entries");
        assert_eq!((last.addr, last.size), (layout::HIGH_RAM, 2 << 30));
        assert_eq!(
            map.iter().filter(|e| e.type_ == USABLE).map(|e| e.size).sum::<u64>(),
            (5 << 30) - 0x6_0000
        );
    }

    #[test]
    fn damage_of_a_part_is_named() {
        let payload = payload(Some(b"initrd"));
        payload.verify().expect("whole");
        let mut blocks = payload.blocks();
        blocks[1] = RamBlock::with_contents("boot.initrd", b"inXtrd", Backing::PrivateAnonymous).expect("memory");
        let damaged = BootPayload::from_recipe(&payload.recipe(), &blocks).expect("complete");
        assert!(damaged.verify().expect_err("damaged").to_string().contains("initrd"));
    }
}
