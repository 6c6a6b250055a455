//! The metrics of a version under the names that dashboards for the Triton Inference Server read
//! (`monitoring.triton_metrics`).

use super::labels::{Outcome, RequestPart};
use super::metric_family::{Family, counter, gauge};
use super::quantiles::{Latency, LatencyStats};
use super::version_metrics::VersionMetrics;

/// The values of a version, read once.
pub(super) struct TritonReading {
    success: u64,
    /// Number of failed requests, by Triton's reason.
    failures: [(&'static str, u64); 4],
    rows: u64,
    runs: u64,
    pending: f64,
    /// Sums of the durations of the parts of answered requests, in microseconds.
    durations: [u64; 5],
}

/// The parts of requests, in the order of their metrics.
const PARTS: [RequestPart; 5] =
    [RequestPart::Total, RequestPart::Queue, RequestPart::Preprocess, RequestPart::Inference, RequestPart::Postprocess];

const LABELS: &[&str] = &["model", "version"];

/// The metrics, in the order of `/metrics`.
pub(super) static FAMILIES: &[Family<TritonReading>] = &[
    counter("nv_inference_request_success", LABELS, "Requests that were answered.", |read, series| {
        series.value(&[], read.success);
    }),
    counter(
        "nv_inference_request_failure",
        &["model", "version", "reason"],
        "Requests that failed: REJECTED (invalid, or too little time or capacity), CANCELED (the client left), BACKEND (the model) or OTHER.",
        |read, series| read.failures.iter().for_each(|(reason, count)| series.value(&[reason], *count)),
    ),
    counter("nv_inference_count", LABELS, "Rows in runs of the model.", |read, series| series.value(&[], read.rows)),
    counter("nv_inference_exec_count", LABELS, "Runs of the model.", |read, series| series.value(&[], read.runs)),
    gauge("nv_inference_pending_request_count", LABELS, "Requests that wait for a worker.", |read, series| {
        series.value(&[], read.pending)
    }),
    counter(
        "nv_inference_request_duration_us",
        LABELS,
        "Microseconds of answered requests, from their head to their answer.",
        |read, series| series.value(&[], read.durations[0]),
    ),
    counter(
        "nv_inference_queue_duration_us",
        LABELS,
        "Microseconds of answered requests in the queue.",
        |read, series| series.value(&[], read.durations[1]),
    ),
    counter(
        "nv_inference_compute_input_duration_us",
        LABELS,
        "Microseconds of answered requests in preprocessing.",
        |read, series| series.value(&[], read.durations[2]),
    ),
    counter(
        "nv_inference_compute_infer_duration_us",
        LABELS,
        "Microseconds of answered requests in runs.",
        |read, series| series.value(&[], read.durations[3]),
    ),
    counter(
        "nv_inference_compute_output_duration_us",
        LABELS,
        "Microseconds of answered requests in postprocessing.",
        |read, series| series.value(&[], read.durations[4]),
    ),
];

impl TritonReading {
    pub(super) fn new(metrics: &VersionMetrics, latency: &LatencyStats) -> TritonReading {
        let count = |outcomes: &[Outcome]| outcomes.iter().map(|outcome| metrics.requests(*outcome)).sum();
        let (runs, rows) = metrics.runs_and_rows();
        let microseconds = |latency: &Latency| (latency.sum_s * 1e6) as u64;
        TritonReading {
            success: count(&[Outcome::Ok]),
            failures: [
                ("REJECTED", count(&[Outcome::Invalid, Outcome::Shed, Outcome::Expired])),
                ("CANCELED", count(&[Outcome::Abandoned])),
                ("BACKEND", count(&[Outcome::ModelError])),
                ("OTHER", count(&[Outcome::ServerError])),
            ],
            rows,
            runs,
            pending: metrics.queue_depth.get(),
            durations: PARTS.map(|part| latency.answered.get(&part).map(microseconds).unwrap_or_default()),
        }
    }
}
