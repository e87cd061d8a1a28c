//! The back end of a guest's console: standard input and output, a pseudo-terminal, a unix socket, a file, or nothing.
//!
//! A [`Console`] gives a [`CharSink`] for the guest's serial port. Output is written at once, by the vCPU that made it, as long as
//! the other side takes it without waiting; what it does not take goes into a bounded queue that the event loop drains, and beyond that the
//! device is told that there is no room. So neither a stopped terminal nor a slow reader ever holds a vCPU. Input is read by the
//! event loop, and only as much as the guest takes.

mod clients;
mod file;
mod input;
mod keys;
mod mux;
mod output;
mod port;
mod pty;
mod shared;
mod spec;

use std::{
    io::{self, stdin, stdout},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use hw::char::{CharFrontend, CharSink};
use rustix::termios::isatty;

pub use spec::{ConsoleSpec, ConsoleSpecError};

use crate::{
    event_loop::EventLoop,
    terminal::{RawTerminal, keys_are_the_guests},
    unix_socket::{PrivateListener, SocketError},
};
use clients::Clients;
use file::FileWriter;
pub(crate) use keys::{EscapeKeys, Key};
use port::{Direction, Port};
use pty::Pty;
use shared::{NOT_READY, Shared};

/// Why a console could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// Its socket could not be made.
    #[error("cannot open the console: {0}")]
    Socket(#[from] SocketError),
    /// No pseudo-terminal could be had.
    #[error("cannot make a pseudo-terminal for the console: {0}; try --console unix:PATH")]
    Pty(#[source] io::Error),
    /// The file cannot be written.
    #[error("cannot write the console to {path:?}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The loop cannot watch it.
    #[error("cannot watch the console: {0}")]
    Watch(#[source] io::Error),
    /// Standard input or output is unusable.
    #[error("cannot use standard input and output as the console: {0}; try --console null or --console unix:PATH")]
    Stdio(#[source] io::Error),
}

/// An open console: its end towards the host. [`Console::handle`] is the end towards the guest.
pub struct Console {
    shared: Arc<Shared>,
    spec: ConsoleSpec,
    terminal: Option<RawTerminal>,
    /// The other end of a pseudo-terminal.
    pty: Option<PathBuf>,
    file: Option<FileWriter>,
}

impl Console {
    /// Opens what `spec` says, on the loop that will serve it.
    ///
    /// # Errors
    ///
    /// See [`ConsoleError`].
    pub fn open(spec: &ConsoleSpec, event_loop: &mut EventLoop) -> Result<Self, ConsoleError> {
        let shared = Shared::new(event_loop.handle());
        let (mut terminal, mut pty, mut file) = (None, None, None);
        match spec {
            ConsoleSpec::Null => shared.output.lock().discard(),
            ConsoleSpec::Stdio => {
                terminal = RawTerminal::enter().map_err(ConsoleError::Stdio)?;
                let output = Port::shared(stdout().as_fd(), Direction::Output).map_err(ConsoleError::Stdio)?;
                shared.output.lock().connect(output);
                // Reading from a terminal that another job has the use of would stop us.
                if terminal.is_some() || !isatty(stdin()) {
                    let input = Port::shared(stdin().as_fd(), Direction::Input).map_err(ConsoleError::Stdio)?;
                    let keys = terminal.is_some().then(EscapeKeys::default);
                    shared.input.lock().connect(input, keys);
                    shared.pump_input(event_loop, NOT_READY);
                }
            }
            ConsoleSpec::Unix(path) => shared.listen(event_loop, PrivateListener::bind(path)?)?,
            ConsoleSpec::Pty => {
                let made = Pty::open().map_err(ConsoleError::Pty)?;
                pty = Some(made.path().to_owned());
                shared.input.lock().clients = Some(Clients::Pty(made));
                shared.look_for_a_client(event_loop);
            }
            ConsoleSpec::File(path) => {
                let failed = |error| ConsoleError::File {
                    path: path.clone(),
                    error,
                };
                let (writer, port) = FileWriter::open(path).map_err(failed)?;
                file = Some(writer);
                let mut output = shared.output.lock();
                output.lose_what_does_not_fit();
                output.connect(port);
            }
        }
        Ok(Self {
            shared,
            spec: spec.clone(),
            terminal,
            pty,
            file,
        })
    }

    /// The end towards the guest.
    #[must_use]
    pub fn handle(&self) -> ConsoleHandle {
        ConsoleHandle(Arc::clone(&self.shared))
    }

    /// Has `leave` called on the loop when the user presses the leave key. Once per console; later calls are ignored.
    pub fn on_leave(&self, leave: impl Fn() + Send + Sync + 'static) {
        let _ = self.shared.leave.set(Box::new(leave));
    }

    /// Has Ctrl-A C open a prompt in the user's terminal: the program of this command, which gets its streams here. Once per console.
    pub fn on_switch(&self, program: impl Fn() -> Command + Send + Sync + 'static) {
        let _ = self.shared.mux.program.set(Box::new(program));
    }

    /// Whether the user sits at a terminal that is raw now.
    #[must_use]
    pub fn has_terminal(&self) -> bool {
        self.terminal.is_some()
    }

    /// The name of the pseudo-terminal's other end, where the console is one.
    #[must_use]
    pub fn pty(&self) -> Option<&Path> {
        self.pty.as_deref()
    }

    /// Where it is, as `--console` takes it; a pseudo-terminal by its name: `pty:/dev/pts/7`.
    #[must_use]
    pub fn place(&self) -> String {
        match &self.pty {
            Some(name) => format!("pty:{}", name.display()),
            None => self.spec.to_string(),
        }
    }

    /// Writes out what is queued, as long as the other side takes something every now and then; then closes the console.
    pub fn finish(mut self) {
        const PATIENCE: Duration = Duration::from_secs(1);
        // What the guest said while the user was at the prompt.
        self.shared.switch_to_guest(None, &mut self.shared.input.lock());
        let mut output = self.shared.output.lock();
        output.flush(PATIENCE);
        if let Some(file) = self.file.take() {
            output.disconnect();
            file.finish(PATIENCE);
        }
    }
}

impl Drop for Console {
    /// Removes the socket and ends the prompt, even if a device still holds its end; the terminal is restored by its own guard.
    fn drop(&mut self) {
        self.shared.input.lock().clients = None;
        *self.shared.mux.prompt.lock() = None;
    }
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console")
            .field("terminal", &self.terminal)
            .finish_non_exhaustive()
    }
}

/// A console's end towards the guest, for any thread: give [`ConsoleHandle::sink`] to the device, and the device to
/// [`ConsoleHandle::attach`].
#[derive(Clone)]
pub struct ConsoleHandle(Arc<Shared>);

impl ConsoleHandle {
    /// What the device writes to.
    #[must_use]
    pub fn sink(&self) -> Arc<dyn CharSink> {
        Arc::clone(&self.0) as Arc<dyn CharSink>
    }

    /// Begins to feed input to `frontend`. Once per console; later calls are ignored.
    pub fn attach(&self, frontend: Arc<dyn CharFrontend>) {
        if self.0.guest.set(frontend).is_ok() {
            let has_terminal = self.0.input.lock().looks_for_keys();
            self.0.on_loop(move |shared, event_loop| {
                // On the loop's thread, which is also the one that lets go of the terminal.
                if has_terminal {
                    keys_are_the_guests();
                }
                shared.pump_input(event_loop, NOT_READY);
            });
        }
    }
}

impl std::fmt::Debug for ConsoleHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ConsoleHandle")
    }
}

#[cfg(test)]
mod tests;
