//! The event loop: waits for file descriptors, timers and deferred work, and calls what was registered for them.
//!
//! A loop is a value that belongs to one thread; a process may have several. Callbacks get the loop itself, so that they can
//! add and remove others; they run one at a time and should not block, for everything else waits meanwhile. Other threads reach the loop
//! through a [`LoopHandle`], which only queues.

use std::{collections::BTreeMap, fmt, io, os::fd::OwnedFd, sync::Arc, time::Duration};

use parking_lot::Mutex;
use rustix::{
    event::{EventfdFlags, epoll, eventfd},
    io::Errno,
};

use crate::{
    clock::Clock,
    timers::{TimerCallback, TimerId, Timers},
};

/// What a file descriptor is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Nothing for now; not even a hang-up is reported.
    None,
    /// Only that the other side has gone. One that has merely stopped sending has not.
    HangUp,
    /// Something to read, or the end.
    Read,
    /// Room to write, or an error.
    Write,
    /// Both.
    ReadWrite,
}

impl Interest {
    /// The interest in reading and writing as two flags.
    #[must_use]
    pub fn of(read: bool, write: bool) -> Self {
        match (read, write) {
            (false, false) => Self::None,
            (true, false) => Self::Read,
            (false, true) => Self::Write,
            (true, true) => Self::ReadWrite,
        }
    }

    fn flags(self) -> epoll::EventFlags {
        match self {
            // A hang-up and an error are reported unasked.
            Self::None | Self::HangUp => epoll::EventFlags::empty(),
            Self::Read => epoll::EventFlags::IN,
            Self::Write => epoll::EventFlags::OUT,
            Self::ReadWrite => epoll::EventFlags::IN | epoll::EventFlags::OUT,
        }
    }
}

/// What a file descriptor is ready for. A hang-up or an error counts as both: the read or write that follows will tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// A read will not block.
    pub read: bool,
    /// A write will not block.
    pub write: bool,
    /// The other side has gone; what it sent before may still be there to read.
    pub hung_up: bool,
}

/// Called when a file descriptor is ready.
pub type FdCallback = Box<dyn FnMut(&mut EventLoop, Ready) + Send>;

/// Names a watched file descriptor within its loop. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceId(u64);

struct Source {
    fd: Arc<OwnedFd>,
    interest: Interest,
    /// Absent while it is being called.
    callback: Option<FdCallback>,
}

/// The loop. See the module's description.
pub struct EventLoop {
    epoll: OwnedFd,
    sources: BTreeMap<SourceId, Source>,
    next_id: u64,
    timers: Timers,
    mailbox: Arc<Mailbox>,
    leaving: bool,
}

impl EventLoop {
    /// A loop that watches nothing yet.
    ///
    /// # Errors
    ///
    /// The process is out of file descriptors or memory.
    pub fn new() -> io::Result<Self> {
        let doorbell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let mailbox = Arc::new(Mailbox {
            letters: Mutex::new(Some(Vec::new())),
            doorbell: Arc::new(doorbell),
        });
        let mut this = Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            sources: BTreeMap::new(),
            next_id: 0,
            timers: Timers::default(),
            mailbox: Arc::clone(&mailbox),
            leaving: false,
        };
        let doorbell = Arc::clone(&mailbox.doorbell);
        this.watch(Arc::clone(&doorbell), Interest::Read, move |this, _| {
            // The count does not matter, and a spurious wake-up finds an empty box.
            let _ = rustix::io::read(&doorbell, &mut [0; 8]);
            for letter in mailbox.take() {
                letter(this);
            }
        })?;
        Ok(this)
    }

    /// A handle through which other threads can have the loop do something.
    #[must_use]
    pub fn handle(&self) -> LoopHandle {
        LoopHandle(Arc::clone(&self.mailbox))
    }

    /// Calls `callback` whenever `fd` is ready for what `interest` says, until [`Self::unwatch`].
    ///
    /// # Errors
    ///
    /// The kernel cannot wait for this kind of file: `EPERM` for regular files, which are always ready.
    pub fn watch(
        &mut self,
        fd: Arc<OwnedFd>,
        interest: Interest,
        callback: impl FnMut(&mut Self, Ready) + Send + 'static,
    ) -> io::Result<SourceId> {
        let id = SourceId(self.next_id);
        if interest != Interest::None {
            epoll::add(&self.epoll, &fd, epoll::EventData::new_u64(id.0), interest.flags())?;
        }
        self.next_id += 1;
        self.sources.insert(
            id,
            Source {
                fd,
                interest,
                callback: Some(Box::new(callback)),
            },
        );
        Ok(id)
    }

    /// Changes what a source is watched for. A source that is gone is ignored.
    ///
    /// # Errors
    ///
    /// As [`Self::watch`].
    pub fn set_interest(&mut self, id: SourceId, interest: Interest) -> io::Result<()> {
        let Some(source) = self.sources.get_mut(&id) else {
            return Ok(());
        };
        let data = epoll::EventData::new_u64(id.0);
        match (source.interest, interest) {
            (old, new) if old == new => {}
            (Interest::None, new) => epoll::add(&self.epoll, &source.fd, data, new.flags())?,
            // Modifying to nothing would still report a hang-up, again and again.
            (_, Interest::None) => epoll::delete(&self.epoll, &source.fd)?,
            (_, new) => epoll::modify(&self.epoll, &source.fd, data, new.flags())?,
        }
        source.interest = interest;
        Ok(())
    }

    /// Stops watching. The callback is dropped, unless it is the one that is running: then as soon as it returns.
    pub fn unwatch(&mut self, id: SourceId) {
        let Some(source) = self.sources.remove(&id) else { return };
        if source.interest != Interest::None {
            // Fails only for an fd that epoll does not know, which is what is wanted.
            let _ = epoll::delete(&self.epoll, &source.fd);
        }
    }

    /// Calls `callback` once, when `clock` shows `deadline` or later.
    pub fn at(
        &mut self,
        clock: &Clock,
        deadline: Duration,
        callback: impl FnOnce(&mut Self) + Send + 'static,
    ) -> TimerId {
        let callback: TimerCallback = Box::new(callback);
        self.timers.insert(clock, deadline, callback)
    }

    /// Calls `callback` once, after so much time on `clock`.
    pub fn after(
        &mut self,
        clock: &Clock,
        delay: Duration,
        callback: impl FnOnce(&mut Self) + Send + 'static,
    ) -> TimerId {
        self.at(clock, clock.now().saturating_add(delay), callback)
    }

    /// Cancels a timer; whether it was still to come.
    pub fn cancel(&mut self, timer: &TimerId) -> bool {
        self.timers.cancel(timer)
    }

    /// Makes [`Self::run`] return once the current callback has.
    pub fn leave(&mut self) {
        self.leaving = true;
    }

    /// Serves until [`Self::leave`]. May be called again.
    ///
    /// # Errors
    ///
    /// The kernel refused to wait or to set an alarm; neither happens to a loop whose file descriptors are sound.
    pub fn run(&mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(16);
        while !std::mem::take(&mut self.leaving) {
            self.arm_alarms()?;
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in events.drain(..) {
                if self.leaving {
                    break;
                }
                self.dispatch(SourceId(event.data.u64()), event.flags);
            }
        }
        Ok(())
    }

    fn dispatch(&mut self, id: SourceId, flags: epoll::EventFlags) {
        let has = |wanted| flags.intersects(wanted);
        let hung_up = has(epoll::EventFlags::HUP | epoll::EventFlags::ERR);
        // A source may have been removed by a callback that ran for an earlier event of the same wait.
        let Some(source) = self.sources.get_mut(&id) else {
            return;
        };
        let ready = Ready {
            read: hung_up || has(epoll::EventFlags::IN),
            write: hung_up || has(epoll::EventFlags::OUT),
            hung_up,
        };
        let Some(mut callback) = source.callback.take() else {
            return;
        };
        callback(self, ready);
        if let Some(source) = self.sources.get_mut(&id) {
            source.callback = Some(callback);
        }
    }

    fn arm_alarms(&mut self) -> io::Result<()> {
        for alarm in self.timers.arm()? {
            let fd = Arc::clone(&alarm);
            self.watch(alarm, Interest::Read, move |this, _| {
                this.timers.went_off(&fd);
                let before = this.timers.next_serial();
                while let Some(callback) = this.timers.take_due(before) {
                    callback(this);
                }
            })?;
        }
        Ok(())
    }
}

impl Drop for EventLoop {
    fn drop(&mut self) {
        // Handles outlive the loop, and what they are given then would never be dropped.
        let letters = self.mailbox.letters.lock().take();
        drop(letters);
    }
}

impl fmt::Debug for EventLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLoop")
            .field("sources", &self.sources.len())
            .finish_non_exhaustive()
    }
}

type Letter = Box<dyn FnOnce(&mut EventLoop) + Send>;

struct Mailbox {
    /// `None` once the loop is gone.
    letters: Mutex<Option<Vec<Letter>>>,
    doorbell: Arc<OwnedFd>,
}

impl Mailbox {
    fn take(&self) -> Vec<Letter> {
        self.letters.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }
}

/// Reaches an event loop from anywhere. Cheap to clone; does not keep the loop.
#[derive(Clone)]
pub struct LoopHandle(Arc<Mailbox>);

impl LoopHandle {
    /// Has the loop's thread call `work` soon, in the order of deferring. Never blocks. Where the loop is gone, `work` is dropped.
    pub fn defer(&self, work: impl FnOnce(&mut EventLoop) + Send + 'static) {
        if let Some(letters) = self.0.letters.lock().as_mut() {
            letters.push(Box::new(work));
        }
        self.wake();
    }

    /// Has the loop look at its timers again.
    pub fn wake(&self) {
        // Fails only where the counter is full, and then the loop is about to wake up anyway.
        let _ = rustix::io::write(&self.0.doorbell, &1u64.to_ne_bytes());
    }
}

impl fmt::Debug for LoopHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LoopHandle")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};
    use std::sync::mpsc;

    fn event_loop() -> EventLoop {
        EventLoop::new().expect("an event loop")
    }

    fn pipe() -> (Arc<OwnedFd>, Arc<OwnedFd>) {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).expect("a pipe");
        (Arc::new(read), Arc::new(write))
    }

    #[test]
    fn a_readable_fd_calls_its_callback() {
        let mut this = event_loop();
        let (read, write) = pipe();
        rustix::io::write(&write, b"x").expect("room in the pipe");
        this.watch(read, Interest::Read, |this, ready| {
            assert_eq!(
                ready,
                Ready {
                    read: true,
                    write: false,
                    hung_up: false
                }
            );
            this.leave();
        })
        .expect("a pipe can be watched");
        this.run().expect("the loop runs");
    }

    #[test]
    fn a_callback_may_remove_itself_and_others_of_the_same_wait() {
        let mut this = event_loop();
        let (called, calls) = mpsc::channel();
        let ids = Arc::new(Mutex::new(Vec::new()));
        for _ in 0..2 {
            let (read, write) = pipe();
            rustix::io::write(&write, b"x").expect("room in the pipe");
            let (called, all) = (called.clone(), Arc::clone(&ids));
            let id = this
                .watch(read, Interest::Read, move |this, _| {
                    called.send(()).expect("the test listens");
                    for id in all.lock().drain(..) {
                        this.unwatch(id);
                    }
                    this.handle().defer(EventLoop::leave);
                })
                .expect("a pipe can be watched");
            ids.lock().push(id);
        }
        this.run().expect("the loop runs");
        assert_eq!(calls.try_iter().count(), 1);
    }

    #[test]
    fn a_hang_up_is_not_reported_to_those_without_interest() {
        let mut this = event_loop();
        let (read, write) = pipe();
        drop(write);
        let id = this
            .watch(read, Interest::Read, |_, _| {
                unreachable!("interest was withdrawn before the loop ran")
            })
            .expect("a pipe can be watched");
        this.set_interest(id, Interest::None).expect("known to epoll");
        this.after(&Clock::Realtime, Duration::from_millis(5), EventLoop::leave);
        this.run().expect("the loop runs");
    }

    #[test]
    fn deferred_work_runs_in_order_on_the_loops_thread() {
        let mut this = event_loop();
        let (done, order) = mpsc::channel();
        let handle = this.handle();
        let here = std::thread::current().id();
        std::thread::spawn(move || {
            for number in 0..100 {
                let done = done.clone();
                handle.defer(move |_| {
                    assert_eq!(std::thread::current().id(), here);
                    done.send(number).expect("the test listens");
                });
            }
            handle.defer(EventLoop::leave);
        });
        this.run().expect("the loop runs");
        assert!(order.try_iter().eq(0..100));
    }

    #[test]
    fn what_is_deferred_to_a_loop_that_is_gone_is_dropped() {
        let this = event_loop();
        let handle = this.handle();
        let (pending, witness) = mpsc::channel::<()>();
        let late = pending.clone();
        handle.defer(move |_| drop(pending));
        drop(this);
        handle.defer(move |_| drop(late));
        assert_eq!(witness.try_recv(), Err(mpsc::TryRecvError::Disconnected));
    }

    #[test]
    fn timers_come_in_order_of_their_deadlines_and_cancelled_ones_not_at_all() {
        let mut this = event_loop();
        let (done, order) = mpsc::channel();
        let mut timer = |millis: u64| {
            let done = done.clone();
            this.after(&Clock::Realtime, Duration::from_millis(millis), move |_| {
                done.send(millis).expect("the test listens");
            })
        };
        timer(9);
        let never = timer(3);
        timer(6);
        assert!(this.cancel(&never));
        assert!(!this.cancel(&never));
        this.after(&Clock::Host, Duration::from_millis(20), EventLoop::leave);
        this.run().expect("the loop runs");
        assert_eq!(order.try_iter().collect::<Vec<_>>(), [6, 9]);
    }

    #[test]
    fn a_timer_may_cancel_another_that_is_due_with_it() {
        let mut this = event_loop();
        let deadline = Clock::Realtime.now();
        let second = Arc::new(Mutex::new(None));
        let cancelled = Arc::clone(&second);
        this.at(&Clock::Realtime, deadline, move |this| {
            let second = cancelled.lock().take().expect("set before the loop ran");
            assert!(this.cancel(&second));
        });
        let never = this.at(&Clock::Realtime, deadline, |_| unreachable!("cancelled"));
        *second.lock() = Some(never);
        this.after(&Clock::Realtime, Duration::from_millis(3), EventLoop::leave);
        this.run().expect("the loop runs");
    }

    #[test]
    fn a_timer_that_sets_itself_again_does_not_starve_the_rest() {
        fn again(this: &mut EventLoop) {
            this.after(&Clock::Realtime, Duration::ZERO, again);
        }
        let mut this = event_loop();
        again(&mut this);
        this.handle()
            .defer(|this| this.handle().defer(|this| this.handle().defer(EventLoop::leave)));
        this.run().expect("the loop runs");
    }

    #[test]
    fn two_loops_in_one_process_do_not_meet() {
        let (mut one, mut two) = (event_loop(), event_loop());
        let to_one = one.handle();
        two.handle().defer(move |this| {
            to_one.defer(EventLoop::leave);
            this.leave();
        });
        let other = std::thread::spawn(move || two.run());
        one.run().expect("the first loop runs");
        other.join().expect("no panic").expect("the second loop runs");
    }
}
