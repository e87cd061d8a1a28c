//! The guest's memory as KVM holds it: slots that follow the memory map, and their dirty logs.
//!
//! # Dirty logging
//!
//! KVM keeps a bit per page of a slot. A harvest copies the bits into the block's bitmaps for all clients and leaves them
//! set in KVM; only a *clear* makes KVM watch a page again. The clear of a range must name exactly the bits that were
//! harvested: a bit that was set since then has not been seen by anybody, and clearing it would lose a write. So each
//! slot remembers what was harvested and not yet cleared, and both happen under the slots' lock.
//!
//! Where KVM can start with all bits set, it does: then nothing has to be write-protected at once when logging starts,
//! but piece by piece as ranges are cleared. A client sees all pages dirty at its first harvest, or clears them before.

use std::io;
use std::sync::Arc;

use hw::memory::{ListenerError, ListenerResult, MemoryListener, MemoryRegionSection, PAGE_SIZE, RamBlock};
use kvm_bindings::{
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_INITIALLY_SET, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE,
    KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_enable_cap,
};
use parking_lot::Mutex;

use super::ioctl::{self, GuestVm, SlotPlace};

/// The memory of one VM: listens to an address space and keeps KVM's slots like it.
pub struct KvmMemory {
    vm: Arc<GuestVm>,
    slots: Mutex<Vec<Slot>>,
    protection: Protection,
}

/// How KVM's dirty log is armed again after a harvest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protection {
    /// By the harvest itself.
    Automatic,
    /// By a clear; logs start with all bits clear.
    Manual,
    /// By a clear; logs start with all bits set.
    ManualInitiallySet,
}

/// A piece of guest memory that KVM knows.
struct Slot {
    number: u32,
    guest: u64,
    size: u64,
    block: Arc<RamBlock>,
    /// Where in the block the slot begins.
    offset: u64,
    readonly: bool,
    /// While writes are logged: which pages were harvested and not yet cleared.
    log: Option<Vec<u64>>,
}

impl Slot {
    fn pages(&self) -> u64 {
        self.size / PAGE_SIZE
    }

    fn flags(&self) -> u32 {
        let readonly = if self.readonly { KVM_MEM_READONLY } else { 0 };
        readonly | if self.log.is_some() { KVM_MEM_LOG_DIRTY_PAGES } else { 0 }
    }

    /// Tells KVM of the slot, or of its changed flags.
    fn set(&self, vm: &GuestVm) -> io::Result<()> {
        let place = SlotPlace {
            guest: self.guest,
            size: self.size,
            offset: self.offset,
        };
        vm.show(self.number, self.flags(), place, &self.block)
    }
}

impl KvmMemory {
    /// Takes `vm`, which has no memory yet, and arms its dirty log the best way that it offers.
    pub fn new(vm: Arc<GuestVm>) -> io::Result<Self> {
        let offered = vm.fd().check_extension_raw(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2.into());
        let offered =
            u32::try_from(offered).unwrap_or(0) & (KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET);
        let protection = match (
            offered & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE != 0,
            offered & KVM_DIRTY_LOG_INITIALLY_SET != 0,
        ) {
            (false, _) => Protection::Automatic,
            (true, false) => Protection::Manual,
            (true, true) => Protection::ManualInitiallySet,
        };
        if protection != Protection::Automatic {
            let mut enable = kvm_enable_cap {
                cap: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
                ..Default::default()
            };
            enable.args[0] = offered.into();
            vm.fd().enable_cap(&enable)?;
        }
        Ok(Self {
            vm,
            slots: Mutex::default(),
            protection,
        })
    }

    fn add(&self, section: &MemoryRegionSection) -> io::Result<()> {
        let Some((block, offset)) = &section.ram else {
            return Ok(());
        };
        let mut slots = self.slots.lock();
        let number = (0..)
            .find(|number| slots.iter().all(|slot| slot.number != *number))
            .unwrap_or(u32::MAX);
        let mut slot = Slot {
            number,
            guest: section.guest_address,
            size: section.size,
            block: Arc::clone(block),
            offset: *offset,
            readonly: section.readonly,
            log: None,
        };
        if section.logging {
            slot.log = Some(self.fresh_log(&slot));
        }
        slot.set(&self.vm)?;
        slots.push(slot);
        Ok(())
    }

    fn del(&self, section: &MemoryRegionSection) -> io::Result<()> {
        let mut slots = self.slots.lock();
        let Some(at) = slots
            .iter()
            .position(|slot| slot.guest == section.guest_address && slot.size == section.size)
        else {
            return Ok(());
        };
        let harvested = self.harvest(&mut slots[at]);
        self.vm.hide(slots[at].number)?;
        slots.swap_remove(at);
        harvested
    }

    fn set_logging(&self, section: &MemoryRegionSection, on: bool) -> io::Result<()> {
        let mut slots = self.slots.lock();
        for slot in overlapping(&mut slots, section).filter(|slot| slot.log.is_some() != on && !slot.readonly) {
            let before = slot.log.take();
            slot.log = on.then(|| self.fresh_log(slot));
            if let Err(error) = slot.set(&self.vm) {
                slot.log = before;
                return Err(error);
            }
        }
        Ok(())
    }

    /// What counts as harvested and not yet cleared when logging starts: the bits that KVM sets by itself.
    fn fresh_log(&self, slot: &Slot) -> Vec<u64> {
        let all = if self.protection == Protection::ManualInitiallySet {
            u64::MAX
        } else {
            0
        };
        let mut log = vec![all; to_usize(slot.pages().div_ceil(64))];
        if let (Some(last), rest @ 1..) = (log.last_mut(), slot.pages() % 64) {
            *last &= (1 << rest) - 1;
        }
        log
    }

    fn harvest(&self, slot: &mut Slot) -> io::Result<()> {
        let Some(pending) = &mut slot.log else { return Ok(()) };
        let mut words = Vec::new();
        self.vm.dirty_log(slot.number, &mut words)?;
        if self.protection != Protection::Automatic {
            for (pending, word) in pending.iter_mut().zip(&words) {
                *pending |= word;
            }
        }
        slot.block.dirty().harvest(slot.offset, &words);
        Ok(())
    }

    fn clear(&self, slot: &mut Slot, section: &MemoryRegionSection) -> io::Result<()> {
        let pages = slot.pages();
        let Some(pending) = slot.log.as_mut().filter(|_| self.protection != Protection::Automatic) else {
            return Ok(());
        };
        let first = section.guest_address.saturating_sub(slot.guest) / PAGE_SIZE;
        let end = ((section.guest_address + section.size - slot.guest) / PAGE_SIZE).min(pages);
        // KVM clears in steps of 64 pages; what was not asked for within them stays out of the bitmap.
        let words = to_usize(first / 64)..to_usize(end.div_ceil(64));
        let mut bitmap: Vec<u64> = pending[words.clone()].to_vec();
        if let Some(word) = bitmap.first_mut() {
            *word &= u64::MAX << (first % 64);
        }
        if let (Some(word), rest @ 1..) = (bitmap.last_mut(), end % 64) {
            *word &= (1 << rest) - 1;
        }
        if bitmap.iter().all(|word| *word == 0) {
            return Ok(());
        }
        let start = to_u64(words.start) * 64;
        let count = (to_u64(words.end) * 64).min(pages) - start;
        let count = u32::try_from(count).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        ioctl::clear_dirty_log(self.vm.fd(), slot.number, start, count, &bitmap)?;
        for (pending, cleared) in pending[words].iter_mut().zip(&bitmap) {
            *pending &= !cleared;
        }
        Ok(())
    }
}

/// The slots that show part of `section`.
fn overlapping<'a>(slots: &'a mut [Slot], section: &MemoryRegionSection) -> impl Iterator<Item = &'a mut Slot> {
    let range = section.guest_range();
    slots
        .iter_mut()
        .filter(move |slot| slot.guest < range.end && range.start < slot.guest + slot.size)
}

impl MemoryListener for KvmMemory {
    fn region_add(&self, section: &MemoryRegionSection) -> ListenerResult {
        match section.page_aligned() {
            Some(inside) => self.add(&inside).map_err(failure("show", section)),
            None => Ok(()),
        }
    }

    fn region_del(&self, section: &MemoryRegionSection) -> ListenerResult {
        match section.page_aligned() {
            Some(inside) => self.del(&inside).map_err(failure("take away", section)),
            None => Ok(()),
        }
    }

    fn log_start(&self, section: &MemoryRegionSection) -> ListenerResult {
        self.set_logging(section, true)
            .map_err(failure("log writes to", section))
    }

    fn log_stop(&self, section: &MemoryRegionSection) -> ListenerResult {
        self.set_logging(section, false)
            .map_err(failure("stop logging writes to", section))
    }

    fn log_sync(&self, section: &MemoryRegionSection) -> ListenerResult {
        let mut slots = self.slots.lock();
        overlapping(&mut slots, section)
            .try_for_each(|slot| self.harvest(slot))
            .map_err(failure("read the dirty log of", section))
    }

    fn log_clear(&self, section: &MemoryRegionSection) -> ListenerResult {
        let mut slots = self.slots.lock();
        overlapping(&mut slots, section)
            .try_for_each(|slot| self.clear(slot, section))
            .map_err(failure("clear the dirty log of", section))
    }
}

fn failure<'a>(what: &'a str, section: &'a MemoryRegionSection) -> impl FnOnce(io::Error) -> ListenerError + 'a {
    move |error| ListenerError {
        listener: "kvm memory",
        what: format!("{what} {section:?}"),
        reason: error.to_string(),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "KVM exists on 64-bit hosts only")]
fn to_usize(value: u64) -> usize {
    value as usize
}

fn to_u64(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}
