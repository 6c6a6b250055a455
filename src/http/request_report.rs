//! The reports about a request: its line in the access log, its span, its errors, and a line at the level debug.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::Request;
use axum::http::header::{HeaderName, HeaderValue};
use axum::http::{Method, Uri};
use axum::response::Response;

use super::HttpState;
use super::access_log::AccessEntry;
use super::error_response::{self, Format};
use super::request_span::RequestSpan;
use super::trace_context::TraceContext;
use crate::error::OperatorError;
use crate::serve::RequestNotes;

/// Header with the ids of the span that this server has made of a request, in the form of `traceparent`.
const TRACERESPONSE: HeaderName = HeaderName::from_static("traceresponse");

/// The reports about a request. If it is dropped before the request is answered, the request was abandoned.
#[derive(Debug)]
pub(super) struct RequestReport {
    /// The trace in the lines of the log.
    trace: Option<TraceContext>,
    notes: Option<Arc<RequestNotes>>,
    access: Option<Box<AccessEntry>>,
    /// `None` if the request is not sampled.
    span: Option<Box<RequestSpan>>,
    /// Head of the request, if it has a line at the level debug.
    logged: Option<(Method, Uri)>,
}

impl RequestReport {
    pub(super) fn begin(
        state: &HttpState,
        request: &Request,
        id: &HeaderValue,
        started: Instant,
        format: Format,
    ) -> RequestReport {
        let span = RequestSpan::begin(state, request, id, started, format).map(Box::new);
        let own = span.as_ref().and_then(|span| TraceContext::of_span(span.ids()));
        let notes = match (&span, &state.access_log) {
            (Some(span), _) => Some(span.notes()),
            (None, Some(_)) => Some(Arc::default()),
            (None, None) => None,
        };
        let access = state.access_log.as_ref().zip(notes.as_ref());
        let access = access.map(|(log, notes)| log.begin(request, id, started, Arc::clone(notes), own.as_ref()));
        let trace = own.or_else(|| state.logs_traces.then(|| TraceContext::of(request.headers())).flatten());
        let is_logged = tracing::enabled!(tracing::Level::DEBUG);
        let logged = is_logged.then(|| (request.method().clone(), request.uri().clone()));
        RequestReport { trace, notes, access, span, logged }
    }

    /// Returns the notes for the handlers of the request.
    pub(super) fn notes(&self) -> Option<Arc<RequestNotes>> {
        self.notes.clone()
    }

    /// Reports the error that the request is answered with.
    pub(super) fn failed(&mut self, error: &OperatorError, id: &HeaderValue) {
        error_response::log(error, id, self.trace.as_ref());
        if let Some(access) = &mut self.access {
            access.failed(error);
        }
        if let Some(span) = &mut self.span {
            span.failed(error);
        }
    }

    /// Ends the request with its response, which gets the ids of its span.
    pub(super) fn answered(self, response: &mut Response, id: &HeaderValue, started: Instant) {
        let RequestReport { trace, access, span, logged, .. } = self;
        let status = response.status().as_u16();
        if let Some((method, uri)) = logged {
            let took_us = started.elapsed().as_micros() as u64;
            let request_id = id.to_str().unwrap_or_default();
            let (trace_id, span_id) = TraceContext::ids(trace.as_ref());
            tracing::debug!(request_id, trace_id, span_id, %method, path = uri.path(), status, took_us, "request");
        }
        if let Some(access) = access {
            access.answered(status);
        }
        if let Some(mut span) = span {
            span.answered(response);
            response.headers_mut().extend(trace.map(|trace| (TRACERESPONSE, trace.value().clone())));
        }
    }
}
