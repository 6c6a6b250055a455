//! The statistics extension. Durations are in nanoseconds, and count since the version was loaded.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Response to `GET /v2/models/{model}/stats`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Statistics {
    /// The statistics of each version.
    pub model_stats: Vec<ModelStatistics>,
}

/// Statistics of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelStatistics {
    /// Name of the model.
    pub name: String,
    /// The version.
    pub version: String,
    /// Time of the last request, in milliseconds since 1970, precise to about a second; 0 if there was none.
    pub last_inference: u64,
    /// Number of rows in runs of the model.
    pub inference_count: u64,
    /// Number of runs of the model.
    pub execution_count: u64,
    /// Number and durations of requests.
    pub inference_stats: InferStatistics,
    /// Always empty: the metric `leeway_batch_rows` has the sizes of batches.
    pub batch_stats: Vec<serde_json::Value>,
}

/// Number and durations of requests, by outcome and stage.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InferStatistics {
    /// Requests that were answered, from their head to their answer.
    pub success: DurationStatistic,
    /// Requests that failed.
    pub fail: DurationStatistic,
    /// Wait in the queue.
    pub queue: DurationStatistic,
    /// Preprocessing.
    pub compute_input: DurationStatistic,
    /// Runs of the model.
    pub compute_infer: DurationStatistic,
    /// Postprocessing.
    pub compute_output: DurationStatistic,
    /// Always zero: answers are not cached.
    pub cache_hit: DurationStatistic,
    /// Always zero: answers are not cached.
    pub cache_miss: DurationStatistic,
}

/// Number of events and their total duration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DurationStatistic {
    /// Number of events.
    pub count: u64,
    /// Total duration, in nanoseconds.
    pub ns: u64,
}
