//! The inputs and outputs of a model in the format of TensorFlow Serving: the response to `GET /v1/models/{model}/metadata`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::tensor::{DType, Dim, TensorSpec};

/// Response with the signature of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "TensorFlowMetadata")]
pub struct ModelMetadata {
    /// The version that is described.
    pub model_spec: ModelSpec,
    /// The signature.
    pub metadata: Metadata,
}

/// A version of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelSpec {
    /// Name of the model.
    pub name: String,
    /// Always empty: the response has all signatures.
    pub signature_name: String,
    /// Number of the version, as text.
    pub version: String,
}

/// Metadata of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Metadata {
    /// The signatures.
    pub signature_def: SignatureDefMap,
}

/// The signatures of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SignatureDefMap {
    /// The signatures by name. There is one: `serving_default`.
    pub signature_def: BTreeMap<String, SignatureDef>,
}

/// A signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SignatureDef {
    /// The inputs by name.
    pub inputs: BTreeMap<String, TensorInfo>,
    /// The outputs by name.
    pub outputs: BTreeMap<String, TensorInfo>,
    /// Always `tensorflow/serving/predict`.
    pub method_name: String,
}

/// An input or output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TensorInfo {
    /// Type of the elements, such as `DT_FLOAT`.
    pub dtype: String,
    /// Lengths of the dimensions.
    pub tensor_shape: TensorShape,
    /// Name of the tensor.
    pub name: String,
}

/// Lengths of the dimensions of a tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TensorShape {
    /// The dimensions, the batch first.
    pub dim: Vec<TensorDim>,
    /// Always false.
    pub unknown_rank: bool,
}

/// A dimension of a tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TensorDim {
    /// Length as text; `-1` for a dynamic dimension.
    pub size: String,
    /// Name of a dynamic dimension; usually empty.
    pub name: String,
}

impl SignatureDef {
    /// Creates a signature of these inputs and outputs.
    pub fn new<'a>(
        inputs: impl IntoIterator<Item = &'a TensorSpec>,
        outputs: impl IntoIterator<Item = &'a TensorSpec>,
    ) -> SignatureDef {
        let info = |spec: &TensorSpec| (spec.name.to_string(), TensorInfo::from(spec));
        SignatureDef {
            inputs: inputs.into_iter().map(info).collect(),
            outputs: outputs.into_iter().map(info).collect(),
            method_name: "tensorflow/serving/predict".to_owned(),
        }
    }
}

impl From<&TensorSpec> for TensorInfo {
    fn from(spec: &TensorSpec) -> TensorInfo {
        let dim = |dim: &Dim| match dim {
            Dim::Fixed(length) => TensorDim { size: length.to_string(), name: String::new() },
            Dim::Dynamic(name) => TensorDim { size: "-1".to_owned(), name: name.clone().unwrap_or_default() },
        };
        TensorInfo {
            dtype: data_type(spec.dtype).to_owned(),
            tensor_shape: TensorShape { dim: spec.dims.iter().map(dim).collect(), unknown_rank: false },
            name: spec.name.to_string(),
        }
    }
}

/// Returns TensorFlow's name of an element type (`tensorflow/core/framework/types.proto`).
fn data_type(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "DT_FLOAT",
        DType::F64 => "DT_DOUBLE",
        DType::F16 => "DT_HALF",
        DType::BF16 => "DT_BFLOAT16",
        DType::I8 => "DT_INT8",
        DType::I16 => "DT_INT16",
        DType::I32 => "DT_INT32",
        DType::I64 => "DT_INT64",
        DType::U8 => "DT_UINT8",
        DType::U16 => "DT_UINT16",
        DType::U32 => "DT_UINT32",
        DType::U64 => "DT_UINT64",
        DType::Bool => "DT_BOOL",
        DType::Text => "DT_STRING",
        DType::Sequence => "DT_VARIANT",
    }
}
