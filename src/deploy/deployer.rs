//! Owns what is loaded: looks at the repository, loads and retires versions, changes deployments, publishes snapshots.
//!
//! What is to be done is decided elsewhere (`deployment.rs`, `reconcile.rs`); here it is done. A change is written to the
//! journal before it is published, and loading is done before it is written: so what the journal says can be served.
//! No lock is held while something is loaded, so that a rollback never waits for that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot, watch};

use super::deployment::{Deployment, Note, Wish};
use super::journal::{Appended, Journal};
use super::reconcile::{Hold, Live, Step, reconcile, wanted};
use super::status::{Deployed, ModelStatus, Overview, VersionState, VersionStatus};
use crate::config::{ModelConfig, RepositoryConfig};
use crate::error::{Error, LoadFault, Result};
use crate::identity::{ModelName, Version};
use crate::monitor::DeployedShare;
use crate::registry::{
    Catalog, Fingerprint, FoundModel, LoadOrder, LoadStep, Loader, Manifest, Pace, PreparedVersion, ServedModel,
    ServedVersion, Snapshot, VerifiedVersion, lower_priority_of_this_thread, scan,
};
use crate::traffic::Share;

/// How often a change is tried anew that was decided on a state which is gone, if that does not matter to who wants it.
const ATTEMPTS: usize = 16;

/// Loads that go on at one time: each takes the memory of a model, and one of them the other cores.
const LOADS_AT_ONE_TIME: usize = 2;

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
}

/// What is known of the repository.
#[derive(Debug, Default)]
struct State {
    models: BTreeMap<ModelName, ModelState>,
    problems: Vec<String>,
}

/// What is known of a model.
#[derive(Debug)]
struct ModelState {
    found: FoundModel,
    config: Arc<ModelConfig>,
    config_mark: Fingerprint,
    config_problem: Option<String>,
    deployment: Deployment,
    deployment_problem: Option<String>,
    versions: BTreeMap<Version, Known>,
    holds: BTreeMap<Version, Hold>,
}

/// What is known of a version that somebody wanted to be loaded.
#[derive(Debug, Default)]
struct Known {
    served: Option<Arc<ServedVersion>>,
    loading: Option<Loading>,
    refused: Option<RefusedLoad>,
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

/// A load that failed, and what it failed on: it is not tried again before one of them has changed.
#[derive(Debug)]
struct RefusedLoad {
    fault: LoadFault,
    problem: String,
    folder: Fingerprint,
    config: Fingerprint,
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

// ===== starting =====

impl Deployer {
    /// Loads what the repository and the journal ask for. The first version that is needed and cannot be served is an
    /// error; others are passed over with a line in the log.
    pub async fn start(
        loader: Loader,
        journal: Arc<dyn Journal>,
        catalog: Arc<Catalog>,
        repository: RepositoryConfig,
    ) -> Result<Arc<Deployer>> {
        let deployer = Arc::new(Deployer {
            loader: Arc::new(loader),
            journal,
            catalog,
            repository,
            state: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
            looking: tokio::sync::Mutex::default(),
            loads: Arc::new(Semaphore::new(LOADS_AT_ONE_TIME)),
        });
        let found: Vec<FoundModel> = scan(&deployer.repository.path)?.into_iter().collect::<Result<_>>()?;
        if let Some(name) = &deployer.repository.default_model
            && !found.iter().any(|model| model.name == *name)
        {
            let names: Vec<String> = found.iter().map(|model| model.name.to_string()).collect();
            return Err(Error::Config(format!(
                "repository.default_model: there is no model {name} in the repository; it has {}",
                names.join(", ")
            )));
        }
        let mut deployments: BTreeMap<ModelName, Deployment> = deployer
            .journal
            .latest()
            .await?
            .into_iter()
            .map(|deployment| (deployment.model.clone(), deployment))
            .collect();
        for found in found {
            let deployment = deployments.remove(&found.name);
            deployer.take_in(found, deployment, Pace::Full).await?;
        }
        for model in deployments.keys() {
            tracing::warn!(%model, "the deployment journal has a model that is not in the repository");
        }
        deployer.publish(&mut deployer.state.lock());
        Ok(deployer)
    }

    /// Begins to serve a model. One that the journal does not know yet begins with its highest version.
    async fn take_in(self: &Arc<Self>, found: FoundModel, known: Option<Deployment>, pace: Pace) -> Result<()> {
        let name = found.name.clone();
        let config_mark = Fingerprint::of_file(&found.config);
        // What is wrong with a model is told as such, wherever it stands.
        let config = ModelConfig::read(&found.config).map_err(|error| Error::Repository(error.to_string()))?;
        let Some(highest) = found.versions.keys().next_back().copied() else {
            return Err(Error::Repository(format!("model {name} has no version")));
        };
        let is_new = known.is_none();
        let deployment = known.unwrap_or_else(|| Deployment::first(name.clone(), highest, Timestamp::now()));
        let model = ModelState {
            found,
            config: Arc::new(config),
            config_mark,
            config_problem: None,
            deployment: deployment.clone(),
            deployment_problem: None,
            versions: BTreeMap::new(),
            holds: BTreeMap::new(),
        };
        self.state.lock().models.insert(name.clone(), model);
        let loaded = self.load_deployed(&deployment, pace).await;
        let recorded = match (loaded, is_new) {
            (Ok(()), true) => self.record_first(&deployment, pace).await,
            (Err(error), false) => Err(in_deployment(error, &deployment)),
            (loaded, _) => loaded,
        };
        if let Err(error) = recorded {
            self.state.lock().models.remove(&name);
            self.loader.monitor.deployments().forget(name.as_str());
            return Err(error);
        }
        let others: Vec<Version> = {
            let state = self.state.lock();
            let Some(model) = state.models.get(&name) else { return Ok(()) };
            let load = |step| match step {
                Step::Load(version) => Some(version),
                Step::Retire(_) => None,
            };
            self.steps(model).into_iter().filter_map(load).collect()
        };
        for version in others {
            // It is logged, and shown in the state: nobody asks this version yet.
            let _ = self.load(&name, version, LoadedWith::Present, pace).await;
        }
        Ok(())
    }

    /// Writes the first deployment of a model, or takes over that of another server which was faster.
    async fn record_first(self: &Arc<Self>, first: &Deployment, pace: Pace) -> Result<()> {
        match self.journal.append(first).await.map_err(|error| self.journal_failed(error))? {
            Appended::Written | Appended::Lost(None) => Ok(()),
            Appended::Lost(Some(latest)) => {
                self.load_deployed(&latest, pace).await?;
                model_mut(&mut self.state.lock(), &first.model)?.deployment = latest;
                Ok(())
            }
        }
    }

    /// Loads the versions without which a deployment cannot be, if they are not loaded already.
    async fn load_deployed(self: &Arc<Self>, deployment: &Deployment, pace: Pace) -> Result<()> {
        for version in deployment.answers().collect::<BTreeSet<_>>() {
            self.load(&deployment.model, version, LoadedWith::Any, pace).await?;
        }
        Ok(())
    }

    /// Looks at the repository again and again, for as long as the server runs.
    pub async fn poll(self: Arc<Self>) {
        let Some(interval) = self.repository.poll_interval() else { return std::future::pending().await };
        loop {
            tokio::time::sleep(interval).await;
            self.look().await;
        }
    }
}

// ===== loading =====

impl Deployer {
    /// Loads a version, unless it is loaded already. Goes on if nobody waits any more.
    async fn load(self: &Arc<Self>, name: &ModelName, version: Version, with: LoadedWith, pace: Pace) -> Result<()> {
        let mut done = {
            let mut state = self.state.lock();
            let model = model_mut(&mut state, name)?;
            let Some(folder) = model.found.versions.get(&version).cloned() else {
                let known = model.versions.get(&version).is_some_and(|known| known.served.is_some());
                // What is in memory can be served, whatever became of its files.
                return if known { Ok(()) } else { Err(model.unknown(version)) };
            };
            let order = LoadOrder {
                model: name.clone(),
                version,
                config_file: model.found.config.clone(),
                config: Arc::clone(&model.config),
                folder,
                pace,
            };
            let config_mark = model.config_mark.clone();
            let known = model.versions.entry(version).or_default();
            let is_good = |served: &Arc<ServedVersion>| with == LoadedWith::Any || served.config == order.config;
            if known.served.as_ref().is_some_and(is_good) {
                return Ok(());
            }
            match &known.loading {
                Some(loading) => loading.done.clone(),
                None => {
                    let (finished, done) = watch::channel(None);
                    let step = Arc::new(Mutex::new(LoadStep::Waiting));
                    known.loading =
                        Some(Loading { step: Arc::clone(&step), since: Timestamp::now(), done: done.clone() });
                    tokio::spawn(Arc::clone(self).run_load(order, config_mark, step, finished));
                    done
                }
            }
        };
        let gone = || Error::internal("a load ended without a result");
        done.wait_for(Option::is_some).await.map_err(|_| gone())?.clone().unwrap_or_else(|| Err(gone()))
    }

    async fn run_load(
        self: Arc<Self>,
        order: LoadOrder,
        config_mark: Fingerprint,
        step: Arc<Mutex<LoadStep>>,
        finished: watch::Sender<Option<Result<()>>>,
    ) {
        let (name, version) = (order.model.clone(), order.version);
        let folder = Fingerprint::of(&order.folder);
        let place = Arc::clone(&self.loads).acquire_owned().await;
        let prepared = self.prepare(&order, step).await;
        let loaded = prepared.and_then(|prepared| self.loader.start(&order, prepared));
        drop(place);
        let outcome = loaded.as_ref().map(drop).map_err(Clone::clone);
        {
            let mut state = self.state.lock();
            if let Some(model) = state.models.get_mut(&name) {
                let known = model.versions.entry(version).or_default();
                known.loading = None;
                match loaded {
                    Ok(served) => {
                        known.compared = served.fingerprint.clone();
                        (known.refused, known.altered) = (None, None);
                        known.served = Some(Arc::new(served));
                    }
                    Err(error) => {
                        let (fault, problem) = match error {
                            Error::Load { fault, message, .. } => (fault, message),
                            other => {
                                (LoadFault::Internal, other.detail().map_or_else(|| other.to_string(), str::to_owned))
                            }
                        };
                        tracing::error!(model = %name, %version, reason = fault.name(), problem, "not loaded");
                        self.loader.monitor.deployments().load_failed(name.as_str(), fault);
                        known.refused = Some(RefusedLoad { fault, problem, folder, config: config_mark });
                    }
                }
                self.publish(&mut state);
            }
        }
        // Nobody may wait any more.
        let _ = finished.send(Some(outcome));
    }

    /// On a thread of its own, that gives way to those which serve.
    async fn prepare(&self, order: &LoadOrder, step: Arc<Mutex<LoadStep>>) -> Result<PreparedVersion> {
        let (loader, order, pace) = (Arc::clone(&self.loader), order.clone(), order.pace);
        let prepare = move || loader.prepare(&order, &|now| *step.lock() = now);
        self.on_a_thread(pace, "loader", prepare).await.and_then(|prepared| prepared)
    }

    /// Does something that takes long on a thread of its own.
    async fn on_a_thread<T: Send + 'static>(
        &self,
        pace: Pace,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let (sender, receiver) = oneshot::channel();
        let work = move || {
            if pace == Pace::Background {
                lower_priority_of_this_thread();
            }
            // Nobody may wait any more.
            let _ = sender.send(work());
        };
        std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(Error::internal)?;
        receiver.await.map_err(|_| Error::internal("a thread panicked; its message is in the log above"))
    }

    /// Makes what is loaded and deployed what new requests see.
    fn publish(&self, state: &mut State) {
        let mut models = BTreeMap::new();
        for (name, model) in &state.models {
            let versions: BTreeMap<Version, Arc<ServedVersion>> = model
                .versions
                .iter()
                .filter_map(|(version, known)| Some((*version, Arc::clone(known.served.as_ref()?))))
                .collect();
            let Deployment { traffic, stable, generation, deployed_at, .. } = &model.deployment;
            if !traffic.shares().all(|(version, _)| versions.contains_key(&version)) {
                // It is being taken in.
                continue;
            }
            let shown = |(version, _): (&Version, &Arc<ServedVersion>)| DeployedShare {
                version: version.to_string(),
                ratio: traffic.share(*version).ratio(),
                deployed_at: deployed_at.get(version).map(|at| at.as_duration().as_secs_f64()),
                is_altered: model.versions.get(version).is_some_and(|known| known.altered.is_some()),
            };
            let shares = versions.iter().map(shown).collect();
            self.loader.monitor.deployments().deployed(name.as_str(), *generation, shares);
            let description = versions.values().next_back().and_then(|version| version.config.description.clone());
            let (split, stable) = (traffic.clone(), *stable);
            models.insert(name.clone(), ServedModel { description, versions, stable, split });
        }
        self.catalog.publish(Snapshot::new(models, self.repository.default_model.as_ref()));
    }
}

// ===== changing =====

impl Deployer {
    /// Makes a change: loads what it needs, writes it to the journal, publishes it. Goes on if nobody waits any more.
    pub async fn change(self: &Arc<Self>, request: Request) -> Result<Deployed> {
        let changing = tokio::spawn(Arc::clone(self).change_to_the_end(request));
        changing.await.map_err(|error| Error::internal(format_args!("a change broke off: {error}")))?
    }

    async fn change_to_the_end(self: Arc<Self>, request: Request) -> Result<Deployed> {
        for _ in 0..ATTEMPTS {
            let present = self.deployment(&request.model)?;
            check_generation(&request, &present)?;
            let before = present.traffic.shares().collect();
            let Some(next) = present.after(&request.wish, &request.note)? else {
                return Ok(Deployed { changed: false, deployment: present, before });
            };
            self.load_deployed(&next, Pace::Background).await.map_err(|error| match error {
                Error::Load { version, message, .. } => {
                    Error::ChangeRefused(format!("version {version} cannot be loaded: {message}"))
                }
                other => other,
            })?;
            let writing = self.writing.lock().await;
            fail::fail_point!("change::before_the_journal");
            // Meanwhile something else may have been deployed, or one of the versions retired.
            if self.deployment(&request.model)?.generation == present.generation && self.is_loaded(&next) {
                match self.journal.append(&next).await.map_err(|error| self.journal_failed(error))? {
                    Appended::Written => {
                        fail::fail_point!("change::in_the_journal");
                        self.take_over(&next);
                        fail::fail_point!("change::published");
                        return Ok(Deployed { changed: true, deployment: next, before });
                    }
                    Appended::Lost(Some(latest)) => {
                        drop(writing);
                        self.catch_up(&latest).await;
                    }
                    Appended::Lost(None) => {
                        return Err(Error::Journal("it has lost the model's deployments".to_owned()));
                    }
                }
            }
        }
        Err(Error::ChangeRefused(format!("model {} is changed by others all the time; try again", request.model)))
    }

    /// Whether the versions are loaded without which a deployment cannot be.
    fn is_loaded(&self, deployment: &Deployment) -> bool {
        let state = self.state.lock();
        let model = state.models.get(&deployment.model);
        model.is_some_and(|model| deployment.answers().all(|version| model.is_loaded(version)))
    }

    /// Makes a deployment that is in the journal, and whose versions are loaded, the present one.
    fn take_over(&self, next: &Deployment) {
        let mut state = self.state.lock();
        let Some(model) = state.models.get_mut(&next.model) else { return };
        let before = std::mem::replace(&mut model.deployment, next.clone());
        model.deployment_problem = None;
        // What is needed now need not be kept because somebody said so.
        for version in next.needs() {
            model.holds.remove(&version);
        }
        self.publish(&mut state);
        drop(state);
        let Deployment { model, generation, stable, traffic, change, .. } = next;
        tracing::info!(
            %model, generation, %stable, %traffic, action = change.action.name(), by = change.by, reason = change.reason,
            before = %before.traffic, "deployed"
        );
        self.loader.monitor.deployments().changed(model.as_str(), change.action.name());
    }

    /// Loads a version and keeps it loaded.
    pub async fn hold_loaded(self: &Arc<Self>, name: &ModelName, version: Version) -> Result<()> {
        model_mut(&mut self.state.lock(), name)?.holds.insert(version, Hold::Loaded);
        let loaded = self.load(name, version, LoadedWith::Any, Pace::Background).await;
        loaded.map_err(|error| match error {
            Error::Load { message, .. } => {
                Error::ChangeRefused(format!("version {version} cannot be loaded: {message}"))
            }
            other => other,
        })
    }

    /// Takes a version out of memory and keeps it out, if the deployment does not need it.
    pub async fn hold_unloaded(&self, name: &ModelName, version: Version) -> Result<()> {
        // Nothing that is about to be deployed is taken away.
        let _writing = self.writing.lock().await;
        let mut state = self.state.lock();
        let model = model_mut(&mut state, name)?;
        if !model.found.versions.contains_key(&version) && !model.versions.contains_key(&version) {
            return Err(model.unknown(version));
        }
        if let Some(need) = why_needed(&model.deployment, version) {
            return Err(Error::ChangeRefused(format!("version {version} of model {name} is not unloaded: it {need}")));
        }
        model.holds.insert(version, Hold::Unloaded);
        if let Some(known) = model.versions.get_mut(&version)
            && known.served.take().is_some()
        {
            tracing::info!(model = %name, %version, "unloaded, as asked");
        }
        self.publish(&mut state);
        Ok(())
    }

    fn deployment(&self, name: &ModelName) -> Result<Deployment> {
        model_mut(&mut self.state.lock(), name).map(|model| model.deployment.clone())
    }

    fn journal_failed(&self, error: Error) -> Error {
        self.loader.monitor.deployments().journal_failed();
        error
    }
}

fn check_generation(request: &Request, present: &Deployment) -> Result<()> {
    match request.if_generation {
        Some(expected) if expected != present.generation => Err(Error::Conflict {
            message: format!(
                "model {} is at generation {}, and this was decided on generation {expected}; look at what has changed and \
                 decide again",
                request.model, present.generation
            ),
            present: serde_json::to_value(present).map_err(Error::internal)?,
        }),
        _ => Ok(()),
    }
}

fn why_needed(deployment: &Deployment, version: Version) -> Option<String> {
    let share = deployment.traffic.share(version);
    if share != Share::NONE {
        Some(format!("has {share} of the traffic"))
    } else if version == deployment.stable {
        Some("is the stable version".to_owned())
    } else if deployment.rollback_path.last() == Some(&version) {
        Some("is where a rollback leads".to_owned())
    } else {
        None
    }
}

/// What to do where a version that the journal wants cannot be served at the start.
fn in_deployment(error: Error, deployment: &Deployment) -> Error {
    let Deployment { model, generation, traffic, .. } = deployment;
    let hint = format!(
        "generation {generation} of the deployment journal gives the traffic of {model} to {traffic}; restore the version, \
         or change that without a server: leeway rollback {model} --offline"
    );
    match error {
        Error::Load { model, version, fault, message } => {
            Error::Load { model, version, fault, message: format!("{message}\n{hint}") }
        }
        other => Error::Repository(format!("{other}\n{hint}")),
    }
}

// ===== looking =====

/// What was seen of a model on disk, without a lock.
struct Seen {
    found: FoundModel,
    config_mark: Fingerprint,
    folders: BTreeMap<Version, Fingerprint>,
}

impl Deployer {
    /// Looks at the repository and the journal, and does what is to be done. What is bad changes nothing but what is
    /// shown of it.
    pub async fn look(self: &Arc<Self>) {
        let _looking = self.looking.lock().await;
        let path = self.repository.path.clone();
        let look = move || -> Result<(Vec<Seen>, Vec<String>)> {
            let (mut seen, mut problems) = (Vec::new(), Vec::new());
            for found in scan(&path)? {
                match found {
                    Ok(found) => seen.push(Seen {
                        config_mark: Fingerprint::of_file(&found.config),
                        folders: found.versions.iter().map(|(version, at)| (*version, Fingerprint::of(at))).collect(),
                        found,
                    }),
                    Err(error) => problems.push(error.to_string()),
                }
            }
            Ok((seen, problems))
        };
        let looked = self.on_a_thread(Pace::Background, "repository", look).await;
        let (seen, mut problems) = match looked.and_then(|looked| looked) {
            Ok(seen) => seen,
            Err(error) => (Vec::new(), vec![error.to_string()]),
        };
        for gone in self.state.lock().models.keys().filter(|name| !seen.iter().any(|seen| seen.found.name == **name)) {
            problems.push(format!("model {gone} is served from memory: its folder is not there any more, or is none"));
        }
        self.note_problems(problems);
        let mut deployments = match self.journal.latest().await {
            Ok(latest) => latest.into_iter().map(|deployment| (deployment.model.clone(), deployment)).collect(),
            Err(error) => {
                tracing::error!(%error, "the deployment journal could not be read");
                self.journal_failed(error);
                BTreeMap::new()
            }
        };
        for seen in seen {
            let name = seen.found.name.clone();
            let latest = deployments.remove(&name);
            if !self.state.lock().models.contains_key(&name) {
                if let Err(error) = self.take_in(seen.found, latest, Pace::Background).await {
                    self.note_problems_too(format!("{error}"));
                }
                self.publish(&mut self.state.lock());
                continue;
            }
            self.update(&name, seen);
            self.compare_files(&name).await;
            if let Some(latest) = latest {
                self.catch_up(&latest).await;
            }
            self.carry_out(&name).await;
        }
    }

    fn note_problems(&self, problems: Vec<String>) {
        let mut state = self.state.lock();
        for problem in problems.iter().filter(|problem| !state.problems.contains(problem)) {
            tracing::error!(problem, "the repository is not as it should be; what is served stays as it is");
        }
        self.loader.monitor.deployments().set_repository_errors(problems.len());
        state.problems = problems;
    }

    fn note_problems_too(&self, problem: String) {
        let mut problems = self.state.lock().problems.clone();
        problems.push(problem);
        self.note_problems(problems);
    }

    /// Takes note of new versions and of a changed `model.toml`.
    fn update(&self, name: &ModelName, seen: Seen) {
        let mut state = self.state.lock();
        let Some(model) = state.models.get_mut(name) else { return };
        for version in seen.found.versions.keys().filter(|version| !model.found.versions.contains_key(version)) {
            tracing::info!(model = %name, %version, "a new version is in the repository");
        }
        model.found = seen.found;
        // What was refused is tried again when something about it has changed.
        model.versions.retain(|version, known| {
            let unchanged = |refused: &RefusedLoad| {
                seen.folders.get(version) == Some(&refused.folder) && refused.config == seen.config_mark
            };
            if known.refused.as_ref().is_some_and(|refused| !unchanged(refused)) {
                known.refused = None;
            }
            known.served.is_some() || known.loading.is_some() || known.refused.is_some()
        });
        model.holds.retain(|version, _| model.found.versions.contains_key(version));
        if model.config_mark == seen.config_mark {
            return;
        }
        model.config_mark = seen.config_mark;
        match ModelConfig::read(&model.found.config) {
            Ok(config) => {
                model.config_problem = None;
                if config != *model.config {
                    tracing::info!(model = %name, "model.toml has changed; the versions are loaded anew with it");
                    model.config = Arc::new(config);
                }
            }
            Err(error) => {
                tracing::error!(model = %name, %error, "model.toml has changed and is wrong; what is served stays as it is");
                self.loader.monitor.deployments().load_failed(name.as_str(), LoadFault::Config);
                model.config_problem = Some(error.to_string());
            }
        }
    }

    /// Compares the files of loaded versions with what was loaded, where their folder looks different.
    async fn compare_files(self: &Arc<Self>, name: &ModelName) {
        let loaded: Vec<Arc<ServedVersion>> = {
            let state = self.state.lock();
            let Some(model) = state.models.get(name) else { return };
            let differs = |known: &&Known| {
                known.served.as_ref().is_some_and(|served| Fingerprint::of(&served.folder) != known.compared)
            };
            model.versions.values().filter(differs).filter_map(|known| known.served.clone()).collect()
        };
        for served in loaded {
            let version = served.version;
            let now = Fingerprint::of(&served.folder);
            let compare = move || match VerifiedVersion::read(&served.folder) {
                Ok(found) if found.manifest == served.manifest => None,
                Ok(_) => Some("version.toml is not what it was when the version was loaded".to_owned()),
                Err(refusal) => Some(refusal.to_string()),
            };
            let compared = self.on_a_thread(Pace::Background, "verifier", compare).await;
            let altered = compared.unwrap_or_else(|error| Some(error.to_string()));
            if let Some(problem) = &altered {
                tracing::error!(
                    model = %name, %version, problem,
                    "ALARM: the files of a loaded version have changed; it goes on as it was loaded"
                );
            }
            let mut state = self.state.lock();
            if let Some(known) = state.models.get_mut(name).and_then(|model| model.versions.get_mut(&version)) {
                (known.compared, known.altered) = (now, altered);
            }
            self.publish(&mut state);
        }
    }

    /// Takes over a deployment that another process has written.
    async fn catch_up(self: &Arc<Self>, latest: &Deployment) {
        if self.deployment(&latest.model).is_ok_and(|present| present.generation >= latest.generation) {
            return;
        }
        let loaded = self.load_deployed(latest, Pace::Background).await;
        let _writing = self.writing.lock().await;
        match (loaded, self.deployment(&latest.model)) {
            // If one of them was retired meanwhile, the next look takes it over.
            (Ok(()), Ok(present)) if present.generation < latest.generation && self.is_loaded(latest) => {
                self.take_over(latest);
            }
            (Err(error), Ok(_)) => {
                let generation = latest.generation;
                tracing::error!(model = %latest.model, generation, %error, "a newer deployment cannot be taken over");
                if let Some(model) = self.state.lock().models.get_mut(&latest.model) {
                    model.deployment_problem = Some(format!("generation {generation}: {error}"));
                }
            }
            _ => {}
        }
    }

    /// Loads what should be loaded, and retires what should not.
    async fn carry_out(self: &Arc<Self>, name: &ModelName) {
        let steps = match self.state.lock().models.get(name) {
            Some(model) => self.steps(model),
            None => return,
        };
        for step in steps {
            match step {
                // A failure is logged, and shown in the state.
                Step::Load(version) => drop(self.load(name, version, LoadedWith::Present, Pace::Background).await),
                Step::Retire(version) => {
                    // Nothing that is about to be deployed is taken away.
                    let _writing = self.writing.lock().await;
                    let mut state = self.state.lock();
                    // The deployment may have changed since.
                    if let Some(model) = state.models.get_mut(name)
                        && !model.deployment.needs().any(|needed| needed == version)
                        && let Some(known) = model.versions.get_mut(&version)
                    {
                        // Its workers end when the last request that has it is answered.
                        known.served = None;
                        tracing::info!(model = %name, %version, "retired");
                        self.publish(&mut state);
                    }
                }
            }
        }
    }

    fn steps(&self, model: &ModelState) -> Vec<Step> {
        let on_disk = model.found.versions.keys().copied().collect();
        let wanted = wanted(&on_disk, &model.deployment, self.repository.newest_versions, &model.holds);
        let wanted =
            wanted.into_iter().filter(|version| on_disk.contains(version) || model.is_loaded(*version)).collect();
        reconcile(&wanted, &model.live())
    }
}

impl ModelState {
    fn is_loaded(&self, version: Version) -> bool {
        self.versions.get(&version).is_some_and(|known| known.served.is_some())
    }

    fn live(&self) -> BTreeMap<Version, Live> {
        let live = |known: &Known| match (&known.loading, &known.served) {
            (Some(_), _) => Some(Live::Loading),
            (None, Some(served)) if served.config == self.config => Some(Live::Loaded),
            // It was loaded anew, and that failed: it stays as it is.
            (None, Some(_)) if known.refused.is_some() => Some(Live::Loaded),
            (None, Some(_)) => Some(Live::Outdated),
            (None, None) => known.refused.as_ref().map(|_| Live::Refused),
        };
        self.versions.iter().filter_map(|(version, known)| Some((*version, live(known)?))).collect()
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

fn model_mut<'a>(state: &'a mut State, name: &ModelName) -> Result<&'a mut ModelState> {
    if state.models.contains_key(name) {
        return state.models.get_mut(name).ok_or_else(|| Error::internal("a model vanished"));
    }
    let known = state.models.keys().map(ModelName::to_string).collect();
    Err(Error::UnknownModel { model: name.to_string(), known })
}

// ===== showing =====

impl Deployer {
    /// All models, as they are now.
    pub fn overview(&self) -> Overview {
        let state = self.state.lock();
        Overview { models: state.models.values().map(status).collect(), problems: state.problems.clone() }
    }

    /// A model, as it is now.
    pub fn model(&self, name: &ModelName) -> Result<ModelStatus> {
        model_mut(&mut self.state.lock(), name).map(|model| status(model))
    }

    /// A version of a model, as it is now.
    pub fn version(&self, name: &ModelName, version: Version) -> Result<VersionStatus> {
        let mut state = self.state.lock();
        let model = model_mut(&mut state, name)?;
        let found = status(model).versions.into_iter().find(|status| status.version == version);
        found.ok_or_else(|| model.unknown(version))
    }

    /// Deployments of a model before this generation, the newest first.
    pub async fn history(&self, name: &ModelName, before: u64, limit: u32) -> Result<Vec<Deployment>> {
        self.deployment(name)?;
        self.journal.history(name, before, limit).await.map_err(|error| self.journal_failed(error))
    }
}

fn status(model: &ModelState) -> ModelStatus {
    let versions: BTreeSet<Version> = model.found.versions.keys().chain(model.versions.keys()).copied().collect();
    ModelStatus {
        model: model.found.name.clone(),
        deployment: model.deployment.clone(),
        config_problem: model.config_problem.clone(),
        deployment_problem: model.deployment_problem.clone(),
        versions: versions.into_iter().rev().map(|version| version_status(model, version)).collect(),
    }
}

fn version_status(model: &ModelState, version: Version) -> VersionStatus {
    let nothing = Known::default();
    let known = model.versions.get(&version).unwrap_or(&nothing);
    let served = known.served.as_ref();
    let state = match (&known.loading, &known.refused) {
        (Some(Loading { step, since, .. }), _) if served.is_none() => {
            VersionState::Loading { step: *step.lock(), since: *since }
        }
        (_, Some(RefusedLoad { fault, problem, .. })) if served.is_none() => {
            VersionState::Refused { fault: *fault, problem: problem.clone() }
        }
        _ if served.is_some() => VersionState::Loaded,
        _ => VersionState::Available,
    };
    // Of a version that is not loaded, the manifest as it stands there: nothing is verified.
    let on_disk = || model.found.versions.get(&version).and_then(|folder| Manifest::read(folder).ok()).map(Arc::new);
    let manifest = served.map(|served| Arc::clone(&served.manifest)).or_else(on_disk);
    VersionStatus {
        version,
        state,
        stable: version == model.deployment.stable,
        traffic_percent: model.deployment.traffic.share(version),
        deployed_at: model.deployment.deployed_at.get(&version).copied(),
        loaded_at: served.map(|served| served.loaded_at),
        load_ms: served.map(|served| u64::try_from(served.load_took.as_millis()).unwrap_or(u64::MAX)),
        sha256: manifest.as_ref().map(|manifest| manifest.identity()),
        reload_problem: known.refused.as_ref().filter(|_| served.is_some()).map(|refused| refused.problem.clone()),
        altered: known.altered.clone(),
        manifest,
    }
}
