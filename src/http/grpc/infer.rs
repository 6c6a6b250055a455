//! `ModelInfer`: an inference, through the same queue, budgets and traffic split as `/predict`.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::response::Response;
use uuid::Uuid;

use super::call::Call;
use super::messages::{Message, Messages, unary};
use crate::budget::{ArrivedBytes, Held, MemoryBudget};
use crate::error::Result;
use crate::grpc::{self, AnswerForm, AnswerHead, InferHead};
use crate::http::HttpState;
use crate::http::admission::{origin, priority, routing_key};
use crate::http::body::BodyLimit;
use crate::http::context::{Failure, attach_delivery};
use crate::monitor::Delivery;
use crate::pipeline::Prediction;
use crate::registry::ServedVersion;
use crate::serve::{self, Content, EncodedRequest, Head, Input, Output, prediction_columns};

/// `ModelInfer`
pub(super) async fn infer(State(state): State<Arc<HttpState>>, request: Request) -> Result<Response, Failure> {
    let (call, body) = Call::of(request)?;
    call.context.refuse_above_limit()?;
    let mut messages = Messages::new(body);
    let limit = BodyLimit::of_predictions(state.body_limit);
    let message = call.in_time(messages.only(limit, &state.body_memory)).await?;
    let asked =
        Inference { message, started: call.context.started, unique: call.context.unique, form: AnswerForm::Unary };
    let Inferred { frame, delivery } = run(&state, &call, asked).await?;
    let mut response = unary(frame);
    attach_delivery(&mut response, delivery);
    Ok(response)
}

/// An inference that has arrived.
pub(super) struct Inference {
    pub(super) message: Message,
    /// Time at which its head had been read.
    pub(super) started: Instant,
    /// Id from which the ids of its predictions are derived.
    pub(super) unique: Uuid,
    pub(super) form: AnswerForm,
}

/// An answered inference.
pub(super) struct Inferred {
    /// The answer, in its frame.
    pub(super) frame: Held<Vec<u8>>,
    pub(super) delivery: Delivery,
}

/// The message of an inference.
struct InferMessage {
    bytes: ArrivedBytes,
    content: Content,
    memory: MemoryBudget,
}

impl EncodedRequest for InferMessage {
    /// Names of the outputs to answer; empty for all.
    type AnswerForm = Vec<String>;

    fn size(&self) -> usize {
        self.bytes.len()
    }

    fn copied(&mut self, memory: &MemoryBudget) -> Option<InferMessage> {
        let bytes = self.bytes.copied(memory).ok()?;
        Some(InferMessage { bytes, content: self.content, memory: memory.clone() })
    }

    fn decode<T>(self, with: impl FnOnce(Input<'_>) -> Result<T>) -> Result<(T, Vec<String>)> {
        let InferMessage { bytes, content, memory } = self;
        grpc::read_tensors(&bytes.whole(), content, &memory, with)
    }
}

/// Runs an inference.
pub(super) async fn run(state: &HttpState, call: &Call, inference: Inference) -> Result<Inferred> {
    let Inference { message, started, unique, form } = inference;
    let limit = BodyLimit::of_predictions(state.body_limit);
    let bytes = message.uncompressed(state, limit, call.deadline(started)).await?;
    let mut head = InferHead::read(bytes.reader())?;
    let asked = Head {
        target: grpc::target(&head.model, &head.version)?,
        routing_key: routing_key(&call.headers)?.unwrap_or(call.context.id.as_bytes()),
        read_at: started,
        client_timeout: shortest(call.timeout, head.timeout),
        priority: match head.priority {
            Some(priority) => priority,
            None => priority(&call.headers)?,
        },
        media_type: None,
        origin: origin(&call.headers)?,
        notes: call.context.notes.as_ref(),
        to_log: call.context.to_log(state.prediction_log.as_ref(), unique),
        shadows: Some(&state.shadows),
    };
    let admitted = serve::admit(&state.catalog, asked)?;
    let (feedback, memory) = (Arc::clone(&state.feedback), state.body_memory.clone());
    let (id, content) = (std::mem::take(&mut head.id), head.content);
    let encode = move |output: Output<'_>, names: Vec<String>, version: &ServedVersion| {
        let head = AnswerHead { model: version.model.as_str(), version: version.version.to_string(), id };
        let frame = match output {
            Output::Named(outputs) => grpc::infer_response(form, head, outputs)?,
            Output::Predictions { predictions, made_by } => {
                let id = |index: usize, prediction: &Prediction| {
                    feedback.sign(unique, index, made_by.key, prediction.observation())
                };
                let kind = made_by.prediction_kind();
                grpc::infer_response(form, head, &prediction_columns(&kind, predictions, id, &names)?)?
            }
        };
        Ok(memory.hold(frame.capacity())?.of(frame))
    };
    let memory = state.body_memory.clone();
    let arriving = pin!(async { Ok(InferMessage { bytes, content, memory }) });
    let answer = admitted.infer(arriving, &state.blocking_threads, encode).await?;
    Ok(Inferred { frame: answer.encoded, delivery: answer.delivery })
}

fn shortest(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    one.into_iter().chain(other).min()
}
