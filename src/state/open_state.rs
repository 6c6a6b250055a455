//! The state of a server, opened.

use std::sync::Arc;

use crate::deploy::{Fleet, Journal};
use crate::feedback::Ledger;
use crate::rollout::RolloutStore;

/// The state of a server.
#[derive(Debug)]
pub struct State {
    /// The journal of deployments.
    pub journal: Arc<dyn Journal>,
    /// The ledger of feedback.
    pub ledger: Arc<dyn Ledger>,
    /// The servers that share this state.
    pub fleet: Arc<dyn Fleet>,
    /// The rollouts.
    pub rollouts: Arc<dyn RolloutStore>,
}
