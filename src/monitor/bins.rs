//! Which bin a value falls into. The edges of a baseline are frozen: only counts move.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// The most bins for numbers, beside `missing` and `other`: as many as fit into one block of counters with these two.
pub(super) const MOST_NUMBER_BINS: usize = 14;
/// The most bins for texts, beside `missing` and `other`.
pub(super) const MOST_TEXT_BINS: usize = 100;
/// The longest text that has a bin of its own, in bytes: it becomes a label.
pub(super) const LONGEST_TEXT: usize = 64;

/// The bins of a feature, as a baseline freezes them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Bins {
    /// Numbers: the first bin is all up to and including the first edge, the last one all above the last edge.
    Number {
        /// The inner edges, ascending.
        edges: Vec<f64>,
    },
    /// Texts: one bin for each of these.
    Text {
        /// The texts that have a bin of their own.
        values: Vec<String>,
    },
}

/// The bin for what is not there.
pub(super) const MISSING: &str = "missing";
/// The bin for a text that no other bin is for, and for an infinite number.
pub(super) const OTHER: &str = "other";

impl Bins {
    /// How many bins there are beside `missing` and `other`.
    pub fn len(&self) -> usize {
        match self {
            Bins::Number { edges } => edges.len() + 1,
            Bins::Text { values } => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The names of all bins, in order: the upper edge of a number's, as in `le`, and then [`MISSING`] and [`OTHER`].
    ///
    /// ```
    /// use leeway::monitor::Bins;
    /// let bins = Bins::Number { edges: vec![0.5, 2.0] };
    /// assert_eq!(bins.names(), ["0.5", "2", "+Inf", "missing", "other"]);
    /// ```
    pub fn names(&self) -> Vec<String> {
        let own: Vec<String> = match self {
            Bins::Number { edges } => edges.iter().map(|edge| shown(*edge)).chain(["+Inf".to_owned()]).collect(),
            // A text that is called as a bin is keeps its quotes.
            Bins::Text { values } => values
                .iter()
                .map(|value| if value == MISSING || value == OTHER { format!("{value:?}") } else { value.clone() })
                .collect(),
        };
        own.into_iter().chain([MISSING.to_owned(), OTHER.to_owned()]).collect()
    }

    /// Why these cannot be bins.
    pub(super) fn problem(&self) -> Option<String> {
        match self {
            Bins::Number { edges } if edges.len() + 1 > MOST_NUMBER_BINS => {
                Some(format!("there are {} edges, at most {}", edges.len(), MOST_NUMBER_BINS - 1))
            }
            Bins::Number { edges } if !edges.iter().all(|edge| edge.is_finite()) => {
                Some("an edge is not a finite number".to_owned())
            }
            Bins::Number { edges } if edges.windows(2).any(|pair| pair[0] >= pair[1]) => {
                Some("the edges do not ascend".to_owned())
            }
            Bins::Text { values } if values.len() > MOST_TEXT_BINS => {
                Some(format!("there are {} values, at most {MOST_TEXT_BINS}", values.len()))
            }
            Bins::Text { values } if values.iter().any(|value| value.len() > LONGEST_TEXT) => {
                Some(format!("a value is longer than {LONGEST_TEXT} bytes"))
            }
            Bins::Text { values } => {
                let mut sorted: Vec<&String> = values.iter().collect();
                sorted.sort();
                sorted.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| format!("{:?} is there twice", pair[0]))
            }
            Bins::Number { .. } => None,
        }
    }
}

/// A number as short as it can be told from others, as `le` is written.
fn shown(number: f64) -> String {
    match number.abs() {
        0.0 | 1e-4..1e15 => number.to_string(),
        _ => format!("{number:e}"),
    }
}

/// The bins of a number, made for speed: the block of counters of one feature is 16 long.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct NumberBins {
    /// The edges, and infinity in the rest.
    edges: [f64; 16],
    len: usize,
}

/// Where `missing` and `other` stand in the block of a number's counters, whatever the number of bins.
const MISSING_SLOT: usize = MOST_NUMBER_BINS;
const OTHER_SLOT: usize = MOST_NUMBER_BINS + 1;

impl NumberBins {
    /// `edges` ascend, and are fewer than [`MOST_NUMBER_BINS`].
    pub(super) fn new(edges: &[f64]) -> NumberBins {
        let mut padded = [f64::INFINITY; 16];
        let kept = edges.len().min(MOST_NUMBER_BINS - 1);
        padded[..kept].copy_from_slice(&edges[..kept]);
        NumberBins { edges: padded, len: kept + 1 }
    }

    /// The slot of a value: 0 to 15. A search of four steps without a branch.
    #[inline]
    pub(super) fn slot(&self, value: f64) -> usize {
        if !value.is_finite() {
            return if value.is_nan() { MISSING_SLOT } else { OTHER_SLOT };
        }
        let mut slot = 0;
        for step in [8, 4, 2, 1] {
            slot += usize::from(self.edges[(slot + step - 1) & 15] < value) * step;
        }
        slot
    }

    /// The slots of all bins, in the order of [`Bins::names`].
    pub(super) fn slots(&self) -> impl Iterator<Item = usize> {
        (0..self.len).chain([MISSING_SLOT, OTHER_SLOT])
    }
}

/// The bins of a text.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TextBins {
    places: HashMap<Box<str>, usize>,
    len: usize,
}

impl TextBins {
    pub(super) fn new(values: &[String]) -> TextBins {
        let places = values.iter().enumerate().map(|(place, value)| (value.as_str().into(), place)).collect();
        TextBins { places, len: values.len() }
    }

    /// How many slots there are, `missing` and `other` among them.
    pub(super) fn slots(&self) -> usize {
        self.len + 2
    }

    /// The slot of a value, in the order of [`Bins::names`].
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
            edges in prop::collection::btree_set(-20i32..20, 0..MOST_NUMBER_BINS),
            value in -21.0f64..21.0,
            is_edge in any::<bool>(),
        ) {
            let edges: Vec<f64> = edges.into_iter().map(f64::from).collect();
            let value = if is_edge { value.round() } else { value };
            let bins = NumberBins::new(&edges);
            prop_assert_eq!(bins.slot(value), edges.iter().filter(|edge| **edge < value).count());
            prop_assert!(bins.slots().any(|slot| slot == bins.slot(value)));
        }
    }

    #[test]
    fn what_is_no_finite_number_has_bins_of_its_own() {
        let bins = NumberBins::new(&[1.0]);
        assert_eq!(bins.slots().collect::<Vec<_>>(), [0, 1, MISSING_SLOT, OTHER_SLOT]);
        assert_eq!(bins.slot(f64::NAN), MISSING_SLOT);
        assert_eq!((bins.slot(f64::INFINITY), bins.slot(f64::NEG_INFINITY)), (OTHER_SLOT, OTHER_SLOT));
        assert_eq!(bins.slot(f64::MAX), 1);
    }

    #[test]
    fn a_text_is_in_its_own_bin() {
        let values = ["a".to_owned(), "other".to_owned()];
        let bins = TextBins::new(&values);
        let slots = [Some("a"), Some("other"), None, Some("b")].map(|value| bins.slot(value));
        assert_eq!(slots, [0, 1, 2, 3]);
        assert_eq!(Bins::Text { values: values.to_vec() }.names(), ["a", "\"other\"", "missing", "other"]);
    }

    #[test]
    fn bins_that_cannot_be_are_named() {
        let numbers = |edges: &[f64]| Bins::Number { edges: edges.to_vec() }.problem();
        let texts = |values: &[&str]| Bins::Text { values: values.iter().map(|v| (*v).to_owned()).collect() }.problem();
        assert_eq!(numbers(&[1.0, 2.0]), None);
        assert_eq!(numbers(&[2.0, 1.0]).unwrap(), "the edges do not ascend");
        assert_eq!(numbers(&[1.0, f64::NAN]).unwrap(), "an edge is not a finite number");
        assert_eq!(numbers(&[0.0; 14]).unwrap(), "there are 14 edges, at most 13");
        assert_eq!(texts(&["a", "b", "a"]).unwrap(), "\"a\" is there twice");
    }
}
