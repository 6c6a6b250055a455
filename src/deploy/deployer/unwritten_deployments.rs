//! Deployments that are in effect but not yet in the journal.
//!
//! A rollback takes effect even if it cannot be written, because a bad model in service is a worse problem than a full
//! disk. The first deployment of a model also takes effect unwritten when the server starts on a full disk. An
//! unwritten deployment is shown to operators, and is written as soon as the journal works again.

use std::sync::Arc;
use std::time::Duration;

use super::Deployer;
use super::state::State;
use crate::api::admin::Deployment;
use crate::deploy::journal::Appended;
use crate::error::{OperatorError, Result};
use crate::identity::ModelName;
use crate::monitor::StatePart;

/// First and longest backoff between attempts to write deployments to the journal.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(10);

impl Deployer {
    /// Keeps a deployment that could not be written, and writes it as soon as the journal works again. The caller holds
    /// the lock `writing`.
    pub(super) fn keep_unwritten(self: &Arc<Self>, next: &Deployment, error: &OperatorError) {
        let is_first = {
            let mut state = self.state.lock();
            let Some(model) = state.models.get_mut(&next.model) else { return };
            model.unwritten.problem = match error {
                OperatorError::Journal(problem) => problem.clone(),
                other => other.for_operators(),
            };
            model.unwritten.deployments.push(next.clone());
            self.count_unwritten(&state);
            model_unwritten(&state, &next.model) == 1
        };
        tracing::error!(
            model = %next.model, generation = next.generation, %error,
            "the deployment is in effect, but could not be saved; it will be saved as soon as writing works again"
        );
        if is_first {
            let (deployer, model) = (Arc::clone(self), next.model.clone());
            tokio::spawn(async move {
                let mut pause = FIRST_RETRY;
                loop {
                    tokio::time::sleep(pause).await;
                    if deployer.write_unwritten(&model).await.is_ok() {
                        break;
                    }
                    pause = (pause * 2).min(LAST_RETRY);
                }
            });
        }
    }

    /// Writes all waiting deployments of a model to the journal.
    pub(super) async fn write_unwritten(self: &Arc<Self>, name: &ModelName) -> Result<(), OperatorError> {
        loop {
            let writing = self.writing.lock().await;
            let next = {
                let state = self.state.lock();
                state.models.get(name).and_then(|model| model.unwritten.deployments.first().cloned())
            };
            let Some(next) = next else { return Ok(()) };
            let overtaken = match self.journal.append(&next).await.map_err(|error| self.journal_failed(error))? {
                Appended::Written => None,
                Appended::Lost(Some(latest)) if latest == next => None,
                Appended::Lost(Some(latest)) => Some(latest),
                Appended::Lost(None) => return Err(self.has_lost_deployments(name)),
            };
            self.loader.monitor.deployments().state_works(StatePart::Deployments);
            self.forget_unwritten(name, overtaken.as_ref());
            match overtaken {
                None => {
                    tracing::info!(model = %name, generation = next.generation, "the deployment is in the journal now");
                }
                Some(latest) => {
                    tracing::error!(
                        model = %name, generation = next.generation, by = latest.change.by, made_by = next.change.by,
                        "an unsaved deployment was replaced by one that another server has written"
                    );
                    drop(writing);
                    self.give_way(&latest).await;
                }
            }
        }
    }

    /// Takes over a deployment that another server has written instead of ours. Loading its versions is retried until
    /// it succeeds, as for every newer deployment.
    async fn give_way(self: &Arc<Self>, latest: &Deployment) {
        // A failed load is recorded when the deployment is taken over.
        let _ = self.load_deployed(latest).await;
        self.take_over_newer(&latest.model).await;
    }

    /// Returns the error of a journal that has lost the deployments of a model.
    fn has_lost_deployments(&self, name: &ModelName) -> OperatorError {
        let problem = "it does not have the model's deployments any more";
        if let Some(model) = self.state.lock().models.get_mut(name) {
            problem.clone_into(&mut model.unwritten.problem);
        }
        self.journal_failed(OperatorError::Journal(problem.to_owned()))
    }

    /// Forgets the oldest waiting deployment, or all of them if another server has written a deployment instead.
    fn forget_unwritten(&self, name: &ModelName, overtaken_by: Option<&Deployment>) {
        let mut state = self.state.lock();
        if let Some(model) = state.models.get_mut(name) {
            match overtaken_by {
                None => {
                    let waiting = &mut model.unwritten.deployments;
                    waiting.drain(..waiting.len().min(1));
                }
                Some(latest) => {
                    model.unwritten.deployments.clear();
                    (model.newer, model.is_overtaken) = (Some(latest.clone()), true);
                }
            }
        }
        self.count_unwritten(&state);
    }

    fn count_unwritten(&self, state: &State) {
        let count = state.models.keys().map(|name| model_unwritten(state, name)).sum();
        self.loader.monitor.deployments().set_unwritten(count);
    }
}

fn model_unwritten(state: &State, name: &ModelName) -> usize {
    state.models.get(name).map_or(0, |model| model.unwritten.deployments.len())
}
