//! Accesses to an address space by address: the way of a vCPU's exit, and of everything that is no DMA.
//!
//! The view is read without a lock, and no lock of the memory system is held while a device is called.

use super::access::{self, Refused};
use super::listener::MemoryRegionSection;
use super::ops::IoContext;
use super::region::RegionKind;
use super::space::AddressSpace;
use super::units::{to_u64, to_usize};
use super::view::FlatView;

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
        self.each_part(address, bytes.len(), |_, part, section| {
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
        self.each_part(address, bytes.len(), |view, part, section| {
            let bytes = &bytes[part.start..part.start + part.len];
            match section {
                // What an accelerator does without an exit where it can.
                Some(_) if view.signal(part.address, bytes) => Ok(()),
                Some(section) => write_section(section, cx, &part, bytes),
                None => Err(AccessError::Unassigned(part.address)),
            }
        })
    }

    /// Goes through an access piece by piece, each behind one section or none; the first error counts.
    fn each_part(
        &self,
        address: u64,
        len: usize,
        mut visit: impl FnMut(&FlatView, Part, Option<&MemoryRegionSection>) -> Result<(), AccessError>,
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
            outcome = outcome.and(visit(&view, part, section));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::testing::{constant, pages, root};
    use crate::memory::{AccessRules, MemoryRegion, PAGE_SIZE, RegionOps};
    use parking_lot::Mutex;
    use std::sync::Arc;

    #[test]
    fn nothing_reads_as_all_ones_and_says_so() {
        let space = AddressSpace::new("memory", &root());
        let mut bytes = [0; 4];
        assert_eq!(space.read(0x1000, &mut bytes), Err(AccessError::Unassigned(0x1000)));
        assert_eq!(bytes, [0xff; 4]);
        assert_eq!(space.write(0x1000, &bytes), Err(AccessError::Unassigned(0x1000)));
        assert_eq!(space.read(u64::MAX, &mut bytes), Err(AccessError::Unassigned(u64::MAX)));
    }

    #[test]
    fn an_access_goes_on_over_borders() {
        let root = root();
        root.add_subregion(0, &MemoryRegion::ram("ram", pages(1))).unwrap();
        root.add_subregion(PAGE_SIZE, &constant("a", 4, 0xaa)).unwrap();
        root.add_subregion(PAGE_SIZE + 6, &constant("b", 4, 0xbb)).unwrap();
        let space = AddressSpace::new("memory", &root);
        space.write(PAGE_SIZE - 2, &[1, 2, 3]).unwrap();
        let mut bytes = [0; 10];
        let outcome = space.read(PAGE_SIZE - 2, &mut bytes);
        assert_eq!(bytes, [1, 2, 0xaa, 0xaa, 0xaa, 0xaa, 0xff, 0xff, 0xbb, 0xbb]);
        assert_eq!(outcome, Err(AccessError::Unassigned(PAGE_SIZE + 4)));
    }

    #[test]
    fn rom_refuses_writes_and_is_read() {
        let root = root();
        let block = pages(1);
        block.write(0, b"firmware").unwrap();
        root.add_subregion(0xf000, &MemoryRegion::rom("rom", Arc::clone(&block)))
            .unwrap();
        let space = AddressSpace::new("memory", &root);
        assert_eq!(space.write(0xf000, b"overwrite"), Err(AccessError::ReadOnly(0xf000)));
        let mut bytes = [0; 8];
        space.read(0xf000, &mut bytes).unwrap();
        assert_eq!(&bytes, b"firmware");
    }

    #[test]
    fn writes_to_ram_are_recorded() {
        let (root, block) = (root(), pages(4));
        root.add_subregion(0, &MemoryRegion::ram("ram", Arc::clone(&block)))
            .unwrap();
        let space = AddressSpace::new("memory", &root);
        let client = crate::memory::DirtyClient::Migration;
        space.log_global_start(client).unwrap();
        space.write(2 * PAGE_SIZE, &[1]).unwrap();
        assert_eq!(block.dirty().next_dirty(client, 0), Some(2 * PAGE_SIZE));
    }

    #[test]
    fn an_access_that_a_device_does_not_take_is_told_apart() {
        struct Silent;
        impl RegionOps for Silent {
            fn read(&self, _: &mut IoContext, _: u64, _: u8) -> u64 {
                panic!("not reached")
            }
            fn write(&self, _: &mut IoContext, _: u64, _: u8, _: u64) {
                panic!("not reached")
            }
        }
        let root = root();
        root.add_subregion(
            0,
            &MemoryRegion::io("dwords", 16, Arc::new(Silent), AccessRules::DWORDS),
        )
        .unwrap();
        let space = AddressSpace::new("memory", &root);
        let mut bytes = [0; 2];
        assert_eq!(space.read(4, &mut bytes), Err(AccessError::Refused(4)));
        assert_eq!(bytes, [0xff; 2]);
        assert_eq!(space.write(2, &[0; 4]), Err(AccessError::Refused(2)));
    }

    /// A device that moves itself, and asks the space while its lock is free.
    struct Mover {
        lock: Mutex<u64>,
        root: MemoryRegion,
        own: Mutex<Option<MemoryRegion>>,
    }

    impl RegionOps for Mover {
        fn read(&self, _: &mut IoContext, offset: u64, _: u8) -> u64 {
            *self.lock.lock() + offset
        }

        fn write(&self, cx: &mut IoContext, _: u64, _: u8, value: u64) {
            let mut position = self.lock.lock();
            *position = value;
            let (root, own) = (self.root.clone(), self.own.lock().clone().unwrap());
            cx.defer(move || root.move_subregion(&own, value).unwrap());
        }
    }

    #[test]
    fn a_device_moves_itself_as_an_effect_that_is_done_on_return() {
        let root = root();
        let device = Arc::new(Mover {
            lock: Mutex::new(0),
            root: root.clone(),
            own: Mutex::default(),
        });
        let region = MemoryRegion::io("mover", 0x100, device.clone(), AccessRules::default());
        *device.own.lock() = Some(region.clone());
        root.add_subregion(0x1000, &region).unwrap();
        let space = AddressSpace::new("memory", &root);
        space.write(0x1000, &0x4000u32.to_le_bytes()).unwrap();
        let mut bytes = [0; 4];
        assert!(space.read(0x1000, &mut bytes).is_err());
        space.read(0x4010, &mut bytes).unwrap();
        assert_eq!(u32::from_le_bytes(bytes), 0x4010);
        *device.own.lock() = None;
    }

    #[test]
    fn a_region_does_not_keep_its_device_alive() {
        let root = root();
        let device = Arc::new(Mover {
            lock: Mutex::new(0),
            root: root.clone(),
            own: Mutex::default(),
        });
        let ops: Arc<dyn RegionOps> = Arc::new(Arc::downgrade(&device));
        root.add_subregion(0, &MemoryRegion::io("mover", 0x100, ops, AccessRules::default()))
            .unwrap();
        let space = AddressSpace::new("memory", &root);
        drop(device);
        let mut bytes = [0; 4];
        space.read(0, &mut bytes).unwrap();
        assert_eq!(bytes, [0xff; 4]);
        space.write(0, &bytes).unwrap();
    }
}
