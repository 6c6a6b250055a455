//! Distance of a feature's distribution in a window from that of the training data.
//!
//! With baseline counts r_b (N in all), window counts c_b (M in all) and B bins that have a value in either of them,
//!
//! ```text
//! p_b = (r_b + ½) / (N + B/2)        q_b = (c_b + ½) / (M + B/2)
//! PSI = Σ (q_b − p_b) · ln(q_b / p_b)
//! KL(q‖p) = Σ q_b · ln(q_b / p_b)    KL(p‖q) = Σ p_b · ln(p_b / q_b)    (nats)
//! JS = √(½ Σ p_b · ln(p_b / m_b) + ½ Σ q_b · ln(q_b / m_b)),  m_b = ½ (p_b + q_b)
//! ```
//!
//! The half that is added to every count (the Jeffreys prior, as in Krichevsky and Trofimov) keeps every value finite
//! and limits the effect of a rare bin. Two samples of the *same* distribution do not have a PSI of 0:
//! k = PSI / (1/N + 1/M) is asymptotically χ² with B − 1 degrees of freedom (Yurdakul & Naranjo, "Statistical properties
//! of the population stability index", Journal of Risk Model Validation, 2020), so the mean of PSI is (B − 1)(1/N + 1/M).
//! The adjusted PSI subtracts this mean. z
//! expresses how improbable the PSI is by chance, by the cube-root approximation of χ² (Wilson & Hilferty, PNAS 17,
//! 1931). If the values of a window depend on each other, M in 1/M is the number of independent values.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use statrs::distribution::{ChiSquared, ContinuousCDF};

use super::ordered::{BinPositions, BinSummary, both_sides, rank_deviate};
use super::status::number_or_null;

/// Distances of the distribution of one feature in a window from its baseline.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Drift {
    /// Population stability index.
    #[serde(deserialize_with = "number_or_null")]
    #[schemars(with = "Option<f64>")]
    pub psi: f64,
    /// PSI minus its expected value by chance alone; at least 0.
    #[serde(deserialize_with = "number_or_null")]
    #[schemars(with = "Option<f64>")]
    pub psi_adjusted: f64,
    /// KL(q‖p): of the window from the baseline, in nats.
    #[serde(deserialize_with = "number_or_null")]
    #[schemars(with = "Option<f64>")]
    pub kl_window_from_baseline: f64,
    /// KL(p‖q): of the baseline from the window, in nats.
    #[serde(deserialize_with = "number_or_null")]
    #[schemars(with = "Option<f64>")]
    pub kl_baseline_from_window: f64,
    /// Jensen–Shannon distance: the root of the divergence in nats, 0 to 0.83.
    #[serde(deserialize_with = "number_or_null")]
    #[schemars(with = "Option<f64>")]
    pub jensen_shannon: f64,
    /// Kolmogorov–Smirnov statistic at the edges of the bins: the largest difference of the cumulative shares, 0 to 1.
    /// Only of numbers with a known range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kolmogorov_smirnov: Option<f64>,
    /// Wasserstein distance between the bins, in standard deviations of the baseline. Only of numbers with a known
    /// range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wasserstein: Option<f64>,
    /// Mean, deviation and median of the baseline, estimated from its bins. Only of numbers with a known range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline_summary: Option<BinSummary>,
    /// Mean, deviation and median of the window, estimated from its bins. Only of numbers with a known range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_summary: Option<BinSummary>,
    /// Number of standard deviations of PSI above its expectation by chance.
    #[serde(deserialize_with = "number_or_null")]
    #[schemars(with = "Option<f64>")]
    pub z: f64,
    /// Probability of a difference as large by chance, if nothing has changed: that of PSI, and for numbers also that
    /// of the mean rank (twice the smaller one).
    #[serde(deserialize_with = "number_or_null")]
    #[schemars(with = "Option<f64>")]
    pub p_value: f64,
    /// The smallest rate of false alarms of the whole model at which this difference would be an alarm.
    #[serde(deserialize_with = "number_or_null")]
    #[schemars(with = "Option<f64>")]
    pub q_value: f64,
    /// True unless the difference is in only a part of the window.
    pub lasts: bool,
    /// Number of compared values in the window: M.
    pub window_count: u64,
    /// Number of compared values in the baseline: N.
    pub baseline_count: u64,
    /// Number of the window's values that count as independent of each other.
    pub independent_count: u64,
    /// Number of compared bins: B. Not in JSON, which lists the bins themselves under this name.
    #[serde(skip)]
    pub bins: usize,
}

impl Drift {
    /// Returns the drift of a window from the baseline. Both are counts per bin, in the same order.
    ///
    /// ```
    /// use leeway::monitor::Drift;
    /// let drift = Drift::between(&[250, 250, 250, 250], &[100, 200, 300, 400]);
    /// assert!((drift.psi - 0.22716075969344).abs() < 1e-12);
    /// // Without drift the mean is 3 · (1/1000 + 1/1000).
    /// assert!((drift.psi_adjusted - (drift.psi - 0.006)).abs() < 1e-12);
    /// assert!(drift.z > 4.0 && drift.p_value < 1e-20);
    /// ```
    pub fn between(baseline: &[u64], window: &[u64]) -> Drift {
        Drift::between_dependent(baseline, window, 1.0)
    }

    /// Returns the drift of a window, of whose values only the share `independent` counts as independent of each other.
    pub fn between_dependent(baseline: &[u64], window: &[u64], independent: f64) -> Drift {
        let filled = filled_bins(baseline, window);
        let (baseline, window) = (of_bins(baseline, &filled), of_bins(window, &filled));
        let (n, m) = (baseline.iter().sum::<u64>(), window.iter().sum::<u64>());
        let independent_count = m as f64 * independent;
        let mut drift = Drift {
            window_count: m,
            baseline_count: n,
            independent_count: independent_count.round() as u64,
            bins: filled.len(),
            ..Drift::UNKNOWN
        };
        if n == 0 || m == 0 {
            return drift;
        }
        let (mut psi, mut forth, mut back, mut to_middle) = (0.0, 0.0, 0.0, 0.0);
        for (p, q) in smoothed(&baseline).zip(smoothed(&window)) {
            let logarithm = (q / p).ln();
            psi += (q - p) * logarithm;
            forth += q * logarithm;
            back -= p * logarithm;
            let middle = (p + q) / 2.0;
            to_middle += (p * (p / middle).ln() + q * (q / middle).ln()) / 2.0;
        }
        let spread = 1.0 / n as f64 + 1.0 / independent_count;
        let freedom = filled.len().saturating_sub(1) as f64;
        drift.psi = psi;
        drift.psi_adjusted = (psi - freedom * spread).max(0.0);
        drift.kl_window_from_baseline = forth;
        drift.kl_baseline_from_window = back;
        drift.jensen_shannon = to_middle.max(0.0).sqrt();
        drift.z = wilson_hilferty(psi / spread, freedom);
        drift.p_value = ChiSquared::new(freedom).map_or(1.0, |chi_squared| chi_squared.sf(psi / spread));
        drift
    }

    /// Adds the measures of a feature whose bins have an order.
    pub(super) fn add_ordered(&mut self, at: &BinPositions, baseline: &[u64], window: &[u64], independent: f64) {
        if self.psi.is_nan() {
            return;
        }
        self.kolmogorov_smirnov = Some(at.kolmogorov_smirnov(baseline, window));
        self.wasserstein = at.wasserstein(baseline, window);
        self.baseline_summary = Some(at.summary(baseline));
        self.window_summary = Some(at.summary(window));
        let of_ranks = both_sides(rank_deviate(baseline, window, independent));
        self.p_value = (2.0 * self.p_value.min(of_ranks)).min(1.0);
    }

    /// The drift for an empty baseline or window: NaN in metrics, null in JSON.
    const UNKNOWN: Drift = Drift {
        psi: f64::NAN,
        psi_adjusted: f64::NAN,
        kl_window_from_baseline: f64::NAN,
        kl_baseline_from_window: f64::NAN,
        jensen_shannon: f64::NAN,
        kolmogorov_smirnov: None,
        wasserstein: None,
        baseline_summary: None,
        window_summary: None,
        z: f64::NAN,
        p_value: f64::NAN,
        q_value: f64::NAN,
        lasts: true,
        window_count: 0,
        baseline_count: 0,
        independent_count: 0,
        bins: 0,
    };
}

/// Direction of the difference of a window from its baseline: the weight of each bin, ln(q_b / p_b).
pub(super) struct Direction {
    baseline: Vec<f64>,
    weights: Vec<f64>,
}

pub(super) fn direction(baseline: &[u64], window: &[u64]) -> Direction {
    let filled = filled_bins(baseline, window);
    let (mut shares, mut weights) = (vec![0.0; baseline.len()], vec![0.0; baseline.len()]);
    let (before, now) = (of_bins(baseline, &filled), of_bins(window, &filled));
    for (bin, (p, q)) in filled.into_iter().zip(smoothed(&before).zip(smoothed(&now))) {
        (shares[bin], weights[bin]) = (p, (q / p).ln());
    }
    Direction { baseline: shares, weights }
}

impl Direction {
    /// Returns the difference of a part of the window in this direction, Σ (c_b/M − p_b) · ln(q_b / p_b). That of the
    /// whole window is its PSI, without the half that is added to its counts.
    pub(super) fn of(&self, part: &[f64]) -> f64 {
        let values = part.iter().sum::<f64>().max(1.0);
        let bins = self.baseline.iter().zip(&self.weights).zip(part);
        bins.map(|((p, weight), count)| (count / values - p) * weight).sum()
    }
}

/// Returns the bins with a value in either sample. The others have no part in a comparison.
fn filled_bins(baseline: &[u64], window: &[u64]) -> Vec<usize> {
    let bins = baseline.iter().zip(window).enumerate();
    bins.filter(|(_, (before, now))| **before > 0 || **now > 0).map(|(bin, _)| bin).collect()
}

fn of_bins(counts: &[u64], bins: &[usize]) -> Vec<u64> {
    bins.iter().map(|bin| counts[*bin]).collect()
}

/// The share of each bin, with ½ added to each count: (c_b + ½) / (M + B/2).
pub(in crate::monitor) fn smoothed(counts: &[u64]) -> impl Iterator<Item = f64> {
    let all = counts.iter().sum::<u64>() as f64 + counts.len() as f64 / 2.0;
    counts.iter().map(move |count| (*count as f64 + 0.5) / all)
}

/// Returns the standard normal deviate that is as improbable as the value `k` of χ² with `freedom` degrees of freedom.
fn wilson_hilferty(k: f64, freedom: f64) -> f64 {
    if freedom == 0.0 {
        return 0.0;
    }
    let variance = 2.0 / (9.0 * freedom);
    ((k / freedom).cbrt() - (1.0 - variance)) / variance.sqrt()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn golden() -> Value {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/drift_golden.json");
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    fn counts(value: &Value) -> Vec<u64> {
        value.as_array().unwrap().iter().map(|count| count.as_u64().unwrap()).collect()
    }

    /// PSI and KL without the added half, as the other tools define them.
    fn plain(baseline: &[u64], window: &[u64]) -> (f64, f64, f64) {
        let share = |counts: &[u64]| -> Vec<f64> {
            counts.iter().map(|count| *count as f64 / counts.iter().sum::<u64>() as f64).collect()
        };
        let (p, q) = (share(baseline), share(window));
        let sum = |term: fn(f64, f64) -> f64| p.iter().zip(&q).map(|(p, q)| term(*p, *q)).sum();
        (sum(|p, q| (q - p) * (q / p).ln()), sum(|p, q| p * (p / q).ln()), sum(|p, q| q * (q / p).ln()))
    }

    /// Golden values: the results of Evidently and deepchecks, and of the definition with the added half.
    #[test]
    fn psi_and_kl_are_those_of_other_tools() {
        let golden = golden();
        let mut without_empty_bins = 0;
        for case in golden["cases"].as_array().unwrap() {
            let (baseline, window) = (counts(&case["reference"]), counts(&case["current"]));
            let drift = Drift::between(&baseline, &window);
            assert!((drift.psi - case["psi_half"].as_f64().unwrap()).abs() < 1e-9, "{case}");
            // PSI is the sum of both divergences (Kullback & Leibler's J).
            let both = drift.kl_window_from_baseline + drift.kl_baseline_from_window;
            assert!((drift.psi - both).abs() < 1e-12, "{case}");
            if baseline.iter().chain(&window).all(|count| *count > 0) {
                without_empty_bins += 1;
                let (psi, from_window, from_baseline) = plain(&baseline, &window);
                assert!((psi - case["psi_evidently"].as_f64().unwrap()).abs() < 1e-12, "{case}");
                assert!((psi - case["psi_deepchecks"].as_f64().unwrap()).abs() < 1e-12, "{case}");
                assert!((from_window - case["kl_ref_cur_evidently"].as_f64().unwrap()).abs() < 1e-12, "{case}");
                assert!((from_baseline - case["kl_cur_ref"].as_f64().unwrap()).abs() < 1e-12, "{case}");
                // The effect of the half vanishes as the counts grow, with the same shares.
                let many = |counts: &[u64]| counts.iter().map(|count| count * 1_000_000_000).collect::<Vec<u64>>();
                let drift = Drift::between(&many(&baseline), &many(&window));
                assert!((drift.psi - psi).abs() < 1e-9);
                assert!((drift.kl_baseline_from_window - from_window).abs() < 1e-9);
                assert!((drift.kl_window_from_baseline - from_baseline).abs() < 1e-9);
            }
        }
        assert_eq!(without_empty_bins, 3);
    }

    /// Values of the table of χ² in Abramowitz & Stegun (26.8): with 10 degrees of freedom, χ² exceeds 23.209 in 1 of
    /// 100 cases.
    #[test]
    fn z_is_the_deviate_of_chi_square() {
        for (k, freedom, z) in [(23.209, 10.0, 2.326), (18.307, 10.0, 1.645), (37.566, 20.0, 2.326), (9.342, 10.0, 0.0)]
        {
            assert!((wilson_hilferty(k, freedom) - z).abs() < 0.01, "{k} {freedom}: {}", wilson_hilferty(k, freedom));
        }
    }

    /// Counts per bin of `count` values drawn uniformly over the bins.
    fn draw(random: &mut fastrand::Rng, bins: usize, count: usize) -> Vec<u64> {
        let mut counts = vec![0; bins];
        (0..count).for_each(|_| counts[random.usize(0..bins)] += 1);
        counts
    }

    /// Without drift, the mean of PSI is close to that of published simulations and to that of the formula.
    #[test]
    fn chance_alone_makes_as_much_of_psi_as_the_formula_says() {
        let mut random = fastrand::Rng::with_seed(7);
        for case in golden()["bias"].as_array().unwrap() {
            let number = |key: &str| case[key].as_u64().unwrap() as usize;
            let (bins, rows, count) = (number("bins"), number("reference_n"), number("current_n"));
            // A large window is reused for many baselines, because chance hardly affects it.
            let baselines_each = if count > 100_000 { 500 } else { 1 };
            let windows = 4_000 / baselines_each;
            let (mut psi, mut adjusted) = (0.0, 0.0);
            for _ in 0..windows {
                let window = draw(&mut random, bins, count);
                for _ in 0..baselines_each {
                    let drift = Drift::between(&draw(&mut random, bins, rows), &window);
                    psi += drift.psi / (windows * baselines_each) as f64;
                    adjusted += (drift.psi - drift.psi_adjusted) / (windows * baselines_each) as f64;
                }
            }
            let close = |to: &str, least: f64, most: f64| {
                let ratio = psi / case[to].as_f64().unwrap();
                assert!((least..most).contains(&ratio), "{psi} is {ratio} of {to}: {case}");
            };
            // The half, which the simulations do not add, and bins with few values make PSI slightly smaller.
            close("mean_psi_simulated", 0.94, 1.04);
            close("formula", 0.92, 1.04);
            assert!(adjusted <= case["formula"].as_f64().unwrap() * 1.001, "{adjusted}: {case}");
        }
    }

    #[test]
    fn an_empty_window_and_a_single_bin_are_no_drift() {
        for drift in [Drift::between(&[5, 5], &[0, 0]), Drift::between(&[0], &[9]), Drift::between(&[], &[])] {
            assert!(drift.psi.is_nan() && drift.psi_adjusted.is_nan() && drift.z.is_nan(), "{drift:?}");
        }
        let single = Drift::between(&[7], &[900]);
        assert_eq!((single.psi, single.psi_adjusted, single.z, single.p_value), (0.0, 0.0, 0.0, 1.0));
    }
}
