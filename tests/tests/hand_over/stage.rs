//! Where the cases are played: one source process, which has to survive all of them that do not kill it, and a new
//! receiver for each.

use std::collections::VecDeque;

use migration::phases::{Phase, Side};
use serde_json::{Value, json};
use tern_tests::guest::EmbeddedGuest;
use tern_tests::process::{Scratch, VmProcess};

use super::case::{Case, Fault, ReceiverEnd, SourceEnd};

/// What the guest is told: a little memory, always some of it dirty.
const CMDLINE: &str = "mib=4 beat=20 rate=4 dirty=1";
const PAGES: u64 = 4 * 256;

/// Name of the VM at its source.
const SOURCE: &str = "source";
/// Name of the VM at its destination.
const RECEIVER: &str = "receiver";

/// Exit codes of `vm migrate`.
const NOT_MOVED: i32 = 4;
const UNDECIDED: i32 = 5;

/// Says which case it was, should it fail.
struct Title(Case);

impl Drop for Title {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this was the case {:?}", self.0);
        }
    }
}

/// A source and what it still has to suffer.
pub struct Stage {
    home: Scratch,
    source: Option<VmProcess>,
    /// The plan of a source that starts now.
    to_suffer: VecDeque<String>,
    deadlines: &'static str,
}

impl Stage {
    /// Plays `cases` one after the other. `deadlines` are those of both sides.
    pub fn play(cases: &[Case], deadlines: &'static str) {
        let planned = cases.iter().map(|case| case.planned());
        let on_source = planned.filter(|(side, _)| *side == Side::Source);
        let mut stage = Self {
            home: Scratch::new(),
            source: None,
            to_suffer: on_source.map(|(_, fault)| fault).collect(),
            deadlines,
        };
        for &case in cases {
            let title = Title(case);
            stage.play_one(case);
            drop(title);
        }
        assert!(stage.to_suffer.is_empty());
        stage.end();
    }

    /// The source, which is started if there is none.
    fn source(&mut self) -> &mut VmProcess {
        let Self {
            home,
            source,
            to_suffer,
            deadlines,
        } = self;
        source.get_or_insert_with(|| {
            let args = ["run", "--name", SOURCE, "--memory", "16M", "--cmdline", CMDLINE];
            let plan: Vec<_> = to_suffer.iter().map(String::as_str).collect();
            let mut source = start(home, &args, &plan.join(","), deadlines);
            source.wait_ready();
            source
        })
    }

    fn play_one(&mut self, case: Case) {
        let (held, fault) = case.planned();
        self.source();
        if held == Side::Source {
            self.to_suffer.pop_front();
        }
        let mut receiver = Receiver::start(case, self.deadlines);
        let mut command = VmProcess::start(self.home.command(&["migrate", SOURCE, &receiver.uri]));
        let suffers = match held {
            Side::Source => self.source(),
            Side::Destination => &mut receiver.process,
        };
        suffers.wait_message("the fault to strike", |text| {
            text.contains(&format!("the fault {fault} strikes\n")).then_some(())
        });
        match (case.fault, case.side) {
            (Fault::Kill, Side::Source) => self.source.take().expect("it is there").kill(),
            (Fault::Kill, Side::Destination) => receiver.process.kill(),
            (Fault::Cancel, Side::Source) => cancel(&self.home, SOURCE, case),
            (Fault::Cancel, Side::Destination) => cancel(&receiver.home, RECEIVER, case),
            _ => {}
        }

        let code = command.wait_exit().code();
        let undecided = match case.source() {
            SourceEnd::RunsOn => {
                assert_eq!(code, Some(NOT_MOVED), "{}", command.messages());
                false
            }
            SourceEnd::Undecided => {
                assert_eq!(code, Some(UNDECIDED), "{}", command.messages());
                true
            }
            SourceEnd::RunsOnOrUndecided => {
                assert!(matches!(code, Some(NOT_MOVED | UNDECIDED)), "{}", command.messages());
                code == Some(UNDECIDED)
            }
            SourceEnd::Killed => {
                assert_eq!(code, Some(1), "{}", command.messages());
                receiver.end();
                return;
            }
        };
        if undecided {
            assert_eq!(status(&self.home, SOURCE), "postmigrate");
            self.resolve(receiver.end());
        } else {
            receiver.end();
        }
        if let Some(source) = &mut self.source {
            assert_eq!(status(&self.home, SOURCE), "running");
            assert_eq!(source.verify(), PAGES);
        }
    }

    /// Decides about a guest that was handed over, now that it is known whether it runs there.
    fn resolve(&mut self, runs_there: bool) {
        if runs_there {
            self.home.vm_ok(&["resolve", SOURCE, "--discard"]);
            let mut source = self.source.take().expect("it is there");
            assert_eq!(source.wait_exit().code(), Some(0), "{}", source.messages());
            assert_eq!(self.home.contents(), [""; 0]);
        } else {
            self.home.vm_ok(&["resolve", SOURCE, "--resume"]);
        }
    }

    /// The source ends as its guest wishes, and nothing is left.
    fn end(mut self) {
        // Also the leftovers of one that was killed: they are in nobody's way, and go with the next of its name.
        let source = self.source();
        source.type_keys("q");
        assert_eq!(source.wait_exit().code(), Some(0), "{}", source.messages());
        assert_eq!(self.home.contents(), [""; 0]);
    }
}

/// A process that waits for a guest.
struct Receiver {
    case: Case,
    home: Scratch,
    listen: String,
    process: VmProcess,
    uri: String,
}

impl Receiver {
    fn start(case: Case, deadlines: &str) -> Self {
        let home = Scratch::new();
        // Half of the cases go over each kind of connection.
        let listen = match case.phase {
            Phase::Hello | Phase::Header | Phase::Manifest | Phase::Rounds | Phase::Sections | Phase::Go => {
                format!("unix:{}", home.file("migration").display())
            }
            _ => "tcp:127.0.0.1:0".to_owned(),
        };
        let plan = match case.planned() {
            (Side::Destination, fault) => fault,
            (Side::Source, _) => String::new(),
        };
        let process = start(&home, &["receive", &listen, "--name", RECEIVER], &plan, deadlines);
        let uri = process.first_message();
        Self {
            case,
            home,
            listen,
            process,
            uri,
        }
    }

    /// Sees what becomes of it, and that nothing is left of it then. Returns whether it has run the guest.
    fn end(mut self) -> bool {
        let Self {
            case,
            home,
            listen,
            process,
            ..
        } = &mut self;
        let code = match case.receiver() {
            ReceiverEnd::Fails => 1,
            ReceiverEnd::Waits => {
                assert_eq!(status(home, RECEIVER), "inmigrate");
                monitor(home, RECEIVER, "migrate_cancel").expect("it only waits");
                1
            }
            ReceiverEnd::Runs => {
                assert_eq!(process.verify(), PAGES);
                process.type_keys("q");
                0
            }
            ReceiverEnd::Killed => {
                // What a killed process leaves is in nobody's way.
                let args = ["receive", listen.as_str(), "--name", RECEIVER];
                *process = start(home, &args, "", "silence=20s");
                process.first_message();
                monitor(home, RECEIVER, "migrate_cancel").expect("it only waits");
                1
            }
        };
        let exit = process.wait_exit();
        assert_eq!(exit.code(), Some(code), "{}", process.messages());
        assert_eq!(home.contents(), [""; 0]);
        case.receiver() == ReceiverEnd::Runs
    }
}

/// Starts `vm` in the foreground, to suffer the faults of a plan if there are any.
fn start(home: &Scratch, args: &[&str], plan: &str, deadlines: &str) -> VmProcess {
    let mut command = home.command(args);
    command.env("TERN_DEADLINES", deadlines);
    if !plan.is_empty() {
        command.env("TERN_FAULTS", plan);
    }
    VmProcess::start(command)
}

fn monitor(home: &Scratch, name: &str, command: &str) -> Result<Value, String> {
    let mut monitor = home.monitor(name);
    monitor.execute(command, json!({})).map_err(|error| error.to_string())
}

fn status(home: &Scratch, name: &str) -> String {
    let answer = monitor(home, name, "query-status").expect("it answers");
    answer["status"].as_str().expect("a status").to_owned()
}

/// Has the user of a side cancel, and sees that it is too late where the side has committed itself.
fn cancel(home: &Scratch, name: &str, case: Case) {
    let cancelled = monitor(home, name, "migrate_cancel");
    assert_eq!(cancelled.is_err(), case.is_committed(), "{cancelled:?}");
}
