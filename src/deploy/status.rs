//! Status of models, versions and deployments, for operators.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use super::deployment::Deployment;
use crate::config::SessionPlace;
use crate::error::LoadFault;
use crate::identity::{ModelName, Sha256, Version};
use crate::model::BatchingStatus;
use crate::registry::LoadStep;
use crate::repository::Manifest;
use crate::traffic::Share;

/// All models.
#[derive(Debug, Serialize)]
pub struct Overview {
    /// The models, by name.
    pub models: Vec<ModelStatus>,
    /// Problems with the journal, and with folders in the repository that are no models.
    pub problems: Vec<String>,
    /// The versions that are being loaded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub loading: Vec<String>,
}

/// A model.
#[derive(Debug, Serialize)]
pub struct ModelStatus {
    /// Its name.
    pub model: ModelName,
    /// The reason why the model is not served, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unserved: Option<String>,
    /// Its deployment.
    pub deployment: Deployment,
    /// The problem with its `model.toml`. The last valid one is in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_problem: Option<String>,
    /// The problem with a newer deployment in the journal, which could not be taken over yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployment_problem: Option<String>,
    /// The reason why the deployment is not in the journal yet, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unwritten: Option<String>,
    /// Its versions, the newest first.
    pub versions: Vec<VersionStatus>,
}

/// A version.
#[derive(Debug, Serialize)]
pub struct VersionStatus {
    /// Its number.
    pub version: Version,
    /// Its state.
    #[serde(flatten)]
    pub state: VersionState,
    /// True if it is the stable version.
    pub stable: bool,
    /// The share of the requests that it gets where no version is named, in percent.
    pub traffic_percent: Share,
    /// Since when it has had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployed_at: Option<Timestamp>,
    /// Time at which it was loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loaded_at: Option<Timestamp>,
    /// Duration of the load, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_ms: Option<u64>,
    /// Place of its sessions, if that is not the server's own process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions: Option<SessionPlace>,
    /// Sharing of runs, and the finding behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batching: Option<BatchingStatus>,
    /// Its assumptions, and things that look like mistakes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
    /// The digest of all its files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha256>,
    /// The reason why it could not be reloaded with a changed `model.toml`; it serves on with the one before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reload_problem: Option<String>,
    /// Difference between its files on disk and those that were loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub altered: Option<String>,
    /// Its manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Arc<Manifest>>,
}

/// State of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum VersionState {
    /// It is on disk, and not in memory.
    Available,
    /// It is being loaded.
    Loading {
        /// Progress of the load.
        step: LoadStep,
        /// Since when.
        since: Timestamp,
    },
    /// It answers requests.
    Loaded,
    /// It was refused.
    Refused {
        /// Kind of the problem.
        fault: LoadFault,
        /// The problem, and its remedy.
        problem: String,
    },
}

/// Result of a change.
#[derive(Debug, Serialize)]
pub struct ChangeOutcome {
    /// True if anything had to be changed.
    pub changed: bool,
    /// The deployment now.
    pub deployment: Deployment,
    /// The shares before, in percent.
    pub before: BTreeMap<Version, Share>,
    /// The reason why the deployment is not in the journal yet. A rollback takes effect anyway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unwritten: Option<String>,
}
