//! What the user of a VM in the foreground has to see to, told on stderr whether or not a command follows the migration.

use serde_json::json;

use super::{error::CliError, messages::Messages};
use crate::{
    control::{Event, EventSink, MigrationInfo, MigrationStatus},
    event_loop::LoopHandle,
    monitor::place::VmAddress,
};

/// Tells of migrations whose end leaves something to be done.
pub(super) struct Attention {
    /// The VM, as commands take it.
    pub(super) address: VmAddress,
    pub(super) messages: Messages,
    pub(super) event_loop: LoopHandle,
}

impl EventSink for Attention {
    fn event(&self, event: &Event) {
        let Event::Migration(account) = event else { return };
        let Some((kind, text)) = wanted(&self.address, account) else {
            return;
        };
        let (name, messages) = (self.address.to_string(), self.messages);
        let why = account.error.clone();
        // Whoever causes an event is not to wait for the one who reads stderr.
        self.event_loop.defer(move |_| {
            let fields = json!({ "name": name, "why": why });
            messages.news(kind, format_args!("{name}: {text}"), fields);
        });
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
