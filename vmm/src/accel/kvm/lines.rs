//! The inputs of KVM's interrupt controllers.

use std::sync::Arc;

use hw::core::IrqSink;
use parking_lot::Mutex;

use super::ioctl::GuestVm;

/// Routes the machine's interrupt lines to KVM, and holds them back while the guest is paused.
///
/// A device may drive its line while the guest stands still (input arrives at a console). Told at once, that would change
/// controllers whose state has been taken already, and would be lost when their state at the pause is put back. So while
/// paused only the level is noted, and KVM is told when the guest goes on.
pub struct Lines {
    vm: Arc<GuestVm>,
    levels: Mutex<Levels>,
}

#[derive(Debug, Default)]
struct Levels {
    live: bool,
    /// Inputs that a device drives, a bit each.
    wired: u32,
    /// What the devices drive them to.
    driven: u32,
    /// What KVM was told last.
    told: u32,
    /// Inputs of which KVM may believe something else than what it was told.
    unsure: u32,
}

impl Lines {
    /// Inputs of the I/O APIC; the 8259 pair shares the first sixteen.
    const INPUTS: u32 = 24;

    /// All lines low, and nothing told before [`Self::go_live`].
    pub fn new(vm: Arc<GuestVm>) -> Self {
        Self {
            vm,
            levels: Mutex::default(),
        }
    }

    /// Holds changes back from now on.
    pub fn hold(&self) {
        self.levels.lock().live = false;
    }

    /// The controllers have got another state: what KVM believes of the lines is no longer what it was told.
    pub fn forget(&self) {
        self.levels.lock().unsure = u32::MAX;
    }

    /// Tells KVM what has changed, and passes changes on from now on.
    pub fn go_live(&self) {
        let mut levels = self.levels.lock();
        levels.live = true;
        for input in 0..Self::INPUTS {
            self.tell(&mut levels, input);
        }
    }

    fn tell(&self, levels: &mut Levels, input: u32) {
        let bit = 1 << input;
        let changed = (levels.told ^ levels.driven) | (levels.unsure & levels.wired);
        if changed & bit != 0 {
            levels.told = (levels.told & !bit) | (levels.driven & bit);
            levels.unsure &= !bit;
            // The controllers are there and the number is one of theirs: KVM has no reason left to refuse.
            let _ = self.vm.fd().set_irq_line(input, levels.driven & bit != 0);
        }
    }
}

impl IrqSink for Lines {
    fn set_level(&self, input: u32, level: bool) {
        if input >= Self::INPUTS {
            return;
        }
        let mut levels = self.levels.lock();
        let bit = 1 << input;
        levels.wired |= bit;
        levels.driven = if level {
            levels.driven | bit
        } else {
            levels.driven & !bit
        };
        if levels.live {
            self.tell(&mut levels, input);
        }
    }
}
