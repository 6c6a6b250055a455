//! The answer to feedback.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::monitor::FeedbackResult;

/// Result of a request with feedback.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Taken {
    /// Number of items with each result.
    pub results: BTreeMap<FeedbackResult, u64>,
    /// Problems of the first items that have one. Their number is limited, to bound the size of the answer.
    pub problems: Vec<ItemProblem>,
}

/// Problem of an item.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct ItemProblem {
    /// Index of the item, counted from 0.
    pub index: usize,
    /// Result of the item.
    pub result: FeedbackResult,
    /// The problem, and the remedy if there is one.
    pub detail: String,
}
