//! What a user does with `vm` day by day, done to the program and to its terminal.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tern_tests::process::Scratch;
use tern_tests::pty::AtTerminal;

/// A VM in the background; killed when the test ends.
struct Detached {
    report: Value,
    pid: Pid,
}

impl Detached {
    /// Runs a command that puts a VM into the background; the accelerator without processors serves where no guest is looked at.
    #[track_caller]
    fn start(home: &Scratch, args: &[&str]) -> Self {
        let said = home.vm_ok(&[args, &["--accel", "qtest", "--detach", "--json"]].concat());
        let report: Value = serde_json::from_str(&said).expect("one object");
        let pid = report["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.and_then(Pid::from_raw).expect("a process");
        Self { report, pid }
    }

    fn process(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.pid)
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        let _ = kill_process(self.pid, Signal::KILL);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn why_a_vm_in_the_background_ended_is_in_its_log() {
    tern_tests::needs_kvm!();
    let home = Scratch::new();
    let its_own = home.file("its.log").display().to_string();
    for (name, args) in [("a", &[][..]), ("b", &["--log", &its_own][..])] {
        let run = [
            "run",
            "--detach",
            "--json",
            "--name",
            name,
            "--cmdline",
            "mib=8 beat=50",
        ];
        let report: Value = serde_json::from_str(&home.vm_ok(&[&run[..], args].concat())).expect("one object");
        let console = report["console"].as_str().and_then(|text| text.strip_prefix("unix:"));
        let mut console = UnixStream::connect(console.expect("a socket")).expect("it listens");
        // A guest that sets its serial port up forgets what was typed before.
        let mut said = Vec::new();
        while !text(&said).contains("tern-guest: ready") {
            let mut bytes = [0; 4096];
            let length = console.read(&mut bytes).expect("the console says something");
            assert!(length > 0, "the console has ended: {}", text(&said));
            said.extend_from_slice(&bytes[..length]);
        }
        console.write_all(b"e3").expect("the guest takes keys");
        // It ends with the VM.
        let _ = console.read_to_end(&mut Vec::new());
        let log = Path::new(report["log"].as_str().expect("a path"));
        // Behind the console's end, the VM's name is free as soon as all is said.
        while home.file(&format!("tern/{name}.lock")).exists() {
            std::thread::yield_now();
        }
        let said: Value = serde_json::from_str(&fs::read_to_string(log).expect("a log")).expect("one object");
        assert_eq!((&said["how"], &said["exit-code"]), (&json!("guest-exit"), &json!(3)));
        assert_eq!(log.ends_with("its.log"), name == "b", "{log:?}");
    }
}

/// A snapshot of a VM under `qtest`, in this folder.
fn snapshot(home: &Scratch) -> String {
    let file = home.file("s.tern").display().to_string();
    let run = ["run", "--name", "saved", "--memory", "64M", "--console", "null"];
    let _vm = Detached::start(home, &run);
    home.vm_ok(&["snapshot", "saved", &file, "--stop"]);
    home.vm_ok(&["quit", "saved"]);
    file
}

#[test]
fn a_restore_that_is_interrupted_ends_at_once_and_leaves_nothing_behind() {
    let home = Scratch::new();
    let file = snapshot(&home);
    for (signal, code) in [("TERM", 143), ("INT", 130), ("HUP", 129)] {
        // The signal waits for whoever asks for it first.
        let script = format!("kill -{signal} $$; exec \"$0\" \"$@\"");
        let vm = home.command(&["restore", &file, "--name", "a", "--accel", "qtest", "--json"]);
        let mut command = Command::new("env");
        command
            // Whoever runs the tests may ignore it.
            .arg(format!("--default-signal={signal}"))
            .arg(format!("--block-signal={signal}"))
            .args(["sh", "-c", &script])
            .arg(vm.get_program())
            .args(vm.get_args())
            .env("XDG_RUNTIME_DIR", home.path())
            .stdin(Stdio::null());
        let output = command.output().expect("coreutils are there");
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let said = text(&output.stderr);
        assert!(said.contains("interrupted by signal"), "{said}");
        assert!(!said.contains("\"started\""), "its guest does not run first: {said}");
        assert_eq!(home.contents(), ["s.tern"], "nothing is left behind");
    }
}

#[test]
fn ctrl_c_ends_a_receiver_that_has_no_guest_and_leaves_the_terminal_as_it_was() {
    let home = Scratch::new();
    let vm = home.command(&["receive", "tcp:127.0.0.1:0", "--name", "a", "--accel", "qtest"]);
    let mut command = Command::new("env");
    command
        // Whoever runs the tests may ignore it.
        .args(["--default-signal=INT", "setsid", "--ctty"])
        .arg(vm.get_program())
        .args(vm.get_args())
        .env("XDG_RUNTIME_DIR", home.path());
    let mut user = AtTerminal::start(command);
    user.wait_for("Ctrl-C ends it");
    user.press("\u{3}");
    assert_eq!(user.wait_exit().code(), Some(130), "{}", user.screen());
    assert!(user.is_as_before());
    assert_eq!(home.contents(), [""; 0], "nothing is left behind");
}

#[test]
fn a_vm_whose_snapshot_becomes_shorter_under_it_ends_with_the_reason() {
    let home = Scratch::new();
    let file = snapshot(&home);
    let restore = [
        "restore",
        &file,
        "--verify=none",
        "--name",
        "a",
        "--accel",
        "qtest",
        "--console",
        "null",
        "--json",
    ];
    let mut vm = home.start(&restore);
    vm.wait_message("that it runs", |said| said.find("\"started\""));
    let shortened = fs::File::options()
        .write(true)
        .open(&file)
        .and_then(|file| file.set_len(4096));
    shortened.expect("a file of ours");
    // To boot anew is to read what it boots from.
    let _ = monitor(&home, &["-c", "system_reset"], "");
    assert_eq!(vm.wait_exit().code(), Some(7), "{}", vm.messages());
    assert!(vm.messages().contains("s.tern"), "{}", vm.messages());
}

/// Runs the prompt of the VM `a` on these lines.
fn monitor(home: &Scratch, args: &[&str], lines: &str) -> Output {
    let mut monitor = home
        .command(&[&["monitor", "a"], args].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("vm starts");
    // It may end before it has read everything.
    let _ = monitor.stdin.take().expect("a pipe").write_all(lines.as_bytes());
    monitor.wait_with_output().expect("it ends")
}

#[test]
fn a_detached_vm_shares_nothing_with_its_user_and_is_found_by_its_name() {
    let home = Scratch::new();
    // vm_ok waits for the end of both pipes: a VM that kept one would never let it return.
    let vm = Detached::start(&home, &["run", "--name", "a"]);
    let log = home.file("tern/a.log");
    assert_eq!(vm.report["log"], log.display().to_string());
    for (stream, where_to) in [
        ("fd/0", Path::new("/dev/null")),
        ("fd/1", Path::new("/dev/null")),
        ("fd/2", &log),
    ] {
        let target = fs::read_link(vm.process(stream)).expect("it runs");
        assert_eq!(target, where_to, "{stream}");
    }
    assert_eq!(fs::read_link(vm.process("cwd")).expect("it runs"), Path::new("/"));
    let stat = fs::read_to_string(vm.process("stat")).expect("it runs");
    let (_, after_name) = stat.rsplit_once(") ").expect("the format of proc(5)");
    let session = after_name.split(' ').nth(3).expect("the session");
    assert_eq!(session, vm.pid.to_string(), "a session of its own");

    assert_eq!(
        home.vm_ok(&["monitor", "a", "-c", "info status"]),
        "VM status: running\n"
    );
    let socket = home.file("tern/a.console");
    assert_eq!(vm.report["console"], format!("unix:{}", socket.display()));
    UnixStream::connect(&socket).expect("the console listens");
    home.vm_ok(&["quit", "a"]);
    assert_eq!(home.contents(), [""; 0], "nothing is left behind");
}

#[test]
fn what_a_detached_command_says_names_the_console_and_for_a_receiver_the_address_first() {
    let home = Scratch::new();
    let quiet = ["--accel", "qtest", "--detach"];
    let said = home.vm_ok(&[&["run", "--name", "a", "--console", "pty"][..], &quiet].concat());
    assert!(
        said.starts_with("a runs in the background; its console is pty:/dev/pts/"),
        "{said}"
    );
    let output = home.vm(&[&["receive", "tcp:127.0.0.1:0", "--name", "b"][..], &quiet].concat());
    let address = text(&output.stdout);
    assert!(
        address.starts_with("tcp:127.0.0.1:") && address.lines().count() == 1,
        "{address}"
    );
    assert!(
        text(&output.stderr).contains("b waits for its guest in the background"),
        "{output:?}"
    );
    home.vm_ok(&["migrate", "a", address.trim_end()]);
    assert_eq!(
        home.vm_ok(&["monitor", "b", "-c", "info status"]),
        "VM status: running\n"
    );
    // A snapshot into the folder of the user, who is somewhere else than the VM.
    let saved = home
        .command(&["snapshot", "b", "b.tern"])
        .current_dir(home.path())
        .output();
    assert!(saved.expect("vm starts").status.success());
    home.vm_ok(&["quit", "b"]);
    let again = Detached::start(
        &home,
        &["restore", home.file("b.tern").to_str().expect("text"), "--name", "c"],
    );
    assert_eq!(again.report["name"], "c");
    home.vm_ok(&["quit", "c"]);
}

#[test]
fn a_detached_command_fails_as_it_would_in_the_foreground_and_says_so_once() {
    let home = Scratch::new();
    let _vm = Detached::start(&home, &["run", "--name", "a"]);
    for (code, word, args) in [
        (1, "another --name", &["run", "--name", "a"][..]),
        (1, "/nowhere", &["run", "--kernel", "/nowhere"]),
        (1, "/nowhere", &["restore", "/nowhere"]),
        (1, "/dev/null/x", &["run", "--console", "file:/dev/null/x"]),
        (2, "unix:PATH", &["run", "--console", "stdio"]),
    ] {
        let output = home.vm(&[args, &["--accel", "qtest", "-d"]].concat());
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
        assert_eq!(text(&output.stderr).matches(word).count(), 1, "{args:?}: {output:?}");
        assert_eq!(text(&output.stdout), "", "{args:?}");
    }
}

#[test]
fn paths_on_the_command_line_of_a_detached_vm_are_the_users() {
    let home = Scratch::new();
    let args = [
        "run",
        "-d",
        "--accel",
        "qtest",
        "--control",
        "control",
        "--console",
        "unix:console",
    ];
    let output = home
        .command(&args)
        .current_dir(home.path())
        .output()
        .expect("vm starts");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(home.contents(), ["console", "control", "control.lock", "control.log"]);
    let control = home.file("control");
    home.vm_ok(&["quit", control.to_str().expect("text")]);
    assert_eq!(home.contents(), [""; 0]);
}

#[test]
fn the_monitor_takes_commands_from_its_arguments_and_its_input() {
    let home = Scratch::new();
    let _vm = Detached::start(&home, &["run", "--name", "a"]);
    let said = monitor(&home, &[], "stop\n\n  info status\ncont\nexit\ninfo name\n");
    assert_eq!(
        text(&said.stdout),
        "VM status: paused\n",
        "nothing after exit: {said:?}"
    );
    let said = monitor(&home, &["--json", "-c", "info status", "-c", "stop"], "");
    let lines: Vec<Value> = text(&said.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines, [json!({ "running": true, "status": "running" }), json!({})]);
    for (code, line) in [(2, "fly"), (2, "info weather"), (1, "qom-get /nowhere type")] {
        let said = monitor(&home, &[], &format!("{line}\ncont\n"));
        assert_eq!(said.status.code(), Some(code), "{line}: {said:?}");
        assert_eq!(
            text(&monitor(&home, &["-c", "info status"], "").stdout),
            "VM status: paused\n"
        );
    }
    let output = home.vm(&["monitor", "nobody", "-c", "stop"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert_eq!(monitor(&home, &[], "q\n").status.code(), Some(0));
}

#[test]
fn the_monitor_tells_of_processors_and_parameters_in_words_and_of_a_property_that_is_fixed_why() {
    let home = Scratch::new();
    let _vm = Detached::start(&home, &["run", "--name", "a", "--cpus", "2"]);
    let said = monitor(
        &home,
        &[],
        "info cpus\ninfo kvm\nmigrate_set_parameter max-bandwidth 1048576\ninfo migrate_parameters\n",
    );
    assert_eq!(
        text(&said.stdout),
        "CPU #0: no thread runs it\nCPU #1: no thread runs it\n\
         kvm support: disabled\n\
         avail-switchover-bandwidth: 0 bytes/second (as measured)\n\
         downtime-limit: 300 ms\n\
         max-bandwidth: 1048576 bytes/second\n",
        "{said:?}"
    );
    let said = monitor(&home, &["--json", "-c", "info migrate_parameters"], "");
    let parameters: Value = serde_json::from_slice(&said.stdout).expect("JSON");
    assert_eq!(parameters["max-bandwidth"], 1 << 20);
    let said = monitor(&home, &["-c", "qom-set /machine/serial0 iobase 744"], "");
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    let refused = text(&said.stderr);
    assert!(
        refused.contains("'iobase' of /machine/serial0 can no longer be set: it is fixed once the object is made"),
        "{refused}"
    );
}

/// The prompt of the VM `a` at a terminal, with the user's state in `home`.
fn prompt(home: &Scratch) -> AtTerminal {
    let mut command = home.command(&["monitor", "a"]);
    command.env("XDG_STATE_HOME", home.file("state"));
    let mut user = AtTerminal::start(command);
    user.wait_for("type 'help'");
    user.wait_for("(a) ");
    user
}

#[test]
fn the_prompt_completes_remembers_and_shows_events_without_tearing_what_is_typed() {
    let home = Scratch::new();
    let _vm = Detached::start(&home, &["run", "--name", "a"]);
    let mut user = prompt(&home);
    user.press("info st\t\r");
    user.wait_for("VM status: running");
    user.wait_for("(a) ");
    user.press("qom-get /mach\t");
    user.wait_for("/machine/");
    user.press("\u{7f} ty\t\r");
    user.wait_for("\"microvm");
    user.wait_for("(a) ");

    user.press("info na");
    user.wait_for("info na");
    home.vm_ok(&["stop", "a"]);
    // The line is cleared, the event has one of its own, and what was typed stands behind the prompt again.
    user.wait_for("[STOP]");
    user.wait_for("(a) info na");
    user.press("me\r");
    user.wait_for("\r\na\r\n");
    user.press("nonsense\r");
    user.wait_for("Error: unknown command");
    user.wait_for("(a) ");
    user.press("info status\r");
    user.wait_for("VM status: paused");
    user.wait_for("(a) ");
    user.press("\u{4}");
    assert!(user.wait_exit().success());
    assert!(user.is_as_before());

    // Another prompt, and the last line of the first.
    let mut user = prompt(&home);
    user.press("\u{1b}[A\r");
    user.wait_for("VM status: paused");
    user.wait_for("(a) ");
    home.vm_ok(&["quit", "a"]);
    user.wait_for("a is gone");
    assert!(user.wait_exit().success(), "the prompt ends with its VM");
    assert!(user.is_as_before());
}

#[test]
fn a_client_of_a_detached_console_sees_what_the_guest_said_before_it_came() {
    tern_tests::needs_kvm!();
    let home = Scratch::new();
    let said = home.vm_ok(&["run", "--detach", "--name", "a", "--cmdline", "mib=8 beat=50"]);
    assert!(said.contains("tern/a.console"), "{said}");
    let mut console = UnixStream::connect(home.file("tern/a.console")).expect("the console listens");
    let (mut seen, mut bytes) = (String::new(), [0; 4096]);
    while !seen.contains("tern-guest: ready") || !seen.contains("beat ") {
        let read = console.read(&mut bytes).expect("it is there");
        assert!(read > 0, "the console has ended: {seen}");
        seen.push_str(&text(&bytes[..read]));
    }
    home.vm_ok(&["quit", "a"]);
}

#[test]
fn the_console_of_a_vm_in_the_background_is_left_and_found_again_and_ends_with_the_vm() {
    tern_tests::needs_kvm!();
    let home = Scratch::new();
    home.vm_ok(&["run", "--detach", "--name", "a", "--cmdline", "mib=8 beat=50"]);
    for _ in 0..2 {
        let mut user = AtTerminal::start(home.command(&["console", "a"]));
        user.wait_for("Ctrl-A X leaves it");
        user.wait_for("beat ");
        assert!(!user.is_as_before(), "keys reach the guest one by one");
        user.press("v");
        user.wait_for("verify ok");
        user.press("\u{1}h");
        user.wait_for("the VM runs on");
        user.press("\u{1}x");
        assert!(user.wait_exit().success());
        assert!(user.is_as_before());
    }
    let mut user = AtTerminal::start(home.command(&["console", "a"]));
    user.wait_for("beat ");
    home.vm_ok(&["quit", "a"]);
    user.wait_for("the console of a has ended");
    assert!(user.wait_exit().success());
    assert!(user.is_as_before());
}

#[test]
fn a_console_that_takes_no_input_is_told_with_what_to_do() {
    let home = Scratch::new();
    let quiet = ["--accel", "qtest", "--detach"];
    let file = format!("file:{}", home.file("log").display());
    for (name, console, wanted) in [("a", "null", "--console unix:PATH"), ("b", &file, "tail -f ")] {
        home.vm_ok(&[&["run", "--name", name, "--console", console], &quiet[..]].concat());
        let output = home.vm(&["console", name]);
        assert_eq!(output.status.code(), Some(2));
        let said = text(&output.stderr);
        assert!(said.contains(wanted), "{said}");
        home.vm_ok(&["quit", name]);
    }
}

/// A user of `vm run` at a terminal, with a guest that is ready.
fn at_the_console(home: &Scratch) -> AtTerminal {
    let mut user = AtTerminal::start(home.command(&["run", "--name", "a", "--cmdline", "mib=8 beat=50"]));
    user.wait_for("Ctrl-A H shows its keys");
    user.wait_for("tern-guest: ready");
    assert!(!user.is_as_before(), "keys reach the guest one by one");
    user
}

#[test]
fn the_keys_of_the_console_are_qemus_and_the_terminal_is_afterwards_what_it_was() {
    tern_tests::needs_kvm!();
    let home = Scratch::new();
    let mut user = at_the_console(&home);
    user.press("\u{1}h");
    user.wait_for("Ctrl-A X       leave");
    user.press("\u{1}c");
    user.wait_for("(a) ");
    user.press("stop\r");
    user.wait_for("[STOP]");
    user.wait_for("(a) ");
    // Back at the console of a guest that takes nothing: the keys are found all the same, again and again.
    for _ in 0..3 {
        user.press("\u{1}c");
        user.press("\u{1}h");
        user.wait_for("Ctrl-A C       switch");
        user.press("\u{1}c");
        user.wait_for("(a) ");
    }
    // Typed ahead, at once: what is before a switch is for the one, what is behind it for the other.
    user.press("info na\u{1}\u{1}\u{1}aX\u{7f}\u{5}me\rcont\r\u{1}cv");
    user.wait_for("verify ok");
    assert!(!user.since().contains("FAILED"));
    user.press("\u{1}c");
    user.wait_for("\r\na\r\n");
    user.wait_for("(a) ");
    user.press("info st\t\r");
    user.wait_for("VM status: running");
    // What the guest says meanwhile is shown on the way back, and the prompt that is left comes anew.
    user.wait_for("(a) ");
    user.press("\u{4}");
    user.wait_for("beat ");
    user.press("\u{1}c");
    user.wait_for("type 'help'");
    user.wait_for("(a) ");
    user.press("\u{1}c");
    user.wait_for("beat ");
    user.press("\u{1}x");
    assert!(user.wait_exit().success());
    assert!(user.is_as_before());
    assert_eq!(home.contents(), [""; 0]);
}

#[test]
fn a_vm_that_ends_while_its_user_is_at_the_prompt_leaves_the_terminal_as_it_was() {
    tern_tests::needs_kvm!();
    let home = Scratch::new();
    let mut user = at_the_console(&home);
    user.press("\u{1}c");
    user.wait_for("(a) ");
    user.press("quit\r");
    assert!(user.wait_exit().success());
    assert!(user.is_as_before());
    let mut user = at_the_console(&home);
    user.press("\u{1}chalf a line");
    user.wait_for("half a line");
    home.vm_ok(&["quit", "a"]);
    assert!(user.wait_exit().success());
    assert!(user.is_as_before());
}

#[test]
fn what_cannot_be_written_is_no_success_and_a_reader_that_has_gone_is_none_of_ours() {
    let home = Scratch::new();
    for args in [
        &["ps"][..],
        &["cpu", "show", "x86-64-v1", "--accel", "qtest", "--json"],
        &["completions", "bash"],
    ] {
        let full = fs::File::options().write(true).open("/dev/full").expect("a device");
        let output = home
            .command(args)
            .stdout(full)
            .stderr(Stdio::piped())
            .output()
            .expect("vm starts");
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(
            text(&output.stderr).contains("cannot write to standard output"),
            "{args:?}"
        );
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = home
            .command(args)
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .expect("vm starts");
        assert_eq!(
            (output.status.code(), text(&output.stderr)),
            (Some(0), String::new()),
            "{args:?}"
        );
    }
}

#[test]
fn a_vm_that_is_not_there_is_told_also_where_nothing_is_asked_of_it() {
    let home = Scratch::new();
    let output = monitor(&home, &[], "");
    assert_eq!(output.status.code(), Some(3));
    assert!(
        text(&output.stderr).contains("there is no VM a"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn an_error_of_the_command_line_is_json_where_json_is_asked_for() {
    let home = Scratch::new();
    let output = home.vm(&["--json", "run", "--cpus", "none"]);
    assert_eq!(output.status.code(), Some(2));
    let said: Value = serde_json::from_slice(&output.stderr).expect("one object");
    assert!(
        said["error"].as_str().is_some_and(|error| error.contains("--cpus")),
        "{said}"
    );
    assert_eq!(said["exit-code"], 2);
    assert!(
        home.vm(&["--json", "run", "--help"]).status.success(),
        "help is no error"
    );
}
