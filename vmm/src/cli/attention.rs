//! What the user of a VM in the foreground has to see to, told on stderr whether or not a command follows the migration.

use serde_json::json;

use super::messages::Messages;
use crate::{
    control::{Event, EventSink, MigrationInfo, MigrationStatus},
    event_loop::LoopHandle,
    monitor::place::VmName,
};

/// Tells of migrations whose end leaves something to be done.
pub(super) struct Attention {
    pub(super) name: VmName,
    pub(super) messages: Messages,
    pub(super) event_loop: LoopHandle,
}

impl EventSink for Attention {
    fn event(&self, event: &Event) {
        let Event::Migration(account) = event else { return };
        let Some((kind, why)) = wanted(account) else { return };
        let (name, messages, why) = (self.name.clone(), self.messages, why.to_owned());
        // Whoever causes an event is not to wait for the one who reads stderr.
        self.event_loop.defer(move |_| {
            let fields = json!({ "name": name.as_str(), "why": why });
            messages.news(kind, format_args!("{name}: {why}"), fields);
        });
    }
}

/// What is to be done after a migration with this account, if anything is.
fn wanted(account: &MigrationInfo) -> Option<(&'static str, &str)> {
    let kind = match account.status {
        MigrationStatus::Completed => "source-not-told",
        MigrationStatus::Undecided => "undecided",
        _ => return None,
    };
    Some((kind, account.error.as_deref()?))
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
        wanted(&account).map(|(kind, _)| kind)
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
