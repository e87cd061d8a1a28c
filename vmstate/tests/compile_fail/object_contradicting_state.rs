//! Types that say two things about state, or two things about a field.

use parking_lot::Mutex;
use vmstate::VmState;
use vmstate::qom::Object;

#[derive(Default, VmState)]
struct State {
    mask: u8,
}

#[derive(Object)]
#[object(name = "stateless-with-state", stateless)]
struct StatelessWithState {
    #[state]
    state: Mutex<State>,
}

#[derive(Object)]
#[object(name = "both", stateless, unmigratable = "it is a file of this host")]
struct Both {}

#[derive(Object)]
#[object(name = "two-states")]
struct TwoStates {
    #[state]
    one: Mutex<State>,
    #[state]
    other: Mutex<State>,
}

#[derive(Object)]
#[object(name = "two-marks", stateless)]
struct TwoMarks {
    #[runtime(reason = "made by realize")]
    #[derived(reason = "it follows from the divisor")]
    period: u64,
}

fn main() {}
