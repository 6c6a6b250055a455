//! Counters of copied requests: how often a version with shadow traffic agrees with the stable version. They are separate
//! from the counters of its own requests.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cells::{Buckets, HistogramCounts};
use super::labels::Label;
use super::metric_family::{Family, counter, histogram};

/// End of a copied request. A closed set, because it is a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShadowOutcome {
    /// Both versions have answered, and the answers were compared.
    Compared,
    /// Only the stable version has failed.
    OnlyStableFailed,
    /// Only the version with shadow traffic has failed.
    OnlyShadowFailed,
    /// Both versions have failed.
    BothFailed,
    /// The copy was dropped at once, because too many were waiting.
    Dropped,
    /// There was no room for the copy within its time, or a request needed the room.
    Starved,
}

/// Counters of the copied requests of one version.
#[derive(Debug, Default)]
pub struct ShadowCounters {
    /// True once a request was to be copied.
    is_used: AtomicBool,
    outcomes: [AtomicU64; ShadowOutcome::ALL.len()],
    agreed: AtomicU64,
    disagreed: AtomicU64,
    distances: [AtomicU64; DISTANCES.edges.len() + 1],
    /// Sum of the distances, in millionths.
    distance_sum: AtomicU64,
    shadow_nanos: AtomicU64,
    stable_nanos: AtomicU64,
}

/// Counts of the copied requests of a version since it was loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShadowCounts {
    /// Number of predictions that were compared with those of the stable version.
    pub compared: u64,
    /// Number of these predictions that disagree.
    pub disagreed: u64,
    /// Number of copied requests in which only the stable version failed.
    pub only_stable_failed: u64,
    /// Number of copied requests in which only this version failed.
    pub only_shadow_failed: u64,
    /// Number of copied requests that both versions have answered.
    pub requests: u64,
    /// Number of copies that were not run: dropped at once, or without room in time.
    pub not_run: u64,
}

/// Buckets of the distances, in millionths.
const DISTANCES: Buckets<'static> = Buckets {
    edges: &[0, 1_000, 10_000, 20_000, 50_000, 100_000, 200_000, 300_000, 500_000, 1_000_000],
    edge_unit: 1e6,
    sum_unit: 1e6,
};

/// The metrics, in the order of `/metrics`.
pub(super) static FAMILIES: &[Family<ShadowCounters>] = &[
    counter(
        "leeway_shadow_requests_total",
        &["model", "version", "outcome"],
        "Requests of the stable version that were to be copied to this version, by outcome of the copy.",
        |shadow, series| {
            for outcome in ShadowOutcome::ALL.iter().filter(|_| shadow.is_used.load(Relaxed)) {
                series.value(&[outcome.name()], shadow.of(*outcome));
            }
        },
    ),
    counter(
        "leeway_shadow_predictions_total",
        &["model", "version", "agreement"],
        "Predictions for copied requests that were compared with those of the stable version: agreed, or disagreed.",
        |shadow, series| {
            if shadow.is_used.load(Relaxed) {
                series.value(&["agreed"], shadow.agreed.load(Relaxed));
                series.value(&["disagreed"], shadow.disagreed.load(Relaxed));
            }
        },
    ),
    histogram(
        "leeway_shadow_distance_ratio",
        &["model", "version"],
        "Distance between the scores or values of compared predictions: 0 if they are equal.",
        |shadow, series| {
            if shadow.is_used.load(Relaxed) {
                let counts = shadow.distances.iter().map(|count| count.load(Relaxed)).collect();
                let sum = shadow.distance_sum.load(Relaxed);
                series.histogram(&[], &HistogramCounts { buckets: DISTANCES, counts, sum });
            }
        },
    ),
    counter(
        "leeway_shadow_seconds_total",
        &["model", "version", "by"],
        "Time of preprocessing, run and postprocessing of the compared requests, without waits: by the version with shadow traffic, and by the stable version.",
        |shadow, series| {
            if shadow.is_used.load(Relaxed) {
                series.value(&["shadow"], shadow.shadow_nanos.load(Relaxed) as f64 / 1e9);
                series.value(&["stable"], shadow.stable_nanos.load(Relaxed) as f64 / 1e9);
            }
        },
    ),
];

// ===== impl ShadowCounters =====

impl ShadowCounters {
    /// Counts the end of a copied request.
    pub fn ended(&self, outcome: ShadowOutcome) {
        self.is_used.store(true, Relaxed);
        self.outcomes[outcome.index()].fetch_add(1, Relaxed);
    }

    /// Counts a pair of compared predictions, with their distance if they have one.
    pub fn compared(&self, agrees: bool, distance: Option<f64>) {
        let count = if agrees { &self.agreed } else { &self.disagreed };
        count.fetch_add(1, Relaxed);
        if let Some(distance) = distance {
            let millionths = (distance * 1e6).round() as u64;
            self.distances[DISTANCES.bucket_of(millionths)].fetch_add(1, Relaxed);
            self.distance_sum.fetch_add(millionths, Relaxed);
        }
    }

    /// Adds the times that both versions took for a compared request.
    pub fn took(&self, shadow: Duration, stable: Duration) {
        for (sum, took) in [(&self.shadow_nanos, shadow), (&self.stable_nanos, stable)] {
            sum.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        }
    }

    /// Returns the counts since the version was loaded.
    pub fn counts(&self) -> ShadowCounts {
        let disagreed = self.disagreed.load(Relaxed);
        ShadowCounts {
            compared: self.agreed.load(Relaxed) + disagreed,
            disagreed,
            only_stable_failed: self.of(ShadowOutcome::OnlyStableFailed),
            only_shadow_failed: self.of(ShadowOutcome::OnlyShadowFailed),
            requests: self.of(ShadowOutcome::Compared),
            not_run: self.of(ShadowOutcome::Dropped) + self.of(ShadowOutcome::Starved),
        }
    }

    fn of(&self, outcome: ShadowOutcome) -> u64 {
        self.outcomes[outcome.index()].load(Relaxed)
    }
}

impl Label for ShadowOutcome {
    const ALL: &'static [ShadowOutcome] = &[
        ShadowOutcome::Compared,
        ShadowOutcome::OnlyStableFailed,
        ShadowOutcome::OnlyShadowFailed,
        ShadowOutcome::BothFailed,
        ShadowOutcome::Dropped,
        ShadowOutcome::Starved,
    ];

    fn name(self) -> &'static str {
        match self {
            ShadowOutcome::Compared => "compared",
            ShadowOutcome::OnlyStableFailed => "only_stable_failed",
            ShadowOutcome::OnlyShadowFailed => "only_shadow_failed",
            ShadowOutcome::BothFailed => "both_failed",
            ShadowOutcome::Dropped => "dropped",
            ShadowOutcome::Starved => "starved",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_are_those_of_the_ends_and_of_the_pairs() {
        let counters = ShadowCounters::default();
        for (index, outcome) in ShadowOutcome::ALL.iter().enumerate() {
            assert_eq!(outcome.index(), index);
            (0..=index).for_each(|_| counters.ended(*outcome));
        }
        counters.compared(true, Some(0.02));
        counters.compared(false, Some(7.5));
        counters.compared(false, None);
        let expected = ShadowCounts {
            compared: 3,
            disagreed: 2,
            only_stable_failed: 2,
            only_shadow_failed: 3,
            requests: 1,
            not_run: 11,
        };
        assert_eq!(counters.counts(), expected);
        let distances: Vec<u64> = counters.distances.iter().map(|count| count.load(Relaxed)).collect();
        assert_eq!(distances, [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1]);
    }
}
