//! `vm demo`: Tern's main job on the guest that is built into it.
//!
//! Everything goes through `vm` itself, in processes of their own, as a user would do it. The guest is the witness: it fills memory
//! with a pattern, goes on writing, and checks every page when asked.

mod guest;

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    error::CliError,
    messages::Messages,
    values::{Size, Time},
};
use guest::Guest;

/// Show what Tern does, in less than a minute.
///
/// Runs a guest, snapshots it, kills it, restores it, moves it to another process, and has the guest prove that not a page was lost.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  vm demo\n  vm demo --memory 1G --cpus 2")]
pub(super) struct Args {
    /// The guest's memory, with its unit.
    #[arg(long, value_name = "SIZE", default_value = "256M")]
    memory: Size,
    /// How many vCPUs.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    cpus: u32,
}

/// What the guest does: a heartbeat every 10 ms, 40 MiB written a second within 32 MiB.
const GUEST: &str = "beat=10 rate=40 dirty=32";

/// How long a move may pause the guest: a bound and no aim, so far away that the demonstration ends on slow and busy hosts
/// too, and shows what the pause came to.
const PAUSE_LIMIT: &str = "10s";

pub(super) fn run(args: &Args, messages: Messages) -> Result<u8, CliError> {
    let began = Instant::now();
    let mut demo = Demo::new(messages)?;

    let source = demo.boot(args)?;
    let pages = source.1;
    let snapshot = demo.snapshot(&args.memory)?;
    demo.kill(source.0)?;
    let restored = demo.restore(&snapshot, pages)?;
    let moved = demo.migrate(restored, pages)?;
    demo.end(moved)?;

    let took = began.elapsed();
    messages.result(
        format_args!(
            "All {pages} pages of the guest came through. The demonstration took {}.",
            Time(took)
        ),
        &json!({ "step": "done", "pages": pages, "seconds": took.as_secs_f64() }),
    )?;
    Ok(0)
}

/// A folder for the demonstration's sockets and its snapshot.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Demo {
    /// This program.
    vm: PathBuf,
    folder: Folder,
    messages: Messages,
    steps: u32,
}

impl Demo {
    fn new(messages: Messages) -> Result<Self, CliError> {
        let vm = std::env::current_exe().map_err(CliError::Process)?;
        let path = std::env::temp_dir().join(format!("tern-demo-{}", std::process::id()));
        fs::create_dir(&path).map_err(|error| CliError::File {
            action: "make the folder",
            path: path.clone(),
            error,
        })?;
        Ok(Self {
            vm,
            folder: Folder(path),
            messages,
            steps: 0,
        })
    }

    fn path(&self) -> &Path {
        &self.folder.0
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.vm);
        command.args(arguments).env("XDG_RUNTIME_DIR", self.path());
        command
    }

    /// Tells what has been done.
    fn tell(&mut self, text: &str, fields: &Value) -> Result<(), CliError> {
        self.steps += 1;
        self.messages.result(format_args!("{}. {text}", self.steps), fields)
    }

    fn boot(&mut self, args: &Args) -> Result<(Guest, u64), CliError> {
        let memory = format!("{}K", args.memory.0 >> 10);
        let cpus = args.cpus.to_string();
        let command = self.command(&[
            "run",
            "--name",
            "demo",
            "--memory",
            &memory,
            "--cpus",
            &cpus,
            "--cmdline",
            GUEST,
        ]);
        let mut guest = Guest::start(command, "booting the guest")?;
        let first = guest.line("its first output", |_| true)?;
        let ready = guest.line("the guest to be ready", |line| line.starts_with("tern-guest: ready"))?;
        let pages = guest.verify()?;
        let (first, filled) = (guest.since_start(first.at), guest.since_start(ready.at));
        self.tell(
            &format!(
                "Ran the guest that is built into Tern: {}, {cpus} vCPUs. Its first output came after {}; after {} it had \
                 filled {pages} pages ({}), and it goes on writing.",
                args.memory,
                Time(first),
                Time(filled),
                Size(pages << 12),
            ),
            &json!({
                "step": "run",
                "memory": args.memory.0,
                "cpus": args.cpus,
                "pages": pages,
                "first-output-seconds": first.as_secs_f64(),
            }),
        )?;
        Ok((guest, pages))
    }

    /// Runs a command that talks to a VM and returns what it says in JSON, and how long it took.
    fn ask(&self, step: &str, arguments: &[&str]) -> Result<(Value, Duration), CliError> {
        let began = Instant::now();
        let output = self
            .command(arguments)
            .arg("--json")
            .stdin(Stdio::null())
            .output()
            .map_err(CliError::Process)?;
        let took = began.elapsed();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if !output.status.success() {
            let said = serde_json::from_slice::<Value>(&output.stderr).ok();
            let why = said.and_then(|line| line["error"].as_str().map(str::to_owned));
            return Err(failed(step, why.unwrap_or_else(|| text(&output.stderr))));
        }
        let said = serde_json::from_slice(&output.stdout);
        Ok((said.map_err(|_| failed(step, text(&output.stdout)))?, took))
    }

    fn snapshot(&mut self, memory: &Size) -> Result<PathBuf, CliError> {
        let file = self.path().join("demo.tern");
        let name = file.to_string_lossy().into_owned();
        let (said, took) = self.ask("saving the guest", &["snapshot", "demo", &name])?;
        let allocated = said["allocated"].as_u64().unwrap_or_default();
        let pause = said["migration"]["x-tern-downtime-us"].as_u64().unwrap_or_default();
        self.tell(
            &format!(
                "Saved it in {}, {} for {memory} of memory. It stood still for {} and went on.",
                Time(took),
                Size(allocated),
                Time::of_micros(pause),
            ),
            &json!({ "step": "snapshot", "seconds": took.as_secs_f64(), "allocated": allocated, "downtime-us": pause }),
        )?;
        Ok(file)
    }

    fn kill(&mut self, guest: Guest) -> Result<(), CliError> {
        guest.kill()?;
        self.tell("Killed it (kill -9).", &json!({ "step": "kill" }))?;
        Ok(())
    }

    fn restore(&mut self, snapshot: &Path, pages: u64) -> Result<Guest, CliError> {
        let name = snapshot.to_string_lossy().into_owned();
        let command = self.command(&["restore", &name, "--name", "demo"]);
        let mut guest = Guest::start(command, "restoring the guest")?;
        let beat = guest.beat()?;
        let took = guest.since_start(beat);
        guest.expect_pages(pages)?;
        self.tell(
            &format!(
                "Restored it from the file, every byte of it checked first: its heart beat again after {}, and \
                 all {pages} pages are right.",
                Time(took),
            ),
            &json!({ "step": "restore", "first-beat-seconds": took.as_secs_f64(), "pages": pages }),
        )?;
        Ok(guest)
    }

    fn migrate(&mut self, mut source: Guest, pages: u64) -> Result<Guest, CliError> {
        let step = "moving the guest";
        let command = self.command(&["receive", "tcp:127.0.0.1:0", "--name", "arrival"]);
        let mut target = Guest::start(command, step)?;
        let uri = target.first_message()?;
        let (said, took) = self.ask(step, &["migrate", "demo", &uri, "--downtime-limit", PAUSE_LIMIT])?;
        let last = source.end()?;
        let beat = target.beat()?;
        let gap = beat.saturating_duration_since(last);
        target.expect_pages(pages)?;
        let migration = &said["migration"];
        let sent = Size(migration["ram"]["transferred"].as_u64().unwrap_or_default());
        let pause = migration["x-tern-downtime-us"].as_u64().unwrap_or_default();
        self.tell(
            &format!(
                "Moved it to another process over TCP in {}: {sent} sent, paused for {}, {} between its last \
                 beat here and its first there. The sender is gone, and all {pages} pages are right.",
                Time(took),
                Time::of_micros(pause),
                gap_as_read(gap),
            ),
            &json!({
                "step": "migrate",
                "seconds": took.as_secs_f64(),
                "downtime-us": pause,
                "gap-seconds": gap.as_secs_f64(),
                "transferred": sent.0,
                "pages": pages,
            }),
        )?;
        Ok(target)
    }

    fn end(&mut self, mut guest: Guest) -> Result<(), CliError> {
        guest.type_key("q")?;
        guest.end()?;
        self.tell(
            "The guest ended itself, and its process with the guest's exit code.",
            &json!({ "step": "end" }),
        )?;
        Ok(())
    }
}

/// A gap between two lines that two threads read, of which the one that came first may have been read last.
fn gap_as_read(gap: Duration) -> String {
    if gap < Duration::from_micros(100) {
        "less than 0.1 ms".to_owned()
    } else {
        Time(gap).to_string()
    }
}

fn failed(step: &str, why: impl Into<String>) -> CliError {
    CliError::Demo {
        step: step.to_owned(),
        why: why.into(),
    }
}

fn cannot_start(step: &str, error: &io::Error) -> CliError {
    failed(step, format!("vm cannot be started: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_never_shown_as_none_at_all() {
        assert_eq!(gap_as_read(Duration::ZERO), "less than 0.1 ms");
        assert_eq!(gap_as_read(Duration::from_micros(8240)), "8.2 ms");
    }
}
