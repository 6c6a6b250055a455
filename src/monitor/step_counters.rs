//! Counters of the steps of a chain. Their labels are the names of its steps, which are bounded by `model.toml`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::metric_family::{Family, counter};
use crate::stage::{Stage, Timings};

/// Counters of the steps of a chain; empty for other versions.
#[derive(Debug, Default)]
pub(super) struct StepCounters(Vec<StepCounter>);

/// Counters of a step.
#[derive(Debug)]
struct StepCounter {
    name: String,
    answered: AtomicU64,
    failed: AtomicU64,
    /// Time in each stage, in nanoseconds.
    nanos: [AtomicU64; Stage::ALL.len()],
}

/// The metrics, in the order of `/metrics`.
pub(super) static FAMILIES: &[Family<StepCounters>] = &[
    counter(
        "leeway_step_requests_total",
        &["model", "version", "step", "outcome"],
        "Requests to a chain that reached a step, by outcome of the step: answered, or failed.",
        |steps, series| {
            for step in &steps.0 {
                series.value(&[&step.name, "answered"], step.answered.load(Relaxed));
                series.value(&[&step.name, "failed"], step.failed.load(Relaxed));
            }
        },
    ),
    counter(
        "leeway_step_seconds_total",
        &["model", "version", "step", "stage"],
        "Time that requests to a chain have spent in each stage of a step, in seconds.",
        |steps, series| {
            for step in &steps.0 {
                for (stage, nanos) in Stage::ALL.iter().zip(&step.nanos).skip(1) {
                    series.value(&[&step.name, stage.name()], nanos.load(Relaxed) as f64 / 1e9);
                }
            }
        },
    ),
];

impl StepCounters {
    pub(super) fn new(names: &[String]) -> StepCounters {
        let step = |name: &String| StepCounter {
            name: name.clone(),
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            nanos: Default::default(),
        };
        StepCounters(names.iter().map(step).collect())
    }

    /// Counts a run of a step.
    pub(super) fn count(&self, index: usize, timings: &Timings, is_answered: bool) {
        let Some(step) = self.0.get(index) else { return };
        let outcome = if is_answered { &step.answered } else { &step.failed };
        outcome.fetch_add(1, Relaxed);
        for (stage, nanos) in Stage::ALL.into_iter().zip(&step.nanos) {
            nanos.fetch_add(u64::try_from(timings.of(stage).as_nanos()).unwrap_or(u64::MAX), Relaxed);
        }
    }
}
