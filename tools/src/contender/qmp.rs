//! As much of a QMP client as it takes to drive another VMM.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

/// How long a VMM may take to make its socket, and to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to a monitor, past the greeting.
#[derive(Debug)]
pub(super) struct Qmp {
    socket: UnixStream,
    lines: BufReader<UnixStream>,
    events: VecDeque<Value>,
}

impl Qmp {
    /// Connects to the socket at `path`, as soon as there is one.
    pub(super) fn connect(path: &Path) -> Result<Self> {
        let until = Instant::now() + PATIENCE;
        let socket = loop {
            match UnixStream::connect(path) {
                Ok(socket) => break socket,
                Err(error) if Instant::now() > until => {
                    return Err(error).with_context(|| format!("no monitor at {}", path.display()));
                }
                Err(_) => thread::sleep(Duration::from_millis(2)),
            }
        };
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut qmp = Self {
            lines: BufReader::new(socket.try_clone()?),
            socket,
            events: VecDeque::new(),
        };
        qmp.next_message().context("the greeting")?;
        qmp.command("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    fn next_message(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.lines.read_line(&mut line)? == 0 {
            bail!("the monitor has hung up");
        }
        Ok(serde_json::from_str(&line)?)
    }

    /// Runs a command; returns what it returns.
    pub(super) fn command(&mut self, name: &str, arguments: &Value) -> Result<Value> {
        let line = format!("{}\n", json!({ "execute": name, "arguments": arguments }));
        self.socket.write_all(line.as_bytes())?;
        self.answer(name)
    }

    /// Gives the VMM the file under the name `fd_name` (getfd).
    pub(super) fn give(&mut self, fd_name: &str, file: &File) -> Result<()> {
        let line = format!(
            "{}\n",
            json!({ "execute": "getfd", "arguments": { "fdname": fd_name } })
        );
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds = [file.as_fd()];
        if !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
            bail!("there is room for one descriptor");
        }
        let sent = sendmsg(
            &self.socket,
            &[IoSlice::new(line.as_bytes())],
            &mut ancillary,
            SendFlags::empty(),
        )?;
        self.socket.write_all(&line.as_bytes()[sent..])?;
        self.answer("getfd").map(drop)
    }

    fn answer(&mut self, name: &str) -> Result<Value> {
        loop {
            let mut message = self.next_message()?;
            if message.get("event").is_some() {
                self.events.push_back(message);
            } else if let Some(error) = message.get("error") {
                bail!("{name}: {error}");
            } else {
                return Ok(message["return"].take());
            }
        }
    }

    /// Waits until the migration that is under way has ended (the capability `events` must be on).
    pub(super) fn migration_ends(&mut self) -> Result<()> {
        loop {
            let event = match self.events.pop_front() {
                Some(event) => event,
                None => self.next_message()?,
            };
            match (event["event"].as_str(), event["data"]["status"].as_str()) {
                (Some("MIGRATION"), Some("completed")) => return Ok(()),
                (Some("MIGRATION"), Some(status @ ("failed" | "cancelled"))) => bail!("the migration has {status}"),
                _ => {}
            }
        }
    }
}
