//! The span of a sampled request, in the terms of OpenTelemetry's semantic conventions for servers of HTTP and gRPC.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::Request;
use axum::http::header::{HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use axum::http::uri::Authority;
use axum::http::{Method, Version};
use axum::response::Response;

use super::HttpState;
use super::error_response::Format;
use super::trace_context::TraceContext;
use crate::api::routes::pattern_of;
use crate::config::Route;
use crate::error::OperatorError;
use crate::identity::printable;
use crate::serve::{NotedFacts, NotedWork, RequestNotes};
use crate::telemetry::{FinishedSpan, KeyValue, RequestTrace, SpanFailure, SpanIds};

/// Maximum length of a text of the caller in an attribute, in bytes.
const MAX_TEXT: usize = 256;
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// Failure of a request that is dropped before its end.
const ABANDONED: SpanFailure = SpanFailure { code: "abandoned", is_of_server: false };

/// The span of a sampled request. Dropping it ends the span; a request without an answer by then was abandoned.
#[derive(Debug)]
pub(super) struct RequestSpan {
    trace: Arc<RequestTrace>,
    notes: Arc<RequestNotes>,
    name: String,
    attributes: Vec<KeyValue>,
    started: Instant,
    /// The failure so far: that the request is abandoned, until it is answered.
    failure: Option<SpanFailure>,
    format: Format,
}

impl RequestSpan {
    /// Begins the span of a request, if it is sampled.
    pub(super) fn begin(
        state: &HttpState,
        request: &Request,
        id: &HeaderValue,
        started: Instant,
        format: Format,
    ) -> Option<RequestSpan> {
        let tracer = state.tracer.as_ref()?;
        let headers = request.headers();
        let trace = match TraceContext::of(headers) {
            Some(caller) => tracer.follow(caller.sampled_caller()?, &TraceContext::state_of(headers)),
            // Probes and scrapes are not worth a trace.
            None if request.method() == Method::POST && !request.uri().path().starts_with("/grpc.") => {
                tracer.begin()?
            }
            None => return None,
        };
        let (name, mut attributes) = match format {
            Format::Grpc => call(request),
            Format::Problem | Format::ProblemWithError => http(request, state),
        };
        attributes.push(KeyValue::new("leeway.request_id", text(id.to_str().unwrap_or_default())));
        attributes.extend(connection(request));
        Some(RequestSpan::new(trace, name, attributes, started, format))
    }

    /// Begins the span of a message of a stream.
    pub(super) fn of_message(stream: &RequestTrace, started: Instant) -> RequestSpan {
        RequestSpan::new(stream.child(), "message".to_owned(), Vec::new(), started, Format::Grpc)
    }

    /// Returns the ids of the span.
    pub(super) fn ids(&self) -> SpanIds {
        self.trace.ids()
    }

    /// Returns the notes for the handlers of the request.
    pub(super) fn notes(&self) -> Arc<RequestNotes> {
        Arc::clone(&self.notes)
    }

    /// Notes the error that the request is answered with.
    pub(super) fn failed(&mut self, error: &OperatorError) {
        self.failure = Some(SpanFailure::of(error.code(), error.kind().fault()));
    }

    /// Notes the response of the request.
    pub(super) fn answered(&mut self, response: &Response) {
        self.message_answered();
        self.attributes.push(match self.format {
            Format::Grpc => {
                // Without an error, the status comes after the message.
                let status = response.headers().get(GRPC_STATUS).and_then(|status| status.to_str().ok()?.parse().ok());
                KeyValue::new("rpc.grpc.status_code", status.unwrap_or(0_i64))
            }
            Format::Problem | Format::ProblemWithError => {
                KeyValue::new("http.response.status_code", i64::from(response.status().as_u16()))
            }
        });
    }

    /// Notes that a message is answered.
    pub(super) fn message_answered(&mut self) {
        if self.failure == Some(ABANDONED) {
            self.failure = None;
        }
    }

    fn new(
        trace: Arc<RequestTrace>,
        name: String,
        attributes: Vec<KeyValue>,
        started: Instant,
        format: Format,
    ) -> RequestSpan {
        let notes = Arc::new(RequestNotes::new(Some(Arc::clone(&trace))));
        RequestSpan { trace, notes, name, attributes, started, failure: Some(ABANDONED), format }
    }
}

impl Drop for RequestSpan {
    fn drop(&mut self) {
        let (NotedFacts { version, instances, .. }, work) = (self.notes.facts(), self.notes.take_work());
        let mut attributes = std::mem::take(&mut self.attributes);
        if let Some(version) = version {
            attributes.push(KeyValue::new("leeway.model", version.model.to_string()));
            attributes.push(KeyValue::new("leeway.version", version.version.to_string()));
        }
        let instances = instances.and_then(|instances| i64::try_from(instances).ok());
        attributes.extend(instances.map(|instances| KeyValue::new("leeway.instances", instances)));
        let NotedWork { stages, steps } = work;
        let span = FinishedSpan {
            trace: Arc::clone(&self.trace),
            name: std::mem::take(&mut self.name).into(),
            times: (self.started, self.started + self.started.elapsed()),
            attributes,
            failure: self.failure,
            stages,
            steps,
        };
        span.export();
    }
}

/// Returns the name and the attributes of a request over HTTP.
fn http(request: &Request, state: &HttpState) -> (String, Vec<KeyValue>) {
    let (method, path) = (request.method().as_str(), request.uri().path());
    let is_known = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"].contains(&method);
    let (method, of_name) = if is_known { (method, method) } else { ("_OTHER", "HTTP") };
    let of_platform = || state.predict_route.as_ref().map(Route::path).filter(|route| *route == path);
    let route = pattern_of(method, path).or_else(of_platform);
    let name = route.map_or_else(|| of_name.to_owned(), |route| format!("{of_name} {route}"));
    let mut attributes = vec![
        KeyValue::new("http.request.method", method.to_owned()),
        KeyValue::new("url.path", text(path)),
        KeyValue::new("url.scheme", request.uri().scheme_str().unwrap_or(state.scheme).to_owned()),
    ];
    attributes.extend(route.map(|route| KeyValue::new("http.route", route.to_owned())));
    (name, attributes)
}

/// Returns the name and the attributes of a call of gRPC.
fn call(request: &Request) -> (String, Vec<KeyValue>) {
    let path = text(request.uri().path().trim_start_matches('/'));
    let (service, method) = path.split_once('/').unwrap_or((&path, ""));
    let attributes = vec![
        KeyValue::new("rpc.system", "grpc"),
        KeyValue::new("rpc.service", service.to_owned()),
        KeyValue::new("rpc.method", method.to_owned()),
    ];
    (path, attributes)
}

/// Returns the attributes of the connection and the client.
fn connection(request: &Request) -> Vec<KeyValue> {
    let version = match request.version() {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    };
    let mut attributes = vec![KeyValue::new("network.protocol.version", version)];
    let own = request.uri().authority().cloned();
    let address = own.or_else(|| header(request.headers(), &HOST)?.parse::<Authority>().ok());
    if let Some(address) = address {
        attributes.push(KeyValue::new("server.address", text(address.host())));
        attributes.extend(address.port_u16().map(|port| KeyValue::new("server.port", i64::from(port))));
    }
    let agent = header(request.headers(), &USER_AGENT);
    attributes.extend(agent.map(|agent| KeyValue::new("user_agent.original", text(agent))));
    attributes
}

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn text(text: &str) -> String {
    printable(text, MAX_TEXT).into_owned()
}
