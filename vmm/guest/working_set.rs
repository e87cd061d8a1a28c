//! The working set: which pages, how often each was written, and which processor has which.
//!
//! The counts lie outside the set. They are guest memory like the pages they speak of, so a page and its count may be
//! stale together: for each [`CHUNK`] of pages a sum of the counts is kept elsewhere, and the sum of all in the
//! processor's block.

use core::fmt;
use core::ops::Range;
use core::ptr;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::guard::Item;
use crate::memory::{MAX_REGIONS, Memory, PAGE, Region};
use crate::pattern::{Finding, Pattern, WORDS, Write};

/// Pages whose counts have one sum: what lies on one page of the table.
pub const CHUNK: u64 = 1024;

/// Pages that the set leaves for what is taken after it: the sums and the guards are small.
const SPARE_PAGES: u64 = 64;
const SPARE_PAGES_PER_CPU: u64 = 16;

/// All pages, numbered from 0.
pub struct WorkingSet {
    regions: [Region; MAX_REGIONS],
    pages: u64,
    fill_percent: u64,
    pattern: Pattern,
    counts: &'static [AtomicU32],
}

impl WorkingSet {
    /// Takes `pages` pages from the end of the memory, less where not so many are left with what each processor needs.
    pub fn take(memory: &mut Memory, pages: u64, fill_percent: u64, pattern: Pattern, cpus: u64) -> Option<WorkingSet> {
        let counts_per_page = PAGE / size_of::<AtomicU32>() as u64;
        let pages = pages.min(memory.free_pages());
        let needed = SPARE_PAGES + cpus * SPARE_PAGES_PER_CPU + pages / counts_per_page;
        let pages = pages.min(memory.free_pages().checked_sub(needed)?);
        let regions = memory.take_last(pages)?;
        let counts = memory.take_slice(pages)?;
        Some(WorkingSet {
            regions,
            pages,
            fill_percent,
            pattern,
            counts,
        })
    }

    /// How many pages.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Whether a page is filled at all: `fill_percent` of them are, evenly spread.
    pub fn is_filled(&self, index: u64) -> bool {
        index * self.fill_percent % 100 < self.fill_percent
    }

    fn address(&self, index: u64) -> u64 {
        let mut rest = index;
        for region in &self.regions {
            if rest < region.pages() {
                return region.start + rest * PAGE;
            }
            rest -= region.pages();
        }
        unreachable!("page {index} of {}", self.pages)
    }

    fn count(&self, index: u64) -> &AtomicU32 {
        &self.counts[index as usize]
    }

    fn last_write(&self, index: u64) -> Write {
        Write {
            page: (self.address(index) / PAGE) as u32,
            count: self.count(index).load(Ordering::Relaxed),
        }
    }

    /// What a page should hold.
    pub fn expected(&self, index: u64) -> Item {
        let write = self.last_write(index);
        let (first, step) = self.pattern.content(write);
        Item {
            address: u64::from(write.page) * PAGE,
            first,
            step,
        }
    }

    /// What is wrong with a page of the calling processor's share.
    pub fn diagnose(&self, index: u64) -> Option<Finding> {
        let expected = self.last_write(index);
        let page = ptr::with_exposed_provenance::<[u64; WORDS]>(self.address(index) as usize);
        // SAFETY: a page of the working set, which only its own processor writes, and that is here.
        let words = unsafe { &*page };
        self.pattern.diagnose(expected, words)
    }
}

/// The pages of one processor: a part of those that are dirtied over and over, and a part of the rest.
pub struct Share {
    busy: Range<u64>,
    rest: Range<u64>,
    sums: &'static [AtomicU64],
}

/// A sum of counts that is not what was summed up.
pub struct WrongSum {
    /// Where the counts are.
    table: u64,
    expected: u64,
    found: u64,
}

impl fmt::Display for WrongSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let WrongSum { table, expected, found } = self;
        write!(
            f,
            "page {table:#x} counts of writes: expected sum {expected:#x} found {found:#x}"
        )
    }
}

impl Share {
    /// The share of processor `index` of `cpus`, where the first `busy_pages` pages are dirtied.
    pub fn take(memory: &mut Memory, set: &WorkingSet, busy_pages: u64, index: u64, cpus: u64) -> Option<Share> {
        let busy_pages = busy_pages.min(set.pages);
        let rest = set.pages - busy_pages;
        let part = |pages: u64| pages * index / cpus..pages * (index + 1) / cpus;
        let mut share = Share {
            busy: part(busy_pages),
            rest: part(rest),
            sums: &[],
        };
        share.rest = share.rest.start + busy_pages..share.rest.end + busy_pages;
        share.sums = memory.take_slice(share.pages().div_ceil(CHUNK))?;
        Some(share)
    }

    /// How many pages; they are numbered from 0 within the share.
    pub fn pages(&self) -> u64 {
        self.busy_pages() + (self.rest.end - self.rest.start)
    }

    /// How many of them, from 0, are dirtied over and over.
    pub fn busy_pages(&self) -> u64 {
        self.busy.end - self.busy.start
    }

    /// The page's number in the whole set.
    pub fn in_set(&self, page: u64) -> u64 {
        let busy = self.busy_pages();
        if page < busy {
            self.busy.start + page
        } else {
            self.rest.start + (page - busy)
        }
    }

    /// Counts a write of a page of this share, and tells what to write.
    pub fn count_write(&self, set: &WorkingSet, page: u64) -> Item {
        let index = self.in_set(page);
        let count = set.count(index);
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        let sum = &self.sums[(page / CHUNK) as usize];
        sum.store(sum.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        set.expected(index)
    }

    /// Compares the counts with their sums, and the sums with the `total` kept elsewhere.
    pub fn check_sums(&self, set: &WorkingSet, total: u64, mut wrong: impl FnMut(WrongSum)) {
        let mut all = 0u64;
        for (chunk, sum) in (0..).zip(self.sums) {
            let expected = sum.load(Ordering::Relaxed);
            all = all.wrapping_add(expected);
            let pages = chunk * CHUNK..self.pages().min((chunk + 1) * CHUNK);
            let count = |page| u64::from(set.count(self.in_set(page)).load(Ordering::Relaxed));
            let found = pages.clone().map(count).sum();
            if found != expected {
                wrong(WrongSum {
                    table: address_of(set.count(self.in_set(pages.start))),
                    expected,
                    found,
                });
            }
        }
        if all != total {
            wrong(WrongSum {
                table: address_of(self.sums.as_ptr()),
                expected: total,
                found: all,
            });
        }
    }
}

fn address_of<T>(place: *const T) -> u64 {
    place as u64 / PAGE * PAGE
}
