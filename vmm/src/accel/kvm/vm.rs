//! The accelerator: a VM of KVM's with everything in it.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use hw::core::{AccelTypes, Doorbells, IrqSink, Timers};
use hw::i386::boot_entry::BootEntry;
use hw::i386::cpu::X86Cpu;
use hw::i386::cpu_model::HostCpu;
use hw::i386::cpu_state::CpuState;
use hw::i386::cpuid::{CpuidTable, LEAF_FEATURES, has_subleaves};
use hw::i386::msr::{self, MsrState};
use hw::i386::xsave::components_of;
use hw::intc::apic::{Apic, ApicState};
use hw::memory::AddressSpace;
use hw::timer::clock::{TimePolicy, TscPolicy};
use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_PIT_SPEAKER_DUMMY, kvm_cpuid_entry2, kvm_pit_config};
use parking_lot::{Mutex, MutexGuard};
use vmstate::qom::{Obj, Object};

use super::super::{AccelError, Accelerator, Difference, PlatformObjects, VcpuEvents, part};
use super::compare::Comparison;
use super::doorbells::{DoorbellBus, KvmDoorbells};
use super::exit::Bus;
use super::ioctl::{self, GuestVm, VcpuHandle};
use super::lines::Lines;
use super::listener::KvmMemory;
use super::state::{self, HeldCpu, HeldState, KvmCpu, Platform, SyncContext};
use super::system::KvmSystem;
use super::vcpu::{PAUSE_DEADLINE, Vcpu};
use super::{TYPES, clock, cpu, refused, system};

/// Where KVM keeps the page tables that real mode needs on older Intel processors; no machine has RAM there.
const IDENTITY_MAP: u64 = 0xfeff_c000;
/// Three pages for the task-state segment that real mode needs there.
const TSS: usize = 0xfeff_d000;

/// A VM under KVM.
pub struct KvmVm {
    system: KvmSystem,
    vm: Arc<GuestVm>,
    memory: Arc<KvmMemory>,
    lines: Arc<Lines>,
    doorbells: Arc<Doorbells>,
    timers: Arc<Timers>,
    /// Those that KVM signals, in memory and in ports.
    kvm_doorbells: [Arc<KvmDoorbells>; 2],
    events: Arc<dyn VcpuEvents>,
    bus: OnceLock<Bus>,
    platform: OnceLock<Platform>,
    xsave_size: OnceLock<usize>,
    machine: Mutex<Machine>,
}

/// What changes in the life of a VM. Its lock is held through each operation, so that there is one at a time.
struct Machine {
    phase: Phase,
    /// In order of APIC ids.
    cpus: Vec<Arc<KvmCpu>>,
    tsc: TscPolicy,
}

/// Where the state of the guest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// In KVM only: the guest has not run yet, and its clocks begin when it does.
    Fresh,
    /// In KVM only, and the guest runs.
    Running,
    /// In KVM only: the guest is paused, and its state could not be read.
    Unread,
    /// In KVM and in the objects; what depends on time is put right before the guest goes on.
    Paused,
    /// Nowhere: the VM has ended.
    Ended,
}

impl KvmVm {
    /// A VM without memory, chips or vCPUs.
    pub(super) fn new(events: Arc<dyn VcpuEvents>) -> Result<Self, AccelError> {
        let system = KvmSystem::open()?;
        let vm = Arc::new(GuestVm::new(system.create_vm()?));
        let memory = KvmMemory::new(Arc::clone(&vm)).map_err(|error| refused("a log of dirty pages", error))?;
        Ok(Self {
            system,
            memory: Arc::new(memory),
            lines: Arc::new(Lines::new(Arc::clone(&vm))),
            doorbells: Arc::default(),
            timers: Arc::default(),
            kvm_doorbells: [DoorbellBus::Memory, DoorbellBus::Ports]
                .map(|bus| Arc::new(KvmDoorbells::new(Arc::clone(&vm), bus))),
            vm,
            events,
            bus: OnceLock::new(),
            platform: OnceLock::new(),
            xsave_size: OnceLock::new(),
            machine: Mutex::new(Machine {
                phase: Phase::Fresh,
                cpus: Vec::new(),
                tsc: TscPolicy::default(),
            }),
        })
    }

    /// KVM's VM, for tests that switch something on that Tern does not.
    #[cfg(test)]
    pub(super) fn guest_vm(&self) -> &GuestVm {
        &self.vm
    }

    /// How often the first vCPU was left for something that Tern has to serve.
    #[cfg(test)]
    pub(crate) fn exits(&self) -> u64 {
        self.machine.lock().cpus.first().expect("a vCPU").vcpu.exits()
    }

    /// Sets a register of the first vCPU behind the back of everything, for tests; false where KVM refuses.
    #[cfg(test)]
    pub(super) fn set_msr(&self, index: u32, value: u64) -> bool {
        let machine = self.machine.lock();
        let first = machine.cpus.first().expect("a vCPU");
        super::msr::set(first.vcpu.handle().fd(), index, value)
    }

    /// The machine, if there still is one.
    fn live(&self) -> Result<MutexGuard<'_, Machine>, AccelError> {
        let machine = self.machine.lock();
        match machine.phase {
            Phase::Ended => Err(AccelError::WrongOrder("the VM has ended")),
            _ => Ok(machine),
        }
    }

    /// The machine, if no vCPU runs.
    fn still(&self) -> Result<MutexGuard<'_, Machine>, AccelError> {
        let machine = self.live()?;
        match machine.phase {
            Phase::Running => Err(AccelError::WrongOrder(
                "state is read and written while the guest is paused",
            )),
            _ => Ok(machine),
        }
    }

    fn context<'a>(&'a self, machine: &'a Machine) -> Result<SyncContext<'a>, AccelError> {
        let platform = self.platform.get().ok_or(AccelError::WrongOrder(
            "interrupt controllers are made before state is moved",
        ))?;
        Ok(SyncContext {
            vm: &self.vm,
            cpus: &machine.cpus,
            platform,
            xsave: self.system.xsave_layout()?,
            xsave_size: *self.xsave_size.get_or_init(|| ioctl::xsave_size(self.vm.fd())),
            tsc: machine.tsc,
        })
    }

    fn pull(&self, machine: &mut Machine) -> Result<(), AccelError> {
        let cx = self.context(machine)?;
        super::msr::check_undescribed(&cx)?;
        let held = state::read(&cx)?;
        state::into_objects(&cx, held, |_| true);
        machine.phase = Phase::Paused;
        Ok(())
    }

    /// Takes the vCPUs out of the guest.
    fn stop(&self, machine: &mut Machine) -> Result<(), AccelError> {
        // All are asked before any is waited for: they leave at once, and not one after the other.
        // Handlers of timers may ring doorbells and raise interrupts, so these come first.
        self.timers.stop();
        machine.cpus.iter().for_each(|cpu| cpu.vcpu.ask_to_pause());
        let deadline = Instant::now() + PAUSE_DEADLINE;
        let stuck = |cpu: &&Arc<KvmCpu>| cpu.vcpu.wait_until_parked(deadline).is_err();
        if let Some(stuck) = machine.cpus.iter().find(stuck) {
            // The others must not stand still in a guest that runs.
            machine.cpus.iter().try_for_each(|cpu| {
                let resumed = cpu.vcpu.resume();
                resumed.map_err(|error| cpu::refused(cpu, "a thread", error))
            })?;
            self.timers.start();
            return Err(is_stuck(&stuck.vcpu));
        }
        machine.phase = Phase::Unread;
        // Those that serve a doorbell may raise interrupts, so these come second.
        let quiet = self.doorbells.quiesce();
        self.lines.hold();
        quiet.map_err(|error| AccelError::NotQuiet(error.to_string()))
    }

    /// Has the vCPUs enter the guest.
    fn start(&self, machine: &mut Machine) -> Result<(), AccelError> {
        for doorbells in &self.kvm_doorbells {
            doorbells
                .arm()
                .map_err(|error| refused("the devices' doorbells", io::Error::other(error)))?;
        }
        self.lines
            .go_live()
            .map_err(|error| refused("the devices' interrupts", error))?;
        self.doorbells.go_live();
        for cpu in &machine.cpus {
            if let Err(error) = cpu.vcpu.resume() {
                let error = cpu::refused(cpu, "a thread", error);
                self.stop(machine)?;
                return Err(error);
            }
        }
        self.timers.start();
        machine.phase = Phase::Running;
        Ok(())
    }
}

impl Accelerator for KvmVm {
    fn name(&self) -> &'static str {
        "kvm"
    }

    fn types(&self) -> AccelTypes {
        TYPES
    }

    fn host_cpu(&self) -> Result<HostCpu<'static>, AccelError> {
        Ok(HostCpu {
            supported: self.system.supported()?,
            tsc_khz: self.tsc_khz(),
        })
    }

    fn tsc_khz(&self) -> u32 {
        ioctl::get_vm_tsc_khz(self.vm.fd()).unwrap_or(0)
    }

    fn tsc_scales(&self) -> bool {
        clock::scales(&self.vm)
    }

    fn set_tsc_policy(&self, policy: TscPolicy) {
        self.machine.lock().tsc = policy;
    }

    fn attach_memory(&self, memory: &AddressSpace, io: &AddressSpace) -> Result<(), AccelError> {
        let bus = Bus {
            memory: memory.clone(),
            io: io.clone(),
        };
        self.bus
            .set(bus)
            .map_err(|_| AccelError::WrongOrder("memory is attached once"))?;
        self.vm
            .fd()
            .set_identity_map_address(IDENTITY_MAP)
            .map_err(|error| refused("the identity map", error))?;
        self.vm
            .fd()
            .set_tss_address(TSS)
            .map_err(|error| refused("the task-state segment", error))?;
        memory
            .add_listener(Arc::clone(&self.memory) as _)
            .map_err(|error| refused("the guest's memory", io::Error::other(error)))?;
        for (space, doorbells) in [memory, io].into_iter().zip(&self.kvm_doorbells) {
            space
                .add_listener(Arc::clone(doorbells) as _)
                .map_err(|error| refused("the devices' doorbells", io::Error::other(error)))?;
        }
        Ok(())
    }

    fn create_interrupt_controllers(&self, platform: &PlatformObjects) -> Result<(), AccelError> {
        if self.bus.get().is_none() {
            return Err(AccelError::WrongOrder(
                "memory is attached before interrupt controllers are made",
            ));
        }
        let platform = Platform {
            ioapic: part(&platform.ioapic, TYPES.ioapic)?,
            pic: part(&platform.pic, TYPES.i8259)?,
            pit: part(&platform.pit, TYPES.i8254)?,
            clock: part(&platform.clock, TYPES.clock)?,
        };
        self.platform
            .set(platform)
            .map_err(|_| AccelError::WrongOrder("interrupt controllers are made once"))?;
        self.vm
            .fd()
            .create_irq_chip()
            .map_err(|error| refused("interrupt controllers", error))?;
        // Guests measure other clocks by the timer's third channel, whose gate is in the speaker's port.
        let pit = kvm_pit_config {
            flags: KVM_PIT_SPEAKER_DUMMY,
            ..Default::default()
        };
        self.vm
            .fd()
            .create_pit2(pit)
            .map_err(|error| refused("an interval timer", error))
    }

    fn create_vcpu(&self, object: &Arc<Object>, cpuid: &CpuidTable) -> Result<(), AccelError> {
        let bus = match (self.bus.get(), self.platform.get()) {
            (Some(bus), Some(_)) => bus.clone(),
            _ => return Err(AccelError::WrongOrder("interrupt controllers are made before vCPUs")),
        };
        let mut machine = self.still()?;
        let cpu: Obj<X86Cpu> = part(object, TYPES.cpu)?;
        let apic = object
            .child("apic")
            .ok_or(AccelError::WrongOrder("a vCPU's object has its APIC's as a child"))?;
        let apic: Obj<Apic> = part(&apic, TYPES.apic)?;
        let apic_id = cpu.apic_id();
        let about = |what: &str| format!("{what} {apic_id}");
        let handle = VcpuHandle::create(&self.vm, apic_id).map_err(|error| refused(about("vCPU"), error))?;
        let cpuid = cpuid.for_vcpu(apic_id);
        handle
            .fd()
            .set_cpuid2(&entries(&cpuid)?)
            .map_err(|error| refused(about("the CPUID table of vCPU"), error))?;
        system::enforce_paravirtual(&handle)
            .map_err(|error| refused(about("to keep to the paravirtual features of vCPU"), error))?;
        let vcpu = Vcpu::start(apic_id, handle, bus, Arc::clone(&self.events))
            .map_err(|error| refused(about("a thread for vCPU"), error))?;
        let new = KvmCpu {
            vcpu,
            cpu,
            apic,
            msrs: msr::rows_for(&cpuid).collect(),
            components: components_of(&cpuid),
            cpuid,
        };
        let at = machine.cpus.partition_point(|other| other.vcpu.apic_id() < apic_id);
        machine.cpus.insert(at, Arc::new(new));
        Ok(())
    }

    fn vcpu_threads(&self) -> Vec<(u32, u32)> {
        let machine = self.machine.lock();
        let threads = machine
            .cpus
            .iter()
            .map(|cpu| (cpu.vcpu.apic_id(), cpu.vcpu.thread_id()));
        threads.collect()
    }

    fn irq_sink(&self) -> Arc<dyn IrqSink> {
        Arc::clone(&self.lines) as _
    }

    fn doorbells(&self) -> &Arc<Doorbells> {
        &self.doorbells
    }

    fn timers(&self) -> &Arc<Timers> {
        &self.timers
    }

    fn reset(&self, boot: &BootEntry) -> Result<(), AccelError> {
        let mut machine = self.still()?;
        let cx = self.context(&machine)?;
        let cpus = machine.cpus.iter().enumerate().map(|(index, cpu)| {
            let bootstrap = index == 0;
            let mut held = HeldCpu {
                cpu: if bootstrap {
                    boot.cpu_state()
                } else {
                    CpuState::reset(false)
                },
                apic: ApicState::reset(cpu.vcpu.apic_id(), bootstrap),
            };
            held.cpu.msrs = MsrState::reset(&cpu.cpu.state().lock().msrs);
            held.cpu.general.rdx = cpu.cpuid.get(LEAF_FEATURES, 0).map_or(0, |entry| entry.eax.into());
            held
        });
        // Clocks run through a reset, as they do on a machine.
        let clock = cx.platform.clock.state().lock().clone();
        let held = HeldState {
            cpus: cpus.collect(),
            clock,
            ..HeldState::default()
        };
        if machine.phase == Phase::Fresh {
            // What KVM has just made is in its state after reset, but for where the kernel begins and for what differs
            // between versions of KVM.
            for (cpu, held) in cx.each(&held) {
                cpu::set_system(cpu, &held.cpu.system)?;
                cpu::set_general(cpu, &held.cpu.general)?;
                super::msr::set(cpu.vcpu.handle().fd(), msr::MISC_ENABLE, held.cpu.msrs.misc_enable);
            }
            return Ok(());
        }
        state::write(&cx, &held)?;
        self.lines.forget();
        state::into_objects(&cx, held, |_| true);
        machine.phase = Phase::Paused;
        Ok(())
    }

    fn pause(&self) -> Result<(), AccelError> {
        let mut machine = self.live()?;
        match machine.phase {
            Phase::Paused | Phase::Ended => return Ok(()),
            Phase::Running => self.stop(&mut machine)?,
            Phase::Fresh | Phase::Unread => {}
        }
        self.pull(&mut machine)
    }

    fn resume(&self, policy: TimePolicy) -> Result<(), AccelError> {
        let mut machine = self.live()?;
        match machine.phase {
            Phase::Running => return Ok(()),
            Phase::Paused => {
                let cx = self.context(&machine)?;
                let mut held = state::from_objects(&cx);
                held.clock = held.clock.at_resume(policy, clock::realtime_ns());
                state::resume(&cx, &held)?;
            }
            Phase::Fresh | Phase::Unread | Phase::Ended => {}
        }
        self.start(&mut machine)
    }

    fn push(&self) -> Result<(), AccelError> {
        let mut machine = self.still()?;
        let cx = self.context(&machine)?;
        state::write(&cx, &state::from_objects(&cx))?;
        self.lines.forget();
        machine.phase = Phase::Paused;
        Ok(())
    }

    fn refresh(&self, object: &Object) -> Result<(), AccelError> {
        let machine = self.machine.lock();
        if matches!(machine.phase, Phase::Paused | Phase::Ended) {
            return Ok(());
        }
        let cx = self.context(&machine)?;
        let is_it = |other: &Arc<Object>| std::ptr::eq(Arc::as_ptr(other), object);
        let of = |cpu: &Arc<KvmCpu>| is_it(cpu.cpu.object()) || is_it(cpu.apic.object());
        // Of the clocks of all vCPUs the record of guest time is made; the chips can be read while the guest runs.
        let cpus = match cx.cpus.iter().position(of) {
            Some(index) => &cx.cpus[index..=index],
            None if is_it(cx.platform.clock.object()) => cx.cpus,
            None => &[],
        };
        let cx = SyncContext { cpus, ..cx };
        let held = visiting(cpus, || state::read(&cx))?;
        state::into_objects(&cx, held, |other| std::ptr::eq(other, object));
        Ok(())
    }

    fn readback_compare(&self) -> Result<Vec<Difference>, AccelError> {
        let machine = self.still()?;
        let cx = self.context(&machine)?;
        let (loaded, read) = (state::from_objects(&cx), state::read(&cx)?);
        let mut comparison = Comparison::new(clock::heeds_offsets(&cx), machine.tsc);
        for (cpu, (loaded, read)) in cx.cpus.iter().zip(loaded.cpus.iter().zip(&read.cpus)) {
            comparison.object(&cpu.cpu.object().path(), &loaded.cpu, &read.cpu);
            comparison.object(&cpu.apic.object().path(), &loaded.apic, &read.apic);
        }
        let Platform {
            ioapic,
            pic,
            pit,
            clock,
        } = cx.platform;
        comparison.object(&ioapic.object().path(), &loaded.ioapic, &read.ioapic);
        comparison.object(&pic.object().path(), &loaded.pic, &read.pic);
        comparison.object(&pit.object().path(), &loaded.pit, &read.pit);
        comparison.object(&clock.object().path(), &loaded.clock, &read.clock);
        Ok(comparison.found())
    }

    fn shutdown(&self) {
        let mut machine = self.machine.lock();
        machine.phase = Phase::Ended;
        machine.cpus.iter().for_each(|cpu| cpu.vcpu.ask_to_pause());
        machine.cpus.iter().for_each(|cpu| cpu.vcpu.end());
        self.timers.end();
        self.doorbells.end();
        self.lines.hold();
    }
}

impl Drop for KvmVm {
    fn drop(&mut self) {
        // A thread holds its vCPU, and would run on.
        self.shutdown();
    }
}

/// Looks at vCPUs while all of them are out of the guest for it.
fn visiting<T>(cpus: &[Arc<KvmCpu>], look: impl FnOnce() -> Result<T, AccelError>) -> Result<T, AccelError> {
    // All are asked before any is waited for.
    cpus.iter().for_each(|cpu| cpu.vcpu.ask_to_stay());
    let deadline = Instant::now() + PAUSE_DEADLINE;
    let stuck = cpus.iter().find(|cpu| cpu.vcpu.wait_until_out(deadline).is_err());
    let seen = match stuck {
        None => look(),
        Some(cpu) => Err(is_stuck(&cpu.vcpu)),
    };
    cpus.iter().for_each(|cpu| cpu.vcpu.go_on());
    seen
}

fn is_stuck(vcpu: &Vcpu) -> AccelError {
    AccelError::Stuck {
        vcpu: vcpu.apic_id(),
        seconds: PAUSE_DEADLINE.as_secs(),
    }
}

/// A table as KVM takes it.
fn entries(table: &CpuidTable) -> Result<CpuId, AccelError> {
    let entries: Vec<_> = table
        .entries()
        .iter()
        .map(|entry| kvm_cpuid_entry2 {
            function: entry.leaf,
            index: entry.subleaf,
            flags: if has_subleaves(entry.leaf) {
                KVM_CPUID_FLAG_SIGNIFCANT_INDEX
            } else {
                0
            },
            eax: entry.eax,
            ebx: entry.ebx,
            ecx: entry.ecx,
            edx: entry.edx,
            ..Default::default()
        })
        .collect();
    CpuId::from_entries(&entries).map_err(|_| {
        refused(
            "a CPUID table of so many entries",
            io::Error::from_raw_os_error(libc::E2BIG),
        )
    })
}
