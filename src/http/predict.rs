//! The handler of predictions: reads rows in any of the forms that clients send, or the raw bytes of one instance, and
//! responds with predictions in the form that the client expects.

use std::pin::pin;
use std::sync::Arc;

use axum::http::HeaderMap;
use axum::response::Response;

use super::admission::AdmittedRequest;
use super::answer_format::{self, AnswerFormat, JSON_LINES};
use super::body::{self, BodyLimit, RowFormat, is_unread};
use super::context::Failure;
use super::json_answer::{self, AnswerText, JSON};
use super::{HttpState, invocations};
use crate::budget::{ArrivedBytes, Held, MemoryBudget};
use crate::error::{Error, Result};
use crate::pipeline::{RequestBody, null_for_nan, request_body};
use crate::registry::ServedVersion;
use crate::serve::{EncodedRequest, Input, Output};

/// Protocol of a path with predictions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// Leeway's own, which Vertex AI speaks, too.
    Leeway,
    /// TensorFlow Serving and KServe v1: rows sent as `inputs` are answered with columns as `outputs`.
    TensorFlow,
    /// SageMaker and MLflow: the header `Accept` chooses the format of the answer.
    Invocations,
}

/// Form of the predictions in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AnswerForm {
    /// A list of predictions.
    Rows,
    /// A list for each member of a prediction.
    Columns,
}

/// The body of a prediction request.
struct PredictBody {
    arrived: ArrivedBytes,
    /// Format, if the body has rows and is not one JSON object.
    rows: Option<RowFormat>,
    /// Media type, if the body is the raw bytes of one instance.
    media_type: Option<&'static str>,
    protocol: Protocol,
}

impl EncodedRequest for PredictBody {
    type AnswerForm = AnswerForm;

    fn size(&self) -> usize {
        self.arrived.len()
    }

    fn copied(&mut self, memory: &MemoryBudget) -> Option<PredictBody> {
        let PredictBody { rows, media_type, protocol, .. } = *self;
        Some(PredictBody { arrived: self.arrived.copied(memory).ok()?, rows, media_type, protocol })
    }

    fn decode<T>(self, with: impl FnOnce(Input<'_>) -> Result<T>) -> Result<(T, AnswerForm)> {
        let bytes = self.arrived.whole();
        let memory = bytes.budget();
        let (mut answer, mut without_nan) = (AnswerForm::Rows, None);
        let input = match (self.media_type, self.rows) {
            (Some(media_type), _) => Input::Media { media_type, bytes: &bytes, memory },
            (None, Some(format)) => Input::Rows { rows: format.rows(&bytes)?, memory },
            (None, None) => match read(&bytes, &mut without_nan, self.protocol, memory)? {
                RequestBody::Instances(instances) => Input::Instances { instances, memory },
                RequestBody::Rows(rows) => Input::Rows { rows, memory },
                RequestBody::Inputs(rows) => {
                    answer = self.protocol.answer_to_inputs();
                    Input::Rows { rows, memory }
                }
            },
        };
        Ok((with(input)?, answer))
    }
}

/// Reads a JSON body. On the path of MLflow, NaN is read as null, as a copy in `without_nan`.
fn read<'a>(
    body: &'a [u8],
    without_nan: &'a mut Option<Held<Vec<u8>>>,
    protocol: Protocol,
    memory: &MemoryBudget,
) -> Result<RequestBody<'a>> {
    let error = match request_body(body) {
        Err(error) if protocol == Protocol::Invocations => error,
        read => return read,
    };
    *without_nan = null_for_nan(body, memory)?;
    without_nan.as_deref().map_or(Err(error), |body| request_body(body))
}

impl Protocol {
    /// Returns the form of the answer to rows that were sent as `inputs`.
    fn answer_to_inputs(self) -> AnswerForm {
        match self {
            Protocol::TensorFlow => AnswerForm::Columns,
            Protocol::Leeway | Protocol::Invocations => AnswerForm::Rows,
        }
    }

    /// Returns the format of the answer.
    fn answer_format(self, headers: &HeaderMap) -> AnswerFormat {
        match self {
            Protocol::Invocations => invocations::accepted(headers),
            Protocol::Leeway | Protocol::TensorFlow => AnswerFormat::Json,
        }
    }
}

/// `POST /predict`, `POST /v1/models/{model}:predict`, `POST /v1/models/{model}/versions/{version}:predict`,
/// `POST /invocations`
pub(super) async fn predict(
    state: Arc<HttpState>,
    request: AdmittedRequest,
    protocol: Protocol,
) -> Result<Response, Failure> {
    let AdmittedRequest { admitted, rows, unique, head, mut content } = request;
    let (feedback, memory) = (Arc::clone(&state.feedback), state.body_memory.clone());
    let format = protocol.answer_format(&head.headers);
    let encode = move |output: Output<'_>, form: AnswerForm, version: &ServedVersion| {
        let Output::Predictions { predictions, made_by } = output else {
            return Err(Error::internal("instances were answered with tensors"));
        };
        let json = || match form {
            AnswerForm::Rows => json_answer::answer_text(predictions, (version, made_by), unique, &feedback),
            AnswerForm::Columns => json_answer::columns_text(predictions, (version, made_by), unique, &feedback),
        };
        let (text, media_type) = match format {
            AnswerFormat::Json => (json()?, JSON),
            AnswerFormat::Lines => (answer_format::lines(predictions)?, JSON_LINES[0]),
            AnswerFormat::Csv => match answer_format::csv(predictions)? {
                Some(text) => (text, "text/csv; charset=utf-8"),
                None => (json()?, JSON),
            },
        };
        Ok(AnswerText { text: json_answer::held(text, &memory)?, media_type })
    };
    let predicted = {
        let (limit, media_type) = (BodyLimit::of_predictions(state.body_limit), admitted.media_type());
        let body = body::read(&head.headers, &mut content, limit, &state.body_memory);
        let arriving = pin!(async { Ok(PredictBody { arrived: body.await?, rows, media_type, protocol }) });
        admitted.infer(arriving, &state.blocking_threads, encode).await
    };
    match predicted {
        Ok(answer) => Ok(json_answer::answer(answer)),
        Err(error) => {
            if is_unread(&error) {
                body::discard(&head, &mut content, &error).await;
            }
            Err(error.into())
        }
    }
}
