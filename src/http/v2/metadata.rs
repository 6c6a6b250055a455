//! Health and metadata of the server and its models, and the configuration of models in Triton's form.

use std::sync::Arc;

use axum::extract::{RawPathParams, State};
use axum::response::Response;

use super::infer::target;
use crate::api::v2::{EXTENSIONS, ModelConfig, ModelList, ModelReady, ServerLive, ServerMetadata, ServerReady};
use crate::error::Error;
use crate::http::HttpState;
use crate::http::context::Failure;
use crate::http::json_answer::{held_json, json};
use crate::http::operations;
use crate::serve;

type Answer = Result<Response, Failure>;

/// `GET /v2/health/live`
pub(in crate::http) async fn live(State(state): State<Arc<HttpState>>) -> Answer {
    operations::check_live(&state)?;
    Ok(json(&ServerLive { live: true })?)
}

/// `GET /v2/health/ready`
pub(in crate::http) async fn ready(State(state): State<Arc<HttpState>>) -> Answer {
    operations::check_ready(&state)?;
    Ok(json(&ServerReady { ready: true })?)
}

/// `GET /v2`
pub(in crate::http) async fn server() -> Answer {
    Ok(json(&ServerMetadata {
        name: "leeway".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        extensions: EXTENSIONS.map(Into::into).to_vec(),
    })?)
}

/// `GET /v2/models`
pub(in crate::http) async fn list(State(state): State<Arc<HttpState>>) -> Answer {
    let snapshot = state.catalog.snapshot();
    let models = snapshot.models().keys().map(ToString::to_string).collect();
    Ok(held_json(&ModelList { models }, &state.body_memory)?)
}

/// `GET /v2/models/{model}`, `GET /v2/models/{model}/versions/{version}`
pub(in crate::http) async fn model(State(state): State<Arc<HttpState>>, path: RawPathParams) -> Answer {
    let metadata = serve::model_metadata(&state.catalog.snapshot(), target(&path)?)?;
    Ok(held_json(&metadata, &state.body_memory)?)
}

/// `GET /v2/models/{model}/ready`, `GET /v2/models/{model}/versions/{version}/ready`
pub(in crate::http) async fn model_ready(State(state): State<Arc<HttpState>>, path: RawPathParams) -> Answer {
    if !state.readiness.is_ready() {
        return Err(Error::ShuttingDown.into());
    }
    let snapshot = state.catalog.snapshot();
    let name = serve::check_ready(&snapshot, target(&path)?, |served| state.health.stuck_after(served.budget.total))?;
    Ok(json(&ModelReady { name: name.to_string(), ready: true })?)
}

/// `GET /v2/models/{model}/config`, `GET /v2/models/{model}/versions/{version}/config`
pub(in crate::http) async fn config(State(state): State<Arc<HttpState>>, path: RawPathParams) -> Answer {
    let snapshot = state.catalog.snapshot();
    let config: ModelConfig = serve::model_config(&snapshot, target(&path)?)?;
    Ok(held_json(&config, &state.body_memory)?)
}
