//! `vm state` as users meet it: on this program, on real snapshots, and on files that are neither.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use tern_tests::process::{Scratch, VmProcess};

/// A stopped VM without processors, and a snapshot of it.
struct Saved {
    home: Scratch,
    _vm: VmProcess,
}

/// The VM `a`, a small machine of the first version.
fn started(home: &Scratch) -> VmProcess {
    let vm = home.start(&[
        "run",
        "--machine",
        "microvm-1.0",
        "--accel",
        "qtest",
        "--memory",
        "8M",
        "--console",
        "null",
        "--name",
        "a",
        "--json",
    ]);
    vm.first_message();
    vm
}

impl Saved {
    fn new() -> Self {
        let home = Scratch::new();
        let vm = started(&home);
        home.vm_ok(&["stop", "a"]);
        let saved = Self { home, _vm: vm };
        saved.snapshot("a.tern");
        saved
    }

    fn snapshot(&self, name: &str) -> String {
        let file = self.file(name);
        self.home.vm_ok(&["snapshot", "a", &file]);
        file
    }

    fn file(&self, name: &str) -> String {
        self.home.file(name).to_string_lossy().into_owned()
    }
}

fn json_of(home: &Scratch, args: &[&str]) -> Value {
    serde_json::from_str(&home.vm_ok(&[args, &["--json"]].concat())).expect("JSON")
}

/// What the command says where it ends with 1.
fn no(home: &Scratch, args: &[&str]) -> String {
    let Output { status, stdout, stderr } = home.vm(args);
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr)
    );
    assert_eq!(status.code(), Some(1), "{args:?}: {said}");
    said
}

#[test]
fn a_schema_kept_in_a_file_is_held_against_this_program_in_both_directions() {
    let home = Scratch::new();
    let file = home.file("released.json");
    let file = file.to_str().expect("a path");
    for machine in [&[][..], &["--machine", "microvm-1.0"]] {
        let schema = json_of(&home, &[&["state", "schema"], machine].concat());
        fs::write(file, schema.to_string()).expect("a writable folder");
        let verdicts = json_of(&home, &["state", "check", file]);
        assert_eq!(verdicts["breaks"], false, "{verdicts}");
        for direction in ["old-to-new", "new-to-old"] {
            let fields = verdicts[direction]["fields"].as_array().expect("a list");
            let conditions = fields.iter().filter(|field| field["verdict"] != "loads");
            let conditions: Vec<_> = conditions
                .map(|field| {
                    let name = |key: &str| field[key].as_str().expect("a name").to_owned();
                    (name("section"), name("field"))
                })
                .collect();
            // What a machine has for devices that this version does not have from the start.
            let expected = match (machine, direction) {
                ([], _) | (_, "old-to-new") => vec![],
                _ => vec![("machine".to_owned(), "virtual_clock".to_owned())],
            };
            assert_eq!(conditions, expected, "{direction}");
            let lcr = json!({ "section": "serial16550", "field": "lcr", "verdict": "loads", "because": null });
            assert!(fields.contains(&lcr), "{direction}");
        }
        let text = home.vm_ok(&[&["state", "schema"], machine].concat());
        assert!(
            text.contains("serial16550 version 1\n") && text.contains("\n  lcr: u8\n"),
            "{text}"
        );
    }
}

/// The descriptions of the machine in a file, after a change to those of the serial port.
fn changed(home: &Scratch, name: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut schema = json_of(home, &["state", "schema", "--machine", "microvm-1.0"]);
    let sections = schema["sections"].as_array_mut().expect("a list");
    let serial = sections
        .iter_mut()
        .find(|section| section["description"] == "serial16550");
    change(&mut serial.expect("it has one")["schema"]);
    let file = home.file(name);
    fs::write(&file, schema.to_string()).expect("a writable folder");
    file.to_string_lossy().into_owned()
}

#[test]
fn a_change_that_breaks_is_told_by_field_and_direction_and_by_the_exit_status() {
    let home = Scratch::new();
    let old = changed(&home, "old.json", |_| {});
    let renamed = changed(&home, "renamed.json", |serial| {
        let fields = serial["fields"].as_array_mut().expect("a list");
        let lcr = fields
            .iter_mut()
            .find(|field| field["name"] == "lcr")
            .expect("it has one");
        lcr["name"] = "line-control".into();
    });
    let said = no(&home, &["state", "check", &old, &renamed]);
    let serial = "/machine/serial0 (serial16550)";
    for field in ["lcr", "line-control"] {
        for side in ["reader", "writer"] {
            let line = format!("{serial}: {field} does not load: the {side} does not know it");
            assert_eq!(said.matches(&line).count(), 1, "{line} in {said}");
        }
    }
    let stepped = changed(&home, "stepped.json", |serial| {
        serial["version"] = 2.into();
        let added = json!({ "name": "fifo-timeout", "type": "u8", "since": 2, "default": 4 });
        serial["fields"].as_array_mut().expect("a list").push(added);
    });
    let said = no(&home, &["state", "check", &old, &stepped]);
    assert!(
        said.contains(": . does not load: it is of version 2, and the reader loads versions 1 to 1"),
        "{said}"
    );
    let forward = json_of(&home, &["state", "check", &old, &stepped, "--forward"]);
    assert_eq!(
        forward["old-to-new"]["verdict"], "loads",
        "what was saved before the step loads after it"
    );
    assert_eq!(forward["new-to-old"]["verdict"], "does-not-load");
}

#[test]
fn a_snapshot_is_shown_with_every_field_of_every_object_and_how_its_memory_was_used() {
    let saved = Saved::new();
    let file = saved.file("a.tern");
    let text = saved.home.vm_ok(&["state", "inspect", &file]);
    for line in [
        "machine:   microvm-1.0, 1 x x86-64-v1-1, 8 MiB, TSC at ",
        "\n  /machine/serial0 (serial16550) version 1, ",
        "\n    lcr: 0x",
        "\n  /machine/cpu-0 (x86-cpu) version 1, ",
        "\n    general.rip: 0x",
        "\n  /machine/cpu-0/apic (",
        "COMPRESSED",
    ] {
        assert!(text.contains(line), "{line:?} in {text}");
    }
    let json = json_of(&saved.home, &["state", "inspect", &file]);
    let sections = json["sections"].as_array().expect("a list");
    let schema = json_of(&saved.home, &["state", "schema", "--machine", "microvm-1.0"]);
    let described = schema["sections"].as_array().expect("a list");
    assert_eq!(sections.len(), described.len());
    for (section, described) in sections.iter().zip(described) {
        assert_eq!(section["path"], described["path"]);
        for field in described["schema"]["fields"].as_array().expect("a list") {
            let name = field["name"].as_str().expect("a name");
            let shown = section["fields"].get(name);
            assert!(
                shown.is_some() || field["may-be-absent"] == true,
                "{}: {name}",
                section["path"]
            );
        }
    }
    let ram = &json["ram"][0];
    let number = |name: &str| ram[name].as_u64().expect("a number");
    assert_eq!(number("zero-bytes") + number("raw-bytes"), 8 << 20);
    assert!(number("raw-bytes") > 0, "the kernel is in it");
}

#[test]
fn two_snapshots_of_one_instant_do_not_differ_and_each_field_that_changed_is_named() {
    let saved = Saved::new();
    let (a, b) = (saved.file("a.tern"), saved.snapshot("b.tern"));
    let same = json_of(&saved.home, &["state", "diff", &a, &b]);
    assert_eq!(same["same"], true, "{same}");
    saved.home.vm_ok(&["cont", "a"]);
    let c = saved.snapshot("c.tern");
    let said = no(&saved.home, &["state", "diff", &a, &c]);
    assert_eq!(
        said.trim_end(),
        "/machine (machine): stopped: true on the left, false on the right"
    );
}

#[test]
fn a_snapshot_is_checked_against_this_program_by_its_values() {
    let saved = Saved::new();
    let file = saved.file("a.tern");
    let said = saved.home.vm_ok(&["state", "check", &file]);
    assert_eq!(said.matches(": loads").count(), 2, "{said}");
    // The way back is that of this VM, which has no device with a timer, and not of all that this program could save.
    assert!(!said.contains("only if"), "{said}");
    let narrow = changed(&saved.home, "narrow.json", |serial| {
        let fields = serial["fields"].as_array_mut().expect("a list");
        let divisor = fields
            .iter_mut()
            .find(|field| field["type"] == "u16")
            .expect("the divisor");
        divisor["type"] = "u8".into();
    });
    let forward = json_of(&saved.home, &["state", "check", &file, &narrow, "--forward"]);
    assert_eq!(forward["old-to-new"]["verdict"], "loads", "its value fits: {forward}");
}

#[test]
fn verify_finds_a_flipped_bit_wherever_it_is_and_names_the_part() {
    let saved = Saved::new();
    let file = saved.file("a.tern");
    let whole = json_of(&saved.home, &["state", "verify", &file]);
    assert!(whole["records"].as_u64().expect("a number") > 10, "{whole}");
    let ram = json_of(&saved.home, &["state", "inspect", &file])["ram"][0]["offset"].as_u64();
    let ram = usize::try_from(ram.expect("an offset")).expect("fits");
    let bytes = fs::read(&file).expect("the snapshot");
    let page = bytes[ram..]
        .iter()
        .position(|byte| *byte != 0)
        .expect("the kernel is in it");
    let damaged = saved.file("damaged.tern");
    for (offset, part) in [
        (3, "Tern's magic number"),
        (40, "the header record"),
        (ram + page, "RAM block ram"),
        (bytes.len() - 1, "the trailer record"),
    ] {
        let mut copy = bytes.clone();
        copy[offset] ^= 1;
        fs::write(&damaged, copy).expect("a writable folder");
        let said = no(&saved.home, &["state", "verify", &damaged]);
        assert!(said.contains(part), "byte {offset}: {said}");
    }
}

#[test]
fn files_that_are_neither_snapshots_nor_descriptions_are_refused_by_every_command() {
    let home = Scratch::new();
    let write = |name: &str, contents: &[u8]| {
        let file = home.file(name);
        fs::write(&file, contents).expect("a writable folder");
        file.to_string_lossy().into_owned()
    };
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let nested = format!(
        r#"{{"sections":[{{"description":"d","schema":{}}}]}}"#,
        r#"{"fields":[{"type":{"struct":"#.repeat(60)
    );
    let files = [
        write("empty", b""),
        write("zeros", &[0; 4096]),
        write("text", b"no state at all\n"),
        write("deep.json", format!("{{\"sections\": {deep}}}").as_bytes()),
        write("nested.json", nested.as_bytes()),
        write("other.json", br#"{"name": "a"}"#),
        write(
            "escape.json",
            b"{\"sections\": [{\"description\": \"\\u001b[2J\", \"schema\": {}}]}",
        ),
        home.path().to_string_lossy().into_owned(),
        home.file("missing").to_string_lossy().into_owned(),
    ];
    for file in &files {
        for args in [
            &["state", "inspect", file][..],
            &["state", "verify", file],
            &["state", "diff", file, file],
            &["state", "check", file],
        ] {
            let said = no(&home, args);
            let name = Path::new(file).file_name().expect("a name").to_string_lossy();
            assert!(said.starts_with("vm: ") && said.contains(&*name), "{args:?}: {said}");
            assert!(!said.trim_end().contains(char::is_control), "{args:?}: {said:?}");
        }
    }
}

#[test]
fn the_state_of_every_object_is_read_from_a_running_guest_without_stopping_it() {
    let home = Scratch::new();
    let _vm = started(&home);
    let mut monitor = home.monitor("a");
    let schema = json_of(&home, &["state", "schema", "--machine", "microvm-1.0"]);
    for section in schema["sections"].as_array().expect("a list") {
        let path = section["path"].as_str().expect("a path");
        let listed = monitor.execute("qom-list", json!({ "path": path })).expect("a list");
        let listed = listed.as_array().expect("a list");
        assert!(listed.iter().any(|property| property["name"] == "state"), "{path}");
        let read = monitor
            .execute("qom-get", json!({ "path": path, "property": "state" }))
            .expect("its state");
        let state = &read[0];
        assert_eq!(state["description"], section["description"], "{path}");
        for field in section["schema"]["fields"].as_array().expect("a list") {
            let name = field["name"].as_str().expect("a name");
            let is_there = state["fields"].get(name).is_some();
            assert!(is_there || field["may-be-absent"] == true, "{path}: {name}");
        }
    }
    let status = monitor.execute("query-status", json!({})).expect("a status");
    assert_eq!(status["running"], true);
    let error = monitor.execute("qom-get", json!({ "path": "/machine/ram", "property": "state" }));
    assert!(
        error
            .expect_err("RAM has no state of its own")
            .to_string()
            .contains("state")
    );
}
