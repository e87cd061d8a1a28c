//! The monitor's other side: what the `vm` command uses to talk to a running VM. It waits; it is not for an event loop.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// How long a VM may take to answer. Pausing a guest is the slowest thing that a command waits for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A message may be so long at most; the longest real one lists the types.
const MAX_LENGTH: usize = 4 << 20;

/// Why a VM could not be talked to.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no VM listens at {path:?}")]
    NobodyThere {
        /// The socket.
        path: PathBuf,
    },
    /// The socket is not ours to use.
    #[error("cannot connect to {path:?}: {error}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The VM refused the command; its own words.
    #[error("{description}")]
    Refused {
        /// QMP's class of the error.
        class: String,
        /// What the VM said.
        description: String,
    },
    /// The connection ended.
    #[error("the VM has closed the connection")]
    Closed,
    /// No answer came.
    #[error("the VM has not answered in time")]
    TimedOut,
    /// What came is not QMP.
    #[error("what the VM sent is not QMP: {0}")]
    NotQmp(String),
    /// Anything else that the connection suffers.
    #[error("the connection to the VM failed: {0}")]
    Io(#[source] io::Error),
}

/// A connection to a VM's monitor, past negotiation.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    received: Vec<u8>,
    events: VecDeque<Value>,
    next_id: u64,
    patience: Duration,
}

impl Client {
    /// Connects to the monitor at `path` and negotiates.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        Self::connect_within(path, PATIENCE)
    }

    /// As [`Self::connect`], to a VM that may take so long for each answer.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn connect_within(path: &Path, patience: Duration) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => ClientError::NobodyThere { path: path.to_owned() },
            _ => ClientError::Connect {
                path: path.to_owned(),
                error,
            },
        })?;
        stream.set_write_timeout(Some(patience)).map_err(ClientError::Io)?;
        let mut this = Self {
            stream,
            received: Vec::new(),
            events: VecDeque::new(),
            next_id: 0,
            patience,
        };
        let greeting = this
            .next_message(Instant::now() + patience)?
            .ok_or(ClientError::TimedOut)?;
        if greeting.pointer("/QMP/version").is_none() {
            return Err(ClientError::NotQmp(format!("its greeting is {greeting}")));
        }
        this.execute("qmp_capabilities", json!({}))?;
        Ok(this)
    }

    /// Runs a command and returns what it returned. Events that come meanwhile are kept for [`Self::next_event`].
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`] if the VM did not do it; otherwise the connection is of no further use.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "arguments are made by json! where they are given"
    )]
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, ClientError> {
        let id = self.next_id;
        self.next_id += 1;
        let request = json!({ "execute": command, "arguments": arguments, "id": id });
        self.stream
            .write_all(format!("{request}\r\n").as_bytes())
            .map_err(|error| match error.kind() {
                ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => ClientError::Closed,
                _ => ClientError::Io(error),
            })?;
        let deadline = Instant::now() + self.patience;
        loop {
            let mut message = self.next_message(deadline)?.ok_or(ClientError::TimedOut)?;
            if message.get("event").is_some() {
                self.events.push_back(message);
            } else if let Some(error) = message.get("error") {
                let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
                return Err(ClientError::Refused {
                    class: text("class"),
                    description: text("desc"),
                });
            } else if message["id"] == id && message.get("return").is_some() {
                return Ok(message["return"].take());
            } else {
                return Err(ClientError::NotQmp(format!("{message} answers nothing")));
            }
        }
    }

    /// The next event, or `None` if there is none within `patience`.
    ///
    /// # Errors
    ///
    /// The connection has ended.
    pub fn next_event(&mut self, patience: Duration) -> Result<Option<Value>, ClientError> {
        if let Some(event) = self.events.pop_front() {
            return Ok(Some(event));
        }
        self.next_message(Instant::now() + patience)
    }

    /// Waits until the VM closes the connection; whether it did in time. What it says meanwhile is dropped.
    pub fn wait_for_the_end(mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            match self.next_message(deadline) {
                Ok(Some(_)) => {}
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
    }

    /// The next line as JSON, or `None` if it is not there at the deadline.
    fn next_message(&mut self, deadline: Instant) -> Result<Option<Value>, ClientError> {
        let mut looked_through = 0;
        loop {
            if let Some(end) = self.received[looked_through..].iter().position(|&byte| byte == b'\n') {
                let rest = self.received.split_off(looked_through + end + 1);
                let line = std::mem::replace(&mut self.received, rest);
                let message = serde_json::from_slice(&line);
                return message
                    .map(Some)
                    .map_err(|error| ClientError::NotQmp(error.to_string()));
            }
            looked_through = self.received.len();
            if looked_through > MAX_LENGTH {
                return Err(ClientError::NotQmp("a line has no end".into()));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left)).map_err(ClientError::Io)?;
            let mut buffer = [0; 16 << 10];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ClientError::Closed),
                Ok(length) => self.received.extend_from_slice(&buffer[..length]),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {}
                    ErrorKind::ConnectionReset => return Err(ClientError::Closed),
                    _ => return Err(ClientError::Io(error)),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::TempDir;
    use std::{os::unix::net::UnixListener, thread};

    /// What a client makes of a monitor that says `greeting`, and then `answer` to whatever it is asked.
    fn against(greeting: &str, answer: &str) -> Result<Client, ClientError> {
        let dir = TempDir::new();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).expect("a fresh path");
        thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().expect("a client");
                stream.write_all(greeting.as_bytes()).expect("room in the socket");
                if stream.read(&mut [0; 1000]).is_ok_and(|length| length > 0) {
                    stream.write_all(answer.as_bytes()).expect("room in the socket");
                }
            });
            Client::connect(&path)
        })
    }

    const GREETING: &str = "{\"QMP\":{\"version\":{},\"capabilities\":[\"oob\"]}}\r\n";

    #[test]
    fn events_between_request_and_answer_are_kept() {
        let mut client = against(GREETING, "{\"event\":\"STOP\"}\r\n{\"return\":{},\"id\":0}\r\n").expect("QMP");
        assert_eq!(
            client.next_event(Duration::ZERO).expect("kept"),
            Some(json!({ "event": "STOP" }))
        );
        assert!(client.wait_for_the_end(PATIENCE));
    }

    #[test]
    fn what_is_not_qmp_is_told_apart_from_a_refusal_and_from_silence() {
        let refused = against(
            GREETING,
            "{\"error\":{\"class\":\"GenericError\",\"desc\":\"no\"},\"id\":0}\r\n",
        );
        assert!(matches!(refused, Err(ClientError::Refused { description, .. }) if description == "no"));
        assert!(matches!(against("SSH-2.0\r\n", ""), Err(ClientError::NotQmp(_))));
        assert!(matches!(against("{}\r\n", ""), Err(ClientError::NotQmp(_))));
        assert!(matches!(
            against(GREETING, "{\"return\":{},\"id\":9}\r\n"),
            Err(ClientError::NotQmp(_))
        ));
        assert!(matches!(against(GREETING, ""), Err(ClientError::Closed)));
    }

    #[test]
    fn a_monitor_that_never_greets_is_waited_for_as_long_as_was_said() {
        let dir = TempDir::new();
        let path = dir.path().join("s");
        let _listener = UnixListener::bind(&path).expect("a fresh path");
        let began = Instant::now();
        let error = Client::connect_within(&path, Duration::from_millis(10)).expect_err("silence");
        assert!(matches!(error, ClientError::TimedOut), "{error}");
        assert!(began.elapsed() < PATIENCE);
    }

    #[test]
    fn nobody_there_is_an_error_of_its_own() {
        let error = Client::connect(Path::new("/nowhere/a.sock")).expect_err("nobody there");
        assert!(matches!(error, ClientError::NobodyThere { .. }));
    }
}
