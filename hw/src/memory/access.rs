//! Bringing an access of any size and place into the form that a device implements.
//!
//! Accesses arrive as bytes in memory order; a device sees values. See [`AccessRules`] for what is split, merged or
//! refused.

use super::ops::{AccessRules, Endian, IoContext, RegionOps};
use super::units::{to_u64, to_usize};

/// Part of an access that the rules do not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused;

/// Reads bytes from a device. Refused parts read as all ones.
pub(super) fn read(
    ops: &dyn RegionOps,
    rules: &AccessRules,
    cx: &mut IoContext,
    offset: u64,
    bytes: &mut [u8],
) -> Result<(), Refused> {
    let mut outcome = Ok(());
    let mut at = 0;
    while at < bytes.len() {
        let place = offset.wrapping_add(to_u64(at));
        let piece = Piece::first_of(rules, place, bytes.len() - at);
        let target = &mut bytes[at..at + piece.len()];
        if piece.refused {
            target.fill(0xff);
            outcome = Err(Refused);
        } else {
            for (place, part, lane) in piece.registers(rules, place) {
                let value = ops.read(cx, place, part.size);
                target[part.bytes.clone()].copy_from_slice(&to_bytes(value, part.size, rules.endian)[lane]);
            }
        }
        at += piece.len();
    }
    outcome
}

/// Writes bytes to a device. Refused parts are dropped.
pub(super) fn write(
    ops: &dyn RegionOps,
    rules: &AccessRules,
    cx: &mut IoContext,
    offset: u64,
    bytes: &[u8],
) -> Result<(), Refused> {
    let mut outcome = Ok(());
    let mut at = 0;
    while at < bytes.len() {
        let place = offset.wrapping_add(to_u64(at));
        let piece = Piece::first_of(rules, place, bytes.len() - at);
        let source = &bytes[at..at + piece.len()];
        if piece.refused {
            outcome = Err(Refused);
        } else {
            for (place, part, lane) in piece.registers(rules, place) {
                let whole = lane.len() == usize::from(part.size);
                let mut register = if whole {
                    [0; 8]
                } else {
                    to_bytes(ops.read(cx, place, part.size), part.size, rules.endian)
                };
                register[lane].copy_from_slice(&source[part.bytes.clone()]);
                ops.write(
                    cx,
                    place,
                    part.size,
                    from_bytes(&register[..usize::from(part.size)], rules.endian),
                );
            }
        }
        at += piece.len();
    }
    outcome
}

/// The first part of an access that is one valid access of its own: aligned, a power of two, not too wide.
#[derive(Clone, Copy, Debug)]
struct Piece {
    size: u8,
    refused: bool,
}

/// What one call of the device covers.
struct Part {
    /// The size of the call.
    size: u8,
    /// Which bytes of the piece it is for.
    bytes: std::ops::Range<usize>,
}

impl Piece {
    fn first_of(rules: &AccessRules, place: u64, len: usize) -> Self {
        let widest = floor_to_power_of_two(len, rules.valid_max);
        let aligned = place.is_multiple_of(u64::from(widest));
        if !aligned && !rules.unaligned {
            return Self {
                size: widest,
                refused: true,
            };
        }
        let size = if aligned { widest } else { alignment(place) };
        Self {
            size,
            refused: size < rules.valid_min,
        }
    }

    fn len(self) -> usize {
        usize::from(self.size)
    }

    /// The calls of the device that make up this piece at `place`: where, how wide, and which bytes of the register.
    fn registers(
        self,
        rules: &AccessRules,
        place: u64,
    ) -> impl Iterator<Item = (u64, Part, std::ops::Range<usize>)> + use<> {
        let size = self.size.clamp(rules.impl_min, rules.impl_max);
        let covered = self.size.min(size);
        (0..self.size).step_by(usize::from(covered)).map(move |start| {
            let place = place.wrapping_add(u64::from(start));
            let register = place & !(u64::from(size) - 1);
            let lane = to_usize(place - register);
            let bytes = usize::from(start)..usize::from(start + covered);
            (register, Part { size, bytes }, lane..lane + usize::from(covered))
        })
    }
}

/// The largest power of two that is neither above `len` nor above `max`, which is one itself.
fn floor_to_power_of_two(len: usize, max: u8) -> u8 {
    let mut size = max;
    while size > 1 && usize::from(size) > len {
        size /= 2;
    }
    size
}

/// The width of the widest aligned access at an address that is not a multiple of eight.
fn alignment(place: u64) -> u8 {
    1 << place.trailing_zeros().min(3)
}

fn to_bytes(value: u64, size: u8, endian: Endian) -> [u8; 8] {
    match endian {
        Endian::Little => value.to_le_bytes(),
        // The value's bytes are the last ones of the big-endian word; the lane counts from the register's first.
        Endian::Big => (value << (64 - 8 * u32::from(size))).to_be_bytes(),
    }
}

fn from_bytes(bytes: &[u8], endian: Endian) -> u64 {
    let append = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
    match endian {
        Endian::Little => bytes.iter().rev().fold(0, append),
        Endian::Big => bytes.iter().fold(0, append),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use proptest::prelude::*;

    /// A device of 32 bytes that notes how it was called.
    struct Bytes {
        contents: Mutex<[u8; 32]>,
        endian: Endian,
        calls: Mutex<Vec<(char, u64, u8)>>,
    }

    impl Bytes {
        fn counting_up(endian: Endian) -> Self {
            let contents = Mutex::new(std::array::from_fn(|index| u8::try_from(index).unwrap() | 0xa0));
            Self {
                contents,
                endian,
                calls: Mutex::default(),
            }
        }

        fn calls(&self) -> Vec<(char, u64, u8)> {
            std::mem::take(&mut self.calls.lock())
        }
    }

    impl RegionOps for Bytes {
        fn read(&self, _: &mut IoContext, offset: u64, size: u8) -> u64 {
            self.calls.lock().push(('r', offset, size));
            let start = to_usize(offset);
            from_bytes(&self.contents.lock()[start..start + usize::from(size)], self.endian)
        }

        fn write(&self, _: &mut IoContext, offset: u64, size: u8, value: u64) {
            self.calls.lock().push(('w', offset, size));
            let start = to_usize(offset);
            let bytes = to_bytes(value, size, self.endian);
            self.contents.lock()[start..start + usize::from(size)].copy_from_slice(&bytes[..usize::from(size)]);
        }
    }

    fn read_at(device: &Bytes, rules: &AccessRules, offset: u64, len: usize) -> (Vec<u8>, Result<(), Refused>) {
        let mut bytes = vec![0; len];
        let outcome = read(device, rules, &mut IoContext::new(), offset, &mut bytes);
        (bytes, outcome)
    }

    const WORDS: AccessRules = AccessRules {
        valid_min: 1,
        valid_max: 8,
        impl_min: 2,
        impl_max: 4,
        unaligned: true,
        endian: Endian::Little,
    };

    #[test]
    fn wide_accesses_are_split_to_what_the_device_implements() {
        let device = Bytes::counting_up(Endian::Little);
        let (bytes, outcome) = read_at(&device, &WORDS, 8, 8);
        assert_eq!((bytes, outcome), ((0xa8..=0xaf).collect(), Ok(())));
        assert_eq!(device.calls(), [('r', 8, 4), ('r', 12, 4)]);
    }

    #[test]
    fn a_narrow_read_sees_its_lane_of_the_register() {
        for endian in [Endian::Little, Endian::Big] {
            let device = Bytes::counting_up(endian);
            assert_eq!(
                read_at(&device, &AccessRules { endian, ..WORDS }, 5, 1),
                (vec![0xa5], Ok(()))
            );
            assert_eq!(device.calls(), [('r', 4, 2)]);
        }
    }

    #[test]
    fn a_narrow_write_keeps_the_rest_of_the_register() {
        for endian in [Endian::Little, Endian::Big] {
            let device = Bytes::counting_up(endian);
            let rules = AccessRules { endian, ..WORDS };
            write(&device, &rules, &mut IoContext::new(), 5, &[0x11]).unwrap();
            assert_eq!(device.calls(), [('r', 4, 2), ('w', 4, 2)]);
            assert_eq!(device.contents.lock()[4..8], [0xa4, 0x11, 0xa6, 0xa7]);
        }
    }

    #[test]
    fn a_big_endian_register_is_seen_most_significant_byte_first() {
        struct Constant;
        impl RegionOps for Constant {
            fn read(&self, _: &mut IoContext, _: u64, _: u8) -> u64 {
                0x1122_3344
            }
            fn write(&self, _: &mut IoContext, _: u64, _: u8, value: u64) {
                assert_eq!(value, 0x1122_3344);
            }
        }
        let rules = AccessRules {
            endian: Endian::Big,
            ..AccessRules::DWORDS
        };
        let mut bytes = [0; 4];
        read(&Constant, &rules, &mut IoContext::new(), 0, &mut bytes).unwrap();
        assert_eq!(bytes, [0x11, 0x22, 0x33, 0x44]);
        write(&Constant, &rules, &mut IoContext::new(), 0, &bytes).unwrap();
        read(&Constant, &AccessRules::DWORDS, &mut IoContext::new(), 0, &mut bytes).unwrap();
        assert_eq!(bytes, [0x44, 0x33, 0x22, 0x11]);
    }

    #[test]
    fn an_unaligned_access_is_taken_apart_or_refused() {
        let device = Bytes::counting_up(Endian::Little);
        let bytes = AccessRules { impl_min: 1, ..WORDS };
        assert_eq!(read_at(&device, &bytes, 3, 4), ((0xa3..=0xa6).collect(), Ok(())));
        assert_eq!(device.calls(), [('r', 3, 1), ('r', 4, 2), ('r', 6, 1)]);
        let strict = AccessRules {
            unaligned: false,
            ..bytes
        };
        assert_eq!(read_at(&device, &strict, 3, 4), (vec![0xff; 4], Err(Refused)));
        assert_eq!(write(&device, &strict, &mut IoContext::new(), 3, &[0; 4]), Err(Refused));
        assert!(device.calls().is_empty());
    }

    #[test]
    fn what_is_narrower_than_valid_is_refused() {
        let device = Bytes::counting_up(Endian::Little);
        assert_eq!(
            read_at(&device, &AccessRules::DWORDS, 4, 2),
            (vec![0xff; 2], Err(Refused))
        );
        assert!(device.calls().is_empty());
    }

    #[test]
    fn a_word_to_byte_registers_reaches_two_of_them() {
        let device = Bytes::counting_up(Endian::Little);
        write(&device, &AccessRules::BYTES, &mut IoContext::new(), 1, &[1, 2]).unwrap();
        assert_eq!(device.calls(), [('w', 1, 1), ('w', 2, 1)]);
    }

    fn any_rules() -> impl Strategy<Value = AccessRules> {
        let sizes = || {
            (0u32..4, 0u32..4).prop_map(|(a, b)| {
                let (min, max) = (a.min(b), a.max(b));
                (1u8 << min, 1u8 << max)
            })
        };
        (sizes(), prop_oneof![Just(Endian::Little), Just(Endian::Big)]).prop_map(|((impl_min, impl_max), endian)| {
            AccessRules {
                valid_min: 1,
                valid_max: 8,
                impl_min,
                impl_max,
                unaligned: true,
                endian,
            }
        })
    }

    proptest! {
        /// Whatever a device implements, the guest sees its bytes; and the device sees only what it implements.
        #[test]
        fn a_device_of_bytes_looks_like_memory(rules in any_rules(), offset in 0u64..16, data in prop::collection::vec(any::<u8>(), 1..16)) {
            let device = Bytes::counting_up(rules.endian);
            let mut expected = *device.contents.lock();
            write(&device, &rules, &mut IoContext::new(), offset, &data).unwrap();
            expected[to_usize(offset)..to_usize(offset) + data.len()].copy_from_slice(&data);
            prop_assert_eq!(*device.contents.lock(), expected);
            prop_assert_eq!(read_at(&device, &rules, offset, data.len()).0, data);
            for (_, offset, size) in device.calls() {
                prop_assert!(size >= rules.impl_min && size <= rules.impl_max && offset % u64::from(size) == 0);
            }
        }
    }
}
