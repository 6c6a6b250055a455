//! The handlers that say what is served.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::response::Response;
use serde::Serialize;

use super::HttpState;
use super::context::Failure;
use super::wire::{ModelView, VersionView, held_json};
use crate::error::Error;
use crate::identity::ModelName;
use crate::registry::{ServedModel, Snapshot, Target};
use crate::traffic::Share;

/// `GET /v1/models`
pub(super) async fn list(State(state): State<Arc<HttpState>>) -> Result<Response, Failure> {
    #[derive(Serialize)]
    struct Models<'a> {
        models: Vec<ModelView<'a>>,
    }
    let snapshot = state.catalog.snapshot();
    let served = snapshot.models().iter().map(|(name, model)| view(&state, &snapshot, name, model));
    let unserved = snapshot
        .unserved()
        .iter()
        .map(|(name, reason)| ModelView::unserved(name.as_str(), reason, snapshot.default_model() == Some(name)));
    Ok(held_json(&Models { models: served.chain(unserved).collect() }, &state.body_memory)?)
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
    if let Some((name, reason)) = snapshot.unserved().get_key_value(name.as_str()) {
        let view = ModelView::unserved(name.as_str(), reason, snapshot.default_model() == Some(name));
        return Ok(held_json(&view, &state.body_memory)?);
    }
    let (name, model) = snapshot.model(&name)?;
    Ok(held_json(&view(&state, &snapshot, name, model), &state.body_memory)?)
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
    Failure::from(Error::UnsupportedMethod { allowed: allowed.to_owned() })
}

fn view<'a>(state: &HttpState, snapshot: &Snapshot, name: &'a ModelName, model: &'a ServedModel) -> ModelView<'a> {
    let mut with_traffic = model.versions.values().filter(|served| model.split.share(served.version) != Share::NONE);
    let stuck = with_traffic.find(|served| served.is_stuck(state.health.stuck_after(served.budget.total)));
    let reason = stuck.map(|stuck| format!("all workers of version {} are in runs that do not end", stuck.version));
    ModelView::new(name.as_str(), model, snapshot.default_model() == Some(name), reason)
}
