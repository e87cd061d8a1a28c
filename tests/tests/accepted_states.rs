//! Every state that a release accepted is accepted here: no hook and no loader has become narrower.
//!
//! `tests/compat/RELEASE/accepted-MACHINE.jsonl.gz` has them, thousands for each machine; each is loaded as a restore loads it, with what
//! the other objects of its snapshot hold. Nothing chooses them anew: they are what the release wrote down.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use tern_tests::compat::accepted::{self, Accepted, BASES, Base};
use tern_tests::compat::corpus;
use tern_tests::compat::format;
use tern_tests::compat::machine;
use tern_tests::compat::releases::Releases;
use tern_tests::compat::rig::SavedSection;
use tern_tests::compat::structures;
use tern_tests::process::Scratch;
use vmstate::VmState;
use vmstate::qom::sections::{load_tree, save_tree};
use vmstate::qom::{Object, ObjectPart, TypeInfo, TypeTable};
use vmstate::state::{HookError, Schema, StateHooks};

/// Releases that are older than the list. There will be no more of them.
const WITHOUT_LIST: [&str; 1] = ["0.1.0-rc.1"];

#[test]
fn whatever_a_release_accepted_is_accepted_here() {
    let releases = Releases::of_this_repository();
    let mut refused = Vec::new();
    for release in releases.iter() {
        let Some(count) = release.accepted else {
            assert!(
                WITHOUT_LIST.contains(&release.version.as_str()),
                "releases.toml does not say how many states {} accepted",
                release.version
            );
            continue;
        };
        assert!(count > 1000, "{} has hardly tried anything", release.version);
        let folder = releases.folder_of(release);
        let found = accepted::refused_here(&folder, &release.machines, count).unwrap_or_else(|why| panic!("{why}"));
        refused.extend(found.into_iter().map(|state| format!("{}, {state}", release.version)));
    }
    assert!(
        refused.is_empty(),
        "{} states that a release accepted, and has perhaps saved, are refused here:\n  {}\n\
         What a release accepted loads for ever: accept it, or let `post_load` make of it what this program can take",
        refused.len(),
        refused.join("\n  ")
    );
}

#[test]
fn what_a_release_saved_reaches_the_same_places_of_kvms_structures() {
    let releases = Releases::of_this_repository();
    let mut others = Vec::new();
    for release in releases.iter().filter(|release| release.accepted.is_some()) {
        for machine in &release.machines {
            let folder = releases.folder_of(release);
            let found = structures::others_here(&folder, machine).unwrap_or_else(|why| panic!("{why}"));
            others.extend(found.into_iter().map(|state| format!("{}, {state}", release.version)));
        }
    }
    assert!(
        others.is_empty(),
        "a guest that a release saved would go on with other registers:\n  {}\n\
         A field means what it meant; what means something else is another field",
        others.join("\n  ")
    );
}

#[test]
fn what_other_versions_rely_on_in_files_and_streams_stays() {
    let releases = Releases::of_this_repository();
    for release in releases.iter().filter(|release| release.accepted.is_some()) {
        let file = releases.folder_of(release).join(format::FILE);
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let released: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let few = |name: &str| released[name].as_array().is_none_or(|list| list.len() < 30);
        assert!(
            !few("numbers") && !few("layouts"),
            "{} hardly has anything",
            file.display()
        );
        assert_eq!(
            format::breaks(&released, &format::format()),
            [""; 0],
            "{}",
            release.version
        );
    }
}

/// What the next release will write: it is accepted by this program, and has every field of every machine.
#[test]
fn the_list_of_the_next_release_has_every_field_of_every_machine_and_cannot_become_shorter() {
    let folder = Scratch::in_memory();
    corpus::make(&folder.file(corpus::FOLDER), false);
    let machines = machine::all();
    let mut count = 0;
    for machine in &machines {
        let of_machine = accepted::make(folder.path(), machine).unwrap_or_else(|why| panic!("{why}"));
        let size = fs::metadata(folder.file(&accepted::file_name(machine)))
            .expect("it was written")
            .len();
        assert!(
            size < 100 << 10,
            "{machine}: {size} bytes are more than a release should leave behind for ever"
        );
        assert!(of_machine > 1000, "{machine}: only {of_machine} states");
        count += of_machine;
        let states = read(folder.path(), machine);
        assert_eq!(states.len(), of_machine);
        assert_eq!(untried(machine, &states), [""; 0], "{machine}");
    }
    assert_eq!(accepted::refused_here(folder.path(), &machines, count), Ok(Vec::new()));
    for machine in &machines {
        structures::make(folder.path(), machine).expect("they become something");
        assert_eq!(structures::others_here(folder.path(), machine), Ok(Vec::new()));
    }
    // One state less, and one that is none.
    let (file, mut states) = (
        folder.file(&accepted::file_name(&machines[0])),
        read(folder.path(), &machines[0]),
    );
    states.pop();
    accepted::write(&file, &states).expect("it can be written");
    let error = accepted::refused_here(folder.path(), &machines, count).expect_err("one is missing");
    assert!(
        error.contains(&format!("{} states were accepted, and {count} are listed", count - 1)),
        "{error}"
    );
    states[0].value = serde_json::json!("what no field has");
    accepted::write(&file, &states).expect("it can be written");
    let error = accepted::refused_here(folder.path(), &machines, count).expect_err("it is no state");
    assert!(
        error.contains(&states[0].field.to_string()) && error.contains("what no field has"),
        "{error}"
    );
    fs::remove_file(&file).expect("it is there");
    accepted::refused_here(folder.path(), &machines, count).expect_err("it is gone");
}

#[track_caller]
fn read(folder: &Path, machine: &str) -> Vec<Accepted> {
    accepted::read(&folder.join(accepted::file_name(machine))).unwrap_or_else(|why| panic!("{why}"))
}

/// The fields of a machine that no state has as another than the snapshot, and the sections that were tried in one snapshot only.
fn untried(machine: &str, states: &[Accepted]) -> Vec<String> {
    let mut untried = Vec::new();
    for section in machine::schemas(machine) {
        let of_section: Vec<_> = states
            .iter()
            .filter(|state| state.description == section.description)
            .collect();
        let fields: BTreeSet<_> = of_section
            .iter()
            .map(|state| state.field.described().to_string())
            .collect();
        let wanted = tern_tests::state::nowhere_zero(&section.schema).leaf_paths();
        let wanted: BTreeSet<_> = wanted.into_iter().map(|path| path.described().to_string()).collect();
        untried.extend(
            wanted
                .difference(&fields)
                .map(|field| format!("{} ({}): {field}", section.path, section.description)),
        );
        let tried_in = |base: &&&str| of_section.iter().any(|state| state.base == **base);
        if BASES.iter().filter(tried_in).count() < 2 {
            untried.push(format!("{} ({}): in two bases", section.path, section.description));
        }
    }
    untried
}

/// A serial port as a release had it, and as it became.
#[derive(Clone, Debug, Default, PartialEq, VmState)]
#[vmstate(name = "port")]
struct PortState {
    divisor: u16,
    scratch: u8,
}

mod released {
    use super::*;

    #[derive(Object)]
    #[object(name = "port", unregistered)]
    pub(super) struct Port {
        #[state]
        state: Mutex<PortState>,
    }
}

mod narrowed {
    use super::*;

    #[derive(Object)]
    #[object(name = "port", hooks, unregistered)]
    pub(super) struct Port {
        #[state]
        state: Mutex<PortState>,
    }

    impl StateHooks for Port {
        fn post_load(&self, _: u32) -> Result<(), HookError> {
            match self.state.lock().divisor {
                0 => Err("nothing can be divided by zero".into()),
                _ => Ok(()),
            }
        }
    }
}

fn tree(port: &'static TypeInfo) -> Arc<Object> {
    let types = TypeTable::build([port]).expect("they fit");
    let root = types.new_object("container").expect("concrete");
    let port = types.new_object("port").expect("concrete");
    root.add_child("serial0", port).expect("free");
    root
}

/// A port with divisor 12.
fn base(port: &'static TypeInfo) -> Base<'static> {
    let schema: &Schema = PortState::schema();
    let mut sections = save_tree(&tree(port)).expect("it can be saved");
    sections[0].value.set("divisor", vmstate::state::Value::Uint(12));
    Base {
        name: "reset".to_owned(),
        sections: sections
            .into_iter()
            .map(|section| SavedSection {
                path: section.path,
                description: section.description,
                schema: Arc::new(schema.clone()),
                value: section.value,
            })
            .collect(),
        fresh: Box::new(move || {
            let root = tree(port);
            Box::new(move |sections| load_tree(&root, sections, &[]).map_err(|error| error.to_string()))
        }),
    }
}

#[test]
fn a_hook_that_has_become_narrower_is_found_by_the_name_of_the_field_and_the_value() {
    let accepted = base(released::Port::type_info()).ask().expect("legal states");
    let text = accepted::to_text(&accepted);
    assert_eq!(accepted::from_text(&text).as_ref(), Ok(&accepted), "{text}");
    assert!(text.contains("[\"divisor\",0]\n"), "{text}");
    let refused = |port, states: &[Accepted]| base(port).refused(states).expect("legal states");
    assert_eq!(refused(released::Port::type_info(), &accepted), [""; 0]);
    let found = refused(narrowed::Port::type_info(), &accepted);
    let told =
        "reset: /serial0 (port): divisor = 0x0: /serial0 (port) cannot take this state: nothing can be divided by zero";
    assert_eq!(found[0], told);
    let is_zero = |state: &String| state.contains("divisor = 0x0") && state.ends_with("nothing can be divided by zero");
    assert!(found.iter().all(is_zero), "no other state: {found:#?}");
    // A program that asks itself keeps only what it accepts.
    let narrower = base(narrowed::Port::type_info()).ask().expect("legal states");
    assert_eq!(narrower.len(), accepted.len() - found.len());
    assert!(narrower.iter().all(|state| accepted.contains(state)));
}

#[test]
fn what_is_no_list_of_states_is_refused_with_its_line() {
    let head = r#"{"base":"reset","path":"/a","description":"a"}"#;
    for (text, why) in [
        (r#"["divisor",0]"#.to_owned(), "line 1: it is of no section"),
        (r#"{"base":"reset"}"#.to_owned(), "line 1: it names no section"),
        (
            format!("{head}\n[\"divisor\"]"),
            "line 2: a state is a field and a value",
        ),
        (format!("{head}\n[\"a..b\",0]"), "line 2: it names no field"),
        (format!("{head}\n[\"a\""), "line 2: EOF"),
    ] {
        let error = accepted::from_text(&text).expect_err(&text);
        assert!(error.starts_with(why), "{text}: {error}");
    }
}
