//! The accelerator without processors: tests drive a device tree under it, and move one.
//!
//! Its interrupt controllers and timers hold register values and do nothing; its processors have registers and never run.
//! State is in the objects alone, so there is nothing to read at a pause and nothing to write after a load. Only the
//! VMM's own threads write the guest's memory, and they mark what they write, so there is no dirty log either.

use std::sync::Arc;

use hw::core::{AccelTypes, IrqSink};
use hw::i386::cpu::X86Cpu;
use hw::i386::cpu_model::{CpuModel, HostCpu, ModelTable};
use hw::i386::cpu_state::CpuState;
use hw::i386::cpuid::CpuidTable;
use hw::intc::apic::{Apic, ApicState};
use hw::memory::AddressSpace;
use hw::timer::clock::TimePolicy;
use parking_lot::Mutex;
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

/// The accelerator as users see it in the tree.
#[derive(Object)]
#[object(name = "qtest-accel", parent = "accel", stateless)]
pub struct QtestAccel {}

/// Makes a VM without processors.
pub(super) fn create(types: &Arc<TypeTable>, _events: Arc<dyn VcpuEvents>) -> Result<CreatedAccel, AccelError> {
    Ok(CreatedAccel {
        object: types.new_object("qtest-accel")?,
        accelerator: Arc::new(Qtest::default()),
    })
}

/// Interrupt lines with nobody behind them.
struct NoController;

impl IrqSink for NoController {
    fn set_level(&self, _input: u32, _level: bool) {}
}

/// A VM without processors.
#[derive(Default)]
struct Qtest {
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
        Ok(())
    }

    fn resume(&self, _policy: TimePolicy) -> Result<(), AccelError> {
        Ok(())
    }

    fn push(&self) -> Result<(), AccelError> {
        Ok(())
    }

    fn readback_compare(&self) -> Result<Vec<Difference>, AccelError> {
        Ok(Vec::new())
    }

    fn shutdown(&self) {}
}
