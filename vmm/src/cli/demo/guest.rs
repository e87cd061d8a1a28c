//! The built-in guest in a `vm` process, driven through its console.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use super::{cannot_start, failed};
use crate::cli::error::CliError;

/// Nothing that works takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A line and when it came.
pub(super) struct Line {
    pub(super) at: Instant,
    pub(super) text: String,
}

/// A `vm` process with the built-in guest. It is killed when dropped.
pub(super) struct Guest {
    child: Child,
    keys: ChildStdin,
    console: Receiver<Line>,
    messages: Receiver<Line>,
    started: Instant,
    step: &'static str,
}

impl Guest {
    pub(super) fn start(mut command: Command, step: &'static str) -> Result<Self, CliError> {
        let started = Instant::now();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| cannot_start(step, &error))?;
        let no_pipe = || failed(step, "its pipes are missing");
        let keys = child.stdin.take().ok_or_else(no_pipe)?;
        let console = lines(child.stdout.take().ok_or_else(no_pipe)?);
        let messages = lines(child.stderr.take().ok_or_else(no_pipe)?);
        Ok(Self {
            child,
            keys,
            console,
            messages,
            started,
            step,
        })
    }

    pub(super) fn since_start(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.started)
    }

    /// The next line of the console that is `wanted`. A failed check ends the demonstration.
    pub(super) fn line(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<Line, CliError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self
                .console
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) if line.text.contains("FAILED") || line.text.starts_with("panic") => {
                    return Err(failed(self.step, format!("the guest says: {}", line.text)));
                }
                Ok(line) if wanted(&line.text) => return Ok(line),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    return Err(failed(self.step, format!("waited {PATIENCE:?} in vain for {what}")));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let said: Vec<_> = self.messages.iter().map(|line| line.text).collect();
                    let why = match said.as_slice() {
                        [] => format!("its process ended while {what} was awaited"),
                        // Its message says more than that.
                        said => said.join("; ").trim_start_matches("vm: ").to_owned(),
                    };
                    return Err(failed(self.step, why));
                }
            }
        }
    }

    /// When the next heartbeat came.
    pub(super) fn beat(&mut self) -> Result<Instant, CliError> {
        Ok(self.line("a heartbeat", |line| line.starts_with("beat "))?.at)
    }

    /// Has the guest check every page; how many there are.
    pub(super) fn verify(&mut self) -> Result<u64, CliError> {
        self.type_key("v")?;
        let line = self
            .line("the guest's verdict", |line| line.starts_with("verify "))?
            .text;
        let pages = line
            .strip_prefix("verify ok ")
            .and_then(|rest| rest.strip_suffix(" pages")?.parse().ok());
        pages.ok_or_else(|| failed(self.step, format!("the guest says: {line}")))
    }

    /// Has the guest check every page, and expects as many as before.
    pub(super) fn expect_pages(&mut self, expected: u64) -> Result<(), CliError> {
        match self.verify()? {
            pages if pages == expected => Ok(()),
            pages => Err(failed(
                self.step,
                format!("the guest has {pages} pages and had {expected}"),
            )),
        }
    }

    pub(super) fn type_key(&mut self, key: &str) -> Result<(), CliError> {
        let typed = self.keys.write_all(key.as_bytes()).and_then(|()| self.keys.flush());
        typed.map_err(|error| failed(self.step, format!("its console takes no input: {error}")))
    }

    /// The first line that the process says on stderr.
    pub(super) fn first_message(&mut self) -> Result<String, CliError> {
        let line = self.messages.recv_timeout(PATIENCE);
        Ok(line.map_err(|_| failed(self.step, "the process says nothing"))?.text)
    }

    pub(super) fn kill(mut self) -> Result<(), CliError> {
        let killed = self.child.kill().and_then(|()| self.child.wait());
        killed
            .map(drop)
            .map_err(|error| failed(self.step, format!("it cannot be killed: {error}")))
    }

    /// Waits for the process to end by itself, with success; when its last line came.
    pub(super) fn end(&mut self) -> Result<Instant, CliError> {
        let deadline = Instant::now() + PATIENCE;
        let mut last = self.started;
        loop {
            match self
                .console
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) => last = line.at,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => return Err(failed(self.step, "its process does not end")),
            }
        }
        let status = self
            .child
            .wait()
            .map_err(|error| failed(self.step, format!("it cannot be waited for: {error}")))?;
        if status.success() {
            Ok(last)
        } else {
            Err(failed(self.step, format!("its process ended with {status}")))
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // One that has ended is not there to be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a stream as they come. The channel ends with the stream.
fn lines(stream: impl Read + Send + 'static) -> Receiver<Line> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let (mut bytes, mut at) = (Vec::new(), Instant::now());
        let line = |bytes: &mut Vec<u8>, at| Line {
            at,
            text: String::from_utf8_lossy(&std::mem::take(bytes)).trim_end().to_owned(),
        };
        while let Ok(chunk @ [_, ..]) = reader.fill_buf() {
            at = Instant::now();
            let length = chunk.len();
            for piece in chunk.split_inclusive(|&byte| byte == b'\n') {
                bytes.extend_from_slice(piece);
                if piece.ends_with(b"\n") && sender.send(line(&mut bytes, at)).is_err() {
                    return;
                }
            }
            reader.consume(length);
        }
        // What was said of a last line came when it came, and not when the stream ended.
        if !bytes.is_empty() {
            let _ = sender.send(line(&mut bytes, at));
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell script in the guest's place.
    fn guest(script: &str) -> Guest {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Guest::start(command, "testing").expect("there is a shell")
    }

    #[test]
    fn a_guest_is_asked_and_answers() {
        let mut guest =
            guest("echo tern-guest; read -r key; echo beat 1; echo \"verify ok 12 pages\"; read -r key; exit 0");
        guest.line("its first output", |_| true).expect("a line");
        guest.type_key("\n").expect("input is taken");
        assert_eq!(guest.verify().expect("a verdict"), 12);
        guest.type_key("\n").expect("input is taken");
        guest.end().expect("it ends well");
    }

    #[test]
    fn half_a_line_came_when_it_came_and_not_when_the_process_ended() {
        let mut guest = guest("printf 'beat 1\nbea'; read -r key; exit 0");
        guest.beat().expect("a heartbeat");
        let before_its_end = Instant::now();
        guest.type_key("\n").expect("input is taken");
        assert!(guest.end().expect("it ends well") < before_its_end);
    }

    #[test]
    fn a_failed_check_ends_the_demonstration_whatever_was_awaited() {
        let mut guest = guest("echo check FAILED tsc went back; sleep 60");
        let error = guest.beat().expect_err("the guest failed");
        assert!(error.to_string().contains("tsc went back"), "{error}");
    }

    #[test]
    fn a_process_that_dies_is_told_with_what_it_said() {
        let mut guest = guest("echo vm: there is no /dev/kvm >&2; exit 1");
        let error = guest.beat().expect_err("the process is gone");
        assert_eq!(
            error.to_string(),
            "the demonstration failed while testing: there is no /dev/kvm"
        );
        assert!(guest.end().is_err());
    }
}
