//! What operators are shown of models, versions and deployments.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use super::deployment::Deployment;
use crate::config::SessionPlace;
use crate::error::LoadFault;
use crate::identity::{ModelName, Sha256, Version};
use crate::model::BatchingStatus;
use crate::registry::{LoadStep, Manifest};
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
    /// What is deployed of it.
    pub deployment: Deployment,
    /// What is wrong with its `model.toml`, of which the last good one is in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_problem: Option<String>,
    /// What is wrong with a newer deployment in the journal, which could not be taken over yet.
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
    /// What has become of it.
    #[serde(flatten)]
    pub state: VersionState,
    /// Whether it is the stable version.
    pub stable: bool,
    /// The share of the requests that it gets where no version is named, in percent.
    pub traffic_percent: Share,
    /// Since when it has had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployed_at: Option<Timestamp>,
    /// When it was loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loaded_at: Option<Timestamp>,
    /// How long that took, in milliseconds.
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
    /// Why it could not be loaded anew with a changed `model.toml`; it goes on with the one before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reload_problem: Option<String>,
    /// How its files on disk differ from those that are loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub altered: Option<String>,
    /// Its manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Arc<Manifest>>,
}

/// What has become of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum VersionState {
    /// It is on disk, and not in memory.
    Available,
    /// It is being loaded.
    Loading {
        /// How far it is.
        step: LoadStep,
        /// Since when.
        since: Timestamp,
    },
    /// It answers requests.
    Loaded,
    /// It was refused.
    Refused {
        /// What kind of thing is wrong.
        fault: LoadFault,
        /// What is wrong, and what to change.
        problem: String,
    },
}

/// What came of a change.
#[derive(Debug, Serialize)]
pub struct Deployed {
    /// Whether anything had to be changed.
    pub changed: bool,
    /// What is deployed now.
    pub deployment: Deployment,
    /// The shares before, in percent.
    pub before: BTreeMap<Version, Share>,
    /// The reason why the deployment is not in the journal yet. A rollback takes effect anyway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unwritten: Option<String>,
}
