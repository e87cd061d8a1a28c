//! A migration that its user holds to a bandwidth takes long enough to be looked at, and is let go again while it is under way.

use std::time::Duration;

use serde_json::{Value, json};
use tern_tests::guest::EmbeddedGuest;
use tern_tests::needs_kvm;
use tern_tests::process::{Scratch, VmProcess};
use tern_tests::pty::AtTerminal;
use vmm::monitor::client::Client;

/// Pages that the guest fills.
const PAGES: u64 = 16 * 256;
const MIB: u64 = 1 << 20;

/// A guest and where it goes to, a MiB in a second.
struct Slow {
    scratch: Scratch,
    source: VmProcess,
    receiver: VmProcess,
    uri: String,
}

impl Slow {
    fn prepare() -> Self {
        let scratch = Scratch::new();
        let run = ["run", "--name", "a", "--memory", "64M", "--cmdline", "mib=16 beat=50"];
        let mut source = scratch.start(&run);
        source.wait_ready();
        let receiver = scratch.start(&["receive", "tcp:127.0.0.1:0", "--name", "b"]);
        let uri = receiver.first_message();
        Self {
            scratch,
            source,
            receiver,
            uri,
        }
    }

    /// The arguments of a migration at that speed, with `more`.
    fn args<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        [&["migrate", "a", &self.uri, "--bandwidth-limit", "1M"], more].concat()
    }

    /// Waits until so many bytes are sent; returns how it stands then.
    fn wait_sent(&self, monitor: &mut Client, bytes: u64) -> Value {
        loop {
            let account = monitor.execute("query-migrate", json!({})).expect("a living VM");
            if account["ram"]["transferred"].as_u64() >= Some(bytes) {
                return account;
            }
            // A while in which something may have happened.
            monitor.next_event(Duration::from_millis(20)).expect("a living VM");
        }
    }

    /// Lets the migration go as fast as it can, and expects that the guest arrives with all its pages.
    fn lift(mut self, monitor: &mut Client) {
        let unlimited = json!({ "max-bandwidth": 0 });
        monitor
            .execute("migrate-set-parameters", unlimited)
            .expect("the limit can be lifted");
        assert!(self.source.wait_exit().success());
        self.receiver.wait_beat();
        assert_eq!(self.receiver.verify(), PAGES);
    }
}

/// The lines of what was written.
fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

#[test]
fn a_bandwidth_is_kept_to_until_it_is_lifted_while_the_migration_is_under_way() {
    needs_kvm!();
    let slow = Slow::prepare();
    let mut migrate = slow.scratch.start(&slow.args(&[]));
    let mut monitor = slow.scratch.monitor("a");
    let account = slow.wait_sent(&mut monitor, 3 * MIB / 2);
    let millis = |name: &str| account[name].as_u64().expect(name);
    let (sent, took) = (
        account["ram"]["transferred"].as_u64().expect("bytes"),
        millis("total-time") - millis("setup-time"),
    );
    // What precedes memory, the first record, and what is made up for at once.
    let free = MIB / 2;
    assert!(took * MIB / 1000 >= sent - free, "{sent} bytes in {took} ms");
    slow.lift(&mut monitor);
    assert!(migrate.wait_exit().success());
    assert_eq!(migrate.messages(), "", "nothing but the result is said in a pipe");
}

#[test]
fn a_watched_migration_is_told_change_by_change_in_a_pipe_and_as_objects_in_json() {
    needs_kvm!();
    let slow = Slow::prepare();
    let mut migrate = slow.scratch.start(&slow.args(&["--watch"]));
    let mut monitor = slow.scratch.monitor("a");
    slow.wait_sent(&mut monitor, MIB / 2);
    // Somebody else looks on, who has not begun it.
    let mut other = slow.scratch.start(&["migrate", "a", "--watch", "--json"]);
    for _ in 0..3 {
        migrate.wait_line("a change", |line| line.starts_with("active, round 1: "));
        other.wait_line("a change", |line| line.contains("\"progress\""));
    }
    slow.lift(&mut monitor);
    assert!(migrate.wait_exit().success());
    assert!(other.wait_exit().success());

    let told = migrate.console();
    let mut told = lines(&told);
    let result = told.pop().expect("a result");
    assert!(result.starts_with("a runs at tcp:127.0.0.1:"), "{told:?} {result}");
    let last = told.pop().expect("the end");
    assert!(last.starts_with("completed"), "{told:?} {last}");
    let mut before = "";
    for line in told {
        assert!(
            line != before && !line.contains('\u{1b}') && !line.contains('\r'),
            "{line:?}"
        );
        before = line;
    }
    assert_eq!(migrate.messages(), "");

    let told = other.console();
    let mut told: Vec<Value> = told
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let result = told.pop().expect("a result");
    assert_eq!(result["migration"]["status"], "completed");
    let mut before = Value::Null;
    for mut object in told {
        assert_eq!([&object["event"], &object["name"]], ["progress", "a"], "{object}");
        let mut account = object["migration"].take();
        let time = account.as_object_mut().and_then(|members| members.remove("total-time"));
        assert!(time.is_some() && account != before, "{account}");
        before = account;
    }
    assert_eq!(other.messages(), "");
}

#[test]
fn a_bar_at_a_terminal_says_how_a_guest_goes_and_arrives_and_is_gone_afterwards() {
    needs_kvm!();
    let scratch = Scratch::new();
    let run = ["run", "--name", "a", "--memory", "64M", "--cmdline", "mib=16 beat=50"];
    let mut source = scratch.start(&run);
    source.wait_ready();
    let mut receiver = AtTerminal::start(scratch.command(&["receive", "tcp:127.0.0.1:0", "--name", "b"]));
    receiver.wait_for("tcp:127.0.0.1:");
    receiver.wait_for("\n");
    let said = receiver.screen();
    let uri = lines(&said)[0];
    let mut user = AtTerminal::start(scratch.command(&["migrate", "a", uri, "--bandwidth-limit", "1M"]));
    user.wait_for("the migration [");
    user.wait_for("round 1, ");
    receiver.wait_for("the guest arrives [");
    receiver.wait_for("MiB received");
    let unlimited = json!({ "max-bandwidth": 0 });
    let mut monitor = scratch.monitor("a");
    monitor
        .execute("migrate-set-parameters", unlimited)
        .expect("the limit can be lifted");
    user.wait_for("a runs at tcp:127.0.0.1:");
    assert!(user.wait_exit().success());
    assert!(user.is_as_before());
    receiver.wait_for("beat ");
    for screen in [user.screen(), receiver.screen()] {
        assert!(is_erased(&screen), "{screen:?}");
    }
}

/// Whether the last bar that was drawn was taken off the terminal.
fn is_erased(screen: &str) -> bool {
    let after = screen.rsplit_once("\r\u{1b}[2K").map(|(_, after)| after);
    after.is_some_and(|after| !after.contains('%'))
}
