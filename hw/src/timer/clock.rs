//! Guest time, as one record: what all the clocks of a guest showed at the instant at which it was paused.
//!
//! The record is made once per pause and applied when the guest goes on. Between the two, here or on another host,
//! guest time stands still, or is made up for, as the [`TimePolicy`] says.

use parking_lot::Mutex;
use vmstate::qom::{Class, Object};
use vmstate::state::VmState;

use crate::core::DeviceClass;

/// What becomes of the time during which a guest was paused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimePolicy {
    /// The guest goes on from the instant of its pause: its clocks have not noticed.
    #[default]
    Continue,
    /// The guest's clocks jump ahead by the real time that has passed.
    JumpToNow,
}

/// What becomes of a guest whose TSC counted at a speed that this host cannot give it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TscPolicy {
    /// It is not taken: a guest that keeps time by its TSC would keep it wrongly.
    #[default]
    Keep,
    /// It is taken, and its TSC counts at the host's speed from then on.
    Tolerate,
}

/// How a host's TSC counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostTsc {
    /// How fast a guest's counts unless it is told otherwise, in kHz; zero where there is none.
    pub khz: u32,
    /// Whether it can be told otherwise.
    pub scales: bool,
}

impl HostTsc {
    /// How far apart frequencies may be that count as the same, in millionths: hosts measure the same oscillator with small
    /// differences, no clock that a guest disciplines sees it, and KVM takes as much.
    pub const TOLERATED_PPM: u64 = 250;

    /// Whether a guest's TSC can count at `khz` here.
    #[must_use]
    pub fn counts_at(&self, khz: u64) -> bool {
        self.scales || self.is_near(khz)
    }

    /// Whether `khz` counts as the same as the host's own frequency.
    #[must_use]
    pub fn is_near(&self, khz: u64) -> bool {
        let own = u64::from(self.khz);
        u128::from(own.abs_diff(khz)) * 1_000_000 <= u128::from(own) * u128::from(Self::TOLERATED_PPM)
    }
}

/// The record of guest time. Its state is the accelerator's while the guest runs, and is read into the object when it is paused.
#[derive(Object)]
#[object(name = "guest-clock", parent = "device", abstract, class_init = class_init)]
pub struct GuestClock {
    #[state]
    state: Mutex<ClockState>,
}

/// A reset of the machine turns no clock back.
fn class_init(class: &mut Class) {
    const ALL: &[&str] = &["tsc_khz", "tsc", "tsc_differences", "kvmclock_ns", "realtime_ns"];
    DeviceClass::set_kept_by_reset(class, ALL);
}

impl GuestClock {
    /// The registers, as of the last pause or load.
    #[must_use]
    pub fn state(&self) -> &Mutex<ClockState> {
        &self.state
    }
}

/// All clocks of a guest at one instant.
#[derive(VmState, Default, Clone, Debug, PartialEq)]
#[vmstate(name = "guest-clock")]
pub struct ClockState {
    /// How fast the TSC counts, in kHz.
    pub tsc_khz: u32,
    /// The TSC of the first vCPU.
    pub tsc: u64,
    /// By how much each vCPU's TSC is ahead of the first one's, in order of APIC ids.
    #[vmstate(max = 4096)]
    pub tsc_differences: Vec<i64>,
    /// The paravirtual clock, in nanoseconds since the VM was made.
    pub kvmclock_ns: u64,
    /// The host's wall clock, in nanoseconds since 1970.
    pub realtime_ns: u64,
}

impl ClockState {
    /// The record as it has to be applied at the wall-clock time `now_ns`.
    #[must_use]
    pub fn at_resume(&self, policy: TimePolicy, now_ns: u64) -> Self {
        let mut record = self.clone();
        if policy == TimePolicy::JumpToNow {
            // A host whose clock is behind must not turn the guest's clocks back.
            let passed = now_ns.saturating_sub(self.realtime_ns);
            let cycles = u128::from(passed) * u128::from(self.tsc_khz) / 1_000_000;
            record.tsc = self.tsc.saturating_add(u64::try_from(cycles).unwrap_or(u64::MAX));
            record.kvmclock_ns = self.kvmclock_ns.saturating_add(passed);
            record.realtime_ns = self.realtime_ns.saturating_add(passed);
        }
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> ClockState {
        ClockState {
            tsc_khz: 2_000_000,
            tsc: 1000,
            tsc_differences: vec![0, -5],
            kvmclock_ns: 500,
            realtime_ns: 1_000_000,
        }
    }

    #[test]
    fn small_differences_of_frequency_are_none() {
        let host = HostTsc {
            khz: 2_000_000,
            scales: false,
        };
        assert!(host.is_near(2_000_500) && host.is_near(1_999_500));
        assert!(!host.is_near(2_000_501) && !host.is_near(u64::MAX));
        assert!(HostTsc { scales: true, ..host }.counts_at(3_000_000));
    }

    #[test]
    fn time_stands_still_by_default() {
        assert_eq!(record().at_resume(TimePolicy::Continue, 9_000_000), record());
    }

    #[test]
    fn a_jump_moves_all_clocks_by_the_same_time() {
        let jumped = record().at_resume(TimePolicy::JumpToNow, 1_000_300);
        assert_eq!(
            (jumped.tsc, jumped.kvmclock_ns, jumped.realtime_ns),
            (1600, 800, 1_000_300)
        );
        assert_eq!(jumped.tsc_differences, record().tsc_differences);
    }

    #[test]
    fn clocks_never_go_back() {
        assert_eq!(record().at_resume(TimePolicy::JumpToNow, 10), record());
    }
}
