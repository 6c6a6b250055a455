//! The next steps of a model: its first deployment, a newer deployment, loads, retirements, comparisons of its files.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;

use jiff::Timestamp;

use super::Deployer;
use super::load::ConfigRequirement;
use super::state::{ModelState, Recorded};
use crate::api::admin::Deployment;
use crate::deploy::deployment::{ChangeNote, ChangeRequest, Transition};
use crate::deploy::journal::Appended;
use crate::deploy::lifecycle::Event;
use crate::deploy::reconcile::{LoadState, ReconcileAction, reconcile, wanted};
use crate::deploy::repository_view::{Comparison, compare};
use crate::error::OperatorError;
use crate::identity::{ModelName, Sha256, Version};
use crate::registry::{Pace, ServedVersion};

impl Deployer {
    /// Takes the next steps of a model: first or newer deployment, loads, retirements. Does not wait for loads: each
    /// load calls this again when it ends.
    pub(super) async fn advance(self: &Arc<Self>, name: &ModelName) {
        self.deploy_first(name).await;
        self.take_over_newer(name).await;
        self.apply_file(name);
        let mut steps = match self.state.lock().models.get(name) {
            Some(model) => {
                let mut steps = self.steps(model);
                let needed = model.needed();
                // Versions that callers wait for are loaded first.
                steps.sort_by_key(|step| match step {
                    ReconcileAction::Load(version) => (0, !needed.contains(version)),
                    ReconcileAction::Retire(_) => (1, false),
                });
                steps
            }
            None => return,
        };
        for step in steps.drain(..) {
            match step {
                // A failure is logged and shown in the state.
                ReconcileAction::Load(version) => drop(self.start_load(name, version, ConfigRequirement::Present)),
                ReconcileAction::Retire(version) => self.retire(name, version).await,
            }
        }
        self.publish(&mut self.state.lock());
    }

    /// Takes the next steps of a model, and compares its files with what was loaded, in the background.
    pub(super) fn advance_in_background(self: &Arc<Self>, name: &ModelName) {
        let (deployer, name) = (Arc::clone(self), name.clone());
        let advancing = async move {
            deployer.advance(&name).await;
            // One comparison at a time is enough.
            let comparing = deployer.comparing(&name).and_then(|comparing| comparing.try_lock_owned().ok());
            if let Some(comparing) = comparing {
                deployer.compare_files(&name, comparing).await;
            }
        };
        // Boxed because the future is recursive: a load that ends calls this, and this starts the next load.
        let advancing: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(advancing);
        tokio::spawn(advancing);
    }

    /// Takes the next steps for all models until nothing is left to load, or until the deadline.
    pub(super) async fn settle(self: &Arc<Self>, deadline: Option<tokio::time::Instant>) {
        let names: Vec<ModelName> = self.state.lock().models.keys().cloned().collect();
        let mut settling = tokio::task::JoinSet::new();
        for name in names {
            let deployer = Arc::clone(self);
            settling.spawn(async move { deployer.settle_model(&name, deadline).await });
        }
        while settling.join_next().await.is_some() {}
    }

    async fn settle_model(self: &Arc<Self>, name: &ModelName, deadline: Option<tokio::time::Instant>) {
        let (deployer, compared) = (Arc::clone(self), name.clone());
        let comparing = tokio::spawn(async move {
            if let Some(comparing) = deployer.comparing(&compared) {
                deployer.compare_files(&compared, comparing.lock_owned().await).await;
            }
        });
        loop {
            self.advance(name).await;
            let loading = |model: &ModelState| model.loads().next().map(|(_, load)| load.done.clone());
            let Some(mut done) = self.state.lock().models.get(name).and_then(loading) else { break };
            if !matches!(self.until(deadline, done.wait_for(Option::is_some)).await, Some(Ok(_))) {
                break;
            }
        }
        // A longer comparison continues in the background.
        let _ = self.until(deadline, comparing).await;
    }

    /// Waits for a future until the deadline, or until the server stops. `None` if the future has not ended by then.
    pub(super) async fn until<F: Future>(&self, deadline: Option<tokio::time::Instant>, what: F) -> Option<F::Output> {
        let mut stopping = self.stopping.subscribe();
        let over = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            done = what => Some(done),
            () = over => None,
            _ = stopping.wait_for(|stopping| *stopping) => None,
        }
    }

    /// Writes the first deployment of a new model, for the highest version that was not refused, once that version is
    /// loaded. If another server has already written a deployment, takes over that one.
    pub(super) async fn deploy_first(self: &Arc<Self>, name: &ModelName) {
        let first = {
            let mut state = self.state.lock();
            let Some(model) = state.models.get_mut(name).filter(|model| model.recorded != Recorded::Yes) else {
                return;
            };
            let Some(first) = first_deployment(name, model) else { return };
            if model.deployment.traffic != first.traffic || model.deployment.file != first.file {
                model.deployment = first;
            }
            if !model.deployment.serving_versions().all(|version| model.is_loaded(version)) {
                return;
            }
            model.deployment.clone()
        };
        let _writing = self.writing.lock().await;
        let appended = self.journal.append(&first).await;
        let mut state = self.state.lock();
        let Some(model) = state.models.get_mut(name).filter(|model| model.recorded != Recorded::Yes) else { return };
        match appended {
            Ok(Appended::Written) if model.deployment == first => model.recorded = Recorded::Yes,
            Ok(Appended::Lost(Some(latest))) => (model.deployment, model.recorded) = (latest, Recorded::Yes),
            // The highest version has changed meanwhile. The next call writes the deployment.
            Ok(_) => {}
            // A full disk must not prevent a model from being served.
            Err(error) if model.deployment == first => {
                model.recorded = Recorded::Yes;
                drop(state);
                self.keep_unwritten(&first, &self.journal_failed(error));
            }
            Err(error) => drop(self.journal_failed(error)),
        }
    }

    /// Deploys what `deployment.toml` says, in the background, if the file is new or has changed.
    fn apply_file(self: &Arc<Self>, name: &ModelName) {
        let file = {
            let mut state = self.state.lock();
            let Some(model) = state.models.get_mut(name).filter(|model| model.recorded == Recorded::Yes) else {
                return;
            };
            let Some(file) = model.wish().cloned() else {
                (model.applied_file, model.file_problem) = (None, None);
                return;
            };
            if model.deployment.file == Some(file.sha256) {
                (model.applied_file, model.file_problem) = (Some(file.sha256), None);
            }
            if model.is_applying || model.is_withdrawn || model.applied_file == Some(file.sha256) {
                return;
            }
            model.is_applying = true;
            file
        };
        let (deployer, model) = (Arc::clone(self), name.clone());
        tokio::spawn(async move {
            let note = ChangeNote { by: file.by.clone(), reason: file.reason.clone(), at: Timestamp::now() };
            let wish = Transition::File(Arc::clone(&file));
            let request = ChangeRequest { model: model.clone(), wish, note, if_generation: None };
            let applied = deployer.change(request).await;
            deployer.note_file(&model, file.sha256, applied.err());
        });
    }

    /// Records the result of applying a `deployment.toml`. A failure is tried again at the next sync.
    fn note_file(&self, name: &ModelName, sha256: Sha256, failure: Option<OperatorError>) {
        let mut state = self.state.lock();
        let Some(model) = state.models.get_mut(name) else { return };
        model.is_applying = false;
        match failure {
            None => (model.applied_file, model.file_problem) = (Some(sha256), None),
            Some(error) => {
                let problem = error.for_operators();
                if model.file_problem.as_ref() != Some(&problem) {
                    tracing::error!(model = %name, problem, "the deployment.toml could not be applied");
                    model.file_problem = Some(problem);
                }
            }
        }
    }

    /// Takes over a deployment that another process has written, once its versions are loaded.
    pub(super) async fn take_over_newer(&self, name: &ModelName) {
        let newer = {
            let mut state = self.state.lock();
            let Some(model) = state.models.get_mut(name) else { return };
            let Some(newer) = model.newer.clone().filter(|newer| model.is_replaced_by(newer)) else {
                model.newer = None;
                return;
            };
            if let Some(problem) = model.why_not_loadable(&newer) {
                let problem = format!("generation {}: {problem}", newer.generation);
                if model.deployment_problem.as_ref() != Some(&problem) {
                    tracing::error!(model = %name, problem, "a newer deployment cannot be taken over");
                    model.deployment_problem = Some(problem);
                }
                return;
            }
            newer
        };
        let _writing = self.writing.lock().await;
        if self.is_replaced_by(&newer) && self.is_loaded(&newer) {
            self.take_over(&newer);
        }
    }

    async fn retire(&self, name: &ModelName, version: Version) {
        // The lock prevents a change from deploying the version meanwhile.
        let _writing = self.writing.lock().await;
        let mut state = self.state.lock();
        // The deployment may have changed since this step was decided.
        if let Some(model) = state.models.get_mut(name)
            && self.steps(model).contains(&ReconcileAction::Retire(version))
        {
            // Its workers end when the last request that holds the version is answered.
            model.on(version, Event::Retired);
            let reason = match model.is_on_disk(version) {
                _ if model.is_withdrawn => "an operator has unloaded the model",
                true => "it has no traffic, and newer versions are loaded (repository.newest_versions)",
                false => "it has no traffic, and its folder is gone",
            };
            tracing::warn!(model = %name, %version, reason, "retired: requests that name it are refused from now on");
            self.loader.monitor.deployments().retired(name.as_str());
            self.publish(&mut state);
        }
    }

    pub(super) fn steps(&self, model: &ModelState) -> Vec<ReconcileAction> {
        let (on_disk, live) = (model.on_disk.versions.keys().copied().collect(), model.live());
        if model.is_withdrawn {
            return reconcile(&BTreeSet::new(), &live);
        }
        let wanted = wanted(&on_disk, &live, &model.needed(), self.repository.newest_versions, &model.holds);
        let wanted =
            wanted.into_iter().filter(|version| on_disk.contains(version) || model.is_loaded(*version)).collect();
        reconcile(&wanted, &live)
    }

    fn comparing(&self, name: &ModelName) -> Option<Arc<tokio::sync::Mutex<()>>> {
        self.state.lock().models.get(name).map(|model| Arc::clone(&model.comparing))
    }

    /// Compares the files of loaded versions with what was loaded, if the fingerprint of their folder has changed.
    async fn compare_files(&self, name: &ModelName, _comparing: tokio::sync::OwnedMutexGuard<()>) {
        let loaded: Vec<Arc<ServedVersion>> = match self.state.lock().models.get(name) {
            Some(model) => model.all_served().map(Arc::clone).collect(),
            None => return,
        };
        for served in loaded {
            self.compare_version(name, served).await;
        }
    }

    async fn compare_version(&self, name: &ModelName, served: Arc<ServedVersion>) {
        let version = served.version;
        let compared = {
            let state = self.state.lock();
            let known = state.models.get(name).and_then(|model| model.versions.get(&version));
            known.and_then(|known| known.lifecycle.as_ready()).map(|ready| ready.compared.clone()).unwrap_or_default()
        };
        let (store, keys) = (Arc::clone(&self.loader.store), self.loader.trusted_keys.clone());
        let compare = move || compare(&*store, &keys, &served, &compared);
        let compared = self.on_a_thread(Pace::Background, "verifier", compare).await;
        // A failure is only logged. The next comparison tries again.
        let failed = |problem: &dyn std::fmt::Display| {
            tracing::warn!(model = %name, %version, %problem, "the files could not be compared");
        };
        let (mark, altered) = match compared {
            // The folder has not changed.
            Ok(None) => return,
            Ok(Some(Comparison { mark, altered: Ok(altered) })) => (mark, altered),
            Ok(Some(Comparison { altered: Err(refusal), .. })) => return failed(&refusal),
            Err(error) => return failed(&error.detail().unwrap_or_default()),
        };
        let mut state = self.state.lock();
        let Some(model) = state.models.get_mut(name).filter(|model| model.is_loaded(version)) else { return };
        match &altered {
            Some(problem) if model.altered(version) != Some(problem) => tracing::error!(
                model = %name, %version, problem,
                "the files of a loaded version have changed on disk; it continues to serve from memory"
            ),
            None if model.altered(version).is_some() => {
                tracing::info!(model = %name, %version, "resolved: the files are again those that were loaded");
            }
            _ => {}
        }
        model.on(version, Event::Compared(mark, altered));
        self.publish(&mut state);
    }
}

/// Returns the first deployment of a new model: by its `deployment.toml`, or else its highest version that was not refused.
/// `None` if there is no such version, or if the file is wrong.
fn first_deployment(name: &ModelName, model: &ModelState) -> Option<Deployment> {
    match &model.on_disk.wish {
        Some(Ok(file)) => Some(Deployment::first_by_file(name.clone(), file, Timestamp::now())),
        Some(Err(_)) => None,
        None => {
            let live = model.live();
            let was_refused = |version: &Version| live.get(version) == Some(&LoadState::Refused);
            let highest = model.on_disk.versions.keys().rev().find(|version| !was_refused(version)).copied()?;
            Some(Deployment::first(name.clone(), highest, Timestamp::now()))
        }
    }
}
