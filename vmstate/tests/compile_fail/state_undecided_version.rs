//! Attributes that leave open what an older or a newer version gets, or contradict each other.

use vmstate::VmState;

#[derive(VmState)]
#[vmstate(version = 2)]
struct AddedWithoutDefault {
    #[vmstate(since = 2)]
    lcr: u8,
}

#[derive(VmState)]
#[vmstate(version = 2)]
struct RetiredWithoutDefault {
    #[vmstate(until = 2)]
    lcr: u8,
}

#[derive(VmState)]
struct SkippedWithoutReason {
    #[vmstate(skip)]
    lcr: u8,
}

#[derive(VmState)]
struct EqualWithoutHint {
    #[vmstate(must_equal)]
    ports: u8,
}

#[derive(VmState)]
struct OpenRange {
    #[vmstate(range = 0..)]
    mode: u8,
}

#[derive(VmState)]
struct LeftOutWithoutDefault {
    #[vmstate(skip_when_default)]
    mode: u8,
}

fn main() {}
