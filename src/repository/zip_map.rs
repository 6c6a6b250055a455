//! Outputs of maps from class to score, replaced by the tensor of the scores.
//!
//! Classifiers that scikit-learn's and LightGBM's exporters (by default) and CatBoost's (always) write end with a
//! `ZipMap` of `ai.onnx.ml`. Its output is a list of maps, one for each row. The values of the maps are the tensor that
//! the node reads, and their keys are attributes of the node, which `class_names.rs` reads.
//!
//! So before a model is opened, such a node becomes a `Scaler` of `ai.onnx.ml` that multiplies by one: its output keeps its
//! name, and is the tensor. ONNX Runtime runs a `ZipMap` only if a row has as many scores as there are keys. A `Scaler` of as
//! many factors has the same condition, so that a model whose run fails there does not answer instead.
//!
//! If that tensor is an output of the model already, the output of maps is removed instead, because it has nothing to add.
//!
//! Only a `ZipMap` of the main graph is replaced, and only if nothing but the caller reads its output.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::encoding::{Change, Pieces, malformed, rewrite};
use super::onnx_file::{
    DimensionProto, GraphProto, ModelProto, NodeProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
    tensors_read_by,
};

// Field numbers as in `onnx.proto` of ONNX 1.20.
/// `graph` of `ModelProto`.
const GRAPH: u32 = 7;
/// `node` of `GraphProto`.
const NODE: u32 = 1;
/// `name` of `NodeProto`.
const NODE_NAME: u32 = 3;
/// `attribute` of `NodeProto`.
const ATTRIBUTE: u32 = 5;
/// `output` of `GraphProto`.
const OUTPUT: u32 = 12;
/// `value_info` of `GraphProto`: the types of other tensors.
const VALUE_INFO: u32 = 13;
/// `type` of `ValueInfoProto`.
const TYPE: u32 = 2;

/// The domain of `ZipMap` and `Scaler`.
const DOMAIN: &str = "ai.onnx.ml";
/// `FLOATS` of `AttributeProto.AttributeType`.
const FLOATS: i32 = 6;
/// `FLOAT` of `TensorProto.DataType`, the only type that `ZipMap` reads.
const FLOAT: i32 = 1;

/// Replaces the maps among the outputs of a model, which [`super::onnx_file::parse`] has read as `parsed`. All other
/// bytes stay as they are.
pub(super) fn replace(model: &Arc<[u8]>, parsed: &ModelProto) -> Result<Arc<[u8]>, String> {
    let maps = parsed.graph.as_ref().map(replaceable).unwrap_or_default();
    if maps.is_empty() {
        return Ok(Arc::clone(model));
    }
    let whole = Bytes::from_owner(Arc::clone(model));
    let rewritten = rewrite(&whole, |number, content| match number {
        GRAPH => Ok(graph(content, &maps)?.map_or(Change::Keep, Change::Replace)),
        _ => Ok(Change::Keep),
    })?;
    Ok(rewritten.map_or_else(|| Arc::clone(model), |pieces| pieces.join().into()))
}

/// A node `ZipMap`.
#[derive(Debug)]
struct ZipMap<'a> {
    /// Index among the nodes of the graph.
    index: usize,
    /// Name of the tensor that it reads.
    scores: &'a str,
    /// Name of its output.
    maps: &'a str,
    /// Number of keys, and of scores in a row.
    classes: usize,
    becomes: Becomes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Becomes {
    /// A `Scaler`, which gives the scores the name of the maps.
    Scaler,
    /// Nothing: the scores are an output already.
    Nothing,
}

/// Returns the nodes that are replaced.
fn replaceable(graph: &GraphProto) -> Vec<ZipMap<'_>> {
    let mut maps: Vec<ZipMap<'_>> = { graph.node.iter().enumerate() }.filter_map(zip_map).collect();
    if maps.is_empty() {
        return maps;
    }
    let mut read = HashSet::new();
    tensors_read_by(&graph.node, &mut read);
    let mut outputs: HashMap<&str, usize> = HashMap::new();
    graph.output.iter().for_each(|output| *outputs.entry(&output.name).or_default() += 1);
    maps.retain(|map| outputs.get(map.maps) == Some(&1) && !read.contains(map.maps));
    for map in maps.iter_mut().filter(|map| outputs.contains_key(map.scores)) {
        map.becomes = Becomes::Nothing;
    }
    maps
}

/// Reads a node; `None` if it is not a well-formed `ZipMap`.
fn zip_map((index, node): (usize, &NodeProto)) -> Option<ZipMap<'_>> {
    if (node.domain.as_str(), node.op_type.as_str()) != (DOMAIN, "ZipMap") {
        return None;
    }
    let ([scores], [maps]) = (&*node.input, &*node.output) else { return None };
    let keys = |name: &str| node.attribute.iter().find(|attribute| attribute.name == name);
    let texts = keys("classlabels_strings").map_or(0, |keys| keys.strings.len());
    let numbers = keys("classlabels_int64s").map_or(0, |keys| keys.ints.len());
    let classes = match (texts, numbers) {
        (0, classes) | (classes, 0) if classes > 0 => classes,
        _ => return None,
    };
    Some(ZipMap { index, scores, maps, classes, becomes: Becomes::Scaler })
}

/// Returns the main graph with its maps replaced.
fn graph(graph: &Bytes, maps: &[ZipMap<'_>]) -> Result<Option<Pieces>, String> {
    let by_index: HashMap<usize, &ZipMap<'_>> = maps.iter().map(|map| (map.index, map)).collect();
    let by_name: HashMap<&str, &ZipMap<'_>> = maps.iter().map(|map| (map.maps, map)).collect();
    let mut indices = 0..;
    rewrite(graph, |number, content| {
        let map = match number {
            NODE => indices.next().and_then(|index: usize| by_index.get(&index)),
            OUTPUT | VALUE_INFO => {
                let value = ValueInfoProto::decode(content.clone()).map_err(malformed)?;
                by_name.get(value.name.as_str())
            }
            _ => None,
        };
        let Some(map) = map else { return Ok(Change::Keep) };
        Ok(match (number, map.becomes) {
            (NODE, Becomes::Scaler) => Change::Replace(scaler(map)),
            (OUTPUT, Becomes::Scaler) => Change::Replace(output(content, map)?),
            _ => Change::Remove,
        })
    })
}

/// Returns the node that gives the scores the name of the maps. Its name is part of ONNX Runtime's message if a row does
/// not have one score for each class. (A single factor is for scores of any number, so one class is not checked.)
fn scaler(map: &ZipMap<'_>) -> Pieces {
    let node = NodeProto {
        input: vec![map.scores.to_owned()],
        output: vec![map.maps.to_owned()],
        op_type: "Scaler".to_owned(),
        domain: DOMAIN.to_owned(),
        ..NodeProto::default()
    };
    let name = format!("{}: one score for each of its {} class names", map.maps, map.classes);
    let mut pieces = Pieces::of(node.encode_to_vec().into());
    pieces.push_field(NODE_NAME, Pieces::of(name.into()));
    for (name, factor) in [("offset", 0.0), ("scale", 1.0)] {
        let factors = Factors { name: name.to_owned(), floats: vec![factor; map.classes], r#type: FLOATS };
        pieces.push_field(ATTRIBUTE, Pieces::of(factors.encode_to_vec().into()));
    }
    pieces
}

/// `AttributeProto` with the only fields that are written here. (`onnx_file.rs` does not read floats: those of trees are
/// many.)
#[derive(Clone, PartialEq, Message)]
struct Factors {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(float, repeated, tag = "7")]
    floats: Vec<f32>,
    #[prost(int32, tag = "20")]
    r#type: i32,
}

/// Returns the declaration of an output of maps as one of a tensor of `[rows, classes]`.
fn output(declaration: &Bytes, map: &ZipMap<'_>) -> Result<Pieces, String> {
    let without_type = rewrite(declaration, |number, _| match number {
        TYPE => Ok(Change::Remove),
        _ => Ok(Change::Keep),
    })?;
    let classes = i64::try_from(map.classes).map_err(|error| error.to_string())?;
    let dim = [None, Some(classes)].map(|dim_value| DimensionProto { dim_value }).to_vec();
    let tensor_type = Some(TensorTypeProto { elem_type: FLOAT, shape: Some(TensorShapeProto { dim }) });
    let mut declaration = without_type.unwrap_or_else(|| Pieces::of(declaration.clone()));
    declaration.push_field(TYPE, Pieces::of(TypeProto { tensor_type }.encode_to_vec().into()));
    Ok(declaration)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::onnx_file::{self, AttributeProto};

    fn replaced(model: &Arc<[u8]>) -> Arc<[u8]> {
        replace(model, &onnx_file::parse(model).unwrap()).unwrap()
    }

    fn field(number: u32, content: &[u8]) -> Vec<u8> {
        let mut field = Pieces::default();
        field.push_field(number, Pieces::of(Bytes::copy_from_slice(content)));
        field.join()
    }

    fn node(op_type: &str, input: &str, output: &str) -> NodeProto {
        NodeProto {
            input: vec![input.to_owned()],
            output: vec![output.to_owned()],
            op_type: op_type.to_owned(),
            ..NodeProto::default()
        }
    }

    fn zip_map_of(input: &str, output: &str) -> NodeProto {
        let keys =
            AttributeProto { name: "classlabels_int64s".to_owned(), ints: vec![4, 5, 6], ..AttributeProto::default() };
        NodeProto { domain: DOMAIN.to_owned(), attribute: vec![keys], ..node("ZipMap", input, output) }
    }

    /// Fields that this version of Leeway does not know, in every message that is changed.
    #[test]
    fn all_other_bytes_stay_as_they_are() {
        let file = |zip_map: &[u8], output: &[u8], value_info: &[u8]| -> Arc<[u8]> {
            let graph = [
                field(900, b"of the graph"),
                field(NODE, &node("Softmax", "x", "scores").encode_to_vec()),
                zip_map.to_vec(),
                vec![0xf8, 0x07, 0x01],
                value_info.to_vec(),
                field(OUTPUT, &[field(1, b"label"), field(TYPE, b"")].concat()),
                output.to_vec(),
                field(901, b"of the graph, at its end"),
            ];
            let model = [field(902, b"of the model"), field(GRAPH, &graph.concat()), vec![0x08, 0x88, 0x00]];
            model.concat().into()
        };
        let [name, note] = [field(1, b"maps"), field(903, b"of the output")];
        let before = file(
            &field(NODE, &zip_map_of("scores", "maps").encode_to_vec()),
            &field(OUTPUT, &[&*name, &field(TYPE, &field(4, b"")), &note].concat()),
            &field(VALUE_INFO, &name),
        );
        let node = NodeProto { domain: DOMAIN.to_owned(), ..node("Scaler", "scores", "maps") }.encode_to_vec();
        let node = [node, field(3, b"maps: one score for each of its 3 class names")].concat();
        // FLOATS, and three of them.
        let factors = |name: &str, factor: f32| {
            let floats = field(7, &[factor.to_le_bytes(); 3].concat());
            field(5, &[field(1, name.as_bytes()), floats, vec![0xa0, 0x01, 0x06]].concat())
        };
        // FLOAT, and a shape of an open and a fixed dimension.
        let float_n_by_3 = [0x0a, 0x0a, 0x08, 0x01, 0x12, 0x06, 0x0a, 0x00, 0x0a, 0x02, 0x08, 0x03];
        let after = file(
            &field(NODE, &[&*node, &factors("offset", 0.0), &factors("scale", 1.0)].concat()),
            &field(OUTPUT, &[&*name, &note, &field(TYPE, &float_n_by_3)].concat()),
            &[],
        );
        assert_eq!(replaced(&before), after);
    }

    #[test]
    fn a_map_that_something_else_reads_is_left_as_it_is() {
        let output = |name: &str| ValueInfoProto { name: name.to_owned(), r#type: None };
        let check = |graph: GraphProto| {
            let model = ModelProto { graph: Some(graph), ..ModelProto::default() };
            let model: Arc<[u8]> = model.encode_to_vec().into();
            !Arc::ptr_eq(&model, &replaced(&model))
        };
        let is_replaced = |nodes: Vec<NodeProto>, outputs: &[&str]| {
            let output = outputs.iter().copied().map(output).collect();
            check(GraphProto { node: nodes, output, ..GraphProto::default() })
        };
        let branch = |graph: GraphProto| {
            let attribute = AttributeProto { g: Some(Box::new(graph)), ..AttributeProto::default() };
            NodeProto { attribute: vec![attribute], ..node("If", "condition", "y") }
        };
        let map = || zip_map_of("scores", "maps");
        assert!(is_replaced(vec![map(), node("Cast", "label", "y")], &["y", "maps"]));
        assert!(!is_replaced(vec![map(), node("Identity", "maps", "y")], &["y", "maps"]));
        assert!(!is_replaced(vec![map(), node("Identity", "maps", "y")], &["y"]));
        assert!(!is_replaced(vec![map()], &["y"]));
        assert!(!is_replaced(vec![map()], &["maps", "maps"]));
        let reads = GraphProto { node: vec![node("Identity", "maps", "z")], ..GraphProto::default() };
        assert!(!is_replaced(vec![map(), branch(reads)], &["y", "maps"]));
        let answers = GraphProto { output: vec![output("maps")], ..GraphProto::default() };
        assert!(!is_replaced(vec![map(), branch(answers)], &["y", "maps"]));
        let contains = GraphProto { node: vec![map()], output: vec![output("maps")], ..GraphProto::default() };
        assert!(!is_replaced(vec![branch(contains)], &["y"]));
        // Operators that are not the one of `ai.onnx.ml`, or that ONNX Runtime refuses.
        assert!(!is_replaced(vec![NodeProto { domain: "com.example".to_owned(), ..map() }], &["maps"]));
        assert!(!is_replaced(vec![NodeProto { attribute: Vec::new(), ..map() }], &["maps"]));
        let texts = AttributeProto {
            name: "classlabels_strings".to_owned(),
            strings: vec![Bytes::from_static(b"a")],
            ..AttributeProto::default()
        };
        let both = [map().attribute, vec![texts]].concat();
        assert!(!is_replaced(vec![NodeProto { attribute: both, ..map() }], &["maps"]));
    }

    #[test]
    fn a_file_without_maps_is_the_same_file() {
        let data = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
        let mut of_maps = 0;
        for folder in ["classes", "detectors", "external", "independent", "models", "rows", "zipmap"] {
            for file in std::fs::read_dir(data.join(folder)).unwrap() {
                let path = file.unwrap().path();
                let content: Arc<[u8]> = std::fs::read(&path).unwrap().into();
                if path.extension().is_none_or(|extension| extension != "onnx") || onnx_file::parse(&content).is_err() {
                    continue;
                }
                let has_maps = content.windows(6).any(|bytes| bytes == b"ZipMap");
                of_maps += usize::from(has_maps);
                assert_eq!(Arc::ptr_eq(&content, &replaced(&content)), !has_maps, "{}", path.display());
            }
        }
        assert_eq!(of_maps, 15);
    }
}
