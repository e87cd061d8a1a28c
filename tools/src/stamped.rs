//! A `vm` process whose console bytes are stamped with the host's clock as they arrive.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long a guest may take for anything before the benchmark gives up.
const PATIENCE: Duration = Duration::from_secs(120);

/// Some bytes of the console and when they arrived.
#[derive(Clone, Debug)]
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
    arrivals: Receiver<Stamped>,
    first_message: Receiver<String>,
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
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let started = Instant::now();
        let mut child = command.spawn().context("vm does not start")?;
        let mut console = child.stdout.take().context("stdout is a pipe")?;
        let mut messages = child.stderr.take().context("stderr is a pipe")?;
        let input = child.stdin.take().context("stdin is a pipe")?;
        let (stamp, arrivals) = channel();
        std::thread::spawn(move || {
            let mut bytes = vec![0; 1 << 16];
            while let Ok(read) = console.read(&mut bytes) {
                let at = Instant::now();
                if read == 0
                    || stamp
                        .send(Stamped {
                            at,
                            bytes: bytes[..read].to_vec(),
                        })
                        .is_err()
                {
                    return;
                }
            }
        });
        let (said, first_message) = channel();
        std::thread::spawn(move || {
            let mut text = String::new();
            let mut bytes = [0; 4096];
            let mut first = Some(said);
            while let Ok(read) = messages.read(&mut bytes) {
                if read == 0 {
                    return;
                }
                text.push_str(&String::from_utf8_lossy(&bytes[..read]));
                if let Some((line, _)) = text.split_once('\n')
                    && let Some(said) = first.take()
                {
                    // The benchmark may not care for it.
                    let _ = said.send(line.to_owned());
                }
            }
        });
        Ok(Self {
            child,
            input,
            arrivals,
            first_message,
            started,
        })
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next bytes of the console.
    ///
    /// # Errors
    ///
    /// If the console ends or stays silent.
    pub fn next(&self) -> Result<Stamped> {
        match self.arrivals.recv_timeout(PATIENCE) {
            Ok(stamped) => Ok(stamped),
            Err(RecvTimeoutError::Timeout) => bail!("the guest is silent"),
            Err(RecvTimeoutError::Disconnected) => bail!("the console has ended"),
        }
    }

    /// What has arrived and was not yet looked at.
    #[must_use]
    pub fn arrived(&self) -> Vec<Stamped> {
        self.arrivals.try_iter().collect()
    }

    /// Waits until `text` has been printed; returns when its last byte arrived.
    ///
    /// # Errors
    ///
    /// As [`Self::next`].
    pub fn wait_for(&self, text: &str) -> Result<Instant> {
        let mut seen = String::new();
        loop {
            let stamped = self.next()?;
            seen.push_str(&String::from_utf8_lossy(&stamped.bytes));
            if seen.contains(text) {
                return Ok(stamped.at);
            }
            if seen.contains("FAILED") || seen.contains("panic") {
                bail!("the guest says: {seen}");
            }
        }
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
        self.first_message
            .recv_timeout(PATIENCE)
            .context("the process says nothing")
    }

    /// Kills the process and waits for its end.
    pub fn kill(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for StampedVm {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The longest time between two arrivals in `[from, to]`; the first and last silence count from the bounds' neighbours.
#[must_use]
pub fn longest_gap(arrivals: &[Stamped]) -> Duration {
    arrivals
        .windows(2)
        .map(|pair| pair[1].at.duration_since(pair[0].at))
        .max()
        .unwrap_or_default()
}
