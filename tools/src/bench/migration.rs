//! A live migration to another process over TCP.

use std::time::Instant;

use anyhow::{Context, Result};

use super::{AROUND, Bench, Run};
use crate::memory::warm;
use crate::silence::{longest, ms};

/// A guest of 512 MiB moves; `rate` MiB/s are dirtied meanwhile.
pub(super) fn run(bench: &Bench, rate: u64) -> Result<Run> {
    let mut run = Run::default();
    let name = format!("migration: 512 MiB full, {rate} MiB/s dirtied");
    let mut source = bench.guest("source", 512, &format!("mib=480 beat=1 rate={rate} dirty=256"))?;
    source.wait_for("ready")?;
    let mut target = bench.start(&["receive", "tcp:127.0.0.1:0", "--name", "target"])?;
    let uri = target.first_message()?;
    let listening = Instant::now();
    source.listen(AROUND)?;

    warm(600)?;
    let began = Instant::now();
    let ended = bench.run_to_end(&["migrate", "source", &uri, "--downtime-limit", "30ms"])?;
    source.catch_up()?;
    let last = source.arrived().last().context("the source beats until the pause")?.at;
    let first = target.first_beat()?;
    target.listen(AROUND)?;

    run.value(format!("{name}: vm migrate in all, ms"), ms(ended - began));
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

    source.ends_well()?;
    target.type_keys("v")?;
    target.wait_for("verify ok")?;
    target.finish()?;
    Ok(run)
}
