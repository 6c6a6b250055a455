//! This server as a member of its fleet: its reports to the other servers, and waits for a change to reach all of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Deployer;
use super::membership::Membership;
use super::state::{ModelState, State};
use crate::api::admin::{Deployment, LaggingReplica, Replica, ReplicaModel};
use crate::deploy::fleet::REPORT_INTERVAL;
use crate::error::{OperatorError, Result};
use crate::identity::ModelName;

/// Interval of looking at the reports of the other servers, while a caller waits for them.
const WAIT_INTERVAL: Duration = Duration::from_millis(50);

impl Deployer {
    /// Reports this server to its fleet under this name, regularly and when a deployment takes effect. Never returns.
    pub async fn report_to_fleet(self: Arc<Self>, name: String) {
        if !self.membership.fleet.is_shared() {
            return std::future::pending().await;
        }
        // The name is set once.
        let _ = self.membership.name.set(name);
        loop {
            if let Err(error) = self.report().await {
                tracing::debug!(%error, "this server could not be reported to its fleet");
            }
            // Whichever comes first.
            let _ = tokio::time::timeout(REPORT_INTERVAL, self.membership.has_news.notified()).await;
        }
    }

    /// Removes this server from its fleet, because it stops.
    pub async fn leave_fleet(self: Arc<Self>) {
        if self.membership.name.initialized()
            && let Err(error) = self.membership.fleet.leave(&self.membership.id).await
        {
            tracing::debug!(%error, "this server could not be removed from its fleet");
        }
    }

    /// Waits until a deployment is in effect on all servers of the fleet, and returns those on which it is not at the
    /// deadline.
    pub async fn await_fleet(
        &self,
        deployment: &Deployment,
        timeout: Duration,
    ) -> Result<Vec<LaggingReplica>, OperatorError> {
        if !self.membership.name.initialized() {
            return Ok(Vec::new());
        }
        let deadline = Instant::now() + timeout;
        loop {
            let replicas = self.report().await?;
            let lagging: Vec<LaggingReplica> = replicas
                .iter()
                .filter_map(|replica| replica.lagging(&deployment.model, deployment.generation))
                .collect();
            if lagging.is_empty() || Instant::now() + WAIT_INTERVAL > deadline {
                return Ok(lagging);
            }
            tokio::time::sleep(WAIT_INTERVAL).await;
        }
    }

    async fn report(&self) -> Result<Vec<Replica>, OperatorError> {
        let Membership { fleet, id, started_at, name, known, .. } = &self.membership;
        let own = Replica {
            id: id.clone(),
            name: name.get().cloned().unwrap_or_default(),
            leeway: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: *started_at,
            age_s: 0.0,
            models: in_effect(&self.state.lock()),
        };
        let replicas = fleet.report(&own).await?;
        known.lock().clone_from(&replicas);
        Ok(replicas)
    }
}

/// Returns the deployments that are in effect.
fn in_effect(state: &State) -> BTreeMap<ModelName, ReplicaModel> {
    let report = |model: &ModelState| {
        let unserved = || state.why_unserved(&model.on_disk.name).map(|why| why.reason);
        let problem = model.deployment_problem.clone().or_else(unserved);
        ReplicaModel { generation: model.deployment.generation, problem }
    };
    state.models.iter().map(|(name, model)| (name.clone(), report(model))).collect()
}
