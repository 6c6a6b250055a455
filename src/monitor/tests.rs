//! Tests of `/metrics` as a whole: its text has the numbers that were recorded through the handles.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::budget::{Enforce, LatencyBudget, QueueTimings, StageClock};
use crate::config::{BusinessKind, MonitoringConfig, MonitoringWindows};
use crate::error::{Error, LoadFault, Shed};
use crate::feature::{Certainty, FeatureSchema, Features, Observation};
use crate::stage::{Stage, Timings};

fn monitor_with_one_version() -> (Monitor, Arc<VersionRecorder>) {
    let monitor = Monitor::new("1.31.1", MonitoringWindows { top_features: None, ..Default::default() });
    let labels = VersionLabels { model: "digits".into(), version: "1".into(), sha256: "ab".into(), provider: "cpu" };
    let version = monitor.version(labels, LatencyBudget::DEFAULT, MonitoringSpec::default());
    let share = DeployedShare { version: "1".into(), ratio: 1.0, deployed_at: Some(1.5e9), is_altered: false };
    monitor.deployments().deployed("digits", 3, vec![share]);
    monitor.deployments().set_rollouts([("digits", "promoted")].into_iter());
    (monitor, version)
}

/// Returns a version that made these predictions, has a baseline of them, and got an outcome.
fn seen(monitor: &Monitor, number: &str, made: [Observation; 2], judged: &(Predicted, Truth)) -> Arc<VersionRecorder> {
    let schema = FeatureSchema { numbers: vec!["x".into()], texts: Vec::new() };
    let mut features = Features::with_rows(2);
    features.numbers = vec![1.0, 2.0];
    let mut sample = Sample::new(schema.clone(), None);
    sample.add(&features, &made);
    let mut builder = sample.freeze();
    builder.count(&features, &made);
    let mut labelled = LabelledCounter::new(None);
    (0..100).for_each(|_| labelled.class(made[0], "0"));
    labelled.value(made[0], 0.5);
    let baseline = Some(Arc::new(Baseline { labelled: labelled.finish(), ..builder.finish() }));
    let labels = VersionLabels { model: "m".into(), version: number.into(), sha256: "ab".into(), provider: "cpu" };
    let spec = MonitoringSpec { schema, baseline, ..MonitoringSpec::default() };
    let version = monitor.version(labels, LatencyBudget::DEFAULT, spec);
    version.observe(features, made.into_iter());
    version.outcomes(|outcomes| {
        outcomes.label(&judged.0, &judged.1, Some(Duration::from_secs(5)));
        outcomes.label(&judged.0, &judged.1, None);
        outcomes.correct(&judged.0, &judged.1, &judged.1);
        outcomes.business("revenue", BusinessKind::Sum, 2.5);
    });
    let clock = StageClock::new(Instant::now(), LatencyBudget::DEFAULT);
    drop(version.request(Routing::BySplit).succeeded(&clock));
    let error = Error::InvalidInput("wrong".to_owned());
    version.request(Routing::BySplit).failed(&clock, &error);
    version
}

fn classes() -> [Observation; 2] {
    let certainty = Certainty { confidence: 0.75, margin: 0.5, entropy: 0.25 };
    [0, 1].map(|class| Observation::Class { class, certainty })
}

#[test]
fn a_look_for_overload_sees_the_requests_since_the_last_one() {
    let (_monitor, version) = monitor_with_one_version();
    let clock = StageClock::new(Instant::now(), LatencyBudget::DEFAULT);
    let fail = |error: Error| version.request(Routing::BySplit).failed(&clock, &error);
    fail(Error::QueueFull { capacity: 8, retry_after: Duration::ZERO });
    fail(Error::QueueFull { capacity: 8, retry_after: Duration::ZERO });
    fail(Error::Expired { stage: Stage::Queue, spent: Timings::default() });
    drop(version.request(Routing::BySplit).succeeded(&clock));
    let counts = version.counts_since_last_look();
    assert_eq!((counts.requests, counts.expired, counts.shed.iter().sum()), (4, 1, 2));
    assert_eq!(version.counts_since_last_look(), overload::RequestCounts::default());
}

#[test]
fn the_table_is_what_is_rendered() {
    let (monitor, _version) = monitor_with_one_version();
    let judged = (Predicted::Class("0".into(), 0.75), Truth::Label { class: 0, name: "0".into() });
    let _classifier = seen(&monitor, "1", classes(), &judged);
    let values = [1.0, 2.0].map(Observation::Value);
    let _regressor = seen(&monitor, "2", values, &(Predicted::Value(1.0), Truth::Value(1.5)));
    let labels = VersionLabels { model: "look".into(), version: "1".into(), sha256: "cd".into(), provider: "chain" };
    let spec = MonitoringSpec { steps: vec!["detect".to_owned()], ..MonitoringSpec::default() };
    let chain = monitor.version(labels, LatencyBudget::DEFAULT, spec);
    chain.step(0, &Timings::default(), true);
    chain.shadow().ended(ShadowOutcome::Compared);
    let _drifted = used(&monitor, "values", |row| Observation::Value((row % 7) as f64));
    monitor.server().count_api_keys(["mobile"].into_iter());
    monitor.server().record_tls("http");
    let text = monitor.render();
    let rendered: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE leeway_"))
        .filter_map(|line| line.split(' ').next())
        .collect();
    let declared: Vec<&str> = metrics().iter().filter_map(|metric| metric.name.strip_prefix("leeway_")).collect();
    assert_eq!(rendered, declared);
}

/// Returns the clock of a request that waited this long for its run, and was predicted to wait `predicted`.
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
    let delivery = version.request(Routing::BySplit).succeeded(&clock);
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
    assert!(
        text.contains(
            "leeway_stage_duration_seconds_sum{model=\"digits\",version=\"1\",stage=\"total\"} 0.000100001\n"
        )
    );
}

#[tokio::test]
async fn where_a_budget_went_is_counted() {
    let (monitor, version) = monitor_with_one_version();
    let ms = Duration::from_millis;
    let long = clock(QueueTimings { queue: ms(50), inference: ms(100), entered: None }, Some(ms(100))).await;
    drop(version.request(Routing::BySplit).succeeded(&long));
    let error = Error::Overloaded { shed: Shed::InTheQueue, needed: ms(9), left: ms(1), retry_after: Duration::ZERO };
    version.request(Routing::BySplit).failed(&clock(QueueTimings::default(), None).await, &error);
    let text = monitor.render();
    for series in [
        "leeway_stage_overruns_total{model=\"digits\",version=\"1\",stage=\"inference\"} 1",
        "leeway_stage_overruns_total{model=\"digits\",version=\"1\",stage=\"queue\"} 0",
        "leeway_requests_shed_total{model=\"digits\",version=\"1\",reason=\"overtaken\"} 1",
        "leeway_completion_prediction_ratio_bucket{model=\"digits\",version=\"1\",le=\"1.25\"} 0",
        "leeway_completion_prediction_ratio_bucket{model=\"digits\",version=\"1\",le=\"1.5\"} 1",
        // Both requests entered the queue with nearly all of the server's 185 ms, out of 200 ms in total.
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
    let guard = version.request(Routing::BySplit);
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

// ===== the whole text =====

/// A budget so large that a test takes less than a thousandth of it.
const LARGE_BUDGET: LatencyBudget = LatencyBudget {
    total: Duration::from_secs(100_000),
    network: Duration::ZERO,
    preprocess: Duration::from_millis(20),
    inference: Duration::from_millis(100),
    postprocess: Duration::from_millis(20),
    enforce: Enforce::Total,
};

/// Returns a version with a number and a text as features, and a baseline of 100 rows.
fn used(monitor: &Monitor, model: &str, predict: fn(u64) -> Observation) -> Arc<VersionRecorder> {
    let schema = FeatureSchema { numbers: vec!["age".into()], texts: vec!["colour".into()] };
    let rows = |count: u64, shift: f32| {
        let mut features = Features::with_rows(count as usize);
        features.numbers = (0..count).map(|row| (row % 4) as f32 + shift).collect();
        features.texts = (0..count).map(|row| Some(["red", "blue", "green"][row as usize % 3].to_owned())).collect();
        (features, (0..count).map(predict).collect::<Vec<Observation>>())
    };
    let (features, made) = rows(100, 0.0);
    let mut sample = Sample::new(schema.clone(), None);
    sample.add(&features, &made);
    let mut builder = sample.freeze();
    builder.count(&features, &made);
    let labels = VersionLabels { model: model.into(), version: "1".into(), sha256: "ab".into(), provider: "cpu" };
    let settings = MonitoringConfig { low_confidence: 0.65, ..MonitoringConfig::default() };
    let baseline = Some(Arc::new(builder.finish()));
    let spec = MonitoringSpec { schema, baseline, settings, ..MonitoringSpec::default() };
    let version = monitor.version(labels, LARGE_BUDGET, spec);
    let (mut features, made) = rows(600, 1.0);
    features.numbers[0] = f32::NAN;
    features.texts[1] = Some("violet".to_owned());
    version.observe(features, made.into_iter());
    version
}

/// Records requests of all kinds to a version.
async fn serve(version: &Arc<VersionRecorder>) {
    let ms = Duration::from_millis;
    for micros in [900, 1_500, 1_500, 80_000] {
        let mut clock = StageClock::new(Instant::now(), LARGE_BUDGET);
        let waited =
            QueueTimings { queue: ms(50), inference: Duration::from_micros(micros), ..QueueTimings::default() };
        clock.wait(async { Ok(((), waited)) }, Some(ms(100)), || None).await.unwrap();
        std::mem::forget(version.request(Routing::BySplit).succeeded(&clock));
        version.delivered(Duration::from_micros(micros + 60_123));
    }
    // The clock starts in the future, so no time has passed on it.
    let untouched = || StageClock::new(Instant::now() + Duration::from_secs(3_600), LARGE_BUDGET);
    version.request(Routing::BySplit).failed(&untouched(), &Error::InvalidInput("wrong".to_owned()));
    version.request(Routing::BySplit).failed(&untouched(), &Error::QueueFull { capacity: 1, retry_after: ms(1) });
    version
        .request(Routing::BySplit)
        .failed(&untouched(), &Error::Expired { stage: Stage::Queue, spent: untouched().timings() });
    std::mem::forget(version.request(Routing::BySplit));
    drop(version.request(Routing::BySplit));
    version.batch(3, 30, 4);
    version.batch(1_000, 10, 0);
    version.worker_restarted();
    version.run_terminated();
    version.run_moved();
    let (typical, tail) =
        (RunTime { per_row_s: 0.001, per_run_s: 0.002 }, RunTime { per_row_s: 0.003, per_run_s: 0.0045 });
    version.set_service_times(ServiceTimes { typical, tail });
    version.set_load_duration(ms(1_250));
    version.set_batching("independent", true);
    version.set_queue_depth(7);
}

fn use_server(monitor: &Monitor) {
    let server = monitor.server();
    server.connection_opened();
    server.connection_opened();
    server.connection_closed();
    server.accept_failed();
    server.set_ready(true);
    server.set_serves_models(true);
    server.error_response("invalid-input");
    server.feedback(FeedbackResult::Joined, 3);
    let deployments = monitor.deployments();
    let share = |version: &str, ratio, deployed_at, is_altered| DeployedShare {
        version: version.to_owned(),
        ratio,
        deployed_at,
        is_altered,
    };
    deployments.deployed("classes", 3, vec![share("1", 0.9, Some(1.5e9), false), share("2", 0.1, None, true)]);
    deployments.deployed("values", 1, vec![share("1", 1.0, Some(1.5e9), false)]);
    deployments.set_served("classes", true);
    deployments.retired("values");
    deployments.changed("classes", "promote");
    deployments.load_failed("values", LoadFault::Digest);
    deployments.state_failed(StatePart::Deployments, "gone");
    deployments.set_unwritten(1);
    deployments.set_repository_errors(2);
}

fn judge(classes: &VersionRecorder, values: &VersionRecorder) {
    let class = |class: usize| Truth::Label { class, name: class.to_string() };
    classes.outcomes(|outcomes| {
        for (truth, seconds) in [(0, 5), (1, 700), (0, 100_000)] {
            outcomes.label(&Predicted::Class("0".into(), 0.75), &class(truth), Some(Duration::from_secs(seconds)));
        }
        outcomes.correct(&Predicted::Class("0".into(), 0.75), &class(1), &class(0));
        outcomes.business("revenue", BusinessKind::Sum, 2.5);
        outcomes.business("conversion", BusinessKind::Rate, 1.0);
    });
    values.outcomes(|outcomes| {
        outcomes.label(&Predicted::Value(2.0), &Truth::Value(1.5), None);
        outcomes.label(&Predicted::Value(1.0), &Truth::Value(4.0), Some(Duration::from_secs(90)));
        outcomes.correct(&Predicted::Value(1.0), &Truth::Value(4.0), &Truth::Value(2.0));
    });
}

/// Returns the monitor of a server with two versions that have recorded everything, and one that was never used.
async fn used_server(top_features: Option<usize>) -> (Monitor, [Arc<VersionRecorder>; 3]) {
    let monitor = Monitor::new("1.31.1", MonitoringWindows { top_features, ..Default::default() });
    let classes = used(&monitor, "classes", |row| {
        let certainty = Certainty { confidence: 0.5 + (row % 5) as f32 / 10.0, margin: 0.25, entropy: 0.125 };
        Observation::Class { class: (row % 3) as usize, certainty }
    });
    let values = used(&monitor, "values", |row| Observation::Value((row % 7) as f64));
    let labels = VersionLabels { model: "new".into(), version: "1".into(), sha256: "cd".into(), provider: "cuda" };
    let new = monitor.version(labels, LatencyBudget::DEFAULT, MonitoringSpec::default());
    serve(&classes).await;
    use_server(&monitor);
    judge(&classes, &values);
    (monitor, [classes, values, new])
}

/// Returns the lines of `/metrics` that are not about the process.
fn lines(monitor: &Monitor) -> String {
    let mut text = String::new();
    // The length of a window depends on the time that the test takes.
    let is_fixed = |line: &&str| !line.contains("process_") && !line.starts_with("leeway_drift_window_seconds{");
    for line in monitor.render().lines().filter(is_fixed) {
        writeln!(text, "{}", line.replace(env!("CARGO_PKG_VERSION"), "[version]")).unwrap();
    }
    text
}

#[tokio::test]
async fn the_text_of_a_server_that_was_used() {
    let (monitor, _versions) = used_server(Some(1)).await;
    insta::assert_snapshot!(lines(&monitor));
}

/// The text with all features and their bins. Only the metrics of drift differ from those in the other snapshot.
#[tokio::test]
async fn the_text_with_all_features_and_their_bins() {
    let (monitor, _versions) = used_server(None).await;
    let text = lines(&monitor);
    let of_drift = |line: &&str| ["_bin", "_baseline", "_psi", "_outside"].iter().any(|part| line.contains(part));
    let of_drift: Vec<&str> = text.lines().filter(of_drift).collect();
    insta::assert_snapshot!(of_drift.join("\n"));
}

#[tokio::test]
async fn the_drift_of_a_version_as_json() {
    let (monitor, versions) = used_server(None).await;
    let reports = versions.map(|version| version.stats(monitor.now(), Some(Duration::from_secs(3_600))).drift);
    insta::assert_json_snapshot!(reports, { "[].window_s" => "[seconds]" });
}

// ===== the read model =====

#[tokio::test]
async fn the_numbers_of_a_version_as_json() {
    let (monitor, versions) = used_server(None).await;
    let stats = versions.map(|version| version.stats(monitor.now(), Some(Duration::from_secs(3_600))));
    insta::assert_json_snapshot!(stats, { "[].drift.features" => "[features]", "[].drift.predictions" => "[predictions]",
        "[].drift.window_s" => "[seconds]" });
    for stats in stats {
        let json = serde_json::to_string(&stats).unwrap();
        let read: VersionStats = serde_json::from_str(&json).unwrap();
        // Compared as text, because NaN does not equal itself.
        assert_eq!(serde_json::to_string(&read).unwrap(), json);
    }
}

#[tokio::test]
async fn the_read_model_has_the_numbers_of_the_text() {
    let (monitor, [classes, ..]) = used_server(None).await;
    let text = monitor.render();
    let stats = classes.stats(monitor.now(), None);
    let number = |series: &str| {
        let found = text.lines().find_map(|line| line.strip_prefix(series)).unwrap_or_else(|| panic!("no {series}"));
        found.trim().parse::<f64>().unwrap()
    };
    let of = |name: &str, label: &str| number(&format!("{name}{{model=\"classes\",version=\"1\"{label}}}"));
    for (outcome, count) in &stats.requests {
        assert_eq!(of("leeway_requests_total", &format!(",outcome=\"{}\"", outcome.name())), *count as f64);
    }
    assert_eq!(of("leeway_requests_in_flight", ""), stats.in_flight as f64);
    for (part, latency) in &stats.latency.answered {
        let stage = format!(",stage=\"{}\"", part.name());
        assert_eq!(of("leeway_latency_quantile_seconds_count", &stage), latency.count as f64);
        assert_eq!(of("leeway_latency_quantile_seconds_sum", &stage), latency.sum_s);
    }
    let drifted = stats.drift.features.iter().chain(&stats.drift.predictions);
    for status in DriftStatus::ALL {
        let count = drifted.clone().filter(|found| found.status == status).count();
        assert_eq!(of("leeway_drift_features", &format!(",status=\"{}\"", status.name())), count as f64);
    }
    assert_eq!(of("leeway_outcome_accuracy", ""), stats.outcomes.accuracy.unwrap());
    assert_eq!(of("leeway_outcome_label_coverage_ratio", ""), stats.outcomes.label_coverage.unwrap());
}

/// Returns rows of two numbers, the second of which is the first plus noise, or that of another row.
fn pairs(seed: u64, rows: usize, goes_with_first: bool) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut pair = || {
        let first = random.f32();
        let base = if goes_with_first { first } else { random.f32() };
        [first, base + 0.1 * random.f32()]
    };
    (0..rows).flat_map(|_| pair()).collect()
}

/// Returns the names of what is not `ok`, on both sides, after these rows.
fn found(numbers: &[f32], embeddings: &[f32]) -> Vec<String> {
    const ROWS: usize = 4_000;
    let schema = FeatureSchema { numbers: vec!["a".into(), "b".into()], texts: Vec::new() };
    let features = |numbers: &[f32], embeddings: &[f32]| {
        let mut features = Features::with_rows(numbers.len() / 2);
        (features.numbers, features.embeddings) = (numbers.to_vec(), embeddings.to_vec());
        features
    };
    let training = features(&pairs(1, ROWS, true), &pairs(2, ROWS, true));
    let mut sample = Sample::new(schema.clone(), None);
    sample.add(&training, &[Observation::Nothing; ROWS]);
    let mut builder = sample.freeze();
    builder.count(&training, &[Observation::Nothing; ROWS]);
    let baseline = Baseline::parse(&serde_json::to_vec(&builder.finish()).unwrap()).unwrap();
    let labels = VersionLabels { model: "m".into(), version: "1".into(), sha256: "ab".into(), provider: "cpu" };
    let spec = MonitoringSpec { schema, baseline: Some(Arc::new(baseline)), ..MonitoringSpec::default() };
    let version = Monitor::new("1", MonitoringWindows::default()).version(labels, LatencyBudget::DEFAULT, spec);
    assert!(version.monitors_embeddings());
    version.observe(features(numbers, embeddings), std::iter::repeat_n(Observation::Nothing, numbers.len() / 2));
    let report = version.stats(Duration::from_secs(60), None).drift;
    let all = [("", report.features), ("prediction ", report.predictions)];
    let all = all.into_iter().flat_map(|(side, features)| features.into_iter().map(move |found| (side, found)));
    all.filter(|(_, found)| found.status != DriftStatus::Ok)
        .map(|(side, found)| format!("{side}{}", found.name))
        .collect()
}

#[test]
fn numbers_that_no_longer_go_together_are_drift() {
    let [quiet, broken] = [true, false].map(|goes_with_first| pairs(7, 400, goes_with_first));
    assert_eq!(found(&quiet, &quiet), Vec::<String>::new());
    assert_eq!(found(&broken, &quiet), ["reconstruction_error"]);
    assert_eq!(found(&quiet, &broken), ["prediction reconstruction_error"]);
}
