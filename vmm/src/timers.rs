//! The timers of one event loop.
//!
//! A queue per clock, in order of deadline, and two timerfds that wake the loop: one counts with the host's uptime (the realtime
//! clock), one follows the wall clock and is told when somebody sets it.
//! A loop without timers has neither.

use std::{collections::BTreeMap, io, os::fd::OwnedFd, sync::Arc, time::Duration};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::{clock::Clock, event_loop::EventLoop};

/// What a timer does when it is due.
pub type TimerCallback = Box<dyn FnOnce(&mut EventLoop) + Send>;

/// Names a timer, for cancelling it.
#[derive(Clone, Debug)]
pub struct TimerId {
    clock: Clock,
    key: Key,
}

/// Deadline on the queue's clock, and a serial number so that equal deadlines are served in order of setting.
type Key = (Duration, u64);

#[derive(Default)]
pub(crate) struct Timers {
    queues: Vec<(Clock, BTreeMap<Key, TimerCallback>)>,
    next_serial: u64,
    uptime: Alarm,
    wall: Alarm,
}

impl Timers {
    pub(crate) fn insert(&mut self, clock: &Clock, deadline: Duration, callback: TimerCallback) -> TimerId {
        let key = (deadline, self.next_serial);
        self.next_serial += 1;
        let at = self
            .queues
            .iter()
            .position(|(known, _)| known == clock)
            .unwrap_or_else(|| {
                self.queues.push((*clock, BTreeMap::new()));
                self.queues.len() - 1
            });
        self.queues[at].1.insert(key, callback);
        TimerId { clock: *clock, key }
    }

    /// Whether there was such a timer still.
    pub(crate) fn cancel(&mut self, id: &TimerId) -> bool {
        let queue = self.queues.iter_mut().find(|(clock, _)| *clock == id.clock);
        let found = queue.is_some_and(|(_, timers)| timers.remove(&id.key).is_some());
        self.drop_empty_queues();
        found
    }

    /// The number that the next timer will get.
    pub(crate) fn next_serial(&self) -> u64 {
        self.next_serial
    }

    /// Takes out a timer that is due and was set before the one with this number. The bound keeps timers that set themselves again,
    /// due at once, from holding the loop; one at a time, because each may cancel the next.
    pub(crate) fn take_due(&mut self, before: u64) -> Option<TimerCallback> {
        let callback = self.queues.iter_mut().find_map(|(clock, timers)| {
            let due = timers.range(..=(clock.now(), u64::MAX));
            let key = due.map(|(key, _)| *key).find(|(_, serial)| *serial < before)?;
            timers.remove(&key)
        });
        self.drop_empty_queues();
        callback
    }

    /// Sets the alarms for the earliest timers; returns those that are new and have to be watched.
    pub(crate) fn arm(&mut self) -> io::Result<Vec<Arc<OwnedFd>>> {
        let (mut uptime, mut wall) = (None, None);
        for (clock, timers) in &self.queues {
            let Some((&(deadline, _), _)) = timers.first_key_value() else {
                continue;
            };
            let alarm = match clock {
                Clock::Realtime => &mut uptime,
                Clock::Host => &mut wall,
            };
            *alarm = Some(alarm.map_or(deadline, |other| Duration::min(other, deadline)));
        }
        let once = TimerfdTimerFlags::ABSTIME;
        let fds = [
            self.uptime.set(uptime, TimerfdClockId::Monotonic, once)?,
            self.wall
                .set(wall, TimerfdClockId::Realtime, once | TimerfdTimerFlags::CANCEL_ON_SET)?,
        ];
        Ok(fds.into_iter().flatten().collect())
    }

    /// An alarm has gone off: whatever it was set for, it has to be set anew.
    pub(crate) fn went_off(&mut self, fd: &OwnedFd) {
        for alarm in [&mut self.uptime, &mut self.wall] {
            alarm.acknowledge(fd);
        }
    }

    fn drop_empty_queues(&mut self) {
        self.queues.retain(|(_, timers)| !timers.is_empty());
    }
}

/// A timerfd, made when it is first needed.
#[derive(Default)]
struct Alarm {
    fd: Option<Arc<OwnedFd>>,
    armed: Option<Duration>,
}

impl Alarm {
    fn set(
        &mut self,
        at: Option<Duration>,
        clock: TimerfdClockId,
        flags: TimerfdTimerFlags,
    ) -> io::Result<Option<Arc<OwnedFd>>> {
        if at == self.armed {
            return Ok(None);
        }
        let made = match &self.fd {
            Some(_) => None,
            None => {
                let fd = timerfd_create(clock, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
                Some(Arc::clone(self.fd.insert(Arc::new(fd))))
            }
        };
        if let Some(fd) = &self.fd {
            // All zeros would disarm, so a deadline at the clock's own zero becomes one nanosecond.
            let value = at.map_or(Duration::ZERO, |at| at.max(Duration::from_nanos(1)));
            // A deadline beyond what the kernel can count to is none: the timer is as good as never due.
            let value = Timespec::try_from(value).unwrap_or_default();
            let spec = Itimerspec {
                it_interval: Timespec::default(),
                it_value: value,
            };
            timerfd_settime(fd, flags, &spec)?;
        }
        self.armed = at;
        Ok(made)
    }

    fn acknowledge(&mut self, fd: &OwnedFd) {
        if self.fd.as_ref().is_some_and(|own| std::ptr::eq(own.as_ref(), fd)) {
            // The count of expirations says nothing that the clocks do not; ECANCELED says that the wall clock was set.
            let _ = rustix::io::read(fd, &mut [0; 8]);
            self.armed = None;
        }
    }
}
