//! Counters of the inputs and predictions of one version, by the bins of its baseline, and metrics of the predictions.
//!
//! Recording is a few loads and stores per value, into the thread's own cells, for several requests at a time. Drift is
//! computed only when it is read.

use std::time::Duration;

use parking_lot::Mutex;

use super::bins::{MAX_TALLIED, MAX_TEXT_BINS, OTHER};
use super::cells::{Buckets, Counter, Counters, Histogram};
use super::drift_reading::DriftReading;
use super::history::History;
use super::metric_family::{Declarations, counter, histogram};
use super::monitored_features::{MonitoredFeatures, MonitoringSpec};
use super::shards::{LocalShard, PerThread, Shards};
use super::text::Series;
use crate::feature::{Certainty, Features, Observation};

/// Interval at which the counts are stored. They are kept for a day, so that windows of up to a day can be read.
const INTERVAL: Duration = Duration::from_secs(300);
/// Maximum length of a window in which drift is measured.
pub const MAX_WINDOW: Duration = Duration::from_secs(24 * 3600);

/// Counts of the inputs and predictions of one version.
#[derive(Debug)]
pub(super) struct DriftCounters {
    low_confidence: f32,
    monitored: MonitoredFeatures,
    pending: PerThread<Pending>,
    /// Memory of a pending row, in bytes.
    row_bytes: usize,
    /// The cells of the [`HANDLES`] and of the monitored features.
    cells: Shards,
    history: History<u64>,
    /// Indexes of the features whose drift `/metrics` showed last.
    pub(super) shown: Mutex<Vec<usize>>,
}

/// Features and predictions of a thread that are not counted yet. Counting several requests together takes less
/// than half as long, because the edges and the cells of a feature are seldom in a cache when a request arrives.
#[derive(Debug, Default)]
struct Pending {
    features: Vec<Features>,
    /// Number of instances in `features`. Instances that came as tensors have no predictions.
    rows: usize,
    predictions: Vec<Observation>,
}

/// Number of pending instances or requests at which all pending observations are counted.
const MAX_PENDING: usize = MAX_TALLIED;

// ===== metrics =====

/// Handles of the counters of predictions, which do not need a baseline.
#[derive(Debug, Clone, Copy)]
struct PredictionHandles {
    rows: Counter,
    classes: Counters,
    confidence: Histogram<'static>,
    margin: Histogram<'static>,
    entropy: Histogram<'static>,
    low_confidence: Counter,
}

const DECLARED: (PredictionHandles, Declarations<DriftCounters>) = {
    let mut all = Declarations::new(|version: &DriftCounters| &version.cells);
    (PredictionHandles::declare(&mut all), all)
};

const HANDLES: PredictionHandles = DECLARED.0;

/// The metrics of predictions, in the order of `/metrics`.
pub(super) static METRICS: Declarations<DriftCounters> = DECLARED.1;

/// Buckets of confidence, margin and entropy: edges in thousandths, sum in billionths.
const CERTAINTIES: Buckets<'static> = Buckets {
    edges: &[100, 200, 300, 400, 500, 600, 700, 800, 900, 950, 990, 1000],
    edge_unit: 1e3,
    sum_unit: BILLION,
};

const BILLION: f64 = 1e9;

/// Number of counters of classes: one for each class with a label of its own, and one for all other classes.
const CLASS_COUNTERS: usize = MAX_TEXT_BINS + 1;

impl PredictionHandles {
    const fn declare(all: &mut Declarations<DriftCounters>) -> PredictionHandles {
        PredictionHandles {
            rows: all.counter(
                "leeway_predictions_total",
                &["model", "version"],
                "Instances that were answered with a prediction.",
            ),
            classes: all
                .add(counter(
                    "leeway_prediction_class_total",
                    &["model", "version", "class"],
                    "Predictions by class; classes beyond the first hundred are counted as \"other\".",
                    |version, series| {
                        version.classes().iter().for_each(|(class, count)| series.value(&[class], *count));
                    },
                ))
                .counters(CLASS_COUNTERS),
            confidence: all
                .add(histogram(
                    "leeway_prediction_confidence",
                    &["model", "version"],
                    "The probability of the predicted class.",
                    |version, series| version.write_certainty(series, HANDLES.confidence),
                ))
                .histogram(CERTAINTIES),
            margin: all
                .add(histogram(
                    "leeway_prediction_margin",
                    &["model", "version"],
                    "The highest minus the second-highest probability.",
                    |version, series| version.write_certainty(series, HANDLES.margin),
                ))
                .histogram(CERTAINTIES),
            entropy: all
                .add(histogram(
                    "leeway_prediction_entropy_ratio",
                    &["model", "version"],
                    "The entropy of all classes' probabilities, as a share of the highest possible.",
                    |version, series| version.write_certainty(series, HANDLES.entropy),
                ))
                .histogram(CERTAINTIES),
            low_confidence: all
                .add(counter(
                    "leeway_prediction_low_confidence_total",
                    &["model", "version"],
                    "Predictions whose confidence is below monitoring.low_confidence.",
                    |version, series| {
                        if version.is_classifier() {
                            series.value(&[], version.cells.sum(HANDLES.low_confidence));
                        }
                    },
                ))
                .counter(),
        }
    }
}

impl DriftCounters {
    pub(super) fn new(spec: &MonitoringSpec, born: Duration) -> DriftCounters {
        // The counters of numeric features begin at a new block.
        let mut layout = METRICS.layout().aligned();
        let monitored = MonitoredFeatures::new(spec, &mut layout);
        DriftCounters {
            low_confidence: spec.settings.low_confidence,
            monitored,
            pending: PerThread::new(),
            row_bytes: size_of::<Features>() + size_of::<Observation>() + size_of::<f32>() * spec.schema.numbers.len(),
            cells: Shards::new(layout.cells()),
            history: History::new(born, INTERVAL, MAX_WINDOW),
            shown: Mutex::default(),
        }
    }

    // ===== recording =====

    /// Returns true if features of inputs are counted.
    pub(super) fn counts_inputs(&self) -> bool {
        self.monitored.counts_inputs()
    }

    /// Records the features and the predictions of the same instances.
    pub(super) fn observe(&self, features: Features, predictions: impl Iterator<Item = Observation>) {
        let mut pending = self.pending.own().lock();
        // Texts may be of any length, so features with texts do not stay pending.
        let at_once = !features.texts.is_empty();
        pending.rows += features.rows();
        pending.features.push(features);
        pending.predictions.extend(predictions);
        let pending_rows = pending.rows.max(pending.predictions.len());
        if at_once || pending_rows >= MAX_PENDING || pending.features.len() >= MAX_PENDING {
            self.count(&mut pending, &self.cells.local());
        }
    }

    /// Counts the pending observations of all threads. Holds none of their locks while counting.
    fn settle(&self) {
        for pending in self.pending.all() {
            let mut taken = std::mem::take(&mut *pending.lock());
            self.count(&mut taken, &self.cells.common());
        }
    }

    fn count(&self, pending: &mut Pending, cells: &LocalShard<'_>) {
        self.monitored.count(cells, &pending.features);
        for prediction in &pending.predictions {
            if let Observation::Class { class, certainty } = *prediction {
                self.count_class(cells, class, certainty);
            }
            for (number, value) in prediction.numbers() {
                self.monitored.count_number(cells, number, value);
            }
        }
        cells.add(HANDLES.rows, pending.rows.max(pending.predictions.len()) as u64);
        pending.rows = 0;
        pending.features.clear();
        pending.predictions.clear();
        pending.predictions.shrink_to(MAX_PENDING);
    }

    fn count_class(&self, cells: &LocalShard<'_>, class: usize, certainty: Certainty) {
        cells.add(HANDLES.classes.at(class.min(CLASS_COUNTERS - 1)), 1);
        self.monitored.count_class(cells, class);
        if certainty.confidence < self.low_confidence {
            cells.add(HANDLES.low_confidence, 1);
        }
        let Certainty { confidence, margin, entropy } = certainty;
        for (histogram, value) in
            [(HANDLES.confidence, confidence), (HANDLES.margin, margin), (HANDLES.entropy, entropy)]
        {
            let value = f64::from(value.max(0.0));
            // A thousand times an f32 is exact as an f64, so rounding up never moves a value across an edge.
            cells.observe_with_sum(histogram, (value * 1e3).ceil() as u64, (value * BILLION).round() as u64);
        }
    }

    pub(super) fn tick(&self, now: Duration) {
        self.history.tick(now, || {
            self.settle();
            self.cells.sums().into()
        });
    }

    // ===== reading =====

    /// Number of predictions since the version was loaded.
    pub(super) fn predictions(&self) -> u64 {
        self.cells.sum(HANDLES.rows)
    }

    /// The mean confidence of all predictions; `None` without predicted classes.
    pub(super) fn mean_confidence(&self) -> Option<f64> {
        let confidence = self.cells.histogram(HANDLES.confidence);
        let count: u64 = confidence.counts.iter().sum();
        (count > 0).then(|| confidence.sum as f64 / BILLION / count as f64)
    }

    /// Returns the predictions by class: for all known classes, or for the predicted classes if no names are known. The
    /// rest counts as `other`.
    fn classes(&self) -> Vec<(String, u64)> {
        let counts = self.cells.sums_of(HANDLES.classes.range());
        let (counts, others) = counts.split_at(MAX_TEXT_BINS);
        let is_known = !self.class_names().is_empty();
        let name = |class: usize| match self.class_names().get(class) {
            None if is_known => OTHER.to_owned(),
            None => class.to_string(),
            Some(name) => name.clone(),
        };
        let mut mix: Vec<(String, u64)> = Vec::new();
        let all = counts.iter().enumerate().map(|(class, count)| (name(class), *count));
        for (name, count) in all.chain(others.iter().map(|count| (OTHER.to_owned(), *count))) {
            // Two classes with the same name share one series.
            match mix.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += count,
                None if is_known || count > 0 => mix.push((name, count)),
                None => {}
            }
        }
        mix
    }

    /// The names of the classes, if they are known.
    pub(super) fn class_names(&self) -> &[String] {
        &self.monitored.classes
    }

    /// Returns true if the names of classes are known, or a class was predicted.
    pub(super) fn is_classifier(&self) -> bool {
        !self.class_names().is_empty() || self.cells.sums_of(HANDLES.classes.range()).iter().any(|count| *count > 0)
    }

    fn write_certainty(&self, series: &mut Series<'_>, histogram: Histogram<'static>) {
        if self.is_classifier() {
            series.histogram(&[], &self.cells.histogram(histogram));
        }
    }

    /// Reads the counts of all features and parts of predictions with a baseline, and the drift within a window.
    pub(super) fn read(&self, now: Duration, window: Duration) -> DriftReading {
        self.settle();
        let begin = self.history.begin(now, window);
        DriftReading::new(&self.monitored.all, HANDLES.rows, self.cells.sums(), begin, now)
    }

    /// Names of the features that are not monitored.
    pub(super) fn left_out(&self) -> &[String] {
        &self.monitored.left_out
    }

    /// Returns the maximum memory of these counters in bytes, for this number of recording threads.
    pub(super) fn memory(&self, threads: usize) -> usize {
        8 * self.cells.len() * (threads + self.history.capacity()) + MAX_PENDING * self.row_bytes * threads
    }
}
