//! What was released is held against this program: nothing of it has changed, and state goes there and comes from there.

use serde_json::json;
use tern_tests::compat::lock::{Break, Direction, OneWay, SchemaFile, breaks};
use tern_tests::compat::machine;
use tern_tests::compat::releases::{Releases, ever_listed};
use tern_tests::compat::versions::{Missing, history_of_the_list, in_history};
use tern_tests::kvm::not_run;
use vmstate::qom::sections::{Move, SectionSchema};
use vmstate::state::{Description, FieldSchema, SubsectionSchema, Value, WireType};

/// The machine of the tests of the lock itself.
const MACHINE: &str = "microvm-1.0";

/// The steps after which releases do not load a description any more. Without an entry here, what this program saves of a
/// released machine loads in that release.
const ONE_WAY: &[OneWay] = &[OneWay {
    newest: "0.1.0-rc.1",
    description: "machine",
    field: "virtual_clock",
    why: "devices of users' have timers since, and the clock by which these go travels",
}];

fn today(machine: &str) -> SchemaFile {
    SchemaFile {
        tern: "here".to_owned(),
        machine: machine.to_owned(),
        sections: machine::schemas(machine),
    }
}

#[test]
fn nothing_that_was_released_has_changed_since() {
    let releases = Releases::of_this_repository();
    let changes = releases.changes().expect("readable folders");
    assert!(
        changes.is_empty(),
        "what was released never changes (restore it with git; what is new comes with a new release, by tools/release):\n{}",
        changes.join("\n")
    );
}

/// The list itself cannot show that it has become shorter; its history can.
#[test]
fn no_release_is_ever_taken_off_the_list() {
    let log = match history_of_the_list() {
        Ok(log) => log,
        Err(why) => return not_run("no_release_is_ever_taken_off_the_list", &why),
    };
    let releases = Releases::of_this_repository();
    for (version, commit, sums) in ever_listed(&log) {
        let is_listed = releases
            .iter()
            .any(|release| release.version == version && release.commit == commit && release.sums == sums);
        assert!(is_listed, "{version} was released, and is not on the list as it was");
    }
}

#[test]
fn every_release_was_made_of_a_commit_that_this_program_comes_from() {
    for release in Releases::of_this_repository().iter() {
        match in_history(release) {
            Ok(()) => {}
            Err(Missing::History(why)) => {
                let name = "every_release_was_made_of_a_commit_that_this_program_comes_from";
                return not_run(name, &why);
            }
            Err(Missing::Commit(why)) => panic!("{why}"),
        }
    }
}

#[test]
fn releases_are_listed_from_the_oldest_to_the_newest() {
    let releases = Releases::of_this_repository();
    let misplaced = releases.out_of_order().map(|release| &release.version);
    assert_eq!(misplaced, None, "it is not higher than the release before it");
}

#[test]
fn every_release_has_the_schemas_of_each_of_its_machines_and_no_machine_is_ever_dropped() {
    let releases = Releases::of_this_repository();
    let here = machine::all();
    for release in releases.iter() {
        assert!(!release.machines.is_empty(), "{} has no machine", release.version);
        assert!(
            release.commit.len() == 40 && release.commit.bytes().all(|digit| digit.is_ascii_hexdigit()),
            "{} names no commit: {}",
            release.version,
            release.commit
        );
        for machine in &release.machines {
            let file = releases.folder_of(release).join(SchemaFile::name(machine));
            let schemas = SchemaFile::read(&file).unwrap_or_else(|why| panic!("{why}"));
            assert_eq!((&schemas.tern, &schemas.machine), (&release.version, machine));
            assert!(
                schemas.sections.len() >= 10,
                "{} describes next to nothing",
                file.display()
            );
            assert!(
                here.contains(machine),
                "{} has {machine}, and this program has not",
                release.version
            );
        }
    }
}

#[test]
fn what_every_release_saved_loads_here_and_what_is_saved_here_loads_there() {
    let releases = Releases::of_this_repository();
    let mut found = Vec::new();
    for release in releases.iter() {
        for machine in &release.machines {
            let file = releases.folder_of(release).join(SchemaFile::name(machine));
            let released = SchemaFile::read(&file).unwrap_or_else(|why| panic!("{why}"));
            let moves = machine::full(machine, 1).vm.board().moves();
            found.extend(breaks(&released, &today(machine), moves));
        }
    }
    let order: Vec<_> = releases.iter().map(|release| release.version.as_str()).collect();
    for step in ONE_WAY {
        assert!(
            step.is_needed(&found, &order),
            "{step:?}: that release loads it, or is none: the entry in ONE_WAY is to go, or to name an older one"
        );
    }
    found.retain(|found| !ONE_WAY.iter().any(|step| step.accepts(found, &order)));
    let found: Vec<_> = found.iter().map(ToString::to_string).collect();
    assert!(found.is_empty(), "{} breaks\n{}", found.len(), found.join("\n"));
}

#[test]
fn every_description_of_this_program_is_one_that_some_machine_saves() {
    let mut saved = Vec::new();
    for machine in machine::all() {
        saved.extend(
            machine::schemas(&machine)
                .into_iter()
                .map(|section| section.description),
        );
    }
    for described in machine::described_types() {
        assert!(
            saved.iter().any(|saved| saved == described),
            "no machine of the suite has a {described}, so that nothing watches its state: tests/src/compat/machine.rs \
             adds what users can add"
        );
    }
}

#[test]
fn a_schema_file_reads_back_as_it_was_written_and_is_refused_if_it_is_something_else() {
    let here = today(MACHINE);
    assert_eq!(SchemaFile::from_text(&here.to_text()), Ok(here));
    for (text, why) in [
        ("{", "EOF"),
        ("{}", "it has no sections"),
        ("{\"sections\": []}", "it has no text \"tern\""),
    ] {
        let error = SchemaFile::from_text(text).expect_err(text);
        assert!(error.contains(why), "{text}: {error}");
    }
    let half = json!({ "sections": [{ "path": "/a", "description": "a", "schema": { "name": "a" } }] });
    assert!(SchemaFile::from_text(&half.to_string()).is_err());
}

fn is_users(section: &SectionSchema) -> bool {
    section.path.starts_with("/machine/peripheral/")
}

/// What an imagined release saves of a machine to which nobody has added anything.
fn bare() -> SchemaFile {
    let mut bare = SchemaFile {
        tern: "0.1.0".to_owned(),
        ..today(MACHINE)
    };
    bare.sections.retain(|section| !is_users(section));
    bare
}

/// A description of the lock's own tests, so that no change of a device's is one of them.
fn uart() -> Description {
    let mut uart = Description::new("uart");
    uart.fields = ["ier", "lcr"].map(|name| FieldSchema::new(name, WireType::U8)).into();
    uart
}

/// A release that has it, and one more object.
fn released(description: Description) -> SchemaFile {
    let section = |path: &str, description: Description| SectionSchema {
        path: path.to_owned(),
        description: description.name.to_string(),
        schema: description.check().expect("legal"),
    };
    SchemaFile {
        tern: "0.1.0".to_owned(),
        machine: MACHINE.to_owned(),
        sections: vec![
            section("/machine/uart0", description),
            section("/machine/rtc", Description::new("rtc")),
        ],
    }
}

/// What the lock says where it was changed after a release.
fn after_a_change(change: impl Fn(&mut Description)) -> Vec<Break> {
    let mut changed = uart();
    change(&mut changed);
    breaks(&released(uart()), &released(changed), &[])
}

#[track_caller]
fn assert_told(breaks: &[Break], wanted: &[(Direction, &str, &str, &str)]) {
    assert_eq!(breaks.len(), wanted.len(), "{breaks:#?}");
    for (found, (direction, field, verdict, remedy)) in breaks.iter().zip(wanted) {
        assert_eq!((found.direction, found.field.as_str()), (*direction, *field));
        assert!(
            found.verdict.contains(verdict) && found.remedy.contains(remedy),
            "{found}"
        );
        let said = found.to_string();
        assert!(
            said.contains("/machine/uart0 (uart)") && said.contains("0.1.0") && said.contains("remedy: "),
            "{said}"
        );
    }
}

const LOST: &str = "the reader does not know it, and it would be lost";

#[test]
fn what_has_not_changed_breaks_nothing() {
    assert_eq!(after_a_change(|_| {}), []);
    assert_eq!(after_a_change(|uart| uart.fields.reverse()), []);
}

#[test]
fn a_break_is_told_with_the_release_the_field_the_difference_and_the_remedy() {
    use Direction::{Back, Forward};
    let field = |name| FieldSchema::new(name, WireType::U8);
    let renamed = after_a_change(|uart| uart.fields[0].name = "interrupts".into());
    assert_told(
        &renamed,
        &[
            (
                Forward,
                "interrupts",
                "the reader has no default for it",
                "`since` and a `default`",
            ),
            (Forward, "ier", LOST, "name = "),
            (Back, "ier", "the reader has no default for it", "keep the field"),
            (Back, "interrupts", LOST, "has_subsection"),
        ],
    );
    let added = after_a_change(|uart| uart.fields.push(field("extra")));
    assert_told(
        &added,
        &[
            (
                Forward,
                "extra",
                "the reader has no default for it",
                "`since` and a `default`",
            ),
            (Back, "extra", LOST, "has_subsection"),
        ],
    );
    let stepped = after_a_change(|uart| {
        uart.version = 2;
        uart.fields.push(FieldSchema {
            since: 2,
            default: Some(Value::Uint(0)),
            ..field("extra")
        });
    });
    assert_told(&stepped, &[(Back, ".", "it is of version 2", "ONE_WAY")]);
    let oldest = after_a_change(|uart| (uart.version, uart.minimum_version) = (2, 2));
    assert_eq!((oldest[0].direction, oldest.len()), (Forward, 2));
    assert!(oldest[0].remedy.contains("minimum_version"), "{}", oldest[0]);
    let retyped = after_a_change(|uart| uart.fields[0].wire = WireType::I8);
    assert_told(
        &retyped,
        &[
            (Forward, "ier", "the writer's u8 is no i8", "new name"),
            (Back, "ier", "the writer's i8 is no u8", "new name"),
        ],
    );
}

#[test]
fn a_condition_is_a_break_too_since_some_guest_will_not_meet_it() {
    use Direction::{Back, Forward};
    let narrowed = after_a_change(|uart| uart.fields[0].range = Some((0, 15)));
    assert_told(
        &narrowed,
        &[(Forward, "ier", "between 0 and 15", "all that the release could save")],
    );
    let widened = after_a_change(|uart| uart.fields[0].wire = WireType::U16);
    assert_told(
        &widened,
        &[(
            Back,
            "ier",
            "between 0 and 255",
            "this version of the machine is released",
        )],
    );
    let by_need = after_a_change(|uart| {
        uart.subsections.push(SubsectionSchema {
            name: "extra".into(),
            optional: true,
            absent: None,
            schema: Description::new("extra").check().expect("legal"),
        });
    });
    assert_told(&by_need, &[(Back, "extra", "nothing is sent in it", "has_subsection")]);
}

#[test]
fn a_released_default_that_changes_is_a_break_although_all_that_is_sent_loads() {
    let with_default = |default: u64| {
        let mut uart = uart();
        uart.version = 2;
        uart.fields.push(FieldSchema {
            since: 2,
            default: Some(Value::Uint(default)),
            ..FieldSchema::new("breaks", WireType::U32)
        });
        released(uart)
    };
    assert_eq!(breaks(&with_default(0), &with_default(0), &[]), []);
    let wanted = (
        Direction::Forward,
        "breaks",
        "another default (0x0 at the writer, 0x7 at the reader)",
        "is a new field",
    );
    assert_told(&breaks(&with_default(0), &with_default(7), &[]), &[wanted]);
}

#[test]
fn a_step_gives_up_the_releases_before_it_and_its_own_field_and_nothing_else() {
    let stepped = |release: &str| Break {
        release: release.to_owned(),
        ..after_a_change(|uart| uart.version = 2).remove(0)
    };
    let releases = ["0.1.0", "0.1.1", "0.2.0"];
    let step = OneWay {
        newest: "0.1.1",
        description: "uart",
        field: ".",
        why: "a test",
    };
    for (release, is_accepted) in [("0.1.0", true), ("0.1.1", true), ("0.2.0", false)] {
        assert_eq!(step.accepts(&stepped(release), &releases), is_accepted, "{release}");
    }
    let change = |edit: fn(&mut Break)| {
        let mut found = stepped("0.1.0");
        edit(&mut found);
        found
    };
    for other in [
        change(|found| found.field = "lcr".to_owned()),
        change(|found| found.description = "rtc".to_owned()),
        change(|found| found.direction = Direction::Forward),
    ] {
        assert!(!step.accepts(&other, &releases), "{other}");
    }
    let unknown = OneWay {
        newest: "0.3.0",
        ..step
    };
    assert!(!unknown.accepts(&stepped("0.1.0"), &releases), "it is no release");
    assert!(step.is_needed(&[stepped("0.1.1")], &releases));
    assert!(!step.is_needed(&[stepped("0.1.0"), stepped("0.2.0")], &releases));
}

#[test]
fn an_object_that_goes_comes_or_moves_is_a_break() {
    let released = released(uart());
    let mut without = released.clone();
    without.sections.remove(0);
    let gone = breaks(&released, &without, &[]);
    assert_told_once(&gone, Direction::Forward, "there is no such state any more");
    let come = breaks(&without, &released, &[]);
    let directions: Vec<_> = come.iter().map(|found| found.direction).collect();
    assert_eq!(directions, [Direction::Forward, Direction::Back]);
    assert!(
        come.iter()
            .all(|found| found.remedy.contains("new version of the machine"))
    );

    let mut moved = released.clone();
    "/machine/isa/uart0".clone_into(&mut moved.sections[0].path);
    let undeclared = breaks(&released, &moved, &[]);
    assert!(undeclared[0].remedy.contains("formerly"), "{}", undeclared[0]);
    let declared = [Move {
        now: "/machine/isa/uart0",
        formerly: "/machine/uart0",
    }];
    assert_told_once(
        &breaks(&released, &moved, &declared),
        Direction::Back,
        "has the object there",
    );
}

#[track_caller]
fn assert_told_once(breaks: &[Break], direction: Direction, verdict: &str) {
    assert_eq!(breaks.len(), 1, "{breaks:#?}");
    assert_eq!(breaks[0].direction, direction);
    assert!(breaks[0].verdict.contains(verdict), "{}", breaks[0]);
}

#[test]
fn a_device_of_a_users_that_a_release_did_not_have_is_no_break() {
    let (here, released) = (today(MACHINE), bare());
    let added = here.sections.len() - released.sections.len();
    assert!(added >= 2, "the machine has one of everything");
    assert_eq!(breaks(&released, &here, &[]), []);
    assert_eq!(
        breaks(&here, &released, &[]).len(),
        added,
        "but what it had has to stay"
    );
}
