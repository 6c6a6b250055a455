//! Deployments of models, which say who gets traffic; their changes, and their journal.
//!
//! - `deployment.rs` is what is deployed of a model, and the pure function from one deployment to the next.
//! - `journal.rs` keeps every deployment there was. A change is made when it is written there, and not before.
//! - `repository_view.rs` is the repository as the last sync found it.
//! - `lifecycle.rs` is the life cycle of a version in the server.
//! - `reconcile.rs` decides which versions to load and which to retire.
//! - `deployer/` carries it out: it owns the loaded versions, and publishes snapshots.
//! - `problems.rs` remembers problems, so that each is logged once.
//! - `status.rs` is what operators are shown.
//!
//! This room knows nothing of HTTP.

mod deployer;
mod deployment;
mod journal;
mod lifecycle;
mod problems;
mod reconcile;
mod repository_view;
mod status;

pub use self::deployer::{ChangeRequest, Deployer};
pub use self::deployment::{Action, Change, ChangeNote, Deployment, Transition};
pub use self::journal::{Appended, Journal};
pub use self::reconcile::{Hold, LoadState, ReconcileAction, reconcile, wanted};
pub use self::status::{ChangeOutcome, ModelStatus, Overview, VersionState, VersionStatus};
