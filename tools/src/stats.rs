//! Medians and spreads.

use serde::Serialize;

/// What repeated measurements of one thing came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// What was measured, with its unit.
    pub what: String,
    /// The middle value.
    pub median: f64,
    /// The least value.
    pub least: f64,
    /// The greatest value.
    pub greatest: f64,
    /// Every value, in the order of the runs.
    pub raw: Vec<f64>,
}

impl Summary {
    /// Summarises `raw`, or `None` if there is nothing to summarise.
    #[must_use]
    pub fn of(what: impl Into<String>, raw: &[f64]) -> Option<Self> {
        let mut sorted = raw.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (least, greatest) = (*sorted.first()?, *sorted.last()?);
        let upper = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[upper - 1], sorted[upper])
        } else {
            sorted[upper]
        };
        Some(Self {
            what: what.into(),
            median,
            least,
            greatest,
            raw: raw.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_value_or_the_mean_of_two() {
        let median = |raw: &[f64]| Summary::of("x", raw).map(|summary| summary.median);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }
}
