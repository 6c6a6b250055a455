//! The live numbers of a version, for a console that reads them every few seconds: counters from which it computes rates, and
//! quantiles of the last minutes.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::labels::{Label, Outcome, ShedReason};
use super::quantiles::Latency;
use super::version_metrics::HANDLES;
use super::version_recorder::VersionRecorder;
use crate::budget::LatencyBudget;
use crate::stage::Stage;

/// The live numbers of a version. Counts are since it was loaded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LiveStats {
    /// Number of requests that are not answered yet, plus abandoned requests that still run in a worker.
    pub in_flight: u64,
    /// Number of requests that wait for a worker.
    pub queue_depth: u64,
    /// Requests by outcome: `ok`, `invalid`, `shed`, `expired`, `model_error`, `server_error`, `abandoned`.
    pub requests: BTreeMap<String, u64>,
    /// Durations of answered requests: of each stage, and `total`. A part that was never timed is absent.
    pub latency: BTreeMap<String, LiveLatency>,
    /// Time until requests were refused (`shed`) or had failed (`failed`).
    pub unanswered: BTreeMap<String, LiveLatency>,
    /// The latency budget, and the parts that it is divided into.
    pub budget: BudgetParts,
    /// Requests in which a stage took longer than its part of the budget, by stage.
    pub overruns: BTreeMap<String, u64>,
    /// Refused requests, by reason.
    pub shed: BTreeMap<String, u64>,
    /// Requests whose time ran out, by the stage they were in.
    pub expired: BTreeMap<String, u64>,
    /// Runs of the model, and the rows in them.
    pub batches: LiveBatches,
    /// Workers that were restarted.
    pub worker_restarts: u64,
}

/// Durations of one part of requests.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LiveLatency {
    /// Number of durations since the version was loaded.
    pub count: u64,
    /// Sum of the durations, in milliseconds.
    pub sum_ms: f64,
    /// The median duration within the window, in milliseconds; absent if the window is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50_ms: Option<f64>,
    /// The duration that one in twenty exceeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95_ms: Option<f64>,
    /// The duration that one in a hundred exceeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_ms: Option<f64>,
}

/// The parts of a latency budget, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BudgetParts {
    /// The whole budget.
    pub total_ms: f64,
    /// On the wire.
    pub network_ms: f64,
    /// Preprocessing.
    pub preprocess_ms: f64,
    /// In the queue and in the run.
    pub inference_ms: f64,
    /// Postprocessing.
    pub postprocess_ms: f64,
    /// The buffer for what takes longer than its part.
    pub tail_ms: f64,
}

/// Runs of the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LiveBatches {
    /// Number of runs.
    pub runs: u64,
    /// Number of rows in these runs.
    pub rows: u64,
    /// Numbers of runs by size.
    pub sizes: Vec<BatchSizes>,
}

/// Number of runs whose size is within one bin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BatchSizes {
    /// Maximum number of rows of these runs; absent for those that are larger than all bounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upto: Option<u64>,
    /// Number of runs.
    pub runs: u64,
}

// ===== impl VersionRecorder =====

impl VersionRecorder {
    /// Returns the live numbers of this version.
    pub fn live(&self, now: Duration) -> LiveStats {
        let (cells, latency) = (&self.metrics.cells, self.latencies.stats(now));
        let by_stage = |of: &dyn Fn(Stage) -> u64| named(Stage::ALL, of);
        let sizes = cells.histogram(HANDLES.batches.sizes);
        let edges = sizes.buckets.edges.iter().copied().map(Some).chain([None]);
        LiveStats {
            in_flight: self.metrics.in_flight(),
            queue_depth: self.metrics.queue_depth.get() as u64,
            requests: named(Outcome::ALL, &|outcome| self.metrics.requests(outcome)),
            latency: latency.answered.iter().map(|(part, found)| (part.name().to_owned(), found.into())).collect(),
            unanswered: latency.unanswered.iter().map(|(part, found)| (part.name().to_owned(), found.into())).collect(),
            budget: BudgetParts::from(&self.metrics.budget),
            overruns: by_stage(&|stage| cells.sum(HANDLES.budget.overruns.of(stage))),
            shed: named(ShedReason::ALL, &|reason| cells.sum(HANDLES.budget.shed.of(reason))),
            expired: by_stage(&|stage| cells.sum(HANDLES.budget.expired.of(stage))),
            batches: LiveBatches {
                runs: sizes.counts.iter().sum(),
                rows: sizes.sum,
                sizes: edges.zip(&sizes.counts).map(|(upto, runs)| BatchSizes { upto, runs: *runs }).collect(),
            },
            worker_restarts: cells.sum(HANDLES.workers.restarts),
        }
    }
}

/// Returns the count of each value of a label, by name.
fn named<L: Label>(labels: impl IntoIterator<Item = L>, count: &dyn Fn(L) -> u64) -> BTreeMap<String, u64> {
    labels.into_iter().map(|label| (label.name().to_owned(), count(label))).collect()
}

/// Converts seconds to milliseconds, in whole microseconds.
fn ms(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e3
}

impl From<&Latency> for LiveLatency {
    fn from(latency: &Latency) -> LiveLatency {
        let quantiles = latency.quantiles;
        LiveLatency {
            count: latency.count,
            sum_ms: ms(latency.sum_s),
            p50_ms: quantiles.map(|found| ms(found.p50_s)),
            p95_ms: quantiles.map(|found| ms(found.p95_s)),
            p99_ms: quantiles.map(|found| ms(found.p99_s)),
        }
    }
}

impl From<&LatencyBudget> for BudgetParts {
    fn from(budget: &LatencyBudget) -> BudgetParts {
        let ms = |part: Duration| ms(part.as_secs_f64());
        BudgetParts {
            total_ms: ms(budget.total),
            network_ms: ms(budget.network),
            preprocess_ms: ms(budget.preprocess),
            inference_ms: ms(budget.inference),
            postprocess_ms: ms(budget.postprocess),
            tail_ms: ms(budget.tail()),
        }
    }
}
