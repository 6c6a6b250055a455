//! Start of the deployer: loads the first versions. After the start, syncs with the repository.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use super::Deployer;
use super::load::{LOADS_AT_ONE_TIME, SLOW_LOADS_AT_ONE_TIME};
use super::membership::Membership;
use super::state::{Recorded, SyncReason};
use super::sync::JournalView;
use crate::api::admin::Deployment;
use crate::config::{RepositoryConfig, StartMode};
use crate::deploy::fleet::Fleet;
use crate::deploy::journal::Journal;
use crate::error::{Result, SetupError};
use crate::identity::ModelName;
use crate::registry::{Catalog, Loader, Pace};

/// Pause before the journal is read again, if it could not be read after a change.
const JOURNAL_RETRY: Duration = Duration::from_millis(250);

impl Deployer {
    /// Creates a deployer, and loads the versions that the repository and the journal ask for. A model that cannot be
    /// served is logged and skipped, or is an error at a strict start.
    pub async fn start(
        loader: Loader,
        journal: Arc<dyn Journal>,
        fleet: Arc<dyn Fleet>,
        catalog: Arc<Catalog>,
        repository: RepositoryConfig,
    ) -> Result<Arc<Deployer>, SetupError> {
        let deployer = Arc::new(Deployer {
            loader: Arc::new(loader),
            journal,
            catalog,
            repository,
            membership: Membership::new(fleet),
            state: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
            syncing: tokio::sync::Mutex::default(),
            loads: Arc::new(Semaphore::new(LOADS_AT_ONE_TIME as usize)),
            slow_loads: Arc::new(Semaphore::new(SLOW_LOADS_AT_ONE_TIME)),
            is_serving: AtomicBool::new(false),
            stopping: watch::Sender::new(false),
        });
        let view = deployer.view_repository().await?;
        let latest = match deployer.read_journal().await {
            // Nothing is served until the database answers: what is deployed must not be guessed.
            Err(SetupError::StateUnreachable(problem)) if deployer.repository.start == StartMode::Lenient => {
                JournalView::unreadable(problem)
            }
            latest => latest?,
        };
        deployer.take_in(view, &latest, BTreeMap::new(), SyncReason::Regular);
        if deployer.repository.start == StartMode::Strict {
            deployer.refuse_problems()?;
        }
        for model in latest.deployments.keys().filter(|name| !deployer.state.lock().models.contains_key(*name)) {
            tracing::warn!(%model, "the deployment journal has a model that is not in the repository, or cannot be served");
        }
        let deadline = deployer.repository.start_timeout().map(|timeout| tokio::time::sleep(timeout).deadline());
        deployer.settle(deadline).await;
        if deployer.repository.start == StartMode::Strict {
            deployer.refuse_unserved()?;
        }
        deployer.is_serving.store(true, Ordering::Relaxed);
        deployer.publish(&mut deployer.state.lock());
        Ok(deployer)
    }

    /// Fails if the repository has a problem. Called at a strict start.
    fn refuse_problems(&self) -> Result<(), SetupError> {
        let state = self.state.lock();
        if let Some(problem) = self.default_model_problem(&state) {
            return Err(SetupError::Config(problem));
        }
        state.problems.texts().into_iter().next().map_or(Ok(()), |problem| Err(SetupError::Repository(problem)))
    }

    /// Fails if a model is not served, because of the first version that is not loaded. Called at a strict start.
    fn refuse_unserved(&self) -> Result<(), SetupError> {
        let state = self.state.lock();
        for (name, model) in &state.models {
            let Some(why) = state.why_unserved(name) else { continue };
            let missing = model.deployment.serving_versions().find(|version| !model.is_loaded(*version));
            let failure = missing.and_then(|version| Some((version, model.failure(version)?)));
            let error = match (failure, missing) {
                (Some((version, failure)), _) => {
                    let (fault, message) = (failure.fault, failure.problem.clone());
                    SetupError::Load { model: name.clone(), version, fault, message }
                }
                (None, Some(version)) if !model.is_on_disk(version) => model.unknown(version).into(),
                (None, _) => SetupError::Repository(format!("model {name} cannot be served: {}", why.reason)),
            };
            return Err(if model.recorded == Recorded::Yes { in_deployment(error, &model.deployment) } else { error });
        }
        Ok(())
    }

    /// Takes over the deployments that other servers write to the journal, as soon as they are written. Never returns.
    pub async fn follow(self: Arc<Self>) {
        loop {
            self.journal.changed().await;
            loop {
                let deployer = Arc::clone(&self);
                // Spawned, so that it completes even if this future is dropped.
                match tokio::spawn(async move { deployer.sync_journal().await }).await {
                    Ok(Ok(())) => break,
                    // The next sync with the repository shows the problem.
                    Ok(Err(error)) => tracing::debug!(%error, "the deployment journal could not be read; trying again"),
                    Err(error) => tracing::error!(%error, "a sync with the deployment journal was cut off"),
                }
                tokio::time::sleep(JOURNAL_RETRY).await;
            }
        }
    }

    /// Syncs with the repository every `repository.poll_interval_ms`, for as long as the server runs.
    pub async fn poll(self: Arc<Self>) {
        let Some(interval) = self.repository.poll_interval() else { return std::future::pending().await };
        loop {
            tokio::time::sleep(interval).await;
            let deployer = Arc::clone(&self);
            // Spawned, so that a sync completes even if this future is dropped.
            if let Err(error) = tokio::spawn(async move { deployer.sync(SyncReason::Regular).await }).await {
                tracing::error!(%error, "a sync with the repository was cut off");
            }
            let names: Vec<ModelName> = self.state.lock().models.keys().cloned().collect();
            names.iter().for_each(|name| self.advance_in_background(name));
        }
    }

    /// Syncs with the repository and the journal now, and waits for the loads until `repository.reload_timeout_ms`.
    /// Slower loads continue, and are shown as loading.
    pub async fn reload(self: &Arc<Self>) {
        let deadline = tokio::time::sleep(self.repository.reload_timeout()).deadline();
        let deployer = Arc::clone(self);
        let syncing = tokio::spawn(async move {
            deployer.sync(SyncReason::Asked).await;
            deployer.settle(Some(deadline)).await;
        });
        if let Some(Err(error)) = self.until(Some(deadline), syncing).await {
            tracing::error!(%error, "a sync with the repository was cut off");
        }
    }

    /// Ends all waits for loads, because the server stops.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Returns true if a version is being loaded.
    pub fn is_loading(&self) -> bool {
        let state = self.state.lock();
        state.models.values().any(|model| model.loads().next().is_some())
    }

    /// Returns the share of the machine that a load may take now.
    pub(super) fn pace(&self) -> Pace {
        if self.is_serving.load(Ordering::Relaxed) { Pace::Background } else { Pace::Full }
    }
}

/// Adds the remedies to the error about a deployed version that cannot be served at a strict start.
fn in_deployment(error: SetupError, deployment: &Deployment) -> SetupError {
    let Deployment { model, generation, stable, traffic, .. } = deployment;
    let hint = format!(
        "generation {generation} of the deployment journal has {stable} as the stable version of {model}, and the traffic \
         {traffic}; restore the version, or deploy a good one without a server: leeway rollback {model} --offline, or \
         leeway promote {model} VERSION --offline (leeway verify says which are good)"
    );
    match error {
        SetupError::Load { model, version, fault, message } => {
            SetupError::Load { model, version, fault, message: format!("{message}\n{hint}") }
        }
        other => SetupError::Repository(format!("{other}\n{hint}")),
    }
}
