//! A virtual machine: a board, an accelerator that runs it, and what it boots from.
//!
//! [`Vm`] is a value. Nothing here assumes that a process has one: no statics, no signal handlers, no threads but the
//! accelerator's. A [`Vm`] is made in one of two ways, and both go through the same `assemble`:
//! from a [`VmSpec`], to boot, or from an offer, to be filled by a transfer ([`Factory`]).
//!
//! | file | what it does |
//! | --- | --- |
//! | `assemble` | objects, memory map, accelerator: in the order that is quick |
//! | `lifecycle` | start, pause, resume, reset, end; what the guest asks for |
//! | `source` | the VM as a transfer reads it |
//! | `factory` | the VM as a transfer makes it |
//! | `console` | the console's way into the guest, open while it runs |
//! | `describe` | recipe and inventory |
//! | `devices` | what a user adds and takes away |
//! | `shape` | what a guest sees of a machine |

mod assemble;
mod console;
mod describe;
mod devices;
#[cfg(test)]
mod devices_tests;
#[cfg(test)]
mod doorbell_tests;
mod factory;
mod globals;
mod lifecycle;
mod processor;
mod requests;
mod shape;
mod source;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod timer_tests;
mod tsc;

pub use assemble::{CreateError, VmSpec};
pub use devices::{ChangeError, Properties};
pub use factory::{Arrival, Arrivals, Factory};
pub use lifecycle::LifecycleError;
pub use shape::{cpu_models, shape};

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use hw::char::{CharFrontend, CharSink};
use hw::core::Wiring;
use hw::i386::cpu_feature::CpuFeature;
use hw::i386::microvm::Board;
use hw::memory::RamBlock;
use hw::timer::clock::TscPolicy;
use migration::vm::{Identity, Recipe};
use parking_lot::Mutex;
use vmstate::qom::{Object, TypeTable};

use crate::accel::{AccelError, Accelerator};
use crate::boot::BootPayload;
use crate::control::{Ending, Event, EventHub};
use crate::run_state::RunStateCell;

/// Carries out what a vCPU may not do itself: a thread, or the main loop.
pub trait Runner: Send + Sync {
    /// Runs `work` soon, on a thread that is no vCPU's.
    fn defer(&self, work: Box<dyn FnOnce() + Send>);
}

/// A [`Runner`] that starts a thread for each piece of work: for VMs without a main loop.
#[derive(Clone, Copy, Debug, Default)]
pub struct ThreadRunner;

impl Runner for ThreadRunner {
    fn defer(&self, work: Box<dyn FnOnce() + Send>) {
        std::thread::spawn(work);
    }
}

/// What the host adds to a VM. None of it travels.
#[derive(Clone)]
pub struct Host {
    /// The types that there are.
    pub types: Arc<TypeTable>,
    /// The accelerator's name.
    pub accelerator: String,
    /// Where the serial console's output goes.
    pub console: Option<Arc<dyn CharSink>>,
    /// What carries out a vCPU's requests.
    pub runner: Arc<dyn Runner>,
    /// Features of the host's processor that guests are not to have: neither those that begin here nor those that come.
    pub hidden_features: Vec<&'static CpuFeature>,
    /// What becomes of a guest that arrives with a TSC of another speed than this host can give it.
    pub tsc: TscPolicy,
}

impl Host {
    /// A host that adds nothing to a VM, which nothing runs either (`qtest`): for who asks a machine what it is.
    #[must_use]
    pub fn without_processors(types: Arc<TypeTable>) -> Self {
        Self {
            types,
            accelerator: "qtest".to_owned(),
            console: None,
            runner: Arc::new(ThreadRunner),
            hidden_features: Vec::new(),
            tsc: TscPolicy::default(),
        }
    }
}

/// How a VM stands, for those who follow it from outside. It may exist before the VM does, as a receiver's does.
#[derive(Debug, Default)]
pub struct Status {
    /// What the VM is doing.
    pub run_state: RunStateCell,
    /// Who is told what happens.
    pub events: EventHub,
    ending: Mutex<Option<Ending>>,
    trouble: Mutex<Option<String>>,
}

impl Status {
    /// How the VM ended, once it has.
    #[must_use]
    pub fn ending(&self) -> Option<Ending> {
        self.ending.lock().clone()
    }

    /// Why the guest cannot go on, if it cannot.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    /// Notes how the VM ended and tells everybody; only the first ending counts.
    pub fn end(&self, ending: Ending) {
        {
            let mut slot = self.ending.lock();
            if slot.is_some() {
                return;
            }
            *slot = Some(ending);
        }
        self.events.publish(&Event::Ended);
    }
}

/// A virtual machine.
pub struct Vm {
    identity: Identity,
    recipe: Recipe,
    accelerator: Arc<dyn Accelerator>,
    board: Board,
    wiring: Wiring,
    payload: BootPayload,
    ram: Vec<Arc<RamBlock>>,
    console: Arc<console::ConsoleGate>,
    status: Arc<Status>,
    requests: Arc<requests::Requests>,
    lifecycle: Mutex<lifecycle::Lifecycle>,
    /// What users have changed since it was built.
    changes: Mutex<devices::Changes>,
    /// How many keep its devices where they are.
    kept_whole: AtomicUsize,
}

impl Vm {
    /// Who this is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What it was built from: without what users have added since.
    #[must_use]
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// What runs it.
    #[must_use]
    pub fn accelerator(&self) -> &Arc<dyn Accelerator> {
        &self.accelerator
    }

    /// The machine.
    #[must_use]
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// The serial port, as its console sees it. While the guest stands still it takes nothing.
    #[must_use]
    pub fn console(&self) -> Arc<dyn CharFrontend> {
        self.console.clone()
    }

    /// How it stands.
    #[must_use]
    pub fn status(&self) -> &Arc<Status> {
        &self.status
    }

    /// Whether the state of an object is in the accelerator while the guest runs.
    pub(crate) fn is_held_by_accelerator(&self, object: &Object) -> bool {
        describe::is_held_by_accelerator(object, &self.accelerator.types())
    }

    /// Has an object know its state as it is at this moment, whether the guest runs or not; the guest is not stopped.
    ///
    /// # Errors
    ///
    /// The accelerator does not tell.
    pub fn refresh_state(&self, object: &Object) -> Result<(), AccelError> {
        match self.is_held_by_accelerator(object) {
            true => self.accelerator.refresh(object),
            false => Ok(()),
        }
    }

    /// The root of its composition tree.
    #[must_use]
    pub fn root(&self) -> &Arc<Object> {
        self.board.root()
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.accelerator.shutdown();
    }
}
