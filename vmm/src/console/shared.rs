//! What both ends of a console share: output towards the host, input towards the guest.

use std::sync::{
    Arc, OnceLock, Weak,
    atomic::{AtomicBool, Ordering},
};

use hw::char::{CharFrontend, CharSink};
use parking_lot::Mutex;

use super::{
    input::{Got, Input},
    keys::Key,
    mux::Mux,
    output::Output,
};
use crate::event_loop::{EventLoop, Interest, LoopHandle, Ready};

/// Nothing is known about whether a read would block.
pub(super) const NOT_READY: Ready = Ready {
    read: false,
    write: false,
    hung_up: false,
};

/// Both halves. `output` is locked by vCPUs and by the loop, and never across a call to the device; `input` by the loop alone.
pub(super) struct Shared {
    pub(super) this: Weak<Self>,
    pub(super) event_loop: LoopHandle,
    pub(super) guest: OnceLock<Arc<dyn CharFrontend>>,
    /// What the leave key does.
    pub(super) leave: OnceLock<Box<dyn Fn() + Send + Sync>>,
    pub(super) output: Mutex<Output>,
    pub(super) input: Mutex<Input>,
    /// The prompt that shares the terminal.
    pub(super) mux: Mux,
    /// The device has refused input and will say when it has room.
    pub(super) input_waits: AtomicBool,
}

impl CharSink for Shared {
    fn try_write(&self, bytes: &[u8]) -> usize {
        let mut output = self.output.lock();
        let taken = output.try_write(bytes);
        let call_the_loop = output.must_drain() && output.watched.is_none() && !output.called;
        output.called |= call_the_loop;
        drop(output);
        if call_the_loop {
            self.on_loop(Self::drain_output);
        }
        taken
    }

    fn input_room(&self) {
        if self.input_waits.swap(false, Ordering::SeqCst) {
            self.on_loop(|this, event_loop| this.pump_input(event_loop, NOT_READY));
        }
    }
}

impl Shared {
    /// Both halves of a console that is connected to nothing yet.
    pub(super) fn new(event_loop: LoopHandle) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            event_loop,
            guest: OnceLock::new(),
            leave: OnceLock::new(),
            output: Mutex::new(Output::default()),
            input: Mutex::new(Input::default()),
            mux: Mux::default(),
            input_waits: AtomicBool::new(false),
        })
    }

    pub(super) fn on_loop(&self, work: impl FnOnce(&Self, &mut EventLoop) + Send + 'static) {
        let this = Weak::clone(&self.this);
        self.event_loop.defer(move |event_loop| {
            if let Some(this) = this.upgrade() {
                work(&this, event_loop);
            }
        });
    }

    /// A callback for the loop that keeps nothing alive.
    pub(super) fn callback(
        &self,
        work: impl Fn(&Self, &mut EventLoop, Ready) + Send + 'static,
    ) -> impl FnMut(&mut EventLoop, Ready) + Send + 'static {
        let this = Weak::clone(&self.this);
        move |event_loop, ready| {
            if let Some(this) = this.upgrade() {
                work(&this, event_loop, ready);
            }
        }
    }

    /// Writes queued output and watches for more room until the queue is empty.
    pub(super) fn drain_output(&self, event_loop: &mut EventLoop) {
        let mut output = self.output.lock();
        output.called = false;
        output.drain_on(
            event_loop,
            self.callback(|this, event_loop, _| this.drain_output(event_loop)),
        );
        let has_room_again = output.take_room();
        drop(output);
        if has_room_again && let Some(guest) = self.guest.get() {
            guest.writable();
        }
    }

    /// Hands the guest what it takes, and reads on when it has taken everything. A terminal is always read on, for the console's own keys.
    pub(super) fn pump_input(&self, event_loop: &mut EventLoop, ready: Ready) {
        let guest = self.guest.get();
        let mut input = self.input.lock();
        let mut may_read = ready.read;
        loop {
            // Said before asking: the guest may make room the moment after it has refused.
            self.input_waits.store(true, Ordering::SeqCst);
            if input.offer(|bytes| guest.map_or(0, |guest| guest.receive(bytes))) {
                self.input_waits.store(false, Ordering::SeqCst);
            } else if !input.looks_for_keys() {
                if ready.hung_up && input.is_a_client() {
                    input.read_the_rest();
                    self.disconnect(event_loop, &mut input);
                } else {
                    self.watch_input(event_loop, &mut input, false);
                }
                return;
            }
            if input.has_ended() {
                return if ready.hung_up {
                    self.disconnect(event_loop, &mut input);
                } else {
                    self.watch_input(event_loop, &mut input, false);
                };
            }
            if !may_read && !input.is_always_ready() {
                return self.watch_input(event_loop, &mut input, true);
            }
            may_read = false;
            match input.read() {
                Got::Something => self.feed_prompt(&mut input),
                Got::NothingYet => return self.watch_input(event_loop, &mut input, true),
                Got::TheEnd if input.end() => {}
                Got::TheEnd => return self.disconnect(event_loop, &mut input),
                Got::Key(key) => {
                    self.feed_prompt(&mut input);
                    if key == Key::Leave {
                        drop(input);
                        self.leave.get().into_iter().for_each(|leave| leave());
                        input = self.input.lock();
                    } else {
                        self.obey(event_loop, &mut input, key);
                    }
                    // More may have been typed.
                    may_read = true;
                }
            }
        }
    }

    pub(super) fn watch_input(&self, event_loop: &mut EventLoop, input: &mut Input, wanted: bool) {
        let interest = match (wanted, &input.clients) {
            (true, _) => Interest::Read,
            (false, Some(_)) => Interest::HangUp,
            (false, None) => Interest::None,
        };
        match (input.watched, input.fd()) {
            (Some(source), _) => drop(event_loop.set_interest(source, interest)),
            (None, Some(fd)) if !input.is_always_ready() => {
                let callback = self.callback(Self::pump_input);
                input.watched = event_loop.watch(fd, interest, callback).ok();
            }
            _ => {}
        }
    }
}
