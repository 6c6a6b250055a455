//! Verdicts on the features of a model, with one rate of false alarms for the model.
//!
//! Every distribution and every share has a test. Of m tests on data without drift, the smallest p-value is about 1/m, so
//! each p-value is compared with the others: with p₍₁₎ ≤ … ≤ p₍ₘ₎,
//!
//! ```text
//! q₍ᵢ₎ = min over j ≥ i of p₍ⱼ₎ · m / j
//! ```
//!
//! (Benjamini and Hochberg, Journal of the Royal Statistical Society B 57, 1995). The verdict requires q ≤
//! [`FALSE_ALARM_RATE`]: without drift, the share of windows in which *any* feature has a verdict worse than
//! `ok` is at most that rate. A verdict also requires that the difference is large enough to matter.

use super::distribution::Drift;
use super::reference::Comparison;
use super::shares::{self, ShareDrift};
use super::status::DriftStatus;

/// Rate of windows of a model without drift that have a false alarm: 1 in 10,000. At one window an hour, a year has
/// 8,760 windows.
pub const FALSE_ALARM_RATE: f64 = 1e-4;
/// Minimum number of values of a feature in a window for a verdict.
pub const MIN_VALUES: u64 = 100;
/// Minimum number of them that must be a part of the distribution, for a verdict on it.
const MIN_COMPARED: u64 = MIN_VALUES / 2;
/// Minimum number of them that must be independent of each other.
pub const MIN_INDEPENDENT: u64 = 20;

/// Minimum number of independent values that a share must have for a verdict.
const MIN_IN_SHARE: u64 = 5;

/// An adjusted PSI above this is drift.
const PSI_DRIFTED: f64 = 0.2;
/// An adjusted PSI above this is a warning.
const PSI_WARNING: f64 = 0.1;
/// A Wasserstein distance above this is a warning: 0.15 standard deviations of the training data.
const WASSERSTEIN_WARNING: f64 = 0.15;
/// A Jensen–Shannon distance of categories above this is a warning: less than that of a category with a tenth of the
/// values that becomes twice as frequent, 0.1.
const JENSEN_SHANNON_WARNING: f64 = 0.08;

/// Sets the q-values and the verdicts of all features of a model.
///
/// ```
/// use leeway::monitor::{BinRole, DriftStatus, Reference, judge};
/// let reference = Reference { roles: vec![BinRole::Compared; 2], counts: vec![500, 500], positions: None };
/// let status = |window: &[u64]| {
///     let mut all = [reference.compare(&window.into())];
///     judge(&mut all);
///     all[0].status
/// };
/// assert_eq!(status(&[5, 15]), DriftStatus::NotEnoughData);
/// assert_eq!(status(&[500, 520]), DriftStatus::Ok);
/// assert_eq!(status(&[450, 50]), DriftStatus::Drifted);
/// ```
pub fn judge(features: &mut [Comparison]) {
    let mut tests: Vec<(f64, &mut f64)> = Vec::new();
    for Comparison { drift, shares, values, independent, .. } in features.iter_mut() {
        if *values >= MIN_VALUES {
            if drift.window_count >= MIN_COMPARED && *values as f64 * *independent >= MIN_INDEPENDENT as f64 {
                tests.push((drift.p_value, &mut drift.q_value));
            }
            tests.extend(shares.iter_mut().map(|share| (share.p_value, &mut share.q_value)));
        }
    }
    tests.retain(|(p, _)| !p.is_nan());
    set_q_values(tests);
    for Comparison { status, drift, shares, values, .. } in features {
        for share in shares.iter_mut().filter(|_| *values >= MIN_VALUES) {
            share.status = of_share(share);
        }
        let of_shares = shares.iter().map(|share| share.status);
        *status = of_shares.chain([drift.status()]).max().unwrap_or(DriftStatus::NotEnoughData);
    }
}

fn set_q_values(mut tests: Vec<(f64, &mut f64)>) {
    tests.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    let count = tests.len() as f64;
    let mut least = 1.0f64;
    for (rank, (p, q)) in tests.iter_mut().enumerate().rev() {
        least = least.min(*p * count / (rank + 1) as f64);
        **q = least;
    }
}

impl Drift {
    /// Returns the verdict on the distribution, once [`judge`] has seen all features of the model.
    pub fn status(&self) -> DriftStatus {
        // Categories have no order, and so no Wasserstein distance.
        let is_moderate = self.psi_adjusted > PSI_WARNING
            || match self.wasserstein {
                None => self.jensen_shannon > JENSEN_SHANNON_WARNING,
                Some(distance) => distance > WASSERSTEIN_WARNING,
            };
        match self.q_value {
            q if q.is_nan() => DriftStatus::NotEnoughData,
            q if q > FALSE_ALARM_RATE => DriftStatus::Ok,
            _ if self.psi_adjusted > PSI_DRIFTED => DriftStatus::Drifted,
            _ if is_moderate => DriftStatus::Warning,
            _ => DriftStatus::Ok,
        }
    }
}

fn of_share(share: &ShareDrift) -> DriftStatus {
    match share.increase() {
        increase if increase.is_nan() => DriftStatus::NotEnoughData,
        // Few values may be from a single caller.
        _ if share.independent_count < MIN_IN_SHARE => DriftStatus::Ok,
        _ if share.q_value.is_nan() || share.q_value > FALSE_ALARM_RATE => DriftStatus::Ok,
        increase if increase >= shares::DRIFTED => DriftStatus::Drifted,
        increase if increase >= shares::WARNING => DriftStatus::Warning,
        _ => DriftStatus::Ok,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BinPositions, BinRole, Reference, Share, WindowCounts};
    use super::*;

    /// Golden values: scipy 1.17, `false_discovery_control(p, method="bh")`.
    #[test]
    fn q_values_are_those_of_benjamini_and_hochberg() {
        let p = [0.04, 0.001, 0.2, 0.012, 0.03, 0.9];
        let mut q = [0.0; 6];
        set_q_values(p.into_iter().zip(&mut q).collect());
        for (found, expected) in q.into_iter().zip([0.06, 0.006, 0.24, 0.036, 0.06, 0.9]) {
            assert!((found - expected).abs() < 1e-12, "{q:?}");
        }
    }

    fn deciles(rows: u64) -> Reference {
        let shares = [Share::Below, Share::Above, Share::Missing, Share::Other].map(BinRole::Share);
        let roles = [&shares[..1], &[BinRole::Compared; 10], &shares[1..]].concat();
        let counts = [&[0][..], &[rows / 10; 10], &[0; 3]].concat();
        let edges: Vec<f64> = (1..10).map(f64::from).collect();
        Reference { roles, counts, positions: Some(BinPositions::new(0.0, &edges, 10.0)) }
    }

    /// Draws the counts of a window: `count` values, of which the first `outside` are in the bin `bin`.
    fn draw(random: &mut fastrand::Rng, count: usize, (bin, outside): (usize, usize)) -> Vec<u64> {
        let mut counts = vec![0; 14];
        counts[bin] += outside as u64;
        (outside..count).for_each(|_| counts[random.usize(1..11)] += 1);
        counts
    }

    fn statuses(mut all: Vec<Comparison>) -> Vec<DriftStatus> {
        judge(&mut all);
        all.iter().map(|feature| feature.status).collect()
    }

    /// Of windows of thirty features without drift, fewer than one in a thousand has an alarm, at any size.
    #[test]
    fn quiet_data_raise_no_alarm() {
        let (mut random, mut alarms) = (fastrand::Rng::with_seed(11), 0);
        for (rows, count) in [(500, 100), (1_000, 500), (10_000, 100), (10_000, 2_000)] {
            for _ in 0..1_000 {
                let compare = |_| {
                    let mut baseline = deciles(rows);
                    let drawn = draw(&mut random, rows as usize, (0, 0));
                    baseline.counts.clone_from(&drawn);
                    baseline.compare(&(&*draw(&mut random, count, (0, 0))).into())
                };
                let found = statuses((0..30).map(compare).collect());
                assert!(!found.contains(&DriftStatus::NotEnoughData) && !found.contains(&DriftStatus::Drifted));
                alarms += usize::from(found.contains(&DriftStatus::Warning));
            }
        }
        assert!(alarms < 4, "{alarms} alarms");
    }

    /// Classes that never occur are no part of the comparison.
    #[test]
    fn bins_that_are_empty_everywhere_change_nothing() {
        let mut random = fastrand::Rng::with_seed(2);
        let mut draw = |count: usize| {
            let mut counts = vec![0; 100];
            (0..count).for_each(|_| counts[random.usize(0..5)] += 1);
            counts
        };
        let reference = Reference { roles: vec![BinRole::Compared; 100], counts: draw(10_000), positions: None };
        for count in [100, 500, 2_000] {
            let window = draw(count);
            let [all, filled] = [100, 5].map(|bins| Drift::between(&reference.counts[..bins], &window[..bins]));
            assert_eq!((all.psi, all.psi_adjusted, all.p_value), (filled.psi, filled.psi_adjusted, filled.p_value));
            assert_eq!(statuses(vec![reference.compare(&window[..].into())]), [DriftStatus::Ok], "{count}");
        }
    }

    /// The verdict on a share does not depend on the number of rows of the training data.
    #[test]
    fn the_verdict_on_a_share_is_the_same_for_any_baseline() {
        let mut random = fastrand::Rng::with_seed(3);
        for rows in [1_000, 10_000, 1_000_000] {
            for (bin, share) in [(0, "below"), (11, "above"), (12, "missing"), (13, "other")] {
                let mut status = |count: usize, outside: usize| {
                    statuses(vec![deciles(rows).compare(&(&*draw(&mut random, count, (bin, outside))).into())])[0]
                };
                assert_eq!(status(1_000, 50), DriftStatus::Drifted, "5% {share}, {rows}");
                assert_eq!(status(2_000, 40), DriftStatus::Warning, "2% {share}, {rows}");
                assert_eq!(status(2_000, 10), DriftStatus::Ok, "0.5% {share}, {rows}");
            }
        }
    }

    /// A client that sends a thousand copies of a row within one of six slices.
    #[test]
    fn a_burst_does_not_last() {
        let (reference, mut random) = (deciles(10_000), fastrand::Rng::with_seed(9));
        let mut slices: Vec<Vec<u64>> = (0..6).map(|_| draw(&mut random, 400, (0, 0))).collect();
        slices[4][3] += 1_000;
        let at_once = WindowCounts::from(WindowCounts::new(slices.clone()).total());
        assert!(reference.compare(&at_once).drift.lasts);
        let found = reference.compare(&WindowCounts::new(slices));
        assert!(!found.drift.lasts && found.independent < 0.05, "{found:?}");
    }

    #[test]
    fn a_window_without_values_has_no_verdict() {
        let found = statuses(vec![
            deciles(1_000).compare(&[0; 14][..].into()),
            Reference::default().compare(&WindowCounts::default()),
        ]);
        assert_eq!(found, [DriftStatus::NotEnoughData; 2]);
    }
}
