//! A snapshot of a running guest, and restores of it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

use super::{AROUND, Bench, Run};
use crate::contender::{GuestSpec, Restore};
use crate::memory::warm;
use crate::silence::{longest, ms};

const GUEST: GuestSpec<'static> = GuestSpec {
    name: "save",
    mib: 512,
    cmdline: "mib=480 beat=1 avx=0",
};

/// A snapshot of 512 MiB: its duration, the guest's silence, the file's size; then restores of it, as quickly as can be
/// and with all memory read.
pub(super) fn run(bench: &Bench<'_>) -> Result<Run> {
    let mut run = Run::default();
    let file = bench.file();
    save(bench, &mut run, &file)?;
    for (way, what) in [(Restore::Quickest, "quickest way"), (Restore::Whole, "all memory read")] {
        restore(bench, &mut run, &file, way, what)?;
    }
    std::fs::remove_file(&file)?;
    Ok(run)
}

fn save(bench: &Bench<'_>, run: &mut Run, file: &Path) -> Result<()> {
    let mut vm = bench.vmm.boot(GUEST)?;
    vm.wait_for("ready")?;
    vm.listen(AROUND)?;
    warm(600)?;
    let began = Instant::now();
    let ended = bench.vmm.save(GUEST.name, file)?;
    vm.listen(AROUND)?;
    run.value("snapshot: 512 MiB full, in all, ms", ms(ended - began));
    let silent = longest(vm.arrived(), began, ended);
    run.value("snapshot: guest silent, ms", ms(silent));
    run.value("snapshot: file on disk, MiB", disk_mib(file)?);
    run.console("saved guest", &vm, began);
    vm.finish()?;
    Ok(())
}

fn restore(bench: &Bench<'_>, run: &mut Run, file: &Path, way: Restore, what: &'static str) -> Result<()> {
    warm(600)?;
    let mut vm = bench.vmm.restore("restored", GUEST.mib, file, way)?;
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
