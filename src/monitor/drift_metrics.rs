//! The metrics of drift. Features and parts of the predictions have the same metrics, under different names.

use super::drift::{BinRole, Comparison, Drift, DriftStatus, smoothed};
use super::drift_reading::{DriftReading, DriftSummary, ReadFeature};
use super::drift_verdict::{DriftVerdict, VerdictReason};
use super::metric_family::{Family, counter, gauge, summary};
use super::text::{Number, Series};
use super::watched_bins::Side;

/// A reading of drift, and the part of it that `/metrics` shows.
pub(super) struct ShownDrift {
    reading: DriftReading,
    verdict: DriftVerdict,
    /// Indexes of the features and parts of predictions that are shown.
    shown: Vec<usize>,
    /// True if bins are shown, which is the case if all features are shown.
    has_bins: bool,
}

// ===== metrics =====

/// The metrics, in the order of `/metrics`.
pub(super) static FAMILIES: [&[Family<ShownDrift>]; 3] = [OF_FEATURES, OF_PREDICTIONS, OF_ALL];

const BY_FEATURE: &[&str] = &["model", "version", "feature"];
const BY_BIN: &[&str] = &["model", "version", "feature", "bin"];

/// Declares the metrics of drift of one side: of the features, or of the predictions. Their names begin with `$prefix`.
macro_rules! families_of {
    ($side:expr, $prefix:literal, $bins_help:literal) => {
        &[
            counter(concat!($prefix, "_bin_total"), BY_BIN, $bins_help, |shown, series| {
                shown.write_bins(series, $side, ReadFeature::totals);
            }),
            gauge(
                concat!($prefix, "_baseline_ratio"),
                BY_BIN,
                "The share of the compared training data in each compared bin, with 0.5 added to each count.",
                |shown, series| shown.write_baseline_ratios(series, $side),
            ),
            summary(
                concat!($prefix, "_baseline"),
                BY_FEATURE,
                "The training data: quantiles and sum of numbers, and the number of values.",
                |shown, series| shown.write_baselines(series, $side),
            ),
            gauge(concat!($prefix, "_bins"), BY_FEATURE, "Number of compared bins of the baseline.", |shown, series| {
                shown.of_side($side).for_each(|read| series.value(&[read.name()], read.drift().bins as u64));
            }),
            gauge(
                concat!($prefix, "_window_values"),
                BY_FEATURE,
                "Number of compared values in this replica's drift window.",
                |shown, series| {
                    shown.of_side($side).for_each(|read| series.value(&[read.name()], read.drift().window_count));
                },
            ),
            gauge(
                concat!($prefix, "_psi"),
                BY_FEATURE,
                "Population stability index of this replica's drift window against the baseline.",
                |shown, series| shown.write_estimates(series, $side, |drift| drift.psi),
            ),
            gauge(
                concat!($prefix, "_psi_adjusted"),
                BY_FEATURE,
                "Population stability index minus its expected value by chance alone; at least 0.",
                |shown, series| shown.write_estimates(series, $side, |drift| drift.psi_adjusted),
            ),
            gauge(
                concat!($prefix, "_drift_z"),
                BY_FEATURE,
                "Number of standard deviations of the population stability index above its expected value by chance.",
                |shown, series| shown.write_estimates(series, $side, |drift| drift.z),
            ),
            gauge(
                concat!($prefix, "_kl"),
                &["model", "version", "feature", "direction"],
                "Kullback-Leibler divergence in nats, of the window from the baseline and the other way round.",
                |shown, series| shown.write_divergences(series, $side),
            ),
            gauge(
                concat!($prefix, "_distance"),
                &["model", "version", "feature", "measure"],
                "Other distances of the window from the baseline: jensen_shannon; of numbers also kolmogorov_smirnov, and wasserstein in standard deviations of the baseline.",
                |shown, series| shown.write_distances(series, $side),
            ),
            gauge(
                concat!($prefix, "_outside_ratio"),
                BY_BIN,
                "The shares of this replica's drift window that are missing, below or above every value of the training data, or unknown (other).",
                |shown, series| shown.write_outside(series, $side),
            ),
        ]
    };
}

const OF_FEATURES: &[Family<ShownDrift>] =
    families_of!(Side::Feature, "leeway_feature", "Values of a feature in each bin of the baseline.");

const OF_PREDICTIONS: &[Family<ShownDrift>] = families_of!(
    Side::Prediction,
    "leeway_prediction",
    "Predictions, by class, confidence, margin, entropy or value, in each bin of the baseline."
);

const OF_ALL: &[Family<ShownDrift>] = &[
    gauge(
        "leeway_drift_verdict",
        &["model", "version", "status"],
        "1 for the verdict on the drift of a version with a baseline on this replica, and 0 for the others. Alerts are based on it.",
        |shown, series| {
            // Without a baseline there is nothing to compare with, and no verdict.
            for status in DriftStatus::ALL.into_iter().filter(|_| shown.reading.all().next().is_some()) {
                series.value(&[status.name()], u64::from(shown.verdict.status == status));
            }
        },
    ),
    gauge(
        "leeway_drift_verdict_feature",
        &["model", "version", "feature", "reason"],
        "1 for each of the worst features of a verdict that is warning or drifted, with the comparison that it is from.",
        |shown, series| {
            let DriftVerdict { features, reason, .. } = &shown.verdict;
            for feature in features {
                series.value(&[feature, reason.map_or("", VerdictReason::name)], 1u64);
            }
        },
    ),
    gauge(
        "leeway_drift_window_seconds",
        &["model", "version"],
        "Length of this replica's drift window.",
        |shown, series| series.value(&[], shown.reading.window.as_secs_f64()),
    ),
    gauge(
        "leeway_drift_window_rows",
        &["model", "version"],
        "Number of instances in this replica's drift window. A verdict needs at least 100.",
        |shown, series| series.value(&[], shown.reading.rows),
    ),
    gauge(
        "leeway_drift_features",
        &["model", "version", "status"],
        "Number of features and parts of the predictions on this replica, by drift status.",
        |shown, series| {
            for status in DriftStatus::ALL {
                series.value(&[status.name()], shown.reading.with_status(status) as u64);
            }
        },
    ),
    gauge(
        "leeway_drift_psi_adjusted",
        &["model", "version", "of", "measure"],
        "The largest and the mean adjusted stability index on this replica: of all features, and of all parts of the predictions.",
        |shown, series| {
            for (of, side) in [("features", Side::Feature), ("predictions", Side::Prediction)] {
                if let Some(DriftSummary { max, mean }) = shown.reading.summary(side) {
                    series.estimate(&[of, "max"], max);
                    series.estimate(&[of, "mean"], mean);
                }
            }
        },
    ),
];

// ===== impl ShownDrift =====

impl ShownDrift {
    /// Selects all features, or only the `top_features` worst of each side. Among features of the same status, prefers
    /// those in `before`, the features that were shown last. Replaces `before` with the selected features.
    pub(super) fn new(
        reading: DriftReading,
        verdict: DriftVerdict,
        top_features: Option<usize>,
        before: &mut Vec<usize>,
    ) -> ShownDrift {
        let shown = match top_features {
            Some(most) => {
                let of_side = |side: Side| {
                    let all = reading.all().enumerate().filter(|(_, read)| read.feature.side == side);
                    let drifts: Vec<(usize, &Comparison)> = all.map(|(index, read)| (index, read.comparison)).collect();
                    worst(&drifts, before, most)
                };
                let shown = [of_side(Side::Feature), of_side(Side::Prediction)].concat();
                before.clone_from(&shown);
                shown
            }
            None => (0..reading.all().count()).collect(),
        };
        ShownDrift { reading, verdict, shown, has_bins: top_features.is_none() }
    }

    fn of_side(&self, side: Side) -> impl Iterator<Item = ReadFeature<'_>> {
        let shown = self.shown.iter().filter_map(|index| self.reading.get(*index));
        shown.filter(move |read| read.feature.side == side)
    }

    /// Returns the features of a side whose bins are shown.
    fn with_bins(&self, side: Side) -> impl Iterator<Item = ReadFeature<'_>> {
        self.of_side(side).filter(|_| self.has_bins)
    }

    fn write_bins<'a, I: Iterator<Item: Into<Number>>>(
        &'a self,
        series: &mut Series<'_>,
        side: Side,
        values: impl Fn(ReadFeature<'a>) -> I,
    ) {
        for read in self.with_bins(side) {
            for (bin, value) in read.feature.bins.iter().zip(values(read)) {
                series.value(&[read.name(), bin], value);
            }
        }
    }

    fn write_baseline_ratios(&self, series: &mut Series<'_>, side: Side) {
        for read in self.with_bins(side) {
            let reference = &read.feature.reference;
            let bins = read.feature.bins.iter().zip(&reference.counts).zip(read.totals());
            let is_compared = |(role, ((_, before), now)): &(&BinRole, ((&String, &u64), u64))| {
                **role == BinRole::Compared && (**before > 0 || *now > 0)
            };
            let compared = reference.roles.iter().zip(bins).filter(is_compared).map(|(_, (bin, _))| bin);
            let (bins, counts): (Vec<&String>, Vec<u64>) = compared.unzip();
            for (bin, ratio) in bins.into_iter().zip(smoothed(&counts)) {
                series.value(&[read.name(), bin], ratio);
            }
        }
    }

    fn write_baselines(&self, series: &mut Series<'_>, side: Side) {
        for read in self.with_bins(side) {
            let (count, known) = (read.drift().baseline_count, read.feature.summary.as_ref());
            let quantiles = known.into_iter().flat_map(|known| &known.quantiles);
            let quantiles = quantiles.filter_map(|(share, value)| Some((share.parse().ok()?, *value)));
            let sum = known.map_or(0.0, |known| known.mean * count as f64);
            series.summary(&[read.name()], quantiles, sum, count);
        }
    }

    fn write_estimates(&self, series: &mut Series<'_>, side: Side, estimate: fn(&Drift) -> f64) {
        self.of_side(side).for_each(|read| series.estimate(&[read.name()], estimate(read.drift())));
    }

    fn write_divergences(&self, series: &mut Series<'_>, side: Side) {
        for read in self.of_side(side) {
            series.estimate(&[read.name(), "window_from_baseline"], read.drift().kl_window_from_baseline);
            series.estimate(&[read.name(), "baseline_from_window"], read.drift().kl_baseline_from_window);
        }
    }

    fn write_distances(&self, series: &mut Series<'_>, side: Side) {
        for read in self.of_side(side) {
            let Drift { jensen_shannon, kolmogorov_smirnov, wasserstein, .. } = *read.drift();
            let distances = [
                ("jensen_shannon", Some(jensen_shannon)),
                ("kolmogorov_smirnov", kolmogorov_smirnov),
                ("wasserstein", wasserstein),
            ];
            for (measure, distance) in distances {
                if let Some(distance) = distance {
                    series.estimate(&[read.name(), measure], distance);
                }
            }
        }
    }

    fn write_outside(&self, series: &mut Series<'_>, side: Side) {
        for read in self.of_side(side) {
            for share in read.comparison.shares.iter().filter(|share| !share.window_share.is_nan()) {
                series.estimate(&[read.name(), share.of.name()], share.window_share);
            }
        }
    }
}

/// Returns the indexes of the worst drifts, at most `most` of them, in ascending order. Among drifts of the same
/// status, those in `before` are chosen first, because an alert needs a series without gaps.
fn worst(drifts: &[(usize, &Comparison)], before: &[usize], most: usize) -> Vec<usize> {
    let mut seen: Vec<&(usize, &Comparison)> = drifts.iter().filter(|(_, comparison)| comparison.values > 0).collect();
    let rank = |(index, comparison): &(usize, &Comparison)| (comparison.status, before.contains(index));
    seen.sort_by(|one, other| rank(other).cmp(&rank(one)).then_with(|| other.1.size().total_cmp(&one.1.size())));
    let mut worst: Vec<usize> = seen.into_iter().take(most).map(|(index, _)| *index).collect();
    worst.sort_unstable();
    worst
}

#[cfg(test)]
mod tests {
    use super::super::drift::{Reference, judge};
    use super::*;

    #[test]
    fn the_worst_are_shown_and_stay_while_they_are_as_bad() {
        let reference = Reference { roles: vec![BinRole::Compared; 4], counts: vec![250; 4], positions: None };
        let mut drifts: Vec<Comparison> = [
            [500, 500, 500, 500],  // ok
            [100, 200, 700, 1000], // drifted
            [0, 0, 0, 0],          // no values
            [120, 220, 660, 1000], // drifted, less
            [90, 190, 720, 1000],  // drifted, most
            [1, 2, 3, 4],          // too few for a verdict
        ]
        .iter()
        .map(|window| reference.compare(&window[..].into()))
        .collect();
        judge(&mut drifts);
        let seen: Vec<(usize, &Comparison)> = drifts.iter().enumerate().collect();
        assert_eq!(worst(&seen, &[], 2), [1, 4]);
        // A drift that was shown stays while it has the same status as the others. One with a better status does not.
        assert_eq!(worst(&seen, &[3], 2), [3, 4]);
        assert_eq!(worst(&seen, &[0], 2), [1, 4]);
        assert_eq!(worst(&seen, &[], 10), [0, 1, 3, 4, 5]);
        assert_eq!(worst(&seen, &[], 0), [0usize; 0]);
    }
}
