//! Putting a VM together.
//!
//! The order is the quick one of KVM (slots, interrupt controllers, vCPUs), and the same for a VM that boots and for one
//! that arrives.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use hw::char::Serial16550;
use hw::core::{HotplugError, Wiring};
use hw::i386::cpu_model::{CpuSpec, CpuSpecError, DEFAULT_CPU_MODEL};
use hw::i386::cpuid::CpuidTable;
use hw::i386::microvm::{Board, BoardError, BoardSpec, MICROVM_1_1, check_memory};
use hw::memory::{Backing, RamBlock, RamError};
use migration::ident::Id;
use migration::vm::{Identity, Recipe};
use thiserror::Error;
use vmstate::qom::{AddChildError, GlobalProperty, PropertyDefaults, PropertyError, UserObjectError};

use super::console::ConsoleGate;
use super::requests::Requests;
use super::{Host, Status, Vm, describe, globals, lifecycle::Lifecycle, processor};
use crate::accel::{self, AccelError, CreatedAccel, PlatformObjects};
use crate::boot::{BootError, BootFiles, BootPayload};

/// The guest's memory, as its block is called.
pub(super) const RAM_BLOCK: &str = "ram";

/// What a user asks for.
#[derive(Clone, Debug)]
pub struct VmSpec<'a> {
    /// What the VM is called.
    pub name: String,
    /// The machine, such as `microvm-1.0`.
    pub machine: String,
    /// The CPU model with features switched on and off, as [`CpuSpec`] reads it, or `None` for [`DEFAULT_CPU_MODEL`].
    pub cpu: Option<String>,
    /// How many vCPUs.
    pub cpus: u32,
    /// Guest memory in bytes.
    pub memory: u64,
    /// What is asked of all objects of a type.
    pub globals: Vec<GlobalProperty>,
    /// What it boots from.
    pub boot: BootFiles<'a>,
}

impl<'a> VmSpec<'a> {
    /// A VM with one vCPU and 256 MiB that boots the embedded guest.
    #[must_use]
    pub fn new(name: impl Into<String>, cmdline: &'a str) -> Self {
        Self {
            name: name.into(),
            machine: MICROVM_1_1.to_owned(),
            cpu: None,
            cpus: 1,
            memory: 256 << 20,
            globals: Vec::new(),
            boot: BootFiles {
                kernel: crate::guest::EMBEDDED_GUEST,
                initrd: None,
                cmdline,
            },
        }
    }
}

/// Why a VM cannot be made. Nothing is left of it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CreateError {
    /// The accelerator is not there, or refuses.
    #[error(transparent)]
    Accelerator(#[from] AccelError),
    /// The machine is not what was asked for.
    #[error(transparent)]
    Board(#[from] BoardError),
    /// The memory cannot be had.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// What was asked for is no CPU model.
    #[error(transparent)]
    Model(#[from] CpuSpecError),
    /// The host's processor lacks features of the model.
    #[error("this host's processor lacks {} of the CPU model {model}; \"vm cpu list\" says which models run here", .missing.join(", "))]
    HostLacks {
        /// The model, with what was switched on and off.
        model: String,
        /// The features.
        missing: Vec<&'static str>,
    },
    /// The guest cannot boot.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// An object that a user had added where the VM comes from.
    #[error(transparent)]
    Object(#[from] UserObjectError),
    /// A device that a user had added there.
    #[error(transparent)]
    Device(#[from] HotplugError),
    /// The tree refuses an object.
    #[error(transparent)]
    Tree(#[from] AddChildError),
    /// A property that was set there.
    #[error(transparent)]
    Property(#[from] PropertyError),
    /// A property was set there of an object that there is not here.
    #[error("this machine has no {0}")]
    NoObject(String),
    /// A recipe without the guest's memory, or with another size of it.
    #[error("the recipe has no block of {memory} bytes for the guest's memory")]
    NoMemory {
        /// The size that it names.
        memory: u64,
    },
    /// No identity could be made.
    #[error("the host has no random numbers: {0}")]
    Random(#[from] std::io::Error),
}

/// Everything that [`assemble`] needs and that is known before the accelerator's part begins.
pub(super) struct Parts {
    pub identity: Identity,
    pub recipe: Recipe,
    pub cpuid: CpuidTable,
    pub payload: BootPayload,
    /// The guest's memory, and then the payload's blocks.
    pub ram: Vec<Arc<RamBlock>>,
    pub accel: CreatedAccel,
    pub requests: Arc<Requests>,
    pub status: Arc<Status>,
}

impl Vm {
    /// Makes a VM and puts it at the entry of its kernel. It does not run yet.
    ///
    /// # Errors
    ///
    /// [`CreateError`].
    pub fn create(host: &Host, spec: &VmSpec<'_>, status: Arc<Status>) -> Result<Arc<Self>, CreateError> {
        check_memory(&spec.machine, spec.memory)?;
        globals::check(&host.types, &spec.globals).map_err(BoardError::from)?;
        let cpu: CpuSpec = spec.cpu.as_deref().unwrap_or(DEFAULT_CPU_MODEL).parse()?;
        // First, because it asks the host ahead what its processor can do, which takes as long as the rest up to there.
        let requests = Requests::new(Arc::clone(&host.runner));
        let accel = accel::create(&host.accelerator, &host.types, requests.clone())?;
        let payload = BootPayload::new(&spec.boot)?;
        let memory = RamBlock::new(RAM_BLOCK, spec.memory, Backing::PrivateAnonymous)?;
        let cpuid = processor::table(host, accel.accelerator.as_ref(), &cpu, spec.cpus)?;
        let mut ram = vec![memory];
        ram.extend(payload.blocks());
        let recipe = describe::recipe(spec, &cpu, &cpuid, accel.accelerator.tsc_khz(), &payload, &ram);
        let identity = Identity {
            vm: Id::random()?,
            instance: Id::random()?,
            name: spec.name.clone(),
            parent: None,
        };
        let vm = assemble(
            host,
            Parts {
                identity,
                recipe,
                cpuid,
                payload,
                ram,
                accel,
                requests,
                status,
            },
        )?;
        vm.boot(true)?;
        Ok(vm)
    }
}

/// Builds the objects and the accelerator's side of them.
pub(super) fn assemble(host: &Host, parts: Parts) -> Result<Arc<Vm>, CreateError> {
    let Parts {
        identity,
        recipe,
        cpuid,
        payload,
        ram,
        accel,
        requests,
        status,
    } = parts;
    let accelerator = accel.accelerator;
    let memory = ram
        .iter()
        .find(|block| block.name() == RAM_BLOCK)
        .expect("the caller made the guest's memory");
    let board = Board::build(
        &host.types,
        &BoardSpec {
            machine: recipe.machine.clone(),
            cpus: recipe.cpus.clone(),
            ram: Arc::clone(memory),
            types: accelerator.types(),
            defaults: PropertyDefaults::default().with_user(describe::globals_of(&recipe)),
        },
    )?;
    board.machine().add_child("accel", accel.object)?;
    if let Some(console) = &host.console {
        board.connect_console(Arc::clone(console))?;
    }
    accelerator.attach_memory(board.memory(), board.io())?;
    let device = |name| board.machine().child(name).expect("the board has it");
    accelerator.create_interrupt_controllers(&PlatformObjects {
        ioapic: device("ioapic"),
        pic: device("pic"),
        pit: device("pit"),
        clock: device("clock"),
    })?;
    let wiring = Wiring {
        interrupts: accelerator.irq_sink(),
        events: requests.clone(),
        doorbells: Arc::clone(accelerator.doorbells()),
        timers: Arc::clone(accelerator.timers()),
    };
    board.realize(&wiring)?;
    for cpu in board.cpus() {
        accelerator.create_vcpu(cpu, &cpuid)?;
        board.realize_cpu(cpu, &wiring)?;
    }
    let console = ConsoleGate::new(Serial16550::frontend(board.serial()), host.console.clone());
    let vm = Arc::new(Vm {
        identity,
        recipe,
        accelerator,
        board,
        wiring,
        console: Arc::new(console),
        payload,
        ram,
        status,
        requests,
        lifecycle: parking_lot::Mutex::new(Lifecycle::default()),
        kept_whole: AtomicUsize::default(),
        changes: parking_lot::Mutex::default(),
    });
    vm.add_arriving()?;
    vm.requests.serve(&vm);
    Ok(vm)
}
