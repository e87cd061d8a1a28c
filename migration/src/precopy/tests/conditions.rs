//! Conditions on values: a source looks at them before RAM moves, after each round, and in the pause.

use vmstate::state::{Schema, VmState, WireType};

use super::super::SourceState;
use super::*;
use crate::phases::Phase;
use crate::stats::Figures;
use crate::testing::FakeState;

/// How a receiver reads the fake state that has a counter of 16 bits only.
fn narrow() -> Schema {
    let mut description = FakeState::schema().clone().into_description();
    description.fields[0].wire = WireType::U16;
    description.check().expect("legal")
}

const TOO_LARGE: u64 = 1 << 16;
const CONDITION: &str = "/machine/fake0 is in a state that the receiver cannot load: field counter loads only if it is \
                         between 0 and 65535";

fn to_a_narrow_receiver(shape: Shape) -> Migration {
    let mut migration = Migration::of(shape);
    migration.factory.reader = Some(narrow());
    migration
}

/// The guest runs on at the source, and the receiver was told the reason.
fn refused(migration: &Migration) -> (SendError, Figures) {
    let (sent, received) = failed(migration.run());
    migration.source.assert_runs();
    assert!(sent.to_string().starts_with(CONDITION), "{sent}");
    assert!(received.to_string().contains(CONDITION), "{received}");
    (sent, migration.gauges.read())
}

#[test]
fn a_condition_that_is_not_met_is_found_before_a_page_moves() {
    let migration = to_a_narrow_receiver(Shape::IDLE);
    migration.source.set_counter(TOO_LARGE);
    let (_, figures) = refused(&migration);
    assert_eq!(figures.rounds, 0);
}

#[test]
fn a_condition_is_looked_at_again_after_each_round() {
    let migration = to_a_narrow_receiver(Shape::BUSY);
    // The guest counts while the first round goes on.
    migration.source.set_counter(TOO_LARGE - 1);
    let (_, figures) = refused(&migration);
    assert_eq!((figures.rounds, figures.phase), (1, Some(Phase::Rounds)));
}

#[test]
fn a_condition_that_fails_only_in_the_pause_resumes_the_source() {
    let migration = to_a_narrow_receiver(Shape::IDLE);
    migration.source.user.lock().counter_in_pause = Some(TOO_LARGE);
    let (error, figures) = refused(&migration);
    assert!(matches!(error.source_state, SourceState::Resumed));
    assert_eq!(figures.phase, Some(Phase::Rounds), "the receiver hears of no pause");
}

#[test]
fn a_condition_that_is_met_at_every_look_stands_in_no_way() {
    let migration = to_a_narrow_receiver(Shape::IDLE);
    migration.source.user.lock().counter_in_pause = Some(TOO_LARGE - 1);
    arrived(migration.run());
}
