//! The answer to feedback.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::monitor::FeedbackResult;

/// Result of a request with feedback.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Taken {
    /// Number of items with each result.
    pub results: BTreeMap<FeedbackResult, u64>,
    /// Problems of items; only the first ones, to bound the answer.
    pub problems: Vec<ItemProblem>,
}

/// Problem of an item.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct ItemProblem {
    /// Index of the item, counted from 0.
    pub index: usize,
    /// Its result.
    pub result: FeedbackResult,
    /// The problem, and the remedy if there is one.
    pub detail: String,
}
