//! `GET /openapi.json` on both listeners.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;

use super::HttpState;
use super::context::Failure;
use super::path_prefix::external_prefix;

/// `GET /openapi.json` on the data listener
pub(super) async fn data(State(state): State<Arc<HttpState>>, asked: HeaderMap) -> Result<Response, Failure> {
    let (snapshot, has_keys) = (state.catalog.snapshot(), state.api_keys.is_some());
    let prefix = external_prefix(&asked, state.path_prefix.as_ref());
    let document = state.documents.data(snapshot, has_keys, &state.body_memory).await?;
    Ok(document.below(&prefix, &state.body_memory).answer(&asked))
}

/// `GET /openapi.json` on the admin listener
pub(super) async fn admin(State(state): State<Arc<HttpState>>, asked: HeaderMap) -> Result<Response, Failure> {
    Ok(state.documents.admin(state.admin_token.is_some(), &state.body_memory)?.answer(&asked))
}
