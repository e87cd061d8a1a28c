//! Which pages of a RAM block have been written since somebody last looked, for each who looks.
//!
//! Writes come from three sources: the accelerator's log ([`DirtyBitmaps::harvest`]), the VMM's own threads
//! ([`DirtyBitmaps::mark`], reached by every write through vm-memory), and back ends outside the process. Each client
//! has a bitmap of its own and takes pages from it ([`DirtyBitmaps::take`]) without disturbing the others: a harvest
//! goes to all of them, because the accelerator forgets what it has handed over.
//!
//! # Taking pages to send them
//!
//! 1. take a range: its bits are cleared and returned;
//! 2. [`AddressSpace::log_clear`](super::AddressSpace::log_clear) of it, so that the accelerator records writes anew;
//! 3. read the pages.
//!
//! A write after step 1 by the VMM sets a bit, one after step 2 by the guest is logged again, and one before has
//! changed what step 3 reads. The other half of the rule: who writes marks *after* the write.

use std::fmt;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use vm_memory::bitmap::{Bitmap, RefSlice, WithBitmapSlice};

use super::units::{PAGE_SIZE, to_u64, to_usize};

/// Who wants to know about written pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DirtyClient {
    /// Live migration, and a snapshot taken while the guest runs.
    Migration,
}

impl DirtyClient {
    /// All clients that there are.
    pub const ALL: [Self; 1] = [Self::Migration];

    const fn index(self) -> usize {
        match self {
            Self::Migration => 0,
        }
    }

    /// The client's bit in a set of clients.
    pub(super) const fn bit(self) -> u32 {
        1 << self.index()
    }
}

/// The dirty pages of one block, one bitmap per [`DirtyClient`].
///
/// All methods may be called from any thread at any time. Offsets and ranges are bytes in the block; what reaches
/// beyond it is left out.
pub struct DirtyBitmaps {
    pages: u64,
    clients: [ClientBitmap; DirtyClient::ALL.len()],
}

#[derive(Default)]
struct ClientBitmap {
    enabled: AtomicBool,
    /// Made when the client is first enabled, and kept.
    words: OnceLock<Box<[AtomicU64]>>,
}

impl DirtyBitmaps {
    /// Bitmaps for a block of `size` bytes, no client enabled.
    #[must_use]
    pub(super) fn new(size: u64) -> Self {
        Self {
            pages: size.div_ceil(PAGE_SIZE),
            clients: DirtyClient::ALL.map(|_| ClientBitmap::default()),
        }
    }

    /// How many pages the block has.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Starts recording for a client, with all pages clean. Whatever was written before this returned is seen by a
    /// read after it; whatever is written later is recorded.
    pub fn enable(&self, client: DirtyClient) {
        let bitmap = &self.clients[client.index()];
        let words = bitmap
            .words
            .get_or_init(|| (0..self.pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect());
        if !bitmap.enabled.load(Ordering::SeqCst) {
            words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        }
        bitmap.enabled.store(true, Ordering::SeqCst);
        // Pairs with the fence in `mark`: a writer that does not see the client enabled has its data seen.
        fence(Ordering::SeqCst);
    }

    /// Stops recording for a client. What it had not taken is forgotten.
    pub fn disable(&self, client: DirtyClient) {
        self.clients[client.index()].enabled.store(false, Ordering::SeqCst);
    }

    /// Whether writes are recorded for a client.
    #[must_use]
    pub fn is_enabled(&self, client: DirtyClient) -> bool {
        self.clients[client.index()].enabled.load(Ordering::SeqCst)
    }

    /// Records, for all enabled clients, that bytes have been written. To be called after the write.
    pub fn mark(&self, offset: u64, len: u64) {
        // Between the write and the look at `enabled`; see `enable`.
        fence(Ordering::SeqCst);
        for words in self.enabled_words() {
            self.set(words, offset, len);
        }
    }

    /// Records for one client that it has to look at bytes again, for instance because sending them failed.
    pub fn mark_for(&self, client: DirtyClient, offset: u64, len: u64) {
        if let Some(words) = self.words(client) {
            self.set(words, offset, len);
        }
    }

    /// Merges the accelerator's log of a part of the block into the bitmaps of all enabled clients: bit *i* of `log`
    /// is the page *i* after the one at `offset` (a multiple of the page size).
    pub fn harvest(&self, offset: u64, log: &[u64]) {
        let first = offset / PAGE_SIZE;
        for words in self.enabled_words() {
            for (index, &bits) in log.iter().enumerate().filter(|&(_, &bits)| bits != 0) {
                let page = first + to_u64(index) * 64;
                let shift = page % 64;
                let low = bits << shift;
                let high = if shift == 0 { 0 } else { bits >> (64 - shift) };
                for (index, bits) in [(page / 64, low), (page / 64 + 1, high)] {
                    let bits = bits & self.existing(index);
                    if bits != 0 {
                        words[to_usize(index)].fetch_or(bits, Ordering::AcqRel);
                    }
                }
            }
        }
    }

    /// Takes the dirty pages of a range away from a client: returns them as runs of whole pages in ascending order,
    /// and clears their bits, so that a page is taken exactly once for each time that it was marked.
    ///
    /// The range counts from the page that holds its start to the one that holds its last byte. Nothing is taken for a
    /// client that is not enabled.
    #[must_use = "pages that were taken are not dirty any more"]
    pub fn take(&self, client: DirtyClient, range: Range<u64>) -> Vec<Range<u64>> {
        let mut runs = Vec::new();
        let Some(words) = self.words(client) else { return runs };
        let pages = self.page_range(range.start, range.end.saturating_sub(range.start));
        for (index, mask) in word_masks(pages) {
            let word = &words[to_usize(index)];
            // Most words are clean, and a plain load leaves their cache lines shared.
            if word.load(Ordering::Relaxed) & mask != 0 {
                let taken = word.fetch_and(!mask, Ordering::AcqRel) & mask;
                push_runs(&mut runs, index * 64, taken);
            }
        }
        runs
    }

    /// The offset of the first dirty page of a client at or after `offset`.
    #[must_use]
    pub fn next_dirty(&self, client: DirtyClient, offset: u64) -> Option<u64> {
        let words = self.words(client)?;
        word_masks((offset / PAGE_SIZE).min(self.pages)..self.pages).find_map(|(index, mask)| {
            let bits = words[to_usize(index)].load(Ordering::Acquire) & mask;
            (bits != 0).then(|| (index * 64 + u64::from(bits.trailing_zeros())) * PAGE_SIZE)
        })
    }

    /// How many pages a client has not taken yet.
    #[must_use]
    pub fn count(&self, client: DirtyClient) -> u64 {
        self.words(client).map_or(0, |words| {
            words
                .iter()
                .map(|word| u64::from(word.load(Ordering::Relaxed).count_ones()))
                .sum()
        })
    }

    /// Whether the page that holds a byte is dirty for a client.
    #[must_use]
    pub fn is_dirty(&self, client: DirtyClient, offset: u64) -> bool {
        let page = offset / PAGE_SIZE;
        page < self.pages
            && self
                .words(client)
                .is_some_and(|words| words[to_usize(page / 64)].load(Ordering::Acquire) & (1 << (page % 64)) != 0)
    }

    fn words(&self, client: DirtyClient) -> Option<&[AtomicU64]> {
        let bitmap = &self.clients[client.index()];
        if bitmap.enabled.load(Ordering::Acquire) {
            bitmap.words.get().map(AsRef::as_ref)
        } else {
            None
        }
    }

    fn enabled_words(&self) -> impl Iterator<Item = &[AtomicU64]> {
        DirtyClient::ALL.into_iter().filter_map(|client| self.words(client))
    }

    fn set(&self, words: &[AtomicU64], offset: u64, len: u64) {
        for (index, mask) in word_masks(self.page_range(offset, len)) {
            let word = &words[to_usize(index)];
            word.fetch_or(mask, Ordering::AcqRel);
        }
    }

    /// The pages that hold a range of bytes, as far as they exist.
    fn page_range(&self, offset: u64, len: u64) -> Range<u64> {
        if len == 0 {
            return 0..0;
        }
        let last = offset.saturating_add(len - 1) / PAGE_SIZE;
        (offset / PAGE_SIZE).min(self.pages)..last.saturating_add(1).min(self.pages)
    }

    /// The bits of a word that stand for pages of the block.
    fn existing(&self, index: u64) -> u64 {
        low_bits(self.pages.saturating_sub(index.saturating_mul(64)))
    }
}

impl fmt::Debug for DirtyBitmaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_struct("DirtyBitmaps");
        map.field("pages", &self.pages);
        for client in DirtyClient::ALL.into_iter().filter(|&client| self.is_enabled(client)) {
            map.field(&format!("{client:?}"), &self.count(client));
        }
        map.finish()
    }
}

impl<'a> WithBitmapSlice<'a> for DirtyBitmaps {
    type S = RefSlice<'a, Self>;
}

/// What vm-memory calls for each access, so that a device's writes are recorded without its doing anything.
impl Bitmap for DirtyBitmaps {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.mark(to_u64(offset), to_u64(len));
    }

    fn dirty_at(&self, offset: usize) -> bool {
        DirtyClient::ALL
            .into_iter()
            .any(|client| self.is_dirty(client, to_u64(offset)))
    }

    fn slice_at(&self, offset: usize) -> RefSlice<'_, Self> {
        RefSlice::new(self, offset)
    }
}

/// The words that hold a range of pages, and which of their bits do.
fn word_masks(pages: Range<u64>) -> impl Iterator<Item = (u64, u64)> {
    let words = if pages.is_empty() {
        0..0
    } else {
        pages.start / 64..pages.end.div_ceil(64)
    };
    words.map(move |index| {
        let first = index * 64;
        let below = low_bits(pages.start.saturating_sub(first));
        (index, low_bits(pages.end - first) & !below)
    })
}

/// The lowest `count` bits, at most 64.
fn low_bits(count: u64) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}

/// Adds the runs of set bits of one word, as bytes, to runs that end before it or at its start.
fn push_runs(runs: &mut Vec<Range<u64>>, first_page: u64, mut bits: u64) {
    let mut page = first_page;
    while bits != 0 {
        let gap = bits.trailing_zeros();
        bits >>= gap;
        page += u64::from(gap);
        let length = bits.trailing_ones();
        bits = bits.checked_shr(length).unwrap_or(0);
        let run = page * PAGE_SIZE..(page + u64::from(length)) * PAGE_SIZE;
        page += u64::from(length);
        match runs.last_mut() {
            Some(last) if last.end == run.start => last.end = run.end,
            _ => runs.push(run),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::sync::atomic::AtomicU32;
    use std::time::{Duration, Instant};

    const CLIENT: DirtyClient = DirtyClient::Migration;

    fn recording(pages: u64) -> DirtyBitmaps {
        let bitmaps = DirtyBitmaps::new(pages * PAGE_SIZE);
        bitmaps.enable(CLIENT);
        bitmaps
    }

    fn bytes(pages: Range<u64>) -> Range<u64> {
        pages.start * PAGE_SIZE..pages.end * PAGE_SIZE
    }

    fn pages_of(runs: &[Range<u64>]) -> BTreeSet<u64> {
        runs.iter()
            .flat_map(|run| run.start / PAGE_SIZE..run.end / PAGE_SIZE)
            .collect()
    }

    #[test]
    fn a_write_marks_every_page_that_it_touches() {
        let bitmaps = recording(200);
        bitmaps.mark(PAGE_SIZE - 1, 2);
        bitmaps.mark(63 * PAGE_SIZE, 3 * PAGE_SIZE);
        bitmaps.mark(7 * PAGE_SIZE, 0);
        assert_eq!(bitmaps.take(CLIENT, 0..u64::MAX), [bytes(0..2), bytes(63..66)]);
    }

    #[test]
    fn what_is_taken_is_clean_and_the_rest_stays_dirty() {
        let bitmaps = recording(200);
        bitmaps.mark(0, 200 * PAGE_SIZE);
        assert_eq!(bitmaps.take(CLIENT, bytes(60..70)), [bytes(60..70)]);
        assert_eq!(bitmaps.take(CLIENT, bytes(60..70)), []);
        assert_eq!(bitmaps.count(CLIENT), 190);
        assert!(bitmaps.is_dirty(CLIENT, 70 * PAGE_SIZE) && !bitmaps.is_dirty(CLIENT, 69 * PAGE_SIZE));
        assert_eq!(bitmaps.take(CLIENT, 0..u64::MAX), [bytes(0..60), bytes(70..200)]);
        assert_eq!(bitmaps.next_dirty(CLIENT, 0), None);
    }

    #[test]
    fn nothing_is_recorded_for_a_client_that_is_not_enabled() {
        let bitmaps = DirtyBitmaps::new(64 * PAGE_SIZE);
        bitmaps.mark(0, 1);
        bitmaps.harvest(0, &[1]);
        assert_eq!((bitmaps.count(CLIENT), bitmaps.is_enabled(CLIENT)), (0, false));
        bitmaps.enable(CLIENT);
        assert_eq!(bitmaps.count(CLIENT), 0);
        bitmaps.mark(0, 1);
        bitmaps.disable(CLIENT);
        assert_eq!(bitmaps.take(CLIENT, 0..u64::MAX), []);
        bitmaps.enable(CLIENT);
        assert_eq!(bitmaps.count(CLIENT), 0, "what was not taken is forgotten");
    }

    #[test]
    fn enabling_twice_forgets_nothing() {
        let bitmaps = recording(1);
        bitmaps.mark(0, 1);
        bitmaps.enable(CLIENT);
        assert_eq!(bitmaps.count(CLIENT), 1);
    }

    #[test]
    fn pages_that_do_not_exist_are_left_out() {
        let bitmaps = recording(65);
        bitmaps.mark(64 * PAGE_SIZE, u64::MAX);
        bitmaps.mark(u64::MAX, 1);
        bitmaps.harvest(64 * PAGE_SIZE, &[u64::MAX, u64::MAX]);
        bitmaps.harvest(1 << 60, &[u64::MAX]);
        assert_eq!(bitmaps.take(CLIENT, 0..u64::MAX), [bytes(64..65)]);
    }

    #[test]
    fn vm_memory_sees_slices_at_their_offset() {
        let bitmaps = recording(10);
        let slice = bitmaps.slice_at(to_usize(3 * PAGE_SIZE)).slice_at(to_usize(PAGE_SIZE));
        slice.mark_dirty(0, 1);
        assert!(bitmaps.is_dirty(CLIENT, 4 * PAGE_SIZE) && slice.dirty_at(0));
        assert_eq!(bitmaps.count(CLIENT), 1);
    }

    /// One thread writes and marks the pages of a word, over and over; another takes them. All of a round has to be
    /// taken before the next one begins, so that a lost mark is never made up for by a later one.
    #[test]
    fn no_mark_is_lost_between_one_that_marks_and_one_that_takes() {
        const PAGES: usize = 64;
        const ENOUGH: Duration = Duration::from_millis(500);
        const TOO_LONG: Duration = Duration::from_secs(10);
        let bitmaps = recording(to_u64(PAGES));
        let zeros = || [const { AtomicU32::new(0) }; PAGES];
        let (written, seen, missed) = (zeros(), zeros(), AtomicBool::new(false));
        let write = || {
            let begun = Instant::now();
            for round in (1..).take_while(|_| begun.elapsed() < ENOUGH) {
                for (page, written) in written.iter().enumerate() {
                    let offset = to_u64(page) * PAGE_SIZE;
                    written.store(round, Ordering::Relaxed);
                    if page % 2 == 0 {
                        bitmaps.harvest(offset, &[1])
                    } else {
                        bitmaps.mark(offset, 1)
                    }
                }
                while seen.iter().any(|seen| seen.load(Ordering::Relaxed) != round) {
                    if begun.elapsed() > TOO_LONG {
                        missed.store(true, Ordering::Relaxed);
                        return;
                    }
                    std::thread::yield_now();
                }
            }
        };
        std::thread::scope(|scope| {
            let writer = scope.spawn(write);
            while !writer.is_finished() {
                for run in bitmaps.take(CLIENT, 0..u64::MAX) {
                    for page in to_usize(run.start / PAGE_SIZE)..to_usize(run.end / PAGE_SIZE) {
                        seen[page].store(written[page].load(Ordering::Relaxed), Ordering::Relaxed);
                    }
                }
            }
        });
        assert!(!missed.into_inner(), "a mark was lost: {seen:?} of {written:?}");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Mark(u64, u64),
        Harvest(u64, Vec<u64>),
        Take(Range<u64>),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u64..260, 0u64..70).prop_map(|(page, count)| Step::Mark(page, count)),
            (0u64..260, prop::collection::vec(any::<u64>(), 0..4)).prop_map(|(page, log)| Step::Harvest(page, log)),
            (0u64..260, 0u64..260).prop_map(|(a, b)| Step::Take(a.min(b)..a.max(b))),
        ]
    }

    proptest! {
        /// The bitmap behaves as the set of pages that it stands for.
        #[test]
        fn a_bitmap_is_a_set_of_pages(steps in prop::collection::vec(any_step(), 1..30)) {
            const PAGES: u64 = 200;
            let bitmaps = recording(PAGES);
            let mut set = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Mark(page, count) => {
                        bitmaps.mark(page * PAGE_SIZE, count * PAGE_SIZE);
                        set.extend((page..page + count).filter(|&page| page < PAGES));
                    }
                    Step::Harvest(page, log) => {
                        bitmaps.harvest(page * PAGE_SIZE, &log);
                        let logged = (0..64 * to_u64(log.len())).filter(|bit| log[to_usize(bit / 64)] >> (bit % 64) & 1 == 1);
                        set.extend(logged.map(|bit| page + bit).filter(|&page| page < PAGES));
                    }
                    Step::Take(pages) => {
                        let taken = bitmaps.take(CLIENT, bytes(pages.clone()));
                        prop_assert!(taken.windows(2).all(|pair| pair[0].end < pair[1].start));
                        let (inside, rest) = set.into_iter().partition(|page| pages.contains(page));
                        set = rest;
                        prop_assert_eq!(pages_of(&taken), inside);
                    }
                }
                prop_assert_eq!(bitmaps.count(CLIENT), to_u64(set.len()));
                prop_assert_eq!(bitmaps.next_dirty(CLIENT, 0), set.first().map(|page| page * PAGE_SIZE));
            }
        }
    }
}
