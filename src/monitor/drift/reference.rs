//! Comparison of a feature in a window with the training data.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::dependence::WindowCounts;
use super::distribution::{Drift, direction};
use super::ordered::BinPositions;
use super::shares::{Share, ShareDrift};
use super::status::DriftStatus;

/// Counts of a feature in the training data, by bins, and the role of each bin.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Reference {
    /// Role of each bin.
    pub roles: Vec<BinRole>,
    /// Number of values of the training data in each bin.
    pub counts: Vec<u64>,
    /// Positions of the compared bins, if the feature is a number and its range is known.
    pub positions: Option<BinPositions>,
}

/// Role of a bin in the comparison of a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BinRole {
    /// The bin is a part of the distribution.
    Compared,
    /// The share of the bin is compared by itself.
    Share(Share),
}

/// Comparison of one feature in a window with the training data.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Verdict on the feature: the worst of its distribution and its shares.
    pub status: DriftStatus,
    /// Distance of the distribution.
    pub drift: Drift,
    /// Shares of the values outside of the distribution.
    pub shares: Vec<ShareDrift>,
    /// Number of values in the window, with those outside of the distribution.
    pub values: u64,
    /// The share of them that counts as independent of each other, above 0 to 1.
    pub independent: f64,
}

// ===== impl Reference =====

impl Reference {
    /// Compares the counts of a window, in the order of the bins, with the training data. The status is
    /// [`DriftStatus::NotEnoughData`] until `judge` has seen all features of the model.
    pub fn compare(&self, slices: &WindowCounts) -> Comparison {
        let (window, independent) = (slices.total(), slices.independent_share());
        let compared = |counts: &[u64]| self.compared(counts);
        let mut drift = Drift::between_dependent(&compared(&self.counts), &compared(window), independent);
        if let Some(positions) = &self.positions {
            drift.add_ordered(positions, &compared(&self.counts), &compared(window), independent);
        }
        let towards = direction(&compared(&self.counts), &compared(window));
        drift.lasts = slices.lasts(|slice| towards.of(&self.compared(slice)));
        let (of_baseline, of_window) = (self.counts.iter().sum(), window.iter().sum());
        let bins = self.roles.iter().zip(self.counts.iter().zip(window)).enumerate();
        let shares = bins.filter_map(|(at, (role, (before, now)))| {
            let BinRole::Share(share) = *role else { return None };
            let independent = slices.independent_share_of(at);
            Some((at, ShareDrift::between(share, (*before, of_baseline), (*now, of_window), independent)))
        });
        let lasting = |(at, share): (usize, ShareDrift)| {
            let increase = |slice: &[f64]| slice[at] / slice.iter().sum::<f64>() - share.baseline_share;
            ShareDrift { lasts: slices.lasts(increase), ..share }
        };
        Comparison {
            status: DriftStatus::NotEnoughData,
            drift,
            shares: shares.map(lasting).collect(),
            values: of_window,
            independent,
        }
    }

    /// Returns the counts of the compared bins.
    fn compared<T: Copy>(&self, counts: &[T]) -> Vec<T> {
        let all = self.roles.iter().zip(counts);
        all.filter(|(role, _)| **role == BinRole::Compared).map(|(_, count)| *count).collect()
    }
}

// ===== impl Comparison =====

impl Comparison {
    /// Size of the difference, for sorting: the adjusted PSI, or the largest increase of a share, where it is larger.
    pub fn size(&self) -> f64 {
        let increases = self.shares.iter().map(ShareDrift::increase);
        increases.chain([self.drift.psi_adjusted]).filter(|size| !size.is_nan()).fold(0.0, f64::max)
    }
}
