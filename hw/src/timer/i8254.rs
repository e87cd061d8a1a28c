//! The 8254 interval timer, as an accelerator holds it.
//!
//! How far a running count has come is not here: KVM starts the count anew whenever its timer is loaded, so a channel
//! goes on with a full period after a restore. Software sees one tick that comes late by less than a period.

use std::sync::Arc;

use parking_lot::Mutex;
use vmstate::qom::Object;
use vmstate::state::VmState;

use crate::core::{CLOCK_INPUT, Clock};

/// One channel of the timer.
#[derive(VmState, Default, Clone, Debug, PartialEq)]
pub struct I8254Channel {
    /// What it counts down from; 0x10000 stands for the register's zero.
    pub count: u32,
    /// The count that was latched for reading.
    pub latched_count: u16,
    /// How the latched count is read next, zero if none is latched.
    pub count_latched: u8,
    /// A status byte is latched for reading.
    pub status_latched: bool,
    /// The latched status byte.
    pub status: u8,
    /// Which byte the next read takes.
    pub read_state: u8,
    /// Which byte the next write gives.
    pub write_state: u8,
    /// The low byte of a count whose high byte is still to come.
    pub write_latch: u8,
    /// How counts are read and written.
    pub access_mode: u8,
    /// The mode it counts in.
    pub mode: u8,
    /// It counts in decimal.
    pub bcd: bool,
    /// The level of its gate.
    pub gate: bool,
}

/// The 8254. Its state is the accelerator's while the guest runs, and is read into the object when it is paused.
#[derive(Object)]
#[object(name = "i8254-common", parent = "device", abstract, instance_init = instance_init)]
pub struct I8254 {
    #[state]
    state: Mutex<I8254State>,
}

/// What its channels count: a twelfth of the PC's 14.318 MHz, unless something else feeds it.
const INPUT_HZ: u64 = 1_193_182;

fn instance_init(object: &Arc<Object>) {
    Clock::add_to(object, CLOCK_INPUT, INPUT_HZ).expect("a new object has no children");
}

impl I8254 {
    /// The registers, as of the last pause or load.
    #[must_use]
    pub fn state(&self) -> &Mutex<I8254State> {
        &self.state
    }
}

/// The registers of the timer.
#[derive(VmState, Clone, Debug, PartialEq)]
#[vmstate(name = "i8254")]
pub struct I8254State {
    /// The channels: system timer, memory refresh, speaker.
    pub channels: [I8254Channel; 3],
    /// The speaker gets channel 2's output (bit 1 of port 0x61).
    pub speaker: bool,
    /// Channel 0 has been cut off its interrupt in favour of another timer.
    pub replaced: bool,
}

impl Default for I8254State {
    /// The state after reset: full counts, the speaker's gate closed.
    fn default() -> Self {
        let channel = |gate| I8254Channel {
            count: 0x1_0000,
            mode: 0xff,
            gate,
            ..I8254Channel::default()
        };
        Self {
            channels: [channel(true), channel(true), channel(false)],
            speaker: false,
            replaced: false,
        }
    }
}
