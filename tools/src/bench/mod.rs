//! The measurements, one function each; every one returns the values of a single run.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::memory::pss_beside_guest;
use crate::stamped::{StampedVm, longest_gap};

const MIB: u64 = 1 << 20;
/// So long the guest's beats are listened to before and after an operation.
const AROUND: Duration = Duration::from_millis(200);

/// One measured value: what it is, with its unit, and how much.
pub type Value = (String, f64);

/// Where things are.
#[derive(Clone, Debug)]
pub struct Bench {
    /// The program under test.
    pub vm: PathBuf,
    /// A folder on tmpfs for sockets and snapshots.
    pub scratch: PathBuf,
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

impl Bench {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.vm);
        command.args(args).env("XDG_RUNTIME_DIR", &self.scratch);
        command
    }

    fn run_to_end(&self, args: &[&str]) -> Result<Duration> {
        let started = Instant::now();
        let output = self.command(args).stdin(Stdio::null()).output()?;
        let took = started.elapsed();
        ensure!(
            output.status.success(),
            "vm {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(took)
    }

    fn guest(&self, name: &str, mib: u64, cmdline: &str) -> Result<StampedVm> {
        let memory = format!("{mib}M");
        StampedVm::start(&mut self.command(&["run", "--name", name, "--memory", &memory, "--cmdline", cmdline]))
    }

    fn listen(vm: &StampedVm, how_long: Duration) -> Result<()> {
        let until = Instant::now() + how_long;
        while vm.next()?.at < until {}
        Ok(())
    }

    /// From exec to the guest's first output, and the memory beside the guest once it works.
    ///
    /// # Errors
    ///
    /// If the program or the guest fails.
    pub fn start(&self) -> Result<Vec<Value>> {
        let vm = self.guest("start", 128, "mib=8 beat=1")?;
        let first = vm.next()?.at.duration_since(vm.started);
        vm.wait_for("ready")?;
        Self::listen(&vm, AROUND)?;
        let beside = pss_beside_guest(vm.pid(), 128 * MIB)?;
        let kib = u32::try_from(beside).context("a sensible size")?;
        Ok(vec![
            ("start: exec to first output, 128 MiB, ms".into(), ms(first)),
            ("start: PSS beside the guest, MiB".into(), f64::from(kib) / 1024.0),
        ])
    }

    /// A snapshot of a running guest of 512 MiB: its duration, the guest's silence, the file's size; then restores of it.
    ///
    /// # Errors
    ///
    /// If the program or the guest fails.
    pub fn snapshot_and_restore(&self) -> Result<Vec<Value>> {
        let file = self.scratch.join("bench.tern");
        let path = file.to_str().context("the scratch folder's name is text")?;
        let vm = self.guest("save", 512, "mib=480 beat=1")?;
        vm.wait_for("ready")?;
        Self::listen(&vm, AROUND)?;
        drop(vm.arrived());
        let took = self.run_to_end(&["snapshot", "save", path])?;
        let mut around = vm.arrived();
        around.push(vm.next()?);
        let mut values = vec![
            ("snapshot: 512 MiB full, vm snapshot in all, ms".into(), ms(took)),
            ("snapshot: guest silent, ms".into(), ms(longest_gap(&around))),
            ("snapshot: file on disk, MiB".into(), disk_mib(&file)?),
        ];
        drop(vm);
        for (how, what) in [("none", "mapped privately"), ("full", "verified")] {
            let verify = format!("--verify={how}");
            let mut vm = StampedVm::start(&mut self.command(&["restore", path, "--name", "restored", &verify]))?;
            let first = vm.next()?.at.duration_since(vm.started);
            values.push((format!("restore: exec to first heartbeat, {what}, ms"), ms(first)));
            vm.type_keys("v")?;
            let verified = vm.wait_for("verify ok")?.duration_since(vm.started);
            values.push((
                format!("restore: exec to every page verified by the guest, {what}, ms"),
                ms(verified),
            ));
        }
        std::fs::remove_file(&file)?;
        Ok(values)
    }

    /// A live migration of 512 MiB to another process over TCP; `rate` MiB/s are dirtied meanwhile.
    ///
    /// # Errors
    ///
    /// If the program or the guest fails.
    pub fn migrate(&self, rate: u64) -> Result<Vec<Value>> {
        let source = self.guest("source", 512, &format!("mib=480 beat=1 rate={rate} dirty=256"))?;
        source.wait_for("ready")?;
        let target = StampedVm::start(&mut self.command(&["receive", "tcp:127.0.0.1:0", "--name", "target"]))?;
        let uri = target.first_message()?;
        Self::listen(&source, AROUND)?;
        drop(source.arrived());
        let took = self.run_to_end(&["migrate", "source", &uri, "--downtime-limit", "30ms"])?;
        let mut beats = source.arrived();
        let last = beats.last().context("the source beats until the pause")?.at;
        let first = target.next()?;
        let gap = first.at.duration_since(last);
        beats.push(first);
        let mut target = target;
        target.type_keys("v")?;
        target.wait_for("verify ok")?;
        Ok(vec![
            (
                format!("migration: 512 MiB full, {rate} MiB/s dirtied, vm migrate in all, ms"),
                ms(took),
            ),
            (
                format!("migration: {rate} MiB/s dirtied, gap between heartbeats, ms"),
                ms(gap),
            ),
        ])
    }
}

/// What a file takes on its file system.
fn disk_mib(path: &Path) -> Result<f64> {
    use std::os::unix::fs::MetadataExt;
    let blocks = u32::try_from(std::fs::metadata(path)?.blocks()).context("a sensible size")?;
    Ok(f64::from(blocks) / 2048.0)
}
