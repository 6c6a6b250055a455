//! Drift: the distance of a feature's distribution in a window from its baseline. Pure maths over counts per bin.
//!
//! With baseline counts r_b (N in all), window counts c_b (M in all) and B bins,
//!
//! ```text
//! p_b = (r_b + ½) / (N + B/2)        q_b = (c_b + ½) / (M + B/2)
//! PSI = Σ (q_b − p_b) · ln(q_b / p_b)
//! KL(q‖p) = Σ q_b · ln(q_b / p_b)    KL(p‖q) = Σ p_b · ln(p_b / q_b)    (nats)
//! ```
//!
//! The half that is added to every count (the Jeffreys prior, as in Krichevsky and Trofimov) keeps every value finite
//! and limits the effect of a rare bin. Two samples of the *same* distribution do not have a PSI of 0:
//! PSI / (1/N + 1/M) is asymptotically χ² with B − 1 degrees of freedom (Yurdakul & Naranjo, "Statistical properties of
//! the population stability index", Journal of Risk Model Validation, 2020), so its mean is (B − 1)(1/N + 1/M). The
//! adjusted PSI subtracts this mean. z expresses how improbable the PSI is by chance, by the cube-root approximation of
//! χ² (Wilson & Hilferty, PNAS 17, 1931).

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// Measures of the drift of one feature in a window from its baseline.
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
    /// Number of standard deviations of PSI above its expectation by chance.
    #[serde(deserialize_with = "number_or_null")]
    #[schemars(with = "Option<f64>")]
    pub z: f64,
    /// Number of values in the window: M.
    pub window_count: u64,
    /// Number of values in the baseline: N.
    pub baseline_count: u64,
    /// Number of bins: B. Not in JSON, which lists the bins themselves under this name.
    #[serde(skip)]
    pub bins: usize,
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

/// An adjusted PSI above this is a warning.
const WARNING: f64 = 0.1;
/// An adjusted PSI above this is drift.
const DRIFTED: f64 = 0.2;
/// A z above this is not explained by chance: without drift, 3 in 100,000 windows exceed it.
const SIGNIFICANT: f64 = 4.0;
/// Minimum size of a window, in values and in values per bin.
const MIN_COUNT: u64 = 500;
const MIN_PER_BIN: u64 = 20;

impl Drift {
    /// Returns the drift of a window from the baseline. Both are counts per bin, in the same order.
    ///
    /// ```
    /// use leeway::monitor::Drift;
    /// let drift = Drift::between(&[250, 250, 250, 250], &[100, 200, 300, 400]);
    /// assert!((drift.psi - 0.22716075969344).abs() < 1e-12);
    /// // Without drift the mean is 3 · (1/1000 + 1/1000).
    /// assert!((drift.psi_adjusted - (drift.psi - 0.006)).abs() < 1e-12);
    /// assert!(drift.z > 4.0);
    /// ```
    pub fn between(baseline: &[u64], window: &[u64]) -> Drift {
        let (n, m) = (baseline.iter().sum::<u64>(), window.iter().sum::<u64>());
        let bins = baseline.len();
        if n == 0 || m == 0 {
            return Drift::of_nothing(m, n, bins);
        }
        let p = smoothed(baseline);
        let (mut psi, mut forth, mut back) = (0.0, 0.0, 0.0);
        for (p, q) in p.zip(smoothed(window)) {
            let logarithm = (q / p).ln();
            psi += (q - p) * logarithm;
            forth += q * logarithm;
            back -= p * logarithm;
        }
        let spread = 1.0 / n as f64 + 1.0 / m as f64;
        let freedom = bins.saturating_sub(1) as f64;
        Drift {
            psi,
            psi_adjusted: (psi - freedom * spread).max(0.0),
            kl_window_from_baseline: forth,
            kl_baseline_from_window: back,
            z: wilson_hilferty(psi / spread, freedom),
            window_count: m,
            baseline_count: n,
            bins,
        }
    }

    /// Returns the drift for an empty baseline or window: NaN in metrics, null in JSON.
    fn of_nothing(window_count: u64, baseline_count: u64, bins: usize) -> Drift {
        let (psi, psi_adjusted, z) = (f64::NAN, f64::NAN, f64::NAN);
        let (kl_window_from_baseline, kl_baseline_from_window) = (f64::NAN, f64::NAN);
        Drift {
            psi,
            psi_adjusted,
            kl_window_from_baseline,
            kl_baseline_from_window,
            z,
            window_count,
            baseline_count,
            bins,
        }
    }

    /// Returns the number of values in a window that a verdict needs, for a feature with this number of bins.
    pub fn needed_values(bins: usize) -> u64 {
        MIN_COUNT.max(MIN_PER_BIN * bins as u64)
    }

    /// Returns the verdict. A warning requires a window of sufficient size, a large enough PSI *and* significance.
    ///
    /// ```
    /// use leeway::monitor::{Drift, DriftStatus};
    /// let status = |window: &[u64]| Drift::between(&[500, 500], window).status();
    /// assert_eq!(status(&[50, 150]), DriftStatus::NotEnoughData);
    /// assert_eq!(status(&[500, 520]), DriftStatus::Ok);
    /// assert_eq!(status(&[450, 50]), DriftStatus::Drifted);
    /// ```
    pub fn status(&self) -> DriftStatus {
        if self.window_count < Drift::needed_values(self.bins) {
            return DriftStatus::NotEnoughData;
        }
        match self.psi_adjusted {
            _ if self.z <= SIGNIFICANT => DriftStatus::Ok,
            effect if effect > DRIFTED => DriftStatus::Drifted,
            effect if effect > WARNING => DriftStatus::Warning,
            _ => DriftStatus::Ok,
        }
    }
}

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
fn number_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// The share of each bin, with ½ added to each count: (c_b + ½) / (M + B/2).
pub(super) fn smoothed(counts: &[u64]) -> impl Iterator<Item = f64> {
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

    /// Fewer than one in a thousand windows without drift get a verdict worse than `ok`, if they are large enough for a
    /// verdict.
    #[test]
    fn quiet_data_raise_no_alarm() {
        const WINDOWS: usize = 3_000;
        let mut random = fastrand::Rng::with_seed(11);
        for (bins, rows, count) in [(12, 500, 500), (12, 10_000, 500), (5, 500, 500), (50, 1_000, 1_000)] {
            let alarms = (0..WINDOWS)
                .map(|_| Drift::between(&draw(&mut random, bins, rows), &draw(&mut random, bins, count)).status())
                .inspect(|status| assert_ne!(*status, DriftStatus::NotEnoughData))
                .filter(|status| *status != DriftStatus::Ok)
                .count();
            assert!(alarms * 1_000 < WINDOWS, "{alarms} alarms with {bins} bins, {rows} rows and windows of {count}");
        }
    }

    #[test]
    fn an_empty_window_and_a_single_bin_are_no_drift() {
        for drift in [Drift::between(&[5, 5], &[0, 0]), Drift::between(&[0], &[9]), Drift::between(&[], &[])] {
            assert!(drift.psi.is_nan() && drift.psi_adjusted.is_nan() && drift.z.is_nan(), "{drift:?}");
            assert_eq!(drift.status(), DriftStatus::NotEnoughData);
        }
        let single = Drift::between(&[7], &[900]);
        assert_eq!((single.psi, single.psi_adjusted, single.z, single.status()), (0.0, 0.0, 0.0, DriftStatus::Ok));
    }
}
