//! The back end of a guest's console: standard input and output, a pseudo-terminal, a unix socket, a file, or nothing.
//!
//! A [`Console`] gives a [`CharSink`] for the guest's serial port. Output is written at once, by the vCPU that made it, as long as
//! the other side takes it without waiting; what it does not take goes into a bounded queue that the event loop drains, and beyond that the
//! device is told that there is no room. So neither a stopped terminal nor a slow reader ever holds a vCPU. Input is read by the
//! event loop, and only as much as the guest takes.

mod file;
mod input;
mod output;
mod port;
mod pty;
mod spec;

use std::{
    io::{self, stdin, stdout},
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hw::char::{CharFrontend, CharSink};
use parking_lot::{Mutex, MutexGuard};
use rustix::termios::isatty;

pub use spec::{ConsoleSpec, ConsoleSpecError};

use crate::{
    clock::Clock,
    event_loop::{EventLoop, Interest, LoopHandle, Ready},
    terminal::{EscapeKeys, RawTerminal},
    unix_socket::{PrivateListener, SocketError},
};
use file::FileWriter;
use input::{Clients, Got, Input};
use output::Output;
use port::{Direction, Port};
use pty::Pty;

/// Nothing is known about whether a read would block.
const NOT_READY: Ready = Ready {
    read: false,
    write: false,
    hung_up: false,
};

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
        let shared = Arc::new_cyclic(|this| Shared {
            this: Weak::clone(this),
            event_loop: event_loop.handle(),
            guest: OnceLock::new(),
            leave: OnceLock::new(),
            output: Mutex::new(Output::default()),
            input: Mutex::new(Input::default()),
            input_waits: AtomicBool::new(false),
        });
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

    /// Writes out what is queued, as long as the other side takes something every now and then; then closes the console.
    pub fn finish(mut self) {
        const PATIENCE: Duration = Duration::from_secs(1);
        let mut output = self.shared.output.lock();
        output.flush(PATIENCE);
        if let Some(file) = self.file.take() {
            output.disconnect();
            file.finish(PATIENCE);
        }
    }
}

impl Drop for Console {
    /// Removes the socket, even if a device still holds its end; the terminal is restored by its own guard.
    fn drop(&mut self) {
        self.shared.input.lock().clients = None;
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
            self.0
                .on_loop(|shared, event_loop| shared.pump_input(event_loop, NOT_READY));
        }
    }
}

impl std::fmt::Debug for ConsoleHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ConsoleHandle")
    }
}

/// Both halves. `output` is locked by vCPUs and by the loop, and never across a call to the device; `input` by the loop alone.
struct Shared {
    this: Weak<Self>,
    event_loop: LoopHandle,
    guest: OnceLock<Arc<dyn CharFrontend>>,
    /// What the leave key does.
    leave: OnceLock<Box<dyn Fn() + Send + Sync>>,
    output: Mutex<Output>,
    input: Mutex<Input>,
    /// The device has refused input and will say when it has room.
    input_waits: AtomicBool,
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
    fn on_loop(&self, work: impl FnOnce(&Self, &mut EventLoop) + Send + 'static) {
        let this = Weak::clone(&self.this);
        self.event_loop.defer(move |event_loop| {
            if let Some(this) = this.upgrade() {
                work(&this, event_loop);
            }
        });
    }

    /// A callback for the loop that keeps nothing alive.
    fn callback(
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
    fn drain_output(&self, event_loop: &mut EventLoop) {
        let mut output = self.output.lock();
        output.called = false;
        output.drain();
        match (output.must_drain(), output.watched) {
            (true, None) => {
                let fd = output.fd().expect("what must be drained has a port");
                let callback = self.callback(|this, event_loop, _| this.drain_output(event_loop));
                output.watched = event_loop.watch(fd, Interest::Write, callback).ok();
            }
            (false, Some(source)) => {
                event_loop.unwatch(source);
                output.watched = None;
            }
            _ => {}
        }
        let has_room_again = output.take_room();
        drop(output);
        if has_room_again && let Some(guest) = self.guest.get() {
            guest.writable();
        }
    }

    /// Hands the guest what it takes, and reads on when it has taken everything. A terminal is always read on, for the leave key.
    fn pump_input(&self, event_loop: &mut EventLoop, ready: Ready) {
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
                Got::Something => {}
                Got::NothingYet => return self.watch_input(event_loop, &mut input, true),
                Got::TheEnd if input.end() => {}
                Got::TheEnd => return self.disconnect(event_loop, &mut input),
                Got::LeaveKey => {
                    drop(input);
                    self.leave.get().into_iter().for_each(|leave| leave());
                    return;
                }
            }
        }
    }

    fn watch_input(&self, event_loop: &mut EventLoop, input: &mut Input, wanted: bool) {
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

    /// The other side has gone. What it sent before is still offered to the guest.
    fn disconnect(&self, event_loop: &mut EventLoop, input: &mut Input) {
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

    fn listen(&self, event_loop: &mut EventLoop, listener: PrivateListener) -> Result<(), ConsoleError> {
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
    fn look_for_a_client(&self, event_loop: &mut EventLoop) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::TempDir;
    use std::{
        io::{Read, Write},
        os::unix::net::UnixStream,
        path::Path,
        thread::JoinHandle,
    };

    /// A device with room for so many bytes of input.
    #[derive(Default)]
    struct Device {
        room: Mutex<usize>,
        received: Mutex<Vec<u8>>,
        told_writable: AtomicBool,
    }

    impl CharFrontend for Device {
        fn receive(&self, bytes: &[u8]) -> usize {
            let mut room = self.room.lock();
            let taken = bytes.len().min(*room);
            *room -= taken;
            self.received.lock().extend_from_slice(&bytes[..taken]);
            taken
        }

        fn writable(&self) {
            self.told_writable.store(true, Ordering::SeqCst);
        }
    }

    /// A console on a socket, served by a loop in a thread of its own.
    struct Served {
        console: Console,
        device: Arc<Device>,
        event_loop: LoopHandle,
        thread: Option<JoinHandle<()>>,
    }

    impl Served {
        fn at(path: &Path, room: usize) -> Self {
            Self::on(&ConsoleSpec::Unix(path.to_owned()), room)
        }

        fn on(spec: &ConsoleSpec, room: usize) -> Self {
            let mut event_loop = EventLoop::new().expect("an event loop");
            let console = Console::open(spec, &mut event_loop).expect("it can be opened");
            let device = Arc::new(Device {
                room: Mutex::new(room),
                ..Device::default()
            });
            console.handle().attach(Arc::clone(&device) as Arc<dyn CharFrontend>);
            let handle = event_loop.handle();
            let thread = std::thread::spawn(move || event_loop.run().expect("the loop runs"));
            Self {
                console,
                device,
                event_loop: handle,
                thread: Some(thread),
            }
        }

        fn wait(&self, what: &str, reached: impl Fn(&Device) -> bool) {
            let start = std::time::Instant::now();
            while !reached(&self.device) {
                assert!(start.elapsed() < Duration::from_secs(10), "{what}");
                std::thread::yield_now();
            }
        }
    }

    impl Drop for Served {
        fn drop(&mut self) {
            self.event_loop.defer(EventLoop::leave);
            self.thread.take().expect("joined once").join().expect("no panic");
        }
    }

    #[test]
    fn a_client_gets_what_was_said_before_it_came_and_what_follows() {
        let dir = TempDir::new();
        let path = dir.path().join("console");
        let served = Served::at(&path, 16);
        assert_eq!(served.console.handle().sink().try_write(b"early "), 6);
        let mut client = UnixStream::connect(&path).expect("somebody listens");
        let mut got = [0; 6];
        client.read_exact(&mut got).expect("the early output");
        assert_eq!(served.console.handle().sink().try_write(b"late"), 4);
        let mut got = [0; 4];
        client.read_exact(&mut got).expect("the late output");
        assert_eq!(&got, b"late");
    }

    #[test]
    fn the_socket_goes_with_the_console_although_the_device_has_its_end_still() {
        let dir = TempDir::new();
        let path = dir.path().join("console");
        let mut event_loop = EventLoop::new().expect("an event loop");
        let console = Console::open(&ConsoleSpec::Unix(path.clone()), &mut event_loop).expect("a fresh path");
        let sink = console.handle().sink();
        assert!(path.exists());
        console.finish();
        assert!(!path.exists());
        assert_eq!(sink.try_write(b"late"), 4);
    }

    #[test]
    fn input_waits_until_the_device_has_room() {
        let dir = TempDir::new();
        let path = dir.path().join("console");
        let served = Served::at(&path, 3);
        let mut client = UnixStream::connect(&path).expect("somebody listens");
        client.write_all(b"abcdefgh").expect("room in the socket");
        served.wait("three bytes", |device| *device.received.lock() == b"abc");
        served.wait("a refusal", |_| {
            served.console.shared.input_waits.load(Ordering::SeqCst)
        });
        *served.device.room.lock() = 100;
        served.console.handle().sink().input_room();
        served.wait("the rest", |device| *device.received.lock() == b"abcdefgh");
    }

    #[test]
    fn one_client_at_a_time_and_the_next_is_served_when_it_has_gone() {
        let dir = TempDir::new();
        let path = dir.path().join("console");
        let served = Served::at(&path, 100);
        let mut first = UnixStream::connect(&path).expect("somebody listens");
        first.write_all(b"1").expect("room in the socket");
        served.wait("the first client", |device| *device.received.lock() == b"1");
        let mut second = UnixStream::connect(&path).expect("the queue has room");
        second.write_all(b"2").expect("room in the socket");
        drop(first);
        served.wait("the second client", |device| *device.received.lock() == b"12");
        served.console.handle().sink().try_write(b"x");
        second.read_exact(&mut [0]).expect("output goes to the second");
    }

    #[test]
    fn a_client_that_ends_its_input_gets_output_until_it_goes() {
        let dir = TempDir::new();
        let path = dir.path().join("console");
        let served = Served::at(&path, 1);
        let mut first = UnixStream::connect(&path).expect("somebody listens");
        first.write_all(b"12").expect("room in the socket");
        first.shutdown(std::net::Shutdown::Write).expect("connected");
        served.wait("a refusal", |_| {
            served.console.shared.input_waits.load(Ordering::SeqCst)
        });
        *served.device.room.lock() = 100;
        served.console.handle().sink().input_room();
        served.wait("its input", |device| *device.received.lock() == b"12");
        let mut second = UnixStream::connect(&path).expect("the queue has room");
        second.write_all(b"3").expect("room in the socket");
        let ended = || served.console.shared.input.lock().has_ended();
        served.wait("the end of its input", |_| ended());
        for _ in 0..3 {
            assert_eq!(served.console.handle().sink().try_write(b"x"), 1);
            first.read_exact(&mut [0]).expect("output goes on");
        }
        assert_eq!(*served.device.received.lock(), b"12", "the second waits for its turn");
        drop(first);
        served.wait("the second's input", |device| *device.received.lock() == b"123");
    }

    #[test]
    fn a_client_that_goes_while_its_input_waits_makes_way() {
        let dir = TempDir::new();
        let path = dir.path().join("console");
        let served = Served::at(&path, 0);
        let mut first = UnixStream::connect(&path).expect("somebody listens");
        first.write_all(b"1").expect("room in the socket");
        served.wait("a refusal", |_| {
            served.console.shared.input_waits.load(Ordering::SeqCst)
        });
        drop(first);
        let mut second = UnixStream::connect(&path).expect("the queue has room");
        second.write_all(b"2").expect("room in the socket");
        served.console.handle().sink().try_write(b"x");
        second.read_exact(&mut [0]).expect("output goes to the second");
        *served.device.room.lock() = 100;
        served.console.handle().sink().input_room();
        served.wait("both inputs", |device| *device.received.lock() == b"12");
    }

    #[test]
    fn a_client_that_does_not_read_is_refused_more_and_the_device_told_when_it_does() {
        let dir = TempDir::new();
        let path = dir.path().join("console");
        let served = Served::at(&path, 100);
        let mut client = UnixStream::connect(&path).expect("somebody listens");
        client.write_all(b"1").expect("room in the socket");
        served.wait("the client", |device| *device.received.lock() == b"1");
        let mut sent = 0;
        loop {
            let taken = served.console.handle().sink().try_write(&[b'x'; 10_000]);
            sent += taken;
            if taken == 0 {
                break;
            }
        }
        let mut got = vec![0; sent];
        client.read_exact(&mut got).expect("all that was taken");
        served.wait("the word that there is room", |device| {
            device.told_writable.load(Ordering::SeqCst)
        });
    }

    #[test]
    fn programs_open_the_pseudo_terminal_one_after_another_and_nothing_stalls_between_them() {
        let served = Served::on(&ConsoleSpec::Pty, 100);
        let name = served.console.pty().expect("it has a name").to_owned();
        let open = || std::fs::File::options().read(true).write(true).open(&name);
        let sink = served.console.handle().sink();
        for _ in 0..10 {
            assert_eq!(
                sink.try_write(&[b'.'; 100_000]),
                100_000,
                "nobody reads, and nobody waits"
            );
        }
        let mut first = open().expect("it can be opened");
        first.write_all(b"1").expect("room");
        let mut early = vec![0; output::CAPACITY];
        first.read_exact(&mut early).expect("the latest output");
        served.wait("the first program's key", |device| *device.received.lock() == b"1");
        drop(first);
        let mut second = open().expect("it can be opened again");
        second.write_all(b"2").expect("room");
        served.wait("the second program's key", |device| *device.received.lock() == b"12");
        assert_eq!(sink.try_write(b"late"), 4);
        let mut late = [0; 4];
        second.read_exact(&mut late).expect("the late output");
        assert_eq!(&late, b"late");
    }

    #[test]
    fn output_in_a_file_is_whole_when_the_console_has_finished_and_never_refused() {
        let dir = TempDir::new();
        let path = dir.path().join("log");
        let mut event_loop = EventLoop::new().expect("an event loop");
        let console = Console::open(&ConsoleSpec::File(path.clone()), &mut event_loop).expect("a fresh path");
        let sink = console.handle().sink();
        assert_eq!(sink.try_write(b"all of it"), 9);
        console.finish();
        assert_eq!(std::fs::read(&path).expect("there"), b"all of it");
        assert_eq!(sink.try_write(b"late"), 4);
    }
}
