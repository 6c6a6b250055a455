//! The statistics of versions.

use std::sync::Arc;

use axum::extract::{RawPathParams, State};
use axum::response::Response;

use super::infer::target;
use crate::http::HttpState;
use crate::http::context::Failure;
use crate::http::json_answer::held_json;
use crate::registry::Target;
use crate::serve;

/// `GET /v2/models/stats`
pub(in crate::http) async fn all(State(state): State<Arc<HttpState>>) -> Result<Response, Failure> {
    let snapshot = state.catalog.snapshot();
    let statistics = serve::statistics(snapshot.versions(), state.monitor.now());
    Ok(held_json(&statistics, &state.body_memory)?)
}

/// `GET /v2/models/{model}/stats`, `GET /v2/models/{model}/versions/{version}/stats`
pub(in crate::http) async fn of_a_model(
    State(state): State<Arc<HttpState>>,
    path: RawPathParams,
) -> Result<Response, Failure> {
    let (snapshot, now) = (state.catalog.snapshot(), state.monitor.now());
    let statistics = match target(&path)? {
        Target::Version(model, version) => {
            let served = snapshot.resolve(Target::Version(model, version), b"")?;
            serve::statistics(std::iter::once(served), now)
        }
        Target::Model(name) => {
            let (_, model) = snapshot.model(name)?;
            serve::statistics(model.versions.values(), now)
        }
        Target::Default => serve::statistics(snapshot.versions(), now),
    };
    Ok(held_json(&statistics, &state.body_memory)?)
}
