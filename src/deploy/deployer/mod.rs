//! Loads and retires versions, changes deployments, and publishes snapshots.
//!
//! The decisions are made elsewhere (`deployment.rs`, `reconcile.rs`, `lifecycle.rs`). This module carries them out. A
//! change is written to the journal before it is published, and its versions are loaded before it is written, so
//! everything in the journal can be served.
//!
//! The lock of the state is held for operations in memory only: never while something is loaded, read or written. So a
//! rollback or a status never waits for a load or for the disk.
//!
//! A sync with the repository starts loads and does not wait for them. When a load ends, [`Deployer::advance`] takes
//! the next steps. So a model that loads slowly, or never, does not delay other models.
//!
//! | file | content |
//! |---|---|
//! | `state.rs` | the state of all models |
//! | `start.rs` | start, polling, reload |
//! | `sync.rs` | takes over changes of the repository and the journal |
//! | `advance.rs` | next steps of a model: first or newer deployment, loads, retirements, comparisons of files |
//! | `load.rs` | one load |
//! | `change.rs` | changes of the deployment, and holds |
//! | `unwritten_deployments.rs` | deployments that are in effect but not yet in the journal |
//! | `withdraw.rs` | unloads and loads of whole models |
//! | `chains.rs` | chains of models: which can be served, and changes that would take one out of service |
//! | `fleet.rs`, `membership.rs` | reports to the other servers, and waits for them |
//! | `publish.rs` | the snapshot for new requests |
//! | `show.rs` | status for operators |

mod advance;
mod chains;
mod change;
mod fleet;
mod load;
mod membership;
mod publish;
mod show;
mod start;
mod state;
mod sync;
mod unwritten_deployments;
mod withdraw;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use self::membership::Membership;
use self::state::State;
use super::journal::Journal;
use crate::config::RepositoryConfig;
use crate::registry::{Catalog, Loader};

/// Owns the loaded versions and the deployments.
#[derive(Debug)]
pub struct Deployer {
    loader: Arc<Loader>,
    journal: Arc<dyn Journal>,
    catalog: Arc<Catalog>,
    repository: RepositoryConfig,
    membership: Membership,
    state: Mutex<State>,
    /// Held while a deployment is written to the journal and takes effect.
    writing: tokio::sync::Mutex<()>,
    /// Held during a sync with the repository.
    syncing: tokio::sync::Mutex<()>,
    loads: Arc<Semaphore>,
    slow_loads: Arc<Semaphore>,
    /// True once requests are served while versions load.
    is_serving: AtomicBool,
    /// True once the server stops: callers no longer wait for loads.
    stopping: watch::Sender<bool>,
}
