//! A Linux guest is saved, restored and moved, and neither its memory nor its clocks, timers and registers notice.
//!
//! The guest is `tools/guest-linux`, and its programs `memcheck` and `smpcheck` are what checks.

use tern_tests::guest::EmbeddedGuest;
use tern_tests::linux::{LinuxConsole, LinuxGuest};
use tern_tests::needs_kvm;
use tern_tests::process::Scratch;
use tern_tests::scenario::{Over, Wanderer};

const MOVES: usize = 20;
/// Heartbeats at every moment of which something may go wrong, and memory that is written between them.
const WORK: &str = "tern.mib=32 tern.rate=10 tern.beat=100";
const QUIET: &str = "console=ttyS0 quiet panic=-1";

fn launch(guest: &LinuxGuest, kernel: &str, cpus: &str, words: &str) -> Wanderer {
    let cmdline = format!("{QUIET} {words}");
    let mut args = guest.args(kernel).to_vec();
    args.extend(["--memory", "128M", "--cpus", cpus, "--cmdline", &cmdline].map(str::to_owned));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut guest = Wanderer::launch(&args);
    guest.vm.wait_for("GUEST-READY");
    guest
}

/// Saved in userland, restored in a new process, and moved many times.
fn wanders(mut guest: Wanderer) {
    guest.vm.wait_beat();
    guest.vm.verify_memory();
    guest.save_and_restore("full");
    guest.vm.verify_memory();
    for over in [Over::Tcp, Over::Unix].into_iter().cycle().take(MOVES) {
        guest.migrate(over);
        guest.vm.verify_memory();
    }
    guest.vm.type_keys("q");
    guest.vm.wait_for("GUEST-END");
    let status = guest.vm.wait_exit();
    assert!(
        status.success(),
        "a guest that switches itself off ends its VM: {status}"
    );
}

#[test]
fn linux_is_restored_and_moves_while_its_memory_is_written() {
    needs_kvm!();
    let words = format!("tern.run=memcheck {WORK} tern.end=poweroff");
    wanders(launch(&LinuxGuest::built(), "vmlinux", "1", &words));
}

#[test]
fn linux_with_two_processors_is_restored_and_moves_and_everything_that_it_checks_goes_on() {
    needs_kvm!();
    let words = format!("tern.run=smpcheck {WORK} tern.end=poweroff");
    wanders(launch(&LinuxGuest::built(), "vmlinux", "2", &words));
}

#[test]
fn linux_boots_as_a_bzimage_and_again_after_a_restart_where_its_files_are_gone() {
    needs_kvm!();
    let files = Scratch::new();
    let copied = LinuxGuest::built().copied_to(&files);
    // By the keyboard controller.
    let mut guest = launch(&copied, "bzImage", "1", "tern.run=memcheck tern.mib=8 reboot=k");
    drop(files);
    guest.vm.wait_beat();
    guest.migrate(Over::Tcp);
    guest.vm.type_keys("q");
    guest.vm.wait_for("GUEST-END");
    guest.vm.wait_for("GUEST-READY");
    guest.vm.wait_beat();
    guest.vm.verify_memory();
}

/// What a distribution's kernel comes to by itself on a machine with hardware-reduced ACPI and no EFI.
#[test]
fn linux_restarts_by_the_entry_of_firmware_that_is_not_there() {
    needs_kvm!();
    let words = "tern.run=off reboot=b";
    let mut guest = launch(&LinuxGuest::built(), "vmlinux", "1", words);
    guest.vm.wait_for("GUEST-END");
    guest.vm.wait_for("GUEST-READY");
}

#[test]
fn a_panic_of_linux_ends_its_vm_with_a_status_of_its_own() {
    needs_kvm!();
    // An initramfs without the program that is asked for.
    let guest = LinuxGuest::built();
    let mut args = guest.args("vmlinux").to_vec();
    let cmdline = format!("{QUIET} rdinit=/nothing root=/dev/nothing");
    args.extend(["--memory", "128M", "--cmdline", &cmdline].map(str::to_owned));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut guest = Wanderer::launch(&args);
    let status = guest.vm.wait_exit();
    assert_eq!(status.code(), Some(6), "{}", guest.vm.messages());
    assert!(
        guest.vm.messages().contains("reported a panic"),
        "{}",
        guest.vm.messages()
    );
}
