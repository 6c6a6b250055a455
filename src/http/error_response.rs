//! Error → response: the one place where an error becomes a status.
//!
//! Every failure is a problem document (RFC 9457). On the `/v1` routes it also has the `error` member that
//! TensorFlow Serving's and KServe's clients read.

use std::borrow::Cow;

use axum::body::Body;
use axum::http::StatusCode;
use axum::http::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::response::{IntoResponse, Response};

use crate::api::problem::Problem;
use crate::error::{Error, Fault, Shed};
use crate::identity::cut_off;

/// Maximum length of the detail of a problem, in characters.
const MAX_DETAIL: usize = 4_000;

/// An error on its way to `request_context.rs`, which renders it.
#[derive(Debug, Clone)]
pub(super) struct Failure(pub(super) Error);

/// Which clients read the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// Clients of Leeway.
    Problem,
    /// Clients of the `/v1` protocols too.
    ProblemWithError,
}

/// The status of an error, and the title that stands for all errors of its kind.
fn status(error: &Error) -> (StatusCode, &'static str) {
    match error {
        Error::InvalidInput(_) => (StatusCode::BAD_REQUEST, "Invalid input"),
        Error::UnknownModel { .. } => (StatusCode::NOT_FOUND, "Model not found"),
        Error::UnknownVersion { .. } => (StatusCode::NOT_FOUND, "Version not found"),
        Error::NoDefaultModel { .. } => (StatusCode::NOT_FOUND, "No default model"),
        Error::UnknownEndpoint => (StatusCode::NOT_FOUND, "Not found"),
        Error::UnsupportedMethod { .. } => (StatusCode::METHOD_NOT_ALLOWED, "Method not allowed"),
        Error::UnsupportedContent(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "Unsupported media type"),
        Error::RequestTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "Request body too large"),
        Error::UnsupportedTransfer => (StatusCode::NOT_IMPLEMENTED, "Unsupported transfer encoding"),
        Error::RequestTooSlow { .. } => (StatusCode::REQUEST_TIMEOUT, "Request body timeout"),
        Error::RequestAborted => (StatusCode::BAD_REQUEST, "Incomplete request body"),
        Error::Overloaded { .. } | Error::QueueFull { .. } => (StatusCode::SERVICE_UNAVAILABLE, "Model overloaded"),
        Error::TooManyConnections { .. } => (StatusCode::SERVICE_UNAVAILABLE, "Too many connections"),
        Error::ModelUnavailable { .. } => (StatusCode::SERVICE_UNAVAILABLE, "Model unavailable"),
        Error::Unhealthy(_) => (StatusCode::SERVICE_UNAVAILABLE, "Server unhealthy"),
        Error::BodyMemoryFull { .. } => (StatusCode::SERVICE_UNAVAILABLE, "Request memory exhausted"),
        Error::ShuttingDown => (StatusCode::SERVICE_UNAVAILABLE, "Server shutting down"),
        Error::Expired { .. } => (StatusCode::GATEWAY_TIMEOUT, "Deadline exceeded"),
        Error::ModelFailed { .. }
        | Error::NonFiniteOutput { .. }
        | Error::UnusableOutput { .. }
        | Error::WorkerPanicked
        | Error::ModelProcessEnded { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "Model failed"),
        Error::ModelRestarting { .. } => (StatusCode::SERVICE_UNAVAILABLE, "Model restarting"),
        Error::Conflict { .. } => (StatusCode::CONFLICT, "Deployment changed"),
        Error::ChangeRefused(_) => (StatusCode::UNPROCESSABLE_ENTITY, "Change refused"),
        Error::Unauthorized => (StatusCode::UNAUTHORIZED, "Unauthorized"),
        Error::Forbidden(_) => (StatusCode::FORBIDDEN, "Forbidden"),
        Error::Journal(_) => (StatusCode::SERVICE_UNAVAILABLE, "Change not recorded"),
        Error::FeedbackNotRecorded { .. } => (StatusCode::SERVICE_UNAVAILABLE, "Feedback not recorded"),
        Error::Internal { .. }
        | Error::Config(_)
        | Error::Library(_)
        | Error::State(_)
        | Error::Repository(_)
        | Error::Load { .. }
        | Error::Listen(_) => (StatusCode::INTERNAL_SERVER_ERROR, "Internal error"),
    }
}

/// The response for an error.
pub(super) fn render(error: &Error, request_id: &HeaderValue, style: Style) -> Response {
    let (status, title) = status(error);
    let detail = message(error);
    let problem = Problem {
        r#type: format!("urn:leeway:problem:{}", error.code()).into(),
        title: title.into(),
        status: status.as_u16(),
        detail: Cow::Borrowed(&detail),
        request_id: request_id.to_str().unwrap_or_default().into(),
        error: (style == Style::ProblemWithError).then_some(Cow::Borrowed(&detail)),
        present: match error {
            Error::Conflict { present, .. } => Some(present.clone()),
            _ => None,
        },
    };
    // Strings and a number: writing them as JSON cannot fail.
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    match error {
        // The same again would be refused again.
        Error::Overloaded { shed: Shed::EvenAlone, .. } => {}
        Error::QueueFull { retry_after, .. }
        | Error::Overloaded { retry_after, .. }
        | Error::ModelRestarting { retry_after } => {
            // Whole seconds are all that the header has.
            let seconds = retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        Error::ShuttingDown
        | Error::TooManyConnections { .. }
        | Error::ModelUnavailable { .. }
        | Error::BodyMemoryFull { .. } => {
            headers.insert(RETRY_AFTER, HeaderValue::from(1));
        }
        // A full or failing disk takes longer than a second to repair, and earlier retries would fail again.
        Error::FeedbackNotRecorded { .. } => {
            headers.insert(RETRY_AFTER, HeaderValue::from(30));
        }
        // The rest of the body may arrive at any time, or its end is not known. So the connection cannot carry another
        // request.
        Error::RequestTooSlow { .. } | Error::UnsupportedTransfer => {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Error::Unauthorized => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        Error::UnsupportedMethod { allowed } => {
            headers.extend(HeaderValue::from_str(allowed).ok().map(|allowed| (ALLOW, allowed)));
        }
        _ => {}
    }
    response
}

/// Message for the caller. Errors from before anything is served have messages for operators: they name paths.
fn message(error: &Error) -> String {
    match error {
        Error::Config(_)
        | Error::Library(_)
        | Error::State(_)
        | Error::Repository(_)
        | Error::Load { .. }
        | Error::Listen(_) => Error::internal("").to_string(),
        // The message may quote the request, or a name from a model file.
        sent => cut_off(sent.to_string(), MAX_DETAIL),
    }
}

/// Logs an error that is not the caller's own doing, with the detail that is not sent.
pub(super) fn log(error: &Error, request_id: &HeaderValue) {
    let (code, detail) = (error.code(), error.detail().unwrap_or_default());
    let request_id = request_id.to_str().unwrap_or_default();
    match error.fault() {
        // The monitor logs a failure of the state once, and its recovery once.
        _ if matches!(error, Error::Journal(_) | Error::FeedbackNotRecorded { .. }) => {
            tracing::debug!(request_id, code, detail, "{error}");
        }
        Fault::Caller | Fault::Overload | Fault::Budget => {
            tracing::debug!(request_id, code, reason = error.to_string(), "request refused");
        }
        Fault::Model | Fault::Server => {
            tracing::error!(request_id, code, detail, "{error}");
        }
    }
}

impl Style {
    pub(super) fn of_path(path: &str) -> Style {
        if path.starts_with("/v1/") { Style::ProblemWithError } else { Style::Problem }
    }
}

impl Failure {
    /// A response that holds nothing but the failure, for the outermost layer to render.
    pub(super) fn into_response_to_render(self) -> Response {
        let mut response = Response::new(Body::empty());
        response.extensions_mut().insert(self);
        response
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        self.into_response_to_render()
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure(error)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::time::Duration;

    use super::*;
    use crate::stage::{Stage, Timings};

    /// One of each variant.
    fn all() -> Vec<Error> {
        let (model, version) = ("digits".parse().unwrap(), "1".parse().unwrap());
        let known = || vec!["a".to_owned(), "b".to_owned()];
        vec![
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
            Error::UnsupportedMethod { allowed: "POST".into() },
            Error::UnsupportedContent("the body is announced as \"text/plain\"".into()),
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
            Error::ModelProcessEnded { when: crate::error::ProcessEnd::InTheRun, detail: "SECRET".into() },
            Error::ModelRestarting { retry_after: Duration::from_millis(400) },
            Error::Conflict { message: "generation 4".into(), present: serde_json::json!({}) },
            Error::ChangeRefused("model digits has no stable version before 1".into()),
            Error::Unauthorized,
            Error::Forbidden("the header Host".into()),
            Error::Journal("database or disk is full".into()),
            Error::FeedbackNotRecorded { detail: "SECRET".into() },
            Error::internal("SECRET"),
            Error::Config("SECRET".into()),
            Error::Library("SECRET".into()),
            Error::State("SECRET".into()),
            Error::Repository("SECRET".into()),
            Error::Load { model, version, fault: crate::error::LoadFault::Model, message: "SECRET".into() },
            Error::Listen("SECRET".into()),
        ]
    }

    #[test]
    fn the_error_table() {
        let mut seen = String::new();
        for error in all() {
            let (status, title) = status(&error);
            let detail = message(&error);
            assert!(!detail.contains("SECRET"));
            writeln!(seen, "{} {} {:?}\n    {title}\n    {detail}", status.as_u16(), error.code(), error.fault())
                .unwrap();
        }
        insta::assert_snapshot!(seen);
    }

    #[test]
    fn every_code_is_counted() {
        for error in all() {
            let monitor = crate::monitor::Monitor::new("1.0.0", Default::default());
            monitor.server().error_response(&error);
            let series = format!("leeway_error_responses_total{{code=\"{}\"}} 1\n", error.code());
            assert!(monitor.render().contains(&series), "{series}");
        }
    }
}
