//! The next steps for a model: starts loads, and acts when a load has ended.

use std::path::Path;
use std::pin::Pin;

use super::*;

impl Deployer {
    /// Takes the next steps for a model. Does not wait for loads: each load calls this again when it ends.
    pub(super) async fn tend(self: &Arc<Self>, name: &ModelName) {
        self.deploy_first(name).await;
        self.take_over_newer(name).await;
        let mut steps = match self.state.lock().models.get(name) {
            Some(model) => {
                let mut steps = self.steps(model);
                let needed = model.needed();
                // Versions that callers wait for are loaded first.
                steps.sort_by_key(|step| match step {
                    Step::Load(version) => (0, !needed.contains(version)),
                    Step::Retire(_) => (1, false),
                });
                steps
            }
            None => return,
        };
        for step in steps.drain(..) {
            match step {
                // A failure is logged and shown in the state.
                Step::Load(version) => drop(self.start_load(name, version, LoadedWith::Present)),
                Step::Retire(version) => self.retire(name, version).await,
            }
        }
        self.publish(&mut self.state.lock());
    }

    /// Tends the model and compares its files, in the background.
    pub(super) fn attend(self: &Arc<Self>, name: &ModelName) {
        let (deployer, name) = (Arc::clone(self), name.clone());
        let attending = async move {
            deployer.tend(&name).await;
            // One comparison at a time is enough.
            let comparing = deployer.comparing(&name).and_then(|comparing| comparing.try_lock_owned().ok());
            if let Some(comparing) = comparing {
                deployer.compare_files(&name, comparing).await;
            }
        };
        // Boxed because the future is recursive: a load that ends calls this, and this starts the next load.
        let attending: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(attending);
        tokio::spawn(attending);
    }

    /// Tends all models until nothing is left to load, or until the deadline.
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
            self.tend(name).await;
            let loading = |model: &ModelState| {
                model.versions.values().find_map(|known| known.loading.as_ref().map(|loading| loading.done.clone()))
            };
            let Some(mut done) = self.state.lock().models.get(name).and_then(loading) else { break };
            if !matches!(self.until(deadline, done.wait_for(Option::is_some)).await, Some(Ok(_))) {
                break;
            }
        }
        // A longer comparison continues in the background.
        let _ = self.until(deadline, comparing).await;
    }

    /// Waits for a future until the deadline, or until the server stops.
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

    /// Writes the first deployment of a new model once its version is loaded: the highest version that was not refused.
    /// Another server may already have written one.
    pub(super) async fn deploy_first(self: &Arc<Self>, name: &ModelName) {
        let first = {
            let mut state = self.state.lock();
            let Some(model) = state.models.get_mut(name).filter(|model| model.recorded != Recorded::Yes) else {
                return;
            };
            let live = model.live();
            let was_refused = |version: &Version| live.get(version) == Some(&Live::Refused);
            let Some(highest) = model.found.versions.keys().rev().find(|version| !was_refused(version)).copied() else {
                return;
            };
            if model.deployment.stable != highest {
                model.deployment = Deployment::first(name.clone(), highest, Timestamp::now());
            }
            if !model.is_loaded(highest) {
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
            // A full disk keeps no model from being served.
            Err(error) if model.deployment == first => {
                model.recorded = Recorded::Yes;
                drop(state);
                self.keep_unwritten(&first, &self.journal_failed(error));
            }
            Err(error) => drop(self.journal_failed(error)),
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
            if let Some(problem) = model.refused_of(&newer) {
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
        // The lock keeps a change from deploying the version meanwhile.
        let _writing = self.writing.lock().await;
        let mut state = self.state.lock();
        // The deployment may have changed since.
        if let Some(model) = state.models.get_mut(name)
            && self.steps(model).contains(&Step::Retire(version))
            && let Some(known) = model.versions.get_mut(&version)
        {
            // Its workers end when the last request that holds the version is answered.
            known.served = None;
            let reason = match model.found.versions.contains_key(&version) {
                true => "it has no traffic, and newer versions are loaded (repository.newest_versions)",
                false => "it has no traffic, and its folder is gone",
            };
            tracing::warn!(model = %name, %version, reason, "retired: requests that name it are refused from now on");
            self.loader.monitor.deployments().retired(name.as_str());
            self.publish(&mut state);
        }
    }

    pub(super) fn steps(&self, model: &ModelState) -> Vec<Step> {
        let (on_disk, live) = (model.found.versions.keys().copied().collect(), model.live());
        let wanted = wanted(&on_disk, &live, &model.needed(), self.repository.newest_versions, &model.holds);
        let wanted =
            wanted.into_iter().filter(|version| on_disk.contains(version) || model.is_loaded(*version)).collect();
        reconcile(&wanted, &live)
    }

    fn comparing(&self, name: &ModelName) -> Option<Arc<tokio::sync::Mutex<()>>> {
        self.state.lock().models.get(name).map(|model| Arc::clone(&model.comparing))
    }

    /// Compares the files of loaded versions with what was loaded, where their folder looks different.
    async fn compare_files(&self, name: &ModelName, _comparing: tokio::sync::OwnedMutexGuard<()>) {
        let loaded: Vec<Arc<ServedVersion>> = match self.state.lock().models.get(name) {
            Some(model) => model.versions.values().filter_map(|known| known.served.clone()).collect(),
            None => return,
        };
        for served in loaded {
            self.compare_version(name, served).await;
        }
    }

    async fn compare_version(&self, name: &ModelName, served: Arc<ServedVersion>) {
        let version = served.version;
        let compared = {
            let mut state = self.state.lock();
            let model = state.models.get_mut(name);
            model.and_then(|model| model.versions.get(&version)).map(|known| known.compared.clone()).unwrap_or_default()
        };
        let look = move || {
            let now = Fingerprint::of(&served.folder);
            let altered = (now != compared).then(|| compare(&served.folder, &served.manifest));
            (now, altered)
        };
        let (now, altered) = match self.on_a_thread(Pace::Background, "verifier", look).await {
            // The folder has not changed.
            Ok((_, None)) => return,
            Ok((now, Some(Ok(altered)))) => (now, altered),
            // Nothing is known of the files. The next look compares them.
            Ok((_, Some(Err(refusal)))) => {
                tracing::warn!(model = %name, %version, problem = %refusal, "the files could not be compared");
                return;
            }
            Err(error) => {
                let problem = error.detail().unwrap_or_default();
                tracing::warn!(model = %name, %version, problem, "the files could not be compared");
                return;
            }
        };
        let mut state = self.state.lock();
        let Some(known) = state.models.get_mut(name).and_then(|model| model.versions.get_mut(&version)) else { return };
        match &altered {
            Some(problem) if known.altered != altered => tracing::error!(
                model = %name, %version, problem,
                "ALARM: the files of a loaded version have changed; it goes on as it was loaded"
            ),
            None if known.altered.is_some() => {
                tracing::info!(model = %name, %version, "resolved: the files are again those that were loaded");
            }
            _ => {}
        }
        (known.compared, known.altered) = (now, altered);
        self.publish(&mut state);
    }
}

/// Compares the files in a folder with the manifest of the loaded version, and returns the difference, if there is one.
/// Reads in pieces, because the version is in memory already. A refusal says that the comparison was not possible now.
fn compare(folder: &Path, loaded: &Manifest) -> Result<Option<String>, Refusal> {
    let found = FoundVersion::find(folder).and_then(|found| found.check_digests().map(|()| found));
    match found {
        Ok(found) if found.manifest() == loaded => Ok(None),
        Ok(_) => Ok(Some("version.toml is not what it was when the version was loaded".to_owned())),
        Err(refusal) if refusal.fault.is_passing() => Err(refusal),
        Err(refusal) => Ok(Some(refusal.to_string())),
    }
}

impl ModelState {
    /// Returns the reason why a version that a deployment needs cannot be loaded now.
    fn refused_of(&self, deployment: &Deployment) -> Option<String> {
        let mut missing = deployment.answers().filter(|version| !self.is_loaded(*version));
        missing.find_map(|version| {
            let refused = self.versions.get(&version).and_then(|known| known.refused.as_ref());
            let is_there = self.found.versions.contains_key(&version);
            let gone = || (!is_there).then(|| format!("version {version} is not in the repository"));
            refused.map(|refused| format!("version {version}: {}", refused.problem)).or_else(gone)
        })
    }
}
