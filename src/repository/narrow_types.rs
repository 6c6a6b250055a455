//! Inputs and outputs of types that hold few values (float8, float4, and integers of 2 and 4 bits), converted inside the
//! model.
//!
//! Requests and answers have numbers of wider types, which hold these values exactly. So before a model is opened, such an
//! input gets the wider type, and a `Cast` to its own type; an output gets a `Cast` to the wider type. A number that the
//! narrow type does not have becomes the nearest one, as in quantisation. The `Cast` does so for floating-point numbers. It
//! keeps only the low bits of integers, so a `Clip` comes before it.
//!
//! The types and their numbers are those of `TensorProto.DataType` of ONNX 1.20.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use prost::encoding::{encode_key, encode_varint};

use super::encoding::{Change, Pieces, malformed, rewrite};
use super::onnx_file::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};

// Field numbers as in `onnx.proto` of ONNX 1.20.
/// `graph` of `ModelProto`.
const GRAPH: u32 = 7;
/// `node` of `GraphProto`.
const NODE: u32 = 1;
/// `initializer` of `GraphProto`: the constants.
const INITIALIZER: u32 = 5;
/// `input` and `output` of `GraphProto`, and the types of its other tensors.
const GRAPH_INPUT: u32 = 11;
const GRAPH_OUTPUT: u32 = 12;
const VALUE_INFO: u32 = 13;
/// `name` and `type` of `ValueInfoProto`.
const NAME: u32 = 1;
const TYPE: u32 = 2;
/// `tensor_type` of `TypeProto`, and `elem_type` in it.
const TENSOR_TYPE: u32 = 1;
const ELEM_TYPE: u32 = 1;
/// `input`, `output` and `attribute` of `NodeProto`.
const NODE_INPUT: u32 = 1;
const NODE_OUTPUT: u32 = 2;
const ATTRIBUTE: u32 = 5;
/// `g` and `graphs` of `AttributeProto`.
const SUBGRAPH: u32 = 6;
const SUBGRAPHS: u32 = 11;

/// An input or output of a narrow type.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Narrow {
    name: String,
    /// Name of the tensor of the narrow type in the converted model.
    inner: String,
    narrow: i32,
    wide: i32,
}

/// Converts the inputs and outputs of narrow types. All other bytes stay as they are.
pub(super) fn widen(model: &Arc<[u8]>, parsed: &ModelProto) -> Result<Arc<[u8]>, String> {
    let Some(graph) = &parsed.graph else { return Ok(Arc::clone(model)) };
    let (inputs, outputs) = (narrow(&graph.input, graph), narrow(&graph.output, graph));
    if inputs.is_empty() && outputs.is_empty() {
        return Ok(Arc::clone(model));
    }
    let whole = Bytes::from_owner(Arc::clone(model));
    let rewritten = rewrite(&whole, |number, content| match number {
        GRAPH => with_casts(content, &inputs, &outputs).map(Change::Replace),
        _ => Ok(Change::Keep),
    })?;
    Ok(rewritten.map_or_else(|| Arc::clone(model), |pieces| pieces.join().into()))
}

/// Returns the wider type that holds all values of a type; `None` for a type that is not narrow.
fn wide(data_type: i32) -> Option<i32> {
    const FLOAT: i32 = 1;
    const UINT8: i32 = 2;
    const INT8: i32 = 3;
    match data_type {
        // FLOAT8E4M3FN, FLOAT8E4M3FNUZ, FLOAT8E5M2, FLOAT8E5M2FNUZ, FLOAT4E2M1, FLOAT8E8M0.
        17..=20 | 23 | 24 => Some(FLOAT),
        // UINT4, UINT2.
        21 | 25 => Some(UINT8),
        // INT4, INT2.
        22 | 26 => Some(INT8),
        _ => None,
    }
}

/// Returns those of the tensors that have a narrow type. Stay as they are: a tensor that is both an input and an output,
/// because no node is between the two, and one with a value in the file.
fn narrow(tensors: &[ValueInfoProto], graph: &GraphProto) -> Vec<Narrow> {
    let stays = |name: &str| {
        let is_in = |tensors: &[ValueInfoProto]| tensors.iter().any(|tensor| tensor.name == name);
        is_in(&graph.input) && is_in(&graph.output) || graph.initializer.iter().any(|tensor| tensor.name == name)
    };
    let narrow = |tensor: &ValueInfoProto| {
        let narrow = tensor.r#type.as_ref()?.tensor_type.as_ref()?.elem_type;
        let (name, inner) = (tensor.name.clone(), format!("{}:narrow", tensor.name));
        wide(narrow).filter(|_| !stays(&name)).map(|wide| Narrow { name, inner, narrow, wide })
    };
    tensors.iter().filter_map(narrow).collect()
}

/// Returns the main graph with a `Cast` at each of these inputs and outputs.
fn with_casts(graph: &Bytes, inputs: &[Narrow], outputs: &[Narrow]) -> Result<Pieces, String> {
    let by_name: HashMap<&str, &Narrow> = inputs.iter().chain(outputs).map(|tensor| (&*tensor.name, tensor)).collect();
    let renamed = rewrite(graph, |number, content| match number {
        NODE => Ok(renamed_node(content, &by_name)?.map_or(Change::Keep, Change::Replace)),
        GRAPH_INPUT | GRAPH_OUTPUT => match by_name.get(&*name_of(content)?) {
            Some(tensor) => with_type(content, tensor.wide).map(Change::Replace),
            None => Ok(Change::Keep),
        },
        VALUE_INFO => Ok(renamed_value(content, &by_name)?.map_or(Change::Keep, Change::Replace)),
        _ => Ok(Change::Keep),
    })?;
    // Nodes are in the order of the run: the inputs are converted first, and the outputs last.
    let mut changed = Pieces::default();
    for input in inputs {
        let from = match range_of(input.narrow) {
            None => input.name.clone(),
            Some(range) => {
                let limits = [("min", range.0), ("max", range.1)].map(|(end, limit)| limit_of(input, end, limit));
                let clipped = format!("{}:clipped", input.name);
                let names: Vec<&str> =
                    std::iter::once(&*input.name).chain(limits.iter().map(|limit| &*limit.name)).collect();
                changed.push_field(NODE, node("Clip", &names, &clipped, Vec::new()));
                for limit in &limits {
                    changed.push_field(INITIALIZER, Pieces::of(limit.encode_to_vec().into()));
                }
                clipped
            }
        };
        changed.push_field(NODE, cast(&from, &input.inner, input.narrow));
    }
    changed.append(renamed.unwrap_or_else(|| Pieces::of(graph.clone())));
    for output in outputs {
        changed.push_field(NODE, cast(&output.inner, &output.name, output.wide));
    }
    Ok(changed)
}

/// Returns the smallest and the largest value of an integer type; `None` for a floating-point type.
fn range_of(data_type: i32) -> Option<(i32, i32)> {
    match data_type {
        // UINT4, INT4.
        21 => Some((0, 15)),
        22 => Some((-8, 7)),
        // UINT2, INT2.
        25 => Some((0, 3)),
        26 => Some((-2, 1)),
        _ => None,
    }
}

/// Returns the constant with a limit of an input.
fn limit_of(input: &Narrow, end: &str, limit: i32) -> TensorProto {
    TensorProto {
        name: format!("{}:{end}", input.name),
        data_type: input.wide,
        int32_data: vec![limit],
        ..TensorProto::default()
    }
}

fn cast(from: &str, to: &str, data_type: i32) -> Pieces {
    /// `INT` of `AttributeProto.AttributeType`.
    const INT: i32 = 2;
    let attribute =
        AttributeProto { name: "to".to_owned(), i: data_type.into(), r#type: INT, ..AttributeProto::default() };
    node("Cast", &[from], to, vec![attribute])
}

fn node(op_type: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) -> Pieces {
    let node = NodeProto {
        input: inputs.iter().map(ToString::to_string).collect(),
        output: vec![output.to_owned()],
        op_type: op_type.to_owned(),
        attribute,
        ..NodeProto::default()
    };
    Pieces::of(node.encode_to_vec().into())
}

/// Returns a node with the names of tensors replaced, also in the graphs that it contains; `None` if it has none of them.
fn renamed_node(node: &Bytes, by_name: &HashMap<&str, &Narrow>) -> Result<Option<Pieces>, String> {
    rewrite(node, |number, content| match number {
        NODE_INPUT | NODE_OUTPUT => Ok(renamed_text(content, by_name)),
        ATTRIBUTE => {
            let changed = rewrite(content, |number, content| match number {
                SUBGRAPH | SUBGRAPHS => Ok(renamed_graph(content, by_name)?.map_or(Change::Keep, Change::Replace)),
                _ => Ok(Change::Keep),
            })?;
            Ok(changed.map_or(Change::Keep, Change::Replace))
        }
        _ => Ok(Change::Keep),
    })
}

/// Returns a graph within a node with the names of tensors replaced. The depth is bounded: the decoder has refused messages
/// that are nested more than 100 deep.
fn renamed_graph(graph: &Bytes, by_name: &HashMap<&str, &Narrow>) -> Result<Option<Pieces>, String> {
    rewrite(graph, |number, content| {
        let changed = match number {
            NODE => renamed_node(content, by_name)?,
            GRAPH_OUTPUT | VALUE_INFO => renamed_value(content, by_name)?,
            _ => None,
        };
        Ok(changed.map_or(Change::Keep, Change::Replace))
    })
}

fn renamed_value(value: &Bytes, by_name: &HashMap<&str, &Narrow>) -> Result<Option<Pieces>, String> {
    rewrite(value, |number, content| match number {
        NAME => Ok(renamed_text(content, by_name)),
        _ => Ok(Change::Keep),
    })
}

fn renamed_text(name: &Bytes, by_name: &HashMap<&str, &Narrow>) -> Change {
    let tensor = std::str::from_utf8(name).ok().and_then(|name| by_name.get(name));
    tensor.map_or(Change::Keep, |tensor| Change::Replace(Pieces::of(tensor.inner.clone().into_bytes().into())))
}

fn name_of(value: &Bytes) -> Result<String, String> {
    ValueInfoProto::decode(value.clone()).map(|value| value.name).map_err(malformed)
}

/// Returns the declaration of a tensor with another type of elements. A field that occurs again replaces the first.
fn with_type(value: &Bytes, data_type: i32) -> Result<Pieces, String> {
    let changed = rewrite(value, |number, of_type| match number {
        TYPE => {
            let changed = rewrite(of_type, |number, of_tensor| match number {
                TENSOR_TYPE => {
                    let mut elem_type = Vec::new();
                    encode_key(ELEM_TYPE, prost::encoding::WireType::Varint, &mut elem_type);
                    encode_varint(u64::from(data_type.unsigned_abs()), &mut elem_type);
                    let mut changed = Pieces::of(of_tensor.clone());
                    changed.push(elem_type.into());
                    Ok(Change::Replace(changed))
                }
                _ => Ok(Change::Keep),
            })?;
            Ok(changed.map_or(Change::Keep, Change::Replace))
        }
        _ => Ok(Change::Keep),
    })?;
    Ok(changed.unwrap_or_else(|| Pieces::of(value.clone())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::onnx_file::{self, DimensionProto, TensorShapeProto, TensorTypeProto, TypeProto};

    const FLOAT8: i32 = 17;
    const FLOAT: i32 = 1;

    fn value(name: &str, elem_type: i32) -> ValueInfoProto {
        let shape = TensorShapeProto { dim: vec![DimensionProto { dim_value: Some(2) }] };
        let tensor_type = Some(TensorTypeProto { elem_type, shape: Some(shape) });
        ValueInfoProto { name: name.to_owned(), r#type: Some(TypeProto { tensor_type }) }
    }

    fn node(op_type: &str, input: &[&str], output: &[&str]) -> NodeProto {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        NodeProto { op_type: op_type.to_owned(), input: names(input), output: names(output), ..NodeProto::default() }
    }

    fn widened(graph: GraphProto) -> GraphProto {
        let model = ModelProto { graph: Some(graph), ..ModelProto::default() };
        let file: Arc<[u8]> = model.encode_to_vec().into();
        onnx_file::parse(&widen(&file, &model).unwrap()).unwrap().graph.unwrap()
    }

    #[test]
    fn narrow_inputs_and_outputs_are_cast_everywhere() {
        let branch = GraphProto {
            node: vec![node("Neg", &["x"], &["inner"])],
            output: vec![value("x", 0)],
            ..GraphProto::default()
        };
        let branches = AttributeProto { graphs: vec![branch], ..AttributeProto::default() };
        let graph = GraphProto {
            node: vec![
                node("Identity", &["x"], &["y"]),
                NodeProto { attribute: vec![branches], ..node("If", &["y", "other"], &["z"]) },
            ],
            input: vec![value("x", FLOAT8), value("other", FLOAT)],
            output: vec![value("y", FLOAT8), value("z", FLOAT)],
            ..GraphProto::default()
        };
        let graph = widened(graph);
        assert_eq!(graph.input, [value("x", FLOAT), value("other", FLOAT)]);
        assert_eq!(graph.output, [value("y", FLOAT), value("z", FLOAT)]);
        let names = |node: &NodeProto| format!("{}: {:?} > {:?}", node.op_type, node.input, node.output);
        assert_eq!(
            graph.node.iter().map(names).collect::<Vec<_>>(),
            [
                r#"Cast: ["x"] > ["x:narrow"]"#,
                r#"Identity: ["x:narrow"] > ["y:narrow"]"#,
                r#"If: ["y:narrow", "other"] > ["z"]"#,
                r#"Cast: ["y:narrow"] > ["y"]"#,
            ]
        );
        assert_eq!(graph.node[0].attribute[0].i, i64::from(FLOAT8));
        let branch = &graph.node[2].attribute[0].graphs[0];
        assert_eq!((&*branch.node[0].input[0], &*branch.output[0].name), ("x:narrow", "x:narrow"));
    }

    #[test]
    fn a_model_without_narrow_types_stays_as_it_is() {
        let graph = GraphProto {
            node: vec![node("Identity", &["x"], &["y"])],
            input: vec![value("x", FLOAT), value("both", FLOAT8)],
            output: vec![value("y", FLOAT), value("both", FLOAT8)],
            ..GraphProto::default()
        };
        assert_eq!(widened(graph.clone()), graph);
    }
}
