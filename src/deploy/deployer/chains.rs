//! Chains of models: which of them can be served, and changes that would take one out of service.

use std::collections::{BTreeMap, BTreeSet};

use super::Deployer;
use super::state::{State, Unserved};
use crate::api::admin::Deployment;
use crate::config::StepConfig;
use crate::error::OperatorError;
use crate::identity::{ModelName, Version};
use crate::registry::{ChainProblem, ServedModel, chain_problems};

impl State {
    /// Notes the versions that steps of chains name, which are kept loaded.
    pub(super) fn note_named_versions(&mut self) {
        let mut named: BTreeMap<ModelName, BTreeSet<Version>> = BTreeMap::new();
        for step in self.models.values().flat_map(|model| &model.config.steps) {
            if let Some(version) = step.version {
                named.entry(step.model.clone()).or_default().insert(version);
            }
        }
        for (name, model) in &mut self.models {
            model.named_by_chains = named.remove(name).unwrap_or_default();
        }
    }

    /// Returns a chain whose steps name this version.
    pub(super) fn chain_that_names(&self, name: &ModelName, version: Version) -> Option<&ModelName> {
        let names = |step: &StepConfig| step.model == *name && step.version == Some(version);
        self.models.iter().find(|(_, model)| model.config.steps.iter().any(names)).map(|(chain, _)| chain)
    }
}

impl Deployer {
    /// Refuses a deployment that would take a chain out of service. Rollbacks are not checked.
    pub(super) fn refuse_misfits(&self, next: &Deployment) -> Result<(), OperatorError> {
        let state = self.state.lock();
        let (mut models, unserved) = state.served_models();
        let Some(model) = models.get_mut(&next.model) else { return Ok(()) };
        (model.split, model.stable) = (next.traffic.clone(), next.stable);
        let problems = unserved_chains(&models, &unserved, &state);
        let Some((chain, problem)) = problems.into_iter().find(|(chain, _)| !state.unserved.contains_key(chain)) else {
            return Ok(());
        };
        Err(OperatorError::ChangeRefused(format!(
            "it would take the chain {chain} out of service: {}; change its model.toml first, or name the present version \
             of {} there with `version`",
            problem.reason, next.model
        )))
    }
}

/// Returns the chains that cannot be served, because of their steps. The reason is transient while a model of a step is
/// loaded.
pub(super) fn unserved_chains(
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
