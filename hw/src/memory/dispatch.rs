//! Accesses to an address space by address: the way of a vCPU's exit, and of everything that is no DMA.
//!
//! The view is read without a lock, and no lock of the memory system is held while a device is called.

use super::access::{self, Refused};
use super::listener::MemoryRegionSection;
use super::ops::IoContext;
use super::region::RegionKind;
use super::space::AddressSpace;
use super::units::{to_u64, to_usize};

/// Part of an access that reached nothing. The rest of it was carried out, and what was read there is all ones: a bus
/// does the same, so that a vCPU goes on, and only who cares looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// Nothing lies at the address.
    #[error("nothing lies at address {0:#x}")]
    Unassigned(u64),
    /// A write to read-only memory.
    #[error("memory at address {0:#x} is read-only")]
    ReadOnly(u64),
    /// The device does not take accesses of this size or alignment.
    #[error("the device at address {0:#x} does not take an access of this size or alignment")]
    Refused(u64),
}

impl AddressSpace {
    /// Reads bytes at an address, from RAM and devices alike.
    ///
    /// # Errors
    ///
    /// The first [`AccessError`]; `bytes` are all valid nonetheless, with ones where nothing answered.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), AccessError> {
        let mut cx = IoContext::new();
        let outcome = self.read_with(&mut cx, address, bytes);
        cx.run_effects();
        outcome
    }

    /// Writes bytes at an address, to RAM and devices alike. What the devices deferred has been done on return.
    ///
    /// # Errors
    ///
    /// The first [`AccessError`]; the rest was written nonetheless.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), AccessError> {
        let mut cx = IoContext::new();
        let outcome = self.write_with(&mut cx, address, bytes);
        cx.run_effects();
        outcome
    }

    /// As [`read`](Self::read), but leaves it to the caller to run what the devices deferred.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn read_with(&self, cx: &mut IoContext, address: u64, bytes: &mut [u8]) -> Result<(), AccessError> {
        self.each_part(address, bytes.len(), |part, section| {
            let part_bytes = &mut bytes[part.start..part.start + part.len];
            let outcome = section.map_or(Err(AccessError::Unassigned(part.address)), |section| {
                read_section(section, cx, &part, part_bytes)
            });
            if matches!(outcome, Err(AccessError::Unassigned(_))) {
                part_bytes.fill(0xff);
            }
            outcome
        })
    }

    /// As [`write`](Self::write), but leaves it to the caller to run what the devices deferred.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn write_with(&self, cx: &mut IoContext, address: u64, bytes: &[u8]) -> Result<(), AccessError> {
        self.each_part(address, bytes.len(), |part, section| match section {
            Some(section) => write_section(section, cx, &part, &bytes[part.start..part.start + part.len]),
            None => Err(AccessError::Unassigned(part.address)),
        })
    }

    /// Goes through an access piece by piece, each behind one section or none; the first error counts.
    fn each_part(
        &self,
        address: u64,
        len: usize,
        mut visit: impl FnMut(Part, Option<&MemoryRegionSection>) -> Result<(), AccessError>,
    ) -> Result<(), AccessError> {
        let view = self.current();
        let mut outcome = Ok(());
        let mut start = 0;
        while start < len {
            // Addresses wrap, as on a bus.
            let at = address.wrapping_add(to_u64(start));
            let section = view.find(at);
            let room = section.map_or_else(|| view.gap_at(at).max(1), |section| section.guest_range().end - at);
            let part = Part {
                start,
                len: to_usize(room.min(to_u64(len - start))),
                address: at,
            };
            start += part.len;
            outcome = outcome.and(visit(part, section));
        }
        outcome
    }
}

/// A piece of an access: which of its bytes, and at which address.
struct Part {
    start: usize,
    len: usize,
    address: u64,
}

fn read_section(
    section: &MemoryRegionSection,
    cx: &mut IoContext,
    part: &Part,
    bytes: &mut [u8],
) -> Result<(), AccessError> {
    let inside = part.address - section.guest_address;
    match (&section.ram, section.region.kind()) {
        (Some((block, offset)), _) => block
            .read(offset + inside, bytes)
            .map_err(|_| AccessError::Unassigned(part.address)),
        (None, RegionKind::Io { ops, rules }) => {
            access::read(&**ops, rules, cx, section.offset_in_region + inside, bytes)
                .map_err(|Refused| AccessError::Refused(part.address))
        }
        (None, _) => Err(AccessError::Unassigned(part.address)),
    }
}

fn write_section(
    section: &MemoryRegionSection,
    cx: &mut IoContext,
    part: &Part,
    bytes: &[u8],
) -> Result<(), AccessError> {
    let inside = part.address - section.guest_address;
    match (&section.ram, section.region.kind()) {
        (Some(_), _) if section.readonly => Err(AccessError::ReadOnly(part.address)),
        (Some((block, offset)), _) => block
            .write(offset + inside, bytes)
            .map_err(|_| AccessError::ReadOnly(part.address)),
        (None, RegionKind::Io { ops, rules }) => {
            access::write(&**ops, rules, cx, section.offset_in_region + inside, bytes)
                .map_err(|Refused| AccessError::Refused(part.address))
        }
        (None, _) => Err(AccessError::Unassigned(part.address)),
    }
}
