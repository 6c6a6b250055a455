//! Bounds of the elements per row and per run, for a model with open dimensions, whose length the caller chooses.
//!
//! A model whose memory grows with the square of the row length takes gigabytes for a request of a few kilobytes. So
//! the trial of a version runs longer and longer rows until a run takes more memory than allowed. Requests above that
//! length are refused.

use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};

use super::made_up_rows::{open_dimensions, row_elements, rows_of_lengths};
use crate::tensor::{Dim, Signature, Tensors};

/// First length that is tried, in all open dimensions at once.
const FIRST_LENGTH: usize = 64;

/// Maximum number of elements of a run that is tried.
const MAX_TRIED_ELEMENTS: usize = 1 << 22;

/// Allowed length of open dimensions if no row was tried.
const UNTRIED_LENGTH: usize = 4096;

/// Accepted length as a multiple of the longest row that ran, for a model that itself refuses longer rows.
const LEFT_TO_THE_MODEL: NonZeroUsize = NonZeroUsize::MIN.saturating_add(7);

/// Maximum numbers of elements of all inputs together, per row and per run. `None` means no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ElementBounds {
    /// Bound of one row.
    pub row: Option<NonZeroUsize>,
    /// Bound of one run.
    pub run: Option<NonZeroUsize>,
}

/// Result of a run of one made-up row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tried {
    Ran {
        /// Growth of the memory during the run.
        bytes: u64,
        /// True if the run took longer than any request may take.
        is_too_slow: bool,
    },
    /// The run failed because of too little memory.
    OutOfMemory,
    /// The model does not accept such a row.
    Failed,
    /// No time was left to try the row.
    NoTime,
}

impl ElementBounds {
    /// Returns the bounds that are assumed for a version whose rows were not tried.
    pub fn untried(signature: &Signature) -> ElementBounds {
        if !signature.sequences.is_empty() {
            return ElementBounds { row: NonZeroUsize::new(MAX_TRIED_ELEMENTS), run: None };
        }
        if signature.has_fixed_rows() {
            return ElementBounds::default();
        }
        let elements = row_elements(signature, |_| UNTRIED_LENGTH).min(MAX_TRIED_ELEMENTS);
        ElementBounds { row: NonZeroUsize::new(elements), run: None }
    }

    /// Finds the bounds within which a run takes at most `max_bytes`. Doubles the length of rows in all open dimensions
    /// at once, then tries rows of as many elements that are long in only one of the dimensions. `max_rows` is the
    /// maximum number of rows of a shared run.
    pub fn find(
        signature: &Signature,
        max_bytes: u64,
        max_rows: usize,
        mut attempt: impl FnMut(&Tensors) -> Tried,
    ) -> ElementBounds {
        // Sequences are not made up, so their length is not tried.
        if !signature.sequences.is_empty() {
            return ElementBounds::untried(signature);
        }
        let dimensions = open_dimensions(signature);
        let elements = row_elements(signature, |_| 1);
        if elements == 0 {
            return ElementBounds::default();
        }
        // Rows have a fixed length. Only their number in a run may have to be bounded.
        if dimensions.is_empty() {
            let one = match signature.batch_dim() {
                Dim::Dynamic(_) => attempt(&rows_of_lengths(signature, |_| 1)),
                Dim::Fixed(_) => Tried::Failed,
            };
            let Tried::Ran { bytes, .. } = one else { return ElementBounds::default() };
            return ElementBounds { row: None, run: LongestRow { elements, bytes }.run_bound(max_bytes, max_rows) };
        }
        // A model with a fixed number of rows cannot run a single row.
        let rows = if let Dim::Fixed(rows) = signature.batch_dim() { rows.max(1) } else { 1 };
        let (longest, end) = lengthen(signature, max_bytes, rows, &mut attempt);
        if end != End::Bound {
            let untried = ElementBounds::untried(signature).row;
            let tried = longest.and_then(|longest| NonZeroUsize::new(longest.elements));
            let row = match end {
                // The model itself refuses longer rows, so rows that are somewhat longer than the tried ones are left
                // to it.
                End::Refusal => tried.map(|tried| tried.saturating_mul(LEFT_TO_THE_MODEL)).or(untried),
                // No bound was found.
                _ => tried.max(untried),
            };
            return ElementBounds { row, run: longest.and_then(|longest| longest.run_bound(max_bytes, max_rows)) };
        }
        let Some(longest) = longest else {
            return ElementBounds { row: NonZeroUsize::new(row_elements(signature, |_| FIRST_LENGTH / 2)), run: None };
        };
        let longest = match dimensions.len() {
            1 => longest,
            _ => stretch(longest, signature, &dimensions, max_bytes, attempt),
        };
        ElementBounds { row: NonZeroUsize::new(longest.elements), run: longest.run_bound(max_bytes, max_rows) }
    }

    /// Returns these bounds, raised so that a row of this many elements is within them.
    pub fn or_at_least(self, elements: usize) -> ElementBounds {
        let raised =
            |bound: Option<NonZeroUsize>| bound.map(|bound| bound.max(NonZeroUsize::new(elements).unwrap_or(bound)));
        ElementBounds { row: raised(self.row), run: raised(self.run) }
    }

    /// Returns the bound that `model.toml` sets, or these bounds if it sets none.
    pub fn or_configured(self, configured: Option<NonZeroUsize>) -> ElementBounds {
        match configured {
            Some(_) => ElementBounds { row: None, run: configured },
            None => self,
        }
    }
}

/// The longest row that is allowed so far.
#[derive(Debug, Clone, Copy)]
struct LongestRow {
    elements: usize,
    /// Growth of the memory during its run.
    bytes: u64,
}

/// Reason why rows were not lengthened any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Longer rows take too much memory or time, or are too long to be tried.
    Bound,
    /// The model does not accept longer rows.
    Refusal,
    /// No time was left for longer rows.
    NoTime,
}

/// Doubles the length of rows in all open dimensions at once.
fn lengthen(
    signature: &Signature,
    max_bytes: u64,
    rows: usize,
    attempt: &mut impl FnMut(&Tensors) -> Tried,
) -> (Option<LongestRow>, End) {
    let mut longest = None;
    let mut length = FIRST_LENGTH;
    loop {
        let elements = row_elements(signature, |_| length);
        if elements.saturating_mul(rows) > MAX_TRIED_ELEMENTS {
            return (longest, End::Bound);
        }
        match attempt(&rows_of_lengths(signature, |_| length)) {
            Tried::Ran { bytes, is_too_slow } if bytes <= max_bytes => {
                longest = Some(LongestRow { elements, bytes });
                // Longer rows cannot be answered in time.
                if is_too_slow {
                    return (longest, End::Bound);
                }
            }
            Tried::Ran { .. } | Tried::OutOfMemory => return (longest, End::Bound),
            Tried::Failed => return (longest, End::Refusal),
            Tried::NoTime => return (longest, End::NoTime),
        }
        length *= 2;
    }
}

/// Shortens the row until it fits into memory even if all of its elements lie along one open dimension.
fn stretch(
    mut longest: LongestRow,
    signature: &Signature,
    dimensions: &[String],
    max_bytes: u64,
    mut attempt: impl FnMut(&Tensors) -> Tried,
) -> LongestRow {
    for stretched in dimensions {
        let others = row_elements(signature, |_| 1).max(1);
        while longest.elements > others {
            let length = longest.elements / others;
            let row = rows_of_lengths(signature, |dimension| if dimension == stretched { length } else { 1 });
            match attempt(&row) {
                Tried::Ran { bytes, .. } if bytes <= max_bytes => {
                    longest.bytes = longest.bytes.max(bytes);
                    break;
                }
                Tried::Ran { .. } | Tried::OutOfMemory => longest.elements /= 2,
                Tried::Failed | Tried::NoTime => break,
            }
        }
    }
    longest
}

impl LongestRow {
    /// Bound of a run, if memory grows in proportion to the rows; `None` if a run of `max_rows` fits.
    fn run_bound(self, max_bytes: u64, max_rows: usize) -> Option<NonZeroUsize> {
        let rows = usize::try_from(max_bytes / self.bytes.max(1)).unwrap_or(usize::MAX).max(1);
        if rows >= max_rows { None } else { NonZeroUsize::new(self.elements.saturating_mul(rows)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{DType, TensorSpec};

    const MIB: u64 = 1 << 20;

    fn signature(names: &[&str]) -> Signature {
        let open = |name: &&str| Dim::Dynamic(Some((*name).to_owned()));
        let dims = std::iter::once(Dim::Dynamic(None)).chain(names.iter().map(open)).collect();
        Signature { inputs: vec![TensorSpec { name: "x".into(), dtype: DType::F32, dims }], ..Signature::default() }
    }

    fn find(names: &[&str], mut memory: impl FnMut(&[usize]) -> Tried) -> (usize, Option<usize>) {
        let bounds =
            ElementBounds::find(&signature(names), 256 * MIB, 32, |inputs| memory(inputs.at(0).unwrap().row_shape()));
        (bounds.row.unwrap().get(), bounds.run.map(NonZeroUsize::get))
    }

    fn ran(bytes: usize) -> Tried {
        Tried::Ran { bytes: bytes as u64, is_too_slow: false }
    }

    #[test]
    fn memory_that_grows_with_the_square_of_a_length_is_bounded() {
        // 8192² · 4 bytes are exactly the limit, so a second such row does not fit.
        assert_eq!(find(&["tokens"], |shape| ran(shape[0] * shape[0] * 4)), (8192, Some(8192)));
        // A process that is killed because of too little memory also sets the bound.
        let limited = |shape: &[usize]| if shape[0] > 1000 { Tried::OutOfMemory } else { ran(shape[0]) };
        assert_eq!(find(&["tokens"], limited), (512, None));
    }

    #[test]
    fn what_costs_little_is_bounded_by_what_was_tried() {
        assert_eq!(find(&["values"], |shape| ran(shape[0])), (1 << 22, None));
        assert_eq!(find(&["high", "wide"], |shape| ran(shape[0] * shape[1])), (1 << 22, None));
    }

    #[test]
    fn a_dimension_that_costs_more_than_the_others_bounds_all() {
        let (row, _) = find(&["cheap", "dear"], |shape| ran(shape[0] + shape[1] * shape[1] * 3));
        assert_eq!(row, 8192);
    }

    #[test]
    fn what_the_model_refuses_is_left_to_it() {
        let positions = |shape: &[usize]| if shape[0] > 1000 { Tried::Failed } else { ran(shape[0]) };
        assert_eq!(find(&["tokens"], positions), (8 * 512, None));
        assert_eq!(find(&["tokens"], |_| Tried::Failed), (4096, None));
    }

    #[test]
    fn where_there_is_no_time_what_was_tried_is_taken_and_the_default() {
        let busy = |most: usize| move |shape: &[usize]| if shape[0] > most { Tried::NoTime } else { ran(shape[0]) };
        assert_eq!(find(&["tokens"], busy(10_000)), (8192, None));
        assert_eq!(find(&["tokens"], busy(100)), (4096, None));
    }

    #[test]
    fn a_row_that_is_too_slow_for_any_request_is_the_longest() {
        let slow = |shape: &[usize]| Tried::Ran { bytes: 1, is_too_slow: shape[0] >= 256 };
        assert_eq!(find(&["tokens"], slow), (256, None));
    }

    #[test]
    fn rows_of_a_fixed_number_are_tried_together() {
        let mut signature = signature(&["tokens"]);
        signature.inputs[0].dims[0] = Dim::Fixed(1024);
        let mut largest = 0;
        let bounds = ElementBounds::find(&signature, MIB, 32, |inputs| {
            largest = largest.max(inputs.iter().map(|(_, tensor)| tensor.data().len()).sum());
            Tried::Ran { bytes: 0, is_too_slow: false }
        });
        assert_eq!((largest, bounds.row.map(NonZeroUsize::get)), (MAX_TRIED_ELEMENTS, Some(MAX_TRIED_ELEMENTS / 1024)));
    }

    #[test]
    fn rows_without_elements_come_to_an_end() {
        let mut signature = signature(&["tokens"]);
        signature.inputs[0].dims.push(Dim::Fixed(0));
        let ran = |_: &Tensors| Tried::Ran { bytes: 0, is_too_slow: false };
        assert_eq!(ElementBounds::find(&signature, 1, 32, ran), ElementBounds::default());
    }

    #[test]
    fn the_rows_of_a_run_are_bounded_if_many_do_not_fit() {
        let mut signature = signature(&[]);
        signature.inputs[0].dims.push(Dim::Fixed(784));
        let bounds = |bytes| ElementBounds::find(&signature, 256 * MIB, 32, |_| ran(bytes));
        assert_eq!(bounds(1 << 20), ElementBounds::default());
        assert_eq!(bounds(100 << 20), ElementBounds { row: None, run: NonZeroUsize::new(2 * 784) });
        // One row of a run always has to fit.
        assert_eq!(bounds(1 << 40), ElementBounds { row: None, run: NonZeroUsize::new(784) });
    }

    #[test]
    fn a_model_of_fixed_rows_that_was_not_tried_has_no_bounds() {
        let mut signature = signature(&[]);
        signature.inputs[0].dims.push(Dim::Fixed(784));
        assert_eq!(ElementBounds::find(&signature, 1, 32, |_| Tried::Failed), ElementBounds::default());
        assert_eq!(ElementBounds::untried(&signature), ElementBounds::default());
    }
}
