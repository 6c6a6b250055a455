//! Shares of the values of a feature that its distribution does not have: missing, unknown, or out of range.
//!
//! The share in the window, k of M values, is compared with that of the training data, r of N values, by Fisher's exact
//! test (one-sided; Fisher, Journal of the Royal Statistical Society 98, 1935): if both are alike, the number of values
//! in the window is distributed as hypergeometric,
//!
//! ```text
//! p = P(K ≥ k) = Σ_{j ≥ k} C(M, j) · C(N, r + k − j) / C(N + M, r + k)
//! ```
//!
//! For values beyond the range of the training data, r is 0, and this is the distribution of exceedances (Gumbel and
//! von Schelling, Annals of Mathematical Statistics 21, 1950), whatever the distribution of the feature.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use statrs::function::factorial::ln_binomial;

use super::status::{DriftStatus, number_or_null};

/// Kind of the values that a distribution does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Share {
    /// Numbers below the smallest one of the training data.
    Below,
    /// Numbers above the largest one of the training data.
    Above,
    /// Instances without a value.
    Missing,
    /// Texts that no bin of the baseline is for, and infinite numbers.
    Other,
}

/// Share of some values in the training data and in a window.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ShareDrift {
    /// The kind of the values.
    pub of: Share,
    /// Verdict on an increase of the share.
    pub status: DriftStatus,
    /// True unless the increase is in only a part of the window.
    pub lasts: bool,
    /// Share in the training data, 0 to 1.
    #[serde(deserialize_with = "number_or_null")]
    #[schemars(with = "Option<f64>")]
    pub baseline_share: f64,
    /// Share in the window, 0 to 1.
    #[serde(deserialize_with = "number_or_null")]
    #[schemars(with = "Option<f64>")]
    pub window_share: f64,
    /// Number of values in the share that count as independent of each other.
    pub independent_count: u64,
    /// Probability of a share as large by chance, if nothing has changed.
    #[serde(deserialize_with = "number_or_null")]
    #[schemars(with = "Option<f64>")]
    pub p_value: f64,
    /// The smallest rate of false alarms of the whole model at which this share would be an alarm.
    #[serde(deserialize_with = "number_or_null")]
    #[schemars(with = "Option<f64>")]
    pub q_value: f64,
}

/// An increase of a share by this much, in percentage points / 100, is a warning.
pub(super) const WARNING: f64 = 0.01;
/// An increase of a share by this much is drift.
pub(super) const DRIFTED: f64 = 0.03;

// ===== impl Share =====

impl Share {
    /// Name of the kind in metrics and in JSON. It is also the name of the bin.
    pub fn name(self) -> &'static str {
        match self {
            Share::Below => "below",
            Share::Above => "above",
            Share::Missing => "missing",
            Share::Other => "other",
        }
    }
}

// ===== impl ShareDrift =====

impl ShareDrift {
    /// Compares k of M values of a window with r of N values of the training data. `independent` is the share of the
    /// window's values that count as independent of each other.
    ///
    /// ```
    /// use leeway::monitor::{Share, ShareDrift};
    /// let share = ShareDrift::between(Share::Missing, (0, 10_000), (5, 500), 1.0);
    /// // scipy.stats.hypergeom.sf(4, 10500, 5, 500)
    /// assert!((share.p_value / 2.4021777e-7 - 1.0).abs() < 1e-6, "{}", share.p_value);
    /// ```
    pub fn between(of: Share, (before, n): (u64, u64), (now, m): (u64, u64), independent: f64) -> ShareDrift {
        let share = |count: u64, all: u64| if all == 0 { f64::NAN } else { count as f64 / all as f64 };
        let independent_of = |count: u64| (count as f64 * independent).round() as u64;
        let (baseline_share, window_share) = (share(before, n), share(now, m));
        let p_value = match window_share > baseline_share {
            true => upper_tail((before, n), (independent_of(now), independent_of(m))),
            false => 1.0,
        };
        ShareDrift {
            of,
            independent_count: independent_of(now),
            status: DriftStatus::NotEnoughData,
            lasts: true,
            baseline_share,
            window_share,
            p_value,
            q_value: f64::NAN,
        }
    }

    /// The increase of the share: 0.02 for two percentage points.
    pub fn increase(&self) -> f64 {
        self.window_share - self.baseline_share
    }
}

/// Returns P(K ≥ k) for Fisher's exact test of k of `m` values against r of `n`.
fn upper_tail((r, n): (u64, u64), (k, m): (u64, u64)) -> f64 {
    let successes = r + k;
    let most = m.min(successes);
    let mut term = (ln_binomial(m, k) + ln_binomial(n, r) - ln_binomial(n + m, successes)).exp();
    let mut tail = term;
    // Each term follows from the one before: C(m, j+1) · C(n, s−j−1) ÷ C(m, j) ÷ C(n, s−j).
    for j in k..most {
        term *= (m - j) as f64 * (successes - j) as f64 / ((j + 1) as f64 * (n + j + 1 - successes) as f64);
        tail += term;
        if term < tail * 1e-17 {
            break;
        }
    }
    tail.min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Golden values: `scipy.stats.hypergeom.sf(k - 1, N + M, r + k, M)` of scipy 1.17.
    #[test]
    fn the_probability_is_that_of_fishers_exact_test() {
        for Golden { baseline, window, p } in GOLDEN {
            let found = upper_tail(baseline, window);
            // The logarithms of binomials of large numbers have 16 digits in all.
            let precision = if baseline.1 > 100_000 { 1e-8 } else { 1e-9 };
            assert!((found / p - 1.0).abs() < precision, "{baseline:?} {window:?}: {found}, expected {p}");
        }
    }

    /// The share of quiet windows with a small p is that p: the test is exact for any distribution.
    #[test]
    fn values_beyond_the_range_are_as_frequent_as_expected() {
        let mut random = fastrand::Rng::with_seed(5);
        let (mut alarms, windows) = (0, 40_000);
        for _ in 0..windows {
            let largest = (0..500).map(|_| random.f64()).fold(0.0, f64::max);
            let above = (0..500).filter(|_| random.f64() > largest).count() as u64;
            alarms += u64::from(upper_tail((0, 500), (above, 500)) <= 1.0 / 64.0);
        }
        // P(K ≥ 6) is close to 2⁻⁶, and the next possible value is twice that.
        let rate = alarms as f64 / f64::from(windows);
        assert!((0.8..1.2).contains(&(rate * 64.0)), "{rate}");
    }

    /// The probability of the values of a window, as counts of all values, against those of the baseline.
    struct Golden {
        baseline: (u64, u64),
        window: (u64, u64),
        p: f64,
    }

    const GOLDEN: [Golden; 6] = [
        Golden { baseline: (0, 10_000), window: (5, 500), p: 2.4021777248570434e-7 },
        Golden { baseline: (0, 500), window: (16, 500), p: 1.3507720160756695e-5 },
        Golden { baseline: (80, 10_000), window: (25, 500), p: 1.3508258389983691e-11 },
        Golden { baseline: (2, 244), window: (100, 2_000), p: 5.883244369752203e-4 },
        Golden { baseline: (10_000, 1_000_000), window: (5_600, 500_000), p: 5.980326584845597e-12 },
        Golden { baseline: (3, 100), window: (1, 20), p: 0.5226499987217834 },
    ];
}
