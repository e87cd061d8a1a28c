//! Doorbells: registers whose writes reach a device as events, while the vCPU that writes goes on.
//!
//! ```text
//!   guest's write --> KVM's ioeventfd --+
//!                                       +--> eventfd --> I/O thread --> DoorbellHandler
//!   dispatch, without KVM --------------+                    ^
//!                                                     quiesce, at a pause
//! ```
//!
//! A ring that nobody has served is not part of any state. So a pause has them all served, after the vCPUs have stopped
//! and before any state is read: [`Doorbells::quiesce`].

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::{self, JoinHandle};

use parking_lot::{Condvar, Mutex};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::memory::MemoryRegion;

/// Serves one doorbell.
///
/// Called on the I/O thread, or by whoever pauses the guest; by one at a time for all doorbells of a VM, with no lock of
/// a device held. It must not wait for a vCPU, nor for the guest to be paused or resumed.
pub trait DoorbellHandler: Send + Sync {
    /// It was rung so many times since the last call, at least once.
    fn rung(&self, times: u64);
}

/// Where a doorbell is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoorbellPlace {
    /// The offset in its region.
    pub offset: u64,
    /// The width of the write that rings, or 0 for any.
    pub size: u8,
    /// The value that rings; `None` for any.
    pub match_data: Option<u64>,
}

/// Doorbells were rung anew for as long as they were served: a handler rings its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the devices of this VM ring their own doorbells without end, which is a defect of theirs")]
pub struct NeverQuiet;

/// All doorbells of a VM, and the thread that serves them, which is made for the first of them.
#[derive(Default)]
pub struct Doorbells {
    hub: Arc<Hub>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread, the doorbells and their owner share.
#[derive(Default)]
struct Hub {
    bells: Mutex<Vec<Arc<Bell>>>,
    /// Held while doorbells are served. The flag: the thread may serve them.
    live: Mutex<bool>,
    changed: Condvar,
    ended: AtomicBool,
    /// Made for the first doorbell, as most VMs have none.
    waiting: OnceLock<Waiting>,
}

struct Bell {
    eventfd: Arc<EventFd>,
    handler: Arc<dyn DoorbellHandler>,
}

/// A doorbell; dropping it takes it off the map again.
pub struct Doorbell {
    hub: Weak<Hub>,
    region: MemoryRegion,
    bell: Arc<Bell>,
}

impl Doorbells {
    /// None yet. They are served from the first [`Self::go_live`] on.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Has writes at a place of `region` ring, instead of reaching the region's device.
    ///
    /// # Errors
    ///
    /// If the process has no file descriptors or threads left.
    pub fn add(
        &self,
        region: &MemoryRegion,
        place: DoorbellPlace,
        handler: Arc<dyn DoorbellHandler>,
    ) -> io::Result<Doorbell> {
        let bell = Arc::new(Bell {
            eventfd: Arc::new(EventFd::new(EFD_NONBLOCK)?),
            handler,
        });
        self.start()?.add(&bell.eventfd)?;
        self.hub.bells.lock().push(Arc::clone(&bell));
        region.add_eventfd(place.offset, place.size, place.match_data, Arc::clone(&bell.eventfd));
        Ok(Doorbell {
            hub: Arc::downgrade(&self.hub),
            region: region.clone(),
            bell,
        })
    }

    /// Serves what was rung, and has nothing served from now on. The vCPUs stand still, so that nobody rings any more.
    ///
    /// # Errors
    ///
    /// [`NeverQuiet`]; doorbells are not served then either.
    pub fn quiesce(&self) -> Result<(), NeverQuiet> {
        // More than any chain of devices that ring each other is long.
        const MOST: usize = 1000;
        let mut live = self.hub.live.lock();
        *live = false;
        if (0..MOST).any(|_| !self.hub.serve()) {
            Ok(())
        } else {
            Err(NeverQuiet)
        }
    }

    /// Has doorbells served, before the vCPUs run.
    pub fn go_live(&self) {
        *self.hub.live.lock() = true;
        self.hub.changed.notify_all();
    }

    /// Ends the thread. Nothing is served any more. Does nothing the second time.
    pub fn end(&self) {
        self.hub.ended.store(true, Ordering::SeqCst);
        // Under the lock, so that a thread that has just looked is waiting by now.
        drop(self.hub.live.lock());
        self.hub.changed.notify_all();
        if let Some(waiting) = self.hub.waiting.get() {
            waiting.wake();
        }
        if let Some(thread) = self.thread.lock().take() {
            // A panic of a handler has been printed.
            let _ = thread.join();
        }
    }

    /// Makes the thread, if there is none yet, and what it waits for.
    fn start(&self) -> io::Result<&Waiting> {
        let mut thread = self.thread.lock();
        if self.hub.waiting.get().is_none() {
            let waiting = Waiting::new()?;
            self.hub.waiting.get_or_init(|| waiting);
        }
        if thread.is_none() && !self.hub.ended.load(Ordering::SeqCst) {
            let hub = Arc::clone(&self.hub);
            *thread = Some(
                thread::Builder::new()
                    .name("doorbells".to_owned())
                    .spawn(move || hub.main())?,
            );
        }
        self.hub.waiting.get().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Drop for Doorbells {
    fn drop(&mut self) {
        self.end();
    }
}

impl Hub {
    fn main(&self) {
        while self.waiting.get().is_some_and(Waiting::wait) && !self.ended.load(Ordering::SeqCst) {
            let mut live = self.live.lock();
            while !*live && !self.ended.load(Ordering::SeqCst) {
                self.changed.wait(&mut live);
            }
            if !self.ended.load(Ordering::SeqCst) {
                self.serve();
            }
        }
    }

    /// Serves each doorbell that was rung, with the lock held that the caller has; false if there was none.
    fn serve(&self) -> bool {
        let bells = self.bells.lock().clone();
        let mut any = false;
        for bell in bells {
            // It fails where nobody has rung.
            if let Ok(times @ 1..) = bell.eventfd.read() {
                bell.handler.rung(times);
                any = true;
            }
        }
        any
    }
}

impl Drop for Doorbell {
    fn drop(&mut self) {
        self.region.remove_eventfd(&self.bell.eventfd);
        if let Some(hub) = self.hub.upgrade() {
            hub.bells.lock().retain(|own| !Arc::ptr_eq(own, &self.bell));
            if let Some(waiting) = hub.waiting.get() {
                waiting.remove(&self.bell.eventfd);
            }
        }
    }
}

/// Waits for any of many eventfds.
struct Waiting {
    epoll: Epoll,
    /// Signalled once, to end the waiting.
    end: EventFd,
}

impl Waiting {
    fn new() -> io::Result<Self> {
        let this = Self {
            epoll: Epoll::new()?,
            end: EventFd::new(EFD_NONBLOCK)?,
        };
        this.add(&this.end)?;
        Ok(this)
    }

    fn add(&self, eventfd: &EventFd) -> io::Result<()> {
        let event = EpollEvent::new(EventSet::IN, 0);
        self.epoll.ctl(ControlOperation::Add, eventfd.as_raw_fd(), event)
    }

    fn remove(&self, eventfd: &EventFd) {
        // It was added, and fails for nothing else.
        let _ = self
            .epoll
            .ctl(ControlOperation::Delete, eventfd.as_raw_fd(), EpollEvent::default());
    }

    /// Waits until one is signalled; false if there is nothing to wait for any more.
    fn wait(&self) -> bool {
        loop {
            match self.epoll.wait(-1, &mut [EpollEvent::default()]) {
                Ok(_) => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }

    fn wake(&self) {
        // It fails only where it was signalled 2^64 times before.
        let _ = self.end.write(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::testing::{constant, root};
    use crate::memory::{AccessError, AddressSpace};
    use std::sync::atomic::AtomicU64;

    /// Counts rings, and says so.
    #[derive(Default)]
    struct Counter {
        rung: Mutex<u64>,
        changed: Condvar,
    }

    impl DoorbellHandler for Counter {
        fn rung(&self, times: u64) {
            *self.rung.lock() += times;
            self.changed.notify_all();
        }
    }

    struct Rig {
        doorbells: Doorbells,
        space: AddressSpace,
        region: MemoryRegion,
        counter: Arc<Counter>,
        bell: Option<Doorbell>,
    }

    fn rig(place: DoorbellPlace) -> Rig {
        let root = root();
        let region = constant("device", 0x100, 7);
        root.add_subregion(0x1000, &region).unwrap();
        let (doorbells, counter) = (Doorbells::new(), Arc::<Counter>::default());
        let bell = doorbells.add(&region, place, counter.clone()).unwrap();
        Rig {
            doorbells,
            space: AddressSpace::new("memory", &root),
            region,
            counter,
            bell: Some(bell),
        }
    }

    const ANY_DWORD: DoorbellPlace = DoorbellPlace {
        offset: 4,
        size: 4,
        match_data: None,
    };

    #[test]
    fn a_write_without_kvm_rings_like_one_with_it() {
        let rig = rig(ANY_DWORD);
        rig.doorbells.go_live();
        rig.space.write(0x1004, &[1, 0, 0, 0]).unwrap();
        let mut rung = rig.counter.rung.lock();
        while *rung == 0 {
            rig.counter.changed.wait(&mut rung);
        }
    }

    #[test]
    fn what_was_rung_is_served_before_a_pause_ends_and_nothing_during_it() {
        let rig = rig(ANY_DWORD);
        for _ in 0..3 {
            rig.space.write(0x1004, &[1, 0, 0, 0]).unwrap();
        }
        rig.doorbells.quiesce().unwrap();
        assert_eq!(*rig.counter.rung.lock(), 3);
        rig.space.write(0x1004, &[1, 0, 0, 0]).unwrap();
        assert_eq!(
            *rig.counter.rung.lock(),
            3,
            "nobody serves while the guest stands still"
        );
        rig.doorbells.quiesce().unwrap();
        assert_eq!(*rig.counter.rung.lock(), 4);
    }

    #[test]
    fn only_writes_of_the_right_width_and_value_ring() {
        let rig = rig(DoorbellPlace {
            match_data: Some(0x1234),
            size: 2,
            ..ANY_DWORD
        });
        for bytes in [&[0x34, 0x12, 0, 0][..], &[0x34], &[0x35, 0x12], &[0x34, 0x12]] {
            rig.space.write(0x1004, bytes).unwrap();
        }
        rig.doorbells.quiesce().unwrap();
        assert_eq!(*rig.counter.rung.lock(), 1);
    }

    #[test]
    fn a_doorbell_that_is_gone_rings_no_more() {
        let mut rig = rig(ANY_DWORD);
        drop(rig.bell.take());
        rig.space.write(0x1004, &[1, 0, 0, 0]).unwrap();
        rig.doorbells.quiesce().unwrap();
        assert_eq!(*rig.counter.rung.lock(), 0);
        drop(rig.region);
    }

    #[test]
    fn devices_that_ring_their_own_doorbell_without_end_are_a_named_defect() {
        struct Endless(AddressSpace, AtomicU64);
        impl DoorbellHandler for Endless {
            fn rung(&self, _: u64) {
                self.1.fetch_add(1, Ordering::Relaxed);
                assert_eq!(self.0.write(0x1008, &[0; 4]), Ok::<(), AccessError>(()));
            }
        }
        let rig = rig(ANY_DWORD);
        let place = DoorbellPlace { offset: 8, ..ANY_DWORD };
        let endless = Arc::new(Endless(rig.space.clone(), AtomicU64::new(0)));
        let _bell = rig.doorbells.add(&rig.region, place, endless).unwrap();
        rig.doorbells.quiesce().unwrap();
        rig.space.write(0x1008, &[0; 4]).unwrap();
        assert_eq!(rig.doorbells.quiesce(), Err(NeverQuiet));
    }
}
