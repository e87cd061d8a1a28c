//! What the devices of a release did from states that it saved is what they do today (`tests/compat/RELEASE/behaviour.txt.gz`).

use std::sync::Arc;

use tern_tests::compat::behaviour::{FILE, Transcript, coverage, on_machines};
use tern_tests::compat::conformance::devices;
use tern_tests::compat::machine;
use tern_tests::compat::random::seed;
use tern_tests::compat::releases::Releases;
use tern_tests::compat::rig::Rig;
use tern_tests::process::Scratch;
use vmstate::qom::TypeTable;

/// The releases of before there were transcripts. No other one may be without.
const WITHOUT: [&str; 1] = ["0.1.0-rc.1"];

/// What a release did and must not do any more: the release, the type, and why. A user of that version of the machine sees it
/// change, so it takes a reason that is stronger than the promise that nothing does.
const CHANGED: [(&str, &str, &str); 0] = [];

fn types() -> Arc<TypeTable> {
    TypeTable::gathered().expect("the types fit together")
}

#[test]
fn what_the_devices_of_every_release_did_they_do_today() {
    let types = types();
    let releases = Releases::of_this_repository();
    for release in releases.iter() {
        let folder = releases.folder_of(release);
        let Some(runs) = release.runs else {
            assert!(
                WITHOUT.contains(&release.version.as_str()) && !folder.join(FILE).exists(),
                "{} has no number of runs in releases.toml, and is not of before there were transcripts",
                release.version
            );
            continue;
        };
        let mut transcript = Transcript::read(&folder).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(transcript.runs(), runs, "{}: {FILE} and releases.toml", release.version);
        let covered = coverage(&transcript);
        for machine in &release.machines {
            assert!(
                covered.contains_key(machine) && covered.values().any(|machines| machines.contains(machine)),
                "{}: {FILE} has no run of {machine} and its devices",
                release.version
            );
        }
        for (_, type_name, why) in CHANGED.iter().filter(|(of, ..)| *of == release.version) {
            let mut changed = transcript.clone();
            changed.subjects.retain(|subject| subject.type_name == *type_name);
            transcript.subjects.retain(|subject| subject.type_name != *type_name);
            assert!(
                !changed.differences(&types).is_empty(),
                "{type_name} does what it did in {} ({why}): its entry in CHANGED is to go",
                release.version
            );
        }
        let found = transcript.differences(&types);
        assert!(
            found.is_empty(),
            "{}: {} of {runs} runs are not what they were\n{}",
            release.version,
            found.len(),
            found.join("\n")
        );
    }
}

/// Before a release, so that a new device is in it by itself.
#[test]
fn the_transcript_of_the_next_release_has_every_device_and_reads_back() {
    let types = types();
    let made = Transcript::make(&types, seed()).expect("every type can be recorded");
    let folder = Scratch::in_memory();
    made.write(folder.path()).expect("a file");
    let packed = std::fs::metadata(folder.file(FILE)).expect("a file").len();
    assert!(packed < 100 << 10, "{packed} bytes are too many");
    let read = Transcript::read(folder.path()).expect("a transcript");
    assert!(read == made, "what is read is not what was written");
    assert_eq!(read.differences(&types), [""; 0], "the same program does the same");

    let covered = coverage(&made);
    let mut machines = machine::all();
    for name in devices(&types) {
        let is_inert = Rig::new(&types, name).expect("it fits").ground().is_inert();
        assert_eq!(covered.contains_key(name), !is_inert, "{name}");
        if !is_inert && !machines.iter().any(|machine| machine == name) {
            let mut on = covered[name].clone();
            on.sort();
            let machines: Vec<_> = machines.iter().map(String::as_str).collect();
            let mut expected = on_machines(name, &machines);
            expected.sort();
            assert_eq!(on, expected, "{name}");
        }
    }
    machines.retain(|machine| !covered.contains_key(machine));
    assert_eq!(machines, [""; 0]);
}

/// A device that a user can add, as a release has it.
fn testdev(types: &Arc<TypeTable>) -> String {
    let mut made = Transcript::default();
    let machines = machine::all();
    let machines: Vec<_> = machines.iter().map(String::as_str).collect();
    made.add(types, "tern-testdev", &machines, seed())
        .expect("it can be recorded");
    made.to_string()
}

#[track_caller]
fn differences(types: &Arc<TypeTable>, text: &str) -> Vec<String> {
    Transcript::parse(text).expect("a transcript").differences(types)
}

/// What a source does that renames one field to the name of the other in the file, and the other way round.
#[test]
fn two_fields_of_one_type_that_have_changed_places_are_found() {
    let types = types();
    let text = testdev(&types);
    assert_eq!(differences(&types, &text), [""; 0]);
    let exchanged = text.replace("\"rung\"", "\"\"").replace("\"last\"", "\"rung\"");
    let exchanged = exchanged.replace("\"\"", "\"last\"");
    let found = differences(&types, &exchanged).join("\n");
    let told = [
        "tern-testdev on microvm-1.1, run ",
        "read memory 0xd1000008 4: expected ",
        "last=",
        "name = ",
    ];
    for told in told {
        assert!(found.contains(told), "no {told} in {found}");
    }
}

#[test]
fn whatever_is_edited_in_what_was_seen_or_done_is_found_and_what_is_no_transcript_is_named_by_its_line() {
    let types = types();
    let text = testdev(&types);
    let edit = |old: &str, new: &str| {
        let edited = text.replacen(old, new, 1);
        assert_ne!(edited, text, "there is no {old}");
        edited
    };
    let register = "do read memory 0xd1000010 4\nsaw ";
    for (old, new, told) in [
        (register, "do read memory 0xd1000010 4\nsaw 9", "expected 9"),
        ("\ntype tern-testdev", "\ntype tern-gone", "tern-gone"),
        (
            "\non microvm-1.0",
            "\non microvm-0.9",
            "there is no machine microvm-0.9",
        ),
        ("end high [", "end high [31", "in the end: expected high [31"),
        ("\ndo ", "\ndo type 9 00\ndo ", "no such input"),
        (
            "\ndo ",
            "\nsaw line 5 high at 0\ndo ",
            "at the load: expected line 5 high at 0, found nothing",
        ),
    ] {
        let found = differences(&types, &edit(old, new)).join("\n");
        assert!(found.contains(told), "{new}: no {told} in {found}");
    }
    for (old, new) in [
        ("\ndo ", "\ndo dance "),
        ("\nnew 0 ", "\nnew 99 "),
        ("\nrun ", "\nran "),
        ("schema 0 ", "schema 1 "),
    ] {
        let error = Transcript::parse(&edit(old, new)).expect_err(new);
        assert!(error.contains("is none of a transcript"), "{error}");
    }
}
