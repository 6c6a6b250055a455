//! Confidence intervals and tests for measures of outcomes. All intervals are of 95 %.

use statrs::distribution::{ContinuousCDF, Normal};

/// Quantile of the standard normal distribution for a two-sided interval of 95 %.
const Z: f64 = 1.959_963_984_540_054;

/// A confidence interval of 95 %.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub struct Interval {
    /// The lower bound.
    pub lower: f64,
    /// The upper bound.
    pub upper: f64,
}

/// Difference of two shares, or of two means.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// The second minus the first.
    pub difference: f64,
    /// Interval of the difference.
    pub interval: Interval,
    /// Probability of a difference at least as large if there is none, by the two-sided z-test. It holds for one look:
    /// who looks again and again until it is small will find a difference by chance.
    pub p_value: f64,
}

impl Interval {
    /// Returns the interval of a share, of which `count` of `of` were counted (Wilson, JASA 22, 1927); `None` if `of` is 0.
    ///
    /// ```
    /// use leeway::monitor::Interval;
    /// // 81 of 263: (0.2553, 0.3662), the example of Newcombe, Statistics in Medicine 17, 1998, p. 857.
    /// let Interval { lower, upper } = Interval::of_share(81.0, 263.0).unwrap();
    /// assert!((lower - 0.2553).abs() < 1e-4 && (upper - 0.3662).abs() < 1e-4);
    /// ```
    pub fn of_share(count: f64, of: f64) -> Option<Interval> {
        if of <= 0.0 {
            return None;
        }
        let share = count / of;
        let centre = (share + Z * Z / (2.0 * of)) / (1.0 + Z * Z / of);
        let half = Z / (1.0 + Z * Z / of) * (share * (1.0 - share) / of + Z * Z / (4.0 * of * of)).max(0.0).sqrt();
        Some(Interval { lower: (centre - half).max(0.0), upper: (centre + half).min(1.0) })
    }

    /// Returns the interval of the mean of `of` numbers, from their sum and the sum of their squares, by the central limit
    /// theorem; `None` with fewer than two numbers.
    ///
    /// ```
    /// use leeway::monitor::Interval;
    /// // 1, 2, 3, 4: 2.5 ± 1.96 · 1.29099 / 2
    /// let Interval { lower, upper } = Interval::of_mean(10.0, 30.0, 4.0).unwrap();
    /// assert!((lower - 1.23485).abs() < 1e-5 && (upper - 3.76515).abs() < 1e-5);
    /// ```
    pub fn of_mean(sum: f64, squares: f64, of: f64) -> Option<Interval> {
        if of < 2.0 {
            return None;
        }
        let mean = sum / of;
        let half = Z * ((squares - of * mean * mean).max(0.0) / (of - 1.0) / of).sqrt();
        Some(Interval { lower: mean - half, upper: mean + half })
    }
}

impl Difference {
    /// Returns the difference of two shares, each as a count and the number that it is of, with the interval that Newcombe
    /// calls method 10 (Statistics in Medicine 17, 1998, pp. 873–890); `None` if one of the numbers is 0.
    ///
    /// ```
    /// use leeway::monitor::Difference;
    /// // 48 of 80 minus 56 of 70: −0.2 (−0.3339, −0.0524), the first example of that paper, with the other sign.
    /// let found = Difference::of_shares((56.0, 70.0), (48.0, 80.0)).unwrap();
    /// assert!((found.difference + 0.2).abs() < 1e-12);
    /// assert!((found.interval.lower + 0.3339).abs() < 1e-4 && (found.interval.upper + 0.0524).abs() < 1e-4);
    /// ```
    pub fn of_shares((first, of_first): (f64, f64), (second, of_second): (f64, f64)) -> Option<Difference> {
        let (one, other) = (Interval::of_share(first, of_first)?, Interval::of_share(second, of_second)?);
        let (first_share, second_share) = (first / of_first, second / of_second);
        let difference = second_share - first_share;
        let below = (second_share - other.lower).hypot(one.upper - first_share);
        let above = (other.upper - second_share).hypot(first_share - one.lower);
        let pooled = (first + second) / (of_first + of_second);
        let deviation = (pooled * (1.0 - pooled) * (1.0 / of_first + 1.0 / of_second)).sqrt();
        Some(Difference {
            difference,
            interval: Interval { lower: difference - below, upper: difference + above },
            p_value: two_sided(difference, deviation),
        })
    }
}

impl Difference {
    /// Returns the difference of two means, each given as the mean, the mean of the squares, and the number that they are
    /// of, by the central limit theorem; `None` with fewer than two numbers.
    ///
    /// ```
    /// use leeway::monitor::Difference;
    /// // 1, 2, 3, 4 and 3, 4, 5, 6: z = 2 / √(2 · 1.6667 / 4)
    /// let found = Difference::of_means((2.5, 7.5, 4.0), (4.5, 21.5, 4.0)).unwrap();
    /// assert!((found.difference - 2.0).abs() < 1e-12 && (found.p_value - 0.028460).abs() < 1e-6);
    /// ```
    pub fn of_means(first: (f64, f64, f64), second: (f64, f64, f64)) -> Option<Difference> {
        if first.2 < 2.0 || second.2 < 2.0 {
            return None;
        }
        // The variance of the mean.
        let variance = |(mean, squares, of): (f64, f64, f64)| (squares - mean * mean).max(0.0) / (of - 1.0);
        let (difference, deviation) = (second.0 - first.0, (variance(first) + variance(second)).sqrt());
        let interval = Interval { lower: difference - Z * deviation, upper: difference + Z * deviation };
        Some(Difference { difference, interval, p_value: two_sided(difference, deviation) })
    }
}

/// Probability that a normal number with mean 0 is at least as far from 0.
fn two_sided(difference: f64, deviation: f64) -> f64 {
    match (deviation > 0.0, Normal::new(0.0, 1.0)) {
        (true, Ok(normal)) => 2.0 * normal.cdf(-(difference / deviation).abs()),
        // All of both are the same.
        _ => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Compared = ((f64, f64), (f64, f64), f64, f64, f64);

    /// Count, number, and the bounds.
    const WILSON: [(f64, f64, f64, f64); 4] = [
        (81.0, 263.0, 0.2552885198782742, 0.36620957698280004),
        (0.0, 20.0, 0.0, 0.1611251580528194),
        (980.0, 1000.0, 0.9693099947702822, 0.987016317083585),
        (7.0, 7.0, 0.6456695649333125, 0.9999999999999999),
    ];
    /// Two counts, each with its number; the bounds of the difference, and the p-value.
    const TWO: [Compared; 4] = [
        ((56.0, 70.0), (48.0, 80.0), -0.33387265403690614, -0.05243147240236498, 0.00804508136819656),
        ((3920.0, 4000.0), (2536.0, 4000.0), -0.36154720243644445, -0.33044123177115253, 0.0),
        ((0.0, 30.0), (2.0, 40.0), -0.06913955908199315, 0.16503877369140968, 0.21400594078462865),
        ((450.0, 500.0), (455.0, 500.0), -0.026679133678716334, 0.046771999673841, 0.5897197110271788),
    ];

    /// The expected numbers are from statsmodels 0.15: `proportion_confint(method="wilson")`, `proportions_ztest` and
    /// `confint_proportions_2indep(method="newcomb")`.
    #[test]
    fn intervals_and_tests_are_those_of_statsmodels() {
        for (count, of, lower, upper) in WILSON {
            let found = Interval::of_share(count, of).unwrap();
            assert!(
                (found.lower - lower).abs() < 1e-12 && (found.upper - upper).abs() < 1e-12,
                "{count} of {of}: {found:?}"
            );
        }
        for (first, second, lower, upper, p_value) in TWO {
            let found = Difference::of_shares(first, second).unwrap();
            let Interval { lower: found_lower, upper: found_upper } = found.interval;
            assert!((found_lower - lower).abs() < 1e-12 && (found_upper - upper).abs() < 1e-12, "{found:?}");
            assert!((found.p_value - p_value).abs() < 1e-9, "{found:?}");
        }
    }

    #[test]
    fn without_numbers_there_is_no_interval() {
        assert_eq!((Interval::of_share(0.0, 0.0), Interval::of_mean(1.0, 1.0, 1.0)), (None, None));
        assert_eq!(Difference::of_shares((1.0, 2.0), (0.0, 0.0)), None);
        assert_eq!(Difference::of_shares((2.0, 2.0), (3.0, 3.0)).map(|found| found.p_value), Some(1.0));
    }
}
