//! What is measured: Tern, and the peers that run the same guest beside it.

mod qemu;
mod qmp;
mod tern;

use std::fmt::Debug;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

pub use qemu::{PROGRAM, Qemu};
pub use tern::Tern;

use crate::stamped::StampedVm;

/// A guest to boot: the embedded one, with one vCPU.
///
/// It is told to leave AVX alone (`avx=0`): where CPUID of the host shows through, it would use registers that only a VMM
/// which saves all that the host has can bring back.
#[derive(Clone, Copy, Debug)]
pub struct GuestSpec<'a> {
    /// What its VM is called.
    pub name: &'a str,
    /// Its memory in MiB.
    pub mib: u64,
    /// The guest's command line.
    pub cmdline: &'a str,
}

/// Ways in which a guest comes back from a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restore {
    /// In whichever way the guest runs soonest.
    Quickest,
    /// With all of its memory read before it runs, and checked by whoever can.
    Whole,
}

/// A virtual machine monitor at its best settings.
///
/// VMs are known by the names that they were started under. What is asked of one is done when the method returns, and the
/// time that a method returns is that of its end.
pub trait Contender: Debug {
    /// What it is called in tables.
    fn name(&self) -> &str;

    /// Boots the guest.
    ///
    /// # Errors
    ///
    /// If the program does not start.
    fn boot(&self, guest: GuestSpec<'_>) -> Result<StampedVm>;

    /// Saves a running guest into `file`, and lets it go on.
    ///
    /// # Errors
    ///
    /// If that fails.
    fn save(&self, vm: &str, file: &Path) -> Result<Instant>;

    /// Lets a guest of `mib` MiB go on from `file`, under the name `vm`.
    ///
    /// # Errors
    ///
    /// If the program does not start.
    fn restore(&self, vm: &str, mib: u64, file: &Path, way: Restore) -> Result<StampedVm>;

    /// Waits for a guest of `mib` MiB; returns where.
    ///
    /// # Errors
    ///
    /// If the program does not start or does not listen.
    fn receive(&self, vm: &str, mib: u64) -> Result<(StampedVm, String)>;

    /// Moves the guest to where another process waits for it, with `downtime` as the limit of its pause.
    ///
    /// # Errors
    ///
    /// If that fails.
    fn migrate(&self, vm: &str, uri: &str, downtime: Duration) -> Result<Instant>;

    /// Ends the process whose guest has moved away.
    ///
    /// # Errors
    ///
    /// If it does not end as it should.
    fn end_source(&self, process: StampedVm) -> Result<()>;
}
