//! A name of QEMU's means the same processor here: compared with an installed `qemu-system-x86_64`.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use hw::i386::cpu_feature::CpuFeature;
use hw::i386::cpu_model::{CPU_MODELS, CpuModel, ModelContents, NamedModel};
use serde_json::{Value, json};

/// A QEMU without a machine, to be asked about models.
struct Qemu {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Qemu {
    /// `None` where none is installed.
    fn start() -> Option<Self> {
        let mut child = Command::new("qemu-system-x86_64")
            .args(["-M", "none", "-accel", "tcg", "-S", "-display", "none", "-qmp", "stdio"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let mut qemu = Self {
            input: child.stdin.take().expect("a pipe"),
            output: BufReader::new(child.stdout.take().expect("a pipe")),
            child,
        };
        qemu.ask("qmp_capabilities", &json!({}));
        Some(qemu)
    }

    fn ask(&mut self, command: &str, arguments: &Value) -> Option<Value> {
        writeln!(self.input, "{}", json!({ "execute": command, "arguments": arguments })).expect("it listens");
        loop {
            let mut line = String::new();
            assert_ne!(
                self.output.read_line(&mut line).expect("it answers"),
                0,
                "QEMU has ended"
            );
            let mut answer: Value = serde_json::from_str(&line).expect("JSON");
            if answer.get("error").is_some() {
                return None;
            }
            if let Some(returned) = answer.get_mut("return") {
                return Some(returned.take());
            }
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn named(model: &'static CpuModel) -> Option<&'static NamedModel> {
    match &model.contents {
        ModelContents::Named(named) if !model.name.starts_with("x86-64-v") => Some(named),
        _ => None,
    }
}

/// The features that QEMU's `properties` switch on, by their canonical names, and what Tern gives to no guest.
fn features(properties: &Value) -> (BTreeSet<&'static str>, BTreeSet<String>) {
    let (mut given, mut others) = (BTreeSet::new(), BTreeSet::new());
    for (name, value) in properties.as_object().expect("properties") {
        if value != true {
            continue;
        }
        match CpuFeature::called(name) {
            Ok(feature) => drop(given.insert(feature.name)),
            Err(_) => drop(others.insert(name.replace('_', "-"))),
        }
    }
    (given, others)
}

#[test]
fn qemus_models_have_qemus_features_family_and_name() {
    let Some(mut qemu) = Qemu::start() else {
        eprintln!("there is no qemu-system-x86_64 to compare with: apt-get install qemu-system-x86");
        return;
    };
    // What KVM gives whatever the model; QEMU adds it when it starts a VM.
    let paravirtual = [
        "x2apic",
        "hypervisor",
        "kvm-nopiodelay",
        "kvmclock",
        "kvm-steal-time",
        "kvm-pv-eoi",
    ];
    let added = |name: &str| paravirtual.contains(&name) || name == "kvmclock-stable-bit";
    let mut compared = 0;
    for (model, named) in CPU_MODELS.iter().filter_map(|model| Some((model, named(model)?))) {
        let asked = json!({ "type": "full", "model": { "name": model.name } });
        // An older QEMU than the model.
        let Some(expanded) = qemu.ask("query-cpu-model-expansion", &asked) else {
            continue;
        };
        let properties = &expanded["model"]["props"];
        let signature = named.signature;
        assert_eq!(properties["family"], signature.family(), "{}", model.name);
        assert_eq!(properties["model"], signature.model(), "{}", model.name);
        assert_eq!(properties["stepping"], signature.stepping(), "{}", model.name);
        assert_eq!(properties["model-id"], named.brand, "{}", model.name);
        let (mut theirs, others) = features(properties);
        theirs.retain(|name| !added(name));
        let ours = model.features();
        let ours: BTreeSet<_> = ours
            .features()
            .map(|feature| feature.name)
            .filter(|name| !added(name))
            .collect();
        assert_eq!(ours, theirs, "{}", model.name);
        for left_out in named.left_out.split_ascii_whitespace() {
            assert!(
                others.contains(left_out),
                "{}: QEMU's has no {left_out} either",
                model.name
            );
        }
        compared += 1;
    }
    assert!(compared > 10, "only {compared} models were compared");
}

#[test]
fn names_without_a_version_are_qemus() {
    let Some(mut qemu) = Qemu::start() else { return };
    let definitions = qemu.ask("query-cpu-definitions", &json!({})).expect("a list");
    let definitions = definitions.as_array().expect("a list");
    for model in CPU_MODELS.iter().filter(|model| named(model).is_some()) {
        for alias in model.aliases {
            let theirs = definitions.iter().find(|definition| definition["name"] == *alias);
            if let Some(target) = theirs.and_then(|definition| definition["alias-of"].as_str()) {
                assert_eq!(target, model.name, "{alias}");
            }
        }
    }
}
