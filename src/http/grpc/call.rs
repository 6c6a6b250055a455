//! A call of gRPC, as its head describes it.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request;
use axum::http::Version;
use axum::http::header::{CONTENT_TYPE, HeaderMap, HeaderName};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;

use super::messages::{MESSAGE_TIME, Messages};
use crate::budget::{Deadline, Held};
use crate::error::{Error, Result};
use crate::grpc;
use crate::http::HttpState;
use crate::http::body::BodyLimit;
use crate::http::context::{Failure, RequestContext};
use crate::serve::RequestNotes;
use crate::telemetry::RequestTrace;

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
    /// Trace of a stream, if it is sampled.
    pub(super) stream: Option<Arc<RequestTrace>>,
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
        Ok((Call { context, timeout, headers: head.headers, stream: None }, body))
    }

    /// Returns the call with the notes of one of its messages.
    pub(super) fn noted(&self, notes: Arc<RequestNotes>) -> Call {
        let context = RequestContext { notes: Some(notes), ..self.context.clone() };
        Call { context, ..self.clone() }
    }

    /// Returns the time in which a message has to be complete.
    fn time(&self) -> Duration {
        self.timeout.unwrap_or(MESSAGE_TIME).min(MESSAGE_TIME)
    }

    /// Returns the time by which a message has to be complete that is expected from `started` on.
    pub(super) fn deadline(&self, started: Instant) -> Deadline {
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

/// Refuses calls on connections above the limit.
pub(super) async fn refuse_above_limit(request: Request, next: Next) -> Result<Response, Failure> {
    let (head, body) = request.into_parts();
    RequestContext::of(&head)?.refuse_above_limit()?;
    Ok(next.run(Request::from_parts(head, body)).await)
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
