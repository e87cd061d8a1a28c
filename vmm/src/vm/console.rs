//! The console's way into the guest: open while the guest runs.
//!
//! What a console does to a serial port changes the guest's state. A byte that came in after that state was taken would
//! be gone with the source of a migration, and a byte that went out would be shown there and at the destination once
//! more. So both wait, with the console, until the guest goes on.

use std::sync::Arc;

use hw::char::{CharFrontend, CharSink};
use parking_lot::Mutex;

/// A serial port as the console sees it, which does nothing while the guest stands still.
pub(super) struct ConsoleGate {
    port: Arc<dyn CharFrontend>,
    console: Option<Arc<dyn CharSink>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: bool,
    /// Input was refused, and the console waits to be told of room.
    refused: bool,
    /// The console has room again, and the port was not told.
    writable: bool,
}

impl ConsoleGate {
    /// The gate of a guest that does not run yet.
    pub(super) fn new(port: Arc<dyn CharFrontend>, console: Option<Arc<dyn CharSink>>) -> Self {
        Self {
            port,
            console,
            state: Mutex::default(),
        }
    }

    /// Nothing comes through any more once this returns.
    pub(super) fn close(&self) {
        self.state.lock().open = false;
    }

    /// Lets through what waits, and whatever comes.
    pub(super) fn open(&self) {
        let State { refused, writable, .. } = std::mem::replace(
            &mut *self.state.lock(),
            State {
                open: true,
                ..State::default()
            },
        );
        if writable {
            self.writable();
        }
        if refused && let Some(console) = &self.console {
            console.input_room();
        }
    }
}

impl CharFrontend for ConsoleGate {
    fn receive(&self, bytes: &[u8]) -> usize {
        let mut state = self.state.lock();
        if state.open {
            // With the lock held: a pause that follows takes the state with these bytes in it.
            self.port.receive(bytes)
        } else {
            state.refused = true;
            0
        }
    }

    fn writable(&self) {
        let mut state = self.state.lock();
        if state.open {
            self.port.writable();
        } else {
            state.writable = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Ends {
        received: AtomicUsize,
        writable: AtomicUsize,
        room: AtomicUsize,
    }

    impl CharFrontend for Ends {
        fn receive(&self, bytes: &[u8]) -> usize {
            self.received.fetch_add(bytes.len(), Ordering::Relaxed);
            bytes.len()
        }

        fn writable(&self) {
            self.writable.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl CharSink for Ends {
        fn try_write(&self, bytes: &[u8]) -> usize {
            bytes.len()
        }

        fn input_room(&self) {
            self.room.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Ends {
        fn seen(&self) -> [usize; 3] {
            [&self.received, &self.writable, &self.room].map(|count| count.load(Ordering::Relaxed))
        }
    }

    #[test]
    fn what_comes_while_the_guest_stands_still_comes_again_when_it_goes_on() {
        let ends = Arc::new(Ends::default());
        let gate = ConsoleGate::new(ends.clone(), Some(ends.clone()));
        assert_eq!(gate.receive(b"ab"), 0);
        gate.writable();
        assert_eq!(ends.seen(), [0, 0, 0]);
        gate.open();
        assert_eq!(ends.seen(), [0, 1, 1]);
        assert_eq!(gate.receive(b"ab"), 2);
        gate.close();
        gate.open();
        assert_eq!(ends.seen(), [2, 1, 1], "nothing waited this time");
    }
}
