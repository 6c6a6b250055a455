//! The numbers of a version that may call for attention: requests of the last minutes, the verdict on drift, the accuracy.

use std::time::Duration;

use super::drift_verdict::DriftVerdict;
use super::interval::Interval;
use super::labelled_baseline::LabelledBaseline;
use super::recent_requests::{MAX_RECENT, RecentRequests};
use super::version_metrics::HANDLES;
use super::version_recorder::VersionRecorder;

/// Length of the window that says if something still goes on.
const CURRENT: Duration = Duration::from_secs(30);

/// The numbers of a version that may call for attention.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionStats {
    /// Requests of the last five minutes.
    pub recent: RecentRequests,
    /// Requests of the last half minute.
    pub current: RecentRequests,
    /// Verdict on drift.
    pub drift: DriftVerdict,
    /// Number of predictions whose true outcome is known.
    pub labels: u64,
    /// Share of the predicted classes that were right, and its interval.
    pub accuracy: Option<(f64, Interval)>,
    /// The accuracy for the labelled rows of the baseline.
    pub baseline_accuracy: Option<f64>,
    /// Workers that were restarted since the version was loaded.
    pub worker_restarts: u64,
}

// ===== impl VersionRecorder =====

impl VersionRecorder {
    /// Returns the numbers of this version that may call for attention.
    pub fn attention(&self, now: Duration) -> AttentionStats {
        let within = |window| self.requests.within(now, window, &self.metrics);
        let (labels, accuracy) =
            self.outcomes(|outcomes| (outcomes.labels, outcomes.accuracy().zip(outcomes.accuracy_interval())));
        let baseline_accuracy = match self.labelled() {
            Some(LabelledBaseline::Classes(classes)) => Some(classes.accuracy()),
            Some(LabelledBaseline::Values(_)) | None => None,
        };
        AttentionStats {
            recent: within(MAX_RECENT),
            current: within(CURRENT),
            drift: self.drift_counters.verdict(now, self.drift_window()),
            labels,
            accuracy,
            baseline_accuracy,
            worker_restarts: self.metrics.cells.sum(HANDLES.workers.restarts),
        }
    }
}
