//! The machine `microvm-1.0`: what a small virtual machine needs and nothing that only a PC's past explains.
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
//! The guest-visible shape is frozen by release 0.1.0; what is here is not to change after that but by a new version of
//! the machine.

use std::sync::Arc;

use thiserror::Error;
use vmstate::qom::{AddChildError, Class, Config, Obj, Object, ObjectError, PropertyError, PropertyValue, TypeTable};

use crate::acpi::generic_event_device::GenericEventDevice;
use crate::char::Serial16550;
use crate::core::{
    AccelTypes, Bus, Device, IrqSink, MachineClass, MachineEvents, RealizeCtx, RealizeError, SYSTEM_BUS, realize_device,
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
    /// RAM is given in whole pages.
    pub const PAGE: u64 = 4096;
}

/// The type's name.
pub const MICROVM_1_0: &str = "microvm-1.0";

/// The machine's class; instances have no fields of their own.
#[derive(Object)]
#[object(name = "microvm-1.0", parent = "machine", stateless, class_init = class_init)]
pub struct MicroVm {}

fn class_init(class: &mut Class) {
    let data = class
        .data_mut::<MachineClass>()
        .expect("microvm-1.0 descends from `machine`");
    data.description = "small virtual machine: serial console, real-time clock, pvpanic, ACPI and MP tables";
    data.max_cpus = layout::MAX_CPUS;
    data.alias = Some("microvm");
    data.is_default = true;
}

/// The guest's memory as an object of the tree.
#[derive(Object)]
#[object(name = "ram", parent = "object", stateless)]
pub struct Ram {
    #[config(property, default = 0, description = "bytes")]
    size: Config<u64>,
    #[config(property, default = String::new(), description = "what it is made of")]
    backing: Config<String>,
}

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
    /// A region found no place.
    #[error("the memory map: {0}")]
    Map(#[from] RegionError),
    /// A device could not be realized.
    #[error(transparent)]
    Realize(#[from] RealizeError),
}

/// A machine's objects and its memory map: everything of a VM but what executes it.
pub struct Board {
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
        check(table, spec)?;
        let root = table.new_object("container")?;
        for name in ["objects", "chardevs", "backend"] {
            root.add_child(name, table.new_object("container")?)?;
        }
        let machine = table.new_object(&spec.machine)?;
        root.add_child("machine", Arc::clone(&machine))?;
        let count = u64::try_from(spec.cpus.len()).unwrap_or(u64::MAX);
        machine.set_property("cpus", PropertyValue::Uint(count))?;
        machine.set_property("memory", PropertyValue::Uint(spec.ram.size()))?;

        let ram = table.new_object("ram")?;
        ram.set_property("size", PropertyValue::Uint(spec.ram.size()))?;
        ram.set_property("backing", PropertyValue::Str(spec.ram.backing().to_string()))?;
        ram.freeze();
        machine.add_child("ram", ram)?;

        let bus = table.new_object(SYSTEM_BUS)?;
        machine.add_child("bus", Arc::clone(&bus))?;
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
            let device = table.new_object(type_name)?;
            machine.add_child(name, Arc::clone(&device))?;
            let device: Obj<Device> = Obj::new(device).expect("what is on the board is a device");
            Bus::plug(&bus, &device).expect("the system bus takes any device");
        }
        let mut cpus = Vec::with_capacity(spec.cpus.len());
        for apic_id in &spec.cpus {
            let cpu = table.new_object(types.cpu)?;
            machine.add_child(&format!("cpu-{apic_id}"), Arc::clone(&cpu))?;
            cpu.set_property("apic-id", PropertyValue::Uint(u64::from(*apic_id)))?;
            cpu.add_child("apic", table.new_object(types.apic)?)?;
            cpus.push(cpu);
        }
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

    /// Realizes everything but the vCPUs: interrupt controllers and timers first, then the rest, in an order that is a
    /// fixed part of the machine.
    ///
    /// # Errors
    ///
    /// The first device that cannot be realized; dropping the board takes the others off again.
    pub fn realize(&self, interrupts: &Arc<dyn IrqSink>, events: &Arc<dyn MachineEvents>) -> Result<(), BoardError> {
        let mut cx = RealizeCtx::new(&self.memory, &self.io, Arc::clone(interrupts), Arc::clone(events));
        for name in [
            "ioapic", "pic", "pit", "clock", "ged", "i8042", "pvpanic", "rtc", "serial0", "testexit",
        ] {
            let device = self.machine.child(name).expect("build made every device");
            realize_device(&device, &mut cx)?;
        }
        Ok(())
    }

    /// Realizes one vCPU and its local APIC, after the accelerator has made it.
    ///
    /// # Errors
    ///
    /// As [`Self::realize`].
    pub fn realize_cpu(
        &self,
        cpu: &Arc<Object>,
        interrupts: &Arc<dyn IrqSink>,
        events: &Arc<dyn MachineEvents>,
    ) -> Result<(), BoardError> {
        let mut cx = RealizeCtx::new(&self.memory, &self.io, Arc::clone(interrupts), Arc::clone(events));
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

fn check(table: &Arc<TypeTable>, spec: &BoardSpec) -> Result<(), BoardError> {
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
    check_memory(&spec.machine, spec.ram.size())
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
