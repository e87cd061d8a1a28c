//! RAM blocks: the memory itself, apart from where a guest sees it.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{MemfdFlags, SealFlags};

use super::backing::Backing;
use super::dirty::DirtyBitmaps;
use super::error::RamError;
use super::host;
use super::mapping::{Mapping, Source};
use super::units::{HUGE_PAGE_SIZE, PAGE_SIZE, is_page_aligned, mib, to_u64, to_usize};

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
    pub(super) mapping: Mapping,
    dirty: DirtyBitmaps,
    readonly: AtomicBool,
    /// Whether the host took the advice to use huge pages; `None` where they were not asked for.
    huge_pages: Option<bool>,
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
        let huge_pages = asks_for_huge_pages(size, &backing).then(|| mapping.ask_for_huge_pages().is_ok());
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
        let block = Self::new(name, to_u64(contents.len().max(1)).next_multiple_of(PAGE_SIZE), backing)?;
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

    /// What came of asking for huge pages, as the host's settings are now. Reads `/sys`: for reports, and not while a VM is
    /// made.
    #[must_use]
    pub fn huge_pages(&self) -> HugePages {
        let offered = || match self.backing {
            Backing::PrivateFile { .. } => None,
            Backing::PrivateAnonymous => host::huge_pages_for_anonymous_memory(),
            Backing::SharedMemfd => host::huge_pages_for_shared_memory(),
        };
        match self.huge_pages {
            None => HugePages::NotAskedFor,
            Some(taken) => offered()
                .filter(|_| taken)
                .map_or(HugePages::Refused, HugePages::Granted),
        }
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

    fn address_range(&self) -> Range<usize> {
        self.host_address()..self.host_address() + to_usize(self.size)
    }

    pub(super) fn out_of_bounds(&self, offset: u64, len: u64) -> RamError {
        RamError::OutOfBounds {
            name: self.name.clone(),
            size: self.size,
            offset,
            len,
        }
    }

    pub(super) fn refused(&self, what: &'static str, source: io::Error) -> RamError {
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
    let total = host::total_memory();
    if size > total {
        return Err(RamError::MoreThanTheHostHas {
            name: name.to_owned(),
            size,
            total,
            // Without /proc it is not known, and is no more than that.
            available: host::available_memory().unwrap_or(total),
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

/// Whether huge pages pay: not for a small block, and a file brings its own pages.
fn asks_for_huge_pages(size: u64, backing: &Backing) -> bool {
    size >= 2 * HUGE_PAGE_SIZE && !matches!(backing, Backing::PrivateFile { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::testing::{GIB, MIB};
    use std::io::Write;

    #[test]
    fn a_size_that_is_not_whole_pages_is_refused() {
        for size in [0, 1, 4095, 4097, u64::MAX] {
            let error = RamBlock::new("ram", size, Backing::PrivateAnonymous).unwrap_err();
            assert!(matches!(error, RamError::BadSize { .. }), "{error}");
        }
    }

    #[test]
    fn more_than_the_host_has_is_refused_with_both_figures() {
        for backing in [Backing::PrivateAnonymous, Backing::SharedMemfd] {
            let error = RamBlock::new("ram", 1 << 50, backing).unwrap_err();
            let RamError::MoreThanTheHostHas { total, .. } = &error else {
                panic!("{error}")
            };
            let message = error.to_string();
            assert!(
                message.contains("1073741824 MiB") && message.contains(&mib(*total)),
                "{message}"
            );
        }
    }

    #[test]
    fn a_large_block_takes_no_memory_until_it_is_touched() {
        for backing in [Backing::PrivateAnonymous, Backing::SharedMemfd] {
            let block = RamBlock::new("ram", 5 * GIB, backing).unwrap();
            assert_eq!(block.size(), 5 * GIB);
            assert!(block.populated_ranges().unwrap().is_empty());
        }
    }

    #[test]
    fn a_memfd_can_be_handed_on_and_cannot_change_its_size() {
        let block = RamBlock::new("odd name \0 with ü", MIB, Backing::SharedMemfd).unwrap();
        let same = File::from(block.fd().unwrap().try_clone_to_owned().unwrap());
        assert_eq!(same.metadata().unwrap().len(), MIB);
        assert!(same.set_len(2 * MIB).is_err() && same.set_len(0).is_err());
        block.write(5, b"shared").unwrap();
        let mut bytes = [0; 6];
        std::os::unix::fs::FileExt::read_exact_at(&same, &mut bytes, 5).unwrap();
        assert_eq!(&bytes, b"shared");
        assert!(
            RamBlock::new("ram", MIB, Backing::PrivateAnonymous)
                .unwrap()
                .fd()
                .is_none()
        );
    }

    fn file_of(bytes: &[u8]) -> File {
        let mut file = vmm_sys_util::tempfile::TempFile::new().unwrap().into_file();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn a_private_map_shows_the_file_and_never_changes_it() {
        let mut contents = vec![0; 3 * 4096];
        contents[4096..][..5].copy_from_slice(b"hello");
        let file = file_of(&contents);
        let backing = Backing::PrivateFile {
            file: file.try_clone().unwrap(),
            offset: 4096,
        };
        let block = RamBlock::new("ram", 2 * 4096, backing).unwrap();
        let mut bytes = [0; 5];
        block.read(0, &mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
        block.write(0, b"HELLO").unwrap();
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 4096).unwrap();
        assert_eq!(&bytes, b"hello");
    }

    #[test]
    fn a_file_that_is_too_short_is_refused_before_anything_is_mapped() {
        for (size, offset) in [(2 * 4096, 4096), (4096, 1), (4096, u64::MAX - 4095)] {
            let backing = Backing::PrivateFile {
                file: file_of(&[0; 2 * 4096]),
                offset,
            };
            let error = RamBlock::new("ram", size, backing).unwrap_err();
            assert!(matches!(error, RamError::FileTooShort { length: 8192, .. }), "{error}");
        }
    }

    #[test]
    fn boot_payload_is_padded_and_final() {
        let block = RamBlock::with_contents("kernel", &[9; 5000], Backing::PrivateAnonymous).unwrap();
        assert_eq!((block.size(), block.is_readonly()), (8192, true));
        assert_eq!(
            block.write(0, &[1]).unwrap_err().to_string(),
            "RAM block 'kernel' is read-only"
        );
        assert!(block.discard(0..4096).is_err());
        let mut bytes = [1; 8192];
        block.read(0, &mut bytes).unwrap();
        assert_eq!((bytes[4999], bytes[5000]), (9, 0));
        assert_eq!(
            RamBlock::with_contents("initrd", &[], Backing::SharedMemfd)
                .unwrap()
                .size(),
            4096
        );
    }

    #[test]
    fn huge_pages_are_asked_for_where_they_pay_and_what_was_got_is_known() {
        let small = RamBlock::new("small", MIB, Backing::PrivateAnonymous).unwrap();
        assert_eq!(small.huge_pages(), HugePages::NotAskedFor);
        let large = RamBlock::new("large", 8 * MIB, Backing::PrivateAnonymous).unwrap();
        let offered = host::huge_pages_for_anonymous_memory();
        assert_eq!(
            large.huge_pages(),
            offered.map_or(HugePages::Refused, HugePages::Granted)
        );
        assert_eq!(large.huge_bytes().unwrap(), 0);
        large.write(0, &[1]).unwrap();
        assert_eq!(large.huge_bytes().unwrap(), 0, "a guest begins in ordinary pages");
        large.write(3 * MIB, &[1]).unwrap();
        // One touch gives a whole page of the size that was granted, unless memory is fragmented.
        assert!(large.huge_bytes().unwrap() <= HUGE_PAGE_SIZE);
    }
}
