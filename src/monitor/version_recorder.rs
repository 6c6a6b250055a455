//! The recorder of one version: it counts requests, runs, features, predictions and outcomes.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use super::drift_counters::DriftCounters;
use super::drift_history::{DriftAt, DriftHistory, DriftPoint};
use super::drift_report::DriftReport;
use super::drift_verdict::DriftVerdict;
use super::drift_window::DriftWindow;
use super::event_counts::DispersionWatch;
use super::labelled_baseline::LabelledBaseline;
use super::labels::{BatchElements, VersionLabels};
use super::metric_family::{Family, gauge};
use super::monitored_features::MonitoringSpec;
use super::outcomes::Outcomes;
use super::overload::RequestCounts;
use super::predicted::{Predicted, Truth};
use super::profile::LearnedProfile;
use super::quantiles::Latencies;
use super::recent_requests::RequestHistory;
use super::runs::Runs;
use super::shadow_counters::{ShadowCounters, ShadowCounts};
use super::step_counters::StepCounters;
use super::version_metrics::{Batching, HANDLES, VersionMetrics};
use crate::budget::LatencyBudget;
use crate::config::MonitoringWindows;
use crate::feature::{FeatureSchema, Features, Observation};
use crate::stage::Timings;

/// Assumed number of counting threads, for the estimate of memory: the threads for connections and for heavy stages, on
/// a machine with sixteen cores.
const THREADS: usize = 32;

/// Maximum age of the report of drift that the readers of a console share.
const RECENT_DRIFT: Duration = Duration::from_secs(1);

/// The recorder of one version of one model.
#[derive(Debug)]
pub struct VersionRecorder {
    pub(super) metrics: VersionMetrics,
    pub(super) latencies: Latencies,
    pub(super) drift_counters: DriftCounters,
    outcomes: Mutex<Outcomes>,
    /// The steps of a chain.
    pub(super) steps: StepCounters,
    /// Number of requests that have failed one after the other.
    pub(super) failing: AtomicU32,
    pub(super) dispersion: Mutex<DispersionWatch>,
    shadow: ShadowCounters,
    spec: MonitoringSpec,
    /// The learned profile in use.
    learned: Mutex<Option<Arc<LearnedProfile>>>,
    /// Counts of requests over the last minutes.
    pub(super) requests: RequestHistory,
    drift_history: DriftHistory,
    /// The report of drift that a console showed last, and its time.
    latest_drift: Mutex<Option<(Duration, Arc<DriftReport>)>>,
    pub(super) windows: MonitoringWindows,
}

/// The learned times of the typical run and of the tail.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ServiceTimes {
    /// The time of a typical run: about half of the runs take longer.
    pub typical: RunTime,
    /// The time of a slow run: few runs take longer.
    pub tail: RunTime,
}

/// The time of a run: `per_row_s` · rows + `per_run_s`, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RunTime {
    /// Seconds for each row.
    pub per_row_s: f64,
    /// Seconds for each run.
    pub per_run_s: f64,
}

/// The metrics of monitoring itself, in the order of `/metrics`.
pub(super) static FAMILIES: &[Family<VersionRecorder>] = &[
    gauge(
        "leeway_monitoring_memory_bytes",
        &["model", "version"],
        "The maximum memory of the counters of this version's quantiles and drift.",
        |version, series| {
            let bytes = version.drift_counters.memory(THREADS) + version.latencies.memory(THREADS);
            series.value(&[], bytes as u64);
        },
    ),
    gauge(
        "leeway_baseline_rows",
        &["model", "version"],
        "Rows of training data in the version's baseline; 0 without a baseline, in which case drift cannot be measured.",
        |version, series| series.value(&[], version.baseline_rows().unwrap_or_default()),
    ),
    gauge(
        "leeway_baseline_labelled_rows",
        &["model", "version"],
        "Rows of the baseline whose truth is known, if there are any.",
        |version, series| {
            if let Some(labelled) = version.labelled() {
                series.value(&[], labelled.rows());
            }
        },
    ),
    gauge(
        "leeway_baseline_accuracy",
        &["model", "version"],
        "The accuracy of the predictions for the labelled rows of the baseline.",
        |version, series| {
            if let Some(LabelledBaseline::Classes(classes)) = version.labelled() {
                series.value(&[], classes.accuracy());
            }
        },
    ),
    gauge(
        "leeway_baseline_error",
        &["model", "version", "measure"],
        "The errors of predicted numbers for the labelled rows of the baseline, in their own unit: mae, rmse and bias.",
        |version, series| {
            if let Some(LabelledBaseline::Values(values)) = version.labelled() {
                series.value(&["mae"], values.mean_absolute_error);
                series.value(&["rmse"], values.root_mean_squared_error);
                series.value(&["bias"], values.bias);
            }
        },
    ),
];

// ===== impl VersionRecorder =====

impl VersionRecorder {
    pub(super) fn new(
        labels: VersionLabels,
        budget: LatencyBudget,
        spec: MonitoringSpec,
        windows: MonitoringWindows,
        born: Duration,
    ) -> VersionRecorder {
        let drift_counters = match windows.enabled {
            true => DriftCounters::new(&spec, born),
            false => DriftCounters::new(
                &MonitoringSpec { baseline: None, schema: FeatureSchema::default(), ..spec.clone() },
                born,
            ),
        };
        VersionRecorder {
            metrics: VersionMetrics::new(labels, budget),
            latencies: Latencies::new(born, windows.quantiles),
            outcomes: Mutex::new(Outcomes::of_classes(drift_counters.class_names(), spec.limits.clone())),
            drift_counters,
            steps: StepCounters::new(&spec.steps),
            failing: AtomicU32::new(0),
            dispersion: Mutex::default(),
            shadow: ShadowCounters::default(),
            spec,
            learned: Mutex::default(),
            requests: RequestHistory::new(born),
            drift_history: DriftHistory::new(born),
            latest_drift: Mutex::default(),
            windows,
        }
    }

    /// Returns true if features of inputs are counted. They are not without a baseline.
    pub fn monitors_inputs(&self) -> bool {
        self.windows.enabled && self.drift_counters.counts_inputs()
    }

    /// Returns true if embeddings of predictions are counted.
    pub fn monitors_embeddings(&self) -> bool {
        self.windows.enabled && self.drift_counters.counts_embeddings()
    }

    /// Records the features of instances and their predictions.
    pub fn observe(&self, features: Features, predictions: impl Iterator<Item = Observation>) {
        if self.windows.enabled {
            self.drift_counters.observe(features, predictions);
        }
    }

    /// Calls `take_in` with the outcomes of this version's predictions, under their lock.
    pub fn outcomes<T>(&self, take_in: impl FnOnce(&mut Outcomes) -> T) -> T {
        take_in(&mut self.outcomes.lock())
    }

    /// Returns the prediction in an id, with the class names of this version; `None` if the id has neither a class nor
    /// a number.
    pub fn predicted(&self, observation: Observation) -> Option<Predicted> {
        match observation {
            Observation::Class { certainty, .. } => Some(Predicted::Class(
                observation.class_name(self.spec.classes.as_deref())?,
                f64::from(certainty.confidence),
            )),
            Observation::Value(value) => Some(Predicted::Value(value)),
            Observation::Nothing => None,
        }
    }

    /// Counts a run of a step of a chain, with the durations of its stages.
    pub fn step(&self, index: usize, timings: &Timings, is_answered: bool) {
        self.steps.count(index, timings, is_answered);
    }

    /// Returns the counters of the copied requests of this version.
    pub fn shadow(&self) -> &ShadowCounters {
        &self.shadow
    }

    /// Returns the counts of the copied requests of this version since it was loaded.
    pub fn shadow_counts(&self) -> ShadowCounts {
        self.shadow.counts()
    }

    /// Returns the names of the classes that [`VersionRecorder::predicted`] uses; empty if they are not known.
    pub fn class_names(&self) -> &[String] {
        self.spec.classes.as_deref().unwrap_or_default()
    }

    /// Returns the class of this number as a true outcome.
    pub fn class(&self, class: u64) -> Truth {
        let class = usize::try_from(class).unwrap_or(usize::MAX);
        let name = self.class_names().get(class).cloned().unwrap_or_else(|| class.to_string());
        Truth::Label { class, name }
    }

    /// Monitoring settings of the version.
    pub fn spec(&self) -> &MonitoringSpec {
        &self.spec
    }

    /// Uses a learned profile by time of day instead of that of the baseline; `None` takes it back.
    pub fn use_profile(&self, learned: Option<Arc<LearnedProfile>>) {
        let mut used = self.learned.lock();
        let is_same = match (&*used, &learned) {
            (Some(used), Some(learned)) => Arc::ptr_eq(used, learned),
            (used, learned) => used.is_none() && learned.is_none(),
        };
        if !is_same {
            self.drift_counters.use_profile(learned.as_ref(), self.spec.baseline.as_deref());
            *used = learned;
        }
    }

    /// The window over which drift is measured, if no other is asked for.
    pub(super) fn drift_window(&self) -> DriftWindow {
        let settings = &self.spec.settings;
        DriftWindow {
            length: settings.drift_window_ms.map_or(self.windows.drift, Duration::from_millis),
            rows: settings.drift_window_rows.unwrap_or(self.windows.drift_rows),
        }
    }

    /// Returns the verdict on the drift of this version, for alerts.
    pub fn drift_verdict(&self, now: Duration) -> DriftVerdict {
        self.drift_counters.verdict(now, self.drift_window())
    }

    /// Duration above which an answer counts as slow.
    pub(super) fn slow_above(&self) -> Duration {
        self.spec.limits.slow.unwrap_or(self.metrics.budget.total)
    }

    /// Advances the sliding windows of this version.
    pub(super) fn tick(&self, now: Duration, clock: SystemTime) {
        self.latencies.tick(now);
        self.metrics.look_for_requests(clock);
        self.drift_counters.tick(now, clock);
        self.look_at_dispersion();
        self.requests.tick(now, &self.metrics);
        if !self.drift_counters.features().is_empty() {
            self.drift_history.tick(now, || DriftAt::from(&*self.recent_drift(now)));
        }
    }

    /// Returns the drift in the configured window, as of at most a second ago, so that all readers of a console share it.
    pub(super) fn recent_drift(&self, now: Duration) -> Arc<DriftReport> {
        let mut latest = self.latest_drift.lock();
        match &*latest {
            Some((made, report)) if now < *made + RECENT_DRIFT => Arc::clone(report),
            _ => {
                let report = Arc::new(self.stats(now, None).drift);
                *latest = Some((now, Arc::clone(&report)));
                report
            }
        }
    }

    /// Returns the drift of the last day, the oldest first. The last point is the current one.
    pub fn drift_history(&self, now: Duration) -> Vec<DriftPoint> {
        let mut points = self.drift_history.points();
        if !self.drift_counters.features().is_empty() {
            points.push(DriftPoint { at: now, drift: DriftAt::from(&*self.recent_drift(now)) });
        }
        points
    }

    /// Returns the counts of requests since the last call.
    pub(super) fn counts_since_last_look(&self) -> RequestCounts {
        self.metrics.counts_since_last_look()
    }

    /// Counts a batch of `rows` rows and `elements` elements, of which `padding` extended short rows.
    pub fn batch(&self, rows: usize, elements: usize, padding: usize) {
        let shard = self.metrics.cells.local();
        shard.observe(HANDLES.batches.sizes, rows as u64);
        shard.add(HANDLES.batches.elements.of(BatchElements::Input), elements.saturating_sub(padding) as u64);
        shard.add(HANDLES.batches.elements.of(BatchElements::Padding), padding as u64);
    }

    /// Counts a worker that is restarted, after a panic or after the end of the model's process.
    pub fn worker_restarted(&self) {
        self.metrics.cells.local().add(HANDLES.workers.restarts, 1);
    }

    /// Counts a run that was ended because no request waited for it any more.
    pub fn run_terminated(&self) {
        self.metrics.cells.local().add(HANDLES.budget.terminated, 1);
    }

    /// Counts a run that was moved from the thread of a request to a worker.
    pub fn run_moved(&self) {
        self.metrics.cells.local().add(HANDLES.budget.moved, 1);
    }

    /// Sets the learned times of runs.
    pub fn set_service_times(&self, ServiceTimes { typical, tail }: ServiceTimes) {
        let (per_row, per_run) = (&self.metrics.service_per_row, &self.metrics.service_per_run);
        per_row.typical.set(typical.per_row_s);
        per_run.typical.set(typical.per_run_s);
        per_row.tail.set(tail.per_row_s);
        per_run.tail.set(tail.per_run_s);
    }

    /// Sets the time that loading the version took.
    pub fn set_load_duration(&self, took: Duration) {
        self.metrics.load_seconds.set(took.as_secs_f64());
    }

    /// Returns the name of the model and the number of the version.
    pub fn names(&self) -> (&str, &str) {
        (&self.metrics.labels.model, &self.metrics.labels.version)
    }

    /// Sets the finding on the independence of the version's rows (a name out of a closed set), and if requests share
    /// runs.
    pub fn set_batching(&self, rows: &'static str, is_on: bool) {
        *self.metrics.batching.lock() = Batching { rows, is_on };
    }

    /// Sets the number of requests that wait for a worker.
    pub fn set_queue_depth(&self, requests: usize) {
        self.metrics.queue_depth.set(requests as f64);
    }

    /// Adds the runs of new workers of this version.
    pub fn watch_runs(&self, runs: &Arc<Runs>) {
        self.metrics.watch_runs(runs);
    }

    pub(super) fn labels(&self) -> &VersionLabels {
        &self.metrics.labels
    }

    /// Number of rows of training data in the version's baseline.
    pub fn baseline_rows(&self) -> Option<u64> {
        self.spec.baseline.as_ref().map(|baseline| baseline.rows)
    }

    /// Quality of the predictions for the labelled rows of the baseline.
    pub(super) fn labelled(&self) -> Option<&LabelledBaseline> {
        self.spec.baseline.as_ref()?.labelled.as_ref()
    }

    /// Returns true if this recorder can continue for a version that is loaded again with these settings.
    pub(super) fn is_for(&self, labels: &VersionLabels, budget: LatencyBudget, spec: &MonitoringSpec) -> bool {
        self.metrics.labels == *labels && self.metrics.budget == budget && self.spec == *spec
    }
}
