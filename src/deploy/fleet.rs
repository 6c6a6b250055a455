//! The fleet: the servers that share one state. Each reports its deployments regularly. `state/` implements it.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;

use crate::api::admin::Replica;
use crate::error::{OperatorError, Result};

/// Interval of the reports of a server. It also reports when a deployment takes effect.
pub const REPORT_INTERVAL: Duration = Duration::from_secs(3);

/// Time after the last report of a server at which it no longer counts as a part of the fleet.
pub const GONE_AFTER: Duration = Duration::from_secs(10);

/// The list of the servers that share one state.
#[async_trait]
pub trait Fleet: Debug + Send + Sync {
    /// Returns false if no other server can share this state.
    fn is_shared(&self) -> bool;

    /// Replaces the report of this server, and returns the last reports of all servers that are not gone, by name and id.
    async fn report(&self, own: &Replica) -> Result<Vec<Replica>, OperatorError>;

    /// Removes the report of a server that stops.
    async fn leave(&self, id: &str) -> Result<(), OperatorError>;
}
