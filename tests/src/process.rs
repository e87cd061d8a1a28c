//! One `vm` process and what it writes.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;

use vmm::monitor::client::Client;

use crate::binary;
use crate::guest::EmbeddedGuest;
use crate::log::Log;

/// A private folder for one test: control sockets, snapshots. It is removed with everything in it.
#[derive(Debug)]
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    /// A new empty folder.
    ///
    /// # Panics
    ///
    /// If the temporary folder cannot be written.
    #[must_use]
    pub fn new() -> Self {
        Self::within(&std::env::temp_dir())
    }

    /// A new empty folder in memory where the host has such, for a test that makes many files durable.
    ///
    /// # Panics
    ///
    /// As [`Self::new`].
    #[must_use]
    pub fn in_memory() -> Self {
        let shared_memory = Path::new("/dev/shm");
        if shared_memory.is_dir() {
            Self::within(shared_memory)
        } else {
            Self::new()
        }
    }

    fn within(folder: &Path) -> Self {
        Self(tempfile::tempdir_in(folder).expect("a scratch folder can be made"))
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A path in the folder.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Every file and socket in the folder and below, by its path from here, sorted.
    ///
    /// # Panics
    ///
    /// If the folder cannot be read.
    #[must_use]
    pub fn contents(&self) -> Vec<String> {
        let (mut files, mut folders) = (Vec::new(), vec![self.path().to_owned()]);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).expect("a scratch folder can be read") {
                let entry = entry.expect("an entry");
                if entry.file_type().expect("an entry has a type").is_dir() {
                    folders.push(entry.path());
                } else {
                    let path = entry.path();
                    let path = path.strip_prefix(self.path()).expect("it lies in the folder");
                    files.push(path.to_string_lossy().into_owned());
                }
            }
        }
        files.sort();
        files
    }

    /// Connects to the monitor of a VM whose runtime folder is here.
    ///
    /// # Panics
    ///
    /// If there is no such VM.
    #[must_use]
    #[track_caller]
    pub fn monitor(&self, name: &str) -> Client {
        Client::connect(&self.file(&format!("tern/{name}.sock"))).expect("the VM's monitor answers")
    }

    /// `vm` with these arguments, its runtime folder here, and nothing of this process's environment but the path.
    #[must_use]
    pub fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        self.command_of(binary::vm(), args)
    }

    /// The same of another version's `vm`.
    #[must_use]
    pub fn command_of<S: AsRef<OsStr>>(&self, program: &Path, args: &[S]) -> Command {
        let mut command = Command::new(program);
        command
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("XDG_RUNTIME_DIR", self.path());
        command
    }

    /// Runs `vm` to its end.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    #[must_use]
    pub fn vm<S: AsRef<OsStr>>(&self, args: &[S]) -> Output {
        self.command(args).stdin(Stdio::null()).output().expect("vm starts")
    }

    /// Runs `vm` to its end and expects success; returns what it wrote to stdout.
    ///
    /// # Panics
    ///
    /// If it fails.
    #[track_caller]
    pub fn vm_ok<S: AsRef<OsStr> + std::fmt::Debug>(&self, args: &[S]) -> String {
        let output = self.vm(args);
        let (stdout, stderr) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(
            output.status.success(),
            "vm {args:?}: {}\n{stdout}{stderr}",
            output.status
        );
        stdout.into_owned()
    }

    /// Starts `vm` in the foreground with its console on pipes.
    #[must_use]
    pub fn start<S: AsRef<OsStr>>(&self, args: &[S]) -> VmProcess {
        VmProcess::start(self.command(args))
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// A `vm` process in the foreground. It is killed when dropped.
#[derive(Debug)]
pub struct VmProcess {
    child: Child,
    input: Option<ChildStdin>,
    console: Arc<Log>,
    messages: Arc<Log>,
    read_to: usize,
}

impl VmProcess {
    /// Starts `command` with pipes for all three streams.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    #[must_use]
    pub fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("vm starts");
        let console = Log::follow(child.stdout.take().expect("a pipe"));
        let messages = Log::follow(child.stderr.take().expect("a pipe"));
        Self {
            input: child.stdin.take(),
            child,
            console,
            messages,
            read_to: 0,
        }
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for something in what the process says on stderr.
    ///
    /// # Panics
    ///
    /// If it never comes.
    #[track_caller]
    pub fn wait_message<T>(&self, what: &str, find: impl FnMut(&str) -> Option<T>) -> T {
        match self.messages.wait(0, find) {
            Ok(found) => found,
            Err(why) => panic!("waiting for {what}: {why}\n{}", self.transcript()),
        }
    }

    /// Waits until the process says how often a fault of its plan has struck, which it does at the end of a transfer.
    ///
    /// # Panics
    ///
    /// If it never says so.
    #[track_caller]
    pub fn struck(&self, fault: &str) -> u64 {
        let wanted = format!("the fault {fault} has struck ");
        self.wait_message("an account of the faults", |text| {
            let (_, rest) = text.split_once(&wanted)?;
            rest.split_once(" times\n")?.0.parse().ok()
        })
    }

    /// The first line on stderr; for `vm receive` that is the address that a sender takes.
    #[track_caller]
    pub fn first_message(&self) -> String {
        self.wait_message("the first message", |text| {
            text.split_once('\n').map(|(line, _)| line.to_owned())
        })
    }

    /// Everything on stderr so far.
    #[must_use]
    pub fn messages(&self) -> String {
        self.messages.text()
    }

    /// Kills the process as a failing host would, and waits until it is gone.
    ///
    /// # Panics
    ///
    /// If it cannot be waited for.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().expect("a child can be waited for");
    }

    /// Waits for the end of the process.
    ///
    /// # Panics
    ///
    /// If it does not end.
    #[track_caller]
    pub fn wait_exit(&mut self) -> ExitStatus {
        self.wait_last_words();
        self.child.wait().expect("a child can be waited for")
    }

    /// Waits until all is here that a process has said that has ended.
    ///
    /// # Panics
    ///
    /// If it has not ended.
    #[track_caller]
    pub fn wait_last_words(&self) {
        // Both streams end with the process, and waiting for them has a deadline.
        for log in [&self.console, &self.messages] {
            let end = log.wait(0, |_| None::<()>).expect_err("waits for the end");
            assert!(end.contains("ended"), "the process does not end\n{}", self.transcript());
        }
    }

    fn transcript(&self) -> String {
        let console = self.console();
        let from = console.char_indices().rev().nth(4000).map_or(0, |(at, _)| at);
        format!(
            "--- console (end)\n{}\n--- messages\n{}",
            &console[from..],
            self.messages()
        )
    }
}

impl EmbeddedGuest for VmProcess {
    fn type_keys(&mut self, keys: &str) {
        let input = self.input.as_mut().expect("the input is open");
        input
            .write_all(keys.as_bytes())
            .and_then(|()| input.flush())
            .expect("the console takes input");
    }

    #[track_caller]
    fn wait_line(&mut self, what: &str, wanted: impl FnMut(&str) -> bool) -> String {
        match self.console.wait_line(&mut self.read_to, wanted) {
            Ok(line) => line,
            Err(why) => panic!("waiting for {what}: {why}\n{}", self.transcript()),
        }
    }

    fn console(&self) -> String {
        self.console.text()
    }

    fn about(&self) -> String {
        self.messages()
    }
}

impl Drop for VmProcess {
    fn drop(&mut self) {
        self.kill();
    }
}
