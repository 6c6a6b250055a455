//! All metrics, in Prometheus' text format.
//!
//! - `table.rs` is the one table of names, labels and help texts.
//! - Here are the values of what concerns requests and deployments; `drift.rs` has those of drift and outcomes.
//! - `text.rs` knows the text format.

mod drift;
mod table;
mod text;

use std::sync::Arc;
use std::time::Duration;

use self::table::*;
pub use self::table::{METRICS, Metric};
pub use self::text::TEXT_FORMAT;
use self::text::{MetricFamily, Series, counter, family, gauge, gauge_of, histogram};

use crate::monitor::deployment::{DeployedShare, DeploymentRecorder, ModelDeployment};
use crate::monitor::labels::{Outcome, ShedReason};
use crate::monitor::server_recorder::ServerRecorder;
use crate::monitor::version_recorder::{BATCH_SIZE_BUCKETS, PREDICTION_BUCKETS, REMAINING_BUCKETS, VersionRecorder};
use crate::stage::Stage;

/// All metrics in Prometheus' text format.
pub(super) fn render(
    server: &ServerRecorder,
    versions: &[Arc<VersionRecorder>],
    deployments: &DeploymentRecorder,
    onnxruntime: &str,
    now: Duration,
) -> String {
    let mut families = vec![
        family(BUILD_INFO, [gauge(&[env!("CARGO_PKG_VERSION"), onnxruntime], 1)]),
        family(READY, [gauge(&[], server.ready())]),
        family(CONNECTIONS, [gauge(&[], server.connections())]),
        family(CONNECTIONS_TOTAL, [counter(&[], server.connections_total())]),
        family(ACCEPT_ERRORS, [counter(&[], server.accept_errors())]),
        family(BODY_MEMORY, [gauge(&[], server.body_memory().held)]),
        family(BODY_MEMORY_LIMIT, [gauge(&[], server.body_memory().limit)]),
        family(ERROR_RESPONSES, server.error_responses().map(|(code, count)| counter(&[code], count))),
        family(FEEDBACK, server.feedback_results().map(|(result, count)| counter(&[result.name()], count))),
    ];
    families.extend(version_families(versions));
    families.extend(drift::families(versions, now));
    families.extend(deployment_families(deployments));
    // A family without series is no family to Prometheus.
    families.retain(|family| !family.is_empty());
    text::encode(&families)
}

fn version_families(versions: &[Arc<VersionRecorder>]) -> [MetricFamily; 20] {
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
                    histogram(
                        &[model, number, name],
                        version.duration_edges(stage),
                        1e6,
                        &version.durations(stage),
                        1e9,
                    )
                };
                stages.into_iter().chain([("total", None)]).map(series).collect()
            }),
        ),
        family(
            BATCHING_INFO,
            each(&|version, [model, number]| {
                let (rows, batching) = version.batching();
                vec![gauge(&[model, number, rows, batching], 1)]
            }),
        ),
        family(
            BATCH_SIZE,
            each(&|version, labels| vec![histogram(&labels, &BATCH_SIZE_BUCKETS, 1.0, &version.batch_sizes(), 1.0)]),
        ),
        family(
            BATCH_ELEMENTS,
            each(&|version, [model, number]| {
                let [input, padding] = version.batch_elements();
                vec![counter(&[model, number, "input"], input), counter(&[model, number, "padding"], padding)]
            }),
        ),
        family(QUEUE_DEPTH, each(&|version, labels| vec![gauge(&labels, version.queue_depth())])),
        family(OLDEST_RUN, each(&|version, labels| vec![gauge_of(&labels, version.oldest_run().as_secs_f64())])),
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
                // By way of whole microseconds, so that it is the same number as the edge of the histogram there.
                let seconds = |time: Duration| time.as_micros() as f64 / 1e6;
                parts.map(|(part, time)| gauge_of(&[model, number, part], seconds(time))).to_vec()
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

fn deployment_families(deployments: &DeploymentRecorder) -> Vec<MetricFamily> {
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
        family(MODEL_READY, models.iter().map(|(model, seen)| gauge(&[model], seen.is_served.into()))),
        family(LOAD_FAILURES, counted(&ModelDeployment::load_failures)),
        family(RETIREMENTS, models.iter().map(|(model, seen)| counter(&[model], seen.retirements))),
        family(ALTERED, shares(&|labels, share| Some(gauge(&labels, share.is_altered.into())))),
        family(GENERATION, models.iter().map(|(model, seen)| gauge(&[model], seen.generation))),
        family(TRAFFIC_SHARE, shares(&|labels, share| Some(gauge_of(&labels, share.ratio)))),
        family(DEPLOYED_AT, shares(&|labels, share| Some(gauge_of(&labels, share.deployed_at?)))),
        family(CHANGES, counted(&ModelDeployment::changes)),
        family(JOURNAL_ERRORS, [counter(&[], deployments.journal_errors())]),
        family(UNWRITTEN, [gauge(&[], deployments.unwritten())]),
        family(REPOSITORY_ERRORS, [gauge(&[], deployments.repository_errors())]),
    ];
    families.into()
}

fn by_stage([model, number]: [&str; 2], count: impl Fn(Stage) -> u64) -> Vec<Series> {
    Stage::ALL.map(|stage| counter(&[model, number, stage.name()], count(stage))).to_vec()
}

fn estimates([model, number]: [&str; 2], [typical, tail]: [f64; 2]) -> Vec<Series> {
    [("typical", typical), ("tail", tail)].map(|(name, value)| gauge_of(&[model, number, name], value)).to_vec()
}
