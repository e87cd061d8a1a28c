//! The console as a whole, served by a loop in a thread of its own.

use super::*;
use crate::{event_loop::LoopHandle, test_support::TempDir};
use parking_lot::Mutex;
use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
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
