//! The inputs of KVM's interrupt controllers.

use std::io;
use std::sync::Arc;

use hw::core::IrqSink;
use parking_lot::Mutex;
use vmm_sys_util::eventfd::EventFd;

use super::ioctl::GuestVm;

/// Routes the machine's interrupt lines to KVM, and holds them back while the guest is paused.
///
/// A device may drive its line while the guest stands still (input arrives at a console). Told at once, that would change
/// controllers whose state has been taken already, and would be lost when their state at the pause is put back. So while
/// paused only the level is noted, and KVM is told when the guest goes on. For the same reason KVM waits for eventfds only
/// while the guest runs; what is signalled meanwhile stays in them.
pub struct Lines {
    vm: Arc<GuestVm>,
    levels: Mutex<Levels>,
    irqfds: Mutex<IrqFds>,
}

/// Eventfds whose signals are edges. The lock is held across what KVM does about them, and never on a device's way.
#[derive(Default)]
struct IrqFds {
    /// KVM waits for them.
    live: bool,
    list: Vec<IrqFd>,
}

#[derive(Clone)]
struct IrqFd {
    input: u32,
    eventfd: Arc<EventFd>,
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
            irqfds: Mutex::default(),
        }
    }

    /// Holds changes back from now on. All edges that were signalled so far have reached the controllers on return: KVM
    /// waits for them when it is told to let go of an eventfd.
    pub fn hold(&self) {
        let mut irqfds = self.irqfds.lock();
        if irqfds.live {
            for irqfd in &irqfds.list {
                // It was registered, and is refused for nothing else.
                let _ = self.vm.fd().unregister_irqfd(&irqfd.eventfd, irqfd.input);
            }
            irqfds.live = false;
        }
        self.levels.lock().live = false;
    }

    /// The controllers have got another state: what KVM believes of the lines is no longer what it was told.
    pub fn forget(&self) {
        self.levels.lock().unsure = u32::MAX;
    }

    /// Tells KVM what has changed, and passes changes on from now on.
    pub fn go_live(&self) -> io::Result<()> {
        {
            let mut levels = self.levels.lock();
            levels.live = true;
            for input in 0..Self::INPUTS {
                self.tell(&mut levels, input);
            }
        }
        let mut irqfds = self.irqfds.lock();
        if !irqfds.live {
            for (done, irqfd) in irqfds.list.iter().enumerate() {
                if let Err(error) = self.listen(irqfd) {
                    for irqfd in &irqfds.list[..done] {
                        let _ = self.vm.fd().unregister_irqfd(&irqfd.eventfd, irqfd.input);
                    }
                    return Err(error);
                }
            }
            irqfds.live = true;
        }
        Ok(())
    }

    /// Has KVM wait for an eventfd, and makes the edge that was signalled while nobody did.
    fn listen(&self, irqfd: &IrqFd) -> io::Result<()> {
        // KVM would make that edge and leave the signal in the eventfd, so that it came again after the next pause.
        let missed = irqfd.eventfd.read().is_ok();
        self.vm.fd().register_irqfd(&irqfd.eventfd, irqfd.input)?;
        if missed {
            // As in `tell`.
            let _ = self.vm.fd().set_irq_line(irqfd.input, true);
            let _ = self.vm.fd().set_irq_line(irqfd.input, false);
        }
        Ok(())
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

    fn assign_irqfd(&self, input: u32, eventfd: &Arc<EventFd>) -> io::Result<()> {
        if input >= Self::INPUTS {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let irqfd = IrqFd {
            input,
            eventfd: Arc::clone(eventfd),
        };
        let mut irqfds = self.irqfds.lock();
        if irqfds.live {
            self.listen(&irqfd)?;
        }
        irqfds.list.push(irqfd);
        Ok(())
    }

    fn deassign_irqfd(&self, input: u32, eventfd: &Arc<EventFd>) {
        let mut irqfds = self.irqfds.lock();
        let is_it = |irqfd: &IrqFd| irqfd.input == input && Arc::ptr_eq(&irqfd.eventfd, eventfd);
        if irqfds.live && irqfds.list.iter().any(is_it) {
            // As in `hold`.
            let _ = self.vm.fd().unregister_irqfd(eventfd, input);
        }
        irqfds.list.retain(|irqfd| !is_it(irqfd));
    }
}
