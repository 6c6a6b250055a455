//! The body of a prediction: whether it is what it should be, and reading it, bounded.

use std::borrow::Cow;
use std::num::NonZeroUsize;
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use crate::error::{Error, Fault, Result};

/// Of a body that is not read for its own sake, this many bytes are read and thrown away, so that the client, which
/// is still sending, gets to read the answer.
const DISCARD_LIMIT: usize = 64 << 20;

/// For how long, where the request was at fault: the client is to read what was wrong with it.
const DISCARD_TIME: Duration = Duration::from_secs(5);

/// For how long, where the server has no time: most bodies are here already, and the answer should not wait for others.
const DISCARD_TIME_UNDER_LOAD: Duration = Duration::from_secs(1);

/// What a body is announced as, if not as JSON, which it is taken for where nothing is said.
pub(super) fn media_type(headers: &HeaderMap) -> Result<Option<Cow<'_, str>>> {
    match headers.get(CONTENT_ENCODING) {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => {
            return Err(Error::UnsupportedContent(
                "compressed bodies are not accepted; send the JSON as it is".to_owned(),
            ));
        }
        _ => {}
    }
    let Some(content_type) = headers.get(CONTENT_TYPE) else { return Ok(None) };
    let essence = content_type.as_bytes().split(|&b| b == b';').next().unwrap_or_default().trim_ascii();
    let is_json = essence.eq_ignore_ascii_case(b"application/json")
        || (essence.len() > 5 && essence[essence.len() - 5..].eq_ignore_ascii_case(b"+json"));
    Ok((!is_json).then(|| String::from_utf8_lossy(&essence[..essence.len().min(64)])))
}

/// Whether a body is JSON, as far as its head says.
pub(super) fn check_json(headers: &HeaderMap) -> Result<()> {
    match media_type(headers)? {
        None => Ok(()),
        Some(media_type) => Err(Error::UnsupportedContent(format!(
            "the body is announced as {media_type:?}; send JSON with the header Content-Type: application/json"
        ))),
    }
}

/// Reads a body of at most `limit` bytes.
pub(super) async fn read(headers: &HeaderMap, body: &mut Body, limit: NonZeroUsize) -> Result<Bytes> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let too_large = Error::RequestTooLarge { limit: limit.get() };
    if announced.is_some_and(|length| length > limit.get()) {
        return Err(too_large);
    }
    match Limited::new(body, limit.get()).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large),
        Err(_) => Err(Error::RequestAborted),
    }
}

/// Reads what is left of the body of a request that is answered with this error, and throws it away.
pub(super) async fn discard(headers: &HeaderMap, body: &mut Body, error: &Error) {
    // A client that expects 100-continue may not have begun to send, and reading would tell it to.
    if headers.contains_key(EXPECT) {
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
    // Either way the answer is the same.
    let time = if error.fault() == Fault::Overload { DISCARD_TIME_UNDER_LOAD } else { DISCARD_TIME };
    let _ = tokio::time::timeout(time, discard).await;
}
