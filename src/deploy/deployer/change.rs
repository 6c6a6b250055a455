//! Changes of the deployment, and holds.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::Deployer;
use super::load::ConfigRequirement;
use super::state::Recorded;
use crate::api::admin::{ChangeOutcome, Deployment};
use crate::deploy::deployment::by_file_only;
use crate::deploy::deployment::{ChangeRequest, Transition};
use crate::deploy::journal::Appended;
use crate::deploy::lifecycle::Event;
use crate::deploy::reconcile::{Hold, LoadState};
use crate::error::{OperatorError, Result, SetupError};
use crate::identity::{ModelName, Version};
use crate::monitor::StatePart;
use crate::traffic::{Share, TrafficSplit};

/// Maximum number of attempts at a change of a deployment, if other changes are written first.
const ATTEMPTS: usize = 16;

/// Guard that keeps the versions of a pending change loaded.
#[derive(Debug)]
struct Changing<'a> {
    deployer: &'a Deployer,
    model: ModelName,
    versions: BTreeSet<Version>,
}

/// Result of an attempt to change a deployment.
enum Attempt {
    /// The change is made, or was already in effect.
    Ended(ChangeOutcome),
    /// Another change was written first. Holds the current deployment.
    Overtaken(Deployment),
}

impl Deployer {
    /// Changes the deployment of a model: loads the versions that the new deployment needs, writes it to the journal,
    /// and publishes it. Continues even if the caller stops waiting.
    pub async fn change(self: &Arc<Self>, request: ChangeRequest) -> Result<ChangeOutcome, OperatorError> {
        let changing = tokio::spawn(Arc::clone(self).change_to_the_end(request));
        changing.await.map_err(|error| OperatorError::internal(format_args!("a change broke off: {error}")))?
    }

    async fn change_to_the_end(self: Arc<Self>, mut request: ChangeRequest) -> Result<ChangeOutcome, OperatorError> {
        let mut present = self.begin_change(&mut request).await?;
        for _ in 0..ATTEMPTS {
            match self.try_to_change(&request, present).await? {
                Attempt::Ended(outcome) => return Ok(outcome),
                Attempt::Overtaken(by) => present = by,
            }
        }
        Err(OperatorError::ChangeRefused(format!(
            "other changes of model {} were always faster; try again",
            request.model
        )))
    }

    /// Returns the deployment that a change starts from: the current one in the journal.
    async fn begin_change(self: &Arc<Self>, request: &mut ChangeRequest) -> Result<Deployment, OperatorError> {
        self.refuse_withdrawn(&request.model)?;
        self.refuse_by_hand(&request.model, &request.wish)?;
        self.deploy_first(&request.model).await;
        if self.is_undecided(&request.model) {
            let problem = format!("no version of model {} is loaded yet; leeway status says why", request.model);
            return Err(OperatorError::ChangeRefused(problem));
        }
        if request.wish != Transition::Rollback {
            self.write_unwritten(&request.model).await?;
            return self.latest(&request.model).await;
        }
        // A rollback must be possible even if the disk fails. Without the journal it starts from the deployment in
        // effect.
        let _ = self.write_unwritten(&request.model).await;
        let present = match self.latest(&request.model).await {
            Err(OperatorError::Journal(_)) => self.deployment(&request.model)?,
            latest => latest?,
        };
        // Binds the rollback to this generation: if another operator rolls back meanwhile, this one must not go back
        // again.
        request.if_generation.get_or_insert(present.generation);
        Ok(present)
    }

    async fn try_to_change(
        self: &Arc<Self>,
        request: &ChangeRequest,
        present: Deployment,
    ) -> Result<Attempt, OperatorError> {
        let is_rollback = request.wish == Transition::Rollback;
        let before = present.traffic.clone();
        let Some(mut next) = present.requested(request)? else {
            return Ok(Attempt::Ended(self.deployed(false, present, before)));
        };
        self.end_shadow_that_is_gone(&mut next, &request.wish);
        if !is_rollback {
            self.refuse_altered(&present, &next)?;
        }
        let shadow = self.shadow_to_load(&next, &request.wish)?;
        // Keeps the versions loaded until they are deployed.
        let _changing = Changing::begin(self, &next);
        self.load_deployed(&next).await.map_err(not_loaded)?;
        if let Some(version) = shadow {
            self.load(&next.model, version, ConfigRequirement::Any).await.map_err(not_loaded)?;
        }
        let _writing = self.writing.lock().await;
        // The model may have been unloaded meanwhile.
        self.refuse_withdrawn(&request.model)?;
        fail::fail_point!("change::before_the_journal");
        // Another deployment may have taken effect meanwhile, or one of the versions may have been retired.
        let now = self.deployment(&request.model)?;
        let is_newer = now.generation > present.generation && !self.is_replaced_by(&present);
        if is_newer || !self.is_loaded(&next) {
            return Ok(Attempt::Overtaken(if is_newer { now } else { present }));
        }
        if !is_rollback {
            self.refuse_misfits(&next)?;
        }
        match self.write(&next).await {
            Ok(Appended::Written) => {
                fail::fail_point!("change::in_the_journal");
                self.loader.monitor.deployments().state_works(StatePart::Deployments);
                self.take_over(&next);
                fail::fail_point!("change::published");
            }
            Ok(Appended::Lost(Some(latest))) => return Ok(Attempt::Overtaken(latest)),
            Ok(Appended::Lost(None)) => {
                return Err(OperatorError::Journal("it does not have the model's deployments".to_owned()));
            }
            Err(error @ OperatorError::Journal(_)) if is_rollback => {
                self.keep_unwritten(&next, &error);
                self.take_over(&next);
            }
            Err(error) => return Err(error),
        }
        Ok(Attempt::Ended(self.deployed(true, next, before)))
    }

    /// Writes a deployment to the journal, unless earlier deployments of the model still wait to be written.
    async fn write(&self, next: &Deployment) -> Result<Appended, OperatorError> {
        let waiting = self.state.lock().models.get(&next.model).and_then(|model| model.unwritten.problem());
        match waiting {
            Some(problem) => Err(OperatorError::Journal(problem)),
            None => self.journal.append(next).await.map_err(|error| self.journal_failed(error)),
        }
    }

    fn deployed(self: &Arc<Self>, changed: bool, deployment: Deployment, before: TrafficSplit) -> ChangeOutcome {
        // A promoted version may have to be reloaded in another process.
        let is_outdated = match self.state.lock().models.get(&deployment.model) {
            Some(model) => model.live().values().any(|live| *live == LoadState::Outdated),
            None => false,
        };
        if is_outdated {
            self.advance_in_background(&deployment.model);
        }
        let unwritten = self.unwritten(&deployment.model);
        ChangeOutcome { changed, deployment, before, unwritten, lagging: Vec::new() }
    }

    /// Returns the reason why the deployment in effect is not in the journal yet; `None` if it is.
    fn unwritten(&self, name: &ModelName) -> Option<String> {
        self.state.lock().models.get(name).and_then(|model| model.unwritten.shown())
    }

    /// Ends shadow traffic, unless it is the subject of the change, if its version is neither loaded nor in the repository.
    fn end_shadow_that_is_gone(&self, next: &mut Deployment, wish: &Transition) {
        let state = self.state.lock();
        let Some(model) = state.models.get(&next.model) else { return };
        if !matches!(wish, Transition::Shadow(_) | Transition::File(_)) {
            let is_there = |version| model.is_on_disk(version) || model.is_loaded(version);
            next.shadow = next.shadow.filter(|shadow| is_there(shadow.version));
        }
    }

    /// Returns the version that has to be loaded because a change copies requests to it. Refused for chains.
    fn shadow_to_load(&self, next: &Deployment, wish: &Transition) -> Result<Option<Version>, OperatorError> {
        let (Transition::Shadow(Some(_)), Some(version)) = (wish, next.shadowed_version()) else { return Ok(None) };
        match self.state.lock().models.get(&next.model).is_some_and(|model| !model.config.steps.is_empty()) {
            false => Ok(Some(version)),
            true => Err(OperatorError::ChangeRefused(format!(
                "model {} is a chain, whose requests cannot be copied; shadow a model of its steps",
                next.model
            ))),
        }
    }

    /// Refuses new traffic for an altered version: it can be served from memory, but would not load after a restart.
    /// Rollbacks are not checked.
    fn refuse_altered(&self, present: &Deployment, next: &Deployment) -> Result<(), OperatorError> {
        let state = self.state.lock();
        let Some(model) = state.models.get(&next.model) else { return Ok(()) };
        for version in next.serving_versions().filter(|version| present.traffic.share(*version) == Share::NONE) {
            if let Some(problem) = model.altered(version) {
                return Err(OperatorError::ChangeRefused(format!(
                    "version {version} is altered on disk and would not load again: {problem}"
                )));
            }
        }
        Ok(())
    }

    /// Returns the current deployment in the journal, which another process may have written, and takes it over if its
    /// versions load quickly. A change starts from this deployment even if it could not be taken over.
    async fn latest(self: &Arc<Self>, name: &ModelName) -> Result<Deployment, OperatorError> {
        const TIMEOUT: Duration = Duration::from_secs(1);
        let own = self.deployment(name)?;
        let latest = self.journal.history(name, u64::MAX, 1).await.map_err(|error| self.journal_failed(error))?.pop();
        let Some(latest) = latest.filter(|latest| self.is_replaced_by(latest)) else { return Ok(own) };
        if let Some(model) = self.state.lock().models.get_mut(name) {
            model.newer = Some(latest.clone());
        }
        let (deployer, newer) = (Arc::clone(self), latest.clone());
        let catching_up = tokio::spawn(async move {
            // A failed load is recorded when the deployment is taken over.
            let _ = deployer.load_deployed(&newer).await;
            deployer.advance(&newer.model).await;
        });
        // After the timeout, the task continues in the background.
        let _ = tokio::time::timeout(TIMEOUT, catching_up).await;
        Ok(latest)
    }

    /// Refuses a change of a model that has a `deployment.toml`, except for that file and for a rollback, which must always be
    /// possible.
    fn refuse_by_hand(&self, name: &ModelName, wish: &Transition) -> Result<(), OperatorError> {
        let has_file = self.state.lock().models.get(name).is_some_and(|model| model.on_disk.wish.is_some());
        match wish {
            Transition::Traffic(_) | Transition::Promote(_) | Transition::Shadow(_) if has_file => {
                Err(by_file_only(name))
            }
            _ => Ok(()),
        }
    }

    /// Returns true if the model is new, and its first deployment is not decided yet.
    fn is_undecided(&self, name: &ModelName) -> bool {
        self.state.lock().models.get(name).is_some_and(|model| model.recorded == Recorded::NotYet)
    }

    /// Returns true if all versions that a deployment needs are loaded.
    pub(super) fn is_loaded(&self, deployment: &Deployment) -> bool {
        let state = self.state.lock();
        let model = state.models.get(&deployment.model);
        model.is_some_and(|model| deployment.serving_versions().all(|version| model.is_loaded(version)))
    }

    /// Returns true if a deployment in the journal has to replace the one in effect.
    pub(super) fn is_replaced_by(&self, written: &Deployment) -> bool {
        self.state.lock().models.get(&written.model).is_some_and(|model| model.is_replaced_by(written))
    }

    /// Makes a deployment that is in the journal, and whose versions are loaded, the current one.
    pub(super) fn take_over(&self, next: &Deployment) {
        let mut state = self.state.lock();
        let Some(model) = state.models.get_mut(&next.model) else { return };
        let before = std::mem::replace(&mut model.deployment, next.clone());
        (model.newer, model.is_overtaken, model.deployment_problem) = (None, false, None);
        // Holds of the versions that the deployment needs are obsolete.
        for version in next.required_versions().chain(next.shadowed_version()) {
            model.holds.remove(&version);
        }
        self.publish(&mut state);
        drop(state);
        let Deployment { model, generation, stable, traffic, change, .. } = next;
        let shadow = next.shadow.map(|shadow| shadow.to_string());
        tracing::info!(
            %model, generation, %stable, %traffic, shadow, action = change.action.name(), by = change.by, reason = change.reason,
            before = %before.traffic, "deployed"
        );
        self.loader.monitor.deployments().changed(model.as_str(), change.action.name());
        self.membership.report_soon();
    }

    /// Loads a version and keeps it loaded.
    pub async fn hold_loaded(self: &Arc<Self>, name: &ModelName, version: Version) -> Result<(), OperatorError> {
        self.refuse_withdrawn(name)?;
        {
            let mut state = self.state.lock();
            let model = state.model(name)?;
            if !model.is_on_disk(version) && !model.is_loaded(version) {
                return Err(model.unknown(version).into());
            }
            model.holds.insert(version, Hold::Loaded);
        }
        self.load(name, version, ConfigRequirement::Any).await.map_err(not_loaded)?;
        // The model may have been unloaded meanwhile.
        self.refuse_withdrawn(name)
    }

    /// Unloads a version and keeps it unloaded. Refused if the deployment needs the version.
    pub async fn hold_unloaded(&self, name: &ModelName, version: Version) -> Result<(), OperatorError> {
        // A version that is about to be deployed must not be unloaded.
        let _writing = self.writing.lock().await;
        let mut state = self.state.lock();
        let chain = state.chain_that_names(name, version).cloned();
        let model = state.model(name)?;
        if !model.is_on_disk(version) && !model.versions.contains_key(&version) {
            return Err(model.unknown(version).into());
        }
        let is_named = || chain.map(|chain| format!("is named by a step of the chain {chain}"));
        if let Some(need) = why_needed(&model.deployment, version).or_else(is_named) {
            return Err(OperatorError::ChangeRefused(format!(
                "version {version} of model {name} is not unloaded: it {need}"
            )));
        }
        model.holds.insert(version, Hold::Unloaded);
        if model.is_loaded(version) {
            model.on(version, Event::Retired);
            tracing::info!(model = %name, %version, "unloaded, as asked");
        }
        self.publish(&mut state);
        Ok(())
    }

    /// Returns the deployment of a model that is in effect.
    pub fn deployment(&self, name: &ModelName) -> Result<Deployment> {
        self.state.lock().model(name).map(|model| model.deployment.clone())
    }

    pub(super) fn journal_failed(&self, error: OperatorError) -> OperatorError {
        self.note_journal_failure(&error.for_operators());
        error
    }

    pub(super) fn note_journal_failure(&self, problem: &str) {
        self.loader.monitor.deployments().state_failed(StatePart::Deployments, problem);
    }
}

impl Changing<'_> {
    fn begin<'a>(deployer: &'a Deployer, next: &Deployment) -> Changing<'a> {
        let versions: BTreeSet<Version> = next.serving_versions().chain(next.shadowed_version()).collect();
        if let Some(model) = deployer.state.lock().models.get_mut(&next.model) {
            model.changing.extend(&versions);
        }
        Changing { deployer, model: next.model.clone(), versions }
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        if let Some(model) = self.deployer.state.lock().models.get_mut(&self.model) {
            for version in &self.versions {
                if let Some(at) = model.changing.iter().position(|changing| changing == version) {
                    model.changing.swap_remove(at);
                }
            }
        }
    }
}

fn not_loaded(error: SetupError) -> OperatorError {
    match error {
        SetupError::Load { version, message, .. } => {
            OperatorError::ChangeRefused(format!("version {version} cannot be loaded: {message}"))
        }
        other => other.into(),
    }
}

fn why_needed(deployment: &Deployment, version: Version) -> Option<String> {
    let share = deployment.traffic.share(version);
    if share != Share::NONE {
        Some(format!("has {share} of the traffic"))
    } else if version == deployment.stable {
        Some("is the stable version".to_owned())
    } else if deployment.rollback_path.last() == Some(&version) {
        Some("is the target of a rollback".to_owned())
    } else if deployment.shadowed_version() == Some(version) {
        Some("gets shadow traffic".to_owned())
    } else {
        None
    }
}
