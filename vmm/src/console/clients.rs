//! A console's clients: who connects to its socket or opens its pseudo-terminal, one after another.

use std::{io, sync::Weak, time::Duration};

use parking_lot::MutexGuard;

use super::{ConsoleError, input::Input, port::Port, pty::Pty, shared::Shared};
use crate::{
    clock::Clock,
    event_loop::{EventLoop, Interest, SourceId},
    unix_socket::PrivateListener,
};

/// Where a console's clients come from, one after another.
pub(super) enum Clients {
    /// A socket, and the loop's watch for those who wait there.
    Socket(PrivateListener, SourceId),
    /// A pseudo-terminal.
    Pty(Pty),
}

impl Shared {
    /// The other side has gone. What it sent before is still offered to the guest.
    pub(super) fn disconnect(&self, event_loop: &mut EventLoop, input: &mut Input) {
        if let Some(source) = input.disconnect() {
            event_loop.unwatch(source);
        }
        match &input.clients {
            None => return,
            Some(Clients::Socket(_, listening)) => drop(event_loop.set_interest(*listening, Interest::Read)),
            Some(Clients::Pty(_)) => self.look_again_later(event_loop),
        }
        if let Some(source) = self.output.lock().disconnect() {
            event_loop.unwatch(source);
        }
    }

    /// Waits for clients of a socket.
    pub(super) fn listen(&self, event_loop: &mut EventLoop, listener: PrivateListener) -> Result<(), ConsoleError> {
        let callback = self.callback(|this, event_loop, _| {
            if let Err(_out_of_descriptors) = this.accept(event_loop) {
                this.accept_later(event_loop);
            }
        });
        let source = event_loop
            .watch(listener.fd(), Interest::Read, callback)
            .map_err(ConsoleError::Watch)?;
        self.input.lock().clients = Some(Clients::Socket(listener, source));
        Ok(())
    }

    /// The client goes on waiting, and the loop must not be called for it again at once.
    fn accept_later(&self, event_loop: &mut EventLoop) {
        let input = self.input.lock();
        let Some(Clients::Socket(_, listening)) = &input.clients else {
            return;
        };
        let listening = *listening;
        let _ = event_loop.set_interest(listening, Interest::None);
        event_loop.after(&Clock::Realtime, Duration::from_millis(100), move |event_loop| {
            let _ = event_loop.set_interest(listening, Interest::Read);
        });
    }

    /// Takes one client; the next waits until it has gone.
    fn accept(&self, event_loop: &mut EventLoop) -> io::Result<()> {
        let input = self.input.lock();
        let Some(Clients::Socket(listener, source)) = &input.clients else {
            return Ok(());
        };
        let Some(client) = listener.accept()? else {
            return Ok(());
        };
        // One descriptor for each direction: a loop watches a descriptor once.
        let for_output = client.try_clone()?;
        event_loop.set_interest(*source, Interest::None)?;
        self.begin(event_loop, input, Port::socket(client), Port::socket(for_output));
        Ok(())
    }

    /// Connects a client; it begins with what it has not seen of the output.
    fn begin(&self, event_loop: &mut EventLoop, mut input: MutexGuard<'_, Input>, from: Port, to: Port) {
        input.connect(from, None);
        self.watch_input(event_loop, &mut input, true);
        drop(input);
        self.output.lock().connect(to);
        self.drain_output(event_loop);
    }

    /// Connects who has opened the pseudo-terminal, or looks again later.
    pub(super) fn look_for_a_client(&self, event_loop: &mut EventLoop) {
        let input = self.input.lock();
        let Some(Clients::Pty(pty)) = &input.clients else {
            return;
        };
        if pty.has_client()
            && let (Ok(from), Ok(to)) = (pty.port(), pty.port())
        {
            self.begin(event_loop, input, from, to);
        } else {
            self.look_again_later(event_loop);
        }
    }

    fn look_again_later(&self, event_loop: &mut EventLoop) {
        const LATER: Duration = Duration::from_millis(250);
        let this = Weak::clone(&self.this);
        event_loop.after(&Clock::Realtime, LATER, move |event_loop| {
            if let Some(this) = this.upgrade() {
                this.look_for_a_client(event_loop);
            }
        });
    }
}
