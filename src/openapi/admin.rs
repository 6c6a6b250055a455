//! The document of the admin listener.

use serde_json::{Map, Value, json};

use super::document::Document;
use super::operation::Operation;
use super::predictions::{prediction, with_answer};
use super::wire_types::WireTypes;
use crate::api::admin::{
    ChangeOutcome, CompareQuery, Comparison, DriftQuery, History, HistoryQuery, ModelDrift, ModelDriftCounts,
    ModelStatus, Overview, PromoteChange, RollbackChange, ShadowChange, TrafficChange, VersionStatus,
};
use crate::api::console::{Alerts, ModelDriftHistory, ModelLive, ModelPredictions};
use crate::api::health::{Index, Live, Ready};
use crate::api::rollout::{Rollout, RolloutIntervention, RolloutRequest, Rollouts, RolloutsQuery};
use crate::api::routes::AdminEndpoint;
use crate::api::schema::{ModelSchema, PredictionAnswer, PredictionRequest};
use crate::api::v2;

const TAGS: &[(&str, &str)] = &[
    ("models", "The models and their versions."),
    ("changes", "Changes of what is served."),
    ("server", "The server itself."),
];

/// Statuses of a request without access, of any endpoint of the admin API.
const WITHOUT_ACCESS: [u16; 2] = [401, 403];

/// Statuses of a change that was refused or not made.
const OF_CHANGES: [u16; 8] = [404, 408, 409, 413, 415, 422, 503, 504];

/// Returns the OpenAPI document of the admin listener. `has_token` is true if operators need a token.
pub fn admin(has_token: bool) -> Value {
    let (mut types, mut paths) = (WireTypes::new(), Map::new());
    for endpoint in AdminEndpoint::ALL {
        let operation = operation(*endpoint, &mut types, has_token);
        operation.add_to(&mut paths, (endpoint.method(), endpoint.path(), endpoint.purpose()));
    }
    let description = "For operators: status, deployments, traffic and drift. Every change needs the header Content-Type: \
                       application/json. Later versions may add members to responses.";
    let token = json!({ "type": "http", "scheme": "bearer", "description": "The token in admin.token." });
    let mut document = Document {
        title: "Leeway admin API",
        description: description.to_owned(),
        tags: TAGS,
        paths,
        types,
        schemas: Map::new(),
        credentials: if has_token { Map::from_iter([("adminToken".to_owned(), token)]) } else { Map::new() },
        security: None,
    }
    .finish();
    // The page at /docs sends nothing to this listener.
    document["x-read-only"] = true.into();
    document
}

/// Returns the documentation of an endpoint.
///
/// Length: a table.
fn operation(endpoint: AdminEndpoint, types: &mut WireTypes, has_token: bool) -> Operation {
    let server = |id: &str| Operation::new(id, "server");
    let of_api = |id: &str, tag: &'static str| {
        let operation = Operation::new(id, tag).fails(&WITHOUT_ACCESS);
        if has_token { operation.needs_token() } else { operation }
    };
    let status = |id: &str| of_api(id, "models").fails(&[404]);
    let try_out = |id: &str| {
        let operation = prediction(id).tag("models").fails(&WITHOUT_ACCESS);
        if has_token { operation.needs_token() } else { operation }
    };
    let change = |id: &str| of_api(id, "changes").fails(&OF_CHANGES);
    match endpoint {
        AdminEndpoint::Index => server("getIndex").answers("The endpoints.", types.response::<Index>()),
        AdminEndpoint::OpenApi => server("getOpenApi")
            .responds(200, "The document.", Some(("application/json", json!({ "type": "object" }))), &["ETag"])
            .responds(304, "The document has not changed.", None, &["ETag"]),
        AdminEndpoint::Docs => server("getDocs")
            .responds(200, "The page.", Some(("text/html", json!({ "type": "string" }))), &["ETag"])
            .responds(304, "The page has not changed.", None, &["ETag"]),
        AdminEndpoint::Console => server("getConsole")
            .responds(
                200,
                "The page, after the redirection.",
                Some(("text/html", json!({ "type": "string" }))),
                &["ETag"],
            )
            .responds(303, "The page is at /console/.", None, &["Location"]),
        AdminEndpoint::Live => server("isLive").answers("The server is alive.", types.response::<Live>()).fails(&[503]),
        AdminEndpoint::Ready => {
            server("isReady").answers("The server is ready.", types.response::<Ready>()).fails(&[503])
        }
        AdminEndpoint::Metrics => server("getMetrics").responds(
            200,
            "The metrics, in Prometheus' text format.",
            Some(("text/plain", json!({ "type": "string" }))),
            &[],
        ),
        AdminEndpoint::Models => {
            of_api("listModels", "models").answers("Status of all models.", types.response::<Overview>())
        }
        AdminEndpoint::Model => status("getModel").answers("Status of the model.", types.response::<ModelStatus>()),
        AdminEndpoint::ModelSchema => status("getModelSchema")
            .answers("The schemas of the stable version.", types.response::<ModelSchema>())
            .fails(&[503]),
        AdminEndpoint::Version => {
            status("getVersion").answers("Status of the version.", types.response::<VersionStatus>())
        }
        AdminEndpoint::VersionSchema => status("getVersionSchema")
            .answers("The schemas of the version.", types.response::<ModelSchema>())
            .fails(&[503]),
        AdminEndpoint::DriftCounts => status("getDriftCounts")
            .query(types.query::<DriftQuery>())
            .answers("Counts of the loaded versions.", types.response::<ModelDriftCounts>())
            .fails(&[503]),
        AdminEndpoint::Drift => status("getDrift")
            .query(types.query::<DriftQuery>())
            .answers("Drift of the loaded versions.", types.response::<ModelDrift>())
            .fails(&[503]),
        AdminEndpoint::Compare => status("compareVersions")
            .query(types.query::<CompareQuery>())
            .answers("The comparison.", types.response::<Comparison>())
            .fails(&[503]),
        AdminEndpoint::DriftHistory => status("getDriftHistory")
            .answers("Drift of the loaded versions.", types.response::<ModelDriftHistory>())
            .fails(&[503]),
        AdminEndpoint::LiveStats => status("getLive")
            .answers("The numbers of the loaded versions.", types.response::<ModelLive>())
            .fails(&[503]),
        AdminEndpoint::Predictions => status("getPredictions")
            .answers("The predictions of the loaded versions.", types.response::<ModelPredictions>())
            .fails(&[503]),
        AdminEndpoint::Alerts => {
            of_api("getAlerts", "server").answers("The alerts, the most severe first.", types.response::<Alerts>())
        }
        AdminEndpoint::History => status("getHistory")
            .query(types.query::<HistoryQuery>())
            .answers("Deployments, the newest first.", types.response::<History>())
            .fails(&[503]),
        AdminEndpoint::Rollout => {
            status("getRollout").answers("The rollout.", types.response::<Rollout>()).fails(&[503])
        }
        AdminEndpoint::Rollouts => status("listRollouts")
            .query(types.query::<RolloutsQuery>())
            .answers("The rollouts, the newest first.", types.response::<Rollouts>())
            .fails(&[503]),
        AdminEndpoint::StartRollout => change("startRollout")
            .body(
                types.request::<RolloutRequest>(),
                Some(json!({ "version": 2, "steps": [10, 100], "reason": "an example" })),
            )
            .answers("The rollout.", types.response::<Rollout>()),
        AdminEndpoint::PauseRollout => intervention(change("pauseRollout"), types),
        AdminEndpoint::ResumeRollout => intervention(change("resumeRollout"), types),
        AdminEndpoint::AbortRollout => intervention(change("abortRollout"), types),
        AdminEndpoint::PromoteRollout => intervention(change("promoteRollout"), types),
        AdminEndpoint::Traffic => change("setTraffic")
            .body(types.request::<TrafficChange>(), Some(json!({ "shares": { "1": 100 }, "reason": "an example" })))
            .answers("The deployment after the change.", types.response::<ChangeOutcome>()),
        AdminEndpoint::Promote => change("promote")
            .body(types.request::<PromoteChange>(), Some(json!({ "version": 1, "reason": "an example" })))
            .answers("The deployment after the change.", types.response::<ChangeOutcome>()),
        AdminEndpoint::Shadow => change("setShadow")
            .body(types.request::<ShadowChange>(), Some(json!({ "version": 3, "percent": 20, "reason": "an example" })))
            .answers("The deployment after the change.", types.response::<ChangeOutcome>()),
        AdminEndpoint::Rollback => change("rollBack")
            .body(types.request::<RollbackChange>(), Some(json!({ "reason": "an example" })))
            .answers("The deployment after the change.", types.response::<ChangeOutcome>()),
        AdminEndpoint::Try => with_answer(
            try_out("tryVersion").body(types.request::<PredictionRequest>(), None),
            types.response::<PredictionAnswer>(),
        ),
        AdminEndpoint::Load => change("loadVersion")
            .body(json!({}), Some(json!({})))
            .answers("Status of the version.", types.response::<VersionStatus>()),
        AdminEndpoint::Unload => change("unloadVersion")
            .body(json!({}), Some(json!({})))
            .answers("Status of the version.", types.response::<VersionStatus>()),
        AdminEndpoint::Reload => change("reload")
            .body(json!({}), Some(json!({})))
            .answers("Status of all models.", types.response::<Overview>()),
        AdminEndpoint::RepositoryIndex => change("v2RepositoryIndex")
            .body(types.request::<v2::IndexRequest>(), Some(json!({ "ready": true })))
            .answers("The versions.", types.response::<Vec<v2::IndexEntry>>()),
        AdminEndpoint::RepositoryLoad => change("v2LoadModel")
            .body(types.request::<v2::LoadRequest>(), Some(json!({})))
            .answers("The model is loaded.", json!({ "type": "object" })),
        AdminEndpoint::RepositoryUnload => change("v2UnloadModel")
            .body(types.request::<v2::UnloadRequest>(), Some(json!({})))
            .answers("The model is unloaded.", json!({ "type": "object" })),
    }
}

/// Returns the documentation of an endpoint that handles a rollout.
fn intervention(operation: Operation, types: &mut WireTypes) -> Operation {
    operation
        .body(types.request::<RolloutIntervention>(), Some(json!({ "reason": "an example" })))
        .answers("The rollout.", types.response::<Rollout>())
}
