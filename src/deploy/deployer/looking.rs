//! Looking at the repository and the journal, and doing what is to be done.

use super::*;

/// What was seen of a model on disk, without a lock.
struct Seen {
    found: FoundModel,
    config_mark: Fingerprint,
    folders: BTreeMap<Version, Fingerprint>,
}

impl Deployer {
    /// Looks at the repository and the journal, and does what is to be done. What is bad changes nothing but what is
    /// shown of it.
    pub(super) async fn look(self: &Arc<Self>) {
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
        let deployments: Option<BTreeMap<ModelName, Deployment>> = match self.journal.latest().await {
            Ok(latest) => Some(latest.into_iter().map(|deployment| (deployment.model.clone(), deployment)).collect()),
            Err(error) => {
                self.journal_failed(error);
                None
            }
        };
        // Those that are served first, whatever became of their folders: nothing that is slow to load delays an alarm.
        let served: Vec<ModelName> = self.state.lock().models.keys().cloned().collect();
        let catch_up = async |name: &ModelName| {
            if let Some(latest) = deployments.as_ref().and_then(|deployments| deployments.get(name)) {
                self.catch_up(latest).await;
            }
        };
        for name in &served {
            self.compare_files(name).await;
            if !seen.iter().any(|seen| seen.found.name == *name) {
                catch_up(name).await;
            }
        }
        for seen in seen {
            let name = seen.found.name.clone();
            if !served.contains(&name) {
                // Without the journal it is not known what was deployed of it.
                let Some(deployments) = &deployments else { continue };
                let latest = deployments.get(&name).cloned();
                if let Err(error) = self.take_in(seen.found, latest, Pace::Background).await {
                    self.note_problems_too(format!("{error}"));
                }
                self.publish(&mut self.state.lock());
                continue;
            }
            self.update(&name, seen);
            catch_up(&name).await;
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
                if known.altered.is_some() && altered.is_none() {
                    tracing::info!(model = %name, %version, "the files are again those that were loaded");
                }
                (known.compared, known.altered) = (now, altered);
            }
            self.publish(&mut state);
        }
    }

    /// Takes over a deployment that another process has written.
    pub(super) async fn catch_up(self: &Arc<Self>, latest: &Deployment) {
        if self.deployment(&latest.model).is_ok_and(|present| present.generation >= latest.generation) {
            return;
        }
        let loaded = match self.refused_of(latest) {
            // It is tried again when something about it has changed.
            Some(problem) => Err(Error::ChangeRefused(problem)),
            None => self.load_deployed(latest, Pace::Background).await,
        };
        let _writing = self.writing.lock().await;
        match (loaded, self.deployment(&latest.model)) {
            // If one of them was retired meanwhile, the next look takes it over.
            (Ok(()), Ok(present)) if present.generation < latest.generation && self.is_loaded(latest) => {
                self.take_over(latest);
            }
            (Err(error), Ok(_)) => {
                let generation = latest.generation;
                let problem = format!("generation {generation}: {error}");
                if let Some(model) = self.state.lock().models.get_mut(&latest.model)
                    && model.deployment_problem.as_ref() != Some(&problem)
                {
                    tracing::error!(model = %latest.model, problem, "a newer deployment cannot be taken over");
                    model.deployment_problem = Some(problem);
                }
            }
            _ => {}
        }
    }

    /// Why a version that a deployment needs was refused, as it still is.
    fn refused_of(&self, deployment: &Deployment) -> Option<String> {
        let state = self.state.lock();
        let model = state.models.get(&deployment.model)?;
        let refused = deployment.answers().filter(|version| !model.is_loaded(*version));
        let mut refused = refused
            .filter_map(|version| model.versions.get(&version)?.refused.as_ref().map(|refused| (version, refused)));
        refused.next().map(|(version, refused)| format!("version {version}: {}", refused.problem))
    }

    /// Loads what should be loaded, and retires what should not.
    pub(super) async fn carry_out(self: &Arc<Self>, name: &ModelName) {
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
                        && self.steps(model).contains(&step)
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

    pub(super) fn steps(&self, model: &ModelState) -> Vec<Step> {
        let on_disk = model.found.versions.keys().copied().collect();
        let wanted = wanted(&on_disk, &model.deployment, self.repository.newest_versions, &model.holds);
        let wanted =
            wanted.into_iter().filter(|version| on_disk.contains(version) || model.is_loaded(*version)).collect();
        reconcile(&wanted, &model.live())
    }
}
