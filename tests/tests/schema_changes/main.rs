//! What becomes of state when its description changes: each kind of change, with the verdict in both directions, and a
//! load that agrees.
//!
//! `changes.rs` is the table. *Forward* is what an older Tern saved and the changed one loads; *back* is the other way.
//! Every verdict is put to the test with values from both ends of the writer's description: what loads takes both, what
//! does not takes neither, and what loads only under a condition takes one and refuses the other in the words of the
//! verdict.

mod changes;
mod description;

use std::collections::BTreeSet;

use tern_tests::compat::sample::Extreme;
use vmstate::state::{
    Schema, Step, StructValue, Value, Verdict, adapt, changed_defaults, check_configured, compare, decode, encode,
};

use changes::{CHANGES, Change, Expected};

/// What an older Tern has.
fn before() -> Schema {
    description::uart().check().expect("a legal description")
}

/// The same after a change.
fn after(change: &Change) -> Schema {
    let mut description = description::uart();
    (change.make)(&mut description);
    let checked = description.check();
    checked.unwrap_or_else(|error| panic!("{}: {error}", change.kind))
}

/// Saves `value` by the writer's description and loads it by the reader's, as a machine does that is configured as
/// the reader's least value says.
fn load(value: &StructValue, writer: &Schema, reader: &Schema) -> Result<StructValue, String> {
    let bytes = encode(writer, value).expect("a value of the writer's");
    let sent = decode(writer, &bytes).expect("what was written");
    let loaded = adapt(sent, writer, reader).map_err(|refused| refused.to_string())?;
    check_configured(reader, &loaded, &Extreme::Least.of(reader)).map_err(|refused| refused.to_string())?;
    Ok(loaded)
}

/// Names what of `sent` has not arrived as it was, leaf by leaf: whether in an option or in a wider type does not count. What
/// the reader does not know had its default, or it would not have loaded.
fn misarrived(sent: &StructValue, writer: &Schema, loaded: &StructValue, reader: &Schema) -> Vec<String> {
    let mut wrong = Vec::new();
    sent.for_each_leaf(|path, leaf| {
        let Some(Step::Field(name)) = path.steps().first() else {
            return;
        };
        let arrived = loaded.at(path);
        let is_nothing = |value: Option<&Value>| matches!(value, None | Some(Value::Option(None)));
        let is_left_out = |schema: &Schema| {
            let field = schema.field(name);
            field.is_some_and(|field| field.default.as_ref() == Some(leaf))
        };
        let is_right = match arrived {
            Some(arrived) => arrived == leaf,
            None if reader.field(name).is_none() => is_left_out(writer),
            None => is_left_out(reader) || is_nothing(Some(leaf)),
        };
        if !is_right {
            wrong.push(format!("{path}: {leaf} became {arrived:?}"));
        }
    });
    for field in reader.fields.iter().filter(|field| sent.get(&field.name).is_none()) {
        let theirs = writer.field(&field.name).filter(|field| field.skip_when_default);
        let default = theirs.map_or(&field.default, |theirs| &theirs.default);
        let left_out = field.default.as_ref().filter(|_| field.skip_when_default);
        let arrived = loaded.get(&field.name).or(left_out);
        if arrived != default.as_ref() {
            wrong.push(format!("{}: not sent, and became {arrived:?}", field.name));
        }
    }
    wrong
}

/// Holds the verdict on one direction against what is expected, and against loads.
fn check(kind: &str, direction: &str, writer: &Schema, reader: &Schema, expected: &Expected) {
    let comparison = compare(writer, reader);
    let said = comparison.to_string();
    let loads = Extreme::ALL.map(|end| load(&end.of(writer), writer, reader));
    let context = format!("{kind}, {direction}: {said}\nloads: {loads:?}");
    for (end, loaded) in Extreme::ALL.iter().zip(&loads) {
        if let Ok(loaded) = loaded {
            let wrong = misarrived(&end.of(writer), writer, loaded, reader);
            assert_eq!(wrong, [""; 0], "{end:?}, {context}");
        }
    }
    let defaults = changed_defaults(writer, reader);
    let defaults: Vec<_> = defaults
        .iter()
        .map(|changed| format!("{} {changed}", changed.path))
        .collect();
    match expected {
        Expected::OtherDefault(why) => assert!(
            defaults.len() == 1 && defaults[0].contains(why),
            "{defaults:?}, {context}"
        ),
        _ => assert_eq!(defaults, [""; 0], "{context}"),
    }
    match (expected, comparison.verdict()) {
        (Expected::Loads | Expected::OtherDefault(_), Verdict::Loads) => {
            assert!(loads.iter().all(Result::is_ok), "{context}");
        }
        (Expected::DoesNot(why), Verdict::DoesNot(_)) => {
            assert!(said.contains(why), "{context}");
            assert!(loads.iter().all(Result::is_err), "{context}");
        }
        (Expected::OnlyIf(condition), Verdict::LoadsOnlyIf(_)) => {
            assert!(said.contains(condition), "{context}");
            let refusals: Vec<_> = loads.iter().filter_map(|load| load.as_ref().err()).collect();
            assert_eq!(
                refusals.len(),
                1,
                "one end meets the condition and one does not: {context}"
            );
            let field = condition.split(' ').next().expect("it begins with the field");
            let field = field.trim_end_matches("[]");
            assert!(refusals[0].contains(&format!("field {field}")), "{context}");
        }
        (_, verdict) => panic!("the verdict is another one, {verdict}: {context}"),
    }
}

#[test]
fn every_kind_of_change_has_its_verdict_in_both_directions_and_loads_agree() {
    let before = before();
    for change in CHANGES {
        let after = after(change);
        assert_ne!(before, after, "{}: nothing has changed", change.kind);
        check(change.kind, "forward", &before, &after, &change.forward);
        check(change.kind, "back", &after, &before, &change.back);
    }
}

#[test]
fn the_table_has_each_kind_once_and_all_verdicts_in_both_directions() {
    let kinds: BTreeSet<_> = CHANGES.iter().map(|change| change.kind).collect();
    assert_eq!(kinds.len(), CHANGES.len(), "a kind is there twice");
    assert!(kinds.len() >= 40, "only {} kinds are left", kinds.len());
    for expected in [
        CHANGES.iter().map(|change| &change.forward).collect::<Vec<_>>(),
        CHANGES.iter().map(|change| &change.back).collect(),
    ] {
        let count = |wanted: fn(&Expected) -> bool| expected.iter().filter(|expected| wanted(expected)).count();
        assert!(count(|expected| matches!(expected, Expected::Loads)) >= 5);
        assert!(count(|expected| matches!(expected, Expected::OnlyIf(_))) >= 5);
        assert!(count(|expected| matches!(expected, Expected::DoesNot(_))) >= 5);
    }
}

#[test]
fn a_description_that_has_not_changed_loads() {
    let before = before();
    check("no change", "either way", &before, &before, &Expected::Loads);
}

/// The breaks that QEMU's `scripts/vmstate-static-checker.py` lets pass (as of 10.0.13, from old to new; the second one
/// in both directions). Here none of them passes without a word: the change loads as it is, or it is named.
mod what_qemus_static_checker_passes {
    use super::*;

    fn the(kind: &str) -> &'static Change {
        let change = CHANGES.iter().find(|change| change.kind == kind);
        change.unwrap_or_else(|| panic!("the table has no {kind:?}"))
    }

    /// Its readers take the version of a nested struct for their own, and read on beyond its end.
    #[test]
    fn a_nested_struct_with_a_field_more_and_a_version_of_its_own_on_the_wire() {
        let change = the("nested struct: version raised, field added with since and default");
        let (before, after) = (super::before(), after(change));
        assert_eq!(compare(&before, &after).verdict(), Verdict::Loads, "by the default");
        let back = compare(&after, &before).to_string();
        assert_eq!(
            back,
            "line does not load: it is of version 2, and the reader loads versions 1 to 1"
        );
        let change = the("nested struct: version raised, field added without default");
        let forward = compare(&before, &super::after(change)).to_string();
        assert_eq!(
            forward,
            "line does not load: it is of version 1, and the reader loads versions 2 to 2"
        );
    }

    /// Its fields behind one with a predicate are read at the wrong place where the two sides differ about it.
    #[test]
    fn a_predicate_that_decides_whether_a_field_is_there() {
        let change = the("predicate: a field is no longer always there");
        let (before, after) = (super::before(), after(change));
        assert_eq!(compare(&before, &after).verdict(), Verdict::Loads, "by its name");
        let back = compare(&after, &before).to_string();
        assert_eq!(
            back,
            "lcr loads only if it is sent, because the reader cannot do without it"
        );
    }

    /// Its readers take the next section's bytes for the field's.
    #[test]
    fn a_field_more_at_the_end_at_the_same_version() {
        let change = the("field added at the end, without version or default");
        let (before, after) = (super::before(), after(change));
        let forward = compare(&before, &after).to_string();
        assert_eq!(
            forward,
            "extra does not load: the writer does not know it, and the reader has no default for it"
        );
        let back = compare(&after, &before).to_string();
        assert_eq!(
            back,
            "extra does not load: the reader does not know it, and it would be lost"
        );
    }
}
