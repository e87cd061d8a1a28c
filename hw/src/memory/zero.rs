//! Looking for zeros in memory that a guest may be writing.

use std::sync::atomic::{AtomicU64, Ordering};

use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

use super::units::{PAGE_SIZE, to_usize};

/// Words of a cache line: looked at together, as the test for a hit costs more than a load.
const LINE: usize = 8;

/// Whether all words are zero. Most pages that are not zero show it in their first line.
pub(super) fn all_zero(words: &[AtomicU64]) -> bool {
    let lines = words.chunks_exact(LINE);
    let rest = lines.remainder();
    lines.into_iter().all(|line| or_of(line) == 0) && or_of(rest) == 0
}

fn or_of(words: &[AtomicU64]) -> u64 {
    words.iter().fold(0, |bits, word| bits | word.load(Ordering::Relaxed))
}

/// Writes zeros over a slice.
pub(super) fn fill<B: BitmapSlice>(slice: &VolatileSlice<'_, B>) {
    const PAGE: [u8; to_usize(PAGE_SIZE)] = [0; to_usize(PAGE_SIZE)];
    let mut rest = slice.clone();
    while !rest.is_empty() {
        let step = rest.len().min(PAGE.len());
        rest.copy_from(&PAGE[..step]);
        let Ok(next) = rest.offset(step) else { return };
        rest = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_bit_anywhere_is_found() {
        let words: Vec<AtomicU64> = (0..37).map(|_| AtomicU64::new(0)).collect();
        assert!(all_zero(&words));
        for word in &words {
            word.store(1 << 63, Ordering::Relaxed);
            assert!(!all_zero(&words));
            word.store(0, Ordering::Relaxed);
        }
        assert!(all_zero(&[]));
    }
}
