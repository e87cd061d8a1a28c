//! A vCPU's thread: in KVM_RUN while the guest runs, parked while it is paused.
//!
//! ```text
//!             resume                      pause: flag, kick
//!   parked ------------> in the guest ------------------------> completing accesses --> parked
//!                             |                                                            ^
//!                             +--- event (crash, reset): reported, then waits for a pause -+
//! ```
//!
//! A pause sets the page's immediate-exit flag *before* it sends the signal, and the flag stays set until the next
//! resume. So there is no moment at which a kick is lost: a thread that is about to enter the guest comes straight back.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use libc::{c_int, c_void, siginfo_t};
use parking_lot::{Condvar, Mutex};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use super::super::{VcpuEvent, VcpuEvents};
use super::exit::{self, Bus, CrashCause};
use super::ioctl::VcpuHandle;

/// One vCPU.
pub struct Vcpu {
    apic_id: u32,
    handle: VcpuHandle,
    bus: Bus,
    events: Arc<dyn VcpuEvents>,
    control: Mutex<Control>,
    changed: Condvar,
    /// `wanted != Run`, for the vCPU's thread to look at without a lock on its way back into the guest.
    leave: AtomicBool,
    /// How often the guest was left for something that Tern has to serve.
    exits: AtomicU64,
    /// The host's number of the thread, once that has begun.
    thread_id: OnceLock<u32>,
}

struct Control {
    wanted: Wanted,
    /// The thread is out of the guest and stays there, its accesses completed; or there is none.
    parked: bool,
    /// The thread is out of the guest because of an event, and stays there until a pause.
    stands: bool,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Run,
    /// Out of the guest for a moment, as [`Vcpu::ask_to_stay`] wants it.
    Stay,
    Pause,
    End,
}

/// A vCPU that did not come out of the guest in time.
#[derive(Debug)]
pub struct Stuck;

impl Vcpu {
    /// A vCPU that has not run yet, with its thread parked: who lets it run later, maybe in the pause of a migration, does
    /// not wait for a thread to be made.
    pub fn start(apic_id: u32, handle: VcpuHandle, bus: Bus, events: Arc<dyn VcpuEvents>) -> io::Result<Arc<Self>> {
        install_kick_handler()?;
        let this = Arc::new(Self {
            apic_id,
            handle,
            bus,
            events,
            control: Mutex::new(Control {
                wanted: Wanted::Pause,
                parked: true,
                stands: false,
                thread: None,
            }),
            changed: Condvar::new(),
            leave: AtomicBool::new(true),
            exits: AtomicU64::new(0),
            thread_id: OnceLock::new(),
        });
        let main = Arc::clone(&this);
        let thread = thread::Builder::new().name(format!("vcpu{apic_id}"));
        this.control.lock().thread = Some(thread.spawn(move || main.main())?);
        Ok(this)
    }

    /// The APIC id, which is also KVM's id.
    pub fn apic_id(&self) -> u32 {
        self.apic_id
    }

    /// The host's number of the vCPU's thread. Waits for a thread that has been made and not begun yet.
    pub fn thread_id(&self) -> u32 {
        *self.thread_id.wait()
    }

    /// KVM's side. Registers are read and written only while the vCPU is parked.
    pub fn handle(&self) -> &VcpuHandle {
        &self.handle
    }

    /// The address spaces that the vCPU sees.
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// How often the guest was left for something that Tern has to serve: what doorbells and KVM's own devices spare.
    #[cfg(test)]
    pub fn exits(&self) -> u64 {
        self.exits.load(Ordering::Relaxed)
    }

    /// Lets the vCPU run.
    pub fn resume(&self) -> io::Result<()> {
        let mut control = self.control.lock();
        if control.wanted == Wanted::End {
            return Err(io::Error::other("the vCPU's thread has ended"));
        }
        self.want(&mut control, Wanted::Run);
        Ok(())
    }

    /// Asks the vCPU to leave the guest, and does not wait for it.
    pub fn ask_to_pause(&self) {
        let mut control = self.control.lock();
        if control.wanted == Wanted::Run {
            self.want(&mut control, Wanted::Pause);
        }
    }

    /// Waits until the vCPU is out of the guest with its accesses completed.
    pub fn wait_until_parked(&self, deadline: Instant) -> Result<(), Stuck> {
        self.wait_until(deadline, |control| control.parked)
    }

    fn wait_until(&self, deadline: Instant, is_so: fn(&Control) -> bool) -> Result<(), Stuck> {
        let mut control = self.control.lock();
        while !is_so(&control) {
            if self.changed.wait_until(&mut control, deadline).timed_out() && !is_so(&control) {
                return Err(Stuck);
            }
        }
        Ok(())
    }

    /// Asks a vCPU that runs to leave the guest until [`Self::go_on`], and does not wait for it. One that stands still, for a pause
    /// or because of an event, just does so.
    pub fn ask_to_stay(&self) {
        let mut control = self.control.lock();
        if control.wanted == Wanted::Run {
            self.want(&mut control, Wanted::Stay);
        }
    }

    /// Waits until the vCPU is out of the guest, whatever for.
    pub fn wait_until_out(&self, deadline: Instant) -> Result<(), Stuck> {
        self.wait_until(deadline, |control| control.parked || control.stands)
    }

    /// Ends [`Self::ask_to_stay`]: the vCPU goes on as it was.
    pub fn go_on(&self) {
        let mut control = self.control.lock();
        if control.wanted == Wanted::Stay {
            self.want(&mut control, Wanted::Run);
        }
    }

    /// Ends the thread and waits for that. The vCPU cannot run any more.
    pub fn end(&self) {
        let thread = {
            let mut control = self.control.lock();
            self.want(&mut control, Wanted::End);
            control.thread.take()
        };
        if let Some(thread) = thread {
            // A panic has been reported as a crash.
            let _ = thread.join();
        }
    }

    fn want(&self, control: &mut Control, wanted: Wanted) {
        let leave = wanted != Wanted::Run;
        control.wanted = wanted;
        // Ahead of the thread's own look at it, so that who resumes and at once pauses does not find it parked still.
        if !leave {
            control.parked = false;
        }
        self.handle.page().set_immediate_exit(leave);
        self.leave.store(leave, Ordering::SeqCst);
        self.changed.notify_all();
        if leave
            && !control.parked
            && let Some(thread) = &control.thread
        {
            // It can only fail for a thread that has ended, and then there is nobody to kick.
            let _ = thread.kill(kick_signal());
        }
    }

    fn main(&self) {
        let id = rustix::thread::gettid().as_raw_nonzero().get();
        let _ = self.thread_id.set(id.unsigned_abs());
        while self.park() {
            let event = catch_unwind(AssertUnwindSafe(|| self.run())).unwrap_or_else(|panic| {
                let cause = CrashCause::Panicked(message(panic.as_ref()));
                Some(exit::crash(self.apic_id, &self.handle, &self.bus, cause))
            });
            if let Some(event) = event {
                self.events.vcpu_event(self.apic_id, event);
                self.wait_for_pause();
            }
        }
    }

    /// Parks until the vCPU may run; false if it never will again.
    fn park(&self) -> bool {
        let mut control = self.control.lock();
        loop {
            match control.wanted {
                Wanted::Run => return true,
                Wanted::End => {
                    control.parked = true;
                    self.changed.notify_all();
                    return false;
                }
                Wanted::Stay | Wanted::Pause => {
                    control.parked = true;
                    self.changed.notify_all();
                    self.changed.wait(&mut control);
                }
            }
        }
    }

    /// After an event the vCPU does not run on by itself; only a pause, followed by a resume, lets it.
    fn wait_for_pause(&self) {
        let mut control = self.control.lock();
        control.stands = true;
        self.changed.notify_all();
        while matches!(control.wanted, Wanted::Run | Wanted::Stay) {
            self.changed.wait(&mut control);
        }
        control.stands = false;
    }

    /// Runs the guest until it is to pause or something happens that the VM has to deal with.
    fn run(&self) -> Option<VcpuEvent> {
        while !self.leave.load(Ordering::SeqCst) {
            if let Some(event) = self.run_once() {
                return Some(event);
            }
        }
        self.complete_accesses()
    }

    fn run_once(&self) -> Option<VcpuEvent> {
        match self.handle.run() {
            Ok(()) => {
                self.exits.fetch_add(1, Ordering::Relaxed);
                exit::serve(self.apic_id, &self.handle, &self.bus)
            }
            Err(error) => exit::run_failed(self.apic_id, &self.handle, &self.bus, &error),
        }
    }

    /// An access that was served is completed by the next KVM_RUN only, and may go on with another one (a store across
    /// two pages of a device, a string instruction). So with immediate exits on, KVM_RUN is repeated until it has nothing
    /// left to do.
    fn complete_accesses(&self) -> Option<VcpuEvent> {
        loop {
            match self.handle.run() {
                Ok(()) => {
                    if let Some(event) = exit::serve(self.apic_id, &self.handle, &self.bus) {
                        return Some(event);
                    }
                }
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => return None,
                Err(error) => {
                    if let Some(event) = exit::run_failed(self.apic_id, &self.handle, &self.bus, &error) {
                        return Some(event);
                    }
                }
            }
            // A resume may have come meanwhile, with immediate exits off.
            if !self.leave.load(Ordering::SeqCst) {
                return None;
            }
        }
    }
}

/// How long a vCPU may take to leave the guest: far more than any access, so that only a defect exceeds it.
pub const PAUSE_DEADLINE: Duration = Duration::from_secs(20);

fn message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

/// The signal that interrupts KVM_RUN. Nobody else in the process uses it.
fn kick_signal() -> c_int {
    SIGRTMIN()
}

/// Has the kick do nothing but interrupt. It is the same for all VMs of the process.
fn install_kick_handler() -> io::Result<()> {
    extern "C" fn nothing(_: c_int, _: *mut siginfo_t, _: *mut c_void) {}
    static INSTALLED: OnceLock<Result<(), c_int>> = OnceLock::new();
    INSTALLED
        .get_or_init(|| register_signal_handler(kick_signal(), nothing).map_err(|error| error.errno()))
        .map_err(io::Error::from_raw_os_error)
}
