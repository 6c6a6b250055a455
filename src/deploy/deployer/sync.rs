//! Syncs the deployer's state with the repository and the journal: takes over their changes. Loads nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;

use super::Deployer;
use super::state::{ModelState, Recorded, State, SyncReason, about_config};
use crate::api::admin::Deployment;
use crate::config::{DEPLOYMENT_FILE, ModelConfig};
use crate::deploy::journal::Latest;
use crate::deploy::problems::ProblemChange;
use crate::deploy::repository_view::{ModelView, RepositoryView};
use crate::error::{LoadFault, Result, SetupError};
use crate::identity::ModelName;

/// The journal as a sync found it.
#[derive(Debug)]
pub(super) struct JournalView {
    /// The current deployments, by model.
    pub(super) deployments: BTreeMap<ModelName, Deployment>,
    /// The reason why the journal could not be read. The deployments are then those that this machine remembers.
    pub(super) problem: Option<String>,
}

impl JournalView {
    /// Returns the view of a journal that could not be read.
    pub(super) fn unreadable(problem: String) -> JournalView {
        JournalView { deployments: BTreeMap::new(), problem: Some(problem) }
    }
}

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
        let journal = match self.read_journal().await {
            Ok(journal) => journal,
            Err(error) => JournalView::unreadable(error.to_string()),
        };
        self.take_in(view.unwrap_or_default(), &journal, problems, reason);
    }

    /// Takes over the deployments of the journal. Reads the repository only if they need something that it did not have.
    pub(super) async fn sync_journal(self: &Arc<Self>) -> Result<(), SetupError> {
        let journal = self.read_journal().await?;
        let (newer, is_behind) = {
            let mut state = self.state.lock();
            let newer = note_newer(&mut state, &journal);
            let lacks = |name: &ModelName| {
                let newer = state.models.get(name).and_then(|model| Some((model, model.newer.as_ref()?)));
                newer.is_some_and(|(model, newer)| newer.serving_versions().any(|version| !model.is_on_disk(version)))
            };
            let knows = |name: &ModelName| state.models.contains_key(name) || state.without_config.contains_key(name);
            let is_behind = newer.iter().any(lacks) || !state.repository.models.keys().all(knows);
            (newer, is_behind)
        };
        if is_behind {
            self.sync(SyncReason::Regular).await;
        }
        let names = match is_behind {
            true => self.state.lock().models.keys().cloned().collect(),
            false => newer,
        };
        names.iter().for_each(|name| self.advance_in_background(name));
        Ok(())
    }

    /// Reads the repository on a thread of its own.
    pub(super) async fn view_repository(&self) -> Result<RepositoryView, SetupError> {
        let (store, before) = (Arc::clone(&self.loader.store), Arc::clone(&self.state.lock().repository));
        let read = move || RepositoryView::read(&*store, &before);
        self.on_a_thread(self.pace(), "repository", read).await?
    }

    pub(super) async fn read_journal(&self) -> Result<JournalView, SetupError> {
        let Latest { deployments, unreachable } = self.journal.latest().await?;
        let deployments = deployments.into_iter().map(|deployment| (deployment.model.clone(), deployment)).collect();
        let remembered = |problem| format!("{problem}; the last deployments that this machine has seen are served");
        Ok(JournalView { deployments, problem: unreachable.map(remembered) })
    }

    /// Takes over a view of the repository and of the journal. Does not add models whose deployments are not known because
    /// the journal could not be read.
    pub(super) fn take_in(
        &self,
        view: RepositoryView,
        journal: &JournalView,
        mut problems: BTreeMap<String, String>,
        reason: SyncReason,
    ) {
        let (view, now) = (Arc::new(view), Instant::now());
        let mut state = self.state.lock();
        state.repository = Arc::clone(&view);
        state.without_config.clear();
        problems.extend(view.problems.clone());
        if let Some(problem) = &journal.problem {
            let problem_of = format!("the deployment journal could not be read: {problem}");
            problems.insert("the deployment journal".to_owned(), problem_of);
            self.note_journal_failure(problem);
        }
        for (name, found) in &view.models {
            if let Some(model) = state.models.get_mut(name) {
                self.update(model, found, (reason, now));
            } else if journal.problem.is_none() || journal.deployments.contains_key(name) {
                let known = journal.deployments.get(name);
                let recorded = if known.is_some() { Recorded::Yes } else { Recorded::NotYet };
                match &found.config {
                    Ok(config) => {
                        let model = new_model(found, config, known.cloned());
                        state.models.extend(model.map(|model| (name.clone(), model)));
                    }
                    Err(error) => {
                        problems.insert(about_config(name), error.to_string());
                        state.without_config.insert(name.clone(), recorded);
                    }
                }
            }
        }
        for (name, found) in &view.models {
            if let Some(Err(error)) = &found.wish {
                problems.insert(format!("{DEPLOYMENT_FILE} of {name}"), error.to_string());
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
        note_newer(&mut state, journal);
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

/// Notes the deployments in the journal that have to replace those in effect, and returns their models.
fn note_newer(state: &mut State, journal: &JournalView) -> Vec<ModelName> {
    let mut names = Vec::new();
    for (name, model) in &mut state.models {
        let newer = journal.deployments.get(name);
        if let Some(newer) = newer.filter(|newer| model.is_replaced_by(newer)) {
            model.newer = Some(newer.clone());
            names.push(name.clone());
        }
    }
    names
}

/// Returns the state of a new model without loaded versions. A model that is not in the journal starts with the highest
/// version that can be loaded. `None` if it has no version, which the view excludes.
fn new_model(found: &Arc<ModelView>, config: &Arc<ModelConfig>, known: Option<Deployment>) -> Option<ModelState> {
    let highest = *found.versions.keys().next_back()?;
    let recorded = if known.is_some() { Recorded::Yes } else { Recorded::NotYet };
    let (name, now) = (found.name.clone(), Timestamp::now());
    let deployment = known.unwrap_or_else(|| match &found.wish {
        Some(Ok(file)) => Deployment::first_by_file(name, file, now),
        _ => Deployment::first(name, highest, now),
    });
    Some(ModelState::new(Arc::clone(found), Arc::clone(config), deployment, recorded))
}
