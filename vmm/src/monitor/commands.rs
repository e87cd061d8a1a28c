//! The monitor's commands: one table with names, arguments and what each does.
//!
//! Arguments are checked against the table before a command runs, so that a wrong or unknown one never leaves half a side effect.
//! Commands run on the event loop and answer at once; what takes long they only start.

use std::{path::Path, sync::LazyLock, time::Duration};

use hw::core::MachineType;
use serde_json::{Map, Value, json};
use vmstate::qom::PropertyValue;

use super::{
    capabilities, cpu_models, objects,
    qmp::{ErrorClass, QmpError, version},
    replies,
};
use crate::{
    control::{AfterSnapshot, Control, JobId, MigrationParameters, Resolution, ShutdownReason},
    vm::Properties,
};

/// A command of the monitor.
#[derive(Debug)]
pub struct Command {
    /// Its name on the wire.
    pub name: &'static str,
    /// What it does, in a sentence.
    pub summary: &'static str,
    /// What it can be given.
    pub arguments: &'static [Argument],
    run: fn(&dyn Control, &Arguments) -> Result<Value, QmpError>,
}

/// An argument of a command.
#[derive(Debug)]
pub struct Argument {
    /// Its name on the wire.
    pub name: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// Whether it has to be there.
    pub required: bool,
}

/// What values an argument takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Str,
    /// A truth value.
    Bool,
    /// A whole number from zero on, up to this one.
    Uint(u64),
    /// One of these.
    OneOf(&'static [&'static str]),
    /// An object, whose members the command checks.
    Object,
    /// A list, whose items the command checks.
    List,
    /// Any value at all, which the command checks.
    Any,
}

const fn required(name: &'static str, kind: Kind) -> Argument {
    Argument {
        name,
        kind,
        required: true,
    }
}

const fn optional(name: &'static str, kind: Kind) -> Argument {
    Argument {
        name,
        kind,
        required: false,
    }
}

/// Further arguments are taken as properties of what the command makes, which checks them.
const PROPERTIES: Argument = optional("", Kind::Any);

/// QEMU's bound on the downtime limit, in milliseconds.
const MAX_DOWNTIME_MS: u64 = 2_000_000;

/// Every command, sorted by name.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "cont",
        summary: "Let a paused guest go on.",
        arguments: &[],
        run: |vm, _| done(vm.cont()?),
    },
    Command {
        name: "device-list-properties",
        summary: "The properties with which a device of a type can be made.",
        arguments: &[required("typename", Kind::Str)],
        run: |vm, arguments| objects::list_device_properties(vm, arguments.str("typename")),
    },
    Command {
        name: "device_add",
        summary: "Add a device to the machine; further arguments are its properties.",
        arguments: &[required("driver", Kind::Str), optional("id", Kind::Str), PROPERTIES],
        run: |vm, arguments| {
            let properties = arguments.properties(&["driver", "id"]);
            done(vm.device_add(arguments.str("driver"), arguments.opt_str("id"), properties)?)
        },
    },
    Command {
        name: "device_del",
        summary: "Take a device off the machine, by its id or path; DEVICE_DELETED says when it is gone.",
        arguments: &[required("id", Kind::Str)],
        run: |vm, arguments| done(vm.device_del(arguments.str("id"))?),
    },
    Command {
        name: "migrate",
        summary: "Start to send the guest to tcp:HOST:PORT or unix:PATH, or to save it in file:PATH and leave it paused.",
        // `detach` is in QMP for old clients only and means nothing there either.
        arguments: &[required("uri", Kind::Str), optional("detach", Kind::Bool)],
        run: |vm, arguments| begun(vm.migrate(arguments.str("uri"))?),
    },
    Command {
        name: "migrate-incoming",
        summary: "Listen for a guest; \"query-migrate\" has the address then.",
        arguments: &[required("uri", Kind::Str)],
        run: |vm, arguments| begun(vm.migrate_incoming(arguments.str("uri"))?),
    },
    Command {
        name: "migrate-set-capabilities",
        summary: "Ask for capabilities of migrations. Each has one state that it can be in; \"query-migrate-capabilities\" shows it.",
        arguments: &[required("capabilities", Kind::List)],
        run: |_, arguments| done(capabilities::check(arguments.list("capabilities"))?),
    },
    Command {
        name: "migrate-set-parameters",
        summary: "Change parameters of later migrations and of the one under way: downtime-limit in milliseconds, bandwidths in bytes \
                  per second, 0 for none.",
        arguments: &[
            optional("downtime-limit", Kind::Uint(MAX_DOWNTIME_MS)),
            optional("max-bandwidth", Kind::Uint(u64::MAX)),
            optional("avail-switchover-bandwidth", Kind::Uint(u64::MAX)),
        ],
        run: |vm, arguments| {
            done(vm.set_parameters(MigrationParameters {
                downtime_limit: arguments.uint("downtime-limit").map(Duration::from_millis),
                max_bandwidth: arguments.uint("max-bandwidth"),
                switchover_bandwidth: arguments.uint("avail-switchover-bandwidth"),
            })?)
        },
    },
    Command {
        name: "migrate_cancel",
        summary: "Give up the migration or snapshot under way; the guest runs on.",
        arguments: &[],
        run: |vm, _| done(vm.migrate_cancel()?),
    },
    Command {
        name: "object-add",
        summary: "Make an object under /objects; further arguments are its properties.",
        arguments: &[required("qom-type", Kind::Str), required("id", Kind::Str), PROPERTIES],
        run: |vm, arguments| {
            let properties = arguments.properties(&["qom-type", "id"]);
            done(vm.object_add(arguments.str("qom-type"), arguments.str("id"), properties)?)
        },
    },
    Command {
        name: "object-del",
        summary: "Delete an object under /objects.",
        arguments: &[required("id", Kind::Str)],
        run: |vm, arguments| done(vm.object_del(arguments.str("id"))?),
    },
    Command {
        name: "qom-get",
        summary: "The value of an object's property.",
        arguments: &[required("path", Kind::Str), required("property", Kind::Str)],
        run: |vm, arguments| objects::get(vm, arguments.str("path"), arguments.str("property")),
    },
    Command {
        name: "qom-list",
        summary: "The properties and children of an object.",
        arguments: &[required("path", Kind::Str)],
        run: |vm, arguments| objects::list(vm, arguments.str("path")),
    },
    Command {
        name: "qom-list-properties",
        summary: "The properties of a type's objects.",
        arguments: &[required("typename", Kind::Str)],
        run: |vm, arguments| objects::list_type_properties(vm, arguments.str("typename")),
    },
    Command {
        name: "qom-list-types",
        summary: "The types that there are.",
        arguments: &[optional("implements", Kind::Str), optional("abstract", Kind::Bool)],
        run: |vm, arguments| {
            let with_abstract = arguments.bool("abstract").unwrap_or(true);
            objects::list_types(vm, arguments.opt_str("implements"), with_abstract)
        },
    },
    Command {
        name: "qom-set",
        summary: "Set an object's property, as long as the object is not in use.",
        arguments: &[
            required("path", Kind::Str),
            required("property", Kind::Str),
            required("value", Kind::Any),
        ],
        run: |vm, arguments| {
            let (path, property) = (arguments.str("path"), arguments.str("property"));
            done(objects::set(vm, path, property, arguments.value("value"))?)
        },
    },
    Command {
        name: "query-chardev",
        summary: "Where the guest's character devices lead.",
        arguments: &[],
        run: |vm, _| Ok(vm.chardevs().iter().map(replies::chardev).collect()),
    },
    Command {
        name: "query-commands",
        summary: "The commands that there are.",
        arguments: &[],
        run: |_, _| Ok(COMMANDS.iter().map(|command| json!({ "name": command.name })).collect()),
    },
    Command {
        name: "query-cpu-definitions",
        summary: "The CPU models, and what this host lacks of each.",
        arguments: &[],
        run: |vm, _| Ok(cpu_models::definitions(&vm.host_features()?)),
    },
    Command {
        name: "query-cpu-model-expansion",
        summary: "What a CPU model stands for: a model with a version and the difference (static), or every feature (full).",
        arguments: &[
            required("type", Kind::OneOf(&["static", "full"])),
            required("model", Kind::Object),
        ],
        run: |vm, arguments| {
            cpu_models::expansion(arguments.str("type"), arguments.object("model"), &vm.host_features()?)
        },
    },
    Command {
        name: "query-cpus-fast",
        summary: "The vCPUs and their host threads.",
        arguments: &[],
        run: |vm, _| Ok(vm.vcpus().iter().map(replies::vcpu).collect()),
    },
    Command {
        name: "query-kvm",
        summary: "Whether KVM runs the guest.",
        arguments: &[],
        run: |vm, _| Ok(replies::kvm(&vm.info())),
    },
    Command {
        name: "query-machines",
        summary: "The machines that a guest can have.",
        arguments: &[],
        run: |vm, _| Ok(replies::machine_list(&MachineType::all(&vm.types())).into()),
    },
    Command {
        name: "query-migrate",
        summary: "How the current or last migration or snapshot stands.",
        arguments: &[],
        run: |vm, _| Ok(replies::migration(&vm.query_migrate())),
    },
    Command {
        name: "query-migrate-capabilities",
        summary: "The capabilities of migrations, and whether they are on.",
        arguments: &[],
        run: |_, _| Ok(capabilities::list()),
    },
    Command {
        name: "query-migrate-parameters",
        summary: "The parameters of migrations.",
        arguments: &[],
        run: |vm, _| Ok(replies::parameters(&vm.parameters())),
    },
    Command {
        name: "query-name",
        summary: "The VM's name.",
        arguments: &[],
        run: |vm, _| Ok(json!({ "name": vm.name() })),
    },
    Command {
        name: "query-status",
        summary: "Whether the guest runs, and if not, why.",
        arguments: &[],
        run: |vm, _| Ok(replies::status(vm.status())),
    },
    Command {
        name: "query-uuid",
        summary: "The identity that the VM keeps for life.",
        arguments: &[],
        run: |vm, _| Ok(replies::uuid(&vm.info())),
    },
    Command {
        name: "query-version",
        summary: "The version of Tern.",
        arguments: &[],
        run: |_, _| Ok(version()),
    },
    Command {
        name: "quit",
        summary: "End the VM without asking the guest.",
        arguments: &[],
        run: |vm, _| done(vm.quit(ShutdownReason::HostQmpQuit)?),
    },
    Command {
        name: "stop",
        summary: "Pause the guest.",
        arguments: &[],
        run: |vm, _| done(vm.stop()?),
    },
    Command {
        name: "system_powerdown",
        summary: "Press the power button; a guest that listens to it shuts itself down.",
        arguments: &[],
        run: |vm, _| done(vm.system_powerdown()?),
    },
    Command {
        name: "system_reset",
        summary: "Reset the machine; the guest boots anew.",
        arguments: &[],
        run: |vm, _| done(vm.system_reset()?),
    },
    Command {
        name: "x-tern-info",
        summary: "What the VM is made of and what it does.",
        arguments: &[],
        run: |vm, _| Ok(replies::info(vm)),
    },
    Command {
        name: "x-tern-resolve",
        summary: "Decide about a guest that was handed over and never heard of: it runs here, or it is dropped.",
        arguments: &[required("decision", Kind::OneOf(&["resume", "discard"]))],
        run: |vm, arguments| {
            let decision = match arguments.str("decision") {
                "resume" => Resolution::Resume,
                _ => Resolution::Discard,
            };
            done(vm.resolve(decision)?)
        },
    },
    Command {
        name: "x-tern-snapshot",
        summary: "Start to write a snapshot; the guest then goes on, or with \"stop\" stays paused.",
        arguments: &[required("path", Kind::Str), optional("stop", Kind::Bool)],
        run: |vm, arguments| {
            let then = match arguments.bool("stop") {
                Some(true) => AfterSnapshot::Stop,
                _ => AfterSnapshot::Continue,
            };
            let path = Path::new(arguments.str("path"));
            if !path.is_absolute() {
                return Err(QmpError::generic(
                    "Parameter 'path' must be absolute: the VM has a working directory of its own",
                ));
            }
            begun(vm.snapshot(path, then)?)
        },
    },
];

/// What QEMU's clients may ask for and is left out for good, with the reason that they are told.
const LEFT_OUT: &[(&str, &str)] = &[(
    "human-monitor-command",
    "there is no monitor for people behind this one; what can be done is in \"query-commands\"",
)];

/// Checks the arguments and runs the command.
pub(super) fn execute(vm: &dyn Control, name: &str, arguments: Map<String, Value>) -> Result<Value, QmpError> {
    let Ok(at) = COMMANDS.binary_search_by(|command| command.name.cmp(name)) else {
        let reason = LEFT_OUT.iter().find(|(left_out, _)| *left_out == name);
        let reason = reason.map(|(_, reason)| format!(": {reason}")).unwrap_or_default();
        let description = format!("The command {name} has not been found{reason}");
        return Err(QmpError::new(ErrorClass::CommandNotFound, description));
    };
    let command = &COMMANDS[at];
    let arguments = Arguments::check(command.arguments, arguments)?;
    (command.run)(vm, &arguments)
}

/// What commands return that have nothing to say.
fn done((): ()) -> Result<Value, QmpError> {
    Ok(json!({}))
}

/// What commands return that start something: by this, its events and its account are told from those of others.
fn begun(JobId(job): JobId) -> Result<Value, QmpError> {
    Ok(json!({ "x-tern-job": job }))
}

/// Arguments that fit the command's table.
#[derive(Debug)]
struct Arguments(Map<String, Value>);

impl Arguments {
    fn check(known: &[Argument], given: Map<String, Value>) -> Result<Self, QmpError> {
        let takes_properties = known.iter().any(|argument| argument.name == PROPERTIES.name);
        let is_known = |name: &String| known.iter().any(|argument| argument.name == *name);
        if !takes_properties && let Some(name) = given.keys().find(|name| !is_known(name)) {
            return Err(QmpError::generic(format!("Parameter '{name}' is unexpected")));
        }
        for Argument { name, kind, required } in known {
            match given.get(*name) {
                None if *required => return Err(QmpError::generic(format!("Parameter '{name}' is missing"))),
                None => {}
                Some(value) => kind.check(name, value)?,
            }
        }
        Ok(Self(given))
    }

    /// A required text.
    fn str(&self, name: &str) -> &str {
        self.opt_str(name).unwrap_or_default()
    }

    fn opt_str(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// A required value of any kind.
    fn value(&self, name: &str) -> &Value {
        self.0.get(name).unwrap_or(&Value::Null)
    }

    /// All that is none of `own`, as values of properties.
    fn properties(&self, own: &[&str]) -> Properties {
        let further = self.0.iter().filter(|(name, _)| !own.contains(&name.as_str()));
        further
            .map(|(name, value)| (name.clone(), PropertyValue::from(value)))
            .collect()
    }

    /// A required list.
    fn list(&self, name: &str) -> &[Value] {
        self.0.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// A required object.
    fn object(&self, name: &str) -> &Map<String, Value> {
        static NOTHING: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
        self.0.get(name).and_then(Value::as_object).unwrap_or(&NOTHING)
    }

    fn bool(&self, name: &str) -> Option<bool> {
        self.0.get(name)?.as_bool()
    }

    fn uint(&self, name: &str) -> Option<u64> {
        self.0.get(name)?.as_u64()
    }
}

impl Kind {
    fn check(self, name: &str, value: &Value) -> Result<(), QmpError> {
        let wrong_type =
            |expected| QmpError::generic(format!("Invalid parameter type for '{name}', expected: {expected}"));
        match self {
            Self::Str => value.as_str().map(drop).ok_or_else(|| wrong_type("string")),
            Self::Object => value.as_object().map(drop).ok_or_else(|| wrong_type("object")),
            Self::List => value.as_array().map(drop).ok_or_else(|| wrong_type("array")),
            Self::Any => Ok(()),
            Self::Bool => value.as_bool().map(drop).ok_or_else(|| wrong_type("boolean")),
            Self::Uint(max) => match value.as_u64() {
                None => Err(wrong_type("integer")),
                Some(value) if value > max => Err(QmpError::generic(format!(
                    "Parameter '{name}' expects a value between 0 and {max}"
                ))),
                Some(_) => Ok(()),
            },
            Self::OneOf(choices) => match value.as_str() {
                None => Err(wrong_type("string")),
                Some(value) if !choices.contains(&value) => Err(QmpError::generic(format!(
                    "Parameter '{name}' does not accept value '{value}'; it can be {}",
                    choices.join(" or ")
                ))),
                Some(_) => Ok(()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_vm::{Asked, FakeVm};

    fn run(vm: &FakeVm, name: &str, arguments: Value) -> Result<Value, QmpError> {
        let Value::Object(arguments) = arguments else {
            unreachable!("tests give objects")
        };
        execute(vm, name, arguments)
    }

    fn refused(name: &str, arguments: Value) -> String {
        let vm = FakeVm::default();
        let error = run(&vm, name, arguments).expect_err("refused");
        assert_eq!(vm.asked(), [], "no side effect");
        error.description
    }

    #[test]
    fn the_table_is_sorted_and_every_command_of_tern_alone_has_its_prefix() {
        assert!(COMMANDS.is_sorted_by(|one, two| one.name < two.name));
        let ours: Vec<_> = COMMANDS
            .iter()
            .map(|command| command.name)
            .filter(|name| name.contains("tern"))
            .collect();
        assert_eq!(ours, ["x-tern-info", "x-tern-resolve", "x-tern-snapshot"]);
    }

    #[test]
    fn wrong_arguments_are_refused_before_anything_happens() {
        assert_eq!(refused("stop", json!({ "now": true })), "Parameter 'now' is unexpected");
        assert_eq!(refused("migrate", json!({})), "Parameter 'uri' is missing");
        assert_eq!(
            refused("migrate", json!({ "uri": 1 })),
            "Invalid parameter type for 'uri', expected: string"
        );
        assert_eq!(
            refused("migrate", json!({ "uri": "tcp:h:1", "blk": true })),
            "Parameter 'blk' is unexpected"
        );
        assert_eq!(
            refused("migrate-set-parameters", json!({ "xbzrle-cache-size": 1 })),
            "Parameter 'xbzrle-cache-size' is unexpected"
        );
        assert!(refused("migrate-set-capabilities", json!({ "capabilities": {} })).contains("expected: array"));
        assert!(refused("migrate-set-parameters", json!({ "downtime-limit": -1 })).contains("integer"));
        assert!(refused("migrate-set-parameters", json!({ "downtime-limit": 2_000_001 })).contains("2000000"));
        assert!(refused("x-tern-resolve", json!({ "decision": "maybe" })).contains("resume or discard"));
        assert!(refused("x-tern-snapshot", json!({ "path": "here" })).contains("absolute"));
    }

    #[test]
    fn what_is_added_gets_all_further_arguments_as_properties() {
        let vm = FakeVm::default();
        run(
            &vm,
            "device_add",
            json!({ "driver": "d", "id": "a", "iobase": 0x2f8, "on": true }),
        )
        .expect("added");
        run(&vm, "object-add", json!({ "qom-type": "t", "id": "b", "text": "x" })).expect("added");
        run(&vm, "device_del", json!({ "id": "a" })).expect("taken away");
        run(&vm, "object-del", json!({ "id": "b" })).expect("deleted");
        let properties = vec![
            ("iobase".into(), PropertyValue::Uint(0x2f8)),
            ("on".into(), PropertyValue::Bool(true)),
        ];
        assert_eq!(
            vm.asked(),
            [
                Asked::DeviceAdd("d".into(), Some("a".into()), properties),
                Asked::ObjectAdd("t".into(), "b".into(), vec![("text".into(), "x".into())]),
                Asked::DeviceDel("a".into()),
                Asked::ObjectDel("b".into()),
            ]
        );
        assert_eq!(
            refused("device_add", json!({ "id": "a" })),
            "Parameter 'driver' is missing"
        );
        assert_eq!(
            refused("device_del", json!({ "id": "a", "force": 1 })),
            "Parameter 'force' is unexpected"
        );
    }

    #[test]
    fn an_unknown_command_has_its_own_class() {
        let error = run(&FakeVm::default(), "netdev_add", json!({})).expect_err("refused");
        assert_eq!(error.class, ErrorClass::CommandNotFound);
        assert_eq!(error.description, "The command netdev_add has not been found");
        let error = run(
            &FakeVm::default(),
            "human-monitor-command",
            json!({ "command-line": "info" }),
        );
        let error = error.expect_err("refused");
        assert_eq!(error.class, ErrorClass::CommandNotFound);
        assert!(
            error.description.contains("\"query-commands\""),
            "{}",
            error.description
        );
        assert!(COMMANDS.iter().all(|command| command.name != "human-monitor-command"));
    }

    #[test]
    fn commands_reach_the_vm_with_what_they_were_given() {
        let vm = FakeVm::default();
        let mut jobs = 0;
        for (name, arguments) in [
            ("stop", json!({})),
            ("cont", json!({})),
            ("system_reset", json!({})),
            ("system_powerdown", json!({})),
            (
                "migrate-set-parameters",
                json!({ "downtime-limit": 30, "max-bandwidth": 7, "avail-switchover-bandwidth": 9 }),
            ),
            ("migrate", json!({ "uri": "tcp:h:1", "detach": true })),
            ("migrate_cancel", json!({})),
            ("migrate-incoming", json!({ "uri": "tcp:h:0" })),
            ("x-tern-snapshot", json!({ "path": "/s", "stop": true })),
            ("x-tern-snapshot", json!({ "path": "/s" })),
            ("x-tern-resolve", json!({ "decision": "discard" })),
            ("quit", json!({})),
        ] {
            let begins = ["migrate", "migrate-incoming", "x-tern-snapshot"].contains(&name);
            let returned = if begins {
                jobs += 1;
                json!({ "x-tern-job": jobs })
            } else {
                json!({})
            };
            assert_eq!(run(&vm, name, arguments), Ok(returned), "{name}");
        }
        let all = MigrationParameters {
            downtime_limit: Some(Duration::from_millis(30)),
            max_bandwidth: Some(7),
            switchover_bandwidth: Some(9),
        };
        assert_eq!(
            vm.asked(),
            [
                Asked::Stop,
                Asked::Cont,
                Asked::Reset,
                Asked::Powerdown,
                Asked::Parameters(all),
                Asked::Migrate("tcp:h:1".into()),
                Asked::Cancel,
                Asked::Incoming("tcp:h:0".into()),
                Asked::Snapshot("/s".into(), AfterSnapshot::Stop),
                Asked::Snapshot("/s".into(), AfterSnapshot::Continue),
                Asked::Resolve(Resolution::Discard),
                Asked::Quit(ShutdownReason::HostQmpQuit),
            ]
        );
    }

    #[test]
    fn a_refusal_of_the_vm_is_the_reply() {
        let vm = FakeVm::refusing();
        let error = run(&vm, "cont", json!({})).expect_err("refused");
        assert_eq!(error, QmpError::generic("the fake refuses"));
    }

    #[test]
    fn questions_are_answered_in_qmps_words() {
        let vm = FakeVm::default();
        let ask = |name: &str| run(&vm, name, json!({})).expect(name);
        assert_eq!(ask("query-status"), json!({ "running": true, "status": "running" }));
        assert_eq!(ask("query-name"), json!({ "name": "fake" }));
        assert_eq!(ask("query-migrate"), json!({}));
        assert_eq!(
            ask("query-migrate-parameters"),
            json!({ "downtime-limit": 300, "max-bandwidth": 0, "avail-switchover-bandwidth": 0 })
        );
        assert_eq!(
            ask("query-migrate-capabilities")[0],
            json!({ "capability": "events", "state": true })
        );
        assert_eq!(ask("query-kvm")["present"], true);
        assert_eq!(ask("query-cpus-fast")[0]["thread-id"], 4711);
        assert_eq!(
            ask("query-chardev"),
            json!([{ "label": "serial0", "filename": "pty:/dev/pts/3", "frontend-open": true }])
        );
        assert!(
            ask("query-version")["package"]
                .as_str()
                .expect("text")
                .starts_with("tern ")
        );
        assert_eq!(ask("query-commands").as_array().expect("a list").len(), COMMANDS.len());
    }
}
