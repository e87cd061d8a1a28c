//! The monitor's socket: clients come, converse and go, several at once, on the event loop.
//!
//! No client can hold the VM up. What is sent to it goes into a queue; while that is long, its requests wait; a client that does not
//! even take its events is dropped. Requests are bounded by the framer, clients by [`MAX_CLIENTS`].

use std::{
    collections::BTreeMap,
    fmt, io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Weak},
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    net::{RecvFlags, SendFlags, recv, send},
    time::Timespec,
};

use super::{
    qmp,
    session::{Next, Session},
};
use crate::{
    clock::Clock,
    control::{Control, Event, EventSink},
    event_loop::{EventLoop, Interest, LoopHandle, Ready, SourceId},
    unix_socket::PrivateListener,
};

/// So many clients are served at once; others wait.
const MAX_CLIENTS: usize = 32;

/// A client with so many bytes to take gets no further request answered.
const ENOUGH_QUEUED: usize = 64 << 10;

/// A client with so many bytes to take is dropped.
const TOO_MUCH_QUEUED: usize = 1 << 20;

/// How long clients are waited for when the VM has ended, to take their last lines.
const FAREWELL: Duration = Duration::from_millis(300);

/// How long clients are waited for that ask now and then how a migration goes, to ask once more.
const LAST_QUESTION: Duration = Duration::from_secs(5);

/// The monitor of one VM.
pub struct MonitorServer(Arc<Shared>);

struct Shared {
    vm: Arc<dyn Control>,
    event_loop: LoopHandle,
    /// Locked on the loop's thread only; what a request does to the VM comes back as an event through the loop.
    state: Mutex<State>,
}

struct State {
    /// Absent once the server has gone.
    listener: Option<PrivateListener>,
    listening: Option<SourceId>,
    clients: BTreeMap<u64, Client>,
    next_client: u64,
}

struct Client {
    fd: Arc<OwnedFd>,
    watched: Option<SourceId>,
    session: Session,
    queue: Vec<u8>,
    /// It sends no more requests, or none that could be understood: it gets what is queued, and that is all.
    leaving: bool,
}

impl MonitorServer {
    /// Serves the clients of `listener` on `event_loop`, which runs or will run in this thread.
    ///
    /// # Errors
    ///
    /// The loop cannot watch the socket.
    pub fn start(listener: PrivateListener, vm: &Arc<dyn Control>, event_loop: &mut EventLoop) -> io::Result<Self> {
        let fd = listener.fd();
        let state = State {
            listener: Some(listener),
            listening: None,
            clients: BTreeMap::new(),
            next_client: 0,
        };
        let (vm, handle) = (Arc::clone(vm), event_loop.handle());
        let shared = Arc::new(Shared {
            vm,
            event_loop: handle,
            state: Mutex::new(state),
        });
        let this = Arc::downgrade(&shared);
        let listening = event_loop.watch(fd, Interest::Read, move |event_loop, _| {
            if let Some(this) = this.upgrade() {
                this.accept(event_loop);
            }
        })?;
        shared.state.lock().listening = Some(listening);
        shared.vm.subscribe(Arc::new(Sink(Arc::downgrade(&shared))));
        Ok(Self(shared))
    }

    /// Says goodbye: who polls a migration hears how it ended, what is queued for clients is sent as far as they take it soon, and the
    /// socket is removed.
    pub fn finish(self) {
        let mut state = self.0.state.lock();
        let deadline = Instant::now() + LAST_QUESTION;
        for client in state.clients.values_mut() {
            client.answer_the_last_question(&*self.0.vm, deadline);
        }
        let deadline = Instant::now() + FAREWELL;
        for client in state.clients.values_mut() {
            client.flush_until(deadline);
        }
    }
}

impl Drop for MonitorServer {
    /// Removes the socket, even if a thread that tells an event still holds the rest.
    fn drop(&mut self) {
        self.0.state.lock().listener = None;
    }
}

impl fmt::Debug for MonitorServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MonitorServer({} clients)", self.0.state.lock().clients.len())
    }
}

/// Brings events from whichever thread causes them to the loop.
struct Sink(Weak<Shared>);

impl EventSink for Sink {
    fn event(&self, event: &Event) {
        let Some(shared) = self.0.upgrade() else { return };
        let (this, event, at) = (Weak::clone(&self.0), event.clone(), SystemTime::now());
        shared.event_loop.defer(move |event_loop| {
            let Some(this) = this.upgrade() else { return };
            if let Some(line) = qmp::event(&event, at) {
                this.broadcast(event_loop, &line);
            }
        });
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, event_loop: &mut EventLoop) {
        let mut state = self.state.lock();
        match state.listener.as_ref().map_or(Ok(None), PrivateListener::accept) {
            Ok(None) => {}
            Ok(Some(fd)) => {
                let id = state.next_client;
                state.next_client += 1;
                let mut client = Client::new(fd);
                let this = Arc::downgrade(self);
                let watched = event_loop.watch(Arc::clone(&client.fd), Interest::Read, move |event_loop, ready| {
                    if let Some(this) = this.upgrade() {
                        this.serve(event_loop, id, ready);
                    }
                });
                client.watched = watched.ok();
                client.flush();
                state.clients.insert(id, client);
                state.settle(event_loop, id);
            }
            Err(_out_of_descriptors) => {
                // The client goes on waiting, and the loop must not be called for it again at once.
                state.listen(event_loop, false);
                let this = Arc::downgrade(self);
                event_loop.after(&Clock::Realtime, Duration::from_millis(100), move |event_loop| {
                    if let Some(this) = this.upgrade() {
                        this.state.lock().listen(event_loop, true);
                    }
                });
            }
        }
    }

    fn serve(&self, event_loop: &mut EventLoop, id: u64, ready: Ready) {
        let mut state = self.state.lock();
        let Some(client) = state.clients.get_mut(&id) else {
            return;
        };
        if ready.write {
            client.flush();
        }
        if ready.read && !client.leaving && !client.has_enough() {
            client.read();
        }
        client.answer(&*self.vm);
        state.settle(event_loop, id);
    }

    fn broadcast(&self, event_loop: &mut EventLoop, line: &[u8]) {
        let mut state = self.state.lock();
        let listening: Vec<u64> = state
            .clients
            .iter()
            .filter(|(_, client)| client.session.hears_events())
            .map(|(id, _)| *id)
            .collect();
        for id in listening {
            if let Some(client) = state.clients.get_mut(&id) {
                client.queue.extend_from_slice(line);
                client.flush();
            }
            state.settle(event_loop, id);
        }
    }
}

impl State {
    /// Watches the client for what it needs next, or lets it go.
    fn settle(&mut self, event_loop: &mut EventLoop, id: u64) {
        let Some(client) = self.clients.get(&id) else { return };
        let over = client.leaving && client.queue.is_empty();
        if over || client.queue.len() > TOO_MUCH_QUEUED || client.watched.is_none() {
            if let Some(source) = client.watched {
                event_loop.unwatch(source);
            }
            self.clients.remove(&id);
        } else if let Some(source) = client.watched {
            let interest = Interest::of(!client.leaving && !client.has_enough(), !client.queue.is_empty());
            // The descriptor is in epoll already, and changing that does not fail.
            let _ = event_loop.set_interest(source, interest);
        }
        self.listen(event_loop, self.clients.len() < MAX_CLIENTS);
    }

    fn listen(&self, event_loop: &mut EventLoop, wanted: bool) {
        if let Some(source) = self.listening {
            let _ = event_loop.set_interest(source, Interest::of(wanted, false));
        }
    }
}

impl Client {
    fn new(fd: OwnedFd) -> Self {
        Self {
            fd: Arc::new(fd),
            watched: None,
            session: Session::default(),
            queue: qmp::greeting(),
            leaving: false,
        }
    }

    fn has_enough(&self) -> bool {
        self.queue.len() >= ENOUGH_QUEUED
    }

    fn read(&mut self) {
        let mut buffer = [0; 8 << 10];
        match recv(&self.fd, &mut buffer, RecvFlags::DONTWAIT) {
            Ok((0, _)) => self.leaving = true,
            Ok((length, _)) => self.session.push(&buffer[..length]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.give_up(),
        }
    }

    /// Answers requests until there are no more, or the client has enough to take.
    fn answer(&mut self, vm: &dyn Control) {
        while !self.has_enough() {
            let queue = &mut self.queue;
            match self.session.answer_next(vm, |line| queue.extend_from_slice(line)) {
                Next::Answered => {}
                Next::WaitForBytes => break,
                Next::HangUp => {
                    self.leaving = true;
                    break;
                }
            }
            self.flush();
        }
        self.flush();
    }

    /// Sends what the client takes at once.
    fn flush(&mut self) {
        let mut sent = 0;
        while sent < self.queue.len() {
            match send(&self.fd, &self.queue[sent..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(length) => sent += length,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => return self.give_up(),
            }
        }
        self.queue.drain(..sent);
    }

    fn answer_the_last_question(&mut self, vm: &dyn Control, deadline: Instant) {
        while self.session.awaits_the_end() && !self.leaving && self.is_ready(PollFlags::IN, deadline) {
            self.read();
            self.answer(vm);
        }
    }

    fn flush_until(&mut self, deadline: Instant) {
        self.flush();
        while !self.queue.is_empty() && self.is_ready(PollFlags::OUT, deadline) {
            self.flush();
        }
    }

    fn is_ready(&self, how: PollFlags, deadline: Instant) -> bool {
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).unwrap_or_default();
        poll(&mut [PollFd::new(&self.fd.as_fd(), how)], Some(&left)).is_ok_and(|ready| ready > 0)
    }

    /// The client has gone, and so has whatever was meant for it.
    fn give_up(&mut self) {
        self.leaving = true;
        self.queue.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        control::{Ending, MigrationStatus, ShutdownReason},
        fake_vm::{Asked, FakeVm},
        monitor::client::{Client as QmpClient, ClientError},
        test_support::TempDir,
    };
    use serde_json::{Value, json};
    use std::{
        io::{BufRead, BufReader, Read, Write},
        os::unix::net::UnixStream,
        path::PathBuf,
        thread::JoinHandle,
    };

    /// A fake VM whose monitor is served by a thread.
    struct Served {
        vm: Arc<FakeVm>,
        event_loop: LoopHandle,
        thread: Option<JoinHandle<()>>,
        dir: TempDir,
    }

    impl Served {
        fn new() -> Self {
            let dir = TempDir::new();
            let listener = PrivateListener::bind(&dir.path().join("s")).expect("a fresh path");
            let vm = Arc::new(FakeVm::default());
            let mut event_loop = EventLoop::new().expect("an event loop");
            let handle = event_loop.handle();
            let control: Arc<dyn Control> = vm.clone();
            let server = MonitorServer::start(listener, &control, &mut event_loop).expect("a sound socket");
            let thread = std::thread::spawn(move || {
                event_loop.run().expect("the loop runs");
                server.finish();
            });
            Self {
                vm,
                event_loop: handle,
                thread: Some(thread),
                dir,
            }
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("s")
        }

        fn client(&self) -> QmpClient {
            QmpClient::connect(&self.path()).expect("the monitor answers")
        }

        fn raw(&self) -> UnixStream {
            UnixStream::connect(self.path()).expect("somebody listens")
        }
    }

    impl Drop for Served {
        fn drop(&mut self) {
            self.event_loop.defer(EventLoop::leave);
            let ended = self.thread.take().expect("joined once").join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }

    fn lines(stream: &UnixStream) -> impl Iterator<Item = Value> + use<> {
        let reader = BufReader::new(stream.try_clone().expect("a second handle"));
        reader
            .lines()
            .map(|line| serde_json::from_str(&line.expect("a line")).expect("JSON"))
    }

    #[test]
    fn the_socket_goes_at_the_end_even_while_another_thread_tells_an_event() {
        let dir = TempDir::new();
        let path = dir.path().join("s");
        let listener = PrivateListener::bind(&path).expect("a fresh path");
        let vm: Arc<dyn Control> = Arc::new(FakeVm::default());
        let mut event_loop = EventLoop::new().expect("an event loop");
        let server = MonitorServer::start(listener, &vm, &mut event_loop).expect("a sound socket");
        // As that thread does for a moment.
        let _held = Arc::clone(&server.0);
        server.finish();
        assert!(!path.exists());
    }

    #[test]
    fn the_greeting_comes_first_and_negotiation_before_all_else() {
        let served = Served::new();
        let mut stream = served.raw();
        let mut lines = lines(&stream);
        let greeting = lines.next().expect("a greeting");
        assert_eq!(greeting["QMP"]["capabilities"], json!([]));
        assert!(greeting["QMP"]["version"]["qemu"]["major"].is_u64());
        stream
            .write_all(b"{\"execute\":\"stop\",\"id\":3}\n")
            .expect("room in the socket");
        assert_eq!(lines.next().expect("an answer")["error"]["class"], "CommandNotFound");
        stream
            .write_all(b"{\"execute\":\"qmp_capabilities\"}{\"execute\":\"stop\"}")
            .expect("room");
        assert_eq!(lines.next().expect("an answer"), json!({ "return": {} }));
        assert_eq!(lines.next().expect("an answer"), json!({ "return": {} }));
        assert_eq!(lines.next().expect("an event")["event"], "STOP");
    }

    #[test]
    fn every_negotiated_client_hears_events_and_others_do_not() {
        let served = Served::new();
        let (mut one, mut two, silent) = (served.client(), served.client(), served.raw());
        one.execute("stop", json!({})).expect("not refused");
        for client in [&mut one, &mut two] {
            let event = client
                .next_event(Duration::from_secs(10))
                .expect("connected")
                .expect("in time");
            assert_eq!(event["event"], "STOP");
            assert!(event["timestamp"]["seconds"].as_u64() > Some(1_600_000_000));
        }
        silent
            .set_read_timeout(Some(Duration::from_millis(20)))
            .expect("a socket");
        let mut reader = BufReader::new(silent);
        reader.read_line(&mut String::new()).expect("the greeting");
        assert!(
            reader.read_line(&mut String::new()).is_err(),
            "nothing but the greeting"
        );
    }

    #[test]
    fn a_client_that_closes_its_half_still_gets_its_answers() {
        let served = Served::new();
        let mut stream = served.raw();
        stream
            .write_all(b"{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"query-name\"}\n")
            .expect("room");
        stream.shutdown(std::net::Shutdown::Write).expect("connected");
        let last = lines(&stream).last().expect("answers");
        assert_eq!(last["return"]["name"], "fake");
    }

    #[test]
    fn a_client_that_reads_nothing_is_dropped_and_the_others_never_wait() {
        let served = Served::new();
        let mut slow = served.raw();
        slow.write_all(b"{\"execute\":\"qmp_capabilities\"}\n")
            .expect("room in the socket");
        let mut quick = served.client();
        // Its requests stop being answered once it has enough to read; a flood of events then goes beyond every bound.
        for _ in 0..20_000 {
            served.vm.reach(MigrationStatus::Active);
            if quick.next_event(Duration::from_secs(10)).expect("connected").is_none() {
                unreachable!("the quick client was kept waiting");
            }
        }
        let mut received = Vec::new();
        slow.read_to_end(&mut received).expect("an end");
        assert!(received.len() < 20_000 * 90, "dropped before the flood was over");
        quick.execute("query-status", json!({})).expect("served as ever");
    }

    #[test]
    fn a_client_that_sends_without_reading_costs_a_bounded_queue() {
        let served = Served::new();
        let mut greedy = served.raw();
        greedy
            .set_write_timeout(Some(Duration::from_millis(100)))
            .expect("a socket");
        greedy
            .write_all(b"{\"execute\":\"qmp_capabilities\"}\n")
            .expect("room in the socket");
        let request = b"{\"execute\":\"query-commands\"}\n".repeat(100);
        while greedy.write_all(&request).is_ok() {}
        served
            .client()
            .execute("query-status", json!({}))
            .expect("others are served");
    }

    #[test]
    fn more_clients_than_are_served_wait_for_their_turn() {
        let served = Served::new();
        let mut crowd: Vec<_> = (0..MAX_CLIENTS).map(|_| served.client()).collect();
        let late = served.raw();
        late.set_read_timeout(Some(Duration::from_millis(20)))
            .expect("a socket");
        assert!((&late).read(&mut [0; 8]).is_err(), "no greeting yet");
        crowd.pop();
        late.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
        assert!((&late).read(&mut [0; 8]).expect("the greeting") > 0);
    }

    #[test]
    fn the_answer_to_quit_arrives_before_the_connection_ends() {
        let served = Served::new();
        let mut client = served.client();
        client.execute("quit", json!({})).expect("answered");
        assert_eq!(served.vm.asked(), [Asked::Quit(ShutdownReason::HostQmpQuit)]);
        served.event_loop.defer(EventLoop::leave);
        assert!(matches!(
            client.next_event(Duration::from_secs(10)),
            Err(ClientError::Closed)
        ));
    }

    #[test]
    fn events_of_the_last_moment_are_delivered() {
        let served = Served::new();
        let mut client = served.client();
        let vm = Arc::clone(&served.vm);
        vm.migration.lock().to = Some("tcp:h:1".into());
        served.event_loop.defer(move |event_loop| {
            vm.reach(MigrationStatus::Completed);
            vm.end(Ending::HandedOver { to: "tcp:h:1".into() });
            // As the host does: it leaves through the loop, behind the events.
            event_loop.handle().defer(EventLoop::leave);
        });
        let event = client
            .next_event(Duration::from_secs(10))
            .expect("still connected")
            .expect("in time");
        assert_eq!(event["data"]["status"], "completed");
        assert_eq!(event["data"]["x-tern-result"]["status"], "completed");
        assert_eq!(event["data"]["x-tern-result"]["x-tern-to"], "tcp:h:1");
    }

    #[test]
    fn who_polls_a_migration_hears_that_it_is_over_though_the_vm_is_gone() {
        let served = Served::new();
        let (mut poller, mut other) = (served.client(), served.client());
        let status = |client: &mut QmpClient| {
            let answer = client.execute("query-migrate", json!({}));
            answer.map(|answer| answer["status"].clone())
        };
        served.vm.reach(MigrationStatus::Active);
        assert_eq!(status(&mut poller).expect("an answer"), "active");
        other.execute("query-status", json!({})).expect("an answer");
        let vm = Arc::clone(&served.vm);
        served.event_loop.defer(move |event_loop| {
            vm.reach(MigrationStatus::Completed);
            vm.end(Ending::HandedOver { to: "tcp:h:1".into() });
            event_loop.handle().defer(EventLoop::leave);
        });
        // By the event, as one that does not wait for it hears it later than the loop has ended.
        other
            .next_event(Duration::from_secs(10))
            .expect("still connected")
            .expect("in time");
        while let Ok(Some(_)) = other.next_event(Duration::from_millis(400)) {}
        assert_eq!(
            status(&mut poller).expect("the VM waits for that question"),
            "completed"
        );
        assert!(status(&mut poller).is_err(), "and for no other");
    }
}
