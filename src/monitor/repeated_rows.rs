//! Finds rows that are repeated, in constant memory.
//!
//! A probe, a retry or a client that sends one row many times would look like a change of the distribution. Where the
//! rows of the training data are hardly ever the same, a row that is repeated within an hour is therefore counted once.
//!
//! Rows may also be the same because something upstream is broken. So rows with a missing value are all counted, and so
//! are all rows of an hour in which nine of ten rows are repeated.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use foldhash::quality::FixedState;

use crate::feature::Features;

/// If fewer than this share of the pairs of training rows are the same, a row is not expected to be repeated.
const MAX_REPEATED_PAIRS: f64 = 1e-6;
/// Maximum number of repeated rows for each different one. If there are more, all rows are counted.
const MAX_REPEATED: u64 = 9;
/// Number of repeated rows at the beginning of an hour, before anything is known of the others.
const MAX_FIRST_REPEATED: u64 = 50;
/// Number of rows that are remembered.
const REMEMBERED: usize = 4_096;

/// The rows of about the last hour. A row is forgotten when another row takes its slot.
#[derive(Debug)]
pub(super) struct RecentRows {
    slots: Box<[AtomicU64]>,
    /// Number of the hour. Rows of earlier hours are not found.
    hour: AtomicU64,
    /// Numbers of different and of repeated rows in this hour.
    different: AtomicU64,
    repeated: AtomicU64,
}

/// The numbers of equal rows of a sample.
#[derive(Debug, Default)]
pub(super) struct EqualRows {
    counts: HashMap<u64, u64>,
}

impl RecentRows {
    /// Creates the memory of rows; `None` if rows are expected to be repeated, or if it is not known.
    pub(super) fn new(repeated_pairs_in_training: Option<f64>) -> Option<RecentRows> {
        let is_rare = repeated_pairs_in_training.is_some_and(|pairs| pairs < MAX_REPEATED_PAIRS);
        let slots = || (0..REMEMBERED).map(|_| AtomicU64::new(0)).collect();
        is_rare.then(|| RecentRows {
            slots: slots(),
            hour: AtomicU64::new(1),
            different: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
        })
    }

    /// Forgets all rows.
    pub(super) fn next_hour(&self) {
        self.hour.fetch_add(1, Relaxed);
        self.different.store(0, Relaxed);
        self.repeated.store(0, Relaxed);
    }

    /// Remembers the rows of a request. Returns true for each row that is repeated, and not to be counted again.
    pub(super) fn remember(&self, features: &Features) -> Vec<bool> {
        let hour = self.hour.load(Relaxed);
        let is_complete = |row: usize| {
            let texts = features.texts_of(row).iter().all(Option::is_some);
            texts && features.numbers_of(row).iter().all(|number| number.is_finite())
        };
        let is_known = |row: usize| {
            let hash = hash_of(features, row, hour);
            let slot = &self.slots[hash as usize % REMEMBERED];
            let is_known = slot.load(Relaxed) == hash;
            if !is_known {
                slot.store(hash, Relaxed);
            }
            is_known
        };
        let is_repeated = |row: usize| is_complete(row) && self.is_discounted(is_known(row));
        (0..features.rows()).map(is_repeated).collect()
    }

    /// Counts a row as repeated or not. Returns true if it is repeated, and not nine of ten rows of the hour are.
    fn is_discounted(&self, is_known: bool) -> bool {
        let counter = if is_known { &self.repeated } else { &self.different };
        counter.fetch_add(1, Relaxed);
        is_known && self.repeated.load(Relaxed) <= MAX_REPEATED * self.different.load(Relaxed) + MAX_FIRST_REPEATED
    }
}

impl EqualRows {
    pub(super) fn add(&mut self, features: &Features) {
        for row in 0..features.rows() {
            *self.counts.entry(hash_of(features, row, 0)).or_default() += 1;
        }
    }

    /// Returns the share of pairs of two rows that are the same, 0 to 1; `None` with fewer than two rows.
    pub(super) fn share_of_pairs(&self) -> Option<f64> {
        let pairs = |rows: u64| rows as f64 * rows.saturating_sub(1) as f64 / 2.0;
        let all = pairs(self.counts.values().sum());
        (all > 0.0).then(|| self.counts.values().map(|rows| pairs(*rows)).sum::<f64>() / all)
    }
}

fn hash_of(features: &Features, row: usize, hour: u64) -> u64 {
    let mut hasher = FixedState::default().build_hasher();
    hasher.write_u64(hour);
    features.numbers_of(row).iter().for_each(|number| hasher.write_u32(number.to_bits()));
    for text in features.texts_of(row) {
        hasher.write(text.as_deref().unwrap_or_default().as_bytes());
        hasher.write_u8(u8::from(text.is_some()));
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(numbers: &[f32]) -> Features {
        let mut features = Features::with_rows(numbers.len());
        features.numbers = numbers.iter().flat_map(|number| [*number, 1.0]).collect();
        features.texts = vec![Some("x".to_owned()); numbers.len()];
        features
    }

    #[test]
    fn a_row_is_new_once_an_hour() {
        let recent = RecentRows::new(Some(0.0)).unwrap();
        assert_eq!(recent.remember(&rows(&[1.0, 2.0, 1.0])), [false, false, true]);
        assert_eq!(recent.remember(&rows(&[2.0, 3.0])), [true, false]);
        recent.next_hour();
        assert_eq!(recent.remember(&rows(&[1.0, 1.0])), [false, true]);
    }

    /// A feature store that is down makes all rows the same.
    #[test]
    fn rows_are_counted_if_almost_all_are_the_same_or_incomplete() {
        let recent = RecentRows::new(Some(0.0)).unwrap();
        let counted = recent.remember(&rows(&[7.0; 1_000])).iter().filter(|is_repeated| !**is_repeated).count();
        assert!(counted > 940, "{counted}");
        let recent = RecentRows::new(Some(0.0)).unwrap();
        assert!(!recent.remember(&rows(&[f32::NAN; 20])).contains(&true));
    }

    #[test]
    fn different_rows_are_new() {
        let recent = RecentRows::new(Some(0.0)).unwrap();
        let many: Vec<f32> = (0..20_000).map(|row| row as f32).collect();
        assert!(!recent.remember(&rows(&many)).contains(&true));
    }

    #[test]
    fn where_training_rows_are_the_same_repetition_is_expected() {
        let mut equal = EqualRows::default();
        equal.add(&rows(&[1.0, 1.0, 1.0, 2.0]));
        // Of six pairs, three are the same.
        assert_eq!(equal.share_of_pairs(), Some(0.5));
        assert!(RecentRows::new(equal.share_of_pairs()).is_none() && RecentRows::new(None).is_none());
        assert_eq!(EqualRows::default().share_of_pairs(), None);
    }
}
