//! The Open Inference Protocol, version 2: its requests and answers over REST, and its names of element types.
//!
//! The specification: <https://github.com/kserve/open-inference-protocol>. The extensions for binary tensors, statistics
//! and the model repository are those of the Triton Inference Server.

mod datatype;
mod infer;
mod metadata;
mod repository;
mod statistics;

pub use self::datatype::{datatype, dtype};
pub use self::infer::{
    AnswerParameters, AnsweredTensor, InferAnswer, InferRequest, InputParameters, InputTensor, OutputParameters,
    RequestParameters, RequestedOutput,
};
pub use self::metadata::{
    ModelConfig, ModelList, ModelMetadata, ModelReady, PipelineMetadata, ServerLive, ServerMetadata, ServerReady,
    TensorConfig, TensorMetadata,
};
pub use self::repository::{
    IndexEntry, IndexRequest, IndexState, LoadParameters, LoadRequest, UnloadParameters, UnloadRequest,
};
pub use self::statistics::{DurationStatistic, InferStatistics, ModelStatistics, Statistics};

/// Names of the extensions that are served.
pub const EXTENSIONS: [&str; 4] = ["binary_tensor_data", "model_repository", "parameters", "statistics"];

/// Name of the platform in the metadata of a model.
pub const PLATFORM: &str = "onnx_onnxv1";

/// Platform of chains, whose steps are other models: the word that Triton has for them.
pub const PLATFORM_OF_CHAINS: &str = "ensemble";
