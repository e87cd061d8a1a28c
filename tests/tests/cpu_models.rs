//! CPU models as users meet them: what runs where, and what is refused by name.

use std::process::Stdio;

use serde_json::Value;
use tern_tests::process::{Scratch, VmProcess};

/// Exit code of `vm migrate` where the guest stays.
const NOT_MOVED: i32 = 4;

/// A host that does without some features of its processor.
struct PoorHost<'a>(&'a Scratch, &'static str);

impl PoorHost<'_> {
    fn start(&self, args: &[&str]) -> VmProcess {
        let mut command = self.0.command(args);
        command.env("TERN_HIDDEN_FEATURES", self.1);
        VmProcess::start(command)
    }

    /// What `vm` says on stderr where it fails.
    fn refusal(&self, args: &[&str]) -> String {
        let mut command = self.0.command(args);
        command.env("TERN_HIDDEN_FEATURES", self.1).stdin(Stdio::null());
        let output = command.output().expect("vm starts");
        assert!(!output.status.success(), "{args:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

fn source<'a>(home: &Scratch, model: &'a str) -> VmProcess {
    let qtest: &[&'a str] = &[
        "run",
        "--json",
        "--accel",
        "qtest",
        "--memory",
        "8M",
        "--console",
        "null",
    ];
    let vm = home.start(&[qtest, &["--name", "source", "--cpu", model]].concat());
    vm.first_message();
    vm
}

fn info(home: &Scratch, name: &str) -> Value {
    serde_json::from_str(&home.vm_ok(&["info", name, "--json"])).expect("JSON")
}

const RECEIVE: &[&str] = &[
    "receive",
    "tcp:127.0.0.1:0",
    "--accel",
    "qtest",
    "--console",
    "null",
    "--name",
    "receiver",
];

#[test]
fn a_destination_that_lacks_features_refuses_each_by_name_before_a_page_moves() {
    let (home, there) = (Scratch::new(), Scratch::new());
    let _source = source(&home, "x86-64-v2,+aes,+spec-ctrl");
    let poor = PoorHost(&there, "popcnt,aes,avx,spec-ctrl");
    let receiver = poor.start(RECEIVE);
    let sent = home.vm(&["migrate", "source", &receiver.first_message()]);
    let said = String::from_utf8_lossy(&sent.stderr);
    assert_eq!(sent.status.code(), Some(NOT_MOVED), "{said}");
    for named in [
        "popcnt (CPUID 1 ECX[23])",
        "aes (CPUID 1 ECX[25])",
        "spec-ctrl (CPUID 7.0 EDX[26])",
        "spec_ctrl (MSR 0x48)",
        "(x86-64-v2-1,+aes,+spec-ctrl)",
        "vm cpu baseline",
    ] {
        assert!(said.contains(named), "{named} in: {said}");
    }
    // It has AVX no more than the guest, which was not given any.
    assert!(!said.contains("avx"), "{said}");
    let info = info(&home, "source");
    assert_eq!(info["state"], "running", "{info}");
    assert_eq!(
        info["migration"]["ram"]["transferred"].as_u64().unwrap_or(0),
        0,
        "{info}"
    );
}

#[test]
fn a_snapshot_is_refused_by_name_where_features_are_lacking_and_restored_where_not() {
    let home = Scratch::new();
    let file = home.file("a.tern");
    let path = file.to_str().expect("text");
    let _source = source(&home, "EPYC");
    home.vm_ok(&["snapshot", "source", path]);
    let restore = [
        "restore",
        path,
        "--json",
        "--accel",
        "qtest",
        "--console",
        "null",
        "--name",
        "again",
    ];
    let said = PoorHost(&home, "sha-ni").refusal(&restore);
    assert!(
        said.contains("sha-ni (CPUID 7.0 EBX[29])") && said.contains("EPYC-v1"),
        "{said}"
    );
    // What the guest was not given it does not miss.
    let again = PoorHost(&home, "avx512f,spec-ctrl").start(&restore);
    again.first_message();
    assert_eq!(info(&home, "again")["cpu-model"], "EPYC-v1");
}

#[test]
fn a_model_that_this_host_lacks_does_not_start_here() {
    let home = Scratch::new();
    let poor = PoorHost(&home, "popcnt,sse4.2");
    let run = |model| poor.refusal(&["run", "--accel", "qtest", "--console", "null", "--cpu", model]);
    let said = run("x86-64-v2");
    assert!(
        said.contains("lacks sse4.2, popcnt of the CPU model x86-64-v2-1"),
        "{said}"
    );
    assert!(run("x86-64-v2,-sse4.2").contains("lacks popcnt of"));
    assert!(
        run("x86-64-v9").contains("did you mean x86-64-v1"),
        "{}",
        run("x86-64-v9")
    );
    assert!(run("x86-64-v2,+popcount").contains("did you mean popcnt?"));
}

#[test]
fn what_runs_where_is_told_by_the_status_and_in_json() {
    let home = Scratch::new();
    let poor = |args: &[&str]| {
        let mut command = home.command(args);
        command
            .env("TERN_HIDDEN_FEATURES", "popcnt,avx512f")
            .stdin(Stdio::null());
        command.output().expect("vm starts")
    };
    let checked = poor(&["cpu", "check", "x86-64-v2", "--accel", "qtest", "--json"]);
    assert_eq!(checked.status.code(), Some(1));
    let checked: Value = serde_json::from_slice(&checked.stdout).expect("JSON");
    assert_eq!(checked["missing"][0]["feature"], "popcnt");
    assert_eq!(checked["missing"][0]["bit"], "CPUID 1 ECX[23]");
    assert!(
        poor(&["cpu", "check", "x86-64-v2,-popcnt", "--accel", "qtest"])
            .status
            .success()
    );

    let list = poor(&["cpu", "list", "--accel", "qtest", "--json"]);
    let list: Value = serde_json::from_slice(&list.stdout).expect("JSON");
    let models = list["models"].as_array().expect("a list");
    let model = |name: &str| models.iter().find(|model| model["name"] == name).expect(name);
    assert_eq!(model("x86-64-v1-1")["default"], true);
    assert_eq!(model("x86-64-v2-1")["missing"], serde_json::json!(["popcnt"]));
    assert_eq!(model("EPYC-v1")["aliases"], serde_json::json!(["EPYC"]));
    // Who asks `vm run` for the models gets the same list.
    let help = poor(&["run", "--cpu", "help", "--accel", "qtest", "--json"]);
    let help: Value = serde_json::from_slice(&help.stdout).expect("JSON");
    assert_eq!(help, list);
}

#[test]
fn two_hosts_find_the_processor_that_they_share() {
    let home = Scratch::new();
    let offer = |file: &str, hidden| {
        let mut command = home.command(&["cpu", "show", "host", "--accel", "qtest", "--json"]);
        let output = command.env("TERN_HIDDEN_FEATURES", hidden).output().expect("vm starts");
        let path = home.file(file);
        std::fs::write(&path, output.stdout).expect("written");
        path.to_str().expect("text").to_owned()
    };
    let (one, other) = (offer("one.json", "avx512f,aes"), offer("other.json", "avx,xsaves"));
    let found = home.vm_ok(&["cpu", "baseline", &one, &other, "--json"]);
    let found: Value = serde_json::from_str(&found).expect("JSON");
    let cpu = found["cpu"].as_str().expect("text");
    assert!(cpu.starts_with("x86-64-v2-1,+"), "{found}");
    // Both hosts start what was found, and neither has more in common with the other.
    for hidden in ["avx512f,aes", "avx,xsaves"] {
        let mut command = home.command(&["cpu", "check", cpu, "--accel", "qtest"]);
        let checked = command.env("TERN_HIDDEN_FEATURES", hidden).output().expect("vm starts");
        assert!(checked.status.success(), "{checked:?}");
    }
    for lacking in ["aes", "avx", "xsaves", "avx512f"] {
        let not_shared = found["not-shared"].as_array().expect("a list");
        assert!(not_shared.iter().any(|name| name == lacking), "{found}");
    }
    let model = home.file("model.json");
    let shown = home.vm_ok(&["cpu", "show", "x86-64-v2", "--accel", "qtest", "--json"]);
    std::fs::write(&model, shown).expect("written");
    let refused = home.vm(&["cpu", "baseline", &one, model.to_str().expect("text")]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("model.json") && said.contains("no host"), "{said}");
}
