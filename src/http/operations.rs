//! The handlers for operators: health, metrics, and the admin listener's index.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde::Serialize;

use super::HttpState;
use super::error_response::Failure;
use super::request_context::RequestContext;
use super::wire::json;
use crate::error::Error;

/// `GET /livez`: the process runs and answers.
pub(super) async fn live() -> Result<Response, Failure> {
    #[derive(Serialize)]
    struct Live {
        live: bool,
    }
    Ok(json(&Live { live: true })?)
}

/// `GET /readyz`: new work is wanted.
pub(super) async fn ready(State(state): State<Arc<HttpState>>) -> Result<Response, Failure> {
    #[derive(Serialize)]
    struct Ready {
        ready: bool,
    }
    if state.readiness.is_ready() { Ok(json(&Ready { ready: true })?) } else { Err(Error::ShuttingDown.into()) }
}

/// `GET /metrics`, in Prometheus' text format.
pub(super) async fn metrics(State(state): State<Arc<HttpState>>, request: Request) -> Result<Response, Failure> {
    let asked = RequestContext::of(request.extensions())?.started;
    Ok(state.exposition.answer(request.headers(), asked).await?)
}

/// The same for clients, unless operators want them to themselves.
pub(super) async fn metrics_for_clients(state: State<Arc<HttpState>>, request: Request) -> Result<Response, Failure> {
    if state.metrics_for_clients { metrics(state, request).await } else { Err(Error::UnknownEndpoint.into()) }
}

/// `GET /` on the admin listener: what there is.
pub(super) async fn index() -> Result<Response, Failure> {
    #[derive(Serialize)]
    struct Index {
        name: &'static str,
        version: &'static str,
        endpoints: [&'static str; 15],
    }
    Ok(json(&Index {
        name: "leeway",
        version: env!("CARGO_PKG_VERSION"),
        endpoints: [
            "GET /",
            "GET /livez",
            "GET /readyz",
            "GET /metrics",
            "GET /admin/v1/models",
            "GET /admin/v1/models/{model}",
            "GET /admin/v1/models/{model}/drift",
            "GET /admin/v1/models/{model}/history",
            "PUT /admin/v1/models/{model}/traffic",
            "POST /admin/v1/models/{model}/promote",
            "POST /admin/v1/models/{model}/rollback",
            "GET /admin/v1/models/{model}/versions/{version}",
            "POST /admin/v1/models/{model}/versions/{version}/load",
            "POST /admin/v1/models/{model}/versions/{version}/unload",
            "POST /admin/v1/reload",
        ],
    })?)
}
