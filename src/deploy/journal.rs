//! The deployment journal: all deployments so far, in order.
//!
//! The journal is append-only, and generations are consecutive. Of two changes that are based on the same deployment,
//! only one is written; the other is refused with the deployment that is now current. `state/` implements the journal.

use std::fmt::Debug;

use async_trait::async_trait;

use crate::api::admin::Deployment;
use crate::error::{OperatorError, Result, SetupError};
use crate::identity::ModelName;

/// Stores deployments.
#[async_trait]
pub trait Journal: Debug + Send + Sync {
    /// Returns the current deployment of every model.
    async fn latest(&self) -> Result<Vec<Deployment>, SetupError>;

    /// Appends a deployment if its generation follows the current one. The deployment is durable when this returns.
    async fn append(&self, next: &Deployment) -> Result<Appended, OperatorError>;

    /// Returns the deployments of a model before this generation, the newest first.
    async fn history(&self, model: &ModelName, before: u64, limit: u32) -> Result<Vec<Deployment>, OperatorError>;
}

/// Result of appending a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Appended {
    /// The deployment was written and is the current one.
    Written,
    /// Another change was written first. Holds the current deployment.
    Lost(Option<Deployment>),
}
