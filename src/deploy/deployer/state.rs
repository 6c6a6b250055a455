//! State of the deployer: models, their versions and deployments. Pure: nothing is read or loaded here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use crate::api::admin::Deployment;
use crate::config::{DEPLOYMENT_FILE, DeploymentFile, ModelConfig, SessionPlace};
use crate::deploy::lifecycle::{Event, Lifecycle, Load, LoadFailure};
use crate::deploy::problems::Problems;
use crate::deploy::reconcile::{Hold, LoadState};
use crate::deploy::repository_view::{ModelView, RepositoryView};
use crate::error::{Error, Result};
use crate::identity::{ModelName, Sha256, Version};
use crate::registry::{ServedModel, ServedShadow, ServedVersion};

/// The reason why a model is not served, after an operator has unloaded it.
pub(super) const UNLOADED: &str = "an operator has unloaded it";

/// State of all models.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The repository as of the last sync.
    pub(super) repository: Arc<RepositoryView>,
    pub(super) models: BTreeMap<ModelName, ModelState>,
    /// Models without a valid `model.toml` so far. The value says if the journal has a deployment of the model.
    pub(super) without_config: BTreeMap<ModelName, Recorded>,
    pub(super) problems: Problems,
    /// Models that are not served, with the reason that was last logged.
    pub(super) unserved: BTreeMap<ModelName, Unserved>,
}

#[derive(Debug)]
pub(super) struct ModelState {
    /// The model on disk, as of the last sync that found it.
    pub(super) on_disk: Arc<ModelView>,
    /// The last valid `model.toml`.
    pub(super) config: Arc<ModelConfig>,
    pub(super) deployment: Deployment,
    pub(super) recorded: Recorded,
    /// A newer deployment that another process has written, until its versions are loaded.
    pub(super) newer: Option<Deployment>,
    /// True if `deployment` was never written to the journal, because another process has written a different one.
    pub(super) is_overtaken: bool,
    /// The reason why a newer deployment cannot be taken over.
    pub(super) deployment_problem: Option<String>,
    /// Digest of the `deployment.toml` that has been applied, or was found applied.
    pub(super) applied_file: Option<Sha256>,
    /// The reason why the `deployment.toml` could not be applied.
    pub(super) file_problem: Option<String>,
    /// True while the `deployment.toml` is being applied.
    pub(super) is_applying: bool,
    pub(super) unwritten: Unwritten,
    /// The versions for which a load was started.
    pub(super) versions: BTreeMap<Version, VersionRecord>,
    pub(super) holds: BTreeMap<Version, Hold>,
    /// True if an operator has unloaded the whole model.
    pub(super) is_withdrawn: bool,
    /// Versions that steps of chains name.
    pub(super) named_by_chains: BTreeSet<Version>,
    /// Versions that pending changes are about to deploy, one entry for each change.
    pub(super) changing: Vec<Version>,
    /// Held while the files of its versions are compared with what was loaded.
    pub(super) comparing: Arc<tokio::sync::Mutex<()>>,
}

/// State of a version, and a record of its earlier loads.
#[derive(Debug, Default)]
pub(super) struct VersionRecord {
    pub(super) lifecycle: Lifecycle<Arc<ServedVersion>>,
    /// The problem of its last load, as it was last logged.
    pub(super) logged: Option<String>,
    /// Number of loads in a row that were refused for lack of memory, threads or time.
    pub(super) transient_refusals: u32,
}

/// Deployments of a model that wait for the journal, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Unwritten {
    pub(super) deployments: Vec<Deployment>,
    pub(super) problem: String,
}

impl Unwritten {
    /// Returns the error of the journal, if deployments wait for the journal.
    pub(super) fn problem(&self) -> Option<String> {
        (!self.deployments.is_empty()).then(|| self.problem.clone())
    }

    /// Returns the message for operators, if deployments wait for the journal.
    pub(super) fn shown(&self) -> Option<String> {
        let latest = self.deployments.last()?;
        Some(format!(
            "generation {} is in effect, but not saved yet: {}; it will be saved as soon as writing works again, and \
             is lost if the server restarts before then",
            latest.generation, self.problem
        ))
    }
}

/// The reason why a model is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unserved {
    /// True if the model will be served soon, without an operator.
    pub(super) is_transient: bool,
    /// The reason in words, without paths, because clients see it.
    pub(super) reason: String,
}

/// State of a model's deployment: decided (in the journal, or in [`Unwritten`]), or not decided yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recorded {
    /// The deployment is in the journal, or waits to be written.
    Yes,
    /// The model is new. Its first deployment will have the highest version that loads.
    NotYet,
}

/// Reason of a sync with the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SyncReason {
    /// `repository.poll_interval_ms` has passed.
    Regular,
    /// An operator has asked (`leeway reload`).
    Asked,
}

// ===== impl State =====

impl State {
    /// Returns the state of a model, or an error if there is no such model.
    pub(super) fn model(&mut self, name: &ModelName) -> Result<&mut ModelState> {
        if self.models.contains_key(name) {
            return self.models.get_mut(name).ok_or_else(|| Error::internal("a model vanished"));
        }
        if self.without_config.contains_key(name) {
            let problem = self.problems.about(&about_config(name)).unwrap_or("its model.toml is wrong");
            return Err(Error::ModelUnavailable { model: name.clone(), reason: problem.to_owned() });
        }
        let known = self.models.keys().map(ModelName::to_string).collect();
        Err(Error::UnknownModel { model: name.to_string(), known })
    }

    /// Returns the reason why a model is not served; `None` if it is served. A chain may have loaded and not be served, because of
    /// its steps.
    pub(super) fn why_unserved(&self, name: &ModelName) -> Option<Unserved> {
        let model = self.models.get(name)?;
        let of_steps = || self.unserved.get(name).filter(|_| !model.config.steps.is_empty()).cloned();
        model.why_unserved().or_else(of_steps)
    }

    /// Returns the models that are loaded, and the reasons why others are not served. Steps of chains are not checked.
    pub(super) fn served_models(&self) -> (BTreeMap<ModelName, ServedModel>, BTreeMap<ModelName, Unserved>) {
        let wrong = || Unserved { is_transient: false, reason: "its model.toml is wrong".to_owned() };
        let mut models = BTreeMap::new();
        let mut unserved: BTreeMap<ModelName, Unserved> =
            self.without_config.keys().map(|name| (name.clone(), wrong())).collect();
        for (name, model) in &self.models {
            if let Some(why) = model.why_unserved() {
                unserved.insert(name.clone(), why);
                continue;
            }
            let versions: BTreeMap<Version, Arc<ServedVersion>> =
                model.all_served().map(|served| (served.version, Arc::clone(served))).collect();
            let description = versions.values().next_back().and_then(|version| version.config.description.clone());
            let (split, stable) = (model.deployment.traffic.clone(), model.deployment.stable);
            let shadow = model.served_shadow();
            models.insert(name.clone(), ServedModel { description, versions, stable, split, shadow });
        }
        (models, unserved)
    }

    /// Returns the deployed model, served or not, if there is only one. A new model that cannot be loaded does not
    /// count.
    pub(super) fn only_deployed(&self) -> Option<&ModelName> {
        let known = self.models.iter().map(|(name, model)| (name, model.recorded));
        let without_config = self.without_config.iter().map(|(name, recorded)| (name, *recorded));
        let mut deployed = known.chain(without_config).filter(|(_, recorded)| *recorded != Recorded::NotYet);
        match (deployed.next(), deployed.next()) {
            (Some((only, _)), None) => Some(only),
            _ => None,
        }
    }
}

/// Returns the subject of a problem with a model's `model.toml`, under which the problem is remembered.
pub(super) fn about_config(name: &ModelName) -> String {
    format!("model.toml of {name}")
}

// ===== impl ModelState =====

impl ModelState {
    /// Returns the state of a model without loaded versions.
    pub(super) fn new(
        on_disk: Arc<ModelView>,
        config: Arc<ModelConfig>,
        deployment: Deployment,
        recorded: Recorded,
    ) -> ModelState {
        ModelState {
            on_disk,
            config,
            deployment,
            recorded,
            newer: None,
            is_overtaken: false,
            deployment_problem: None,
            applied_file: None,
            file_problem: None,
            is_applying: false,
            unwritten: Unwritten::default(),
            versions: BTreeMap::new(),
            holds: BTreeMap::new(),
            is_withdrawn: false,
            named_by_chains: BTreeSet::new(),
            changing: Vec::new(),
            comparing: Arc::default(),
        }
    }

    pub(super) fn is_on_disk(&self, version: Version) -> bool {
        self.on_disk.versions.contains_key(&version)
    }

    /// Returns the version if it serves.
    pub(super) fn served(&self, version: Version) -> Option<&Arc<ServedVersion>> {
        self.versions.get(&version).and_then(|known| known.lifecycle.served())
    }

    /// Returns the versions that serve.
    pub(super) fn all_served(&self) -> impl Iterator<Item = &Arc<ServedVersion>> {
        self.versions.values().filter_map(|known| known.lifecycle.served())
    }

    pub(super) fn is_loaded(&self, version: Version) -> bool {
        self.served(version).is_some()
    }

    /// Returns the loads that are running.
    pub(super) fn loads(&self) -> impl Iterator<Item = (Version, &Load)> {
        self.versions.iter().filter_map(|(version, known)| Some((*version, known.lifecycle.load()?)))
    }

    /// Returns the failure of a version that does not serve.
    pub(super) fn failure(&self, version: Version) -> Option<&LoadFailure> {
        let known = self.versions.get(&version)?;
        known.lifecycle.failure().filter(|_| known.lifecycle.served().is_none())
    }

    /// Returns the difference between a version's files and what was loaded, if there is one.
    pub(super) fn altered(&self, version: Version) -> Option<&String> {
        self.versions.get(&version)?.lifecycle.as_ready()?.altered.as_ref()
    }

    /// Applies an event to the life cycle of a version.
    pub(super) fn on(&mut self, version: Version, event: Event<Arc<ServedVersion>>) {
        let known = self.versions.entry(version).or_default();
        if let Err(error) = known.lifecycle.on(event) {
            tracing::error!(model = %self.on_disk.name, %version, %error, "this is a bug in Leeway");
        }
    }

    /// Returns the load states of the versions, from which the next steps are decided.
    pub(super) fn live(&self) -> BTreeMap<Version, LoadState> {
        let live = |(version, known): (&Version, &VersionRecord)| {
            let is_current =
                |served: &Arc<ServedVersion>| served.config == self.config && served.place == self.place(*version);
            Some((*version, known.lifecycle.live(is_current)?))
        };
        self.versions.iter().filter_map(live).collect()
    }

    /// Returns the placement of the sessions of a version: in the server, or in their own processes.
    pub(super) fn place(&self, version: Version) -> SessionPlace {
        let Deployment { stable, rollback_path, .. } = &self.deployment;
        // The versions of the rollback path also count as promoted.
        self.config.model.isolation.place(version == *stable || rollback_path.contains(&version))
    }

    /// Returns true if a deployment in the journal has to replace the one in effect. If the one in effect was overtaken
    /// before it was written, any other one replaces it.
    pub(super) fn is_replaced_by(&self, written: &Deployment) -> bool {
        written.generation > self.deployment.generation || (self.is_overtaken && *written != self.deployment)
    }

    /// Returns the versions that must be loaded: those of the deployment, of a newer deployment that is to be taken
    /// over, of pending changes, and those that chains name.
    pub(super) fn needed(&self) -> BTreeSet<Version> {
        let newer = self.newer.iter().flat_map(|newer| newer.serving_versions());
        let named =
            self.named_by_chains.iter().filter(|version| self.is_on_disk(**version) || self.is_loaded(**version));
        let others = self.changing.iter().chain(named).copied();
        // A version whose folder is gone is not kept in memory for copies of requests.
        let shadowed = self.deployment.shadowed_version().filter(|version| self.is_on_disk(*version));
        self.deployment.required_versions().chain(shadowed).chain(newer).chain(others).collect()
    }

    /// Returns the version that gets copies of requests, if it is loaded.
    fn served_shadow(&self) -> Option<Arc<ServedShadow>> {
        let shadow = self.deployment.shadow?;
        let version = self.served(shadow.version)?;
        Some(Arc::new(ServedShadow::new(Arc::clone(version), shadow.percent)))
    }

    /// Returns the reason why the model is not served; `None` if it is served.
    pub(super) fn why_unserved(&self) -> Option<Unserved> {
        if self.is_withdrawn {
            return Some(Unserved { is_transient: true, reason: UNLOADED.to_owned() });
        }
        if self.recorded == Recorded::NotYet && matches!(self.on_disk.wish, Some(Err(_))) {
            return Some(Unserved { is_transient: false, reason: "its deployment.toml is wrong".to_owned() });
        }
        let missing =
            self.deployment.traffic.shares().map(|(version, _)| version).find(|version| !self.is_loaded(*version));
        let (is_transient, reason) = match (missing, self.recorded) {
            (None, Recorded::Yes) => return None,
            (None, Recorded::NotYet) => (true, "its first deployment is being written".to_owned()),
            (Some(version), _) => match self.versions.get(&version).map(|known| &known.lifecycle) {
                Some(Lifecycle::Loading(_)) => (true, format!("version {version} is being loaded")),
                Some(Lifecycle::Failed(failure)) if failure.fault.is_transient() => {
                    (true, format!("version {version} was refused ({}) and is tried again", failure.fault.name()))
                }
                Some(Lifecycle::Failed(failure)) => {
                    (false, format!("version {version} was refused ({})", failure.fault.name()))
                }
                _ if !self.is_on_disk(version) => (false, format!("version {version} is not in the repository")),
                _ => (true, format!("version {version} is not loaded yet")),
            },
        };
        Some(Unserved { is_transient, reason })
    }

    /// Returns the content of the model's `deployment.toml`, if it has a valid one.
    pub(super) fn wish(&self) -> Option<&Arc<DeploymentFile>> {
        self.on_disk.wish.as_ref().and_then(|wish| wish.as_ref().ok())
    }

    /// Returns the difference between the deployment in effect and the `deployment.toml`, for operators.
    pub(super) fn difference_from_file(&self) -> Option<String> {
        if let Some(problem) = &self.file_problem {
            return Some(format!("{DEPLOYMENT_FILE} is not in effect: {problem}"));
        }
        let file = self.wish()?;
        let Deployment { stable, traffic, generation, change, .. } = &self.deployment;
        let is_same = *stable == file.stable && *traffic == file.traffic && self.deployment.shadow == file.shadow;
        let is_different = self.applied_file == Some(file.sha256) && !is_same;
        is_different.then(|| {
            format!(
                "{DEPLOYMENT_FILE} asks for stable version {} and traffic {}, but since then there was a {} \
                 (generation {generation}); it is deployed again when the file changes",
                file.stable,
                file.traffic,
                change.action.name()
            )
        })
    }

    /// Returns the reason why versions of a deployment cannot be loaded now, if there is one.
    pub(super) fn why_not_loadable(&self, deployment: &Deployment) -> Option<String> {
        let mut missing = deployment.serving_versions().filter(|version| !self.is_loaded(*version));
        missing.find_map(|version| match self.failure(version) {
            Some(failure) => Some(format!("version {version}: {}", failure.problem)),
            None => (!self.is_on_disk(version)).then(|| format!("version {version} is not in the repository")),
        })
    }

    /// Returns the error about a version that does not exist.
    pub(super) fn unknown(&self, version: Version) -> Error {
        Error::UnknownVersion {
            model: self.on_disk.name.clone(),
            version: version.to_string(),
            known: self.on_disk.versions.keys().map(Version::to_string).collect(),
        }
    }

    /// Allows retries of failed loads whose files have changed or whose backoff is over, and forgets versions that are
    /// gone.
    pub(super) fn allow_retries(&mut self, reason: SyncReason, now: Instant) {
        let ModelView { versions: found, config_mark, .. } = &*self.on_disk;
        self.versions.retain(|version, known| {
            if let Some(failure) = known.lifecycle.failure() {
                let mark = found.get(version).map(|found| &found.mark);
                let is_as_before = mark == Some(&failure.folder) && failure.config == *config_mark;
                if !is_as_before {
                    known.transient_refusals = 0;
                }
                if !is_as_before || failure.is_due(reason, now) {
                    // Legal, because a load has failed.
                    let _ = known.lifecycle.on(Event::RetryAllowed);
                }
            }
            !known.lifecycle.is_available() || (found.contains_key(version) && known.logged.is_some())
        });
        self.holds.retain(|version, _| found.contains_key(version));
    }
}

// ===== impl LoadFailure =====

impl LoadFailure {
    /// Returns true if the load should be tried again, although nothing about the version has changed.
    fn is_due(&self, reason: SyncReason, now: Instant) -> bool {
        let is_time = self.retry_at.is_some_and(|retry_at| reason == SyncReason::Asked || retry_at <= now);
        is_time && self.thread.strong_count() == 0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use parking_lot::Mutex;

    use super::*;
    use crate::error::LoadFault;
    use crate::registry::LoadStep;
    use crate::repository::Fingerprint;

    fn failure(retry_at: Option<Instant>, thread: &Arc<Mutex<LoadStep>>) -> LoadFailure {
        let (folder, config, thread) = (Fingerprint::default(), Fingerprint::default(), Arc::downgrade(thread));
        LoadFailure { fault: LoadFault::Resources, problem: String::new(), folder, config, retry_at, thread }
    }

    #[test]
    fn a_passing_failure_is_tried_again_in_time_or_when_somebody_asks() {
        let (now, thread) = (Instant::now(), Arc::new(Mutex::new(LoadStep::Waiting)));
        let later = now + Duration::from_secs(10);
        let (transient, lasting) = (failure(Some(later), &thread), failure(None, &thread));
        // Not due while the thread of a load that timed out still runs.
        assert!(!transient.is_due(SyncReason::Asked, later));
        drop(thread);
        assert!(!transient.is_due(SyncReason::Regular, now));
        assert!(transient.is_due(SyncReason::Regular, later));
        assert!(transient.is_due(SyncReason::Asked, now));
        assert!(!lasting.is_due(SyncReason::Regular, later) && !lasting.is_due(SyncReason::Asked, later));
    }
}
