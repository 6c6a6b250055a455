//! Models in memory: loads versions from the repository, and publishes those that serve.
//!
//! - `load_order.rs` is an order to load a version. `loader.rs` carries it out: verify → try → open → warm up → start.
//!   `load_problem.rs` has the reasons for which ONNX Runtime cannot load a model.
//! - `trial.rs` tries a version out in another process, before the server touches it. `remembered.rs` keeps the
//!   findings for later starts.
//! - `opened_version.rs` is a version with its stages; `first_run.rs` finds rows that it runs on, `sized_version.rs` measures
//!   how many workers, threads and rows suit it, `examine.rs` compares its answers, `example.rs` finds an example that it
//!   answers, and `findings.rs` has the result. `budget_check.rs` compares the duration of a run with the budget.
//!   `rehearsal.rs` runs the preprocessor on the hardest instances that it accepts; `run_limit.rs` ends first
//!   runs that take too long.
//! - `catalog.rs` holds the served versions, as immutable snapshots.
//! - `chain_problem.rs` checks that the steps of a chain are served and fit together; `chain_interface.rs` has the instances
//!   and predictions of a chain.
//!
//! This module does not know HTTP or the traffic of a version.

mod budget_check;
mod catalog;
mod chain_interface;
mod chain_problem;
mod examine;
mod example;
mod findings;
mod first_run;
mod load_order;
mod load_problem;
mod loader;
mod opened_version;
mod rehearsal;
mod remembered;
mod run_limit;
mod sized_version;
mod trial;

pub use self::budget_check::{budget_problem, sufficient_total_ms};
pub use self::catalog::{
    Catalog, ServedChain, ServedModel, ServedPipeline, ServedShadow, ServedVersion, Snapshot, Target, Work,
};
pub use self::chain_interface::{ChainInterface, Interface};
pub use self::chain_problem::{ChainProblem, chain_problems};
pub use self::findings::{
    Attempt, Example, Findings, FirstRows, FirstValues, GraphFinding, MAX_COMPARING, RowsFrom, WarmUp, remedy,
};
pub use self::load_order::{LoadOrder, LoadStep, Pace};
pub use self::load_problem::load_problem;
pub use self::loader::{Loader, PreparedVersion};
pub use self::opened_version::OpenedVersion;
pub use self::run_limit::RunLimit;
pub use self::trial::{TRIAL_COMMAND, Trial, answer_trial};
