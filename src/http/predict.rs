//! The handlers of predictions.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use axum::response::Response;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::HttpState;
use super::error_response::Failure;
use super::request_context::RequestContext;
use super::wire;
use crate::error::{Error, Result};
use crate::registry::Target;
use crate::serve;

/// What follows a model's or a version's name in the path of a prediction.
const PREDICT: &str = ":predict";

/// After a body that is too large, this many further bytes are read and thrown away, so that the client, which
/// is still sending, gets to read the answer.
const DISCARD_LIMIT: usize = 64 << 20;

/// And for no longer than this.
const DISCARD_TIME: Duration = Duration::from_secs(5);

/// `POST /predict`
pub(super) async fn default_model(State(state): State<Arc<HttpState>>, request: Request) -> Result<Response, Failure> {
    predict(&state, Target::Default, request).await
}

/// `POST /v1/models/{model}:predict`
pub(super) async fn model(
    State(state): State<Arc<HttpState>>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, Failure> {
    let Path(segment) = path.map_err(|_| Error::UnknownEndpoint)?;
    let name = segment.strip_suffix(PREDICT).ok_or_else(|| predict_here(&segment))?;
    predict(&state, Target::Model(name), request).await
}

/// `POST /v1/models/{model}/versions/{version}:predict`
pub(super) async fn version(
    State(state): State<Arc<HttpState>>,
    path: Result<Path<(String, String)>, PathRejection>,
    request: Request,
) -> Result<Response, Failure> {
    let Path((name, segment)) = path.map_err(|_| Error::UnknownEndpoint)?;
    let version = segment.strip_suffix(PREDICT).ok_or_else(|| predict_here(&segment))?;
    predict(&state, Target::Version(&name, version), request).await
}

/// A POST to a resource that can only be read: most likely `:predict` was forgotten, or misspelt.
fn predict_here(segment: &str) -> Error {
    match segment.split_once(':') {
        None => Error::UnsupportedMethod { allowed: "GET, HEAD".to_owned() },
        Some(_) => Error::UnknownEndpoint,
    }
}

async fn predict(state: &HttpState, target: Target<'_>, request: Request) -> Result<Response, Failure> {
    let (head, body) = request.into_parts();
    let context =
        head.extensions.get::<RequestContext>().ok_or_else(|| Error::internal("a request without context"))?;
    check_content(&head.headers)?;
    let body = read_body(state, context, &head.headers, body).await?;
    let answer = serve::predict(&state.catalog, target, &body, context.clock()).await?;
    Ok(wire::answer(&answer, context.unique)?)
}

/// A body without a content type is taken as JSON; one that says it is something else is not.
fn check_content(headers: &HeaderMap) -> Result<()> {
    if let Some(content_type) = headers.get(CONTENT_TYPE) {
        let essence = content_type.as_bytes().split(|&b| b == b';').next().unwrap_or_default().trim_ascii();
        let is_json = essence.eq_ignore_ascii_case(b"application/json")
            || (essence.len() > 5 && essence[essence.len() - 5..].eq_ignore_ascii_case(b"+json"));
        if !is_json {
            return Err(Error::UnsupportedContent(format!(
                "the body is announced as {:?}; send JSON with the header Content-Type: application/json",
                String::from_utf8_lossy(&essence[..essence.len().min(64)])
            )));
        }
    }
    match headers.get(CONTENT_ENCODING) {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => {
            Err(Error::UnsupportedContent("compressed bodies are not accepted; send the JSON as it is".to_owned()))
        }
        _ => Ok(()),
    }
}

/// Reads the body, bounded in bytes and in time.
async fn read_body(state: &HttpState, context: &RequestContext, headers: &HeaderMap, body: Body) -> Result<Bytes> {
    let limit = state.body_limit;
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let too_large = Error::RequestTooLarge { limit: limit.get() };
    if announced.is_some_and(|length| length > limit.get()) {
        // A client that expects 100-continue has not begun to send, and reading would tell it to.
        if !headers.contains_key(EXPECT) {
            discard(body).await;
        }
        return Err(too_large);
    }
    let mut body = body;
    let read = Limited::new(&mut body, limit.get()).collect();
    match tokio::time::timeout_at(context.deadline.instant().into(), read).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            discard(body).await;
            Err(too_large)
        }
        Ok(Err(_)) => Err(Error::RequestAborted),
        Err(_elapsed) => Err(Error::RequestTooSlow { limit: state.request_timeout }),
    }
}

async fn discard(mut body: Body) {
    let mut left = DISCARD_LIMIT;
    let discard = async {
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return;
            }
        }
    };
    // Either way the answer is the same.
    let _ = tokio::time::timeout(DISCARD_TIME, discard).await;
}
