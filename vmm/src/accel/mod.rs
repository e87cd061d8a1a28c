//! Accelerators: what runs a guest's processors and holds its interrupt controllers and clocks.
//!
//! A machine is built of abstract types (`x86-cpu`, `apic-common`, ...), whose state has named registers; an accelerator
//! brings subclasses of them, and moves state between the objects and the real thing. `kvm` is the one that runs guests.
//! `qtest` runs nothing: tests drive a device tree under it, and move one.
//!
//! # The life of an accelerator
//!
//! The order is part of the contract, because another one costs KVM twenty times as much:
//!
//! ```text
//!   create -> attach_memory -> create_interrupt_controllers -> create_vcpu, for each -> reset, or load and push
//!                                                                                          |
//!                                     shutdown <- pause <-> resume <-----------------------+
//! ```
//!
//! State is in the accelerator while the guest runs, and in both while it is paused: [`Accelerator::pause`] reads
//! everything once into the objects, and from then on saving needs the objects only. [`Accelerator::push`] goes the other
//! way after a load or a reset. [`Accelerator::resume`] rewrites what depends on time, so that the guest goes on from the
//! instant of its pause however long that was.
//!
//! Nothing here may be called by a vCPU's thread: it would wait for itself.

use std::fmt;
use std::sync::Arc;

use hw::core::{AccelTypes, Doorbells, IrqSink, Timers};
use hw::i386::boot_entry::BootEntry;
use hw::i386::cpu_model::HostCpu;
use hw::i386::cpuid::CpuidTable;
use hw::memory::AddressSpace;
use hw::timer::clock::{TimePolicy, TscPolicy};
use vmstate::qom::{Obj, Object, ObjectPart, TypeTable};

mod host_features;
pub mod kvm;
pub mod qtest;

pub use host_features::HostFeatures;

/// An accelerator as the command line names it.
pub struct AccelKind {
    /// The name.
    pub name: &'static str,
    /// What it is, in one line.
    pub description: &'static str,
    /// Makes one. The object is of the type `NAME-accel`.
    create: CreateFn,
}

type CreateFn = fn(&Arc<TypeTable>, Arc<dyn VcpuEvents>) -> Result<CreatedAccel, AccelError>;

/// The accelerators that there are.
pub const ACCELERATORS: &[AccelKind] = &[
    AccelKind {
        name: "kvm",
        description: "the processor's own virtualisation, by Linux",
        create: kvm::create,
    },
    AccelKind {
        name: "qtest",
        description: "no processors at all, for tests of devices",
        create: qtest::create,
    },
];

/// A new accelerator and its object, which belongs at `/machine/accel`.
pub struct CreatedAccel {
    /// The object by which users see it.
    pub object: Arc<Object>,
    /// The accelerator.
    pub accelerator: Arc<dyn Accelerator>,
}

/// Makes the accelerator called `name`. What its vCPUs have to report goes to `events`.
///
/// # Errors
///
/// [`AccelError::NoSuchAccelerator`] lists the names; [`AccelError::Unavailable`] says what this host lacks, and the
/// remedy.
pub fn create(name: &str, types: &Arc<TypeTable>, events: Arc<dyn VcpuEvents>) -> Result<CreatedAccel, AccelError> {
    let kind = ACCELERATORS
        .iter()
        .find(|kind| kind.name == name)
        .ok_or_else(|| AccelError::NoSuchAccelerator { name: name.to_owned() })?;
    (kind.create)(types, events)
}

/// The interrupt controllers and timers of a machine, which the accelerator fills and empties.
#[derive(Clone, Debug)]
pub struct PlatformObjects {
    /// The I/O APIC, of the type [`AccelTypes::ioapic`].
    pub ioapic: Arc<Object>,
    /// The pair of 8259, of the type [`AccelTypes::i8259`].
    pub pic: Arc<Object>,
    /// The 8254, of the type [`AccelTypes::i8254`].
    pub pit: Arc<Object>,
    /// The record of guest time, of the type [`AccelTypes::clock`].
    pub clock: Arc<Object>,
}

/// What runs one guest. Methods may be called from any thread but a vCPU's, one at a time.
pub trait Accelerator: Send + Sync {
    /// The name in [`ACCELERATORS`].
    fn name(&self) -> &'static str;

    /// The subclasses that stand for a machine's abstract types under this accelerator.
    fn types(&self) -> AccelTypes;

    /// What can be given to guests here: what a model comes to, and whether a VM can come here, follow from it.
    ///
    /// # Errors
    ///
    /// Where the host does not say what it supports.
    fn host_cpu(&self) -> Result<HostCpu<'static>, AccelError>;

    /// How fast a guest's TSC counts here by default, in kHz; zero where there is none.
    fn tsc_khz(&self) -> u32;

    /// Whether a guest's TSC can be made to count at another speed.
    fn tsc_scales(&self) -> bool;

    /// Says what is to become of a guest whose TSC counted at a speed that it cannot have here; before [`Self::push`].
    fn set_tsc_policy(&self, policy: TscPolicy);

    /// Connects the guest's memory and I/O ports. All of the memory map that is known by now becomes visible to the
    /// guest at once; later changes follow.
    ///
    /// # Errors
    ///
    /// Where the host refuses the memory map.
    fn attach_memory(&self, memory: &AddressSpace, io: &AddressSpace) -> Result<(), AccelError>;

    /// Makes the interrupt controllers and timers that `platform` stands for.
    ///
    /// # Errors
    ///
    /// Where the host refuses, or an object is of another accelerator's type.
    fn create_interrupt_controllers(&self, platform: &PlatformObjects) -> Result<(), AccelError>;

    /// Makes the vCPU that `cpu` stands for, with the APIC that is its child `apic`. The first one made is the bootstrap
    /// processor. The accelerator fills in the APIC id of `cpuid`. The vCPU does not run yet.
    ///
    /// # Errors
    ///
    /// Where the host refuses, the APIC id is taken, or an object is of another accelerator's type.
    fn create_vcpu(&self, cpu: &Arc<Object>, cpuid: &CpuidTable) -> Result<(), AccelError>;

    /// The host's thread of each vCPU that there is, as pairs of APIC id and thread id, by APIC id. Empty where vCPUs have no
    /// threads.
    fn vcpu_threads(&self) -> Vec<(u32, u32)>;

    /// The inputs of the interrupt controllers, numbered as the machine numbers its IRQs.
    fn irq_sink(&self) -> Arc<dyn IrqSink>;

    /// The doorbells of the machine's devices. They are served while the guest runs, and a pause has all of them served
    /// before it reads any state.
    fn doorbells(&self) -> &Arc<Doorbells>;

    /// The timers of the machine's devices, and its virtual clock, which runs while the guest does. A pause stops it, with
    /// no timer's handler at work, before any doorbell is looked at for the last time.
    fn timers(&self) -> &Arc<Timers>;

    /// Puts vCPUs, interrupt controllers and timers into their state after reset, and the first vCPU at the entry of a
    /// kernel. Objects and accelerator agree afterwards. The VM is paused, or has never run.
    ///
    /// # Errors
    ///
    /// Where the host refuses a state; the VM must not run then.
    fn reset(&self, boot: &BootEntry) -> Result<(), AccelError>;

    /// Takes all vCPUs out of the guest with their accesses completed, and then reads all state into the objects, once.
    /// Does nothing if they are paused. After a failure the vCPUs are out and the state in the objects is not whole: the
    /// guest can be resumed, not saved.
    ///
    /// # Errors
    ///
    /// Where a vCPU does not come out in time (all of them then run on), or has state that Tern does not describe.
    fn pause(&self) -> Result<(), AccelError>;

    /// Lets all vCPUs run, after rewriting what depends on time as `policy` says. Does nothing if they run.
    ///
    /// # Errors
    ///
    /// Where the host refuses; the vCPUs stay paused then.
    fn resume(&self, policy: TimePolicy) -> Result<(), AccelError>;

    /// Puts the state that is in the objects into the accelerator, after it was loaded. The guest's RAM is in place by
    /// now, and the VM has never run or is paused.
    ///
    /// # Errors
    ///
    /// Names the register that the host refuses; the VM must not run then.
    fn push(&self) -> Result<(), AccelError>;

    /// Brings the state in one object, of one of [`Self::types`], up to what the accelerator holds at this moment, whether the guest
    /// runs or not. What runs is not stopped: a vCPU whose registers are asked for is out of the guest for as long as reading them
    /// takes, and nothing is written.
    ///
    /// # Errors
    ///
    /// Where a vCPU does not come out in time, or has state that Tern does not describe. It runs on.
    fn refresh(&self, object: &Object) -> Result<(), AccelError>;

    /// Reads all state from the accelerator anew, as after [`Self::push`], and names each field whose value is neither
    /// that of the objects nor within the bounds of what is known to differ. The objects stay as they are.
    ///
    /// # Errors
    ///
    /// As [`Self::pause`].
    fn readback_compare(&self) -> Result<Vec<Difference>, AccelError>;

    /// Ends all vCPU threads. The accelerator cannot run a guest any more. Does nothing the second time.
    fn shutdown(&self);
}

/// A field that is not in the accelerator as it was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The object's path and the field's: `/machine/cpu-0: general.rax`.
    pub field: String,
    /// What was loaded.
    pub loaded: String,
    /// What the accelerator holds.
    pub read: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} was loaded as {} and reads as {}",
            self.field, self.loaded, self.read
        )
    }
}

/// What a vCPU has to report that the VM as a whole must deal with. The vCPU does not run on until it is resumed.
#[derive(Clone, Debug, PartialEq)]
pub enum VcpuEvent {
    /// The guest asks for a reset, or has got into a state that resets a processor (a triple fault).
    ResetRequested {
        /// What asks, for people: "a triple fault".
        by: &'static str,
    },
    /// The guest asks to be switched off.
    ShutdownRequested,
    /// The vCPU cannot go on.
    Crashed(Box<kvm::CrashReport>),
}

/// Takes what vCPUs report. Called on the vCPU's thread, which waits until it returns: it must neither block nor call
/// the accelerator.
pub trait VcpuEvents: Send + Sync {
    /// The vCPU with the APIC id `vcpu` reports `event`.
    fn vcpu_event(&self, vcpu: u32, event: VcpuEvent);
}

/// Why an accelerator could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum AccelError {
    /// Nobody knows the name.
    #[error("there is no accelerator '{name}'; there are {}", names())]
    NoSuchAccelerator {
        /// The name asked for.
        name: String,
    },
    /// The host lacks the accelerator, or the user may not use it.
    #[error("{0}")]
    Unavailable(String),
    /// The host refused an operation.
    #[error("KVM refuses {what}: {source}")]
    Refused {
        /// What was being done.
        what: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// An object of the tree is not what the accelerator needs.
    #[error("{path} is a {type_name}, and not a {wanted}, so that this accelerator cannot hold it")]
    WrongType {
        /// The object's path.
        path: String,
        /// Its type.
        type_name: String,
        /// The type needed.
        wanted: &'static str,
    },
    /// Things were done in another order than the one that works.
    #[error("{0}")]
    WrongOrder(&'static str),
    /// A vCPU holds state that Tern has no description for.
    #[error("vCPU {vcpu} cannot be saved: {what}")]
    Undescribed {
        /// The vCPU's APIC id.
        vcpu: u32,
        /// What it holds.
        what: String,
    },
    /// A value that was loaded does not fit into this host's processor.
    #[error("this host cannot take the guest's state: {field} = {value}: {reason}")]
    CannotHold {
        /// The object's path and the field's.
        field: String,
        /// The value.
        value: String,
        /// Why not.
        reason: String,
    },
    /// A vCPU did not come out of the guest in time.
    #[error("vCPU {vcpu} has not stopped within {seconds} seconds")]
    Stuck {
        /// The vCPU's APIC id.
        vcpu: u32,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The devices do not come to rest.
    #[error("the guest cannot be paused: {0}")]
    NotQuiet(String),
    /// An object could not be made.
    #[error(transparent)]
    Object(#[from] vmstate::qom::ObjectError),
}

/// The part of an object that has to be of the type `wanted`, an accelerator's own.
fn part<T: ObjectPart>(object: &Arc<Object>, wanted: &'static str) -> Result<Obj<T>, AccelError> {
    Obj::new(Arc::clone(object))
        .filter(|_| object.is_a(wanted))
        .ok_or_else(|| AccelError::WrongType {
            path: object.path(),
            type_name: object.type_name().to_owned(),
            wanted,
        })
}

fn names() -> String {
    let names: Vec<_> = ACCELERATORS.iter().map(|kind| kind.name).collect();
    names.join(", ")
}

/// The base class of accelerators as users see them in the tree.
#[derive(Object)]
#[object(name = "accel", parent = "object", abstract, stateless)]
pub struct AccelObject {}
