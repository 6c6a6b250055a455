//! Calibration of confidence: the share of predictions that are right, by their confidence.
//!
//! It is measured once, on rows whose true class is known and that the model was not trained on. Summed over the
//! predictions of requests, it estimates accuracy without labels (CBPE, confidence-based performance estimation).

use serde::{Deserialize, Serialize};

/// Maximum number of bins of a map, and minimum number of rows in each.
const MAX_BINS: usize = 20;
const MIN_ROWS: usize = 50;

/// The share of predictions that are right, as a step function of their confidence, which never falls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibrationMap {
    /// The steps, in ascending order of confidence.
    pub bins: Vec<CalibratedBin>,
}

/// Predictions with a similar confidence.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibratedBin {
    /// Upper edge of the bin: halfway to the smallest confidence of the next one. Anything above the last one belongs to
    /// the last bin.
    pub up_to: f32,
    /// Number of rows that the bin was measured on.
    pub rows: u64,
    /// Number of these rows whose predicted class was right.
    pub correct: u64,
}

impl CalibrationMap {
    /// Fits a map to predictions: their confidence, and if they were right. Bins have the same number of rows, and
    /// neighbours are merged where the share falls (pool adjacent violators; Zadrozny and Elkan, KDD 2002). `None`
    /// without predictions.
    ///
    /// ```
    /// use leeway::monitor::CalibrationMap;
    /// // 60 predictions of which a half is right, and 60 of which all are.
    /// let predictions = (0..120).map(|row| (if row < 60 { 0.6 } else { 0.9 }, row % 2 == 0 || row >= 60));
    /// let map = CalibrationMap::fit(predictions.collect()).unwrap();
    /// assert_eq!([0.1, 0.6, 0.8, 1.0].map(|confidence| map.accuracy_at(confidence)), [0.5, 0.5, 1.0, 1.0]);
    /// ```
    pub fn fit(mut predictions: Vec<(f32, bool)>) -> Option<CalibrationMap> {
        predictions.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        let count = predictions.len();
        let wanted = (count / MIN_ROWS).clamp(1, MAX_BINS);
        let mut bins: Vec<CalibratedBin> = Vec::new();
        let (mut ended, mut rows, mut correct) = (0, 0, 0);
        for (index, (confidence, is_correct)) in predictions.iter().enumerate() {
            rows += 1;
            correct += u64::from(*is_correct);
            // A bin ends where the next part of the rows begins, but not between equal numbers.
            let is_full = (index + 1) * wanted / count > ended;
            let next = predictions.get(index + 1);
            if next.is_none() || is_full && next.is_some_and(|(next, _)| next > confidence) {
                // A confidence is not always the same to the last digit, so the edge is between two of them.
                let up_to = next.map_or(*confidence, |(next, _)| confidence + (next - confidence) / 2.0);
                add(&mut bins, CalibratedBin { up_to, rows, correct });
                (ended, rows, correct) = ((index + 1) * wanted / count, 0, 0);
            }
        }
        (!bins.is_empty()).then_some(CalibrationMap { bins })
    }

    /// Returns the share of predictions with this confidence that are right.
    pub fn accuracy_at(&self, confidence: f32) -> f64 {
        let at = self.bins.partition_point(|bin| bin.up_to < confidence);
        self.bins.get(at).or(self.bins.last()).map_or(0.0, CalibratedBin::accuracy)
    }

    /// Returns the reason why this map cannot be used; `None` if it can.
    pub(super) fn problem(&self) -> Option<&'static str> {
        let is_counted = |bin: &CalibratedBin| bin.rows > 0 && bin.correct <= bin.rows && bin.up_to.is_finite();
        if self.bins.is_empty() || !self.bins.iter().all(is_counted) {
            return Some("each bin must have rows, and at most as many correct ones");
        }
        let ascend = self.bins.windows(2).all(|pair| pair[0].up_to < pair[1].up_to);
        (!ascend).then_some("the bins do not ascend")
    }
}

impl CalibratedBin {
    fn accuracy(&self) -> f64 {
        self.correct as f64 / self.rows as f64
    }
}

/// Adds a bin, and merges it with those before it that have a larger share.
fn add(bins: &mut Vec<CalibratedBin>, mut bin: CalibratedBin) {
    while let Some(before) = bins.pop_if(|before| before.accuracy() >= bin.accuracy()) {
        bin.rows += before.rows;
        bin.correct += before.correct;
    }
    bins.push(bin);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected shares are those of scikit-learn 1.9: `IsotonicRegression` of the shares of twelve bins.
    #[test]
    fn shares_are_those_of_isotonic_regression() {
        let prediction = |row: u64| {
            let confidence = ((row * 37 % 600) as f64 + 0.5) / 600.0;
            (confidence as f32, (((row * row * 31 + row * 17) % 97) as f64) < 97.0 * (0.3 + 0.6 * confidence))
        };
        let map = CalibrationMap::fit((0..600).map(prediction).collect()).unwrap();
        let found: Vec<f64> = (0..12).map(|bin| map.accuracy_at(((f64::from(bin) + 0.5) / 12.0) as f32)).collect();
        let expected = [0.22, 0.24, 0.38, 0.52, 0.66, 0.76, 0.76, 0.76, 0.79, 0.79, 0.89, 0.89];
        assert!(found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-12), "{found:?}");
        assert_eq!(map.bins.iter().map(|bin| bin.rows).sum::<u64>(), 600);
        assert_eq!(map.problem(), None);
    }

    #[test]
    fn equal_confidences_are_in_one_bin() {
        assert_eq!(CalibrationMap::fit(Vec::new()), None);
        let map = CalibrationMap::fit(vec![(1.0, true); 1_000]).unwrap();
        assert_eq!(map.bins, [CalibratedBin { up_to: 1.0, rows: 1_000, correct: 1_000 }]);
        let few = CalibrationMap::fit((0..60).map(|row| (row as f32 / 60.0, row % 2 == 0)).collect()).unwrap();
        assert_eq!((few.bins.len(), few.accuracy_at(0.3)), (1, 0.5));
        // Where confidence says the opposite of the truth, it says nothing.
        let reversed = CalibrationMap::fit((0..1_000).map(|row| (row as f32 / 1e3, row < 500)).collect()).unwrap();
        assert_eq!((reversed.bins.len(), reversed.accuracy_at(0.9)), (1, 0.5));
    }
}
