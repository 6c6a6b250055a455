//! The deployment journal: every deployment there was, in order.
//!
//! It is only ever added to, and each deployment has the number after the one before it: of two that are decided on the
//! same state, one is written and the other is told what there is now. `state/` implements it.

use std::fmt::Debug;

use async_trait::async_trait;

use crate::api::admin::Deployment;
use crate::error::{OperatorError, Result, SetupError};
use crate::identity::ModelName;

/// Stores deployments.
#[async_trait]
pub trait Journal: Debug + Send + Sync {
    /// The present deployment of every model.
    async fn latest(&self) -> Result<Vec<Deployment>, SetupError>;

    /// Adds a deployment, if its generation is the one after the present one. When this returns, it is there to stay.
    async fn append(&self, next: &Deployment) -> Result<Appended, OperatorError>;

    /// Deployments of a model before this generation, the newest first.
    async fn history(&self, model: &ModelName, before: u64, limit: u32) -> Result<Vec<Deployment>, OperatorError>;
}

/// Result of adding a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Appended {
    /// It is the present one now.
    Written,
    /// Somebody else was faster: this is the present one.
    Lost(Option<Deployment>),
}
