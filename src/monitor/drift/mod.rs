//! Drift: a window of requests compared with the training data. Pure maths over counts per bin.
//!
//! A feature is compared in two ways, because they call for different actions:
//!
//! - The *distribution* of the values that can be compared ([`Drift`], in `distribution.rs`, and `ordered.rs` for
//!   numbers): PSI, KL and other distances, and the probability of such a difference by chance.
//! - The *shares* of the values that cannot ([`ShareDrift`], in `shares.rs`): missing, unknown, and below or above every
//!   value of the training data. Each share has a test of its own, so its verdict does not depend on the size of the
//!   baseline.
//!
//! `dependence.rs` estimates how many of a window's values are independent of each other.
//! `judge.rs` turns the comparisons of all features of a model into verdicts, with one rate of false alarms for the
//! model.

mod dependence;
mod distribution;
mod judge;
mod ordered;
mod shares;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

pub use self::dependence::{WindowCounts, independent_share};
pub use self::distribution::Drift;
pub(super) use self::distribution::smoothed;
pub use self::judge::{FALSE_ALARM_RATE, MIN_INDEPENDENT, MIN_VALUES, judge};
pub use self::ordered::{BinPositions, BinSummary};
pub use self::shares::{Share, ShareDrift};

/// Counts of a feature in the training data, by bins, and the role of each bin.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Reference {
    /// Role of each bin.
    pub roles: Vec<BinRole>,
    /// Number of values of the training data in each bin.
    pub counts: Vec<u64>,
    /// Positions of the compared bins, if the feature is a number and its range is known.
    pub positions: Option<BinPositions>,
}

/// Role of a bin in the comparison of a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// Verdict on the drift of a feature: none, a warning, or drift.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DriftStatus {
    /// The window is too small for a verdict.
    NotEnoughData,
    /// The drift is small, or may be due to chance.
    Ok,
    /// The drift is moderate, and not explained by chance.
    Warning,
    /// The drift is large, and not explained by chance.
    Drifted,
}

// ===== impl Reference =====

impl Reference {
    /// Compares the counts of a window, in the order of the bins, with the training data. The status is
    /// [`DriftStatus::NotEnoughData`] until [`judge`] has seen all features of the model.
    pub fn compare(&self, slices: &WindowCounts) -> Comparison {
        let (window, independent) = (slices.total(), slices.independent_share());
        let compared = |counts: &[u64]| -> Vec<u64> {
            let all = self.roles.iter().zip(counts);
            all.filter(|(role, _)| **role == BinRole::Compared).map(|(_, count)| *count).collect()
        };
        let mut drift = Drift::between_dependent(&compared(&self.counts), &compared(window), independent);
        if let Some(positions) = &self.positions {
            drift.add_ordered(positions, &compared(&self.counts), &compared(window), independent);
        }
        let towards = distribution::direction(&compared(&self.counts), &compared(window));
        drift.lasts = slices.lasts(|slice| towards.of(&compared(slice)));
        let (of_baseline, of_window) = (self.counts.iter().sum(), window.iter().sum());
        let bins = self.roles.iter().zip(self.counts.iter().zip(window)).enumerate();
        let shares = bins.filter_map(|(at, (role, (before, now)))| {
            let BinRole::Share(share) = *role else { return None };
            Some((at, ShareDrift::between(share, (*before, of_baseline), (*now, of_window), independent)))
        });
        let lasting = |(at, share): (usize, ShareDrift)| {
            let increase = |slice: &[u64]| slice[at] as f64 / slice.iter().sum::<u64>() as f64 - share.baseline_share;
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
}

// ===== impl Comparison =====

impl Comparison {
    /// Size of the difference, for sorting: the adjusted PSI, or the largest increase of a share, where it is larger.
    pub fn size(&self) -> f64 {
        let increases = self.shares.iter().map(ShareDrift::increase);
        increases.chain([self.drift.psi_adjusted]).filter(|size| !size.is_nan()).fold(0.0, f64::max)
    }
}

// ===== impl DriftStatus =====

impl DriftStatus {
    /// Every status.
    pub const ALL: [DriftStatus; 4] =
        [DriftStatus::NotEnoughData, DriftStatus::Ok, DriftStatus::Warning, DriftStatus::Drifted];

    /// Name of the verdict in metrics and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            DriftStatus::NotEnoughData => "not_enough_data",
            DriftStatus::Ok => "ok",
            DriftStatus::Warning => "warning",
            DriftStatus::Drifted => "drifted",
        }
    }
}

/// Reads a number. Null, which JSON has instead of NaN, becomes NaN.
pub(super) fn number_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}
