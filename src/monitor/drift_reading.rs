//! The counts of all features and parts of predictions with a baseline, read at one moment, and their drift within a
//! window that ends at that moment. `/metrics` and the report of drift are both made from this reading.

use std::sync::Arc;
use std::time::Duration;

use super::cells::Counter;
use super::drift::{Comparison, Drift, DriftStatus, judge};
use super::history::Moment;
use super::monitored_features::{MonitoredFeature, Side};

/// The counts and the drift of all features and parts of predictions with a baseline.
#[derive(Debug)]
pub(super) struct DriftReading {
    /// The features and parts of predictions; `comparisons` has the comparison of each with its baseline.
    features: Arc<[MonitoredFeature]>,
    comparisons: Vec<Comparison>,
    /// Length of the window.
    pub(super) window: Duration,
    /// Number of predictions within the window.
    pub(super) rows: u64,
    counts: Counts,
}

/// The counts of all counter cells, now and at the start of the window.
#[derive(Debug)]
struct Counts {
    now: Vec<u64>,
    begin: Option<Arc<[u64]>>,
}

/// Counts and drift of a feature, or of a part of the predictions.
#[derive(Clone, Copy)]
pub(super) struct ReadFeature<'a> {
    pub(super) feature: &'a MonitoredFeature,
    pub(super) comparison: &'a Comparison,
    counts: &'a Counts,
}

/// Maximum and mean of the adjusted PSI of several features.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct DriftSummary {
    /// The largest adjusted PSI.
    pub(super) max: f64,
    /// The mean adjusted PSI.
    pub(super) mean: f64,
}

// ===== impl DriftReading =====

impl DriftReading {
    /// Creates a reading from the counts of all cells, now and at the start of the window. `rows` counts predictions.
    pub(super) fn new(
        features: &Arc<[MonitoredFeature]>,
        rows: Counter,
        counts: Vec<u64>,
        begin: Moment<u64>,
        now: Duration,
    ) -> DriftReading {
        let counts = Counts { now: counts, begin: begin.counts };
        let compare = |feature: &MonitoredFeature| feature.reference.compare(&counts.within_window(feature), 1.0);
        let mut comparisons: Vec<Comparison> = features.iter().map(compare).collect();
        judge(&mut comparisons);
        DriftReading {
            comparisons,
            features: Arc::clone(features),
            window: now.saturating_sub(begin.at),
            rows: counts.count(rows),
            counts,
        }
    }

    /// All features and parts of predictions with a baseline, in order.
    pub(super) fn all(&self) -> impl Iterator<Item = ReadFeature<'_>> + Clone {
        let all = self.features.iter().zip(&self.comparisons);
        all.map(|(feature, comparison)| ReadFeature { feature, comparison, counts: &self.counts })
    }

    pub(super) fn get(&self, index: usize) -> Option<ReadFeature<'_>> {
        let (feature, comparison) = (self.features.get(index)?, self.comparisons.get(index)?);
        Some(ReadFeature { feature, comparison, counts: &self.counts })
    }

    /// Number of features and parts of predictions with this status.
    pub(super) fn with_status(&self, status: DriftStatus) -> usize {
        self.comparisons.iter().filter(|comparison| comparison.status == status).count()
    }

    /// Returns the summary over the features of a side that have values in the window; `None` if none of them has.
    pub(super) fn summary(&self, side: Side) -> Option<DriftSummary> {
        let of_side = self.all().filter(|read| read.feature.side == side && read.drift().window_count > 0);
        let indexes: Vec<f64> = of_side.map(|read| read.drift().psi_adjusted).collect();
        let max = indexes.iter().copied().reduce(f64::max)?;
        Some(DriftSummary { max, mean: indexes.iter().sum::<f64>() / indexes.len() as f64 })
    }
}

impl<'a> ReadFeature<'a> {
    pub(super) fn name(&self) -> &'a str {
        &self.feature.name
    }

    pub(super) fn drift(&self) -> &'a Drift {
        &self.comparison.drift
    }

    /// Counts per bin since the version was loaded.
    pub(super) fn totals(self) -> impl Iterator<Item = u64> + use<'a> {
        self.feature.counters.iter().map(move |counter| self.counts.now[counter.cell()])
    }

    /// Counts per bin within the window.
    pub(super) fn within_window(&self) -> Vec<u64> {
        self.counts.within_window(self.feature)
    }
}

impl Counts {
    fn within_window(&self, feature: &MonitoredFeature) -> Vec<u64> {
        feature.counters.iter().map(|counter| self.count(*counter)).collect()
    }

    fn count(&self, counter: Counter) -> u64 {
        let before = self.begin.as_ref().map_or(0, |begin| begin[counter.cell()]);
        self.now[counter.cell()].wrapping_sub(before)
    }
}
