//! `POST /v2/models/{model}/infer`: named tensors in JSON or raw bytes, through the same queue, budgets and traffic split as
//! `/predict`.

use std::pin::pin;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::RawPathParams;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::response::Response;
use bytes::Bytes;

use super::infer_body::{AnswerForm, INFERENCE_HEADER_CONTENT_LENGTH, InferBody, json_length};
use crate::api::v2::{AnswerParameters, AnsweredTensor, InferAnswer, datatype};
use crate::budget::Held;
use crate::error::{Error, Result};
use crate::http::HttpState;
use crate::http::admission::AdmittedRequest;
use crate::http::body::{self, BodyLimit, is_unread};
use crate::http::context::Failure;
use crate::http::json_answer;
use crate::pipeline::{FlatElements, Prediction};
use crate::registry::{ServedVersion, Target};
use crate::serve::{NamedOutput, Output, prediction_columns};

/// An encoded answer.
struct EncodedAnswer {
    bytes: Held<Vec<u8>>,
    /// Length of the JSON text, if raw bytes follow it.
    json_length: Option<usize>,
}

/// Returns the model or version in a path with the parameters `{model}`, or `{model}` and `{version}`.
pub(super) fn target(path: &RawPathParams) -> Result<Target<'_>> {
    let parameter = |wanted: &str| path.iter().find_map(|(name, value)| (name == wanted).then_some(value));
    match (parameter("model"), parameter("version")) {
        (Some(model), None) => Ok(Target::Model(model)),
        (Some(model), Some(version)) => Ok(Target::Version(model, version)),
        (None, _) => Err(Error::UnknownEndpoint),
    }
}

/// `POST /v2/models/{model}/infer`, `POST /v2/models/{model}/versions/{version}/infer`
pub(super) async fn infer(state: Arc<HttpState>, request: AdmittedRequest) -> Result<Response, Failure> {
    let AdmittedRequest { admitted, rows: _, unique, head, mut content } = request;
    let (feedback, memory) = (Arc::clone(&state.feedback), state.body_memory.clone());
    let encode = move |output: Output<'_>, form: AnswerForm, version: &ServedVersion| {
        let (text, json_length) = match output {
            Output::Named(outputs) => encoded(outputs, &form, version)?,
            Output::Predictions { predictions, made_by } => {
                let id = |index: usize, prediction: &Prediction| {
                    feedback.sign(unique, index, made_by.key, prediction.observation())
                };
                let kind = made_by.prediction_kind();
                encoded(&prediction_columns(&kind, predictions, id, &form.names())?, &form, version)?
            }
        };
        Ok(EncodedAnswer { bytes: json_answer::held(text, &memory)?, json_length })
    };
    let inferred = {
        let json_length = json_length(&head.headers);
        let limit = BodyLimit::of_predictions(state.body_limit);
        let body = body::read(&head.headers, &mut content, limit, &state.body_memory);
        let arriving = pin!(async { Ok(InferBody { arrived: body.await?, json_length: json_length? }) });
        admitted.infer(arriving, &state.blocking_threads, encode).await
    };
    match inferred {
        Ok(answer) => {
            let EncodedAnswer { bytes, json_length } = answer.encoded;
            let mut response = Response::new(Body::from(Bytes::from_owner(bytes)));
            let headers = response.headers_mut();
            let media_type = if json_length.is_some() { "application/octet-stream" } else { "application/json" };
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
            headers.extend(json_length.map(|length| (INFERENCE_HEADER_CONTENT_LENGTH, HeaderValue::from(length))));
            let timings = (&answer.timings, &*answer.steps);
            json_answer::describe(&mut response, &answer.version, timings, answer.delivery);
            Ok(response)
        }
        Err(error) => {
            if is_unread(&error) {
                body::discard(&head, &mut content, &error).await;
            }
            Err(error.into())
        }
    }
}

/// Returns the bytes of an answer, and the length of its JSON text if raw bytes follow.
fn encoded(outputs: &[NamedOutput], form: &AnswerForm, version: &ServedVersion) -> Result<(Vec<u8>, Option<usize>)> {
    let tensors = outputs.iter().map(|output| answered(output, form.is_binary(&output.name)));
    let tensors = tensors.collect::<Result<Vec<_>>>()?;
    let raw = || outputs.iter().filter(|output| form.is_binary(&output.name)).map(|output| &output.data);
    let is_binary = raw().next().is_some();
    let model_version = version.version.to_string();
    let (model_name, id) = (version.model.as_str(), form.id.as_deref());
    let mut text = Vec::with_capacity(256 + raw().map(|data| data.raw_len()).sum::<usize>());
    let answer = InferAnswer { model_name, model_version: &model_version, id, outputs: tensors };
    serde_json::to_writer(&mut text, &answer).map_err(Error::internal)?;
    let json_length = is_binary.then_some(text.len());
    raw().for_each(|data| data.write_raw(&mut text));
    Ok((text, json_length))
}

/// Returns an output as the JSON text describes it: with its elements, or with the number of its raw bytes.
fn answered(output: &NamedOutput, is_binary: bool) -> Result<AnsweredTensor<'_, FlatElements<'_>>> {
    let NamedOutput { name, shape, data } = output;
    let unusable = |problem: &str| Error::UnusableOutput { output: name.to_string(), problem: problem.to_owned() };
    let datatype = datatype(data.dtype()).ok_or_else(|| {
        unusable(
            "is a sequence of tensors, which this protocol does not have; send instances to /v1/models/{model}:predict",
        )
    })?;
    if is_binary {
        let parameters = Some(AnswerParameters { binary_data_size: data.raw_len() });
        return Ok(AnsweredTensor { name, datatype, shape, parameters, data: None });
    }
    if data.first_non_finite().is_some() {
        return Err(unusable(
            "has NaN or infinity, which JSON does not have; ask for raw bytes (parameters.binary_data)",
        ));
    }
    Ok(AnsweredTensor { name, datatype, shape, parameters: None, data: Some(FlatElements(data)) })
}
