//! The body of a v2 inference request: JSON text, and after it the raw bytes of inputs that are not in the JSON text.

use std::borrow::Cow;
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::{CONTENT_TYPE, HeaderName};

use crate::api::v2::{InferRequest, InputTensor, RequestParameters, RequestedOutput, dtype};
use crate::budget::{ArrivedBytes, MemoryBudget};
use crate::error::{Error, Result};
use crate::identity::shown;
use crate::model::Priority;
use crate::pipeline::unreadable;
use crate::serve::{Content, Elements, EncodedRequest, Input, NamedInput, NamedRequest};
use crate::tensor::{DType, RawBytes};

/// Length of the JSON text of a body with raw bytes, and of an answer with raw bytes.
pub(super) const INFERENCE_HEADER_CONTENT_LENGTH: HeaderName =
    HeaderName::from_static("inference-header-content-length");

/// The body of a v2 inference request.
pub(super) struct InferBody {
    pub(super) arrived: ArrivedBytes,
    /// Length of the JSON text; `None` if the whole body is JSON.
    pub(super) json_length: Option<usize>,
}

/// The form of the answer that a request asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct AnswerForm {
    pub(super) id: Option<String>,
    /// True if outputs are answered as raw bytes unless they say otherwise.
    binary_by_default: bool,
    /// The outputs that were asked for; empty for all.
    outputs: Vec<AskedOutput>,
}

/// An output that a request asks for.
#[derive(Debug, PartialEq, Eq)]
struct AskedOutput {
    name: String,
    /// True if it is answered as raw bytes; `None` if it does not say.
    is_binary: Option<bool>,
}

impl AnswerForm {
    /// Returns true if an output is answered as raw bytes.
    pub(super) fn is_binary(&self, name: &str) -> bool {
        let own = self.outputs.iter().find(|output| output.name == name);
        own.and_then(|output| output.is_binary).unwrap_or(self.binary_by_default)
    }

    /// Returns the names of the outputs that were asked for; empty for all.
    pub(super) fn names(&self) -> Vec<String> {
        self.outputs.iter().map(|output| output.name.clone()).collect()
    }
}

impl EncodedRequest for InferBody {
    type AnswerForm = AnswerForm;

    fn size(&self) -> usize {
        self.arrived.len()
    }

    fn copied(&mut self, memory: &MemoryBudget) -> Option<InferBody> {
        Some(InferBody { arrived: self.arrived.copied(memory).ok()?, json_length: self.json_length })
    }

    fn decode<T>(self, with: impl FnOnce(Input<'_>) -> Result<T>) -> Result<(T, AnswerForm)> {
        let InferBody { arrived, json_length } = self;
        let parts = arrived.parts();
        match (parts.as_slice(), json_length) {
            // The numbers after the JSON text are read from where they arrived.
            ([first, others @ ..], Some(json_length)) if !others.is_empty() && json_length <= first.len() => {
                let (json, rest) = first.split_at(json_length);
                let rest = (!rest.is_empty()).then_some(rest);
                read(json, rest.into_iter().chain(others.iter().copied()).collect(), arrived.budget(), with)
            }
            _ => {
                let body = arrived.whole();
                let (json, raw) = divided(&body, json_length)?;
                read(json, vec![raw], body.budget(), with)
            }
        }
    }
}

/// Returns the length of the JSON text of a body, from its headers; `None` if the whole body is JSON.
pub(super) fn json_length(headers: &HeaderMap) -> Result<Option<usize>> {
    let Some(length) = headers.get(&INFERENCE_HEADER_CONTENT_LENGTH) else { return Ok(None) };
    let parsed = length.to_str().ok().and_then(|length| length.trim().parse().ok());
    parsed.map(Some).ok_or_else(|| {
        wrong(format!(
            "the header Inference-Header-Content-Length: found \"{}\", expected the length of the JSON text in bytes",
            shown(&String::from_utf8_lossy(length.as_bytes()))
        ))
    })
}

/// Checks the type of a body. A body is JSON, or JSON and raw bytes.
pub(super) fn media_type(headers: &HeaderMap) -> Result<Option<Cow<'_, str>>> {
    let Some(content_type) = headers.get(CONTENT_TYPE) else { return Ok(None) };
    let essence = content_type.as_bytes().split(|&b| b == b';').next().unwrap_or_default().trim_ascii();
    let is = |known: &str| essence.eq_ignore_ascii_case(known.as_bytes());
    if is("application/json")
        || (is("application/octet-stream") && headers.contains_key(&INFERENCE_HEADER_CONTENT_LENGTH))
    {
        return Ok(None);
    }
    Err(Error::UnsupportedContent(format!(
        "the Content-Type of the body is \"{}\"; send application/json, or application/octet-stream with the header \
         Inference-Header-Content-Length if raw bytes follow the JSON text",
        shown(&String::from_utf8_lossy(essence))
    )))
}

/// Reads the body of an inference request, and passes it to `with`.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn read_inference(
    body: &[u8],
    json_length: Option<usize>,
    memory: &MemoryBudget,
    with: impl FnOnce(Input<'_>) -> Result<()>,
) -> Result<()> {
    let (json, raw) = divided(body, json_length)?;
    read(json, vec![raw], memory, with).map(|(done, _)| done)
}

/// Divides a body into its JSON text and the raw bytes after it.
fn divided(body: &[u8], json_length: Option<usize>) -> Result<(&[u8], &[u8])> {
    body.split_at_checked(json_length.unwrap_or(body.len())).ok_or_else(|| {
        wrong(format!(
            "the header Inference-Header-Content-Length: the JSON text has {} bytes, but the body has {}",
            json_length.unwrap_or_default(),
            body.len()
        ))
    })
}

/// Reads an inference request, and passes it to `with`. `raw` are the parts of the raw bytes.
fn read<T>(
    json: &[u8],
    raw: Vec<&[u8]>,
    memory: &MemoryBudget,
    with: impl FnOnce(Input<'_>) -> Result<T>,
) -> Result<(T, AnswerForm)> {
    const FORM: &str = r#"{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [0, 1]}]}"#;
    if json.first_chunk() != Some(b"{") && json.trim_ascii_start().first() != Some(&b'{') {
        return Err(wrong(format!("the body is not a JSON object; send {FORM}")));
    }
    let request: InferRequest<'_> =
        serde_json::from_slice(json).map_err(|error| unreadable(json, &error, "an inference request", FORM))?;
    let InferRequest { id, inputs, outputs, parameters, model_name: _, model_version: _ } = request;
    if parameters.sequence_id.is_some_and(|id| !matches!(id.get(), "0" | "\"\"")) {
        return Err(wrong(
            "parameters.sequence_id: the server keeps no state between requests; send the state as inputs".to_owned(),
        ));
    }
    let joined;
    let raw = match raw.len() {
        // A text may go from one part to the next, and a joined copy of booleans would not be counted.
        2.. if inputs.iter().any(|input| !has_numbers(input)) => {
            joined = memory.hold(raw.iter().map(|part| part.len()).sum())?.of(raw.concat());
            vec![joined.as_slice()]
        }
        _ => raw,
    };
    let inputs = decode_inputs(inputs, RawParts(raw))?;
    let (names, asked) = decode_outputs(outputs)?;
    let form = AnswerForm {
        id: id.map(Cow::into_owned),
        binary_by_default: parameters.binary_data_output.unwrap_or(false),
        outputs: asked,
    };
    let request = NamedRequest {
        inputs,
        outputs: names,
        content: content(&parameters)?,
        timeout: parameters.timeout.filter(|timeout| *timeout > 0).map(Duration::from_micros),
        priority: priority(&parameters)?,
        memory,
    };
    Ok((with(Input::Named(request))?, form))
}

/// Returns true if the raw bytes of an input are numbers.
fn has_numbers(input: &InputTensor<'_>) -> bool {
    dtype(&input.datatype).is_ok_and(|dtype| dtype != DType::Bool && dtype.raw_size().is_some())
}

/// The raw bytes that are left for further inputs, in parts.
struct RawParts<'a>(Vec<&'a [u8]>);

impl<'a> RawParts<'a> {
    fn len(&self) -> usize {
        self.0.iter().map(|part| part.len()).sum()
    }

    /// Takes this number of bytes from the front; `None` if there are fewer.
    fn take(&mut self, size: usize) -> Option<RawBytes<'a>> {
        if let [first, ..] = &mut *self.0
            && let Some((taken, rest)) = first.split_at_checked(size)
        {
            *first = rest;
            return Some(RawBytes::One(taken));
        }
        if self.len() < size {
            return None;
        }
        let (mut taken, mut left) = (Vec::new(), size);
        for part in &mut self.0 {
            let (now, rest) = part.split_at(left.min(part.len()));
            taken.push(now);
            (*part, left) = (rest, left - now.len());
        }
        self.0.retain(|part| !part.is_empty());
        Some(RawBytes::Several(taken))
    }
}

/// Returns the inputs, each with its elements in the JSON text or in the raw bytes.
fn decode_inputs<'a>(inputs: Vec<InputTensor<'a>>, mut raw: RawParts<'a>) -> Result<Vec<NamedInput<'a>>> {
    let mut named = Vec::with_capacity(inputs.len());
    for (index, InputTensor { name, shape, datatype, data, parameters }) in inputs.into_iter().enumerate() {
        let at = |problem: String| wrong(format!("inputs[{index}] (\"{}\"){problem}", shown(&name)));
        if parameters.shared_memory_region.is_some() {
            return Err(at(": shared memory is not supported; send the elements in the request".to_owned()));
        }
        let dtype = dtype(&datatype).map_err(|problem| at(format!(".datatype: {problem}")))?;
        let elements = match (data, parameters.binary_data_size) {
            (Some(data), None) => Elements::Json(data),
            (None, Some(size)) => Elements::Raw(raw.take(size).ok_or_else(|| {
                at(format!(
                    ".parameters.binary_data_size: {size} bytes do not follow the JSON text: {} are left",
                    raw.len()
                ))
            })?),
            (None, None) => return Err(at(": the key \"data\" is missing".to_owned())),
            (Some(_), Some(_)) => {
                return Err(at(
                    ": both \"data\" and parameters.binary_data_size are given; send one of them".to_owned()
                ));
            }
        };
        named.push(NamedInput { name, dtype, shape, elements });
    }
    match raw.len() {
        0 => Ok(named),
        left => Err(wrong(format!("{left} bytes of the body belong to no input (parameters.binary_data_size)"))),
    }
}

/// Returns the names of the outputs, and their form in the answer.
fn decode_outputs(outputs: Vec<RequestedOutput<'_>>) -> Result<(Vec<Cow<'_, str>>, Vec<AskedOutput>)> {
    let (mut names, mut asked) = (Vec::with_capacity(outputs.len()), Vec::with_capacity(outputs.len()));
    for (index, RequestedOutput { name, parameters }) in outputs.into_iter().enumerate() {
        let at = |problem: &str| wrong(format!("outputs[{index}] (\"{}\").parameters.{problem}", shown(&name)));
        if parameters.shared_memory_region.is_some() {
            return Err(at("shared_memory_region: shared memory is not supported; the answer has the elements"));
        }
        if parameters.classification.is_some_and(|classes| classes > 0) {
            return Err(at("classification: not supported; send the columns of the model's pipeline, or POST \
                           /v1/models/{model}:predict, for labels and their scores"));
        }
        asked.push(AskedOutput { name: name.clone().into_owned(), is_binary: parameters.binary_data });
        names.push(name);
    }
    Ok((names, asked))
}

fn content(parameters: &RequestParameters<'_>) -> Result<Content> {
    match parameters.content.as_deref() {
        None => Ok(Content::ByNames),
        Some("model") => Ok(Content::Model),
        Some("pipeline") => Ok(Content::Pipeline),
        Some(other) => {
            Err(wrong(format!("parameters.content: found \"{}\", expected \"model\" or \"pipeline\"", shown(other))))
        }
    }
}

fn priority(parameters: &RequestParameters<'_>) -> Result<Option<Priority>> {
    match parameters.priority {
        None | Some(0) => Ok(None),
        Some(1) => Ok(Some(Priority::High)),
        Some(2) => Ok(Some(Priority::Normal)),
        Some(3) => Ok(Some(Priority::Low)),
        Some(other) => Err(wrong(format!(
            "parameters.priority: found {other}, expected 0 (that of the head), 1 (high), 2 (normal) or 3 (low)"
        ))),
    }
}

fn wrong(problem: String) -> Error {
    Error::InvalidInput(problem)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use serde_json::json;

    use super::*;
    use crate::tensor::Data;

    /// Reads the elements of the inputs of a request.
    fn elements(input: Input<'_>) -> Result<Vec<Data>> {
        let Input::Named(NamedRequest { inputs, .. }) = input else { panic!("{input:?}") };
        let read = |NamedInput { dtype, shape, elements, .. }| match elements {
            Elements::Raw(bytes) => Data::from_raw(dtype, shape.iter().product(), &bytes).map_err(wrong),
            other => panic!("{other:?}"),
        };
        inputs.into_iter().map(read).collect()
    }

    #[test]
    fn raw_bytes_in_parts_are_those_in_one() {
        let memory = MemoryBudget::new(1 << 20, NonZeroUsize::MIN);
        let numbers = [Data::F64(vec![1.5, -2.0, 0.1]), Data::U8(vec![]), Data::I16(vec![-7; 5])];
        let others = [Data::Bool(vec![true, false]), Data::Text(vec!["some".into(), "texts".into()])];
        for sent in [numbers.to_vec(), [numbers.as_slice(), &others].concat()] {
            let input = |data: &Data| {
                let datatype = match data {
                    Data::F64(_) => "FP64",
                    Data::U8(_) => "UINT8",
                    Data::I16(_) => "INT16",
                    Data::Bool(_) => "BOOL",
                    _ => "BYTES",
                };
                let parameters = json!({ "binary_data_size": data.raw_len() });
                json!({ "name": datatype, "datatype": datatype, "shape": [data.len()], "parameters": parameters })
            };
            let json = json!({ "inputs": sent.iter().map(input).collect::<Vec<_>>() }).to_string();
            let mut raw = Vec::new();
            sent.iter().for_each(|data| data.write_raw(&mut raw));
            for size in 1..=raw.len() {
                let (found, _) = read(json.as_bytes(), raw.chunks(size).collect(), &memory, elements).unwrap();
                assert_eq!(found, sent, "{size}");
                assert_eq!(memory.held(), 0);
                for wrong in [&raw[1..], &[&*raw, &[0]].concat()] {
                    assert!(read(json.as_bytes(), wrong.chunks(size).collect(), &memory, elements).is_err());
                }
            }
        }
    }
}
