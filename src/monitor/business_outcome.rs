//! The amounts of a business metric, as sums.

use crate::config::BusinessKind;

/// Number, sum and sum of squares of the amounts of a business metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct BusinessOutcome {
    pub(super) kind: BusinessKind,
    pub(super) items: u64,
    pub(super) sum: f64,
    pub(super) squares: f64,
}

impl BusinessOutcome {
    pub(super) fn new(kind: BusinessKind) -> BusinessOutcome {
        BusinessOutcome { kind, items: 0, sum: 0.0, squares: 0.0 }
    }

    /// Adds an amount.
    pub(super) fn add(&mut self, amount: f64) {
        self.items += 1;
        self.sum += amount;
        self.squares += amount * amount;
    }

    /// Replaces an amount, which may have been added elsewhere.
    pub(super) fn correct(&mut self, before: f64, amount: f64) {
        self.sum += amount - before;
        self.squares += amount * amount - before * before;
    }

    /// Value of the business metric: the sum or the mean of its amounts. A rate is the mean of yes (1) and no (0).
    pub(super) fn value(&self) -> f64 {
        match self.kind {
            BusinessKind::Sum => self.sum,
            BusinessKind::Mean | BusinessKind::Rate => self.sum / self.items.max(1) as f64,
        }
    }
}
