//! The store of rollouts, which outlives the server. `state/` implements it.

use std::collections::BTreeMap;
use std::fmt::Debug;

use async_trait::async_trait;

use super::record::{ProcessCounts, RolloutRecord};
use crate::error::{OperatorError, Result};
use crate::identity::ModelName;

/// Stores rollouts, and the counts that servers report for them.
#[async_trait]
pub trait RolloutStore: Debug + Send + Sync {
    /// Returns true if this server is the one that decides for its fleet. At most one is, until it stops or loses the
    /// connection to the state.
    async fn leads(&self) -> Result<bool, OperatorError>;

    /// Returns the latest rollout of every model.
    async fn latest(&self) -> Result<Vec<RolloutRecord>, OperatorError>;

    /// Returns the rollouts of a model, the newest first.
    async fn history(&self, model: &ModelName, limit: u32) -> Result<Vec<RolloutRecord>, OperatorError>;

    /// Writes a rollout if its revision follows the stored one, which is 0 for one that is not stored. Returns false if
    /// another server has written it first.
    async fn write(&self, record: &RolloutRecord) -> Result<bool, OperatorError>;

    /// Replaces the counts of a process for a rollout.
    async fn report(&self, of: &RolloutRecord, process: &str, counts: &ProcessCounts) -> Result<(), OperatorError>;

    /// Returns the last counts of all processes for a rollout.
    async fn reports(&self, of: &RolloutRecord) -> Result<BTreeMap<String, ProcessCounts>, OperatorError>;
}
