//! The commands of the prompt: QEMU's words, and what each of them asks of the VM.

use serde_json::{Value, json};

use super::super::{
    error::CliError,
    follow::Talk,
    info::Outline,
    messages::Messages,
    object_tree::{as_qom_tree, as_qtree, entries, tree},
    progress::Bar,
    values::{absolute, json_or_text},
};
use super::words::words;
use crate::monitor::place::VmAddress;

/// What comes of a line.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    /// There was no command.
    Nothing,
    /// The VM has answered: for people, where there is something to say, and as JSON.
    Said { text: String, value: Value },
    /// The user leaves the prompt, or has ended the VM.
    Leave,
}

/// What an argument is, for checks and completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    Command,
    Subject,
    Path,
    /// A property of the object that the argument before names.
    Property,
    Address,
    Parameter,
    Text,
}

/// A command of the prompt.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) name: &'static str,
    pub(super) short: Option<&'static str>,
    /// As the help shows them.
    arguments: &'static str,
    pub(super) takes: &'static [Takes],
    /// How many of them there have to be.
    least: usize,
    help: &'static str,
    run: fn(&mut Session<'_>, &[&str]) -> Result<Outcome, CliError>,
}

/// What `info` can be asked for.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) name: &'static str,
    help: &'static str,
    run: fn(&mut Session<'_>) -> Result<Outcome, CliError>,
}

/// A command that asks one thing of QMP, by the same name, and says nothing.
const fn plain(name: &'static str, short: Option<&'static str>, help: &'static str, run: Run) -> Command {
    Command {
        name,
        short,
        arguments: "",
        takes: &[],
        least: 0,
        help,
        run,
    }
}

type Run = fn(&mut Session<'_>, &[&str]) -> Result<Outcome, CliError>;

pub(super) const COMMANDS: &[Command] = &[
    plain("cont", Some("c"), "let the guest go on", |vm, _| {
        vm.quietly("cont", json!({}))
    }),
    Command {
        name: "device_add",
        short: None,
        arguments: "TYPE[,id=ID][,PROPERTY=VALUE]...",
        takes: &[Takes::Text],
        least: 1,
        help: "plug a device into the machine",
        run: |vm, arguments| {
            let arguments = options("driver", arguments[0])?;
            vm.quietly("device_add", arguments)
        },
    },
    Command {
        name: "device_del",
        short: None,
        arguments: "ID",
        takes: &[Takes::Text],
        least: 1,
        help: "take out a device that was plugged in",
        run: |vm, arguments| vm.quietly("device_del", json!({ "id": arguments[0] })),
    },
    plain("exit", None, "leave this prompt; the VM goes on (as Ctrl-D)", |_, _| {
        Ok(Outcome::Leave)
    }),
    Command {
        name: "help",
        short: Some("?"),
        arguments: "[COMMAND]",
        takes: &[Takes::Command],
        least: 0,
        help: "show what there is",
        run: |_, arguments| help(arguments.first().copied()),
    },
    Command {
        name: "info",
        short: None,
        arguments: "SUBJECT",
        takes: &[Takes::Subject],
        least: 0,
        help: "show something of the VM",
        run: info,
    },
    Command {
        name: "migrate",
        short: None,
        arguments: "[-d] URI",
        takes: &[Takes::Address],
        least: 1,
        help: "send the guest to tcp:HOST:PORT or unix:PATH, or save it in file:PATH; with -d do not wait",
        run: migrate,
    },
    plain("migrate_cancel", None, "give up the migration under way", |vm, _| {
        vm.quietly("migrate_cancel", json!({}))
    }),
    Command {
        name: "migrate_set_parameter",
        short: None,
        arguments: "NAME VALUE",
        takes: &[Takes::Parameter, Takes::Text],
        least: 2,
        help: "change a parameter of migrations: downtime-limit in milliseconds, bandwidths in bytes per second",
        run: |vm, arguments| {
            let mut parameters = json!({});
            parameters[arguments[0]] = json_or_text(arguments[1]);
            vm.quietly("migrate-set-parameters", parameters)
        },
    },
    Command {
        name: "object_add",
        short: None,
        arguments: "TYPE,id=ID[,PROPERTY=VALUE]...",
        takes: &[Takes::Text],
        least: 1,
        help: "add an object to /objects",
        run: |vm, arguments| {
            let arguments = options("qom-type", arguments[0])?;
            vm.quietly("object-add", arguments)
        },
    },
    Command {
        name: "object_del",
        short: None,
        arguments: "ID",
        takes: &[Takes::Text],
        least: 1,
        help: "take away an object that was added",
        run: |vm, arguments| vm.quietly("object-del", json!({ "id": arguments[0] })),
    },
    Command {
        name: "qom-get",
        short: None,
        arguments: "PATH PROPERTY",
        takes: &[Takes::Path, Takes::Property],
        least: 2,
        help: "show a property of an object",
        run: |vm, arguments| {
            let got = vm.ask("qom-get", json!({ "path": arguments[0], "property": arguments[1] }))?;
            said(serde_json::to_string_pretty(&got).unwrap_or_default(), got)
        },
    },
    Command {
        name: "qom-list",
        short: None,
        arguments: "[PATH]",
        takes: &[Takes::Path],
        least: 0,
        help: "list the properties and children of an object",
        run: |vm, arguments| {
            let path = arguments.first().copied().unwrap_or("/");
            let list = vm.ask("qom-list", json!({ "path": path }))?;
            let lines: Vec<_> = entries(&list).map(|(name, kind)| format!("{name} ({kind})")).collect();
            said(lines.join("\n"), list)
        },
    },
    Command {
        name: "qom-set",
        short: None,
        arguments: "PATH PROPERTY VALUE",
        takes: &[Takes::Path, Takes::Property, Takes::Text],
        least: 3,
        help: "change a property of an object",
        run: |vm, arguments| {
            let [path, property, new] = [arguments[0], arguments[1], arguments[2]];
            vm.quietly(
                "qom-set",
                json!({ "path": path, "property": property, "value": json_or_text(new) }),
            )
        },
    },
    plain(
        "quit",
        Some("q"),
        "end the VM (to leave this prompt alone: exit)",
        |vm, _| {
            vm.ask("quit", json!({}))?;
            Ok(Outcome::Leave)
        },
    ),
    plain("stop", Some("s"), "pause the guest", |vm, _| {
        vm.quietly("stop", json!({}))
    }),
    plain(
        "system_powerdown",
        None,
        "press the power button; a guest that takes notice switches itself off",
        |vm, _| vm.quietly("system_powerdown", json!({})),
    ),
    plain(
        "system_reset",
        None,
        "reset the machine; the guest boots anew",
        |vm, _| vm.quietly("system_reset", json!({})),
    ),
];

pub(super) const SUBJECTS: &[Subject] = &[
    Subject {
        name: "cpus",
        help: "the vCPUs and their threads",
        run: |vm| {
            let cpus = vm.ask("query-cpus-fast", json!({}))?;
            let line = |cpu: &Value| match cpu["thread-id"].as_u64() {
                Some(thread) => format!("CPU #{}: thread_id={thread}", cpu["cpu-index"]),
                None => format!("CPU #{}: no thread runs it", cpu["cpu-index"]),
            };
            let lines: Vec<_> = cpus.as_array().into_iter().flatten().map(line).collect();
            said(lines.join("\n"), cpus)
        },
    },
    Subject {
        name: "kvm",
        help: "whether KVM runs the guest",
        run: |vm| {
            let kvm = vm.ask("query-kvm", json!({}))?;
            let support = match (kvm["present"] == true, kvm["enabled"] == true) {
                (_, true) => "enabled",
                (true, false) => "disabled",
                (false, false) => "not there",
            };
            said(format!("kvm support: {support}"), kvm)
        },
    },
    Subject {
        name: "migrate",
        help: "how the last migration or snapshot stands",
        run: |vm| vm.outline("query-migrate", "there was no migration"),
    },
    Subject {
        name: "migrate_parameters",
        help: "the parameters of migrations",
        run: |vm| {
            let parameters = vm.ask("query-migrate-parameters", json!({}))?;
            let members = parameters.as_object().into_iter().flatten();
            let lines: Vec<_> = members.map(|(name, value)| parameter(name, value)).collect();
            said(lines.join("\n"), parameters)
        },
    },
    Subject {
        name: "name",
        help: "what the VM is called",
        run: |vm| {
            let name = vm.ask("query-name", json!({}))?;
            said(name["name"].as_str().unwrap_or_default().to_owned(), name)
        },
    },
    Subject {
        name: "qom-tree",
        help: "all objects",
        run: |vm| {
            let tree = tree(&mut |command, arguments| vm.ask(command, arguments), "/", false)?;
            said(as_qom_tree(&tree), tree)
        },
    },
    Subject {
        name: "qtree",
        help: "the machine's objects with their properties",
        run: |vm| {
            let tree = tree(&mut |command, arguments| vm.ask(command, arguments), "/machine", true)?;
            said(as_qtree(&tree), tree)
        },
    },
    Subject {
        name: "status",
        help: "whether the guest runs, and if not, why",
        run: |vm| {
            let status = vm.ask("query-status", json!({}))?;
            let text = match (status["running"] == true, status["status"].as_str()) {
                (true, _) => "running".to_owned(),
                (false, None | Some("paused")) => "paused".to_owned(),
                (false, Some(why)) => format!("paused ({why})"),
            };
            said(format!("VM status: {text}"), status)
        },
    },
    Subject {
        name: "version",
        help: "the version of Tern",
        run: |vm| {
            let version = vm.ask("query-version", json!({}))?;
            said(version["package"].as_str().unwrap_or_default().to_owned(), version)
        },
    },
];

fn said(text: String, value: Value) -> Result<Outcome, CliError> {
    Ok(Outcome::Said { text, value })
}

/// A parameter of migrations with its unit, and where 0 stands for something else with what it stands for.
fn parameter(name: &str, value: &Value) -> String {
    let unit = match (name, value.as_u64()) {
        ("downtime-limit", _) => " ms",
        ("max-bandwidth", Some(0)) => " bytes/second (no limit)",
        ("avail-switchover-bandwidth", Some(0)) => " bytes/second (as measured)",
        ("max-bandwidth" | "avail-switchover-bandwidth", _) => " bytes/second",
        _ => "",
    };
    format!("{name}: {value}{unit}")
}

/// `TYPE,NAME=VALUE,...` as the members of a command of QMP, where the type is called `kind`.
fn options(kind: &str, text: &str) -> Result<Value, CliError> {
    let mut parts = text.split(',');
    let mut members = json!({ kind: parts.next().unwrap_or_default() });
    for part in parts {
        let Some((name, value)) = part.split_once('=') else {
            let text = format!("{part:?} in {text:?} is no option; one is NAME=VALUE");
            return Err(CliError::Usage(text));
        };
        // An id is a text, also where it looks like a number.
        members[name] = if name == "id" {
            value.into()
        } else {
            json_or_text(value)
        };
    }
    Ok(members)
}

/// The VM, connected to when the first thing is asked of it.
struct Session<'a> {
    address: &'a VmAddress,
    talk: Option<Talk>,
    messages: Messages,
}

impl Session<'_> {
    fn talk(&mut self) -> Result<&mut Talk, CliError> {
        match &mut self.talk {
            Some(talk) => Ok(talk),
            none => Ok(none.insert(Talk::to(self.address)?)),
        }
    }

    fn ask(&mut self, command: &str, arguments: Value) -> Result<Value, CliError> {
        self.talk()?.ask(command, arguments)
    }

    /// Asks for something whose answer says nothing.
    fn quietly(&mut self, command: &str, arguments: Value) -> Result<Outcome, CliError> {
        said(String::new(), self.ask(command, arguments)?)
    }

    /// Asks for something whose answer is shown as it is.
    fn outline(&mut self, command: &str, nothing: &str) -> Result<Outcome, CliError> {
        let answer = self.ask(command, json!({}))?;
        let text = Outline(&answer).to_string();
        said(if text.is_empty() { nothing.to_owned() } else { text }, answer)
    }
}

/// Carries out a line. Each has a connection of its own: one that waits for its user would have to be read all the same, for events come
/// on it.
pub(super) fn execute(address: &VmAddress, line: &str, messages: Messages) -> Result<Outcome, CliError> {
    let words = words(line);
    let Some((name, arguments)) = words.split_first() else {
        return Ok(Outcome::Nothing);
    };
    let command = find(&name.text)?;
    let arguments: Vec<&str> = arguments.iter().map(|word| word.text.as_str()).collect();
    // The one option of the one command that has any.
    let options = arguments.iter().filter(|argument| **argument == "-d").count();
    let given = arguments.len() - if command.name == "migrate" { options } else { 0 };
    if given < command.least || given > command.takes.len() {
        let usage = format!("{} {}", command.name, command.arguments);
        return Err(CliError::Usage(format!("it is written: {}", usage.trim_end())));
    }
    let mut session = Session {
        address,
        talk: None,
        messages,
    };
    (command.run)(&mut session, &arguments)
}

/// The command of this name.
pub(super) fn find(name: &str) -> Result<&'static Command, CliError> {
    let found = COMMANDS
        .iter()
        .find(|command| command.name == name || command.short == Some(name));
    found.ok_or_else(|| {
        CliError::Usage(format!(
            "unknown command: {name:?}; \"help\" lists those that there are"
        ))
    })
}

fn help(about: Option<&str>) -> Result<Outcome, CliError> {
    let one = about.map(find).transpose()?;
    let lines: Vec<(String, &str)> = match one {
        Some(command) if command.name == "info" => subjects(),
        Some(command) => vec![usage(command)],
        None => COMMANDS.iter().map(usage).collect(),
    };
    let width = lines.iter().map(|(what, _)| what.len()).max().unwrap_or_default();
    let text: Vec<_> = lines
        .iter()
        .map(|(what, help)| format!("{what:width$}  {help}"))
        .collect();
    let value = lines
        .iter()
        .map(|(what, help)| json!({ "command": what, "help": help }))
        .collect();
    said(text.join("\n"), value)
}

fn usage(command: &Command) -> (String, &'static str) {
    let names = match command.short {
        Some(short) => format!("{}|{short}", command.name),
        None => command.name.to_owned(),
    };
    (
        format!("{names} {}", command.arguments).trim_end().to_owned(),
        command.help,
    )
}

fn subjects() -> Vec<(String, &'static str)> {
    let line = |subject: &Subject| (format!("info {}", subject.name), subject.help);
    SUBJECTS.iter().map(line).collect()
}

fn info(vm: &mut Session<'_>, arguments: &[&str]) -> Result<Outcome, CliError> {
    let Some(name) = arguments.first() else {
        return help(Some("info"));
    };
    let subject = SUBJECTS.iter().find(|subject| subject.name == *name);
    let unknown = || {
        let names: Vec<_> = SUBJECTS.iter().map(|subject| subject.name).collect();
        CliError::Usage(format!("there is no \"info {name}\"; it can be {}", names.join(", ")))
    };
    (subject.ok_or_else(unknown)?.run)(vm)
}

fn migrate(vm: &mut Session<'_>, arguments: &[&str]) -> Result<Outcome, CliError> {
    let (options, uri): (Vec<&str>, Vec<&str>) = arguments.iter().partition(|argument| **argument == "-d");
    let uri = uri[0].parse().map_err(|error| CliError::Usage(format!("{error}")))?;
    let arguments = json!({ "uri": absolute(&uri).to_string() });
    if !options.is_empty() {
        return vm.quietly("migrate", arguments);
    }
    let what = "the migration";
    let mut bar = Bar::new(what, vm.messages);
    let state = vm.talk()?.follow(what, "migrate", arguments, &mut bar)?;
    said("Migration status: completed".to_owned(), state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        control::{Control, MigrationStatus},
        event_loop::EventLoop,
        fake_vm::{Asked, FakeVm},
        monitor::MonitorServer,
        test_support::TempDir,
        unix_socket::PrivateListener,
    };
    use std::sync::Arc;
    use vmstate::qom::PropertyValue;

    /// What comes of lines at a fake VM.
    fn at_a_vm(vm: &Arc<FakeVm>, lines: &[&str]) -> Vec<Result<Outcome, CliError>> {
        let dir = TempDir::new();
        let path = dir.path().join("s");
        let control: Arc<dyn Control> = Arc::clone(vm) as _;
        let mut event_loop = EventLoop::new().expect("an event loop");
        let listener = PrivateListener::bind(&path).expect("a fresh path");
        let server = MonitorServer::start(listener, &control, &mut event_loop).expect("a sound socket");
        let handle = event_loop.handle();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                event_loop.run().expect("the loop runs");
                server.finish();
            });
            let address = VmAddress::Socket(path);
            let outcomes = lines.iter().map(|line| execute(&address, line, Messages::new(true)));
            let outcomes = outcomes.collect();
            handle.defer(EventLoop::leave);
            outcomes
        })
    }

    fn text(outcome: &Result<Outcome, CliError>) -> &str {
        match outcome {
            Ok(Outcome::Said { text, .. }) => text,
            other => panic!("nothing is said: {other:?}"),
        }
    }

    #[test]
    fn options_are_written_as_qemu_has_them() {
        assert_eq!(
            options("driver", "mailbox,id=7,iobase=0x2f0,irq=5").expect("options"),
            json!({ "driver": "mailbox", "id": "7", "iobase": "0x2f0", "irq": 5 })
        );
        let error = options("driver", "mailbox,box").expect_err("no value").to_string();
        assert!(error.contains("\"box\""), "{error}");
    }

    #[test]
    fn commands_and_their_short_forms_reach_the_vm() {
        let vm = Arc::new(FakeVm::default());
        let lines = [
            "stop",
            "c",
            "system_reset",
            "migrate -d tcp:h:1",
            "migrate_cancel",
            "exit",
            "",
            "device_add d,id=a,on=true",
            "device_del a",
            "object_del b",
            "q",
        ];
        let outcomes = at_a_vm(&vm, &lines);
        let asked = vm.asked();
        assert_eq!(asked[..3], [Asked::Stop, Asked::Cont, Asked::Reset]);
        assert_eq!(asked[3..5], [Asked::Migrate("tcp:h:1".into()), Asked::Cancel]);
        let properties = vec![("on".into(), PropertyValue::Bool(true))];
        assert_eq!(
            asked[5..8],
            [
                Asked::DeviceAdd("d".into(), Some("a".into()), properties),
                Asked::DeviceDel("a".into()),
                Asked::ObjectDel("b".into())
            ]
        );
        assert!(matches!(asked[8..], [Asked::Quit(_)]), "{asked:?}");
        assert!(matches!(outcomes[5], Ok(Outcome::Leave)));
        assert!(matches!(outcomes[6], Ok(Outcome::Nothing)));
        assert!(matches!(outcomes[10], Ok(Outcome::Leave)));
    }

    #[test]
    fn info_speaks_as_qemus_monitor() {
        let vm = Arc::new(FakeVm::default());
        let lines = [
            "info status",
            "info name",
            "info qom-tree",
            "info migrate",
            "qom-list /",
            "qom-get /machine type",
        ];
        let said = at_a_vm(&vm, &lines);
        assert_eq!(text(&said[0]), "VM status: running");
        assert_eq!(text(&said[1]), "fake");
        assert_eq!(text(&said[2]), "/ (container)\n  /machine (container)");
        assert_eq!(text(&said[3]), "there was no migration");
        assert_eq!(text(&said[4]), "type (string)\nmachine (child<container>)");
        assert_eq!(text(&said[5]), "\"container\"");
        *vm.status.lock() = crate::run_state::RunState::Paused;
        assert_eq!(text(&at_a_vm(&vm, &["info status"])[0]), "VM status: paused");
        *vm.status.lock() = crate::run_state::RunState::PostMigrate;
        assert_eq!(
            text(&at_a_vm(&vm, &["info status"])[0]),
            "VM status: paused (postmigrate)"
        );
        vm.migration.lock().status = MigrationStatus::Active;
        assert_eq!(text(&at_a_vm(&vm, &["info migrate"])[0]), "status: active");
    }

    #[test]
    fn info_tells_numbers_with_their_units_and_what_is_not_there_in_words() {
        let vm = Arc::new(FakeVm::default());
        let said = at_a_vm(&vm, &["info cpus", "info kvm", "info migrate_parameters"]);
        assert_eq!(text(&said[0]), "CPU #0: thread_id=4711\nCPU #1: no thread runs it");
        assert_eq!(text(&said[1]), "kvm support: disabled", "another accelerator runs it");
        assert_eq!(
            text(&said[2]),
            "avail-switchover-bandwidth: 0 bytes/second (as measured)\ndowntime-limit: 300 ms\n\
             max-bandwidth: 0 bytes/second (no limit)"
        );
        assert_eq!(parameter("max-bandwidth", &json!(7)), "max-bandwidth: 7 bytes/second");
        assert_eq!(parameter("x-later", &json!(true)), "x-later: true");
    }

    #[test]
    fn a_property_is_set_by_a_number_or_a_text_and_said_back() {
        let vm = Arc::new(FakeVm::default());
        let root = vm.root().expect("a fake has objects");
        let serial = vm.types().new_object("serial16550").expect("a device");
        root.add_child("serial", serial).expect("a fresh name");
        let lines = [
            "qom-set /serial iobase 744",
            "qom-get /serial iobase",
            "qom-set /serial iobase 0x2f8",
            "qom-get /serial iobase",
            "qom-set /serial iobase low",
        ];
        let said = at_a_vm(&vm, &lines);
        assert_eq!([0, 1, 2, 3].map(|at| text(&said[at])), ["", "744", "", "760"]);
        let refused = said[4].as_ref().expect_err("no number").to_string();
        assert!(refused.contains("iobase") && refused.contains("low"), "{refused}");
    }

    #[test]
    fn a_wrong_line_is_refused_with_the_remedy_and_asks_nothing_of_the_vm() {
        let nobody: VmAddress = "/nowhere/at.all".parse().expect("a path");
        for (line, remedy) in [
            ("fly", "\"help\""),
            ("info weather", "status"),
            ("qom-get /machine", "qom-get PATH PROPERTY"),
            ("stop now", "it is written: stop"),
            ("stop -d", "it is written: stop"),
            ("migrate -d", "migrate [-d] URI"),
            ("migrate nonsense", ""),
            ("help fly", "\"help\""),
        ] {
            let error = execute(&nobody, line, Messages::new(true)).expect_err(line);
            assert!(error.to_string().contains(remedy), "{line}: {error}");
            assert_eq!(error.exit_code().code(), 2, "{line}: {error}");
        }
        let error = execute(&nobody, "stop", Messages::new(true)).expect_err("no such VM");
        assert_eq!(error.exit_code().code(), 3);
    }

    #[test]
    fn the_help_has_every_command_and_the_table_is_sorted() {
        let nobody: VmAddress = "/nowhere/at.all".parse().expect("a path");
        let all = execute(&nobody, "help", Messages::new(true));
        for command in COMMANDS {
            assert!(text(&all).contains(command.name) && text(&all).contains(command.help));
            assert!(command.least <= command.takes.len());
        }
        assert!(COMMANDS.is_sorted_by(|one, two| one.name < two.name));
        assert!(SUBJECTS.is_sorted_by(|one, two| one.name < two.name));
        let subjects = execute(&nobody, "info", Messages::new(true));
        assert!(text(&subjects).contains("info qtree"));
    }
}
