//! Answers to questions about the server and its models.

use super::proto::health::health_check_response::ServingStatus;
use super::proto::inference::model_metadata_response::TensorMetadata;
use super::proto::inference::{
    DataType, ModelConfig, ModelConfigResponse, ModelInput, ModelMetadataResponse, ModelOutput, ServerMetadataResponse,
};
use crate::api::v2;
use crate::config::HealthConfig;
use crate::error::Result;
use crate::registry::{ServedModel, ServedVersion, Snapshot, Target};
use crate::tensor::{DType, Dim, RowDimension, Signature, TensorSpec};
use crate::traffic::Share;

/// Format of all models, as the protocol names it.
const PLATFORM: &str = "onnx_onnxv1";
/// Runtime of all models, as Triton names it.
const BACKEND: &str = "onnxruntime";
/// Name of the service of inferences, which health checks may name.
const INFERENCE_SERVICE: &str = "inference.GRPCInferenceService";

/// The served models, and the facts that decide if they take requests.
#[derive(Debug, Clone, Copy)]
pub struct Served<'a> {
    /// The served models.
    pub snapshot: &'a Snapshot,
    /// Settings for the detection of runs that do not end.
    pub health: &'a HealthConfig,
    /// True if the server takes requests.
    pub is_ready: bool,
}

impl Served<'_> {
    /// Returns true if a model takes requests, or this version of it.
    pub fn is_model_ready(&self, name: &str, version: &str) -> bool {
        let is_stuck = |served: &ServedVersion| served.is_stuck(self.health.stuck_after(served.budget.total));
        let is_model_ready = |model: &ServedModel| {
            let mut with_traffic = model.versions.values().filter(|served| model.split.share(served.version) != Share::NONE);
            !with_traffic.any(|served| is_stuck(served))
        };
        self.is_ready
            && match version {
                "" => model(self.snapshot, name).is_ok_and(is_model_ready),
                version => version_of(self.snapshot, name, version).is_ok_and(|served| !is_stuck(served)),
            }
    }
}

/// Returns the health of the server (for an empty name) or of a model; `None` if there is no such model.
pub fn health_of(served: Served<'_>, service: &str) -> Option<ServingStatus> {
    let is_serving = match service {
        "" | INFERENCE_SERVICE => served.is_ready && !served.snapshot.models().is_empty(),
        name if served.snapshot.models().contains_key(name) => served.is_model_ready(name, ""),
        name if served.snapshot.unserved().contains_key(name) => false,
        _ => return None,
    };
    Some(if is_serving { ServingStatus::Serving } else { ServingStatus::NotServing })
}

/// Describes the server.
pub fn metadata_of_server() -> ServerMetadataResponse {
    ServerMetadataResponse {
        name: "leeway".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        extensions: v2::EXTENSIONS.iter().map(ToString::to_string).collect(),
    }
}

/// Describes a model: the inputs and outputs of this version, or of the stable one.
pub fn metadata_of_model(snapshot: &Snapshot, name: &str, version: &str) -> Result<ModelMetadataResponse> {
    let served = version_of(snapshot, name, version)?;
    let signature = served.pipeline.model.signature();
    let described = |spec: &TensorSpec| TensorMetadata {
        name: spec.name.to_string(),
        datatype: v2::datatype(spec.dtype).unwrap_or_default().to_owned(),
        shape: lengths(&dims_in_file(signature, spec)),
    };
    Ok(ModelMetadataResponse {
        name: served.model.to_string(),
        versions: model(snapshot, name)?.versions.keys().map(ToString::to_string).collect(),
        platform: PLATFORM.to_owned(),
        inputs: signature.inputs.iter().map(described).collect(),
        outputs: signature.outputs.iter().map(described).collect(),
    })
}

/// Returns the configuration of a model, as far as clients read it.
pub fn model_config(snapshot: &Snapshot, name: &str, version: &str) -> Result<ModelConfigResponse> {
    let served = version_of(snapshot, name, version)?;
    let signature = served.pipeline.model.signature();
    // Clients take the first dimension as the batch only if every tensor has it there.
    let has_batch = signature.row_dimensions.is_empty() && matches!(signature.batch_dim(), Dim::Dynamic(_));
    let dims = |spec: &TensorSpec| {
        let dims = dims_in_file(signature, spec);
        lengths(if has_batch { dims.get(1..).unwrap_or_default() } else { &dims })
    };
    let input = |spec: &TensorSpec| ModelInput {
        name: spec.name.to_string(),
        data_type: data_type(spec.dtype).into(),
        dims: dims(spec),
    };
    let output = |spec: &TensorSpec| ModelOutput {
        name: spec.name.to_string(),
        data_type: data_type(spec.dtype).into(),
        dims: dims(spec),
    };
    let most_rows = if has_batch { served.config.model.max_instances.get() } else { 0 };
    let config = ModelConfig {
        name: served.model.to_string(),
        platform: PLATFORM.to_owned(),
        max_batch_size: i32::try_from(most_rows).unwrap_or(i32::MAX),
        input: signature.inputs.iter().map(input).collect(),
        output: signature.outputs.iter().map(output).collect(),
        backend: BACKEND.to_owned(),
    };
    Ok(ModelConfigResponse { config: Some(config) })
}

/// Returns a model by name; the default model if the name is empty.
fn model<'a>(snapshot: &'a Snapshot, name: &str) -> Result<&'a ServedModel> {
    let name = match name {
        "" => snapshot.resolve(Target::Default, b"")?.model.as_str(),
        name => name,
    };
    Ok(snapshot.model(name)?.1)
}

/// Returns a version of a model; the stable one if the version is empty.
fn version_of<'a>(snapshot: &'a Snapshot, name: &str, version: &str) -> Result<&'a ServedVersion> {
    let of = model(snapshot, name)?;
    let served = match version {
        "" => of.versions.get(&of.stable),
        _ => None,
    };
    match served {
        Some(served) => Ok(served),
        None => {
            let stable = of.stable.to_string();
            let name = of.versions.values().next().map_or(name, |served| served.model.as_str());
            let version = if version.is_empty() { &stable } else { version };
            Ok(snapshot.resolve(Target::Version(name, version), b"")?)
        }
    }
}

/// Returns the dimensions of a tensor as in the model's file.
fn dims_in_file(signature: &Signature, spec: &TensorSpec) -> Vec<Dim> {
    let mut dims = spec.dims.clone();
    match signature.row_dimensions.get(&spec.name) {
        Some(RowDimension::At(index)) if *index < dims.len() => dims[..=*index].rotate_left(1),
        Some(RowDimension::None) if !dims.is_empty() => drop(dims.remove(0)),
        _ => {}
    }
    dims
}

fn lengths(dims: &[Dim]) -> Vec<i64> {
    let length = |dim: &Dim| match dim {
        Dim::Fixed(length) => i64::try_from(*length).unwrap_or(i64::MAX),
        Dim::Dynamic(_) => -1,
    };
    dims.iter().map(length).collect()
}

fn data_type(dtype: DType) -> DataType {
    match dtype {
        DType::Bool => DataType::TypeBool,
        DType::U8 => DataType::TypeUint8,
        DType::U16 => DataType::TypeUint16,
        DType::U32 => DataType::TypeUint32,
        DType::U64 => DataType::TypeUint64,
        DType::I8 => DataType::TypeInt8,
        DType::I16 => DataType::TypeInt16,
        DType::I32 => DataType::TypeInt32,
        DType::I64 => DataType::TypeInt64,
        DType::F16 => DataType::TypeFp16,
        DType::F32 => DataType::TypeFp32,
        DType::F64 => DataType::TypeFp64,
        DType::Text => DataType::TypeString,
        DType::BF16 => DataType::TypeBf16,
        DType::Sequence => DataType::TypeInvalid,
    }
}
