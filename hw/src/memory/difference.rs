//! Telling listeners how one flat view differs from the one before.

use std::cmp::Ordering;
use std::sync::Arc;

use super::listener::{EventFdSection, ListenerResult, MemoryListener, MemoryRegionSection};
use super::view::FlatView;

/// Where a section is found.
enum Found<'a> {
    /// In the old view only.
    Gone(&'a MemoryRegionSection),
    /// In both, except perhaps for its logging.
    Stays {
        old: &'a MemoryRegionSection,
        new: &'a MemoryRegionSection,
    },
    /// In the new view only.
    New(&'a MemoryRegionSection),
}

/// Announces a change of the map between `begin` and `commit` of each listener, and has `publish` make it visible to
/// accesses once the listeners know it: a vCPU that reaches a slot that is gone finds the device that is there now.
///
/// All listeners, by ascending priority, are told everything; the first failure is returned.
pub(super) fn announce(
    listeners: &[Arc<dyn MemoryListener>],
    old: &FlatView,
    new: &FlatView,
    publish: impl FnOnce(),
) -> ListenerResult {
    let mut teller = Teller {
        listeners,
        outcome: Ok(()),
    };
    listeners.iter().for_each(|listener| listener.begin());
    for found in compared(old.sections(), new.sections()) {
        if let Found::Gone(section) = found {
            teller.down(|listener| listener.region_del(section));
        }
    }
    for found in compared(old.sections(), new.sections()) {
        match found {
            Found::Gone(_) => {}
            Found::New(section) => {
                teller.up(|listener| listener.region_add(section));
                if section.logging {
                    teller.up(|listener| listener.log_start(section));
                }
            }
            Found::Stays { old, new } => {
                listeners.iter().for_each(|listener| listener.region_nop(new));
                match (old.logging, new.logging) {
                    (false, true) => teller.up(|listener| listener.log_start(new)),
                    (true, false) => teller.down(|listener| listener.log_stop(new)),
                    _ => {}
                }
            }
        }
    }
    publish();
    teller.eventfds(old.eventfds(), new.eventfds());
    teller.up(|listener| listener.commit());
    teller.outcome
}

/// Tells all listeners, whatever one of them answers, and keeps the first failure.
struct Teller<'a> {
    listeners: &'a [Arc<dyn MemoryListener>],
    outcome: ListenerResult,
}

impl Teller<'_> {
    /// By ascending priority: of what comes.
    fn up(&mut self, tell: impl Fn(&dyn MemoryListener) -> ListenerResult) {
        for listener in self.listeners {
            self.outcome = std::mem::replace(&mut self.outcome, Ok(())).and(tell(&**listener));
        }
    }

    /// By descending priority: of what goes.
    fn down(&mut self, tell: impl Fn(&dyn MemoryListener) -> ListenerResult) {
        for listener in self.listeners.iter().rev() {
            self.outcome = std::mem::replace(&mut self.outcome, Ok(())).and(tell(&**listener));
        }
    }

    fn eventfds(&mut self, old: &[EventFdSection], new: &[EventFdSection]) {
        let holds = |list: &[EventFdSection], own: &EventFdSection| {
            list.binary_search_by_key(&own.key(), EventFdSection::key).is_ok()
        };
        for gone in old.iter().filter(|own| !holds(new, own)) {
            self.down(|listener| listener.eventfd_del(gone));
        }
        for added in new.iter().filter(|own| !holds(old, own)) {
            self.up(|listener| listener.eventfd_add(added));
        }
    }
}

/// Goes through two sorted lists at once. Of two different sections at one address the old one comes first.
fn compared<'a>(
    mut old: &'a [MemoryRegionSection],
    mut new: &'a [MemoryRegionSection],
) -> impl Iterator<Item = Found<'a>> {
    std::iter::from_fn(move || {
        let order = match (old.first(), new.first()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(before), Some(after)) if before.is_same(after) => Ordering::Equal,
            (Some(before), Some(after)) if before.guest_address <= after.guest_address => Ordering::Less,
            (Some(_), Some(_)) => Ordering::Greater,
        };
        Some(match order {
            Ordering::Less => Found::Gone(old.split_off_first()?),
            Ordering::Greater => Found::New(new.split_off_first()?),
            Ordering::Equal => Found::Stays {
                old: old.split_off_first()?,
                new: new.split_off_first()?,
            },
        })
    })
}
