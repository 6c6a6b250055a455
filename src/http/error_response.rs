//! Conversion of errors to responses. Only this file chooses the HTTP status of an error.
//!
//! Every error response is a problem document (RFC 9457). On the `/v1` and `/v2` routes it also has the member `error`,
//! which clients of TensorFlow Serving, KServe and Triton read, and is plain JSON.

use std::any::Any;
use std::borrow::Cow;

use axum::body::Body;
use axum::http::StatusCode;
use axum::http::header::{
    ACCEPT_ENCODING, ALLOW, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use axum::response::Response;

use super::content_coding;
use super::trace_context::TraceContext;
use crate::api::problem::Problem;
use crate::error::{Error, ErrorKind, Fault, OperatorError};
use crate::grpc;
use crate::identity::cut_off;

/// Maximum length of the member `detail` of a problem document, in characters.
const MAX_DETAIL: usize = 4_000;

/// Format of the error responses of a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// A problem document.
    Problem,
    /// A problem document with the member `error` as plain JSON, for clients of the `/v1` and `/v2` protocols.
    ProblemWithError,
    /// A status of gRPC.
    Grpc,
}

/// Returns the error for a panic of a handler or a stage.
pub(super) fn of_panic(panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    Error::internal(format_args!("a handler or a stage panicked: {text}"))
}

/// Returns the HTTP status for a kind of error.
fn status_of_kind(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::InvalidArgument => StatusCode::BAD_REQUEST,
        ErrorKind::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorKind::PermissionDenied => StatusCode::FORBIDDEN,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::FailedPrecondition => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorKind::Overloaded | ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::ModelFailed | ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Returns the HTTP status for an error: the status of its kind, unless HTTP has a more specific status.
fn status(error: &OperatorError) -> StatusCode {
    match error {
        OperatorError::Request(Error::UnsupportedMethod { .. }) => StatusCode::METHOD_NOT_ALLOWED,
        OperatorError::Request(Error::UnsupportedContent(_) | Error::UnsupportedCoding) => {
            StatusCode::UNSUPPORTED_MEDIA_TYPE
        }
        OperatorError::Request(Error::RequestTooLarge { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
        OperatorError::Request(Error::RequestTooSlow { .. }) => StatusCode::REQUEST_TIMEOUT,
        OperatorError::Request(Error::UnsupportedTransfer) => StatusCode::NOT_IMPLEMENTED,
        other => status_of_kind(other.kind()),
    }
}

/// Returns the response for an error.
pub(super) fn render(error: &OperatorError, request_id: &HeaderValue, format: Format) -> Response {
    if format == Format::Grpc {
        return grpc::status(error).into_http();
    }
    let status = status(error);
    // Cut off, because the message may quote the request, or a name from a model file.
    let detail = cut_off(error.to_string(), MAX_DETAIL);
    let problem = Problem {
        r#type: format!("urn:leeway:problem:{}", error.code()).into(),
        title: error.title().into(),
        status: status.as_u16(),
        detail: Cow::Borrowed(&detail),
        request_id: request_id.to_str().unwrap_or_default().into(),
        error: (format == Format::ProblemWithError).then_some(Cow::Borrowed(&detail)),
        present: match error {
            OperatorError::Conflict { present, .. } => Some(present.clone()),
            _ => None,
        },
    };
    // Serializing strings and a number cannot fail.
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    // Clients of these protocols read the error only from plain JSON.
    let media_type = match format {
        Format::ProblemWithError => "application/json",
        Format::Problem | Format::Grpc => "application/problem+json",
    };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    if let Some(time) = error.retry_after() {
        // The header takes whole seconds only.
        let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    match error {
        // The connection cannot be reused: the rest of the body may arrive at any time, or the end of the body is
        // unknown.
        OperatorError::Request(Error::RequestTooSlow { .. } | Error::UnsupportedTransfer) => {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        OperatorError::Request(Error::UnsupportedMethod { allowed }) => {
            headers.extend(HeaderValue::from_str(allowed).ok().map(|allowed| (ALLOW, allowed)));
        }
        OperatorError::Request(Error::UnsupportedCoding) => {
            headers.insert(ACCEPT_ENCODING, content_coding::ACCEPTED);
        }
        OperatorError::Unauthorized | OperatorError::Request(Error::ApiKeyRefused { .. }) => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        _ => {}
    }
    response
}

/// Returns the metadata at the end of a stream of gRPC that ends with an error.
pub(super) fn trailers(error: &OperatorError) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    // A status without binary details has only valid metadata.
    let _ = grpc::status(error).add_header(&mut trailers);
    trailers
}

/// Logs an error with the details that the caller does not get. The level is error if the model or the server is at
/// fault.
pub(super) fn log(error: &OperatorError, request_id: &HeaderValue, trace: Option<&TraceContext>) {
    let (code, detail) = (error.code(), error.detail());
    let request_id = request_id.to_str().unwrap_or_default();
    let (trace_id, span_id) = TraceContext::ids(trace);
    match error.kind().fault() {
        // These include failures to write the state. The monitor logs each such failure, and its recovery, once.
        Fault::Caller | Fault::Overload | Fault::Budget => {
            tracing::debug!(request_id, trace_id, span_id, code, detail, reason = error.to_string(), "request refused");
        }
        Fault::Model | Fault::Server => {
            tracing::error!(request_id, trace_id, span_id, code, detail, "{error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::time::Duration;

    use super::*;
    use crate::error::{ProcessEnd, SetupError, Shed};
    use crate::stage::{Stage, Timings};

    /// One of each variant.
    ///
    /// Length: a table.
    fn all() -> Vec<OperatorError> {
        let known = || vec!["a".to_owned(), "b".to_owned()];
        let requests = vec![
            Error::InvalidInput("instances[0]: found null".into()),
            Error::UnknownModel { model: "x".into(), known: known() },
            Error::UnknownVersion { model: "digits".parse().unwrap(), version: "9".into(), known: known() },
            Error::NoDefaultModel { known: known() },
            Error::ModelUnavailable {
                model: "digits".parse().unwrap(),
                reason: "version 2 was refused (digest)".into(),
            },
            Error::Unhealthy("no model is served".into()),
            Error::UnknownEndpoint,
            Error::UnknownAction { action: "classify".into() },
            Error::ApiKeyRefused { given: false },
            Error::UnknownCall("Call: no such call".into()),
            Error::DeadlineOfStream,
            Error::UnsupportedMethod { allowed: "POST".into() },
            Error::UnsupportedContent("the Content-Type of the body is \"text/plain\"".into()),
            Error::UnsupportedCoding,
            Error::RequestTooLarge { limit: 8, advice: "send fewer instances" },
            Error::UnsupportedTransfer,
            Error::RequestTooSlow { limit: Duration::from_secs(3) },
            Error::RequestAborted,
            Error::Overloaded {
                shed: Shed::AtTheDoor,
                needed: Duration::from_micros(62_500),
                left: Duration::from_millis(41),
                retry_after: Duration::from_micros(21_500),
            },
            Error::Overloaded {
                shed: Shed::EvenAlone,
                needed: Duration::from_micros(402_600),
                left: Duration::from_millis(165),
                retry_after: Duration::ZERO,
            },
            Error::Overloaded {
                shed: Shed::InTheQueue,
                needed: Duration::from_micros(7_250),
                left: Duration::from_micros(900),
                retry_after: Duration::from_millis(1),
            },
            Error::TooManyConnections { limit: 1024 },
            Error::BodyMemoryFull { limit: 1 << 20 },
            Error::QueueFull { capacity: 4, retry_after: Duration::from_secs(1) },
            Error::ShuttingDown,
            Error::Expired { stage: Stage::Queue, spent: Timings::default() },
            Error::ModelFailed { detail: "SECRET".into() },
            Error::NonFiniteOutput { output: "y".into(), instance: 3 },
            Error::UnusableOutput { output: "y".into(), problem: "has the shape [1, 2] for 3 rows".into() },
            Error::WorkerPanicked,
            Error::ModelProcessEnded { when: ProcessEnd::InTheRun, detail: "SECRET".into() },
            Error::ModelRestarting { retry_after: Duration::from_millis(400) },
            Error::FeedbackNotRecorded { detail: "SECRET".into() },
            Error::internal("SECRET"),
            SetupError::Config("SECRET".into()).of_a_request(),
        ];
        let own = [
            OperatorError::Conflict { message: "generation 4".into(), present: serde_json::json!({}) },
            OperatorError::ChangeRefused("model digits has no stable version before 1".into()),
            OperatorError::Unauthorized,
            OperatorError::Forbidden("the header Host".into()),
            OperatorError::Journal("database or disk is full".into()),
        ];
        requests.into_iter().map(OperatorError::from).chain(own).collect()
    }

    #[test]
    fn the_error_table() {
        let mut seen = String::new();
        for error in all() {
            let (status, title, detail) = (status(&error), error.title(), error.to_string());
            assert!(!detail.contains("SECRET"));
            writeln!(seen, "{} {} {:?}\n    {title}\n    {detail}", status.as_u16(), error.code(), error.kind())
                .unwrap();
            let response = render(&error, &HeaderValue::from_static("id"), Format::Problem);
            for (name, value) in response.headers().iter().filter(|(name, _)| *name != CONTENT_TYPE) {
                writeln!(seen, "    {name}: {}", value.to_str().unwrap()).unwrap();
            }
        }
        insta::assert_snapshot!(seen);
    }

    #[test]
    fn every_code_is_counted() {
        for error in all() {
            let monitor = crate::monitor::Monitor::new("1.0.0", Default::default());
            monitor.server().error_response(error.code());
            let series = format!("leeway_error_responses_total{{code=\"{}\"}} 1\n", error.code());
            assert!(monitor.render().contains(&series), "{series}");
        }
    }
}
