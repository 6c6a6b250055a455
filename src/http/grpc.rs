//! The handlers of gRPC: the Open Inference Protocol, and the health checks of gRPC.
//!
//! Every call passes the same layers as a request over HTTP, and an inference the same admission, queue and budgets.
//! Messages are read here and not by `tonic`, which would buffer a message before its memory is reserved.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, HeaderMap, HeaderName};
use axum::http::request::Parts;
use axum::http::{Uri, Version};
use axum::response::Response;
use axum::routing::post;
use bytes::Bytes;

use super::activity::AboveLimit;
use super::admission::{priority, routing_key};
use super::body::BodyLimit;
use super::context::{Failure, RequestContext, attach_delivery};
use super::grpc_messages::{MESSAGE_TIME, Message, Messages, unary};
use super::{HttpState, admin_access, grpc_streams, operations};
use crate::api::v2::Statistics;
use crate::budget::{ArrivedBytes, Deadline, Held};
use crate::error::{Error, Result};
use crate::grpc::proto::health::health_check_response::ServingStatus;
use crate::grpc::proto::health::{HealthCheckRequest, HealthCheckResponse};
use crate::grpc::proto::inference::{
    ModelConfigRequest, ModelMetadataRequest, ModelReadyRequest, ModelReadyResponse, ModelStatisticsRequest,
    RepositoryIndexRequest, RepositoryModelLoadRequest, RepositoryModelLoadResponse, RepositoryModelUnloadRequest,
    RepositoryModelUnloadResponse, ServerLiveResponse, ServerReadyResponse,
};
use crate::grpc::{self, AnswerForm, AnswerHead, InferHead};
use crate::identity::{ModelName, shown};
use crate::monitor::Delivery;
use crate::registry::{ServedVersion, Snapshot, Target};
use crate::serve::{self, Content, EncodedRequest, Head, Input, Output, Reasons};

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// Maximum size of a message that is not an inference.
const SMALL_MESSAGE: BodyLimit = BodyLimit::of_questions(NonZeroUsize::new(16 << 10).unwrap());

/// A call of gRPC.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) context: RequestContext,
    /// Deadline of the caller, from the head of the call.
    pub(super) timeout: Option<Duration>,
    pub(super) headers: HeaderMap,
}

/// Returns the routes of gRPC.
pub(super) fn routes() -> Router<Arc<HttpState>> {
    let routes = Router::new()
        .route(grpc::MODEL_INFER, post(infer))
        .route(grpc::MODEL_STREAM_INFER, post(grpc_streams::infer))
        .route(grpc::INFERENCE_CALLS, post(inference_call))
        .route(grpc::HEALTH_CHECK, post(health_check))
        .route(grpc::HEALTH_WATCH, post(grpc_streams::watch_health));
    match (grpc::reflection(), grpc::reflection_alpha()) {
        (Ok(reflection), Ok(alpha)) => {
            routes.route_service(grpc::REFLECTION_CALLS, reflection).route_service(grpc::REFLECTION_ALPHA_CALLS, alpha)
        }
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "reflection of gRPC is not available");
            routes
        }
    }
}

/// `ModelInfer`
async fn infer(State(state): State<Arc<HttpState>>, request: Request) -> Result<Response, Failure> {
    let (call, body) = Call::of(request)?;
    call.refuse_above_limit()?;
    let mut messages = Messages::new(body);
    let limit = BodyLimit::of_predictions(state.body_limit);
    let message = call.in_time(messages.only(limit, &state.body_memory)).await?;
    let Inferred { frame, delivery } = run(&state, &call, call.context.started, message, AnswerForm::Unary).await?;
    let mut response = unary(frame);
    attach_delivery(&mut response, delivery);
    Ok(response)
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
}

impl EncodedRequest for InferMessage {
    type AnswerForm = ();

    fn size(&self) -> usize {
        self.bytes.len()
    }

    fn decode<T>(self, with: impl FnOnce(Input<'_>) -> Result<T>) -> Result<(T, ())> {
        Ok((grpc::read_tensors(&self.bytes.whole(), self.content, with)?, ()))
    }
}

/// Runs an inference whose time counts from `started`.
pub(super) async fn run(
    state: &HttpState,
    call: &Call,
    started: Instant,
    message: Message,
    form: AnswerForm,
) -> Result<Inferred> {
    let limit = BodyLimit::of_predictions(state.body_limit);
    let bytes = message.uncompressed(state, limit, call.deadline(started)).await?;
    let mut head = InferHead::read(bytes.reader())?;
    let asked = Head {
        target: grpc::target(&head.model, &head.version),
        routing_key: routing_key(&call.headers)?.unwrap_or(call.context.id.as_bytes()),
        read_at: started,
        client_timeout: shortest(call.timeout, head.timeout),
        priority: match head.priority {
            Some(priority) => priority,
            None => priority(&call.headers)?,
        },
        media_type: None,
    };
    let admitted = serve::admit(&state.catalog, asked)?;
    let (memory, id, content) = (state.body_memory.clone(), std::mem::take(&mut head.id), head.content);
    let encode = move |output: Output<'_>, (): (), version: &ServedVersion| {
        let Output::Named(outputs) = output else {
            return Err(Error::internal("named tensors were answered with predictions"));
        };
        let head = AnswerHead { model: version.model.as_str(), version: version.version.to_string(), id };
        let frame = grpc::infer_response(form, head, outputs)?;
        Ok(memory.hold(frame.capacity())?.of(frame))
    };
    let arriving = std::pin::pin!(async { Ok(InferMessage { bytes, content }) });
    let answer = admitted.infer(arriving, &state.blocking_threads, encode).await?;
    Ok(Inferred { frame: answer.encoded, delivery: answer.delivery })
}

fn shortest(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    one.into_iter().chain(other).min()
}

/// The calls about the server, its models and its repository.
///
/// Length: a table.
async fn inference_call(State(state): State<Arc<HttpState>>, uri: Uri, request: Request) -> Result<Response, Failure> {
    let (call, body) = Call::of(request)?;
    let message = call.question(&state, body).await?;
    let snapshot = state.catalog.snapshot();
    let frame = match uri.path().rsplit('/').next().unwrap_or_default() {
        "ServerLive" => grpc::encode(&ServerLiveResponse { live: operations::check_live(&state).is_ok() }),
        "ServerReady" => grpc::encode(&ServerReadyResponse { ready: operations::check_ready(&state).is_ok() }),
        "ModelReady" => {
            let ModelReadyRequest { name, version } = grpc::decode(&message)?;
            let target = grpc::target(&name, &version);
            let found = serve::check_ready(&snapshot, target, |served| state.health.stuck_after(served.budget.total));
            grpc::encode(&ModelReadyResponse { ready: state.readiness.is_ready() && found.is_ok() })
        }
        "ServerMetadata" => grpc::encode(&grpc::server_metadata()),
        "ModelMetadata" => {
            let ModelMetadataRequest { name, version } = grpc::decode(&message)?;
            grpc::encode(&grpc::model_metadata(serve::model_metadata(&snapshot, grpc::target(&name, &version))?))
        }
        "ModelConfig" => {
            let ModelConfigRequest { name, version } = grpc::decode(&message)?;
            grpc::encode(&grpc::model_config(serve::model_config(&snapshot, grpc::target(&name, &version))?))
        }
        "ModelStatistics" => {
            let ModelStatisticsRequest { name, version } = grpc::decode(&message)?;
            grpc::encode(&grpc::model_statistics(statistics(&state, &snapshot, &name, &version)?))
        }
        "RepositoryIndex" => {
            let RepositoryIndexRequest { repository_name: _, ready } = grpc::decode(&message)?;
            let models = state.deployer.overview().models;
            let entries = serve::repository_index(&models, snapshot.unserved(), ready, Reasons::ForCallers);
            grpc::encode(&grpc::repository_index(entries))
        }
        "RepositoryModelLoad" => {
            admin_access::check_operator(&state, &call.headers)?;
            let RepositoryModelLoadRequest { model_name, .. } = grpc::decode(&message)?;
            state.deployer.load_model(&named(&model_name)?).await?;
            grpc::encode(&RepositoryModelLoadResponse {})
        }
        "RepositoryModelUnload" => {
            admin_access::check_operator(&state, &call.headers)?;
            let RepositoryModelUnloadRequest { model_name, .. } = grpc::decode(&message)?;
            state.deployer.unload_model(&named(&model_name)?).await?;
            grpc::encode(&RepositoryModelUnloadResponse {})
        }
        name => return Err(Error::UnknownCall(unknown_call(name)).into()),
    };
    Ok(unary(state.body_memory.hold(frame.capacity())?.of(frame)))
}

/// Returns the statistics of a version, of all versions of a model, or of all models.
fn statistics(state: &HttpState, snapshot: &Snapshot, name: &str, version: &str) -> Result<Statistics> {
    let now = state.monitor.now();
    Ok(match (name, version) {
        ("", _) => serve::statistics(snapshot.versions(), now),
        (name, "") => serve::statistics(snapshot.model(name)?.1.versions.values(), now),
        (name, version) => {
            serve::statistics(std::iter::once(snapshot.resolve(Target::Version(name, version), b"")?), now)
        }
    })
}

fn named(name: &str) -> Result<ModelName> {
    name.parse().map_err(|error| Error::InvalidInput(format!("model_name: {error}")))
}

/// Returns the message about a call that does not exist, or not here.
fn unknown_call(name: &str) -> String {
    let shown = shown(name);
    match name {
        name if name.contains("SharedMemory") => {
            format!("{shown}: shared memory is not supported; send the elements in the message")
        }
        "TraceSetting" | "LogSettings" => {
            format!("{shown}: traces and logs are configured when the server starts")
        }
        _ => format!("{shown}: inference.GRPCInferenceService has no such call here; reflection lists the calls"),
    }
}

/// `grpc.health.v1.Health/Check`
async fn health_check(State(state): State<Arc<HttpState>>, request: Request) -> Result<Response, Failure> {
    let (call, body) = Call::of(request)?;
    let HealthCheckRequest { service } = grpc::decode(&call.question(&state, body).await?)?;
    let snapshot = state.catalog.snapshot();
    let status = health(&state, &snapshot, &service).ok_or_else(|| {
        let known = snapshot.models().keys().map(ToString::to_string).collect();
        Error::UnknownModel { model: service.chars().take(64).collect(), known }
    })?;
    let frame = grpc::encode(&HealthCheckResponse { status: status.into() });
    Ok(unary(state.body_memory.hold_anyway(frame.capacity()).of(frame)))
}

/// Returns the health of the server or of a model.
pub(super) fn health(state: &HttpState, snapshot: &Snapshot, service: &str) -> Option<ServingStatus> {
    let stuck_after = |served: &ServedVersion| state.health.stuck_after(served.budget.total);
    grpc::health_of(snapshot, state.readiness.is_ready(), service, stuck_after)
}

impl Call {
    /// Reads the head of a call.
    pub(super) fn of(request: Request) -> Result<(Call, Body)> {
        let (head, body) = request.into_parts();
        let context = RequestContext::of(&head)?.clone();
        check(&head)?;
        let timeout = match head.headers.get(GRPC_TIMEOUT) {
            None => None,
            Some(value) => Some(grpc::timeout(value.as_bytes()).ok_or_else(|| {
                Error::InvalidInput("grpc-timeout: expected at most 8 digits and one of H, M, S, m, u, n".to_owned())
            })?),
        };
        Ok((Call { context, timeout, headers: head.headers }, body))
    }

    /// Refuses a call on a connection above the limit.
    pub(super) fn refuse_above_limit(&self) -> Result<()> {
        match self.context.above_limit {
            Some(AboveLimit { limit }) => Err(Error::TooManyConnections { limit: limit.get() }),
            None => Ok(()),
        }
    }

    /// Returns the time in which a message has to be complete.
    fn time(&self) -> Duration {
        self.timeout.unwrap_or(MESSAGE_TIME).min(MESSAGE_TIME)
    }

    /// Returns the time by which a message has to be complete that is expected from `started` on.
    fn deadline(&self, started: Instant) -> Deadline {
        Deadline::after(started, self.time())
    }

    /// Waits for a message, up to the deadline of the call.
    pub(super) async fn in_time<T>(&self, message: impl Future<Output = Result<T>>) -> Result<T> {
        let limit = self.time();
        let deadline = self.deadline(self.context.started).instant();
        let read = tokio::time::timeout_at(deadline.into(), message).await;
        read.unwrap_or(Err(Error::RequestTooSlow { limit }))
    }

    /// Returns true if the deadline of the call has passed.
    pub(super) fn is_overdue(&self) -> bool {
        self.timeout.is_some_and(|timeout| self.context.started.elapsed() > timeout)
    }

    /// Reads the only message of a call that asks a question.
    pub(super) async fn question(&self, state: &HttpState, body: Body) -> Result<Held<Bytes>> {
        let mut messages = Messages::new(body);
        let message = self.in_time(messages.only(SMALL_MESSAGE, &state.body_memory)).await?;
        Ok(message.uncompressed(state, SMALL_MESSAGE, self.deadline(self.context.started)).await?.whole())
    }
}

/// Checks the head of a call.
fn check(head: &Parts) -> Result<()> {
    if head.version < Version::HTTP_2 {
        return Err(Error::UnsupportedContent("gRPC needs HTTP/2".to_owned()));
    }
    let content_type = head.headers.get(CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    let is_grpc = matches!(
        content_type.strip_prefix(b"application/grpc"),
        Some([] | [b';', ..] | [b'+', b'p', b'r', b'o', b't', b'o', ..])
    );
    if !is_grpc {
        return Err(Error::UnsupportedContent(
            "this path takes calls of gRPC only: send the header Content-Type: application/grpc".to_owned(),
        ));
    }
    match head.headers.get(GRPC_ENCODING).map(|encoding| encoding.as_bytes()) {
        None | Some(b"identity" | b"gzip") => Ok(()),
        Some(_) => Err(Error::UnsupportedContent(
            "grpc-encoding: messages may be compressed with gzip only; send them so, or uncompressed".to_owned(),
        )),
    }
}
