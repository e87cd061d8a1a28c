//! A guest moves to other versions of Tern and back, live or as a file, and checking itself: to the newest release that this program
//! differs from, and to a future one (`tests/future/`), so that the promise is tested before there are old releases.

use std::fs;

use migration::snapshot::inspect;
use migration::vm::Recipe;
use serde_json::{Value, json};
use tern_tests::compat::machine::{self, Addition, shape_file};
use tern_tests::compat::releases::{Release, Releases};
use tern_tests::compat::versions::{Version, newest_release};
use tern_tests::guest::EmbeddedGuest;
use tern_tests::kvm::not_run;
use tern_tests::needs_kvm;
use tern_tests::process::{Scratch, VmProcess};
use vmm::guest::EMBEDDED_GUEST;

/// A guest and the process that has it.
struct Guest {
    home: Scratch,
    vm: VmProcess,
    version: Version,
    /// The number of its last heartbeat: one that begins anew has begun anew.
    beat: u64,
}

impl Guest {
    /// Starts a small one.
    #[track_caller]
    fn start(version: &Version, args: &[&str]) -> Self {
        Self::launch(version, &[&["--memory", "32M"], args].concat())
    }

    #[track_caller]
    fn launch(version: &Version, args: &[&str]) -> Self {
        let home = Scratch::new();
        let run = ["run", "--name", "g", "--cmdline", "mib=8 rate=4 beat=50"];
        let mut vm = VmProcess::start(version.command(&home, &[&run[..], args].concat()));
        vm.wait_ready();
        let version = version.clone();
        Self {
            home,
            vm,
            version,
            beat: 0,
        }
    }

    /// The machine that it has.
    #[track_caller]
    fn machine(&self) -> String {
        let said = self
            .version
            .run(&self.home, &["info", "g", "--json"])
            .expect("it answers");
        let info: Value = serde_json::from_str(&said).expect("JSON");
        info["machine"].as_str().expect("a machine").to_owned()
    }

    /// It goes on: its heart beats on from where it was, and its memory is right.
    #[track_caller]
    fn goes_on(&mut self) {
        let number = |line: &str| line.strip_prefix("beat ")?.split(' ').next()?.parse::<u64>().ok();
        let line = self.vm.wait_line("a heartbeat", |line| number(line).is_some());
        let beat = number(&line).expect("it was found");
        assert!(beat > self.beat, "beat {beat} behind {}", self.beat);
        self.beat = beat;
        self.vm.verify();
    }

    /// Moves to a process of another version, or says why it stayed.
    #[track_caller]
    fn move_to(&mut self, version: &Version) -> Result<(), String> {
        let home = Scratch::new();
        let target = VmProcess::start(version.command(&home, &["receive", "tcp:127.0.0.1:0", "--name", "g"]));
        let uri = target.first_message();
        self.version
            .run(&self.home, &["migrate", "g", &uri, "--downtime-limit", "1s"])?;
        assert!(self.vm.wait_exit().success(), "{}", self.vm.messages());
        (self.vm, self.home, self.version) = (target, home, version.clone());
        Ok(())
    }

    /// Ends, and goes on in a process of another version from the file that it is saved to, of which it returns what the guest was given.
    #[track_caller]
    fn move_by_file(&mut self, version: &Version) -> Result<Recipe, String> {
        let home = Scratch::new();
        let path = home.file("g.tern");
        let file = path.to_str().expect("text");
        self.version.run(&self.home, &["snapshot", "g", file, "--stop"])?;
        let recipe = inspect(&path).map_err(|error| error.to_string())?.manifest.recipe;
        self.version.run(&self.home, &["quit", "g"])?;
        assert!(self.vm.wait_exit().success(), "{}", self.vm.messages());
        self.vm = VmProcess::start(version.command(&home, &["restore", file, "--name", "g"]));
        (self.home, self.version) = (home, version.clone());
        Ok(recipe)
    }

    /// What its version says of the properties of something that was added.
    #[track_caller]
    fn properties(&self, added: &Addition) -> Value {
        let get = ["qom", "get", "g", &added.path(), "--json"];
        let said = self
            .version
            .run(&self.home, &get)
            .unwrap_or_else(|why| panic!("{}: {why}", added.id));
        let mut answer: Value = serde_json::from_str(&said).expect("JSON");
        answer["result"].take()
    }
}

/// The machines that both know.
#[track_caller]
fn in_common(ours: &Version, other: &Version) -> Vec<String> {
    let home = Scratch::new();
    let theirs = other.machines(&home);
    let mut common = ours.machines(&home);
    common.retain(|name| theirs.contains(name));
    assert!(
        !common.is_empty(),
        "{} and {} have no machine in common",
        ours.name,
        other.name
    );
    common
}

/// There and back and there again, on every machine that both know.
fn wanders(ours: &Version, other: &Version) {
    for machine in in_common(ours, other) {
        let mut guest = Guest::start(other, &["--machine", &machine]);
        guest.goes_on();
        for to in [ours, other, ours] {
            let what = format!("{machine}: {} to {}", guest.version.name, to.name);
            guest.move_to(to).unwrap_or_else(|why| panic!("{what}: {why}"));
            guest.goes_on();
        }
    }
}

/// The newest release, or says that the test `name` has not been run because the history here does not tell.
fn released(name: &str) -> Option<Release> {
    newest_release().map_err(|why| not_run(name, &why)).ok()
}

#[test]
fn a_guest_of_the_newest_release_comes_here_goes_back_and_comes_again() {
    let Some(released) = released("a_guest_of_the_newest_release_comes_here_goes_back_and_comes_again") else {
        return;
    };
    // Only now, because this enters the test in the ledger of those that ran.
    needs_kvm!();
    wanders(&Version::here(), &Version::of(&released));
}

/// A guest to which all is given that can be given to one on this machine, of this shape, and what was added to it while it ran.
fn with_everything(version: &Version, machine: &str, shape: &Value) -> (Guest, Vec<Addition>) {
    let files = Scratch::new();
    let file = |name: &str, contents: &[u8]| {
        let path = files.file(name);
        fs::write(&path, contents).expect("written");
        path.to_str().expect("text").to_owned()
    };
    let (kernel, initrd) = (file("kernel", EMBEDDED_GUEST), file("initrd", &[0x5a; 5000]));
    let given = [
        ("--machine", machine),
        ("--cpus", "2"),
        // A whole number of pages, and of nothing greater.
        ("--memory", "33796K"),
        // The first is of every processor that has VMX or SVM, and the guest has no use for the second.
        ("--cpu", "x86-64-v1,+cx16,-mmx"),
        ("--global", "pvpanic.events=1"),
        ("--kernel", &kernel),
        ("--initrd", &initrd),
    ];
    let mut guest = Guest::launch(version, &given.map(|(option, value)| [option, value]).concat());
    guest.goes_on();
    // What came after the release its users cannot add.
    let known = |addition: &Addition| {
        let defaults = &shape["addable"][addition.type_name]["defaults"];
        let mut properties = addition.properties.iter();
        defaults.is_object() && properties.all(|(name, _)| defaults.get(name).is_some())
    };
    let additions = [machine::everything(), machine::options()].concat();
    let added: Vec<_> = additions.into_iter().filter(known).collect();
    for addition in &added {
        let monitor = ["monitor", "g", "-c", &addition.command()];
        version
            .run(&guest.home, &monitor)
            .unwrap_or_else(|why| panic!("{addition:?}: {why}"));
    }
    (guest, added)
}

/// How a guest goes from one version to another.
#[derive(Clone, Copy, Debug)]
enum Way {
    Live,
    File,
}

#[test]
fn a_guest_with_everything_goes_between_the_newest_release_and_here_live_and_as_a_file() {
    let name = "a_guest_with_everything_goes_between_the_newest_release_and_here_live_and_as_a_file";
    let Some(released) = released(name) else {
        return;
    };
    needs_kvm!();
    let folder = Releases::of_this_repository().folder_of(&released);
    let (here, there) = (Version::here(), Version::of(&released));
    let of_there = vec![
        (Way::Live, &here),
        (Way::File, &there),
        (Way::File, &here),
        // What comes from a file has a parent, which the next file names.
        (Way::File, &there),
        (Way::Live, &here),
        (Way::Live, &there),
    ];
    let of_here = vec![(Way::File, &there), (Way::Live, &here), (Way::Live, &there)];
    for machine in in_common(&here, &there) {
        let shape = fs::read(folder.join(shape_file(&machine))).expect("the shape of the machine");
        let shape: Value = serde_json::from_slice(&shape).expect("JSON");
        // Whoever makes it, and wherever it has been.
        let mut always_given = None;
        for (maker, ways) in [(&there, &of_there), (&here, &of_here)] {
            let (mut guest, added) = with_everything(maker, &machine, &shape);
            let as_added = promised(&guest, &added, &shape);
            for &(way, to) in ways {
                let what = format!(
                    "{machine} of {}: {} to {}, {way:?}",
                    maker.name, guest.version.name, to.name
                );
                println!("{what}");
                match way {
                    Way::Live => guest.move_to(to).unwrap_or_else(|why| panic!("{what}: {why}")),
                    Way::File => {
                        let recipe = guest.move_by_file(to).unwrap_or_else(|why| panic!("{what}: {why}"));
                        let (objects, settings) = (Vec::new(), None);
                        let given = Recipe {
                            objects,
                            settings,
                            ..recipe
                        };
                        assert_eq!(always_given.get_or_insert_with(|| given.clone()), &given, "{what}");
                    }
                }
                guest.goes_on();
                assert_eq!(promised(&guest, &added, &shape), as_added, "{what}");
            }
        }
    }
}

/// What a release promises of additions: with what they can be made.
fn promised(guest: &Guest, added: &[Addition], shape: &Value) -> Vec<Value> {
    let of = |addition: &Addition| {
        let properties = guest.properties(addition);
        let defaults = shape["addable"][addition.type_name]["defaults"].as_object();
        let names = defaults.expect("properties").keys().map(String::as_str);
        let values: Value = names.chain(["type"]).map(|name| properties[name].clone()).collect();
        json!({ addition.path(): values })
    };
    added.iter().map(of).collect()
}

#[test]
fn a_guest_from_here_goes_to_the_future_and_back_and_there_again() {
    needs_kvm!();
    wanders(&Version::future(), &Version::here());
}

#[test]
fn a_fleet_that_may_have_to_go_back_says_so_to_the_new_version_and_can() {
    needs_kvm!();
    let (here, future) = (Version::here(), Version::future());
    let home = Scratch::new();
    let new: Vec<_> = future.machines(&home);
    let known = here.machines(&home);
    assert!(
        new.iter().any(|machine| !known.contains(machine)),
        "the future has a machine more: {new:?}"
    );

    let mut guest = Guest::start(&future, &["--compat", "0.1"]);
    assert!(known.contains(&guest.machine()), "{}", guest.machine());
    guest.goes_on();
    guest.move_to(&here).expect("it goes back");
    guest.goes_on();

    let mut guest = Guest::start(&future, &[]);
    assert!(!known.contains(&guest.machine()), "{}", guest.machine());
    let why = guest.move_to(&here).expect_err("it is a newer machine");
    assert!(
        why.contains(&guest.machine()) && why.contains("takes a newer one"),
        "{why}"
    );
    // It stayed, and nothing has happened to it.
    guest.goes_on();
}

#[test]
fn what_only_the_future_knows_is_refused_by_its_name_before_anything_moves() {
    needs_kvm!();
    let (here, future) = (Version::here(), Version::future());
    let mut guest = Guest::start(
        &future,
        &["--machine", "microvm-1.1", "--global", "serial16550.counts=true"],
    );
    guest.goes_on();
    let why = guest.move_to(&here).expect_err("what it counts would be lost");
    assert!(why.contains("serial16550") && why.contains("counts"), "{why}");
    guest.goes_on();
}

#[test]
fn the_future_and_this_program_differ_in_what_the_patches_say() {
    let home = Scratch::new();
    let schema = |version: &Version| -> Value {
        let said = version
            .run(&home, &["state", "schema", "--json"])
            .expect("descriptions");
        serde_json::from_str(&said).expect("JSON")
    };
    let (here, future) = (
        schema(&Version::here()).to_string(),
        schema(&Version::future()).to_string(),
    );
    for (what, name) in [
        ("a field", "breaks"),
        ("a subsection", "counts"),
        ("a variant", "parked"),
    ] {
        let quoted = json!(name).to_string();
        assert!(
            !here.contains(&quoted),
            "{what} of the future is here already: choose another name for it"
        );
        assert!(future.contains(&quoted), "{what} of the future is not there");
    }
}
