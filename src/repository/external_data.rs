//! Weights that an ONNX file keeps in other files of its version.
//!
//! ONNX Runtime takes the external data of the main graph's initializers from memory. It would look for all other
//! external data (in branches, bodies of loops, functions, attributes, sparse tensors) in the file system, starting in
//! the server's working directory. So all this other data is put into the model before it is opened. The bytes come
//! from the files that were hashed: no path in a model is ever opened.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use prost::Message;
use prost::encoding::{DecodeContext, decode_key, skip_field};

use super::encoding::{Change, Pieces, malformed, rewrite};
use super::onnx_file::{EXTERNAL, StringStringEntryProto, TensorProto, bits_per_element, problem_of};

/// Maximum size of a model in one message, in bytes (a limit of Protocol Buffers).
const MAX_MODEL_BYTES: usize = i32::MAX as usize;

/// Maximum depth of messages within messages, as in the decoder of Protocol Buffers.
const MAX_DEPTH: usize = 100;

/// Returns the locations of a model's external data, as written in its file. Decodes nothing else, so that a file that
/// was not tried out does not take a multiple of its size in memory.
pub(super) fn locations(model: &Arc<[u8]>) -> Result<BTreeSet<String>, String> {
    let mut found = BTreeSet::new();
    locations_in(Part::Model, &Bytes::from_owner(Arc::clone(model)), MAX_DEPTH, &mut found)
        .map_err(|problem| problem_of(model, problem))?;
    Ok(found)
}

fn locations_in(part: Part, bytes: &Bytes, depth: usize, found: &mut BTreeSet<String>) -> Result<(), String> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err(format!("not an ONNX file: its messages are nested more than {MAX_DEPTH} deep"));
    };
    rewrite(bytes, |number, content| {
        if (part, number) == (Part::Tensor, EXTERNAL_DATA) {
            let entry = StringStringEntryProto::decode(content.clone()).map_err(malformed)?;
            if entry.key == "location" {
                found.insert(entry.value);
            }
        } else if let Some((field, _)) = part.field(number) {
            locations_in(field, content, depth, found)?;
        }
        Ok(Change::Keep)
    })
    .map(drop)
}

// ===== putting the bytes in =====

/// A model whose external data are all in memory.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SelfContained {
    /// The model. Only initializers of its main graph still have external data.
    pub(super) model: Arc<[u8]>,
    /// The locations of the external data that the model still refers to.
    pub(super) left: BTreeSet<String>,
}

/// Puts the external data of its tensors into a model that [`super::onnx_file::parse`] has read. The data of the main
/// graph's initializers are only checked.
pub(super) fn contain(model: &Arc<[u8]>, files: &BTreeMap<String, Arc<[u8]>>) -> Result<SelfContained, String> {
    let files = files.iter().map(|(name, content)| (name.as_str(), Bytes::from_owner(Arc::clone(content)))).collect();
    let mut rewriter = Rewriter { files, left: BTreeSet::new() };
    let whole = Bytes::from_owner(Arc::clone(model));
    let rewritten = rewriter.message(Part::Model, Place::MainGraph, &whole)?;
    let model = match rewritten {
        None => Arc::clone(model),
        Some(pieces) if pieces.length() > MAX_MODEL_BYTES => {
            return Err(format!(
                "the weights that it keeps in other files, besides those of its main graph, make it {} bytes large; ONNX has a \
                 limit of {MAX_MODEL_BYTES}",
                pieces.length()
            ));
        }
        Some(pieces) => pieces.join().into(),
    };
    Ok(SelfContained { model, left: rewriter.left })
}

struct Rewriter<'a> {
    files: BTreeMap<&'a str, Bytes>,
    left: BTreeSet<String>,
}

/// The parts of a model that can hold tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Model,
    TrainingInfo,
    Function,
    Graph,
    Node,
    Attribute,
    SparseTensor,
    Tensor,
}

/// Position of a tensor in the model. ONNX Runtime takes external data from memory only for the main graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The model, its main graph, and that graph's initializers.
    MainGraph,
    Elsewhere,
}

impl Part {
    /// Returns the part that a field of this part holds, and how often the field may occur; `None` for fields that
    /// cannot hold a tensor. Field numbers as in `onnx.proto` of ONNX 1.20.
    fn field(self, number: u32) -> Option<(Part, Occurs)> {
        Some(match (self, number) {
            (Part::Model, 7) | (Part::TrainingInfo, 1 | 2) | (Part::Attribute, 6) => (Part::Graph, Occurs::Once),
            (Part::Attribute, 11) => (Part::Graph, Occurs::Often),
            (Part::Model, 20) => (Part::TrainingInfo, Occurs::Often),
            (Part::Model, 25) => (Part::Function, Occurs::Often),
            (Part::Function, 7) | (Part::Graph, 1) => (Part::Node, Occurs::Often),
            (Part::Function, 11) | (Part::Node, 5) => (Part::Attribute, Occurs::Often),
            (Part::Graph, 5) | (Part::Attribute, 10) => (Part::Tensor, Occurs::Often),
            (Part::Attribute, 5) | (Part::SparseTensor, 1 | 2) => (Part::Tensor, Occurs::Once),
            (Part::Graph, 15) | (Part::Attribute, 23) => (Part::SparseTensor, Occurs::Often),
            (Part::Attribute, 22) => (Part::SparseTensor, Occurs::Once),
            _ => return None,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Occurs {
    Once,
    Often,
}

impl Place {
    fn of(self, parent: Part, number: u32) -> Place {
        match (self, parent, number) {
            (Place::MainGraph, Part::Model, 7) | (Place::MainGraph, Part::Graph, 5) => Place::MainGraph,
            _ => Place::Elsewhere,
        }
    }
}

impl Rewriter<'_> {
    /// Returns the message with external data put into its tensors; `None` if the message stays the same.
    fn message(&mut self, part: Part, place: Place, bytes: &Bytes) -> Result<Option<Pieces>, String> {
        if part == Part::Tensor {
            return self.tensor(place, bytes);
        }
        let mut seen = BTreeSet::new();
        rewrite(bytes, |number, content| {
            let Some((field, occurs)) = part.field(number) else { return Ok(Change::Keep) };
            // Refused, because readers merge duplicate fields in different ways.
            if occurs == Occurs::Once && !seen.insert(number) {
                return Err("not an ONNX file: a field that may occur only once occurs twice".to_owned());
            }
            let changed = self.message(field, place.of(part, number), content)?;
            Ok(changed.map_or(Change::Keep, Change::Replace))
        })
    }

    fn tensor(&mut self, place: Place, bytes: &Bytes) -> Result<Option<Pieces>, String> {
        let tensor = TensorProto::decode(bytes.clone()).map_err(malformed)?;
        if tensor.external_data.is_empty() && tensor.data_location == 0 {
            return Ok(None);
        }
        let in_tensor = |problem: String| format!("the tensor {:?} {problem}", shortened(&tensor.name));
        let (location, content) = self.content(&tensor).map_err(in_tensor)?;
        if place == Place::MainGraph {
            self.left.insert(location);
            return Ok(None);
        }
        let mut changed = Pieces::default();
        let mut rest = bytes.clone();
        while rest.has_remaining() {
            let start = bytes.len() - rest.remaining();
            let (number, wire_type) = decode_key(&mut rest).map_err(malformed)?;
            skip_field(wire_type, number, &mut rest, DecodeContext::default()).map_err(malformed)?;
            // Keeps the shape, type and names. The other fields are only for data, which come from the file.
            if KEPT_OF_AN_EXTERNAL_TENSOR.contains(&number) {
                changed.push(bytes.slice(start..bytes.len() - rest.remaining()));
            }
        }
        changed.push_field(RAW_DATA, Pieces::of(content));
        Ok(Some(changed))
    }

    /// Returns the location of a tensor's external data, and the data.
    fn content(&self, tensor: &TensorProto) -> Result<(String, Bytes), String> {
        if tensor.data_location != EXTERNAL || tensor.external_data.is_empty() {
            return Err("has data both in another file and in the model".to_owned());
        }
        let entry = |key: &str| {
            let mut entries = tensor.external_data.iter().filter(|entry| entry.key == key);
            let first = entries.next().map(|entry| entry.value.as_str());
            if entries.next().is_some() { Err(format!("names the {key} of its data twice")) } else { Ok(first) }
        };
        let number = |key: &str| {
            let parse = |text: &str| {
                text.parse::<usize>().map_err(|_| format!("has {:?} as the {key} of its data", shortened(text)))
            };
            entry(key)?.map(parse).transpose()
        };
        let location = entry("location")?.ok_or("does not say in which file its data are")?;
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
        let expected = size_in_bytes(tensor)?;
        if let Some(length) = length.filter(|length| *length != expected) {
            return Err(format!("has {expected} bytes by its shape and type, and {length} by its external data"));
        }
        let file = self.files.get(location).ok_or_else(|| {
            format!("keeps its data in {:?}, which is not a file of this version", shortened(location))
        })?;
        match offset.checked_add(expected).filter(|end| *end <= file.len()) {
            Some(end) => Ok((location.to_owned(), file.slice(offset..end))),
            None => Err(format!(
                "has {expected} bytes from {offset} on in {:?}, which has {}",
                shortened(location),
                file.len()
            )),
        }
    }
}

/// Numbers of the fields `dims`, `data_type`, `name`, `doc_string` and `metadata_props` of `TensorProto`.
const KEPT_OF_AN_EXTERNAL_TENSOR: [u32; 5] = [1, 2, 8, 12, 16];

/// Number of the field `raw_data` of `TensorProto`.
const RAW_DATA: u32 = 9;

/// Number of the field `external_data` of `TensorProto`.
const EXTERNAL_DATA: u32 = 13;

fn size_in_bytes(tensor: &TensorProto) -> Result<usize, String> {
    let bits = bits_per_element(tensor.data_type)
        .ok_or_else(|| format!("is of a type ({}) that cannot be kept in another file", tensor.data_type))?;
    let elements = tensor.dims.iter().try_fold(1_usize, |all, &dim| all.checked_mul(usize::try_from(dim).ok()?));
    let size = elements.and_then(|elements| elements.checked_mul(bits)).map(|bits| bits.div_ceil(8));
    size.ok_or_else(|| format!("has an impossible shape: {:?}", tensor.dims.iter().take(16).collect::<Vec<_>>()))
}

/// Returns the first hundred characters of a name, for a message.
fn shortened(text: &str) -> String {
    text.chars().take(100).collect()
}
