//! A guest with two vCPUs goes through files and sockets, and not a page is lost.
//!
//! The source is dead before the arrival is checked, and the guest itself is what checks.

use tern_tests::guest::EmbeddedGuest;
use tern_tests::needs_kvm;
use tern_tests::scenario::{Over, Wanderer};

/// Rounds in CI; `cargo run --release -p tern-tests --bin soak` does more, with more memory.
const ROUNDS: u32 = 3;
/// Three quarters of 256 MiB.
const IDLE: &str = "mib=192 beat=50";
/// Flat out, in 64 MiB.
const DIRTYING: &str = "mib=192 beat=50 rate=max dirty=64";
const PAGES: u64 = 192 * 256;

#[test]
fn an_idle_guest_survives_snapshots() {
    needs_kvm!();
    let mut guest = Wanderer::start(2, "256M", IDLE);
    for verify in ["full", "none", "full"] {
        guest.save_and_restore(verify);
        assert_eq!(guest.vm.verify(), PAGES);
    }
}

#[test]
fn a_guest_that_dirties_memory_survives_snapshots() {
    needs_kvm!();
    let mut guest = Wanderer::start(2, "256M", DIRTYING);
    for _ in 0..ROUNDS {
        guest.save_and_restore("full");
        assert_eq!(guest.vm.verify(), PAGES);
    }
}

#[test]
fn an_idle_guest_survives_migrations() {
    needs_kvm!();
    let mut guest = Wanderer::start(2, "256M", IDLE);
    for over in [Over::Tcp, Over::Unix, Over::Tcp] {
        guest.migrate(over);
        assert_eq!(guest.vm.verify(), PAGES);
    }
}

#[test]
fn a_guest_that_dirties_memory_survives_migrations_of_several_rounds() {
    needs_kvm!();
    let mut guest = Wanderer::start(2, "256M", DIRTYING);
    for _ in 0..ROUNDS {
        let account = guest.migrate(Over::Tcp);
        let rounds = account["migration"]["ram"]["dirty-sync-count"]
            .as_u64()
            .expect("a count of rounds");
        assert!(rounds >= 2, "the guest dirties memory in every round: {account}");
        assert_eq!(guest.vm.verify(), PAGES);
    }
}

#[test]
fn memory_above_the_hole_travels_too() {
    needs_kvm!();
    let mut guest = Wanderer::start(2, "5G", "mib=4800 fill=1 beat=50");
    guest.save_and_restore("full");
    guest.vm.verify();
    guest.migrate(Over::Tcp);
    guest.vm.verify();
}

#[test]
fn a_guest_reboots_after_a_migration_though_the_files_it_came_from_are_gone() {
    needs_kvm!();
    let kernel = std::env::temp_dir().join(format!("tern-kernel-{}", std::process::id()));
    std::fs::write(&kernel, vmm::guest::EMBEDDED_GUEST).expect("a kernel file");
    let home = tern_tests::process::Scratch::new();
    let path = kernel.to_str().expect("text");
    let mut source = home.start(&[
        "run",
        "--name",
        "source",
        "--kernel",
        path,
        "--cmdline",
        "mib=16 beat=50",
    ]);
    source.wait_ready();
    std::fs::remove_file(&kernel).expect("the kernel file goes");
    let elsewhere = tern_tests::process::Scratch::new();
    let mut target = elsewhere.start(&["receive", "tcp:127.0.0.1:0", "--name", "target"]);
    let uri = target.first_message();
    home.vm_ok(&["migrate", "source", &uri]);
    assert!(source.wait_exit().success());
    target.wait_beat();
    target.type_keys("r");
    target.wait_ready();
    target.verify();
}
