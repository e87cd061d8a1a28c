//! Whatever fails in whatever phase of a migration, on whichever side: the guest has one owner, and nothing is left behind.
//!
//! Before *go* the source runs on, and its guest finds every page good. After it, a source that has not heard that the
//! receiver runs the guest keeps it, and `vm resolve` lets it run or go. The list of cases ([`case`]) follows from the
//! table that drives sender and receiver; each is played with the real program ([`stage`]), and proved to have struck.

mod case;
mod stage;

use case::{Case, Fault};
use stage::Stage;
use tern_tests::needs_kvm;

/// Too long for anything that these tests wait for.
const LONG: &str = "running=20s";
/// One side waits for the other until it is given up; nothing else comes near these.
const SHORT: &str = "hello=1s,silence=1500ms,heartbeat=100ms,blackout=1500ms,running=3s";
/// A source whose user cannot cancel any more waits in vain.
const SHORT_IN_THE_END: &str = "running=6s";

/// Plays every case of `fault`, spread over so many sources at once.
fn play(fault: Fault, sources: usize, deadlines: &'static str) {
    let cases: Vec<Case> = Case::all().into_iter().filter(|case| case.fault == fault).collect();
    assert_eq!(cases.len(), 12 * 2, "phases × sides");
    std::thread::scope(|scope| {
        for first in 0..sources {
            let cases: Vec<Case> = cases.iter().copied().skip(first).step_by(sources).collect();
            scope.spawn(move || Stage::play(&cases, deadlines));
        }
    });
}

#[test]
fn the_cases_are_phase_by_fault_by_side() {
    assert_eq!(Case::all().len(), 12 * 6 * 2);
}

#[test]
fn an_error_in_any_phase_leaves_one_owner() {
    needs_kvm!();
    play(Fault::Error, 2, LONG);
}

#[test]
fn a_thread_that_dies_in_any_phase_leaves_one_owner() {
    needs_kvm!();
    play(Fault::Abort, 2, LONG);
}

#[test]
fn a_connection_that_is_cut_in_any_phase_leaves_one_owner() {
    needs_kvm!();
    play(Fault::Cut, 2, LONG);
}

#[test]
fn a_side_that_hangs_in_any_phase_leaves_one_owner() {
    needs_kvm!();
    play(Fault::Stall, 6, SHORT);
}

#[test]
fn a_process_that_is_killed_in_any_phase_leaves_one_owner() {
    needs_kvm!();
    play(Fault::Kill, 2, LONG);
}

#[test]
fn either_user_can_cancel_in_any_phase_until_the_side_has_committed_itself() {
    needs_kvm!();
    play(Fault::Cancel, 2, SHORT_IN_THE_END);
}
