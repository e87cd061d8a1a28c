//! Tests that need `/dev/kvm`: one at a time, and never skipped in silence. The unit tests of `vmm` use this file too.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

/// The right to use KVM, which one test of this machine has at a time.
#[derive(Debug)]
pub struct Turn(#[expect(dead_code, reason = "the lock goes with the file")] File);

/// Says that the test `name` has not been run, or not all of it, and why: past the capture of the test harness, which would hide it.
pub fn not_run(name: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "NOT RUN: {name}: {why}");
}

/// Waits for the turn of the test `name`. Where there is no `/dev/kvm`, says so by name and returns `None`.
///
/// Every test that gets its turn is entered in the file that `TERN_KVM_LEDGER` names, so that CI can count them.
///
/// # Panics
///
/// If the lock or the ledger cannot be written.
#[must_use]
pub fn turn(name: &str) -> Option<Turn> {
    if !Path::new("/dev/kvm").exists() {
        not_run(name, "there is no /dev/kvm");
        return None;
    }
    let lock = std::env::temp_dir().join("tern-kvm-turn.lock");
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(lock)
        .expect("a lock file");
    flock(&lock, FlockOperation::LockExclusive).expect("a lock");
    if let Some(ledger) = std::env::var_os("TERN_KVM_LEDGER") {
        let mut ledger = OpenOptions::new()
            .create(true)
            .append(true)
            .open(ledger)
            .expect("the ledger");
        writeln!(ledger, "{name}").expect("the ledger");
    }
    Some(Turn(lock))
}

/// Begins a test that needs KVM: takes its turn, or returns from the test.
#[macro_export]
macro_rules! needs_kvm {
    () => {
        let name = ::std::thread::current().name().unwrap_or("a test").to_owned();
        let Some(_turn) = $crate::kvm::turn(&format!("{}::{name}", env!("CARGO_CRATE_NAME"))) else {
            return;
        };
    };
}
