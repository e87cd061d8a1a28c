//! What the tests of KVM share: a small machine with a program of a few instructions in it.
//!
//! Tests take turns (there are two processors here, and each guest wants one), and do nothing on a machine without KVM;
//! the continuous integration counts them.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use hw::core::{RealizeCtx, realize_device};
use hw::i386::boot_entry::BootEntry;
use hw::i386::cpu_model::CpuSpec;
use hw::i386::microvm::{Board, BoardSpec, MICROVM_1_0};
use hw::memory::{AccessRules, Backing, IoContext, MemoryRegion, RamBlock, RegionOps};
use vmstate::qom::sections::{IncomingSection, load_tree, save_tree, tree_schemas};
use vmstate::qom::{PropertyDefaults, TypeTable};
use vmstate::state::{Section, encode};

use crate::accel::{self, Accelerator, PlatformObjects, VcpuEvent, VcpuEvents};
use crate::kvm_turn::{self, Turn};
use crate::test_support::NoRequests;

/// Where a guest's program lies, and begins.
pub const ENTRY: u64 = 0x1000;
/// Where programs count.
pub const COUNTER: u64 = 0x8000;
/// The port through which programs speak.
pub const PORT: u64 = 0x80;
/// A page that a device answers on, and the next one.
pub const DEVICE: u64 = 0xd000_0000;
/// How long anything may take: this is a test, not a measurement.
const PATIENCE: Duration = Duration::from_secs(20);

static TYPES: LazyLock<Arc<TypeTable>> = LazyLock::new(|| TypeTable::gathered().expect("the types fit together"));

/// A turn at KVM for the test that asks, or `None` where there is none, which is said.
pub fn turn() -> Option<Turn> {
    kvm_turn::turn(&format!("vmm::{}", thread::current().name().unwrap_or("a test")))
}

/// A machine with 16 MiB and a program.
pub struct Guest {
    /// What runs it.
    pub accel: Arc<dyn Accelerator>,
    /// Its objects and memory.
    pub board: Board,
    /// What its programs say, and its vCPUs report.
    pub heard: Receiver<Heard>,
}

/// Something that came out of a guest.
#[derive(Debug, PartialEq)]
pub enum Heard {
    /// A byte at [`PORT`].
    Byte(u8),
    /// Bytes at an offset from [`DEVICE`].
    Mmio(u64, u8),
    /// A vCPU's event.
    Event(u32, VcpuEvent),
}

struct Ear(Sender<Heard>);

impl VcpuEvents for Ear {
    fn vcpu_event(&self, vcpu: u32, event: VcpuEvent) {
        // A test may have heard enough.
        let _ = self.0.send(Heard::Event(vcpu, event));
    }
}

struct PortOps(Sender<Heard>);

impl RegionOps for PortOps {
    fn read(&self, _: &mut IoContext, _: u64, _: u8) -> u64 {
        0x5a
    }

    fn write(&self, _: &mut IoContext, _: u64, _: u8, value: u64) {
        let _ = self
            .0
            .send(Heard::Byte(u8::try_from(value).expect("the region has byte registers")));
    }
}

struct MmioOps(Sender<Heard>);

impl RegionOps for MmioOps {
    fn read(&self, _: &mut IoContext, offset: u64, _: u8) -> u64 {
        offset & 0xff
    }

    fn write(&self, _: &mut IoContext, offset: u64, _: u8, value: u64) {
        let _ = self.0.send(Heard::Mmio(
            offset,
            u8::try_from(value).expect("the region has byte registers"),
        ));
    }
}

impl Guest {
    /// A guest with `cpus` vCPUs and `program` at its entry, ready to run.
    pub fn new(cpus: u32, program: &[u8]) -> Self {
        let guest = Self::bare(cpus);
        guest.write(ENTRY, program);
        guest.accel.reset(&Self::boot()).expect("reset");
        guest
    }

    /// A guest to load a state into.
    pub fn bare(cpus: u32) -> Self {
        let ram = RamBlock::new("ram", 16 << 20, Backing::SharedMemfd).expect("16 MiB");
        Self::with_ram(cpus, ram)
    }

    fn with_ram(cpus: u32, ram: Arc<RamBlock>) -> Self {
        let (say, heard) = channel();
        let created = accel::create("kvm", &TYPES, Arc::new(Ear(say.clone()))).expect("KVM");
        let accel = created.accelerator;
        let spec = BoardSpec {
            machine: MICROVM_1_0.to_owned(),
            cpus: (0..cpus).collect(),
            ram,
            types: accel.types(),
            defaults: PropertyDefaults::default(),
        };
        let board = Board::build(&TYPES, &spec).expect("a board");
        board.machine().add_child("accel", created.object).expect("free");
        let port = MemoryRegion::io("port", 1, Arc::new(PortOps(say.clone())), AccessRules::BYTES);
        board.io().root().add_subregion(PORT, &port).expect("free");
        let device = MemoryRegion::io("device", 0x2000, Arc::new(MmioOps(say)), AccessRules::BYTES);
        board.memory().root().add_subregion(DEVICE, &device).expect("free");
        accel.attach_memory(board.memory(), board.io()).expect("memory");
        let chip = |name| board.machine().child(name).expect("on the board");
        let platform = PlatformObjects {
            ioapic: chip("ioapic"),
            pic: chip("pic"),
            pit: chip("pit"),
            clock: chip("clock"),
        };
        accel
            .create_interrupt_controllers(&platform)
            .expect("interrupt controllers");
        let host: CpuSpec = "host".parse().expect("always there");
        let cpuid = host.table(&accel.host_cpu().expect("it tells"), cpus).table;
        for cpu in board.cpus() {
            accel.create_vcpu(cpu, &cpuid).expect("a vCPU");
        }
        Self { accel, board, heard }
    }

    /// Puts a test device on the board, before the guest runs.
    pub fn with_testdev(self) -> Self {
        let device = TYPES.new_object("tern-testdev").expect("a device");
        let machine = self.board.machine();
        machine.add_child("testdev", Arc::clone(&device)).expect("free");
        let (memory, io) = (self.board.memory(), self.board.io());
        let mut cx = RealizeCtx::new(memory, io, self.accel.irq_sink(), Arc::new(NoRequests))
            .with_doorbells(self.accel.doorbells())
            .with_timers(self.accel.timers());
        realize_device(&device, &mut cx).expect("realizes");
        self
    }

    /// Where the program begins.
    pub fn boot() -> BootEntry {
        BootEntry::Pvh {
            entry: ENTRY,
            start_info: 0x6000,
        }
    }

    /// Lets the guest run.
    pub fn run(&self) {
        self.accel.resume(Default::default()).expect("runs");
    }

    /// The next thing that the guest says.
    pub fn hear(&self) -> Heard {
        match self.heard.recv_timeout(PATIENCE) {
            Ok(heard) => heard,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => panic!("the guest says nothing"),
        }
    }

    /// Writes to the guest's memory.
    pub fn write(&self, address: u64, bytes: &[u8]) {
        self.board.ram().write(address, bytes).expect("RAM");
    }

    /// Reads a word of the guest's memory.
    pub fn word(&self, address: u64) -> u32 {
        let mut bytes = [0; 4];
        self.board.ram().read(address, &mut bytes).expect("RAM");
        u32::from_le_bytes(bytes)
    }

    /// Waits until the word at `address` has another value than `old`.
    pub fn wait_for_change(&self, address: u64, old: u32) {
        let deadline = Instant::now() + PATIENCE;
        while self.word(address) == old {
            assert!(Instant::now() < deadline, "the word at {address:#x} stays {old:#x}");
            thread::yield_now();
        }
    }

    /// The state of all objects.
    pub fn sections(&self) -> Vec<Section> {
        save_tree(self.board.root()).expect("saves")
    }

    /// Gives this guest the memory and the state of `other`, which is paused, as a transfer does.
    pub fn take_over(&self, other: &Self) {
        let mut bytes = vec![0; 16 << 20];
        other.board.ram().read(0, &mut bytes).expect("RAM");
        self.write(0, &bytes);
        let schemas = tree_schemas(other.board.root());
        let incoming = other
            .sections()
            .into_iter()
            .zip(schemas)
            .map(|(section, schema)| IncomingSection {
                bytes: encode(&schema.schema, &section.value).expect("encodes"),
                path: section.path,
                description: section.description,
                writer_schema: schema.schema.into(),
            });
        load_tree(self.board.root(), incoming.collect(), &[]).expect("loads");
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.accel.shutdown();
    }
}
