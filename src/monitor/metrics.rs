//! The one table of all metrics, and their text form. The only file that names the `prometheus` crate.
//!
//! Durations are in seconds, counters end in `_total`, and every label has a closed set of values.
//! `docs/metrics.md` explains each; a test holds the two together.

use std::sync::Arc;

use prometheus::TextEncoder;
use prometheus::proto;

use super::deployment::{DeployedShare, DeploymentRecorder, ModelDeployment};
use super::recorder::{
    BATCH_SIZE_BUCKETS, DURATION_BUCKETS_MICROS, HistogramSum, Outcome, PREDICTION_BUCKETS, REMAINING_BUCKETS,
    ServerRecorder, ShedReason, VersionRecorder,
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
    BUDGET, REMAINING, OVERRUNS, SHED, EXPIRED, TERMINATED, PREDICTION, SERVICE_PER_ROW, SERVICE_PER_RUN,
    LOAD_DURATION, LOAD_FAILURES, ALTERED, GENERATION, TRAFFIC_SHARE, DEPLOYED_AT, CHANGES, JOURNAL_ERRORS,
    REPOSITORY_ERRORS,
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

const BUDGET: Metric = metric(
    Kind::Gauge,
    "leeway_budget_seconds",
    &["model", "version", "part"],
    "The configured latency budget: part total, and what it is divided into; part tail is the buffer.",
);
const REMAINING: Metric = metric(
    Kind::Histogram,
    "leeway_budget_remaining_ratio",
    &["model", "version", "stage"],
    "The share of a request's budget that was left when it entered a stage.",
);
const OVERRUNS: Metric = metric(
    Kind::Counter,
    "leeway_stage_overruns_total",
    &["model", "version", "stage"],
    "Requests in which a stage took longer than its part of the budget; queue and run count as stage inference.",
);
const SHED: Metric = metric(
    Kind::Counter,
    "leeway_requests_shed_total",
    &["model", "version", "reason"],
    "Prediction requests refused for want of time or room, by why.",
);
const EXPIRED: Metric = metric(
    Kind::Counter,
    "leeway_requests_expired_total",
    &["model", "version", "stage"],
    "Prediction requests whose time ran out, by the stage that had them; in stage network, the body had not arrived.",
);
const TERMINATED: Metric = metric(
    Kind::Counter,
    "leeway_runs_terminated_total",
    &["model", "version"],
    "Runs of the model that were ended because nobody waited for them any more.",
);
const PREDICTION: Metric = metric(
    Kind::Histogram,
    "leeway_completion_prediction_ratio",
    &["model", "version"],
    "Actual time in queue and run, divided by what was predicted on admission; of requests that a worker took.",
);
const SERVICE_PER_ROW: Metric = metric(
    Kind::Gauge,
    "leeway_service_time_per_row_seconds",
    &["model", "version", "estimate"],
    "The learned time of a run is a*rows + b: a, for the typical run and for the tail.",
);
const SERVICE_PER_RUN: Metric = metric(
    Kind::Gauge,
    "leeway_service_time_per_run_seconds",
    &["model", "version", "estimate"],
    "The learned time of a run is a*rows + b: b, for the typical run and for the tail.",
);

const LOAD_DURATION: Metric = metric(
    Kind::Gauge,
    "leeway_load_duration_seconds",
    &["model", "version"],
    "How long it took to verify, try and open a loaded version.",
);
const LOAD_FAILURES: Metric = metric(
    Kind::Counter,
    "leeway_load_failures_total",
    &["model", "reason"],
    "Versions, and changed model.toml files, that were refused, by why.",
);
const ALTERED: Metric = metric(
    Kind::Gauge,
    "leeway_version_altered",
    &["model", "version"],
    "1 if the files of a loaded version are not on disk any more as they were loaded, else 0.",
);
const GENERATION: Metric = metric(
    Kind::Gauge,
    "leeway_deployment_generation",
    &["model"],
    "The number of the model's present deployment; every change of stable version or shares adds 1.",
);
const TRAFFIC_SHARE: Metric = metric(
    Kind::Gauge,
    "leeway_traffic_share_ratio",
    &["model", "version"],
    "The share of the model's requests that a loaded version has, 0 to 1.",
);
const DEPLOYED_AT: Metric = metric(
    Kind::Gauge,
    "leeway_deployed_timestamp_seconds",
    &["model", "version"],
    "Since when a version has had a share of the requests without a break, in seconds since 1970.",
);
const CHANGES: Metric = metric(
    Kind::Counter,
    "leeway_deployment_changes_total",
    &["model", "action"],
    "Changes of what is deployed that this server has taken over, by what was done.",
);
const JOURNAL_ERRORS: Metric = metric(
    Kind::Counter,
    "leeway_journal_errors_total",
    &[],
    "Reads and writes of the deployment journal that failed.",
);
const REPOSITORY_ERRORS: Metric = metric(
    Kind::Gauge,
    "leeway_repository_errors",
    &[],
    "Problems with the repository as a whole, or with folders in it that are no models, when it was last looked at.",
);

/// All metrics in Prometheus' text format.
pub(super) fn render(
    server: &ServerRecorder,
    versions: &[Arc<VersionRecorder>],
    deployments: &DeploymentRecorder,
    onnxruntime: &str,
) -> String {
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
    families.extend(deployment_families(deployments));
    #[cfg(target_os = "linux")]
    families.extend(prometheus::core::Collector::collect(&prometheus::process_collector::ProcessCollector::for_self()));
    let mut text = String::new();
    if let Err(error) = TextEncoder::new().encode_utf8(&families, &mut text) {
        tracing::error!(%error, "the metrics could not be written");
    }
    text
}

fn version_families(versions: &[Arc<VersionRecorder>]) -> [proto::MetricFamily; 17] {
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
        family(
            BUDGET,
            each(&|version, [model, number]| {
                let budget = version.budget();
                let parts = [
                    ("total", budget.total),
                    ("network", budget.network),
                    ("preprocess", budget.preprocess),
                    ("inference", budget.inference),
                    ("postprocess", budget.postprocess),
                    ("tail", budget.tail()),
                ];
                parts.map(|(part, time)| gauge_of(&[model, number, part], time.as_secs_f64())).to_vec()
            }),
        ),
        family(
            REMAINING,
            each(&|version, [model, number]| {
                let series = |stage: Stage| {
                    let labels = [model, number, stage.name()];
                    histogram(&labels, &REMAINING_BUCKETS, 1e3, &version.remaining(stage), 1e3)
                };
                Stage::ALL.map(series).to_vec()
            }),
        ),
        family(OVERRUNS, each(&|version, labels| by_stage(labels, |stage| version.overruns(stage)))),
        family(
            SHED,
            each(&|version, [model, number]| {
                let series = |reason: ShedReason| counter(&[model, number, reason.name()], version.shed(reason));
                ShedReason::ALL.map(series).to_vec()
            }),
        ),
        family(EXPIRED, each(&|version, labels| by_stage(labels, |stage| version.expired(stage)))),
        family(TERMINATED, each(&|version, labels| vec![counter(&labels, version.terminated())])),
        family(
            PREDICTION,
            each(&|version, labels| {
                vec![histogram(&labels, &PREDICTION_BUCKETS, 1e3, &version.prediction_ratios(), 1e3)]
            }),
        ),
        family(SERVICE_PER_ROW, each(&|version, labels| estimates(labels, version.service_time().map(|line| line[0])))),
        family(SERVICE_PER_RUN, each(&|version, labels| estimates(labels, version.service_time().map(|line| line[1])))),
        family(LOAD_DURATION, each(&|version, labels| vec![gauge_of(&labels, version.load_seconds())])),
    ]
}

fn deployment_families(deployments: &DeploymentRecorder) -> Vec<proto::MetricFamily> {
    let models = deployments.models();
    let shares = |make: &dyn Fn([&str; 2], &DeployedShare) -> Option<Series>| {
        let mut all = Vec::new();
        for (model, seen) in &models {
            all.extend(seen.shares.iter().filter_map(|share| make([model, &share.version], share)));
        }
        all
    };
    let counted = |counts: &dyn Fn(&ModelDeployment) -> Vec<(&'static str, u64)>| {
        let mut all = Vec::new();
        for (model, seen) in &models {
            all.extend(counts(seen).into_iter().map(|(label, count)| counter(&[model, label], count)));
        }
        all
    };
    let families = [
        family(LOAD_FAILURES, counted(&ModelDeployment::load_failures)),
        family(ALTERED, shares(&|labels, share| Some(gauge(&labels, share.is_altered.into())))),
        family(GENERATION, models.iter().map(|(model, seen)| gauge(&[model], seen.generation))),
        family(TRAFFIC_SHARE, shares(&|labels, share| Some(gauge_of(&labels, share.ratio)))),
        family(DEPLOYED_AT, shares(&|labels, share| Some(gauge_of(&labels, share.deployed_at?)))),
        family(CHANGES, counted(&ModelDeployment::changes)),
        family(JOURNAL_ERRORS, [counter(&[], deployments.journal_errors())]),
        family(REPOSITORY_ERRORS, [gauge(&[], deployments.repository_errors())]),
    ];
    // A family without series is no family to Prometheus.
    families.into_iter().filter(|family| !family.get_metric().is_empty()).collect()
}

fn by_stage([model, number]: [&str; 2], count: impl Fn(Stage) -> u64) -> Vec<Series> {
    Stage::ALL.map(|stage| counter(&[model, number, stage.name()], count(stage))).to_vec()
}

fn estimates([model, number]: [&str; 2], [typical, tail]: [f64; 2]) -> Vec<Series> {
    [("typical", typical), ("tail", tail)].map(|(name, value)| gauge_of(&[model, number, name], value)).to_vec()
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
    gauge_of(labels, value as f64)
}

fn gauge_of(labels: &[&str], value: f64) -> Series {
    let mut gauge = proto::Gauge::default();
    gauge.set_value(value);
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
    use std::time::{Duration, Instant};

    use super::super::{Monitor, VersionLabels};
    use super::*;
    use crate::budget::{LatencyBudget, StageClock, Waited};
    use crate::error::{Error, Shed};

    fn monitor_with_one_version() -> (Monitor, Arc<VersionRecorder>) {
        let monitor = Monitor::new("1.31.1");
        let labels =
            VersionLabels { model: "digits".into(), version: "1".into(), sha256: "ab".into(), provider: "cpu" };
        let version = monitor.version(labels, LatencyBudget::DEFAULT);
        let share = DeployedShare { version: "1".into(), ratio: 1.0, deployed_at: Some(1.5e9), is_altered: false };
        monitor.deployments().deployed("digits", 3, vec![share]);
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

    /// The clock of a request that waited in the model room like this, and was to wait so long.
    async fn clock(waited: Waited, predicted: Option<Duration>) -> StageClock {
        let mut clock = StageClock::new(Instant::now(), LatencyBudget::DEFAULT);
        clock.wait(async { Ok(((), waited)) }, predicted, || None).await.unwrap();
        clock
    }

    #[tokio::test]
    async fn a_duration_is_in_the_first_bucket_whose_edge_it_does_not_exceed() {
        let (monitor, version) = monitor_with_one_version();
        let inference = Duration::from_micros(100);
        let clock = clock(Waited { inference, ..Waited::default() }, None).await;
        version.request().succeeded(&clock, Duration::from_nanos(100_001));
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

    #[tokio::test]
    async fn where_a_budget_went_is_counted() {
        let (monitor, version) = monitor_with_one_version();
        let ms = Duration::from_millis;
        let long = clock(Waited { queue: ms(50), inference: ms(100) }, Some(ms(100))).await;
        version.request().succeeded(&long, ms(151));
        let error =
            Error::Overloaded { shed: Shed::InTheQueue, needed: ms(9), left: ms(1), retry_after: Duration::ZERO };
        version.request().failed(&clock(Waited::default(), None).await, &error);
        let text = monitor.render();
        for series in [
            "leeway_stage_overruns_total{model=\"digits\",version=\"1\",stage=\"inference\"} 1",
            "leeway_stage_overruns_total{model=\"digits\",version=\"1\",stage=\"queue\"} 0",
            "leeway_requests_shed_total{model=\"digits\",version=\"1\",reason=\"overtaken\"} 1",
            "leeway_completion_prediction_ratio_bucket{model=\"digits\",version=\"1\",le=\"1.25\"} 0",
            "leeway_completion_prediction_ratio_bucket{model=\"digits\",version=\"1\",le=\"1.5\"} 1",
            // The queue was entered with nearly all of the 185 ms that the server has of 200, by both requests.
            "leeway_budget_remaining_ratio_bucket{model=\"digits\",version=\"1\",stage=\"queue\",le=\"0.9\"} 0",
            "leeway_budget_remaining_ratio_count{model=\"digits\",version=\"1\",stage=\"queue\"} 2",
            "leeway_budget_seconds{model=\"digits\",version=\"1\",part=\"tail\"} 0.045",
        ] {
            assert!(text.lines().any(|line| line == series), "{series}\n{text}");
        }
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
        monitor.deployments().forget("digits");
        assert!(!monitor.render().contains("digits"));
    }
}
