//! The I/O APIC, as an accelerator holds it.

use parking_lot::Mutex;
use vmstate::qom::Object;
use vmstate::state::VmState;

/// The number of its last input; the first is 0.
pub const LAST_PIN: u32 = 23;
/// How many inputs it has.
pub const PINS: usize = LAST_PIN as usize + 1;
/// Where it is in the machine; no software moves it.
pub const BASE_ADDRESS: u64 = 0xfec0_0000;

/// The I/O APIC. Its state is the accelerator's while the guest runs, and is read into the object when it is paused.
#[derive(Object)]
#[object(name = "ioapic-common", parent = "device", abstract)]
pub struct Ioapic {
    #[state]
    state: Mutex<IoapicState>,
}

impl Ioapic {
    /// The registers, as of the last pause or load.
    #[must_use]
    pub fn state(&self) -> &Mutex<IoapicState> {
        &self.state
    }
}

/// The registers of an I/O APIC.
#[derive(VmState, Clone, Debug, PartialEq)]
#[vmstate(name = "ioapic")]
pub struct IoapicState {
    /// Its id, which software may change.
    pub id: u32,
    /// Which register the window shows.
    pub register_select: u32,
    /// Inputs that are asserted and not yet delivered, a bit per pin.
    pub requested: u32,
    /// Where each input's interrupts go.
    pub redirection: [u64; PINS],
}

impl Default for IoapicState {
    /// The state after reset: all inputs masked.
    fn default() -> Self {
        const MASKED: u64 = 1 << 16;
        Self {
            id: 0,
            register_select: 0,
            requested: 0,
            redirection: [MASKED; PINS],
        }
    }
}
