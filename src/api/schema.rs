//! The schemas of a version: what an instance has to be, and what a prediction is.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::identity::{ModelName, Sha256, Version};

/// Response with the schemas of a version, and an example.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModelSchema {
    /// Name of the model.
    pub name: ModelName,
    /// Number of the version.
    pub version: Version,
    /// JSON Schema (draft 2020-12) of an instance.
    pub instance: AnyJson,
    /// JSON Schema (draft 2020-12) of a prediction.
    pub prediction: AnyJson,
    /// Body of a request for a prediction, which can be sent as it is; absent if no example is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub example: Option<PredictionRequest>,
}

/// Body of a request for predictions, in its usual form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct PredictionRequest {
    /// The instances, whose form depends on the model. There is a prediction for each of them.
    #[schemars(length(min = 1))]
    pub instances: Vec<JsonText>,
}

/// Response with predictions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PredictionAnswer {
    /// A prediction for each instance, in order. Their form depends on the model.
    pub predictions: Vec<AnyJson>,
    /// The version that answered.
    pub model: ModelIdentity,
    /// An id for each prediction, in order, for feedback.
    pub prediction_ids: Vec<String>,
}

/// The version that answered a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelIdentity {
    /// Name of the model.
    pub name: ModelName,
    /// Number of the version.
    pub version: Version,
    /// Digest of all files of the version.
    pub sha256: Sha256,
}

/// Any JSON value. It is displayed as indented JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct AnyJson(pub Value);

/// Any JSON value, as text: an instance may have a million numbers.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct JsonText(#[schemars(with = "Value")] pub Box<RawValue>);

impl PartialEq for JsonText {
    fn eq(&self, other: &JsonText) -> bool {
        self.0.get() == other.0.get()
    }
}

/// Writes the body of a request.
impl fmt::Display for PredictionRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instances: Vec<&str> = self.instances.iter().map(|JsonText(instance)| instance.get()).collect();
        write!(f, "{{\"instances\": [{}]}}", instances.join(", "))
    }
}

impl fmt::Display for AnyJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}
