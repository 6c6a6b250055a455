//! Comparisons of two versions that stay valid however often one looks: p-values, and intervals of 95 %.
//!
//! A p-value here is 1/E for an e-process E: if there is no difference, the probability that it is ever below α is at most
//! α (Ville's inequality), at any number of looks. An interval has all values of the difference whose e-process is below 20,
//! so that it excludes 0 exactly if the p-value is below 0.05. See `docs/shadow-and-compare.md`.
//!
//! - *Rates*: of m = x₀ + x₁ events in n₀ and n₁ trials, x₁ belong to the second version with probability
//!   ρπ/(1 − π + ρπ), where π = n₁/(n₀ + n₁) and ρ is the ratio of the rates. E is the mean of the likelihood ratios of
//!   fρ against ρ over the factors f. Conditioning on m makes it valid for any rate, also if it changes.
//! - *Means*: the difference of the means, times its information I = 1/(s₀²/n₀ + s₁²/n₁), is about a Brownian motion in I.
//!   E = √(κ/(I + κ))·exp((ΔI)²/(2(I + κ))), a mixture over normal effects (Robbins, Ann. Math. Stat. 41, 1970). With
//!   estimated variances it is an asymptotic confidence sequence (Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas:
//!   Time-uniform central limit theory and asymptotic confidence sequences, Ann. Stat. 52, 2024).
//! - *Quantiles*: Howard and Ramdas, Sequential estimation of quantiles with applications to A/B testing and best-arm
//!   identification, Bernoulli 28, 2022, Theorem 1.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Evidence at which a difference is decided: 1/0.05.
const DECIDED: f64 = 20.0;

/// Factors of the ratio of rates over which the evidence is averaged, and their inverses.
const FACTORS: [f64; 10] = [1.01, 1.02, 1.05, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0];

/// Smallest number of values of each version for a comparison of means.
const MIN_VALUES: f64 = 30.0;

/// Largest multiple of the present data for which it is computed how many more are needed.
const MAX_MULTIPLE: f64 = 1e6;

/// Difference of a measure between two versions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MeasuredDifference {
    /// The second version's value minus the first one's.
    pub difference: f64,
    /// Lower bound of the interval of 95 %, which is valid at any number of looks; absent if it is not bounded yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lower: Option<f64>,
    /// Upper bound of that interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upper: Option<f64>,
    /// Always-valid p-value of no difference.
    pub p_value: f64,
    /// Number of further observations of both versions together that would decide the observed difference, if it lasts; 0 if
    /// it is decided; absent if that is far away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub more: Option<u64>,
}

/// Number of events, of a number of trials.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rate {
    pub(super) events: f64,
    pub(super) trials: f64,
}

/// Mean and variance of a number of values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Mean {
    pub(super) values: f64,
    pub(super) mean: f64,
    pub(super) variance: f64,
}

// ===== rates =====

impl Rate {
    fn times(self, multiple: f64) -> Rate {
        Rate { events: multiple * self.events, trials: multiple * self.trials }
    }
}

/// Logarithm of the evidence against a ratio of the second rate to the first one.
fn evidence_against(ratio: f64, one: Rate, other: Rate) -> f64 {
    let (all, share) = (one.events + other.events, other.trials / (one.trials + other.trials));
    let weight = |ratio: f64| 1.0 - share + ratio * share;
    let of = |factor: f64| other.events * factor.ln() - all * (weight(factor * ratio) / weight(ratio)).ln();
    log_mean(FACTORS.iter().flat_map(|factor| [of(*factor), of(1.0 / factor)]))
}

/// Logarithm of the mean of exponentials.
fn log_mean(logarithms: impl Iterator<Item = f64> + Clone) -> f64 {
    let most = logarithms.clone().fold(f64::NEG_INFINITY, f64::max);
    let (sum, count) =
        logarithms.fold((0.0, 0.0), |(sum, count), logarithm| (sum + (logarithm - most).exp(), count + 1.0));
    most + f64::ln(sum / count)
}

/// Compares two rates. `None` without trials of both.
pub(super) fn compare_rates(one: Rate, other: Rate) -> Option<MeasuredDifference> {
    /// Largest logarithm of a ratio that is considered.
    const FARTHEST: f64 = 12.0;
    if one.trials <= 0.0 || other.trials <= 0.0 {
        return None;
    }
    let all = one.events + other.events;
    let difference = other.events / other.trials - one.events / one.trials;
    let estimate = ((other.events / other.trials).ln() - (one.events / one.trials).ln()).clamp(-FARTHEST, FARTHEST);
    let is_inside = |log_ratio: f64| evidence_against(log_ratio.exp(), one, other) < DECIDED.ln();
    // The difference of the rates if they have this ratio and the number of events is the observed one.
    let at = |log_ratio: f64| {
        let ratio = log_ratio.exp();
        all / (one.trials + ratio * other.trials) * (ratio - 1.0)
    };
    let bound = |side: f64| {
        let end = side * FARTHEST;
        (all > 0.0 && !is_inside(end)).then(|| at(edge(estimate, end, is_inside)))
    };
    let evidence = |multiple: f64| evidence_against(1.0, one.times(multiple), other.times(multiple));
    Some(MeasuredDifference {
        difference,
        lower: bound(-1.0),
        upper: bound(1.0),
        p_value: (-evidence(1.0)).exp().min(1.0),
        more: more(one.trials + other.trials, |multiple| evidence(multiple) >= DECIDED.ln()),
    })
}

/// Returns the last place between `inside` and `outside` that is inside, by bisection.
fn edge(mut inside: f64, mut outside: f64, is_inside: impl Fn(f64) -> bool) -> f64 {
    for _ in 0..80 {
        let middle = f64::midpoint(inside, outside);
        if is_inside(middle) {
            inside = middle;
        } else {
            outside = middle;
        }
    }
    inside
}

/// Returns the number of observations that are missing at the smallest multiple of the present ones at which a difference is
/// decided.
fn more(present: f64, is_decided: impl Fn(f64) -> bool) -> Option<u64> {
    if is_decided(1.0) {
        return Some(0);
    }
    let mut most = 2.0;
    while !is_decided(most) {
        most *= 2.0;
        if most > MAX_MULTIPLE {
            return None;
        }
    }
    let multiple = edge(most, most / 2.0, &is_decided);
    Some(((multiple - 1.0) * present).ceil() as u64)
}

// ===== means =====

impl Mean {
    /// Returns the mean of values with this sum and this sum of squares.
    pub(super) fn of(values: f64, sum: f64, squares: f64) -> Mean {
        let mean = sum / values;
        let variance = (squares - values * mean * mean).max(0.0) / (values - 1.0);
        Mean { values, mean, variance }
    }
}

/// Compares two means. `None` with too few values, or if all of them are the same.
pub(super) fn compare_means(one: Mean, other: Mean) -> Option<MeasuredDifference> {
    /// Information, in units of the variance of a value, at which the intervals are the narrowest: 250 is that of 500 values
    /// of each version. An eighth of it is the best κ for intervals of 95 % (Waudby-Smith et al., section B.2).
    const BEST: f64 = 250.0 / 8.0;
    let spread = f64::midpoint(one.variance, other.variance);
    if one.values.min(other.values) < MIN_VALUES || spread <= 0.0 || !spread.is_finite() {
        return None;
    }
    let information = 1.0 / (one.variance / one.values + other.variance / other.values);
    let (kappa, difference) = (BEST / spread, other.mean - one.mean);
    let evidence = |multiple: f64| {
        let information = multiple * information;
        0.5 * (kappa / (information + kappa)).ln() + (difference * information).powi(2) / (2.0 * (information + kappa))
    };
    let all = information + kappa;
    let half = (all * (2.0 * DECIDED.ln() + (all / kappa).ln())).sqrt() / information;
    Some(MeasuredDifference {
        difference,
        lower: Some(difference - half),
        upper: Some(difference + half),
        p_value: (-evidence(1.0)).exp().min(1.0),
        more: more(one.values + other.values, |multiple| evidence(multiple) >= DECIDED.ln()),
    })
}

// ===== quantiles =====

/// Compares a quantile of two numbers of values. `one` and `other` return their empirical quantiles. `None` if a number is 0.
pub(super) fn compare_quantiles(
    share: f64,
    (of_one, one): (f64, impl Fn(f64) -> Option<f64>),
    (of_other, other): (f64, impl Fn(f64) -> Option<f64>),
) -> Option<MeasuredDifference> {
    let difference = other(share)? - one(share)?;
    // Each version has half of the errors.
    let bounds = |quantile: &dyn Fn(f64) -> Option<f64>, values: f64, alpha: f64| {
        let radius = quantile_radius(share, values, alpha / 2.0);
        let lower = (share > radius).then(|| quantile(share - radius)).flatten();
        let upper = (share + radius < 1.0).then(|| quantile(share + radius)).flatten();
        (lower, upper)
    };
    let interval = |multiple: f64, alpha: f64| {
        let (one_lower, one_upper) = bounds(&one, multiple * of_one, alpha);
        let (other_lower, other_upper) = bounds(&other, multiple * of_other, alpha);
        let minus = |one: Option<f64>, other: Option<f64>| Some(one? - other?);
        (minus(other_lower, one_upper), minus(other_upper, one_lower))
    };
    let is_decided = |multiple: f64, alpha: f64| {
        let (lower, upper) = interval(multiple, alpha);
        lower.is_some_and(|lower| lower > 0.0) || upper.is_some_and(|upper| upper < 0.0)
    };
    let (lower, upper) = interval(1.0, 1.0 / DECIDED);
    // The smallest α at which the interval excludes 0, from its logarithm.
    let p_value = match is_decided(1.0, 1.0) {
        true => edge(0.0, -100.0, |log_alpha| is_decided(1.0, log_alpha.exp())).exp(),
        false => 1.0,
    };
    let more = more(of_one + of_other, |multiple| is_decided(multiple, 1.0 / DECIDED));
    Some(MeasuredDifference { difference, lower, upper, p_value, more })
}

/// Half the width, in shares, of the confidence sequence of a quantile after this number of values.
fn quantile_radius(share: f64, values: f64, alpha: f64) -> f64 {
    if values < 2.0 {
        return 1.0;
    }
    let l = (1.4 * (2.1 * values).ln().ln() + (10.0 / alpha).ln()) / values;
    1.5 * (share * (1.0 - share) * l).sqrt() + 0.8 * l
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts of two versions, the p-value, the bounds of the difference, and the further trials.
    type ComparedRates = ((f64, f64), (f64, f64), f64, [f64; 2], Option<u64>);

    /// Numbers, means and variances of the values of two versions, the p-value, the bounds of the difference, and the further
    /// values.
    type ComparedMeans = ([f64; 3], [f64; 3], f64, [f64; 2], Option<u64>);

    /// Pseudorandom numbers from 0 to 1, the same in each run.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> f64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
        }

        fn exponential(&mut self) -> f64 {
            -(1.0 - self.next()).ln()
        }
    }

    fn rate((events, trials): (f64, f64)) -> Rate {
        Rate { events, trials }
    }

    fn close(found: f64, expected: f64) -> bool {
        (found - expected).abs() <= 1e-6 * expected.abs().max(1e-6)
    }

    /// Returns the share of sequences in which the difference was ever wrong: one of 0 decided, or the true one outside the
    /// interval.
    fn wrong(sequences: usize, truth: f64, mut sequence: impl FnMut(&mut Random) -> Vec<MeasuredDifference>) -> f64 {
        let mut random = Random(7);
        let is_wrong = |found: &MeasuredDifference| {
            found.lower.is_some_and(|lower| lower > truth)
                || found.upper.is_some_and(|upper| upper < truth)
                || (truth == 0.0 && found.p_value < 0.05)
        };
        let wrong = (0..sequences).filter(|_| sequence(&mut random).iter().any(is_wrong)).count();
        wrong as f64 / sequences as f64
    }

    /// Returns true if a sequence of looks ever excludes the true ratio of two rates.
    fn is_ever_wrong(random: &mut Random, one_rate: f64, other_rate: f64) -> bool {
        let (mut one, mut other) = (rate((0.0, 0.0)), rate((0.0, 0.0)));
        (0..150).any(|_| {
            for _ in 0..40 {
                let (found, its_rate) =
                    if random.next() < 0.2 { (&mut other, other_rate) } else { (&mut one, one_rate) };
                found.trials += 1.0;
                found.events += f64::from(random.next() < its_rate);
            }
            one.trials.min(other.trials) > 0.0 && evidence_against(other_rate / one_rate, one, other) >= DECIDED.ln()
        })
    }

    #[test]
    fn rates_are_wrong_in_few_sequences_however_often_one_looks() {
        const SEQUENCES: usize = 300;
        for (one, other) in [(0.01, 0.01), (0.1, 0.1), (0.4, 0.4), (0.05, 0.08), (0.1, 0.05)] {
            let mut random = Random(7);
            let wrong = (0..SEQUENCES).filter(|_| is_ever_wrong(&mut random, one, other)).count();
            assert!(wrong as f64 <= 0.05 * SEQUENCES as f64, "{one} and {other}: {wrong}");
        }
    }

    #[test]
    fn means_are_wrong_in_few_sequences_however_often_one_looks() {
        for (scale, other_scale) in [(1.0, 1.0), (1.0, 1.2)] {
            let sequence = |random: &mut Random| {
                let mut sums = [[0.0; 3]; 2];
                let looks = (0..150).filter_map(|_| {
                    for _ in 0..40 {
                        let index = usize::from(random.next() < 0.3);
                        let value = random.exponential() * if index == 0 { scale } else { other_scale };
                        for (sum, add) in sums[index].iter_mut().zip([1.0, value, value * value]) {
                            *sum += add;
                        }
                    }
                    let [one, other] = sums.map(|[values, sum, squares]| Mean::of(values, sum, squares));
                    compare_means(one, other)
                });
                looks.collect()
            };
            let wrong = wrong(200, other_scale - scale, sequence);
            assert!(wrong <= 0.05, "{wrong}");
        }
    }

    #[test]
    fn quantiles_are_wrong_in_few_sequences_however_often_one_looks() {
        for share in [0.5, 0.95] {
            let sequence = |random: &mut Random| {
                let mut values = [Vec::<f64>::new(), Vec::new()];
                let looks = (0..20).filter_map(|_| {
                    for _ in 0..100 {
                        let value = random.exponential();
                        values[usize::from(random.next() < 0.5)].push(value);
                    }
                    values.iter_mut().for_each(|values| values.sort_by(f64::total_cmp));
                    let quantile = |values: &Vec<f64>, share: f64| {
                        values.get(((share * values.len() as f64).ceil() as usize).saturating_sub(1)).copied()
                    };
                    let [one, other] = &values;
                    compare_quantiles(
                        share,
                        (one.len() as f64, |share| quantile(one, share)),
                        (other.len() as f64, |share| quantile(other, share)),
                    )
                });
                looks.collect()
            };
            let wrong = wrong(60, 0.0, sequence);
            assert!(wrong <= 0.05, "{share}: {wrong}");
        }
    }

    const RATES: [ComparedRates; 5] = [
        (
            (50.0, 10000.0),
            (100.0, 10000.0),
            0.0030513617332884047,
            [0.0009928298532154462, 0.00853721251889451],
            Some(0),
        ),
        ((5.0, 1000.0), (9.0, 950.0), 1.0, [-0.007141863359328747, 0.012931377251762964], Some(13592)),
        ((31.0, 1000.0), (147.0, 1200.0), 6.276602998012211e-13, [0.05694659619846587, 0.11776498824125495], Some(0)),
        ((980.0, 4000.0), (1010.0, 4000.0), 1.0, [-0.03182634725531625, 0.046764926419382166], Some(221864)),
        (
            (200.0, 40000.0),
            (7.0, 400.0),
            0.20503368491555632,
            [-0.0014036937821638217, 0.04190673482212143],
            Some(18577),
        ),
    ];

    const MEANS: [ComparedMeans; 3] = [
        (
            [400.0, 10.0, 25.0],
            [100.0, 11.0, 36.0],
            0.7965837567933952,
            [-1.0861076979679427, 3.0861076979679427],
            Some(1447),
        ),
        (
            [5000.0, 2.0, 4.0],
            [5000.0, 2.2, 4.4],
            7.045298442302965e-05,
            [0.0670848420731166, 0.33291515792688375],
            Some(0),
        ),
        ([60.0, 0.5, 0.2], [45.0, 0.55, 0.3], 1.0, [-0.3347507664322804, 0.4347507664322805], Some(3998)),
    ];

    const RADII: [(f64, f64, f64, f64); 3] = [
        (0.5, 100.0, 0.025, 0.2832844505779066),
        (0.95, 2000.0, 0.025, 0.025467816561593255),
        (0.99, 1000000.0, 0.05, 0.00045616646787571233),
    ];

    /// The expected numbers are from scipy 1.17: `logsumexp`, `brentq` on the logarithm of the evidence.
    #[test]
    fn rates_are_those_of_scipy() {
        for (one, other, p_value, [lower, upper], more) in RATES {
            let found = compare_rates(rate(one), rate(other)).unwrap();
            assert!(close(found.p_value, p_value), "{found:?}");
            assert!(close(found.lower.unwrap(), lower) && close(found.upper.unwrap(), upper), "{found:?}");
            assert_eq!(found.more, more, "{found:?}");
            assert_eq!(found.p_value < 0.05, found.more == Some(0));
            assert_eq!(found.p_value < 0.05, found.lower.unwrap() > 0.0 || found.upper.unwrap() < 0.0);
        }
    }

    /// The expected numbers are from scipy 1.17.
    #[test]
    fn means_and_quantiles_are_those_of_scipy() {
        for (one, other, p_value, [lower, upper], more) in MEANS {
            let mean = |[values, mean, variance]: [f64; 3]| Mean { values, mean, variance };
            let found = compare_means(mean(one), mean(other)).unwrap();
            assert!(close(found.p_value, p_value), "{found:?}");
            assert!(close(found.lower.unwrap(), lower) && close(found.upper.unwrap(), upper), "{found:?}");
            assert_eq!(found.more, more, "{found:?}");
        }
        for (share, values, alpha, radius) in RADII {
            assert!(close(quantile_radius(share, values, alpha), radius), "{share} {values} {alpha}");
        }
    }

    #[test]
    fn little_data_decides_nothing() {
        assert_eq!(compare_rates(rate((0.0, 0.0)), rate((1.0, 2.0))), None);
        let none = compare_rates(rate((0.0, 100.0)), rate((0.0, 50.0))).unwrap();
        assert_eq!((none.p_value, none.lower, none.upper, none.more), (1.0, None, None, None));
        let few = compare_rates(rate((0.0, 100.0)), rate((2.0, 50.0))).unwrap();
        assert!(few.p_value > 0.05 && few.more.is_some_and(|more| more > 0), "{few:?}");
        assert_eq!(compare_means(Mean::of(29.0, 29.0, 40.0), Mean::of(90.0, 90.0, 400.0)), None);
        assert_eq!(compare_means(Mean::of(50.0, 50.0, 50.0), Mean::of(50.0, 100.0, 200.0)), None);
        let of = |share: f64| Some(share);
        let found = compare_quantiles(0.5, (10.0, of), (10.0, of)).unwrap();
        assert_eq!((found.difference, found.p_value, found.lower, found.more), (0.0, 1.0, None, None));
    }
}
