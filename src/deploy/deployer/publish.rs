//! Publishes the snapshot for new requests, and the metrics of deployments.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Deployer;
use super::state::{State, Unserved};
use crate::api::admin::Deployment;
use crate::identity::{ModelName, Version};
use crate::monitor::DeployedShare;
use crate::registry::{ChainProblem, ServedModel, ServedVersion, Snapshot, chain_problems};

impl Deployer {
    /// Publishes a snapshot of the loaded versions and the deployments for new requests.
    pub(super) fn publish(&self, state: &mut State) {
        let mut models = BTreeMap::new();
        let wrong = || Unserved { is_transient: false, reason: "its model.toml is wrong".to_owned() };
        let mut unserved: BTreeMap<ModelName, Unserved> =
            state.without_config.keys().map(|name| (name.clone(), wrong())).collect();
        for (name, model) in &state.models {
            if let Some(why) = model.why_unserved() {
                unserved.insert(name.clone(), why);
                continue;
            }
            let versions: BTreeMap<Version, Arc<ServedVersion>> =
                model.all_served().map(|served| (served.version, Arc::clone(served))).collect();
            let Deployment { traffic, stable, generation, deployed_at, .. } = &model.deployment;
            let shown = |(version, _): (&Version, &Arc<ServedVersion>)| DeployedShare {
                version: version.to_string(),
                ratio: traffic.share(*version).ratio(),
                deployed_at: deployed_at.get(version).map(|at| at.as_duration().as_secs_f64()),
                is_altered: model.altered(*version).is_some(),
            };
            let shares = versions.iter().map(shown).collect();
            self.loader.monitor.deployments().deployed(name.as_str(), *generation, shares);
            let description = versions.values().next_back().and_then(|version| version.config.description.clone());
            let (split, stable) = (traffic.clone(), *stable);
            models.insert(name.clone(), ServedModel { description, versions, stable, split });
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
}

/// Returns the chains that cannot be served, because of their steps. The reason is transient while a model of a step is
/// loaded.
fn unserved_chains(
    models: &BTreeMap<ModelName, ServedModel>,
    unserved: &BTreeMap<ModelName, Unserved>,
    state: &State,
) -> Vec<(ModelName, Unserved)> {
    let why_unserved = |name: &ModelName| unserved.get(name).map(|why| why.reason.clone());
    let is_transient = |waits_for: ModelName| {
        unserved.get(&waits_for).is_some_and(|why| why.is_transient)
            || state.models.get(&waits_for).is_some_and(|model| model.loads().next().is_some())
    };
    let problem = |(name, ChainProblem { reason, waits_for }): (ModelName, ChainProblem)| {
        (name, Unserved { is_transient: waits_for.is_some_and(is_transient), reason })
    };
    chain_problems(models, &why_unserved).into_iter().map(problem).collect()
}
