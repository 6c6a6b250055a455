//! The metrics of the outcomes of predictions, and the same measures as plain values.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::business_outcome::BusinessOutcome;
use super::cells::{Buckets, HistogramCounts};
use super::drift_counters::DriftCounters;
use super::interval::Interval;
use super::metric_family::{Family, counter, gauge, histogram};
use super::outcomes::{CALIBRATION_BINS, ClassOutcomes, DELAY_BUCKETS, Outcomes, Withdrawn};
use super::text::{Number, Series};

/// Measures of the outcomes of a version's predictions. A measure is `None` before the first outcome, or if it does not
/// apply to this kind of predictions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OutcomeStats {
    /// Number of predictions whose true outcome is known.
    pub labels: u64,
    /// The number of labels divided by the number of predictions that this replica made.
    pub label_coverage: Option<f64>,
    /// The share of predicted classes that were right.
    pub accuracy: Option<f64>,
    /// Interval of the accuracy, 95 %.
    pub accuracy_interval: Option<Interval>,
    /// Estimate of the accuracy without labels: by the calibration in the baseline, or else the mean confidence of all
    /// predictions.
    pub accuracy_estimate: Option<f64>,
    /// Standard error of the estimate; `None` if it is the mean confidence.
    pub accuracy_estimate_error: Option<f64>,
    /// The mean squared difference between confidence and correctness (1 or 0).
    pub brier_score: Option<f64>,
    /// The expected calibration error.
    pub calibration_error: Option<f64>,
    /// The mean absolute error of predicted numbers.
    pub mean_absolute_error: Option<f64>,
    /// Interval of the mean absolute error, 95 %.
    pub mean_absolute_error_interval: Option<Interval>,
    /// The root of the mean squared error of predicted numbers.
    pub root_mean_squared_error: Option<f64>,
    /// The mean of predicted minus true numbers.
    pub bias: Option<f64>,
    /// The business metrics, by name.
    pub business: BTreeMap<String, f64>,
}

/// The outcomes of a version's predictions, read at one moment.
pub(super) struct OutcomeReading {
    pub(super) stats: OutcomeStats,
    sums: Outcomes,
    /// True if the version predicts classes; otherwise the metrics of classes are not shown.
    is_classifier: bool,
}

// ===== metrics =====

/// The metrics, in the order of `/metrics`.
pub(super) static FAMILIES: [&[Family<OutcomeReading>]; 5] = [LABELS, CLASSES, NUMBERS, CORRECTIONS, OTHERS];

const BY_VERSION: &[&str] = &["model", "version"];
const BY_CLASS: &[&str] = &["model", "version", "class"];
const BY_CLASS_OF: &[&str] = &["model", "version", "class", "of"];
const BY_BIN: &[&str] = &["model", "version", "bin"];
const BY_BOUND: &[&str] = &["model", "version", "bound"];
const BY_BUSINESS_METRIC: &[&str] = &["model", "version", "name", "kind"];

const LABELS: &[Family<OutcomeReading>] = &[
    counter("leeway_outcome_labels_total", BY_VERSION, "Predictions whose true outcome is known.", |read, series| {
        series.value(&[], read.sums.labels)
    }),
    counter("leeway_outcome_correct_total", BY_VERSION, "Predicted classes that were right.", |read, series| {
        if read.is_classifier {
            series.value(&[], read.sums.correct);
        }
    }),
    counter(
        "leeway_outcome_class_total",
        BY_CLASS_OF,
        "Predictions whose true class is known: how often a class was predicted, was the true class, and was both (correct).",
        |read, series| {
            for (class, ClassOutcomes { predicted, actual, correct }) in &read.sums.classes {
                series.value(&[class, "predicted"], *predicted);
                series.value(&[class, "actual"], *actual);
                series.value(&[class, "correct"], *correct);
            }
        },
    ),
];

const CLASSES: &[Family<OutcomeReading>] = &[
    gauge(
        "leeway_outcome_accuracy",
        BY_VERSION,
        "The share of predicted classes that were right, among predictions whose true class is known.",
        |read, series| write_known(series, read.stats.accuracy),
    ),
    gauge(
        "leeway_outcome_accuracy_estimate",
        BY_VERSION,
        "An estimate of accuracy without labels: by the calibration in the baseline, or else the mean confidence of all predictions.",
        |read, series| write_known(series, read.stats.accuracy_estimate),
    ),
    gauge(
        "leeway_outcome_accuracy_estimate_error",
        BY_VERSION,
        "The standard error of the estimate of accuracy, if the baseline has a calibration.",
        |read, series| write_known(series, read.stats.accuracy_estimate_error),
    ),
    gauge(
        "leeway_outcome_accuracy_bound",
        BY_BOUND,
        "The bounds of the accuracy: a confidence interval of 95 % (Wilson).",
        |read, series| write_bounds(series, read.stats.accuracy_interval),
    ),
    gauge(
        "leeway_outcome_brier_score",
        BY_VERSION,
        "The mean squared difference between confidence and correctness (1 or 0).",
        |read, series| write_known(series, read.stats.brier_score),
    ),
    gauge(
        "leeway_outcome_ece",
        BY_VERSION,
        "Expected calibration error over ten bins of confidence.",
        |read, series| write_known(series, read.stats.calibration_error),
    ),
    gauge(
        "leeway_outcome_precision",
        BY_CLASS,
        "Of the predictions of a class, the share that was right.",
        |read, series| read.write_by_class(series, |found| found.precision()),
    ),
    gauge(
        "leeway_outcome_recall",
        BY_CLASS,
        "Of the instances of a class, the share that was predicted as that class.",
        |read, series| read.write_by_class(series, |found| found.recall()),
    ),
    counter(
        "leeway_outcome_calibration_count_total",
        BY_BIN,
        "Predictions whose true class is known, by bin of confidence (its upper edge).",
        |read, series| read.write_by_bin(series, |sums, bin| sums.calibration.bins()[bin].count),
    ),
    counter(
        "leeway_outcome_calibration_confidence_total",
        BY_BIN,
        "The sum of the confidence of predictions whose true class is known, by bin of confidence.",
        // Rounded to a millionth: further digits are noise of an f32.
        |read, series| {
            read.write_by_bin(series, |sums, bin| (sums.calibration.bins()[bin].confidence * 1e6).round() / 1e6);
        },
    ),
    counter(
        "leeway_outcome_calibration_correct_total",
        BY_BIN,
        "Predicted classes that were right, by bin of confidence.",
        |read, series| read.write_by_bin(series, |sums, bin| sums.calibration.bins()[bin].correct),
    ),
    counter(
        "leeway_outcome_squared_error_total",
        BY_VERSION,
        "The sum of squared errors: of confidence against correctness (1 or 0), or of predicted against true numbers.",
        |read, series| series.value(&[], read.sums.squared_error),
    ),
];

const NUMBERS: &[Family<OutcomeReading>] = &[
    gauge(
        "leeway_outcome_mae",
        BY_VERSION,
        "The mean absolute error of predicted numbers, in their own unit.",
        |read, series| write_known(series, read.stats.mean_absolute_error),
    ),
    gauge(
        "leeway_outcome_mae_bound",
        BY_BOUND,
        "The bounds of the mean absolute error: a confidence interval of 95 %.",
        |read, series| write_bounds(series, read.stats.mean_absolute_error_interval),
    ),
    gauge(
        "leeway_outcome_rmse",
        BY_VERSION,
        "The root of the mean squared error of predicted numbers, in their own unit.",
        |read, series| write_known(series, read.stats.root_mean_squared_error),
    ),
    gauge(
        "leeway_outcome_bias",
        BY_VERSION,
        "The mean of predicted minus true numbers, in their own unit.",
        |read, series| write_known(series, read.stats.bias),
    ),
    counter(
        "leeway_outcome_absolute_error_total",
        BY_VERSION,
        "The sum of absolute errors of predicted numbers.",
        |read, series| {
            if !read.is_classifier {
                series.value(&[], read.sums.absolute_error);
            }
        },
    ),
    gauge("leeway_outcome_signed_error", BY_VERSION, "The sum of predicted minus true numbers.", |read, series| {
        write_known(series, Some(read.sums.error).filter(|_| read.sums.values > 0))
    }),
];

const CORRECTIONS: &[Family<OutcomeReading>] = &[
    counter(
        "leeway_outcome_corrections_total",
        BY_VERSION,
        "Truths that were replaced by later ones; leeway_outcome_labels_total counts a prediction only once.",
        |read, series| {
            if read.has_labels() {
                series.value(&[], read.sums.withdrawn.labels);
            }
        },
    ),
    counter(
        "leeway_outcome_withdrawn_total",
        &["model", "version", "of"],
        "Amounts in the correct, squared_error and absolute_error counters that come from truths replaced later; subtract them.",
        |read, series| read.write_withdrawn(series),
    ),
    counter(
        "leeway_outcome_class_withdrawn_total",
        BY_CLASS_OF,
        "Counts to subtract from leeway_outcome_class_total (actual, correct), because the true class was corrected later.",
        |read, series| read.write_withdrawn_classes(series),
    ),
    counter(
        "leeway_outcome_calibration_withdrawn_total",
        BY_BIN,
        "Counts in leeway_outcome_calibration_correct_total that come from truths replaced later; subtract them.",
        |read, series| {
            if read.sums.withdrawn.labels > 0 {
                read.write_by_bin(series, |sums, bin| sums.withdrawn.calibration_correct[bin]);
            }
        },
    ),
];

const OTHERS: &[Family<OutcomeReading>] = &[
    histogram(
        "leeway_outcome_label_delay_seconds",
        BY_VERSION,
        "The time from a prediction to its truth.",
        |read, series| {
            let counts = HistogramCounts {
                buckets: Buckets { edges: &DELAY_BUCKETS, edge_unit: 1.0, sum_unit: 1e3 },
                counts: read.sums.delays.to_vec(),
                sum: (read.sums.delay_sum * 1e3).round() as u64,
            };
            series.histogram(&[], &counts);
        },
    ),
    gauge(
        "leeway_outcome_label_coverage_ratio",
        BY_VERSION,
        "Truths reported to this replica, divided by the predictions that it made.",
        |read, series| write_known(series, read.stats.label_coverage),
    ),
    gauge(
        "leeway_outcome_business",
        BY_BUSINESS_METRIC,
        "A business metric of model.toml: the sum or the mean of its amounts, depending on its kind.",
        |read, series| read.write_business(series, BusinessOutcome::value),
    ),
    gauge(
        "leeway_outcome_business_amount",
        BY_BUSINESS_METRIC,
        "The sum of the amounts of a business metric.",
        |read, series| read.write_business(series, |found| found.sum),
    ),
    counter(
        "leeway_outcome_business_items_total",
        BY_BUSINESS_METRIC,
        "The number of values that were reported for a business metric.",
        |read, series| read.write_business(series, |found| found.items),
    ),
];

// ===== impl OutcomeReading =====

impl OutcomeReading {
    pub(super) fn new(sums: Outcomes, counters: &DriftCounters) -> OutcomeReading {
        let predictions = counters.predictions();
        let estimate = counters.estimated_accuracy();
        let stats = OutcomeStats {
            labels: sums.labels,
            label_coverage: (predictions > 0).then(|| sums.labels as f64 / predictions as f64),
            accuracy: sums.accuracy(),
            accuracy_interval: sums.accuracy_interval(),
            accuracy_estimate: estimate.map(|estimate| estimate.accuracy),
            accuracy_estimate_error: estimate.and_then(|estimate| estimate.standard_error),
            brier_score: sums.brier_score(),
            calibration_error: sums.expected_calibration_error(),
            mean_absolute_error: sums.mean_absolute_error(),
            mean_absolute_error_interval: sums.mean_absolute_error_interval(),
            root_mean_squared_error: sums.root_mean_squared_error(),
            bias: sums.bias(),
            business: sums.business.iter().map(|(name, found)| (name.clone(), found.value())).collect(),
        };
        OutcomeReading { stats, sums, is_classifier: counters.is_classifier() }
    }

    /// Returns true if at least one true outcome was reported. The series of corrections exist from then on, because a
    /// rate misses the first count of a new series.
    fn has_labels(&self) -> bool {
        self.sums.labels + self.sums.withdrawn.labels > 0
    }

    fn write_by_class(&self, series: &mut Series<'_>, measure: fn(&ClassOutcomes) -> Option<f64>) {
        for class in self.sums.classes.keys() {
            if let Some(measure) = measure(&self.sums.holding(class)) {
                series.estimate(&[class], measure);
            }
        }
    }

    fn write_by_bin<N: Into<Number>>(&self, series: &mut Series<'_>, value: impl Fn(&Outcomes, usize) -> N) {
        for bin in (0..CALIBRATION_BINS).filter(|_| self.is_classifier) {
            let edge = ((bin + 1) as f64 / CALIBRATION_BINS as f64).to_string();
            series.value(&[&edge], value(&self.sums, bin));
        }
    }

    fn write_withdrawn(&self, series: &mut Series<'_>) {
        if !self.has_labels() {
            return;
        }
        let Withdrawn { correct, squared_error, absolute_error, .. } = self.sums.withdrawn;
        match self.is_classifier {
            true => series.value(&["correct"], correct),
            false => series.value(&["absolute_error"], absolute_error),
        }
        series.value(&["squared_error"], squared_error);
    }

    fn write_withdrawn_classes(&self, series: &mut Series<'_>) {
        let withdrawn = &self.sums.withdrawn;
        for class in self.sums.classes.keys().filter(|_| withdrawn.labels > 0) {
            let ClassOutcomes { actual, correct, .. } = withdrawn.classes.get(class).copied().unwrap_or_default();
            series.value(&[class, "actual"], actual);
            series.value(&[class, "correct"], correct);
        }
    }

    fn write_business<N: Into<Number>>(&self, series: &mut Series<'_>, value: impl Fn(&BusinessOutcome) -> N) {
        for (name, found) in &self.sums.business {
            series.value(&[name, found.kind.name()], value(found));
        }
    }
}

fn write_bounds(series: &mut Series<'_>, interval: Option<Interval>) {
    if let Some(Interval { lower, upper }) = interval {
        series.value(&["lower"], lower);
        series.value(&["upper"], upper);
    }
}

fn write_known(series: &mut Series<'_>, measure: Option<f64>) {
    if let Some(measure) = measure {
        series.value(&[], measure);
    }
}
