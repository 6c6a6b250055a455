//! The handlers for operators: health, metrics, and the indexes of both listeners.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{ACCEPT, HeaderValue, LOCATION, VARY};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use super::HttpState;
use super::context::{Failure, RequestContext};
use super::json_answer::{held_json, json};
use super::models::stuck_version;
use crate::api::health::{DataIndex, Index, IndexedModel, Live, Ready};
use crate::api::routes::{AdminEndpoint, DataEndpoint};
use crate::error::{Error, Result};
use crate::identity::ModelName;
use crate::registry::Snapshot;

/// `GET /livez`: 200 while the process runs. If configured, 503 while all workers of a version are in runs that do not
/// end.
pub(super) async fn live(State(state): State<Arc<HttpState>>) -> Result<Response, Failure> {
    check_live(&state)?;
    Ok(json(&Live { live: true })?)
}

/// Fails if the configuration says that the process should be restarted.
pub(super) fn check_live(state: &HttpState) -> Result<()> {
    let Some(limit) = state.health.live_fails_after() else { return Ok(()) };
    let snapshot = state.catalog.snapshot();
    match snapshot.versions().find(|served| served.is_stuck(limit)) {
        None => Ok(()),
        Some(stuck) => Err(Error::Unhealthy(format!(
            "all workers of model {} version {} have been in their runs for more than {} ms \
             (health.live_fails_after_ms)",
            stuck.model,
            stuck.version,
            limit.as_millis()
        ))),
    }
}

/// `GET /readyz`: 200 while the server is ready and serves at least one model. Lists the models that are not served.
pub(super) async fn ready(State(state): State<Arc<HttpState>>) -> Result<Response, Failure> {
    let snapshot = check_ready(&state)?;
    Ok(json(&Ready { ready: true, unserved: snapshot.unserved().clone() })?)
}

/// Returns the models, if the server is ready and serves at least one.
pub(super) fn check_ready(state: &HttpState) -> Result<Arc<Snapshot>> {
    if !state.readiness.is_ready() {
        return Err(Error::ShuttingDown);
    }
    let snapshot = state.catalog.snapshot();
    match snapshot.models().is_empty() {
        true => Err(Error::Unhealthy(no_model(snapshot.unserved()))),
        false => Ok(snapshot),
    }
}

/// Returns a text with the reason why no model is served.
pub(super) fn no_model(unserved: &BTreeMap<ModelName, String>) -> String {
    const MAX_SHOWN: usize = 5;
    let reasons: Vec<String> = unserved.iter().take(MAX_SHOWN).map(|(name, why)| format!("{name}: {why}")).collect();
    match unserved.len() {
        0 => "no model is served: there is none in the repository".to_owned(),
        all if all > MAX_SHOWN => format!("no model is served: {}; and {} more", reasons.join("; "), all - MAX_SHOWN),
        _ => format!("no model is served: {}", reasons.join("; ")),
    }
}

/// `GET /metrics`, in Prometheus' text format.
pub(super) async fn metrics(State(state): State<Arc<HttpState>>, request: Request) -> Result<Response, Failure> {
    let (head, _) = request.into_parts();
    Ok(state.exposition.answer(&head.headers, RequestContext::of(&head)?.started).await?)
}

/// `GET /metrics` on the data listener, unless only the admin listener serves metrics.
pub(super) async fn metrics_for_clients(state: State<Arc<HttpState>>, request: Request) -> Result<Response, Failure> {
    if state.metrics_for_clients { metrics(state, request).await } else { Err(Error::UnknownEndpoint.into()) }
}

/// `GET /` on the admin listener: lists the endpoints of this listener.
pub(super) async fn index() -> Result<Response, Failure> {
    Ok(json(&Index {
        name: "leeway".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        endpoints: AdminEndpoint::ALL.iter().map(AdminEndpoint::to_string).collect(),
    })?)
}

/// `GET /` on the data listener: the models, and where to go from here. A browser is sent to the page at `/docs`.
pub(super) async fn data_index(State(state): State<Arc<HttpState>>, asked: HeaderMap) -> Result<Response, Failure> {
    if prefers_html(&asked) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SEE_OTHER;
        // Relative, so that it is right behind a proxy that removes a prefix of the path.
        response.headers_mut().insert(LOCATION, HeaderValue::from_static("docs"));
        response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
        return Ok(response);
    }
    let snapshot = state.catalog.snapshot();
    let served = snapshot.models().iter().map(|(name, model)| (name, stuck_version(&state, model).is_none()));
    let unserved = snapshot.unserved().keys().map(|name| (name, false));
    let models = served.chain(unserved).map(|(name, ready)| IndexedModel { name: name.clone(), ready });
    let links = [
        ("docs", DataEndpoint::Docs),
        ("openapi", DataEndpoint::OpenApi),
        ("models", DataEndpoint::Models),
        ("v2", DataEndpoint::V2Server),
        ("live", DataEndpoint::Live),
        ("ready", DataEndpoint::Ready),
        ("metrics", DataEndpoint::Metrics),
    ];
    let links =
        links.into_iter().filter(|(_, endpoint)| *endpoint != DataEndpoint::Metrics || state.metrics_for_clients);
    let index = DataIndex {
        name: "leeway".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        models: models.collect(),
        links: links.map(|(what, endpoint)| (what.to_owned(), endpoint.path().to_owned())).collect(),
    };
    let mut response = held_json(&index, &state.body_memory)?;
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

/// Returns true for browsers: they name HTML, and programs do not.
fn prefers_html(asked: &HeaderMap) -> bool {
    let accepted = asked.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut media_types = accepted.flat_map(|value| value.split(','));
    media_types.any(|media_type| media_type.split(';').next().unwrap_or_default().trim() == "text/html")
}
