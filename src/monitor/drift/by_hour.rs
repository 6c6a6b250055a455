//! Comparison of a feature in a window with what is usual at the hours of the window.
//!
//! A profile has counts n_hb of a feature by slot of the time of day h and bin b, N_h in all. If the share w_h of the
//! values of a window is at slot h, the shares that are to be expected and the number of values that they are known from
//! are those of a stratified sample (Cochran, *Sampling Techniques*, 3rd ed., 1977, section 5.3):
//!
//! ```text
//! p_b = Σ_h w_h · n_hb / N_h         N = ι / Σ_h w_h² / N_h
//! ```
//!
//! ι is the share of the profile's values that count as independent of each other, from the dispersion of the days of the
//! profile. The window is then compared with N · p_b, as with training data.

use super::dependence::WindowCounts;
use super::judge::MIN_VALUES;
use super::reference::{Comparison, Reference};

/// Minimum number of values at a slot. Fewer say nothing about what is usual then.
pub const MIN_SLOT_VALUES: u64 = MIN_VALUES;
/// Minimum share of the values of a window that must be at slots with enough values.
const MIN_KNOWN: f64 = 0.75;

/// Counts of a feature by time of day.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CountsByHour {
    /// Counts per bin of each slot, in the order of the slots. A slot without values may be empty.
    pub slots: Vec<Vec<u64>>,
    /// The share of the values that counts as independent of each other, above 0 to 1.
    pub independent: f64,
}

/// A part of a window: its counts, and the slots of the time of day that it is at.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SliceAtHours {
    /// Counts per bin.
    pub counts: Vec<u64>,
    /// The slots, and the share of the slice's time that each of them has.
    pub slots: Vec<(usize, f64)>,
}

impl Reference {
    /// Compares the slices of a window with what is usual at their hours. Slices at slots with too few values are left
    /// out. `None` if more than a quarter of the window's values are in such slices.
    ///
    /// ```
    /// use leeway::monitor::{BinRole, CountsByHour, Reference, SliceAtHours};
    /// let reference = Reference { roles: vec![BinRole::Compared; 2], counts: vec![500, 500], positions: None };
    /// let by_hour = CountsByHour { slots: vec![vec![900, 100], vec![100, 900]], independent: 1.0 };
    /// let slice = |counts: [u64; 2], slot| SliceAtHours { counts: counts.into(), slots: vec![(slot, 1.0)] };
    /// let usual = reference.compare_by_hour(&by_hour, &[slice([90, 10], 0), slice([10, 90], 1)]).unwrap();
    /// assert!(usual.drift.psi < 0.01 && usual.drift.p_value > 0.5);
    /// let swapped = reference.compare_by_hour(&by_hour, &[slice([10, 90], 0)]).unwrap();
    /// assert!(swapped.drift.psi > 1.0);
    /// ```
    pub fn compare_by_hour(&self, by_hour: &CountsByHour, slices: &[SliceAtHours]) -> Option<Comparison> {
        let values = |counts: &[u64]| counts.iter().sum::<u64>();
        let all: u64 = slices.iter().map(|slice| values(&slice.counts)).sum();
        let known: Vec<(&SliceAtHours, Vec<(usize, f64)>)> =
            slices.iter().filter_map(|slice| Some((slice, by_hour.known_slots(slice)?))).collect();
        let of_known: u64 = known.iter().map(|(slice, _)| values(&slice.counts)).sum();
        if of_known == 0 || (of_known as f64) < MIN_KNOWN * all as f64 {
            return None;
        }
        let mut weights = vec![0.0; by_hour.slots.len()];
        for (slice, slots) in &known {
            for (slot, share) in slots {
                weights[*slot] += share * values(&slice.counts) as f64 / of_known as f64;
            }
        }
        let strata = || weights.iter().zip(&by_hour.slots).filter(|(weight, _)| **weight > 0.0);
        let variance: f64 = strata().map(|(weight, counts)| weight.powi(2) / values(counts) as f64).sum();
        let known_from = by_hour.independent / variance;
        let share = |bin: usize| -> f64 {
            strata().map(|(weight, counts)| weight * counts[bin] as f64 / values(counts) as f64).sum()
        };
        let counts = (0..self.roles.len()).map(|bin| (known_from * share(bin)).round() as u64).collect();
        let usual = known.iter().map(|(_, slots)| by_hour.shares_at(slots, self.roles.len())).collect();
        let window = WindowCounts::at_hours(known.iter().map(|(slice, _)| slice.counts.clone()).collect(), usual);
        Some(Reference { counts, ..self.clone() }.compare(&window))
    }
}

impl CountsByHour {
    /// Returns the slots of a slice that have enough values, with their shares of the time; `None` if they have less than
    /// half of it.
    fn known_slots(&self, slice: &SliceAtHours) -> Option<Vec<(usize, f64)>> {
        let is_known =
            |slot: usize| self.slots.get(slot).is_some_and(|counts| counts.iter().sum::<u64>() >= MIN_SLOT_VALUES);
        let known: Vec<(usize, f64)> = slice.slots.iter().copied().filter(|(slot, _)| is_known(*slot)).collect();
        let time: f64 = known.iter().map(|(_, share)| share).sum();
        (time >= 0.5).then(|| known.into_iter().map(|(slot, share)| (slot, share / time)).collect())
    }

    /// Returns the share of each bin at these slots, with ½ added to each count.
    fn shares_at(&self, slots: &[(usize, f64)], bins: usize) -> Vec<f64> {
        let share = |bin: usize| {
            let of_slot = |(slot, time): &(usize, f64)| {
                let counts = &self.slots[*slot];
                let all = counts.iter().sum::<u64>() as f64 + bins as f64 / 2.0;
                time * (counts[bin] as f64 + 0.5) / all
            };
            slots.iter().map(of_slot).sum()
        };
        (0..bins).map(share).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::BinRole;
    use super::*;

    fn reference() -> Reference {
        Reference { roles: vec![BinRole::Compared; 4], counts: vec![1_000; 4], positions: None }
    }

    fn by_hour(independent: f64) -> CountsByHour {
        let slots = vec![vec![400, 300, 200, 100], vec![50, 150, 300, 500], vec![90, 110, 100, 100], vec![9; 4]];
        CountsByHour { slots, independent }
    }

    fn slice(counts: [u64; 4], slots: &[(usize, f64)]) -> SliceAtHours {
        SliceAtHours { counts: counts.into(), slots: slots.to_vec() }
    }

    /// The values are from numpy 2.4 and scipy 1.17: the stratified shares and their number of values, the dispersion from
    /// the usual shares of each slice, PSI, and `scipy.stats.chi2.sf`.
    #[test]
    fn a_window_is_compared_with_its_own_hours_as_by_numpy() {
        let slices = [slice([60, 50, 40, 30], &[(0, 0.75), (1, 0.25)]), slice([20, 50, 70, 160], &[(1, 1.0)])];
        let found = reference().compare_by_hour(&by_hour(0.5), &slices).unwrap();
        // 839.34 values, rounded in each bin: 125, 161, 228 and 325.
        assert_eq!((found.drift.baseline_count, found.drift.window_count), (839, 480));
        for (found, expected) in [
            (found.independent, 0.838_710_539_939_480_5),
            (found.drift.psi, 0.010_740_436_819_701_259),
            (found.drift.psi_adjusted, 0.0),
            (found.drift.p_value, 0.403_827_455_070_118_3),
        ] {
            assert!((found - expected).abs() < 1e-12, "{found}, not {expected}");
        }
    }

    #[test]
    fn hours_with_few_values_are_left_out() {
        let known = slice([60, 50, 40, 30], &[(0, 1.0)]);
        // Half of the time of a slice must be known, and three quarters of the values.
        let few = |counts, share| slice(counts, &[(0, share), (3, 1.0 - share)]);
        let compare = |slices: &[SliceAtHours]| reference().compare_by_hour(&by_hour(1.0), slices);
        let found = compare(&[known.clone(), few([10, 10, 10, 10], 0.4)]).unwrap();
        assert_eq!((found.drift.window_count, found.values), (180, 180));
        assert_eq!(compare(&[known.clone(), few([10, 10, 10, 10], 0.6)]).unwrap().values, 220);
        assert_eq!(compare(&[known, few([50, 50, 50, 50], 0.4)]), None);
        assert_eq!(compare(&[slice([0; 4], &[(0, 1.0)])]), None);
        assert_eq!(compare(&[]), None);
    }

    /// A difference that is usual at one hour is none, and one that is not usual does not last if it is at one hour only.
    #[test]
    fn a_change_lasts_if_it_is_at_most_hours() {
        let usual = |hour: usize| [[400, 300, 200, 100], [100, 300, 600, 1_000]][hour % 2];
        let slices = |counts: &dyn Fn(usize) -> [u64; 4]| -> Vec<SliceAtHours> {
            (0..8).map(|hour| slice(counts(hour), &[(hour % 2, 1.0)])).collect()
        };
        let found = reference().compare_by_hour(&by_hour(1.0), &slices(&usual)).unwrap();
        assert!(found.drift.psi < 0.001 && found.independent > 0.99, "{found:?}");
        let once = |hour: usize| if hour == 5 { [2_000, 0, 0, 0] } else { usual(hour) };
        assert!(!reference().compare_by_hour(&by_hour(1.0), &slices(&once)).unwrap().drift.lasts);
        let always = |hour: usize| [[600, 300, 100, 0], [400, 600, 600, 400]][hour % 2];
        let found = reference().compare_by_hour(&by_hour(1.0), &slices(&always)).unwrap();
        assert!(found.drift.lasts && found.drift.psi > 0.1, "{found:?}");
    }
}
