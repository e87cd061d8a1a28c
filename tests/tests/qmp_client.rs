//! Programs that were written for QEMU's monitor find it here: QEMU's own client drives a VM. What it does and expects is in
//! `qmp_client.py`.

use std::path::Path;
use std::process::Command;

use tern_tests::needs_kvm;
use tern_tests::process::Scratch;

/// A Python that has the client.
fn python() -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/qmp-python");
    let made = Command::new(&script).output().expect("tools/qmp-python can be run");
    let complaint = String::from_utf8_lossy(&made.stderr);
    assert!(
        made.status.success(),
        "qemu.qmp is not there and cannot be fetched; `tools/setup tests` installs what that takes:\n{complaint}"
    );
    String::from_utf8_lossy(&made.stdout).trim_end().to_owned()
}

#[test]
fn qemus_client_asks_stops_resets_and_moves_a_guest_and_hears_of_it() {
    needs_kvm!();
    let python = python();
    let scratch = Scratch::new();
    let mut source = scratch.start(&[
        "run",
        "--name",
        "a",
        "--cpus",
        "2",
        "--memory",
        "64M",
        "--console",
        "pty",
    ]);
    let mut receiver = scratch.start(&["receive", "tcp:127.0.0.1:0", "--name", "b", "--console", "null"]);
    source.wait_message("the console's name", |text| {
        text.contains("the console is").then_some(())
    });
    let socket = |name| scratch.file(&format!("tern/{name}.sock"));
    let client = Command::new(python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/qmp_client.py"))
        .arg(socket("a"))
        .arg(source.pid().to_string())
        .arg(socket("b"))
        .arg(receiver.first_message())
        .output()
        .expect("Python can be run");
    assert!(
        client.status.success(),
        "{}{}\nthe source says: {}\nthe receiver says: {}",
        String::from_utf8_lossy(&client.stdout),
        String::from_utf8_lossy(&client.stderr),
        source.messages(),
        receiver.messages()
    );
    assert!(source.wait_exit().success() && receiver.wait_exit().success());
}
