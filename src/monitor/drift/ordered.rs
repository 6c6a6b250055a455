//! Measures of a number's distribution that need the order of the bins and their positions.
//!
//! Only counts per bin are known, so values are taken to be spread evenly within their bin. The first bin begins, and
//! the last one ends, at the 1st and the 99th percentile of the training data, so that a few extreme values do not
//! determine the result. With cumulative shares P and Q of baseline and window,
//!
//! ```text
//! KS = max |P − Q| at the edges of the bins
//! W  = ∫ |P(x) − Q(x)| dx / σ         σ: standard deviation of the baseline, from the same bins
//! z  = (R̄ − (N + M + 1)/2) / √Var R̄   R̄: mean rank of the window's values among all, with mid-ranks for ties
//! ```
//!
//! KS is the statistic of Kolmogorov and Smirnov, W the Wasserstein distance (as in Evidently, "normed"), and z the
//! test of Mann and Whitney (Annals of Mathematical Statistics 18, 1947), with the variance corrected for ties.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, Normal};

/// Positions of the bins of a numeric feature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BinPositions {
    /// The bounds of the bins, ascending: one more than there are bins.
    bounds: Vec<f64>,
}

/// Mean, standard deviation and median of a number, estimated from the counts of its bins.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BinSummary {
    /// The mean.
    pub mean: f64,
    /// The standard deviation.
    pub deviation: f64,
    /// The median.
    pub median: f64,
}

// ===== impl BinPositions =====

impl BinPositions {
    /// Creates the positions of bins with these inner edges, ascending, between `first` and `last`. An edge beyond one
    /// of them makes a bin without width.
    pub fn new(first: f64, edges: &[f64], last: f64) -> BinPositions {
        let inner = edges.iter().map(|edge| edge.clamp(first, last.max(first)));
        BinPositions { bounds: [first].into_iter().chain(inner).chain([last.max(first)]).collect() }
    }

    /// The largest difference of the cumulative shares at the edges of the bins, 0 to 1.
    pub fn kolmogorov_smirnov(&self, baseline: &[u64], window: &[u64]) -> f64 {
        differences(baseline, window).map(|(_, at_end)| at_end.abs()).fold(0.0, f64::max)
    }

    /// The Wasserstein distance in standard deviations of the baseline; `None` if all bins are at one point.
    ///
    /// ```
    /// use leeway::monitor::BinPositions;
    /// // Everything has moved from the first bin of width 1 to the second: by 1. The deviation is 1 / √12.
    /// let at = BinPositions::new(0.0, &[1.0], 2.0);
    /// assert!((at.wasserstein(&[10, 0], &[0, 10]).unwrap() - 12f64.sqrt()).abs() < 1e-12);
    /// ```
    pub fn wasserstein(&self, baseline: &[u64], window: &[u64]) -> Option<f64> {
        let widths = self.bounds.windows(2).map(|bounds| bounds[1] - bounds[0]);
        let area = |((before, after), width): ((f64, f64), f64)| {
            let (before_size, after_size) = (before.abs(), after.abs());
            width
                * match before * after < 0.0 {
                    // The cumulative shares cross within the bin.
                    true => (before_size.powi(2) + after_size.powi(2)) / (2.0 * (before_size + after_size)),
                    false => (before_size + after_size) / 2.0,
                }
        };
        let deviation = self.summary(baseline).deviation;
        let distance: f64 = differences(baseline, window).zip(widths).map(area).sum();
        (deviation > 0.0).then(|| distance / deviation)
    }

    /// Mean, deviation and median of values with these counts, which must not all be 0.
    pub fn summary(&self, counts: &[u64]) -> BinSummary {
        let all = counts.iter().sum::<u64>() as f64;
        let bins = || counts.iter().map(|count| *count as f64 / all).zip(self.bounds.windows(2));
        let mean: f64 = bins().map(|(share, bounds)| share * (bounds[0] + bounds[1]) / 2.0).sum();
        // The second moment of a uniform distribution between a and b about m is ((a − m)² + (a − m)(b − m) + (b − m)²) / 3.
        let square = |(share, bounds): (f64, &[f64])| {
            let (a, b) = (bounds[0] - mean, bounds[1] - mean);
            share * (a * a + a * b + b * b) / 3.0
        };
        let deviation = bins().map(square).sum::<f64>().sqrt();
        let (mut median, mut below) = (mean, 0.0);
        for (share, bounds) in bins() {
            if share > 0.0 && below + share >= 0.5 {
                median = bounds[0] + (bounds[1] - bounds[0]) * (0.5 - below) / share;
                break;
            }
            below += share;
        }
        BinSummary { mean, deviation, median }
    }
}

/// Returns the difference of the cumulative shares, window minus baseline, at the start and at the end of each bin.
fn differences(baseline: &[u64], window: &[u64]) -> impl Iterator<Item = (f64, f64)> {
    let (n, m) = (baseline.iter().sum::<u64>() as f64, window.iter().sum::<u64>() as f64);
    baseline.iter().zip(window).scan((0, 0), move |(before, now), (of_baseline, of_window)| {
        let difference = |before: u64, now: u64| now as f64 / m - before as f64 / n;
        let start = difference(*before, *now);
        (*before, *now) = (*before + of_baseline, *now + of_window);
        Some((start, difference(*before, *now)))
    })
}

/// Returns the standard normal deviate of the mean rank of the window's values among those of both samples. Positive if
/// the window's values are larger. `independent` is the share of them that counts as independent.
pub(super) fn rank_deviate(baseline: &[u64], window: &[u64], independent: f64) -> f64 {
    let n = baseline.iter().sum::<u64>() as f64;
    let m = window.iter().sum::<u64>() as f64 * independent;
    let all = n + m;
    let (mut below, mut rank, mut squares) = (0.0, 0.0, 0.0);
    for (before, now) in baseline.iter().zip(window) {
        let now = *now as f64 * independent;
        let count = *before as f64 + now;
        // The mid-rank of the bin, from the middle of all ranks.
        let middle = below + count / 2.0 - all / 2.0;
        rank += now * middle;
        squares += count * middle * middle;
        below += count;
    }
    let variance = squares / all / m * n / (all - 1.0).max(1.0);
    if variance > 0.0 { rank / m / variance.sqrt() } else { 0.0 }
}

/// Returns the probability that a standard normal deviate is as far from 0 as `z`, on either side.
pub(super) fn both_sides(z: f64) -> f64 {
    2.0 * Normal::standard().sf(z.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Golden values: scipy 1.17, `mannwhitneyu(method="asymptotic", use_continuity=False)` of the bins' numbers,
    /// `ks_2samp`, and numpy's numerical integral of the difference of the piecewise linear distributions.
    #[test]
    fn the_measures_are_those_of_scipy() {
        let (baseline, window) = ([100, 100, 100, 100, 100], [10, 30, 55, 70, 135]);
        let at = BinPositions::new(-2.0, &[-1.0, 0.0, 0.5, 2.0], 5.0);
        let close = |found: f64, expected: f64| {
            assert!((found / expected - 1.0).abs() < 1e-9, "{found}, expected {expected}");
        };
        close(both_sides(rank_deviate(&baseline, &window, 1.0)), P_OF_RANKS);
        close(at.kolmogorov_smirnov(&baseline, &window), KS);
        close(at.wasserstein(&baseline, &window).unwrap(), W);
        let BinSummary { mean, deviation, median } = at.summary(&window);
        close(mean, SUMMARY[0]);
        close(deviation, SUMMARY[1]);
        close(median, SUMMARY[2]);
    }

    #[test]
    fn dependent_values_are_less_evidence() {
        let (baseline, window) = ([100, 100, 100], [60, 100, 140]);
        let all = rank_deviate(&baseline, &window, 1.0);
        assert!(all > 4.0 && rank_deviate(&baseline, &window, 0.1) < 2.0, "{all}");
        // A tenth of the values at the same shares is the same evidence.
        let tenth = rank_deviate(&baseline, &[6, 10, 14], 1.0);
        assert!((rank_deviate(&baseline, &window, 0.1) - tenth).abs() < 1e-12);
    }

    #[test]
    fn a_constant_has_no_distance() {
        let at = BinPositions::new(7.0, &[], 7.0);
        assert_eq!((at.wasserstein(&[10], &[20]), at.kolmogorov_smirnov(&[10], &[20])), (None, 0.0));
        assert_eq!((at.summary(&[3]).mean, rank_deviate(&[10], &[20], 1.0)), (7.0, 0.0));
    }

    const P_OF_RANKS: f64 = 5.532359091642805e-21;
    const KS: f64 = 0.283_333_333_333_333_3;
    const W: f64 = 0.684_253_335_679_509_1;
    const SUMMARY: [f64; 3] = [1.8125, 1.760_558_426_244_986_3, 1.678_571_428_571_428_4];
}
