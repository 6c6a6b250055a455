//! The steps of a chain, as admission and inference need them.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Chain;
use crate::error::Error;
use crate::identity::Version;
use crate::registry::ServedVersion;
use crate::stage::Timings;

/// The versions that a request to a chain takes for its steps, in their order.
pub(super) type StepVersions = Arc<[Arc<ServedVersion>]>;

/// Duration of each stage of a step.
#[derive(Debug, Clone)]
pub struct StepTimings {
    /// Name of the step.
    pub name: Arc<str>,
    /// The version that ran.
    pub version: Version,
    /// Its stages.
    pub timings: Timings,
}

/// Returns the time that the typical runs of the steps after this one take together, as far as they are known.
pub(super) fn later_runs(steps: &[Arc<ServedVersion>], step: usize) -> Duration {
    let run = |served: &Arc<ServedVersion>| served.pipeline().and_then(|pipeline| pipeline.model.typical_run(1));
    steps.iter().skip(step + 1).filter_map(run).sum()
}

/// Returns the error of a step.
pub(super) fn in_step(chain: &Chain, index: usize, error: Error) -> Error {
    let name = chain.steps.get(index).map(|step| step.name.to_string()).unwrap_or_default();
    Error::Step { index, name, error: Box::new(error) }
}
