//! Address spaces: a region tree as a guest sees it, and who follows its changes.

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::{ArcSwap, Guard};
use parking_lot::{Mutex, ReentrantMutex};

use super::difference::announce;
use super::dirty::DirtyClient;
use super::guest::GuestRam;
use super::listener::{ListenerError, ListenerResult, MemoryListener};
use super::region::MemoryRegion;
use super::view::FlatView;

/// The address spaces of one VM, whose changes are made in common transactions. Clones are the same system.
#[derive(Clone, Debug, Default)]
pub struct MemorySystem(Arc<SystemInner>);

/// One address space, such as "memory" or "io". Clones are the same space.
#[derive(Clone)]
pub struct AddressSpace(Arc<SpaceInner>);

#[derive(Debug, Default)]
struct SystemInner {
    /// Outermost in the lock order: taken with no device's lock held, and held while listeners act.
    topology: ReentrantMutex<Topology>,
    spaces: Mutex<Vec<Weak<SpaceInner>>>,
}

/// What the thread that holds the topology lock is doing.
#[derive(Debug, Default)]
struct Topology {
    depth: Cell<u32>,
    committing: Cell<bool>,
}

/// An address space, as its root region knows it.
pub(super) struct SpaceInner {
    name: String,
    root: MemoryRegion,
    system: MemorySystem,
    view: ArcSwap<FlatView>,
    /// By ascending priority.
    pub(super) listeners: Mutex<Vec<Arc<dyn MemoryListener>>>,
    /// The clients for which all RAM is logged, by [`DirtyClient::bit`].
    logging: AtomicU32,
    pending: AtomicBool,
    failure: Mutex<Option<ListenerError>>,
}

impl MemorySystem {
    /// A system without address spaces.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes an address space that shows what is in a region.
    #[must_use]
    pub fn address_space(&self, name: impl Into<String>, root: &MemoryRegion) -> AddressSpace {
        let space = Arc::new(SpaceInner {
            name: name.into(),
            root: root.clone(),
            system: self.clone(),
            view: ArcSwap::from_pointee(FlatView::empty()),
            listeners: Mutex::default(),
            logging: AtomicU32::new(0),
            pending: AtomicBool::new(false),
            failure: Mutex::default(),
        });
        let mut spaces = self.0.spaces.lock();
        spaces.retain(|space| space.strong_count() > 0);
        spaces.push(Arc::downgrade(&space));
        drop(spaces);
        root.add_space(&space);
        regions_changed(std::slice::from_ref(&space));
        AddressSpace(space)
    }

    /// Makes several changes to regions at once: nobody sees them one by one, and listeners are told of the
    /// difference between before and after. Transactions nest; other threads' changes wait.
    pub fn transaction<R>(&self, change: impl FnOnce() -> R) -> R {
        let topology = self.0.topology.lock();
        let nesting = Nesting::enter(&topology);
        let result = change();
        drop(nesting);
        if topology.depth.get() == 0 && !topology.committing.get() {
            self.commit(&topology);
        }
        result
    }

    /// Brings the views of all changed spaces up to date. What listeners change meanwhile makes another round.
    fn commit(&self, topology: &Topology) {
        let _committing = Flag::raise(&topology.committing);
        loop {
            let spaces: Vec<_> = self.0.spaces.lock().iter().filter_map(Weak::upgrade).collect();
            let mut changed = spaces
                .into_iter()
                .filter(|space| space.pending.swap(false, Ordering::AcqRel))
                .peekable();
            if changed.peek().is_none() {
                return;
            }
            changed.for_each(|space| space.update());
        }
    }
}

/// Depth of transactions, right again even if the change panics.
struct Nesting<'a>(&'a Topology);

impl<'a> Nesting<'a> {
    fn enter(topology: &'a Topology) -> Self {
        topology.depth.set(topology.depth.get() + 1);
        Self(topology)
    }
}

impl Drop for Nesting<'_> {
    fn drop(&mut self) {
        self.0.depth.set(self.0.depth.get() - 1);
    }
}

/// A flag that is up during a scope.
struct Flag<'a>(&'a Cell<bool>);

impl<'a> Flag<'a> {
    fn raise(flag: &'a Cell<bool>) -> Self {
        flag.set(true);
        Self(flag)
    }
}

impl Drop for Flag<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// Has spaces look at their regions again, at the end of the transaction if there is one.
pub(super) fn regions_changed(spaces: &[Arc<SpaceInner>]) {
    for space in spaces {
        space
            .system
            .transaction(|| space.pending.store(true, Ordering::Release));
    }
}

impl SpaceInner {
    /// Keeps the map, the listeners and what is logged as they are, for other threads.
    pub(super) fn hold(&self) -> impl Sized + '_ {
        self.system.0.topology.lock()
    }

    /// The listeners, by ascending priority.
    pub(super) fn listeners(&self) -> Vec<Arc<dyn MemoryListener>> {
        self.listeners.lock().clone()
    }

    /// The clients for which RAM is logged, by [`DirtyClient::bit`]; changed while [held](Self::hold).
    pub(super) fn logging(&self) -> u32 {
        self.logging.load(Ordering::Relaxed)
    }

    pub(super) fn set_logging(&self, clients: u32) {
        self.logging.store(clients, Ordering::Relaxed);
    }

    /// Makes the view anew and gives what listeners could not do to the caller, or leaves both to the transaction that
    /// is going on around.
    pub(super) fn redraw(self: &Arc<Self>) -> ListenerResult {
        let earlier = self.take_failure();
        regions_changed(std::slice::from_ref(self));
        let outcome = std::mem::replace(&mut *self.failure.lock(), earlier);
        outcome.map_or(Ok(()), Err)
    }

    /// Makes the view anew and announces how it differs. Called with the topology lock held.
    fn update(&self) {
        let old = self.view.load_full();
        let new = Arc::new(FlatView::of(&self.root, self.logging() != 0));
        self.log_new_blocks(&old, &new);
        let outcome = announce(&self.listeners(), &old, &new, || self.view.store(Arc::clone(&new)));
        self.note(outcome);
    }

    /// A block that comes into view while RAM is being logged is new to the clients in all its pages.
    fn log_new_blocks(&self, old: &FlatView, new: &FlatView) {
        let logging = self.logging();
        if logging == 0 {
            return;
        }
        let known = old.ram_blocks();
        for block in new
            .ram_blocks()
            .iter()
            .filter(|block| !known.iter().any(|known| Arc::ptr_eq(known, block)))
        {
            for client in DirtyClient::ALL
                .into_iter()
                .filter(|client| logging & client.bit() != 0)
            {
                if !block.dirty().is_enabled(client) {
                    block.dirty().enable(client);
                    block.dirty().mark_for(client, 0, block.size());
                }
            }
        }
    }

    pub(super) fn take_failure(&self) -> Option<ListenerError> {
        self.failure.lock().take()
    }

    /// Keeps the first failure until somebody asks.
    pub(super) fn note(&self, outcome: ListenerResult) {
        if let Err(error) = outcome {
            self.failure.lock().get_or_insert(error);
        }
    }
}

impl AddressSpace {
    /// Makes an address space in a system of its own. Where several spaces change together, use
    /// [`MemorySystem::address_space`].
    #[must_use]
    pub fn new(name: impl Into<String>, root: &MemoryRegion) -> Self {
        MemorySystem::new().address_space(name, root)
    }

    /// The name, for messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The region that the space shows.
    #[must_use]
    pub fn root(&self) -> &MemoryRegion {
        &self.0.root
    }

    /// The system that the space belongs to.
    #[must_use]
    pub fn system(&self) -> &MemorySystem {
        &self.0.system
    }

    /// Makes several changes to regions at once; see [`MemorySystem::transaction`].
    pub fn transaction<R>(&self, change: impl FnOnce() -> R) -> R {
        self.0.system.transaction(change)
    }

    pub(super) fn inner(&self) -> &Arc<SpaceInner> {
        &self.0
    }

    /// What the space shows now, read without a lock. To be held only for a moment; keep
    /// [`view`](Self::view) for longer.
    pub(super) fn current(&self) -> Guard<Arc<FlatView>> {
        self.0.view.load()
    }

    /// What the space shows now.
    #[must_use]
    pub fn view(&self) -> Arc<FlatView> {
        self.0.view.load_full()
    }

    /// The RAM that the space shows now, for DMA.
    #[must_use]
    pub fn guest_memory(&self) -> Arc<GuestRam> {
        Arc::clone(self.current().guest_memory())
    }
}

impl fmt::Debug for AddressSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AddressSpace '{}' {:?}", self.0.name, self.view())
    }
}

impl fmt::Debug for SpaceInner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpaceInner")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::testing::{Log, Recorder, constant, heard, listened_to, root};

    #[test]
    fn a_change_outside_a_transaction_takes_effect_at_once() {
        let (space, _, device, log, _) = listened_to();
        device.set_enabled(false);
        assert!(space.view().find(0x10000).is_none());
        assert_eq!(
            heard(&log),
            ["begin", "del 0x10000..0x11000 device", "nop 0x0..0x1000 ram", "commit"]
        );
        device.set_enabled(false);
        assert!(heard(&log).is_empty(), "nothing changed");
    }

    #[test]
    fn a_transaction_announces_the_difference_once() {
        let (space, root, device, log, _) = listened_to();
        space.transaction(|| {
            device.set_enabled(false);
            let other = constant("other", 0x1000, 2);
            root.add_subregion(0x20000, &other).unwrap();
            space.transaction(|| root.move_subregion(&other, 0x8000).unwrap());
            assert!(heard(&log).is_empty() && space.view().find(0x10000).is_some());
        });
        assert_eq!(
            heard(&log),
            [
                "begin",
                "del 0x10000..0x11000 device",
                "nop 0x0..0x1000 ram",
                "add 0x8000..0x9000 other",
                "commit"
            ]
        );
    }

    #[test]
    fn a_change_and_its_opposite_are_no_difference() {
        let (space, root, device, log, _) = listened_to();
        space.transaction(|| {
            root.remove_subregion(&device).unwrap();
            root.add_subregion(0x10000, &device).unwrap();
        });
        assert_eq!(
            heard(&log),
            ["begin", "nop 0x0..0x1000 ram", "nop 0x10000..0x11000 device", "commit"]
        );
    }

    #[test]
    fn a_change_that_panics_leaves_the_space_usable() {
        let (space, root, device, log, _) = listened_to();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            space.transaction(|| {
                device.set_enabled(false);
                panic!("in the middle");
            });
        }));
        assert!(panicked.is_err() && heard(&log).is_empty());
        root.add_subregion(0x20000, &constant("other", 0x1000, 2)).unwrap();
        assert!(space.view().find(0x10000).is_none() && space.view().find(0x20000).is_some());
    }

    #[test]
    fn spaces_of_one_system_change_together_and_share_regions() {
        let (memory_root, io_root, log) = (root(), root(), Log::default());
        let system = MemorySystem::new();
        let memory = system.address_space("memory", &memory_root);
        let io = system.address_space("io", &io_root);
        memory.add_listener(Recorder::named("memory", 0, &log)).unwrap();
        io.add_listener(Recorder::named("io", 0, &log)).unwrap();
        heard(&log);
        let device = constant("device", 0x10, 1);
        system.transaction(|| {
            memory_root.add_subregion(0xf000, &device).unwrap();
            io_root
                .add_subregion(0x3f0, &MemoryRegion::alias("ports", &device, 0, 8))
                .unwrap();
            assert!(heard(&log).is_empty());
        });
        assert_eq!(
            heard(&log),
            [
                "memory begin",
                "memory add 0xf000..0xf010 device",
                "memory commit",
                "io begin",
                "io add 0x3f0..0x3f8 device",
                "io commit"
            ]
        );
        memory_root.add_subregion(0, &constant("more", 0x10, 1)).unwrap();
        assert!(heard(&log).iter().all(|line| line.starts_with("memory")));
        device.set_enabled(false);
        assert!(memory.view().find(0xf000).is_none() && io.view().find(0x3f0).is_none());
        drop(memory);
        device.set_enabled(true);
        assert!(io.view().find(0x3f0).is_some());
    }

    #[test]
    fn a_listener_may_change_regions_and_causes_another_round() {
        struct Hides(MemoryRegion);
        impl MemoryListener for Hides {
            fn commit(&self) -> ListenerResult {
                self.0.set_enabled(false);
                Ok(())
            }
        }
        let (space, _, device, log, _) = listened_to();
        device.set_enabled(false);
        space.add_listener(Arc::new(Hides(device.clone()))).unwrap();
        heard(&log);
        device.set_enabled(true);
        assert!(space.view().find(0x10000).is_none());
        assert_eq!(heard(&log).iter().filter(|line| *line == "commit").count(), 2);
    }

    /// Threads change regions while others look: every view that anybody sees is one that a transaction left.
    #[test]
    fn nobody_sees_the_middle_of_a_transaction() {
        let root = root();
        let (left, right) = (constant("left", 0x1000, 1), constant("right", 0x1000, 2));
        root.add_subregion(0, &left).unwrap();
        root.add_subregion(0x1000, &right).unwrap();
        right.set_enabled(false);
        let space = AddressSpace::new("memory", &root);
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        for _ in 0..500 {
                            space.transaction(|| {
                                let swap = left.is_enabled();
                                left.set_enabled(!swap);
                                right.set_enabled(swap);
                            });
                        }
                    })
                })
                .collect();
            while writers.iter().any(|writer| !writer.is_finished()) {
                let view = space.view();
                assert_eq!(view.sections().len(), 1, "{view}");
            }
        });
    }
}
