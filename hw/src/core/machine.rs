//! The class `machine`: the root of everything that a guest sees.

use parking_lot::Mutex;
use vmstate::VmState;
use vmstate::qom::{Config, Object};

/// The class data of `machine`.
#[derive(Clone, Debug, Default)]
pub struct MachineClass {
    /// What the machine is, in a line for people.
    pub description: &'static str,
    /// How many vCPUs it takes at most.
    pub max_cpus: u32,
}

/// What of a machine as a whole travels with it.
#[derive(VmState, Clone, Debug, Default, PartialEq)]
#[vmstate(name = "machine", version = 1)]
pub struct MachineState {
    /// Its user has stopped it, so that it stands still wherever it arrives until its user lets it go on.
    pub stopped: bool,
}

/// The base class of all machines.
#[derive(Object)]
#[object(name = "machine", parent = "object", abstract, class_data = MachineClass)]
pub struct Machine {
    #[config(property, default = 1, description = "number of vCPUs")]
    cpus: Config<u32>,
    #[config(property, default = 0x1000_0000, description = "guest memory in bytes")]
    memory: Config<u64>,
    #[state]
    state: Mutex<MachineState>,
}

impl Machine {
    /// How many vCPUs the machine has.
    #[must_use]
    pub fn cpus(&self) -> u32 {
        self.cpus.get()
    }

    /// Guest memory in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.memory.get()
    }

    /// Whether its user has stopped it.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.state.lock().stopped
    }

    /// Notes that its user has stopped it, or lets it go on.
    pub fn set_stopped(&self, stopped: bool) {
        self.state.lock().stopped = stopped;
    }
}
