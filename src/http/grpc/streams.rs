//! The calls of gRPC that answer with several messages: inference over a stream, and watching the health.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::header::HeaderMap;
use axum::response::Response;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::call::Call;
use super::infer::{Inference, Inferred, run};
use super::messages::{MESSAGE_TIME, Message, Messages, streamed, success};
use super::questions::health;
use crate::error::{Error, OperatorError, Result};
use crate::grpc::proto::health::health_check_response::ServingStatus;
use crate::grpc::proto::health::{HealthCheckRequest, HealthCheckResponse};
use crate::grpc::proto::inference::{ModelInferResponse, ModelStreamInferResponse};
use crate::grpc::{self, AnswerForm};
use crate::http::body::BodyLimit;
use crate::http::context::{Failure, mark_watch};
use crate::http::request_layer::new_id;
use crate::http::request_span::RequestSpan;
use crate::http::trace_context::TraceContext;
use crate::http::{HttpState, error_response};

/// Maximum number of inferences of a stream that are not answered yet. Further messages wait in the client.
const MAX_IN_FLIGHT: usize = 8;
/// Interval of looks at the readiness of the server and its models.
const LOOK: Duration = Duration::from_millis(250);

/// `ModelStreamInfer`: an inference for each message, answered in the order of the messages.
pub(super) async fn infer(State(state): State<Arc<HttpState>>, request: Request) -> Result<Response, Failure> {
    let (mut call, body) = Call::of(request)?;
    call.context.refuse_above_limit()?;
    // A stream has its line in the access log, and its span, when it begins. Each message has a span of its own.
    call.stream = call.context.notes.take().and_then(|notes| notes.trace().cloned());
    let (frames, taken) = mpsc::channel(1);
    let stream = InferStream { state, call: Arc::new(call), messages: Messages::new(body), frames };
    Ok(streamed(taken, stream.run()))
}

/// `grpc.health.v1.Health/Watch`: the health now, and every change.
pub(super) async fn watch_health(State(state): State<Arc<HttpState>>, request: Request) -> Result<Response, Failure> {
    let (call, body) = Call::of(request)?;
    // Calls that ask once stay allowed.
    call.context.refuse_above_limit()?;
    let HealthCheckRequest { service } = grpc::decode(&call.question(&state, body).await?)?;
    let (frames, taken) = mpsc::channel(1);
    let mut response = streamed(taken, watch(state, call, service, frames));
    mark_watch(&mut response);
    Ok(response)
}

async fn watch(state: Arc<HttpState>, call: Call, service: String, frames: mpsc::Sender<Bytes>) -> HeaderMap {
    let mut looks = looks();
    let mut last = None;
    loop {
        looks.tick().await;
        let is_stopping = !state.readiness.is_ready();
        let status = {
            let snapshot = state.catalog.snapshot();
            health(&state, &snapshot, &service).unwrap_or(ServingStatus::ServiceUnknown)
        };
        if last != Some(status) {
            let frame = grpc::encode(&HealthCheckResponse { status: status.into() });
            if frames.send(frame.into()).await.is_err() {
                return HeaderMap::new();
            }
            last = Some(status);
        }
        if call.is_overdue() {
            return ended(&state, &call, &Error::DeadlineOfStream);
        }
        if is_stopping {
            return ended(&state, &call, &Error::ShuttingDown);
        }
    }
}

/// Counts and logs the error that ends a stream, and returns the metadata at its end.
fn ended(state: &HttpState, call: &Call, error: &Error) -> HeaderMap {
    let error = error.clone().into();
    state.monitor.server().error_response(OperatorError::code(&error));
    log(state, call, &error);
    error_response::trailers(&error)
}

fn log(state: &HttpState, call: &Call, error: &OperatorError) {
    let trace = state.logs_traces.then(|| TraceContext::of(&call.headers)).flatten();
    error_response::log(error, &call.context.id, trace.as_ref());
}

fn looks() -> tokio::time::Interval {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks
}

/// Inference over a stream.
struct InferStream {
    state: Arc<HttpState>,
    call: Arc<Call>,
    messages: Messages,
    frames: mpsc::Sender<Bytes>,
}

impl InferStream {
    async fn run(mut self) -> HeaderMap {
        match self.answer_all().await {
            Ok(()) => success(),
            Err(error) => ended(&self.state, &self.call, &error),
        }
    }

    /// Answers messages until the client ends the stream, or the server stops. Fails if the messages cannot be told
    /// apart any more.
    async fn answer_all(&mut self) -> Result<()> {
        let limit = BodyLimit::of_predictions(self.state.body_limit);
        let (mut in_flight, mut reads, mut looks) = (InOrder::default(), Reads::On, looks());
        let frames = self.frames.clone();
        while reads == Reads::On || !in_flight.is_empty() {
            tokio::select! {
                biased;
                // First, so that a busy stream ends, too.
                _ = looks.tick() => reads = self.look(reads, in_flight.len())?,
                place = frames.reserve(), if in_flight.is_first_done() => {
                    let Ok(place) = place else { return Ok(()) };
                    if let Some(frame) = in_flight.pop() {
                        place.send(frame);
                    }
                }
                () = in_flight.run() => {}
                message = self.messages.next(limit, &self.state.body_memory),
                    if reads == Reads::On && in_flight.len() < MAX_IN_FLIGHT =>
                {
                    match message? {
                        Some(message) => in_flight.push(answer(Arc::clone(&self.state), Arc::clone(&self.call), message)),
                        None => reads = Reads::Ended,
                    }
                }
            }
        }
        match reads {
            Reads::Stopped => Err(Error::ShuttingDown),
            Reads::On | Reads::Ended => Ok(()),
        }
    }

    /// Looks at the time and at the server, and returns if messages are read from now on. Fails if the stream is overdue.
    fn look(&mut self, reads: Reads, in_flight: usize) -> Result<Reads> {
        let now = Instant::now();
        if self.call.is_overdue() {
            return Err(Error::DeadlineOfStream);
        }
        if in_flight == MAX_IN_FLIGHT {
            self.messages.pause(now);
        }
        match reads {
            Reads::On if self.messages.is_too_slow(now) => Err(Error::RequestTooSlow { limit: MESSAGE_TIME }),
            Reads::On if !self.state.readiness.is_ready() => Ok(Reads::Stopped),
            reads => Ok(reads),
        }
    }
}

/// State of reading the messages of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reads {
    On,
    /// The client has sent its last message.
    Ended,
    /// The server stops. It answers the messages that have arrived.
    Stopped,
}

/// Answers one message. An error is an answer, too: the stream goes on.
async fn answer(state: Arc<HttpState>, call: Arc<Call>, message: Message) -> Bytes {
    let asked = Inference { message, started: Instant::now(), unique: new_id(), form: AnswerForm::Streamed };
    let mut span = call.stream.as_deref().map(|stream| RequestSpan::of_message(stream, asked.started));
    let call = match &span {
        Some(span) => Arc::new(call.noted(span.notes())),
        None => call,
    };
    let answered = caught(run(&state, &call, asked)).await;
    if let Some(span) = &mut span {
        span.message_answered();
    }
    match answered {
        Ok(Inferred { frame, .. }) => Bytes::from_owner(frame),
        Err(error) => {
            let error = error.into();
            state.monitor.server().error_response(OperatorError::code(&error));
            log(&state, &call, &error);
            if let Some(span) = &mut span {
                span.failed(&error);
            }
            let message = grpc::status(&error).message().to_owned();
            let frame = grpc::encode(&ModelStreamInferResponse {
                error_message: message,
                infer_response: Some(ModelInferResponse::default()),
            });
            frame.into()
        }
    }
}

/// Runs a future. A panic is an error, as it is in calls with one message.
async fn caught<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let mut future = pin!(future);
    poll_fn(|context| {
        // It is not polled again after a panic.
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)));
        polled.unwrap_or_else(|panic| Poll::Ready(Err(error_response::of_panic(&*panic))))
    })
    .await
}

/// Futures that run at the same time, and whose outputs are taken in the order of the futures.
#[derive(Default)]
struct InOrder(VecDeque<Running>);

enum Running {
    Yet(Pin<Box<dyn Future<Output = Bytes> + Send>>),
    Done(Bytes),
}

impl InOrder {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn push(&mut self, future: impl Future<Output = Bytes> + Send + 'static) {
        self.0.push_back(Running::Yet(Box::pin(future)));
    }

    fn is_first_done(&self) -> bool {
        matches!(self.0.front(), Some(Running::Done(_)))
    }

    /// Takes the output of the first future, if it is done.
    fn pop(&mut self) -> Option<Bytes> {
        match self.0.pop_front()? {
            Running::Done(output) => Some(output),
            first @ Running::Yet(_) => {
                self.0.push_front(first);
                None
            }
        }
    }

    /// Runs all futures until the first one is done. If it is done already, the others run on without an end.
    async fn run(&mut self) {
        let was_done = self.is_first_done();
        poll_fn(|context| {
            for running in &mut self.0 {
                if let Running::Yet(future) = running
                    && let Poll::Ready(output) = future.as_mut().poll(context)
                {
                    *running = Running::Done(output);
                }
            }
            if !was_done && self.is_first_done() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_internal_error() {
        let panics = async { [Ok(())][usize::try_from(LOOK.as_secs()).unwrap() + 1].clone() };
        let error = caught(panics).await.unwrap_err();
        assert!(matches!(error, Error::Internal { .. }), "{error}");
        assert_eq!(caught(async { Ok(7) }).await, Ok(7));
    }

    /// While the first answer waits to be taken, the others run.
    #[tokio::test]
    async fn answers_are_made_while_the_first_one_waits() {
        let mut in_order = InOrder::default();
        in_order.push(async { Bytes::from_static(b"1") });
        in_order.run().await;
        assert!(in_order.is_first_done());
        let (done, mut is_done) = tokio::sync::oneshot::channel();
        in_order.push(async {
            let _ = done.send(());
            Bytes::from_static(b"2")
        });
        assert!(tokio::time::timeout(Duration::ZERO, in_order.run()).await.is_err());
        assert_eq!(is_done.try_recv(), Ok(()));
        assert_eq!((in_order.pop().unwrap(), in_order.pop().unwrap()), ("1".into(), "2".into()));
        assert!(in_order.is_empty());
    }
}
