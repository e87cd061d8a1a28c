//! A snapshot of a running guest, and restores of it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

use super::{AROUND, Bench, Run};
use crate::memory::warm;
use crate::silence::{longest, ms};

/// A snapshot of 512 MiB: its duration, the guest's silence, the file's size; then restores of it, unchecked and checked.
pub(super) fn run(bench: &Bench) -> Result<Run> {
    let mut run = Run::default();
    let file = bench.scratch.join("bench.tern");
    let path = file.to_str().context("the scratch folder's name is text")?;
    save(bench, &mut run, &file, path)?;
    for (verify, what) in [("none", "mapped privately"), ("full", "verified")] {
        restore(bench, &mut run, path, verify, what)?;
    }
    std::fs::remove_file(&file)?;
    Ok(run)
}

fn save(bench: &Bench, run: &mut Run, file: &Path, path: &str) -> Result<()> {
    let mut vm = bench.guest("save", 512, "mib=480 beat=1")?;
    vm.wait_for("ready")?;
    vm.listen(AROUND)?;
    warm(600)?;
    let began = Instant::now();
    let ended = bench.run_to_end(&["snapshot", "save", path])?;
    vm.listen(AROUND)?;
    run.value("snapshot: 512 MiB full, vm snapshot in all, ms", ms(ended - began));
    let silent = longest(vm.arrived(), began, ended);
    run.value("snapshot: guest silent, ms", ms(silent));
    run.value("snapshot: file on disk, MiB", disk_mib(file)?);
    run.console("saved guest", &vm, began);
    vm.finish()?;
    Ok(())
}

fn restore(bench: &Bench, run: &mut Run, path: &str, verify: &str, what: &'static str) -> Result<()> {
    warm(600)?;
    let verify = format!("--verify={verify}");
    let mut vm = bench.start(&["restore", path, "--name", "restored", &verify])?;
    let first = vm.first_beat()? - vm.started;
    run.value(format!("restore: exec to first heartbeat, {what}, ms"), ms(first));
    vm.type_keys("v")?;
    let verified = vm.wait_for("verify ok")? - vm.started;
    run.value(
        format!("restore: exec to every page verified by the guest, {what}, ms"),
        ms(verified),
    );
    run.console(what, &vm, vm.started);
    vm.finish()?;
    Ok(())
}

/// What a file takes on its file system.
fn disk_mib(path: &Path) -> Result<f64> {
    let blocks = u32::try_from(std::fs::metadata(path)?.blocks()).context("a sensible size")?;
    Ok(f64::from(blocks) / 2048.0)
}
