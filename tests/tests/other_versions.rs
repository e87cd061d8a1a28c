//! A guest moves to other versions of Tern and back, live and checking itself: to the newest release that this program differs from, and
//! to a future one (`tests/future/`), so that the promise is tested before there are old releases.

use serde_json::{Value, json};
use tern_tests::compat::versions::{Version, newest_release};
use tern_tests::guest::EmbeddedGuest;
use tern_tests::kvm::not_run;
use tern_tests::needs_kvm;
use tern_tests::process::{Scratch, VmProcess};

/// A guest and the process that has it.
struct Guest {
    home: Scratch,
    vm: VmProcess,
    version: Version,
    /// The number of its last heartbeat: one that begins anew has begun anew.
    beat: u64,
}

impl Guest {
    #[track_caller]
    fn start(version: &Version, args: &[&str]) -> Self {
        let home = Scratch::new();
        let run = [
            "run",
            "--name",
            "g",
            "--memory",
            "32M",
            "--cmdline",
            "mib=8 rate=4 beat=50",
        ];
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
}

/// There and back and there again, on every machine that both know.
fn wanders(ours: &Version, other: &Version) {
    let home = Scratch::new();
    let theirs = other.machines(&home);
    let common: Vec<_> = ours
        .machines(&home)
        .into_iter()
        .filter(|name| theirs.contains(name))
        .collect();
    assert!(
        !common.is_empty(),
        "{} and {} have no machine in common",
        ours.name,
        other.name
    );
    for machine in common {
        let mut guest = Guest::start(other, &["--machine", &machine]);
        guest.goes_on();
        for to in [ours, other, ours] {
            let what = format!("{machine}: {} to {}", guest.version.name, to.name);
            guest.move_to(to).unwrap_or_else(|why| panic!("{what}: {why}"));
            guest.goes_on();
        }
    }
}

#[test]
fn a_guest_of_the_newest_release_comes_here_goes_back_and_comes_again() {
    let released = match newest_release() {
        Ok(released) => released,
        Err(why) => {
            not_run(
                "a_guest_of_the_newest_release_comes_here_goes_back_and_comes_again",
                &why,
            );
            return;
        }
    };
    // Only now, because this enters the test in the ledger of those that ran.
    needs_kvm!();
    wanders(&Version::here(), &Version::of(&released));
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
