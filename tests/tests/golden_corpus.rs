//! The snapshots that releases have left behind load here, save again as they were, and their guests run on.
//!
//! *As they were* is exact: on a machine without processors nothing moves between a load and a save, time included, whether
//! it runs or not. So the state that is saved again is the one in the file, field by field, as this program's
//! descriptions take it; the memory is the same, byte for byte; and so is the recipe. That nothing is lost on the way into
//! KVM is seen by every load there, which reads all of it back; and what a guest makes of it then, by the guest.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hw::core::TestDev;
use migration::snapshot::{RestoreOptions, SaveOptions, SnapshotInfo, inspect, save, verify};
use migration::vm::{DestinationVm, SourceVm};
use tern_tests::compat::conformance::message;
use tern_tests::compat::corpus::{self, Golden, VARIANTS};
use tern_tests::compat::lock::SchemaFile;
use tern_tests::compat::machine;
use tern_tests::compat::releases::{Release, Releases};
use tern_tests::guest::EmbeddedGuest;
use tern_tests::kvm::not_run;
use tern_tests::machine::Site;
use tern_tests::needs_kvm;
use tern_tests::process::Scratch;
use tern_tests::state::nowhere_zero;
use vmm::run_state::RunState;
use vmm::vm::Vm;
use vmstate::qom::{Obj, StateDecl, TypeTable};
use vmstate::state::{Schema, Value, adapt};

/// The snapshots of a release, all of those that it has to have.
#[track_caller]
fn goldens(releases: &Releases, release: &Release) -> Vec<Golden> {
    let folder = releases.folder_of(release).join(corpus::FOLDER);
    let goldens = Golden::all(&folder).unwrap_or_else(|why| panic!("{why}"));
    for machine in &release.machines {
        let of_machine = goldens.iter().filter(|golden| golden.machine == *machine);
        let guests = of_machine.clone().filter(|golden| golden.has_guest()).count();
        assert!(
            guests >= 1 && of_machine.count() > guests,
            "{}: {machine} has no snapshots with a guest and without",
            release.version
        );
    }
    goldens
}

fn all_goldens() -> Vec<Golden> {
    let releases = Releases::of_this_repository();
    releases
        .iter()
        .flat_map(|release| goldens(&releases, release))
        .collect()
}

fn read(file: &Path) -> SnapshotInfo {
    let info = inspect(file).unwrap_or_else(|error| panic!("{error}"));
    assert!(info.unreadable.is_empty(), "{}: {:?}", file.display(), info.unreadable);
    info
}

/// Saves a VM that has been restored from `golden`, and tells of all in which the new file differs.
fn differences(golden: &SnapshotInfo, vm: &Vm, again: &Path) -> Vec<String> {
    save(vm, again, &SaveOptions::default(), &()).expect("it can be saved");
    let saved = read(again);
    let here: BTreeMap<_, Schema> = vm
        .schemas()
        .into_iter()
        .map(|section| ((section.path, section.description), section.schema))
        .collect();
    let mut found = Vec::new();
    // What releases before 0.1.0 did not tell cannot have changed.
    let mut golden_recipe = golden.manifest.recipe.clone();
    for (was, is) in golden_recipe.objects.iter_mut().zip(&saved.manifest.recipe.objects) {
        was.in_effect = was.in_effect.take().or_else(|| is.in_effect.clone());
    }
    if saved.manifest.recipe != golden_recipe {
        found.push(format!("{:?} and not {:?}", saved.manifest.recipe, golden_recipe));
    }
    if (saved.header.identity.vm, saved.header.identity.parent) != (golden.header.identity.vm, Some(golden.as_parent)) {
        found.push("it is another VM, or does not descend from its file".to_owned());
    }
    if saved.sections.len() != golden.sections.len() {
        found.push(format!(
            "{} sections and not {}",
            saved.sections.len(),
            golden.sections.len()
        ));
    }
    for section in &golden.sections {
        let key = (section.path.clone(), section.description.clone());
        let now = saved
            .sections
            .iter()
            .find(|one| (&one.path, &one.description) == (&key.0, &key.1));
        let (Some(now), Some(schema)) = (now, here.get(&key)) else {
            found.push(format!("{} ({}) is not there", section.path, section.description));
            continue;
        };
        // Both as this program's description takes them, which adds what is retired.
        let was = adapt(section.state.clone(), &section.schema, schema).expect("it has been loaded");
        let is = adapt(now.state.clone(), &now.schema, schema).expect("it is of that description");
        let fields = was
            .fields()
            .chain(is.fields())
            .map(|(name, _)| name.clone())
            .collect::<BTreeSet<_>>();
        for name in fields {
            if was.get(&name) != is.get(&name) {
                found.push(format!(
                    "{}: {name}: {:?} and not {:?}",
                    section.path,
                    is.get(&name),
                    was.get(&name)
                ));
            }
        }
        let (was, is) = (was.subsections(), is.subsections());
        if !was.eq(is) {
            found.push(format!("{}: a subsection", section.path));
        }
    }
    for (was, is) in golden.ram.iter().zip(&saved.ram) {
        if (&was.name, was.size, was.raw) != (&is.name, is.size, is.raw) || was.chunks_that_differ(is) != 0 {
            found.push(format!("the memory {}", was.name));
        }
    }
    found
}

#[test]
fn every_golden_snapshot_loads_and_saves_again_as_it_was() {
    let scratch = Scratch::in_memory();
    for golden in all_goldens() {
        let file = golden.unpack(&scratch);
        verify(&file, 2, &()).unwrap_or_else(|error| panic!("{error}"));
        let info = read(&file);
        let site = Site::new("qtest");
        let restored = site.restore(&file, &RestoreOptions::default());
        let mut restored = restored.unwrap_or_else(|error| panic!("{}: {error}", golden.path.display()));
        restored.vm.run().expect("it runs, or stands as its user left it");
        let vm = Arc::clone(restored.vm.vm());
        let found = differences(&info, &vm, &scratch.file("again.tern"));
        assert!(
            found.is_empty(),
            "{} has come back with\n{}",
            golden.path.display(),
            found.join("\n")
        );
        let stopped = ["reset", "filled", corpus::OPTIONAL, "cpu-host", "unusual"].contains(&golden.variant.as_str());
        let expected = if stopped { RunState::Paused } else { RunState::Running };
        assert_eq!(vm.status().run_state.get(), expected, "{}", golden.path.display());
    }
}

/// Guests that were released with a mistake: what they say where KVM is another than that on which they were
/// saved. They are what they are for ever. That their state arrives is seen by the other tests, and by KVM, which is read back.
const TIED_TO_A_KVM: [(&str, &str, &str); 2] = [
    (
        "0.1.0-rc.1",
        "panic vec=13 rip=0x10",
        "its guest lost IOPL on the KVM on which it was saved, and this one has no I/O bitmap for it",
    ),
    (
        "0.1.0-rc.1",
        "check FAILED register cpu 0 ds expected 0x0 found 0x23",
        "its guest expects the selector that KVM showed ring 3 where it was saved; here it has the one that was saved",
    ),
];

#[test]
fn golden_guests_run_on_and_find_their_memory_as_they_left_it() {
    needs_kvm!();
    let scratch = Scratch::in_memory();
    let guests: Vec<_> = all_goldens().into_iter().filter(Golden::has_guest).collect();
    assert!(!guests.is_empty());
    for golden in guests {
        let file = golden.unpack(&scratch);
        // A guest that keeps its time by kvmclock, as this one does, runs on at a TSC of any speed.
        let site = Site::new("kvm").tolerating_tsc();
        let restored = site.restore(&file, &RestoreOptions::default());
        let mut restored = restored.unwrap_or_else(|error| panic!("{}: {error}", golden.path.display()));
        let mut guest = site.machine(restored.vm.vm());
        restored.vm.run().expect("it runs");
        let goes_on = catch_unwind(AssertUnwindSafe(|| {
            for _ in 0..2 {
                guest.wait_beat();
                assert_eq!(guest.verify(), corpus::GUEST_PAGES);
            }
        }));
        if let Err(why) = goes_on {
            let why = message(&*why);
            let known = TIED_TO_A_KVM.iter().find(|(release, says, _)| {
                golden.path.components().any(|part| part.as_os_str() == *release) && why.contains(says)
            });
            if let Some((_, _, reason)) = known {
                not_run(&format!("{} on this KVM", golden.path.display()), reason);
                continue;
            }
            panic!(
                "{}: its guest does not go on as it was: {why}\nWhat is loaded here is not what was saved, or means something else: a \
                 field that is renamed keeps its name in the file (`name = \"...\"`), and one whose meaning changes is a new field \
                 (CONTRIBUTING.md)",
                golden.path.display()
            );
        }
    }
}

/// What the snapshots of a machine have in each field: every value that was seen, by description and field.
type Seen = BTreeMap<(String, String), BTreeSet<String>>;

/// Whether there is something in a value.
fn holds_something(value: &Value) -> bool {
    match value {
        Value::Bool(value) => *value,
        Value::Uint(value) => *value != 0,
        Value::Int(value) => *value != 0,
        Value::F64(value) => *value != 0.0,
        Value::Bytes(bytes) => bytes.iter().any(|byte| *byte != 0),
        Value::Str(text) => !text.is_empty(),
        Value::Bits(bits) => bits.ones().next().is_some(),
        Value::Deadline(deadline) => deadline.is_some(),
        Value::Enum(_) => true,
        // Nothing that has leaves is shown as one unless there is nothing in it.
        Value::Array(_) | Value::Map(_) | Value::Struct(_) | Value::Option(_) => false,
    }
}

fn look_at(files: &[PathBuf]) -> Seen {
    let mut seen = Seen::new();
    for file in files {
        for section in read(file).sections {
            section.state.for_each_leaf(|path, value| {
                if holds_something(value) {
                    let field = (section.description.clone(), path.described().to_string());
                    seen.entry(field).or_default().insert(value.to_string());
                }
            });
        }
    }
    seen
}

/// The fields of `machine` in which no snapshot has anything.
fn empty_fields(schemas: &SchemaFile, seen: &Seen) -> Vec<String> {
    let mut empty = Vec::new();
    for section in &schemas.sections {
        for leaf in nowhere_zero(&section.schema).leaf_paths() {
            let field = (section.description.clone(), leaf.described().to_string());
            if !seen.contains_key(&field) {
                empty.push(format!("{} ({}): {}", section.path, field.0, field.1));
            }
        }
    }
    empty.sort();
    empty.dedup();
    empty
}

#[test]
fn every_field_of_every_machine_of_a_release_holds_something_in_its_corpus() {
    let scratch = Scratch::in_memory();
    let releases = Releases::of_this_repository();
    for release in releases.iter() {
        let goldens = goldens(&releases, release);
        for machine in &release.machines {
            let of_machine = goldens.iter().filter(|golden| golden.machine == *machine);
            let files: Vec<_> = of_machine.map(|golden| golden.unpack(&scratch)).collect();
            let schemas = SchemaFile::read(&releases.folder_of(release).join(SchemaFile::name(machine)));
            let empty = empty_fields(&schemas.unwrap_or_else(|why| panic!("{why}")), &look_at(&files));
            assert!(
                empty.is_empty(),
                "{}, {machine}: nothing in\n{}",
                release.version,
                empty.join("\n")
            );
        }
    }
}

/// Before a release, so that what is new is in its corpus by itself.
#[test]
fn the_corpus_of_the_next_release_has_every_field_of_every_machine() {
    let scratch = Scratch::in_memory();
    corpus::make(&scratch.file(corpus::FOLDER), false);
    let goldens = Golden::all(&scratch.file(corpus::FOLDER)).expect("they were made");
    let without_guests = VARIANTS.iter().filter(|variant| !variant.has_guest).count();
    assert_eq!(goldens.len(), machine::all().len() * without_guests);
    for machine in machine::all() {
        let of_machine = goldens.iter().filter(|golden| golden.machine == machine);
        let files: Vec<_> = of_machine.map(|golden| golden.unpack(&scratch)).collect();
        let seen = look_at(&files);
        let schemas = SchemaFile {
            tern: "here".to_owned(),
            machine: machine.clone(),
            sections: machine::schemas(&machine),
        };
        assert_eq!(empty_fields(&schemas, &seen), [""; 0], "{machine}");
        let fewer = look_at(&files[..1]);
        assert!(
            !empty_fields(&schemas, &fewer).is_empty(),
            "one snapshot does not have them all"
        );
        let several = seen.values().filter(|values| values.len() > 1).count();
        assert!(several > 100, "{machine}: only {several} fields have two values");
    }
}

/// What is switched on by a property alone has to be among the options, or no release would keep what comes with it.
#[test]
fn the_optional_parts_of_every_state_are_in_the_corpus_of_the_next_release() {
    fn parts(schema: &Schema, path: &str, found: &mut BTreeSet<String>) {
        for subsection in &schema.subsections {
            let path = format!("{path}.{}", subsection.name);
            parts(&subsection.schema, &path, found);
            found.insert(path);
        }
    }
    let types = TypeTable::gathered().expect("sound types");
    let mut wanted = BTreeSet::new();
    for info in types.infos() {
        if let StateDecl::Described(binding) = info.state {
            parts(binding.schema(), info.name, &mut wanted);
        }
    }
    assert!(wanted.contains("machine.virtual_clock"), "{wanted:?}");
    for name in machine::all() {
        let machine = machine::full(&name, 1);
        machine::add_options(&machine.vm);
        let mut there = BTreeSet::new();
        for section in machine.vm.schemas() {
            parts(&section.schema, &section.description, &mut there);
        }
        assert_eq!(there, wanted, "{name}: what switches it on belongs into OPTIONS");
    }
}

#[test]
fn a_device_that_a_user_adds_has_its_doorbells_served() {
    for machine in machine::all() {
        let machine = machine::full(&machine, 1);
        let device = machine.vm.root().resolve("/machine/peripheral/a-tern-testdev");
        let device: Obj<TestDev> = device.and_then(Obj::new).expect("the machine has one of everything");
        machine.vm.cont().expect("it runs");
        let ring = || machine.vm.board().memory().write(0xd100_0000, &1_u32.to_le_bytes());
        machine.processor().execute(ring).expect("it runs").expect("a device");
        machine.vm.stop().expect("it stops");
        assert_eq!(device.state().lock().rung, 1);
    }
}

/// Where devices have done something, and processors have events on their way: KVM takes all of it, and what it tells afterwards is compared
/// with what was loaded. They do not run: their guests are no programs.
#[test]
fn golden_machines_are_taken_by_kvm_and_read_back() {
    needs_kvm!();
    let scratch = Scratch::in_memory();
    let mut taken = 0;
    for golden in all_goldens() {
        if ["reset", "busy", "child"].contains(&golden.variant.as_str()) {
            let site = Site::new("kvm").tolerating_tsc();
            let restored = site.restore(&golden.unpack(&scratch), &RestoreOptions::default());
            if let Err(error) = restored {
                panic!("{}: {error}", golden.path.display());
            }
            taken += 1;
        }
    }
    assert!(taken >= 6, "only {taken}");
}
