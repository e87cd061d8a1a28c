//! What is done to guests again and again: saved, killed and restored; moved to another process.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use vmm::monitor::client::Client;

use crate::guest::{Beat, EmbeddedGuest};
use crate::process::{Scratch, VmProcess};

/// A guest that wanders from process to process. Each process has a folder of its own, so that two share nothing but the
/// snapshot or the socket.
pub struct Wanderer {
    /// The process that has the guest now.
    pub vm: VmProcess,
    home: Scratch,
    /// Snapshots and sockets, which the next process is given by name.
    between: Scratch,
    moves: u32,
}

/// The name of the VM in each process.
const NAME: &str = "wanderer";

impl Wanderer {
    /// Starts the embedded guest and waits until it works.
    #[must_use]
    #[track_caller]
    pub fn start(cpus: u32, memory: &str, cmdline: &str) -> Self {
        let cpus = cpus.to_string();
        let mut guest = Self::launch(&["--cpus", &cpus, "--memory", memory, "--cmdline", cmdline]);
        guest.vm.wait_ready();
        guest
    }

    /// Starts a guest with these arguments of `vm run`.
    #[must_use]
    pub fn launch(args: &[&str]) -> Self {
        Self::launch_with_faults(args, "")
    }

    /// As [`Self::launch`], and its first process breaks what it saves or sends by this plan ([`migration::fault`]).
    #[must_use]
    pub fn launch_with_faults(args: &[&str], faults: &str) -> Self {
        let home = Scratch::new();
        let mut command = home.command(&[&["run", "--name", NAME], args].concat());
        if !faults.is_empty() {
            command.env("TERN_FAULTS", faults);
        }
        let vm = VmProcess::start(command);
        Self {
            vm,
            home,
            between: Scratch::new(),
            moves: 0,
        }
    }

    /// Saves the running guest, kills its process, and restores it in a new one, where it goes on: it has not booted anew.
    ///
    /// # Panics
    ///
    /// If anything fails.
    #[track_caller]
    pub fn save_and_restore(&mut self, verify: &str) {
        self.moves += 1;
        let file = self.between.file(&format!("{}.tern", self.moves));
        let path = file.to_str().expect("the folder's name is text");
        let earliest = self.beat();
        self.home.vm_ok(&["snapshot", NAME, path]);
        self.vm.kill();
        self.vm.wait_last_words();
        let latest = self.beat();
        let home = Scratch::new();
        let verify = format!("--verify={verify}");
        self.vm = home.start(&["restore", path, "--name", NAME, &verify]);
        self.home = home;
        self.goes_on(&earliest, &latest);
    }

    /// The last heartbeat, for which it waits only if there was none.
    #[track_caller]
    fn beat(&mut self) -> Beat {
        self.vm.last_beat().unwrap_or_else(|| self.vm.wait_beat())
    }

    /// Waits for a heartbeat, and expects that it is the one that follows.
    #[track_caller]
    fn goes_on(&mut self, earliest: &Beat, latest: &Beat) {
        if let Err(why) = self.vm.wait_beat().follows(earliest, latest) {
            panic!("the guest is not the one that it was: {why}\n{}", self.vm.about());
        }
    }

    /// Moves the guest to a new process while it runs, where it goes on: it has not booted anew. Returns the account of `vm migrate`.
    ///
    /// # Panics
    ///
    /// If anything fails, or the source does not end as it should.
    #[track_caller]
    pub fn migrate(&mut self, over: Over) -> Value {
        self.moves += 1;
        let home = Scratch::new();
        let listen = match over {
            Over::Tcp => "tcp:127.0.0.1:0".to_owned(),
            Over::Unix => format!("unix:{}", self.between.file(&format!("{}.sock", self.moves)).display()),
        };
        let target = home.start(&["receive", &listen, "--name", NAME]);
        let uri = target.first_message();
        let mut monitor = home.monitor(NAME);
        self.beat();
        let account = self
            .home
            .vm_ok(&["migrate", NAME, &uri, "--json", "--downtime-limit", "1s"]);
        let status = self.vm.wait_exit();
        assert!(
            status.success(),
            "the source ends with {status}: {}",
            self.vm.messages()
        );
        assert!(
            self.vm.messages().contains(&uri),
            "the source says where the guest went: {}",
            self.vm.messages()
        );
        let last = self.beat();
        self.vm = target;
        self.home = home;
        self.goes_on(&last, &last);
        assert_no_reset(&mut monitor);
        account
            .lines()
            .last()
            .and_then(|line| serde_json::from_str(line).ok())
            .expect("an account in JSON")
    }

    /// A file in the folder of snapshots.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.between.file(name)
    }

    /// The folder of the process that has the guest now.
    #[must_use]
    pub fn home(&self) -> &Scratch {
        &self.home
    }
}

/// Expects that this monitor has told of no reset.
#[track_caller]
fn assert_no_reset(monitor: &mut Client) {
    // Whatever has happened is told before the answer.
    monitor.execute("query-status", json!({})).expect("a living VM");
    while let Some(event) = monitor.next_event(Duration::ZERO).expect("a living VM") {
        assert_ne!(event["event"], "RESET", "the guest was reset: {event}");
    }
}

/// What a guest moves over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// TCP on loopback.
    Tcp,
    /// A unix socket.
    Unix,
}
