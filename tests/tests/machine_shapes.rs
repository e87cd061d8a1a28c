//! What a guest sees of each machine of each release (`tests/compat/RELEASE/machine-MACHINE.json`) is what it sees of it today.
//!
//! A machine version is a promise to guests: it never changes once it is released. What is new comes with a new version, and
//! the older ones switch it off in their `compat`.

use std::fs;

use serde_json::{Value, json};
use tern_tests::compat::machine::{shape, shape_file};
use tern_tests::compat::releases::Releases;
use tern_tests::process::Scratch;

/// Machines of releases: release, machine and its shape then.
fn released() -> Vec<(String, String, Value)> {
    let releases = Releases::of_this_repository();
    let mut released = Vec::new();
    for release in releases.iter() {
        assert!(!release.machines.is_empty(), "{} has no machine", release.version);
        for machine in &release.machines {
            let file = releases.folder_of(release).join(shape_file(machine));
            let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            let shape = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            released.push((release.version.clone(), machine.clone(), shape));
        }
    }
    released
}

/// Where two values differ, with what was there and what is.
fn differences(place: &str, was: &Value, is: &Value, found: &mut Vec<String>) {
    match (was, is) {
        (Value::Object(was), Value::Object(is)) => {
            let mut names: Vec<_> = was.keys().chain(is.keys()).collect();
            names.sort();
            names.dedup();
            for name in names {
                let member = |of: &serde_json::Map<String, Value>| of.get(name).cloned().unwrap_or_default();
                differences(&format!("{place}.{name}"), &member(was), &member(is), found);
            }
        }
        (was, is) if was == is => {}
        (was, is) => found.push(format!("{place}: was {was}, is {is}")),
    }
}

/// What of a released machine may not change: all but CPU models and fields of state that came later, which have rules of their own.
fn changes(was: &Value, is: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut is = is.clone();
    for (section, was) in was["state"].as_object().into_iter().flatten() {
        // Versions and fields go on by the rules of schemas, which the schema lock holds.
        is["state"][section]["version"] = was["version"].clone();
        is["state"][section]["fields"] = was["fields"].clone();
    }
    differences("", was, &is, &mut found);
    found
}

#[test]
fn a_released_machine_is_for_guests_what_it_was() {
    for (release, machine, was) in released() {
        let changes = changes(&was, &shape(&machine));
        assert!(
            changes.is_empty(),
            "{machine} is not what it was in {release}:\n  {}\nIt is released, so it stays: bring what is new with a new version of the \
             machine (or of the CPU model), and have the compat of this one switch it off",
            changes.join("\n  ")
        );
    }
}

#[test]
fn a_change_is_found_and_named_whatever_it_is() {
    let machine = shape("microvm-1.0");
    assert!(changes(&machine, &machine).is_empty());
    for (pointer, new) in [
        ("/memory/0xfea00000-0xfea00003", json!("something else")),
        ("/io/0x3f8-0x3ff", Value::Null),
        ("/objects/~1machine~1pvpanic/properties/events", json!("7")),
        ("/objects/~1machine~1rtc/type", json!("mc146818")),
        ("/tables/0xe0000", json!("00 00")),
        ("/cpuid/x86-64-v1-1/00000001.0", json!("0 0 0 0")),
        ("/since", json!("0.2")),
    ] {
        let mut changed = machine.clone();
        let place = changed
            .pointer_mut(pointer)
            .unwrap_or_else(|| panic!("nothing at {pointer}"));
        let was = std::mem::replace(place, new);
        let found = changes(&machine, &changed);
        let member = pointer.rsplit('/').next().expect("a name").replace("~1", "/");
        assert_eq!(found.len(), 1, "{pointer}: {found:?}");
        assert!(
            found[0].contains(&member) && found[0].contains(&was.to_string()),
            "{found:?}"
        );
    }
    // A subsection that comes or goes changes what a machine sends.
    let mut changed = machine.clone();
    changed["state"]["/machine/rtc (mc146818rtc)"]["subsections"] = json!(["new"]);
    let found = changes(&machine, &changed);
    assert_eq!(
        found,
        [".state./machine/rtc (mc146818rtc).subsections: was [], is [\"new\"]"]
    );
    let mut changed = machine.clone();
    changed["state"]["/machine/rtc (mc146818rtc)"]["fields"] = json!(["more"]);
    assert!(changes(&machine, &changed).is_empty(), "fields are the schema lock's");
}

#[test]
fn what_a_release_did_not_have_says_that_it_came_later() {
    let home = Scratch::new();
    for (release, machine, was) in released() {
        assert_eq!(was["machine"], machine.as_str());
        let since = was["since"].as_str().expect("a release");
        let run = |compat: &str| home.vm(&["run", "--machine", &machine, "--compat", compat, "--accel", "none"]);
        let told = String::from_utf8_lossy(&run(&release).stderr).into_owned();
        assert!(
            told.contains("accelerator"),
            "{release} had {machine} since {since}: {told}"
        );
    }
}
