//! The served models: the responses to `GET /v1/models` and the paths below it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::Provider;
use crate::identity::{ModelName, Sha256, Version};
use crate::model::BatchingStatus;
use crate::traffic::Share;

/// Response with all models of the repository.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Models {
    /// The models: first the served models by name, then the others by name.
    pub models: Vec<ModelView>,
}

/// Description of a model and its loaded versions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModelView {
    /// Name of the model.
    pub name: ModelName,
    /// True if the model can answer requests.
    pub ready: bool,
    /// The reason why the model is not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Description of the model in `model.toml`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// True for the default model, which answers `POST /predict`.
    pub default: bool,
    /// Loaded versions of the model, the newest first, in the format of TensorFlow Serving.
    pub model_version_status: Vec<TensorFlowVersion>,
    /// Loaded versions of the model, the newest first, in Leeway's format.
    pub versions: Vec<VersionView>,
}

/// TensorFlow Serving's view of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TensorFlowVersion {
    /// Number of the version, as text.
    pub version: String,
    /// Always `AVAILABLE`.
    pub state: String,
    /// Always the status of a version without a problem.
    pub status: TensorFlowStatus,
}

/// TensorFlow Serving's view of a problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TensorFlowStatus {
    /// Always `OK`.
    pub error_code: String,
    /// Always empty.
    pub error_message: String,
}

/// Response with one loaded version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModelVersionView {
    /// The version in the format of TensorFlow Serving, which lists one version here.
    pub model_version_status: [TensorFlowVersion; 1],
    /// The version in Leeway's format.
    #[serde(flatten)]
    pub version: VersionView,
}

/// Description of a loaded version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VersionView {
    /// Number of the version.
    pub version: Version,
    /// True if it is the stable version.
    pub stable: bool,
    /// Share of the requests that name no version, in percent.
    pub traffic_percent: Share,
    /// Digest of all files of the version.
    pub sha256: Sha256,
    /// Execution provider of the sessions. Not for a chain, which has no sessions of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<Provider>,
    /// Number of workers. Not for a chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<usize>,
    /// Number of threads of each worker. Not for a chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intra_op_threads: Option<usize>,
    /// The choice of the numbers of workers, threads and rows of a shared run, with the measured times. Absent if
    /// `model.toml` gives the numbers, or nothing could be measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sizing: Option<String>,
    /// Latency budget of a request, in milliseconds.
    pub budget_ms: u64,
    /// Sharing of runs between requests: on or off, with the reason. Not for a chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batching: Option<BatchingStatus>,
    /// Steps of a chain, in their order. Empty for a model of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepView>,
    /// Inputs of the model.
    pub inputs: Vec<TensorView>,
    /// Outputs of the model.
    pub outputs: Vec<TensorView>,
}

/// A step of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StepView {
    /// Name of the step.
    pub name: String,
    /// Name of the model that runs.
    pub model: ModelName,
    /// Version of the model; absent if the traffic of the model decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
}

/// Name, type and shape of an input or output that the model declares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TensorView {
    /// Name of the tensor.
    pub name: String,
    /// Type of its elements.
    pub datatype: String,
    /// Length of each dimension; -1 for a dynamic dimension.
    pub shape: Vec<i64>,
}
