//! Estimate of the accuracy of predictions without labels, from the calibration in a baseline.

use std::collections::HashMap;

use super::baseline::Baseline;
use super::calibration_map::CalibrationMap;
use super::labelled_baseline::{LabelledBaseline, LabelledClasses, MIN_LABELLED_ROWS};

/// The calibration of a version's confidence.
#[derive(Debug)]
pub(super) struct AccuracyEstimator {
    calibration: CalibrationMap,
    /// Calibrations of single classes, with the number of the class, in ascending order.
    by_class: Vec<(usize, CalibrationMap)>,
    /// Accuracy of the labelled rows of the baseline, and their number.
    accuracy: f64,
    rows: u64,
}

/// Estimated accuracy, and its standard error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct EstimatedAccuracy {
    pub(super) accuracy: f64,
    /// `None` if the estimate is the mean confidence, whose error is not known.
    pub(super) standard_error: Option<f64>,
}

/// Sums over the predictions whose accuracy is estimated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ExpectedSums {
    /// Number of predictions.
    pub(super) predictions: f64,
    /// Sum of their probabilities p of being right.
    pub(super) correct: f64,
    /// Sum of p·(1 − p).
    pub(super) variance: f64,
}

impl AccuracyEstimator {
    /// Creates the estimator of a version with these classes, which are empty if they have no names; `None` if the baseline
    /// has no calibration, or one of too few rows.
    pub(super) fn new(baseline: &Baseline, classes: &[String]) -> Option<AccuracyEstimator> {
        let Some(LabelledBaseline::Classes(labelled)) = &baseline.labelled else { return None };
        let LabelledClasses { calibration, calibration_by_class, rows, .. } = labelled;
        let numbers: HashMap<&str, usize> = classes.iter().enumerate().map(|(class, name)| (&**name, class)).collect();
        let number = |name: &String| match classes.is_empty() {
            true => name.parse().ok(),
            false => numbers.get(&**name).copied(),
        };
        let mut by_class: Vec<(usize, CalibrationMap)> = calibration_by_class
            .iter()
            .filter_map(|(name, calibration)| Some((number(name)?, calibration.clone())))
            .collect();
        by_class.sort_by_key(|(class, _)| *class);
        (*rows >= MIN_LABELLED_ROWS).then(|| AccuracyEstimator {
            calibration: calibration.clone(),
            by_class,
            accuracy: labelled.accuracy(),
            rows: *rows,
        })
    }

    /// Returns the probability that a prediction is right.
    pub(super) fn probability(&self, class: usize, confidence: f32) -> f64 {
        let own = self.by_class.binary_search_by_key(&class, |(class, _)| *class);
        own.map_or(&self.calibration, |found| &self.by_class[found].1).accuracy_at(confidence)
    }

    /// Returns the estimate for predictions with these sums. Its standard error, if the predictions are like the labelled
    /// rows, is that of the number of right answers among them, and of the accuracy of the labelled rows:
    /// √(Σ p(1 − p) / n² + a(1 − a) / m).
    pub(super) fn estimate(&self, sums: ExpectedSums) -> Option<EstimatedAccuracy> {
        let ExpectedSums { predictions, correct, variance } = sums;
        let of_calibration = self.accuracy * (1.0 - self.accuracy) / self.rows as f64;
        let standard_error = Some((variance / predictions.powi(2) + of_calibration).sqrt());
        (predictions > 0.0).then(|| EstimatedAccuracy { accuracy: correct / predictions, standard_error })
    }
}

#[cfg(test)]
mod tests {
    use super::super::labelled_baseline::LabelledCounter;
    use super::*;
    use crate::feature::{Certainty, Observation};

    #[test]
    fn the_estimate_is_the_mean_of_calibrated_probabilities() {
        let mut counter = LabelledCounter::new(Some(vec!["a".to_owned(), "b".to_owned()]));
        let certainty = |confidence| Certainty { confidence, margin: 0.0, entropy: 0.0 };
        let mut count = |class, confidence, actual| {
            counter.class(Observation::Class { class, certainty: certainty(confidence) }, actual);
        };
        (0..600).for_each(|row| count(0, 0.8, if row % 4 == 0 { "b" } else { "a" }));
        (0..100).for_each(|row| count(1, 0.7, if row % 10 == 0 { "a" } else { "b" }));
        let labelled = counter.finish().unwrap();
        let LabelledBaseline::Classes(classes) = &labelled else { panic!("{labelled:?}") };
        assert_eq!((classes.rows, classes.correct, classes.confusion.len()), (700, 540, 4));
        assert_eq!((&*classes.confusion[0].actual, classes.confusion[0].rows), ("a", 450));
        let text = format!(
            r#"{{"format": 1, "rows": 1, "sampled_rows": 1, "features": [], "predictions": [], "labelled": {}}}"#,
            serde_json::to_string(&labelled).unwrap()
        );
        let baseline = Baseline::parse(text.as_bytes()).unwrap();
        let estimator = AccuracyEstimator::new(&baseline, &["a".to_owned(), "b".to_owned()]).unwrap();
        // Class a has a calibration of its own. The estimate for the labelled rows is their accuracy.
        assert_eq!((estimator.probability(0, 0.8), estimator.probability(1, 0.7)), (0.75, 0.9));
        let without_names = AccuracyEstimator::new(&baseline, &[]).unwrap();
        assert_eq!(without_names.probability(0, 0.8), 0.9, "no class is named by a number");
        let estimate = estimator.estimate(ExpectedSums { predictions: 200.0, correct: 150.0, variance: 37.5 }).unwrap();
        // √(37.5 / 200² + a (1 − a) / 700), a = 540 / 700
        assert!((estimate.standard_error.unwrap() - 0.034_487_6).abs() < 1e-6, "{estimate:?}");
        assert_eq!(estimate.accuracy, 0.75);
        assert_eq!(estimator.estimate(ExpectedSums { predictions: 0.0, correct: 0.0, variance: 0.0 }), None);
    }
}
