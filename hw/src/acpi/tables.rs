//! The ACPI tables of a microvm (ACPI 6.5, chapter 5): RSDP, XSDT, FADT, MADT and DSDT, one behind the other.
//!
//! They describe a hardware-reduced machine, as those of QEMU's microvm, Firecracker and Cloud Hypervisor do: no fixed
//! registers, no system control interrupt, and what is not found by probing is a device of the DSDT.

use acpi_tables::aml::{self, EISAName, IO, Interrupt, Name, Path, ResourceTemplate};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};

use super::generic_event_device::{EVENT_POWER_BUTTON, RESET_VALUE, SLEEP_TYPE_OFF, register};
use crate::i386::microvm::layout;

/// Who made the tables.
const OEM: [u8; 6] = *b"TERN  ";
/// What they are the tables of.
const OEM_TABLE: [u8; 8] = *b"MICROVM ";
const OEM_REVISION: u32 = 1;

/// Bytes of a table's header.
const HEADER: u32 = 36;
/// Each table begins at a multiple of this.
const ALIGNMENT: u32 = 16;

/// `IAPC_BOOT_ARCH`: there is no VGA to probe for.
const BOOT_NO_VGA: u16 = 1 << 2;
/// `IAPC_BOOT_ARCH`: message-signalled interrupts must not be used; there is no PCI.
const BOOT_NO_MSI: u16 = 1 << 3;

/// MADT: the machine has 8259s too.
const MADT_PCAT_COMPATIBLE: u32 = 1;

/// Builds the tables, to lie at `address`, where the RSDP is then found.
#[must_use]
pub fn build(address: u32, cpus: u8) -> Vec<u8> {
    let rsdp_bytes = u32::try_from(Rsdp::len()).expect("36 bytes");
    let mut tables = Tables {
        base: address + rsdp_bytes.next_multiple_of(ALIGNMENT),
        bytes: Vec::new(),
    };
    let dsdt = tables.add(&dsdt(cpus));
    let fadt = tables.add(&bytes_of(&fadt(dsdt)));
    let madt = tables.add(&madt(cpus));
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(fadt.into());
    xsdt.add_entry(madt.into());
    let xsdt = tables.add(&bytes_of(&xsdt));

    let mut all = bytes_of(&Rsdp::new(OEM, xsdt.into()));
    pad(&mut all);
    all.extend(tables.bytes);
    all
}

/// Tables one behind the other.
struct Tables {
    base: u32,
    bytes: Vec<u8>,
}

impl Tables {
    /// Adds a table, and returns its address.
    fn add(&mut self, table: &[u8]) -> u32 {
        let offset = u32::try_from(self.bytes.len()).expect("128 processors and a few devices fit into 64 KiB");
        self.bytes.extend_from_slice(table);
        pad(&mut self.bytes);
        self.base + offset
    }
}

fn pad(bytes: &mut Vec<u8>) {
    let alignment = usize::try_from(ALIGNMENT).expect("16");
    bytes.resize(bytes.len().next_multiple_of(alignment), 0);
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// A table around `contents`.
fn table(signature: [u8; 4], revision: u8, contents: &[u8]) -> Vec<u8> {
    let mut table = Sdt::new(signature, HEADER, revision, OEM, OEM_TABLE, OEM_REVISION);
    table.append_slice(contents);
    table.as_slice().to_vec()
}

/// One register of the generic event device.
fn ged_register(register: u32) -> GAS {
    let address = u64::from(layout::GED_REGISTERS + register);
    GAS::new(AddressSpace::SystemMemory, 8, 0, AccessSize::ByteAccess, address)
}

fn fadt(dsdt: u32) -> acpi_tables::fadt::FADT {
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt.into())
        .flag(Flags::Wbinvd)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless)
        .flag(Flags::HwReducedAcpi);
    fadt.iapc_boot_arch = (BOOT_NO_VGA | BOOT_NO_MSI).into();
    fadt.reset_reg = ged_register(register::RESET);
    fadt.reset_value = RESET_VALUE;
    fadt.sleep_control_reg = ged_register(register::SLEEP_CONTROL);
    fadt.sleep_status_reg = ged_register(register::SLEEP_STATUS);
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(*b"TERN\0\0\0\0").into();
    fadt.finalize()
}

/// Processors and interrupt controllers (5.2.12). ISA interrupts are wired one to one, so none is overridden.
fn madt(cpus: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.dword(layout::LOCAL_APIC);
    bytes.dword(MADT_PCAT_COMPATIBLE);
    for id in 0..cpus {
        // Processor local APIC, enabled; the processor's number is its APIC's.
        bytes.vec(&[0, 8, id, id, 1, 0, 0, 0]);
    }
    // The I/O APIC has the first id that no processor has, as in the MP table.
    bytes.vec(&[1, 12, cpus, 0]);
    bytes.dword(layout::IO_APIC);
    bytes.dword(0);
    // NMI reaches LINT1 of all processors, with the polarity and trigger of the bus.
    bytes.vec(&[4, 6, 0xff, 0, 0, 1]);
    table(*b"APIC", 5, &bytes)
}

fn dsdt(cpus: u8) -> Vec<u8> {
    let mut devices = Vec::new();
    for id in 0..cpus {
        processor(id, &mut devices);
    }
    serial(&mut devices);
    real_time_clock(&mut devices);
    pvpanic(&mut devices);
    power_button(&mut devices);
    let mut bytes = aml::Scope::raw(Path::new("\\_SB_"), devices);
    let zero = aml::ZERO;
    aml::Name::new(
        Path::new("\\_S5_"),
        &aml::Package::new(vec![&SLEEP_TYPE_OFF, &zero, &zero, &zero]),
    )
    .to_aml_bytes(&mut bytes);
    table(*b"DSDT", 2, &bytes)
}

/// A device of the system bus: its name, its identification, its number, and what it occupies.
fn device(name: &str, id: &dyn Aml, number: u8, resources: Vec<&dyn Aml>, sink: &mut dyn AmlSink) {
    let id = Name::new(Path::new("_HID"), id);
    let number = Name::new(Path::new("_UID"), &number);
    let resources = (!resources.is_empty()).then(|| Name::new(Path::new("_CRS"), &ResourceTemplate::new(resources)));
    let mut parts: Vec<&dyn Aml> = vec![&id, &number];
    parts.extend(resources.as_ref().map(|resources| resources as &dyn Aml));
    aml::Device::new(Path::new(name), parts).to_aml_bytes(sink);
}

fn processor(id: u8, sink: &mut dyn AmlSink) {
    device(&format!("C{id:03X}"), &"ACPI0007", id, Vec::new(), sink);
}

fn serial(sink: &mut dyn AmlSink) {
    let port = IO::new(layout::SERIAL_PORT, layout::SERIAL_PORT, 1, 8);
    let interrupt = Interrupt::new(true, true, false, false, layout::SERIAL_IRQ);
    device("COM1", &EISAName::new("PNP0501"), 0, vec![&port, &interrupt], sink);
}

/// The clock, without an interrupt: its alarm is not wired.
fn real_time_clock(sink: &mut dyn AmlSink) {
    let ports = IO::new(layout::RTC_PORT, layout::RTC_PORT, 1, 2);
    device("RTC_", &EISAName::new("PNP0B00"), 0, vec![&ports], sink);
}

fn pvpanic(sink: &mut dyn AmlSink) {
    let port = IO::new(layout::PVPANIC_PORT, layout::PVPANIC_PORT, 1, 1);
    device("PEVT", &"QEMU0001", 0, vec![&port], sink);
}

/// The button, and the generic event device by which it is heard of: when the interrupt comes, `_EVT` reads which events
/// there are, and notifies.
fn power_button(sink: &mut dyn AmlSink) {
    const PRESSED: u8 = 0x80;
    device("PWRB", &EISAName::new("PNP0C0C"), 0, Vec::new(), sink);

    let id = Name::new(Path::new("_HID"), &"ACPI0013");
    let number = Name::new(Path::new("_UID"), &0_u8);
    let interrupt = Interrupt::new(true, false, false, false, layout::GED_IRQ);
    let resources = Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&interrupt]));
    let region = aml::OpRegion::new(
        Path::new("EREG"),
        aml::OpRegionSpace::SystemMemory,
        &layout::GED_EVENTS,
        &4_u8,
    );
    let field = aml::Field::new(
        Path::new("EREG"),
        aml::FieldAccessType::DWord,
        aml::FieldLockRule::NoLock,
        aml::FieldUpdateRule::WriteAsZeroes,
        vec![aml::FieldEntry::Named(*b"ESEL", 32)],
    );
    let (events, pressed, nothing) = (aml::Local(0), aml::Local(1), aml::ZERO);
    let event_register = Path::new("ESEL");
    let take = aml::Store::new(&events, &event_register);
    let select = aml::And::new(&pressed, &events, &EVENT_POWER_BUTTON);
    let is_pressed = aml::NotEqual::new(&pressed, &nothing);
    let button = Path::new("PWRB");
    let notify = aml::Notify::new(&button, &PRESSED);
    let if_pressed = aml::If::new(&is_pressed, vec![&notify]);
    let method = aml::Method::new(Path::new("_EVT"), 1, true, vec![&take, &select, &if_pressed]);
    let parts: Vec<&dyn Aml> = vec![&id, &number, &resources, &region, &field, &method];
    aml::Device::new(Path::new("GED_"), parts).to_aml_bytes(sink);
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u32 = layout::ACPI_TABLES;

    fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
        let mut number = [0; 8];
        number[..length].copy_from_slice(&bytes[at..at + length]);
        u64::from_le_bytes(number)
    }

    /// The table at a guest-physical address, with its length and checksum looked at.
    fn table_at(all: &[u8], address: u64) -> &[u8] {
        let rest = &all[usize::try_from(address - u64::from(BASE)).expect("behind the base")..];
        let table = &rest[..usize::try_from(number(rest, 4, 4)).expect("a length")];
        assert_eq!(sum(table), 0, "checksum of {:?}", &table[..4]);
        table
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    /// FADT, MADT and DSDT, found as a guest finds them.
    fn found(all: &[u8]) -> [&[u8]; 3] {
        assert_eq!(&all[..8], b"RSD PTR ");
        assert_eq!((sum(&all[..20]), sum(&all[..36])), (0, 0));
        let xsdt = table_at(all, number(all, 24, 8));
        assert_eq!(&xsdt[..4], b"XSDT");
        let [fadt, madt] = [36, 44].map(|at| table_at(all, number(xsdt, at, 8)));
        assert_eq!((&fadt[..4], &madt[..4]), (&b"FACP"[..], &b"APIC"[..]));
        [fadt, madt, table_at(all, number(fadt, 140, 8))]
    }

    #[test]
    fn every_table_is_found_and_its_checksum_holds() {
        for cpus in [1, 2, 128] {
            let all = build(BASE, cpus);
            let [_, _, dsdt] = found(&all);
            assert_eq!(&dsdt[..4], b"DSDT");
            let end = BASE + u32::try_from(all.len()).expect("small");
            assert!(end <= layout::MP_TABLE, "{cpus} processors: ends at {end:#x}");
        }
    }

    #[test]
    fn the_fadt_is_hardware_reduced_and_names_reset_and_sleep() {
        let all = build(BASE, 1);
        let [fadt, ..] = found(&all);
        let flags = number(fadt, 112, 4);
        assert_eq!(flags & (1 << 20), 1 << 20, "HW_REDUCED_ACPI");
        assert_eq!(flags & (1 << 10), 1 << 10, "RESET_REG_SUP");
        let registers = u64::from(layout::GED_REGISTERS);
        assert_eq!((number(fadt, 120, 8), fadt[128]), (registers + 2, RESET_VALUE));
        assert_eq!(
            (number(fadt, 248, 8), number(fadt, 260, 8)),
            (registers, registers + 1),
            "sleep control and status"
        );
    }

    #[test]
    fn the_madt_lists_every_processor_and_the_io_apic() {
        let all = build(BASE, 3);
        let [_, madt, _] = found(&all);
        let mut rest = &madt[44..];
        let mut processors = Vec::new();
        let mut kinds = Vec::new();
        while !rest.is_empty() {
            let (entry, behind) = rest.split_at(usize::from(rest[1]));
            kinds.push(entry[0]);
            if entry[0] == 0 {
                processors.push((entry[3], entry[4]));
            }
            rest = behind;
        }
        assert_eq!(processors, [(0, 1), (1, 1), (2, 1)]);
        assert_eq!(kinds, [0, 0, 0, 1, 4]);
    }

    #[test]
    fn the_same_machine_has_the_same_tables() {
        assert_eq!(build(BASE, 4), build(BASE, 4));
    }
}
