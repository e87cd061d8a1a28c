//! The contents of RAM blocks: copied in and out, looked at, given back.

use std::ops::Range;
use std::os::fd::AsFd;

use rustix::fs::FallocateFlags;
use vm_memory::VolatileSlice;
use vm_memory::bitmap::{Bitmap, RefSlice};

use super::backing::Backing;
use super::block::RamBlock;
use super::dirty::DirtyBitmaps;
use super::error::RamError;
use super::populated;
use super::units::{is_page_aligned, to_u64, to_usize};
use super::zero;

impl RamBlock {
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
                name: self.name().to_owned(),
            });
        }
        let bitmap = self.dirty().slice_at(to_usize(offset));
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
        let ranges = match (self.backing(), self.fd()) {
            (_, Some(memfd)) => populated::of_file(memfd, 0..self.size()),
            (Backing::PrivateFile { file, offset }, _) => {
                populated::of_private_file(self.host_address(), file.as_fd(), *offset..*offset + self.size())
            }
            (_, None) => populated::of_anonymous(self.host_address(), self.size()),
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
                name: self.name().to_owned(),
                offset,
                len,
            });
        }
        let slice = self.volatile_slice(offset, len)?;
        if len == 0 {
            return Ok(());
        }
        let done = match (self.backing(), self.fd()) {
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
        self.dirty().mark(offset, len);
        done.map_err(|source| self.refused("giving pages back", source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::testing::{MIB, only, pages};
    use crate::memory::{DirtyClient, PAGE_SIZE};
    use std::fs::File;
    use std::sync::Arc;

    const SIZE: u64 = 64 * PAGE_SIZE;

    /// A block of each kind, all zeros; the file is one hole.
    fn one_of_each() -> [Arc<RamBlock>; 3] {
        let file: File = vmm_sys_util::tempfile::TempFile::new().unwrap().into_file();
        file.set_len(SIZE + PAGE_SIZE).unwrap();
        let backings = [
            Backing::SharedMemfd,
            Backing::PrivateAnonymous,
            Backing::PrivateFile {
                file,
                offset: PAGE_SIZE,
            },
        ];
        backings.map(|backing| RamBlock::new("ram", SIZE, backing).unwrap())
    }

    fn page(index: u64) -> Range<u64> {
        index * PAGE_SIZE..(index + 1) * PAGE_SIZE
    }

    #[test]
    fn what_was_written_is_read_and_recorded() {
        for block in one_of_each() {
            block.dirty().enable(DirtyClient::Migration);
            block.write(PAGE_SIZE - 2, b"abcd").unwrap();
            let mut bytes = [0; 4];
            block.read(PAGE_SIZE - 2, &mut bytes).unwrap();
            assert_eq!(&bytes, b"abcd");
            assert_eq!(
                block.dirty().take(DirtyClient::Migration, 0..SIZE),
                only(0..2 * PAGE_SIZE),
                "{block:?}"
            );
        }
    }

    #[test]
    fn an_access_beyond_the_end_does_nothing() {
        let block = pages(1);
        for offset in [PAGE_SIZE - 3, PAGE_SIZE, u64::MAX - 1] {
            assert!(block.write(offset, &[1; 4]).is_err());
            assert!(block.read(offset, &mut [0; 4]).is_err());
            assert!(block.is_zero(offset & !7, 4096).is_err());
            assert!(block.volatile_slice(offset, 4).is_err());
        }
        assert!(block.is_zero(0, PAGE_SIZE).unwrap());
        let message = block.read(4095, &mut [0; 2]).unwrap_err().to_string();
        assert_eq!(message, "RAM block 'ram' of 4096 bytes has no 2 bytes at offset 4095");
    }

    #[test]
    fn zeros_are_told_from_a_single_bit() {
        for block in one_of_each() {
            block.write(5 * PAGE_SIZE + 4095, &[1]).unwrap();
            assert!(block.is_zero(0, 5 * PAGE_SIZE).unwrap());
            assert!(!block.is_zero(0, SIZE).unwrap());
            assert!(block.is_zero(6 * PAGE_SIZE, SIZE - 6 * PAGE_SIZE).unwrap());
        }
    }

    #[test]
    fn only_touched_pages_are_populated() {
        for block in one_of_each() {
            assert!(block.populated_ranges().unwrap().is_empty(), "{block:?}");
            for offset in [3 * PAGE_SIZE, 4 * PAGE_SIZE + 1, 63 * PAGE_SIZE + 4095] {
                block.write(offset, &[1]).unwrap();
            }
            assert_eq!(
                block.populated_ranges().unwrap(),
                [page(3).start..page(4).end, page(63)],
                "{block:?}"
            );
        }
    }

    #[test]
    fn looking_for_populated_pages_populates_none() {
        let block = RamBlock::new("ram", 256 * MIB, Backing::SharedMemfd).unwrap();
        block.write(200 * MIB, &[1]).unwrap();
        for _ in 0..2 {
            assert_eq!(
                block.populated_ranges().unwrap(),
                only(200 * MIB..200 * MIB + PAGE_SIZE)
            );
        }
    }

    #[test]
    fn the_data_of_a_file_counts_as_populated() {
        let file: File = vmm_sys_util::tempfile::TempFile::new().unwrap().into_file();
        file.set_len(SIZE).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[1], 10 * PAGE_SIZE).unwrap();
        let block = RamBlock::new("ram", SIZE, Backing::PrivateFile { file, offset: 0 }).unwrap();
        block.write(20 * PAGE_SIZE, &[1]).unwrap();
        // Reading the file through the map makes nothing private.
        assert!(block.is_zero(30 * PAGE_SIZE, PAGE_SIZE).unwrap());
        assert_eq!(block.populated_ranges().unwrap(), [page(10), page(20)]);
    }

    #[test]
    fn discarded_pages_are_fresh_again_and_recorded() {
        for block in one_of_each() {
            block.write(0, &[1; 4 * 4096]).unwrap();
            block.dirty().enable(DirtyClient::Migration);
            block.discard(page(1).start..page(2).end).unwrap();
            assert!(block.is_zero(PAGE_SIZE, 2 * PAGE_SIZE).unwrap(), "{block:?}");
            assert!(!block.is_zero(0, PAGE_SIZE).unwrap() && !block.is_zero(3 * PAGE_SIZE, PAGE_SIZE).unwrap());
            assert_eq!(
                block.dirty().take(DirtyClient::Migration, 0..SIZE),
                only(page(1).start..page(2).end)
            );
            assert!(matches!(block.discard(1..4097), Err(RamError::NotWholePages { .. })));
            assert!(matches!(
                block.discard(0..SIZE + PAGE_SIZE),
                Err(RamError::OutOfBounds { .. })
            ));
            block.discard(0..0).unwrap();
        }
    }

    #[test]
    fn discarded_pages_take_no_memory() {
        for backing in [Backing::SharedMemfd, Backing::PrivateAnonymous] {
            let block = RamBlock::new("ram", SIZE, backing).unwrap();
            block.write(0, &[1; 4 * 4096]).unwrap();
            block.discard(page(1).start..page(2).end).unwrap();
            assert_eq!(block.populated_ranges().unwrap(), [page(0), page(3)]);
        }
    }
}
