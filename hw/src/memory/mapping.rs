//! The one place where memory is mapped and pointers into it are made.
//!
//! A [`Mapping`] owns an area of host memory that a guest may write at any moment. Therefore no `&[u8]` into it ever
//! exists: it is reached as a [`VolatileSlice`] or as atomic words.

#![expect(
    unsafe_code,
    reason = "mmap, madvise and mprotect, and slices over what they give; everything else in hw is safe"
)]

use std::ffi::c_void;
use std::io;
use std::os::fd::BorrowedFd;
use std::ptr;
use std::sync::atomic::AtomicU64;

use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};
use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

use super::units::{HUGE_PAGE_SIZE, to_usize};

/// What a mapping shows.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source<'a> {
    /// Fresh zero pages of its own.
    Anonymous,
    /// A file from an offset on; writes go to the file.
    Shared(BorrowedFd<'a>, u64),
    /// A file from an offset on; writes stay in this process.
    Private(BorrowedFd<'a>, u64),
}

/// An owned area of mapped memory.
///
/// An area of at least one huge page starts on a huge page's boundary, so that the kernel and KVM can use large
/// pages. The reservation around it stays inaccessible and so catches stray accesses.
#[derive(Debug)]
pub(super) struct Mapping {
    reservation: *mut c_void,
    reserved: usize,
    start: *mut u8,
    len: usize,
}

// SAFETY: the pointers are to memory that this value owns until it is dropped, and the memory is only reached by
// volatile and atomic accesses, which any thread may make at any time.
unsafe impl Send for Mapping {}
// SAFETY: as for Send; no method needs exclusive access.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes, a positive multiple of the page size. A file must be long enough: the caller has checked.
    pub(super) fn new(len: usize, source: Source<'_>) -> io::Result<Self> {
        let align = if len >= to_usize(HUGE_PAGE_SIZE) {
            to_usize(HUGE_PAGE_SIZE)
        } else {
            1
        };
        let reserved = len.checked_add(align - 1).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let reservation = unsafe {
            rustix::mm::mmap_anonymous(
                ptr::null_mut(),
                reserved,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        let start = reservation.wrapping_byte_add(reservation.addr().next_multiple_of(align) - reservation.addr());
        // From here on the reservation is released by Drop, whatever fails.
        let mapping = Self {
            reservation,
            reserved,
            start: start.cast(),
            len,
        };
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let fixed = MapFlags::FIXED | MapFlags::NORESERVE;
        // SAFETY: start..start+len lies inside the reservation made above, which nobody else knows of yet, so that
        // MAP_FIXED replaces only our own inaccessible pages.
        unsafe {
            match source {
                Source::Anonymous => rustix::mm::mmap_anonymous(start, len, access, fixed | MapFlags::PRIVATE),
                Source::Shared(fd, offset) => {
                    rustix::mm::mmap(start, len, access, fixed | MapFlags::SHARED, fd, offset)
                }
                Source::Private(fd, offset) => {
                    rustix::mm::mmap(start, len, access, fixed | MapFlags::PRIVATE, fd, offset)
                }
            }
        }?;
        Ok(mapping)
    }

    /// The address of the first byte.
    pub(super) fn address(&self) -> usize {
        self.start.addr()
    }

    /// A part of the area for volatile access, whose writes are recorded in `bitmap`; `None` if it is not all inside.
    pub(super) fn slice<B: BitmapSlice>(&self, offset: usize, len: usize, bitmap: B) -> Option<VolatileSlice<'_, B>> {
        self.holds(offset, len).then(|| {
            // SAFETY: the part is inside the area, which stays mapped for as long as `self` is borrowed, and everybody
            // who reaches it does so by volatile or atomic accesses.
            unsafe { VolatileSlice::with_bitmap(self.start.wrapping_add(offset), len, bitmap, None) }
        })
    }

    /// A part of the area as words; `None` if it is not all inside or not made of whole aligned words.
    pub(super) fn words(&self, offset: usize, len: usize) -> Option<&[AtomicU64]> {
        (self.holds(offset, len) && offset.is_multiple_of(8) && len.is_multiple_of(8)).then(|| {
            // SAFETY: the part is inside the area, aligned (the area starts on a page) and stays mapped while `self`
            // is borrowed; an atomic word may be changed by others, the guest included, at any time.
            unsafe { std::slice::from_raw_parts(self.start.wrapping_add(offset).cast::<AtomicU64>(), len / 8) }
        })
    }

    /// Asks for large pages in all of the area but the first 2 MiB, which it must be longer than.
    ///
    /// That is where a guest begins, with a few pages that lie scattered: in a large page, its first instruction would wait
    /// until all of it has been cleared, which takes a tenth of the time from exec to the guest's first output.
    pub(super) fn ask_for_huge_pages(&self) -> io::Result<()> {
        let first = to_usize(HUGE_PAGE_SIZE);
        let rest = self.len.checked_sub(first).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: the advice is for a part of the area, and changes how its pages are made, not what they hold.
        unsafe { rustix::mm::madvise(self.start.wrapping_add(first).cast(), rest, Advice::LinuxHugepage) }
            .map_err(Into::into)
    }

    /// Leaves the area out of core dumps.
    pub(super) fn leave_out_of_dumps(&self) -> io::Result<()> {
        // SAFETY: the advice concerns core dumps only.
        unsafe { rustix::mm::madvise(self.start.cast(), self.len, Advice::LinuxDontDump) }.map_err(Into::into)
    }

    /// Gives pages of an anonymous area back, so that they read as zero. The part must be inside and page-aligned.
    pub(super) fn discard(&self, offset: usize, len: usize) -> io::Result<()> {
        assert!(self.holds(offset, len), "the part to be discarded is inside the area");
        // SAFETY: the part is inside the area, and its pages change as if somebody had written zeros, which volatile
        // and atomic readers allow for.
        unsafe { rustix::mm::madvise(self.start.wrapping_add(offset).cast(), len, Advice::LinuxDontNeed) }
            .map_err(Into::into)
    }

    /// Makes the whole area read-only for this process. The caller sees to it that nothing writes it afterwards.
    pub(super) fn make_readonly(&self) -> io::Result<()> {
        // SAFETY: reads go on as before; a later write faults instead of changing anything.
        unsafe { rustix::mm::mprotect(self.start.cast(), self.len, MprotectFlags::READ) }.map_err(Into::into)
    }

    fn holds(&self, offset: usize, len: usize) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.len)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the reservation is ours and holds the whole area; every slice of it borrowed `self` and is gone. A
        // failure would mean that it is not mapped, which leaves nothing to do.
        let _ = unsafe { rustix::mm::munmap(self.reservation, self.reserved) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_area_starts_on_a_huge_page() {
        let mapping = Mapping::new(4 << 20, Source::Anonymous).unwrap();
        assert!(mapping.address().is_multiple_of(2 << 20));
    }

    #[test]
    fn what_is_not_all_inside_is_refused() {
        let mapping = Mapping::new(4096, Source::Anonymous).unwrap();
        assert!(mapping.slice(0, 4096, ()).is_some());
        assert!(mapping.slice(1, 4096, ()).is_none());
        assert!(mapping.slice(usize::MAX, 2, ()).is_none());
        assert!(mapping.words(8, 4096).is_none());
        assert!(mapping.words(4, 8).is_none());
    }

    #[test]
    fn discarded_pages_read_as_zero() {
        let mapping = Mapping::new(8192, Source::Anonymous).unwrap();
        mapping.slice(0, 8192, ()).unwrap().copy_from(&[7u8; 8192]);
        mapping.discard(4096, 4096).unwrap();
        let mut bytes = [1u8; 8192];
        mapping.slice(0, 8192, ()).unwrap().copy_to(&mut bytes);
        assert_eq!(bytes[..4096], [7; 4096]);
        assert_eq!(bytes[4096..], [0; 4096]);
    }
}
