//! Responses as JSON, and the headers of all responses with predictions. Predictions have the form `{"predictions": […], "model": {…}, "prediction_ids": […]}`.

use std::fmt::Write as _;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use axum::response::Response;
use bytes::Bytes;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::answer_format;
use super::context::attach_delivery;
use crate::budget::{Held, MemoryBudget};
use crate::error::{Error, Result};
use crate::feedback::Feedback;
use crate::identity::VersionKey;
use crate::monitor::Delivery;
use crate::pipeline::Prediction;
use crate::registry::ServedVersion;
use crate::serve::{Answer, StepTimings};
use crate::stage::{Stage, Timings};

const X_MODEL_VERSION: HeaderName = HeaderName::from_static("x-model-version");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Media type of JSON.
pub(super) const JSON: &str = "application/json";

/// Typical length of a prediction in JSON, so that the buffer seldom has to grow.
const BYTES_PER_PREDICTION: usize = 256;

#[derive(Serialize)]
struct AnswerBody<'a> {
    predictions: &'a [Prediction],
    model: &'a RawValue,
    prediction_ids: PredictionIds<'a>,
}

/// Response whose predictions are columns, as TensorFlow Serving writes them.
#[derive(Serialize)]
struct ColumnsBody<'a> {
    outputs: Box<RawValue>,
    model: &'a RawValue,
    prediction_ids: PredictionIds<'a>,
}

/// Text of the response to a prediction request.
pub(super) struct AnswerText {
    pub(super) text: Held<Vec<u8>>,
    pub(super) media_type: &'static str,
}

/// Ids of the predictions in a response, which serialize as one signed, opaque text each. Callers need them for
/// feedback.
struct PredictionIds<'a> {
    feedback: &'a Feedback,
    request: Uuid,
    version: VersionKey,
    predictions: &'a [Prediction],
}

impl Serialize for PredictionIds<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let id = |(index, prediction): (usize, &Prediction)| {
            self.feedback.sign(self.request, index, self.version, prediction.observation())
        };
        serializer.collect_seq(self.predictions.iter().enumerate().map(id))
    }
}

/// Returns the JSON text of the response to a prediction request to a version. The ids of the predictions are those of the
/// version that made them.
pub(super) fn answer_text(
    predictions: &[Prediction],
    (version, made_by): (&ServedVersion, &ServedVersion),
    request: Uuid,
    feedback: &Feedback,
) -> Result<Vec<u8>> {
    let prediction_ids = PredictionIds { feedback, request, version: made_by.key, predictions };
    let body = AnswerBody { predictions, model: &version.identity, prediction_ids };
    let mut text = Vec::with_capacity(BYTES_PER_PREDICTION * (1 + predictions.len().min(64)));
    serde_json::to_writer(&mut text, &body).map_err(Error::internal)?;
    Ok(text)
}

/// Returns the JSON text of the response to a prediction request in which predictions are columns.
pub(super) fn columns_text(
    predictions: &[Prediction],
    (version, made_by): (&ServedVersion, &ServedVersion),
    request: Uuid,
    feedback: &Feedback,
) -> Result<Vec<u8>> {
    let outputs = String::from_utf8(answer_format::columns(predictions)?).map_err(Error::internal)?;
    let outputs = RawValue::from_string(outputs).map_err(Error::internal)?;
    let prediction_ids = PredictionIds { feedback, request, version: made_by.key, predictions };
    serde_json::to_vec(&ColumnsBody { outputs, model: &version.identity, prediction_ids }).map_err(Error::internal)
}

/// Reserves memory for the text of a response until the client has read it.
pub(super) fn held(text: Vec<u8>, memory: &MemoryBudget) -> Result<Held<Vec<u8>>> {
    Ok(memory.hold(text.capacity())?.of(text))
}

/// Returns the response to a prediction request.
pub(super) fn answer(answer: Answer<AnswerText>) -> Response {
    let AnswerText { text, media_type } = answer.encoded;
    let mut response = Response::new(Body::from(Bytes::from_owner(text)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    describe(&mut response, &answer.version, (&answer.timings, &answer.steps), answer.delivery);
    response
}

/// Adds what every response to a prediction says in its headers, and the guard of its delivery.
pub(super) fn describe(
    response: &mut Response,
    version: &ServedVersion,
    (timings, steps): (&Timings, &[StepTimings]),
    delivery: Delivery,
) {
    let headers = response.headers_mut();
    headers.insert(X_MODEL_VERSION, HeaderValue::from(version.version.get()));
    headers.extend(server_timing(timings, steps).map(|timing| (SERVER_TIMING, timing)));
    attach_delivery(response, delivery);
}

/// Returns the W3C `Server-Timing` header, with durations in milliseconds. The stages of a step are named after it, as in
/// `classify.infer`; `classify` is their sum, and describes the version that ran.
fn server_timing(timings: &Timings, steps: &[StepTimings]) -> Option<HeaderValue> {
    let names = [
        ("net", Stage::Network),
        ("pre", Stage::Preprocess),
        ("queue", Stage::Queue),
        ("infer", Stage::Inference),
        ("post", Stage::Postprocess),
    ];
    let mut text = String::with_capacity(96);
    for (name, stage) in names {
        let separator = if text.is_empty() { "" } else { ", " };
        let Micros(whole, thousandths) = Micros::of(timings.of(stage));
        write!(text, "{separator}{name};dur={whole}.{thousandths:03}").ok()?;
    }
    for StepTimings { name: step, version, timings } in steps {
        let Micros(whole, thousandths) = Micros::of(Stage::ALL.into_iter().map(|stage| timings.of(stage)).sum());
        write!(text, ", {step};desc=\"version {version}\";dur={whole}.{thousandths:03}").ok()?;
        for (name, stage) in &names[1..] {
            let Micros(whole, thousandths) = Micros::of(timings.of(*stage));
            write!(text, ", {step}.{name};dur={whole}.{thousandths:03}").ok()?;
        }
    }
    HeaderValue::try_from(text).ok()
}

/// Duration in whole milliseconds and remaining microseconds.
struct Micros(u128, u128);

impl Micros {
    fn of(duration: Duration) -> Micros {
        Micros(duration.as_micros() / 1000, duration.as_micros() % 1000)
    }
}

/// Returns a small JSON response.
pub(super) fn json(value: &impl Serialize) -> Result<Response> {
    serde_json::to_vec(value).map(json_text).map_err(Error::internal)
}

/// Returns a JSON response that may be large. Memory is reserved for it, as for the response to a prediction.
pub(super) fn held_json(value: &impl Serialize, memory: &MemoryBudget) -> Result<Response> {
    let text = serde_json::to_vec(value).map_err(Error::internal)?;
    Ok(json_text(Bytes::from_owner(held(text, memory)?)))
}

/// Returns a JSON response of bounded size about completed work. Its memory is reserved even above the limit.
pub(super) fn json_held_anyway(value: &impl Serialize, memory: &MemoryBudget) -> Result<Response> {
    let text = serde_json::to_vec(value).map_err(Error::internal)?;
    Ok(json_text(Bytes::from_owner(memory.hold_anyway(text.capacity()).of(text))))
}

fn json_text(text: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::from(text.into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
    response
}
