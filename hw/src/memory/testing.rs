//! Fixtures for the tests of this module: blocks, trees, and a listener that writes down what it is told.

use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{
    AccessRules, AddressSpace, Backing, EventFdSection, IoContext, ListenerError, ListenerResult, MemoryListener,
    MemoryRegion, MemoryRegionSection, PAGE_SIZE, RamBlock, RegionOps,
};

pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;

/// Fresh RAM of so many pages.
pub(super) fn pages(count: u64) -> Arc<RamBlock> {
    RamBlock::new("ram", count * PAGE_SIZE, Backing::PrivateAnonymous).unwrap()
}

/// A container that is as large as an address space.
pub(crate) fn root() -> MemoryRegion {
    MemoryRegion::container("root", u64::MAX)
}

/// An I/O region that answers every read with one byte, repeated.
pub(crate) fn constant(name: &str, size: u64, byte: u8) -> MemoryRegion {
    struct Constant(u8);
    impl RegionOps for Constant {
        fn read(&self, _: &mut IoContext, _: u64, _: u8) -> u64 {
            u64::from_ne_bytes([self.0; 8])
        }
        fn write(&self, _: &mut IoContext, _: u64, _: u8, _: u64) {}
    }
    MemoryRegion::io(name, size, Arc::new(Constant(byte)), AccessRules::default())
}

/// What several listeners are told, in the order in which it happens.
pub(super) type Log = Arc<Mutex<Vec<String>>>;

/// What was written down since the last look.
pub(super) fn heard(log: &Log) -> Vec<String> {
    std::mem::take(&mut log.lock())
}

/// A listener that writes down what it is told, under its name, and can be made to fail.
#[derive(Default)]
pub(super) struct Recorder {
    pub(super) name: &'static str,
    pub(super) priority: i32,
    pub(super) log: Log,
    /// The call that fails.
    pub(super) fails_at: Mutex<Option<&'static str>>,
}

impl Recorder {
    pub(super) fn new(log: &Log) -> Arc<Self> {
        Arc::new(Self {
            log: Arc::clone(log),
            ..Self::default()
        })
    }

    pub(super) fn named(name: &'static str, priority: i32, log: &Log) -> Arc<Self> {
        Arc::new(Self {
            name,
            priority,
            log: Arc::clone(log),
            ..Self::default()
        })
    }

    fn note(&self, call: &str, about: &str) -> ListenerResult {
        let words = [self.name, call, about].into_iter().filter(|word| !word.is_empty());
        self.log.lock().push(words.collect::<Vec<_>>().join(" "));
        match *self.fails_at.lock() {
            Some(failing) if failing == call => Err(ListenerError {
                listener: "recorder",
                what: call.to_owned(),
                reason: "told to fail".to_owned(),
            }),
            _ => Ok(()),
        }
    }

    fn section(&self, call: &str, section: &MemoryRegionSection) -> ListenerResult {
        let range = section.guest_range();
        self.note(
            call,
            &format!("{:#x}..{:#x} {}", range.start, range.end, section.region.name()),
        )
    }
}

impl MemoryListener for Recorder {
    fn priority(&self) -> i32 {
        self.priority
    }

    fn begin(&self) {
        let _ = self.note("begin", "");
    }

    fn region_add(&self, section: &MemoryRegionSection) -> ListenerResult {
        self.section("add", section)
    }

    fn region_del(&self, section: &MemoryRegionSection) -> ListenerResult {
        self.section("del", section)
    }

    fn region_nop(&self, section: &MemoryRegionSection) {
        let _ = self.section("nop", section);
    }

    fn log_start(&self, section: &MemoryRegionSection) -> ListenerResult {
        self.section("log_start", section)
    }

    fn log_stop(&self, section: &MemoryRegionSection) -> ListenerResult {
        self.section("log_stop", section)
    }

    fn log_sync(&self, section: &MemoryRegionSection) -> ListenerResult {
        self.section("log_sync", section)
    }

    fn log_clear(&self, section: &MemoryRegionSection) -> ListenerResult {
        self.section("log_clear", section)
    }

    fn log_sync_global(&self) -> ListenerResult {
        self.note("log_sync_global", "")
    }

    fn log_global_start(&self) -> ListenerResult {
        self.note("log_global_start", "")
    }

    fn log_global_stop(&self) {
        let _ = self.note("log_global_stop", "");
    }

    fn eventfd_add(&self, eventfd: &EventFdSection) -> ListenerResult {
        self.note("eventfd_add", &format!("{:#x}", eventfd.guest_address))
    }

    fn eventfd_del(&self, eventfd: &EventFdSection) -> ListenerResult {
        self.note("eventfd_del", &format!("{:#x}", eventfd.guest_address))
    }

    fn commit(&self) -> ListenerResult {
        self.note("commit", "")
    }
}

/// A space with RAM at 0 and a device at 0x10000, and a listener that has been told of them.
pub(super) fn listened_to() -> (AddressSpace, MemoryRegion, MemoryRegion, Log, Arc<Recorder>) {
    let (root, log) = (root(), Log::default());
    let device = constant("device", 0x1000, 1);
    root.add_subregion(0, &MemoryRegion::ram("ram", pages(1))).unwrap();
    root.add_subregion(0x10000, &device).unwrap();
    let space = AddressSpace::new("memory", &root);
    let listener = Recorder::new(&log);
    space.add_listener(listener.clone()).unwrap();
    heard(&log);
    (space, root, device, log, listener)
}

/// A list of one range, which a literal would leave in doubt.
pub(super) fn only(range: Range<u64>) -> Vec<Range<u64>> {
    std::iter::once(range).collect()
}
