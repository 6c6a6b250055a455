//! Health and metadata of the server and of models.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Response to `GET /v2/health/live`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServerLive {
    /// Always true: a server that is not alive responds with an error.
    pub live: bool,
}

/// Response to `GET /v2/health/ready`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServerReady {
    /// Always true: a server that is not ready responds with an error.
    pub ready: bool,
}

/// Response to `GET /v2/models/{model}/ready`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelReady {
    /// Name of the model.
    pub name: String,
    /// Always true: a model that is not ready responds with an error.
    pub ready: bool,
}

/// Response to `GET /v2`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServerMetadata {
    /// Name of the server.
    pub name: Cow<'static, str>,
    /// Version of the server.
    pub version: Cow<'static, str>,
    /// Names of the extensions that are served.
    pub extensions: Vec<Cow<'static, str>>,
}

/// Response to `GET /v2/models/{model}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelMetadata {
    /// Name of the model.
    pub name: String,
    /// Loaded versions of the model, or the version that was asked for.
    pub versions: Vec<String>,
    /// Format of the model.
    pub platform: Cow<'static, str>,
    /// Inputs of the model itself.
    pub inputs: Vec<TensorMetadata>,
    /// Outputs of the model itself.
    pub outputs: Vec<TensorMetadata>,
    /// Columns that the model's pipeline takes and answers instead, if it takes columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<PipelineMetadata>,
}

/// Columns of a pipeline. A request with these columns gets predictions, as `/predict` makes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PipelineMetadata {
    /// Value of the parameter `content` that a request with columns needs, because all of them have the names of inputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Cow<'static, str>>,
    /// Columns that the preprocessor reads. A number may have any numeric type.
    pub inputs: Vec<TensorMetadata>,
    /// Columns of the predictions.
    pub outputs: Vec<TensorMetadata>,
}

/// Name, type and shape of a tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TensorMetadata {
    /// Name of the tensor.
    pub name: String,
    /// Name of the type of the elements, as in `FP32`.
    pub datatype: Cow<'static, str>,
    /// Lengths of the dimensions; -1 for any length.
    pub shape: Vec<i64>,
}

/// Response to `GET /v2/models`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelList {
    /// Names of the served models.
    pub models: Vec<String>,
}

/// Response to `GET /v2/models/{model}/config`: the part of Triton's model configuration that clients read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelConfig {
    /// Name of the model.
    pub name: String,
    /// Format of the model.
    pub platform: Cow<'static, str>,
    /// Name of the runtime.
    pub backend: Cow<'static, str>,
    /// Maximum number of rows of a request; 0 if the model has no rows.
    pub max_batch_size: usize,
    /// Inputs of the model, without the dimension of the rows if it has one.
    pub input: Vec<TensorConfig>,
    /// Outputs of the model, without the dimension of the rows if it has one.
    pub output: Vec<TensorConfig>,
}

/// Name, type and shape of a tensor in Triton's model configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TensorConfig {
    /// Name of the tensor.
    pub name: String,
    /// Name of the type of the elements, as in `TYPE_FP32`.
    pub data_type: String,
    /// Lengths of the dimensions; -1 for any length.
    pub dims: Vec<i64>,
}
