//! RAM blocks: the memory itself, apart from where a guest sees it.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use vm_memory::VolatileSlice;
use vm_memory::bitmap::{Bitmap, RefSlice};

use super::backing::Backing;
use super::dirty::DirtyBitmaps;
use super::host;
use super::mapping::{Mapping, Source};
use super::populated;
use super::units::{HUGE_PAGE_SIZE, PAGE_SIZE, is_page_aligned, to_u64, to_usize};
use super::zero;

/// A piece of memory that a guest can be given, with a name that is the same on both sides of a migration.
///
/// A block knows nothing of guest addresses: [`MemoryRegion`](super::MemoryRegion)s show all or parts of it, several at
/// once if need be (RAM around the hole below 4 GiB is one block). Blocks that hold what a guest boots from are shown
/// nowhere, and are [read-only](Self::make_readonly).
///
/// A running guest changes the contents at any time, so that they are only ever copied in and out. Every write through
/// this type or through vm-memory is recorded in [`dirty`](Self::dirty).
pub struct RamBlock {
    name: String,
    size: u64,
    backing: Backing,
    memfd: Option<OwnedFd>,
    mapping: Mapping,
    dirty: DirtyBitmaps,
    readonly: AtomicBool,
    huge_pages: HugePages,
}

/// Whether a block got what it asked for of the host's huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePages {
    /// The host gives them as memory is touched, in this size in bytes.
    Granted(u64),
    /// The host does not give them for this kind of memory; pages have the ordinary size.
    Refused,
    /// They would not pay: the block is small, or shows a file.
    NotAskedFor,
}

/// Why a RAM block could not be made or reached.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// The size is none that a block can have.
    #[error("RAM block '{name}' cannot have {size} bytes: the size has to be a positive multiple of {PAGE_SIZE}")]
    BadSize {
        /// The block's name.
        name: String,
        /// The size asked for, in bytes.
        size: u64,
    },
    /// The host has not got so much.
    #[error(
        "RAM block '{name}' of {} does not fit into this host: it has {} of memory and swap in all, {} of memory free; \
         give the guest less memory",
        mib(*.size), mib(*.total), mib(*.available)
    )]
    MoreThanTheHostHas {
        /// The block's name.
        name: String,
        /// The size asked for, in bytes.
        size: u64,
        /// Memory and swap of the host, in bytes.
        total: u64,
        /// Memory that could be had now, in bytes.
        available: u64,
    },
    /// The host refused the memory.
    #[error("cannot get {} of memory for RAM block '{name}' ({what}): {source}", mib(*.size))]
    Refused {
        /// The block's name.
        name: String,
        /// The size asked for, in bytes.
        size: u64,
        /// What was being done.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The file that the block should show is too short or starts at an odd place.
    #[error(
        "RAM block '{name}' cannot show a file: {size} bytes from offset {offset} are wanted of a file of {length} \
             (an offset has to be a multiple of {PAGE_SIZE}); the file is damaged or truncated"
    )]
    FileTooShort {
        /// The block's name.
        name: String,
        /// The block's size, in bytes.
        size: u64,
        /// Where in the file it should start.
        offset: u64,
        /// How long the file is.
        length: u64,
    },
    /// Bytes that the block has not got.
    #[error("RAM block '{name}' of {size} bytes has no {len} bytes at offset {offset}")]
    OutOfBounds {
        /// The block's name.
        name: String,
        /// The block's size, in bytes.
        size: u64,
        /// Where the access starts.
        offset: u64,
        /// How many bytes it is for.
        len: u64,
    },
    /// A write to a block that holds its contents for good.
    #[error("RAM block '{name}' is read-only")]
    ReadOnly {
        /// The block's name.
        name: String,
    },
    /// A part that is not made of whole pages, where whole pages are needed.
    #[error("{len} bytes at offset {offset} of RAM block '{name}' are not whole pages")]
    NotWholePages {
        /// The block's name.
        name: String,
        /// Where the part starts.
        offset: u64,
        /// How long it is.
        len: u64,
    },
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

impl RamBlock {
    /// Makes a block of `size` bytes, a positive multiple of the page size. Except for a map over a file it reads as
    /// zero, and takes memory of the host only as it is touched.
    ///
    /// # Errors
    ///
    /// [`RamError::BadSize`], [`RamError::MoreThanTheHostHas`] for a size that the host could not give even if nothing
    /// else ran on it, [`RamError::FileTooShort`], or what the system said.
    pub fn new(name: impl Into<String>, size: u64, backing: Backing) -> Result<Arc<Self>, RamError> {
        let name = name.into();
        if size == 0 || !is_page_aligned(size) {
            return Err(RamError::BadSize { name, size });
        }
        let refused = |what, source| RamError::Refused {
            name: name.clone(),
            size,
            what,
            source,
        };
        let memfd = match &backing {
            Backing::SharedMemfd => {
                check_host_has(&name, size)?;
                Some(sealed_memfd(&name, size).map_err(|source| refused("making a memfd", source))?)
            }
            Backing::PrivateAnonymous => {
                check_host_has(&name, size)?;
                None
            }
            Backing::PrivateFile { file, offset } => {
                let length = file
                    .metadata()
                    .map_err(|source| refused("looking at the file", source))?
                    .len();
                if !is_page_aligned(*offset) || offset.checked_add(size).is_none_or(|end| end > length) {
                    return Err(RamError::FileTooShort {
                        name,
                        size,
                        offset: *offset,
                        length,
                    });
                }
                None
            }
        };
        let source = match (&backing, &memfd) {
            (Backing::PrivateFile { file, offset }, _) => Source::Private(file.as_fd(), *offset),
            (_, Some(memfd)) => Source::Shared(memfd.as_fd(), 0),
            (_, None) => Source::Anonymous,
        };
        let mapping = Mapping::new(to_usize(size), source).map_err(|source| refused("mapping it", source))?;
        // A kernel without core dumps refuses this advice, and then there is nothing to leave the memory out of.
        let _ = mapping.leave_out_of_dumps();
        let huge_pages = ask_for_huge_pages(&mapping, size, &backing);
        let dirty = DirtyBitmaps::new(size);
        Ok(Arc::new(Self {
            name,
            size,
            backing,
            memfd,
            mapping,
            dirty,
            readonly: AtomicBool::new(false),
            huge_pages,
        }))
    }

    /// Makes a read-only block that holds the given bytes, padded with zeros to whole pages: a kernel, an initrd, a
    /// table that the guest boots from.
    ///
    /// # Errors
    ///
    /// As [`RamBlock::new`].
    pub fn with_contents(name: impl Into<String>, contents: &[u8], backing: Backing) -> Result<Arc<Self>, RamError> {
        let block = Self::new(name, to_u64(contents.len()).next_multiple_of(PAGE_SIZE), backing)?;
        block.write(0, contents)?;
        block.make_readonly()?;
        Ok(block)
    }

    /// The name, unique within a VM.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The size in bytes, a multiple of the page size.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What the block is made of.
    #[must_use]
    pub fn backing(&self) -> &Backing {
        &self.backing
    }

    /// The memfd behind a [`Backing::SharedMemfd`].
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.memfd.as_ref().map(AsFd::as_fd)
    }

    /// Where the block starts in this process, for an accelerator's slots. It stays there as long as the block lives.
    #[must_use]
    pub fn host_address(&self) -> usize {
        self.mapping.address()
    }

    /// The bitmaps of written pages.
    #[must_use]
    pub fn dirty(&self) -> &DirtyBitmaps {
        &self.dirty
    }

    /// What came of asking for huge pages.
    #[must_use]
    pub fn huge_pages(&self) -> HugePages {
        self.huge_pages
    }

    /// How many bytes of the block the host holds in huge pages now. Reads `/proc`: for reports, not for hot paths.
    ///
    /// # Errors
    ///
    /// Where `/proc/self/smaps` cannot be read.
    pub fn huge_bytes(&self) -> io::Result<u64> {
        host::huge_bytes(self.address_range())
    }

    /// Whether the contents are there for good.
    #[must_use]
    pub fn is_readonly(&self) -> bool {
        self.readonly.load(Ordering::Acquire)
    }

    /// Makes the contents final: from now on writes are refused, and the pages are write-protected. To be called while
    /// nobody writes, and not for a block that a writable region shows.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub fn make_readonly(&self) -> Result<(), RamError> {
        self.readonly.store(true, Ordering::Release);
        self.mapping
            .make_readonly()
            .map_err(|source| self.refused("write-protecting it", source))
    }

    /// Copies bytes out.
    ///
    /// # Errors
    ///
    /// [`RamError::OutOfBounds`]; nothing has been copied then.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), RamError> {
        // Reading records nothing, so that the bitmap is left out of it.
        let len = to_u64(bytes.len());
        let part = self.mapping.slice(to_usize(offset), bytes.len(), ());
        part.ok_or_else(|| self.out_of_bounds(offset, len))?.copy_to(bytes);
        Ok(())
    }

    /// Copies bytes in and records the pages as dirty.
    ///
    /// # Errors
    ///
    /// [`RamError::OutOfBounds`] or [`RamError::ReadOnly`]; nothing has been copied then.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), RamError> {
        self.volatile_slice(offset, to_u64(bytes.len()))?.copy_from(bytes);
        Ok(())
    }

    /// A part of the block for vm-memory, to be read and written in place, for instance straight from a file. Writes
    /// through it are recorded.
    ///
    /// # Errors
    ///
    /// [`RamError::OutOfBounds`], or [`RamError::ReadOnly`], as such a slice can always be written.
    pub fn volatile_slice(
        &self,
        offset: u64,
        len: u64,
    ) -> Result<VolatileSlice<'_, RefSlice<'_, DirtyBitmaps>>, RamError> {
        if self.is_readonly() {
            return Err(RamError::ReadOnly {
                name: self.name.clone(),
            });
        }
        let bitmap = self.dirty.slice_at(to_usize(offset));
        self.mapping
            .slice(to_usize(offset), to_usize(len), bitmap)
            .ok_or_else(|| self.out_of_bounds(offset, len))
    }

    /// Whether a part holds nothing but zeros, at the speed of memory. Offset and length are multiples of eight.
    ///
    /// Reading a page that was never touched allocates it in a memfd: ask for
    /// [`populated_ranges`](Self::populated_ranges) first.
    ///
    /// # Errors
    ///
    /// [`RamError::OutOfBounds`], also for an offset or length that is not a multiple of eight.
    pub fn is_zero(&self, offset: u64, len: u64) -> Result<bool, RamError> {
        let words = self.mapping.words(to_usize(offset), to_usize(len));
        Ok(zero::all_zero(words.ok_or_else(|| self.out_of_bounds(offset, len))?))
    }

    /// The parts, in whole pages and ascending order, that may hold something other than zeros: what lies outside has
    /// never been written, and need be neither read nor sent.
    ///
    /// Taken while a guest runs, the answer is as old as its beginning: a page written since is in the dirty log.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub fn populated_ranges(&self) -> Result<Vec<Range<u64>>, RamError> {
        let ranges = match (&self.backing, &self.memfd) {
            (_, Some(memfd)) => populated::of_file(memfd.as_fd(), 0..self.size),
            (Backing::PrivateFile { file, offset }, _) => {
                populated::of_private_file(self.host_address(), file.as_fd(), *offset..*offset + self.size)
            }
            (_, None) => populated::of_anonymous(self.host_address(), self.size),
        };
        ranges.map_err(|source| self.refused("looking for the pages in use", source))
    }

    /// Brings pages back to the state of fresh ones: they read as zero and, except in a private map over a file, take
    /// no memory. They are recorded as dirty.
    ///
    /// # Errors
    ///
    /// [`RamError::OutOfBounds`], [`RamError::NotWholePages`], [`RamError::ReadOnly`], or what the system said.
    pub fn discard(&self, range: Range<u64>) -> Result<(), RamError> {
        let (offset, len) = (range.start, range.end.saturating_sub(range.start));
        if !is_page_aligned(offset) || !is_page_aligned(len) {
            return Err(RamError::NotWholePages {
                name: self.name.clone(),
                offset,
                len,
            });
        }
        let slice = self.volatile_slice(offset, len)?;
        if len == 0 {
            return Ok(());
        }
        let done = match (&self.backing, &self.memfd) {
            (_, Some(memfd)) => {
                let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(memfd, punch, offset, len).map_err(Into::into)
            }
            (Backing::PrivateFile { .. }, _) => {
                // Dropping the private pages would let the file show through again.
                zero::fill(&slice);
                Ok(())
            }
            (_, None) => self.mapping.discard(to_usize(offset), to_usize(len)),
        };
        self.dirty.mark(offset, len);
        done.map_err(|source| self.refused("giving pages back", source))
    }

    fn address_range(&self) -> Range<usize> {
        self.host_address()..self.host_address() + to_usize(self.size)
    }

    fn out_of_bounds(&self, offset: u64, len: u64) -> RamError {
        RamError::OutOfBounds {
            name: self.name.clone(),
            size: self.size,
            offset,
            len,
        }
    }

    fn refused(&self, what: &'static str, source: io::Error) -> RamError {
        RamError::Refused {
            name: self.name.clone(),
            size: self.size,
            what,
            source,
        }
    }
}

impl fmt::Debug for RamBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RamBlock('{}', {}, {}", self.name, mib(self.size), self.backing)?;
        f.write_str(if self.is_readonly() { ", read-only)" } else { ")" })
    }
}

/// A mapping succeeds for any size, and the guest would be killed later: refuse what can never fit.
fn check_host_has(name: &str, size: u64) -> Result<(), RamError> {
    // Without /proc nothing is known, and the system's own limits remain.
    let Ok(memory) = host::Memory::now() else { return Ok(()) };
    if size > memory.total {
        let (total, available) = (memory.total, memory.available);
        return Err(RamError::MoreThanTheHostHas {
            name: name.to_owned(),
            size,
            total,
            available,
        });
    }
    Ok(())
}

fn sealed_memfd(name: &str, size: u64) -> io::Result<OwnedFd> {
    // The name only shows in /proc, where 249 bytes without NUL are allowed.
    let label: String = name.chars().filter(char::is_ascii_graphic).take(64).collect();
    let memfd = rustix::fs::memfd_create(label, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let file = File::from(memfd);
    file.set_len(size)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW)?;
    Ok(file.into())
}

fn ask_for_huge_pages(mapping: &Mapping, size: u64, backing: &Backing) -> HugePages {
    let offered = match backing {
        Backing::PrivateFile { .. } => return HugePages::NotAskedFor,
        _ if size < HUGE_PAGE_SIZE => return HugePages::NotAskedFor,
        Backing::PrivateAnonymous => host::huge_pages_for_anonymous_memory(),
        Backing::SharedMemfd => host::huge_pages_for_shared_memory(),
    };
    match offered {
        Some(size) if mapping.ask_for_huge_pages().is_ok() => HugePages::Granted(size),
        _ => HugePages::Refused,
    }
}
