//! Models in memory: loads versions from the repository, and publishes those that serve.
//!
//! - `load_order.rs` is an order to load a version. `loader.rs` carries it out: verify → try → open → warm up → start.
//! - `trial.rs` tries a version out in another process, before the server touches it.
//! - `opened_version.rs` is a version with its stages; `examine.rs` runs it a few times, and `findings.rs` has the
//!   result. `rehearsal.rs` runs the preprocessor on the hardest instances that it accepts; `run_limit.rs` ends first
//!   runs that take too long.
//! - `catalog.rs` holds the served versions, as immutable snapshots.
//!
//! This module does not know HTTP or the traffic of a version.

mod catalog;
mod examine;
mod findings;
mod load_order;
mod loader;
mod opened_version;
mod rehearsal;
mod run_limit;
mod trial;

pub use self::catalog::{Catalog, ServedModel, ServedVersion, Snapshot, Target};
pub use self::findings::{Findings, MAX_COMPARING, WarmUp};
pub use self::load_order::{LoadOrder, LoadStep, Pace};
pub use self::loader::{Loader, PreparedVersion};
pub use self::opened_version::OpenedVersion;
pub use self::run_limit::RunLimit;
pub use self::trial::{TRIAL_COMMAND, Trial, answer_trial};
