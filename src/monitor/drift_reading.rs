//! The counts of all features and parts of predictions with a baseline, read at one moment, and their drift within a
//! window that ends at that moment. `/metrics` and the report of drift are both made from this reading.

use std::sync::Arc;
use std::time::Duration;

use super::cells::Counter;
use super::drift::{Comparison, Drift, DriftStatus, Reference, WindowCounts, judge};
use super::history::Moment;
use super::monitored_features::MonitoredFeature;
use super::watched_bins::Side;

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

/// The counts of all counter cells at the end of the window, at its beginning, and at moments between.
#[derive(Debug)]
struct Counts {
    end: Arc<[u64]>,
    ends_at: Duration,
    /// The beginning, and the moments within the window.
    marks: Vec<Moment<u64>>,
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
    /// Creates a reading from the counts of all cells at the end of the window, at its beginning, and at moments between.
    pub(super) fn new(
        features: &Arc<[MonitoredFeature]>,
        rows: Counter,
        end: Moment<u64>,
        marks: Vec<Moment<u64>>,
    ) -> DriftReading {
        let begin = marks.first().map_or(end.at, |begin| begin.at);
        let window = end.at.saturating_sub(begin);
        let counts = Counts { ends_at: end.at, end: end.counts.unwrap_or_default(), marks };
        let rows = counts.within_window(rows);
        let compare =
            |feature: &MonitoredFeature| feature.reference.compare(&WindowCounts::new(counts.slices(feature)));
        let mut comparisons: Vec<Comparison> = features.iter().map(compare).collect();
        judge(&mut comparisons);
        DriftReading { comparisons, features: Arc::clone(features), window, rows, counts }
    }

    /// Compares this window with an earlier one, instead of the training data. A difference lasts only if it is in most
    /// of both windows.
    pub(super) fn against(&self, earlier: &DriftReading) -> Vec<Comparison> {
        let compare = |(feature, before): (&MonitoredFeature, &Comparison)| {
            let [slices, slices_before] = [self, earlier].map(|reading| reading.counts.slices(feature));
            let (window, window_before) = (WindowCounts::new(slices), WindowCounts::new(slices_before));
            let reference = |counts: Vec<u64>| Reference { counts, positions: None, ..feature.reference.clone() };
            let independent = |count: &u64| (*count as f64 * before.independent).round() as u64;
            let mut found = reference(window_before.total().iter().map(independent).collect()).compare(&window);
            let reverse = reference(window.total().to_vec()).compare(&window_before);
            found.drift.lasts &= reverse.drift.lasts;
            found
        };
        let mut comparisons: Vec<Comparison> = self.features.iter().zip(&earlier.comparisons).map(compare).collect();
        judge(&mut comparisons);
        comparisons
    }

    /// The beginning and the end of each slice of the window.
    pub(super) fn spans(&self) -> Vec<(Duration, Duration)> {
        let moments = self.counts.marks.iter().map(|mark| mark.at).chain([self.counts.ends_at]);
        let moments: Vec<Duration> = moments.collect();
        moments.windows(2).map(|pair| (pair[0], pair[1])).collect()
    }

    /// The counts per bin of a feature in each slice of the window.
    pub(super) fn slices(&self, feature: &MonitoredFeature) -> Vec<Vec<u64>> {
        self.counts.slices(feature)
    }

    /// The comparisons of all features and parts of predictions with the training data, in order.
    pub(super) fn comparisons(&self) -> &[Comparison] {
        &self.comparisons
    }

    /// Returns the name of a feature, or of a part of the predictions with a word that says so.
    pub(super) fn title(&self, index: usize) -> Option<String> {
        Some(self.features.get(index)?.title())
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
        self.feature.counters.iter().map(move |counter| at(Some(&self.counts.end), *counter))
    }

    /// Counts per bin within the window.
    pub(super) fn within_window(&self) -> Vec<u64> {
        self.counts.of_feature(self.feature)
    }
}

impl Counts {
    fn of_feature(&self, feature: &MonitoredFeature) -> Vec<u64> {
        feature.counters.iter().map(|counter| self.within_window(*counter)).collect()
    }

    fn within_window(&self, counter: Counter) -> u64 {
        let begin = self.marks.first().and_then(|begin| begin.counts.as_ref());
        at(Some(&self.end), counter).wrapping_sub(at(begin, counter))
    }

    /// Returns the counts per bin of a feature between each two moments.
    fn slices(&self, feature: &MonitoredFeature) -> Vec<Vec<u64>> {
        let moments = self.marks.iter().map(|mark| mark.counts.as_ref()).chain([Some(&self.end)]);
        let moments: Vec<_> = moments.collect();
        let of =
            |counter: &Counter, pair: &[Option<&Arc<[u64]>>]| at(pair[1], *counter).wrapping_sub(at(pair[0], *counter));
        moments.windows(2).map(|pair| feature.counters.iter().map(|counter| of(counter, pair)).collect()).collect()
    }
}

/// Returns the count of a cell at a moment; 0 if nothing had been counted yet.
fn at(counts: Option<&Arc<[u64]>>, counter: Counter) -> u64 {
    counts.and_then(|counts| counts.get(counter.cell())).copied().unwrap_or_default()
}
