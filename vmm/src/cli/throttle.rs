//! News that may come without end, told now and then with their number.

use std::time::{Duration, Instant};

/// When news of one kind is told: the first at once, and what follows it soon together, at first after a second and then at ever
/// longer intervals for as long as it goes on.
#[derive(Debug)]
pub(super) struct Throttle {
    interval: Duration,
    last: Option<Instant>,
    /// How often it happened since it was told.
    count: u64,
    /// Somebody waits to tell.
    waits: bool,
}

/// What to do about something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Tell it.
    Tell,
    /// Ask [`Throttle::due`] after this time, and tell then.
    Wait(Duration),
    /// Nothing: who waits will tell.
    Counted,
}

impl Throttle {
    const SHORTEST: Duration = Duration::from_secs(1);
    /// A log that nobody looks at for weeks stays small.
    const LONGEST: Duration = Duration::from_secs(64);

    /// It happened.
    pub(super) fn happened(&mut self, now: Instant) -> Next {
        self.count += 1;
        if self.waits {
            return Next::Counted;
        }
        let since = self.last.map(|last| now.saturating_duration_since(last));
        match since {
            Some(since) if since < self.interval => {
                self.waits = true;
                Next::Wait(self.interval - since)
            }
            _ => {
                self.interval = Self::SHORTEST;
                self.told(now);
                Next::Tell
            }
        }
    }

    /// The wait is over: how often it happened meanwhile.
    pub(super) fn due(&mut self, now: Instant) -> u64 {
        self.waits = false;
        self.interval = (self.interval * 2).min(Self::LONGEST);
        self.told(now)
    }

    fn told(&mut self, now: Instant) -> u64 {
        self.last = Some(now);
        std::mem::take(&mut self.count)
    }
}

impl Default for Throttle {
    fn default() -> Self {
        Self {
            interval: Self::SHORTEST,
            last: None,
            count: 0,
            waits: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_without_end_is_told_ever_less_often_and_none_of_it_is_left_out() {
        let (mut throttle, start) = (Throttle::default(), Instant::now());
        let (mut told, mut lines, mut due) = (0, 0, None);
        // Three times a second, for ten minutes.
        for step in 0..1800_u32 {
            let now = start + Duration::from_secs(1) * step / 3;
            if due.is_some_and(|due| due <= now) {
                (told, lines, due) = (told + throttle.due(now), lines + 1, None);
            }
            match throttle.happened(now) {
                Next::Tell => (told, lines) = (told + 1, lines + 1),
                Next::Wait(time) => due = Some(now + time),
                Next::Counted => assert!(due.is_some()),
            }
        }
        told += throttle.due(start + Duration::from_secs(600));
        assert_eq!(told, 1800);
        assert!((10..=20).contains(&lines), "{lines}");
    }

    #[test]
    fn what_happens_now_and_then_is_told_at_once() {
        let (mut throttle, mut now) = (Throttle::default(), Instant::now());
        for _ in 0..3 {
            assert_eq!(throttle.happened(now), Next::Tell);
            now += Throttle::SHORTEST;
        }
        now -= Throttle::SHORTEST / 4;
        assert_eq!(throttle.happened(now), Next::Wait(Throttle::SHORTEST / 4));
    }
}
