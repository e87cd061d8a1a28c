//! The program that users get has every type: none was left behind by a linker that saw no use of it.

use serde_json::{Value, json};
use tern_tests::process::Scratch;
use vmm::monitor::client::Client;

/// Every type, one a line, sorted. A type that is added to Tern is added here.
const TYPES: &str = include_str!("types.txt");

#[test]
fn the_shipped_vm_has_every_type() {
    let home = Scratch::new();
    let vm = home.start(&[
        "run",
        "--accel",
        "qtest",
        "--console",
        "null",
        "--name",
        "types",
        "--json",
    ]);
    let started: Value = serde_json::from_str(&vm.first_message()).expect("JSON");
    let control = started["control"].as_str().expect("the control socket's path");
    let mut monitor = Client::connect(control.as_ref()).expect("the monitor answers");
    let listed = monitor
        .execute("qom-list-types", json!({ "abstract": true }))
        .expect("a list");
    let listed = listed.as_array().expect("a list");
    let listed: Vec<_> = listed
        .iter()
        .map(|listed| listed["name"].as_str().expect("a name"))
        .collect();
    assert_eq!(listed, TYPES.lines().collect::<Vec<_>>());
}
