//! The handles of one version, which the request path writes to.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::baseline::class_name;
use super::drift_counters::{DriftCounters, DriftReport, MonitoringSpec};
use super::labels::{Outcome, ShedReason, VersionLabels};
use super::outcomes::{Outcomes, Predicted, Truth};
use super::quantiles::{Latencies, Timed};
use super::runs::Runs;
use super::shards::{LocalShard, Shards};
use crate::budget::{LatencyBudget, StageClock};
use crate::config::MonitoringWindows;
use crate::error::Error;
use crate::feature::{FeatureSchema, Features, Observation};
use crate::stage::Stage;

/// Upper bounds of the duration histograms, in microseconds: 50 µs to 10 s. Each has one more, at the stage's own part of
/// the budget, so that the share of requests beyond it can be told exactly.
const DURATION_BUCKETS_MICROS: [u64; 25] = [
    50, 100, 200, 350, 500, 750, 1_000, 1_500, 2_500, 5_000, 7_500, 10_000, 15_000, 20_000, 30_000, 50_000, 75_000,
    100_000, 150_000, 200_000, 300_000, 500_000, 1_000_000, 2_500_000, 10_000_000,
];

/// Upper bounds of the batch-size histogram, in rows.
pub(super) const BATCH_SIZE_BUCKETS: [u64; 10] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512];

/// Upper bounds of the histogram of what was left of a budget, in thousandths of it.
pub(super) const REMAINING_BUCKETS: [u64; 11] = [0, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900];

/// Upper bounds of the histogram of actual against predicted times, in thousandths.
pub(super) const PREDICTION_BUCKETS: [u64; 13] =
    [100, 250, 500, 667, 800, 900, 1_000, 1_100, 1_250, 1_500, 2_000, 3_000, 5_000];

/// The handles of one version of one model.
#[derive(Debug)]
pub struct VersionRecorder {
    labels: VersionLabels,
    budget: LatencyBudget,
    spec: MonitoringSpec,
    windows: MonitoringWindows,
    /// The edges of the duration histogram of each stage, and of the whole.
    duration_edges: [Vec<u64>; STAGE_HISTOGRAMS],
    latencies: Latencies,
    drift_counters: DriftCounters,
    outcomes: Mutex<Outcomes>,
    /// The bits of a float.
    load_seconds: AtomicU64,
    shards: Shards,
    queue_depth: AtomicU64,
    /// One for each generation of its workers.
    runs: Mutex<Vec<Weak<Runs>>>,
    /// The finding about its rows, and true if requests share runs.
    batching: Mutex<(&'static str, bool)>,
    /// The bits of four floats: seconds per row and per run, typical and in the tail.
    service_time: [AtomicU64; 4],
}

/// Counts a request as in flight until it is dropped, and as abandoned if nobody said how it ended.
#[derive(Debug)]
pub struct RequestGuard {
    recorder: Arc<VersionRecorder>,
    outcome: Outcome,
}

/// Guard of an answer that is being written. Dropping it, at the first byte, records the duration of the request.
#[derive(Debug)]
pub struct Delivery {
    recorder: Arc<VersionRecorder>,
    started: Instant,
}

// ===== the cells of a version =====

const STAGE_HISTOGRAMS: usize = Stage::ALL.len() + 1;
/// A budget has at most two edges in the histogram of a stage.
const DURATION_CELLS: usize = DURATION_BUCKETS_MICROS.len() + 2 + 2;
const BATCH_CELLS: usize = BATCH_SIZE_BUCKETS.len() + 2;

const REMAINING_CELLS: usize = REMAINING_BUCKETS.len() + 2;
const STAGES: usize = Stage::ALL.len();

const OUTCOMES_AT: usize = 0;
const IN_FLIGHT_AT: usize = OUTCOMES_AT + Outcome::ALL.len();
const RESTARTS_AT: usize = IN_FLIGHT_AT + 1;
const TERMINATED_AT: usize = RESTARTS_AT + 1;
const SHED_AT: usize = TERMINATED_AT + 1;
const EXPIRED_AT: usize = SHED_AT + ShedReason::ALL.len();
const OVERRUNS_AT: usize = EXPIRED_AT + STAGES;
const DURATIONS_AT: usize = OVERRUNS_AT + STAGES;
const REMAINING_AT: usize = DURATIONS_AT + STAGE_HISTOGRAMS * DURATION_CELLS;
const PREDICTION_AT: usize = REMAINING_AT + STAGES * REMAINING_CELLS;
const BATCH_AT: usize = PREDICTION_AT + PREDICTION_BUCKETS.len() + 2;
const ELEMENTS_AT: usize = BATCH_AT + BATCH_CELLS;
const CELLS: usize = ELEMENTS_AT + 2;

/// A histogram read back: counts per bucket (the last one is +Inf) and the sum in the unit of its edges.
#[derive(Debug)]
pub(super) struct HistogramSum {
    pub(super) counts: Vec<u64>,
    pub(super) sum: u64,
}

/// Finds the bucket of `value` and adds it: `edges` are inclusive upper bounds, as Prometheus has them.
fn observe(shard: &LocalShard<'_>, at: usize, edges: &[u64], value: u64, amount_for_sum: u64) {
    let bucket = edges.partition_point(|&edge| edge < value);
    shard.add(at + bucket, 1);
    shard.add(at + edges.len() + 1, amount_for_sum);
}

// ===== impl VersionRecorder =====

impl VersionRecorder {
    pub(super) fn new(
        labels: VersionLabels,
        budget: LatencyBudget,
        spec: MonitoringSpec,
        windows: MonitoringWindows,
        born: Duration,
    ) -> VersionRecorder {
        let stages = Stage::ALL.map(|stage| match stage {
            Stage::Network => vec![budget.network],
            Stage::Preprocess => vec![budget.preprocess],
            Stage::Queue | Stage::Inference => vec![budget.inference],
            Stage::Postprocess => vec![budget.postprocess],
        });
        let [network, preprocess, queue, inference, postprocess] = stages;
        let total = vec![budget.total, budget.on_the_server()];
        let drift_counters = match windows.enabled {
            true => DriftCounters::new(&spec, born),
            false => DriftCounters::new(
                &MonitoringSpec { baseline: None, schema: FeatureSchema::default(), ..spec.clone() },
                born,
            ),
        };
        VersionRecorder {
            duration_edges: [network, preprocess, queue, inference, postprocess, total]
                .map(|parts| duration_edges(&parts)),
            latencies: Latencies::new(born, windows.quantiles),
            outcomes: Mutex::new(Outcomes::of_classes(drift_counters.class_names())),
            drift_counters,
            labels,
            budget,
            spec,
            windows,
            load_seconds: AtomicU64::new(0),
            shards: Shards::new(CELLS),
            queue_depth: AtomicU64::new(0),
            runs: Mutex::default(),
            batching: Mutex::new(("unknown", false)),
            service_time: Default::default(),
        }
    }

    /// A request has reached this version.
    pub fn request(self: &Arc<Self>) -> RequestGuard {
        self.shards.local().add(IN_FLIGHT_AT, 1);
        RequestGuard { recorder: Arc::clone(self), outcome: Outcome::Abandoned }
    }

    /// Records the features of instances and their predictions.
    pub fn observe(&self, features: Features, predictions: impl Iterator<Item = Observation>) {
        if self.windows.enabled {
            self.drift_counters.observe(features, predictions);
        }
    }

    /// Returns the drift of the last requests from the baseline: those within a window that ends now.
    pub fn drift(&self, now: Duration, window: Duration) -> DriftReport {
        self.drift_counters.report(now, window)
    }

    /// Takes in what became of predictions.
    pub fn outcomes<T>(&self, take_in: impl FnOnce(&mut Outcomes) -> T) -> T {
        take_in(&mut self.outcomes.lock())
    }

    /// The prediction that an id tells of, in the words of this version; `None` if it could not be monitored.
    pub fn predicted(&self, observation: Observation) -> Option<Predicted> {
        match observation {
            Observation::Class { certainty, .. } => Some(Predicted::Class(
                class_name(observation, self.spec.classes.as_deref())?,
                f64::from(certainty.confidence),
            )),
            Observation::Value(value) => Some(Predicted::Value(value)),
            Observation::Nothing => None,
        }
    }

    /// Returns the names of the classes, if they are known: those of [`VersionRecorder::predicted`].
    pub fn class_names(&self) -> &[String] {
        self.spec.classes.as_deref().unwrap_or_default()
    }

    /// Returns the class of this number as a truth.
    pub fn class(&self, class: u64) -> Truth {
        let class = usize::try_from(class).unwrap_or(usize::MAX);
        let name = self.class_names().get(class).cloned().unwrap_or_else(|| class.to_string());
        Truth::Label { class, name }
    }

    /// Its monitoring settings.
    pub fn spec(&self) -> &MonitoringSpec {
        &self.spec
    }

    /// Notes where the sliding windows are.
    pub(super) fn tick(&self, now: Duration) {
        self.latencies.tick(now);
        self.drift_counters.tick(now);
    }

    /// A batch of `rows` rows was run, with so many elements, of which `padding` made short rows longer.
    pub fn batch(&self, rows: usize, elements: usize, padding: usize) {
        let shard = self.shards.local();
        observe(&shard, BATCH_AT, &BATCH_SIZE_BUCKETS, rows as u64, rows as u64);
        shard.add(ELEMENTS_AT, elements.saturating_sub(padding) as u64);
        shard.add(ELEMENTS_AT + 1, padding as u64);
    }

    /// A worker panicked and its session is being rebuilt.
    pub fn worker_restarted(&self) {
        self.shards.local().add(RESTARTS_AT, 1);
    }

    /// A run was ended because nobody waited for it any more.
    pub fn run_terminated(&self) {
        self.shards.local().add(TERMINATED_AT, 1);
    }

    /// Sets the learned service time: seconds per row and per run, of the typical run and of the tail.
    pub fn set_service_time(&self, [typical, tail]: [(f64, f64); 2]) {
        for (cell, seconds) in self.service_time.iter().zip([typical.0, typical.1, tail.0, tail.1]) {
            cell.store(seconds.to_bits(), Relaxed);
        }
    }

    /// Loading it took so long.
    pub fn set_load_duration(&self, took: Duration) {
        self.load_seconds.store(took.as_secs_f64().to_bits(), Relaxed);
    }

    /// The names of model and version.
    pub fn names(&self) -> (&str, &str) {
        (&self.labels.model, &self.labels.version)
    }

    /// Records the finding about the version's rows (a name out of a closed set), and if requests share runs.
    pub fn set_batching(&self, rows: &'static str, is_on: bool) {
        *self.batching.lock() = (rows, is_on);
    }

    /// So many requests wait for a worker.
    pub fn set_queue_depth(&self, requests: usize) {
        self.queue_depth.store(requests as u64, Relaxed);
    }

    /// Adds the runs of new workers of this version.
    pub fn watch_runs(&self, runs: &Arc<Runs>) {
        let mut all = self.runs.lock();
        all.retain(|runs| runs.strong_count() > 0);
        all.push(Arc::downgrade(runs));
    }

    /// Returns the age of the oldest run.
    pub(super) fn oldest_run(&self) -> Duration {
        self.runs().filter_map(|runs| runs.oldest()).max().unwrap_or_default()
    }

    fn runs(&self) -> impl Iterator<Item = Arc<Runs>> {
        let alive: Vec<Arc<Runs>> = self.runs.lock().iter().filter_map(Weak::upgrade).collect();
        alive.into_iter()
    }

    pub(super) fn labels(&self) -> &VersionLabels {
        &self.labels
    }

    pub(super) fn requests(&self, outcome: Outcome) -> u64 {
        self.shards.sum(OUTCOMES_AT + outcome as usize)
    }

    pub(super) fn in_flight(&self) -> u64 {
        // Summed while threads write: a fall may be seen before its rise.
        let waited_for = (self.shards.sum(IN_FLIGHT_AT) as i64).max(0) as u64;
        waited_for + self.runs().map(|runs| runs.abandoned()).sum::<u64>()
    }

    pub(super) fn restarts(&self) -> u64 {
        self.shards.sum(RESTARTS_AT)
    }

    /// Elements of requests, and of padding.
    pub(super) fn batch_elements(&self) -> [u64; 2] {
        [self.shards.sum(ELEMENTS_AT), self.shards.sum(ELEMENTS_AT + 1)]
    }

    pub(super) fn terminated(&self) -> u64 {
        self.shards.sum(TERMINATED_AT)
    }

    pub(super) fn shed(&self, reason: ShedReason) -> u64 {
        self.shards.sum(SHED_AT + reason as usize)
    }

    pub(super) fn expired(&self, stage: Stage) -> u64 {
        self.shards.sum(EXPIRED_AT + stage as usize)
    }

    pub(super) fn overruns(&self, stage: Stage) -> u64 {
        self.shards.sum(OVERRUNS_AT + stage as usize)
    }

    pub(super) fn budget(&self) -> LatencyBudget {
        self.budget
    }

    pub(super) fn latencies(&self) -> &Latencies {
        &self.latencies
    }

    pub(super) fn drift_counters(&self) -> &DriftCounters {
        &self.drift_counters
    }

    pub(super) fn windows(&self) -> MonitoringWindows {
        self.windows
    }

    /// Returns true if the counts of these handles go on being what these settings ask for.
    pub(super) fn is_for(&self, labels: &VersionLabels, budget: LatencyBudget, spec: &MonitoringSpec) -> bool {
        self.labels == *labels && self.budget == budget && self.spec == *spec
    }

    /// The upper bounds of a stage's durations, or of the whole, in microseconds.
    pub(super) fn duration_edges(&self, stage: Option<Stage>) -> &[u64] {
        &self.duration_edges[histogram_index(stage)]
    }

    pub(super) fn load_seconds(&self) -> f64 {
        f64::from_bits(self.load_seconds.load(Relaxed))
    }

    /// Seconds per row and per run, of the typical run and of the tail.
    pub(super) fn service_time(&self) -> [[f64; 2]; 2] {
        let read = |index: usize| f64::from_bits(self.service_time[index].load(Relaxed));
        [[read(0), read(1)], [read(2), read(3)]]
    }

    pub(super) fn remaining(&self, stage: Stage) -> HistogramSum {
        self.histogram(REMAINING_AT + stage as usize * REMAINING_CELLS, REMAINING_BUCKETS.len())
    }

    pub(super) fn prediction_ratios(&self) -> HistogramSum {
        self.histogram(PREDICTION_AT, PREDICTION_BUCKETS.len())
    }

    pub(super) fn batching(&self) -> (&'static str, &'static str) {
        let (rows, is_on) = *self.batching.lock();
        (rows, if is_on { "on" } else { "off" })
    }

    pub(super) fn queue_depth(&self) -> u64 {
        self.queue_depth.load(Relaxed)
    }

    /// The durations of a stage, or of the whole request, in nanoseconds.
    pub(super) fn durations(&self, stage: Option<Stage>) -> HistogramSum {
        self.histogram(duration_cells(stage), self.duration_edges(stage).len())
    }

    pub(super) fn batch_sizes(&self) -> HistogramSum {
        self.histogram(BATCH_AT, BATCH_SIZE_BUCKETS.len())
    }

    fn histogram(&self, at: usize, edges: usize) -> HistogramSum {
        let mut counts = self.shards.sums_of(at..at + edges + 2);
        let sum = counts.pop().unwrap_or_default();
        HistogramSum { counts, sum }
    }
}

fn histogram_index(stage: Option<Stage>) -> usize {
    stage.map_or(Stage::ALL.len(), |stage| stage as usize)
}

fn duration_cells(stage: Option<Stage>) -> usize {
    DURATIONS_AT + histogram_index(stage) * DURATION_CELLS
}

/// The usual edges, and those of the budget.
fn duration_edges(budget: &[Duration]) -> Vec<u64> {
    let micros = budget.iter().map(|part| u64::try_from(part.as_micros()).unwrap_or(u64::MAX));
    let mut edges: Vec<u64> = micros.filter(|micros| *micros > 0).chain(DURATION_BUCKETS_MICROS).collect();
    edges.sort_unstable();
    edges.dedup();
    edges
}

// ===== impl RequestGuard =====

impl RequestGuard {
    /// The request was answered with predictions; its stages took what the clock says. How long all of it took is known
    /// when the answer is on its way.
    pub fn succeeded(mut self, clock: &StageClock) -> Delivery {
        self.outcome = Outcome::Ok;
        let shard = self.recorder.shards.local();
        let timings = clock.timings();
        for stage in Stage::ALL {
            self.recorder.took(&shard, Some(stage), timings.of(stage));
        }
        spent(&shard, clock);
        Delivery { recorder: Arc::clone(&self.recorder), started: clock.started() }
    }

    /// The request was refused or failed.
    pub fn failed(mut self, clock: &StageClock, error: &Error) {
        self.outcome = Outcome::from(error);
        let kind = if self.outcome == Outcome::Shed { Timed::Shed } else { Timed::Failed };
        self.recorder.latencies.observe(kind, clock.total());
        let shard = self.recorder.shards.local();
        if let Some(reason) = ShedReason::of(error) {
            shard.add(SHED_AT + reason as usize, 1);
        }
        if let Some(stage) = expired_in(error) {
            shard.add(EXPIRED_AT + stage as usize, 1);
        }
        spent(&shard, clock);
    }
}

impl VersionRecorder {
    /// An answer was on its way so long after its request.
    pub(super) fn delivered(&self, total: Duration) {
        self.took(&self.shards.local(), None, total);
    }

    fn took(&self, shard: &LocalShard<'_>, stage: Option<Stage>, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        // Edges are in whole microseconds: rounding up keeps "at most the edge" exact.
        observe(shard, duration_cells(stage), self.duration_edges(stage), nanos.div_ceil(1000), nanos);
        self.latencies.observe(stage.map_or(Timed::Total, Timed::Stage), took);
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.recorder.delivered(self.started.elapsed());
    }
}

/// The stage that had a request when its time ran out.
fn expired_in(error: &Error) -> Option<Stage> {
    match error {
        Error::Expired { stage, .. } => Some(*stage),
        Error::RequestTooSlow { .. } => Some(Stage::Network),
        _ => None,
    }
}

/// Records how the budget of a request was spent, however it ended.
fn spent(shard: &LocalShard<'_>, clock: &StageClock) {
    // Of requests that were not answered in time, too: they are those of which the prediction was worst.
    if let Some(predicted) = clock.predicted().filter(|predicted| !predicted.is_zero()) {
        let (timings, ran) = (clock.timings(), clock.left_at(Stage::Inference).is_some());
        if ran {
            let ratio = thousandths(timings.of(Stage::Queue) + timings.of(Stage::Inference), predicted);
            observe(shard, PREDICTION_AT, &PREDICTION_BUCKETS, ratio, ratio);
        }
    }
    for stage in Stage::ALL {
        if let Some(left) = clock.left_at(stage) {
            let share = thousandths(left, clock.budget().total);
            observe(shard, REMAINING_AT + stage as usize * REMAINING_CELLS, &REMAINING_BUCKETS, share, share);
        }
    }
    for stage in clock.overruns() {
        shard.add(OVERRUNS_AT + stage as usize, 1);
    }
}

/// A ratio in thousandths, rounded up.
fn thousandths(part: Duration, whole: Duration) -> u64 {
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    nanos(part).saturating_mul(1000).div_ceil(nanos(whole).max(1))
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        // A stage that panics takes the guard with it; the client has not gone anywhere.
        if std::thread::panicking() {
            self.outcome = Outcome::ServerError;
        }
        let shard = self.recorder.shards.local();
        shard.add(IN_FLIGHT_AT, 1u64.wrapping_neg());
        shard.add(OUTCOMES_AT + self.outcome as usize, 1);
    }
}
