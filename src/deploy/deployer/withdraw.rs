//! Unloads a model as a whole, and loads it again.
//!
//! An operator decides this for one server, until it restarts. The deployment in the journal does not change.

use std::sync::Arc;

use super::Deployer;
use super::state::UNLOADED;
use crate::deploy::lifecycle::Event;
use crate::error::{Error, OperatorError, Result};
use crate::identity::{ModelName, Version};

impl Deployer {
    /// Takes a model out of service on this server, and frees its memory. Requests in flight are still answered.
    pub async fn unload_model(&self, name: &ModelName) -> Result<(), OperatorError> {
        // A change in progress must not deploy a version of the model meanwhile.
        let _writing = self.writing.lock().await;
        let mut state = self.state.lock();
        let model = state.model(name)?;
        model.is_withdrawn = true;
        let loaded: Vec<Version> = model.all_served().map(|served| served.version).collect();
        // A load that is running ends, and `advance` retires its version.
        loaded.into_iter().for_each(|version| model.on(version, Event::Retired));
        tracing::warn!(model = %name, "unloaded, as asked: requests for the model are refused until it is loaded again");
        self.publish(&mut state);
        Ok(())
    }

    /// Reads the repository again, and loads what the model needs. Waits until `repository.reload_timeout_ms`; a slower
    /// load continues.
    pub async fn load_model(self: &Arc<Self>, name: &ModelName) -> Result<(), OperatorError> {
        if let Some(model) = self.state.lock().models.get_mut(name) {
            model.is_withdrawn = false;
        }
        self.reload().await;
        let mut state = self.state.lock();
        state.model(name)?;
        match state.why_unserved(name) {
            None => Ok(()),
            Some(why) => Err(Error::ModelUnavailable { model: name.clone(), reason: why.reason }.into()),
        }
    }

    /// Refuses a change of a model that an operator has unloaded.
    pub(super) fn refuse_withdrawn(&self, name: &ModelName) -> Result<(), OperatorError> {
        match self.state.lock().models.get(name).is_some_and(|model| model.is_withdrawn) {
            false => Ok(()),
            true => Err(OperatorError::ChangeRefused(format!(
                "model {name} is not changed: {UNLOADED}; load it first (POST /v2/repository/models/{name}/load)"
            ))),
        }
    }
}
