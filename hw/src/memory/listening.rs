//! Who listens to an address space: coming, going, and what could not be done.

use std::sync::Arc;

use super::listener::{ListenerError, ListenerResult, MemoryListener};
use super::space::AddressSpace;

impl AddressSpace {
    /// The first thing that a listener could not do in a transaction since this was last asked. After one the listener
    /// no longer follows the map, and an accelerator's guest must not run on.
    #[must_use]
    pub fn take_failure(&self) -> Option<ListenerError> {
        self.inner().take_failure()
    }

    /// Adds a listener, and tells it of all that is there.
    ///
    /// # Errors
    ///
    /// What the listener could not do. It is told nothing more then and is not added: what it did so far is its own to
    /// undo.
    pub fn add_listener(&self, listener: Arc<dyn MemoryListener>) -> ListenerResult {
        let _held = self.inner().hold();
        self.replay(&*listener)?;
        let mut listeners = self.inner().listeners.lock();
        let place = listeners.partition_point(|other| other.priority() <= listener.priority());
        listeners.insert(place, listener);
        Ok(())
    }

    /// Tells a listener that all vanishes, and removes it. One that was not added is left alone.
    pub fn remove_listener(&self, listener: &Arc<dyn MemoryListener>) {
        let _held = self.inner().hold();
        let mut listeners = self.inner().listeners.lock();
        let Some(place) = listeners.iter().position(|own| Arc::ptr_eq(own, listener)) else {
            return;
        };
        listeners.remove(place);
        drop(listeners);
        self.unwind(&**listener);
    }

    fn replay(&self, listener: &dyn MemoryListener) -> ListenerResult {
        let view = self.view();
        listener.begin();
        if self.inner().logging() != 0 {
            listener.log_global_start()?;
        }
        for section in view.sections() {
            listener.region_add(section)?;
            if section.logging {
                listener.log_start(section)?;
            }
        }
        view.eventfds()
            .iter()
            .try_for_each(|eventfd| listener.eventfd_add(eventfd))?;
        listener.commit()
    }

    fn unwind(&self, listener: &dyn MemoryListener) {
        let view = self.view();
        listener.begin();
        for eventfd in view.eventfds().iter().rev() {
            self.inner().note(listener.eventfd_del(eventfd));
        }
        for section in view.sections().iter().rev() {
            if section.logging {
                self.inner().note(listener.log_stop(section));
            }
            self.inner().note(listener.region_del(section));
        }
        if self.inner().logging() != 0 {
            listener.log_global_stop();
        }
        self.inner().note(listener.commit());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::DirtyClient;
    use crate::memory::testing::{Recorder, constant, heard, listened_to};
    use vmm_sys_util::eventfd::EventFd;

    #[test]
    fn a_listener_that_comes_late_is_told_of_all_and_one_that_goes_too() {
        let (space, root, device, log, _) = listened_to();
        let eventfd = Arc::new(EventFd::new(0).unwrap());
        device.add_eventfd(0x10, 4, None, eventfd);
        space.log_global_start(DirtyClient::Migration).unwrap();
        heard(&log);
        let late: Arc<dyn MemoryListener> = Recorder::named("late", -5, &log);
        space.add_listener(Arc::clone(&late)).unwrap();
        assert_eq!(
            heard(&log),
            [
                "late begin",
                "late log_global_start",
                "late add 0x0..0x1000 ram",
                "late log_start 0x0..0x1000 ram",
                "late add 0x10000..0x11000 device",
                "late eventfd_add 0x10010",
                "late commit"
            ]
        );
        space.remove_listener(&late);
        assert_eq!(
            heard(&log),
            [
                "late begin",
                "late eventfd_del 0x10010",
                "late del 0x10000..0x11000 device",
                "late log_stop 0x0..0x1000 ram",
                "late del 0x0..0x1000 ram",
                "late log_global_stop",
                "late commit"
            ]
        );
        space.remove_listener(&late);
        root.remove_subregion(&device).unwrap();
        assert!(heard(&log).iter().all(|line| !line.starts_with("late")));
    }

    #[test]
    fn a_listener_that_fails_is_reported_and_the_others_are_told() {
        let (space, root, _, log, listener) = listened_to();
        space.add_listener(Recorder::named("other", 1, &log)).unwrap();
        heard(&log);
        *listener.fails_at.lock() = Some("add");
        root.add_subregion(0x20000, &constant("new", 0x1000, 2)).unwrap();
        assert!(heard(&log).contains(&"other add 0x20000..0x21000 new".to_owned()));
        assert_eq!(
            space.take_failure().unwrap().to_string(),
            "recorder could not add: told to fail"
        );
        assert_eq!(space.take_failure(), None);
        let failing = Recorder::new(&log);
        *failing.fails_at.lock() = Some("commit");
        assert!(space.add_listener(failing).is_err());
    }
}
