//! The quality of the predictions for rows whose truth is known, as a part of a baseline: what a fall is compared with.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::calibration_map::CalibrationMap;
use crate::feature::Observation;

/// Minimum number of labelled rows for an estimate of accuracy.
pub(super) const MIN_LABELLED_ROWS: u64 = 100;
/// Maximum number of pairs of a predicted and a true class that are stored: the most frequent ones.
const MAX_PAIRS: usize = 1_000;
/// Maximum number of different pairs that are counted.
const MAX_COUNTED_PAIRS: usize = 100_000;
/// Number of predictions of a class from which on it has a calibration of its own. With fewer, the common one was better
/// in the comparison of docs/benchmarks.md.
const MIN_ROWS_OF_CLASS: usize = 500;
/// Maximum number of rows that calibrations are fitted to.
const MAX_FITTED: usize = 500_000;
/// Seed of the choice of these rows. The same rows are chosen every time.
const SEED: u64 = 0xca1;

/// Measures of the predictions for rows that the model was not trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum LabelledBaseline {
    /// The predictions are classes.
    Classes(LabelledClasses),
    /// The predictions are numbers.
    Values(LabelledValues),
}

/// Measures of predicted classes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabelledClasses {
    /// Number of rows whose true class is known.
    pub rows: u64,
    /// Number of rows whose predicted class was right.
    pub correct: u64,
    /// Numbers of rows by predicted and true class: up to 1,000 pairs, the most frequent first.
    pub confusion: Vec<Confusion>,
    /// The share of right predictions by confidence, for the classes without a calibration of their own; for all if there
    /// are no such classes.
    pub calibration: CalibrationMap,
    /// The same for predictions of one class, for classes with at least 500 of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub calibration_by_class: BTreeMap<String, CalibrationMap>,
}

/// Number of rows with one predicted and one true class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confusion {
    /// The predicted class.
    pub predicted: String,
    /// The true class.
    pub actual: String,
    /// Number of rows.
    pub rows: u64,
}

/// Measures of predicted numbers, in their own unit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LabelledValues {
    /// Number of rows whose true number is known.
    pub rows: u64,
    /// Mean of |predicted − true|.
    pub mean_absolute_error: f64,
    /// Square root of the mean of (predicted − true)².
    pub root_mean_squared_error: f64,
    /// Mean of predicted − true.
    pub bias: f64,
}

/// Counts predictions whose truth is known.
#[derive(Debug)]
pub struct LabelledCounter {
    classes: Option<Vec<String>>,
    rows: u64,
    correct: u64,
    confusion: BTreeMap<(String, String), u64>,
    /// A random choice of the predictions: the predicted class, the confidence in it, and if it was right.
    fitted: Vec<(usize, f32, bool)>,
    random: fastrand::Rng,
    values: u64,
    absolute_error: f64,
    squared_error: f64,
    error: f64,
}

impl LabelledCounter {
    /// Creates a counter without predictions. `classes` has the names of the classes, if they are known.
    pub fn new(classes: Option<Vec<String>>) -> LabelledCounter {
        LabelledCounter {
            classes,
            rows: 0,
            correct: 0,
            confusion: BTreeMap::new(),
            fitted: Vec::new(),
            random: fastrand::Rng::with_seed(SEED),
            values: 0,
            absolute_error: 0.0,
            squared_error: 0.0,
            error: 0.0,
        }
    }

    /// Counts a predicted class whose true class is known. Other predictions are not counted.
    pub fn class(&mut self, prediction: Observation, actual: &str) {
        let Observation::Class { class, certainty } = prediction else { return };
        let predicted = self.name_of(class);
        let is_correct = predicted == actual;
        self.rows += 1;
        self.correct += u64::from(is_correct);
        let pair = (predicted, actual.to_owned());
        if self.confusion.len() < MAX_COUNTED_PAIRS || self.confusion.contains_key(&pair) {
            *self.confusion.entry(pair).or_default() += 1;
        }
        let row = (class, certainty.confidence, is_correct);
        // Each row has the same chance (Vitter, ACM TOMS 11, 1985, R).
        match self.fitted.len() {
            0..MAX_FITTED => self.fitted.push(row),
            _ => {
                let place = self.random.u64(0..self.rows) as usize;
                if let Some(kept) = self.fitted.get_mut(place) {
                    *kept = row;
                }
            }
        }
    }

    fn name_of(&self, class: usize) -> String {
        self.classes.as_ref().and_then(|classes| classes.get(class).cloned()).unwrap_or_else(|| class.to_string())
    }

    /// Counts a predicted number whose true number is known. Other predictions are not counted.
    pub fn value(&mut self, prediction: Observation, actual: f64) {
        let Observation::Value(value) = prediction else { return };
        let error = value - actual;
        self.values += 1;
        self.absolute_error += error.abs();
        self.squared_error += error * error;
        self.error += error;
    }

    /// Returns the measures; `None` if no truth is known.
    pub fn finish(self) -> Option<LabelledBaseline> {
        if self.values > 0 {
            let rows = self.values as f64;
            return Some(LabelledBaseline::Values(LabelledValues {
                rows: self.values,
                mean_absolute_error: self.absolute_error / rows,
                root_mean_squared_error: (self.squared_error / rows).sqrt(),
                bias: self.error / rows,
            }));
        }
        let mut by_class: BTreeMap<String, Vec<(f32, bool)>> = BTreeMap::new();
        for (class, confidence, is_correct) in &self.fitted {
            by_class.entry(self.name_of(*class)).or_default().push((*confidence, *is_correct));
        }
        // The others share a calibration that is fitted to their rows only, so that the estimate for the labelled rows
        // themselves is their accuracy.
        let (own, shared): (BTreeMap<_, _>, BTreeMap<_, _>) =
            by_class.into_iter().partition(|(_, rows)| rows.len() >= MIN_ROWS_OF_CLASS);
        let shared: Vec<(f32, bool)> = match shared.is_empty() {
            true => self.fitted.iter().map(|(_, confidence, is_correct)| (*confidence, *is_correct)).collect(),
            false => shared.into_values().flatten().collect(),
        };
        let calibration = CalibrationMap::fit(shared)?;
        let mut confusion: Vec<Confusion> = self
            .confusion
            .into_iter()
            .map(|((predicted, actual), rows)| Confusion { predicted, actual, rows })
            .collect();
        confusion.sort_by_key(|pair| std::cmp::Reverse(pair.rows));
        confusion.truncate(MAX_PAIRS);
        Some(LabelledBaseline::Classes(LabelledClasses {
            rows: self.rows,
            correct: self.correct,
            confusion,
            calibration,
            calibration_by_class: own
                .into_iter()
                .filter_map(|(class, rows)| Some((class, CalibrationMap::fit(rows)?)))
                .collect(),
        }))
    }
}

impl LabelledBaseline {
    /// Returns the reason why these measures cannot be used; `None` if they can.
    pub(super) fn problem(&self) -> Option<String> {
        match self {
            LabelledBaseline::Classes(LabelledClasses {
                rows,
                correct,
                confusion,
                calibration,
                calibration_by_class,
                ..
            }) => {
                if *rows == 0 || correct > rows || confusion.len() > MAX_PAIRS {
                    return Some(format!("found {correct} correct of {rows} rows, and {} pairs", confusion.len()));
                }
                let maps = [calibration].into_iter().chain(calibration_by_class.values());
                maps.filter_map(CalibrationMap::problem).next().map(|problem| format!("calibration: {problem}"))
            }
            LabelledBaseline::Values(LabelledValues { rows, mean_absolute_error, root_mean_squared_error, bias }) => {
                let are_finite =
                    [mean_absolute_error, root_mean_squared_error, bias].iter().all(|error| error.is_finite());
                (*rows == 0 || !are_finite).then(|| "expected rows, and finite errors".to_owned())
            }
        }
    }

    /// Number of rows whose truth is known.
    pub fn rows(&self) -> u64 {
        match self {
            LabelledBaseline::Classes(classes) => classes.rows,
            LabelledBaseline::Values(values) => values.rows,
        }
    }
}

impl LabelledClasses {
    /// The share of predicted classes that were right.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.rows as f64
    }
}
