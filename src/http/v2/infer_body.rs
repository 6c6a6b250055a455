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

    fn decode<T>(self, with: impl FnOnce(Input<'_>) -> Result<T>) -> Result<(T, AnswerForm)> {
        let body = self.arrived.whole();
        let (request, form) = read(&body, self.json_length, body.budget())?;
        Ok((with(Input::Named(request))?, form))
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
    read(body, json_length, memory).and_then(|(request, _)| with(Input::Named(request)))
}

/// Reads the body of an inference request.
pub(super) fn read<'a>(
    body: &'a [u8],
    json_length: Option<usize>,
    memory: &'a MemoryBudget,
) -> Result<(NamedRequest<'a>, AnswerForm)> {
    let (json, raw) = body.split_at_checked(json_length.unwrap_or(body.len())).ok_or_else(|| {
        wrong(format!(
            "the header Inference-Header-Content-Length: the JSON text has {} bytes, but the body has {}",
            json_length.unwrap_or_default(),
            body.len()
        ))
    })?;
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
    let inputs = decode_inputs(inputs, raw)?;
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
    Ok((request, form))
}

/// Returns the inputs, each with its elements in the JSON text or in the raw bytes.
fn decode_inputs<'a>(inputs: Vec<InputTensor<'a>>, mut raw: &'a [u8]) -> Result<Vec<NamedInput<'a>>> {
    let mut named = Vec::with_capacity(inputs.len());
    for (index, InputTensor { name, shape, datatype, data, parameters }) in inputs.into_iter().enumerate() {
        let at = |problem: String| wrong(format!("inputs[{index}] (\"{}\"){problem}", shown(&name)));
        if parameters.shared_memory_region.is_some() {
            return Err(at(": shared memory is not supported; send the elements in the request".to_owned()));
        }
        let dtype = dtype(&datatype).map_err(|problem| at(format!(".datatype: {problem}")))?;
        let elements = match (data, parameters.binary_data_size) {
            (Some(data), None) => Elements::Json(data),
            (None, Some(size)) => {
                let (bytes, rest) = raw.split_at_checked(size).ok_or_else(|| {
                    at(format!(
                        ".parameters.binary_data_size: {size} bytes do not follow the JSON text: {} are left",
                        raw.len()
                    ))
                })?;
                raw = rest;
                Elements::Raw(bytes)
            }
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
