//! All state that KVM holds of a VM, and the order in which it is read and written.
//!
//! Reading goes into a [`HeldState`] and writing comes from one: the objects of the tree are filled from it once per
//! pause, and compared with it after a load.

use std::sync::Arc;

use hw::i386::cpu::X86Cpu;
use hw::i386::cpu_state::CpuState;
use hw::i386::cpuid::CpuidTable;
use hw::i386::msr::MsrRow;
use hw::i386::xsave::XsaveLayout;
use hw::intc::apic::{Apic, ApicState};
use hw::intc::i8259::{I8259, I8259State};
use hw::intc::ioapic::{Ioapic, IoapicState};
use hw::timer::clock::{ClockState, GuestClock, TscPolicy};
use hw::timer::i8254::{I8254, I8254State};
use parking_lot::Mutex;
use vmstate::qom::{Obj, Object, ObjectPart};

use super::super::AccelError;
use super::ioctl::GuestVm;
use super::vcpu::Vcpu;
use super::{apic, clock, cpu, cpu_events, i8254, i8259, ioapic, msr};

/// A vCPU with the objects that stand for it.
pub struct KvmCpu {
    /// The thread and KVM's side.
    pub vcpu: Arc<Vcpu>,
    /// The processor.
    pub cpu: Obj<X86Cpu>,
    /// Its local APIC.
    pub apic: Obj<Apic>,
    /// What CPUID answers.
    pub cpuid: CpuidTable,
    /// The model-specific registers that follow from that.
    pub msrs: Vec<&'static MsrRow>,
    /// The XSAVE components that follow from it.
    pub components: u64,
}

/// The objects that stand for the chips which a VM has once.
pub struct Platform {
    /// The I/O APIC.
    pub ioapic: Obj<Ioapic>,
    /// The 8259 pair.
    pub pic: Obj<I8259>,
    /// The 8254.
    pub pit: Obj<I8254>,
    /// Guest time.
    pub clock: Obj<GuestClock>,
}

/// What the rows of the table work on.
pub struct SyncContext<'a> {
    /// The VM.
    pub vm: &'a GuestVm,
    /// Its vCPUs in order of APIC ids, all of them out of the guest; a look at something else leaves them out of this.
    pub cpus: &'a [Arc<KvmCpu>],
    /// Its chips.
    pub platform: &'a Platform,
    /// Where this host keeps components of an XSAVE area.
    pub xsave: XsaveLayout,
    /// How long an XSAVE area is.
    pub xsave_size: usize,
    /// What becomes of a guest whose TSC cannot have its speed here.
    pub tsc: TscPolicy,
}

impl SyncContext<'_> {
    /// Each vCPU with its part of `state`.
    pub fn each<'s>(&self, state: &'s HeldState) -> impl Iterator<Item = (&KvmCpu, &'s HeldCpu)> {
        self.cpus.iter().map(Arc::as_ref).zip(&state.cpus)
    }

    /// Each vCPU with its part of `state`, to be filled.
    pub fn each_mut<'s>(&self, state: &'s mut HeldState) -> impl Iterator<Item = (&KvmCpu, &'s mut HeldCpu)> {
        self.cpus.iter().map(Arc::as_ref).zip(&mut state.cpus)
    }
}

/// What KVM holds of one vCPU.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeldCpu {
    /// The processor.
    pub cpu: CpuState,
    /// Its local APIC.
    pub apic: ApicState,
}

/// All that KVM holds of a VM.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeldState {
    /// Per vCPU, in order of APIC ids.
    pub cpus: Vec<HeldCpu>,
    /// The I/O APIC.
    pub ioapic: IoapicState,
    /// The 8259 pair.
    pub pic: I8259State,
    /// The 8254.
    pub pit: I8254State,
    /// Guest time.
    pub clock: ClockState,
}

type Read = fn(&SyncContext<'_>, &mut HeldState) -> Result<(), AccelError>;
type Write = fn(&SyncContext<'_>, &HeldState) -> Result<(), AccelError>;

/// A step of reading and writing.
pub struct SyncRow {
    /// What is moved.
    pub what: &'static str,
    /// Why it stands where it stands.
    pub reason: &'static str,
    read: Option<Read>,
    write: Option<Write>,
    /// Rewrites, before the guest goes on, what depends on time.
    resume: Option<Write>,
}

/// The order of writing. Reading goes through it from the end to the beginning.
///
/// CPUID is not here: it is set when a vCPU is made, before everything else, as it decides which bits of the others KVM
/// accepts.
pub const ORDER: &[SyncRow] = &[
    SyncRow {
        what: "system registers",
        reason: "they hold APIC_BASE, without which the local APIC cannot be written, and the mode that others are \
                 checked against",
        read: Some(cpu::read_system),
        write: Some(cpu::write_system),
        resume: None,
    },
    SyncRow {
        what: "general registers",
        reason: "writing them drops exceptions, so that they come before the events",
        read: Some(cpu::read_general),
        write: Some(cpu::write_general),
        resume: None,
    },
    SyncRow {
        what: "debug registers",
        reason: "anywhere after the mode is known",
        read: Some(cpu::read_debug),
        write: Some(cpu::write_debug),
        resume: None,
    },
    SyncRow {
        what: "XCR0",
        reason: "it says which components XSAVE has",
        read: Some(cpu::read_xcr0),
        write: Some(cpu::write_xcr0),
        resume: None,
    },
    SyncRow {
        what: "XSAVE components",
        reason: "after XCR0",
        read: Some(cpu::read_xsave),
        write: Some(cpu::write_xsave),
        resume: None,
    },
    SyncRow {
        what: "model-specific registers",
        reason: "after the guest's RAM, as those of KVM's clock write into it",
        read: Some(msr::read),
        write: Some(msr::write),
        resume: None,
    },
    SyncRow {
        what: "8259 pair",
        reason: "its output reaches the local APIC of the first vCPU, which is written later and overrides it; the timer \
                 ticks on while the guest stands still, so that all interrupt controllers are written again",
        read: Some(i8259::read),
        write: Some(i8259::write),
        resume: Some(i8259::write),
    },
    SyncRow {
        what: "I/O APIC",
        reason: "what it delivers when it is written reaches local APICs, which are written later and override it",
        read: Some(ioapic::read),
        write: Some(ioapic::write),
        resume: Some(ioapic::write),
    },
    SyncRow {
        what: "8254",
        reason: "it starts to count when it is written, so it is late; before the guest goes on it is written again, \
                 which also drops the ticks of the time between",
        read: Some(i8254::read),
        write: Some(i8254::write),
        resume: Some(i8254::write),
    },
    SyncRow {
        what: "kvmclock",
        reason: "it runs from the instant at which it is set, so it is late; before the guest goes on it is set again",
        read: Some(clock::read_kvmclock),
        write: Some(clock::write_kvmclock),
        resume: Some(clock::write_kvmclock),
    },
    SyncRow {
        what: "TSC",
        reason: "before the TSC deadline, which is an instant of it; runs on, so it is set again",
        read: Some(clock::read_tsc),
        write: Some(clock::write_tsc),
        resume: Some(clock::write_tsc),
    },
    SyncRow {
        what: "local APICs",
        reason: "after APIC_BASE; their timers start to count when they are written, and count on while the guest stands \
                 still, so that they are written again",
        read: Some(apic::read),
        write: Some(apic::write),
        resume: Some(apic::write),
    },
    SyncRow {
        what: "TSC deadlines",
        reason: "after the TSC, and after the local APIC, whose timer has to be in that mode",
        read: Some(apic::read_deadline),
        write: Some(apic::write_deadline),
        resume: Some(apic::write_deadline),
    },
    SyncRow {
        what: "events",
        reason: "late, because writing registers drops them; read before registers, as they say what those mean",
        read: Some(cpu_events::read),
        write: Some(cpu_events::write),
        resume: None,
    },
    SyncRow {
        what: "MP states",
        reason: "read first, because KVM then takes INIT and SIPI that wait, which changes registers; written last, so \
                 that nothing starts before it is whole",
        read: Some(cpu_events::read_mp_state),
        write: Some(cpu_events::write_mp_state),
        resume: None,
    },
    SyncRow {
        what: "notice of the pause",
        reason: "the very last thing before the guest goes on: its watchdogs must not take the pause for a hang",
        read: None,
        write: None,
        resume: Some(clock::notify_of_pause),
    },
];

/// Reads all that KVM holds.
pub fn read(cx: &SyncContext<'_>) -> Result<HeldState, AccelError> {
    let mut state = HeldState {
        cpus: vec![HeldCpu::default(); cx.cpus.len()],
        ..HeldState::default()
    };
    for read in ORDER.iter().rev().filter_map(|row| row.read) {
        read(cx, &mut state)?;
    }
    Ok(state)
}

/// Writes all that KVM is to hold.
pub fn write(cx: &SyncContext<'_>, state: &HeldState) -> Result<(), AccelError> {
    ORDER
        .iter()
        .filter_map(|row| row.write)
        .try_for_each(|write| write(cx, state))
}

/// Rewrites what depends on time, from `state` with the clocks as they are to go on.
pub fn resume(cx: &SyncContext<'_>, state: &HeldState) -> Result<(), AccelError> {
    ORDER
        .iter()
        .filter_map(|row| row.resume)
        .try_for_each(|resume| resume(cx, state))
}

/// Takes the state out of the objects.
pub fn from_objects(cx: &SyncContext<'_>) -> HeldState {
    let Platform {
        ioapic,
        pic,
        pit,
        clock,
    } = cx.platform;
    HeldState {
        cpus: cx
            .cpus
            .iter()
            .map(|cpu| HeldCpu {
                cpu: cpu.cpu.state().lock().clone(),
                apic: cpu.apic.state().lock().clone(),
            })
            .collect(),
        ioapic: ioapic.state().lock().clone(),
        pic: pic.state().lock().clone(),
        pit: pit.state().lock().clone(),
        clock: clock.state().lock().clone(),
    }
}

/// Puts the state into those of the objects that are wanted.
pub fn into_objects(cx: &SyncContext<'_>, state: HeldState, is_wanted: impl Fn(&Object) -> bool) {
    fn put<P: ObjectPart, S>(
        is_wanted: &impl Fn(&Object) -> bool,
        object: &Obj<P>,
        cell: fn(&P) -> &Mutex<S>,
        state: S,
    ) {
        if is_wanted(object.object()) {
            *cell(object).lock() = state;
        }
    }
    let HeldState {
        cpus,
        ioapic,
        pic,
        pit,
        clock,
    } = state;
    for (cpu, held) in cx.cpus.iter().zip(cpus) {
        put(&is_wanted, &cpu.cpu, X86Cpu::state, held.cpu);
        put(&is_wanted, &cpu.apic, Apic::state, held.apic);
    }
    put(&is_wanted, &cx.platform.ioapic, Ioapic::state, ioapic);
    put(&is_wanted, &cx.platform.pic, I8259::state, pic);
    put(&is_wanted, &cx.platform.pit, I8254::state, pit);
    put(&is_wanted, &cx.platform.clock, GuestClock::state, clock);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(what: &str) -> usize {
        ORDER
            .iter()
            .position(|row| row.what == what)
            .unwrap_or_else(|| panic!("no row for {what}"))
    }

    #[test]
    fn the_order_keeps_what_the_design_fixes() {
        for (before, after) in [
            ("system registers", "local APICs"),
            ("TSC", "TSC deadlines"),
            ("local APICs", "TSC deadlines"),
            ("XCR0", "XSAVE components"),
            ("general registers", "events"),
            ("I/O APIC", "local APICs"),
            ("8259 pair", "local APICs"),
        ] {
            assert!(place(before) < place(after), "{before} before {after}");
        }
        let written = ORDER.iter().rposition(|row| row.write.is_some());
        assert_eq!(written, Some(place("MP states")), "what is written last is read first");
        assert_eq!(place("notice of the pause"), ORDER.len() - 1);
    }

    #[test]
    fn everything_written_is_read() {
        for row in ORDER {
            assert_eq!(row.read.is_some(), row.write.is_some(), "{}", row.what);
            assert!(!row.reason.is_empty());
        }
    }
}
