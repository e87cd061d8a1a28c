//! How long a guest was silent.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::stamped::Stamped;

/// Milliseconds, as they are reported.
#[must_use]
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The longest time between two neighbouring arrivals that has a part in `from..to`.
#[must_use]
pub fn longest(arrivals: &[Stamped], from: Instant, to: Instant) -> Duration {
    arrivals
        .windows(2)
        .filter(|pair| pair[1].at > from && pair[0].at < to)
        .map(|pair| pair[1].at - pair[0].at)
        .max()
        .unwrap_or_default()
}

/// When a console had something to say: raw data.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Timeline {
    /// Whose console.
    pub console: &'static str,
    /// When its first byte arrived, in milliseconds since what was measured began; negative before it.
    pub first_ms: f64,
    /// Every time between two arrivals from then on, in milliseconds.
    pub gaps_ms: Vec<f64>,
}

impl Timeline {
    /// The time line of `arrivals`, told from `began`; `None` for a console that said nothing.
    #[must_use]
    pub fn of(console: &'static str, arrivals: &[Stamped], began: Instant) -> Option<Self> {
        let first = arrivals.first()?.at;
        let first_ms = match first.checked_duration_since(began) {
            Some(after) => ms(after),
            None => -ms(began - first),
        };
        let gaps = arrivals.windows(2).map(|pair| pair[1].at - pair[0].at);
        Some(Self {
            console,
            first_ms: rounded(first_ms),
            gaps_ms: gaps.map(|gap| rounded(ms(gap))).collect(),
        })
    }
}

/// To whole microseconds: the clock is not better, and the file a third as long.
fn rounded(ms: f64) -> f64 {
    (ms * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(zero: Instant, at_ms: &[u64]) -> Vec<Stamped> {
        let stamped = |ms: &u64| Stamped {
            at: zero + Duration::from_millis(*ms),
            bytes: b".".to_vec(),
        };
        at_ms.iter().map(stamped).collect()
    }

    #[test]
    fn a_silence_counts_where_part_of_it_falls_into_the_time_looked_at() {
        let zero = Instant::now();
        let arrivals = arrivals(zero, &[0, 20, 21, 25, 26, 90]);
        let between = |from, to| {
            longest(
                &arrivals,
                zero + Duration::from_millis(from),
                zero + Duration::from_millis(to),
            )
        };
        assert_eq!(between(20, 26), Duration::from_millis(4));
        assert_eq!(between(22, 23), Duration::from_millis(4));
        assert_eq!(between(19, 23), Duration::from_millis(20));
        assert_eq!(between(25, 27), Duration::from_millis(64));
        assert_eq!(between(91, 99), Duration::ZERO);
    }

    #[test]
    fn a_time_line_keeps_every_gap() {
        let zero = Instant::now();
        let timeline = Timeline::of("source", &arrivals(zero, &[1, 3, 7]), zero + Duration::from_millis(2));
        let timeline = timeline.expect("there were arrivals");
        assert_eq!((timeline.first_ms, &timeline.gaps_ms[..]), (-1.0, &[2.0, 4.0][..]));
        assert_eq!(Timeline::of("target", &[], zero), None);
    }
}
