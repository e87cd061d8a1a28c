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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::testing::{Recorder, constant, heard, listened_to};
    use vmm_sys_util::eventfd::EventFd;

    #[test]
    fn an_overlay_splits_what_lies_below() {
        let (_space, root, _, log, _) = listened_to();
        root.add_subregion_overlap(0x10400, &constant("over", 0x400, 2), 1)
            .unwrap();
        assert_eq!(
            heard(&log),
            [
                "begin",
                "del 0x10000..0x11000 device",
                "nop 0x0..0x1000 ram",
                "add 0x10000..0x10400 device",
                "add 0x10400..0x10800 over",
                "add 0x10800..0x11000 device",
                "commit"
            ]
        );
    }

    #[test]
    fn who_comes_is_told_by_ascending_priority_and_who_goes_by_descending() {
        let (space, _, device, log, unnamed) = listened_to();
        space.remove_listener(&(unnamed as Arc<dyn MemoryListener>));
        space.add_listener(Recorder::named("second", 20, &log)).unwrap();
        space.add_listener(Recorder::named("first", 10, &log)).unwrap();
        heard(&log);
        let about_device =
            |log| -> Vec<String> { heard(log).into_iter().filter(|line| !line.contains("nop")).collect() };
        device.set_enabled(false);
        let del = |name| format!("{name} del 0x10000..0x11000 device");
        let around = |call| ["first", "second"].map(|name| format!("{name} {call}"));
        assert_eq!(
            about_device(&log),
            [around("begin"), [del("second"), del("first")], around("commit")].concat()
        );
        device.set_enabled(true);
        let add = "add 0x10000..0x11000 device";
        assert_eq!(
            about_device(&log),
            [around("begin"), around(add), around("commit")].concat()
        );
    }

    #[test]
    fn eventfds_follow_their_region() {
        let (_space, root, device, log, _) = listened_to();
        let eventfd = Arc::new(EventFd::new(0).unwrap());
        device.add_eventfd(0xffe, 2, Some(7), Arc::clone(&eventfd));
        device.add_eventfd(0xfff, 2, None, Arc::clone(&eventfd));
        assert_eq!(
            heard(&log)
                .iter()
                .filter(|line| line.contains("eventfd"))
                .collect::<Vec<_>>(),
            ["eventfd_add 0x10ffe"]
        );
        root.move_subregion(&device, 0x30000).unwrap();
        let lines = heard(&log);
        assert_eq!(
            lines[lines.len() - 3..],
            ["eventfd_del 0x10ffe", "eventfd_add 0x30ffe", "commit"]
        );
        device.remove_eventfd(&eventfd);
        assert!(heard(&log).contains(&"eventfd_del 0x30ffe".to_owned()));
    }
}
