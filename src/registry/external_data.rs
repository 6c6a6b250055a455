//! Which other files an ONNX file keeps its weights in.
//!
//! Only what is needed for that is declared of `onnx.proto` (field numbers as in ONNX 1.19, `onnx/onnx.proto`); whatever
//! else is in the file is skipped without being copied.

use std::collections::BTreeSet;

use prost::Message;

#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(message, optional, tag = "7")]
    graph: Option<GraphProto>,
    #[prost(message, repeated, tag = "20")]
    training_info: Vec<TrainingInfoProto>,
    #[prost(message, repeated, tag = "25")]
    functions: Vec<FunctionProto>,
}

#[derive(Clone, PartialEq, Message)]
struct TrainingInfoProto {
    #[prost(message, optional, tag = "1")]
    initialization: Option<GraphProto>,
    #[prost(message, optional, tag = "2")]
    algorithm: Option<GraphProto>,
}

#[derive(Clone, PartialEq, Message)]
struct FunctionProto {
    #[prost(message, repeated, tag = "7")]
    node: Vec<NodeProto>,
    #[prost(message, repeated, tag = "11")]
    attribute_proto: Vec<AttributeProto>,
}

#[derive(Clone, PartialEq, Message)]
struct GraphProto {
    #[prost(message, repeated, tag = "1")]
    node: Vec<NodeProto>,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<TensorProto>,
    #[prost(message, repeated, tag = "15")]
    sparse_initializer: Vec<SparseTensorProto>,
}

#[derive(Clone, PartialEq, Message)]
struct NodeProto {
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<AttributeProto>,
}

#[derive(Clone, PartialEq, Message)]
struct AttributeProto {
    #[prost(message, optional, boxed, tag = "5")]
    t: Option<Box<TensorProto>>,
    #[prost(message, optional, boxed, tag = "6")]
    g: Option<Box<GraphProto>>,
    #[prost(message, repeated, tag = "10")]
    tensors: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    graphs: Vec<GraphProto>,
    #[prost(message, optional, boxed, tag = "22")]
    sparse_tensor: Option<Box<SparseTensorProto>>,
    #[prost(message, repeated, tag = "23")]
    sparse_tensors: Vec<SparseTensorProto>,
}

#[derive(Clone, PartialEq, Message)]
struct SparseTensorProto {
    #[prost(message, optional, tag = "1")]
    values: Option<TensorProto>,
    #[prost(message, optional, tag = "2")]
    indices: Option<TensorProto>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorProto {
    #[prost(message, repeated, tag = "13")]
    external_data: Vec<StringStringEntryProto>,
}

#[derive(Clone, PartialEq, Message)]
struct StringStringEntryProto {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

/// The locations of external data, as the file says them. `Err` if these bytes are not an ONNX file.
pub(super) fn locations(model: &[u8]) -> Result<BTreeSet<String>, String> {
    // ONNX Runtime would take its own format, too, of which none of this is known.
    if model.get(4..8) == Some(b"ORTM") {
        return Err("this is ONNX Runtime's own format; export the model as ONNX".to_owned());
    }
    let model = ModelProto::decode(model).map_err(|error| format!("not an ONNX file: {error}"))?;
    let mut found = BTreeSet::new();
    let training = model.training_info.iter().flat_map(|info| info.initialization.iter().chain(&info.algorithm));
    model.graph.iter().chain(training).for_each(|graph| in_graph(graph, &mut found));
    for function in &model.functions {
        in_nodes(&function.node, &mut found);
        function.attribute_proto.iter().for_each(|attribute| in_attribute(attribute, &mut found));
    }
    Ok(found)
}

// The depth of all these is bounded: the decoder refuses messages that are nested more than 100 deep.

fn in_graph(graph: &GraphProto, found: &mut BTreeSet<String>) {
    in_nodes(&graph.node, found);
    graph.initializer.iter().for_each(|tensor| in_tensor(tensor, found));
    graph.sparse_initializer.iter().for_each(|tensor| in_sparse_tensor(tensor, found));
}

fn in_nodes(nodes: &[NodeProto], found: &mut BTreeSet<String>) {
    nodes.iter().flat_map(|node| &node.attribute).for_each(|attribute| in_attribute(attribute, found));
}

fn in_attribute(attribute: &AttributeProto, found: &mut BTreeSet<String>) {
    attribute.t.as_deref().into_iter().chain(&attribute.tensors).for_each(|tensor| in_tensor(tensor, found));
    attribute.g.as_deref().into_iter().chain(&attribute.graphs).for_each(|graph| in_graph(graph, found));
    let sparse = attribute.sparse_tensor.as_deref().into_iter().chain(&attribute.sparse_tensors);
    sparse.for_each(|tensor| in_sparse_tensor(tensor, found));
}

fn in_sparse_tensor(tensor: &SparseTensorProto, found: &mut BTreeSet<String>) {
    tensor.values.iter().chain(&tensor.indices).for_each(|tensor| in_tensor(tensor, found));
}

fn in_tensor(tensor: &TensorProto, found: &mut BTreeSet<String>) {
    let location = tensor.external_data.iter().find(|entry| entry.key == "location");
    found.extend(location.map(|entry| entry.value.clone()));
}
