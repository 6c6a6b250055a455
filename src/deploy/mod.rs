//! Deployments of models (the division of their traffic over versions), changes of deployments, and their journal.
//!
//! - `deployment.rs` is the pure function from one deployment of a model to the next.
//! - `journal.rs` keeps all deployments. A change takes effect once it is written there.
//! - `fleet.rs` is the list of the servers that share the journal.
//! - `repository_view.rs` is the repository as the last sync found it.
//! - `lifecycle.rs` is the life cycle of a version in the server.
//! - `reconcile.rs` decides which versions to load and which to retire.
//! - `deployer/` carries out these decisions, owns the loaded versions, and publishes snapshots.
//! - `offline.rs` changes the journal of a server that is not running.
//! - `alerts.rs` finds what needs attention, and `alert_advice.rs` has the advice of the documentation on it.
//! - `problems.rs` remembers problems, so that each is logged once.
//!
//! This module does not know HTTP.

mod alert_advice;
mod alerts;
mod deployer;
mod deployment;
mod fleet;
mod journal;
mod lifecycle;
mod offline;
mod problems;
mod reconcile;
mod repository_view;

pub use self::alerts::{AlertFacts, ExpiringCertificate, VersionFacts, alerts};
pub use self::deployer::Deployer;
pub use self::deployment::{ChangeNote, ChangeRequest, Transition};
pub use self::fleet::{Fleet, GONE_AFTER, REPORT_INTERVAL};
pub use self::journal::{Appended, Journal, Latest};
pub use self::offline::change_offline;
pub use self::reconcile::{Hold, LoadState, ReconcileAction, reconcile, wanted};
