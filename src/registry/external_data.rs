//! Which other files an ONNX file keeps its weights in.

use std::collections::BTreeSet;

use super::onnx_file::{AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto};

/// The locations of external data, as the file says them.
pub(super) fn locations(model: &ModelProto) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let training = model.training_info.iter().flat_map(|info| info.initialization.iter().chain(&info.algorithm));
    model.graph.iter().chain(training).for_each(|graph| in_graph(graph, &mut found));
    for function in &model.functions {
        in_nodes(&function.node, &mut found);
        function.attribute_proto.iter().for_each(|attribute| in_attribute(attribute, &mut found));
    }
    found
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
