//! Outcomes of predictions: accuracy, calibration and business value.
//!
//! Everything is a sum or a count, so that the numbers of a fleet's replicas can be added up; the measures are computed
//! from the sums. Counters never fall: if a label is replaced, its former counts stay, and are also counted as
//! withdrawn. Each measure subtracts the withdrawn counts. A label may therefore be withdrawn on a replica that did not
//! count it.
//!
//! - *Brier score*: the mean of (c − y)², where c is the confidence in the predicted class and y is 1 if the class was
//!   right and 0 if not (Brier, Monthly Weather Review 78, 1950, for the event "the prediction is right").
//! - *Expected calibration error*: over ten bins of confidence with n_b of all n predictions each,
//!   Σ (n_b/n)·|Σc_b/n_b − Σy_b/n_b| (Naeini et al., AAAI 2015).
//! - *Estimated accuracy*: see `accuracy_estimate.rs`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::bad_outcomes::BadOutcomes;
use super::bins::{MAX_TEXT_BINS, OTHER};
use super::business_outcome::BusinessOutcome;
use super::confusion_matrix::ConfusionMatrix;
use super::interval::Interval;
use super::predicted::{Predicted, Truth};
use crate::config::{BusinessKind, EventLimits};

/// Number of bins of confidence, all of the same width: 0 to 0.1, above 0.1 to 0.2, and so on to 1.
pub(super) const CALIBRATION_BINS: usize = 10;

/// Upper bounds of the histogram of the delay between a prediction and its label, in seconds.
pub(super) const DELAY_BUCKETS: [u64; 11] =
    [1, 10, 60, 600, 3_600, 21_600, 86_400, 259_200, 604_800, 1_209_600, 2_592_000];

/// Sums and counts of the outcomes of one version's predictions.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcomes {
    pub(super) labels: u64,
    pub(super) correct: u64,
    pub(super) classes: BTreeMap<String, ClassOutcomes>,
    pub(super) calibration: Calibration,
    pub(super) squared_error: f64,
    pub(super) values: u64,
    pub(super) absolute_error: f64,
    pub(super) error: f64,
    pub(super) delays: [u64; DELAY_BUCKETS.len() + 1],
    pub(super) delay_sum: f64,
    pub(super) business: BTreeMap<String, BusinessOutcome>,
    pub(super) confusion: ConfusionMatrix,
    pub(super) withdrawn: Withdrawn,
    pub(super) bad: BadOutcomes,
}

/// Withdrawn counts: the former contributions of labels that were replaced.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Withdrawn {
    /// Number of labels and values that a later statement replaced.
    pub(super) labels: u64,
    pub(super) correct: u64,
    /// Withdrawn counts by class; `predicted` is always 0.
    pub(super) classes: BTreeMap<String, ClassOutcomes>,
    pub(super) calibration_correct: [u64; CALIBRATION_BINS],
    pub(super) squared_error: f64,
    pub(super) absolute_error: f64,
}

/// Numbers of instances for which a class was predicted, was the true class, and was both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClassOutcomes {
    pub(super) predicted: u64,
    pub(super) actual: u64,
    pub(super) correct: u64,
}

/// Comparison of confidence with correctness: sums per bin of confidence.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibration {
    bins: Vec<CalibrationBin>,
}

/// Sums over the predictions whose confidence is within one bin.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CalibrationBin {
    /// Number of predictions.
    pub count: u64,
    /// Sum of the confidence of the predictions.
    pub confidence: f64,
    /// Number of predictions that were right.
    pub correct: u64,
}

// ===== impl Calibration =====

impl Default for Calibration {
    fn default() -> Calibration {
        Calibration::with_bins(CALIBRATION_BINS)
    }
}

impl Calibration {
    /// Creates an empty calibration with this number of bins of the same width.
    pub fn with_bins(bins: usize) -> Calibration {
        Calibration { bins: vec![CalibrationBin::default(); bins.max(1)] }
    }

    /// Adds a prediction with a known outcome. A confidence at an edge belongs to the bin below the edge.
    pub fn add(&mut self, confidence: f64, is_correct: bool) {
        let bin = self.bin_of(confidence);
        let bin = &mut self.bins[bin];
        bin.count += 1;
        bin.confidence += confidence;
        bin.correct += u64::from(is_correct);
    }

    fn bin_of(&self, confidence: f64) -> usize {
        let bins = self.bins.len();
        // Compares with the edges themselves, because a product could be rounded to the wrong side.
        (1..bins).filter(|edge| *edge as f64 / (bins as f64) < confidence).count()
    }

    /// The bins, in ascending order of confidence.
    pub fn bins(&self) -> &[CalibrationBin] {
        &self.bins
    }

    /// The expected calibration error, 0 to 1; `None` without predictions.
    ///
    /// ```
    /// use leeway::monitor::Calibration;
    /// // y = 0010110111 for p = .05, .15, … .95, in five bins.
    /// let mut calibration = Calibration::with_bins(5);
    /// for (tenth, y) in "0010110111".chars().enumerate() {
    ///     calibration.add(0.05 + tenth as f64 / 10.0, y == '1');
    /// }
    /// assert!((calibration.expected_error().unwrap() - 0.22).abs() < 1e-12);
    /// ```
    pub fn expected_error(&self) -> Option<f64> {
        self.expected_error_without(&[])
    }

    /// The expected calibration error after subtracting the withdrawn correct predictions of each bin.
    fn expected_error_without(&self, withdrawn: &[u64]) -> Option<f64> {
        let count: u64 = self.bins.iter().map(|bin| bin.count).sum();
        let withdrawn = withdrawn.iter().copied().chain(std::iter::repeat(0));
        let gap = |(bin, withdrawn): (&CalibrationBin, u64)| {
            (bin.confidence - bin.correct.saturating_sub(withdrawn) as f64).abs()
        };
        let gaps: f64 = self.bins.iter().zip(withdrawn).map(gap).sum();
        (count > 0).then(|| gaps / count as f64)
    }
}

// ===== impl Outcomes =====

impl Outcomes {
    /// Creates empty outcomes. Known classes have entries from the start, because a rate misses the first count of a
    /// series, and because labels from callers must not use up the limit of entries.
    pub(super) fn of_classes(classes: &[String], limits: EventLimits) -> Outcomes {
        let known = classes.iter().take(MAX_TEXT_BINS).map(|class| (class.clone(), ClassOutcomes::default()));
        let confusion = ConfusionMatrix::of_classes(classes);
        Outcomes { classes: known.collect(), confusion, bad: BadOutcomes::new(limits), ..Outcomes::default() }
    }

    /// Adds the true outcome of a prediction. `delay` is the time from the prediction to its feedback, if known.
    pub fn label(&mut self, predicted: &Predicted, truth: &Truth, delay: Option<Duration>) {
        self.bad.label(predicted, truth);
        match (predicted, truth) {
            (Predicted::Class(class, confidence), Truth::Label { name: label, .. }) => {
                let is_correct = class == label;
                self.correct += u64::from(is_correct);
                self.class(class).predicted += 1;
                self.class(label).actual += 1;
                self.class(class).correct += u64::from(is_correct);
                self.confusion.add(label, class, 1);
                self.calibration.add(*confidence, is_correct);
                self.squared_error += (confidence - f64::from(u8::from(is_correct))).powi(2);
            }
            (Predicted::Value(value), Truth::Value(truth)) => {
                let error = value - truth;
                self.values += 1;
                self.absolute_error += error.abs();
                self.error += error;
                self.squared_error += error * error;
            }
            // The caller has checked that the kinds match.
            (Predicted::Class(..), Truth::Value(_)) | (Predicted::Value(_), Truth::Label { .. }) => return,
        }
        self.labels += 1;
        let Some(delay) = delay else { return };
        let seconds = delay.as_secs_f64();
        self.delays[DELAY_BUCKETS.iter().filter(|edge| (**edge as f64) < seconds).count()] += 1;
        self.delay_sum += seconds;
    }

    /// Replaces the true outcome `before` of a prediction with `truth`.
    pub fn correct(&mut self, predicted: &Predicted, before: &Truth, truth: &Truth) {
        self.bad.correct(predicted, before, truth);
        match (predicted, before, truth) {
            (
                Predicted::Class(class, confidence),
                Truth::Label { name: before, .. },
                Truth::Label { name: label, .. },
            ) => {
                let (was_correct, is_correct) = (class == before, class == label);
                let bin = self.calibration.bin_of(*confidence);
                let error = |is_correct: bool| (confidence - f64::from(u8::from(is_correct))).powi(2);
                self.class(before);
                self.withdrawn_of(before).actual += 1;
                self.class(label).actual += 1;
                self.withdrawn.correct += u64::from(was_correct);
                self.withdrawn.calibration_correct[bin] += u64::from(was_correct);
                self.withdrawn_of(before).correct += u64::from(was_correct);
                self.correct += u64::from(is_correct);
                self.calibration.bins[bin].correct += u64::from(is_correct);
                self.class(label).correct += u64::from(is_correct);
                self.confusion.add(before, class, -1);
                self.confusion.add(label, class, 1);
                self.withdrawn.squared_error += error(was_correct);
                self.squared_error += error(is_correct);
            }
            (Predicted::Value(value), Truth::Value(before), Truth::Value(truth)) => {
                let (before, error) = (value - before, value - truth);
                self.withdrawn.absolute_error += before.abs();
                self.withdrawn.squared_error += before * before;
                self.absolute_error += error.abs();
                self.squared_error += error * error;
                self.error += error - before;
            }
            // The caller has checked that the kinds match.
            _ => return,
        }
        self.withdrawn.labels += 1;
    }

    /// Replaces the amount `before` of a business metric with `amount`.
    pub fn correct_business(&mut self, name: &str, kind: BusinessKind, before: f64, amount: f64) {
        self.bad.correct_business(name, before, amount);
        self.of_business(name, kind).correct(before, amount);
    }

    /// Adds the amount of a business metric for a prediction.
    pub fn business(&mut self, name: &str, kind: BusinessKind, amount: f64) {
        self.bad.business(name, amount);
        self.of_business(name, kind).add(amount);
    }

    fn of_business(&mut self, name: &str, kind: BusinessKind) -> &mut BusinessOutcome {
        self.business.entry(name.to_owned()).or_insert_with(|| BusinessOutcome::new(kind))
    }

    /// Returns the counts of a class. Classes beyond the limit share one entry, so that the number of series is
    /// bounded.
    fn class(&mut self, name: &str) -> &mut ClassOutcomes {
        let is_new = !self.classes.contains_key(name);
        let name = if is_new && self.classes.len() >= MAX_TEXT_BINS { OTHER } else { name };
        self.classes.entry(name.to_owned()).or_default()
    }

    fn withdrawn_of(&mut self, name: &str) -> &mut ClassOutcomes {
        // Uses the entry that these counts are subtracted from.
        let name = if self.classes.contains_key(name) { name } else { OTHER };
        self.withdrawn.classes.entry(name.to_owned()).or_default()
    }

    /// Returns the outcomes of a class minus the withdrawn ones. The counts do not fall below 0, although another
    /// replica may have counted what was withdrawn here.
    pub(super) fn holding(&self, class: &str) -> ClassOutcomes {
        let counted = self.classes.get(class).copied().unwrap_or_default();
        let withdrawn = self.withdrawn.classes.get(class).copied().unwrap_or_default();
        ClassOutcomes {
            predicted: counted.predicted,
            actual: counted.actual.saturating_sub(withdrawn.actual),
            correct: counted.correct.saturating_sub(withdrawn.correct),
        }
    }

    fn classified(&self) -> u64 {
        self.labels - self.values
    }

    /// The share of predicted classes that were right.
    pub fn accuracy(&self) -> Option<f64> {
        ratio(self.correct.saturating_sub(self.withdrawn.correct) as f64, self.classified())
    }

    /// The Brier score of "the prediction is right".
    pub fn brier_score(&self) -> Option<f64> {
        let squared_error = (self.squared_error - self.withdrawn.squared_error).max(0.0);
        ratio(squared_error, self.classified()).filter(|_| self.values == 0)
    }

    /// The expected calibration error.
    pub fn expected_calibration_error(&self) -> Option<f64> {
        self.calibration.expected_error_without(&self.withdrawn.calibration_correct)
    }

    /// The mean absolute error of predicted numbers.
    pub fn mean_absolute_error(&self) -> Option<f64> {
        ratio((self.absolute_error - self.withdrawn.absolute_error).max(0.0), self.values)
    }

    /// The root of the mean squared error of predicted numbers.
    pub fn root_mean_squared_error(&self) -> Option<f64> {
        let squared_error = (self.squared_error - self.withdrawn.squared_error).max(0.0);
        ratio(squared_error, self.values).map(f64::sqrt)
    }

    /// The interval of the accuracy.
    pub fn accuracy_interval(&self) -> Option<Interval> {
        Interval::of_share(self.correct.saturating_sub(self.withdrawn.correct) as f64, self.classified() as f64)
    }

    /// The interval of the mean absolute error.
    pub fn mean_absolute_error_interval(&self) -> Option<Interval> {
        let absolute_error = (self.absolute_error - self.withdrawn.absolute_error).max(0.0);
        let squared_error = (self.squared_error - self.withdrawn.squared_error).max(0.0);
        Interval::of_mean(absolute_error, squared_error, self.values as f64)
    }

    /// The mean of predicted minus true numbers.
    pub fn bias(&self) -> Option<f64> {
        ratio(self.error, self.values)
    }
}

impl ClassOutcomes {
    /// Of the predictions of the class, the share that was right.
    pub fn precision(&self) -> Option<f64> {
        ratio(self.correct as f64, self.predicted)
    }

    /// Of the instances of the class, the share that was predicted as that class.
    pub fn recall(&self) -> Option<f64> {
        ratio(self.correct as f64, self.actual)
    }
}

fn ratio(sum: f64, count: u64) -> Option<f64> {
    (count > 0).then(|| sum / count as f64)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn label(name: &str) -> Truth {
        Truth::Label { class: 0, name: name.to_owned() }
    }

    /// A correction has the same effect as the right label from the start, and no count falls.
    #[test]
    fn a_correction_replaces() {
        let predicted = [Predicted::Class("a".into(), 0.75), Predicted::Class("b".into(), 0.6)];
        for (before, after) in [("a", "b"), ("b", "a"), ("c", "b"), ("b", "c")] {
            let (mut corrected, mut at_once) = (Outcomes::default(), Outcomes::default());
            for predicted in &predicted {
                corrected.label(predicted, &label(before), None);
                at_once.label(predicted, &label(after), None);
            }
            let counted = corrected.clone();
            for predicted in &predicted {
                corrected.correct(predicted, &label(before), &label(after));
            }
            assert_eq!(corrected.withdrawn.labels, 2);
            assert!(corrected.correct >= counted.correct && corrected.squared_error >= counted.squared_error);
            assert_eq!(corrected.labels, at_once.labels);
            assert_eq!(corrected.accuracy(), at_once.accuracy(), "{before} -> {after}");
            for measure in [Outcomes::brier_score, Outcomes::expected_calibration_error] {
                assert!((measure(&corrected).unwrap() - measure(&at_once).unwrap()).abs() < 1e-12);
            }
            for class in ["a", "b", "c"] {
                assert_eq!(corrected.holding(class), at_once.holding(class), "{before} -> {after}: {class}");
                assert!(corrected.holding(class).correct <= corrected.holding(class).actual);
            }
        }
        let (mut corrected, mut at_once) = (Outcomes::default(), Outcomes::default());
        corrected.label(&Predicted::Value(10.0), &Truth::Value(13.0), None);
        corrected.correct(&Predicted::Value(10.0), &Truth::Value(13.0), &Truth::Value(9.0));
        at_once.label(&Predicted::Value(10.0), &Truth::Value(9.0), None);
        assert_eq!(corrected.mean_absolute_error(), at_once.mean_absolute_error());
        assert_eq!((corrected.bias(), corrected.withdrawn.squared_error), (at_once.bias(), 9.0));
        corrected.business("revenue", BusinessKind::Sum, 5.0);
        corrected.correct_business("revenue", BusinessKind::Sum, 5.0, 7.0);
        assert_eq!((corrected.business["revenue"].sum, corrected.business["revenue"].items), (7.0, 1));
    }

    /// The sums over two replicas are the same if a label and its correction reach one replica or two different ones.
    #[test]
    fn a_correction_may_come_to_another_replica() {
        let predicted = Predicted::Class("a".into(), 0.75);
        let (mut one, mut other) = (Outcomes::default(), Outcomes::default());
        one.label(&predicted, &label("a"), None);
        other.correct(&predicted, &label("a"), &label("b"));
        let holding = |value: fn(&Outcomes) -> (u64, u64)| {
            let [(one, without), (other, less)] = [value(&one), value(&other)];
            one + other - without - less
        };
        assert_eq!(holding(|outcomes| (outcomes.correct, outcomes.withdrawn.correct)), 0);
        for (class, actual) in [("a", 0), ("b", 1)] {
            let sum = |outcomes: &Outcomes, withdrawn: bool| {
                let classes = if withdrawn { &outcomes.withdrawn.classes } else { &outcomes.classes };
                classes.get(class).map_or(0, |class| class.actual)
            };
            let all = sum(&one, false) + sum(&other, false) - sum(&one, true) - sum(&other, true);
            assert_eq!(all, actual, "{class}");
        }
        assert_eq!((other.labels, other.accuracy()), (0, None));
    }

    /// Golden values: the results of scikit-learn for the same predictions (`tests/data/make_outcomes.py`).
    #[test]
    fn measures_are_those_of_scikit_learn() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/outcomes_golden.json");
        let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let number = |value: &Value| value.as_f64().unwrap();
        let mut outcomes = Outcomes::default();
        for case in golden["classifier"]["cases"].as_array().unwrap() {
            let predicted = Predicted::Class(case[0].to_string(), number(&case[1]));
            outcomes.label(&predicted, &label(&case[2].to_string()), Some(Duration::from_secs(1)));
        }
        let expected = &golden["classifier"];
        let close = |found: Option<f64>, expected: &Value| {
            assert!((found.unwrap() - number(expected)).abs() < 1e-12, "{found:?} is not {expected}");
        };
        close(outcomes.accuracy(), &expected["accuracy"]);
        close(outcomes.brier_score(), &expected["brier_score"]);
        close(outcomes.expected_calibration_error(), &expected["ece"]);
        for (class, expected) in expected["classes"].as_object().unwrap() {
            close(outcomes.classes[class].precision(), &expected["precision"]);
            close(outcomes.classes[class].recall(), &expected["recall"]);
        }
        let mut outcomes = Outcomes::default();
        for case in golden["regressor"]["cases"].as_array().unwrap() {
            let (predicted, truth) = (Predicted::Value(number(&case[0])), Truth::Value(number(&case[1])));
            outcomes.label(&predicted, &truth, Some(Duration::ZERO));
        }
        close(outcomes.mean_absolute_error(), &golden["regressor"]["mae"]);
        close(outcomes.bias(), &golden["regressor"]["bias"]);
        assert_eq!((outcomes.accuracy(), outcomes.brier_score()), (None, None));
    }

    #[test]
    fn labels_that_nobody_knows_are_counted_as_one() {
        let mut outcomes = Outcomes::default();
        for label in 0..10_000 {
            let truth = self::label(&format!("label {label}"));
            outcomes.label(&Predicted::Class("a".into(), 0.5), &truth, Some(Duration::ZERO));
        }
        assert_eq!(outcomes.classes.len(), MAX_TEXT_BINS + 1);
        assert_eq!(outcomes.classes[OTHER].actual, 10_000 - (MAX_TEXT_BINS as u64 - 1));
        assert_eq!(outcomes.classes["a"].predicted, 10_000);
    }

    #[test]
    fn a_metric_is_what_its_kind_says() {
        let mut outcomes = Outcomes::default();
        for (name, kind) in [("s", BusinessKind::Sum), ("m", BusinessKind::Mean), ("r", BusinessKind::Rate)] {
            [1.0, 0.0, 0.0, 1.0].into_iter().for_each(|amount| outcomes.business(name, kind, amount));
        }
        let values: Vec<f64> = outcomes.business.values().map(BusinessOutcome::value).collect();
        assert_eq!(values, [0.5, 0.5, 2.0]);
    }
}
