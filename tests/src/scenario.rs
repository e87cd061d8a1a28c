//! What is done to guests again and again: saved, killed and restored; moved to another process.

use std::path::PathBuf;

use serde_json::Value;

use crate::guest::EmbeddedGuest;
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
        let home = Scratch::new();
        let vm = home.start(&[&["run", "--name", NAME], args].concat());
        Self {
            vm,
            home,
            between: Scratch::new(),
            moves: 0,
        }
    }

    /// Saves the running guest, kills its process, and restores it in a new one.
    ///
    /// # Panics
    ///
    /// If anything fails.
    #[track_caller]
    pub fn save_and_restore(&mut self, verify: &str) {
        self.moves += 1;
        let file = self.between.file(&format!("{}.tern", self.moves));
        let path = file.to_str().expect("the folder's name is text");
        self.home.vm_ok(&["snapshot", NAME, path]);
        self.vm.kill();
        let home = Scratch::new();
        let verify = format!("--verify={verify}");
        self.vm = home.start(&["restore", path, "--name", NAME, &verify]);
        self.home = home;
        self.vm.wait_beat();
    }

    /// Moves the guest to a new process while it runs; returns the account of `vm migrate`.
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
        self.vm = target;
        self.home = home;
        self.vm.wait_beat();
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

/// What a guest moves over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// TCP on loopback.
    Tcp,
    /// A unix socket.
    Unix,
}
