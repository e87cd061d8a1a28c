//! Finding the pages of a block that hold anything, without touching the others.
//!
//! Reading a hole of a memfd allocates it, and a guest of many GiB uses a few of them: what was never written is left
//! alone. `mincore` would not do for private memory, as it says no for pages in swap.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::units::{PAGE_SIZE, to_u64, to_usize};

/// Bits of an entry of `/proc/self/pagemap`.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_A_FILE: u64 = 1 << 61;

/// Entries read at once: 64 KiB, which stand for 32 MiB of memory.
const BATCH: usize = 8192;

/// The pages of a part of a file that are not holes, relative to the part's start.
pub(super) fn of_file(fd: BorrowedFd<'_>, part: Range<u64>) -> io::Result<Vec<Range<u64>>> {
    let mut found = Vec::new();
    let mut at = part.start;
    while at < part.end {
        let data = match rustix::fs::seek(fd, SeekFrom::Data(at)) {
            Ok(data) => data,
            // No data up to the end of the file.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        if data >= part.end {
            break;
        }
        let hole = match rustix::fs::seek(fd, SeekFrom::Hole(data)) {
            Ok(hole) => hole,
            // The file shrank between the two calls.
            Err(Errno::NXIO) => part.end,
            Err(error) => return Err(error.into()),
        };
        let end = hole.clamp(data + 1, part.end);
        push_pages(&mut found, data.max(part.start) - part.start..end - part.start);
        at = end;
    }
    Ok(found)
}

/// The pages of private anonymous memory that are in memory or in swap. Where the kernel does not say, all of them.
pub(super) fn of_anonymous(address: usize, size: u64) -> io::Result<Vec<Range<u64>>> {
    match entries_where(address, size, |entry| entry & (PRESENT | SWAPPED) != 0) {
        Ok(found) => Ok(found),
        Err(error) if is_unavailable(&error) => Ok(whole(size)),
        Err(error) => Err(error),
    }
}

/// The pages of a private map over a part of a file: those where the file has data, and those written since.
pub(super) fn of_private_file(address: usize, fd: BorrowedFd<'_>, part: Range<u64>) -> io::Result<Vec<Range<u64>>> {
    let size = part.end - part.start;
    let own = |entry| entry & SWAPPED != 0 || entry & (PRESENT | OF_A_FILE) == PRESENT;
    let written = match entries_where(address, size, own) {
        Ok(written) => written,
        Err(error) if is_unavailable(&error) => return Ok(whole(size)),
        Err(error) => return Err(error),
    };
    match of_file(fd, part) {
        Ok(data) => Ok(union(data, written)),
        // A file system that does not know its holes.
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => Ok(whole(size)),
        Err(error) => Err(error),
    }
}

#[expect(clippy::single_range_in_vec_init, reason = "a list that holds one range is meant")]
fn whole(size: u64) -> Vec<Range<u64>> {
    vec![0..size]
}

/// A process that is not dumpable may not look at its own pagemap, and a sandbox may have no `/proc`.
fn is_unavailable(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound)
}

/// The pages of an area of this process whose pagemap entries fulfil a condition.
fn entries_where(address: usize, size: u64, wanted: impl Fn(u64) -> bool) -> io::Result<Vec<Range<u64>>> {
    let pagemap = File::open("/proc/self/pagemap")?;
    let first = to_u64(address) / PAGE_SIZE;
    let pages = size / PAGE_SIZE;
    let mut buffer = vec![0u8; BATCH * 8];
    let mut found = Vec::new();
    let mut page = 0;
    while page < pages {
        let batch = &mut buffer[..to_usize((pages - page) * 8).min(BATCH * 8)];
        pagemap.read_exact_at(batch, (first + page) * 8)?;
        for entry in batch.as_chunks::<8>().0 {
            if wanted(u64::from_ne_bytes(*entry)) {
                push_pages(&mut found, page * PAGE_SIZE..(page + 1) * PAGE_SIZE);
            }
            page += 1;
        }
    }
    Ok(found)
}

/// Adds a range, widened to whole pages, that starts at or after the last one's start.
fn push_pages(found: &mut Vec<Range<u64>>, range: Range<u64>) {
    let range = range.start / PAGE_SIZE * PAGE_SIZE..range.end.next_multiple_of(PAGE_SIZE);
    match found.last_mut() {
        Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
        _ => found.push(range),
    }
}

/// What is in either of two lists of ascending ranges.
fn union(mut a: Vec<Range<u64>>, b: Vec<Range<u64>>) -> Vec<Range<u64>> {
    a.extend(b);
    a.sort_unstable_by_key(|range| range.start);
    let mut merged = Vec::with_capacity(a.len());
    for range in a {
        push_pages(&mut merged, range);
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::testing::only;
    use std::os::fd::AsFd;

    #[test]
    fn ranges_are_widened_to_pages_and_joined() {
        let mut found = Vec::new();
        for range in [5..6, 4095..4097, 8192..8193, 20000..20001] {
            push_pages(&mut found, range);
        }
        assert_eq!(found, [0..12288, 16384..20480]);
    }

    #[test]
    fn two_lists_are_merged() {
        let p = |pages: Range<u64>| pages.start * PAGE_SIZE..pages.end * PAGE_SIZE;
        assert_eq!(
            union(vec![p(0..2), p(6..7)], vec![p(1..3), p(7..8), p(20..21)]),
            [p(0..3), p(6..8), p(20..21)]
        );
    }

    #[test]
    fn a_part_of_a_file_is_seen_from_its_own_start() {
        let file = vmm_sys_util::tempfile::TempFile::new().unwrap().into_file();
        file.set_len(1 << 20).unwrap();
        file.write_all_at(&[1], 8 * PAGE_SIZE).unwrap();
        file.write_all_at(&[1], 100 * PAGE_SIZE).unwrap();
        let data = of_file(file.as_fd(), 4 * PAGE_SIZE..50 * PAGE_SIZE).unwrap();
        assert_eq!(data, only(4 * PAGE_SIZE..5 * PAGE_SIZE));
        assert!(of_file(file.as_fd(), 9 * PAGE_SIZE..50 * PAGE_SIZE).unwrap().is_empty());
        assert!(
            of_file(file.as_fd(), 101 * PAGE_SIZE..200 * PAGE_SIZE)
                .unwrap()
                .is_empty()
        );
    }
}
