//! The golden corpus: snapshots that a release leaves behind, and that every later Tern brings back.
//!
//! They are packed with gzip, since a snapshot is as long as the memory of its guest, and nearly all of that is zeros.
//! Their processors are the baseline that every host has, so that they load on hosts of any vendor and age.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use hw::i386::cpu::X86Cpu;
use hw::i386::microvm::layout;
use hw::intc::apic::Apic;
use hw::intc::i8259::{I8259, I8259State};
use hw::intc::ioapic::Ioapic;
use hw::timer::i8254::{I8254, I8254State};
use migration::snapshot::{RestoreOptions, SaveOptions, save};
use migration::vm::{DestinationVm, SourceVm};
use vmm::vm::{Vm, VmSpec};
use vmstate::qom::sections::{IncomingSection, load_tree};
use vmstate::qom::{Obj, ObjectPart};
use vmstate::state::encode;

use super::machine::{self, MEMORY};
use crate::guest::EmbeddedGuest;
use crate::machine::{Machine, Site};
use crate::process::Scratch;
use crate::state::nowhere_zero;

/// The folder of a release's snapshots.
pub const FOLDER: &str = "corpus";
/// How a packed snapshot is called.
const PACKED: &str = ".tern.gz";
/// The processor that every host can be: a new version of it is another model.
const CPU: &str = "x86-64-v1-1";
/// What the guests do: a few of their pages are filled, and written again and again. No AVX, which their processor does not have, but
/// which some KVM shows them all the same: a host where KVM does not would not take them.
const GUEST: &str = "mib=1 fill=2 beat=20 rate=1 avx=0";
/// How many pages they say that they have verified.
pub const GUEST_PAGES: u64 = 6;

/// A kind of snapshot, of which a release has one for each machine.
pub struct Variant {
    /// What it is called.
    pub name: &'static str,
    /// Whether a guest is at work in it, which takes KVM to make.
    pub has_guest: bool,
    make: fn(&str, &Path) -> Machine,
}

/// The kind that has all optional parts of states.
pub const OPTIONAL: &str = "optional";

/// All kinds.
pub const VARIANTS: [Variant; 9] = [
    // A machine as it is when it is switched on, stopped.
    Variant {
        name: "reset",
        has_guest: false,
        make: |machine, file| saved(machine::full(machine, 2), file),
    },
    // Full FIFOs, an alarm, running timers, interrupts on their way, devices and objects of a user's.
    Variant {
        name: "busy",
        has_guest: false,
        make: |machine, file| saved(busy(machine), file),
    },
    // Something in every field, in what is optional too.
    Variant {
        name: "filled",
        has_guest: false,
        make: |machine, file| saved(filled(machine::full(machine, 2)), file),
    },
    // The same with all that users can switch on.
    Variant {
        name: OPTIONAL,
        has_guest: false,
        make: |machine, file| {
            let machine = machine::full(machine, 1);
            machine::add_options(&machine.vm);
            saved(filled(machine), file)
        },
    },
    // The processor of a host.
    Variant {
        name: "cpu-host",
        has_guest: false,
        make: |machine, file| saved(asked(machine, "host", MEMORY), file),
    },
    // What users ask for less often: features switched on and off, memory of an odd size, ids of all that an id can have.
    Variant {
        name: "unusual",
        has_guest: false,
        make: |machine, file| {
            let machine = asked(machine, "x86-64-v2-1,+aes,-popcnt", MEMORY + 4096);
            machine::add_everything_by_long_ids(&machine.vm);
            saved(machine, file)
        },
    },
    // A snapshot that descends from another one, of a machine that has gone on since.
    Variant {
        name: "child",
        has_guest: false,
        make: child,
    },
    // The embedded guest, running.
    Variant {
        name: "guest-1",
        has_guest: true,
        make: |machine, file| saved(guest(machine, 1), file),
    },
    // On two processors, with a device and objects that a user has added since.
    Variant {
        name: "guest-2",
        has_guest: true,
        make: |machine, file| {
            let guest = guest(machine, 2);
            machine::add_everything(&guest.vm);
            saved(guest, file)
        },
    },
];

/// A snapshot of a release.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Golden {
    /// The packed file.
    pub path: PathBuf,
    /// The machine.
    pub machine: String,
    /// The kind.
    pub variant: String,
}

impl Golden {
    /// All that are in `folder`, sorted.
    ///
    /// # Errors
    ///
    /// The folder cannot be read, or something else is in it.
    pub fn all(folder: &Path) -> Result<Vec<Self>, String> {
        let wrong = |why: &dyn std::fmt::Display| format!("{}: {why}", folder.display());
        let mut all = Vec::new();
        for entry in fs::read_dir(folder).map_err(|error| wrong(&error))? {
            let path = entry.map_err(|error| wrong(&error))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let name = name.strip_suffix(PACKED).and_then(|name| name.rsplit_once('.'));
            let (machine, variant) = name.ok_or_else(|| wrong(&format!("{} is no snapshot", path.display())))?;
            all.push(Self {
                machine: machine.to_owned(),
                variant: variant.to_owned(),
                path: path.clone(),
            });
        }
        all.sort();
        Ok(all)
    }

    /// Whether a guest is at work in it.
    #[must_use]
    pub fn has_guest(&self) -> bool {
        self.variant.starts_with("guest")
    }

    /// Unpacks it into `scratch`.
    ///
    /// # Panics
    ///
    /// If it is no packed file.
    #[must_use]
    #[track_caller]
    pub fn unpack(&self, scratch: &Scratch) -> PathBuf {
        let file = scratch.file(&format!("{}.{}.tern", self.machine, self.variant));
        let unpacked = File::open(&self.path).and_then(|packed| {
            let mut out = BufWriter::new(File::create(&file)?);
            io::copy(&mut GzDecoder::new(BufReader::new(packed)), &mut out)?;
            out.into_inner().map_err(io::IntoInnerError::into_error)
        });
        if let Err(error) = unpacked {
            panic!("{}: {error}", self.path.display());
        }
        file
    }
}

/// Makes the snapshots of all machines of this program in `folder`: those with a guest if `guests`.
///
/// # Panics
///
/// If one cannot be made.
pub fn make(folder: &Path, guests: bool) {
    let scratch = Scratch::in_memory();
    fs::create_dir_all(folder).expect("a folder can be made");
    for machine in machine::all() {
        for variant in VARIANTS.iter().filter(|variant| guests || !variant.has_guest) {
            let file = scratch.file("snapshot.tern");
            drop((variant.make)(&machine, &file));
            let packed = folder.join(format!("{machine}.{}{PACKED}", variant.name));
            pack(&file, &packed).unwrap_or_else(|error| panic!("{}: {error}", packed.display()));
        }
    }
}

fn pack(file: &Path, packed: &Path) -> io::Result<()> {
    let mut encoder = GzEncoder::new(File::create(packed)?, Compression::best());
    io::copy(&mut File::open(file)?, &mut encoder)?;
    encoder.finish()?.sync_all()
}

/// Saves a machine as it stands or runs.
fn saved(machine: Machine, file: &Path) -> Machine {
    save(&*machine.vm, file, &SaveOptions::default(), &()).expect("it can be saved");
    machine
}

/// A machine with this processor and so much memory, stopped.
fn asked(machine: &str, cpu: &str, memory: u64) -> Machine {
    let kernel = machine::least_kernel();
    let mut spec = VmSpec::new(machine, "");
    (spec.machine, spec.memory, spec.cpu) = (machine.to_owned(), memory, Some(cpu.to_owned()));
    spec.boot.kernel = &kernel;
    let machine = Site::new("qtest").boot(&spec);
    machine.vm.stop().expect("it stops");
    machine
}

/// The embedded guest at work, on KVM.
fn guest(machine: &str, cpus: u32) -> Machine {
    let mut spec = VmSpec::new(machine, GUEST);
    (spec.machine, spec.cpus, spec.memory) = (machine.to_owned(), cpus, MEMORY);
    spec.cpu = Some(CPU.to_owned());
    let mut guest = Site::new("kvm").boot(&spec);
    guest.wait_ready();
    guest.wait_beat();
    guest
}

/// A part of the machine.
fn part<P: ObjectPart>(vm: &Vm, path: &str) -> Obj<P> {
    let object = vm.root().resolve(&format!("/machine/{path}")).and_then(Obj::new);
    object.unwrap_or_else(|| panic!("the machine has {path}"))
}

/// A machine whose user has changed what it is made of, and whose guest has done something with every device.
fn busy(machine: &str) -> Machine {
    let kernel = machine::least_kernel();
    let mut spec = VmSpec::new(machine, "console=ttyS0");
    (spec.machine, spec.cpus, spec.memory) = (machine.to_owned(), 2, MEMORY);
    spec.cpu = Some(CPU.to_owned());
    spec.globals = vec!["serial16550.irq=3".parse().expect("well-formed")];
    (spec.boot.kernel, spec.boot.initrd) = (&kernel, Some(&b"an initrd"[..]));
    let machine = Site::new("qtest").boot(&spec);
    machine::add_everything(&machine.vm);
    let vm = &machine.vm;
    machine.processor().execute(|| registers(vm)).expect("it runs");
    assert_eq!(vm.console().receive(&[b'k'; 16]), 16, "the FIFO is empty");
    vm.board().power_button().press_power_button();
    interrupts(vm);
    let timer = I8254State {
        replaced: true,
        ..running_timer()
    };
    *part::<I8254>(vm, "pit").state().lock() = timer;
    let cpu: Obj<X86Cpu> = part(vm, "cpu-1");
    let mut state = cpu.state().lock();
    state.general.rip = layout::EXTENDED;
    // An NMI that waits for the end of another, behind an STI.
    (
        state.events.nmi_pending,
        state.events.nmi_masked,
        state.events.shadow_sti,
    ) = (1, true, true);
    drop(state);
    machine
}

/// What a guest writes.
fn registers(vm: &Vm) {
    let (memory, io) = (vm.board().memory(), vm.board().io());
    let out = |port: u16, value: u8| io.write(port.into(), &[value]).expect("a device");
    let serial = layout::SERIAL_PORT;
    // FIFOs on, interrupts on, 8 bits, DTR, RTS and OUT2; a divisor and the scratch register.
    for (register, value) in [
        (2, 0xc1),
        (1, 0x0f),
        (3, 0x83),
        (0, 1),
        (1, 0),
        (3, 0x03),
        (4, 0x0b),
        (7, 0x5a),
    ] {
        out(serial + register, value);
    }
    // An alarm at 07:30:15 and its interrupt, 2048 Hz, the year, a byte of memory; the index stays at the alarm.
    for (index, value) in [
        (0x0a, 0x25),
        (0x0b, 0x22),
        (0x09, 0x42),
        (0x40, 0xaa),
        (1, 0x15),
        (3, 0x30),
        (5, 0x07),
    ] {
        out(layout::RTC_PORT, index);
        out(layout::RTC_PORT + 1, value);
    }
    // The keyboard controller waits for the byte that goes with the command.
    out(0x64, 0x60);
    // The test device: interrupts on, rung once, and a value that does not ring.
    for (register, value) in [(0x10_u64, 1_u32), (0, 1), (4, 0x1234)] {
        memory
            .write(0xd100_0000 + register, &value.to_le_bytes())
            .expect("a device");
    }
}

/// Interrupts that wait and that are being served, in each of the controllers.
fn interrupts(vm: &Vm) {
    let pic: Obj<I8259> = part(vm, "pic");
    {
        let mut pic = pic.state().lock();
        let I8259State { primary, secondary } = &mut *pic;
        for (chip, base) in [(primary, 0x20), (secondary, 0x28)] {
            (chip.requested, chip.masked, chip.in_service, chip.vector_base) = (0x10, 0x0e, 0x02, base);
        }
    }
    let ioapic: Obj<Ioapic> = part(vm, "ioapic");
    {
        let mut ioapic = ioapic.state().lock();
        ioapic.requested = 1 << layout::GED_IRQ;
        // Vector 0x39, level, not masked, to the second processor.
        ioapic.redirection[9] = 0x0100_0000_0000_8039;
    }
    let apic: Obj<Apic> = part(vm, "cpu-1/apic");
    let mut apic = apic.state().lock();
    (apic.spurious_vector, apic.lvt_timer) = (0x1ff, 0x4_0020);
    (apic.requested[1], apic.in_service[1], apic.trigger_mode[1]) = (1 << 25, 1 << 24, 1 << 25);
    apic.tsc_deadline = 1 << 40;
}

/// Three channels that run in different modes, one of them latched.
fn running_timer() -> I8254State {
    let mut timer = I8254State::default();
    for (channel, (mode, count)) in timer.channels.iter_mut().zip([(2, 0x4a9), (3, 0x12), (0, 0xffff)]) {
        (channel.mode, channel.count, channel.access_mode) = (mode, count, 3);
    }
    let latched = &mut timer.channels[0];
    (latched.latched_count, latched.count_latched, latched.read_state) = (0x123, 3, 3);
    timer.speaker = true;
    timer
}

/// A machine every field of whose state holds something then.
fn filled(machine: Machine) -> Machine {
    let vm = &machine.vm;
    let sections = vm.schemas().into_iter().map(|section| IncomingSection {
        bytes: encode(&section.schema, &nowhere_zero(&section.schema)).expect("made by this description"),
        path: section.path,
        description: section.description,
        writer_schema: Arc::new(section.schema),
    });
    load_tree(vm.root(), sections.collect(), vm.board().moves()).expect("any value can be loaded");
    machine
}

/// What a busy machine has become that was saved and restored.
fn child(machine: &str, file: &Path) -> Machine {
    let parent = saved(busy(machine), file);
    drop(parent);
    let site = Site::new("qtest");
    let mut restored = site.restore(file, &RestoreOptions::default()).expect("restored");
    restored.vm.run().expect("it runs");
    let machine = site.machine(restored.vm.vm());
    let write = || machine.vm.board().memory().write(3 << 20, b"since");
    machine.processor().execute(write).expect("it runs").expect("RAM");
    saved(machine, file)
}
