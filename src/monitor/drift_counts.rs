//! The counts of a version's features and predictions in a window, with their baseline: what servers of a fleet add up, so
//! that the drift of the fleet is measured, and not that of one server.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::drift::{Comparison, DriftStatus, Reference, WindowCounts, judge};
use super::drift_reading::DriftReading;
use super::drift_report::{DriftReport, FeatureDrift, sorted};
use super::drift_verdict::DriftVerdict;
use super::watched_bins::Side;

/// The counts of a version in a window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DriftCounts {
    /// Length of the window, in seconds.
    pub window_s: f64,
    /// Number of instances that were answered within the window.
    pub rows: u64,
    /// The verdict for alerts of this server.
    pub verdict: DriftVerdict,
    /// The features and the parts of predictions with a baseline.
    pub features: Vec<CountedFeature>,
    /// Features that only the baseline or only the preprocessor has, and features beyond the limit.
    pub not_watched: Vec<String>,
}

/// The counts of a feature, or of a part of the predictions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CountedFeature {
    /// Name of the feature.
    pub name: String,
    /// Side of the model that it is on.
    pub side: Side,
    /// The names of the bins.
    pub bins: Vec<String>,
    /// The baseline.
    pub reference: Reference,
    /// The counts per bin in each slice of the window, the oldest slice first.
    pub slices: Vec<Vec<u64>>,
}

impl DriftCounts {
    pub(super) fn new(reading: &DriftReading, verdict: DriftVerdict, not_watched: &[String]) -> DriftCounts {
        let counted = reading.all().map(|read| CountedFeature {
            name: read.feature.name.clone(),
            side: read.feature.side,
            bins: read.feature.bins.clone(),
            reference: read.feature.reference.clone(),
            slices: reading.slices(read.feature),
        });
        DriftCounts {
            window_s: reading.window.as_secs_f64(),
            rows: reading.rows,
            verdict,
            features: counted.collect(),
            not_watched: not_watched.to_vec(),
        }
    }

    /// Adds the counts of another server. Slices are added from the latest one back, because windows end now. Fails if the
    /// other server has another baseline.
    pub fn add(&mut self, other: &DriftCounts) -> Result<(), String> {
        let of_other: BTreeMap<_, _> =
            other.features.iter().map(|feature| ((feature.side, &feature.name), feature)).collect();
        let find = |feature: &CountedFeature| of_other.get(&(feature.side, &feature.name)).copied();
        let is_same = |feature: &CountedFeature| {
            find(feature).is_some_and(|other| other.bins == feature.bins && other.reference == feature.reference)
        };
        if let Some(feature) = self.features.iter().find(|feature| !is_same(feature)) {
            return Err(format!("the baseline of {} is another one", feature.name));
        }
        for feature in &mut self.features {
            let Some(other) = of_other.get(&(feature.side, &feature.name)) else { continue };
            add_from_the_end(&mut feature.slices, &other.slices);
        }
        self.rows += other.rows;
        self.window_s = self.window_s.max(other.window_s);
        if other.verdict.status > self.verdict.status {
            self.verdict = other.verdict.clone();
        }
        Ok(())
    }

    /// Returns the drift of these counts. The verdict for alerts is the worst one of the servers.
    pub fn report(&self) -> DriftReport {
        let compare = |feature: &CountedFeature| feature.reference.compare(&WindowCounts::new(feature.slices.clone()));
        let mut comparisons: Vec<Comparison> = self.features.iter().map(compare).collect();
        judge(&mut comparisons);
        let of_side = |side: Side| {
            let all = self.features.iter().zip(&comparisons).filter(|(feature, _)| feature.side == side);
            sorted(all.map(|(feature, comparison)| {
                let total = WindowCounts::new(feature.slices.clone()).total().to_vec();
                let CountedFeature { name, bins, reference, .. } = feature;
                (FeatureDrift::new(name, bins, &reference.counts, &total, comparison), comparison.size())
            }))
        };
        DriftReport {
            status: comparisons.iter().map(|found| found.status).max().unwrap_or(DriftStatus::NotEnoughData),
            verdict: self.verdict.clone(),
            profile: None,
            window_s: self.window_s,
            rows: self.rows,
            features: of_side(Side::Feature),
            predictions: of_side(Side::Prediction),
            not_watched: self.not_watched.clone(),
        }
    }
}

/// Adds slices to others, the last to the last.
fn add_from_the_end(slices: &mut Vec<Vec<u64>>, others: &[Vec<u64>]) {
    let missing = others.len().saturating_sub(slices.len());
    slices.splice(0..0, vec![Vec::new(); missing]);
    for (slice, other) in slices.iter_mut().rev().zip(others.iter().rev()) {
        slice.resize(slice.len().max(other.len()), 0);
        for (count, more) in slice.iter_mut().zip(other) {
            *count += more;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::drift::BinRole;

    fn counts(slices: &[[u64; 3]]) -> DriftCounts {
        let reference = Reference { roles: vec![BinRole::Compared; 3], counts: vec![500, 300, 200], positions: None };
        DriftCounts {
            window_s: 60.0 * slices.len() as f64,
            rows: slices.iter().flatten().sum(),
            verdict: DriftVerdict { status: DriftStatus::Ok, reason: None, features: Vec::new() },
            features: vec![CountedFeature {
                name: "x".to_owned(),
                side: Side::Feature,
                bins: ["a", "b", "c"].map(str::to_owned).into(),
                reference,
                slices: slices.iter().map(|slice| slice.to_vec()).collect(),
            }],
            not_watched: Vec::new(),
        }
    }

    #[test]
    fn counts_are_added_from_the_end_of_the_window() {
        let mut sum = counts(&[[1, 2, 3]]);
        sum.add(&counts(&[[10, 0, 0], [0, 10, 0]])).unwrap();
        assert_eq!(sum.features[0].slices, [[10, 0, 0], [1, 12, 3]]);
        assert_eq!((sum.rows, sum.window_s), (26, 120.0));
    }

    /// The drift of two servers together is that of one server with the rows of both, whatever each of them sees.
    #[test]
    fn the_drift_of_a_fleet_is_that_of_all_rows() {
        let (one, other) = (counts(&[[250, 0, 0], [250, 0, 0]]), counts(&[[0, 150, 100], [0, 150, 100]]));
        let mut fleet = one.clone();
        fleet.add(&other).unwrap();
        let report = fleet.report();
        assert_eq!(report, counts(&[[250, 150, 100], [250, 150, 100]]).report());
        assert!(one.report().features[0].drift.psi > 1.0 && report.features[0].drift.psi < 1e-9);
    }

    #[test]
    fn another_baseline_is_not_added() {
        let mut other = counts(&[[1, 1, 1]]);
        other.features[0].reference.counts[0] += 1;
        assert_eq!(counts(&[[1, 1, 1]]).add(&other), Err("the baseline of x is another one".to_owned()));
        assert!(counts(&[[1, 1, 1]]).add(&DriftCounts { features: Vec::new(), ..other }).is_err());
    }
}
