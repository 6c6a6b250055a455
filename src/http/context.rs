//! The facts about a request that the connection, the layers and the handlers share. Only this file uses
//! `http::Extensions` of requests and responses, which are not typed.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::HeaderValue;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use uuid::Uuid;

use super::activity::AboveLimit;
use crate::error::{Error, OperatorError, Result};
use crate::monitor::Delivery;

/// Context of a request for the handlers.
#[derive(Debug, Clone)]
pub(super) struct RequestContext {
    /// A unique id that the server makes; prediction ids are derived from it.
    pub(super) unique: Uuid,
    /// The id in the response: the caller's, or else the unique one.
    pub(super) id: HeaderValue,
    /// Time at which the request's head had been read.
    pub(super) started: Instant,
    /// The limit of connections, if the request came on a connection above it.
    pub(super) above_limit: Option<AboveLimit>,
}

/// An error on its way to `request_layer.rs`, which renders it.
#[derive(Debug, Clone)]
pub(super) struct Failure(pub(super) OperatorError);

impl RequestContext {
    /// Returns the context of a request.
    pub(super) fn of(head: &Parts) -> Result<&RequestContext> {
        head.extensions.get().ok_or_else(|| Error::internal("a request without context"))
    }

    /// Attaches the context to a request, for [`RequestContext::of`].
    pub(super) fn attach(self, request: &mut Request) {
        request.extensions_mut().insert(self);
    }
}

/// Marks a request on a connection above the limit. The connection calls it, before the request has a context.
pub(super) fn mark_above_limit<B>(request: &mut hyper::Request<B>, limit: AboveLimit) {
    request.extensions_mut().insert(limit);
}

/// Returns the limit of connections, if a request came on a connection above it.
pub(super) fn above_limit(request: &Request) -> Option<AboveLimit> {
    request.extensions().get().copied()
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure(error.into())
    }
}

impl From<OperatorError> for Failure {
    fn from(error: OperatorError) -> Failure {
        Failure(error)
    }
}

/// Makes an empty response that carries the failure.
impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        response.extensions_mut().insert(self);
        response
    }
}

/// Takes the failure out of a response.
pub(super) fn take_failure(response: &mut Response) -> Option<Failure> {
    response.extensions_mut().remove()
}

/// Attaches the delivery of a response, which the connection drops when it begins to write.
pub(super) fn attach_delivery(response: &mut Response, delivery: Delivery) {
    response.extensions_mut().insert(Arc::new(delivery));
}

/// Takes the delivery out of a response.
pub(super) fn take_delivery(response: &mut Response) -> Option<Arc<Delivery>> {
    response.extensions_mut().remove()
}
