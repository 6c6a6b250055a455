//! The read model of a version: its requests, latencies, drift and outcomes as plain values.
//!
//! A version is read once ([`VersionReading`]). `/metrics` is written from the reading. [`VersionStats`] has the same
//! numbers as values, for the admin API, a console or the analysis of a rollout.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::drift_counts::DriftCounts;
use super::drift_reading::DriftReading;
use super::drift_report::DriftReport;
use super::drift_window::DriftWindow;
use super::labels::Outcome;
use super::outcome_metrics::{OutcomeReading, OutcomeStats};
use super::quantiles::LatencyStats;
use super::version_recorder::VersionRecorder;

/// The measurements of one version at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VersionStats {
    /// The model's name.
    pub model: String,
    /// The version's number.
    pub version: String,
    /// Requests since the version was loaded, by outcome.
    pub requests: BTreeMap<Outcome, u64>,
    /// Number of requests that are not answered yet, plus abandoned requests that still run in a worker.
    pub in_flight: u64,
    /// Durations of requests.
    pub latency: LatencyStats,
    /// Number of rows of training data in the version's baseline; `None` without a baseline.
    pub baseline_rows: Option<u64>,
    /// Drift of the features and predictions in the window from the baseline, the worst first.
    pub drift: DriftReport,
    /// Outcomes of predictions.
    pub outcomes: OutcomeStats,
}

/// Requests and runs of a version, which are cheap to read.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestStats {
    /// Durations of requests.
    pub latency: LatencyStats,
    /// Number of runs since the version was loaded.
    pub runs: u64,
    /// Number of rows in these runs.
    pub rows: u64,
    /// Time of the last request, in milliseconds since 1970, precise to about a second; 0 if there was none.
    pub last_request_ms: u64,
}

/// The sums and distributions of a version, read once.
pub(super) struct VersionReading {
    pub(super) latency: LatencyStats,
    pub(super) drift: DriftReading,
    pub(super) outcomes: OutcomeReading,
}

// ===== impl VersionRecorder =====

impl VersionRecorder {
    /// Returns the current measurements of this version. Drift is measured over a window of this length that ends now, or
    /// over the configured window.
    pub fn stats(&self, now: Duration, drift_window: Option<Duration>) -> VersionStats {
        let drift_window = drift_window.map_or_else(|| self.drift_window(), DriftWindow::from);
        let VersionReading { latency, drift, outcomes } = self.read(now, drift_window);
        let verdict = self.drift_counters.verdict(now, self.drift_window());
        let profile = self.drift_counters.usual().map(|usual| usual.about.clone());
        VersionStats {
            model: self.labels().model.clone(),
            version: self.labels().version.clone(),
            requests: Outcome::ALL.map(|outcome| (outcome, self.metrics.requests(outcome))).into(),
            in_flight: self.metrics.in_flight(),
            latency,
            baseline_rows: self.baseline_rows(),
            drift: DriftReport::new(&drift, (verdict, profile), self.drift_counters.left_out()),
            outcomes: outcomes.stats,
        }
    }

    /// Returns the counts of this version in a window of this length that ends now, or in the configured window, for the
    /// drift of a fleet.
    pub fn drift_counts(&self, now: Duration, drift_window: Option<Duration>) -> DriftCounts {
        let drift_window = drift_window.map_or_else(|| self.drift_window(), DriftWindow::from);
        let verdict = self.drift_counters.verdict(now, self.drift_window());
        DriftCounts::new(&self.drift_counters.read(now, drift_window), verdict, self.drift_counters.left_out())
    }

    /// Returns the requests and runs of this version.
    pub fn request_stats(&self, now: Duration) -> RequestStats {
        let (runs, rows) = self.metrics.runs_and_rows();
        let last_request_ms = self.metrics.last_request_ms();
        RequestStats { latency: self.latencies.stats(now), runs, rows, last_request_ms }
    }

    pub(super) fn read(&self, now: Duration, drift_window: DriftWindow) -> VersionReading {
        VersionReading {
            latency: self.latencies.stats(now),
            drift: self.drift_counters.read(now, drift_window),
            outcomes: OutcomeReading::new(self.outcomes(|outcomes| outcomes.clone()), &self.drift_counters),
        }
    }
}
