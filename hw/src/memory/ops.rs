//! What stands behind an I/O region: a device's read and write, and the rules by which accesses reach them.

use std::fmt;
use std::sync::Weak;

/// The registers behind an I/O region.
///
/// A method may be called by several threads at once, with no lock of the memory system held. It may take the device's
/// own lock; it must not change the memory map while it does, but [`defer`](IoContext::defer) that.
///
/// Whatever the guest does, a method sees only naturally aligned accesses of the sizes that the region's
/// [`AccessRules`] name as implemented.
pub trait RegionOps: Send + Sync {
    /// Answers a read of `size` bytes at `offset` in the region. Bits above the size are ignored.
    fn read(&self, cx: &mut IoContext, offset: u64, size: u8) -> u64;

    /// Takes a write of `size` bytes at `offset` in the region. Bits of `value` above the size are zero.
    fn write(&self, cx: &mut IoContext, offset: u64, size: u8, value: u64);
}

/// A region does not keep its device alive. One that is gone answers like an empty bus.
impl<T: RegionOps + ?Sized> RegionOps for Weak<T> {
    fn read(&self, cx: &mut IoContext, offset: u64, size: u8) -> u64 {
        self.upgrade().map_or(u64::MAX, |ops| ops.read(cx, offset, size))
    }

    fn write(&self, cx: &mut IoContext, offset: u64, size: u8, value: u64) {
        if let Some(ops) = self.upgrade() {
            ops.write(cx, offset, size, value);
        }
    }
}

/// Goes with an access to a device, and takes along what has to happen after it.
#[derive(Default)]
pub struct IoContext {
    effects: Vec<Box<dyn FnOnce() + Send>>,
}

impl IoContext {
    /// A context for one access. Dispatch makes its own; this is for who calls a device directly.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Has something done when the device has returned and dropped its lock, before the vCPU goes on: a change of the
    /// memory map, a reset. Effects run in the order in which they were deferred.
    pub fn defer(&mut self, effect: impl FnOnce() + Send + 'static) {
        self.effects.push(Box::new(effect));
    }

    /// Runs what was deferred.
    pub fn run_effects(self) {
        self.effects.into_iter().for_each(|effect| effect());
    }
}

impl fmt::Debug for IoContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoContext")
            .field("effects", &self.effects.len())
            .finish()
    }
}

/// In which order the bytes of a device's registers lie in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Endian {
    /// Least significant byte first.
    #[default]
    Little,
    /// Most significant byte first.
    Big,
}

/// Which accesses a device takes, and in which form its methods see them.
///
/// *Valid* is what the guest may do. An access wider than `valid_max` is taken apart, as a bus does; one narrower than
/// `valid_min` is refused: it reads as all ones and writes nothing. *Implemented* is what [`RegionOps`] sees. A wider
/// access is split; of a narrower one the surrounding register is read, and, for a write, written back with the new
/// bytes in it (a device for which reading has effects sets `valid_min` to `impl_min`).
///
/// All sizes are 1, 2, 4 or 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessRules {
    /// The narrowest access that the guest may make.
    pub valid_min: u8,
    /// The widest access that is not taken apart.
    pub valid_max: u8,
    /// The narrowest access that the device implements.
    pub impl_min: u8,
    /// The widest access that the device implements.
    pub impl_max: u8,
    /// Whether an access that is not naturally aligned is taken apart into aligned ones, or refused.
    pub unaligned: bool,
    /// The byte order of the registers.
    pub endian: Endian,
}

impl AccessRules {
    /// Registers of one byte each, as old port devices have them: a wider access goes to several registers.
    pub const BYTES: Self = Self::of_size(1);

    /// Registers of four bytes, reached as such only.
    pub const DWORDS: Self = Self {
        unaligned: false,
        ..Self::of_size(4)
    };

    /// Little-endian registers of one size.
    #[must_use]
    pub const fn of_size(size: u8) -> Self {
        Self {
            valid_min: size,
            valid_max: size,
            impl_min: size,
            impl_max: size,
            unaligned: true,
            endian: Endian::Little,
        }
    }

    /// Whether the sizes are ones that exist, and in order.
    #[must_use]
    pub const fn are_sound(&self) -> bool {
        const fn are(min: u8, max: u8) -> bool {
            min.is_power_of_two() && max.is_power_of_two() && min <= max && max <= 8
        }
        are(self.valid_min, self.valid_max) && are(self.impl_min, self.impl_max)
    }
}

/// One to four bytes, little-endian, unaligned accesses taken apart.
impl Default for AccessRules {
    fn default() -> Self {
        Self {
            valid_min: 1,
            valid_max: 4,
            impl_min: 1,
            impl_max: 4,
            unaligned: true,
            endian: Endian::Little,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use std::sync::Arc;

    struct Register(Mutex<u64>);

    impl RegionOps for Register {
        fn read(&self, _: &mut IoContext, _: u64, _: u8) -> u64 {
            *self.0.lock()
        }
        fn write(&self, _: &mut IoContext, _: u64, _: u8, value: u64) {
            *self.0.lock() = value;
        }
    }

    #[test]
    fn a_device_that_is_gone_answers_like_an_empty_bus() {
        let device = Arc::new(Register(Mutex::new(7)));
        let ops: Arc<dyn RegionOps> = Arc::new(Arc::downgrade(&device));
        let mut cx = IoContext::new();
        ops.write(&mut cx, 0, 4, 9);
        assert_eq!(ops.read(&mut cx, 0, 4), 9);
        drop(device);
        ops.write(&mut cx, 0, 4, 9);
        assert_eq!(ops.read(&mut cx, 0, 4), u64::MAX);
    }

    #[test]
    fn effects_run_in_order_and_only_when_asked() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut cx = IoContext::new();
        for n in 0..3 {
            let order = Arc::clone(&order);
            cx.defer(move || order.lock().push(n));
        }
        assert!(order.lock().is_empty());
        cx.run_effects();
        assert_eq!(*order.lock(), [0, 1, 2]);
    }

    #[test]
    fn sizes_that_no_bus_has_are_unsound() {
        assert!(
            AccessRules::default().are_sound() && AccessRules::BYTES.are_sound() && AccessRules::DWORDS.are_sound()
        );
        assert!(
            !AccessRules {
                impl_min: 3,
                ..AccessRules::default()
            }
            .are_sound()
        );
        assert!(
            !AccessRules {
                valid_max: 16,
                ..AccessRules::default()
            }
            .are_sound()
        );
        assert!(
            !AccessRules {
                valid_min: 8,
                ..AccessRules::default()
            }
            .are_sound()
        );
    }
}
