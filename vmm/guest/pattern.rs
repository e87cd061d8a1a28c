//! What a page holds. Pure, so that the VMM's unit tests can run it (`vmm/src/guest.rs`).
//!
//! Word *i* of a page is `first + i * step`, where `first` is a bijection of (page number, count of writes) under the
//! seed. So no two pages, and no two writes of one page, have a word in common by design, filling takes an addition
//! a word, and from any word of a page one can compute back whose it is and from which write: a wrong page is told
//! apart into stale, swapped, zeroed and garbage.

use core::fmt;

/// Words in a page.
pub const WORDS: usize = 512;

const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
const SPREAD_INVERSE: u64 = inverse(SPREAD);

/// The inverse of an odd number modulo 2^64, by Newton's iteration.
const fn inverse(odd: u64) -> u64 {
    let mut inverse = odd;
    let mut round = 0;
    while round < 6 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(inverse)));
        round += 1;
    }
    inverse
}

/// A page and how often it has been written: what decides its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// Physical address divided by 4096.
    pub page: u32,
    /// Count of writes, from 1. A page that was never written is zero.
    pub count: u32,
}

/// Contents of all pages under one seed.
#[derive(Clone, Copy)]
pub struct Pattern {
    key: u64,
    step: u64,
}

impl Pattern {
    /// The pattern of a seed.
    pub fn new(seed: u64) -> Pattern {
        let key = mix(seed);
        Pattern {
            key,
            step: mix(key) | 1,
        }
    }

    /// The first word of a page and what is added from word to word. A page never written is zero.
    pub fn content(self, write: Write) -> (u64, u64) {
        if write.count == 0 {
            return (0, 0);
        }
        let identity = u64::from(write.page) << 32 | u64::from(write.count);
        (identity.wrapping_mul(SPREAD) ^ self.key, self.step)
    }

    /// Which write put `word` at position `index` of a page. Any word has an answer; it means something where
    /// several words agree.
    fn origin(self, index: usize, word: u64) -> Write {
        let first = word.wrapping_sub(self.step.wrapping_mul(index as u64));
        let identity = (first ^ self.key).wrapping_mul(SPREAD_INVERSE);
        Write {
            page: (identity >> 32) as u32,
            count: identity as u32,
        }
    }

    /// What is wrong with a page, or `None` if it is as `expected`.
    pub fn diagnose(self, expected: Write, words: &[u64; WORDS]) -> Option<Finding> {
        let (first, step) = self.content(expected);
        let value = |index: usize| first.wrapping_add(step.wrapping_mul(index as u64));
        let index = (0..WORDS).find(|&index| words[index] != value(index))?;
        let wrong = (index..WORDS).filter(|&index| words[index] != value(index));
        let count = wrong.clone().count();
        let origin = self.origin(index, words[index]);
        let kind = if wrong.clone().all(|index| words[index] == 0) {
            Kind::Zeroed
        } else if origin.count != 0 && wrong.clone().all(|index| self.origin(index, words[index]) == origin) {
            match (origin.page == expected.page, expected.count.checked_sub(origin.count)) {
                // A flipped bit, too, makes a word that some page might hold.
                (false, _) if count == 1 => Kind::Garbage,
                (false, _) => Kind::ContentOf(origin),
                (true, Some(by)) => Kind::Stale { by },
                (true, None) => Kind::Newer {
                    by: origin.count - expected.count,
                },
            }
        } else {
            Kind::Garbage
        };
        Some(Finding {
            page: expected.page,
            index,
            wrong: count,
            expected: value(index),
            found: words[index],
            kind,
        })
    }
}

/// What is wrong with a page. Displayed, it is the rest of a line after `verify FAILED `.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    page: u32,
    /// The first wrong word.
    index: usize,
    /// How many words are wrong.
    wrong: usize,
    expected: u64,
    found: u64,
    /// What the wrong words are.
    pub kind: Kind,
}

/// What the wrong words of a page are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All zero.
    Zeroed,
    /// From an earlier write of this page.
    Stale {
        /// How many writes ago.
        by: u32,
    },
    /// From a write of this page that is not counted: the count is stale.
    Newer {
        /// How many writes ahead of the count.
        by: u32,
    },
    /// From a write of another page.
    ContentOf(Write),
    /// None of these.
    Garbage,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding {
            page,
            index,
            wrong,
            expected,
            found,
            kind,
        } = self;
        let address = u64::from(*page) << 12;
        write!(
            f,
            "page {address:#x} word {index} expected {expected:#x} found {found:#x}: "
        )?;
        match kind {
            Kind::Zeroed => write!(f, "zeroed")?,
            Kind::Stale { by } => write!(f, "stale by {by}")?,
            Kind::Newer { by } => write!(f, "newer by {by}")?,
            Kind::ContentOf(Write { page, .. }) => write!(f, "content of page {:#x}", u64::from(*page) << 12)?,
            Kind::Garbage => write!(f, "garbage")?,
        }
        if *wrong == WORDS {
            Ok(())
        } else {
            write!(f, " in {wrong} words")
        }
    }
}

/// A number that looks random, and differs for different input (the finisher of SplitMix64).
pub fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(SPREAD);
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u32 = 0x1234;

    fn page_of(pattern: Pattern, write: Write) -> [u64; WORDS] {
        let (first, step) = pattern.content(write);
        std::array::from_fn(|index| first.wrapping_add(step.wrapping_mul(index as u64)))
    }

    fn diagnose(words: &[u64; WORDS]) -> Option<Kind> {
        Pattern::new(7)
            .diagnose(Write { page: PAGE, count: 9 }, words)
            .map(|finding| finding.kind)
    }

    #[test]
    fn a_page_as_it_was_written_last_is_good() {
        assert_eq!(
            diagnose(&page_of(Pattern::new(7), Write { page: PAGE, count: 9 })),
            None
        );
        let never = Write { page: PAGE, count: 0 };
        assert_eq!(Pattern::new(7).diagnose(never, &[0; WORDS]), None);
    }

    #[test]
    fn zeroed_stale_newer_swapped_and_garbage_are_told_apart() {
        let pattern = Pattern::new(7);
        assert_eq!(diagnose(&[0; WORDS]), Some(Kind::Zeroed));
        assert_eq!(
            diagnose(&page_of(pattern, Write { page: PAGE, count: 6 })),
            Some(Kind::Stale { by: 3 })
        );
        assert_eq!(
            diagnose(&page_of(pattern, Write { page: PAGE, count: 10 })),
            Some(Kind::Newer { by: 1 })
        );
        let other = Write {
            page: 0x10_0001,
            count: 9,
        };
        assert_eq!(diagnose(&page_of(pattern, other)), Some(Kind::ContentOf(other)));
        assert_eq!(diagnose(&[0x5555; WORDS]), Some(Kind::Garbage));
        let other_seed = page_of(Pattern::new(8), Write { page: PAGE, count: 9 });
        assert_eq!(diagnose(&other_seed), Some(Kind::Garbage));
    }

    #[test]
    fn one_flipped_bit_anywhere_is_garbage_in_one_word() {
        let pattern = Pattern::new(7);
        let expected = Write { page: PAGE, count: 9 };
        for bit in 0..WORDS * 64 {
            let mut words = page_of(pattern, expected);
            words[bit / 64] ^= 1 << (bit % 64);
            let finding = pattern.diagnose(expected, &words).unwrap();
            assert_eq!((finding.index, finding.wrong), (bit / 64, 1));
        }
    }

    #[test]
    fn a_torn_page_names_the_words_and_the_message_names_the_page() {
        let pattern = Pattern::new(7);
        let expected = Write { page: PAGE, count: 9 };
        let mut words = page_of(pattern, expected);
        words[256..].copy_from_slice(&page_of(pattern, Write { page: PAGE, count: 8 })[256..]);
        let finding = pattern.diagnose(expected, &words).unwrap();
        assert_eq!(finding.kind, Kind::Stale { by: 1 });
        let message = finding.to_string();
        assert!(message.starts_with("page 0x1234000 word 256 expected 0x"), "{message}");
        assert!(message.ends_with(": stale by 1 in 256 words"), "{message}");
    }
}
