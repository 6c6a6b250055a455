//! The sums and counts of a version from which it is compared with another one.

use std::collections::BTreeMap;

use super::business_outcome::BusinessOutcome;
use super::cells::HistogramCounts;
use super::labels::Outcome;
use super::outcomes::Outcomes;
use super::quantiles::DurationCounts;
use super::version_recorder::VersionRecorder;
use crate::config::BusinessKind;

/// Sums and counts of a version since it was loaded.
#[derive(Debug, Clone)]
pub struct VersionSums {
    /// Number of the version.
    pub version: String,
    /// Requests by outcome.
    pub requests: BTreeMap<Outcome, u64>,
    /// Durations of answered requests.
    pub(super) durations: DurationCounts,
    /// Number of predicted classes, their confidences, and the number of those with a low confidence.
    pub(super) confidence: Option<ConfidenceSums>,
    pub(super) outcomes: OutcomeSums,
}

/// Sums of the confidence of predicted classes.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConfidenceSums {
    pub(super) predictions: f64,
    pub(super) sum: f64,
    /// An upper bound of the sum of squares.
    pub(super) squares: f64,
    pub(super) low: f64,
}

/// Sums of the true outcomes of predictions, without what later feedback has replaced.
#[derive(Debug, Clone, Default)]
pub(super) struct OutcomeSums {
    /// Predicted classes with a known truth, and those of them that were right.
    pub(super) classes: (f64, f64),
    /// Predicted numbers with a known truth, the sum of their absolute errors, and of the squares of their errors.
    pub(super) numbers: (f64, f64, f64),
    pub(super) business: BTreeMap<String, (BusinessKind, AmountSums)>,
}

/// Number, sum and sum of squares of the amounts of a business metric.
#[derive(Debug, Clone, Copy)]
pub(super) struct AmountSums {
    pub(super) items: f64,
    pub(super) sum: f64,
    pub(super) squares: f64,
}

impl VersionRecorder {
    /// Returns the sums of this version, for a comparison.
    pub fn sums(&self) -> VersionSums {
        let (confidences, low) = self.drift_counters.confidences();
        VersionSums {
            version: self.names().1.to_owned(),
            requests: Outcome::ALL.map(|outcome| (outcome, self.metrics.requests(outcome))).into(),
            durations: self.latencies.answered(),
            confidence: ConfidenceSums::of(&confidences, low),
            outcomes: self.outcomes(|outcomes| OutcomeSums::of(outcomes)),
        }
    }
}

impl ConfidenceSums {
    /// Returns the sums of the confidence of all predicted classes; `None` without any. The sum of squares is an upper bound,
    /// from the edges of the buckets.
    fn of(found: &HistogramCounts<'_>, low: u64) -> Option<ConfidenceSums> {
        let edges = found.buckets.edges.iter().map(|edge| *edge as f64 / found.buckets.edge_unit).chain([1.0]);
        let predictions: u64 = found.counts.iter().sum();
        (predictions > 0).then(|| ConfidenceSums {
            predictions: predictions as f64,
            sum: found.sum as f64 / found.buckets.sum_unit,
            squares: edges.zip(&found.counts).map(|(edge, count)| edge * edge * *count as f64).sum(),
            low: low as f64,
        })
    }
}

impl OutcomeSums {
    fn of(outcomes: &Outcomes) -> OutcomeSums {
        let Outcomes { labels, correct, values, absolute_error, squared_error, withdrawn, .. } = outcomes;
        let amounts = |BusinessOutcome { kind, items, sum, squares }: &BusinessOutcome| {
            (*kind, AmountSums { items: *items as f64, sum: *sum, squares: *squares })
        };
        OutcomeSums {
            classes: ((labels - values) as f64, correct.saturating_sub(withdrawn.correct) as f64),
            numbers: match *values {
                0 => (0.0, 0.0, 0.0),
                values => (
                    values as f64,
                    (absolute_error - withdrawn.absolute_error).max(0.0),
                    (squared_error - withdrawn.squared_error).max(0.0),
                ),
            },
            business: outcomes.business.iter().map(|(name, found)| (name.clone(), amounts(found))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::{Predicted, Truth};

    /// Sums that were corrected are those of the last truths.
    #[test]
    fn replaced_feedback_is_not_in_the_sums() {
        let label = |name: &str| Truth::Label { class: 0, name: name.to_owned() };
        let predicted = Predicted::Class("a".into(), 0.9);
        let mut outcomes = Outcomes::default();
        outcomes.label(&predicted, &label("a"), None);
        outcomes.label(&predicted, &label("a"), None);
        outcomes.correct(&predicted, &label("a"), &label("b"));
        outcomes.business("revenue", BusinessKind::Sum, 5.0);
        outcomes.business("revenue", BusinessKind::Sum, 1.0);
        outcomes.correct_business("revenue", BusinessKind::Sum, 5.0, 7.0);
        let sums = OutcomeSums::of(&outcomes);
        assert_eq!(sums.classes, (2.0, 1.0));
        let (_, AmountSums { items, sum, squares }) = sums.business["revenue"];
        assert_eq!((items, sum, squares), (2.0, 8.0, 50.0));
        let mut outcomes = Outcomes::default();
        outcomes.label(&Predicted::Value(10.0), &Truth::Value(13.0), None);
        outcomes.correct(&Predicted::Value(10.0), &Truth::Value(13.0), &Truth::Value(9.0));
        assert_eq!(OutcomeSums::of(&outcomes).numbers, (1.0, 1.0, 1.0));
    }

    #[test]
    fn the_squares_of_confidences_are_not_too_small() {
        let buckets = super::super::cells::Buckets { edges: &[500, 1000], edge_unit: 1e3, sum_unit: 1e9 };
        let counts = HistogramCounts { buckets, counts: vec![2, 1, 0], sum: 1_700_000_000 };
        let found = ConfidenceSums::of(&counts, 2).unwrap();
        assert_eq!((found.predictions, found.sum, found.squares, found.low), (3.0, 1.7, 1.5, 2.0));
    }
}
