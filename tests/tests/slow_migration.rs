//! A migration that its user holds to a bandwidth takes long enough to be looked at, and is let go again while it is under way.

use std::time::Duration;

use serde_json::{Value, json};
use tern_tests::guest::EmbeddedGuest;
use tern_tests::needs_kvm;
use tern_tests::process::{Scratch, VmProcess};
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
