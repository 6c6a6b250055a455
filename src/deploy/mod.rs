//! Who gets traffic: the deployments of models, how they change, and how that is made to last.
//!
//! - `deployment.rs` is what is deployed of a model, and the pure function from one deployment to the next.
//! - `journal.rs` keeps every deployment there was. A change is made when it is written there, and not before.
//! - `state_file.rs` notices that the open state file was removed or replaced.
//! - `reconcile.rs` decides, without doing it, which versions to load and which to retire.
//! - `deployer/` does it: it owns what is loaded, looks at the repository, and publishes snapshots.
//! - `problems.rs` remembers problems, so that each is logged once.
//! - `status.rs` is what operators are shown.
//!
//! This room knows nothing of HTTP.

mod deployer;
mod deployment;
mod journal;
mod problems;
mod reconcile;
mod state_file;
mod status;

pub use self::deployer::{Deployer, Request};
pub use self::deployment::{Action, Change, Deployment, Note, Wish};
pub(crate) use self::journal::writable;
pub use self::journal::{Appended, Journal, MemoryJournal, SqliteJournal, check_access, open};
pub use self::reconcile::{Hold, Live, Step, reconcile, wanted};
pub use self::state_file::StateFile;
pub use self::status::{Deployed, ModelStatus, Overview, VersionState, VersionStatus};
