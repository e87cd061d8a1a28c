//! Holding a VM, in the foreground or detached: console, signals, monitor, event loop, and the end.

use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::Duration,
};

use clap::Args;
use serde_json::{Value, json};

use super::{
    attention::Attention,
    detach::{self, Log},
    error::CliError,
    exit::Exit,
    leave::Leave,
    messages::Messages,
};
use crate::{
    clock::Clock,
    console::{Console, ConsoleHandle, ConsoleSpec},
    control::{Control, Ending, Event, EventSink, ShutdownReason},
    event_loop::{EventLoop, Interest, LoopHandle},
    monitor::{
        MonitorServer,
        place::{Place, VmAddress, VmName},
    },
    run_state::RunState,
    signals::SignalFd,
    unix_socket::PrivateListener,
};

/// What the user may say about the host's side of a VM.
#[derive(Args, Clone, Debug)]
pub struct HostArgs {
    /// What the VM is called; else vm-PID.
    #[arg(long, value_name = "NAME")]
    name: Option<VmName>,
    /// The guest's console: stdio, pty, unix:PATH, file:PATH (it begins empty) or null.
    ///
    /// The default is stdio, and with --detach a unix socket beside the control socket, which is printed: NAME.console. "vm console NAME"
    /// connects to it; a client of the socket that connects late begins with the latest output.
    #[arg(long, value_name = "WHERE")]
    console: Option<ConsoleSpec>,
    /// Where the control socket is; else NAME.sock in $XDG_RUNTIME_DIR/tern (/run/tern for root).
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Put the VM in the background, in a session of its own, and return.
    ///
    /// The command returns 0 once the guest runs; a receiver, once it listens. Whatever fails before that is told and gives the
    /// exit code as in the foreground. The console cannot be stdio then.
    #[arg(short, long)]
    detach: bool,
    /// Where a VM in the background writes what it would say in the foreground: why it ended, above all; begins empty.
    ///
    /// The default is beside the control socket, NAME.log, which is removed if the VM ends with exit code 0.
    #[arg(long, value_name = "FILE", requires = "detach")]
    log: Option<PathBuf>,
}

impl HostArgs {
    /// A path as it means the same for as long as the VM lives: one in the background leaves the working directory.
    fn lasting(&self, path: &Path) -> PathBuf {
        match std::path::absolute(path) {
            Ok(path) if self.detach => path,
            _ => path.to_owned(),
        }
    }

    /// Where the console is to be, for a VM that is controlled there.
    fn console(&self, control: &Path) -> ConsoleSpec {
        match &self.console {
            Some(ConsoleSpec::Unix(path)) => ConsoleSpec::Unix(self.lasting(path)),
            Some(ConsoleSpec::File(path)) => ConsoleSpec::File(self.lasting(path)),
            Some(spec) => spec.clone(),
            None if self.detach => ConsoleSpec::Unix(control.with_extension("console")),
            None => ConsoleSpec::Stdio,
        }
    }
}

/// Holds the VM that `make` makes until it has ended, and says how that came; with `--detach`, has another process do so.
///
/// # Errors
///
/// The VM could not be made or served, or it failed.
pub(super) fn hold(
    args: &HostArgs,
    messages: Messages,
    make: impl FnOnce(&mut Foreground) -> Result<Arc<dyn Control>, CliError>,
) -> Result<u8, CliError> {
    if args.detach {
        if args.console == Some(ConsoleSpec::Stdio) {
            return Err(CliError::Usage(
                "a VM in the background cannot have its console on stdio; choose --console unix:PATH, pty, file:PATH or null, \
                 or leave --console out"
                    .into(),
            ));
        }
        if !detach::is_the_second_process() {
            return detach::start(messages);
        }
    }
    let mut foreground = Foreground::prepare(args, messages)?;
    let made = make(&mut foreground);
    let made = match foreground.interruption.came() {
        None => made,
        Some(number) => {
            if let Ok(vm) = made {
                // It has neither been handed over nor announced, so that nothing is lost.
                let _ = vm.quit(ShutdownReason::HostSignal(number));
            }
            Err(CliError::Interrupted(number))
        }
    };
    match made {
        Ok(vm) => foreground.serve(&vm),
        Err(error) => {
            // What there is to say is said on the user's terminal.
            if let Some(log) = foreground.log.take() {
                log.ended_well();
            }
            Err(error)
        }
    }
}

/// Everything around a VM that is about to be made.
///
/// What can fail for reasons of the user's is done by [`Foreground::prepare`], before there is a guest; [`Foreground::serve`] only
/// watches.
#[derive(Debug)]
pub struct Foreground {
    // In the order in which they have to go: the console first, which restores the terminal, and the name last.
    console: Console,
    console_spec: ConsoleSpec,
    event_loop: EventLoop,
    signals: SignalFd,
    interruption: Arc<Interruption>,
    listener: PrivateListener,
    place: Place,
    name: VmName,
    named_by_user: bool,
    /// The VM, as commands take it.
    address: VmAddress,
    messages: Messages,
    /// The user's terminal is left once the guest runs, and this speaks in its place.
    log: Option<Log>,
    /// Where it waits for its guest.
    listening: Option<String>,
}

impl Foreground {
    /// Blocks signals, takes the VM's name, opens its control socket and its console. To be called before the first thread is started.
    ///
    /// # Errors
    ///
    /// The name or the address is taken, or the console cannot be had.
    pub fn prepare(args: &HostArgs, messages: Messages) -> Result<Self, CliError> {
        let signals = SignalFd::block().map_err(CliError::Process)?;
        if args.detach {
            detach::end_with_the_command()?;
        }
        let name = args.name.clone().unwrap_or_else(VmName::of_this_process);
        let control = args.control.as_deref().map(|path| args.lasting(path));
        let place = Place::claim(&name, control.as_deref())?;
        let listener = place.listen()?;
        let mut event_loop = EventLoop::new().map_err(CliError::Process)?;
        let console_spec = args.console(place.socket());
        let console = Console::open(&console_spec, &mut event_loop)?;
        let log = args.log.as_deref().map(|path| args.lasting(path));
        let log = args
            .detach
            .then(|| Log::create(log.as_deref(), place.socket()))
            .transpose()?;
        let named_by_user = args.name.is_some();
        let address = match &args.control {
            None => VmAddress::Name(name.clone()),
            Some(path) => VmAddress::Socket(std::path::absolute(path).unwrap_or_else(|_| path.clone())),
        };
        Ok(Self {
            console,
            console_spec,
            event_loop,
            interruption: Arc::new(Interruption {
                signals: signals.clone(),
                came: AtomicU8::new(0),
            }),
            signals,
            listener,
            place,
            name,
            named_by_user,
            address,
            messages,
            log,
            listening: None,
        })
    }

    /// What the VM is called.
    #[must_use]
    pub fn name(&self) -> &VmName {
        &self.name
    }

    /// The console's end towards the guest.
    #[must_use]
    pub fn console(&self) -> ConsoleHandle {
        self.console.handle()
    }

    /// Where the console is, as who looks for it can use it: a pseudo-terminal by its name, a path whole.
    pub(super) fn console_address(&self) -> String {
        let whole = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        match (&self.console_spec, self.console.pty()) {
            (_, Some(pty)) => format!("pty:{}", pty.display()),
            (ConsoleSpec::Unix(path), _) => ConsoleSpec::Unix(whole(path)).to_string(),
            (ConsoleSpec::File(path), _) => ConsoleSpec::File(whole(path)).to_string(),
            (spec, None) => spec.to_string(),
        }
    }

    /// A way to have work done by the loop that [`Self::serve`] will run.
    #[must_use]
    pub fn event_loop(&self) -> LoopHandle {
        self.event_loop.handle()
    }

    /// What tells the user of a VM here of what there is to see to.
    pub(super) fn attention(&self) -> Attention {
        Attention::new(self.address.clone(), self.messages, self.event_loop())
    }

    /// The wish to end that comes before [`Self::serve`] looks for one.
    pub(super) fn interruption(&self) -> Arc<Interruption> {
        Arc::clone(&self.interruption)
    }

    pub(super) fn messages(&self) -> Messages {
        self.messages
    }

    /// Says where the VM waits for its guest.
    pub(super) fn listens_at(&mut self, uri: String) {
        if self.log.is_none() {
            self.messages.line("listening", &uri, json!({ "uri": uri }));
        }
        self.listening = Some(uri);
    }

    /// Says what the VM is called and where its console is, as far as the user cannot know.
    fn announce(&self) {
        let (console, messages) = (&self.console, self.messages);
        if let Some(pty) = console.pty().filter(|_| !messages.is_json()) {
            messages.news("console", format_args!("the console is {}", pty.display()), json!({}));
        }
        if messages.is_json() || console.has_terminal() || !self.named_by_user {
            let hint = match (console.has_terminal(), &self.listening) {
                (true, None) => "; Ctrl-A H shows its keys, Ctrl-A X leaves it",
                (true, Some(_)) => {
                    "; Ctrl-C ends it, until its guest is there; Ctrl-A H shows its keys, Ctrl-A X leaves it"
                }
                (false, _) => "",
            };
            let mut fields =
                json!({ "name": self.name.as_str(), "control": self.place.socket(), "pid": std::process::id() });
            if let Some(pty) = console.pty() {
                fields["pty"] = pty.display().to_string().into();
            }
            let text = format_args!("this VM is called {}{hint}", self.name);
            messages.news("started", text, fields);
        }
    }

    /// What the command that waits for a VM in the background is told.
    fn report(&self) -> Value {
        let mut report = json!({
            "name": self.name.as_str(),
            "control": self.place.socket(),
            "pid": std::process::id(),
            "console": self.console.place(),
        });
        if let Some(uri) = &self.listening {
            report["uri"] = uri.as_str().into();
        }
        if let Some(log) = &self.log {
            report["log"] = log.path().display().to_string().into();
        }
        report
    }

    /// Serves the VM until it has ended, and says how that came.
    ///
    /// # Errors
    ///
    /// The VM failed, or the process could not serve it.
    pub fn serve(self, vm: &Arc<dyn Control>) -> Result<u8, CliError> {
        let report = self.report();
        if self.log.is_none() {
            self.announce();
        }
        let Self {
            console,
            console_spec: _,
            mut event_loop,
            signals,
            listener,
            place,
            name,
            messages,
            log,
            ..
        } = self;
        let watch = Arc::new(LeaveAtTheEnd {
            event_loop: event_loop.handle(),
            vm: Arc::downgrade(vm),
            migration_is_over: AtomicBool::new(false),
        });
        vm.subscribe(watch.clone());
        // It may have ended before anybody was told.
        watch.look();
        let leave = Arc::new(Leave::new(vm, messages));
        let by_key = Arc::clone(&leave);
        console.on_leave(move || by_key.wish(ShutdownReason::HostUi));
        let socket = std::path::absolute(place.socket()).map_err(CliError::Process)?;
        console.on_switch(move || {
            // This program, also where its file has been replaced meanwhile.
            let mut prompt = Command::new("/proc/self/exe");
            prompt.arg0("vm").arg("monitor").arg(&socket);
            prompt
        });
        let monitor = MonitorServer::start(listener, vm, &mut event_loop).map_err(CliError::Process)?;
        let fd = signals.fd();
        let quit_on_signals = move |_: &mut EventLoop, _| {
            while let Some(number) = signals.next() {
                leave.wish(ShutdownReason::HostSignal(number));
            }
        };
        event_loop
            .watch(fd, Interest::Read, quit_on_signals)
            .map_err(CliError::Process)?;
        if let Some(log) = &log {
            detach::leave(&report, log)?;
        }
        event_loop.run().map_err(CliError::Process)?;

        monitor.finish();
        console.finish();
        let ending = vm.ending().unwrap_or(Ending::GuestShutdown);
        let code = conclude(&ending, vm.status(), &name, messages)?;
        if let Some(log) = log.filter(|_| code == 0) {
            log.ended_well();
        }
        // Who waits for the name finds that everything is said.
        drop(place);
        Ok(code)
    }
}

/// A signal that asks the process to end while it makes its VM, for work that takes long.
#[derive(Debug)]
pub(super) struct Interruption {
    signals: SignalFd,
    /// Its number, or 0.
    came: AtomicU8,
}

impl Interruption {
    /// The number of the signal, once one has come.
    pub(super) fn came(&self) -> Option<u8> {
        if let Some(number) = self.signals.next() {
            self.came.store(number, Ordering::SeqCst);
        }
        Some(self.came.load(Ordering::SeqCst)).filter(|number| *number != 0)
    }
}

/// Has the loop return when the VM has ended, behind all events that came before.
///
/// A guest that was handed over is gone before its migration has told how it went, and a client waits for that.
struct LeaveAtTheEnd {
    event_loop: LoopHandle,
    vm: Weak<dyn Control>,
    migration_is_over: AtomicBool,
}

impl EventSink for LeaveAtTheEnd {
    fn event(&self, event: &Event) {
        match event {
            Event::Migration(account) => {
                self.migration_is_over
                    .store(account.status.is_final(), Ordering::SeqCst);
            }
            Event::Ended => {}
            _ => return,
        }
        self.look();
    }
}

impl LeaveAtTheEnd {
    /// Has the loop look whether anything more is to come.
    fn look(&self) {
        /// A migration that never tells does not hold the process.
        const PATIENCE: Duration = Duration::from_secs(1);
        let (vm, migration_is_over) = (Weak::clone(&self.vm), self.migration_is_over.load(Ordering::SeqCst));
        self.event_loop
            .defer(move |event_loop| match vm.upgrade().and_then(|vm| vm.ending()) {
                None => {}
                Some(Ending::HandedOver { .. }) if !migration_is_over => {
                    event_loop.after(&Clock::Realtime, PATIENCE, EventLoop::leave);
                }
                Some(_) => event_loop.leave(),
            });
    }
}

/// Says how the VM ended, as far as its user has not caused it and does not see it.
fn conclude(ending: &Ending, state: RunState, name: &VmName, messages: Messages) -> Result<u8, CliError> {
    let exit = Exit::of(ending, state);
    let (how, text) = match ending {
        Ending::Failed(why) => {
            return Err(CliError::VmFailed {
                name: name.clone(),
                why: why.clone(),
            });
        }
        Ending::HandedOver { to } => ("handed-over", Some(format!("{name} runs at {to} now"))),
        Ending::Discarded => ("discarded", Some(format!("{name} was dropped here, as you decided"))),
        Ending::Quit(_) => ("quit", None),
        Ending::GuestExit(_) => ("guest-exit", None),
        Ending::GuestShutdown => ("guest-shutdown", None),
        Ending::GuestPanicked => (
            "guest-panicked",
            Some(format!("the guest of {name} has reported a panic")),
        ),
    };
    if messages.is_json() || text.is_some() {
        let mut fields = json!({ "name": name.as_str(), "how": how, "exit-code": exit.code() });
        if let Ending::HandedOver { to } = ending {
            fields["to"] = to.as_str().into();
        }
        messages.news("ended", text.unwrap_or_default(), fields);
    }
    Ok(exit.code())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{control::MigrationStatus, fake_vm::FakeVm, monitor::client::Client, test_support::TempDir};
    use std::sync::mpsc;

    fn foreground(dir: &TempDir) -> Foreground {
        let args = HostArgs {
            name: None,
            console: Some(ConsoleSpec::Null),
            control: Some(dir.path().join("s")),
            detach: false,
            log: None,
        };
        Foreground::prepare(&args, Messages::new(false)).expect("a free place")
    }

    /// Serves a fake VM that `then` does something to, in a thread of its own, because signals are blocked in it.
    fn serve(then: impl FnOnce(&FakeVm, PathBuf) + Send) -> (Result<u8, CliError>, TempDir) {
        let dir = TempDir::new();
        let vm = Arc::new(FakeVm::default());
        let control: Arc<dyn Control> = vm.clone();
        let (ready, prepared) = mpsc::channel();
        let result = std::thread::scope(|scope| {
            let dir = &dir;
            let served = scope.spawn(move || {
                let foreground = foreground(dir);
                ready.send(()).expect("the test waits");
                foreground.serve(&control)
            });
            prepared.recv().expect("the foreground is prepared");
            then(&vm, dir.path().join("s"));
            served.join().expect("no panic")
        });
        (result, dir)
    }

    #[test]
    fn the_guests_value_is_the_exit_code_and_nothing_is_left_behind() {
        let (result, dir) = serve(|vm, _| vm.end(Ending::GuestExit(7)));
        assert_eq!(result.expect("served"), 7);
        assert_eq!(std::fs::read_dir(dir.path()).expect("there").count(), 0);
    }

    #[test]
    fn the_monitor_answers_and_ends_it() {
        let (result, _) = serve(|_, socket| {
            let mut client = Client::connect(&socket).expect("the monitor answers");
            client.execute("quit", json!({})).expect("answered");
        });
        assert_eq!(result.expect("served"), 0);
    }

    #[test]
    fn a_migration_tells_how_it_went_although_the_guest_has_gone_already() {
        let (result, _) = serve(|vm, socket| {
            let mut client = Client::connect(&socket).expect("the monitor answers");
            vm.end(Ending::HandedOver { to: "tcp:h:1".into() });
            vm.reach(MigrationStatus::Completed);
            let event = client
                .next_event(Duration::from_secs(10))
                .expect("connected")
                .expect("in time");
            assert_eq!(event["data"]["status"], "completed");
        });
        assert_eq!(result.expect("served"), 0);
    }

    #[test]
    fn a_vm_that_is_ended_because_its_guest_cannot_go_on_has_failed() {
        for (reason, code) in [(ShutdownReason::HostQmpQuit, 1), (ShutdownReason::HostSignal(15), 143)] {
            let (result, _) = serve(|vm, _| {
                *vm.status.lock() = RunState::InternalError;
                vm.end(Ending::Quit(reason));
            });
            assert_eq!(result.expect("served"), code);
        }
    }

    #[test]
    fn a_vm_that_failed_is_an_error_with_its_name() {
        let (result, _) = serve(|vm, _| vm.end(Ending::Failed("KVM gave up".into())));
        let error = result.expect_err("failed");
        assert!(error.to_string().contains("KVM gave up"), "{error}");
        assert_eq!(error.exit_code().code(), 1);
    }

    #[test]
    fn a_place_that_is_taken_is_refused_before_there_is_a_guest() {
        let dir = TempDir::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _first = foreground(&dir);
                let args = HostArgs {
                    name: None,
                    console: Some(ConsoleSpec::Null),
                    control: Some(dir.path().join("s")),
                    detach: false,
                    log: None,
                };
                let second = Foreground::prepare(&args, Messages::new(false));
                assert!(matches!(second, Err(CliError::Place(_))), "{second:?}");
            });
        });
    }
}
