//! `--detach`: a VM in the background.
//!
//! The command starts itself once more and waits. The second process makes the VM exactly as one in the foreground does, and what it
//! has to say, errors above all, goes to the user's terminal. Once its guest runs it says so on the pipe that is its stdout and leaves
//! what it shares with the user: the session, the streams, the working directory; what it says later is in its [`Log`]. If it ends before that, the command ends with its
//! exit code.
//!
//! It leaves the session that late so that Ctrl-C reaches it as long as the user waits; the command passes on the signals that only it
//! gets, and waits for the second process to have ended, whose exit code it has then. If the command ends without it (by SIGKILL,
//! say), the kernel sends the second process SIGTERM, and that ends as at Ctrl-C. A command that is gone by the time of the report
//! takes none, and the VM ends.

use std::{
    env,
    fs::{self, File},
    io::{self, BufRead, BufReader, ErrorKind, Read, Write, stdout},
    os::unix::{fs::OpenOptionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    process::{Pid, Signal, chdir, getppid, kill_process, set_parent_process_death_signal, setsid},
    stdio::{dup2_stderr, dup2_stdout},
};
use serde_json::Value;

use super::{error::CliError, messages::Messages};
use crate::signals::SignalFd;

/// Tells the second process that it is the second one, and which the first is. Nobody else is to set it.
const MARK: &str = "TERN_DETACHED";

/// A report may be so long at most: a few paths and an address.
const LONGEST_REPORT: u64 = 64 << 10;

/// Whether this process is the one that is to hold the VM in the background.
pub(super) fn is_the_second_process() -> bool {
    env::var_os(MARK).is_some()
}

/// In the second process: has it asked to end when the command that waits for it ends first.
pub(super) fn end_with_the_command() -> Result<(), CliError> {
    set_parent_process_death_signal(Some(Signal::TERM)).map_err(|error| CliError::Process(error.into()))?;
    // It may have ended before anybody was told of it.
    let command = env::var(MARK)
        .ok()
        .and_then(|pid| pid.parse().ok())
        .and_then(Pid::from_raw);
    if command.is_some() && getppid() == command {
        return Ok(());
    }
    Err(nobody_waits())
}

fn nobody_waits() -> CliError {
    CliError::Start("the command that waits for this VM has ended, and so does the VM".into())
}

/// Starts this command in a second process, waits until that says that its guest runs, and prints what it says. Returns the exit code.
pub(super) fn start(messages: Messages) -> Result<u8, CliError> {
    let program = env::current_exe().map_err(CliError::Process)?;
    let mut vm = Command::new(program)
        .args(env::args_os().skip(1))
        .env(MARK, process::id().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(CliError::Process)?;
    pass_signals_on(&vm).map_err(CliError::Process)?;
    let report = vm.stdout.take().and_then(read_report);
    let Some(report) = report else {
        let status = vm.wait().map_err(CliError::Process)?;
        return match (status.code().map(u8::try_from), status.signal()) {
            // It has said why.
            (Some(Ok(code)), _) if code != 0 => Ok(code),
            (_, Some(signal)) => Err(CliError::Start(format!(
                "the VM's process was ended by signal {signal} before its guest ran"
            ))),
            _ => Err(CliError::Start("the VM's process ended before its guest ran".into())),
        };
    };
    tell(&report, messages)?;
    Ok(0)
}

/// Passes on to the VM's process what asks this one to end, until it has something to say or has ended.
fn pass_signals_on(vm: &Child) -> io::Result<()> {
    let Some(pipe) = &vm.stdout else { return Ok(()) };
    // Only now, as the other process is not to inherit that they are blocked.
    let signals = SignalFd::block()?;
    let signal_fd = signals.fd();
    loop {
        let mut ready = [
            PollFd::new(pipe, PollFlags::IN),
            PollFd::new(&*signal_fd, PollFlags::IN),
        ];
        match poll(&mut ready, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        if !ready[0].revents().is_empty() {
            return Ok(());
        }
        while let Some(signal) = signals.next().and_then(|number| Signal::from_named_raw(number.into())) {
            // One that has ended by now needs no asking.
            let _ = kill_process(Pid::from_child(vm), signal);
        }
    }
}

/// What the VM's process reports, or `None` if it ends before.
fn read_report(pipe: impl Read) -> Option<Value> {
    let mut line = Vec::new();
    BufReader::new(pipe.take(LONGEST_REPORT))
        .read_until(b'\n', &mut line)
        .ok()?;
    serde_json::from_slice(line.strip_suffix(b"\n")?).ok()
}

fn tell(report: &Value, messages: Messages) -> Result<(), CliError> {
    let text = |member: &str| report[member].as_str().unwrap_or_default();
    let where_it_is = |what: &str| {
        format!(
            "{} {what} in the background; its console is {}",
            text("name"),
            text("console")
        )
    };
    match report["uri"].as_str() {
        // The address is a script's, and so it is alone on stdout.
        Some(uri) => {
            messages.result(uri, report)?;
            messages.hint(where_it_is("waits for its guest"));
        }
        None => messages.result(where_it_is("runs"), report)?,
    }
    Ok(())
}

/// In the second process, whose guest runs: says so, and leaves what it shares with the user. From then on what it says goes to the log.
pub(super) fn leave(report: &Value, log: &Log) -> Result<(), CliError> {
    let failed = |error: rustix::io::Errno| CliError::Process(error.into());
    set_parent_process_death_signal(None).map_err(failed)?;
    setsid().map_err(failed)?;
    chdir("/").map_err(failed)?;
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(CliError::Process)?;
    // In one write, and an error if the one who waited has gone.
    let mut pipe = stdout().lock();
    pipe.write_all(format!("{report}\n").as_bytes())
        .and_then(|()| pipe.flush())
        .map_err(|error| match error.kind() {
            ErrorKind::BrokenPipe => nobody_waits(),
            _ => CliError::Process(error),
        })?;
    dup2_stdout(&null).and_then(|()| dup2_stderr(&log.file)).map_err(failed)
}

/// Where a VM in the background says what one in the foreground says on its terminal: how it ended, above all.
#[derive(Debug)]
pub(super) struct Log {
    file: File,
    path: PathBuf,
    /// The user has named it, and keeps it.
    is_users: bool,
}

impl Log {
    /// Begins an empty log where the user wants it, or else beside the control socket.
    pub(super) fn create(wanted: Option<&Path>, control: &Path) -> Result<Self, CliError> {
        let path = wanted.map_or_else(|| control.with_extension("log"), Path::to_owned);
        let open = File::options()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&path);
        let file = open.map_err(|error| CliError::File {
            action: "write a log to",
            path: path.clone(),
            error,
        })?;
        let is_users = wanted.is_some();
        Ok(Self { file, path, is_users })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The VM has ended as it should: nobody will look for the reason.
    pub(super) fn ended_well(self) {
        if !self.is_users {
            // Left behind, it tells nothing wrong.
            let _ = fs::remove_file(self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_report_is_one_whole_line_and_anything_else_is_none() {
        assert_eq!(read_report(&b"{\"name\":\"a\"}\n"[..]), Some(json!({ "name": "a" })));
        for nothing in [&b""[..], b"{\"name\":\"a\"}", b"half a line", b"no JSON\n"] {
            assert_eq!(read_report(nothing), None);
        }
        let endless = std::io::repeat(b'x');
        assert_eq!(read_report(endless), None, "no more is read than a report can have");
    }
}
