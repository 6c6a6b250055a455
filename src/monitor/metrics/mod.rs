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

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::budget::{LatencyBudget, QueueTimings, StageClock};
    use crate::config::{BusinessKind, MonitoringWindows};
    use crate::error::{Error, Shed};
    use crate::feature::{Certainty, FeatureSchema, Features, Observation};
    use crate::monitor::{Monitor, MonitoringSpec, Predicted, Sample, Truth, VersionLabels};

    fn monitor_with_one_version() -> (Monitor, Arc<VersionRecorder>) {
        let monitor = Monitor::new("1.31.1", MonitoringWindows { top_features: None, ..Default::default() });
        let labels =
            VersionLabels { model: "digits".into(), version: "1".into(), sha256: "ab".into(), provider: "cpu" };
        let version = monitor.version(labels, LatencyBudget::DEFAULT, MonitoringSpec::default());
        let share = DeployedShare { version: "1".into(), ratio: 1.0, deployed_at: Some(1.5e9), is_altered: false };
        monitor.deployments().deployed("digits", 3, vec![share]);
        (monitor, version)
    }

    /// A version with a baseline of these predictions, which were made, answered, and judged.
    fn seen(
        monitor: &Monitor,
        number: &str,
        made: [Observation; 2],
        judged: &(Predicted, Truth),
    ) -> Arc<VersionRecorder> {
        let schema = FeatureSchema { numbers: vec!["x".into()], texts: Vec::new() };
        let mut features = Features::with_rows(2);
        features.numbers = vec![1.0, 2.0];
        let mut sample = Sample::new(schema.clone(), None);
        sample.add(&features, &made);
        let mut builder = sample.freeze();
        builder.count(&features, &made);
        let baseline = Some(Arc::new(builder.finish()));
        let labels = VersionLabels { model: "m".into(), version: number.into(), sha256: "ab".into(), provider: "cpu" };
        let spec = MonitoringSpec { schema, baseline, ..MonitoringSpec::default() };
        let version = monitor.version(labels, LatencyBudget::DEFAULT, spec);
        version.observe(features, made.into_iter());
        version.outcomes(|outcomes| {
            outcomes.label(&judged.0, &judged.1, Some(Duration::from_secs(5)));
            outcomes.correct(&judged.0, &judged.1, &judged.1);
            outcomes.business("revenue", BusinessKind::Sum, 2.5);
        });
        let clock = StageClock::new(Instant::now(), LatencyBudget::DEFAULT);
        drop(version.request().succeeded(&clock));
        let error = Error::InvalidInput("wrong".to_owned());
        version.request().failed(&clock, &error);
        version
    }

    fn classes() -> [Observation; 2] {
        let certainty = Certainty { confidence: 0.75, margin: 0.5, entropy: 0.25 };
        [0, 1].map(|class| Observation::Class { class, certainty })
    }

    #[test]
    fn the_table_is_what_is_rendered() {
        let (monitor, _version) = monitor_with_one_version();
        let judged = (Predicted::Class("0".into(), 0.75), Truth::Label { class: 0, name: "0".into() });
        let _classifier = seen(&monitor, "1", classes(), &judged);
        let values = [1.0, 2.0].map(Observation::Value);
        let _regressor = seen(&monitor, "2", values, &(Predicted::Value(1.0), Truth::Value(1.5)));
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
    async fn clock(waited: QueueTimings, predicted: Option<Duration>) -> StageClock {
        let mut clock = StageClock::new(Instant::now(), LatencyBudget::DEFAULT);
        clock.wait(async { Ok(((), waited)) }, predicted, || None).await.unwrap();
        clock
    }

    #[tokio::test]
    async fn a_duration_is_in_the_first_bucket_whose_edge_it_does_not_exceed() {
        let (monitor, version) = monitor_with_one_version();
        let inference = Duration::from_micros(100);
        let clock = clock(QueueTimings { inference, ..QueueTimings::default() }, None).await;
        let delivery = version.request().succeeded(&clock);
        version.delivered(Duration::from_nanos(100_001));
        std::mem::forget(delivery);
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
        let long = clock(QueueTimings { queue: ms(50), inference: ms(100) }, Some(ms(100))).await;
        drop(version.request().succeeded(&long));
        let error =
            Error::Overloaded { shed: Shed::InTheQueue, needed: ms(9), left: ms(1), retry_after: Duration::ZERO };
        version.request().failed(&clock(QueueTimings::default(), None).await, &error);
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
