//! The report of drift: every feature and part of the predictions compared with its baseline, the worst first.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::drift::{Drift, DriftStatus, smoothed};
use super::drift_reading::{DriftReading, ReadFeature};
use super::monitored_features::Side;

/// Drift of a version's features and predictions in a window from their baselines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DriftReport {
    /// The worst status of all features and predictions.
    pub status: DriftStatus,
    /// Length of the window, in seconds.
    pub window_s: f64,
    /// Number of instances that were answered within the window.
    pub rows: u64,
    /// The features, the worst first.
    pub features: Vec<FeatureDrift>,
    /// The predictions, the worst first.
    pub predictions: Vec<FeatureDrift>,
    /// Features that only the baseline or only the preprocessor has, and features beyond the limit.
    pub not_watched: Vec<String>,
}

/// Drift of a feature from its baseline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FeatureDrift {
    /// Name of the feature.
    pub name: String,
    /// Verdict on the drift.
    pub status: DriftStatus,
    /// Measures of the drift.
    #[serde(flatten)]
    pub drift: Drift,
    /// The bins, with the counts of baseline and window.
    pub bins: Vec<BinDrift>,
}

/// Counts and shares of one bin in the baseline and in the window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BinDrift {
    /// Name of the bin.
    pub bin: String,
    /// The baseline's count.
    pub baseline_count: u64,
    /// The window's count.
    pub window_count: u64,
    /// The baseline's share, 0 to 1, with ½ added to each count.
    pub baseline_ratio: f64,
    /// The window's share, 0 to 1, with ½ added to each count.
    pub window_ratio: f64,
}

// ===== impl DriftReport =====

impl DriftReport {
    pub(super) fn new(reading: &DriftReading, not_watched: &[String]) -> DriftReport {
        let of_side = |side: Side| {
            let mut found: Vec<FeatureDrift> =
                reading.all().filter(|read| read.feature.side == side).map(|read| FeatureDrift::new(&read)).collect();
            found.sort_by(|a, b| {
                b.status
                    .cmp(&a.status)
                    .then_with(|| b.drift.psi_adjusted.total_cmp(&a.drift.psi_adjusted))
                    .then_with(|| b.drift.z.total_cmp(&a.drift.z))
            });
            found
        };
        DriftReport {
            status: reading.all().map(|read| read.drift.status()).max().unwrap_or(DriftStatus::NotEnoughData),
            window_s: reading.window.as_secs_f64(),
            rows: reading.rows,
            features: of_side(Side::Feature),
            predictions: of_side(Side::Prediction),
            not_watched: not_watched.to_vec(),
        }
    }
}

impl FeatureDrift {
    fn new(read: &ReadFeature<'_>) -> FeatureDrift {
        let (feature, window) = (read.feature, read.within_window());
        let ratios = smoothed(&feature.baseline).zip(smoothed(&window));
        let bins = feature.bins.iter().zip(feature.baseline.iter().zip(&window)).zip(ratios);
        let bins = bins.map(|((bin, (baseline_count, window_count)), (baseline_ratio, window_ratio))| BinDrift {
            bin: bin.clone(),
            baseline_count: *baseline_count,
            window_count: *window_count,
            baseline_ratio,
            window_ratio,
        });
        FeatureDrift {
            name: feature.name.clone(),
            status: read.drift.status(),
            drift: *read.drift,
            bins: bins.collect(),
        }
    }
}
