//! The measurements. Each is made of independent runs, and a run tells the values that it found and the time lines behind
//! them.

mod migration;
mod snapshot;
mod start;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use crate::contender::Contender;
use crate::silence::Timeline;
use crate::stamped::StampedVm;

/// So long the guest's beats are listened to before and after an operation.
const AROUND: Duration = Duration::from_millis(200);

/// One thing that is measured.
#[derive(Clone, Copy, Debug)]
pub struct Measurement {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What a run takes of the machine's memory at most, in MiB.
    pub memory_mib: u64,
    /// Makes one run.
    pub run: fn(&Bench<'_>) -> Result<Run>,
}

/// All that is measured.
pub const MEASUREMENTS: &[Measurement] = &[
    Measurement {
        name: "start",
        memory_mib: 64,
        run: start::run,
    },
    Measurement {
        name: "snapshot",
        memory_mib: 1200,
        run: snapshot::run,
    },
    Measurement {
        name: "idle",
        memory_mib: 1200,
        run: |bench| migration::run(bench, 0),
    },
    Measurement {
        name: "dirtying",
        memory_mib: 1200,
        run: |bench| migration::run(bench, 200),
    },
];

/// What one run found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Run {
    /// What was measured, with its unit, and how much.
    pub values: Vec<(String, f64)>,
    /// When the guest's consoles had something to say.
    pub consoles: Vec<Timeline>,
}

impl Run {
    fn value(&mut self, what: impl Into<String>, value: f64) {
        self.values.push((what.into(), value));
    }

    fn console(&mut self, console: &'static str, vm: &StampedVm, began: Instant) {
        self.consoles.extend(Timeline::of(console, vm.arrived(), began));
    }
}

/// What is measured, and where its files go.
#[derive(Clone, Copy, Debug)]
pub struct Bench<'a> {
    /// The VMM.
    pub vmm: &'a dyn Contender,
    /// A folder on tmpfs.
    pub scratch: &'a Path,
}

impl Bench<'_> {
    fn file(&self) -> PathBuf {
        self.scratch.join("bench.snapshot")
    }
}
