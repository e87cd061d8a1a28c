//! What a guest sees of each machine and each CPU model of each release (`tests/compat/RELEASE/machine-MACHINE.json` and
//! `cpu-models.json`) is what it sees of it today.
//!
//! A machine version is a promise to guests: it never changes once it is released. What is new comes with a new version, and
//! the older ones switch it off in their `compat`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use hw::i386::cpu_model::CPU_MODELS;
use migration::snapshot::{RestoreOptions, SaveOptions, inspect, save};
use migration::vm::{DestinationFactory, Offer};
use serde_json::{Value, json};
use tern_tests::compat::corpus::{self, Golden};
use tern_tests::compat::machine::{CPU_MODELS_FILE, MEMORY, cpu_models, least_kernel, shape, shape_file};
use tern_tests::compat::releases::Releases;
use tern_tests::compat::shape::{changes, model_changes};
use tern_tests::machine::Site;
use tern_tests::process::Scratch;
use vmm::vm::VmSpec;

/// Releases that have kept no CPU models but those in the shapes of their machines. There will be no more of them.
const WITHOUT_MODELS: [&str; 1] = ["0.1.0-rc.1"];

fn read(file: &Path) -> Value {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Machines of releases: release, machine and its shape then.
fn released() -> Vec<(String, String, Value)> {
    let releases = Releases::of_this_repository();
    let mut released = Vec::new();
    for release in releases.iter() {
        assert!(!release.machines.is_empty(), "{} has no machine", release.version);
        for machine in &release.machines {
            let shape = read(&releases.folder_of(release).join(shape_file(machine)));
            released.push((release.version.clone(), machine.clone(), shape));
        }
    }
    released
}

#[test]
fn a_released_machine_is_for_guests_what_it_was() {
    for (release, machine, was) in released() {
        let changes = changes(&was, &shape(&machine));
        assert!(
            changes.is_empty(),
            "{machine} is not what it was in {release}:\n  {}\nIt is released, so it stays: bring what is new with a new version of the \
             machine (or of the CPU model), and have the compat of this one switch it off. Limits and ranges may become wider, and never \
             narrower; a property stays, with its type, and with its default, which `compat` can give to the machines that had it",
            changes.join("\n  ")
        );
    }
}

/// CPU models of releases: release, and what a guest was told by each of them then.
fn released_models() -> Vec<(String, Value)> {
    let releases = Releases::of_this_repository();
    let mut released = Vec::new();
    for release in releases.iter() {
        if WITHOUT_MODELS.contains(&release.version.as_str()) {
            continue;
        }
        let models = read(&releases.folder_of(release).join(CPU_MODELS_FILE));
        assert!(
            models["x86-64-v1-1"].is_object(),
            "{} has hardly any model",
            release.version
        );
        released.push((release.version.clone(), models));
    }
    released
}

/// Those that came after the newest machine are in no machine's shape.
#[test]
fn a_released_cpu_model_is_for_guests_what_it_was() {
    let today = cpu_models();
    for (release, was) in released_models() {
        let changes = model_changes(&was, &today);
        assert!(
            changes.is_empty(),
            "a CPU model is not what it was in {release}:\n  {}\nIt is released, so it stays: what is better is a new version of the model",
            changes.join("\n  ")
        );
    }
}

/// The processors that snapshots of releases have, as those wrote them: models by the names in the releases' files, so that one which
/// this program's own table loses is missed; with features switched; and the host's own, which is in no file.
fn released_processors() -> BTreeSet<String> {
    let switched = ["+movdiri", "-mmx", "+movdiri,-mmx"].map(|switches| format!("x86-64-v1-1,{switches}"));
    let mut processors = BTreeSet::from(["host", "host,-mmx"].map(str::to_owned));
    processors.extend(switched);
    for (_, models) in released_models() {
        processors.extend(models.as_object().expect("models by name").keys().cloned());
    }
    processors
}

#[test]
fn a_snapshot_with_any_processor_of_a_release_is_taken_and_keeps_it() {
    let scratch = Scratch::in_memory();
    let (file, kernel) = (scratch.file("one.tern"), least_kernel());
    for processor in released_processors() {
        let mut spec = VmSpec::new("one", "");
        (spec.cpu, spec.memory, spec.boot.kernel) = (Some(processor.clone()), MEMORY, &kernel);
        let machine = Site::new("qtest").boot(&spec);
        save(&*machine.vm, &file, &SaveOptions::default(), &()).expect("it can be saved");
        let written = inspect(&file).expect("a snapshot").manifest.recipe;
        let tied = processor.starts_with("host");
        assert_eq!(
            (written.cpu.name.as_str(), written.cpu.tied_to_host),
            (processor.as_str(), tied)
        );
        let restored = Site::new("qtest").restore(&file, &RestoreOptions::default());
        let restored = restored.unwrap_or_else(|error| panic!("{processor}: {error}"));
        assert_eq!(restored.vm.vm().recipe(), &written, "{processor}");
    }
}

#[test]
fn the_next_release_keeps_every_cpu_model_and_a_change_of_one_is_named() {
    let models = cpu_models();
    for model in CPU_MODELS.iter().filter(|model| !model.is_tied_to_host()) {
        let kept = &models[model.name];
        assert_eq!(kept["since"], model.since.to_string(), "{}", model.name);
        assert!(kept["cpuid"]["00000001.0"].is_string(), "{}", model.name);
        assert!(kept["msrs"]["mtrr_def_type"].is_string(), "{}: {kept:#}", model.name);
    }
    assert_eq!(model_changes(&models, &models), [""; 0]);
    for (pointer, new) in [
        ("/EPYC-v1/since", json!("0.2")),
        ("/EPYC-v1/cpuid/00000007.0", json!("0 0 0 0")),
        ("/EPYC-v1/cpuid/0000000d.0", Value::Null),
        ("/EPYC-v1/msrs/mtrr_def_type", json!("0x1")),
    ] {
        let (changed, was) = changed(&models, pointer, new);
        let found = model_changes(&models, &changed);
        let place = pointer.replace('/', ".");
        assert_eq!(found.len(), 1, "{pointer}: {found:?}");
        assert!(found[0].starts_with(&format!("{place}: was {was}, is ")), "{found:?}");
    }
    let mut fewer = models.clone();
    fewer
        .as_object_mut()
        .and_then(|models| models.remove("EPYC-v1"))
        .expect("a model");
    assert_eq!(model_changes(&models, &fewer), [".EPYC-v1: it is gone"]);
    assert_eq!(model_changes(&fewer, &models), [""; 0], "a new model changes none");
}

#[test]
fn a_change_is_found_and_named_whatever_it_is() {
    let machine = shape("microvm-1.0");
    assert!(changes(&machine, &machine).is_empty());
    for (pointer, new) in [
        ("/memory/0xfea00000-0xfea00003", json!("something else")),
        ("/io/0x3f8-0x3ff", Value::Null),
        ("/objects/~1machine~1pvpanic/properties/events", json!("7")),
        ("/objects/~1machine~1rtc/type", json!("mc146818")),
        ("/tables/0xe0000", json!("00 00")),
        ("/cpuid/x86-64-v1-1/00000001.0", json!("0 0 0 0")),
        ("/since", json!("0.2")),
        ("/limits/cpus/least", json!(2)),
        ("/limits/cpus/most", json!(64)),
        ("/limits/memory/least", json!(8 << 20)),
        ("/limits/memory/most", json!(1_u64 << 36)),
        ("/limits/memory/multiple-of", json!(8192)),
        ("/settable/pvpanic/events/most", json!(3)),
        ("/settable/serial16550/irq/least", json!(1)),
        ("/settable/tern-testdev/mmio-base/type", json!("uint32")),
        ("/addable/tern-testdev/by", json!("object-add")),
        ("/addable/tern-testdev/defaults/iobase", json!("232")),
        ("/addable/tern-testdev/defaults/irq", json!("6")),
    ] {
        let (changed, was) = changed(&machine, pointer, new);
        let found = changes(&machine, &changed);
        let member = pointer.rsplit('/').next().expect("a name").replace("~1", "/");
        assert_eq!(found.len(), 1, "{pointer}: {found:?}");
        assert!(
            found[0].contains(&member) && found[0].contains(&was.to_string()),
            "{found:?}"
        );
    }
    // A subsection that comes or goes changes what a machine sends.
    let mut changed = machine.clone();
    changed["state"]["/machine/rtc (mc146818rtc)"]["subsections"] = json!(["new"]);
    let found = changes(&machine, &changed);
    assert_eq!(
        found,
        [".state./machine/rtc (mc146818rtc).subsections: was [], is [\"new\"]"]
    );
    let mut changed = machine.clone();
    changed["state"]["/machine/rtc (mc146818rtc)"]["fields"] = json!(["more"]);
    assert!(changes(&machine, &changed).is_empty(), "fields are the schema lock's");
}

/// The shape with something else at `pointer`, and what was there.
fn changed(shape: &Value, pointer: &str, new: Value) -> (Value, Value) {
    let mut changed = shape.clone();
    let place = changed.pointer_mut(pointer);
    let place = place.unwrap_or_else(|| panic!("nothing at {pointer}"));
    let was = std::mem::replace(place, new);
    (changed, was)
}

#[test]
fn what_could_be_asked_for_stays_and_there_may_be_more_of_it() {
    let machine = shape("microvm-1.0");
    for (pointer, wider) in [
        ("/limits/cpus/most", json!(255)),
        ("/limits/memory/least", json!(1 << 20)),
        ("/limits/memory/multiple-of", json!(512)),
        ("/settable/chardev-ringbuf/size/least", json!(0)),
        ("/settable/pvpanic/events/most", json!(15)),
    ] {
        let (changed, _) = changed(&machine, pointer, wider);
        assert_eq!(changes(&machine, &changed), [""; 0], "{pointer}");
    }
    for (place, name) in [
        ("/settable", "tern-testdev"),
        ("/settable/tern-testdev", "irq"),
        ("/settable/tern-testdev/irq", "most"),
        ("/addable", "serial16550"),
        ("/addable/serial16550/defaults", "irq"),
        ("/limits", "memory"),
    ] {
        let mut fewer = machine.clone();
        let members = fewer.pointer_mut(place).and_then(Value::as_object_mut);
        members.and_then(|members| members.remove(name)).expect("it is there");
        let found = changes(&machine, &fewer);
        assert_eq!(found.len(), 1, "{found:?}");
        let named = format!("{}.{name}: was ", place.replace('/', "."));
        assert!(
            found[0].starts_with(&named) && found[0].ends_with("is gone"),
            "{found:?}"
        );
        // What is new is no change, unless it bounds what had no bound.
        let found = changes(&fewer, &machine);
        if name == "most" {
            let bound = &machine["settable"]["tern-testdev"]["irq"]["most"];
            assert_eq!(
                found,
                [format!(".settable.tern-testdev.irq.most: was not there, is {bound}")]
            );
        } else {
            assert_eq!(found, [""; 0]);
        }
    }
    let choice =
        |values: Value| json!({ "settable": { "port": { "parity": { "type": "parity", "values": values } } } });
    let (one, two) = (choice(json!(["none"])), choice(json!(["even", "none"])));
    assert_eq!(changes(&one, &two), [""; 0]);
    assert_eq!(
        changes(&two, &one),
        [r#".settable.port.parity.values: was ["even","none"], is ["none"]"#]
    );
    let older = json!({ "machine": "microvm-1.0" });
    assert_eq!(
        changes(&older, &machine),
        [""; 0],
        "what a release did not keep is not compared"
    );
}

/// The limits are those that somebody meets who brings a machine.
#[test]
fn a_machine_at_each_of_its_limits_is_taken_and_one_beyond_is_not() {
    let scratch = Scratch::in_memory();
    let releases = Releases::of_this_repository();
    for release in releases.iter() {
        let goldens = Golden::all(&releases.folder_of(release).join(corpus::FOLDER)).expect("a corpus");
        for golden in goldens.iter().filter(|golden| golden.variant == "reset") {
            let today = shape(&golden.machine);
            let was = read(&releases.folder_of(release).join(shape_file(&golden.machine)));
            let limits = was.get("limits").unwrap_or(&today["limits"]);
            let limit = |pointer: &str| limits.pointer(pointer).and_then(Value::as_u64).expect("a number");
            let snapshot = inspect(&golden.unpack(&scratch)).expect("a snapshot");
            let refused = |cpus: u64, memory: u64| {
                let mut offer = Offer {
                    header: snapshot.header.clone(),
                    recipe: snapshot.manifest.recipe.clone(),
                    inventory: snapshot.manifest.inventory.clone(),
                    schemas: snapshot.schemas.clone(),
                    parent: None,
                };
                offer.recipe.cpus = (0..u32::try_from(cpus).expect("few")).collect();
                offer.recipe.memory = memory;
                let report = Site::new("qtest").factory().preflight(&offer);
                let subjects = report.refusals.into_iter().map(|refusal| refusal.subject);
                subjects.collect::<Vec<_>>()
            };
            let [cpus, memory] = ["cpus", "memory"].map(|what| {
                let of = |end: &str| limit(&format!("/{what}/{end}"));
                (of("least"), of("most"))
            });
            // Beside an end is what is a multiple of no more than it has to be.
            let multiple = limit("/memory/multiple-of");
            for (cpus, memory) in [
                (cpus.0, memory.0),
                (cpus.0, memory.0 + multiple),
                (cpus.1, memory.1 - multiple),
                (cpus.1, memory.1),
            ] {
                assert_eq!(
                    refused(cpus, memory),
                    [""; 0],
                    "{}: {cpus} vCPUs, {memory} bytes",
                    golden.machine
                );
            }
            let now = |pointer: &str| {
                let limit = today["limits"].pointer(pointer).and_then(Value::as_u64);
                limit.expect("a number")
            };
            let multiple = now("/memory/multiple-of");
            assert_eq!(refused(now("/cpus/most") + 1, memory.0), ["cpus"]);
            assert_eq!(refused(1, now("/memory/most") + multiple), ["memory"]);
            assert!(multiple > 1, "else there is nothing that is no multiple");
            for no_multiple in [now("/memory/least") + 1, now("/memory/most") - 1] {
                assert_eq!(refused(1, no_multiple), ["memory"], "{no_multiple} bytes");
            }
        }
    }
}

#[test]
fn what_a_release_did_not_have_says_that_it_came_later() {
    let home = Scratch::new();
    for (release, machine, was) in released() {
        assert_eq!(was["machine"], machine.as_str());
        let since = was["since"].as_str().expect("a release");
        let run = |compat: &str| home.vm(&["run", "--machine", &machine, "--compat", compat, "--accel", "none"]);
        let told = String::from_utf8_lossy(&run(&release).stderr).into_owned();
        assert!(
            told.contains("accelerator"),
            "{release} had {machine} since {since}: {told}"
        );
    }
}
