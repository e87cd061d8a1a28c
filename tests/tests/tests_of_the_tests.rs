//! The tests can fail: what the shipped engine breaks on purpose, a check finds, and names the page or the field.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use migration::fault::Plan;
use migration::snapshot::{RestoreOptions, SaveOptions, save};
use migration::vm::SourceVm;
use tern_tests::guest::EmbeddedGuest;
use tern_tests::machine::{Machine, Site};
use tern_tests::needs_kvm;
use tern_tests::process::{Scratch, VmProcess};
use tern_tests::scenario::{Over, Wanderer};
use tern_tests::state::nowhere_zero;
use vmm::vm::{Vm, VmSpec};
use vmstate::qom::sections::{IncomingSection, load_tree};
use vmstate::state::{Section, diff, encode};

/// The working set is the second half of the memory. Faults are kept out of the first, where the guest's code lies: a
/// guest that crashes has found nothing.
const MEMORY: &str = "32M";
const CMDLINE: &str = "mib=16 beat=50";
const WORKING_SET: &str = "4096-8191";

/// What a page fault is called in a plan, and how the guest must describe such a page.
const PAGE_FAULTS: [(&str, &str); 3] = [
    ("drop", ": zeroed"),
    ("zero", ": zeroed"),
    ("swap", ": content of page 0x"),
];

fn page_fault(kind: &str) -> String {
    format!("page:{kind}:1/300:4:{WORKING_SET}")
}

/// Starts a guest whose transfers suffer `faults`.
fn start(home: &Scratch, faults: &str, cmdline: &str) -> VmProcess {
    let mut command = home.command(&["run", "--name", "a", "--memory", MEMORY, "--cmdline", cmdline]);
    command.env("TERN_FAULTS", faults);
    let mut vm = VmProcess::start(command);
    vm.wait_ready();
    vm
}

/// Moves a guest to a new process, which is asked to verify as soon as it has arrived.
fn migrate(home: &Scratch, source: &mut VmProcess, elsewhere: &Scratch) -> VmProcess {
    let mut target = elsewhere.start(&["receive", "tcp:127.0.0.1:0", "--name", "b"]);
    let uri = target.first_message();
    target.type_keys("v");
    home.vm_ok(&["migrate", "a", &uri]);
    assert!(source.wait_exit().success());
    target
}

#[test]
fn pages_that_are_dropped_zeroed_or_swapped_in_a_migration_are_named_by_the_guest() {
    needs_kvm!();
    for (kind, described) in PAGE_FAULTS {
        let (home, elsewhere) = (Scratch::new(), Scratch::new());
        let fault = page_fault(kind);
        let mut source = start(&home, &fault, CMDLINE);
        let mut target = migrate(&home, &mut source, &elsewhere);
        let (line, bad) = target.failed_verdict();
        assert!(line.contains(described), "{fault}: {line}");
        let struck = source.struck(&fault);
        assert!(
            (1..=struck).contains(&bad),
            "{fault}: {bad} pages are bad, {struck} were hit"
        );
    }
}

#[test]
fn pages_that_are_dropped_zeroed_or_swapped_in_a_snapshot_are_named_by_the_guest() {
    needs_kvm!();
    for (kind, described) in PAGE_FAULTS {
        let home = Scratch::new();
        let fault = page_fault(kind);
        let mut source = start(&home, &fault, CMDLINE);
        let file = home.file("a.tern");
        let file = file.to_str().expect("the folder's name is text");
        home.vm_ok(&["snapshot", "a", file]);
        let struck = source.struck(&fault);
        assert!(struck > 0, "{fault}");
        source.verify();
        let mut restored = home.start(&["restore", file, "--name", "b"]);
        restored.wait_beat();
        restored.type_keys("v");
        let (line, bad) = restored.failed_verdict();
        assert!(line.contains(described), "{fault}: {line}");
        assert_eq!(bad, struck, "{fault}: every page that was hit is found, and no other");
    }
}

#[test]
fn pages_whose_dirty_bits_are_lost_are_named_by_the_guest() {
    needs_kvm!();
    let (home, elsewhere) = (Scratch::new(), Scratch::new());
    let fault = format!("dirty:lose:1/2:4:{WORKING_SET}");
    // It takes the guest most of a second to write all of what it dirties, which would make a stale page good again.
    let mut source = start(&home, &fault, "mib=16 beat=50 rate=20 dirty=16");
    let mut target = migrate(&home, &mut source, &elsewhere);
    let (line, bad) = target.failed_verdict();
    assert!(line.contains(": stale by "), "{line}");
    let struck = source.struck(&fault);
    assert!(
        (1..=struck).contains(&bad),
        "{bad} pages are stale, {struck} bits were lost"
    );
}

/// A VM without processors, every field of whose state holds something.
fn full_machine(site: &Site) -> Machine {
    let machine = site.boot(&VmSpec {
        memory: 16 << 20,
        ..VmSpec::new("full", "")
    });
    let vm = &machine.vm;
    vm.stop().expect("it stands, as one field says");
    let full = vm.schemas().into_iter().map(|section| IncomingSection {
        bytes: encode(&section.schema, &nowhere_zero(&section.schema)).expect("made by this description"),
        path: section.path,
        description: section.description,
        writer_schema: Arc::new(section.schema),
    });
    load_tree(vm.root(), full.collect(), &[]).expect("any value can be loaded");
    machine
}

/// Saves a VM, breaking it as the plan says, restores it, and returns what the new one then holds.
fn sections_after_a_round_trip(vm: &Vm, site: &Site, file: &Path, plan: &Arc<Plan>) -> Vec<Section> {
    let options = SaveOptions {
        faults: Some(plan.clone()),
        ..SaveOptions::default()
    };
    save(vm, file, &options, &()).expect("saved");
    let restored = site.restore(file, &RestoreOptions::default()).expect("restored");
    restored.vm.vm().sections().expect("no object refuses")
}

/// The fields in which two machines differ, each as a fault of a plan names it.
fn differing(left: &[Section], right: &[Section]) -> Vec<String> {
    assert!(
        left.iter()
            .map(|section| &section.path)
            .eq(right.iter().map(|section| &section.path)),
        "the same objects"
    );
    let pairs = left.iter().zip(right);
    let differing = pairs.flat_map(|(left, right)| {
        let fields = diff(&left.value, &right.value).into_iter();
        fields.map(|field| format!("field:{}:{}", left.path, field.path))
    });
    differing.collect()
}

/// Every field can be seen: comparing what a source has with what a destination holds needs no exception.
#[test]
fn every_field_of_every_device_that_is_zeroed_on_the_way_is_named() {
    let site = Site::new("qtest");
    let scratch = Scratch::in_memory();
    let file = scratch.file("full.tern");
    let machine = full_machine(&site);
    let vm = &machine.vm;
    let source = vm.sections().expect("no object refuses");
    let none = Arc::new(Plan::default());
    let arrived = sections_after_a_round_trip(vm, &site, &file, &none);
    assert_eq!(differing(&source, &arrived), [""; 0], "nothing differs by itself");

    let fields: Vec<String> = source
        .iter()
        .flat_map(|section| {
            let leaves = section.value.leaf_paths().into_iter();
            leaves.map(|leaf| format!("field:{}:{leaf}", section.path))
        })
        .collect();
    assert!(
        fields.len() > 300,
        "{} fields are not all that a machine has",
        fields.len()
    );
    for fault in fields {
        let plan: Arc<Plan> = Arc::new(fault.parse().expect("a plan"));
        let arrived = sections_after_a_round_trip(vm, &site, &file, &plan);
        assert_eq!(plan.fired().map(|(_, count)| count).collect::<Vec<_>>(), [1], "{fault}");
        assert_eq!(
            differing(&source, &arrived),
            [fault.as_str()],
            "this field and no other"
        );
    }
}

/// A guest without page tables, which triple-faults at its first instruction. It boots again, and then works as ever.
const RESET_ON_ARRIVAL: &str = "field:/machine/cpu-0:system.cr3";

/// What a test says that fails.
fn complaint(test: impl FnOnce()) -> String {
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test)).expect_err("the test fails");
    *failed.downcast::<String>().expect("it says why")
}

#[test]
fn a_guest_that_boots_anew_on_arrival_is_not_taken_for_the_one_that_was_saved_or_moved() {
    needs_kvm!();
    let start = || {
        let args = ["--memory", MEMORY, "--cmdline", CMDLINE];
        let mut guest = Wanderer::launch_with_faults(&args, RESET_ON_ARRIVAL);
        guest.vm.wait_ready();
        guest
    };
    for how in ["full", "none"] {
        let why = complaint(|| start().save_and_restore(how));
        assert!(why.contains("started anew"), "{why}");
    }
    for over in [Over::Tcp, Over::Unix] {
        let why = complaint(|| {
            start().migrate(over);
        });
        assert!(why.contains("started anew"), "{why}");
    }
}

/// Runs a check in the way of the scripts that check on the emulated machine, whose functions it has; returns whether it went
/// well, and what was said.
fn shell_check(vm: &Path, check: &str, faults: &str) -> (bool, String) {
    let rig = Path::new(env!("CARGO_MANIFEST_DIR")).join("rig");
    let script = format!(
        "set -euo pipefail; . {rig}/checks.sh; . {rig}/linux.sh; vm={vm}; check() {{ {check}; }}; checks=(check); run_at here",
        rig = rig.display(),
        vm = vm.display()
    );
    let mut command = Command::new("bash");
    command.args(["-c", &script]).env_remove("CHECKS");
    if !faults.is_empty() {
        command.env("TERN_FAULTS", faults);
    }
    let output = command.output().expect("bash can be run");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn a_guest_that_boots_anew_on_arrival_is_found_out_by_the_checks_of_the_emulated_machine() {
    needs_kvm!();
    let start = format!("start a run --memory {MEMORY} --cmdline '{CMDLINE}'; await a '^tern-guest: ready'; verify a");
    for arrives in ["moves a b tcp:127.0.0.1:0", "snapshot a a.tern; restores a b a.tern"] {
        let check = format!("{start}; {arrives}; type_keys b q; ends b");
        let (well, said) = shell_check(tern_tests::binary::vm(), &check, "");
        assert!(well, "{said}");
        let (well, said) = shell_check(tern_tests::binary::vm(), &check, RESET_ON_ARRIVAL);
        assert!(!well && said.contains("has started anew"), "{said}");
    }
}

/// What a Linux guest says that goes on with everything; `checks_itself` is content with it.
const SOUND: [&str; 6] = [
    "GUEST-READY uptime=1 run=smpcheck",
    "beat 5 t=3.5 cpus=2 rounds=5..7 timers=5 mails=6 xsaves=5",
    "verify ok 8192 pages",
    "beat 6 t=4.5 cpus=2 rounds=6..7 timers=5 mails=7 xsaves=6",
    "beat 7 t=5.5 cpus=2 rounds=7..9 timers=7 mails=8 xsaves=7",
    "beat 8 t=6.5 cpus=2 rounds=8..9 timers=8 mails=9 xsaves=8",
];

#[test]
fn what_a_linux_guest_complains_of_or_does_not_go_on_with_is_found_out_by_the_checks_of_the_emulated_machine() {
    let scratch = Scratch::new();
    let (vm, console) = (scratch.file("vm"), scratch.file("console"));
    // It ends once it was asked to verify.
    let script = format!("#!/bin/sh\ncat {}\nhead -c 1 >/dev/null\n", console.display());
    std::fs::write(&vm, script).expect("a script");
    std::fs::set_permissions(&vm, std::fs::Permissions::from_mode(0o755)).expect("it may be run");
    let says = |lines: &[&str]| {
        std::fs::write(&console, lines.join("\n") + "\n").expect("a file");
        let check = "counts='rounds timers mails xsaves'; start a run; await a '^GUEST-READY'; checks_itself a; ends a";
        shell_check(&vm, check, "")
    };
    let (well, said) = says(&SOUND);
    assert!(well, "{said}");

    // The line with this number is another one, and that is what is told.
    for (at, line, told) in [
        (4, "clock BAD cpu 1 clock 0 is 1.0 and was 2.0", "clock BAD"),
        (4, "Kernel panic - not syncing: Fatal exception", "Kernel panic"),
        (4, "BUG: unable to handle page fault", "BUG:"),
        (4, "GUEST-READY uptime=1 run=smpcheck", "has started anew"),
        (
            4,
            "beat 0 t=5.5 cpus=2 rounds=0..0 timers=0 mails=0 xsaves=0",
            "does not follow",
        ),
        (
            4,
            "beat 9 t=5.5 cpus=2 rounds=7..9 timers=7 mails=8 xsaves=7",
            "does not follow",
        ),
        (
            4,
            "beat 7 t=1.5 cpus=2 rounds=7..9 timers=7 mails=8 xsaves=7",
            "t= has not gone on",
        ),
        (
            4,
            "beat 7 t=5.5 cpus=2 rounds=7..9 timers=7 mails=5 xsaves=7",
            "mails= has not gone on",
        ),
    ] {
        let mut lines = SOUND;
        lines[at] = line;
        let (well, said) = says(&lines);
        assert!(!well && said.contains(told), "{line}: {said}");
    }
    for stands in ["rounds", "timers", "mails", "xsaves"] {
        let frozen = SOUND.map(|line| match line.split_once(&format!("{stands}=")) {
            Some((before, rest)) => {
                let after = rest.find(' ').map_or("", |end| &rest[end..]);
                format!("{before}{stands}=5{after}")
            }
            None => line.to_owned(),
        });
        let (well, said) = says(&frozen.each_ref().map(String::as_str));
        assert!(!well && said.contains("did not say"), "{stands}: {said}");
    }
}

#[test]
fn a_run_on_the_emulated_machine_that_checks_nothing_has_not_gone_well() {
    for (script, files) in [("rig.sh", 1), ("rig-linux.sh", 3)] {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(script);
        let mut command = Command::new(script);
        command
            .arg("--here")
            .args(vec!["/bin/true"; files])
            .env("CHECKS", "nosuch");
        let output = command.output().expect("bash can be run");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && said.contains("nothing was checked"),
            "{said}"
        );
    }
}
