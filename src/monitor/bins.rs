//! Bins of the values of features, and the lookup of the bin of a value. The bins of a baseline are fixed; only counts
//! change.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// Maximum number of bins of a numeric feature, besides `missing` and `other`. With these two they fill one block of
/// counters.
pub(super) const MAX_NUMBER_BINS: usize = 14;
/// Maximum number of bins of a text feature, besides `missing` and `other`.
pub(super) const MAX_TEXT_BINS: usize = 100;
/// Maximum length of a text with a bin of its own, in bytes. The text becomes a label.
pub(super) const MAX_TEXT_BYTES: usize = 64;

/// The fixed bins that the values of a feature are counted in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Bins {
    /// Numbers: each bin includes its upper edge, and the last bin has all numbers above the last edge.
    Number {
        /// The inner edges, ascending.
        edges: Vec<f64>,
    },
    /// Texts: one bin for each of `values`.
    Text {
        /// The texts that have a bin of their own.
        values: Vec<String>,
    },
}

/// Maximum number of texts that share the bin of rare values.
pub(super) const MAX_RARE_TEXTS: usize = 10_000;

/// Name of the bin of missing values.
pub(super) const MISSING: &str = "missing";
/// Name of the bin of texts without a bin of their own, and of infinite numbers.
pub(super) const OTHER: &str = "other";
/// Names of the bins of numbers below and above all numbers of the training data.
pub(super) const BELOW: &str = "below";
pub(super) const ABOVE: &str = "above";
/// Name of the bin of texts that are known, but too rare for a bin of their own.
pub(super) const RARE: &str = "rare";

impl Bins {
    /// Number of bins besides `missing` and `other`.
    pub fn len(&self) -> usize {
        match self {
            Bins::Number { edges } => edges.len() + 1,
            Bins::Text { values } => values.len(),
        }
    }

    /// Returns true if there are no bins besides `missing` and `other`.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the reason why these bins are invalid; `None` if they are valid.
    pub(super) fn problem(&self) -> Option<String> {
        match self {
            Bins::Number { edges } if edges.len() + 1 > MAX_NUMBER_BINS => {
                Some(format!("there are {} edges, but at most {} are allowed", edges.len(), MAX_NUMBER_BINS - 1))
            }
            Bins::Number { edges } if !edges.iter().all(|edge| edge.is_finite()) => {
                Some("an edge is not a finite number".to_owned())
            }
            Bins::Number { edges } if edges.windows(2).any(|pair| pair[0] >= pair[1]) => {
                Some("the edges do not ascend".to_owned())
            }
            Bins::Text { values } if values.len() > MAX_TEXT_BINS => {
                Some(format!("there are {} values, but at most {MAX_TEXT_BINS} are allowed", values.len()))
            }
            Bins::Text { values } if values.iter().any(|value| value.len() > MAX_TEXT_BYTES) => {
                Some(format!("a value is longer than {MAX_TEXT_BYTES} bytes"))
            }
            Bins::Text { values } => {
                let mut sorted: Vec<&String> = values.iter().collect();
                sorted.sort();
                sorted.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| format!("{:?} occurs twice", pair[0]))
            }
            Bins::Number { .. } => None,
        }
    }
}

/// Returns the name of a bin of one text. A text that equals the name of another bin is quoted.
pub(super) fn quoted(value: &str) -> String {
    if [MISSING, OTHER, RARE, BELOW, ABOVE].contains(&value) { format!("{value:?}") } else { value.to_owned() }
}

/// Returns the name of the bin that ends at an edge: the edge, like the label `le`. An edge just below a short number
/// such as 0 is written as `<0`.
///
/// Numbers are as short as possible without loss.
pub(super) fn shown(edge: f64) -> String {
    let single = edge as f32;
    let below = if f64::from(single) > edge { single.next_down() } else { single };
    let (name, next) = (number(edge), number(f64::from(below.next_up() + 0.0)));
    if next.len() + 1 < name.len() { format!("<{next}") } else { name }
}

fn number(number: f64) -> String {
    let single = number as f32;
    let is_single = f64::from(single) == number;
    match number.abs() {
        0.0 | 1e-4..1e15 if is_single => single.to_string(),
        0.0 | 1e-4..1e15 => number.to_string(),
        _ if is_single => format!("{single:e}"),
        _ => format!("{number:e}"),
    }
}

/// Positions of `missing` and `other` in the block of counters of a numeric feature. They do not depend on its number
/// of bins.
const MISSING_SLOT: usize = MAX_NUMBER_BINS;
const OTHER_SLOT: usize = MAX_NUMBER_BINS + 1;

/// The bins of a numeric feature, for looking up the bin of one value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct NumberBins {
    /// The [`edge_key`] of each edge.
    edges: Vec<i32>,
}

/// Number of features whose bins are looked up together.
pub(super) const LANES: usize = 16;

/// The bins of several numeric features, laid out for speed. Edges are integers, so the compiler can compare four to
/// sixteen features at a time. This is three times as fast as separate searches.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct NumberLanes {
    /// The first edge of each feature, then the second, and so on. A missing edge is greater than any number.
    levels: Vec<[i32; LANES]>,
}

/// Maps a number to an integer, in the same order. The integers of infinity and NaN are above or below those of all
/// finite numbers.
#[inline]
fn key(number: f32) -> i32 {
    // Adding 0 turns -0 into 0. The bits of positive numbers ascend with their value; those of negative ones descend.
    let bits = (number + 0.0).to_bits().cast_signed();
    bits ^ ((bits >> 31).cast_unsigned() >> 1).cast_signed()
}

/// Returns the key of the largest `f32` that is not above an edge. An `f32` is above that number exactly if it is above
/// the edge.
fn edge_key(edge: f64) -> i32 {
    let single = edge as f32;
    key(if f64::from(single) > edge { single.next_down() } else { single })
}

/// Returns the slot (`missing` or `other`) of a value that is not a finite number.
fn slot_of_no_number(value: f32) -> usize {
    if value.is_nan() { MISSING_SLOT } else { OTHER_SLOT }
}

impl NumberBins {
    /// Creates the bins between these edges, which must ascend and be fewer than [`MAX_NUMBER_BINS`].
    pub(super) fn new(edges: &[f64]) -> NumberBins {
        NumberBins { edges: edges.iter().take(MAX_NUMBER_BINS - 1).map(|edge| edge_key(*edge)).collect() }
    }

    /// Returns the index of a value's bin in the feature's block of counters: 0 to 15.
    pub(super) fn slot(&self, value: f32) -> usize {
        match value.is_finite() {
            true => self.edges.partition_point(|edge| *edge < key(value)),
            false => slot_of_no_number(value),
        }
    }

    /// Returns the indexes of all bins in the block of counters, in order, `missing` and `other` last.
    pub(super) fn slots(&self) -> impl Iterator<Item = usize> + use<> {
        (0..self.edges.len() + 1).chain([MISSING_SLOT, OTHER_SLOT])
    }
}

impl NumberLanes {
    /// Combines the bins of up to [`LANES`] features.
    pub(super) fn new<'a>(features: impl Iterator<Item = &'a NumberBins> + Clone) -> NumberLanes {
        let most = features.clone().map(|bins| bins.edges.len()).max().unwrap_or_default();
        let mut levels = vec![[i32::MAX; LANES]; most];
        for (lane, bins) in features.take(LANES).enumerate() {
            for (level, edge) in levels.iter_mut().zip(&bins.edges) {
                level[lane] = *edge;
            }
        }
        NumberLanes { levels }
    }

    /// Returns the slot of one value of each feature, as by [`NumberBins::slot`].
    #[inline]
    pub(super) fn slots(&self, values: &[f32; LANES]) -> [i32; LANES] {
        let keys = values.map(key);
        let mut slots = [0; LANES];
        for level in &self.levels {
            for lane in 0..LANES {
                slots[lane] += i32::from(level[lane] < keys[lane]);
            }
        }
        let (least, most) = (key(f32::NEG_INFINITY), key(f32::INFINITY));
        if keys.iter().fold(false, |found, key| found | (*key <= least) | (*key >= most)) {
            for (slot, value) in slots.iter_mut().zip(values).filter(|(_, value)| !value.is_finite()) {
                *slot = slot_of_no_number(*value) as i32;
            }
        }
        slots
    }
}

/// Minimum number of rows that are looked up together; fewer rows are looked up one by one.
const MIN_TALLIED: usize = 8;
/// Maximum number of rows that are looked up together.
pub(super) const MAX_TALLIED: usize = 32;

impl NumberLanes {
    /// Counts the values of these rows by feature and bin. Calls `found` with the lane (the feature), the slot (the
    /// bin) and the number of values.
    #[inline]
    pub(super) fn tally(&self, rows: &[[f32; LANES]], mut found: impl FnMut(usize, usize, u64)) {
        rows.chunks(MAX_TALLIED).for_each(|rows| self.tally_some(rows, &mut found));
    }

    #[inline]
    fn tally_some(&self, rows: &[[f32; LANES]], found: &mut impl FnMut(usize, usize, u64)) {
        let is_finite = |row: &[f32; LANES]| row.iter().fold(true, |finite, value| finite & value.is_finite());
        if rows.len() < MIN_TALLIED || !rows.iter().all(is_finite) {
            for row in rows {
                self.slots(row).into_iter().enumerate().for_each(|(lane, slot)| found(lane, slot as usize, 1));
            }
            return;
        }
        // Values above an edge but not above the next edge are in the slot between the two.
        let mut keys = [[0; LANES]; MAX_TALLIED];
        keys.iter_mut().zip(rows).for_each(|(keys, row)| *keys = row.map(key));
        let keys = &keys[..rows.len()];
        let mut above = [rows.len() as i32; LANES];
        for (slot, level) in self.levels.iter().enumerate() {
            let mut above_next = [0; LANES];
            for keys in keys {
                for lane in 0..LANES {
                    above_next[lane] += i32::from(level[lane] < keys[lane]);
                }
            }
            for lane in 0..LANES {
                if above[lane] > above_next[lane] {
                    found(lane, slot, (above[lane] - above_next[lane]) as u64);
                }
            }
            above = above_next;
        }
        let above = above.into_iter().enumerate().filter(|(_, count)| *count > 0);
        above.for_each(|(lane, count)| found(lane, self.levels.len(), count as u64));
    }
}

/// The bins of a text feature, for looking up the bin of a text.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TextBins {
    places: HashMap<Box<str>, usize>,
    /// Number of bins besides `missing` and `other`.
    len: usize,
}

impl TextBins {
    /// Creates a bin for each of `values`, and one for all `rare` values together, if they are known.
    pub(super) fn new(values: &[String], rare: Option<&[String]>) -> TextBins {
        let own = values.iter().enumerate().map(|(place, value)| (value, place));
        let rarer = rare.into_iter().flatten().map(|value| (value, values.len()));
        let places = rarer.chain(own).map(|(value, place)| (value.as_str().into(), place)).collect();
        TextBins { places, len: values.len() + usize::from(rare.is_some()) }
    }

    /// Number of bins, including `missing` and `other`.
    pub(super) fn slots(&self) -> usize {
        self.len + 2
    }

    /// Returns the index of a value's bin: those of the values first, then those of rare, missing and other values.
    pub(super) fn slot(&self, value: Option<&str>) -> usize {
        match value {
            None => self.len,
            Some(value) => self.places.get(value).copied().unwrap_or(self.len + 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_number_is_in_the_first_bin_whose_edge_it_does_not_exceed(
            edges in prop::collection::btree_set(-20i32..20, 0..MAX_NUMBER_BINS),
            value in -21.0f32..21.0,
            is_edge in any::<bool>(),
        ) {
            let edges: Vec<f64> = edges.into_iter().map(|edge| f64::from(edge) / 10.0).collect();
            let value = if is_edge { value.round() / 10.0 } else { value / 10.0 };
            let bins = NumberBins::new(&edges);
            prop_assert_eq!(bins.slot(value), edges.iter().filter(|edge| **edge < f64::from(value)).count());
            prop_assert!(bins.slots().any(|slot| slot == bins.slot(value)));
        }

        /// The lookup is right for all bit patterns: NaN of either sign, infinity, -0 and the smallest numbers.
        #[test]
        fn together_they_are_where_they_are_one_by_one(
            edges in prop::collection::vec(prop::collection::btree_set(-20i32..20, 0..MAX_NUMBER_BINS), 1..=LANES),
            bits in prop::array::uniform16(prop_oneof![any::<u32>(), Just(1 << 31), (0u32..40).prop_map(|bits| bits << 24)]),
        ) {
            let edges = edges.iter().map(|edges| edges.iter().map(|edge| f64::from(*edge)).collect::<Vec<f64>>());
            let bins: Vec<NumberBins> = edges.map(|edges| NumberBins::new(&edges)).collect();
            let values = bits.map(f32::from_bits);
            let slots = NumberLanes::new(bins.iter()).slots(&values);
            for ((bins, value), slot) in bins.iter().zip(values).zip(slots) {
                prop_assert_eq!(bins.slot(value), slot as usize, "{}", value);
            }
        }

        #[test]
        fn many_rows_are_where_each_of_them_is(
            edges in prop::collection::vec(prop::collection::btree_set(-20i32..20, 0..MAX_NUMBER_BINS), 1..=LANES),
            rows in prop::collection::vec(prop::array::uniform16(-21i32..22), 0..80),
            missing in prop::option::weighted(0.2, 0usize..80),
        ) {
            let edges = edges.iter().map(|edges| edges.iter().map(|edge| f64::from(*edge)).collect::<Vec<f64>>());
            let bins: Vec<NumberBins> = edges.map(|edges| NumberBins::new(&edges)).collect();
            let mut rows: Vec<[f32; LANES]> = rows.into_iter().map(|row| row.map(|value| value as f32)).collect();
            if let Some(row) = missing.and_then(|row| rows.get_mut(row)) {
                row[0] = f32::NAN;
            }
            let (mut tally, mut one_by_one) = ([[0; 16]; LANES], [[0; 16]; LANES]);
            NumberLanes::new(bins.iter()).tally(&rows, |lane, slot, count| tally[lane][slot] += count);
            for row in &rows {
                for (lane, bins) in bins.iter().enumerate() {
                    one_by_one[lane][bins.slot(row[lane])] += 1;
                }
            }
            prop_assert_eq!(&tally[..bins.len()], &one_by_one[..bins.len()]);
        }
    }

    #[test]
    fn what_is_no_finite_number_has_bins_of_its_own() {
        let bins = NumberBins::new(&[1.0]);
        assert_eq!(bins.slots().collect::<Vec<_>>(), [0, 1, MISSING_SLOT, OTHER_SLOT]);
        assert_eq!((bins.slot(f32::NAN), bins.slot(-f32::NAN)), (MISSING_SLOT, MISSING_SLOT));
        assert_eq!((bins.slot(f32::INFINITY), bins.slot(f32::NEG_INFINITY)), (OTHER_SLOT, OTHER_SLOT));
        assert_eq!((bins.slot(f32::MAX), bins.slot(f32::MIN)), (1, 0));
    }

    /// An edge that is not an `f32` lies between two `f32` values.
    #[test]
    fn a_value_at_an_edge_is_below_it() {
        let bins = NumberBins::new(&[f64::from(0f32.next_down()), 0.0, 0.1, f64::from(0.3f32)]);
        assert_eq!(
            [-1e-45, -0.0, 0.0, 1e-45, 0.1, 0.3, 0.300_000_04].map(|value| bins.slot(value)),
            [0, 1, 1, 2, 3, 3, 4]
        );
    }

    #[test]
    fn a_bin_is_named_after_its_upper_edge() {
        let edges =
            [f64::from(0.3f32), 0.1, -1.5, 0.0, 1e20, -1e-45, -5e-324, f64::from(7f32.next_down()), 0.123_456_789];
        assert_eq!(edges.map(shown), ["0.3", "0.1", "-1.5", "0", "1e20", "<0", "<0", "<7", "0.123456789"]);
        assert_eq!(["a", "other", "below"].map(quoted), ["a", "\"other\"", "\"below\""]);
    }

    #[test]
    fn a_text_is_in_its_own_bin() {
        let values = ["a".to_owned(), "other".to_owned()];
        let slots =
            |bins: TextBins| [Some("a"), Some("other"), Some("b"), None, Some("c")].map(|value| bins.slot(value));
        assert_eq!(slots(TextBins::new(&values, None)), [0, 1, 3, 2, 3]);
        assert_eq!(slots(TextBins::new(&values, Some(&["b".to_owned()]))), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn bins_that_cannot_be_are_named() {
        let numbers = |edges: &[f64]| Bins::Number { edges: edges.to_vec() }.problem();
        let texts = |values: &[&str]| Bins::Text { values: values.iter().map(|v| (*v).to_owned()).collect() }.problem();
        assert_eq!(numbers(&[1.0, 2.0]), None);
        assert_eq!(numbers(&[2.0, 1.0]).unwrap(), "the edges do not ascend");
        assert_eq!(numbers(&[1.0, f64::NAN]).unwrap(), "an edge is not a finite number");
        assert_eq!(numbers(&[0.0; 14]).unwrap(), "there are 14 edges, but at most 13 are allowed");
        assert_eq!(texts(&["a", "b", "a"]).unwrap(), "\"a\" occurs twice");
    }
}
