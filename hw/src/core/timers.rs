//! Timers of devices, and the clock that they run by: the virtual clock of their VM.
//!
//! ```text
//!   device -- arm(deadline) --> Timers -- when the clock shows it --> TimerHandler::expired
//!                                 ^
//!              start, stop, set: whoever runs and loads the VM
//!              step: whoever drives one without processors
//! ```
//!
//! What the clocks are called, here and everywhere in Tern (the names are QEMU's):
//!
//! | clock | counts | stands |
//! | --- | --- | --- |
//! | virtual | time in which a VM's guest could run; each VM has its own, from zero | while that VM is paused |
//! | realtime | time since the host booted: no state, as another host booted at another time | never |
//! | host | the time of day, since 1970; an administrator may set it ([`MachineEvents::wall_clock`](super::MachineEvents::wall_clock)) | never, but it jumps |
//!
//! A timer that is armed is no state: its deadline is, a field of the device's state, and the clock, which goes with the
//! machine ([`MachineState`](super::MachineState)). So a device arms its timer again in `post_load`, for the same instant.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use vmstate::state::{Deadline, VirtualClock};

/// What a device does when its timer has run out.
///
/// Called on the thread of the timers, or by whoever steps the clock; by one at a time for all timers of a VM, with no lock
/// of a device held, and only while the guest may run. It must not wait for a vCPU, nor for the guest to be paused or
/// resumed.
pub trait TimerHandler: Send + Sync {
    /// The timer has run out, at the latest when its clock showed `now`, in nanoseconds. It is not armed any more.
    ///
    /// A vCPU may have moved the deadline just before this: the device decides by that of its state, under its own lock.
    fn expired(&self, now: u64);
}

/// All timers of a VM's devices, and the VM's virtual clock. Made standing, at zero.
pub struct Timers {
    hub: Arc<Hub>,
    /// Made for the first timer, as most VMs have none.
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread, the timers and their owner share.
struct Hub {
    /// Held while handlers are called: whoever stops the clock waits for those.
    serving: Mutex<()>,
    /// Held for moments, also under a device's lock.
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// A driver moves the clock, and not the host's time.
    is_stepped: bool,
    /// What the clock showed when it was last started, stopped, stepped or set.
    shown: u64,
    /// When it was started; `None` while it stands.
    since: Option<Instant>,
    timers: BTreeMap<u64, Entry>,
    next: u64,
    ended: bool,
}

struct Entry {
    handler: Arc<dyn TimerHandler>,
    /// When it runs out, if it is armed.
    deadline: Option<u64>,
}

/// A device's timer. Dropping it disarms it.
pub struct Timer {
    hub: Arc<Hub>,
    number: u64,
}

impl Timers {
    /// No timers, and a clock that counts with the host's time while it runs.
    #[must_use]
    pub fn new() -> Self {
        Self::with(false)
    }

    /// No timers, and a clock that moves by [`Self::step`] alone: for machines without processors.
    #[must_use]
    pub fn stepped() -> Self {
        Self::with(true)
    }

    fn with(is_stepped: bool) -> Self {
        let state = State {
            is_stepped,
            shown: 0,
            since: None,
            timers: BTreeMap::new(),
            next: 0,
            ended: false,
        };
        let hub = Hub {
            serving: Mutex::default(),
            state: Mutex::new(state),
            changed: Condvar::new(),
        };
        Self {
            hub: Arc::new(hub),
            thread: Mutex::default(),
        }
    }

    /// Makes a timer, which is not armed.
    ///
    /// # Errors
    ///
    /// If the process has no threads left.
    pub fn add(&self, handler: Arc<dyn TimerHandler>) -> io::Result<Timer> {
        let mut thread = self.thread.lock();
        let mut state = self.hub.state.lock();
        if thread.is_none() && !state.is_stepped && !state.ended {
            let hub = Arc::clone(&self.hub);
            *thread = Some(
                thread::Builder::new()
                    .name("timers".to_owned())
                    .spawn(move || hub.main())?,
            );
        }
        let number = state.next;
        state.next += 1;
        let deadline = None;
        state.timers.insert(number, Entry { handler, deadline });
        Ok(Timer {
            hub: Arc::clone(&self.hub),
            number,
        })
    }

    /// Whether there are any, armed or not: only then does anybody know what the clock shows.
    #[must_use]
    pub fn exist(&self) -> bool {
        !self.hub.state.lock().timers.is_empty()
    }

    /// What the clock shows, in nanoseconds.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.hub.state.lock().now()
    }

    /// Sets the clock, as a VM does that was loaded. It goes on running or standing.
    pub fn set(&self, now: u64) {
        let mut state = self.hub.state.lock();
        state.shown = now;
        state.since = state.since.map(|_| Instant::now());
        self.hub.changed.notify_all();
    }

    /// Lets the clock run; one that runs runs on. Timers that are due run out.
    pub fn start(&self) {
        self.hub.state.lock().since.get_or_insert_with(Instant::now);
        self.hub.changed.notify_all();
    }

    /// Stops the clock: it keeps showing the moment. No handler is at work afterwards, and none is called.
    pub fn stop(&self) {
        let _none_is_called = self.hub.serving.lock();
        self.hub.state.lock().stand_still();
    }

    /// Moves a stepped clock on by so many nanoseconds, and calls the handlers of the timers that run out: each at its
    /// instant, or, of a chain of timers that is very long, the last of them late, as on a busy host. `shows` is told of
    /// each instant before that. Does nothing where the clock stands, or goes by the host's time; false then.
    pub fn step(&self, by: u64, mut shows: impl FnMut(u64)) -> bool {
        /// How many instants there are in one step.
        const EXACT: usize = 64;
        let _serving = self.hub.serving.lock();
        let mut show = |pick: &dyn Fn(&State) -> Option<u64>| {
            let mut state = self.hub.state.lock();
            let Some(now) = pick(&state) else { return false };
            state.shown = now;
            drop(state);
            shows(now);
            self.hub.serve();
            true
        };
        let end = {
            let state = self.hub.state.lock();
            if !state.is_stepped || state.since.is_none() {
                return false;
            }
            state.shown.saturating_add(by)
        };
        let next = |state: &State| {
            let earliest = state.earliest()?.max(state.shown);
            (earliest < end).then_some(earliest)
        };
        let _instants = (0..EXACT).take_while(|_| show(&next)).count();
        show(&|_| Some(end))
    }

    /// Ends the thread. No handler is called any more. Does nothing the second time.
    pub fn end(&self) {
        {
            let mut state = self.hub.state.lock();
            state.stand_still();
            state.ended = true;
        }
        self.hub.changed.notify_all();
        if let Some(thread) = self.thread.lock().take() {
            // A panic of a handler has been printed.
            let _ = thread.join();
        }
    }
}

impl Default for Timers {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Timers {
    fn drop(&mut self) {
        self.end();
    }
}

impl Timer {
    /// What its clock shows, in nanoseconds.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.hub.state.lock().now()
    }

    /// The deadline that is so far from now.
    #[must_use]
    pub fn after(&self, time: Duration) -> Deadline<VirtualClock> {
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Deadline::at(self.now().saturating_add(time))
    }

    /// Has it run out at this deadline, instead of one that was set before; at [`Deadline::NONE`] never. Where the deadline
    /// has passed it runs out at once, but not within this call: a device may hold its lock.
    pub fn arm(&self, deadline: Deadline<VirtualClock>) {
        let mut state = self.hub.state.lock();
        if let Some(entry) = state.timers.get_mut(&self.number) {
            entry.deadline = deadline.nanoseconds();
            self.hub.changed.notify_all();
        }
    }

    /// Has it not run out.
    pub fn disarm(&self) {
        self.arm(Deadline::NONE);
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let removed = self.hub.state.lock().timers.remove(&self.number);
        // Its handler may go with it, which is not for the lock.
        drop(removed);
    }
}

impl Hub {
    fn main(&self) {
        loop {
            let mut state = self.state.lock();
            while !state.ended {
                match state.until_due() {
                    Some(Duration::ZERO) => break,
                    Some(time) => _ = self.changed.wait_for(&mut state, time),
                    None => self.changed.wait(&mut state),
                }
            }
            if state.ended {
                return;
            }
            drop(state);
            let serving = self.serving.lock();
            self.serve();
            // Timers without end must not keep anybody from stopping the clock.
            MutexGuard::unlock_fair(serving);
        }
    }

    /// Calls the handlers of the timers that are due, the earliest first; not of those that become due meanwhile. The
    /// caller holds the lock of those that serve.
    fn serve(&self) {
        let due = self.state.lock().due();
        for (deadline, number) in due {
            let mut state = self.state.lock();
            let now = state.now();
            let Some(entry) = state.timers.get_mut(&number) else {
                continue;
            };
            if entry.deadline != Some(deadline) {
                continue;
            }
            entry.deadline = None;
            let handler = Arc::clone(&entry.handler);
            drop(state);
            handler.expired(now);
        }
    }
}

impl State {
    fn now(&self) -> u64 {
        let ran = match self.since {
            Some(since) if !self.is_stepped => u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX),
            _ => 0,
        };
        self.shown.saturating_add(ran)
    }

    fn stand_still(&mut self) {
        self.shown = self.now();
        self.since = None;
    }

    fn earliest(&self) -> Option<u64> {
        self.timers.values().filter_map(|entry| entry.deadline).min()
    }

    /// In how much of the host's time the next timer is due; never while the clock stands.
    fn until_due(&self) -> Option<Duration> {
        self.since?;
        Some(Duration::from_nanos(self.earliest()?.saturating_sub(self.now())))
    }

    /// The timers that are due, with their deadlines, in their order.
    fn due(&self) -> Vec<(u64, u64)> {
        if self.since.is_none() {
            return Vec::new();
        }
        let now = self.now();
        let armed = self
            .timers
            .iter()
            .filter_map(|(number, entry)| Some((entry.deadline?, *number)));
        let mut due: Vec<_> = armed.filter(|(deadline, _)| *deadline <= now).collect();
        due.sort_unstable();
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No call.
    const NOTHING: [u64; 0] = [];

    /// Notes when it was called, and says so.
    #[derive(Default)]
    struct Notes {
        calls: Mutex<Vec<u64>>,
        changed: Condvar,
    }

    impl Notes {
        fn take(&self) -> Vec<u64> {
            std::mem::take(&mut self.calls.lock())
        }

        fn wait_for_one(&self) -> u64 {
            let mut calls = self.calls.lock();
            while calls.is_empty() {
                self.changed.wait(&mut calls);
            }
            calls[0]
        }
    }

    impl TimerHandler for Notes {
        fn expired(&self, now: u64) {
            self.calls.lock().push(now);
            self.changed.notify_all();
        }
    }

    fn with_timer(timers: &Timers) -> (Arc<Notes>, Timer) {
        let notes = Arc::<Notes>::default();
        let timer = timers.add(notes.clone()).expect("a timer");
        (notes, timer)
    }

    fn step(timers: &Timers, by: u64) {
        assert!(timers.step(by, |_| ()));
    }

    #[test]
    fn a_timer_runs_out_at_its_instant_and_once() {
        let timers = Timers::stepped();
        let (notes, timer) = with_timer(&timers);
        timers.start();
        timer.arm(Deadline::at(100));
        step(&timers, 99);
        assert_eq!(notes.take(), NOTHING, "it is not due yet");
        step(&timers, 1000);
        assert_eq!(notes.take(), [100]);
        step(&timers, 1000);
        assert_eq!((notes.take(), timers.now()), (vec![], 2099));
    }

    #[test]
    fn a_deadline_that_has_passed_runs_out_at_once_but_not_while_it_is_armed() {
        let timers = Timers::stepped();
        let (notes, timer) = with_timer(&timers);
        timers.set(50);
        timers.start();
        timer.arm(Deadline::at(7));
        assert_eq!(notes.take(), NOTHING);
        step(&timers, 0);
        assert_eq!(notes.take(), [50]);
    }

    #[test]
    fn the_clock_stands_while_it_is_stopped_and_goes_on_from_there() {
        let timers = Timers::stepped();
        let (notes, timer) = with_timer(&timers);
        timer.arm(Deadline::at(0));
        assert!(!timers.step(10, |_| ()), "it was not started");
        timers.start();
        step(&timers, 10);
        timers.stop();
        timer.arm(Deadline::at(5));
        assert!(!timers.step(10, |_| ()));
        assert_eq!((notes.take(), timers.now()), (vec![0], 10));
        timers.start();
        step(&timers, 5);
        assert_eq!((notes.take(), timers.now()), (vec![10], 15));
    }

    #[test]
    fn a_timer_that_is_moved_disarmed_or_dropped_does_not_run_out_at_its_old_deadline() {
        let timers = Timers::stepped();
        timers.start();
        let (notes, timer) = with_timer(&timers);
        timer.arm(Deadline::at(10));
        timer.arm(timer.after(Duration::from_nanos(20)));
        step(&timers, 15);
        assert_eq!(notes.take(), NOTHING);
        step(&timers, 15);
        assert_eq!(notes.take(), [20]);
        timer.arm(Deadline::at(40));
        timer.disarm();
        step(&timers, 20);
        timer.arm(Deadline::at(60));
        assert!(timers.exist());
        drop(timer);
        step(&timers, 20);
        assert_eq!(notes.take(), NOTHING);
        assert!(!timers.exist());
        assert_eq!(Arc::strong_count(&notes), 1, "nothing keeps its handler");
    }

    /// Arms its timer again, for so much later.
    struct Again(Mutex<Option<Timer>>, u64, Notes);

    impl TimerHandler for Again {
        fn expired(&self, now: u64) {
            self.2.expired(now);
            let timer = self.0.lock();
            let timer = timer.as_ref().expect("made before it was armed");
            timer.arm(Deadline::at(now.saturating_add(self.1)));
        }
    }

    fn again(timers: &Timers, after: u64) -> Arc<Again> {
        let again = Arc::new(Again(Mutex::default(), after, Notes::default()));
        let timer = timers.add(again.clone()).expect("a timer");
        timer.arm(Deadline::at(after));
        *again.0.lock() = Some(timer);
        again
    }

    #[test]
    fn a_step_meets_each_instant_of_a_timer_that_is_armed_anew_and_the_last_of_very_many_late() {
        let timers = Timers::stepped();
        timers.start();
        let periodic = again(&timers, 10);
        let mut shown = Vec::new();
        assert!(timers.step(35, |now| shown.push(now)));
        assert_eq!((periodic.2.take(), shown), (vec![10, 20, 30], vec![10, 20, 30, 35]));
        step(&timers, u64::MAX);
        let calls = periodic.2.take();
        assert_eq!((calls.first(), calls.last()), (Some(&40), Some(&u64::MAX)));
        drop(periodic.0.lock().take());
    }

    #[test]
    fn a_running_clock_goes_with_the_hosts_time_and_its_timers_run_out_on_a_thread() {
        let timers = Timers::new();
        let (notes, timer) = with_timer(&timers);
        timers.set(1_000_000);
        assert!(!timers.step(1000, |_| ()), "the host moves it");
        timer.arm(Deadline::at(3_000_000));
        assert_eq!(timers.now(), 1_000_000, "it stands");
        timers.start();
        assert!(notes.wait_for_one() >= 3_000_000);
        timers.stop();
        let stopped = timers.now();
        assert_eq!(timers.now(), stopped);
        // What is due while the clock stands waits.
        notes.take();
        timer.arm(Deadline::at(0));
        timers.stop();
        assert_eq!(notes.take(), NOTHING);
        timers.start();
        assert!(notes.wait_for_one() >= stopped);
    }

    #[test]
    fn a_timer_that_is_always_due_does_not_keep_the_clock_from_being_stopped() {
        let timers = Timers::new();
        let endless = again(&timers, 0);
        timers.start();
        endless.2.wait_for_one();
        timers.stop();
        let calls = endless.2.take().len();
        assert!(calls > 0);
        timers.end();
        assert_eq!(endless.2.take(), NOTHING, "none is called once the clock stands");
        drop(endless.0.lock().take());
    }
}
