//! QEMU's `microvm` machine, at the settings with which it is quickest here: qboot as firmware, no ACPI, two channels.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::io::{FdFlags, fcntl_setfd};
use serde_json::{Value, json};

use super::qmp::Qmp;
use super::{Contender, GuestSpec, Restore};
use crate::stamped::StampedVm;

/// The program, as Debian's package `qemu-system-x86` has it.
pub const PROGRAM: &str = "qemu-system-x86_64";

/// QEMU, and the guest in a file, as it takes no other.
#[derive(Clone, Debug)]
pub struct Qemu {
    kernel: PathBuf,
    scratch: PathBuf,
}

impl Qemu {
    /// QEMU if it is installed, with `scratch` for its files.
    ///
    /// # Errors
    ///
    /// If the guest cannot be written there.
    pub fn find(scratch: &Path) -> Result<Option<Self>> {
        if Command::new(PROGRAM).arg("--version").output().is_err() {
            return Ok(None);
        }
        let kernel = scratch.join("guest.elf");
        fs::write(&kernel, vmm::guest::EMBEDDED_GUEST).context("the guest for QEMU")?;
        let scratch = scratch.to_owned();
        Ok(Some(Self { kernel, scratch }))
    }

    fn monitor(&self, vm: &str) -> PathBuf {
        self.scratch.join(format!("{vm}.qmp"))
    }

    fn command(&self, vm: &str, mib: u64, cmdline: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args([
                "-M",
                "microvm,acpi=off,rtc=on,pit=on,pic=on,isa-serial=on,auto-kernel-cmdline=off",
            ])
            // What Tern's own baseline offers, as far as QEMU has a name for it.
            .args(["-accel", "kvm", "-cpu", "qemu64", "-m", &mib.to_string()])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .args(["-bios", "qboot.rom", "-append", cmdline])
            .args(["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", self.monitor(vm).display()));
        command
    }

    fn connect(&self, vm: &str) -> Result<Qmp> {
        let mut qmp = Qmp::connect(&self.monitor(vm))?;
        capabilities(&mut qmp, &["events"])?;
        Ok(qmp)
    }
}

fn capabilities(qmp: &mut Qmp, names: &[&str]) -> Result<Value> {
    let wanted: Vec<_> = names
        .iter()
        .map(|name| json!({ "capability": name, "state": true }))
        .collect();
    qmp.command("migrate-set-capabilities", &json!({ "capabilities": wanted }))
}

/// Lets QEMU send as fast as it can, over two channels where both sides agree.
fn parameters(qmp: &mut Qmp, channels: bool, downtime: Option<Duration>) -> Result<()> {
    let mut wanted = json!({ "max-bandwidth": 1_u64 << 40 });
    if channels {
        capabilities(qmp, &["multifd"])?;
        wanted["multifd-channels"] = json!(2);
    }
    if let Some(downtime) = downtime {
        wanted["downtime-limit"] = json!(u64::try_from(downtime.as_millis())?);
    }
    qmp.command("migrate-set-parameters", &wanted).map(drop)
}

impl Contender for Qemu {
    fn name(&self) -> &'static str {
        "QEMU"
    }

    fn boot(&self, guest: GuestSpec<'_>) -> Result<StampedVm> {
        StampedVm::start(&mut self.command(guest.name, guest.mib, guest.cmdline))
    }

    fn save(&self, vm: &str, file: &Path) -> Result<Instant> {
        let mut qmp = self.connect(vm)?;
        parameters(&mut qmp, false, None)?;
        qmp.give("snapshot", &File::create(file)?)?;
        // Not stopped before: a guest that was comes back stopped, and runs on later.
        qmp.command("migrate", &json!({ "uri": "fd:snapshot" }))?;
        qmp.migration_ends()?;
        qmp.command("cont", &json!({}))?;
        Ok(Instant::now())
    }

    fn restore(&self, vm: &str, mib: u64, file: &Path, _way: Restore) -> Result<StampedVm> {
        // The process inherits the file, which costs it less than `exec:` with its shell.
        let file = File::open(file)?;
        fcntl_setfd(&file, FdFlags::empty())?;
        let number = std::os::fd::AsRawFd::as_raw_fd(&file);
        let mut command = self.command(vm, mib, "");
        command.args(["-incoming", &format!("fd:{number}")]);
        StampedVm::start(&mut command)
    }

    fn receive(&self, vm: &str, mib: u64) -> Result<(StampedVm, String)> {
        let mut command = self.command(vm, mib, "");
        command.args(["-incoming", "defer"]);
        let process = StampedVm::start(&mut command)?;
        let mut qmp = self.connect(vm)?;
        parameters(&mut qmp, true, None)?;
        qmp.command("migrate-incoming", &json!({ "uri": "tcp:127.0.0.1:0" }))?;
        let listening = qmp.command("query-migrate", &json!({}))?;
        let port = listening["socket-address"][0]["port"].as_str();
        let port = port.with_context(|| format!("no port in {listening}"))?;
        Ok((process, format!("tcp:127.0.0.1:{port}")))
    }

    fn migrate(&self, vm: &str, uri: &str, downtime: Duration) -> Result<Instant> {
        let mut qmp = self.connect(vm)?;
        parameters(&mut qmp, true, Some(downtime))?;
        qmp.command("migrate", &json!({ "uri": uri }))?;
        qmp.migration_ends()?;
        Ok(Instant::now())
    }

    fn end_source(&self, process: StampedVm) -> Result<()> {
        process.finish().map(drop)
    }
}
