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
//! | `describe` | recipe and inventory |

mod assemble;
mod describe;
mod factory;
mod lifecycle;
mod requests;
mod source;

pub use assemble::{CreateError, VmSpec};
pub use factory::{Arrival, Arrivals, Factory};
pub use lifecycle::LifecycleError;

use std::sync::Arc;

use hw::char::CharSink;
use hw::i386::microvm::Board;
use hw::memory::RamBlock;
use migration::vm::{Identity, Recipe};
use parking_lot::Mutex;
use vmstate::qom::{Object, TypeTable};

use crate::accel::Accelerator;
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
}

/// How a VM stands, for those who follow it from outside. It may exist before the VM does, as a receiver's does.
#[derive(Debug, Default)]
pub struct Status {
    /// What the VM is doing.
    pub run_state: RunStateCell,
    /// Who is told what happens.
    pub events: EventHub,
    ending: Mutex<Option<Ending>>,
}

impl Status {
    /// How the VM ended, once it has.
    #[must_use]
    pub fn ending(&self) -> Option<Ending> {
        self.ending.lock().clone()
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
    payload: BootPayload,
    ram: Vec<Arc<RamBlock>>,
    status: Arc<Status>,
    requests: Arc<requests::Requests>,
    lifecycle: Mutex<lifecycle::Lifecycle>,
}

impl Vm {
    /// Who this is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What it was built from.
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

    /// How it stands.
    #[must_use]
    pub fn status(&self) -> &Arc<Status> {
        &self.status
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvm_turn;
    use parking_lot::Condvar;
    use std::time::{Duration, Instant};

    /// A console that remembers what was written.
    #[derive(Default)]
    struct Paper {
        text: Mutex<String>,
        grown: Condvar,
    }

    impl CharSink for Paper {
        fn try_write(&self, bytes: &[u8]) -> usize {
            self.text.lock().push_str(&String::from_utf8_lossy(bytes));
            self.grown.notify_all();
            bytes.len()
        }
    }

    impl Paper {
        fn wait_for(&self, wanted: &str) {
            let deadline = Instant::now() + Duration::from_secs(60);
            let mut text = self.text.lock();
            while !text.contains(wanted) {
                assert!(
                    !self.grown.wait_until(&mut text, deadline).timed_out(),
                    "no {wanted:?} in: {text}"
                );
            }
        }
    }

    #[test]
    fn a_guest_goes_on_after_a_stop() {
        let Some(_turn) = kvm_turn::turn("vmm::vm::tests::a_guest_goes_on_after_a_stop") else {
            return;
        };
        let paper = Arc::new(Paper::default());
        let host = Host {
            types: TypeTable::gathered().expect("sound types"),
            accelerator: "kvm".to_owned(),
            console: Some(paper.clone()),
            runner: Arc::new(ThreadRunner),
        };
        let spec = VmSpec {
            cpus: 2,
            memory: 64 << 20,
            ..VmSpec::new("test", "mib=8 beat=10")
        };
        let vm = Vm::create(&host, &spec, Arc::default()).expect("made");
        vm.start().expect("runs");
        paper.wait_for("beat 2");
        vm.stop().expect("stops");
        vm.cont().expect("goes on");
        paper.wait_for("beat 5");
    }
}
