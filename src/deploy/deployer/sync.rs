//! Syncs the deployer's state with the repository and the journal: takes over their changes. Loads nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;

use super::Deployer;
use super::state::{ModelState, Recorded, State, SyncReason, about_config};
use crate::api::admin::Deployment;
use crate::config::ModelConfig;
use crate::deploy::problems::ProblemChange;
use crate::deploy::repository_view::{ModelView, RepositoryView};
use crate::error::{LoadFault, Result, SetupError};
use crate::identity::ModelName;

/// The latest deployments in the journal, by model.
pub(super) type Latest = BTreeMap<ModelName, Deployment>;

impl Deployer {
    /// Takes over changes of the repository and the journal. A problem changes only what is shown, not what is served.
    pub(super) async fn sync(self: &Arc<Self>, reason: SyncReason) {
        let _syncing = self.syncing.lock().await;
        let mut problems = BTreeMap::new();
        let view = match self.view_repository().await {
            Ok(view) => Some(view),
            Err(error) => {
                problems.insert("the repository".to_owned(), error.to_string());
                None
            }
        };
        let latest = match self.latest_deployments().await {
            Ok(latest) => Some(latest),
            Err(error) => {
                let problem = format!("the deployment journal could not be read: {error}");
                problems.insert("the deployment journal".to_owned(), problem);
                self.note_journal_failure(&error.to_string());
                None
            }
        };
        self.take_in(view.unwrap_or_default(), latest.as_ref(), problems, reason);
    }

    /// Reads the repository on a thread of its own.
    pub(super) async fn view_repository(&self) -> Result<RepositoryView, SetupError> {
        let (store, before) = (Arc::clone(&self.loader.store), Arc::clone(&self.state.lock().repository));
        let read = move || RepositoryView::read(&*store, &before);
        self.on_a_thread(self.pace(), "repository", read).await?
    }

    pub(super) async fn latest_deployments(&self) -> Result<Latest, SetupError> {
        let latest = self.journal.latest().await?;
        Ok(latest.into_iter().map(|deployment| (deployment.model.clone(), deployment)).collect())
    }

    /// Takes over a view of the repository. Does not add new models while the journal cannot be read, because their
    /// deployments are not known then.
    pub(super) fn take_in(
        &self,
        view: RepositoryView,
        latest: Option<&Latest>,
        mut problems: BTreeMap<String, String>,
        reason: SyncReason,
    ) {
        let (view, now) = (Arc::new(view), Instant::now());
        let mut state = self.state.lock();
        state.repository = Arc::clone(&view);
        state.without_config.clear();
        problems.extend(view.problems.clone());
        for (name, found) in &view.models {
            if let Some(model) = state.models.get_mut(name) {
                self.update(model, found, (reason, now));
            } else if let Some(latest) = latest {
                let recorded = if latest.contains_key(name) { Recorded::Yes } else { Recorded::NotYet };
                match &found.config {
                    Ok(config) => {
                        let model = new_model(found, config, latest.get(name).cloned());
                        state.models.extend(model.map(|model| (name.clone(), model)));
                    }
                    Err(error) => {
                        problems.insert(about_config(name), error.to_string());
                        state.without_config.insert(name.clone(), recorded);
                    }
                }
            }
        }
        state.models.retain(|name, model| {
            let is_there = view.models.contains_key(name);
            let is_kept = is_there || model.all_served().next().is_some() || model.loads().next().is_some();
            if !is_kept {
                self.loader.monitor.deployments().forget(name.as_str());
            } else if !is_there {
                let problem =
                    format!("model {name} is served from memory: its folder is gone, or is not a model any more");
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
        state.note_named_versions();
        self.show_problems(&mut state, problems);
        self.publish(&mut state);
    }

    /// Logs the problems that have appeared, and those that are resolved.
    fn show_problems(&self, state: &mut State, mut problems: BTreeMap<String, String>) {
        if let Some(problem) = self.default_model_problem(state) {
            problems.insert("repository.default_model".to_owned(), problem);
        }
        self.loader.monitor.deployments().set_repository_errors(problems.len());
        for change in state.problems.replace(problems) {
            match change {
                ProblemChange::Appeared(problem) => {
                    tracing::warn!(problem, "the repository has a problem; what is served does not change");
                }
                ProblemChange::Resolved(problem) => tracing::info!(problem, "resolved"),
            }
        }
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

    /// Takes over new versions of a model, and its changed `model.toml`.
    fn update(&self, model: &mut ModelState, found: &Arc<ModelView>, (reason, now): (SyncReason, Instant)) {
        let name = &found.name;
        for version in found.versions.keys().filter(|version| !model.is_on_disk(**version)) {
            tracing::info!(model = %name, %version, "a new version is in the repository");
        }
        let before = std::mem::replace(&mut model.on_disk, Arc::clone(found));
        match (&found.config, &before.config) {
            (Ok(config), before) => {
                if before.is_err() {
                    tracing::info!(model = %name, "resolved: model.toml can be read again");
                }
                if *config != model.config {
                    tracing::info!(model = %name, "model.toml has changed; the versions are reloaded with it");
                    model.config = Arc::clone(config);
                }
            }
            (Err(error), Err(before)) if error.to_string() == before.to_string() => {}
            (Err(error), _) => {
                tracing::error!(
                    model = %name, problem = %error, "model.toml has changed and is wrong; the former one remains in use"
                );
                self.loader.monitor.deployments().load_failed(name.as_str(), LoadFault::Config);
            }
        }
        model.allow_retries(reason, now);
    }
}

/// Returns the state of a new model without loaded versions. A model that is not in the journal starts with the highest
/// version that can be loaded. `None` if it has no version, which the view excludes.
fn new_model(found: &Arc<ModelView>, config: &Arc<ModelConfig>, known: Option<Deployment>) -> Option<ModelState> {
    let highest = *found.versions.keys().next_back()?;
    let recorded = if known.is_some() { Recorded::Yes } else { Recorded::NotYet };
    let deployment = known.unwrap_or_else(|| Deployment::first(found.name.clone(), highest, Timestamp::now()));
    Some(ModelState::new(Arc::clone(found), Arc::clone(config), deployment, recorded))
}
