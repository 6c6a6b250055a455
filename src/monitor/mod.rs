//! Metrics: counters, timings, drift and outcomes, and their text form for Prometheus.
//!
//! - A metric is declared once, in the file that counts it: `version_metrics.rs` (requests and runs), `quantiles.rs`,
//!   `drift_metrics.rs`, `drift_counters.rs` (predictions), `outcome_metrics.rs`, `deployment.rs`,
//!   `prediction_log_metrics.rs`, `tracing_metrics.rs`, `server_recorder.rs`. `metric_family.rs` has the form of a declaration,
//!   `exposition.rs` the order of `/metrics`, and `text.rs` the text format.
//! - The request path records through `version_recorder.rs` and through the guards in `requests.rs`. Both add to cells
//!   whose positions are constants (`cells.rs`), so recording needs no lookup and no lock. `shards.rs` keeps one set of
//!   cells per thread; readers sum them. `labels.rs` has the closed sets of label values.
//! - `version_stats.rs` is the read model: the numbers of a version as plain values.
//! - For a console: `live_stats.rs` has the numbers that change by the second, `prediction_stats.rs` the predictions and
//!   their outcomes (`confusion_matrix.rs`), `drift_history.rs` the drift of the last day, and `attention.rs` what may call for
//!   attention (`recent_requests.rs` has the requests of the last minutes).
//! - `monitored_features.rs` lays out the cells of features that have a baseline (`baseline.rs`, `bins.rs`,
//!   `watched_bins.rs`; `baseline_builder.rs` makes one; `projection.rs` and `principal_components.rs` are for all features
//!   together), and `drift_counters.rs` counts into them. `drift/` has the measures of drift and the verdicts.
//!   `drift_reading.rs` computes them once for all readers, and `drift_report.rs` is the report for operators.
//! - `outcomes.rs` sums up the outcomes of predictions (amounts: `business_outcome.rs`), and `interval.rs` has confidence intervals and tests of them.
//!   `labelled_baseline.rs` has the quality that is to be expected, and `accuracy_estimate.rs` estimates it without labels,
//!   by a `calibration_map.rs`.
//! - `quantiles.rs` has the quantiles of a sliding window. `history.rs` keeps the counts at the start of each window.
//! - `step_counters.rs` counts the steps of chains, and `shadow_counters.rs` the copied requests of shadow traffic.
//! - `overload.rs` logs when a model begins to refuse requests for want of time, and when that is over.
//! - `comparison.rs` compares two versions, by the statistics of `always_valid.rs`.
//! - `runs.rs` records the current run of each worker of a version.
//!
//! This module does not depend on HTTP, models or the registry: they report to it.

mod accuracy_estimate;
mod always_valid;
mod attention;
mod bad_outcomes;
mod baseline;
mod baseline_builder;
mod bins;
mod business_outcome;
mod calibration_map;
mod cells;
mod compared_sums;
mod comparison;
mod confusion_matrix;
mod deployment;
mod drift;
mod drift_counters;
mod drift_counts;
mod drift_history;
mod drift_metrics;
mod drift_reading;
mod drift_report;
mod drift_verdict;
mod drift_window;
mod event_counts;
mod exposition;
mod guardrails;
mod history;
mod hourly_counters;
mod interval;
mod labelled_baseline;
mod labels;
mod last_request;
mod live_stats;
mod metric;
mod metric_family;
mod monitored_features;
mod outcome_metrics;
mod outcomes;
mod overload;
mod predicted;
mod prediction_log_metrics;
mod prediction_stats;
mod principal_components;
mod profile;
mod projection;
mod quantile_edges;
mod quantiles;
mod recent_requests;
mod repeated_rows;
mod requests;
mod runs;
mod server_recorder;
mod shadow_counters;
mod shards;
mod step_counters;
mod text;
mod tracing_metrics;
mod triton_metrics;
mod usual_by_hour;
mod verdicts;
mod version_metrics;
mod version_recorder;
mod version_stats;
mod watched_bins;

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

pub use self::always_valid::MeasuredDifference;
pub use self::attention::AttentionStats;
pub use self::baseline::{Baseline, FeatureBaseline, RECONSTRUCTION_ERROR, RareValues, Reconstruction, Summary};
pub use self::baseline_builder::{BaselineBuilder, Sample};
pub use self::bins::Bins;
pub use self::calibration_map::{CalibratedBin, CalibrationMap};
pub use self::compared_sums::VersionSums;
pub use self::comparison::{ComparedFinding, ComparedMeasure, MeasureKind, MeasuredValue, compare_versions};
pub use self::confusion_matrix::ConfusionCounts;
pub use self::deployment::{DeployedShare, DeploymentRecorder, StatePart};
pub use self::drift::{
    BinPositions, BinRole, BinSummary, Comparison, CountsByHour, Drift, DriftStatus, FALSE_ALARM_RATE, MIN_INDEPENDENT,
    MIN_SLOT_VALUES, MIN_VALUES, Reference, Share, ShareDrift, SliceAtHours, WindowCounts, independent_share,
    independent_share_at_hours, judge,
};
pub use self::drift_counters::MAX_WINDOW;
pub use self::drift_counts::{CountedFeature, DriftCounts};
pub use self::drift_history::{DriftAt, DriftPoint, FeaturePsi, PsiSummary};
pub use self::drift_report::{BinDrift, DriftReport, FeatureDrift};
pub use self::drift_verdict::{DriftVerdict, VerdictReason};
pub use self::drift_window::DriftWindow;
pub use self::event_counts::{Dispersion, DispersionWatch, EventCounts, GuardrailCounts, Routing};
pub use self::exposition::metrics;
pub use self::hourly_counters::HourlyCounters;
pub use self::interval::{Difference, Interval};
pub use self::labelled_baseline::{Confusion, LabelledBaseline, LabelledClasses, LabelledCounter, LabelledValues};
pub use self::labels::{FeedbackResult, Outcome, RequestPart, ShedReason, Unanswered, VersionLabels};
pub use self::live_stats::{BatchSizes, BudgetParts, LiveBatches, LiveLatency, LiveStats};
pub use self::metric::Metric;
pub use self::monitored_features::MonitoringSpec;
pub use self::outcome_metrics::OutcomeStats;
pub use self::outcomes::{Calibration, CalibrationBin, ClassOutcomes, Outcomes};
use self::overload::OverloadWatches;
pub use self::predicted::{Predicted, Truth};
pub use self::prediction_log_metrics::{LeftOut, LogDrop, LoggedRows, PredictionLogRecorder};
pub use self::prediction_stats::{
    BusinessMeasure, CalibrationPoint, ClassCount, ClassMeasures, ConfidenceBin, PredictionStats,
};
pub use self::profile::{DayKinds, FeatureProfile, LearnedProfile, Profile, ProfileOrigin, time_zone};
pub use self::projection::{ProjectedInput, Projection};
pub use self::quantiles::{Latency, LatencyStats, Quantiles};
pub use self::recent_requests::RecentRequests;
pub use self::requests::{Delivery, RequestGuard};
pub use self::runs::Runs;
pub use self::server_recorder::{ServerRecorder, TlsRecorder};
pub use self::shadow_counters::{ShadowCounters, ShadowCounts, ShadowOutcome};
pub use self::text::TEXT_FORMAT;
pub use self::tracing_metrics::{SpanDrop, TracingRecorder};
pub use self::usual_by_hour::ProfileInUse;
pub use self::version_recorder::{RunTime, ServiceTimes, VersionRecorder};
pub use self::version_stats::{RequestStats, VersionStats};
pub use self::watched_bins::Side;
use crate::budget::LatencyBudget;
use crate::config::MonitoringWindows;

/// All measurements of one server.
#[derive(Debug)]
pub struct Monitor {
    server: Arc<ServerRecorder>,
    versions: Mutex<Vec<Weak<VersionRecorder>>>,
    deployments: DeploymentRecorder,
    overload: Mutex<OverloadWatches>,
    windows: MonitoringWindows,
    started: Instant,
}

impl Monitor {
    /// Creates the monitor of a server with this version of ONNX Runtime.
    pub fn new(onnxruntime: &str, windows: MonitoringWindows) -> Monitor {
        Monitor {
            server: Arc::new(ServerRecorder::new(onnxruntime)),
            versions: Mutex::new(Vec::new()),
            deployments: DeploymentRecorder::default(),
            overload: Mutex::default(),
            windows,
            started: Instant::now(),
        }
    }

    /// Time since the monitor was created. The moments of windows are given in this time.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Lengths of the windows for latencies and drift.
    pub fn windows(&self) -> MonitoringWindows {
        self.windows
    }

    /// Advances the sliding windows of all versions, and looks for incidents of overload. Call it about once a second.
    pub fn tick(&self) {
        let (now, clock) = (self.now(), SystemTime::now());
        let versions: Vec<Arc<VersionRecorder>> = self.versions.lock().iter().filter_map(Weak::upgrade).collect();
        versions.iter().for_each(|version| version.tick(now, clock));
        let counts = versions.iter().map(|version| (version.labels().model.as_str(), version.counts_since_last_look()));
        self.overload.lock().look(now, counts);
    }

    /// Returns the recorder of everything that does not belong to a version.
    pub fn server(&self) -> &Arc<ServerRecorder> {
        &self.server
    }

    /// Returns the recorder of deployments and loads.
    pub fn deployments(&self) -> &DeploymentRecorder {
        &self.deployments
    }

    /// Returns the recorder of a version. A version that is loaded again with the same settings keeps its recorder, so
    /// that its counters continue. `/metrics` shows the series of a version until its recorder is dropped.
    pub fn version(&self, labels: VersionLabels, budget: LatencyBudget, spec: MonitoringSpec) -> Arc<VersionRecorder> {
        let mut versions = self.versions.lock();
        versions.retain(|version| version.strong_count() > 0);
        let mut alive = versions.iter().filter_map(Weak::upgrade);
        if let Some(known) = alive.find(|version| version.is_for(&labels, budget, &spec)) {
            return known;
        }
        let (model, version) = (labels.model.clone(), labels.version.clone());
        let recorder = Arc::new(VersionRecorder::new(labels, budget, spec, self.windows, self.now()));
        if let [first, ..] = recorder.drift_counters.left_out()
            && recorder.spec().baseline.is_some()
        {
            tracing::warn!(
                model,
                version,
                count = recorder.drift_counters.left_out().len(),
                first,
                "some features are not monitored for drift: only the baseline or only [preprocess] has them, or \
                 there are more than monitoring.max_features; `leeway drift` lists them"
            );
        }
        versions.push(Arc::downgrade(&recorder));
        recorder
    }

    /// Returns all metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        let mut versions: Vec<Arc<VersionRecorder>> = Vec::new();
        // A series may be written only once, so the older of two recorders of the same version is skipped: it is being
        // retired.
        for version in self.versions.lock().iter().rev().filter_map(Weak::upgrade) {
            let same = |other: &Arc<VersionRecorder>| other.labels().is_same_version(version.labels());
            if !versions.iter().any(same) {
                versions.push(version);
            }
        }
        versions.reverse();
        exposition::render(&self.server, versions, &self.deployments, self.now(), self.windows.triton_metrics)
    }
}

#[cfg(test)]
mod month_of_requests;
#[cfg(test)]
mod tests;
