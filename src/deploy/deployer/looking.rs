//! Looks at the repository and the journal and records the changes. Loads nothing.

use super::*;

/// What was seen of a model on disk, without a lock.
struct Seen {
    found: FoundModel,
    config_mark: Fingerprint,
    /// Its `model.toml`; `None` if the file has not changed.
    config: Option<Result<ModelConfig>>,
    versions: BTreeMap<Version, SeenVersion>,
}

/// The state of the repository at a look.
#[derive(Default)]
pub(super) struct Looked {
    seen: Vec<Seen>,
    /// Problems with the other folders, by folder.
    problems: BTreeMap<String, String>,
}

/// The latest deployments in the journal, by model.
pub(super) type Latest = BTreeMap<ModelName, Deployment>;

impl Deployer {
    /// Looks at the repository and the journal and records the changes. A problem changes only what is shown: what is
    /// served stays.
    pub(super) async fn look(self: &Arc<Self>, reason: Look) {
        let _looking = self.looking.lock().await;
        let mut looked = match self.look_at_repository().await {
            Ok(looked) => looked,
            Err(error) => {
                let problems = BTreeMap::from([("the repository".to_owned(), error.to_string())]);
                Looked { problems, ..Looked::default() }
            }
        };
        let latest = match self.latest_deployments().await {
            Ok(latest) => Some(latest),
            Err(error) => {
                let problem = format!("the deployment journal could not be read: {error}");
                looked.problems.insert("the deployment journal".to_owned(), problem);
                self.journal_failed(error);
                None
            }
        };
        self.note(looked, latest.as_ref(), reason);
    }

    /// Reads the folders and the changed `model.toml` files on a thread of its own.
    pub(super) async fn look_at_repository(&self) -> Result<Looked> {
        let path = self.repository.path.clone();
        let before =
            |(name, model): (&ModelName, &ModelState)| (name.clone(), (model.config_mark.clone(), model.seen.clone()));
        let before: BTreeMap<ModelName, _> = self.state.lock().models.iter().map(before).collect();
        let look = move || -> Result<Looked> {
            let found = scan(&path)?;
            let problems = found.problems.iter().map(|problem| (problem.folder.clone(), problem.to_string())).collect();
            let see = |found: FoundModel| {
                let config_mark = Fingerprint::of_file(&found.config);
                let before = before.get(&found.name);
                let is_as_before = before.is_some_and(|(mark, _)| *mark == config_mark);
                let see_version = |(version, folder): (&Version, &std::path::PathBuf)| {
                    let mark = Fingerprint::of(folder);
                    let before = before.and_then(|(_, versions)| versions.get(version));
                    let seen = before.filter(|before| before.mark == mark).cloned();
                    let read = || SeenVersion { manifest: Manifest::read(folder).ok().map(Arc::new), mark };
                    (*version, seen.unwrap_or_else(read))
                };
                let versions = found.versions.iter().map(see_version).collect();
                Seen { config: (!is_as_before).then(|| ModelConfig::read(&found.config)), config_mark, versions, found }
            };
            Ok(Looked { seen: found.models.into_iter().map(see).collect(), problems })
        };
        self.on_a_thread(self.pace(), "repository", look).await.and_then(|looked| looked)
    }

    pub(super) async fn latest_deployments(&self) -> Result<Latest> {
        let latest = self.journal.latest().await?;
        Ok(latest.into_iter().map(|deployment| (deployment.model.clone(), deployment)).collect())
    }

    /// Records what was seen. Adds no new model if the journal cannot be read, because its deployment is not known.
    pub(super) fn note(&self, looked: Looked, latest: Option<&Latest>, reason: Look) {
        let Looked { seen, mut problems } = looked;
        let mut state = self.state.lock();
        state.without_config.clear();
        let there: BTreeSet<ModelName> = seen.iter().map(|seen| seen.found.name.clone()).collect();
        for seen in seen {
            let name = seen.found.name.clone();
            if let Some(model) = state.models.get_mut(&name) {
                self.update(model, seen, reason);
            } else if let Some(latest) = latest {
                let recorded = if latest.contains_key(&name) { Recorded::Yes } else { Recorded::NotYet };
                match take_in(seen, latest.get(&name).cloned()) {
                    Ok(model) => drop(state.models.insert(name, model)),
                    Err(error) => {
                        problems.insert(about_config(&name), error.to_string());
                        state.without_config.insert(name, recorded);
                    }
                }
            }
        }
        state.models.retain(|name, model| {
            let is_there = there.contains(name);
            let is_kept =
                is_there || model.versions.values().any(|known| known.served.is_some() || known.loading.is_some());
            if !is_kept {
                self.loader.monitor.deployments().forget(name.as_str());
            } else if !is_there {
                let problem =
                    format!("model {name} is served from memory: its folder is not there any more, or is none");
                problems.insert(format!("the folder of {name}"), problem);
            }
            is_kept
        });
        for (name, model) in &mut state.models {
            let newer = latest.and_then(|latest| latest.get(name));
            let newer = newer.filter(|newer| model.is_replaced_by(newer));
            if newer.is_some() {
                model.newer = newer.cloned();
            }
        }
        if let Some(problem) = self.default_model_problem(&state) {
            problems.insert("repository.default_model".to_owned(), problem);
        }
        self.loader.monitor.deployments().set_repository_errors(problems.len());
        for change in state.problems.replace(problems) {
            match change {
                ProblemChange::Appeared(problem) => {
                    tracing::warn!(problem, "the repository is not as it should be; what is served stays as it is");
                }
                ProblemChange::Resolved(problem) => tracing::info!(problem, "resolved: it is not so any more"),
            }
        }
        self.publish(&mut state);
    }

    /// Returns the problem with the name of the default model, if there is one.
    pub(super) fn default_model_problem(&self, state: &State) -> Option<String> {
        let name = self.repository.default_model.as_ref()?;
        if state.models.contains_key(name) || state.without_config.contains_key(name) {
            return None;
        }
        let names: Vec<String> = state.models.keys().map(ModelName::to_string).collect();
        Some(format!(
            "repository.default_model: there is no model {name} in the repository; it has {}",
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        ))
    }

    /// Takes note of new versions and of a changed `model.toml`.
    fn update(&self, model: &mut ModelState, seen: Seen, reason: Look) {
        let name = seen.found.name.clone();
        for version in seen.found.versions.keys().filter(|version| !model.found.versions.contains_key(version)) {
            tracing::info!(model = %name, %version, "a new version is in the repository");
        }
        (model.found, model.seen) = (seen.found, seen.versions);
        // What was refused is tried again when something about it has changed, or after a backoff.
        let now = Instant::now();
        model.versions.retain(|version, known| {
            let unchanged = |refused: &RefusedLoad| {
                let mark = model.seen.get(version).map(|seen| &seen.mark);
                mark == Some(&refused.folder) && refused.config == seen.config_mark
            };
            if known.refused.as_ref().is_some_and(|refused| !unchanged(refused)) {
                (known.refused, known.passing_refusals) = (None, 0);
            }
            if known.refused.as_ref().is_some_and(|refused| refused.is_due(reason, now)) {
                known.refused = None;
            }
            let is_there = model.seen.contains_key(version);
            known.served.is_some()
                || known.loading.is_some()
                || known.refused.is_some()
                || (is_there && known.logged.is_some())
        });
        model.holds.retain(|version, _| model.found.versions.contains_key(version));
        model.config_mark = seen.config_mark;
        match seen.config {
            None => {}
            Some(Ok(config)) => {
                if model.config_problem.take().is_some() {
                    tracing::info!(model = %name, "resolved: model.toml can be read again");
                }
                if config != *model.config {
                    tracing::info!(model = %name, "model.toml has changed; the versions are loaded anew with it");
                    model.config = Arc::new(config);
                }
            }
            Some(Err(error)) => {
                let problem = error.to_string();
                if model.config_problem.as_ref() != Some(&problem) {
                    tracing::error!(model = %name, problem, "model.toml has changed and is wrong; what is served stays as it is");
                    self.loader.monitor.deployments().load_failed(name.as_str(), LoadFault::Config);
                    model.config_problem = Some(problem);
                }
            }
        }
    }
}

/// The state of a new model, of which nothing is loaded yet. A model that is not in the journal starts with the highest
/// version that can be loaded.
fn take_in(seen: Seen, known: Option<Deployment>) -> Result<ModelState> {
    let Seen { found, config_mark, config, versions: seen } = seen;
    let config = config.unwrap_or_else(|| ModelConfig::read(&found.config))?;
    let Some(highest) = found.versions.keys().next_back().copied() else {
        return Err(Error::Repository(format!("model {} has no version", found.name)));
    };
    let recorded = if known.is_some() { Recorded::Yes } else { Recorded::NotYet };
    let deployment = known.unwrap_or_else(|| Deployment::first(found.name.clone(), highest, Timestamp::now()));
    Ok(ModelState {
        found,
        seen,
        config: Arc::new(config),
        config_mark,
        config_problem: None,
        deployment,
        recorded,
        newer: None,
        is_overtaken: false,
        deployment_problem: None,
        unwritten: Unwritten::default(),
        versions: BTreeMap::new(),
        holds: BTreeMap::new(),
        changing: Vec::new(),
        comparing: Arc::default(),
    })
}
