//! Timers: when they run out, on which clock.

use std::fmt;
use std::marker::PhantomData;

use super::description::VmField;
use super::error::StateError;
use super::fields::wrong_kind;
use super::value::Value;
use super::wire_type::WireType;

/// A clock that a timer can run by.
///
/// The names are QEMU's. Its third one, `realtime`, counts from the start of a host, and says nothing on another.
pub trait TimerClock {
    /// Its name on the wire.
    const NAME: &'static str;
}

/// The time in which the guest could run: it stands still while the guest does, and goes on from there where the guest goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VirtualClock;

/// The time of day, as the time since 1970: it goes on while the guest stands still, and an administrator may set it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostClock;

impl TimerClock for VirtualClock {
    const NAME: &'static str = "virtual";
}

impl TimerClock for HostClock {
    const NAME: &'static str = "host";
}

/// What is state of a timer: when it runs out by its clock `C`, in nanoseconds, or that it is not armed.
///
/// The time that is left would be wrong by as long as the transfer takes. The virtual clock travels with the
/// machine, and whoever loads this arms a timer of its own for the same instant; one that has passed meanwhile runs out at
/// once.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Deadline<C> {
    nanoseconds: Option<u64>,
    clock: PhantomData<C>,
}

impl<C> Deadline<C> {
    /// A timer that is not armed.
    pub const NONE: Self = Self {
        nanoseconds: None,
        clock: PhantomData,
    };

    /// A timer that runs out when its clock shows so many nanoseconds.
    #[must_use]
    pub const fn at(nanoseconds: u64) -> Self {
        Self {
            nanoseconds: Some(nanoseconds),
            clock: PhantomData,
        }
    }

    /// When it runs out, in nanoseconds of its clock, if it is armed.
    #[must_use]
    pub const fn nanoseconds(self) -> Option<u64> {
        self.nanoseconds
    }
}

impl<C> Default for Deadline<C> {
    fn default() -> Self {
        Self::NONE
    }
}

impl<C: TimerClock> fmt::Debug for Deadline<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Deadline({:?} ns, {})", self.nanoseconds, C::NAME)
    }
}

impl<C: TimerClock> VmField for Deadline<C> {
    fn wire_type() -> WireType {
        WireType::Deadline { clock: C::NAME.into() }
    }

    fn to_value(&self) -> Value {
        Value::Deadline(self.nanoseconds)
    }

    fn from_value(value: &Value) -> Result<Self, StateError> {
        match value {
            Value::Deadline(nanoseconds) => Ok(Self {
                nanoseconds: *nanoseconds,
                clock: PhantomData,
            }),
            other => Err(wrong_kind("a deadline", other)),
        }
    }
}
