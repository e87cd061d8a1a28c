//! Pages and the two widths that sizes come in: `u64` towards the guest, `usize` towards the host.

use std::ops::Range;

/// The granularity of RAM blocks, dirty bitmaps and accelerator slots.
pub const PAGE_SIZE: u64 = 4096;

/// The size of a large page of the host, to which the start of a block's memory is aligned.
pub const HUGE_PAGE_SIZE: u64 = 2 << 20;

/// A size or offset as the host counts it.
#[expect(clippy::cast_possible_truncation, reason = "x86-64 only: usize is as wide as u64")]
pub(super) const fn to_usize(bytes: u64) -> usize {
    bytes as usize
}

/// A size or offset as the guest counts it.
pub(super) const fn to_u64(bytes: usize) -> u64 {
    bytes as u64
}

/// Whether a size or offset lies on a page boundary.
pub(super) const fn is_page_aligned(bytes: u64) -> bool {
    bytes.is_multiple_of(PAGE_SIZE)
}

/// The part that two ranges share, if any.
pub(super) fn intersection(a: &Range<u64>, b: &Range<u64>) -> Option<Range<u64>> {
    let shared = a.start.max(b.start)..a.end.min(b.end);
    (shared.start < shared.end).then_some(shared)
}

/// A size for messages.
pub(super) fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

const _: () = assert!(usize::BITS == 64, "Tern runs on 64-bit hosts");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_only_touch_share_nothing() {
        assert_eq!(intersection(&(0..4), &(4..8)), None);
        assert_eq!(intersection(&(0..5), &(4..8)), Some(4..5));
        assert_eq!(intersection(&(0..9), &(4..8)), Some(4..8));
    }
}
