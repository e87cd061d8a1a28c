//! Programs that were written for QEMU's monitor find it here: QEMU's own client drives a VM. What it does and expects is in
//! `qmp_client.py`.

use std::path::Path;
use std::process::Command;

use tern_tests::elf;
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

/// A kernel that writes to pvpanic what comes in at the serial port.
fn tells_pvpanic() -> Vec<u8> {
    const CODE: [u8; 19] = [
        0x66, 0xba, 0xfd, 0x03, // mov $0x3fd, %dx
        0xec, // in %dx, %al
        0xa8, 0x01, // test $1, %al
        0x74, 0xf7, // jz to the beginning
        0xb2, 0xf8, // mov $0xf8, %dl
        0xec, // in %dx, %al
        0x66, 0xba, 0x05, 0x05, // mov $0x505, %dx
        0xee, // out %al, %dx
        0xeb, 0xed, // jmp to the beginning
    ];
    elf::kernel(&CODE)
}

#[test]
fn qemus_client_asks_stops_resets_and_moves_guests_and_hears_of_what_they_do() {
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
    let mut forsaken = scratch.start(&["receive", "tcp:127.0.0.1:0", "--name", "c", "--console", "null"]);
    let kernel = scratch.file("kernel");
    std::fs::write(&kernel, tells_pvpanic()).expect("a file");
    let kernel = kernel.to_str().expect("text");
    let small = |name: &str| {
        scratch.start(&[
            "run",
            "--name",
            name,
            "--memory",
            "32M",
            "--console",
            "pty",
            "--kernel",
            kernel,
        ])
    };
    let (mut panicking, mut ending) = (small("panicking"), small("ending"));
    for vm in [&source, &panicking, &ending] {
        vm.wait_message("the console's name", |text| {
            text.contains("the console is").then_some(())
        });
    }
    let socket = |name| scratch.file(&format!("tern/{name}.sock"));
    let client = Command::new(python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/qmp_client.py"))
        .arg(socket("a"))
        .arg(source.pid().to_string())
        .arg(socket("b"))
        .arg(receiver.first_message())
        .arg(forsaken.first_message())
        .args(["panicking", "ending"].map(socket))
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
    assert!(!forsaken.wait_exit().success(), "nobody came");
    assert_eq!(panicking.wait_exit().code(), Some(6), "{}", panicking.messages());
    assert!(ending.wait_exit().success(), "{}", ending.messages());
}
