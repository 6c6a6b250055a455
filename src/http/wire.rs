//! Format of answers: `{"predictions": […], "model": {…}, "prediction_ids": […]}`.

use std::fmt::Write as _;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use axum::response::Response;
use bytes::Bytes;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::context::attach_delivery;
use crate::budget::{Held, MemoryBudget};
use crate::error::{Error, Result};
use crate::feedback::Feedback;
use crate::identity::VersionKey;
use crate::model::BatchingStatus;
use crate::pipeline::Prediction;
use crate::registry::{ServedModel, ServedVersion};
use crate::serve::Answer;
use crate::stage::{Stage, Timings};
use crate::tensor::{Dim, TensorSpec};
use crate::traffic::Share;

const X_MODEL_VERSION: HeaderName = HeaderName::from_static("x-model-version");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// About as long as a prediction is in JSON, to spare the buffer some growing.
const BYTES_PER_PREDICTION: usize = 256;

#[derive(Serialize)]
struct AnswerBody<'a> {
    predictions: &'a [Prediction],
    model: &'a RawValue,
    prediction_ids: PredictionIds<'a>,
}

/// One id per prediction: signed, and opaque to the caller, who needs it for feedback.
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

/// The text of an answer to this request.
pub(super) fn answer_text(
    predictions: &[Prediction],
    version: &ServedVersion,
    request: Uuid,
    feedback: &Feedback,
) -> Result<Vec<u8>> {
    let prediction_ids = PredictionIds { feedback, request, version: version.key, predictions };
    let body = AnswerBody { predictions, model: &version.identity, prediction_ids };
    let mut text = Vec::with_capacity(BYTES_PER_PREDICTION * (1 + predictions.len().min(64)));
    serde_json::to_writer(&mut text, &body).map_err(Error::internal)?;
    Ok(text)
}

/// Holds the text of an answer in the memory for bodies and answers until the client has read it.
pub(super) fn held(text: Vec<u8>, memory: &MemoryBudget) -> Result<Held<Vec<u8>>> {
    Ok(memory.hold(text.capacity())?.of(text))
}

/// The response to a prediction.
pub(super) fn answer(answer: Answer<Held<Vec<u8>>>) -> Response {
    let mut response = json_text(Bytes::from_owner(answer.encoded));
    let headers = response.headers_mut();
    headers.insert(X_MODEL_VERSION, HeaderValue::from(answer.version.version.get()));
    headers.extend(server_timing(&answer.timings).map(|timing| (SERVER_TIMING, timing)));
    attach_delivery(&mut response, answer.delivery);
    response
}

/// The W3C `Server-Timing` header; durations in milliseconds.
fn server_timing(timings: &Timings) -> Option<HeaderValue> {
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
    HeaderValue::try_from(text).ok()
}

/// A duration as milliseconds and thousandths of one.
struct Micros(u128, u128);

impl Micros {
    fn of(duration: Duration) -> Micros {
        Micros(duration.as_micros() / 1000, duration.as_micros() % 1000)
    }
}

/// A small JSON response.
pub(super) fn json(value: &impl Serialize) -> Result<Response> {
    serde_json::to_vec(value).map(json_text).map_err(Error::internal)
}

/// A JSON response that may be large. Held in memory like the answer to a prediction.
pub(super) fn held_json(value: &impl Serialize, memory: &MemoryBudget) -> Result<Response> {
    let text = serde_json::to_vec(value).map_err(Error::internal)?;
    Ok(json_text(Bytes::from_owner(held(text, memory)?)))
}

/// A JSON response of bounded size about work that is done: it is not refused for lack of memory.
pub(super) fn json_held_anyway(value: &impl Serialize, memory: &MemoryBudget) -> Result<Response> {
    let text = serde_json::to_vec(value).map_err(Error::internal)?;
    Ok(json_text(Bytes::from_owner(memory.hold_anyway(text.capacity()).of(text))))
}

fn json_text(text: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::from(text.into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

// ===== what is served =====

/// `GET /v1/models/{model}`: what TensorFlow Serving's, KServe's and our own clients read, in one object.
#[derive(Serialize)]
pub(super) struct ModelView<'a> {
    name: &'a str,
    ready: bool,
    /// The reason why the model is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    /// True if `POST /predict` asks this model.
    default: bool,
    model_version_status: Vec<VersionStatus>,
    versions: Vec<VersionView<'a>>,
}

/// TensorFlow Serving's view of a version.
#[derive(Serialize)]
struct VersionStatus {
    version: String,
    state: &'static str,
    status: StatusCodeView,
}

#[derive(Serialize)]
struct StatusCodeView {
    error_code: &'static str,
    error_message: &'static str,
}

/// Our view of a version.
#[derive(Serialize)]
pub(super) struct VersionView<'a> {
    version: u32,
    /// True if it is the stable version.
    stable: bool,
    /// Its share of the requests that name no version.
    traffic_percent: Share,
    sha256: String,
    provider: &'static str,
    workers: usize,
    intra_op_threads: usize,
    /// Maximum time that a client waits.
    budget_ms: u64,
    batching: BatchingStatus,
    inputs: Vec<TensorView<'a>>,
    outputs: Vec<TensorView<'a>>,
}

/// A declared tensor: name, type, and dimensions with -1 for those that a request decides.
#[derive(Serialize)]
struct TensorView<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: Vec<i64>,
}

impl<'a> ModelView<'a> {
    /// `default` says whether this is the model that `POST /predict` asks.
    /// `not_ready` is the reason why the model does not answer, if there is one.
    pub(super) fn new(
        name: &'a str,
        model: &'a ServedModel,
        default: bool,
        not_ready: Option<String>,
    ) -> ModelView<'a> {
        let status = |version: &ServedVersion| VersionStatus {
            version: version.version.to_string(),
            state: "AVAILABLE",
            status: StatusCodeView { error_code: "OK", error_message: "" },
        };
        let newest_first = || model.versions.values().rev();
        ModelView {
            name,
            ready: not_ready.is_none(),
            reason: not_ready,
            description: model.description.as_deref(),
            default,
            model_version_status: newest_first().map(|version| status(version)).collect(),
            versions: newest_first().map(|version| VersionView::new(version, model)).collect(),
        }
    }

    /// The view of a model that is known but not served.
    pub(super) fn unserved(name: &'a str, reason: &str, default: bool) -> ModelView<'a> {
        ModelView {
            name,
            ready: false,
            reason: Some(reason.to_owned()),
            description: None,
            default,
            model_version_status: Vec::new(),
            versions: Vec::new(),
        }
    }
}

impl<'a> VersionView<'a> {
    /// A version of this model.
    pub(super) fn new(served: &'a ServedVersion, of: &ServedModel) -> VersionView<'a> {
        let model = &served.pipeline.model;
        VersionView {
            version: served.version.get(),
            stable: served.version == of.stable,
            traffic_percent: of.split.share(served.version),
            sha256: served.sha256.to_string(),
            provider: model.provider().name(),
            workers: model.workers(),
            intra_op_threads: served.intra_op_threads,
            budget_ms: u64::try_from(served.budget.total.as_millis()).unwrap_or(u64::MAX),
            batching: model.sharing().status(),
            inputs: model.signature().inputs.iter().map(TensorView::of).collect(),
            outputs: model.signature().outputs.iter().map(TensorView::of).collect(),
        }
    }
}

impl<'a> TensorView<'a> {
    fn of(spec: &'a TensorSpec) -> TensorView<'a> {
        let length = |dim: &Dim| match dim {
            Dim::Fixed(length) => i64::try_from(*length).unwrap_or(i64::MAX),
            Dim::Dynamic(_) => -1,
        };
        TensorView { name: &spec.name, datatype: spec.dtype.name(), shape: spec.dims.iter().map(length).collect() }
    }
}
