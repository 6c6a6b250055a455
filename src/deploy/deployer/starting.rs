//! From nothing to the first snapshot, and taking in a model that is new.

use super::*;

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
    pub(super) async fn take_in(
        self: &Arc<Self>,
        found: FoundModel,
        known: Option<Deployment>,
        pace: Pace,
    ) -> Result<()> {
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
            unwritten: Unwritten::default(),
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
            let _writing = self.writing.lock().await;
            let mut state = self.state.lock();
            let as_it_was = |model: &ModelState| model.deployment.generation == deployment.generation;
            // Unless an operator has found a way out meanwhile.
            if state.models.get(&name).is_some_and(as_it_was) {
                state.models.remove(&name);
                return Err(error);
            }
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
    pub(super) async fn record_first(self: &Arc<Self>, first: &Deployment, pace: Pace) -> Result<()> {
        let writing = self.writing.lock().await;
        match self.journal.append(first).await {
            // A full disk keeps no model from being served.
            Err(error @ Error::Journal(_)) => {
                self.keep_unwritten(first, &self.journal_failed(error));
                Ok(())
            }
            Err(error) => Err(error),
            Ok(Appended::Written | Appended::Lost(None)) => Ok(()),
            Ok(Appended::Lost(Some(latest))) => {
                drop(writing);
                self.load_deployed(&latest, pace).await?;
                model_mut(&mut self.state.lock(), &first.model)?.deployment = latest;
                Ok(())
            }
        }
    }

    /// Loads the versions without which a deployment cannot be, if they are not loaded already.
    pub(super) async fn load_deployed(self: &Arc<Self>, deployment: &Deployment, pace: Pace) -> Result<()> {
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
            self.reload().await;
        }
    }

    /// Looks at the repository and the journal now. Goes on if nobody waits any more: it is not left half way.
    pub async fn reload(self: &Arc<Self>) {
        let deployer = Arc::clone(self);
        if let Err(error) = tokio::spawn(async move { deployer.look().await }).await {
            tracing::error!(%error, "looking at the repository broke off");
        }
    }
}

/// What to do where a version that the journal wants cannot be served at the start.
fn in_deployment(error: Error, deployment: &Deployment) -> Error {
    let Deployment { model, generation, stable, traffic, .. } = deployment;
    let hint = format!(
        "generation {generation} of the deployment journal has {stable} as the stable version of {model}, and the traffic \
         {traffic}; restore the version, or deploy a good one without a server: leeway rollback {model} --offline, or \
         leeway promote {model} VERSION --offline (leeway verify says which are good)"
    );
    match error {
        Error::Load { model, version, fault, message } => {
            Error::Load { model, version, fault, message: format!("{message}\n{hint}") }
        }
        other => Error::Repository(format!("{other}\n{hint}")),
    }
}
