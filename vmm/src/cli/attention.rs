//! What the user of a VM in the foreground has to see to, told on stderr whether or not a command follows the migration.

use std::{sync::Arc, time::Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{
    error::CliError,
    messages::Messages,
    throttle::{Next, Throttle},
};
use crate::{
    clock::Clock,
    control::{Event, EventSink, MigrationInfo, MigrationStatus, ShutdownReason},
    event_loop::{EventLoop, LoopHandle},
    monitor::place::VmAddress,
};

/// Tells of a guest that cannot go on or was reset, and of migrations whose end leaves something to be done.
pub(super) struct Attention {
    address: VmAddress,
    messages: Messages,
    event_loop: LoopHandle,
    resets: Arc<Resets>,
}

impl Attention {
    /// For the user of the VM that commands call `address`.
    pub(super) fn new(address: VmAddress, messages: Messages, event_loop: LoopHandle) -> Self {
        let resets = Resets {
            name: address.to_string(),
            messages,
            throttle: Mutex::default(),
        };
        Self {
            address,
            messages,
            event_loop,
            resets: Arc::new(resets),
        }
    }

    /// Whoever causes an event is not to wait for the one who reads stderr.
    fn say(&self, kind: &'static str, text: String, fields: Value) {
        let messages = self.messages;
        self.event_loop.defer(move |_| messages.news(kind, text, fields));
    }
}

impl EventSink for Attention {
    fn event(&self, event: &Event) {
        let name = &self.address;
        match event {
            Event::Migration(account) => {
                if let Some((kind, text)) = wanted(name, account) {
                    let fields = json!({ "name": name.to_string(), "why": account.error });
                    self.say(kind, format!("{name}: {text}"), fields);
                }
            }
            Event::CannotGoOn { why } => {
                let fields = json!({ "name": name.to_string(), "why": why, "status": "internal-error" });
                self.say("cannot-go-on", cannot_go_on(name, why), fields);
            }
            Event::Reset { reason, by } => {
                let (resets, reason, by) = (Arc::clone(&self.resets), *reason, by.clone());
                self.event_loop
                    .defer(move |event_loop| resets.happened(reason, by, event_loop));
            }
            _ => {}
        }
    }
}

/// What happened, and what can be done.
fn cannot_go_on(name: &VmAddress, why: &str) -> String {
    format!(
        "the guest of {name} stands still: {why}; it can be looked at (\"vm info {name}\", \"vm qom\"), \
         \"vm monitor {name} -c system_reset -c cont\" has it begin anew, and \"vm quit {name}\" ends it"
    )
}

/// Tells of resets, of many in one line: a guest may do nothing else.
struct Resets {
    name: String,
    messages: Messages,
    throttle: Mutex<Throttle>,
}

impl Resets {
    fn happened(self: &Arc<Self>, reason: ShutdownReason, by: String, event_loop: &mut EventLoop) {
        match self.throttle.lock().happened(Instant::now()) {
            Next::Tell => self.tell(reason, &by, 1),
            Next::Wait(time) => {
                let this = Arc::clone(self);
                event_loop.after(&Clock::Realtime, time, move |_| {
                    let count = this.throttle.lock().due(Instant::now());
                    this.tell(reason, &by, count);
                });
            }
            Next::Counted => {}
        }
    }

    fn tell(&self, reason: ShutdownReason, by: &str, count: u64) {
        let fields = json!({
            "name": self.name,
            "guest": reason.by_guest(),
            "reason": reason.qmp_name(),
            "by": by,
            "count": count,
        });
        self.messages.news("reset", reset(&self.name, by, count), fields);
    }
}

fn reset(name: &str, by: &str, count: u64) -> String {
    match count {
        1 => format!("{name} was reset by {by}"),
        count => format!("{name} was reset {count} times more, first by {by}"),
    }
}

/// What is to be done after a migration with this account, if anything is: what kind of news it is, and the text.
fn wanted(address: &VmAddress, account: &MigrationInfo) -> Option<(&'static str, String)> {
    let why = account.error.clone();
    match account.status {
        MigrationStatus::Completed => Some(("source-not-told", why?)),
        MigrationStatus::Undecided => {
            let error = CliError::Undecided {
                address: address.clone(),
                why: why.unwrap_or_default(),
            };
            Some(("undecided", error.to_string()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(status: MigrationStatus, error: Option<&str>) -> Option<&'static str> {
        let account = MigrationInfo {
            status,
            error: error.map(str::to_owned),
            ..MigrationInfo::default()
        };
        wanted(&"a".parse().expect("a name"), &account).map(|(kind, _)| kind)
    }

    #[test]
    fn a_guest_that_cannot_go_on_is_told_with_the_reason_once_and_what_to_do() {
        let text = cannot_go_on(&"web".parse().expect("a name"), "vCPU 0 cannot go on: KVM gave up");
        assert_eq!(text.matches("vCPU 0").count(), 1, "{text}");
        for what in ["KVM gave up", "vm monitor web -c system_reset -c cont", "vm quit web"] {
            assert!(text.contains(what), "{text}");
        }
    }

    #[test]
    fn a_reset_is_told_with_what_asked_for_it_and_many_with_their_number() {
        assert_eq!(reset("web", "a triple fault", 1), "web was reset by a triple fault");
        assert_eq!(
            reset("web", "a triple fault", 300),
            "web was reset 300 times more, first by a triple fault"
        );
    }

    #[test]
    fn only_an_end_that_leaves_something_to_be_done_is_told() {
        assert_eq!(told(MigrationStatus::Completed, None), None);
        assert_eq!(
            told(MigrationStatus::Failed, Some("cut")),
            None,
            "the guest is where it was"
        );
        assert_eq!(told(MigrationStatus::Completed, Some("cut")), Some("source-not-told"));
        assert_eq!(told(MigrationStatus::Undecided, Some("cut")), Some("undecided"));
    }
}
