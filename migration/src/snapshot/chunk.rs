//! Chunks of RAM: which of their pages hold something, and the checksum over those.
//!
//! The checksum is over the pages that are not zero, each behind its number. So it says the same of a page of zeros and of
//! a hole, costs nothing for memory that was never used, and a page that was lost, moved or zeroed changes it.

use std::ops::Range;

pub(super) const PAGE: usize = 4096;

/// What the index knows of a chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ChunkSum {
    /// How many pages are not zero; with none the chunk is a hole.
    pub(super) pages: u16,
    /// Checksum over these pages and their numbers.
    pub(super) crc: u32,
}

/// Adds up a chunk, page by page in ascending order.
#[derive(Default)]
pub(super) struct ChunkHasher {
    crc: crc32fast::Hasher,
    pages: u16,
}

impl ChunkHasher {
    /// Takes `bytes`, whole pages from page `first` of the chunk on; tells the runs of pages that are not zero, as
    /// ranges of `bytes`.
    pub(super) fn add(&mut self, first: u16, bytes: &[u8], mut run: impl FnMut(Range<usize>)) {
        let mut open = None;
        for (number, page) in (first..).zip(bytes.chunks_exact(PAGE)) {
            let start = usize::from(number - first) * PAGE;
            if is_zero(page) {
                if let Some(open) = open.take() {
                    run(open..start);
                }
            } else {
                self.crc.update(&number.to_le_bytes());
                self.crc.update(page);
                self.pages += 1;
                open.get_or_insert(start);
            }
        }
        if let Some(open) = open {
            run(open..bytes.len());
        }
    }

    /// The sum of the chunk.
    pub(super) fn finish(self) -> ChunkSum {
        ChunkSum {
            pages: self.pages,
            crc: self.crc.finalize(),
        }
    }
}

/// Whether nothing is set; by the cache line, because a test for a hit costs more than a load.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    let lines = bytes.chunks_exact(64);
    let rest = lines.remainder();
    lines
        .into_iter()
        .all(|line| line.iter().fold(0, |bits, byte| bits | byte) == 0)
        && rest.iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(pages: &[(u16, u8)]) -> ChunkSum {
        let mut hasher = ChunkHasher::default();
        for &(number, fill) in pages {
            hasher.add(number, &[fill; PAGE], |_| {});
        }
        hasher.finish()
    }

    #[test]
    fn a_page_of_zeros_counts_as_none() {
        assert_eq!(sum(&[(0, 1), (1, 0), (2, 3)]), sum(&[(0, 1), (2, 3)]));
        assert_eq!(sum(&[(0, 0), (9, 0)]), ChunkSum::default());
    }

    #[test]
    fn a_lost_moved_or_swapped_page_changes_the_sum() {
        let good = sum(&[(0, 1), (1, 2)]);
        for bad in [
            &[(0, 1)][..],
            &[(0, 1), (2, 2)],
            &[(0, 2), (1, 1)],
            &[(0, 1), (1, 2), (2, 2)],
        ] {
            assert_ne!(sum(bad), good);
        }
    }

    #[test]
    fn runs_are_the_pages_that_are_not_zero() {
        let mut bytes = vec![0; 6 * PAGE];
        for page in [1, 2, 5] {
            bytes[page * PAGE + 4095] = 1;
        }
        let mut runs = Vec::new();
        ChunkHasher::default().add(7, &bytes, |run| runs.push(run));
        assert_eq!(runs, [PAGE..3 * PAGE, 5 * PAGE..6 * PAGE]);
    }

    #[test]
    fn a_single_set_bit_is_found_anywhere() {
        let mut bytes = vec![0; 200];
        assert!(is_zero(&bytes));
        for position in 0..bytes.len() {
            bytes[position] = 0x80;
            assert!(!is_zero(&bytes));
            bytes[position] = 0;
        }
    }
}
