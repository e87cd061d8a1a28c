//! The benchmark: prints a table of medians and spreads, and keeps the raw values.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Parser;
use tern_tools::bench::{Bench, Value};
use tern_tools::stats::Summary;

/// Measures Tern from outside, on this machine's /dev/kvm.
///
/// Example: cargo run --release -p tern-tools --bin bench -- --runs 9
#[derive(Parser)]
struct Arguments {
    /// How often each thing is measured; 9 or more for figures that are quoted.
    #[arg(long, default_value_t = 9)]
    runs: u32,
    /// The program to measure; built in release mode where none is given.
    #[arg(long)]
    vm: Option<PathBuf>,
    /// A folder on tmpfs.
    #[arg(long, default_value = "/dev/shm/tern-bench")]
    scratch: PathBuf,
    /// Where the raw values are kept, as JSON.
    #[arg(long, default_value = "target/bench.json")]
    raw: PathBuf,
    /// Measure only what has this in its name: start, snapshot, idle, dirtying.
    #[arg(long)]
    only: Option<String>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let vm = match arguments.vm {
        Some(vm) => vm,
        None => build()?,
    };
    std::fs::create_dir_all(&arguments.scratch)?;
    let bench = Bench {
        vm,
        scratch: arguments.scratch,
    };
    type Measure<'a> = &'a dyn Fn() -> Result<Vec<Value>>;
    let measurements: [(&str, Measure<'_>); 4] = [
        ("start", &|| bench.start()),
        ("snapshot", &|| bench.snapshot_and_restore()),
        ("idle", &|| bench.migrate(0)),
        ("dirtying", &|| bench.migrate(200)),
    ];
    let mut order = Vec::new();
    let mut values: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (name, measure) in measurements {
        if arguments.only.as_deref().is_some_and(|only| !name.contains(only)) {
            continue;
        }
        // Memory that was given back to the host is slow when it is touched again; the first run warms it and is dropped.
        measure().with_context(|| format!("warming up {name}"))?;
        for run in 0..arguments.runs {
            eprint!("\r{name} {}/{} ", run + 1, arguments.runs);
            for (what, value) in measure().with_context(|| format!("{name}, run {run}"))? {
                if !values.contains_key(&what) {
                    order.push(what.clone());
                }
                values.entry(what).or_default().push(value);
            }
        }
        eprintln!();
    }
    let summaries: Vec<_> = order
        .iter()
        .filter_map(|what| Summary::of(what, &values[what]))
        .collect();
    println!("{:<72} {:>9} {:>9} {:>9}", "what", "median", "least", "greatest");
    for summary in &summaries {
        println!(
            "{:<72} {:>9.2} {:>9.2} {:>9.2}",
            summary.what, summary.median, summary.least, summary.greatest
        );
    }
    std::fs::write(&arguments.raw, serde_json::to_vec_pretty(&summaries)?)?;
    eprintln!("raw values: {}", arguments.raw.display());
    Ok(())
}

fn build() -> Result<PathBuf> {
    let status = Command::new("cargo")
        .args(["build", "--release", "-p", "vmm", "--bin", "vm"])
        .status()?;
    if !status.success() {
        bail!("vm does not build");
    }
    Ok(PathBuf::from("target/release/vm"))
}
