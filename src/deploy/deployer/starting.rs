//! The first snapshot at the start, and the looks at the repository after it.

use super::*;

impl Deployer {
    /// Loads what the repository and the journal ask for. A model that cannot be served is logged and skipped. At a
    /// strict start it is an error.
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
            loads: Arc::new(Semaphore::new(LOADS_AT_ONE_TIME as usize)),
            slow_loads: Arc::new(Semaphore::new(SLOW_LOADS_AT_ONE_TIME)),
            is_serving: AtomicBool::new(false),
            stopping: watch::Sender::new(false),
        });
        let looked = deployer.look_at_repository().await?;
        let latest = deployer.latest_deployments().await?;
        deployer.note(looked, Some(&latest), Look::Regular);
        if deployer.repository.start == StartMode::Strict {
            deployer.refuse_problems()?;
        }
        for model in latest.keys().filter(|name| !deployer.state.lock().models.contains_key(*name)) {
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

    /// For a strict start: any problem with the repository is an error.
    fn refuse_problems(&self) -> Result<()> {
        let state = self.state.lock();
        if let Some(problem) = self.default_model_problem(&state) {
            return Err(Error::Config(problem));
        }
        state.problems.texts().into_iter().next().map_or(Ok(()), |problem| Err(Error::Repository(problem)))
    }

    /// For a strict start: the first version with traffic that could not be loaded is an error.
    fn refuse_unserved(&self) -> Result<()> {
        let state = self.state.lock();
        for (name, model) in &state.models {
            let Some(why) = model.why_unserved() else { continue };
            let missing = model.deployment.answers().find(|version| !model.is_loaded(*version));
            let refused = missing.and_then(|version| Some((version, model.versions.get(&version)?.refused.as_ref()?)));
            let error = match (refused, missing) {
                (Some((version, RefusedLoad { fault, problem, .. })), _) => {
                    Error::Load { model: name.clone(), version, fault: *fault, message: problem.clone() }
                }
                (None, Some(version)) if !model.found.versions.contains_key(&version) => model.unknown(version),
                (None, _) => Error::Repository(format!("model {name} cannot be served: {}", why.reason)),
            };
            return Err(if model.recorded == Recorded::Yes { in_deployment(error, &model.deployment) } else { error });
        }
        Ok(())
    }

    /// Looks at the repository again and again, for as long as the server runs.
    pub async fn poll(self: Arc<Self>) {
        let Some(interval) = self.repository.poll_interval() else { return std::future::pending().await };
        loop {
            tokio::time::sleep(interval).await;
            let deployer = Arc::clone(&self);
            // Spawned, so that a look completes even if this future is dropped.
            if let Err(error) = tokio::spawn(async move { deployer.look(Look::Regular).await }).await {
                tracing::error!(%error, "looking at the repository broke off");
            }
            let names: Vec<ModelName> = self.state.lock().models.keys().cloned().collect();
            names.iter().for_each(|name| self.attend(name));
        }
    }

    /// Looks at the repository and the journal now, and waits for the loads until `repository.reload_timeout_ms`.
    /// Slower loads continue, and are shown as loading.
    pub async fn reload(self: &Arc<Self>) {
        let deadline = tokio::time::sleep(self.repository.reload_timeout()).deadline();
        let deployer = Arc::clone(self);
        let looking = tokio::spawn(async move {
            deployer.look(Look::Asked).await;
            deployer.settle(Some(deadline)).await;
        });
        if let Some(Err(error)) = self.until(Some(deadline), looking).await {
            tracing::error!(%error, "looking at the repository broke off");
        }
    }

    /// Ends all waits for loads, because the server stops.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Returns true if a version is being loaded.
    pub fn is_loading(&self) -> bool {
        let state = self.state.lock();
        state.models.values().any(|model| model.versions.values().any(|known| known.loading.is_some()))
    }

    /// Returns the share of the machine that a load may take now.
    pub(super) fn pace(&self) -> Pace {
        if self.is_serving.load(Ordering::Relaxed) { Pace::Background } else { Pace::Full }
    }
}

/// Adds the ways out to an error about a version that the journal wants and that cannot be served at a strict start.
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
