//! Bounds of what callers may make long: the elements of a row, and of a run, of a model that leaves dimensions open.
//!
//! A model whose memory grows with the square of a row's length takes gigabytes for a request of some kilobytes. So rows are
//! made longer and longer when a version is tried, until a run takes more memory than it may; what is above that is refused.

use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};

use super::made_up::{open_dimensions, row_elements, rows_of_lengths};
use crate::tensor::{Dim, Signature, Tensors};

/// The first length that is tried, of all open dimensions together.
const FIRST_LENGTH: usize = 64;

/// Runs of more elements than this are not tried.
const MAX_TRIED_ELEMENTS: usize = 1 << 22;

/// The length of open dimensions that is allowed where nothing was tried.
const UNTRIED_LENGTH: usize = 4096;

/// Bounds of the elements of all inputs together. `None` is no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ElementBounds {
    /// Of one row.
    pub row: Option<NonZeroUsize>,
    /// Of one run.
    pub run: Option<NonZeroUsize>,
}

/// What came of a run of one row that was made up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tried {
    /// It ran, and took so many bytes more than there were before.
    Ran {
        /// The memory.
        bytes: u64,
        /// Returns true if it took longer than any request may.
        is_too_slow: bool,
    },
    /// It failed for lack of memory.
    OutOfMemory,
    /// The model does not take such a row.
    Failed,
    /// There is no time to try it.
    NoTime,
}

impl ElementBounds {
    /// Bounds of a version that was not tried.
    pub fn untried(signature: &Signature) -> ElementBounds {
        if signature.has_fixed_rows() {
            return ElementBounds::default();
        }
        let elements = row_elements(signature, |_| UNTRIED_LENGTH).min(MAX_TRIED_ELEMENTS);
        ElementBounds { row: NonZeroUsize::new(elements), run: None }
    }

    /// Finds the bounds with which a run takes at most `max_bytes`. Rows are doubled in length in all open dimensions together,
    /// then stretched in each. `max_rows` are as many as requests share.
    pub fn find(
        signature: &Signature,
        max_bytes: u64,
        max_rows: usize,
        mut attempt: impl FnMut(&Tensors) -> Tried,
    ) -> ElementBounds {
        let dimensions = open_dimensions(signature);
        // A row without elements stays one at any length.
        if dimensions.is_empty() || row_elements(signature, |_| 1) == 0 {
            return ElementBounds::default();
        }
        // Where the model fixes the number of rows, one cannot be run alone.
        let rows = if let Dim::Fixed(rows) = signature.batch_dim() { rows.max(1) } else { 1 };
        // The longest row that may be, and the memory that it took.
        let mut longest: Option<(usize, u64)> = None;
        let mut length = FIRST_LENGTH;
        loop {
            let elements = row_elements(signature, |_| length);
            if elements.saturating_mul(rows) > MAX_TRIED_ELEMENTS {
                break;
            }
            match attempt(&rows_of_lengths(signature, |_| length)) {
                Tried::Ran { bytes, .. } if bytes > max_bytes => break,
                Tried::Ran { bytes, is_too_slow } => {
                    longest = Some((elements, bytes));
                    // Whatever is longer cannot be answered in time.
                    if is_too_slow {
                        break;
                    }
                }
                Tried::OutOfMemory => break,
                Tried::Failed | Tried::NoTime => {
                    // The model's own limit, or nobody knows: what is not much longer is left to it.
                    let untried = ElementBounds::untried(signature);
                    let row =
                        longest.map_or(untried.row, |(elements, _)| NonZeroUsize::new(elements.saturating_mul(8)));
                    return ElementBounds {
                        row,
                        run: longest.and_then(|longest| run_bound(longest, max_bytes, max_rows)),
                    };
                }
            }
            length *= 2;
        }
        let Some((mut elements, mut bytes)) = longest else {
            return ElementBounds { row: NonZeroUsize::new(row_elements(signature, |_| FIRST_LENGTH / 2)), run: None };
        };
        for stretched in dimensions.iter().filter(|_| dimensions.len() > 1) {
            let others = row_elements(signature, |_| 1).max(1);
            while elements > others {
                let length = elements / others;
                let row = rows_of_lengths(signature, |dimension| if dimension == stretched { length } else { 1 });
                match attempt(&row) {
                    Tried::Ran { bytes: taken, .. } if taken <= max_bytes => {
                        bytes = bytes.max(taken);
                        break;
                    }
                    Tried::Ran { .. } | Tried::OutOfMemory => elements /= 2,
                    Tried::Failed | Tried::NoTime => break,
                }
            }
        }
        ElementBounds { row: NonZeroUsize::new(elements), run: run_bound((elements, bytes), max_bytes, max_rows) }
    }

    /// Bounds by `model.toml`, or else these.
    pub fn or_configured(self, configured: Option<NonZeroUsize>) -> ElementBounds {
        match configured {
            Some(_) => ElementBounds { row: None, run: configured },
            None => self,
        }
    }
}

/// A run of several rows takes the memory of one, as many times.
fn run_bound((elements, bytes): (usize, u64), max_bytes: u64, max_rows: usize) -> Option<NonZeroUsize> {
    let rows = usize::try_from(max_bytes / bytes.max(1)).unwrap_or(usize::MAX).max(1);
    if rows >= max_rows { None } else { NonZeroUsize::new(elements.saturating_mul(rows)) }
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
        // 8192² · 4 bytes are just what may be taken; there is no room for a second such row.
        assert_eq!(find(&["tokens"], |shape| ran(shape[0] * shape[0] * 4)), (8192, Some(8192)));
        // The same where the model is ended for it.
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
    fn a_model_of_fixed_rows_needs_none() {
        let mut signature = signature(&[]);
        signature.inputs[0].dims.push(Dim::Fixed(784));
        assert_eq!(ElementBounds::find(&signature, 1, 32, |_| Tried::Failed), ElementBounds::default());
        assert_eq!(ElementBounds::untried(&signature), ElementBounds::default());
    }
}
