//! The index of the repository, and loads and unloads of models. Changes need the rights of operators.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;

use crate::api::v2::{IndexRequest, LoadRequest, UnloadRequest};
use crate::error::{Error, Result};
use crate::http::HttpState;
use crate::http::context::Failure;
use crate::http::json_answer::{held_json, json};
use crate::http::operator_request::{ModelPath, model_in_path, read_change, read_small};
use crate::identity::Version;
use crate::serve::{Reasons, repository_index};

type Answer = Result<Response, Failure>;

/// `POST /v2/repository/index` on the data listener
pub(in crate::http) async fn index_for_callers(State(state): State<Arc<HttpState>>, request: Request) -> Answer {
    let asked = read_small(request, &state.body_memory).await?;
    index(&state, asked, Reasons::ForCallers)
}

/// `POST /v2/repository/index` on the admin listener
pub(in crate::http) async fn index_for_operators(State(state): State<Arc<HttpState>>, request: Request) -> Answer {
    let asked = read_change(request).await?;
    index(&state, asked, Reasons::ForOperators)
}

fn index(state: &HttpState, IndexRequest { ready }: IndexRequest, reasons: Reasons) -> Answer {
    let (overview, snapshot) = (state.deployer.overview(), state.catalog.snapshot());
    let entries = repository_index(&overview.models, snapshot.unserved(), ready, reasons);
    Ok(held_json(&entries, &state.body_memory)?)
}

/// `POST /v2/repository/models/{model}/load`
pub(in crate::http) async fn load(State(state): State<Arc<HttpState>>, path: ModelPath, request: Request) -> Answer {
    let model = model_in_path(path)?;
    let LoadRequest { parameters } = read_change(request).await?;
    match version(parameters.version.as_deref())? {
        Some(version) => state.deployer.hold_loaded(&model, version).await?,
        None => state.deployer.load_model(&model).await?,
    }
    Ok(json(&serde_json::json!({}))?)
}

/// `POST /v2/repository/models/{model}/unload`
pub(in crate::http) async fn unload(State(state): State<Arc<HttpState>>, path: ModelPath, request: Request) -> Answer {
    let model = model_in_path(path)?;
    let UnloadRequest { parameters } = read_change(request).await?;
    match version(parameters.version.as_deref())? {
        Some(version) => state.deployer.hold_unloaded(&model, version).await?,
        None => state.deployer.unload_model(&model).await?,
    }
    Ok(json(&serde_json::json!({}))?)
}

fn version(text: Option<&str>) -> Result<Option<Version>> {
    let parsed = text.map(str::parse).transpose();
    parsed.map_err(|error| Error::InvalidInput(format!("parameters.version: {error}")))
}
