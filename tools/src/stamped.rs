//! A `vm` process whose console bytes are stamped with the host's clock as they arrive.

use std::io::{PipeReader, Read, Write, pipe};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::precedence::Precedence;

/// How long a guest may take for anything before the benchmark gives up.
const PATIENCE: Duration = Duration::from_secs(120);

/// Some bytes of the console and when they arrived.
#[derive(Clone, Debug, PartialEq)]
pub struct Stamped {
    /// When.
    pub at: Instant,
    /// What.
    pub bytes: Vec<u8>,
}

/// A process whose stdout is a guest's console.
#[derive(Debug)]
pub struct StampedVm {
    child: Child,
    input: ChildStdin,
    arriving: Receiver<Stamped>,
    messages: Receiver<Stamped>,
    arrived: Vec<Stamped>,
    /// What of the arrivals' text nobody has waited for yet.
    unread: String,
    /// When the process was started.
    pub started: Instant,
}

impl StampedVm {
    /// Starts `command`.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        // All that can be done before is, so that nothing of the benchmark's runs beside the process.
        let (console, output) = pipe()?;
        let (errors, error_output) = pipe()?;
        let (arriving, messages) = (stamp(console), stamp(errors));
        command.stdin(Stdio::piped()).stdout(output).stderr(error_output);
        let started = Instant::now();
        let mut child = command.spawn().context("vm does not start")?;
        // The command keeps its ends of the pipes, and with them the readers waiting for more.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let input = child.stdin.take().context("stdin is a pipe")?;
        Ok(Self {
            child,
            input,
            arriving,
            messages,
            arrived: Vec::new(),
            unread: String::new(),
            started,
        })
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that has arrived and was looked at, from the beginning.
    #[must_use]
    pub fn arrived(&self) -> &[Stamped] {
        &self.arrived
    }

    /// The next bytes of the console.
    ///
    /// # Errors
    ///
    /// If the console ends or stays silent, or the guest says that something is wrong.
    pub fn next_arrival(&mut self) -> Result<&Stamped> {
        match self.arriving.recv_timeout(PATIENCE) {
            Ok(stamped) => self.note(stamped),
            Err(RecvTimeoutError::Timeout) => bail!("the guest is silent"),
            Err(RecvTimeoutError::Disconnected) => bail!("the console has ended: {}", self.last_words()),
        }
    }

    /// Looks at what has arrived by now.
    ///
    /// # Errors
    ///
    /// If the guest says that something is wrong.
    pub fn catch_up(&mut self) -> Result<()> {
        while let Ok(stamped) = self.arriving.try_recv() {
            self.note(stamped)?;
        }
        Ok(())
    }

    /// Follows the console for a while.
    ///
    /// # Errors
    ///
    /// As [`Self::next_arrival`].
    pub fn listen(&mut self, how_long: Duration) -> Result<()> {
        let until = Instant::now() + how_long;
        while self.next_arrival()?.at < until {}
        Ok(())
    }

    /// The first heartbeat of a guest that beats each millisecond, where nothing else can have come before it.
    ///
    /// # Errors
    ///
    /// As [`Self::next_arrival`], or if something else came.
    pub fn first_beat(&mut self) -> Result<Instant> {
        let first = self.next_arrival()?;
        ensure!(
            first.bytes.starts_with(b"."),
            "the guest begins with {:?} instead of a heartbeat",
            String::from_utf8_lossy(&first.bytes)
        );
        Ok(first.at)
    }

    /// Waits until `text` has been printed; returns when its last byte arrived.
    ///
    /// # Errors
    ///
    /// As [`Self::next_arrival`].
    pub fn wait_for(&mut self, text: &str) -> Result<Instant> {
        loop {
            if let Some(found) = self.unread.find(text) {
                self.unread.drain(..found + text.len());
                return Ok(self.arrived.last().map_or(self.started, |last| last.at));
            }
            self.next_arrival()?;
        }
    }

    fn note(&mut self, stamped: Stamped) -> Result<&Stamped> {
        let text = String::from_utf8_lossy(&stamped.bytes);
        self.unread.push_str(&text);
        if text.contains("FAILED") || text.contains("panic") {
            bail!("the guest says: {}", self.unread);
        }
        self.arrived.push(stamped);
        Ok(&self.arrived[self.arrived.len() - 1])
    }

    /// Types on the console.
    ///
    /// # Errors
    ///
    /// If the process no longer reads it.
    pub fn type_keys(&mut self, keys: &str) -> Result<()> {
        Ok(self.input.write_all(keys.as_bytes())?)
    }

    /// The first line that the process said on stderr.
    ///
    /// # Errors
    ///
    /// If it said nothing.
    pub fn first_message(&self) -> Result<String> {
        let mut text = String::new();
        loop {
            let more = self
                .messages
                .recv_timeout(PATIENCE)
                .context("the process says nothing")?;
            text.push_str(&String::from_utf8_lossy(&more.bytes));
            if let Some((line, _)) = text.split_once('\n') {
                return Ok(line.to_owned());
            }
        }
    }

    fn last_words(&self) -> String {
        let mut text = String::new();
        while let Ok(more) = self.messages.recv_timeout(Duration::from_secs(1)) {
            text.push_str(&String::from_utf8_lossy(&more.bytes));
        }
        text
    }

    /// Asks the process to end, and waits until it has: it leaves nothing behind that the next one would have to clear away.
    ///
    /// # Errors
    ///
    /// The process cannot be waited for.
    pub fn finish(mut self) -> Result<ExitStatus> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        // It may have ended already.
        let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
        Ok(self.child.wait()?)
    }

    /// Waits for the end of a process that ends by itself.
    ///
    /// # Errors
    ///
    /// The process cannot be waited for, or its status is not 0.
    pub fn ends_well(mut self) -> Result<()> {
        let status = self.child.wait()?;
        ensure!(status.success(), "vm ended with {status}: {}", self.last_words());
        Ok(())
    }
}

impl Drop for StampedVm {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Stamps what arrives at `reader`, from now on until its end.
fn stamp(reader: PipeReader) -> Receiver<Stamped> {
    let ((stamped, arriving), (ready, is_ready)) = (channel(), channel());
    thread::spawn(move || {
        // A clock that is read late is the benchmark's fault and not the guest's. On an idle machine it is in time anyway.
        let _ = Precedence::Clock.take();
        let _ = ready.send(());
        read_to_end(reader, &stamped);
    });
    let _ = is_ready.recv();
    arriving
}

fn read_to_end(mut reader: PipeReader, stamped: &Sender<Stamped>) {
    let mut bytes = vec![0; 1 << 16];
    while let Ok(read) = reader.read(&mut bytes) {
        let at = Instant::now();
        let bytes = bytes[..read].to_vec();
        if read == 0 || stamped.send(Stamped { at, bytes }).is_err() {
            return;
        }
    }
}
