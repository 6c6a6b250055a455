//! Checks the headers of a request body, and reads the body within its own limit and the memory for all bodies.

use std::borrow::Cow;
use std::io;
use std::num::NonZeroUsize;
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use axum::http::request::Parts;
use bytes::Bytes;
use http_body_util::BodyExt;

use super::activity::Evicted;
use super::context::RequestContext;
use crate::budget::{ArrivedBytes, MemoryBudget};
use crate::error::{Error, Fault, Result};

/// Maximum number of bytes that are read and discarded of the body of a refused request, so that a client that is still
/// sending gets the response.
const DISCARD_LIMIT: usize = 64 << 20;

/// Time limit for discarding a body if the server is not overloaded. It is long, so that slow clients get the response.
const DISCARD_TIME: Duration = Duration::from_secs(5);

/// Time limit for discarding a body if the server is overloaded: most bodies have arrived already, and the response
/// should not wait for slow ones.
const DISCARD_TIME_UNDER_LOAD: Duration = Duration::from_secs(1);

/// Maximum size of the body of one kind of request.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyLimit {
    /// The limit, in bytes.
    pub(super) bytes: NonZeroUsize,
    /// Advice to a caller whose body is larger.
    pub(super) advice: &'static str,
}

impl BodyLimit {
    /// Returns the limit for the bodies of predictions.
    pub(super) fn of_predictions(bytes: NonZeroUsize) -> BodyLimit {
        BodyLimit { bytes, advice: "send fewer instances in one request (http.body_limit_bytes)" }
    }

    /// Returns the limit for the bodies of feedback.
    pub(super) fn of_feedback(bytes: NonZeroUsize) -> BodyLimit {
        BodyLimit { bytes, advice: "send fewer items in one request (http.feedback_body_limit_bytes)" }
    }

    /// Returns the limit for the bodies of operators' changes.
    pub(super) fn of_changes(bytes: NonZeroUsize) -> BodyLimit {
        BodyLimit { bytes, advice: "a change needs a few hundred bytes" }
    }

    /// Returns the limit for messages that ask a question.
    pub(super) const fn of_questions(bytes: NonZeroUsize) -> BodyLimit {
        BodyLimit { bytes, advice: "a question needs a few hundred bytes" }
    }

    pub(super) fn exceeded(self) -> Error {
        Error::RequestTooLarge { limit: self.bytes.get(), advice: self.advice }
    }
}

/// Returns the media type of a body; `None` for JSON, which is the default.
pub(super) fn media_type(headers: &HeaderMap) -> Result<Option<Cow<'_, str>>> {
    // This header can occur several times, each with several encodings.
    let mut encodings =
        headers.get_all(CONTENT_ENCODING).iter().flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
    if encodings.any(|encoding| !matches!(&*encoding.trim_ascii().to_ascii_lowercase(), b"identity" | b"")) {
        return Err(Error::UnsupportedContent("compressed bodies are not accepted; send uncompressed JSON".to_owned()));
    }
    let Some(content_type) = headers.get(CONTENT_TYPE) else { return Ok(None) };
    let essence = content_type.as_bytes().split(|&b| b == b';').next().unwrap_or_default().trim_ascii();
    let is_json = essence.eq_ignore_ascii_case(b"application/json")
        || (essence.len() > 5 && essence[essence.len() - 5..].eq_ignore_ascii_case(b"+json"));
    Ok((!is_json).then(|| String::from_utf8_lossy(&essence[..essence.len().min(64)])))
}

/// Checks that the headers announce a JSON body.
pub(super) fn check_json(headers: &HeaderMap) -> Result<()> {
    match media_type(headers)? {
        None => Ok(()),
        Some(media_type) => Err(Error::UnsupportedContent(format!(
            "the Content-Type of the body is {media_type:?}; send JSON with the header Content-Type: application/json"
        ))),
    }
}

/// Reads a body of at most `limit` bytes, and reserves memory for them in `memory`.
pub(super) async fn read(
    headers: &HeaderMap,
    body: &mut Body,
    limit: BodyLimit,
    memory: &MemoryBudget,
) -> Result<ArrivedBytes> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if let Some(length) = announced {
        if length > limit.bytes.get() {
            return Err(limit.exceeded());
        }
        // Refuses a body that does not fit now, before it is read. The memory may still run out while a body arrives.
        memory.check(length)?;
    }
    let mut arrived = ArrivedBytes::new(memory, announced.unwrap_or(limit.bytes.get()));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(broken_off)?;
        // Trailers are ignored.
        if let Ok(data) = frame.into_data() {
            if arrived.len() + data.len() > limit.bytes.get() {
                return Err(limit.exceeded());
            }
            arrived.add(data)?;
        }
    }
    Ok(arrived)
}

/// Returns the error for a body that ended too early, or whose connection is evicted.
pub(super) fn broken_off(error: axum::Error) -> Error {
    let error = error.into_inner().downcast::<io::Error>().ok();
    match error.as_ref().and_then(|error| error.get_ref()?.downcast_ref::<Evicted>()) {
        Some(Evicted { limit }) => Error::TooManyConnections { limit: limit.get() },
        None => Error::RequestAborted,
    }
}

/// Returns true if this error may have left a part of the body unread.
pub(super) fn is_unread(error: &Error) -> bool {
    matches!(error, Error::RequestTooLarge { .. } | Error::BodyMemoryFull { .. })
}

/// Reads and discards the rest of the body of a request that fails with this error.
pub(super) async fn discard(head: &Parts, body: &mut Body, error: &Error) {
    // A client that expects 100-continue may not have begun to send, and reading would tell it to. A connection above
    // the limit does not wait for its client: health checks need its place.
    if head.headers.contains_key(EXPECT) || RequestContext::of(head).is_ok_and(|context| context.above_limit.is_some())
    {
        return;
    }
    let mut left = DISCARD_LIMIT;
    let discard = async {
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return;
            }
        }
    };
    // A timeout is ignored: the response is the same whether or not the body has ended.
    let time = if error.fault() == Fault::Overload { DISCARD_TIME_UNDER_LOAD } else { DISCARD_TIME };
    let _ = tokio::time::timeout(time, discard).await;
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn every_encoding_of_every_header_is_looked_at() {
        let check = |values: &[&'static str], accepted: bool| {
            let headers: HeaderMap =
                values.iter().map(|value| (CONTENT_ENCODING, HeaderValue::from_static(value))).collect();
            assert_eq!(media_type(&headers).is_ok(), accepted, "{values:?}");
        };
        check(&[], true);
        check(&["identity"], true);
        check(&["Identity, identity", ""], true);
        check(&["gzip"], false);
        check(&["identity", "gzip"], false);
        check(&["identity, br"], false);
        check(&["x-identity"], false);
    }
}
