//! The one table of all metrics, and their text form. The only file that names the `prometheus` crate.
//!
//! Durations are in seconds, counters end in `_total`, and every label has a closed set of values.
//! `docs/metrics.md` explains each; a test holds the two together.

use std::sync::Arc;

use prometheus::TextEncoder;
use prometheus::proto;

use super::recorder::{
    BATCH_SIZE_BUCKETS, DURATION_BUCKETS_MICROS, HistogramSum, Outcome, ServerRecorder, VersionRecorder,
};
use crate::stage::Stage;

/// The content type of the text format.
pub const TEXT_FORMAT: &str = prometheus::TEXT_FORMAT;

/// A metric as it is documented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// The name.
    pub name: &'static str,
    /// What Prometheus shows beside it.
    pub help: &'static str,
    /// The labels, in order.
    pub labels: &'static [&'static str],
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

const fn metric(kind: Kind, name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, help, labels, kind }
}

/// Every metric of Leeway's own. Beside them stand the usual `process_*` metrics, on Linux.
#[rustfmt::skip]
pub const METRICS: &[Metric] = &[
    BUILD_INFO, READY, CONNECTIONS, CONNECTIONS_TOTAL, ACCEPT_ERRORS, ERROR_RESPONSES,
    MODEL_INFO, REQUESTS, IN_FLIGHT, STAGE_DURATION, BATCH_SIZE, QUEUE_DEPTH, WORKER_RESTARTS,
];

const BUILD_INFO: Metric = metric(
    Kind::Gauge,
    "leeway_build_info",
    &["version", "onnxruntime"],
    "Always 1; its labels are the versions of Leeway and of ONNX Runtime.",
);
const READY: Metric =
    metric(Kind::Gauge, "leeway_ready", &[], "1 while the server takes new work, 0 while it is shutting down.");
const CONNECTIONS: Metric =
    metric(Kind::Gauge, "leeway_connections", &[], "Connections that are open on the data listener.");
const CONNECTIONS_TOTAL: Metric =
    metric(Kind::Counter, "leeway_connections_total", &[], "Connections accepted on the data listener.");
const ACCEPT_ERRORS: Metric = metric(
    Kind::Counter,
    "leeway_accept_errors_total",
    &[],
    "Connections the kernel could not hand over, for example for lack of file descriptors.",
);
const ERROR_RESPONSES: Metric = metric(
    Kind::Counter,
    "leeway_error_responses_total",
    &["code"],
    "Requests answered with an error, by the last part of the problem's type.",
);
const MODEL_INFO: Metric = metric(
    Kind::Gauge,
    "leeway_model_info",
    &["model", "version", "sha256", "provider"],
    "Always 1 for a loaded version; its labels are the version's digest and the execution provider in use.",
);
const REQUESTS: Metric = metric(
    Kind::Counter,
    "leeway_requests_total",
    &["model", "version", "outcome"],
    "Prediction requests that reached a version, by how they ended.",
);
const IN_FLIGHT: Metric = metric(
    Kind::Gauge,
    "leeway_requests_in_flight",
    &["model", "version"],
    "Prediction requests that have reached a version and are not answered yet.",
);
const STAGE_DURATION: Metric = metric(
    Kind::Histogram,
    "leeway_stage_duration_seconds",
    &["model", "version", "stage"],
    "How long each stage of an answered prediction request took; stage total is all of it, from the request's head.",
);
const BATCH_SIZE: Metric =
    metric(Kind::Histogram, "leeway_batch_size", &["model", "version"], "Rows in one run of the model.");
const QUEUE_DEPTH: Metric =
    metric(Kind::Gauge, "leeway_queue_depth", &["model", "version"], "Requests that wait for a worker.");
const WORKER_RESTARTS: Metric = metric(
    Kind::Counter,
    "leeway_worker_restarts_total",
    &["model", "version"],
    "Workers that panicked and were rebuilt.",
);

/// All metrics in Prometheus' text format.
pub(super) fn render(server: &ServerRecorder, versions: &[Arc<VersionRecorder>], onnxruntime: &str) -> String {
    let mut families = vec![
        family(BUILD_INFO, [gauge(&[env!("CARGO_PKG_VERSION"), onnxruntime], 1)]),
        family(READY, [gauge(&[], server.ready())]),
        family(CONNECTIONS, [gauge(&[], server.connections())]),
        family(CONNECTIONS_TOTAL, [counter(&[], server.connections_total())]),
        family(ACCEPT_ERRORS, [counter(&[], server.accept_errors())]),
        family(ERROR_RESPONSES, server.error_responses().map(|(code, count)| counter(&[code], count))),
    ];
    if !versions.is_empty() {
        families.extend(version_families(versions));
    }
    #[cfg(target_os = "linux")]
    families.extend(prometheus::core::Collector::collect(&prometheus::process_collector::ProcessCollector::for_self()));
    let mut text = String::new();
    if let Err(error) = TextEncoder::new().encode_utf8(&families, &mut text) {
        tracing::error!(%error, "the metrics could not be written");
    }
    text
}

fn version_families(versions: &[Arc<VersionRecorder>]) -> [proto::MetricFamily; 7] {
    let each = |make: &dyn Fn(&VersionRecorder, [&str; 2]) -> Vec<Series>| {
        let series = |version: &Arc<VersionRecorder>| {
            make(version, [version.labels().model.as_str(), version.labels().version.as_str()])
        };
        versions.iter().flat_map(series).collect::<Vec<Series>>()
    };
    [
        family(
            MODEL_INFO,
            each(&|version, [model, number]| {
                vec![gauge(&[model, number, &version.labels().sha256, version.labels().provider], 1)]
            }),
        ),
        family(
            REQUESTS,
            each(&|version, [model, number]| {
                let series = |outcome: Outcome| counter(&[model, number, outcome.name()], version.requests(outcome));
                Outcome::ALL.map(series).to_vec()
            }),
        ),
        family(IN_FLIGHT, each(&|version, labels| vec![gauge(&labels, version.in_flight())])),
        family(
            STAGE_DURATION,
            each(&|version, [model, number]| {
                let stages = Stage::ALL.map(|stage| (stage.name(), Some(stage)));
                let series = |(name, stage)| {
                    histogram(&[model, number, name], &DURATION_BUCKETS_MICROS, 1e6, &version.durations(stage), 1e9)
                };
                stages.into_iter().chain([("total", None)]).map(series).collect()
            }),
        ),
        family(
            BATCH_SIZE,
            each(&|version, labels| vec![histogram(&labels, &BATCH_SIZE_BUCKETS, 1.0, &version.batch_sizes(), 1.0)]),
        ),
        family(QUEUE_DEPTH, each(&|version, labels| vec![gauge(&labels, version.queue_depth())])),
        family(WORKER_RESTARTS, each(&|version, labels| vec![counter(&labels, version.restarts())])),
    ]
}

// ===== the shapes of the text format =====

/// One series: its label values, in the order of the metric's labels, and its value.
#[derive(Clone)]
struct Series {
    labels: Vec<String>,
    value: proto::Metric,
}

fn family(metric: Metric, series: impl IntoIterator<Item = Series>) -> proto::MetricFamily {
    let mut family = proto::MetricFamily::default();
    family.set_name(metric.name.to_owned());
    family.set_help(metric.help.to_owned());
    family.set_field_type(match metric.kind {
        Kind::Counter => proto::MetricType::COUNTER,
        Kind::Gauge => proto::MetricType::GAUGE,
        Kind::Histogram => proto::MetricType::HISTOGRAM,
    });
    let with_labels = |Series { labels, mut value }: Series| {
        let pair = |(name, label): (&&str, String)| {
            let mut pair = proto::LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value(label);
            pair
        };
        value.set_label(metric.labels.iter().zip(labels).map(pair).collect());
        value
    };
    family.set_metric(series.into_iter().map(with_labels).collect());
    family
}

fn series(labels: &[&str], value: proto::Metric) -> Series {
    Series { labels: labels.iter().map(|label| (*label).to_owned()).collect(), value }
}

fn counter(labels: &[&str], value: u64) -> Series {
    let mut counter = proto::Counter::default();
    counter.set_value(value as f64);
    let mut metric = proto::Metric::default();
    metric.set_counter(counter);
    series(labels, metric)
}

fn gauge(labels: &[&str], value: u64) -> Series {
    let mut gauge = proto::Gauge::default();
    gauge.set_value(value as f64);
    series(labels, proto::Metric::from_gauge(gauge))
}

/// `edges` are divided by `edge_unit` and the sum by `sum_unit` to come to base units.
fn histogram(labels: &[&str], edges: &[u64], edge_unit: f64, read: &HistogramSum, sum_unit: f64) -> Series {
    let mut cumulative = 0;
    let mut buckets = Vec::with_capacity(edges.len());
    for (&edge, &count) in edges.iter().zip(&read.counts) {
        cumulative += count;
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(edge as f64 / edge_unit);
        bucket.set_cumulative_count(cumulative);
        buckets.push(bucket);
    }
    let mut histogram = proto::Histogram::default();
    histogram.set_sample_count(read.counts.iter().sum());
    histogram.set_sample_sum(read.sum as f64 / sum_unit);
    histogram.set_bucket(buckets);
    let mut metric = proto::Metric::default();
    metric.set_histogram(histogram);
    series(labels, metric)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Monitor, VersionLabels};
    use super::*;
    use crate::stage::Timings;

    fn monitor_with_one_version() -> (Monitor, Arc<VersionRecorder>) {
        let monitor = Monitor::new("1.31.1");
        let labels =
            VersionLabels { model: "digits".into(), version: "1".into(), sha256: "ab".into(), provider: "cpu" };
        let version = monitor.version(labels);
        (monitor, version)
    }

    #[test]
    fn the_table_is_what_is_rendered() {
        let (monitor, _version) = monitor_with_one_version();
        let text = monitor.render();
        let rendered: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE leeway_"))
            .filter_map(|line| line.split(' ').next())
            .collect();
        let declared: Vec<&str> = METRICS.iter().filter_map(|metric| metric.name.strip_prefix("leeway_")).collect();
        assert_eq!(rendered, declared);
    }

    #[test]
    fn a_duration_is_in_the_first_bucket_whose_edge_it_does_not_exceed() {
        let (monitor, version) = monitor_with_one_version();
        let mut timings = Timings::default();
        timings.set(Stage::Inference, Duration::from_micros(100));
        version.request().succeeded(&timings, Duration::from_nanos(100_001));
        let text = monitor.render();
        let count = |stage: &str, edge: &str| {
            let series = format!(
                "leeway_stage_duration_seconds_bucket{{model=\"digits\",version=\"1\",stage=\"{stage}\",le=\"{edge}\"}} "
            );
            text.lines().find_map(|line| line.strip_prefix(&series)).unwrap().to_owned()
        };
        assert_eq!((count("inference", "0.00005"), count("inference", "0.0001")), ("0".into(), "1".into()));
        assert_eq!((count("total", "0.0001"), count("total", "0.0002")), ("0".into(), "1".into()));
        assert!(text.contains(
            "leeway_stage_duration_seconds_sum{model=\"digits\",version=\"1\",stage=\"total\"} 0.000100001\n"
        ));
    }

    #[test]
    fn a_request_that_nobody_finishes_is_abandoned() {
        let (monitor, version) = monitor_with_one_version();
        let guard = version.request();
        assert!(monitor.render().contains("leeway_requests_in_flight{model=\"digits\",version=\"1\"} 1\n"));
        drop(guard);
        let text = monitor.render();
        assert!(text.contains("leeway_requests_in_flight{model=\"digits\",version=\"1\"} 0\n"));
        assert!(text.contains("leeway_requests_total{model=\"digits\",version=\"1\",outcome=\"abandoned\"} 1\n"));
    }

    #[test]
    fn a_version_that_is_gone_has_no_series() {
        let (monitor, version) = monitor_with_one_version();
        drop(version);
        assert!(!monitor.render().contains("digits"));
    }
}
