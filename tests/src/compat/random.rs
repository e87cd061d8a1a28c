//! Numbers that look random and are the same every time.

use std::env;

/// What cases are made of, unless `TERN_SEED` says another number.
const SEED: u64 = 0x7e57_5eed;

/// A generator of numbers (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The numbers of case `case` of `what`.
    #[must_use]
    pub fn new(seed: u64, what: &str, case: u32) -> Self {
        let mut random = Self(seed);
        for byte in what.bytes() {
            random.0 = random.next() ^ u64::from(byte);
        }
        random.0 = random.next() ^ u64::from(case);
        random
    }

    /// Any number.
    #[expect(clippy::should_implement_trait, reason = "it never ends, and is no iterator")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, or zero if that is zero.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next().checked_rem(end).unwrap_or(0)
    }

    /// An index below `len`.
    ///
    /// # Panics
    ///
    /// Never: an index fits where the length did.
    pub fn index(&mut self, len: usize) -> usize {
        let len = u64::try_from(len).expect("a length fits into 64 bits");
        usize::try_from(self.below(len)).expect("below a usize")
    }

    /// True in one of `n` cases.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of them.
    ///
    /// # Panics
    ///
    /// If there are none.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.index(of.len())]
    }

    /// A number from `least` to `most`, more often one at or near an end, or of few bits, than any other.
    pub fn between(&mut self, least: i128, most: i128) -> i128 {
        let span = most.saturating_sub(least);
        let raw = i128::from(self.next());
        let offset = match self.below(8) {
            0 => 0,
            1 => span,
            2 => 1 << self.below(64),
            3 => raw % 16,
            _ => raw >> self.below(64),
        };
        least + offset.rem_euclid(span.saturating_add(1))
    }

    /// Any byte.
    ///
    /// # Panics
    ///
    /// Never.
    pub fn byte(&mut self) -> u8 {
        u8::try_from(self.between(0, 255)).expect("in its bounds")
    }
}

/// What all cases are made of: `TERN_SEED`, or always the same.
///
/// # Panics
///
/// If it is no number.
#[must_use]
pub fn seed() -> u64 {
    number("TERN_SEED").unwrap_or(SEED)
}

/// How many cases of each type are looked at: `TERN_CASES`, or `usual`.
///
/// # Panics
///
/// If it is no number.
#[must_use]
pub fn cases(usual: u32) -> u32 {
    let asked = number("TERN_CASES").map(|asked| u32::try_from(asked).expect("TERN_CASES is a number of cases"));
    asked.unwrap_or(usual)
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    let number = text
        .strip_prefix("0x")
        .map_or_else(|| text.parse(), |hex| u64::from_str_radix(hex, 16));
    Some(number.unwrap_or_else(|_| panic!("{variable} is {text}, which is no number")))
}
