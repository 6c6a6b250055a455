//! The handlers for operators: health, metrics, and the admin listener's index.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::HttpState;
use super::error_response::Failure;
use super::wire::json;
use crate::error::Error;
use crate::monitor::TEXT_FORMAT;

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
pub(super) async fn metrics(State(state): State<Arc<HttpState>>) -> Result<Response, Failure> {
    // Many features are many series: milliseconds that no request should wait for.
    let monitor = Arc::clone(&state.monitor);
    let text = tokio::task::spawn_blocking(move || monitor.render()).await.map_err(Error::internal)?;
    Ok(([(CONTENT_TYPE, TEXT_FORMAT)], text).into_response())
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
