//! The accelerator without processors: tests drive a device tree under it, and move one.
//!
//! Its interrupt controllers and timers hold register values and do nothing; its processors have registers and never run.
//! State is in the objects alone, so there is nothing to read at a pause and nothing to write after a load. What a guest
//! would do, threads of the test do ([`QtestAccel::execute`]); they write memory through the address spaces, which mark
//! what they write, so there is no dirty log either.

use std::sync::Arc;

use hw::core::{AccelTypes, IrqSink};
use hw::i386::cpu::X86Cpu;
use hw::i386::cpu_model::{CpuModel, HostCpu, ModelTable};
use hw::i386::cpu_state::CpuState;
use hw::i386::cpuid::CpuidTable;
use hw::intc::apic::{Apic, ApicState};
use hw::memory::AddressSpace;
use hw::timer::clock::TimePolicy;
use parking_lot::{Condvar, Mutex};
use vmstate::qom::{Obj, Object, TypeTable};

use super::{AccelError, Accelerator, BootRegs, CreatedAccel, Difference, PlatformObjects, VcpuEvents};

/// The subclasses under qtest.
pub const TYPES: AccelTypes = AccelTypes {
    cpu: "qtest-x86-cpu",
    apic: "qtest-apic",
    ioapic: "qtest-ioapic",
    i8259: "qtest-i8259",
    i8254: "qtest-i8254",
    clock: "qtest-guest-clock",
};

/// `x86-cpu` under qtest.
#[derive(Object)]
#[object(name = "qtest-x86-cpu", parent = "x86-cpu", stateless)]
pub struct QtestCpu {}

/// `apic-common` under qtest.
#[derive(Object)]
#[object(name = "qtest-apic", parent = "apic-common", stateless)]
pub struct QtestApic {}

/// `ioapic-common` under qtest.
#[derive(Object)]
#[object(name = "qtest-ioapic", parent = "ioapic-common", stateless)]
pub struct QtestIoapic {}

/// `i8259-common` under qtest.
#[derive(Object)]
#[object(name = "qtest-i8259", parent = "i8259-common", stateless)]
pub struct QtestI8259 {}

/// `i8254-common` under qtest.
#[derive(Object)]
#[object(name = "qtest-i8254", parent = "i8254-common", stateless)]
pub struct QtestI8254 {}

/// `guest-clock` under qtest.
#[derive(Object)]
#[object(name = "qtest-guest-clock", parent = "guest-clock", stateless)]
pub struct QtestClock {}

/// The accelerator as users see it in the tree, and as tests drive the machine, at `/machine/accel`.
#[derive(Object)]
#[object(name = "qtest-accel", parent = "accel", stateless)]
pub struct QtestAccel {
    #[runtime]
    stand_in: Arc<StandIn>,
}

impl QtestAccel {
    /// Does to memory and devices what a guest's processor would do: while the VM runs, and as a whole before a pause.
    /// Waits while the VM stands still. Returns `None`, with nothing done, once it has ended.
    pub fn execute<T>(&self, instruction: impl FnOnce() -> T) -> Option<T> {
        let mut phase = self.stand_in.phase.lock();
        while *phase == Phase::Paused {
            self.stand_in.changed.wait(&mut phase);
        }
        // With the lock held, so that a pause waits for it.
        (*phase == Phase::Running).then(instruction)
    }
}

/// What stands in for processors: the right to do what one would do.
#[derive(Default)]
pub struct StandIn {
    phase: Mutex<Phase>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Paused,
    Running,
    Ended,
}

impl StandIn {
    fn set(&self, wanted: Phase) {
        let mut phase = self.phase.lock();
        if *phase != Phase::Ended {
            *phase = wanted;
        }
        self.changed.notify_all();
    }
}

/// Makes a VM without processors.
pub(super) fn create(types: &Arc<TypeTable>, _events: Arc<dyn VcpuEvents>) -> Result<CreatedAccel, AccelError> {
    let object = types.new_object("qtest-accel")?;
    let accel = object.part::<QtestAccel>().expect("it was made as one");
    let stand_in = Arc::clone(&accel.stand_in);
    Ok(CreatedAccel {
        object,
        accelerator: Arc::new(Qtest {
            stand_in,
            cpus: Mutex::default(),
        }),
    })
}

/// Interrupt lines with nobody behind them.
struct NoController;

impl IrqSink for NoController {
    fn set_level(&self, _input: u32, _level: bool) {}
}

/// A VM without processors.
struct Qtest {
    stand_in: Arc<StandIn>,
    cpus: Mutex<Vec<(Obj<X86Cpu>, Obj<Apic>)>>,
}

impl Accelerator for Qtest {
    fn name(&self) -> &'static str {
        "qtest"
    }

    fn types(&self) -> AccelTypes {
        TYPES
    }

    fn cpuid(&self, model: &CpuModel, cpus: u32) -> Result<ModelTable, AccelError> {
        // No host stands behind it, so none lacks anything.
        let table = model.table(
            &HostCpu {
                supported: &CpuidTable::default(),
                tsc_khz: 0,
            },
            cpus,
        );
        Ok(ModelTable {
            missing: Vec::new(),
            ..table
        })
    }

    fn features_lacking(&self, _table: &CpuidTable) -> Result<Vec<&'static str>, AccelError> {
        Ok(Vec::new())
    }

    fn tsc_khz(&self) -> u32 {
        0
    }

    fn attach_memory(&self, _memory: &AddressSpace, _io: &AddressSpace) -> Result<(), AccelError> {
        Ok(())
    }

    fn create_interrupt_controllers(&self, _platform: &PlatformObjects) -> Result<(), AccelError> {
        Ok(())
    }

    fn create_vcpu(&self, cpu: &Arc<Object>, _cpuid: &CpuidTable) -> Result<(), AccelError> {
        let wrong = |object: &Arc<Object>, wanted| AccelError::WrongType {
            path: object.path(),
            type_name: object.type_name().to_owned(),
            wanted,
        };
        let apic = cpu
            .child("apic")
            .ok_or(AccelError::WrongOrder("a vCPU has no local APIC"))?;
        let pair = (
            Obj::new(Arc::clone(cpu)).ok_or_else(|| wrong(cpu, "x86-cpu"))?,
            Obj::new(Arc::clone(&apic)).ok_or_else(|| wrong(&apic, "apic-common"))?,
        );
        self.cpus.lock().push(pair);
        Ok(())
    }

    fn irq_sink(&self) -> Arc<dyn IrqSink> {
        Arc::new(NoController)
    }

    fn reset(&self, boot: &BootRegs) -> Result<(), AccelError> {
        for (number, (cpu, apic)) in self.cpus.lock().iter().enumerate() {
            let first = number == 0;
            *cpu.state().lock() = if first {
                CpuState::direct_boot(boot.entry, boot.start_info)
            } else {
                CpuState::reset(false)
            };
            *apic.state().lock() = ApicState::reset(cpu.apic_id(), first);
        }
        Ok(())
    }

    fn pause(&self) -> Result<(), AccelError> {
        self.stand_in.set(Phase::Paused);
        Ok(())
    }

    fn resume(&self, _policy: TimePolicy) -> Result<(), AccelError> {
        self.stand_in.set(Phase::Running);
        Ok(())
    }

    fn push(&self) -> Result<(), AccelError> {
        Ok(())
    }

    fn readback_compare(&self) -> Result<Vec<Difference>, AccelError> {
        Ok(Vec::new())
    }

    fn shutdown(&self) {
        self.stand_in.set(Phase::Ended);
    }
}
