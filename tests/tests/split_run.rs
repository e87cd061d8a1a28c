//! Every device that is moved goes on as if it had not been, and no field of its state could have stayed behind.
//!
//! Devices are found in the table of types, their registers in the flat view. `TERN_CASES` says how many runs of each are
//! looked at, `TERN_SEED` what they are made of; a failure names both.

use std::sync::Arc;

use tern_tests::compat::conformance::{devices, types_with_state};
use tern_tests::compat::forgotten::{Found, read_list};
use tern_tests::compat::random::{cases, seed};
use tern_tests::compat::split_run;
use vmstate::qom::TypeTable;

/// The fields that no program can see, with the reasons.
const UNSEEN: &str = include_str!("unseen_fields.txt");
/// Runs in which each field is lost; fewer are too few for some.
const LEAST: u32 = 400;
/// A machine has all that its devices have, and they are looked at by themselves as well.
const MACHINES_ONE_IN: u32 = 8;

fn types() -> Arc<TypeTable> {
    TypeTable::gathered().expect("the types fit together")
}

/// How many of so many cases a type gets.
fn cases_of(types: &TypeTable, name: &str, cases: u32) -> u32 {
    let class = types.class(name).expect("it is in the table");
    if class.is_a("machine") {
        cases.div_ceil(MACHINES_ONE_IN)
    } else {
        cases
    }
}

#[test]
fn every_device_that_is_moved_goes_on_as_if_it_had_not_been() {
    let types = types();
    let moved = devices(&types).into_iter();
    let wrong =
        moved.filter_map(|name| split_run::check(&types, name, cases_of(&types, name, cases(200)), seed()).err());
    let wrong: Vec<_> = wrong.collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn every_field_of_state_is_missed_when_it_is_lost_or_is_in_the_list_of_those_that_nobody_sees() {
    let types = types();
    let mut found = Found::default();
    for name in types_with_state(&types) {
        let looked = found.look(
            &types,
            name,
            cases_of(&types, name, LEAST).max(LEAST / MACHINES_ONE_IN),
            seed(),
        );
        looked.unwrap_or_else(|error| panic!("{error}"));
    }
    assert!(!found.missed.is_empty(), "nothing was seen at all");
    let listed = read_list(UNSEEN).expect("the list is in order");
    if let Err(wrong) = found.expect(&listed) {
        panic!("tests/tests/unseen_fields.txt and what the programs see are at odds:\n{wrong}");
    }
}
