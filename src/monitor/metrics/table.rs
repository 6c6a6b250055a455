//! The one table of all metrics.
//!
//! Durations are in seconds, counters end in `_total`, and every label has a bounded set of values.
//! `docs/metrics.md` explains each; a test holds the two together.

/// A metric as it is documented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// The name.
    pub name: &'static str,
    /// Help text in Prometheus.
    pub help: &'static str,
    /// The labels, in order.
    pub labels: &'static [&'static str],
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
    Summary,
}

const fn metric(kind: Kind, name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, help, labels, kind }
}

/// Every metric of Leeway's own. Beside them stand the usual `process_*` metrics, on Linux.
#[rustfmt::skip]
pub const METRICS: &[Metric] = &[
    BUILD_INFO, READY, CONNECTIONS, CONNECTIONS_TOTAL, ACCEPT_ERRORS, BODY_MEMORY, BODY_MEMORY_LIMIT, ERROR_RESPONSES,
    FEEDBACK, MODEL_INFO, REQUESTS, IN_FLIGHT, STAGE_DURATION, BATCHING_INFO, BATCH_SIZE, BATCH_ELEMENTS, QUEUE_DEPTH, OLDEST_RUN, WORKER_RESTARTS,
    BUDGET, REMAINING, OVERRUNS, SHED, EXPIRED, TERMINATED, PREDICTION, SERVICE_PER_ROW, SERVICE_PER_RUN,
    LOAD_DURATION, LATENCY_QUANTILE, UNANSWERED_QUANTILE, MONITORING_MEMORY, BASELINE_ROWS,
    FEATURE.bins, FEATURE.baseline_ratio, FEATURE.baseline, FEATURE.bin_count, FEATURE.window_values, FEATURE.psi,
    FEATURE.psi_adjusted, FEATURE.drift_z, FEATURE.kl, FEATURE.outside,
    PREDICTION_FEATURE.bins, PREDICTION_FEATURE.baseline_ratio, PREDICTION_FEATURE.baseline, PREDICTION_FEATURE.bin_count,
    PREDICTION_FEATURE.window_values, PREDICTION_FEATURE.psi, PREDICTION_FEATURE.psi_adjusted, PREDICTION_FEATURE.drift_z,
    PREDICTION_FEATURE.kl, PREDICTION_FEATURE.outside, DRIFT_FEATURES, DRIFT_SUMMARY,
    PREDICTIONS, PREDICTION_CLASS, CONFIDENCE, MARGIN, ENTROPY, LOW_CONFIDENCE,
    OUTCOME_LABELS, OUTCOME_CORRECT, OUTCOME_CLASS, ACCURACY, ACCURACY_ESTIMATE, BRIER_SCORE, CALIBRATION_ERROR, PRECISION,
    RECALL, CALIBRATION_COUNT, CALIBRATION_CONFIDENCE, CALIBRATION_CORRECT, SQUARED_ERROR, MEAN_ABSOLUTE_ERROR, BIAS,
    ABSOLUTE_ERROR, ERROR_SUM, CORRECTIONS, WITHDRAWN, CLASS_WITHDRAWN, CALIBRATION_WITHDRAWN, LABEL_DELAY, LABEL_COVERAGE,
    BUSINESS, BUSINESS_SUM, BUSINESS_ITEMS,
    MODEL_READY, LOAD_FAILURES, RETIREMENTS, ALTERED, GENERATION, TRAFFIC_SHARE, DEPLOYED_AT, CHANGES, JOURNAL_ERRORS,
    UNWRITTEN, REPOSITORY_ERRORS,
];

pub(super) const BUILD_INFO: Metric = metric(
    Kind::Gauge,
    "leeway_build_info",
    &["version", "onnxruntime"],
    "Always 1; its labels are the versions of Leeway and of ONNX Runtime.",
);
pub(super) const READY: Metric = metric(
    Kind::Gauge,
    "leeway_ready",
    &[],
    "1 while the server takes new work, 0 while it is shutting down or serves no model.",
);
pub(super) const CONNECTIONS: Metric =
    metric(Kind::Gauge, "leeway_connections", &[], "Connections that are open on the data listener.");
pub(super) const CONNECTIONS_TOTAL: Metric =
    metric(Kind::Counter, "leeway_connections_total", &[], "Connections accepted on the data listener.");
pub(super) const ACCEPT_ERRORS: Metric = metric(
    Kind::Counter,
    "leeway_accept_errors_total",
    &[],
    "Connections the kernel could not hand over, for example for lack of file descriptors.",
);
pub(super) const BODY_MEMORY: Metric = metric(
    Kind::Gauge,
    "leeway_body_memory_bytes",
    &[],
    "Bytes held for the bodies of requests and for answers that have not been read.",
);
pub(super) const BODY_MEMORY_LIMIT: Metric =
    metric(Kind::Gauge, "leeway_body_memory_limit_bytes", &[], "The most of these that are held at one time.");
pub(super) const ERROR_RESPONSES: Metric = metric(
    Kind::Counter,
    "leeway_error_responses_total",
    &["code"],
    "Requests answered with an error, by the last part of the problem's type.",
);
pub(super) const MODEL_INFO: Metric = metric(
    Kind::Gauge,
    "leeway_model_info",
    &["model", "version", "sha256", "provider"],
    "Always 1 for a loaded version; its labels are the version's digest and the execution provider in use.",
);
pub(super) const REQUESTS: Metric = metric(
    Kind::Counter,
    "leeway_requests_total",
    &["model", "version", "outcome"],
    "Prediction requests that reached a version, by how they ended.",
);
pub(super) const IN_FLIGHT: Metric = metric(
    Kind::Gauge,
    "leeway_requests_in_flight",
    &["model", "version"],
    "Prediction requests that have reached a version and are not answered yet, or that a worker still runs.",
);
pub(super) const STAGE_DURATION: Metric = metric(
    Kind::Histogram,
    "leeway_stage_duration_seconds",
    &["model", "version", "stage"],
    "How long each stage of an answered prediction request took; stage total is all of it, from the request's head.",
);
pub(super) const BATCHING_INFO: Metric = metric(
    Kind::Gauge,
    "leeway_batching_info",
    &["model", "version", "rows", "batching"],
    "Always 1; its labels are what was found of the version's rows, and whether requests share runs (on, off).",
);
pub(super) const BATCH_SIZE: Metric =
    metric(Kind::Histogram, "leeway_batch_size", &["model", "version"], "Rows in one run of the model.");
pub(super) const BATCH_ELEMENTS: Metric = metric(
    Kind::Counter,
    "leeway_batch_elements_total",
    &["model", "version", "kind"],
    "Elements of all inputs in runs of the model: input, of requests; padding, to make rows of one run as long as the longest.",
);
pub(super) const QUEUE_DEPTH: Metric =
    metric(Kind::Gauge, "leeway_queue_depth", &["model", "version"], "Requests that wait for a worker.");
pub(super) const OLDEST_RUN: Metric = metric(
    Kind::Gauge,
    "leeway_oldest_run_seconds",
    &["model", "version"],
    "How long the oldest run of a worker has been going on, whether anybody waits for it or not; 0 without a run.",
);
pub(super) const WORKER_RESTARTS: Metric = metric(
    Kind::Counter,
    "leeway_worker_restarts_total",
    &["model", "version"],
    "Workers that were started again, because they panicked or the process of their model ended.",
);

pub(super) const BUDGET: Metric = metric(
    Kind::Gauge,
    "leeway_budget_seconds",
    &["model", "version", "part"],
    "The configured latency budget: part total, and what it is divided into; part tail is the buffer.",
);
pub(super) const REMAINING: Metric = metric(
    Kind::Histogram,
    "leeway_budget_remaining_ratio",
    &["model", "version", "stage"],
    "The share of a request's budget that was left when it entered a stage.",
);
pub(super) const OVERRUNS: Metric = metric(
    Kind::Counter,
    "leeway_stage_overruns_total",
    &["model", "version", "stage"],
    "Requests in which a stage took longer than its part of the budget; queue and run count as stage inference.",
);
pub(super) const SHED: Metric = metric(
    Kind::Counter,
    "leeway_requests_shed_total",
    &["model", "version", "reason"],
    "Prediction requests refused for want of time or room, by why.",
);
pub(super) const EXPIRED: Metric = metric(
    Kind::Counter,
    "leeway_requests_expired_total",
    &["model", "version", "stage"],
    "Prediction requests whose time ran out, by the stage that had them; in stage network, the body had not arrived.",
);
pub(super) const TERMINATED: Metric = metric(
    Kind::Counter,
    "leeway_runs_terminated_total",
    &["model", "version"],
    "Runs of the model that were ended because nobody waited for them any more.",
);
pub(super) const PREDICTION: Metric = metric(
    Kind::Histogram,
    "leeway_completion_prediction_ratio",
    &["model", "version"],
    "Actual time in queue and run, divided by what was predicted on admission; of requests that a worker took.",
);
pub(super) const SERVICE_PER_ROW: Metric = metric(
    Kind::Gauge,
    "leeway_service_time_per_row_seconds",
    &["model", "version", "estimate"],
    "The learned time of a run is a*rows + b: a, for the typical run and for the tail.",
);
pub(super) const SERVICE_PER_RUN: Metric = metric(
    Kind::Gauge,
    "leeway_service_time_per_run_seconds",
    &["model", "version", "estimate"],
    "The learned time of a run is a*rows + b: b, for the typical run and for the tail.",
);

pub(super) const LOAD_DURATION: Metric = metric(
    Kind::Gauge,
    "leeway_load_duration_seconds",
    &["model", "version"],
    "How long it took to verify, try and open a loaded version.",
);
pub(super) const MODEL_READY: Metric = metric(
    Kind::Gauge,
    "leeway_model_ready",
    &["model"],
    "1 if the model is served, 0 if a version that it needs cannot be, or its model.toml is wrong.",
);
pub(super) const RETIREMENTS: Metric = metric(
    Kind::Counter,
    "leeway_versions_retired_total",
    &["model"],
    "Versions without traffic that were taken out of memory because newer ones serve, or because their folder is gone.",
);
pub(super) const LOAD_FAILURES: Metric = metric(
    Kind::Counter,
    "leeway_load_failures_total",
    &["model", "reason"],
    "Versions, and changed model.toml files, that were refused, by why.",
);
pub(super) const ALTERED: Metric = metric(
    Kind::Gauge,
    "leeway_version_altered",
    &["model", "version"],
    "1 if the files of a loaded version are not on disk any more as they were loaded, else 0.",
);
pub(super) const GENERATION: Metric = metric(
    Kind::Gauge,
    "leeway_deployment_generation",
    &["model"],
    "The number of the model's present deployment; every change of stable version or shares adds 1.",
);
pub(super) const TRAFFIC_SHARE: Metric = metric(
    Kind::Gauge,
    "leeway_traffic_share_ratio",
    &["model", "version"],
    "The share of the model's requests that a loaded version has, 0 to 1.",
);
pub(super) const DEPLOYED_AT: Metric = metric(
    Kind::Gauge,
    "leeway_deployed_timestamp_seconds",
    &["model", "version"],
    "Since when a version has had a share of the requests without a break, in seconds since 1970.",
);
pub(super) const CHANGES: Metric = metric(
    Kind::Counter,
    "leeway_deployment_changes_total",
    &["model", "action"],
    "Changes of what is deployed that this server has taken over, by what was done.",
);
pub(super) const JOURNAL_ERRORS: Metric = metric(
    Kind::Counter,
    "leeway_journal_errors_total",
    &[],
    "Reads and writes of the state that failed: of the deployment journal, and of the feedback that is remembered.",
);
pub(super) const UNWRITTEN: Metric = metric(
    Kind::Gauge,
    "leeway_deployments_unwritten",
    &[],
    "Deployments that are in effect and could not be written to the journal yet; a restart loses them.",
);
pub(super) const REPOSITORY_ERRORS: Metric = metric(
    Kind::Gauge,
    "leeway_repository_errors",
    &[],
    "Problems with the repository as a whole, or with folders in it that are no models, when it was last looked at.",
);

pub(super) const FEEDBACK: Metric =
    metric(Kind::Counter, "leeway_outcome_feedback_total", &["result"], "Items of feedback, by what came of them.");
pub(super) const LATENCY_QUANTILE: Metric = metric(
    Kind::Summary,
    "leeway_latency_quantile_seconds",
    &["model", "version", "stage"],
    "Quantiles of how long each stage of the answered requests of the last minutes took, on this replica; off by 1 % at most.",
);
pub(super) const UNANSWERED_QUANTILE: Metric = metric(
    Kind::Summary,
    "leeway_unanswered_quantile_seconds",
    &["model", "version", "outcome"],
    "The same for requests that were not answered with predictions, until they were refused (shed) or had failed (failed).",
);
pub(super) const MONITORING_MEMORY: Metric = metric(
    Kind::Gauge,
    "leeway_monitoring_memory_bytes",
    &["model", "version"],
    "The most memory that the counters of this version's quantiles and drift can take.",
);

pub(super) const BASELINE_ROWS: Metric = metric(
    Kind::Gauge,
    "leeway_baseline_rows",
    &["model", "version"],
    "How many rows of training data the version's baseline is of; 0 if it has none, so that drift cannot be told.",
);

/// The metrics of drift, once for the features and once for the predictions.
#[derive(Clone, Copy)]
pub(super) struct DriftMetrics {
    pub(super) bins: Metric,
    pub(super) baseline_ratio: Metric,
    pub(super) baseline: Metric,
    pub(super) bin_count: Metric,
    pub(super) window_values: Metric,
    pub(super) psi: Metric,
    pub(super) psi_adjusted: Metric,
    pub(super) drift_z: Metric,
    pub(super) kl: Metric,
    pub(super) outside: Metric,
}

pub(super) const FEATURE: DriftMetrics = DriftMetrics {
    bins: metric(
        Kind::Counter,
        "leeway_feature_bin_total",
        &["model", "version", "feature", "bin"],
        "Values of a feature in each bin of the baseline.",
    ),
    baseline_ratio: metric(
        Kind::Gauge,
        "leeway_feature_baseline_ratio",
        &["model", "version", "feature", "bin"],
        "The share of the training data in each bin, a half being added to each count.",
    ),
    baseline: metric(
        Kind::Summary,
        "leeway_feature_baseline",
        &["model", "version", "feature"],
        "The training data: quantiles of numbers, their sum, and how many values there are.",
    ),
    bin_count: metric(
        Kind::Gauge,
        "leeway_feature_bins",
        &["model", "version", "feature"],
        "How many bins its baseline has.",
    ),
    window_values: metric(
        Kind::Gauge,
        "leeway_feature_window_values",
        &["model", "version", "feature"],
        "How many values this replica's drift window has.",
    ),
    psi: metric(
        Kind::Gauge,
        "leeway_feature_psi",
        &["model", "version", "feature"],
        "Population stability index of this replica's drift window against the baseline.",
    ),
    psi_adjusted: metric(
        Kind::Gauge,
        "leeway_feature_psi_adjusted",
        &["model", "version", "feature"],
        "The same less what it is by chance alone; at least 0.",
    ),
    drift_z: metric(
        Kind::Gauge,
        "leeway_feature_drift_z",
        &["model", "version", "feature"],
        "How many standard deviations the index is above what chance makes of it.",
    ),
    kl: metric(
        Kind::Gauge,
        "leeway_feature_kl",
        &["model", "version", "feature", "direction"],
        "Kullback-Leibler divergence in nats, of the window from the baseline and the other way round.",
    ),
    outside: metric(
        Kind::Gauge,
        "leeway_feature_outside_ratio",
        &["model", "version", "feature", "bin"],
        "The share of this replica's drift window that is missing, and that no bin of the baseline is for (other).",
    ),
};
pub(super) const PREDICTION_FEATURE: DriftMetrics = DriftMetrics {
    bins: metric(
        Kind::Counter,
        "leeway_prediction_bin_total",
        &["model", "version", "feature", "bin"],
        "Predictions, by class, confidence, margin, entropy or value, in each bin of the baseline.",
    ),
    baseline_ratio: metric(
        Kind::Gauge,
        "leeway_prediction_baseline_ratio",
        &["model", "version", "feature", "bin"],
        "The share of the training data in each bin, a half being added to each count.",
    ),
    baseline: metric(
        Kind::Summary,
        "leeway_prediction_baseline",
        &["model", "version", "feature"],
        "The training data: quantiles of numbers, their sum, and how many values there are.",
    ),
    bin_count: metric(
        Kind::Gauge,
        "leeway_prediction_bins",
        &["model", "version", "feature"],
        "How many bins its baseline has.",
    ),
    window_values: metric(
        Kind::Gauge,
        "leeway_prediction_window_values",
        &["model", "version", "feature"],
        "How many values this replica's drift window has.",
    ),
    psi: metric(
        Kind::Gauge,
        "leeway_prediction_psi",
        &["model", "version", "feature"],
        "Population stability index of this replica's drift window against the baseline.",
    ),
    psi_adjusted: metric(
        Kind::Gauge,
        "leeway_prediction_psi_adjusted",
        &["model", "version", "feature"],
        "The same less what it is by chance alone; at least 0.",
    ),
    drift_z: metric(
        Kind::Gauge,
        "leeway_prediction_drift_z",
        &["model", "version", "feature"],
        "How many standard deviations the index is above what chance makes of it.",
    ),
    kl: metric(
        Kind::Gauge,
        "leeway_prediction_kl",
        &["model", "version", "feature", "direction"],
        "Kullback-Leibler divergence in nats, of the window from the baseline and the other way round.",
    ),
    outside: metric(
        Kind::Gauge,
        "leeway_prediction_outside_ratio",
        &["model", "version", "feature", "bin"],
        "The share of this replica's drift window that is missing, and that no bin of the baseline is for (other).",
    ),
};
pub(super) const DRIFT_FEATURES: Metric = metric(
    Kind::Gauge,
    "leeway_drift_features",
    &["model", "version", "status"],
    "How many features and parts of the predictions have this drift status on this replica.",
);
pub(super) const DRIFT_SUMMARY: Metric = metric(
    Kind::Gauge,
    "leeway_drift_psi_adjusted",
    &["model", "version", "of", "measure"],
    "The largest and the mean adjusted index of all features and of all parts of the predictions, on this replica.",
);
pub(super) const PREDICTIONS: Metric = metric(
    Kind::Counter,
    "leeway_predictions_total",
    &["model", "version"],
    "Instances that were answered with a prediction.",
);
pub(super) const PREDICTION_CLASS: Metric = metric(
    Kind::Counter,
    "leeway_prediction_class_total",
    &["model", "version", "class"],
    "Predictions by class; classes beyond the first hundred are other.",
);
pub(super) const CONFIDENCE: Metric = metric(
    Kind::Histogram,
    "leeway_prediction_confidence",
    &["model", "version"],
    "The probability of the predicted class.",
);
pub(super) const MARGIN: Metric = metric(
    Kind::Histogram,
    "leeway_prediction_margin",
    &["model", "version"],
    "The highest less the second highest probability.",
);
pub(super) const ENTROPY: Metric = metric(
    Kind::Histogram,
    "leeway_prediction_entropy_ratio",
    &["model", "version"],
    "The entropy of all classes' probabilities, as a share of the highest possible.",
);
pub(super) const LOW_CONFIDENCE: Metric = metric(
    Kind::Counter,
    "leeway_prediction_low_confidence_total",
    &["model", "version"],
    "Predictions whose confidence is below monitoring.low_confidence.",
);
pub(super) const OUTCOME_LABELS: Metric = metric(
    Kind::Counter,
    "leeway_outcome_labels_total",
    &["model", "version"],
    "Predictions of which the truth became known.",
);
pub(super) const OUTCOME_CORRECT: Metric =
    metric(Kind::Counter, "leeway_outcome_correct_total", &["model", "version"], "Predicted classes that were right.");
pub(super) const OUTCOME_CLASS: Metric = metric(
    Kind::Counter,
    "leeway_outcome_class_total",
    &["model", "version", "class", "of"],
    "Predictions of which the truth became known: how often a class was predicted, actual, and both (correct).",
);
pub(super) const ACCURACY: Metric = metric(
    Kind::Gauge,
    "leeway_outcome_accuracy",
    &["model", "version"],
    "The share of predicted classes that were right, of those of which the truth became known.",
);
pub(super) const ACCURACY_ESTIMATE: Metric = metric(
    Kind::Gauge,
    "leeway_outcome_accuracy_estimate",
    &["model", "version"],
    "An estimate of accuracy without labels: the mean confidence of all predictions. Right if confidence is calibrated.",
);
pub(super) const BRIER_SCORE: Metric = metric(
    Kind::Gauge,
    "leeway_outcome_brier_score",
    &["model", "version"],
    "The mean squared difference of confidence and being right.",
);
pub(super) const CALIBRATION_ERROR: Metric = metric(
    Kind::Gauge,
    "leeway_outcome_ece",
    &["model", "version"],
    "Expected calibration error over ten bins of confidence.",
);
pub(super) const PRECISION: Metric = metric(
    Kind::Gauge,
    "leeway_outcome_precision",
    &["model", "version", "class"],
    "Of the predictions of a class, the share that was right.",
);
pub(super) const RECALL: Metric = metric(
    Kind::Gauge,
    "leeway_outcome_recall",
    &["model", "version", "class"],
    "Of the instances of a class, the share that was predicted to be of it.",
);
pub(super) const CALIBRATION_COUNT: Metric = metric(
    Kind::Counter,
    "leeway_outcome_calibration_count_total",
    &["model", "version", "bin"],
    "Predictions of which the truth became known, by bin of confidence (its upper edge).",
);
pub(super) const CALIBRATION_CONFIDENCE: Metric = metric(
    Kind::Counter,
    "leeway_outcome_calibration_confidence_total",
    &["model", "version", "bin"],
    "The sum of their confidence.",
);
pub(super) const CALIBRATION_CORRECT: Metric = metric(
    Kind::Counter,
    "leeway_outcome_calibration_correct_total",
    &["model", "version", "bin"],
    "How many of them were right.",
);
pub(super) const SQUARED_ERROR: Metric = metric(
    Kind::Counter,
    "leeway_outcome_squared_error_total",
    &["model", "version"],
    "The sum of squared errors: of confidence against being right, or of predicted against true numbers.",
);
pub(super) const MEAN_ABSOLUTE_ERROR: Metric = metric(
    Kind::Gauge,
    "leeway_outcome_mae",
    &["model", "version"],
    "The mean absolute error of predicted numbers, in their own unit.",
);
pub(super) const BIAS: Metric = metric(
    Kind::Gauge,
    "leeway_outcome_bias",
    &["model", "version"],
    "The mean of predicted less true numbers, in their own unit.",
);
pub(super) const ABSOLUTE_ERROR: Metric = metric(
    Kind::Counter,
    "leeway_outcome_absolute_error_total",
    &["model", "version"],
    "The sum of absolute errors of predicted numbers.",
);
pub(super) const ERROR_SUM: Metric =
    metric(Kind::Gauge, "leeway_outcome_error_sum", &["model", "version"], "The sum of predicted less true numbers.");
pub(super) const CORRECTIONS: Metric = metric(
    Kind::Counter,
    "leeway_outcome_corrections_total",
    &["model", "version"],
    "Truths that were replaced by others; each is counted once in leeway_outcome_labels_total.",
);
pub(super) const WITHDRAWN: Metric = metric(
    Kind::Counter,
    "leeway_outcome_withdrawn_total",
    &["model", "version", "of"],
    "What replaced truths had added to the correct, squared_error and absolute_error counters: to be subtracted from them.",
);
pub(super) const CLASS_WITHDRAWN: Metric = metric(
    Kind::Counter,
    "leeway_outcome_class_withdrawn_total",
    &["model", "version", "class", "of"],
    "What replaced truths had added to leeway_outcome_class_total (actual, correct): to be subtracted from it.",
);
pub(super) const CALIBRATION_WITHDRAWN: Metric = metric(
    Kind::Counter,
    "leeway_outcome_calibration_withdrawn_total",
    &["model", "version", "bin"],
    "What replaced truths had added to leeway_outcome_calibration_correct_total: to be subtracted from it.",
);
pub(super) const LABEL_DELAY: Metric = metric(
    Kind::Histogram,
    "leeway_outcome_label_delay_seconds",
    &["model", "version"],
    "The time from a prediction to its truth.",
);
pub(super) const LABEL_COVERAGE: Metric = metric(
    Kind::Gauge,
    "leeway_outcome_label_coverage_ratio",
    &["model", "version"],
    "Truths that this replica was told, divided by the predictions that it made.",
);
pub(super) const BUSINESS: Metric = metric(
    Kind::Gauge,
    "leeway_outcome_business",
    &["model", "version", "name", "kind"],
    "A business metric of model.toml, made of its amounts as its kind says.",
);
pub(super) const BUSINESS_SUM: Metric = metric(
    Kind::Gauge,
    "leeway_outcome_business_sum",
    &["model", "version", "name", "kind"],
    "The sum of its amounts.",
);
pub(super) const BUSINESS_ITEMS: Metric = metric(
    Kind::Counter,
    "leeway_outcome_business_items_total",
    &["model", "version", "name", "kind"],
    "How many amounts there were.",
);
