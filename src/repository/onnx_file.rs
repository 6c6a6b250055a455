//! The messages of an ONNX file, with the fields that the server reads.
//!
//! Only the needed fields of `onnx.proto` are declared (field numbers as in ONNX 1.20, `onnx/onnx.proto`); all others
//! are skipped. Weights are not copied: they stay parts of the file's bytes.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::file_kind::FileKind;

#[derive(Clone, PartialEq, Message)]
pub(super) struct ModelProto {
    #[prost(string, tag = "2")]
    pub(super) producer_name: String,
    #[prost(string, tag = "3")]
    pub(super) producer_version: String,
    #[prost(message, optional, tag = "7")]
    pub(super) graph: Option<GraphProto>,
    #[prost(message, repeated, tag = "14")]
    pub(super) metadata_props: Vec<StringStringEntryProto>,
    #[prost(message, repeated, tag = "20")]
    pub(super) training_info: Vec<TrainingInfoProto>,
    #[prost(message, repeated, tag = "25")]
    pub(super) functions: Vec<FunctionProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TrainingInfoProto {
    #[prost(message, optional, tag = "1")]
    pub(super) initialization: Option<GraphProto>,
    #[prost(message, optional, tag = "2")]
    pub(super) algorithm: Option<GraphProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct FunctionProto {
    #[prost(message, repeated, tag = "7")]
    pub(super) node: Vec<NodeProto>,
    #[prost(message, repeated, tag = "11")]
    pub(super) attribute_proto: Vec<AttributeProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GraphProto {
    #[prost(message, repeated, tag = "1")]
    pub(super) node: Vec<NodeProto>,
    #[prost(message, repeated, tag = "5")]
    pub(super) initializer: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    pub(super) input: Vec<ValueInfoProto>,
    #[prost(message, repeated, tag = "12")]
    pub(super) output: Vec<ValueInfoProto>,
    #[prost(message, repeated, tag = "15")]
    pub(super) sparse_initializer: Vec<SparseTensorProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ValueInfoProto {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, optional, tag = "2")]
    pub(super) r#type: Option<TypeProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TypeProto {
    #[prost(message, optional, tag = "1")]
    pub(super) tensor_type: Option<TensorTypeProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorTypeProto {
    #[prost(int32, tag = "1")]
    pub(super) elem_type: i32,
    #[prost(message, optional, tag = "2")]
    pub(super) shape: Option<TensorShapeProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorShapeProto {
    #[prost(message, repeated, tag = "1")]
    pub(super) dim: Vec<DimensionProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DimensionProto {
    #[prost(int64, optional, tag = "1")]
    pub(super) dim_value: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct NodeProto {
    #[prost(string, repeated, tag = "1")]
    pub(super) input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub(super) output: Vec<String>,
    #[prost(string, tag = "4")]
    pub(super) op_type: String,
    #[prost(message, repeated, tag = "5")]
    pub(super) attribute: Vec<AttributeProto>,
    #[prost(string, tag = "7")]
    pub(super) domain: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct AttributeProto {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(int64, tag = "3")]
    pub(super) i: i64,
    #[prost(message, optional, boxed, tag = "5")]
    pub(super) t: Option<Box<TensorProto>>,
    #[prost(message, optional, boxed, tag = "6")]
    pub(super) g: Option<Box<GraphProto>>,
    #[prost(int64, repeated, tag = "8")]
    pub(super) ints: Vec<i64>,
    #[prost(bytes = "bytes", repeated, tag = "9")]
    pub(super) strings: Vec<Bytes>,
    #[prost(message, repeated, tag = "10")]
    pub(super) tensors: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    pub(super) graphs: Vec<GraphProto>,
    #[prost(int32, tag = "20")]
    pub(super) r#type: i32,
    #[prost(message, optional, boxed, tag = "22")]
    pub(super) sparse_tensor: Option<Box<SparseTensorProto>>,
    #[prost(message, repeated, tag = "23")]
    pub(super) sparse_tensors: Vec<SparseTensorProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SparseTensorProto {
    #[prost(message, optional, tag = "1")]
    pub(super) values: Option<TensorProto>,
    #[prost(message, optional, tag = "2")]
    pub(super) indices: Option<TensorProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorProto {
    #[prost(int64, repeated, tag = "1")]
    pub(super) dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    pub(super) data_type: i32,
    #[prost(int32, repeated, tag = "5")]
    pub(super) int32_data: Vec<i32>,
    #[prost(bytes = "bytes", repeated, tag = "6")]
    pub(super) string_data: Vec<Bytes>,
    #[prost(int64, repeated, tag = "7")]
    pub(super) int64_data: Vec<i64>,
    #[prost(string, tag = "8")]
    pub(super) name: String,
    #[prost(bytes = "bytes", tag = "9")]
    pub(super) raw_data: Bytes,
    #[prost(message, repeated, tag = "13")]
    pub(super) external_data: Vec<StringStringEntryProto>,
    #[prost(int32, tag = "14")]
    pub(super) data_location: i32,
}

/// The value of a tensor's `data_location` for data in another file.
pub(super) const EXTERNAL: i32 = 1;

/// Returns the size of an element in a tensor's raw data, in bits; `None` for texts, which have no raw data, and for
/// unknown types. Numbers as in `TensorProto.DataType` of ONNX 1.20.
pub(super) fn bits_per_element(data_type: i32) -> Option<usize> {
    Some(match data_type {
        // UINT2, INT2.
        25 | 26 => 2,
        // UINT4, INT4, FLOAT4E2M1.
        21..=23 => 4,
        // UINT8, INT8, BOOL, the FLOAT8 types.
        2 | 3 | 9 | 17..=20 | 24 => 8,
        // UINT16, INT16, FLOAT16, BFLOAT16.
        4 | 5 | 10 | 16 => 16,
        // FLOAT, INT32, UINT32.
        1 | 6 | 12 => 32,
        // INT64, DOUBLE, UINT64, COMPLEX64.
        7 | 11 | 13 | 14 => 64,
        // COMPLEX128.
        15 => 128,
        _ => return None,
    })
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StringStringEntryProto {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(string, tag = "2")]
    pub(super) value: String,
}

/// Parses an ONNX file. `Err` if these bytes are not one, with what they are, if that is recognised.
pub(super) fn parse(model: &Arc<[u8]>) -> Result<ModelProto, String> {
    // Refuses ONNX Runtime's own format, which it would load, but which cannot be checked here.
    if model.get(4..8) == Some(b"ORTM") {
        return Err("this is ONNX Runtime's own format; export the model as ONNX".to_owned());
    }
    let problem = match ModelProto::decode(Bytes::from_owner(Arc::clone(model))) {
        Ok(parsed) if parsed.graph.is_some() => return Ok(parsed),
        Ok(_) => "not an ONNX file: it has no graph".to_owned(),
        Err(error) => format!("not an ONNX file: {error}"),
    };
    Err(problem_of(model, problem))
}

/// Returns the problem with a file that cannot be parsed: what it is instead, or that it is truncated or damaged if it
/// begins as an ONNX file does.
pub(super) fn problem_of(model: &[u8], problem: String) -> String {
    let size = model.len();
    if let Some(kind) = FileKind::of(model) {
        kind.problem_as_model()
    } else if !is_start_of_onnx(model) {
        problem
    } else if ["buffer underflow", MISSING_END, "it has no graph"].iter().any(|end| problem.contains(end)) {
        format!(
            "the file ends too early, after {size} bytes: it was truncated when it was copied or downloaded; {AGAIN}"
        )
    } else {
        format!("the file of {size} bytes is damaged ({}); {AGAIN}", problem.trim_start_matches("not an ONNX file: "))
    }
}

/// Part of the problem with a message that is longer than its file.
pub(super) const MISSING_END: &str = "it ends in the middle of a field";

/// Advice for a file that is truncated or damaged.
const AGAIN: &str = "copy or download it again, and compare its size and digest with the original";

/// Returns true if a file begins with the version of ONNX's format, which exporters write first.
fn is_start_of_onnx(model: &[u8]) -> bool {
    const IR_VERSION: u8 = 1 << 3;
    matches!(model, [IR_VERSION, version, ..] if (1..0x80).contains(version))
}

/// Returns the names of the inputs whose shape is absent from the file. (An input without dimensions has an empty
/// shape.) An initializer is not an input.
pub(super) fn inputs_of_unknown_rank(model: &ModelProto) -> Vec<String> {
    let Some(graph) = &model.graph else { return Vec::new() };
    let is_unknown = |input: &&ValueInfoProto| {
        let tensor = input.r#type.as_ref().and_then(|of| of.tensor_type.as_ref());
        tensor.is_some_and(|tensor| tensor.shape.is_none())
            && graph.initializer.iter().all(|initializer| initializer.name != input.name)
    };
    graph.input.iter().filter(is_unknown).map(|input| input.name.clone()).collect()
}

/// Adds the names of all tensors that nodes read, including those that branches and bodies of loops take from outside.
pub(super) fn tensors_read_by<'a>(nodes: &'a [NodeProto], read: &mut HashSet<&'a str>) {
    // The depth is bounded: the decoder refuses messages that are nested more than 100 deep.
    for node in nodes {
        read.extend(node.input.iter().map(String::as_str));
        for graph in
            node.attribute.iter().flat_map(|attribute| attribute.g.as_deref().into_iter().chain(&attribute.graphs))
        {
            read.extend(graph.output.iter().map(|output| output.name.as_str()));
            tensors_read_by(&graph.node, read);
        }
    }
}
