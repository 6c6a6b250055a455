//! Owns what is loaded: looks at the repository, loads and retires versions, changes deployments, publishes snapshots.
//!
//! What is to be done is decided elsewhere (`deployment.rs`, `reconcile.rs`); here it is done. A change is written to the
//! journal before it is published, and loading is done before it is written: so what the journal says can be served.
//! No lock is held while something is loaded, so that a rollback never waits for that.
//!
//! A look at the repository starts loads and does not wait for them. When a load ends, [`Deployer::tend`] takes the
//! next steps. So a model that loads slowly, or never, does not hold up other models.
//!
//! This file holds the state; `starting.rs`, `looking.rs`, `tending.rs`, `loading.rs`, `changing.rs`, `writing.rs` and
//! `showing.rs` hold the actions.

mod changing;
mod loading;
mod looking;
mod showing;
mod starting;
mod tending;
mod writing;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot, watch};

use self::writing::Unwritten;
use super::deployment::{Deployment, Note, Wish};
use super::journal::{Appended, Journal};
use super::problems::{ProblemChange, Problems};
use super::reconcile::{Hold, Live, Step, reconcile, time_until_retry, wanted};
use super::status::{Deployed, ModelStatus, Overview, VersionState, VersionStatus};
use crate::config::{ModelConfig, RepositoryConfig, SessionPlace, StartMode};
use crate::error::{Error, LoadFault, Result};
use crate::identity::{ModelName, Version};
use crate::monitor::{DeployedShare, StatePart};
use crate::registry::{
    Catalog, Fingerprint, FoundModel, FoundVersion, LoadOrder, LoadStep, Loader, Manifest, Pace, PreparedVersion,
    Refusal, ServedModel, ServedVersion, Snapshot, lower_priority_of_this_thread, scan,
};
use crate::traffic::Share;

/// How often a change is tried anew that was decided on a state which is gone, if that does not matter to who wants it.
const ATTEMPTS: usize = 16;

/// Maximum number of concurrent loads while requests are served: each takes the memory of a model, and spare cores. At the
/// start one load at a time takes all these places, and so the whole machine.
const LOADS_AT_ONE_TIME: u32 = 2;

/// Maximum number of additional loads that run longer than [`SLOW`]. A load that hangs so does not keep a place that
/// other loads need.
const SLOW_LOADS_AT_ONE_TIME: usize = 4;

/// Time after which a load counts as slow and gives its place to other loads.
const SLOW: Duration = Duration::from_secs(5);

/// Owns what is loaded and what is deployed.
#[derive(Debug)]
pub struct Deployer {
    loader: Arc<Loader>,
    journal: Arc<dyn Journal>,
    catalog: Arc<Catalog>,
    repository: RepositoryConfig,
    state: Mutex<State>,
    /// Held while a deployment is written and taken over.
    writing: tokio::sync::Mutex<()>,
    /// Held while the repository is looked at.
    looking: tokio::sync::Mutex<()>,
    loads: Arc<Semaphore>,
    slow_loads: Arc<Semaphore>,
    /// True once requests are served beside loads.
    is_serving: AtomicBool,
    /// True once the server stops: callers no longer wait for loads.
    stopping: watch::Sender<bool>,
}

/// What is known of the repository.
#[derive(Debug, Default)]
struct State {
    models: BTreeMap<ModelName, ModelState>,
    /// Models without a valid `model.toml` so far. The value says if the journal knows them.
    without_config: BTreeMap<ModelName, Recorded>,
    problems: Problems,
    /// Models that are not served, with the reason that was last logged.
    unserved: BTreeMap<ModelName, Unserved>,
}

/// What is known of a model.
#[derive(Debug)]
struct ModelState {
    found: FoundModel,
    /// The versions on disk, as of the last look.
    seen: BTreeMap<Version, SeenVersion>,
    config: Arc<ModelConfig>,
    config_mark: Fingerprint,
    config_problem: Option<String>,
    deployment: Deployment,
    recorded: Recorded,
    /// A newer deployment that another process has written, until its versions are loaded.
    newer: Option<Deployment>,
    /// True if the deployment was never written, and another process has written others instead.
    is_overtaken: bool,
    deployment_problem: Option<String>,
    unwritten: Unwritten,
    versions: BTreeMap<Version, Known>,
    holds: BTreeMap<Version, Hold>,
    /// Versions that pending changes are about to deploy, one entry for each change.
    changing: Vec<Version>,
    /// Held while files of its versions are compared.
    comparing: Arc<tokio::sync::Mutex<()>>,
}

/// A version on disk, as of the last look. Kept, so that nothing is read from disk while the state is locked.
#[derive(Debug, Clone)]
struct SeenVersion {
    mark: Fingerprint,
    /// Its manifest, if it can be read. Not verified.
    manifest: Option<Arc<Manifest>>,
}

/// The reason why a model is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Unserved {
    /// True if the model will be served soon, without an operator.
    is_passing: bool,
    /// The reason in words, without paths, because clients see it.
    reason: String,
}

/// State of a model's deployment: written to the journal, waiting to be ([`Unwritten`]), or not decided yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Recorded {
    /// The deployment is in the journal, or waits to be written.
    Yes,
    /// The model is new. Its first deployment will be of the highest version that loads.
    NotYet,
}

/// Keeps the versions of a pending change loaded until dropped.
#[derive(Debug)]
struct Changing<'a> {
    deployer: &'a Deployer,
    model: ModelName,
    versions: BTreeSet<Version>,
}

/// What is known of a version that somebody wanted to be loaded.
#[derive(Debug, Default)]
struct Known {
    served: Option<Arc<ServedVersion>>,
    loading: Option<Loading>,
    refused: Option<RefusedLoad>,
    /// The problem of its last load, as it was last logged.
    logged: Option<String>,
    /// Number of loads in a row that were refused for want of memory, threads or time.
    passing_refusals: u32,
    /// What the folder of a loaded version looked like when its files were last compared.
    compared: Fingerprint,
    altered: Option<String>,
}

#[derive(Debug)]
struct Loading {
    step: Arc<Mutex<LoadStep>>,
    since: Timestamp,
    done: watch::Receiver<Option<Result<()>>>,
}

/// A load that failed, and what it failed on: it is not tried again before one of them has changed, or, if the fault is
/// passing, before `retry_at`.
#[derive(Debug)]
struct RefusedLoad {
    fault: LoadFault,
    problem: String,
    folder: Fingerprint,
    config: Fingerprint,
    /// Time of the next attempt; `None` if the fault is not passing.
    retry_at: Option<Instant>,
    /// Alive for as long as the thread of the load runs. A load that timed out runs on, and keeps its memory.
    thread: Weak<Mutex<LoadStep>>,
}

/// Reason of a look at the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// It is time for one.
    Regular,
    /// Somebody has asked for one (`leeway reload`).
    Asked,
}

/// Which `model.toml` a version has to be loaded with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LoadedWith {
    /// Whichever: it answers.
    Any,
    /// The one there is now.
    Present,
}

/// A change that somebody asks for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Of which model.
    pub model: ModelName,
    /// What is wanted.
    pub wish: Wish,
    /// Who wants it, why, and when.
    pub note: Note,
    /// The generation that this was decided on; without it, whatever there is.
    pub if_generation: Option<u64>,
}

// ===== impl Changing =====

impl Changing<'_> {
    fn begin<'a>(deployer: &'a Deployer, next: &Deployment) -> Changing<'a> {
        let versions: BTreeSet<Version> = next.answers().collect();
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

// ===== impl ModelState =====

impl ModelState {
    fn is_loaded(&self, version: Version) -> bool {
        self.versions.get(&version).is_some_and(|known| known.served.is_some())
    }

    fn live(&self) -> BTreeMap<Version, Live> {
        let is_as_wanted =
            |version, served: &ServedVersion| served.config == self.config && served.place == self.place(version);
        let live = |version, known: &Known| match (&known.loading, &known.served) {
            (Some(_), Some(_)) => Some(Live::Reloading),
            (Some(_), None) => Some(Live::Loading),
            (None, Some(served)) if is_as_wanted(version, served) => Some(Live::Loaded),
            // It was loaded anew, and that failed: it stays as it is.
            (None, Some(_)) if known.refused.is_some() => Some(Live::Loaded),
            (None, Some(_)) => Some(Live::Outdated),
            (None, None) => known.refused.as_ref().map(|_| Live::Refused),
        };
        self.versions.iter().filter_map(|(version, known)| Some((*version, live(*version, known)?))).collect()
    }

    /// Returns the place where the sessions of a version should run.
    fn place(&self, version: Version) -> SessionPlace {
        let Deployment { stable, rollback_path, .. } = &self.deployment;
        // The versions of the rollback path were promoted once.
        self.config.model.isolation.place(version == *stable || rollback_path.contains(&version))
    }

    /// Returns true if a deployment in the journal has to replace the one in effect. The generation does not tell that if
    /// the one in effect was never written.
    fn is_replaced_by(&self, written: &Deployment) -> bool {
        written.generation > self.deployment.generation || (self.is_overtaken && *written != self.deployment)
    }

    /// Returns the versions that must be loaded: those of the deployment, of a newer deployment that is to be taken
    /// over, and of pending changes.
    fn needed(&self) -> BTreeSet<Version> {
        let newer = self.newer.iter().flat_map(|newer| newer.answers());
        self.deployment.needs().chain(newer).chain(self.changing.iter().copied()).collect()
    }

    /// Returns the reason why the model is not served; `None` if it is served.
    fn why_unserved(&self) -> Option<Unserved> {
        let missing =
            self.deployment.traffic.shares().map(|(version, _)| version).find(|version| !self.is_loaded(*version));
        let (is_passing, reason) = match (missing, self.recorded) {
            (None, Recorded::Yes) => return None,
            (None, Recorded::NotYet) => (true, "its first deployment is being written".to_owned()),
            (Some(version), _) => match self.versions.get(&version) {
                Some(Known { loading: Some(_), .. }) => (true, format!("version {version} is being loaded")),
                Some(Known { refused: Some(refused), .. }) if refused.fault.is_passing() => {
                    (true, format!("version {version} was refused ({}) and is tried again", refused.fault.name()))
                }
                Some(Known { refused: Some(refused), .. }) => {
                    (false, format!("version {version} was refused ({})", refused.fault.name()))
                }
                _ if !self.found.versions.contains_key(&version) => {
                    (false, format!("version {version} is not in the repository"))
                }
                _ => (true, format!("version {version} is not loaded yet")),
            },
        };
        Some(Unserved { is_passing, reason })
    }

    fn unknown(&self, version: Version) -> Error {
        let known: BTreeSet<Version> = self.found.versions.keys().copied().collect();
        Error::UnknownVersion {
            model: self.found.name.clone(),
            version: version.to_string(),
            known: known.iter().map(Version::to_string).collect(),
        }
    }
}

// ===== impl RefusedLoad =====

impl RefusedLoad {
    /// Returns true if the load should be tried again at a look, although nothing about the version has changed.
    fn is_due(&self, look: Look, now: Instant) -> bool {
        let is_time = self.retry_at.is_some_and(|retry_at| look == Look::Asked || retry_at <= now);
        is_time && self.thread.strong_count() == 0
    }
}

/// Returns true if two problems are the same but for their numbers, such as the memory that is free.
fn is_same_but_for_numbers(one: &str, other: &str) -> bool {
    let words = |problem: &str| problem.replace(|letter: char| letter.is_ascii_digit(), "");
    words(one) == words(other)
}

/// The key of a problem with a model's `model.toml`.
fn about_config(name: &ModelName) -> String {
    format!("model.toml of {name}")
}

fn model_mut<'a>(state: &'a mut State, name: &ModelName) -> Result<&'a mut ModelState> {
    if state.models.contains_key(name) {
        return state.models.get_mut(name).ok_or_else(|| Error::internal("a model vanished"));
    }
    if state.without_config.contains_key(name) {
        let problem = state.problems.about(&about_config(name)).unwrap_or("its model.toml is wrong");
        return Err(Error::ModelUnavailable { model: name.clone(), reason: problem.to_owned() });
    }
    let known = state.models.keys().map(ModelName::to_string).collect();
    Err(Error::UnknownModel { model: name.to_string(), known })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(retry_at: Option<Instant>, thread: &Arc<Mutex<LoadStep>>) -> RefusedLoad {
        let (folder, config, thread) = (Fingerprint::default(), Fingerprint::default(), Arc::downgrade(thread));
        RefusedLoad { fault: LoadFault::Resources, problem: String::new(), folder, config, retry_at, thread }
    }

    #[test]
    fn a_passing_refusal_is_tried_again_in_time_or_when_somebody_asks() {
        let (now, thread) = (Instant::now(), Arc::new(Mutex::new(LoadStep::Waiting)));
        let later = now + Duration::from_secs(10);
        let (passing, lasting) = (refused(Some(later), &thread), refused(None, &thread));
        // The thread of a load that timed out still runs.
        assert!(!passing.is_due(Look::Asked, later));
        drop(thread);
        assert!(!passing.is_due(Look::Regular, now));
        assert!(passing.is_due(Look::Regular, later));
        assert!(passing.is_due(Look::Asked, now));
        assert!(!lasting.is_due(Look::Regular, later) && !lasting.is_due(Look::Asked, later));
    }

    #[test]
    fn problems_that_differ_in_numbers_are_the_same() {
        assert!(is_same_but_for_numbers("90 MiB are available", "1024 MiB are available"));
        assert!(!is_same_but_for_numbers("90 MiB are available", "90 threads are available"));
    }
}
