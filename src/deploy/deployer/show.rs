//! Status for operators, from memory only, so that a slow disk does not delay it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Deployer;
use super::state::{ModelState, Unserved, VersionRecord};
use crate::api::admin::{Deployment, ModelStatus, Overview, VersionStatus};
use crate::config::SessionPlace;
use crate::error::{OperatorError, Result};
use crate::identity::{ModelName, Version};
use crate::registry::{Findings, ServedVersion};

impl Deployer {
    /// Returns the current status of all models.
    pub fn overview(&self) -> Overview {
        let state = self.state.lock();
        let loading = |(name, model): (&ModelName, &ModelState)| -> Vec<String> {
            model.loads().map(|(version, _)| format!("{name} version {version}")).collect()
        };
        Overview {
            loading: state.models.iter().flat_map(loading).collect(),
            models: state.models.iter().map(|(name, model)| status(model, state.why_unserved(name))).collect(),
            problems: state.problems.texts(),
            replicas: self.membership.known(),
        }
    }

    /// Returns the current status of a model.
    pub fn model(&self, name: &ModelName) -> Result<ModelStatus> {
        let mut state = self.state.lock();
        let unserved = state.why_unserved(name);
        state.model(name).map(|model| status(model, unserved))
    }

    /// Returns the current status of a version.
    pub fn version(&self, name: &ModelName, version: Version) -> Result<VersionStatus> {
        let mut state = self.state.lock();
        let model = state.model(name)?;
        let is_known = model.is_on_disk(version) || model.versions.contains_key(&version);
        if is_known { Ok(version_status(model, version)) } else { Err(model.unknown(version)) }
    }

    /// Returns the deployments of a model before this generation, the newest first.
    pub async fn history(&self, name: &ModelName, before: u64, limit: u32) -> Result<Vec<Deployment>, OperatorError> {
        self.deployment(name)?;
        self.journal.history(name, before, limit).await.map_err(|error| self.journal_failed(error))
    }
}

fn status(model: &ModelState, unserved: Option<Unserved>) -> ModelStatus {
    let versions: BTreeSet<Version> = model.on_disk.versions.keys().chain(model.versions.keys()).copied().collect();
    ModelStatus {
        model: model.on_disk.name.clone(),
        unserved: unserved.map(|why| why.reason),
        deployment: model.deployment.clone(),
        config_problem: model.on_disk.config.as_ref().err().map(ToString::to_string),
        deployment_problem: model.deployment_problem.clone().or_else(|| model.difference_from_file()),
        unwritten: model.unwritten.shown(),
        versions: versions.into_iter().rev().map(|version| version_status(model, version)).collect(),
    }
}

fn version_status(model: &ModelState, version: Version) -> VersionStatus {
    let nothing = VersionRecord::default();
    let VersionRecord { lifecycle, .. } = model.versions.get(&version).unwrap_or(&nothing);
    let served = lifecycle.served();
    // The manifest of a version that is not loaded, as of the last sync. It is not verified.
    let on_disk = || model.on_disk.versions.get(&version).and_then(|found| found.manifest.clone());
    let manifest = served.map(|served| Arc::clone(&served.manifest)).or_else(on_disk);
    VersionStatus {
        version,
        state: lifecycle.shown(),
        stable: version == model.deployment.stable,
        traffic_percent: model.deployment.traffic.share(version),
        deployed_at: model.deployment.deployed_at.get(&version).copied(),
        loaded_at: served.map(|served| served.loaded_at),
        load_ms: served.map(|served| u64::try_from(served.load_took.as_millis()).unwrap_or(u64::MAX)),
        sessions: served.map(|served| served.place).filter(|place| *place != SessionPlace::Server),
        batching: served.and_then(|served| Some(served.pipeline()?.model.sharing().status())),
        remarks: served.map(|served| remarks(served)).unwrap_or_default(),
        sha256: served.map(|served| served.sha256).or_else(|| manifest.as_ref().map(|manifest| manifest.identity())),
        reload_problem: lifecycle.failure().filter(|_| served.is_some()).map(|failure| failure.problem.clone()),
        altered: model.altered(version).cloned(),
        manifest,
    }
}

/// Returns the findings about a version, or the steps of a chain.
fn remarks(served: &ServedVersion) -> Vec<String> {
    let of_steps = served.chain().map(|chain| vec![chain.describe()]);
    of_steps.unwrap_or_else(|| served.findings().map(Findings::all_remarks).unwrap_or_default())
}
