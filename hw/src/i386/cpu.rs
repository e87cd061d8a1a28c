//! The type `x86-cpu`: a vCPU as an object of the tree.

use parking_lot::Mutex;
use vmstate::qom::{Class, Config, Object};

use crate::core::DeviceClass;

use super::cpu_state::CpuState;

/// A vCPU. Its state is the accelerator's while it runs, and is read into the object when it is paused.
#[derive(Object)]
#[object(name = "x86-cpu", parent = "device", abstract, class_init = class_init)]
pub struct X86Cpu {
    #[config(property, default = 0, description = "the processor's APIC id, which names it")]
    apic_id: Config<u32>,
    #[state]
    state: Mutex<CpuState>,
}

fn class_init(class: &mut Class) {
    // As `MsrState::reset` has it.
    DeviceClass::set_kept_by_reset(class, &["msrs.arch_capabilities", "msrs.de_cfg"]);
}

impl X86Cpu {
    /// The APIC id after reset.
    #[must_use]
    pub fn apic_id(&self) -> u32 {
        self.apic_id.get()
    }

    /// The registers, as of the last pause or load.
    #[must_use]
    pub fn state(&self) -> &Mutex<CpuState> {
        &self.state
    }
}
