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
use super::answer_format::JSON_LINES;
use super::content_coding::Coding;
use super::context::RequestContext;
use super::decoded_body::{self, Refused};
use crate::budget::{ArrivedBytes, MemoryBudget};
use crate::error::{Error, Fault, Result};
use crate::pipeline::{CsvHeader, JsonSeparator, NamedRows};

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
    let Some(content_type) = headers.get(CONTENT_TYPE) else { return Ok(None) };
    let essence = content_type.as_bytes().split(|&b| b == b';').next().unwrap_or_default().trim_ascii();
    let is_json = essence.eq_ignore_ascii_case(b"application/json")
        || (essence.len() > 5 && essence[essence.len() - 5..].eq_ignore_ascii_case(b"+json"));
    Ok((!is_json).then(|| String::from_utf8_lossy(&essence[..essence.len().min(64)])))
}

/// Format of a body with rows that is not one JSON object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowFormat {
    /// CSV.
    Csv(CsvHeader),
    /// JSON texts, each with an instance.
    JsonTexts(JsonSeparator),
}

impl RowFormat {
    /// Returns the format of a body with this media type; `None` for other media types.
    pub(super) fn of(media_type: &str, headers: &HeaderMap) -> Option<RowFormat> {
        let is = |known: &str| media_type.eq_ignore_ascii_case(known);
        if is("text/csv") {
            return Some(RowFormat::Csv(csv_header(headers)));
        }
        if JSON_LINES.into_iter().any(is) {
            return Some(RowFormat::JsonTexts(JsonSeparator::LineFeed));
        }
        is("application/json-seq").then_some(RowFormat::JsonTexts(JsonSeparator::RecordSeparator))
    }

    /// Returns the rows of a body.
    pub(super) fn rows(self, body: &[u8]) -> Result<NamedRows<'_>> {
        let text = std::str::from_utf8(body).map_err(|error| {
            Error::InvalidInput(format!("the body is not UTF-8, from byte {} on", error.valid_up_to()))
        })?;
        Ok(match self {
            RowFormat::Csv(header) => NamedRows::Csv { text, header },
            RowFormat::JsonTexts(between) => NamedRows::JsonTexts { text, between },
        })
    }
}

/// Returns the meaning of the first line of CSV: the parameter `header` of the media type (RFC 4180, section 3).
fn csv_header(headers: &HeaderMap) -> CsvHeader {
    let content_type = headers.get(CONTENT_TYPE).map(|value| value.as_bytes().to_ascii_lowercase()).unwrap_or_default();
    let mut parameters = content_type.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
    match parameters.find_map(|parameter| parameter.strip_prefix(b"header=")) {
        Some(b"present") => CsvHeader::Present,
        Some(b"absent") => CsvHeader::Absent,
        _ => CsvHeader::Recognised,
    }
}

/// Returns the coding of a body; `None` if it is not compressed. Several codings, one on top of the other, are not accepted.
pub(super) fn coding(headers: &HeaderMap) -> Result<Option<Coding>> {
    let mut found = None;
    // This header can occur several times, each with several codings.
    let names = headers.get_all(CONTENT_ENCODING).iter().flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
    for name in names.map(<[u8]>::trim_ascii) {
        if name.is_empty() || name.eq_ignore_ascii_case(b"identity") {
            continue;
        }
        match (Coding::of(name), found) {
            (Some(coding), None) => found = Some(coding),
            _ => return Err(Error::UnsupportedCoding),
        }
    }
    Ok(found)
}

/// Returns the body of a request without its coding. The reader takes at most `limit` bytes of it.
pub(super) fn decoded(
    head: &mut Parts,
    body: Body,
    coding: Option<Coding>,
    limit: NonZeroUsize,
    memory: &MemoryBudget,
) -> Result<Body> {
    let Some(coding) = coding else { return Ok(body) };
    // This is the length of the compressed body.
    head.headers.remove(CONTENT_LENGTH);
    decoded_body::decoded(body, coding, limit, memory)
}

/// Checks that the headers announce a JSON body, and returns its coding.
pub(super) fn check_json(headers: &HeaderMap) -> Result<Option<Coding>> {
    match media_type(headers)? {
        None => coding(headers),
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

/// Returns the error for a body that ended too early, that cannot be decompressed, or whose connection is evicted.
pub(super) fn broken_off(error: axum::Error) -> Error {
    let error = error.into_inner().downcast::<io::Error>().ok();
    let Some(cause) = error.as_ref().and_then(|error| error.get_ref()) else { return Error::RequestAborted };
    if let Some(Evicted { limit }) = cause.downcast_ref() {
        return Error::TooManyConnections { limit: limit.get() };
    }
    cause.downcast_ref().map_or(Error::RequestAborted, |Refused(error)| error.clone())
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
    fn rows_are_csv_or_json_texts() {
        let check = |content_type: &'static str, expected: Option<RowFormat>| {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(content_type))]);
            let media_type = media_type(&headers).unwrap().unwrap();
            assert_eq!(RowFormat::of(&media_type, &headers), expected, "{content_type}");
        };
        check("text/csv", Some(RowFormat::Csv(CsvHeader::Recognised)));
        check("Text/CSV; charset=utf-8; Header=Present", Some(RowFormat::Csv(CsvHeader::Present)));
        check("text/csv;header=absent", Some(RowFormat::Csv(CsvHeader::Absent)));
        check("application/jsonlines", Some(RowFormat::JsonTexts(JsonSeparator::LineFeed)));
        check("application/json-seq", Some(RowFormat::JsonTexts(JsonSeparator::RecordSeparator)));
        check("text/plain", None);
    }

    #[test]
    fn every_coding_of_every_header_is_looked_at() {
        let check = |values: &[&'static str], expected: Result<Option<Coding>>| {
            let headers: HeaderMap =
                values.iter().map(|value| (CONTENT_ENCODING, HeaderValue::from_static(value))).collect();
            assert_eq!(coding(&headers), expected, "{values:?}");
        };
        check(&[], Ok(None));
        check(&["identity"], Ok(None));
        check(&["Identity, identity", ""], Ok(None));
        check(&["gzip"], Ok(Some(Coding::Gzip)));
        check(&["identity", "ZSTD"], Ok(Some(Coding::Zstd)));
        check(&["gzip, gzip"], Err(Error::UnsupportedCoding));
        check(&["gzip", "zstd"], Err(Error::UnsupportedCoding));
        check(&["identity, br"], Err(Error::UnsupportedCoding));
        check(&["x-identity"], Err(Error::UnsupportedCoding));
    }
}
