//! Rollouts that judge themselves: a new version gets more and more of the traffic while it is not worse than the stable
//! version, and none if it is worse.
//!
//! | file | content |
//! |---|---|
//! | `evidence.rs` | the evidence of one guardrail: e-processes, which may be looked at as often as one likes (pure) |
//! | `record.rs` | a rollout as it is stored, with all evidence |
//! | `verdict.rs` | the verdict of a guardrail: its evidence against the thresholds (pure) |
//! | `plan.rs` | the next decision (pure) |
//! | `words.rs` | evidence and decisions in words and numbers |
//! | `store.rs` | what a store of rollouts does; `state/` has them |
//! | `controller.rs` | the loop: reads counts, decides, and changes the deployment through the deployer |
//! | `operate.rs` | what operators do: start, pause, resume, abort, promote |
//!
//! The counts are those of `monitor/guardrails.rs`. Every server of a fleet reports its own; one server adds them and
//! decides. This module knows neither HTTP nor SQL, and loads nothing.

#![warn(missing_docs)]

mod controller;
mod evidence;
mod operate;
mod plan;
mod record;
mod store;
mod verdict;
mod words;

pub use self::controller::Rollouts;
pub use self::evidence::{Evidence, Judgement, Window};
pub use self::plan::{Circumstances, Decision, decide};
pub use self::record::{Failures, JudgedGuardrail, Pending, ProcessCounts, RolloutRecord, judgement};
pub use self::store::RolloutStore;
pub use self::verdict::{FALSE_ROLLBACKS, NOT_WORSE_AT};
