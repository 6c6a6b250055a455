//! The handlers of `GET /openapi.json` on both listeners.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;

use super::HttpState;
use super::context::Failure;

/// `GET /openapi.json` on the data listener
pub(super) async fn data(State(state): State<Arc<HttpState>>, asked: HeaderMap) -> Result<Response, Failure> {
    let (snapshot, has_keys) = (state.catalog.snapshot(), state.api_keys.is_some());
    let document = state.documents.data(snapshot, has_keys, state.body_memory.clone()).await?;
    Ok(document.answer(&asked))
}

/// `GET /openapi.json` on the admin listener
pub(super) async fn admin(State(state): State<Arc<HttpState>>, asked: HeaderMap) -> Result<Response, Failure> {
    Ok(state.documents.admin(state.admin_token.is_some(), &state.body_memory)?.answer(&asked))
}
