//! Random programs: what a guest does to its devices, what the world outside does to them, and time.

use super::random::Random;

/// Where registers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// In memory.
    Memory,
    /// At I/O ports.
    Ports,
}

/// A run of addresses with registers behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// In which space.
    pub space: Space,
    /// The first address.
    pub address: u64,
    /// How many bytes.
    pub size: u64,
}

/// What a program can reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ground {
    /// All registers.
    pub places: Vec<Place>,
    /// How many ways there are in from outside.
    pub inputs: usize,
}

impl Ground {
    /// Whether there is nothing that a program could do.
    #[must_use]
    pub fn is_inert(&self) -> bool {
        self.places.is_empty() && self.inputs == 0
    }
}

/// One step of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// The guest reads.
    Read {
        /// Where.
        space: Space,
        /// Where.
        address: u64,
        /// How many bytes.
        size: usize,
    },
    /// The guest writes.
    Write {
        /// Where.
        space: Space,
        /// Where.
        address: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// Time passes.
    Wait {
        /// Nanoseconds.
        ns: u64,
    },
    /// Something comes from outside: bytes, or whatever else the input stands for.
    Type {
        /// The number of the input.
        input: usize,
        /// The bytes, where it takes some.
        bytes: Vec<u8>,
    },
    /// The back ends take so many bytes from now on.
    Room {
        /// How many.
        bytes: usize,
    },
    /// The machine is reset.
    Reset,
}

/// Steps of time: less than any device counts, and more than any waits.
const WAITS_NS: [u64; 7] = [
    1,
    1_000,
    1_000_000,
    40_000_000,
    1_000_000_000,
    61_000_000_000,
    90_000_000_000_000,
];
/// How much of the RAM a program writes to, so that it is found again.
const RAM_BYTES: u64 = 4096;
/// How far into a place most accesses go.
const NEAR: u64 = 16;

/// A program of `len` random steps, and a look at every register within reach at its end.
#[must_use]
pub fn program(ground: &Ground, len: usize, random: &mut Random) -> Vec<Op> {
    let mut addresses: Vec<(Space, u64)> = Vec::new();
    let mut ops: Vec<_> = (0..len).map(|_| op(ground, &mut addresses, random)).collect();
    ops.extend(look(ground));
    ops
}

/// Reads of every register within reach.
fn look(ground: &Ground) -> Vec<Op> {
    let mut ops = Vec::new();
    for place in &ground.places {
        let read = |offset, size| Op::Read {
            space: place.space,
            address: place.address + offset,
            size,
        };
        ops.extend((0..place.size.min(NEAR)).map(|offset| read(offset, 1)));
        ops.extend((0..place.size.min(4 * NEAR) / 4).map(|register| read(4 * register, 4)));
    }
    ops
}

/// A program that is made and not random, and before which step it is split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directed {
    /// What is done.
    pub ops: Vec<Op>,
    /// Before which step.
    pub split: usize,
}

/// For each register within reach and each byte two programs: the byte is written there, and after the split something to
/// all other registers; and the byte is written there after the split. Both look in the end.
#[must_use]
pub fn directed(ground: &Ground) -> Vec<Directed> {
    let registers = ground.places.iter().flat_map(|place| {
        let offsets = 0..place.size.min(NEAR);
        offsets.map(|offset| (place.space, place.address + offset))
    });
    let registers: Vec<_> = registers.collect();
    let write = |(space, address): (Space, u64), byte| Op::Write {
        space,
        address,
        bytes: vec![byte],
    };
    let bytes = registers
        .iter()
        .flat_map(|register| (0..=u8::MAX).map(|byte| (*register, byte)));
    let programs = bytes.flat_map(|(register, byte)| {
        let others = registers.iter().filter(|other| **other != register);
        let then = others.flat_map(|other| [write(*other, 0), write(*other, u8::MAX)]);
        let first = || std::iter::once(write(register, byte));
        let before = Directed {
            ops: first().chain(then).chain(look(ground)).collect(),
            split: 1,
        };
        let after = Directed {
            ops: first().chain(look(ground)).collect(),
            split: 0,
        };
        [before, after]
    });
    programs.collect()
}

fn op(ground: &Ground, addresses: &mut Vec<(Space, u64)>, random: &mut Random) -> Op {
    match random.below(32) {
        0 => Op::Wait {
            ns: *random.pick(&WAITS_NS),
        },
        8 => {
            let most = 2 * random.pick(&WAITS_NS);
            Op::Wait { ns: random.below(most) }
        }
        1 if random.one_in(4) => Op::Reset,
        1 | 2 => Op::Room {
            bytes: random.index(24),
        },
        3..7 if ground.inputs > 0 => Op::Type {
            input: random.index(ground.inputs),
            bytes: (0..random.below(6)).map(|_| random.byte()).collect(),
        },
        7 => Op::Write {
            space: Space::Memory,
            address: random.below(RAM_BYTES),
            bytes: (0..=random.below(16)).map(|_| random.byte()).collect(),
        },
        _ if ground.places.is_empty() => Op::Wait { ns: 1 },
        kind => {
            let size: usize = *random.pick(&[1, 1, 1, 2, 4, 4, 8]);
            let (space, address) = address(ground, size, addresses, random);
            if kind.is_multiple_of(2) {
                Op::Read { space, address, size }
            } else {
                let bytes = value(random).to_le_bytes();
                Op::Write {
                    space,
                    address,
                    bytes: bytes[..size].to_vec(),
                }
            }
        }
    }
}

/// An address among the registers: often one that was there before, mostly near the beginning of a place, mostly aligned.
fn address(ground: &Ground, size: usize, before: &mut Vec<(Space, u64)>, random: &mut Random) -> (Space, u64) {
    if !before.is_empty() && random.one_in(3) {
        return *random.pick(before);
    }
    let place = random.pick(&ground.places);
    let within = if random.one_in(8) {
        place.size
    } else {
        place.size.min(2 * NEAR)
    };
    let mut offset = random.below(within);
    if !random.one_in(8) {
        offset -= offset % u64::try_from(size).unwrap_or(1);
    }
    let chosen = (place.space, place.address + offset);
    before.push(chosen);
    chosen
}

/// A value for a register: often one byte in all of its low bits, else anything.
fn value(random: &mut Random) -> u64 {
    if random.one_in(2) {
        random.below(256)
    } else {
        let number = random.between(0, u64::MAX.into());
        u64::try_from(number).unwrap_or(u64::MAX)
    }
}
