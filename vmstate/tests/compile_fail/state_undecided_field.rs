//! Fields of a state struct for which nobody has decided what becomes of them.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::time::Instant;

use vmstate::VmState;

#[derive(VmState)]
struct Cached {
    divisor: u16,
    last_access: Instant,
}

#[derive(VmState)]
struct Unbounded {
    fifo: Vec<u8>,
}

#[derive(VmState)]
struct Unordered {
    #[vmstate(max = 8)]
    slots: HashMap<u8, bool>,
}

#[derive(VmState)]
struct HostFile {
    tap: OwnedFd,
}

fn main() {}
