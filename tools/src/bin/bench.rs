//! The benchmark: prints a table of medians and spreads, and keeps the raw values.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Parser;
use tern_tools::bench::{Bench, MEASUREMENTS};
use tern_tools::contender::{Contender, PROGRAM, Qemu, Tern};
use tern_tools::memory::warm;
use tern_tools::precedence::Precedence;
use tern_tools::report::{ProgramRun, Report};

/// Measures Tern from outside, on this machine's /dev/kvm, and QEMU beside it where it is installed.
///
/// All run the same guest in turns, so that they are compared under the same circumstances; each line of QEMU's is followed
/// by how many times Tern's it is.
///
/// Example: cargo run --release -p tern-tools --bin bench -- --runs 9
#[derive(Parser)]
struct Arguments {
    /// How often each thing is measured; 9 or more for figures that are quoted.
    #[arg(long, default_value_t = 9)]
    runs: u32,
    /// A build of vm to measure, made in release mode where none is given. May be given several times.
    #[arg(long)]
    vm: Vec<PathBuf>,
    /// A folder on tmpfs.
    #[arg(long, default_value = "/dev/shm/tern-bench")]
    scratch: PathBuf,
    /// Where everything that was measured is kept, as JSON.
    #[arg(long, default_value = "target/bench.json")]
    raw: PathBuf,
    /// Measure only this: start, snapshot, idle, dirtying. May be given several times.
    #[arg(long)]
    only: Vec<String>,
    /// Leave QEMU out.
    #[arg(long)]
    without_qemu: bool,
    /// Let the program go before what else runs on the machine (real-time scheduling), so that figures come close to those of
    /// an idle one. For root.
    #[arg(long)]
    precedence: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let programs = match &arguments.vm[..] {
        [] => vec![build()?],
        given => given.to_vec(),
    };
    let mut folder = std::fs::DirBuilder::new();
    folder.mode(0o700).recursive(true).create(&arguments.scratch)?;
    if arguments.precedence && !Precedence::Measured.take() {
        bail!("this user may not give the program precedence; run the benchmark as root, or without --precedence");
    }
    let vmms = contenders(programs, &arguments.scratch, arguments.without_qemu)?;
    let names = vmms.iter().map(|vmm| vmm.name().to_owned()).collect();
    let mut report = Report::begin(names, arguments.precedence);
    for measurement in MEASUREMENTS {
        let name = measurement.name;
        if !arguments.only.is_empty() && !arguments.only.iter().any(|only| only == name) {
            continue;
        }
        // Run 0 warms the caches and is dropped.
        for run in 0..=arguments.runs {
            eprint!("\r{name} {run}/{} ", arguments.runs);
            for (program, vmm) in vmms.iter().enumerate() {
                warm(measurement.memory_mib)?;
                let bench = Bench {
                    vmm: vmm.as_ref(),
                    scratch: &arguments.scratch,
                };
                let found = (measurement.run)(&bench).with_context(|| format!("{}: {name}, run {run}", vmm.name()))?;
                if run > 0 {
                    report.runs.push(ProgramRun {
                        program,
                        measurement: name,
                        run: found,
                    });
                }
            }
        }
        eprintln!();
    }
    print!("{}", report.table());
    std::fs::write(&arguments.raw, report.to_json()?)
        .with_context(|| format!("cannot keep the raw values in {}", arguments.raw.display()))?;
    eprintln!("raw values: {}", arguments.raw.display());
    Ok(())
}

/// All builds of Tern, and QEMU.
fn contenders(builds: Vec<PathBuf>, scratch: &Path, without_qemu: bool) -> Result<Vec<Box<dyn Contender>>> {
    let several = builds.len() > 1;
    let tern = |(number, vm): (usize, PathBuf)| -> Box<dyn Contender> {
        let name = if several {
            format!("Tern {}", number + 1)
        } else {
            "Tern".to_owned()
        };
        let scratch = scratch.to_owned();
        Box::new(Tern { name, vm, scratch })
    };
    let mut vmms: Vec<_> = builds.into_iter().enumerate().map(tern).collect();
    if !without_qemu {
        match Qemu::find(scratch)? {
            Some(qemu) => vmms.push(Box::new(qemu)),
            None => eprintln!("bench: QEMU is not measured: {PROGRAM} is missing (apt-get install qemu-system-x86)"),
        }
    }
    Ok(vmms)
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
