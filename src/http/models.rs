//! The handlers that say what is served.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::response::Response;
use serde::Serialize;

use super::HttpState;
use super::error_response::Failure;
use super::wire::{ModelView, VersionView, held_json};
use crate::error::Error;
use crate::identity::ModelName;
use crate::registry::{ServedModel, Snapshot, Target};

/// `GET /v1/models`
pub(super) async fn list(State(state): State<Arc<HttpState>>) -> Result<Response, Failure> {
    #[derive(Serialize)]
    struct Models<'a> {
        models: Vec<ModelView<'a>>,
    }
    let snapshot = state.catalog.snapshot();
    let models = snapshot.models().iter().map(|(name, model)| view(&snapshot, name, model)).collect();
    Ok(held_json(&Models { models }, &state.body_memory)?)
}

/// `GET /v1/models/{model}`
pub(super) async fn show(
    State(state): State<Arc<HttpState>>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Failure> {
    let Path(name) = path.map_err(|_| Error::UnknownEndpoint)?;
    if name.contains(':') {
        return Err(Error::UnsupportedMethod { allowed: "POST".to_owned() }.into());
    }
    let snapshot = state.catalog.snapshot();
    let (name, model) = snapshot.model(&name)?;
    Ok(held_json(&view(&snapshot, name, model), &state.body_memory)?)
}

/// `GET /v1/models/{model}/versions/{version}`
pub(super) async fn show_version(
    State(state): State<Arc<HttpState>>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Response, Failure> {
    let Path((name, version)) = path.map_err(|_| Error::UnknownEndpoint)?;
    if version.contains(':') {
        return Err(Error::UnsupportedMethod { allowed: "POST".to_owned() }.into());
    }
    let snapshot = state.catalog.snapshot();
    let served = snapshot.resolve(Target::Version(&name, &version), b"")?;
    let (_, model) = snapshot.model(&name)?;
    Ok(held_json(&VersionView::new(served, model), &state.body_memory)?)
}

/// Any other method on these paths: a prediction takes POST, the rest is read with GET.
pub(super) async fn unsupported_method(uri: Uri) -> Failure {
    let allowed = if uri.path().ends_with(":predict") { "POST" } else { "GET, HEAD" };
    Failure(Error::UnsupportedMethod { allowed: allowed.to_owned() })
}

fn view<'a>(snapshot: &Snapshot, name: &'a ModelName, model: &'a ServedModel) -> ModelView<'a> {
    ModelView::new(name.as_str(), model, snapshot.default_model() == Some(name))
}
