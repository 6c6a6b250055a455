//! Independence of the values of a window.
//!
//! Tests of drift assume that values are independent of each other. Values of a client that sends many similar rows
//! within minutes are not: they are less evidence than as many independent ones. If values are independent, the counts
//! of the slices of a window differ from each other by chance only. So the dispersion of the slices (McCullagh and
//! Nelder, *Generalized Linear Models*, 1989, section 4.5),
//!
//! ```text
//! φ = Σ_s Σ_b (c_sb − M_s · q_b)² / (M_s · q_b) / ((S − 1)(B − 1))     S slices with M_s values, B bins with a value
//! ```
//!
//! is about 1, and the window counts as M / max(1, φ) values.
//!
//! If it is known how the shares of the bins vary with the time of day, q_b is that of the hours of each slice, and a part
//! of the window is compared with its own hours.
//!
//! A change *lasts* if it is in most slices of the window, and not in a few of them: at least three quarters of the
//! slices differ by at least half as much as the whole window.

/// Minimum number of values of a slice in which a change is looked for. Smaller slices are joined with the next one.
const MIN_SLICE: u64 = 100;
/// Minimum number of slices in which a change can last.
const MIN_SLICES: usize = 3;
/// Share of the slices that may be without the change.
const MAX_UNCHANGED: f64 = 0.25;

/// Counts per bin of a window, in slices of time.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct WindowCounts {
    slices: Vec<Vec<u64>>,
    total: Vec<u64>,
    /// The share of each bin that is usual at the time of each slice; empty if it is the same at any time.
    usual: Vec<Vec<f64>>,
}

impl From<&[u64]> for WindowCounts {
    /// The counts of a window that is a single slice.
    fn from(counts: &[u64]) -> WindowCounts {
        WindowCounts::new(vec![counts.to_vec()])
    }
}

impl WindowCounts {
    /// Creates the counts of a window with these slices.
    pub fn new(slices: Vec<Vec<u64>>) -> WindowCounts {
        let bins = slices.iter().map(Vec::len).max().unwrap_or_default();
        let total = (0..bins).map(|bin| slices.iter().filter_map(|slice| slice.get(bin)).sum()).collect();
        WindowCounts { slices, total, usual: Vec::new() }
    }

    /// Creates the counts of a window whose slices are at different times of day. `usual` has the share of each bin that
    /// is usual at the time of each slice; all shares are above 0.
    pub fn at_hours(slices: Vec<Vec<u64>>, usual: Vec<Vec<f64>>) -> WindowCounts {
        WindowCounts { usual, ..WindowCounts::new(slices) }
    }

    /// The counts of the whole window.
    pub fn total(&self) -> &[u64] {
        &self.total
    }

    /// The share of the values that counts as independent, see [`independent_share`].
    pub fn independent_share(&self) -> f64 {
        match self.usual.is_empty() {
            true => independent_share(&self.slices),
            false => independent_share_at_hours(&self.slices, &self.usual),
        }
    }

    /// The share of the values that counts as independent with regard to being in a bin or not.
    pub fn independent_share_of(&self, bin: usize) -> f64 {
        let of_slice = |slice: &Vec<u64>| {
            let within = slice.get(bin).copied().unwrap_or_default();
            vec![within, slice.iter().sum::<u64>() - within]
        };
        let slices: Vec<Vec<u64>> = self.slices.iter().map(of_slice).collect();
        let usual: Vec<Vec<f64>> = self.usual.iter().map(|usual| vec![usual[bin], 1.0 - usual[bin]]).collect();
        match usual.is_empty() {
            true => independent_share(&slices),
            false => independent_share_at_hours(&slices, &usual),
        }
    }

    /// Returns true if a change lasts. `change` measures it in the counts of a slice, so that the change of the whole is
    /// the mean of the changes of its slices. A window with fewer than three slices of 100 values has no parts that
    /// could be told apart.
    ///
    /// ```
    /// use leeway::monitor::WindowCounts;
    /// let share = |counts: &[f64]| counts[1] / (counts[0] + counts[1]);
    /// let lasts = |slices: &[[u64; 2]]| WindowCounts::new(slices.iter().map(|s| s.to_vec()).collect()).lasts(share);
    /// assert!(lasts(&[[95, 5], [94, 6], [96, 4], [95, 5]]));
    /// assert!(!lasts(&[[100, 0], [100, 0], [100, 0], [80, 20]]));
    /// ```
    pub fn lasts(&self, change: impl Fn(&[f64]) -> f64) -> bool {
        let parts = self.parts();
        if parts.len() < MIN_SLICES {
            return true;
        }
        let total: Vec<f64> = self.total.iter().map(|count| *count as f64).collect();
        let half = change(&total) / 2.0;
        let slices = |parts: &mut dyn Iterator<Item = &Part>| parts.map(|part| part.slices).sum::<usize>() as f64;
        let unchanged = slices(&mut parts.iter().filter(|part| change(&part.counts) < half));
        unchanged <= MAX_UNCHANGED * slices(&mut parts.iter())
    }

    /// Joins slices until each part has enough values. The values of a rest that has too few are left out. What is usual
    /// at the time of a slice is no change.
    fn parts(&self) -> Vec<Part> {
        let (mut parts, mut next) = (Vec::new(), Part::empty(self.total.len()));
        let usual_in_window = self.usual_in_window();
        for (index, slice) in self.slices.iter().enumerate() {
            let values = slice.iter().sum::<u64>();
            next.slices += 1;
            next.values += values;
            next.counts.iter_mut().zip(slice).for_each(|(sum, count)| *sum += *count as f64);
            if let Some(usual) = self.usual.get(index) {
                let unusual = usual.iter().zip(&usual_in_window).map(|(usual, mean)| (usual - mean) * values as f64);
                next.counts.iter_mut().zip(unusual).for_each(|(sum, unusual)| *sum -= unusual);
            }
            if next.values >= MIN_SLICE {
                parts.push(std::mem::replace(&mut next, Part::empty(self.total.len())));
            }
        }
        parts
    }

    /// The mean of the usual shares over all values of the window.
    pub(super) fn usual_in_window(&self) -> Vec<f64> {
        let values = |slice: &Vec<u64>| slice.iter().sum::<u64>() as f64;
        let all = self.slices.iter().map(values).sum::<f64>().max(1.0);
        let of_bin = |bin: usize| {
            let slices = self.slices.iter().zip(&self.usual);
            slices.map(|(slice, usual)| values(slice) * usual[bin]).sum::<f64>() / all
        };
        let bins = self.usual.first().map_or(0, Vec::len);
        (0..bins).map(of_bin).collect()
    }
}

/// Some slices after each other, and the sum of their counts.
struct Part {
    slices: usize,
    values: u64,
    counts: Vec<f64>,
}

impl Part {
    fn empty(bins: usize) -> Part {
        Part { slices: 0, values: 0, counts: vec![0.0; bins] }
    }
}

/// Returns the share of a window's values that count as independent of each other, from the counts per bin of the
/// window's slices: above 0 to 1.
///
/// ```
/// use leeway::monitor::independent_share;
/// assert_eq!(independent_share(&[vec![50, 50], vec![52, 48]]), 1.0);
/// // One of four slices is unlike the others.
/// assert!(independent_share(&[vec![50, 50], vec![52, 48], vec![49, 51], vec![5, 95]]) < 0.1);
/// assert_eq!(independent_share(&[vec![5, 95]]), 1.0);
/// ```
pub fn independent_share(slices: &[Vec<u64>]) -> f64 {
    let (statistic, freedom) = dispersion(slices);
    if freedom == 0 { 1.0 } else { 1.0 / (statistic / freedom as f64).max(1.0) }
}

/// Returns the sum of squares of the dispersion of slices, and its degrees of freedom: φ is their quotient.
pub(in crate::monitor) fn dispersion(slices: &[Vec<u64>]) -> (f64, usize) {
    let slices: Vec<(&Vec<u64>, f64)> = slices
        .iter()
        .map(|slice| (slice, slice.iter().sum::<u64>() as f64))
        .filter(|(_, values)| *values > 0.0)
        .collect();
    let all: f64 = slices.iter().map(|(_, values)| values).sum();
    let bins = slices.iter().map(|(slice, _)| slice.len()).max().unwrap_or_default();
    let (mut statistic, mut filled) = (0.0, 0usize);
    for bin in 0..bins {
        let count = |slice: &[u64]| slice.get(bin).copied().unwrap_or_default() as f64;
        let in_bin: f64 = slices.iter().map(|(slice, _)| count(slice)).sum();
        if in_bin == 0.0 {
            continue;
        }
        filled += 1;
        // The sum of (c − M q)² / (M q) over the slices.
        let squares: f64 = slices.iter().map(|(slice, values)| count(slice).powi(2) / values).sum();
        statistic += squares / (in_bin / all) - in_bin;
    }
    let freedom = slices.len().saturating_sub(1) * filled.saturating_sub(1);
    (statistic, freedom)
}

/// Returns the share of a window's values that count as independent, from slices with different usual shares.
///
/// If a shift changes the odds of each bin by the same factor at any time, the share of a bin in slice s is proportional to
/// u_sb · q_b / ū_b, where u_sb is its usual share in the slice, ū_b that in the window, and q_b its share in the window.
///
/// ```
/// use leeway::monitor::independent_share_at_hours;
/// // The second bin is usual at the second hour.
/// let usual = [vec![0.9, 0.1], vec![0.1, 0.9]];
/// assert_eq!(independent_share_at_hours(&[vec![90, 10], vec![10, 90]], &usual), 1.0);
/// assert!(independent_share_at_hours(&[vec![10, 90], vec![90, 10]], &usual) < 0.01);
/// ```
pub fn independent_share_at_hours(slices: &[Vec<u64>], usual: &[Vec<f64>]) -> f64 {
    let window = WindowCounts::at_hours(slices.to_vec(), usual.to_vec());
    let (all, mean) = (window.total.iter().sum::<u64>() as f64, window.usual_in_window());
    let ratio = |bin: usize| window.total[bin] as f64 / all / mean[bin];
    let (mut statistic, mut filled_slices) = (0.0, 0usize);
    for (slice, usual) in slices.iter().zip(usual) {
        let values = slice.iter().sum::<u64>() as f64;
        let expected: Vec<f64> = usual.iter().enumerate().map(|(bin, usual)| usual * ratio(bin)).collect();
        let sum: f64 = expected.iter().sum();
        if values == 0.0 || sum == 0.0 {
            continue;
        }
        filled_slices += 1;
        let expected = expected.iter().map(|share| values * share / sum);
        let squares = slice.iter().zip(expected).filter(|(_, expected)| *expected > 0.0);
        statistic += squares.map(|(count, expected)| (*count as f64 - expected).powi(2) / expected).sum::<f64>();
    }
    let filled = window.total.iter().filter(|count| **count > 0).count();
    let freedom = filled_slices.saturating_sub(1) * filled.saturating_sub(1);
    if freedom == 0 { 1.0 } else { 1.0 / (statistic / freedom as f64).max(1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Twelve slices of 40 values each, in ten bins.
    fn slices(mut bin: impl FnMut() -> usize) -> Vec<Vec<u64>> {
        let mut slice = || {
            let mut counts = vec![0; 10];
            (0..40).for_each(|_| counts[bin()] += 1);
            counts
        };
        (0..12).map(|_| slice()).collect()
    }

    #[test]
    fn independent_values_count_fully() {
        let mut random = fastrand::Rng::with_seed(4);
        let mean = (0..300).map(|_| independent_share(&slices(|| random.usize(0..10)))).sum::<f64>() / 300.0;
        assert!(mean > 0.93, "{mean}");
    }

    /// If each value is repeated five times, 40 values are 8.
    #[test]
    fn repeated_values_count_once() {
        let mut random = fastrand::Rng::with_seed(4);
        let (mut value, mut left) = (0, 0);
        let mut repeated = || {
            if left == 0 {
                (value, left) = (random.usize(0..10), 5);
            }
            left -= 1;
            value
        };
        let mean = (0..300).map(|_| independent_share(&slices(&mut repeated))).sum::<f64>() / 300.0;
        assert!((0.18..0.24).contains(&mean), "{mean}");
    }
}
