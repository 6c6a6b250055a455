//! The response to feedback.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::monitor::FeedbackResult;

/// Response to a request with feedback.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Taken {
    /// Number of feedback items with each result.
    pub results: BTreeMap<FeedbackResult, u64>,
    /// Problems of the first items that have a problem. Their number is limited, to bound the size of the response.
    pub problems: Vec<ItemProblem>,
}

/// Problem of a feedback item.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct ItemProblem {
    /// Index of the item in the request, counted from 0.
    pub index: usize,
    /// Result of the item.
    pub result: FeedbackResult,
    /// The problem, and the remedy if there is one.
    pub detail: String,
}
