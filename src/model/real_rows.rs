//! Rows of real requests, kept until there are enough of one shape to check the independence of a model that could not
//! be checked at load.

use super::independence::{Comparison, are_conclusive};
use crate::tensor::Tensors;

/// Number of rows in one comparison.
const ENOUGH: usize = 3;

/// Number of comparisons that may fail or be inconclusive before the check is given up.
const ATTEMPTS: u32 = 8;

/// Number of runs after which rows are compared even though requests wait.
const MAX_RUNS_TO_WAIT: u32 = 1_000;

/// Number of comparisons of different rows that have to agree, because three rows may be too similar.
const AGREEING: usize = 3;

/// Different rows of one shape from real requests, and their comparisons so far.
#[derive(Debug)]
pub(super) struct RealRows {
    rows: Vec<Tensors>,
    /// Comparisons so far, without their answers.
    comparisons: Vec<Comparison>,
    attempts_left: u32,
    runs_to_wait: u32,
}

impl RealRows {
    pub(super) fn new() -> RealRows {
        RealRows { rows: Vec::new(), comparisons: Vec::new(), attempts_left: ATTEMPTS, runs_to_wait: MAX_RUNS_TO_WAIT }
    }

    /// Keeps the rows of a request that differ from those already kept. Rows of another shape replace the kept ones:
    /// sooner or later, enough rows of a frequent shape arrive in succession.
    pub(super) fn keep(&mut self, inputs: &Tensors) {
        if self.rows.len() >= ENOUGH || self.attempts_left == 0 {
            return;
        }
        if self.rows.first().is_some_and(|first| !first.stacks_with(inputs)) {
            self.rows.clear();
        }
        for row in 0..inputs.rows() {
            if self.rows.len() == ENOUGH {
                return;
            }
            let row = inputs.slice_rows(row..row + 1);
            if !self.rows.contains(&row) {
                self.rows.push(row);
            }
        }
    }

    /// Takes the rows to compare, if there are enough of them. While requests wait, the comparison is put off for up to
    /// `MAX_RUNS_TO_WAIT` runs.
    pub(super) fn take(&mut self, somebody_waits: bool) -> Option<Vec<Tensors>> {
        if self.rows.len() < ENOUGH {
            return None;
        }
        if somebody_waits && self.runs_to_wait > 0 {
            self.runs_to_wait -= 1;
            return None;
        }
        self.attempts_left -= 1;
        Some(std::mem::take(&mut self.rows))
    }

    /// Adds a comparison. Returns all comparisons once they allow a finding: one shows a dependence, or enough of them
    /// agree.
    pub(super) fn add(&mut self, comparison: Comparison) -> Option<&[Comparison]> {
        let is_dependent = comparison.dependence.is_some();
        if are_conclusive(std::slice::from_ref(&comparison)) {
            self.attempts_left += 1;
            self.comparisons.push(Comparison { alone: Vec::new(), ..comparison });
        } else if is_dependent {
            self.comparisons.push(comparison);
        }
        (is_dependent || self.comparisons.len() >= AGREEING).then_some(&self.comparisons)
    }

    /// Puts back the rows of a comparison that was given up because a request arrived.
    pub(super) fn put_back(&mut self, rows: Vec<Tensors>) {
        (self.rows, self.attempts_left) = (rows, self.attempts_left + 1);
    }

    /// Returns true if a comparison is given up when a request arrives.
    pub(super) fn gives_way(&self) -> bool {
        self.runs_to_wait > 0
    }

    /// Returns true if no further comparison will be attempted.
    pub(super) fn has_given_up(&self) -> bool {
        self.attempts_left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{Data, Tensor};

    fn request(rows: &[f32], width: usize) -> Tensors {
        let values = rows.iter().flat_map(|row| vec![*row; width]).collect();
        [("x".into(), Tensor::new(vec![rows.len(), width], Data::F32(values)).unwrap())].into_iter().collect()
    }

    #[test]
    fn three_different_rows_of_one_shape_are_enough() {
        let mut rows = RealRows::new();
        rows.keep(&request(&[1.0, 2.0], 4));
        rows.keep(&request(&[3.0], 5));
        rows.keep(&request(&[3.0, 3.0, 4.0], 5));
        assert_eq!(rows.take(false), None);
        rows.keep(&request(&[5.0, 6.0], 5));
        assert_eq!(rows.take(true), None);
        assert_eq!(rows.take(false), Some([3.0, 4.0, 5.0].map(|row| request(&[row], 5)).to_vec()));
    }

    #[test]
    fn attempts_come_to_an_end() {
        let mut rows = RealRows::new();
        for attempt in 0..ATTEMPTS {
            assert!(!rows.has_given_up(), "{attempt}");
            rows.keep(&request(&[1.0, 2.0, 3.0], 1));
            rows.take(false).unwrap();
        }
        rows.keep(&request(&[1.0, 2.0, 3.0], 1));
        assert!(rows.has_given_up() && rows.take(false).is_none());
    }
}
