//! Bars on a terminal for work that takes long. Where standard error is none, or everything is said in JSON, there are no bars.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use migration::progress::Progress;
use parking_lot::Mutex;
use serde_json::Value;

use super::{
    follow::{Watcher, status_of},
    messages::Messages,
    values::Size,
};
use crate::{
    clock::Clock,
    control::{Control, Event, EventSink, MigrationStatus},
    event_loop::{EventLoop, LoopHandle},
};

/// Work that is done sooner shows no bar.
const SOON: Duration = Duration::from_millis(500);

/// How often an arrival is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// A bar for one piece of work. It goes when it is dropped.
pub(super) struct Bar {
    what: String,
    began: Instant,
    /// Where it would be drawn; taken once it is.
    target: Option<ProgressDrawTarget>,
    drawn: Option<ProgressBar>,
}

impl Bar {
    /// A bar for `what`, which begins now.
    pub(super) fn new(what: impl Into<String>, messages: Messages) -> Self {
        Self {
            what: what.into(),
            began: Instant::now(),
            target: messages.shows_progress().then(ProgressDrawTarget::stderr),
            drawn: None,
        }
    }

    /// Says that so many bytes are done of so many; `note` is what else there is to say.
    pub(super) fn advance(&mut self, done: u64, total: u64, note: impl FnOnce() -> String) {
        if self.drawn.is_none() && self.began.elapsed() >= SOON {
            self.drawn = self.target.take().map(|target| {
                let style =
                    ProgressStyle::with_template("{prefix} [{bar:30}] {percent:>3} %  {msg}").expect("a template");
                let bar = ProgressBar::with_draw_target(Some(total), target).with_style(style.progress_chars("#>."));
                bar.with_prefix(self.what.clone())
            });
        }
        if let Some(bar) = &self.drawn {
            bar.set_length(total);
            bar.set_message(note());
            bar.set_position(done);
        }
    }

    /// Takes the bar off the terminal. What comes later shows none.
    pub(super) fn clear(&mut self) {
        self.target = None;
        if let Some(bar) = self.drawn.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Watcher for Bar {
    fn look(&mut self, account: &Value) {
        let ram = |name: &str| account["ram"][name].as_u64().unwrap_or_default();
        let (left, total) = (ram("remaining"), ram("total"));
        let done = total.saturating_sub(left);
        self.advance(done, total, || match ram("dirty-sync-count") {
            0 if total == 0 => status_of(account).qmp_name().to_owned(),
            // A snapshot goes through memory once.
            0 => format!("{} of {}", Size(done), Size(total)),
            round => format!("round {round}, {} sent, {} left", Size(ram("transferred")), Size(left)),
        });
    }

    fn end(&mut self, _: Option<&Value>) {
        self.clear();
    }
}

/// A bar that the threads of a transfer advance.
pub(super) struct SharedBar(Mutex<Bar>);

impl From<Bar> for SharedBar {
    fn from(bar: Bar) -> Self {
        Self(Mutex::new(bar))
    }
}

impl Progress for SharedBar {
    fn advanced(&self, done: u64, total: u64) {
        if done >= total {
            // The terminal is the guest's from now on.
            self.0.lock().clear();
        } else if let Some(mut bar) = self.0.try_lock() {
            // Whoever else draws at this moment says nearly the same.
            bar.advance(done, total, || format!("{} of {}", Size(done), Size(total)));
        }
    }
}

/// Shows how a guest arrives, for as long as its memory does: from then on the terminal is the guest's.
pub(super) struct Arrival {
    vm: Weak<dyn Control>,
    event_loop: LoopHandle,
    messages: Messages,
    /// The bar of the guest that arrives now.
    shown: Arc<Mutex<Option<ArrivalBar>>>,
}

type ArrivalBar = Arc<Mutex<Bar>>;

impl Arrival {
    /// Of the guest that `vm` waits for.
    pub(super) fn new(vm: &Arc<dyn Control>, event_loop: LoopHandle, messages: Messages) -> Self {
        Self {
            vm: Arc::downgrade(vm),
            event_loop,
            messages,
            shown: Arc::default(),
        }
    }
}

impl EventSink for Arrival {
    fn event(&self, event: &Event) {
        let Event::Migration(account) = event else { return };
        if !self.messages.shows_progress() {
            return;
        }
        let (vm, shown, messages) = (Weak::clone(&self.vm), Arc::clone(&self.shown), self.messages);
        let arrives = account.status == MigrationStatus::Active && account.listening.is_some();
        // Whoever causes an event is not to wait for a terminal.
        self.event_loop.defer(move |event_loop| {
            *shown.lock() = arrives.then(|| {
                let bar = Arc::new(Mutex::new(Bar::new("the guest arrives", messages)));
                look(vm, Arc::downgrade(&bar), event_loop);
                bar
            });
        });
    }
}

/// Brings the bar up to date, and again after a while for as long as there is one.
fn look(vm: Weak<dyn Control>, bar: Weak<Mutex<Bar>>, event_loop: &mut EventLoop) {
    let (Some(alive), Some(this)) = (vm.upgrade(), bar.upgrade()) else {
        return;
    };
    if let Some(ram) = alive.query_migrate().ram {
        // A receiver does not know what is left. What comes again counts again, so this may reach the end early.
        let done = ram.transferred_bytes.min(ram.total_bytes);
        this.lock().advance(done, ram.total_bytes, || {
            format!("{} received", Size(ram.transferred_bytes))
        });
    }
    event_loop.after(&Clock::Realtime, LOOK, move |event_loop| look(vm, bar, event_loop));
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::InMemoryTerm;
    use serde_json::json;

    /// A bar on a terminal, for work that has begun so long ago.
    fn bar(terminal: &InMemoryTerm, ago: Duration) -> Bar {
        Bar {
            what: "the work".to_owned(),
            began: Instant::now().checked_sub(ago).expect("the host has run for longer"),
            target: Some(ProgressDrawTarget::term_like(Box::new(terminal.clone()))),
            drawn: None,
        }
    }

    fn account(remaining: u64) -> Value {
        let ram = json!({ "transferred": 3 << 20, "remaining": remaining, "total": 4 << 20, "dirty-sync-count": 2 });
        json!({ "status": "active", "ram": ram })
    }

    #[test]
    fn work_that_is_done_soon_shows_nothing_and_that_which_takes_long_a_bar_until_it_is_done() {
        let terminal = InMemoryTerm::new(5, 100);
        bar(&terminal, Duration::ZERO).look(&account(1 << 20));
        assert_eq!(terminal.contents(), "");

        let mut long = bar(&terminal, SOON);
        long.look(&account(1 << 20));
        let shown = terminal.contents();
        assert!(shown.starts_with("the work [######################>"), "{shown}");
        assert!(shown.ends_with("75 %  round 2, 3 MiB sent, 1 MiB left"), "{shown}");
        long.end(None);
        assert_eq!(terminal.contents(), "");
        long.look(&account(0));
        assert_eq!(terminal.contents(), "", "it is over");
    }

    #[test]
    fn a_bar_says_what_is_done_where_there_are_no_rounds_and_the_phase_before_there_is_anything() {
        let terminal = InMemoryTerm::new(5, 100);
        let mut bar = bar(&terminal, SOON);
        bar.look(&json!({ "status": "setup" }));
        assert!(terminal.contents().ends_with("setup"), "{}", terminal.contents());
        bar.look(&json!({ "status": "device", "ram": { "remaining": 1 << 20, "total": 4 << 20 } }));
        assert!(
            terminal.contents().ends_with("75 %  3 MiB of 4 MiB"),
            "{}",
            terminal.contents()
        );
    }

    #[test]
    fn a_bar_goes_with_the_work_that_failed() {
        let terminal = InMemoryTerm::new(5, 100);
        let shared = SharedBar::from(bar(&terminal, SOON));
        shared.advanced(1 << 20, 4 << 20);
        assert!(
            terminal.contents().contains("25 %  1 MiB of 4 MiB"),
            "{}",
            terminal.contents()
        );
        drop(shared);
        assert_eq!(terminal.contents(), "");
    }

    #[test]
    fn there_is_no_bar_where_everything_is_said_in_json() {
        let mut bar = Bar::new("the work", Messages::new(true));
        bar.began = bar.began.checked_sub(SOON).expect("the host has run for longer");
        bar.look(&account(1));
        assert!(bar.drawn.is_none());
    }
}
