//! Tern, used as its users do: by the program `vm`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Contender, GuestSpec, Restore};
use crate::stamped::StampedVm;

/// A build of `vm`.
#[derive(Clone, Debug)]
pub struct Tern {
    /// What it is called in tables.
    pub name: String,
    /// The program.
    pub vm: PathBuf,
    /// A folder on tmpfs for sockets.
    pub scratch: PathBuf,
}

impl Tern {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.vm);
        command.args(args).env("XDG_RUNTIME_DIR", &self.scratch);
        command
    }

    fn start(&self, args: &[&str]) -> Result<StampedVm> {
        StampedVm::start(&mut self.command(args))
    }

    /// Runs a command to its end; returns when that was.
    fn run_to_end(&self, args: &[&str]) -> Result<Instant> {
        let output = self.command(args).stdin(Stdio::null()).output()?;
        let ended = Instant::now();
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "vm {args:?}: {said}");
        Ok(ended)
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("the scratch folder's name is text")
}

impl Contender for Tern {
    fn name(&self) -> &str {
        &self.name
    }

    fn boot(&self, guest: GuestSpec<'_>) -> Result<StampedVm> {
        let memory = format!("{}M", guest.mib);
        self.start(&[
            "run",
            "--name",
            guest.name,
            "--memory",
            &memory,
            "--cmdline",
            guest.cmdline,
        ])
    }

    fn save(&self, vm: &str, file: &Path) -> Result<Instant> {
        self.run_to_end(&["snapshot", vm, text(file)?])
    }

    fn restore(&self, vm: &str, _mib: u64, file: &Path, way: Restore) -> Result<StampedVm> {
        let verify = match way {
            Restore::Quickest => "--verify=none",
            Restore::Whole => "--verify=full",
        };
        self.start(&["restore", text(file)?, "--name", vm, verify])
    }

    fn receive(&self, vm: &str, _mib: u64) -> Result<(StampedVm, String)> {
        let process = self.start(&["receive", "tcp:127.0.0.1:0", "--name", vm])?;
        let uri = process.first_message()?;
        Ok((process, uri))
    }

    fn migrate(&self, vm: &str, uri: &str, downtime: Duration) -> Result<Instant> {
        let limit = format!("{}ms", downtime.as_millis());
        self.run_to_end(&["migrate", vm, uri, "--downtime-limit", &limit])
    }

    fn end_source(&self, process: StampedVm) -> Result<()> {
        process.ends_well()
    }
}
