//! A live migration to another process over TCP.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{AROUND, Bench, Run};
use crate::contender::GuestSpec;
use crate::memory::warm;
use crate::silence::{longest, ms};

/// How long the guest may be silent, as users would say it to every VMM.
const DOWNTIME: Duration = Duration::from_millis(30);

/// A guest of 512 MiB moves; `rate` MiB/s are dirtied meanwhile.
pub(super) fn run(bench: &Bench<'_>, rate: u64) -> Result<Run> {
    let mut run = Run::default();
    let name = format!("migration: 512 MiB full, {rate} MiB/s dirtied");
    let guest = GuestSpec {
        name: "source",
        mib: 512,
        cmdline: &format!("mib=480 beat=1 avx=0 rate={rate} dirty=256"),
    };
    let mut source = bench.vmm.boot(guest)?;
    source.wait_for("ready")?;
    let (mut target, uri) = bench.vmm.receive("target", guest.mib)?;
    let listening = Instant::now();
    source.listen(AROUND)?;

    warm(600)?;
    let began = Instant::now();
    let ended = bench.vmm.migrate(guest.name, &uri, DOWNTIME)?;
    source.catch_up()?;
    let last = source.arrived().last().context("the source beats until the pause")?.at;
    let first = target.first_beat()?;
    target.listen(AROUND)?;

    run.value(format!("{name}: in all, ms"), ms(ended - began));
    run.value(
        format!("{name}: gap between heartbeats, ms"),
        ms(first.saturating_duration_since(last)),
    );
    let quiet = longest(source.arrived(), listening, began);
    run.value(format!("{name}: longest gap before it, ms"), ms(quiet));
    let rounds = longest(source.arrived(), began, last);
    run.value(format!("{name}: longest gap in its rounds, ms"), ms(rounds));
    let after = longest(target.arrived(), first, Instant::now());
    run.value(format!("{name}: longest gap after it, ms"), ms(after));
    run.console("source", &source, began);
    run.console("target", &target, began);

    bench.vmm.end_source(source)?;
    target.type_keys("v")?;
    target.wait_for("verify ok")?;
    target.finish()?;
    Ok(run)
}
