//! Bits by number: pending interrupts, keys held down, slots in use.

use std::fmt;

/// A number of bits, each set or not.
///
/// As a field of a state struct it has a bound, `#[vmstate(max = 256)]`, and takes a byte for eight bits.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Bitmap {
    len: u32,
    /// Eight bits each, the lowest first. There is none more than needed, and no bit is set beyond `len`.
    bytes: Vec<u8>,
}

impl Bitmap {
    /// `len` bits, none of them set.
    #[must_use]
    pub fn new(len: u32) -> Self {
        Self {
            len,
            bytes: vec![0; Self::bytes_for(len)],
        }
    }

    /// The bits of these bytes; `None` if there are too few or too many bytes, or a bit is set beyond the last.
    #[must_use]
    pub fn from_bytes(len: u32, bytes: &[u8]) -> Option<Self> {
        let spare = match len % 8 {
            0 => 0,
            used => bytes.last()? >> used,
        };
        (bytes.len() == Self::bytes_for(len) && spare == 0).then(|| Self {
            len,
            bytes: bytes.to_vec(),
        })
    }

    pub(super) fn bytes_for(len: u32) -> usize {
        usize::try_from(len.div_ceil(8)).expect("a usize has 32 bits or more")
    }

    /// How many bits there are.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether there are no bits at all, set or not.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bits, eight to a byte.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether the bit is set; one that is not there is not.
    #[must_use]
    pub fn get(&self, bit: u32) -> bool {
        let byte = usize::try_from(bit / 8).ok().and_then(|at| self.bytes.get(at));
        byte.is_some_and(|byte| byte >> (bit % 8) & 1 == 1)
    }

    /// Sets or clears a bit, and says whether there is such a bit.
    pub fn set(&mut self, bit: u32, to: bool) -> bool {
        if bit >= self.len {
            return false;
        }
        let byte = usize::try_from(bit / 8).ok().and_then(|at| self.bytes.get_mut(at));
        let Some(byte) = byte else { return false };
        let mask = 1 << (bit % 8);
        *byte = if to { *byte | mask } else { *byte & !mask };
        true
    }

    /// The numbers of the bits that are set, ascending.
    pub fn ones(&self) -> impl Iterator<Item = u32> {
        let bits = (0u32..).step_by(8).zip(&self.bytes);
        bits.flat_map(|(first, byte)| {
            (0..8)
                .filter(move |bit| byte >> bit & 1 == 1)
                .map(move |bit| first + bit)
        })
    }
}

/// `{0, 3} of 16`.
impl fmt::Display for Bitmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, bit) in self.ones().enumerate() {
            write!(f, "{}{bit}", if i == 0 { "" } else { ", " })?;
        }
        write!(f, "}} of {}", self.len)
    }
}

impl fmt::Debug for Bitmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bitmap({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_set_and_found_by_their_numbers_and_none_beyond_the_last() {
        let mut bitmap = Bitmap::new(10);
        assert!(bitmap.set(0, true) && bitmap.set(9, true) && bitmap.set(3, true) && bitmap.set(3, false));
        assert!(!bitmap.set(10, true));
        assert_eq!(bitmap.ones().collect::<Vec<_>>(), [0, 9]);
        assert!(bitmap.get(9) && !bitmap.get(3) && !bitmap.get(10) && !bitmap.get(u32::MAX));
        assert_eq!(bitmap.to_string(), "{0, 9} of 10");
    }

    #[test]
    fn bytes_with_a_bit_beyond_the_last_are_no_bitmap() {
        assert_eq!(
            Bitmap::from_bytes(10, &[1, 2]).map(|bitmap| bitmap.ones().count()),
            Some(2)
        );
        for (len, bytes) in [(10, &[1, 4][..]), (10, &[1]), (10, &[1, 0, 0]), (8, &[1, 0]), (1, &[])] {
            assert_eq!(Bitmap::from_bytes(len, bytes), None, "{len}: {bytes:?}");
        }
        assert_eq!(Bitmap::from_bytes(0, &[]), Some(Bitmap::new(0)));
    }
}
