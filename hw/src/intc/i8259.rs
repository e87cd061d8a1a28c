//! The pair of 8259 interrupt controllers, as an accelerator holds it.

use parking_lot::Mutex;
use vmstate::qom::Object;
use vmstate::state::VmState;

/// The registers of one 8259.
#[derive(VmState, Default, Clone, Debug, PartialEq)]
pub struct I8259Chip {
    /// The inputs' levels as last seen, for the detection of edges.
    pub last_levels: u8,
    /// Interrupts that wait to be served.
    pub requested: u8,
    /// Interrupts that are masked.
    pub masked: u8,
    /// Interrupts being served.
    pub in_service: u8,
    /// The input of highest priority.
    pub priority_base: u8,
    /// The vector of input 0.
    pub vector_base: u8,
    /// The next read shows what is in service, not what is requested.
    pub read_in_service: bool,
    /// The next read polls.
    pub poll: bool,
    /// Special mask mode.
    pub special_mask: bool,
    /// Which initialisation word is awaited, zero if none.
    pub init_step: u8,
    /// Interrupts end as they are taken.
    pub auto_end: bool,
    /// Priorities rotate at automatic ends.
    pub rotate_on_auto_end: bool,
    /// Special fully nested mode.
    pub special_fully_nested: bool,
    /// Initialisation has a fourth word.
    pub four_init_words: bool,
    /// Inputs that are level-triggered.
    pub level_triggered: u8,
}

/// The 8259 pair. Its state is the accelerator's while the guest runs, and is read into the object when it is paused.
#[derive(Object)]
#[object(name = "i8259-common", parent = "device", abstract)]
pub struct I8259 {
    #[state]
    state: Mutex<I8259State>,
}

impl I8259 {
    /// The registers, as of the last pause or load.
    #[must_use]
    pub fn state(&self) -> &Mutex<I8259State> {
        &self.state
    }
}

/// The registers of both controllers.
#[derive(VmState, Default, Clone, Debug, PartialEq)]
#[vmstate(name = "i8259")]
pub struct I8259State {
    /// The controller at port 0x20, which serves IRQs 0 to 7.
    pub primary: I8259Chip,
    /// The controller at port 0xa0, which serves IRQs 8 to 15 through input 2 of the other.
    pub secondary: I8259Chip,
}

/// The inputs of the primary controller whose trigger mode software may choose.
pub const PRIMARY_TRIGGER_MASK: u8 = 0xf8;
/// The inputs of the secondary controller whose trigger mode software may choose.
pub const SECONDARY_TRIGGER_MASK: u8 = 0xde;
