//! The requests and responses of the admin API.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ignore_unknown_members;
use super::time::Time;
use crate::config::SessionPlace;
use crate::error::LoadFault;
use crate::identity::{ModelName, Sha256, Version};
use crate::model::BatchingStatus;
use crate::monitor::{ComparedMeasure, DriftCounts, DriftReport, Outcome};
use crate::pipeline::Object;
use crate::registry::LoadStep;
use crate::repository::Manifest;
use crate::traffic::{Shadow, Share, TrafficSplit};

// ===== status =====

/// Status of all models of the server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Overview {
    /// Status of each model, by name.
    pub models: Vec<ModelStatus>,
    /// Problems with the journal, and with folders in the repository that are not models.
    pub problems: Vec<String>,
    /// Descriptions of the versions that are being loaded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loading: Vec<String>,
    /// The servers that share the state of this one, itself included, as of their last reports. Empty if no other server
    /// can share its state.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replicas: Vec<Replica>,
}

/// Report of a server about itself, for the servers that share its state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Replica {
    /// Identifier of the process.
    pub id: String,
    /// Name of the machine or the container, and the port of the admin listener.
    pub name: String,
    /// Version of Leeway.
    pub leeway: String,
    /// Start of the process.
    #[schemars(with = "Time")]
    pub started_at: Timestamp,
    /// Time since the report, in seconds.
    #[serde(default)]
    pub age_s: f64,
    /// The deployments that are in effect.
    pub models: BTreeMap<ModelName, ReplicaModel>,
}

/// The deployment of a model that is in effect on a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReplicaModel {
    /// Generation of the deployment.
    pub generation: u64,
    /// The reason why the model is not served, or why a newer deployment is not in effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A server on which a deployment is not in effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LaggingReplica {
    /// Name of the server.
    pub name: String,
    /// Generation of the deployment that is in effect there; absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// The problem, if the server has reported one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl Replica {
    /// Returns the reports in these texts, each with its age in seconds. A report that cannot be read is of another version
    /// of Leeway, and is left out.
    pub fn from_reports(reports: Vec<(String, f64)>) -> Vec<Replica> {
        let read = |(text, age_s): (String, f64)| {
            let report: Replica = serde_json::from_str(&text).ok()?;
            Some(Replica { age_s: age_s.max(0.0), ..report })
        };
        let mut replicas: Vec<Replica> = reports.into_iter().filter_map(read).collect();
        replicas.sort_by(|one, other| (&one.name, &one.id).cmp(&(&other.name, &other.id)));
        replicas
    }

    /// Returns the server as a lagging one, unless this generation of a model or a later one is in effect on it.
    ///
    /// ```
    /// use leeway::api::admin::{Replica, ReplicaModel};
    /// let digits: leeway::identity::ModelName = "digits".parse().unwrap();
    /// let replica = Replica {
    ///     id: "1".into(), name: "a:8081".into(), leeway: "0.1.0".into(), started_at: jiff::Timestamp::UNIX_EPOCH, age_s: 0.0,
    ///     models: [(digits.clone(), ReplicaModel { generation: 7, problem: None })].into(),
    /// };
    /// assert!(replica.lagging(&digits, 7).is_none());
    /// assert_eq!(replica.lagging(&digits, 8).unwrap().generation, Some(7));
    /// ```
    pub fn lagging(&self, model: &ModelName, generation: u64) -> Option<LaggingReplica> {
        let known = self.models.get(model);
        if known.is_some_and(|known| known.generation >= generation) {
            return None;
        }
        Some(LaggingReplica {
            name: self.name.clone(),
            generation: known.map(|known| known.generation),
            problem: known.and_then(|known| known.problem.clone()),
        })
    }
}

/// Status of a model, with its deployment and its versions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModelStatus {
    /// Name of the model.
    pub model: ModelName,
    /// The reason why the model is not served; absent if it is served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unserved: Option<String>,
    /// Current deployment of the model.
    pub deployment: Deployment,
    /// Problem with the model's `model.toml`. The last valid `model.toml` is in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_problem: Option<String>,
    /// Problem with a newer deployment in the journal, which could not be applied yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment_problem: Option<String>,
    /// The reason why the deployment is not in the journal yet; absent once it is in the journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unwritten: Option<String>,
    /// Versions of the model, the newest first.
    pub versions: Vec<VersionStatus>,
}

/// Status of a version of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VersionStatus {
    /// Number of the version.
    pub version: Version,
    /// State of the version.
    #[serde(flatten)]
    pub state: VersionState,
    /// True if it is the stable version.
    pub stable: bool,
    /// Share of the requests that name no version, in percent.
    pub traffic_percent: Share,
    /// Time since which the version has had a share of the traffic without a break.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Time>")]
    pub deployed_at: Option<Timestamp>,
    /// Time at which the version was loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Time>")]
    pub loaded_at: Option<Timestamp>,
    /// Duration of the load, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_ms: Option<u64>,
    /// The process that runs the version's sessions, if it is not the server's own process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<SessionPlace>,
    /// Sharing of runs between requests: on or off, with the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batching: Option<BatchingStatus>,
    /// Assumptions about the version, and possible mistakes in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
    /// Digest of all files of the version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha256>,
    /// The reason why the version could not be reloaded with a changed `model.toml`. It is still served with the
    /// previous `model.toml`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reload_problem: Option<String>,
    /// Difference between the version's files on disk and its loaded files, if they were changed after the load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub altered: Option<String>,
    /// Manifest of the version.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "ignore_unknown_members::optional")]
    pub manifest: Option<Arc<Manifest>>,
}

/// State of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum VersionState {
    /// On disk, but not in memory.
    Available,
    /// Being loaded.
    Loading {
        /// Progress of the load.
        step: LoadStep,
        /// Start of the load.
        #[schemars(with = "Time")]
        since: Timestamp,
    },
    /// Loaded, and able to answer requests.
    Loaded,
    /// Not served, because of a problem.
    Refused {
        /// Kind of the problem.
        fault: LoadFault,
        /// The problem, and its remedy.
        problem: String,
    },
}

// ===== deployments =====

/// Deployment of a model: one entry of its history, in responses and in the journal. `deploy/deployment.rs` computes
/// the next deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Deployment {
    /// The model.
    pub model: ModelName,
    /// Number of the deployment: 1 for the first one, and one more for each change.
    pub generation: u64,
    /// The stable version.
    pub stable: Version,
    /// Shares of the versions in the requests that name no version.
    pub traffic: TrafficSplit,
    /// Shadow traffic: the version that gets copies of requests; absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Shadow>,
    /// The earlier stable versions, to which rollbacks return, the most recent last.
    pub rollback_path: Vec<Version>,
    /// Digest of the `deployment.toml` that led to this deployment, or to the one that a rollback returned from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<Sha256>,
    /// Time since which each version has had a share of the traffic without a break.
    #[schemars(with = "BTreeMap<Version, Time>")]
    pub deployed_at: BTreeMap<Version, Timestamp>,
    /// The change that led to this deployment.
    #[serde(flatten)]
    pub change: Change,
}

/// The change that led to a deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Change {
    /// Kind of the change.
    pub action: Action,
    /// Author of the change.
    pub by: String,
    /// Reason for the change.
    pub reason: String,
    /// Time of the change.
    #[schemars(with = "Time")]
    pub at: Timestamp,
}

/// Kind of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The model was seen for the first time.
    Discover,
    /// The traffic split was changed.
    Traffic,
    /// A version was made the stable one.
    Promote,
    /// The model went back to the stable version, or to the one before it.
    Rollback,
    /// The `deployment.toml` of the model was changed.
    File,
    /// Shadow traffic was begun, changed or ended.
    Shadow,
}

/// Response with past deployments of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct History {
    /// The deployments, the newest first.
    pub deployments: Vec<Deployment>,
}

/// Query parameters of a request for the history of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HistoryQuery {
    /// Maximum number of deployments in the response.
    #[schemars(range(min = 1, max = 1000))]
    pub limit: u32,
    /// Generation before which the deployments are returned.
    pub before: u64,
}

impl Action {
    /// Returns the name of the action in the journal, in metrics and in the API.
    pub fn name(self) -> &'static str {
        match self {
            Action::Discover => "discover",
            Action::Traffic => "traffic",
            Action::Promote => "promote",
            Action::Rollback => "rollback",
            Action::File => "file",
            Action::Shadow => "shadow",
        }
    }
}

impl Default for HistoryQuery {
    fn default() -> HistoryQuery {
        HistoryQuery { limit: 50, before: u64::MAX }
    }
}

// ===== changes =====

/// Declares the request body of a change: its own members, and the members that every change has. The common members
/// are not a flattened struct, because `serde` does not refuse unknown members of flattened structs.
macro_rules! change {
    ($(#[$doc:meta])* $change:ident { $($(#[$member_doc:meta])* $member:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $change {
            $($(#[$member_doc])* pub $member: $type,)*
            /// Author of the change, for the history.
            #[serde(default)]
            pub by: String,
            /// Reason for the change, for the history.
            #[serde(default)]
            pub reason: String,
            /// The generation that the change is based on. The change is refused if another generation is current.
            pub if_generation: Option<u64>,
            /// Time to wait until the change is in effect on all servers that share the state, in milliseconds.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[schemars(range(max = 600_000))]
            pub wait_ms: Option<u64>,
        }
    };
}

change! {
    /// Request body of a new traffic split.
    TrafficChange {
        /// Shares in percent, by version.
        shares: Object<BTreeMap<Version, Share>>,
    }
}

change! {
    /// Request body of a promotion, which makes a version the stable one.
    PromoteChange {
        /// The new stable version.
        version: Version,
    }
}

change! {
    /// Request body of a change of the shadow traffic.
    ShadowChange {
        /// The version that gets copies of requests. Not needed to end shadow traffic.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<Version>,
        /// Share of the stable version's requests that are copied, in percent; 0 ends shadow traffic.
        percent: Share,
    }
}

change! {
    /// Request body of a rollback.
    RollbackChange {}
}

/// Result of a change of a deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChangeOutcome {
    /// True if the deployment was changed; false if it was already as requested.
    pub changed: bool,
    /// Current deployment, after the change.
    pub deployment: Deployment,
    /// Shares of the versions before the change, in percent.
    pub before: TrafficSplit,
    /// The reason why the deployment is not in the journal yet. A rollback takes effect anyway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unwritten: Option<String>,
    /// The servers on which the change was not in effect at the end of `wait_ms`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lagging: Vec<LaggingReplica>,
}

// ===== drift =====

/// Drift of the loaded versions of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModelDrift {
    /// The model.
    pub model: ModelName,
    /// True if monitoring is on.
    pub enabled: bool,
    /// Loaded versions of the model, the newest first.
    pub versions: Vec<VersionDrift>,
}

/// Drift of a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VersionDrift {
    /// Number of the version.
    pub version: Version,
    /// Number of rows of training data in the version's baseline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline_rows: Option<u64>,
    /// Comparison of the version's window with its baseline.
    #[serde(flatten)]
    pub report: DriftReport,
}

/// Counts of the loaded versions of a model, from which the drift of a fleet is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModelDriftCounts {
    /// The model.
    pub model: ModelName,
    /// True if monitoring is on.
    pub enabled: bool,
    /// Loaded versions of the model, the newest first.
    pub versions: Vec<VersionDriftCounts>,
}

/// Counts of a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VersionDriftCounts {
    /// Number of the version.
    pub version: Version,
    /// Number of rows of training data in the version's baseline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline_rows: Option<u64>,
    /// The counts of the version's window.
    #[serde(flatten)]
    pub counts: DriftCounts,
}

// ===== comparisons =====

/// Comparison of two loaded versions of a model, by what this server has counted since each was loaded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Comparison {
    /// The model.
    pub model: ModelName,
    /// The first version.
    pub one: ComparedVersion,
    /// The second version, which the findings are about.
    pub other: ComparedVersion,
    /// The measures.
    pub measures: Vec<ComparedMeasure>,
}

/// A version in a comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ComparedVersion {
    /// Number of the version.
    pub version: Version,
    /// Requests since the version was loaded, by outcome.
    pub requests: BTreeMap<Outcome, u64>,
}

/// Query parameters of a request for a comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CompareQuery {
    /// The first version.
    pub one: Version,
    /// The second version, which the findings are about.
    pub other: Version,
}

/// Query parameters of a request for the drift of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DriftQuery {
    /// Version whose drift is returned; all loaded versions if it is absent.
    pub version: Option<Version>,
    /// Length of the window whose drift is returned, in seconds.
    #[schemars(range(min = 1, max = 604_800))]
    pub window_s: Option<u64>,
}
