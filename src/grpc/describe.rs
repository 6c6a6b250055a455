//! Descriptions of the server and its models, as messages. `serve` has their contents, which are common to all protocols.

use std::time::Duration;

use super::proto::health::health_check_response::ServingStatus;
use super::proto::inference::repository_index_response::ModelIndex;
use super::proto::inference::{
    DataType, InferStatistics, ModelConfig, ModelConfigResponse, ModelInput, ModelMetadataResponse, ModelOutput,
    ModelStatistics, ModelStatisticsResponse, RepositoryIndexResponse, ServerMetadataResponse, StatisticDuration,
    model_metadata_response,
};
use crate::api::v2;
use crate::error::{Error, Result};
use crate::registry::{ServedVersion, Snapshot, Target};
use crate::serve;

/// Name of the service of inferences, which health checks may name.
const INFERENCE_SERVICE: &str = "inference.GRPCInferenceService";

/// Returns the model or version that these fields of a message name. An empty name stands for the default model, which
/// has no versions that callers can name.
pub fn target<'a>(model: &'a str, version: &'a str) -> Result<Target<'a>> {
    match (model, version) {
        ("", "") => Ok(Target::Default),
        ("", _) => {
            let problem = "found a version without the name of its model; send the name, too, or neither of them";
            Err(Error::InvalidInput(problem.to_owned()))
        }
        (model, "") => Ok(Target::Model(model)),
        (model, version) => Ok(Target::Version(model, version)),
    }
}

/// Returns the health of the server (for an empty name) or of a model; `None` if there is no such model.
pub fn health_of(
    snapshot: &Snapshot,
    is_ready: bool,
    service: &str,
    stuck_after: impl Fn(&ServedVersion) -> Duration,
) -> Option<ServingStatus> {
    let is_serving = match service {
        "" | INFERENCE_SERVICE => !snapshot.models().is_empty(),
        name if snapshot.models().contains_key(name) => {
            serve::check_ready(snapshot, Target::Model(name), stuck_after).is_ok()
        }
        name if snapshot.unserved().contains_key(name) => false,
        _ => return None,
    };
    Some(if is_ready && is_serving { ServingStatus::Serving } else { ServingStatus::NotServing })
}

/// Describes the server.
pub fn server_metadata() -> ServerMetadataResponse {
    ServerMetadataResponse {
        name: "leeway".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        extensions: v2::EXTENSIONS.map(str::to_owned).to_vec(),
    }
}

/// Describes a model.
pub fn model_metadata(described: v2::ModelMetadata) -> ModelMetadataResponse {
    let tensor = |tensor: v2::TensorMetadata| model_metadata_response::TensorMetadata {
        name: tensor.name,
        datatype: tensor.datatype.into_owned(),
        shape: tensor.shape,
    };
    ModelMetadataResponse {
        name: described.name,
        versions: described.versions,
        platform: described.platform.into_owned(),
        inputs: described.inputs.into_iter().map(tensor).collect(),
        outputs: described.outputs.into_iter().map(tensor).collect(),
    }
}

/// Returns the configuration of a model.
pub fn model_config(described: v2::ModelConfig) -> ModelConfigResponse {
    let data_type = |name: &str| DataType::from_str_name(name).unwrap_or_default().into();
    let input = |tensor: v2::TensorConfig| ModelInput {
        data_type: data_type(&tensor.data_type),
        name: tensor.name,
        dims: tensor.dims,
    };
    let output = |tensor: v2::TensorConfig| ModelOutput {
        data_type: data_type(&tensor.data_type),
        name: tensor.name,
        dims: tensor.dims,
    };
    let config = ModelConfig {
        name: described.name,
        platform: described.platform.into_owned(),
        max_batch_size: i32::try_from(described.max_batch_size).unwrap_or(i32::MAX),
        input: described.input.into_iter().map(input).collect(),
        output: described.output.into_iter().map(output).collect(),
        backend: described.backend.into_owned(),
    };
    ModelConfigResponse { config: Some(config) }
}

/// Returns the statistics of versions.
pub fn model_statistics(measured: v2::Statistics) -> ModelStatisticsResponse {
    let duration =
        |statistic: v2::DurationStatistic| Some(StatisticDuration { count: statistic.count, ns: statistic.ns });
    let version = |version: v2::ModelStatistics| {
        let stats = version.inference_stats;
        ModelStatistics {
            name: version.name,
            version: version.version,
            last_inference: version.last_inference,
            inference_count: version.inference_count,
            execution_count: version.execution_count,
            inference_stats: Some(InferStatistics {
                success: duration(stats.success),
                fail: duration(stats.fail),
                queue: duration(stats.queue),
                compute_input: duration(stats.compute_input),
                compute_infer: duration(stats.compute_infer),
                compute_output: duration(stats.compute_output),
            }),
        }
    };
    ModelStatisticsResponse { model_stats: measured.model_stats.into_iter().map(version).collect() }
}

/// Returns the index of the repository.
pub fn repository_index(entries: Vec<v2::IndexEntry>) -> RepositoryIndexResponse {
    let entry = |entry: v2::IndexEntry| ModelIndex {
        name: entry.name,
        version: entry.version.unwrap_or_default(),
        state: entry.state.name().to_owned(),
        reason: entry.reason,
    };
    RepositoryIndexResponse { models: entries.into_iter().map(entry).collect() }
}
