//! How fast a source sends while its guest runs, so that it leaves others their share of the network.
//!
//! A [`Pacer`] is a token bucket: what is sent is owed, and time pays at the rate of the limit; who owes waits. It sees
//! times that it is given and no clock, and it counts in bytes, so that a limit that is changed meanwhile counts for what is
//! owed already.
//!
//! In the pause nothing is paced: the guest stands still for what little is left, and so much the shorter.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bytes in a second that a user has chosen, or no choice. Clones are the same, so that it can be changed while a migration
/// runs.
#[derive(Clone, Debug, Default)]
pub struct Bandwidth(Arc<AtomicU64>);

impl Bandwidth {
    /// The bytes in a second as they are now; `None` where there is no choice.
    #[must_use]
    pub fn get(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|&bytes| bytes > 0)
    }

    /// Changes it; 0 is no choice.
    pub fn set(&self, bytes_per_second: u64) {
        self.0.store(bytes_per_second, Ordering::Relaxed);
    }
}

impl From<u64> for Bandwidth {
    fn from(bytes_per_second: u64) -> Self {
        Self(Arc::new(AtomicU64::new(bytes_per_second)))
    }
}

/// Says when what comes next may be sent.
#[derive(Debug)]
pub struct Pacer {
    limit: Bandwidth,
    /// Bytes that were sent and that time has not paid for, as of `at`. What is below zero was saved.
    owed: f64,
    at: Option<Instant>,
}

impl Pacer {
    /// What was not sent for so long can be made up for at once, and no more: a source that is late does not flood the
    /// network.
    const SAVED: Duration = Duration::from_millis(10);

    /// Keeps to `limit`, from the first byte on.
    #[must_use]
    pub fn new(limit: Bandwidth) -> Self {
        Self {
            limit,
            owed: 0.0,
            at: None,
        }
    }

    /// How long to wait, from `now` on, before anything more is sent; the limit may be another by then. `None` where it can
    /// be sent now.
    #[must_use]
    pub fn wait(&mut self, now: Instant) -> Option<Duration> {
        let rate = as_f64(self.limit.get()?);
        self.pay(now, rate);
        if self.owed <= 0.0 {
            return None;
        }
        Some(Duration::try_from_secs_f64(self.owed / rate).unwrap_or(Duration::MAX))
    }

    /// Notes what was sent.
    pub fn sent(&mut self, now: Instant, bytes: u64) {
        let Some(rate) = self.limit.get() else {
            // Without a limit nothing is owed, also once there is one.
            (self.owed, self.at) = (0.0, None);
            return;
        };
        self.pay(now, as_f64(rate));
        self.owed += as_f64(bytes);
    }

    fn pay(&mut self, now: Instant, rate: f64) {
        let passed = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.at = Some(now);
        self.owed = (self.owed - passed.as_secs_f64() * rate).max(-Self::SAVED.as_secs_f64() * rate);
    }
}

#[expect(clippy::cast_precision_loss, reason = "rates need no more than 53 bits")]
fn as_f64(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    /// A clock that goes on only when somebody waits or says so.
    struct Fake {
        began: Instant,
        passed: Duration,
        pacer: Pacer,
        sent: u64,
    }

    impl Fake {
        fn at(limit: &Bandwidth) -> Self {
            Self {
                began: Instant::now(),
                passed: Duration::ZERO,
                pacer: Pacer::new(limit.clone()),
                sent: 0,
            }
        }

        fn send(&mut self, bytes: u64) {
            if let Some(wait) = self.pacer.wait(self.began + self.passed) {
                self.passed += wait + Duration::from_nanos(1);
                assert_eq!(self.pacer.wait(self.began + self.passed), None, "it was waited for");
            }
            self.pacer.sent(self.began + self.passed, bytes);
            self.sent += bytes;
        }
    }

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn the_limit_is_kept_and_used() {
        let mut source = Fake::at(&(100 * MIB).into());
        while source.passed < Duration::from_secs(2) {
            source.send(256 << 10);
        }
        let allowed = 200 * MIB;
        assert!(
            (allowed..allowed + MIB).contains(&source.sent),
            "{} bytes in {:?}",
            source.sent,
            source.passed
        );
    }

    #[test]
    fn without_a_limit_nothing_waits() {
        let mut source = Fake::at(&Bandwidth::default());
        (0..1000).for_each(|_| source.send(MIB));
        assert_eq!(source.passed, Duration::ZERO);
    }

    #[test]
    fn what_was_not_sent_for_long_is_not_made_up_for() {
        let mut source = Fake::at(&(100 * MIB).into());
        source.send(MIB);
        source.passed += Duration::from_secs(10);
        let before = source.passed;
        (0..50).for_each(|_| source.send(MIB));
        let took = source.passed - before;
        assert!((seconds(0.47)..seconds(0.5)).contains(&took), "{took:?} for 50 MiB");
    }

    #[test]
    fn a_limit_that_is_raised_counts_for_what_is_owed_already_and_one_that_is_lifted_ends_the_wait() {
        let limit = Bandwidth::from(1);
        let mut source = Fake::at(&limit);
        source.send(MIB);
        let now = source.began;
        assert!(source.pacer.wait(now) > Some(Duration::from_secs(1_000_000)));
        limit.set(MIB);
        assert_eq!(source.pacer.wait(now), Some(Duration::from_secs(1)));
        limit.set(0);
        assert_eq!(source.pacer.wait(now), None);
    }

    #[test]
    fn a_limit_that_comes_later_owes_nothing_for_what_went_before() {
        let limit = Bandwidth::default();
        let mut source = Fake::at(&limit);
        (0..1000).for_each(|_| source.send(MIB));
        limit.set(MIB);
        source.send(MIB);
        assert_eq!(source.passed, Duration::ZERO);
        source.send(MIB);
        assert!(source.passed >= Duration::from_secs(1));
    }

    proptest! {
        #[test]
        fn no_stretch_of_time_sees_more_than_the_limit_and_one_record(
            rate in 1_u64..1 << 40,
            steps in proptest::collection::vec((1_u64..1 << 22, 0_u64..100_000_000), 1..60),
        ) {
            let mut source = Fake::at(&rate.into());
            let mut sendings = Vec::new();
            for (bytes, idle) in steps {
                source.passed += Duration::from_nanos(idle);
                source.send(bytes);
                sendings.push((source.passed, bytes));
            }
            for (first, (from, _)) in sendings.iter().enumerate() {
                let mut within = 0.0;
                for (to, bytes) in &sendings[first..] {
                    // What came before this record, in the time until it.
                    let allowed = ((*to - *from) + Pacer::SAVED).as_secs_f64() * as_f64(rate);
                    prop_assert!(within <= allowed * 1.000_001 + 1.0, "{within} bytes, {allowed} allowed");
                    within += as_f64(*bytes);
                }
            }
        }
    }
}
