//! Loading a version, and publishing what is loaded.

use super::*;

/// Fingerprints of the files that a version was loaded from.
struct LoadedFrom {
    folder: Fingerprint,
    config: Fingerprint,
}

impl Deployer {
    /// Loads the versions that a deployment needs, if they are not loaded already.
    pub(super) async fn load_deployed(self: &Arc<Self>, deployment: &Deployment) -> Result<()> {
        for version in deployment.answers().collect::<BTreeSet<_>>() {
            self.load(&deployment.model, version, LoadedWith::Any).await?;
        }
        Ok(())
    }

    /// Loads a version, unless it is loaded already. Goes on if nobody waits any more.
    pub(super) async fn load(self: &Arc<Self>, name: &ModelName, version: Version, with: LoadedWith) -> Result<()> {
        let Some(mut done) = self.start_load(name, version, with)? else { return Ok(()) };
        let gone = || Error::internal("a load ended without a result");
        match self.until(None, done.wait_for(Option::is_some)).await {
            Some(done) => done.map_err(|_| gone())?.clone().unwrap_or_else(|| Err(gone())),
            None => Err(Error::ShuttingDown),
        }
    }

    /// Starts to load a version, unless it is loaded or being loaded already.
    pub(super) fn start_load(
        self: &Arc<Self>,
        name: &ModelName,
        version: Version,
        with: LoadedWith,
    ) -> Result<Option<watch::Receiver<Option<Result<()>>>>> {
        let mut state = self.state.lock();
        let model = model_mut(&mut state, name)?;
        let Some(folder) = model.found.versions.get(&version).cloned() else {
            let known = model.versions.get(&version).is_some_and(|known| known.served.is_some());
            // A version in memory can be served, even if its files are gone.
            return if known { Ok(None) } else { Err(model.unknown(version)) };
        };
        let order = LoadOrder {
            model: name.clone(),
            version,
            config_file: model.found.config.clone(),
            config: Arc::clone(&model.config),
            folder,
            place: model.place(version),
            pace: self.pace(),
        };
        // As of the last look. The next look finds later changes.
        let seen = model.seen.get(&version).map(|seen| seen.mark.clone()).unwrap_or_default();
        let marks = LoadedFrom { folder: seen, config: model.config_mark.clone() };
        let known = model.versions.entry(version).or_default();
        let is_good = |served: &Arc<ServedVersion>| {
            with == LoadedWith::Any || (served.config == order.config && served.place == order.place)
        };
        if known.served.as_ref().is_some_and(is_good) {
            return Ok(None);
        }
        if let Some(loading) = &known.loading {
            return Ok(Some(loading.done.clone()));
        }
        let (finished, done) = watch::channel(None);
        let step = Arc::new(Mutex::new(LoadStep::Waiting));
        known.loading = Some(Loading { step: Arc::clone(&step), since: Timestamp::now(), done: done.clone() });
        tokio::spawn(Arc::clone(self).run_load(order, marks, step, finished));
        Ok(Some(done))
    }

    async fn run_load(
        self: Arc<Self>,
        order: LoadOrder,
        LoadedFrom { folder, config }: LoadedFrom,
        step: Arc<Mutex<LoadStep>>,
        finished: watch::Sender<Option<Result<()>>>,
    ) {
        let (name, version, thread) = (order.model.clone(), order.version, Arc::downgrade(&step));
        let prepared = self.prepare_in_turn(&order, step).await;
        let loaded = prepared.and_then(|prepared| self.loader.start(&order, prepared));
        let outcome = loaded.as_ref().map(drop).map_err(Clone::clone);
        {
            let mut state = self.state.lock();
            if let Some(model) = state.models.get_mut(&name) {
                let known = model.versions.entry(version).or_default();
                known.loading = None;
                let loaded = loaded.and_then(|served| match &known.served {
                    // An altered version that was sealed again: not the one that is deployed.
                    Some(before) if before.manifest != served.manifest => {
                        let problem =
                            "the files are not those any more that were loaded; restore them, or add a new version";
                        known.altered = Some(problem.to_owned());
                        let (model, version) = (name.clone(), version);
                        Err(Error::Load { model, version, fault: LoadFault::Digest, message: problem.to_owned() })
                    }
                    _ => Ok(served),
                });
                match loaded {
                    Ok(served) => {
                        if known.logged.take().is_some() {
                            tracing::info!(model = %name, %version, "resolved: the version is loaded");
                        }
                        known.compared = served.fingerprint.clone();
                        (known.refused, known.altered, known.passing_refusals) = (None, None, 0);
                        known.served = Some(Arc::new(served));
                    }
                    Err(error) => {
                        let (fault, problem) = match error {
                            Error::Load { fault, message, .. } => (fault, message),
                            other => {
                                (LoadFault::Internal, other.detail().map_or_else(|| other.to_string(), str::to_owned))
                            }
                        };
                        // A version whose files are still being copied may be tried again at every look.
                        let is_logged = known.logged.as_ref().is_some_and(|logged| match fault.is_passing() {
                            true => is_same_but_for_numbers(logged, &problem),
                            false => *logged == problem,
                        });
                        if !is_logged {
                            tracing::error!(model = %name, %version, reason = fault.name(), problem, "not loaded");
                            known.logged = Some(problem.clone());
                        }
                        self.loader.monitor.deployments().load_failed(name.as_str(), fault);
                        known.passing_refusals = if fault.is_passing() { known.passing_refusals + 1 } else { 0 };
                        let retry_at =
                            fault.is_passing().then(|| Instant::now() + time_until_retry(known.passing_refusals));
                        known.refused = Some(RefusedLoad { fault, problem, folder, config, retry_at, thread });
                    }
                }
                self.publish(&mut state);
            }
        }
        // Nobody may wait any more.
        let _ = finished.send(Some(outcome));
        self.attend(&name);
    }

    /// Prepares a version when there is a place for it. A slow load gives its place to other loads.
    async fn prepare_in_turn(&self, order: &LoadOrder, step: Arc<Mutex<LoadStep>>) -> Result<PreparedVersion> {
        let places = if order.pace == Pace::Full { LOADS_AT_ONE_TIME } else { 1 };
        let mut place = Some(Arc::clone(&self.loads).acquire_many_owned(places).await);
        let mut preparing = std::pin::pin!(self.prepare(order, step));
        if let Ok(prepared) = tokio::time::timeout(SLOW, &mut preparing).await {
            return prepared;
        }
        let slow_place = Arc::clone(&self.slow_loads).try_acquire_owned();
        if slow_place.is_ok() {
            place = None;
        }
        let prepared = preparing.await;
        drop((place, slow_place));
        prepared
    }

    /// On a thread of its own, that gives way to those which serve.
    async fn prepare(&self, order: &LoadOrder, step: Arc<Mutex<LoadStep>>) -> Result<PreparedVersion> {
        let (loader, order, pace) = (Arc::clone(&self.loader), order.clone(), order.pace);
        let (model, version, limit) = (order.model.clone(), order.version, loader.load_limit);
        let prepare = move || loader.prepare(&order, &|now| *step.lock() = now);
        let prepared = start_thread(pace, "loader", prepare).map_err(|error| {
            let what = "a thread for the load could not be started";
            Refusal::of_io(LoadFault::Internal, what, &error).about(&model, version)
        })?;
        match tokio::time::timeout(limit, result_of(prepared)).await {
            Ok(prepared) => prepared.and_then(|prepared| prepared),
            // A thread cannot be cancelled. It is abandoned, and its result is dropped.
            Err(_) => {
                let message = format!("it was not loaded within {} ms (loading.timeout_ms)", limit.as_millis());
                Err(Error::Load { model, version, fault: LoadFault::Resources, message })
            }
        }
    }

    /// Does something that takes long on a thread of its own.
    pub(super) async fn on_a_thread<T: Send + 'static>(
        &self,
        pace: Pace,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        result_of(start_thread(pace, name, work).map_err(Error::internal)?).await
    }

    /// Makes what is loaded and deployed what new requests see.
    pub(super) fn publish(&self, state: &mut State) {
        let mut models = BTreeMap::new();
        let wrong = || Unserved { is_passing: false, reason: "its model.toml is wrong".to_owned() };
        let mut unserved: BTreeMap<ModelName, Unserved> =
            state.without_config.keys().map(|name| (name.clone(), wrong())).collect();
        for (name, model) in &state.models {
            if let Some(why) = model.why_unserved() {
                unserved.insert(name.clone(), why);
                continue;
            }
            let versions: BTreeMap<Version, Arc<ServedVersion>> = model
                .versions
                .iter()
                .filter_map(|(version, known)| Some((*version, Arc::clone(known.served.as_ref()?))))
                .collect();
            let Deployment { traffic, stable, generation, deployed_at, .. } = &model.deployment;
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
        let deployments = self.loader.monitor.deployments();
        models.keys().for_each(|name| deployments.set_served(name.as_str(), true));
        for (name, why) in &unserved {
            deployments.set_served(name.as_str(), false);
            if !why.is_passing && state.unserved.get(name) != Some(why) {
                tracing::error!(model = %name, reason = why.reason, "the model is not served; leeway status says more");
            }
        }
        for name in state.unserved.keys().filter(|name| !unserved.contains_key(*name)) {
            match models.contains_key(name) {
                true => tracing::info!(model = %name, "the model is served"),
                false => deployments.forget(name.as_str()),
            }
        }
        self.loader.monitor.server().set_serves_models(!models.is_empty());
        let reasons = unserved.iter().map(|(name, why)| (name.clone(), why.reason.clone())).collect();
        state.unserved = unserved;
        let default_model = self.repository.default_model.clone().or_else(|| only_deployed(state));
        self.catalog.publish(Snapshot::new(models, reasons, default_model));
    }
}

/// Starts a thread, whose result can be received.
fn start_thread<T: Send + 'static>(
    pace: Pace,
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<oneshot::Receiver<T>> {
    let (sender, receiver) = oneshot::channel();
    let work = move || {
        if pace == Pace::Background {
            lower_priority_of_this_thread();
        }
        // Nobody may wait any more.
        let _ = sender.send(work());
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(work)?;
    Ok(receiver)
}

/// Waits for the result of a thread.
async fn result_of<T>(thread: oneshot::Receiver<T>) -> Result<T> {
    thread.await.map_err(|_| Error::internal("a thread panicked; its message is in the log above"))
}

/// Returns the only model that was ever deployed, whether it is served or not. A new model that cannot be loaded does
/// not count.
fn only_deployed(state: &State) -> Option<ModelName> {
    let known = state.models.iter().map(|(name, model)| (name, model.recorded));
    let without_config = state.without_config.iter().map(|(name, recorded)| (name, *recorded));
    let mut deployed = known.chain(without_config).filter(|(_, recorded)| *recorded != Recorded::NotYet);
    match (deployed.next(), deployed.next()) {
        (Some((only, _)), None) => Some(only.clone()),
        _ => None,
    }
}
