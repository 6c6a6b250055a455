//! Outputs that are a list of tensors, replaced by these tensors.
//!
//! skl2onnx ends a classifier with several targets with a `SequenceConstruct`. Its output is a list with a tensor of
//! scores for each target. So before a model is opened, such a list is removed, and its tensors become outputs, under
//! their own names in the graph.
//!
//! Only the list of a `SequenceConstruct` of the main graph is replaced, and only if nothing but the caller reads it.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::encoding::{Change, Pieces, malformed, rewrite};
use super::onnx_file::{GraphProto, ModelProto, NodeProto, ValueInfoProto, tensors_read_by};

// Field numbers as in `onnx.proto` of ONNX 1.20.
/// `graph` of `ModelProto`.
const GRAPH: u32 = 7;
/// `node` of `GraphProto`.
const NODE: u32 = 1;
/// `output` of `GraphProto`.
const OUTPUT: u32 = 12;
/// `value_info` of `GraphProto`: the types of other tensors.
const VALUE_INFO: u32 = 13;

/// A `ValueInfoProto` of a list of tensors.
#[derive(Clone, PartialEq, Message)]
struct ListDeclaration {
    #[prost(message, optional, tag = "2")]
    list: Option<ListType>,
}

/// A `TypeProto` of a list.
#[derive(Clone, PartialEq, Message)]
struct ListType {
    #[prost(message, optional, tag = "4")]
    sequence_type: Option<SequenceType>,
}

#[derive(Clone, PartialEq, Message)]
struct SequenceType {
    /// The `TypeProto` of the elements, unread.
    #[prost(bytes = "bytes", tag = "1")]
    elem_type: Bytes,
}

/// A `ValueInfoProto` of a tensor, with its `TypeProto` unread.
#[derive(Clone, PartialEq, Message)]
struct TensorDeclaration {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "bytes", tag = "2")]
    tensor_type: Bytes,
}

/// A list of tensors that is an output of the model.
#[derive(Debug)]
struct TensorList {
    name: String,
    /// Its tensors, without those that are outputs already.
    tensors: Vec<String>,
}

/// Replaces the lists of tensors among the outputs of a model, in its bytes and in `parsed`, which
/// [`super::onnx_file::parse`] has read from them. All other bytes stay as they are.
pub(super) fn replace(model: Arc<[u8]>, parsed: &mut ModelProto) -> Result<Arc<[u8]>, String> {
    let Some(graph) = parsed.graph.as_mut() else { return Ok(model) };
    let lists = replaceable(graph);
    if lists.is_empty() {
        return Ok(model);
    }
    graph.output.retain(|output| lists.iter().all(|list| list.name != output.name));
    let output = |name: &String| ValueInfoProto { name: name.clone(), ..ValueInfoProto::default() };
    graph.output.extend(lists.iter().flat_map(|list| &list.tensors).map(output));
    let rewritten = rewrite(&Bytes::from_owner(Arc::clone(&model)), |number, content| match number {
        GRAPH => Ok(Change::Replace(rewritten_graph(content, &lists)?)),
        _ => Ok(Change::Keep),
    })?;
    Ok(rewritten.map_or(model, |pieces| pieces.join().into()))
}

/// Returns the lists that are replaced.
fn replaceable(graph: &GraphProto) -> Vec<TensorList> {
    let mut lists: Vec<&NodeProto> = graph.node.iter().filter(|node| makes_list(node)).collect();
    if lists.is_empty() {
        return Vec::new();
    }
    let mut read = HashSet::new();
    tensors_read_by(&graph.node, &mut read);
    let made: HashSet<&str> = graph.node.iter().flat_map(|node| &node.output).map(String::as_str).collect();
    let outputs = |name: &str| graph.output.iter().filter(|output| output.name == name).count();
    lists.retain(|list| {
        let name = &list.output[0];
        outputs(name) == 1 && !read.contains(name.as_str()) && list.input.iter().all(|input| made.contains(&**input))
    });
    let mut known: HashSet<&str> = graph.output.iter().map(|output| output.name.as_str()).collect();
    let list = |node: &'_ NodeProto, new: Vec<String>| TensorList { name: node.output[0].clone(), tensors: new };
    lists
        .into_iter()
        .map(|node| list(node, node.input.iter().filter(|input| known.insert(input.as_str())).cloned().collect()))
        .collect()
}

fn makes_list(node: &NodeProto) -> bool {
    ["", "ai.onnx"].contains(&&*node.domain) && node.op_type == "SequenceConstruct" && node.output.len() == 1
}

/// Returns the main graph without the lists, and with their tensors as its last outputs.
fn rewritten_graph(graph: &Bytes, lists: &[TensorList]) -> Result<Pieces, String> {
    let of_name = |name: &str| lists.iter().find(|list| list.name == name);
    let mut new_outputs = Vec::new();
    let rewritten = rewrite(graph, |number, content| {
        let is_removed = match number {
            NODE => {
                let node = NodeProto::decode(content.clone()).map_err(malformed)?;
                makes_list(&node) && of_name(&node.output[0]).is_some()
            }
            OUTPUT | VALUE_INFO => {
                let name = ValueInfoProto::decode(content.clone()).map_err(malformed)?.name;
                if let Some(list) = of_name(&name).filter(|_| number == OUTPUT) {
                    new_outputs.extend(declarations(content, list)?);
                }
                of_name(&name).is_some()
            }
            _ => false,
        };
        Ok(if is_removed { Change::Remove } else { Change::Keep })
    })?;
    let mut pieces = rewritten.unwrap_or_else(|| Pieces::of(graph.clone()));
    new_outputs.into_iter().for_each(|output| pieces.push_field(OUTPUT, Pieces::of(output)));
    Ok(pieces)
}

/// Returns the declarations of the tensors of a list, of the type that the list declares for its elements.
fn declarations(declaration: &Bytes, list: &TensorList) -> Result<Vec<Bytes>, String> {
    let declared = ListDeclaration::decode(declaration.clone()).map_err(malformed)?;
    let tensor_type = declared.list.and_then(|list| list.sequence_type).unwrap_or_default().elem_type;
    let of_tensor = |name: &String| TensorDeclaration { name: name.clone(), tensor_type: tensor_type.clone() };
    Ok(list.tensors.iter().map(|name| of_tensor(name).encode_to_vec().into()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::onnx_file;

    fn node(op_type: &str, inputs: &[&str], output: &str) -> NodeProto {
        NodeProto {
            input: inputs.iter().map(|name| (*name).to_owned()).collect(),
            output: vec![output.to_owned()],
            op_type: op_type.to_owned(),
            ..NodeProto::default()
        }
    }

    fn declared(name: &str, content: &[u8]) -> Vec<u8> {
        TensorDeclaration { name: name.to_owned(), tensor_type: Bytes::copy_from_slice(content) }.encode_to_vec()
    }

    fn graph(fields: &[(u32, Vec<u8>)]) -> Arc<[u8]> {
        let mut graph = Pieces::default();
        fields.iter().for_each(|(number, content)| graph.push_field(*number, Pieces::of(content.clone().into())));
        let mut model = Pieces::default();
        model.push_field(902, Pieces::of(Bytes::from_static(b"of the model")));
        model.push_field(GRAPH, graph);
        model.join().into()
    }

    /// Replaces the lists of a model, and returns its bytes and the names of its outputs.
    fn replaced(model: &Arc<[u8]>) -> (Arc<[u8]>, Vec<String>) {
        let mut parsed = onnx_file::parse(model).unwrap();
        let bytes = replace(Arc::clone(model), &mut parsed).unwrap();
        let outputs = |model: ModelProto| model.graph.unwrap().output.into_iter().map(|output| output.name).collect();
        let outputs_of_bytes: Vec<String> = outputs(onnx_file::parse(&bytes).unwrap());
        assert_eq!(outputs_of_bytes, outputs(parsed));
        (bytes, outputs_of_bytes)
    }

    /// Fields that this version of Leeway does not know are kept. The tensor `a` is an output already.
    #[test]
    fn the_tensors_of_a_list_take_its_place() {
        // A sequence of tensors of FLOAT.
        let (float, list_of_float) = ([0x0a, 0x02, 0x08, 0x01], [0x22, 0x06, 0x0a, 0x04, 0x0a, 0x02, 0x08, 0x01]);
        let nodes = [node("Relu", &["x"], "a"), node("Neg", &["x"], "b")].map(|node| (NODE, node.encode_to_vec()));
        let list = (NODE, node("SequenceConstruct", &["a", "b", "b"], "list").encode_to_vec());
        let (kept, a) = ((900, b"of the graph".to_vec()), (OUTPUT, declared("a", &float)));
        let before = [&nodes[..], &[list, kept.clone()], &[(OUTPUT, declared("list", &list_of_float)), a.clone()]];
        let before = [&before.concat()[..], &[(VALUE_INFO, declared("list", &list_of_float))]].concat();
        let after = [&nodes[..], &[kept, a, (OUTPUT, declared("b", &float))]].concat();
        assert_eq!(replaced(&graph(&before)), (graph(&after), vec!["a".to_owned(), "b".to_owned()]));
    }

    #[test]
    fn a_list_that_cannot_be_replaced_is_left_as_it_is() {
        let is_replaced = |nodes: &[NodeProto], outputs: &[&str]| {
            let nodes = nodes.iter().map(|node| (NODE, node.encode_to_vec()));
            let model =
                graph(&nodes.chain(outputs.iter().map(|name| (OUTPUT, declared(name, b"")))).collect::<Vec<_>>());
            !Arc::ptr_eq(&model, &replaced(&model).0)
        };
        let (relu, list) = (node("Relu", &["x"], "a"), node("SequenceConstruct", &["a"], "list"));
        assert!(is_replaced(&[relu.clone(), list.clone()], &["list"]));
        // It is read, it is no output, it holds an input of the model, and it belongs to another domain.
        assert!(!is_replaced(&[relu.clone(), list.clone(), node("SequenceLength", &["list"], "n")], &["list", "n"]));
        assert!(!is_replaced(&[relu.clone(), list.clone()], &["a"]));
        assert!(!is_replaced(&[node("SequenceConstruct", &["x"], "list")], &["list"]));
        assert!(!is_replaced(&[relu, NodeProto { domain: "com.example".to_owned(), ..list }], &["list"]));
    }
}
