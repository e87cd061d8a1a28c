//! The MP table (Intel MultiProcessor Specification 1.4), by which a guest finds its processors and the I/O APIC.

use super::microvm::layout;

/// Bytes of the floating pointer structure (section 4.1).
const POINTER: usize = 16;
/// Bytes of the configuration table's header (section 4.2).
const HEADER: usize = 44;
/// Inputs of the ISA bus.
const ISA_IRQS: u8 = 16;
/// What the table reports as the APICs' version.
const APIC_VERSION: u8 = 0x14;

/// Builds the floating pointer and, right behind it, the configuration table, to lie at `address`.
///
/// The I/O APIC's id is the first one that no processor has, and the ISA interrupts are wired one to one, the timer's
/// among them: that is how KVM routes them by itself.
#[must_use]
pub fn build(address: u32, cpus: u8) -> Vec<u8> {
    let table = table(cpus);
    let mut bytes = Vec::with_capacity(POINTER + table.len());
    bytes.extend(b"_MP_");
    bytes.extend((address + 16).to_le_bytes());
    // Length in paragraphs, specification revision 1.4, checksum, five feature bytes: a configuration table is there.
    bytes.extend([1, 4, 0, 0, 0, 0, 0, 0]);
    bytes[10] = checksum(&bytes[..POINTER]);
    bytes.extend(table);
    bytes
}

fn table(cpus: u8) -> Vec<u8> {
    let io_apic = cpus;
    let mut entries = Vec::new();
    let mut count = 0_u16;
    let mut entry = |bytes: &[u8]| {
        entries.extend_from_slice(bytes);
        count += 1;
    };
    for id in 0..cpus {
        // Enabled, and the first one is the boot processor; signature and features are left to CPUID.
        let mut processor = [0; 20];
        processor[..4].copy_from_slice(&[0, id, APIC_VERSION, if id == 0 { 0b11 } else { 0b01 }]);
        entry(&processor);
    }
    entry(&[1, 0, b'I', b'S', b'A', b' ', b' ', b' ']);
    let [a, b, c, d] = layout::IO_APIC.to_le_bytes();
    entry(&[2, io_apic, APIC_VERSION, 1, a, b, c, d]);
    // Vectored interrupts that conform to the bus; the cascade of the 8259s is none.
    for irq in (0..ISA_IRQS).filter(|irq| *irq != 2) {
        entry(&[3, 0, 0, 0, 0, irq, io_apic, irq]);
    }
    // The 8259s reach LINT0 of the boot processor, NMI reaches LINT1 of all.
    entry(&[4, 3, 0, 0, 0, 0, 0, 0]);
    entry(&[4, 1, 0, 0, 0, 0, 0xff, 1]);

    let length = u16::try_from(HEADER + entries.len()).expect("255 processors and a few more entries fit into 64 KiB");
    let mut bytes = Vec::with_capacity(usize::from(length));
    bytes.extend(b"PCMP");
    bytes.extend(length.to_le_bytes());
    bytes.extend([4, 0]);
    bytes.extend(b"TERN    MICROVM     ");
    bytes.extend([0; 6]);
    bytes.extend(count.to_le_bytes());
    bytes.extend(layout::LOCAL_APIC.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(entries);
    bytes[7] = checksum(&bytes);
    bytes
}

/// The byte that makes the sum over `bytes`, in which its own place is zero, vanish.
fn checksum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0_u8, |sum, byte| sum.wrapping_add(*byte))
        .wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn both_checksums_hold() {
        let bytes = build(0x9_fc00, 4);
        assert_eq!(sum(&bytes[..POINTER]), 0);
        assert_eq!(sum(&bytes[POINTER..]), 0);
    }

    #[test]
    fn every_processor_is_listed_and_the_first_boots() {
        let bytes = build(0x9_fc00, 3);
        let processors = &bytes[POINTER + HEADER..][..60];
        let listed: Vec<_> = processors
            .chunks(20)
            .map(|entry| (entry[0], entry[1], entry[3]))
            .collect();
        assert_eq!(listed, [(0, 0, 3), (0, 1, 1), (0, 2, 1)]);
    }

    #[test]
    fn the_pointer_leads_to_the_table() {
        let bytes = build(0x9_fc00, 1);
        assert_eq!(bytes[4..8], 0x9_fc10_u32.to_le_bytes());
        assert_eq!(&bytes[POINTER..POINTER + 4], b"PCMP");
    }
}
