//! The accelerator without processors: tests drive a device tree under it, and move one.
//!
//! Its interrupt controllers and timers hold register values and do nothing; its processors have registers and never
//! run. State is in the objects alone, so there is nothing to read at a pause and nothing to write after a load. What a
//! guest would do, threads of the test do ([`QtestAccel::execute`]); they write memory through the address spaces, which
//! mark what they write, so there is no dirty log either.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hw::core::{AccelTypes, Doorbells, IrqSink, Timers};
use hw::i386::boot_entry::BootEntry;
use hw::i386::cpu::X86Cpu;
use hw::i386::cpu_feature::CPU_FEATURES;
use hw::i386::cpu_model::HostCpu;
use hw::i386::cpu_state::CpuState;
use hw::i386::cpuid::{CpuidTable, LEAF_EXTENDED};
use hw::i386::msr::MsrState;
use hw::intc::apic::{Apic, ApicState};
use hw::intc::i8259::{I8259, I8259State};
use hw::intc::ioapic::{Ioapic, IoapicState};
use hw::memory::AddressSpace;
use hw::timer::clock::{GuestClock, TimePolicy, TscPolicy};
use hw::timer::i8254::{I8254, I8254State};
use parking_lot::{Condvar, Mutex};
use vmstate::qom::{Obj, Object, TypeTable};

use super::{AccelError, Accelerator, CreatedAccel, Difference, PlatformObjects, VcpuEvents, part};

/// The subclasses under qtest.
pub const TYPES: AccelTypes = AccelTypes {
    cpu: "qtest-x86-cpu",
    apic: "qtest-apic",
    ioapic: "qtest-ioapic",
    i8259: "qtest-i8259",
    i8254: "qtest-i8254",
    clock: "qtest-guest-clock",
};

/// A vCPU that never runs.
#[derive(Object)]
#[object(name = "qtest-x86-cpu", parent = X86Cpu, stateless)]
pub struct QtestCpu {}

/// A local APIC that delivers nothing.
#[derive(Object)]
#[object(name = "qtest-apic", parent = Apic, stateless)]
pub struct QtestApic {}

/// An I/O APIC that delivers nothing.
#[derive(Object)]
#[object(name = "qtest-ioapic", parent = Ioapic, stateless)]
pub struct QtestIoapic {}

/// An 8259 pair that delivers nothing.
#[derive(Object)]
#[object(name = "qtest-i8259", parent = "i8259-common", stateless)]
pub struct QtestI8259 {}

/// An 8254 that does not count.
#[derive(Object)]
#[object(name = "qtest-i8254", parent = "i8254-common", stateless)]
pub struct QtestI8254 {}

/// Guest time that stands still.
#[derive(Object)]
#[object(name = "qtest-guest-clock", parent = GuestClock, stateless)]
pub struct QtestClock {}

/// The accelerator as users see it in the tree, and as tests drive the machine, at `/machine/accel`.
#[derive(Object)]
#[object(name = "qtest-accel", parent = super::AccelObject, stateless)]
pub struct QtestAccel {
    #[runtime(reason = "the accelerator of this host")]
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

    /// Has so much virtual time pass, with all that the timers of devices do in it, each at its instant, and returns what the
    /// clock shows then. Does nothing while the VM stands still, as its clock does.
    #[must_use]
    pub fn step_clock(&self, by: Duration) -> Duration {
        let timers = &self.stand_in.timers;
        timers.step(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX), |_| ());
        Duration::from_nanos(timers.now())
    }

    /// The level to which a device drives an input of the interrupt controllers.
    #[must_use]
    pub fn line(&self, input: u32) -> bool {
        bit(input).is_some_and(|bit| *self.stand_in.lines.lock() & bit != 0)
    }

    /// Whether an input has had a rising edge since this was last asked.
    #[must_use]
    pub fn had_edge(&self, input: u32) -> bool {
        let Some(bit) = bit(input) else { return false };
        let mut edges = self.stand_in.edges.lock();
        let had = *edges & bit != 0;
        *edges &= !bit;
        had
    }
}

/// A bit per input, as long as there are so many.
fn bit(input: u32) -> Option<u64> {
    1u64.checked_shl(input)
}

/// What stands in for processors and interrupt controllers.
pub struct StandIn {
    phase: Mutex<Phase>,
    changed: Condvar,
    /// The levels of the interrupt lines, a bit per input.
    lines: Mutex<u64>,
    /// The inputs that have had a rising edge, a bit each.
    edges: Mutex<u64>,
    /// Nobody runs, so that time passes as the driver says.
    timers: Arc<Timers>,
}

impl Default for StandIn {
    fn default() -> Self {
        Self {
            phase: Mutex::default(),
            changed: Condvar::new(),
            lines: Mutex::default(),
            edges: Mutex::default(),
            timers: Arc::new(Timers::stepped()),
        }
    }
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

impl IrqSink for StandIn {
    fn set_level(&self, input: u32, level: bool) {
        let Some(bit) = bit(input) else { return };
        let mut lines = self.lines.lock();
        if level && *lines & bit == 0 {
            *self.edges.lock() |= bit;
        }
        *lines = if level { *lines | bit } else { *lines & !bit };
    }
}

/// Makes a VM without processors. They have nothing to report.
pub(super) fn create(types: &Arc<TypeTable>, _: Arc<dyn VcpuEvents>) -> Result<CreatedAccel, AccelError> {
    let accel: Obj<QtestAccel> = Obj::create(types)?;
    let qtest = Qtest {
        stand_in: Arc::clone(&accel.stand_in),
        cpus: Mutex::default(),
        platform: OnceLock::new(),
        doorbells: Arc::default(),
    };
    Ok(CreatedAccel {
        object: Arc::clone(accel.object()),
        accelerator: Arc::new(qtest),
    })
}

/// A VM without processors.
struct Qtest {
    stand_in: Arc<StandIn>,
    cpus: Mutex<Vec<(Obj<X86Cpu>, Obj<Apic>)>>,
    platform: OnceLock<Platform>,
    doorbells: Arc<Doorbells>,
}

struct Platform {
    ioapic: Obj<Ioapic>,
    pic: Obj<I8259>,
    pit: Obj<I8254>,
}

/// As wide as the architecture has them: 57 bits of linear addresses, 52 of physical ones.
const WIDEST_ADDRESSES: u32 = 57 << 8 | 52;

/// A host that has everything.
fn supported() -> &'static CpuidTable {
    static SUPPORTED: OnceLock<CpuidTable> = OnceLock::new();
    SUPPORTED.get_or_init(|| {
        let mut table = CpuidTable::default();
        CPU_FEATURES.iter().for_each(|feature| table.give(feature));
        table.entry_mut(LEAF_EXTENDED + 8, 0).eax = WIDEST_ADDRESSES;
        table
    })
}

impl Accelerator for Qtest {
    fn name(&self) -> &'static str {
        "qtest"
    }

    fn types(&self) -> AccelTypes {
        TYPES
    }

    fn host_cpu(&self) -> Result<HostCpu<'static>, AccelError> {
        Ok(HostCpu {
            supported: supported(),
            tsc_khz: 0,
        })
    }

    fn tsc_khz(&self) -> u32 {
        0
    }

    fn tsc_scales(&self) -> bool {
        false
    }

    fn set_tsc_policy(&self, _: TscPolicy) {}

    fn attach_memory(&self, _: &AddressSpace, _: &AddressSpace) -> Result<(), AccelError> {
        Ok(())
    }

    fn create_interrupt_controllers(&self, platform: &PlatformObjects) -> Result<(), AccelError> {
        let platform = Platform {
            ioapic: part(&platform.ioapic, TYPES.ioapic)?,
            pic: part(&platform.pic, TYPES.i8259)?,
            pit: part(&platform.pit, TYPES.i8254)?,
        };
        self.platform
            .set(platform)
            .map_err(|_| AccelError::WrongOrder("interrupt controllers are made once"))
    }

    fn create_vcpu(&self, cpu: &Arc<Object>, _: &CpuidTable) -> Result<(), AccelError> {
        let apic = cpu
            .child("apic")
            .ok_or(AccelError::WrongOrder("a vCPU's object has its APIC's as a child"))?;
        let pair = (part(cpu, TYPES.cpu)?, part(&apic, TYPES.apic)?);
        self.cpus.lock().push(pair);
        Ok(())
    }

    fn vcpu_threads(&self) -> Vec<(u32, u32)> {
        Vec::new()
    }

    fn irq_sink(&self) -> Arc<dyn IrqSink> {
        Arc::clone(&self.stand_in) as _
    }

    fn doorbells(&self) -> &Arc<Doorbells> {
        &self.doorbells
    }

    fn timers(&self) -> &Arc<Timers> {
        &self.stand_in.timers
    }

    fn reset(&self, boot: &BootEntry) -> Result<(), AccelError> {
        let platform = self
            .platform
            .get()
            .ok_or(AccelError::WrongOrder("interrupt controllers are made before a reset"))?;
        for (index, (cpu, apic)) in self.cpus.lock().iter().enumerate() {
            let bootstrap = index == 0;
            let mut state = cpu.state().lock();
            let msrs = MsrState::reset(&state.msrs);
            *state = if bootstrap {
                boot.cpu_state()
            } else {
                CpuState::reset(false)
            };
            state.msrs = msrs;
            *apic.state().lock() = ApicState::reset(cpu.apic_id(), bootstrap);
        }
        let Platform { ioapic, pic, pit } = platform;
        *ioapic.state().lock() = IoapicState::default();
        *pic.state().lock() = I8259State::default();
        *pit.state().lock() = I8254State::default();
        Ok(())
    }

    fn refresh(&self, _: &Object) -> Result<(), AccelError> {
        // The objects are all that there is.
        Ok(())
    }

    fn pause(&self) -> Result<(), AccelError> {
        self.stand_in.set(Phase::Paused);
        self.stand_in.timers.stop();
        self.doorbells
            .quiesce()
            .map_err(|error| AccelError::NotQuiet(error.to_string()))
    }

    fn resume(&self, _: TimePolicy) -> Result<(), AccelError> {
        self.doorbells.go_live();
        self.stand_in.timers.start();
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
        self.stand_in.timers.end();
        self.doorbells.end();
    }
}

#[cfg(test)]
mod tests {
    use super::super::{VcpuEvent, create};
    use super::*;
    use crate::test_support::NoRequests;
    use hw::core::{RealizeCtx, TestDev, Wiring, realize_device, testdev_register as register};
    use hw::i386::cpu_model::{CPU_MODELS, CpuSpec};
    use hw::i386::cpu_state::MpState;
    use hw::i386::microvm::{Board, BoardSpec, MICROVM_1_0};
    use hw::memory::{Backing, RamBlock};
    use vmstate::qom::{PropertyDefaults, PropertyValue};

    struct Deaf;

    impl VcpuEvents for Deaf {
        fn vcpu_event(&self, _: u32, _: VcpuEvent) {}
    }

    fn machine() -> (Board, CreatedAccel) {
        machine_with(&[])
    }

    /// A machine of which a user asks this.
    fn machine_with(globals: &[&str]) -> (Board, CreatedAccel) {
        let types = TypeTable::gathered().expect("the types fit together");
        let created = create("qtest", &types, Arc::new(Deaf)).expect("needs nothing of the host");
        let accel = &created.accelerator;
        let ram = RamBlock::new("ram", 4 << 20, Backing::PrivateAnonymous).expect("4 MiB");
        let spec = BoardSpec {
            machine: MICROVM_1_0.to_owned(),
            cpus: vec![0, 1],
            ram,
            types: accel.types(),
            defaults: PropertyDefaults::default()
                .with_user(globals.iter().map(|global| global.parse().expect("well-formed"))),
        };
        let board = Board::build(&types, &spec).expect("a board");
        let chip = |name| board.machine().child(name).expect("on the board");
        let platform = PlatformObjects {
            ioapic: chip("ioapic"),
            pic: chip("pic"),
            pit: chip("pit"),
            clock: chip("clock"),
        };
        accel
            .attach_memory(board.memory(), board.io())
            .expect("nothing to attach");
        accel.create_interrupt_controllers(&platform).expect("inert ones");
        for cpu in board.cpus() {
            accel.create_vcpu(cpu, &CpuidTable::default()).expect("inert ones");
        }
        (board, created)
    }

    #[test]
    fn a_board_whose_device_cannot_be_realized_takes_those_before_it_off_again() {
        // Its ports would lie over those of the real-time clock.
        let (board, created) = machine_with(&["serial16550.iobase=0x6c"]);
        let wiring = Wiring {
            interrupts: created.accelerator.irq_sink(),
            events: Arc::new(NoRequests),
            doorbells: Arc::clone(created.accelerator.doorbells()),
            timers: Arc::clone(created.accelerator.timers()),
        };
        let realize = || board.realize(&wiring);
        let error = realize().expect_err("there is no room").to_string();
        assert!(error.contains("/machine/serial0"), "{error}");
        for device in ["ioapic", "ged", "rtc", "serial0", "testexit"] {
            let device = board.machine().child(device).expect("on the board");
            assert_eq!(
                device.property("realized"),
                Ok(PropertyValue::Bool(false)),
                "{device:?}"
            );
        }
        let serial = board.serial().object();
        serial
            .set_property("iobase", 0x3f8)
            .expect("its configuration is open again");
        realize().expect("nothing is left in the way");
    }

    #[test]
    fn registers_are_held_and_go_back_at_a_reset() {
        let (board, created) = machine();
        let cpu: Obj<X86Cpu> = Obj::new(Arc::clone(&board.cpus()[1])).expect("a vCPU");
        let ioapic: Obj<Ioapic> = Obj::new(board.machine().child("ioapic").expect("there")).expect("an I/O APIC");
        cpu.state().lock().general.rax = 7;
        ioapic.state().lock().redirection[4] = 0x34;
        created.accelerator.pause().expect("nothing runs");
        created.accelerator.push().expect("nothing to write");
        assert_eq!(
            (cpu.state().lock().general.rax, ioapic.state().lock().redirection[4]),
            (7, 0x34)
        );
        created
            .accelerator
            .reset(&BootEntry::Pvh {
                entry: 0x10_0000,
                start_info: 0x6000,
            })
            .expect("resets");
        let state = cpu.state().lock().clone();
        assert_eq!((state.general.rax, state.mp_state), (0, MpState::Uninitialized));
        assert_eq!(*ioapic.state().lock(), IoapicState::default());
    }

    #[test]
    fn tests_see_the_levels_of_interrupt_lines() {
        let (_board, created) = machine();
        let accel: Obj<QtestAccel> = Obj::new(created.object).expect("its object");
        created.accelerator.irq_sink().set_level(4, true);
        assert!(accel.line(4) && !accel.line(3));
        created.accelerator.irq_sink().set_level(4, false);
        assert!(!accel.line(4));
        created.accelerator.irq_sink().set_level(1000, true);
    }

    #[test]
    fn a_doorbell_is_rung_by_dispatch_and_served_before_a_pause_ends() {
        let (board, created) = machine();
        let device: Obj<TestDev> = Obj::create(&TypeTable::gathered().expect("sound types")).expect("a device");
        board
            .machine()
            .add_child("testdev", Arc::clone(device.object()))
            .expect("free");
        let accelerator = &created.accelerator;
        let mut cx = RealizeCtx::new(board.memory(), board.io(), accelerator.irq_sink(), Arc::new(NoRequests))
            .with_doorbells(accelerator.doorbells())
            .with_timers(accelerator.timers());
        realize_device(device.object(), &mut cx).expect("realizes");
        let accel: Obj<QtestAccel> = Obj::new(Arc::clone(&created.object)).expect("its object");
        let store = |offset: u64, value: u32| {
            let write = || board.memory().write(0xd100_0000 + offset, &value.to_le_bytes());
            accel.execute(write).expect("runs").expect("somebody is there");
        };
        accelerator.resume(TimePolicy::default()).expect("runs");
        store(register::INTERRUPTS, 1);
        store(register::DOORBELL, 7);
        store(register::MATCHING_DOORBELL, register::MATCH);
        store(register::MATCHING_DOORBELL, 9);
        accelerator.pause().expect("pauses");
        let state = device.state().lock().clone();
        assert_eq!((state.rung, state.last), (2, 9));
        assert!(accel.had_edge(5) && !accel.had_edge(5) && !accel.line(5));
    }

    #[test]
    fn every_model_can_be_had() {
        let (_board, created) = machine();
        let host = created.accelerator.host_cpu().expect("it tells");
        for model in CPU_MODELS {
            let spec: CpuSpec = model.name.parse().expect("a model");
            assert!(spec.table(&host, 2).missing.is_empty(), "{spec}");
        }
    }
}
