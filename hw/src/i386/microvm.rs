//! The machines `microvm-1.0` and `microvm-1.1`: what a small virtual machine needs and nothing that only a PC's past explains.
//!
//! | where | what |
//! | --- | --- |
//! | 0 to 3 GiB, and from 4 GiB | RAM |
//! | 0xe0000, 0xf0000 | ACPI tables, MP table |
//! | 0xffff0 | in firmware's stead, code that resets the machine |
//! | 0xfea00000 | sleep, reset and the power button (ACPI), IRQ 9 |
//! | 0xfec00000, 0xfee00000 | I/O APIC, local APICs |
//! | ports 0x20, 0xa0, 0x40, 0x61 | 8259 pair, 8254 |
//! | port 0x60, 0x64 | keyboard controller (reset) |
//! | port 0x70 | real-time clock, IRQ 8 |
//! | port 0xf4 | test-exit |
//! | port 0x3f8 | serial console, IRQ 4 |
//! | port 0x505 | pvpanic |
//!
//! | version | what it has that the one before has not |
//! | --- | --- |
//! | 1.0 | |
//! | 1.1 | pvpanic takes a third event, by which a guest switches itself off without ACPI |
//!
//! On both, a `tern-testdev` has its timer only where its user asks for it: the release that brought them had none.
//!
//! The guest-visible shape of a version is frozen by the release that brings it; what is here is not to change after that
//! but by a new version, and by settings in the older ones' `compat` that leave those as they were.

use std::sync::Arc;

use thiserror::Error;
use vmstate::qom::sections::Move;
use vmstate::qom::{
    AddChildError, AddPropertyError, Class, Config, GlobalError, GlobalProperty, NewObjectError, Obj, Object,
    ObjectError, PropertyDefaults, PropertyError, PropertyValue, TypeTable, USER_OBJECTS,
};

use crate::acpi::generic_event_device::GenericEventDevice;
use crate::char::{CharSink, Chardev, Serial16550};
use crate::core::{
    AccelTypes, Bus, CLOCK_INPUT, Clock, Device, DeviceName, HotplugError, HotplugHandler, Machine, MachineClass,
    NewDevice, RealizeCtx, RealizeError, Release, SYSTEM_BUS, Wiring, add_device, realize_device, set_hotplug_handler,
    unrealize_device,
};
use crate::memory::{AddressSpace, MemoryRegion, MemorySystem, RamBlock, RegionError};

/// Guest-physical addresses and sizes that make the machine what it is.
pub mod layout {
    /// End of the RAM below 4 GiB.
    pub const LOW_RAM_END: u64 = 0xc000_0000;
    /// Where the rest of the RAM begins.
    pub const HIGH_RAM: u64 = 0x1_0000_0000;
    /// End of the memory that real mode has before the hole for devices.
    pub const CONVENTIONAL_END: u64 = 0xa_0000;
    /// First byte after the hole for devices and firmware.
    pub const EXTENDED: u64 = 0x10_0000;
    /// The ACPI tables, in what was the BIOS's ROM.
    pub const ACPI_TABLES: u32 = 0xe_0000;
    /// The MP table, behind them.
    pub const MP_TABLE: u32 = 0xf_0000;
    /// Where real mode enters firmware after a reset, F000:FFF0.
    pub const RESET_VECTOR: u32 = 0xf_fff0;
    /// The generic event device: the power button.
    pub const GED_EVENTS: u32 = 0xfea0_0000;
    /// The generic event device: sleep and reset.
    pub const GED_REGISTERS: u32 = 0xfea0_0200;
    /// The I/O APIC's registers.
    pub const IO_APIC: u32 = 0xfec0_0000;
    /// Every vCPU's local APIC.
    pub const LOCAL_APIC: u32 = 0xfee0_0000;
    /// The least RAM with which a guest can begin: the tables, the start information and a kernel.
    pub const MIN_RAM: u64 = 4 << 20;
    /// The most RAM that page tables of four levels and the recipe's limits allow.
    pub const MAX_RAM: u64 = 1 << 40;
    /// vCPUs that the MP table and 8-bit APIC ids allow.
    pub const MAX_CPUS: u32 = 128;
    /// I/O port of the serial console.
    pub const SERIAL_PORT: u16 = 0x3f8;
    /// I/O port of the real-time clock's index; its data follow.
    pub const RTC_PORT: u16 = 0x70;
    /// I/O port of pvpanic.
    pub const PVPANIC_PORT: u16 = 0x505;
    /// Interrupt of the serial console.
    pub const SERIAL_IRQ: u32 = 4;
    /// Interrupt of the generic event device.
    pub const GED_IRQ: u32 = 9;
    /// The crystal that the timers of a PC go by.
    pub const OSCILLATOR_HZ: u64 = 14_318_180;
    /// RAM is given in whole pages.
    pub const PAGE: u64 = 4096;
}

/// The oldest version of the machine.
pub const MICROVM_1_0: &str = "microvm-1.0";
/// The newest version of the machine.
pub const MICROVM_1_1: &str = "microvm-1.1";

/// Where objects of the machine have been in earlier versions of Tern. None has been moved yet.
const MOVES: &[Move] = &[];

/// What all versions of the machine have in common. It watches over the system bus.
#[derive(Object)]
#[object(
    name = "microvm-common", parent = "machine", abstract, stateless, interfaces = [HotplugHandler],
    class_init = common
)]
pub struct MicroVm {}

/// `microvm-1.0`.
#[derive(Object)]
#[object(name = "microvm-1.0", parent = MicroVm, stateless, class_init = version_1_0, phase = Machine)]
pub struct MicroVm10 {}

/// `microvm-1.1`.
#[derive(Object)]
#[object(name = "microvm-1.1", parent = MicroVm, stateless, class_init = version_1_1, phase = Machine)]
pub struct MicroVm11 {}

fn data(class: &mut Class) -> &mut MachineClass {
    class.data_mut().expect("every microvm descends from `machine`")
}

fn common(class: &mut Class) {
    let data = data(class);
    data.description = "small virtual machine: serial console, real-time clock, pvpanic, ACPI and MP tables";
    data.max_cpus = layout::MAX_CPUS;
}

fn version_1_1(class: &mut Class) {
    let data = data(class);
    data.since = Release { major: 0, minor: 1 };
    data.alias = Some("microvm");
    data.is_default = true;
    data.compat
        .extend([GlobalProperty::new("tern-testdev", "timer", "false")]);
}

/// A version begins with what the next one asks for, and adds how it differs from that.
fn version_1_0(class: &mut Class) {
    let data = data(class);
    data.since = Release { major: 0, minor: 1 };
    data.compat.extend([
        GlobalProperty::new("tern-testdev", "timer", "false"),
        GlobalProperty::new("pvpanic", "events", "3"),
    ]);
}

/// What the memory of a guest is made of.
#[derive(Object)]
#[object(name = "memory-backend", parent = "object", abstract, stateless)]
pub struct MemoryBackend {
    #[config(property, default = 0, description = "bytes")]
    size: Config<u64>,
    #[config(property, default = String::new(), description = "what it is made of")]
    backing: Config<String>,
}

/// Memory of the host that a guest has for itself.
#[derive(Object)]
#[object(name = "memory-backend-ram", parent = MemoryBackend, stateless)]
pub struct RamBackend {}

/// What a board is built from.
#[derive(Debug)]
pub struct BoardSpec {
    /// The machine's type, such as [`MICROVM_1_0`].
    pub machine: String,
    /// APIC ids of the vCPUs, the boot processor's first.
    pub cpus: Vec<u32>,
    /// The guest's memory.
    pub ram: Arc<RamBlock>,
    /// What stands for the abstract types.
    pub types: AccelTypes,
    /// What the accelerator and the user ask of all objects of a type. What the machine's version asks for comes between.
    pub defaults: PropertyDefaults,
}

/// Why a board cannot be built.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BoardError {
    /// The type is unknown or no machine.
    #[error("there is no machine {0}; \"vm machines\" lists those that there are")]
    NoMachine(String),
    /// Too few or too many vCPUs.
    #[error("{machine} takes 1 to {most} vCPUs, not {asked}")]
    Cpus {
        /// The machine.
        machine: String,
        /// What was asked for.
        asked: usize,
        /// What it takes.
        most: u32,
    },
    /// RAM of a size that the machine does not take.
    #[error(
        "{machine} takes from {} to {} of memory, in whole pages of 4 KiB, and not {}",
        amount(*.least), amount(*.most), amount(*.asked)
    )]
    Memory {
        /// The machine.
        machine: String,
        /// Bytes asked for.
        asked: u64,
        /// The fewest bytes that it takes.
        least: u64,
        /// The most.
        most: u64,
    },
    /// An object could not be made.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// An object found no place in the tree.
    #[error(transparent)]
    Child(#[from] AddChildError),
    /// A property could not be set.
    #[error(transparent)]
    Property(#[from] PropertyError),
    /// A property could not be added.
    #[error(transparent)]
    AddProperty(#[from] AddPropertyError),
    /// Nothing can be set so.
    #[error(transparent)]
    Global(#[from] GlobalError),
    /// A region found no place.
    #[error("the memory map: {0}")]
    Map(#[from] RegionError),
    /// A device could not be realized.
    #[error(transparent)]
    Realize(#[from] RealizeError),
}

impl From<NewObjectError> for BoardError {
    fn from(error: NewObjectError) -> Self {
        match error {
            NewObjectError::Object(error) => error.into(),
            NewObjectError::Property(error) => error.into(),
        }
    }
}

/// A machine's objects and its memory map: everything of a VM but what executes it.
pub struct Board {
    defaults: PropertyDefaults,
    bus: Obj<Bus>,
    root: Arc<Object>,
    machine: Arc<Object>,
    memory: AddressSpace,
    io: AddressSpace,
    ram: Arc<RamBlock>,
    serial: Obj<Serial16550>,
    power_button: Obj<GenericEventDevice>,
    cpus: Vec<Arc<Object>>,
}

impl Board {
    /// Makes the objects and maps the RAM. Nothing is realized, so an accelerator can attach its listeners first.
    ///
    /// # Errors
    ///
    /// [`BoardError`]: the specification is not one of this machine's.
    pub fn build(table: &Arc<TypeTable>, spec: &BoardSpec) -> Result<Self, BoardError> {
        let compat = check(table, spec)?;
        let defaults = spec.defaults.clone().with_machine(compat);
        defaults.check(table)?;
        let new_object = |type_name: &str| defaults.new_object(table, type_name);
        let root = table.new_object("container")?;
        for name in [USER_OBJECTS, "chardevs", "backend"] {
            root.add_child(name, table.new_object("container")?)?;
        }
        let machine = new_object(&spec.machine)?;
        root.add_child("machine", Arc::clone(&machine))?;
        for name in DeviceName::FOLDERS {
            machine.add_child(name, table.new_object("container")?)?;
        }
        let count = u64::try_from(spec.cpus.len()).unwrap_or(u64::MAX);
        machine.set_property("cpus", PropertyValue::Uint(count))?;
        machine.set_property("memory", PropertyValue::Uint(spec.ram.size()))?;

        let ram = table.new_object("memory-backend-ram")?;
        ram.set_property("size", PropertyValue::Uint(spec.ram.size()))?;
        ram.set_property("backing", PropertyValue::Str(spec.ram.backing().to_string()))?;
        ram.freeze();
        machine.add_const_link("ram", "the guest's memory", &ram)?;
        root.child("backend").expect("made above").add_child("ram", ram)?;

        let bus = new_object(SYSTEM_BUS)?;
        machine.add_child("bus", Arc::clone(&bus))?;
        set_hotplug_handler(&bus, &machine)?;
        let bus: Obj<Bus> = Obj::new(bus).expect("the system bus is a bus");
        let types = &spec.types;
        let devices = [
            ("clock", types.clock),
            ("ged", "acpi-ged"),
            ("i8042", "i8042"),
            ("ioapic", types.ioapic),
            ("pic", types.i8259),
            ("pit", types.i8254),
            ("pvpanic", "pvpanic"),
            ("rtc", "mc146818rtc"),
            ("serial0", "serial16550"),
            ("testexit", "test-exit"),
        ];
        for (name, type_name) in devices {
            let device = new_object(type_name)?;
            machine.add_child(name, Arc::clone(&device))?;
            let device: Obj<Device> = Obj::new(device).expect("what is on the board is a device");
            Bus::plug(&bus, &device).expect("the system bus takes any device");
        }
        let mut cpus = Vec::with_capacity(spec.cpus.len());
        for apic_id in &spec.cpus {
            let cpu = new_object(types.cpu)?;
            machine.add_child(&format!("cpu-{apic_id}"), Arc::clone(&cpu))?;
            cpu.set_property("apic-id", PropertyValue::Uint(u64::from(*apic_id)))?;
            cpu.add_child("apic", new_object(types.apic)?)?;
            cpus.push(cpu);
        }
        let oscillator = Clock::add_to(&machine, "oscillator", layout::OSCILLATOR_HZ)?;
        let pit = machine.resolve(&format!("pit/{CLOCK_INPUT}")).and_then(Obj::new);
        let pit = pit.expect("the timer was made above, and is clocked");
        Clock::feed_from(&pit, &oscillator, (1, 12)).expect("the oscillator is fed by nothing");
        machine.freeze();

        let system = MemorySystem::new();
        let memory = system.address_space("memory", &MemoryRegion::container("memory", 1 << 52));
        let io = system.address_space("io", &MemoryRegion::container("io", 1 << 16));
        map_ram(&memory, &spec.ram)?;
        let serial = machine
            .child("serial0")
            .and_then(Obj::new)
            .expect("serial0 was made above");
        let power_button = machine.child("ged").and_then(Obj::new).expect("ged was made above");
        Ok(Self {
            defaults,
            bus,
            root,
            machine,
            memory,
            io,
            ram: Arc::clone(&spec.ram),
            serial,
            power_button,
            cpus,
        })
    }

    /// Which of its objects have been elsewhere in the tree, so that what was saved of them there is loaded where they are.
    #[must_use]
    pub fn moves(&self) -> &'static [Move] {
        MOVES
    }

    /// Realizes everything but the vCPUs: interrupt controllers and timers first, then the rest, in an order that is a
    /// fixed part of the machine.
    ///
    /// # Errors
    ///
    /// The first device that cannot be realized; those before it are off again, the last first.
    pub fn realize(&self, wiring: &Wiring) -> Result<(), BoardError> {
        if let Some(machine) = self.machine.part::<Machine>() {
            machine.set_timers(&wiring.timers);
        }
        let mut cx = self.context(wiring);
        let mut realized = Vec::new();
        for name in [
            "ioapic", "pic", "pit", "clock", "ged", "i8042", "pvpanic", "rtc", "serial0", "testexit",
        ] {
            let device = self.machine.child(name).expect("build made every device");
            if let Err(error) = realize_device(&device, &mut cx) {
                realized.iter().rev().for_each(unrealize_device);
                return Err(error.into());
            }
            realized.push(device);
        }
        Ok(())
    }

    /// Has the console's port write to `sink`, as the back end `/chardevs/console`. Before [`Self::realize`].
    ///
    /// # Errors
    ///
    /// There is a console already, or the board is realized.
    ///
    /// # Panics
    ///
    /// If the type table has another idea of back ends than this crate.
    pub fn connect_console(&self, sink: Arc<dyn CharSink>) -> Result<(), BoardError> {
        let console = self.root.types().new_object("chardev-host")?;
        let chardev: &Chardev = console.part().expect("a chardev-host descends from `chardev`");
        chardev.set_sink(sink);
        let folder = self.root.child("chardevs").expect("build made it");
        folder.add_child("console", Arc::clone(&console))?;
        Ok(self.serial.object().set_link("chardev", Some(&console))?)
    }

    /// Adds a device that a user wants to the system bus.
    ///
    /// # Errors
    ///
    /// [`HotplugError`]; nothing is left of the device then.
    pub fn add_device(&self, new: NewDevice<'_>, wiring: &Wiring) -> Result<Arc<Object>, HotplugError> {
        add_device(&self.machine, &self.bus, &self.defaults, new, &mut self.context(wiring))
    }

    fn context(&self, wiring: &Wiring) -> RealizeCtx<'_> {
        let Wiring {
            interrupts,
            events,
            doorbells,
            timers,
        } = wiring;
        RealizeCtx::new(&self.memory, &self.io, Arc::clone(interrupts), Arc::clone(events))
            .with_doorbells(doorbells)
            .with_timers(timers)
    }

    /// What is asked of all objects of a type.
    #[must_use]
    pub fn defaults(&self) -> &PropertyDefaults {
        &self.defaults
    }

    /// Realizes one vCPU and its local APIC, after the accelerator has made it.
    ///
    /// # Errors
    ///
    /// As [`Self::realize`].
    pub fn realize_cpu(&self, cpu: &Arc<Object>, wiring: &Wiring) -> Result<(), BoardError> {
        let mut cx = self.context(wiring);
        realize_device(cpu, &mut cx)?;
        let apic = cpu.child("apic").expect("build gave every vCPU its APIC");
        Ok(realize_device(&apic, &mut cx)?)
    }

    /// The root of the composition tree.
    #[must_use]
    pub fn root(&self) -> &Arc<Object> {
        &self.root
    }

    /// The machine: everything that the guest sees is below it.
    #[must_use]
    pub fn machine(&self) -> &Arc<Object> {
        &self.machine
    }

    /// The guest-physical address space.
    #[must_use]
    pub fn memory(&self) -> &AddressSpace {
        &self.memory
    }

    /// The I/O port space.
    #[must_use]
    pub fn io(&self) -> &AddressSpace {
        &self.io
    }

    /// The guest's memory.
    #[must_use]
    pub fn ram(&self) -> &Arc<RamBlock> {
        &self.ram
    }

    /// The console's serial port.
    #[must_use]
    pub fn serial(&self) -> &Obj<Serial16550> {
        &self.serial
    }

    /// The device with the power button.
    #[must_use]
    pub fn power_button(&self) -> &Obj<GenericEventDevice> {
        &self.power_button
    }

    /// The vCPUs, the boot processor first.
    #[must_use]
    pub fn cpus(&self) -> &[Arc<Object>] {
        &self.cpus
    }
}

/// Checks the specification, and returns what the machine's version asks of its objects.
fn check(table: &Arc<TypeTable>, spec: &BoardSpec) -> Result<Vec<GlobalProperty>, BoardError> {
    let class = table
        .class(&spec.machine)
        .map_err(|_| BoardError::NoMachine(spec.machine.clone()))?;
    let data = class
        .data::<MachineClass>()
        .ok_or_else(|| BoardError::NoMachine(spec.machine.clone()))?;
    let count = u32::try_from(spec.cpus.len()).unwrap_or(u32::MAX);
    if count == 0 || count > data.max_cpus {
        return Err(BoardError::Cpus {
            machine: spec.machine.clone(),
            asked: spec.cpus.len(),
            most: data.max_cpus,
        });
    }
    check_memory(&spec.machine, spec.ram.size())?;
    Ok(data.compat.clone())
}

/// Whether a machine takes `bytes` of memory.
///
/// # Errors
///
/// [`BoardError::Memory`] with the bounds.
pub fn check_memory(machine: &str, bytes: u64) -> Result<(), BoardError> {
    if (layout::MIN_RAM..=layout::MAX_RAM).contains(&bytes) && bytes.is_multiple_of(layout::PAGE) {
        return Ok(());
    }
    Err(BoardError::Memory {
        machine: machine.to_owned(),
        asked: bytes,
        least: layout::MIN_RAM,
        most: layout::MAX_RAM,
    })
}

/// A number of bytes with the largest unit that leaves it whole.
fn amount(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let steps = (0..UNITS.len() - 1)
        .take_while(|step| bytes != 0 && (bytes >> (10 * step)).is_multiple_of(1024))
        .count();
    format!("{} {}", bytes >> (10 * steps), UNITS[steps])
}

fn map_ram(memory: &AddressSpace, ram: &Arc<RamBlock>) -> Result<(), RegionError> {
    let low = ram.size().min(layout::LOW_RAM_END);
    memory.transaction(|| {
        memory
            .root()
            .add_subregion(0, &MemoryRegion::ram_part("ram-below-4g", Arc::clone(ram), 0..low)?)?;
        if ram.size() > low {
            let high = MemoryRegion::ram_part("ram-above-4g", Arc::clone(ram), low..ram.size())?;
            memory.root().add_subregion(layout::HIGH_RAM, &high)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_size_of_memory_is_told_with_the_right_ones() {
        let refused = |bytes| check_memory(MICROVM_1_0, bytes).expect_err("refused").to_string();
        assert_eq!(
            refused(1 << 20),
            "microvm-1.0 takes from 4 MiB to 1 TiB of memory, in whole pages of 4 KiB, and not 1 MiB"
        );
        assert!(refused(0).ends_with("and not 0 bytes"));
        assert!(refused((4 << 20) + 1025).ends_with("and not 4195329 bytes"));
        assert!(refused((4 << 20) + 1024).ends_with("and not 4097 KiB"));
        check_memory(MICROVM_1_0, 4 << 20).expect("the least");
    }
}
