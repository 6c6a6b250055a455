//! Publishes the snapshot for new requests, and the metrics of deployments.

use std::sync::Arc;

use super::Deployer;
use super::chains::unserved_chains;
use super::state::{ModelState, State};
use crate::api::admin::Deployment;
use crate::identity::Version;
use crate::monitor::{DeployedShare, LearnedProfile};
use crate::registry::{ServedModel, Snapshot};

impl Deployer {
    /// Publishes a snapshot of the loaded versions and the deployments for new requests.
    pub(super) fn publish(&self, state: &mut State) {
        let (mut models, mut unserved) = state.served_models();
        for (name, served) in &models {
            if let Some(model) = state.models.get(name) {
                self.show_shares(model, served);
                use_profiles(model, served);
            }
        }
        for (name, problem) in unserved_chains(&models, &unserved, state) {
            models.remove(&name);
            unserved.insert(name, problem);
        }
        let deployments = self.loader.monitor.deployments();
        models.keys().for_each(|name| deployments.set_served(name.as_str(), true));
        for (name, why) in &unserved {
            deployments.set_served(name.as_str(), false);
            if !why.is_transient && state.unserved.get(name) != Some(why) {
                tracing::error!(model = %name, reason = why.reason, "the model is not served; leeway status says more");
            }
        }
        for name in state.unserved.keys().filter(|name| !unserved.contains_key(*name)) {
            match models.contains_key(name) {
                true => tracing::info!(model = %name, "the model is served"),
                false => deployments.forget(name.as_str()),
            }
        }
        self.loader.monitor.server().set_serves_models(!models.is_empty());
        let reasons = unserved.iter().map(|(name, why)| (name.clone(), why.reason.clone())).collect();
        state.unserved = unserved;
        let default_model = self.repository.default_model.clone().or_else(|| state.only_deployed().cloned());
        self.catalog.publish(Snapshot::new(models, reasons, default_model));
    }

    /// Updates the metrics of a model's deployment.
    fn show_shares(&self, model: &ModelState, served: &ServedModel) {
        let Deployment { model: name, generation, deployed_at, .. } = &model.deployment;
        let shown = |version: &Version| DeployedShare {
            version: version.to_string(),
            ratio: served.split.share(*version).ratio(),
            deployed_at: deployed_at.get(version).map(|at| at.as_duration().as_secs_f64()),
            is_altered: model.altered(*version).is_some(),
        };
        let shares = served.versions.keys().map(shown).collect();
        self.loader.monitor.deployments().deployed(name.as_str(), *generation, shares);
    }
}

/// Makes the loaded versions use their learned profiles by time of day.
fn use_profiles(model: &ModelState, served: &ServedModel) {
    for (version, served) in &served.versions {
        // A version whose files are gone keeps its profile.
        let Some(found) = model.on_disk.versions.get(version) else { continue };
        let learned = found.profile.profile.clone();
        let is_for_version = |learned: &Arc<LearnedProfile>| learned.version_sha256 == served.sha256.to_string();
        served.recorder.use_profile(learned.filter(is_for_version));
    }
}
