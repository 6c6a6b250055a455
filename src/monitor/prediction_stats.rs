//! The predictions of a version and their outcomes, for a console: what was predicted, with what confidence, and how right it
//! was.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::confusion_matrix::ConfusionCounts;
use super::drift_report::FeatureDrift;
use super::outcome_metrics::{OutcomeReading, OutcomeStats};
use super::outcomes::Outcomes;
use super::version_recorder::VersionRecorder;
use crate::config::BusinessKind;

/// The predictions of a version and their outcomes. Counts are since it was loaded, unless they are those of the window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PredictionStats {
    /// Number of predictions.
    pub predictions: u64,
    /// Length of the window in which predictions are compared with the baseline, in seconds.
    pub window_s: f64,
    /// Number of predictions within the window.
    pub rows: u64,
    /// Number of rows of training data in the baseline; absent without a baseline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline_rows: Option<u64>,
    /// Predictions by class; empty if the version does not predict classes.
    pub classes: Vec<ClassCount>,
    /// The parts of the predictions (such as class and confidence) in the window, compared with the baseline.
    pub parts: Vec<FeatureDrift>,
    /// Predictions by confidence; empty if the version does not predict classes.
    pub confidence: Vec<ConfidenceBin>,
    /// Predictions whose true class is known, by confidence; empty before the first one.
    pub calibration: Vec<CalibrationPoint>,
    /// Measures of the outcomes.
    pub outcomes: OutcomeStats,
    /// Outcomes by class; empty before the first one.
    pub by_class: Vec<ClassMeasures>,
    /// Predictions by true and predicted class; absent before the first true class is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confusion: Option<ConfusionCounts>,
    /// Business metrics.
    pub business: Vec<BusinessMeasure>,
}

/// Number of predictions of a class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClassCount {
    /// Name of the class.
    pub class: String,
    /// Number of predictions.
    pub count: u64,
}

/// Number of predictions whose confidence is within one bin.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConfidenceBin {
    /// Maximum confidence of the bin, 0 to 1.
    pub upto: f64,
    /// Number of predictions.
    pub count: u64,
}

/// Confidence and accuracy of the predictions within one bin of confidence.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CalibrationPoint {
    /// Maximum confidence of the bin, 0 to 1.
    pub upto: f64,
    /// Number of predictions whose true class is known.
    pub count: u64,
    /// Mean confidence of these predictions; absent if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f64>,
    /// Share of these predictions that were right; absent if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
}

/// Outcomes of a class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClassMeasures {
    /// Name of the class.
    pub class: String,
    /// Number of predictions of the class.
    pub predicted: u64,
    /// Number of instances of the class.
    pub actual: u64,
    /// Number of right predictions of the class.
    pub correct: u64,
    /// Of the predictions of the class, the share that was right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<f64>,
    /// Of the instances of the class, the share that was predicted as the class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recall: Option<f64>,
}

/// A business metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BusinessMeasure {
    /// Name of the metric.
    pub name: String,
    /// Aggregation of its amounts.
    pub kind: BusinessKind,
    /// Value of the metric.
    pub value: f64,
    /// Number of amounts.
    pub items: u64,
}

// ===== impl VersionRecorder =====

impl VersionRecorder {
    /// Returns the predictions of this version and their outcomes. The comparison with the baseline is up to a second old.
    pub fn prediction_stats(&self, now: Duration) -> PredictionStats {
        let report = self.recent_drift(now);
        let sums = self.outcomes(|outcomes| outcomes.clone());
        let counters = &self.drift_counters;
        let (calibration, by_class) = (calibration(&sums), by_class(&sums));
        let (confusion, business) = (sums.confusion.counts(), business(&sums));
        PredictionStats {
            predictions: counters.predictions(),
            window_s: report.window_s,
            rows: report.rows,
            baseline_rows: self.baseline_rows(),
            classes: counters.class_mix().into_iter().map(|(class, count)| ClassCount { class, count }).collect(),
            parts: report.predictions.clone(),
            confidence: counters.confidence().into_iter().map(|(upto, count)| ConfidenceBin { upto, count }).collect(),
            calibration,
            by_class,
            confusion,
            business,
            outcomes: OutcomeReading::new(sums, counters).stats,
        }
    }
}

/// Returns the calibration of the classes whose truth is known; empty if there are none.
fn calibration(sums: &Outcomes) -> Vec<CalibrationPoint> {
    let bins = sums.calibration.bins();
    let withdrawn = &sums.withdrawn.calibration_correct;
    let point = |(index, (bin, withdrawn)): (usize, (&super::CalibrationBin, &u64))| {
        let count = bin.count as f64;
        let correct = bin.correct.saturating_sub(*withdrawn) as f64;
        CalibrationPoint {
            upto: (index + 1) as f64 / bins.len() as f64,
            count: bin.count,
            confidence: (bin.count > 0).then_some(bin.confidence / count),
            accuracy: (bin.count > 0).then_some(correct / count),
        }
    };
    let is_known = bins.iter().any(|bin| bin.count > 0);
    bins.iter().zip(withdrawn).enumerate().map(point).filter(|_| is_known).collect()
}

/// Returns the outcomes of each class; empty if none is known.
fn by_class(sums: &Outcomes) -> Vec<ClassMeasures> {
    let measures = |class: &String| {
        let found = sums.holding(class);
        ClassMeasures {
            class: class.clone(),
            predicted: found.predicted,
            actual: found.actual,
            correct: found.correct,
            precision: found.precision(),
            recall: found.recall(),
        }
    };
    let all: Vec<ClassMeasures> = sums.classes.keys().map(measures).collect();
    if all.iter().any(|class| class.predicted + class.actual > 0) { all } else { Vec::new() }
}

fn business(sums: &Outcomes) -> Vec<BusinessMeasure> {
    let measure = |(name, found): (&String, &super::business_outcome::BusinessOutcome)| BusinessMeasure {
        name: name.clone(),
        kind: found.kind,
        value: found.value(),
        items: found.items,
    };
    sums.business.iter().map(measure).collect()
}
