//! The request with feedback, and its response.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::monitor::FeedbackResult;

/// Response to a request with feedback.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Taken {
    /// Number of feedback items with each result.
    pub results: BTreeMap<FeedbackResult, u64>,
    /// Problems of the first items that have a problem. Their number is limited, to bound the size of the response.
    pub problems: Vec<ItemProblem>,
}

/// Problem of a feedback item.
#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ItemProblem {
    /// Index of the item in the request, counted from 0.
    pub index: usize,
    /// Result of the item.
    pub result: FeedbackResult,
    /// The problem, and the remedy if there is one.
    pub detail: String,
}

/// Request with feedback. `feedback/batch.rs` reads it: this type documents its form.
#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The outcomes of predictions.
    #[schemars(length(max = 10_000))]
    pub feedback: Vec<Outcome>,
}

/// The outcome of a prediction.
#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// Id of the prediction, from the response of the server.
    pub prediction_id: String,
    /// The true class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<OutcomeLabel>,
    /// The true number, if the model predicts a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// Amounts of the model's business metrics, by the name of the metric.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32, "propertyNames" = { "maxLength": 128 }))]
    pub metrics: BTreeMap<String, OutcomeAmount>,
}

/// A true class.
#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OutcomeLabel {
    /// A class that is called true or false.
    Yes(bool),
    /// A class that is called by a number.
    Number(f64),
    /// A class that is called by a text.
    Text(String),
}

/// An amount of a business metric.
#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OutcomeAmount {
    /// Something that happened or not.
    Yes(bool),
    /// A number.
    Number(f64),
}
