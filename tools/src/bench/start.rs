//! A guest's start, and what the VMM takes beside it.

use anyhow::Result;

use super::{AROUND, Bench, Run};
use crate::contender::GuestSpec;
use crate::memory::{Beside, MIB};
use crate::silence::ms;

const GUEST: GuestSpec<'static> = GuestSpec {
    name: "start",
    mib: 128,
    cmdline: "mib=8 beat=1 avx=0",
};

/// From exec to the guest's first output, and the memory beside the guest once it works.
pub(super) fn run(bench: &Bench<'_>) -> Result<Run> {
    let mut run = Run::default();
    let mut vm = bench.vmm.boot(GUEST)?;
    let first = vm.next_arrival()?.at - vm.started;
    run.value("start: exec to first output, 128 MiB, ms", ms(first));
    vm.wait_for("ready")?;
    vm.listen(AROUND)?;
    let beside = Beside::of_process(vm.pid(), GUEST.mib * MIB)?;
    run.value("start: PSS beside the guest, MiB", beside.share_mib);
    run.value("start: private dirty beside the guest, MiB", beside.written_mib);
    run.console("guest", &vm, vm.started);
    vm.finish()?;
    Ok(run)
}
