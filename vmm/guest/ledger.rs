//! Registers that keep what was written to them: read once after the set-up, and again at each verification.

use core::fmt;

use crate::console::line;

/// Registers that one ledger has room for.
const ROOM: usize = 112;

/// The values of registers that are read in the same order each time.
pub struct Ledger {
    owner: Owner,
    values: [u64; ROOM],
    known: usize,
    next: usize,
}

/// Whose registers they are.
#[derive(Clone, Copy)]
pub enum Owner {
    /// A processor's.
    Cpu(u32),
    /// A device's.
    Board,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Cpu(index) => write!(f, "cpu {index}"),
            Owner::Board => write!(f, "board"),
        }
    }
}

impl Ledger {
    /// An empty ledger: the first round of `see` fills it.
    pub const fn new(owner: Owner) -> Ledger {
        Ledger {
            owner,
            values: [0; ROOM],
            known: 0,
            next: 0,
        }
    }

    /// Begins a round.
    pub fn begin(&mut self) {
        self.next = 0;
    }

    /// The next register of the round. From the second round on, another value than that of the first is reported.
    pub fn see(&mut self, name: fmt::Arguments<'_>, value: impl Into<u64>) {
        let (position, value) = (self.next, value.into());
        self.next += 1;
        if position == self.known {
            self.values[position] = value;
            self.known += 1;
        } else if self.values[position] != value {
            let (owner, expected) = (self.owner, self.values[position]);
            line!("check FAILED register {owner} {name} expected {expected:#x} found {value:#x}");
        }
    }
}
