//! Counters of the inputs and predictions of one version, by the bins of its baseline, and metrics of the predictions.
//!
//! Recording is a few loads and stores per value, into the thread's own cells, for several requests at a time. Drift is
//! computed only when it is read.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use super::accuracy_estimate::{AccuracyEstimator, EstimatedAccuracy, ExpectedSums};
use super::bins::{MAX_TALLIED, MAX_TEXT_BINS, OTHER};
use super::cells::{Buckets, Counter, Counters, Histogram, HistogramCounts};
use super::drift_reading::DriftReading;
use super::drift_verdict::{DriftVerdict, WEEK};
use super::drift_window::DriftWindow;
use super::history::{History, Moment};
use super::metric_family::{Declarations, counter, histogram};
use super::monitored_features::{MonitoredFeature, MonitoredFeatures, MonitoringSpec};
use super::repeated_rows::RecentRows;
use super::shards::{LocalShard, PerThread, Shards};
use super::text::Series;
use super::usual_by_hour::{UsualByHour, WallClock};
use crate::feature::{Certainty, Features, Observation};

/// Interval at which the counts of the last hours are stored, for short windows.
const INTERVAL: Duration = Duration::from_secs(300);
/// Maximum length of a window that begins at an interval. Longer windows begin at an hour.
const SHORT_WINDOW: Duration = Duration::from_secs(2 * 3_600);
/// Interval at which the counts of the last days are stored.
pub(super) const HOUR: Duration = Duration::from_secs(3_600);
/// Maximum length of a window in which drift is measured: a week.
pub const MAX_WINDOW: Duration = WEEK;
/// Time for which counts are stored, so that the same hours one week earlier are known.
const STORED: Duration = Duration::from_secs(8 * 86_400);

/// Counts of the inputs and predictions of one version.
#[derive(Debug)]
pub(super) struct DriftCounters {
    low_confidence: f32,
    /// Calibration of the confidence, if the baseline has it.
    estimator: Option<AccuracyEstimator>,
    pub(super) monitored: MonitoredFeatures,
    pending: PerThread<Pending>,
    /// The rows of the last hour, if repeated rows are counted once.
    recent_rows: Option<RecentRows>,
    /// Memory of a pending row, in bytes.
    row_bytes: usize,
    /// The cells of the [`HANDLES`] and of the monitored features.
    cells: Shards,
    /// Number of instances that are counted in the bins: not the repeated ones.
    counted: Counter,
    /// Counts every five minutes, for short windows.
    recent: History<u64>,
    /// Counts every hour, for long windows.
    pub(super) days: History<u64>,
    /// The verdict that `/metrics` showed last, and its time.
    pub(super) latest_verdict: Mutex<Option<(Duration, DriftVerdict)>>,
    /// Profile by time of day, if there is one.
    pub(super) usual: Mutex<Option<Arc<UsualByHour>>>,
    /// The time of day at the beginning of the monitor's time.
    pub(super) wall_clock: WallClock,
    /// Indexes of the features whose drift `/metrics` showed last.
    pub(super) shown: Mutex<Vec<usize>>,
}

/// Features and predictions of a thread that are not counted yet. Counting several requests together takes less
/// than half as long, because the edges and the cells of a feature are seldom in a cache when a request arrives.
#[derive(Debug, Default)]
struct Pending {
    features: Vec<Features>,
    /// Number of instances, including repeated ones. Instances that came as tensors have no predictions.
    rows: usize,
    /// Number of repeated instances among them.
    repeated: usize,
    predictions: Vec<PendingPrediction>,
}

/// A prediction that is not counted yet.
#[derive(Debug, Clone, Copy)]
struct PendingPrediction {
    observation: Observation,
    /// True if it is for a row that was counted before.
    is_repeated: bool,
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
    expected: ExpectedHandles,
}

/// Handles of the sums for the estimate of accuracy.
#[derive(Debug, Clone, Copy)]
struct ExpectedHandles {
    /// Number of predictions in the two sums: not those for repeated rows.
    predictions: Counter,
    /// Sums of the probabilities p that predictions are right, and of p·(1 − p), in billionths.
    correct: Counter,
    variance: Counter,
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
            expected: ExpectedHandles::declare(all),
        }
    }
}

impl ExpectedHandles {
    const fn declare(all: &mut Declarations<DriftCounters>) -> ExpectedHandles {
        ExpectedHandles {
            predictions: all
                .add(counter(
                    "leeway_outcome_expected_predictions_total",
                    &["model", "version"],
                    "Predictions in leeway_outcome_expected_correct_total; repeated rows count once.",
                    |version, series| version.write_expected(series, HANDLES.expected.predictions, 1.0),
                ))
                .counter(),
            correct: all
                .add(counter(
                    "leeway_outcome_expected_correct_total",
                    &["model", "version"],
                    "The sum of the probabilities that predictions are right, by the calibration in the baseline.",
                    |version, series| version.write_expected(series, HANDLES.expected.correct, BILLION),
                ))
                .counter(),
            variance: all
                .add(counter(
                    "leeway_outcome_expected_variance_total",
                    &["model", "version"],
                    "The sum of p(1 - p) over the probabilities p in leeway_outcome_expected_correct_total.",
                    |version, series| version.write_expected(series, HANDLES.expected.variance, BILLION),
                ))
                .counter(),
        }
    }
}

impl DriftCounters {
    pub(super) fn new(spec: &MonitoringSpec, born: Duration) -> DriftCounters {
        // The counters of numeric features begin at a new block.
        let mut layout = METRICS.layout();
        let counted = layout.counter();
        let mut layout = layout.aligned();
        let monitored = MonitoredFeatures::new(spec, &mut layout);
        let baseline = spec.baseline.as_deref();
        let profile = baseline.and_then(|baseline| baseline.profile.as_ref());
        let usual = profile.and_then(|profile| UsualByHour::of(profile, None, &monitored.all)).map(Arc::new);
        let repeated_pairs = spec.baseline.as_ref().and_then(|baseline| baseline.repeated_pairs);
        DriftCounters {
            low_confidence: spec.settings.low_confidence,
            estimator: baseline
                .and_then(|baseline| AccuracyEstimator::new(baseline, spec.classes.as_deref().unwrap_or_default())),
            pending: PerThread::new(),
            recent_rows: RecentRows::new(repeated_pairs).filter(|_| monitored.counts_inputs()),
            row_bytes: size_of::<Features>()
                + size_of::<PendingPrediction>()
                + size_of::<f32>() * (spec.schema.numbers.len() + monitored.embedding_numbers()),
            cells: Shards::new(layout.cells()),
            counted,
            monitored,
            recent: History::new(born, INTERVAL, SHORT_WINDOW),
            days: History::new(born, HOUR, STORED),
            latest_verdict: Mutex::default(),
            usual: Mutex::new(usual),
            wall_clock: WallClock::default(),
            shown: Mutex::default(),
        }
    }

    // ===== recording =====

    /// Returns true if features of inputs are counted.
    pub(super) fn counts_inputs(&self) -> bool {
        self.monitored.counts_inputs()
    }

    /// Returns true if embeddings of predictions are counted.
    pub(super) fn counts_embeddings(&self) -> bool {
        self.monitored.counts_embeddings()
    }

    /// Records the features and the predictions of the same instances.
    pub(super) fn observe(&self, mut features: Features, predictions: impl Iterator<Item = Observation>) {
        let rows = features.rows();
        let repeated = self.recent_rows.as_ref().map(|recent| recent.remember(&features)).unwrap_or_default();
        let is_repeated = |row: usize| repeated.get(row).copied().unwrap_or_default();
        if repeated.contains(&true) {
            features.retain(|row| !is_repeated(row));
        }
        let mut pending = self.pending.own().lock();
        // Texts may be of any length, so features with texts do not stay pending.
        let at_once = !features.texts.is_empty();
        pending.rows += rows;
        pending.repeated += repeated.iter().filter(|is_repeated| **is_repeated).count();
        pending.features.push(features);
        let predicted = |(row, observation)| PendingPrediction { observation, is_repeated: is_repeated(row) };
        pending.predictions.extend(predictions.enumerate().map(predicted));
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
        for PendingPrediction { observation, is_repeated } in &pending.predictions {
            if let Observation::Class { certainty, class } = *observation {
                self.count_class(cells, class, certainty);
            }
            if !is_repeated {
                self.monitored.count_prediction(cells, *observation);
                self.count_expected(cells, *observation);
            }
        }
        let rows = pending.rows.max(pending.predictions.len());
        cells.add(HANDLES.rows, rows as u64);
        cells.add(self.counted, rows.saturating_sub(pending.repeated) as u64);
        (pending.rows, pending.repeated) = (0, 0);
        pending.features.clear();
        pending.predictions.clear();
        pending.predictions.shrink_to(MAX_PENDING);
    }

    /// Adds a prediction to the estimate of accuracy.
    fn count_expected(&self, cells: &LocalShard<'_>, prediction: Observation) {
        let (Some(estimator), Observation::Class { class, certainty }) = (&self.estimator, prediction) else { return };
        let probability = estimator.probability(class, certainty.confidence);
        cells.add(HANDLES.expected.predictions, 1);
        cells.add(HANDLES.expected.correct, (probability * BILLION).round() as u64);
        cells.add(HANDLES.expected.variance, (probability * (1.0 - probability) * BILLION).round() as u64);
    }

    fn count_class(&self, cells: &LocalShard<'_>, class: usize, certainty: Certainty) {
        cells.add(HANDLES.classes.at(class.min(CLASS_COUNTERS - 1)), 1);
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

    /// Stores the counts at regular intervals.
    pub(super) fn tick(&self, now: Duration, clock: SystemTime) {
        self.wall_clock.set(now, clock);
        let counts = || {
            self.settle();
            self.cells.sums().into()
        };
        self.recent.tick(now, counts);
        if self.days.tick(now, counts)
            && let Some(recent_rows) = &self.recent_rows
        {
            recent_rows.next_hour();
        }
    }

    // ===== reading =====

    /// Number of instances that are counted in the bins.
    pub(super) fn counted_rows(&self) -> u64 {
        self.settle();
        self.cells.sum(self.counted)
    }

    /// The features and parts of predictions with a baseline, in order.
    pub(super) fn features(&self) -> &[MonitoredFeature] {
        &self.monitored.all
    }

    /// Returns the counts per bin of all features and parts of predictions, in order.
    pub(super) fn counts_of_features(&self) -> Vec<Vec<u64>> {
        self.settle();
        let sums = self.cells.sums();
        let of = |feature: &MonitoredFeature| feature.counters.iter().map(|counter| sums[counter.cell()]).collect();
        self.monitored.all.iter().map(of).collect()
    }

    /// Number of predictions since the version was loaded.
    pub(super) fn predictions(&self) -> u64 {
        self.cells.sum(HANDLES.rows)
    }

    /// Estimates the accuracy of all predictions: by the calibration in the baseline, or else as the mean confidence. `None`
    /// without predicted classes.
    pub(super) fn estimated_accuracy(&self) -> Option<EstimatedAccuracy> {
        let sum = |counter| self.cells.sum(counter) as f64;
        if let Some(estimator) = &self.estimator {
            return estimator.estimate(ExpectedSums {
                predictions: sum(HANDLES.expected.predictions),
                correct: sum(HANDLES.expected.correct) / BILLION,
                variance: sum(HANDLES.expected.variance) / BILLION,
            });
        }
        let confidence = self.cells.histogram(HANDLES.confidence);
        let predictions: u64 = confidence.counts.iter().sum();
        let accuracy = confidence.sum as f64 / BILLION / predictions as f64;
        (predictions > 0).then_some(EstimatedAccuracy { accuracy, standard_error: None })
    }

    /// Returns the confidences of all predicted classes, and the number of low ones.
    pub(super) fn confidences(&self) -> (HistogramCounts<'static>, u64) {
        (self.cells.histogram(HANDLES.confidence), self.cells.sum(HANDLES.low_confidence))
    }

    fn write_expected(&self, series: &mut Series<'_>, counter: Counter, unit: f64) {
        if self.estimator.is_some() {
            series.value(&[], self.cells.sum(counter) as f64 / unit);
        }
    }

    /// Returns the predictions by class: all known classes, or the predicted ones if no names are known; the rest as `other`.
    pub(super) fn classes(&self) -> Vec<(String, u64)> {
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

    /// Returns the predictions by class since the version was loaded; empty if it does not predict classes.
    pub(super) fn class_mix(&self) -> Vec<(String, u64)> {
        self.settle();
        if self.is_classifier() { self.classes() } else { Vec::new() }
    }

    /// Returns the maxima of the bins of confidence, with the numbers of predictions; empty without predicted classes.
    pub(super) fn confidence(&self) -> Vec<(f64, u64)> {
        let found = self.cells.histogram(HANDLES.confidence);
        let edges = found.buckets.edges.iter().map(|edge| *edge as f64 / found.buckets.edge_unit);
        edges.zip(found.counts).filter(|_| self.is_classifier()).collect()
    }

    fn write_certainty(&self, series: &mut Series<'_>, histogram: Histogram<'static>) {
        if self.is_classifier() {
            series.histogram(&[], &self.cells.histogram(histogram));
        }
    }

    /// Reads the counts of all features and parts of predictions with a baseline, and the drift within a window that
    /// ends now.
    pub(super) fn read(&self, now: Duration, DriftWindow { mut length, rows }: DriftWindow) -> DriftReading {
        self.settle();
        let counted_at = |moment: &Moment<u64>| moment.counts.as_ref().map_or(0, |counts| counts[self.counted.cell()]);
        let last = self.cells.sum(self.counted);
        let is_enough = |begin: &Moment<u64>| last.wrapping_sub(counted_at(begin)) >= rows;
        let known = self.days.length(now);
        // Until two hours are known, all of them are in the short slices, too.
        let history = |length: Duration| if length.min(known) > SHORT_WINDOW { &self.days } else { &self.recent };
        let longest = MAX_WINDOW.min(known);
        while length < longest && !is_enough(&history(length).begin(now, length)) {
            length += HOUR;
        }
        let marks = history(length).since(now, length);
        // Summed last, so that no mark has counts that are not in the sums.
        let end = Moment { at: now, counts: Some(self.cells.sums().into()) };
        self.reading(end, marks)
    }

    /// Returns the reading of a window with this end, and these moments from its beginning on.
    pub(super) fn reading(&self, end: Moment<u64>, marks: Vec<Moment<u64>>) -> DriftReading {
        DriftReading::new(&self.monitored.all, HANDLES.rows, end, marks)
    }

    /// Names of the features that are not monitored.
    pub(super) fn left_out(&self) -> &[String] {
        &self.monitored.left_out
    }

    /// Returns the maximum memory of these counters in bytes, for this number of recording threads.
    pub(super) fn memory(&self, threads: usize) -> usize {
        8 * self.cells.len() * (threads + self.recent.capacity() + self.days.capacity())
            + MAX_PENDING * self.row_bytes * threads
    }
}
