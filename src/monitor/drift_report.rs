//! The report of drift: every feature and part of the predictions compared with its baseline, the worst first.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::drift::{Comparison, Drift, DriftStatus, ShareDrift, number_or_null};
use super::drift_reading::{DriftReading, ReadFeature};
use super::drift_verdict::DriftVerdict;
use super::monitored_features::MonitoredFeature;
use super::usual_by_hour::ProfileInUse;
use super::watched_bins::Side;

/// Drift of a version's features and predictions in a window from their baselines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DriftReport {
    /// The worst status of all features and predictions in the window.
    pub status: DriftStatus,
    /// The verdict on the model, for alerts. It does not depend on the window of this report.
    pub verdict: DriftVerdict,
    /// Profile by time of day that the verdict is made with; absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<ProfileInUse>,
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
    /// Distance of the distribution.
    #[serde(flatten)]
    pub drift: Drift,
    /// Shares of the values that the distribution does not have.
    pub shares: Vec<ShareDrift>,
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
    /// The bin's share of all values of the baseline, 0 to 1.
    #[serde(deserialize_with = "number_or_null")]
    #[schemars(with = "Option<f64>")]
    pub baseline_ratio: f64,
    /// The bin's share of all values of the window, 0 to 1.
    #[serde(deserialize_with = "number_or_null")]
    #[schemars(with = "Option<f64>")]
    pub window_ratio: f64,
}

// ===== impl DriftReport =====

impl DriftReport {
    pub(super) fn new(
        reading: &DriftReading,
        (verdict, profile): (DriftVerdict, Option<ProfileInUse>),
        not_watched: &[String],
    ) -> DriftReport {
        let of_side = |side: Side| {
            let all = reading.all().filter(|read| read.feature.side == side);
            sorted(all.map(|read| (FeatureDrift::of(&read), read.comparison.size())))
        };
        DriftReport {
            status: reading.all().map(|read| read.comparison.status).max().unwrap_or(DriftStatus::NotEnoughData),
            verdict,
            profile,
            window_s: reading.window.as_secs_f64(),
            rows: reading.rows,
            features: of_side(Side::Feature),
            predictions: of_side(Side::Prediction),
            not_watched: not_watched.to_vec(),
        }
    }
}

/// Returns features with their sizes of drift, the worst first.
pub(super) fn sorted(features: impl Iterator<Item = (FeatureDrift, f64)>) -> Vec<FeatureDrift> {
    let mut found: Vec<(FeatureDrift, f64)> = features.collect();
    found.sort_by(|(a, a_size), (b, b_size)| {
        b.status.cmp(&a.status).then_with(|| b_size.total_cmp(a_size)).then_with(|| b.drift.z.total_cmp(&a.drift.z))
    });
    found.into_iter().map(|(feature, _)| feature).collect()
}

impl FeatureDrift {
    fn of(read: &ReadFeature<'_>) -> FeatureDrift {
        let MonitoredFeature { name, bins, reference, .. } = read.feature;
        FeatureDrift::new(name, bins, &reference.counts, &read.within_window(), read.comparison)
    }

    /// Creates the drift of a feature from the counts per bin of its baseline and of a window, and from their comparison.
    pub(super) fn new(
        name: &str,
        bins: &[String],
        baseline: &[u64],
        window: &[u64],
        comparison: &Comparison,
    ) -> FeatureDrift {
        let (of_baseline, of_window) = (baseline.iter().sum::<u64>(), window.iter().sum::<u64>());
        let bins = bins.iter().zip(baseline.iter().zip(window));
        let bins = bins.map(|(bin, (baseline_count, window_count))| BinDrift {
            bin: bin.clone(),
            baseline_count: *baseline_count,
            window_count: *window_count,
            // NaN, which is null in JSON, if there are no values.
            baseline_ratio: *baseline_count as f64 / of_baseline as f64,
            window_ratio: *window_count as f64 / of_window as f64,
        });
        let Comparison { status, drift, shares, .. } = comparison;
        FeatureDrift {
            name: name.to_owned(),
            status: *status,
            drift: *drift,
            shares: shares.clone(),
            bins: bins.collect(),
        }
    }
}
