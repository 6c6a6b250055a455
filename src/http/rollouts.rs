//! The handlers of rollouts on the admin listener.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::response::Response;

use super::HttpState;
use super::context::Failure;
use super::json_answer::json;
use super::operator_request::{ModelPath, model_in_path, read_change};
use crate::api::rollout::{RolloutAction, RolloutIntervention, RolloutRequest, Rollouts, RolloutsQuery};
use crate::error::{Error, OperatorError, Result};

type Answer = Result<Response, Failure>;

/// Maximum number of rollouts in one response.
const MAX_ROLLOUTS: u32 = 100;

/// `POST /admin/v1/models/{model}/rollout`
pub(super) async fn start(State(state): State<Arc<HttpState>>, path: ModelPath, request: Request) -> Answer {
    let model = model_in_path(path)?;
    let request: RolloutRequest = read_change(request).await?;
    Ok(json(&state.rollouts.start(&model, request).await?)?)
}

/// `GET /admin/v1/models/{model}/rollout`
pub(super) async fn show(State(state): State<Arc<HttpState>>, path: ModelPath) -> Answer {
    let model = model_in_path(path)?;
    let rollout = state.rollouts.current(&model).await?.ok_or_else(|| {
        OperatorError::NoRollout(format!("model {model} has had no rollout; leeway rollout {model} VERSION starts one"))
    })?;
    Ok(json(&rollout)?)
}

/// `GET /admin/v1/models/{model}/rollouts?limit=20`
pub(super) async fn list(
    State(state): State<Arc<HttpState>>,
    path: ModelPath,
    page: Result<Query<RolloutsQuery>, QueryRejection>,
) -> Answer {
    let Query(RolloutsQuery { limit }) =
        page.map_err(|error| Error::InvalidInput(format!("the query: {}", error.body_text())))?;
    if !(1..=MAX_ROLLOUTS).contains(&limit) {
        return Err(Error::InvalidInput(format!("limit: found {limit}, expected 1 to {MAX_ROLLOUTS}")).into());
    }
    let rollouts = state.rollouts.history(&model_in_path(path)?, limit).await?;
    Ok(json(&Rollouts { rollouts })?)
}

/// `POST /admin/v1/models/{model}/rollout/pause`
pub(super) async fn pause(State(state): State<Arc<HttpState>>, path: ModelPath, request: Request) -> Answer {
    intervene(&state, path, request, RolloutAction::Pause).await
}

/// `POST /admin/v1/models/{model}/rollout/resume`
pub(super) async fn resume(State(state): State<Arc<HttpState>>, path: ModelPath, request: Request) -> Answer {
    intervene(&state, path, request, RolloutAction::Resume).await
}

/// `POST /admin/v1/models/{model}/rollout/abort`
pub(super) async fn abort(State(state): State<Arc<HttpState>>, path: ModelPath, request: Request) -> Answer {
    intervene(&state, path, request, RolloutAction::Abort).await
}

/// `POST /admin/v1/models/{model}/rollout/promote`
pub(super) async fn promote(State(state): State<Arc<HttpState>>, path: ModelPath, request: Request) -> Answer {
    intervene(&state, path, request, RolloutAction::Promote).await
}

async fn intervene(state: &HttpState, path: ModelPath, request: Request, action: RolloutAction) -> Answer {
    let model = model_in_path(path)?;
    let intervention: RolloutIntervention = read_change(request).await?;
    Ok(json(&state.rollouts.intervene(&model, action, intervention).await?)?)
}
