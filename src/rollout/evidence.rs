//! Evidence on a new version, from counts of events in windows. Pure.
//!
//! Each guardrail counts *events* among *trials*: failed requests among requests, wrong predictions among labels. The
//! evidence is an e-process: the capital of a gambler who starts with 1 and bets against a hypothesis, at odds that are
//! fair if it is true. If the hypothesis is true, the capital ever reaches c with a probability of at most 1/c (Ville's
//! inequality), so it may be looked at as often as one likes (Ramdas et al., "Game-theoretic statistics and safe
//! anytime-valid inference", Statistical Science 38, 2023).
//!
//! **Compared with the stable version.** In a window, the stable version has n₀ trials with x₀ events, and the new version
//! has n₁ trials with x₁ events; m = x₀ + x₁ and π = n₁/(n₀ + n₁). Given m, the share of the new version's events depends
//! only on the ratio r of the rates, so neither a changing rate of both nor a changing traffic split is taken for a
//! difference. The bet on the ratio r against r₀ multiplies the capital by
//!
//! ```text
//! exp(ℓ),   ℓ = x₁·ln(r/r₀) − m·ln[(1 − π + rπ)/(1 − π + r₀π)]
//! ```
//!
//! and the evidence is the mean of the capitals over several r: above r₀ = 1 for "worse", below r₀ = the margin for "not
//! worse".
//!
//! **Compared with a tolerated rate** p₀, the bet on the rate p multiplies the capital by the likelihood ratio of Bernoulli
//! trials: ℓ = x₁·ln(p/p₀) + (n₁ − x₁)·ln[(1 − p)/(1 − p₀)].
//!
//! **Compared in the same requests** (shadow traffic), of the requests in which only one version has an event, the stable
//! version has b and the new one c. A gambler who knows nothing of their ratio has the capital
//! 2^(b+c)·Beta(b+½, c+½)/Beta(½, ½) against "both equally often" (Jeffreys' mixture), which counts if c > b.
//!
//! **Clustered events.** Events of one user come together. If their variance is φ > 1 times that of independent events,
//! each ℓ is divided by φ (quasi-likelihood; McCullagh and Nelder, "Generalized Linear Models", 1989, chapter 9). φ is the
//! highest of
//!
//! - the variance of the differences d = x₁/n₁ − x₀/n₀ between the windows, divided by that of independent events:
//!   [Σhd² − (Σhd)²/Σh]/[(p₁q₁·Σ(1 − π) + p₀q₀·Σπ)(W − 1)/W], with h = n₀n₁/(n₀ + n₁), the rates p = 1 − q of both versions
//!   so far, and W windows. What moves both versions at once, such as a busy machine, is not in the differences;
//! - until [`KNOWN_FROM`] windows of the new version have had events: the variance of the differences between successive
//!   windows of the stable version, divided by that of independent events (von Neumann's estimator); or, where that is not
//!   known either, ΣU²/ΣV of the windows so far, with U = x₁ − m·ρ, V = m·ρ·(1 − ρ)·(N − m)/(N − 1), N = n₀ + n₁,
//!   ρ = r̂π/(1 − π + r̂π), and the ratio r̂ of the rates before the window.
//!
//! For a tolerated rate, φ is Pearson's χ² of the new version's windows, divided by its degrees of freedom.

use serde::{Deserialize, Serialize};
use statrs::function::beta::ln_beta;

use crate::monitor::EventCounts;

/// Ratios of the rates on which "worse" bets.
const WORSE_RATIOS: [f64; 7] = [1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0];

/// Ratios on which "not worse" bets, as parts of the margin.
const NOT_WORSE_PARTS: [f64; 5] = [0.5, 0.7, 0.8, 0.9, 0.95];

/// Rates on which "below the tolerated rate" bets, as parts of this rate.
const BELOW_PARTS: [f64; 4] = [0.1, 0.25, 0.5, 0.75];

/// Rates on which "above the tolerated rate" bets, as multiples of this rate.
const ABOVE_MULTIPLES: [f64; 7] = [1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0];

/// Highest rate on which "above the tolerated rate" bets.
const MAX_RATE: f64 = 0.999;

/// Number of windows with events of the new version from which the differences between them say enough.
const KNOWN_FROM: u64 = 30;

/// Maximum of shown evidence, which JSON can still hold.
const MAX_EVIDENCE: f64 = 1e300;

/// New trials and events of both versions since the last look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Window {
    /// The stable version.
    pub stable: EventCounts,
    /// The new version.
    pub candidate: EventCounts,
}

/// The hypothesis that a guardrail's events are judged by.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum Judgement {
    /// Worse: more frequent than the stable version's events. Not worse: less frequent than `margin` times those, or than
    /// the tolerated rate.
    Compared {
        /// Ratio of the rates that still counts as not worse; above 1.
        margin: f64,
        /// Rate that is tolerated anyway, 0 to 1.
        tolerated: f64,
    },
    /// As `Compared`, for events of both versions in the same requests. Only requests in which just one of them has an event
    /// count.
    Paired {
        /// Ratio of the rates that still counts as not worse; above 1.
        margin: f64,
        /// Rate that is tolerated anyway, 0 to 1.
        tolerated: f64,
    },
    /// Worse: more frequent than the tolerated rate. Not worse: less frequent. For events that the stable version cannot
    /// have.
    Limited {
        /// The tolerated rate, above 0 and below 1.
        tolerated: f64,
    },
}

/// The accumulated evidence of one guardrail.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Counts since the start.
    stable: EventCounts,
    candidate: EventCounts,
    /// ℓ for each of [`WORSE_RATIOS`].
    worse: [f64; WORSE_RATIOS.len()],
    /// ℓ for each of [`NOT_WORSE_PARTS`].
    not_worse: [f64; NOT_WORSE_PARTS.len()],
    /// φ of the stable version, once it is known.
    of_stable: Option<f64>,
    /// ΣU² and ΣV.
    squared: f64,
    variance: f64,
    /// Differences between the versions in the windows.
    differences: Differences,
    /// Number of windows in which the new version had events.
    with_events: u64,
    /// Σ x₁²/n₁ over the windows, and their number, for φ of a tolerated rate.
    pearson: f64,
    windows: u64,
}

/// Sums over the differences d of the rates in windows of both versions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Differences {
    /// Σhd², Σhd and Σh, with h = n₀n₁/(n₀ + n₁).
    squares: f64,
    sum: f64,
    weights: f64,
    /// Σπ, and the number of windows.
    shares: f64,
    windows: f64,
}

impl Differences {
    fn add(&mut self, (n0, x0): (f64, f64), (n1, x1): (f64, f64)) {
        let (d, h) = (x1 / n1 - x0 / n0, n0 * n1 / (n0 + n1));
        self.squares += h * d * d;
        self.sum += h * d;
        self.weights += h;
        self.shares += n1 / (n0 + n1);
        self.windows += 1.0;
    }

    /// Returns the variance of the differences, divided by that of independent events with these rates.
    fn overdispersion(&self, stable: f64, candidate: f64) -> f64 {
        let of_one =
            candidate * (1.0 - candidate) * (self.windows - self.shares) + stable * (1.0 - stable) * self.shares;
        let expected = of_one * (self.windows - 1.0) / self.windows;
        if expected > 0.0 { (self.squares - self.sum * self.sum / self.weights) / expected } else { 1.0 }
    }
}

impl Evidence {
    /// Adds a window.
    ///
    /// ```
    /// use leeway::monitor::EventCounts;
    /// use leeway::rollout::{Evidence, Judgement, Window};
    /// let by = Judgement::Compared { margin: 1.2, tolerated: 0.001 };
    /// let counts = |trials, events| EventCounts { trials, events };
    /// let mut evidence = Evidence::default();
    /// for _ in 0..60 {
    ///     evidence.add(&Window { stable: counts(950, 5), candidate: counts(50, 1) }, by);
    /// }
    /// // 2% against 0.5%.
    /// assert!(evidence.worse(by) > 100.0 && evidence.not_worse(by) < 1.0);
    /// ```
    pub fn add(&mut self, window: &Window, by: Judgement) {
        let Window { stable, candidate } = *window;
        let ratio = self.ratio_so_far();
        self.stable = self.stable.plus(stable);
        self.candidate = self.candidate.plus(candidate);
        let (n0, x0) = (stable.trials as f64, stable.events as f64);
        let (n1, x1) = (candidate.trials as f64, candidate.events as f64);
        if n1 > 0.0 {
            self.pearson += x1 * x1 / n1;
            self.windows += 1;
            self.with_events += u64::from(candidate.events > 0);
        }
        if n0 > 0.0 && n1 > 0.0 {
            self.differences.add((n0, x0), (n1, x1));
        }
        let (n, m) = (n0 + n1, x0 + x1);
        let (Judgement::Compared { margin, .. } | Judgement::Paired { margin, .. }) = by else { return };
        if n0 == 0.0 || n1 == 0.0 || m == 0.0 {
            return;
        }
        let pi = n1 / n;
        let bet = |r: f64, r0: f64| x1 * (r / r0).ln() - m * ((1.0 - pi + r * pi) / (1.0 - pi + r0 * pi)).ln();
        for (sum, ratio) in self.worse.iter_mut().zip(WORSE_RATIOS) {
            *sum += bet(ratio, 1.0);
        }
        for (sum, part) in self.not_worse.iter_mut().zip(NOT_WORSE_PARTS) {
            *sum += bet(margin * part, margin);
        }
        if n > 1.0 {
            let rho = ratio * pi / (1.0 - pi + ratio * pi);
            self.squared += (x1 - m * rho).powi(2);
            self.variance += m * rho * (1.0 - rho) * (n - m) / (n - 1.0);
        }
    }

    /// Returns the evidence that the new version is worse.
    pub fn worse(&self, by: Judgement) -> f64 {
        match by {
            Judgement::Compared { .. } => mean_of_capitals(self.worse, self.overdispersion(by)),
            Judgement::Paired { .. } => self.of_pairs(),
            Judgement::Limited { tolerated } => {
                let rates = ABOVE_MULTIPLES.map(|multiple| (tolerated * multiple).min(MAX_RATE));
                self.against_rate(tolerated, rates, self.overdispersion(by))
            }
        }
    }

    /// Returns the evidence that the new version is not worse. Where there are two reasons for it, each gets half of the
    /// gambler's capital.
    pub fn not_worse(&self, by: Judgement) -> f64 {
        let below = |tolerated: f64| {
            let overdispersion = self.overdispersion(Judgement::Limited { tolerated });
            self.against_rate(tolerated, BELOW_PARTS.map(|part| tolerated * part), overdispersion)
        };
        match by {
            Judgement::Limited { tolerated } => below(tolerated),
            Judgement::Compared { tolerated, .. } | Judgement::Paired { tolerated, .. } => {
                let compared = mean_of_capitals(self.not_worse, self.overdispersion(by));
                if tolerated > 0.0 { (compared + below(tolerated)) / 2.0 } else { compared }
            }
        }
    }

    /// Sets φ of the stable version, which has been seen for longer than the rollout lasts.
    pub fn set_overdispersion_of_stable(&mut self, known: Option<f64>) {
        self.of_stable = known.or(self.of_stable);
    }

    /// Returns φ: the variance of the events divided by that of independent ones; at least 1.
    pub fn overdispersion(&self, by: Judgement) -> f64 {
        let rate = |counts: EventCounts| counts.rate().unwrap_or_default();
        let (stable, candidate) = (rate(self.stable), rate(self.candidate));
        if let Judgement::Limited { .. } = by {
            let expected = candidate * (1.0 - candidate) * (self.windows as f64 - 1.0);
            let found = self.pearson - self.candidate.events as f64 * candidate;
            return if expected > 0.0 { (found / expected).max(1.0) } else { 1.0 };
        }
        let early = match self.of_stable {
            _ if self.with_events >= KNOWN_FROM => 1.0,
            Some(of_stable) => of_stable,
            None if self.variance > 0.0 => self.squared / self.variance,
            None => 1.0,
        };
        self.differences.overdispersion(stable, candidate).max(early).max(1.0)
    }

    /// Returns the ratio of the rates so far, between a tenth and ten. Half an event is added to both, so that there is one
    /// from the start.
    fn ratio_so_far(&self) -> f64 {
        let (n0, n1) = (self.stable.trials as f64, self.candidate.trials as f64);
        if n0 == 0.0 || n1 == 0.0 {
            return 1.0;
        }
        let (x0, x1) = (self.stable.events as f64 + 0.5, self.candidate.events as f64 + 0.5);
        ((x1 / n1) / (x0 / n0)).clamp(0.1, 10.0)
    }

    /// Counts of the stable version since the start.
    pub fn stable(&self) -> EventCounts {
        self.stable
    }

    /// Counts of the new version since the start.
    pub fn candidate(&self) -> EventCounts {
        self.candidate
    }

    /// Returns the evidence of the requests in which only one version has an event.
    fn of_pairs(&self) -> f64 {
        let (b, c) = (self.stable.events as f64, self.candidate.events as f64);
        if c <= b {
            return 1.0;
        }
        let logarithm = (b + c) * std::f64::consts::LN_2 + ln_beta(b + 0.5, c + 0.5) - ln_beta(0.5, 0.5);
        (logarithm / self.overdispersion(Judgement::Paired { margin: 1.0, tolerated: 0.0 })).exp().min(MAX_EVIDENCE)
    }

    /// Returns the evidence against the rate `p0` of the new version, by bets on these rates.
    fn against_rate<const N: usize>(&self, p0: f64, rates: [f64; N], overdispersion: f64) -> f64 {
        let (n, x) = (self.candidate.trials as f64, self.candidate.events as f64);
        let bet = |p: f64| x * (p / p0).ln() + (n - x) * ((1.0 - p) / (1.0 - p0)).ln();
        mean_of_capitals(rates.map(bet), overdispersion)
    }
}

/// Returns the mean of exp(ℓ/φ).
fn mean_of_capitals<const N: usize>(logarithms: [f64; N], overdispersion: f64) -> f64 {
    let capital = |logarithm: f64| (logarithm / overdispersion).exp().min(MAX_EVIDENCE);
    logarithms.into_iter().map(|logarithm| capital(logarithm) / N as f64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BY: Judgement = Judgement::Compared { margin: 1.2, tolerated: 0.002 };

    fn counts(trials: u64, events: u64) -> EventCounts {
        EventCounts { trials, events }
    }

    fn evidence(windows: &[[u64; 4]], by: Judgement) -> Evidence {
        let mut evidence = Evidence::default();
        for [n0, x0, n1, x1] in windows {
            evidence.add(&Window { stable: counts(*n0, *x0), candidate: counts(*n1, *x1) }, by);
        }
        evidence
    }

    #[track_caller]
    fn assert_close(found: f64, expected: f64) {
        assert!((found / expected - 1.0).abs() < 1e-9, "{found}, not {expected}");
    }

    /// Golden numbers: the formulas of the documentation in Python with mpmath (50 digits).
    #[test]
    fn evidence_is_that_of_the_formulas() {
        let windows = [[950, 5, 50, 1], [900, 4, 100, 3], [0, 0, 10, 1], [500, 0, 500, 0], [480, 6, 520, 9]];
        let found = evidence(&windows, BY);
        assert_close(found.worse(BY), 1.833_334_120_431_354);
        assert_close(found.overdispersion(BY), 1.598_613_820_870_271);
        assert_close(found.not_worse(BY), 0.352_394_806_176_354_8);
        let limited = |tolerated| Judgement::Limited { tolerated };
        assert_close(found.worse(limited(0.005)), 1.447_497_922_577_860_2);
        assert_close(found.overdispersion(limited(0.005)), 4.257_796_448_834_185);
        assert_close(found.not_worse(limited(0.02)), 0.990_481_592_760_255_9);
    }

    /// Golden number: exp(ln[2^10·B(1.5, 9.5)/B(.5, .5)]/φ) with mpmath.
    #[test]
    fn failures_in_the_same_requests_are_compared_by_pairs() {
        let by = Judgement::Paired { margin: 1.2, tolerated: 0.002 };
        let windows = [[200, 0, 200, 2], [200, 1, 200, 1], [200, 0, 200, 2], [200, 0, 200, 2], [200, 0, 200, 2]];
        assert_close(evidence(&windows, by).worse(by), 6.947_227_451_182_139);
        assert_eq!(evidence(&[[1_000, 9, 1_000, 1]], by).worse(by), 1.0);
    }

    /// Golden number: as above.
    #[test]
    fn what_moves_both_versions_at_once_is_no_clustering() {
        let windows = [[100, 2, 100, 3], [100, 60, 100, 66], [100, 5, 100, 4], [100, 80, 100, 85]].repeat(10);
        let found = evidence(&windows, BY);
        assert_eq!(found.overdispersion(BY), 1.0);
        assert_close(found.worse(BY), 0.847_373_914_184_252_1);
        // Judged by itself, the new version would seem to vary greatly.
        assert!(found.overdispersion(Judgement::Limited { tolerated: 0.1 }) > 50.0);
    }

    #[test]
    fn without_events_the_tolerated_rate_decides() {
        let quiet = evidence(&[[100_000, 0, 5_000, 0]], BY);
        assert_close(quiet.worse(BY), 1.0);
        assert!(quiet.not_worse(BY) > 20.0, "{}", quiet.not_worse(BY));
        assert!(evidence(&[[100_000, 0, 1_000, 0]], BY).not_worse(BY) < 20.0);
    }

    #[test]
    fn a_rate_of_both_that_rises_with_the_share_is_no_evidence() {
        // A pooled test would see 1% in all requests of the stable version, and 5% in those of the new one.
        let ramp = evidence(&[[990_000, 9_900, 10_000, 100], [500_000, 25_000, 500_000, 25_000]], BY);
        assert!(ramp.worse(BY) < 1.0 && ramp.not_worse(BY) > 1e9, "{ramp:?}");
    }

    #[test]
    fn nothing_is_learnt_without_the_other_version() {
        let alone =
            evidence(&[[0, 0, 1_000, 500], [1_000, 0, 0, 0]], Judgement::Compared { margin: 1.2, tolerated: 0.0 });
        let by = Judgement::Compared { margin: 1.2, tolerated: 0.0 };
        assert_close(alone.worse(by), 1.0);
        assert_close(alone.not_worse(by), 1.0);
    }

    #[test]
    fn evidence_is_always_a_number() {
        let all = evidence(&[[1_000_000_000, 0, 1_000_000_000, 1_000_000_000]], BY);
        assert!(all.worse(BY).is_finite() && all.not_worse(BY).is_finite(), "{all:?}");
        let limited = Judgement::Limited { tolerated: 0.05 };
        assert!(evidence(&[[0, 0, 1_000_000_000, 1_000_000_000]], limited).worse(limited).is_finite());
    }
}
