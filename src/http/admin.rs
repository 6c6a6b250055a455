//! The handlers of the admin listener. `admin_access.rs` checks access before them; `deploy` makes the changes.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::response::Response;
use axum::routing::{MethodRouter, get, post, put};
use jiff::Timestamp;

use super::context::Failure;
use super::json_answer::json;
use super::operator_request::{ModelPath, VersionPath, model_and_version, model_in_path, of_versions, read_change};
use super::{HttpState, console, console_data, docs, models, openapi, operations, rollouts, try_out, v2};
use crate::api::admin::{
    CompareQuery, ComparedVersion, Comparison, DriftQuery, History, HistoryQuery, ModelDrift, ModelDriftCounts,
    PromoteChange, RollbackChange, ShadowChange, TrafficChange, VersionDrift, VersionDriftCounts,
};
use crate::api::routes::AdminEndpoint;
use crate::deploy::{ChangeNote, ChangeRequest, Transition};
use crate::error::{Error, OperatorError, Result};
use crate::identity::{ModelName, Version};
use crate::monitor::{MAX_WINDOW, VersionSums, compare_versions};
use crate::pipeline::Object;
use crate::registry::ServedVersion;
use crate::traffic::{Shadow, Share, TrafficSplit};

type Answer = Result<Response, Failure>;

/// Maximum number of deployments in one response.
const MAX_HISTORY: u32 = 1_000;
/// Maximum of `wait_ms` of a change.
const MAX_WAIT: Duration = Duration::from_secs(600);

/// Returns the handler of an endpoint of the admin listener.
pub(super) fn handler(endpoint: AdminEndpoint, state: &Arc<HttpState>) -> MethodRouter<Arc<HttpState>> {
    match endpoint {
        AdminEndpoint::Index => get(operations::index),
        AdminEndpoint::OpenApi => get(openapi::admin),
        AdminEndpoint::Docs => get(docs::page),
        AdminEndpoint::Console => get(console::redirect),
        AdminEndpoint::Live => get(operations::live),
        AdminEndpoint::Ready => get(operations::ready),
        AdminEndpoint::Metrics => get(operations::metrics),
        AdminEndpoint::Models => get(list),
        AdminEndpoint::Model => get(show),
        AdminEndpoint::ModelSchema => get(models::show_schema),
        AdminEndpoint::Drift => get(drift),
        AdminEndpoint::DriftCounts => get(drift_counts),
        AdminEndpoint::Compare => get(compare),
        AdminEndpoint::DriftHistory => get(console_data::drift_history),
        AdminEndpoint::LiveStats => get(console_data::live),
        AdminEndpoint::Predictions => get(console_data::predictions),
        AdminEndpoint::Alerts => get(console_data::alerts),
        AdminEndpoint::History => get(history),
        AdminEndpoint::Rollout => get(rollouts::show),
        AdminEndpoint::StartRollout => post(rollouts::start),
        AdminEndpoint::Rollouts => get(rollouts::list),
        AdminEndpoint::PauseRollout => post(rollouts::pause),
        AdminEndpoint::ResumeRollout => post(rollouts::resume),
        AdminEndpoint::AbortRollout => post(rollouts::abort),
        AdminEndpoint::PromoteRollout => post(rollouts::promote),
        AdminEndpoint::Traffic => put(traffic),
        AdminEndpoint::Promote => post(promote),
        AdminEndpoint::Shadow => post(shadow),
        AdminEndpoint::Rollback => post(rollback),
        AdminEndpoint::Version => get(show_version),
        AdminEndpoint::VersionSchema => get(models::show_version_schema),
        AdminEndpoint::Try => try_out::handler(state),
        AdminEndpoint::Load => post(load),
        AdminEndpoint::Unload => post(unload),
        AdminEndpoint::Reload => post(reload),
        AdminEndpoint::RepositoryIndex => post(v2::repository::index_for_operators),
        AdminEndpoint::RepositoryLoad => post(v2::repository::load),
        AdminEndpoint::RepositoryUnload => post(v2::repository::unload),
    }
}

/// `GET /admin/v1/models`
pub(super) async fn list(State(state): State<Arc<HttpState>>) -> Answer {
    Ok(json(&state.deployer.overview())?)
}

/// `GET /admin/v1/models/{model}`
pub(super) async fn show(State(state): State<Arc<HttpState>>, path: ModelPath) -> Answer {
    Ok(json(&state.deployer.model(&model_in_path(path)?)?)?)
}

/// `GET /admin/v1/models/{model}/versions/{version}`
pub(super) async fn show_version(State(state): State<Arc<HttpState>>, path: VersionPath) -> Answer {
    let (model, version) = model_and_version(path)?;
    Ok(json(&state.deployer.version(&model, version)?)?)
}

/// `GET /admin/v1/models/{model}/history?limit=50&before=12`
pub(super) async fn history(
    State(state): State<Arc<HttpState>>,
    path: ModelPath,
    page: Result<Query<HistoryQuery>, QueryRejection>,
) -> Answer {
    let Query(HistoryQuery { limit, before }) =
        page.map_err(|error| Error::InvalidInput(format!("the query: {}", error.body_text())))?;
    if !(1..=MAX_HISTORY).contains(&limit) {
        return Err(Error::InvalidInput(format!("limit: found {limit}, expected 1 to {MAX_HISTORY}")).into());
    }
    let deployments = state.deployer.history(&model_in_path(path)?, before, limit).await?;
    Ok(json(&History { deployments })?)
}

/// `GET /admin/v1/models/{model}/drift?version=2&window_s=3600`
pub(super) async fn drift(
    State(state): State<Arc<HttpState>>,
    path: ModelPath,
    asked: Result<Query<DriftQuery>, QueryRejection>,
) -> Answer {
    let DriftOf { model, versions, window } = versions_and_window(&state, path, asked)?;
    let now = state.monitor.now();
    let report = move |served: &Arc<ServedVersion>| {
        let stats = served.recorder.stats(now, window);
        VersionDrift { version: served.version, baseline_rows: stats.baseline_rows, report: stats.drift }
    };
    let versions = of_versions(versions, report).await?;
    Ok(json(&ModelDrift { model, enabled: state.monitor.windows().enabled, versions })?)
}

/// `GET /admin/v1/models/{model}/drift/counts?version=2&window_s=3600`
pub(super) async fn drift_counts(
    State(state): State<Arc<HttpState>>,
    path: ModelPath,
    asked: Result<Query<DriftQuery>, QueryRejection>,
) -> Answer {
    let DriftOf { model, versions, window } = versions_and_window(&state, path, asked)?;
    let now = state.monitor.now();
    let count = move |served: &Arc<ServedVersion>| {
        let (baseline_rows, counts) = (served.recorder.baseline_rows(), served.recorder.drift_counts(now, window));
        VersionDriftCounts { version: served.version, baseline_rows, counts }
    };
    let versions = of_versions(versions, count).await?;
    Ok(json(&ModelDriftCounts { model, enabled: state.monitor.windows().enabled, versions })?)
}

/// `GET /admin/v1/models/{model}/compare?one=2&other=3`
pub(super) async fn compare(
    State(state): State<Arc<HttpState>>,
    path: ModelPath,
    asked: Result<Query<CompareQuery>, QueryRejection>,
) -> Answer {
    let model = model_in_path(path)?;
    let Query(CompareQuery { one, other }) =
        asked.map_err(|error| Error::InvalidInput(format!("the query: {}", error.body_text())))?;
    if one == other {
        let problem = format!("one and other: found version {one} twice, expected two versions");
        return Err(Error::InvalidInput(problem).into());
    }
    let snapshot = state.catalog.snapshot();
    let (_, served) = snapshot.model(model.as_str())?;
    let loaded = |version: Version| match served.versions.get(&version) {
        Some(found) => Ok(Arc::clone(found)),
        // Fails if the version does not exist at all.
        None => state.deployer.version(&model, version).and_then(|_| {
            let problem = "is not loaded, so nothing of it is counted; load it first";
            Err(Error::InvalidInput(format!("version {version} of model {model} {problem}")))
        }),
    };
    let versions = vec![loaded(one)?, loaded(other)?];
    let sums = of_versions(versions, |served: &Arc<ServedVersion>| (served.version, served.recorder.sums())).await?;
    let [(one, first), (other, second)] = &*sums else { return Err(Error::internal("not two versions").into()) };
    let compared = |version: Version, sums: &VersionSums| ComparedVersion { version, requests: sums.requests.clone() };
    let measures = compare_versions(first, second);
    Ok(json(&Comparison { model, one: compared(*one, first), other: compared(*other, second), measures })?)
}

/// Subject of a request for drift.
struct DriftOf {
    model: ModelName,
    /// The versions, the newest first.
    versions: Vec<Arc<ServedVersion>>,
    /// Length of the window; `None` for the configured one.
    window: Option<Duration>,
}

/// Returns the versions that a request for drift is about, and the length of its window.
fn versions_and_window(
    state: &HttpState,
    path: ModelPath,
    asked: Result<Query<DriftQuery>, QueryRejection>,
) -> Result<DriftOf, OperatorError> {
    let model = model_in_path(path)?;
    let Query(DriftQuery { version, window_s }) =
        asked.map_err(|error| Error::InvalidInput(format!("the query: {}", error.body_text())))?;
    let window = window_s.map(Duration::from_secs);
    if window.is_some_and(|window| window.is_zero() || window > MAX_WINDOW) {
        let longest = MAX_WINDOW.as_secs();
        return Err(Error::InvalidInput(format!("window_s: expected 1 to {longest} seconds")).into());
    }
    let snapshot = state.catalog.snapshot();
    let (_, served) = snapshot.model(model.as_str())?;
    if let Some(version) = version.filter(|version| !served.versions.contains_key(version)) {
        let known = served.versions.keys().map(Version::to_string).collect();
        return Err(Error::UnknownVersion { model, version: version.to_string(), known }.into());
    }
    let wanted =
        served.versions.values().rev().filter(|served| version.is_none_or(|version| served.version == version));
    let versions = wanted.cloned().collect();
    Ok(DriftOf { model, versions, window })
}

/// `PUT /admin/v1/models/{model}/traffic`
pub(super) async fn traffic(State(state): State<Arc<HttpState>>, path: ModelPath, request: Request) -> Answer {
    let model = model_in_path(path)?;
    let TrafficChange { shares: Object(shares), by, reason, if_generation, wait_ms } = read_change(request).await?;
    let split = TrafficSplit::new(shares).map_err(|error| Error::InvalidInput(format!("shares: {error}")))?;
    let (wish, note) = (Transition::Traffic(split), note(by, reason));
    change(&state, ChangeRequest { model, wish, note, if_generation }, wait_ms).await
}

/// `POST /admin/v1/models/{model}/promote`
pub(super) async fn promote(State(state): State<Arc<HttpState>>, path: ModelPath, request: Request) -> Answer {
    let model = model_in_path(path)?;
    let PromoteChange { version, by, reason, if_generation, wait_ms } = read_change(request).await?;
    let (wish, note) = (Transition::Promote(version), note(by, reason));
    change(&state, ChangeRequest { model, wish, note, if_generation }, wait_ms).await
}

/// `POST /admin/v1/models/{model}/shadow`
pub(super) async fn shadow(State(state): State<Arc<HttpState>>, path: ModelPath, request: Request) -> Answer {
    let model = model_in_path(path)?;
    let ShadowChange { version, percent, by, reason, if_generation, wait_ms } = read_change(request).await?;
    let shadow = match (percent, version) {
        (Share::NONE, _) => None,
        (percent, Some(version)) => Some(Shadow { version, percent }),
        (_, None) => {
            return Err(Error::InvalidInput("version: expected the version that gets the copies".into()).into());
        }
    };
    let (wish, note) = (Transition::Shadow(shadow), note(by, reason));
    change(&state, ChangeRequest { model, wish, note, if_generation }, wait_ms).await
}

/// `POST /admin/v1/models/{model}/rollback`
pub(super) async fn rollback(State(state): State<Arc<HttpState>>, path: ModelPath, request: Request) -> Answer {
    let model = model_in_path(path)?;
    let RollbackChange { by, reason, if_generation, wait_ms } = read_change(request).await?;
    let (wish, note) = (Transition::Rollback, note(by, reason));
    change(&state, ChangeRequest { model, wish, note, if_generation }, wait_ms).await
}

/// `POST /admin/v1/models/{model}/versions/{version}/load`
pub(super) async fn load(State(state): State<Arc<HttpState>>, path: VersionPath) -> Answer {
    let (model, version) = model_and_version(path)?;
    state.deployer.hold_loaded(&model, version).await?;
    Ok(json(&state.deployer.version(&model, version)?)?)
}

/// `POST /admin/v1/models/{model}/versions/{version}/unload`
pub(super) async fn unload(State(state): State<Arc<HttpState>>, path: VersionPath) -> Answer {
    let (model, version) = model_and_version(path)?;
    state.deployer.hold_unloaded(&model, version).await?;
    Ok(json(&state.deployer.version(&model, version)?)?)
}

/// `POST /admin/v1/reload`
pub(super) async fn reload(State(state): State<Arc<HttpState>>) -> Answer {
    state.deployer.reload().await;
    Ok(json(&state.deployer.overview())?)
}

/// Makes a change, and waits until it is in effect on all servers of the fleet, if that is asked for.
async fn change(state: &HttpState, request: ChangeRequest, wait_ms: Option<u64>) -> Answer {
    let timeout = wait_ms.map(Duration::from_millis);
    if timeout.is_some_and(|timeout| timeout > MAX_WAIT) {
        return Err(Error::InvalidInput(format!("wait_ms: expected at most {}", MAX_WAIT.as_millis())).into());
    }
    let mut outcome = state.deployer.change(request).await?;
    if let Some(timeout) = timeout {
        outcome.lagging = state.deployer.await_fleet(&outcome.deployment, timeout).await?;
    }
    Ok(json(&outcome)?)
}

/// Returns the note of a change for the history: its author, its reason and the current time.
fn note(by: String, reason: String) -> ChangeNote {
    let by = if by.is_empty() { "someone".to_owned() } else { by };
    ChangeNote { by, reason, at: Timestamp::now() }
}
