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
    async fn latest(&self) -> Result<Latest, SetupError>;

    /// Waits until a deployment may have been appended, by this process or by another. A call that is dropped loses no
    /// change: the next one returns at once.
    async fn changed(&self);

    /// Appends a deployment if its generation follows the current one. The deployment is durable when this returns.
    async fn append(&self, next: &Deployment) -> Result<Appended, OperatorError>;

    /// Returns the deployments of a model before this generation, the newest first.
    async fn history(&self, model: &ModelName, before: u64, limit: u32) -> Result<Vec<Deployment>, OperatorError>;
}

/// The current deployments of all models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latest {
    /// The current deployment of each model.
    pub deployments: Vec<Deployment>,
    /// The reason why the journal could not be read; the deployments are then the last ones that this machine has seen.
    /// `None` if they come from the journal.
    pub unreachable: Option<String>,
}

impl Latest {
    /// Returns deployments that were read from the journal.
    pub fn read(deployments: Vec<Deployment>) -> Latest {
        Latest { deployments, unreachable: None }
    }
}

/// Result of appending a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time, and it is taken apart at once")]
pub enum Appended {
    /// The deployment was written and is the current one.
    Written,
    /// Another change was written first. Holds the current deployment.
    Lost(Option<Deployment>),
}
