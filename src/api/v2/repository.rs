//! The model repository extension.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::pipeline::Object;

/// Request for the index of the repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IndexRequest {
    /// True to list only versions that are ready.
    pub ready: bool,
}

/// Entry of the index: a version of a model, or a model without versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IndexEntry {
    /// Name of the model.
    pub name: String,
    /// The version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// State of the version.
    pub state: IndexState,
    /// The reason for the state; empty if the version is ready.
    pub reason: String,
}

/// State of a version in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum IndexState {
    /// The version answers requests.
    Ready,
    /// The version is being loaded.
    Loading,
    /// The version does not answer requests.
    Unavailable,
}

impl IndexState {
    /// Returns the name of the state.
    pub fn name(self) -> &'static str {
        match self {
            IndexState::Ready => "READY",
            IndexState::Loading => "LOADING",
            IndexState::Unavailable => "UNAVAILABLE",
        }
    }
}

/// Request to load a model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoadRequest {
    /// Parameters of the request.
    #[serde(deserialize_with = "object")]
    pub parameters: LoadParameters,
}

/// Parameters of a request to load a model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoadParameters {
    /// The version to load; by default, those that the model needs.
    pub version: Option<String>,
}

/// Request to unload a model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UnloadRequest {
    /// Parameters of the request.
    #[serde(deserialize_with = "object")]
    pub parameters: UnloadParameters,
}

/// Parameters of a request to unload a model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UnloadParameters {
    /// The version to unload; by default, the whole model.
    pub version: Option<String>,
    /// Ignored: no model depends on another.
    pub unload_dependents: bool,
}

/// Deserializes an object. Serde itself would also take an array of its members.
fn object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Object::deserialize(deserializer).map(|Object(value)| value)
}
