//! The handlers of the admin API that only the console uses. It asks them every few seconds, so they read counters and keep
//! nothing waiting; what takes longer runs on threads that may block.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use jiff::{SignedDuration, Timestamp};

use super::HttpState;
use super::context::Failure;
use super::json_answer::json;
use super::operator_request::{ModelPath, model_in_path, of_versions};
use crate::api::console::{
    Alerts, DriftMoment, ModelDriftHistory, ModelLive, ModelPredictions, VersionDriftHistory, VersionLive,
    VersionPredictions,
};
use crate::deploy::{AlertFacts, ExpiringCertificate, VersionFacts, alerts as find_alerts};
use crate::error::{Error, Result};
use crate::identity::ModelName;
use crate::registry::{ServedModel, ServedVersion, Snapshot};
use crate::traffic::Share;

type Answer = Result<Response, Failure>;

/// Returns the model that a path names, with its versions.
fn served<'a>(snapshot: &'a Snapshot, path: ModelPath) -> Result<(ModelName, &'a ServedModel)> {
    let model = model_in_path(path)?;
    let (_, served) = snapshot.model(model.as_str())?;
    Ok((model, served))
}

/// Returns the versions of a model, the newest first.
fn newest_first(served: &ServedModel) -> Vec<Arc<ServedVersion>> {
    served.versions.values().rev().cloned().collect()
}

/// `GET /admin/v1/models/{model}/live`
pub(super) async fn live(State(state): State<Arc<HttpState>>, path: ModelPath) -> Answer {
    let (snapshot, now, at) = (state.catalog.snapshot(), state.monitor.now(), Timestamp::now());
    let (model, served) = served(&snapshot, path)?;
    let version = |found: Arc<ServedVersion>| VersionLive {
        version: found.version,
        stable: found.version == served.stable,
        traffic_percent: served.split.share(found.version),
        uptime_s: at.duration_since(found.loaded_at).max(SignedDuration::ZERO).as_secs_f64(),
        stats: found.recorder.live(now),
    };
    let versions = newest_first(served).into_iter().map(version).collect();
    let window_s = state.monitor.windows().quantiles.as_secs_f64();
    Ok(json(&ModelLive { model, at, window_s, versions })?)
}

/// `GET /admin/v1/models/{model}/predictions`
pub(super) async fn predictions(State(state): State<Arc<HttpState>>, path: ModelPath) -> Answer {
    let (snapshot, now, at) = (state.catalog.snapshot(), state.monitor.now(), Timestamp::now());
    let (model, served) = served(&snapshot, path)?;
    let read = move |found: &Arc<ServedVersion>| VersionPredictions {
        version: found.version,
        stats: found.recorder.prediction_stats(now),
    };
    let versions = of_versions(newest_first(served), read).await?;
    Ok(json(&ModelPredictions { model, at, enabled: state.monitor.windows().enabled, versions })?)
}

/// `GET /admin/v1/models/{model}/drift/history`
pub(super) async fn drift_history(State(state): State<Arc<HttpState>>, path: ModelPath) -> Answer {
    let (snapshot, now, at) = (state.catalog.snapshot(), state.monitor.now(), Timestamp::now());
    let (model, served) = served(&snapshot, path)?;
    let read = move |found: &Arc<ServedVersion>| {
        let points = found.recorder.drift_history(now).into_iter().map(|point| DriftMoment {
            at: at.checked_sub(now.saturating_sub(point.at)).unwrap_or(at),
            drift: point.drift,
        });
        VersionDriftHistory { version: found.version, points: points.collect() }
    };
    let versions = of_versions(newest_first(served), read).await?;
    Ok(json(&ModelDriftHistory { model, versions })?)
}

/// `GET /admin/v1/alerts`
pub(super) async fn alerts(State(state): State<Arc<HttpState>>) -> Answer {
    let now = state.monitor.now();
    let stuck = |served: &Arc<ServedVersion>| served.is_stuck(state.health.stuck_after(served.budget.total));
    let mut versions: Vec<(Arc<ServedVersion>, Share, bool)> = Vec::new();
    for served in state.catalog.snapshot().models().values() {
        let of_model = served.versions.values();
        versions
            .extend(of_model.map(|version| (Arc::clone(version), served.split.share(version.version), stuck(version))));
    }
    let facts = move || {
        let facts = |(served, traffic, is_stuck): (Arc<ServedVersion>, Share, bool)| VersionFacts {
            model: served.model.clone(),
            version: served.version,
            traffic,
            is_stuck,
            stats: served.recorder.attention(now),
        };
        versions.into_iter().map(facts).collect()
    };
    // A verdict on a thousand features takes longer than an answer of others should wait.
    let versions = tokio::task::spawn_blocking(facts).await.map_err(Error::internal)?;
    let expiry = |(listener, at): (&'static str, i64)| {
        Timestamp::from_second(at).ok().map(|at| ExpiringCertificate { listener, at })
    };
    let facts = AlertFacts {
        at: Timestamp::now(),
        overview: state.deployer.overview(),
        is_ready: state.readiness.is_ready(),
        certificates: state.monitor.server().certificate_expiries().into_iter().filter_map(expiry).collect(),
        versions,
        // Without the state there are none to show. The overview has that problem.
        rollouts: state.rollouts.latest_of_all().await.unwrap_or_default(),
    };
    Ok(json(&Alerts { at: facts.at, alerts: find_alerts(&facts) })?)
}
