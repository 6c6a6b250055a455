//! Deadlines, admission and batching, tested through the API. Decisions that depend only on time have unit tests.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use leeway::error::{Result, SetupError};
use leeway::pipeline::{Prepared, Preprocessor, StageContext, Stages};
use leeway::tensor::{Data, Tensor};
use parking_lot::{Condvar, Mutex};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::gate::{GATE_IN_USE, came, gated, let_go, one_at_the_gate};
use crate::harness::{Answer, PATIENCE, PLAIN, Repository, TENSOR_STAGES, TestApp, runtime, until};

/// Rounds of the model `work`, enough for minutes.
const ENDLESS: u32 = 100_000_000;

fn rounds(rounds: u32) -> String {
    json!({ "instances": [rounds] }).to_string()
}

fn rows(values: &[f32]) -> String {
    json!({ "instances": values.iter().map(|value| [*value, 0.0]).collect::<Vec<_>>() }).to_string()
}

fn of(model: &str, metric: &str) -> String {
    format!("{metric}{{model=\"{model}\",version=\"1\"}}")
}

/// A labelled series of a model.
fn by(model: &str, metric: &str, label: &str, value: &str) -> String {
    format!("{metric}{{model=\"{model}\",version=\"1\",{label}=\"{value}\"}}")
}

async fn predict_with(app: &TestApp, path: &str, headers: &[(&str, &str)], body: String) -> Answer {
    let mut request = app.client.post(app.url(path)).body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Answer::of(request.send().await.unwrap()).await
}

fn expired_in(answer: &Answer, stage: &str) {
    assert_eq!((answer.status, &answer.json()["type"]), (504, &json!("urn:leeway:problem:expired")), "{}", answer.text);
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.starts_with(&format!("time ran out during {stage} (network ")), "{detail}");
}

// ===== a stalled model =====

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_nobody_waits_for_is_ended_and_the_worker_goes_on() {
    let budget = "[model]\nworkers = 1\n[budget]\ntotal_ms = 300\n";
    let repository = Repository::of("echo_float32").with("work", 1, "work", &format!("{TENSOR_STAGES}{budget}"));
    let app = TestApp::with(repository.config()).await;
    for round in 1..=3 {
        let stalled = app.predict("/v1/models/work:predict", rounds(ENDLESS)).await;
        expired_in(&stalled, "inference");
        app.metric_becomes(&of("work", "leeway_runs_terminated_total"), f64::from(round)).await;
        // The worker and its session are still the same.
        let next = async || app.predict("/v1/models/work:predict", rounds(1)).await;
        until(async || Some(next().await).filter(|answer| answer.status == 200)).await;
        assert_eq!(app.metric(&of("work", "leeway_worker_restarts_total")).await, 0.0);
    }
    assert!(app.metric(&by("work", "leeway_requests_expired_total", "stage", "inference")).await >= 3.0);
    assert!(app.metric(&by("work", "leeway_stage_overruns_total", "stage", "inference")).await >= 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_ends_its_run() {
    // A run on the thread of the request would be made again by the worker.
    let on_workers = format!("{TENSOR_STAGES}[model]\ninline_us = 0\n");
    let repository = Repository::of("echo_float32").with("work", 1, "work", &on_workers);
    let app = TestApp::with(repository.config()).await;
    let mut gone = TcpStream::connect(app.data).unwrap();
    let body = rounds(ENDLESS);
    write!(gone, "POST /v1/models/work:predict HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        .unwrap();
    app.metric_becomes(&of("work", "leeway_batch_size_count"), 1.0).await;
    drop(gone);
    app.metric_becomes(&of("work", "leeway_runs_terminated_total"), 1.0).await;
    assert_eq!(app.predict("/v1/models/work:predict", rounds(1)).await.predictions(), json!([1.0]));
}

/// Two requests wait for the same run, and only one of them gives up.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_somebody_waits_for_is_not_ended() {
    let _gate = GATE_IN_USE.lock().await;
    let (app, first) = stalled(PLAIN).await;
    let patient = send(&app, &[], &[2.0]);
    app.metric_becomes(&of("echo_float32", "leeway_queue_depth"), 1.0).await;
    let before = app.metric(&of("echo_float32", "leeway_batch_size_count")).await;
    // Long enough for the first run to pass the gate, and for the second to reach it.
    let impatient = send(&app, &[("x-request-timeout-ms", "3000")], &[3.0]);
    app.metric_becomes(&of("echo_float32", "leeway_queue_depth"), 2.0).await;
    let_go(1);
    app.metric_becomes(&of("echo_float32", "leeway_batch_size_count"), before + 1.0).await;
    expired_in(&impatient.await.unwrap(), "inference");
    let_go(usize::MAX);
    assert_eq!(first.await.unwrap().predictions(), json!([[1.0, 0.0]]));
    assert_eq!(patient.await.unwrap().predictions(), json!([[2.0, 0.0]]));
    assert_eq!(app.metric(&of("echo_float32", "leeway_runs_terminated_total")).await, 0.0);
}

/// A server of the echo model, with a request of the row 1 at the gate.
async fn stalled(model_toml: &str) -> (Arc<TestApp>, tokio::task::JoinHandle<Answer>) {
    let repository = Repository::new().with("echo_float32", 1, "echo_float32", model_toml);
    let_go(usize::MAX);
    let app = Arc::new(TestApp::with_parts(repository.config(), gated(), Stages::default()).await);
    let_go(0);
    let first = send(&app, &[], &[1.0]);
    one_at_the_gate().await;
    (app, first)
}

/// Sends rows to the echo model, without waiting for the answer.
fn send(
    app: &Arc<TestApp>,
    headers: &[(&'static str, &'static str)],
    values: &[f32],
) -> tokio::task::JoinHandle<Answer> {
    let (app, headers, body) = (Arc::clone(app), headers.to_vec(), rows(values));
    tokio::spawn(async move { predict_with(&app, "/predict", &headers, body).await })
}

// ===== budgets =====

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_may_ask_for_less_time_and_not_for_more() {
    let model_toml = format!("{TENSOR_STAGES}[budget]\ntotal_ms = 400\n");
    let repository = Repository::of("work").with("strict", 1, "work", &model_toml);
    let app = TestApp::with(repository.config()).await;
    for (model, headers) in [
        ("work", &[("x-request-timeout-ms", "200")][..]),
        ("work", &[("x-envoy-expected-rq-timeout-ms", "200"), ("x-request-timeout-ms", "60000")]),
        ("strict", &[("x-request-timeout-ms", "60000")]),
    ] {
        let path = format!("/v1/models/{model}:predict");
        expired_in(&predict_with(&app, &path, headers, rounds(ENDLESS)).await, "inference");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_may_be_held_to_its_part() {
    let model_toml = format!("{TENSOR_STAGES}[budget]\ntotal_ms = 600000\ninference_ms = 200\nenforce = \"stages\"\n");
    let app = TestApp::with(Repository::new().with("work", 1, "work", &model_toml).config()).await;
    expired_in(&app.predict("/predict", rounds(ENDLESS)).await, "inference");
}

/// A run takes milliseconds, which the server has learned before it was ready.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_in_time_is_refused_and_nothing_is_run() {
    let model_toml = format!("{PLAIN}intra_op_threads = 1\n");
    let app = TestApp::with(Repository::new().with("dense", 1, "dense", &model_toml).config()).await;
    let learned = async |part: &str| {
        app.metric(&by("dense", &format!("leeway_service_time_per_{part}_seconds"), "estimate", "typical")).await
    };
    assert!(learned("row").await + learned("run").await > 0.0);
    let row = json!({ "instances": [vec![0.5; 8]] }).to_string();
    // On a busy machine the millisecond may be over before the request reaches admission.
    let refused = until(async || {
        let answer = predict_with(&app, "/predict", &[("x-request-timeout-ms", "1")], row.clone()).await;
        (answer.status != 504).then_some(answer)
    })
    .await;
    assert_eq!(refused.status, 503, "{}", refused.text);
    assert_eq!(refused.json()["type"], "urn:leeway:problem:overloaded");
    // Repeating the request would not help.
    assert_eq!(refused.header("retry-after"), "");
    let detail = refused.json()["detail"].as_str().unwrap().to_owned();
    assert!(
        detail.starts_with("the model takes about ") && detail.contains("even with nothing else to do"),
        "{detail}"
    );
    assert_eq!(app.metric(&by("dense", "leeway_requests_shed_total", "reason", "too_slow")).await, 1.0);
    assert_eq!(app.metric(&of("dense", "leeway_batch_size_count")).await, 0.0);
    assert_eq!(app.predict("/predict", row).await.status, 200);
}

/// The head is enough: a client that asks with `Expect` before it sends its body is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_hope_is_refused_from_its_head_alone() {
    let _gate = GATE_IN_USE.lock().await;
    let (app, running) = stalled(PLAIN).await;
    let waiting = send(&app, &[], &[2.0]);
    app.metric_becomes(&of("echo_float32", "leeway_queue_depth"), 1.0).await;

    // The run has taken longer than this client waits, and its end is unknown.
    let mut polite = TcpStream::connect(app.data).unwrap();
    write!(
        polite,
        "POST /predict HTTP/1.1\r\nhost: a\r\nconnection: close\r\nexpect: 100-continue\r\ncontent-length: 9999\r\n\
         x-request-timeout-ms: 1\r\n\r\n"
    )
    .unwrap();
    let answer = tokio::task::spawn_blocking(move || {
        polite.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut text = String::new();
        polite.read_to_string(&mut text).unwrap();
        text
    });
    let answer = answer.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("urn:leeway:problem:overloaded"), "{answer}");
    // The connection of a request that was refused while its body was being sent can be reused.
    let refused = predict_with(&app, "/predict", &[("x-request-timeout-ms", "1")], rows(&[3.0; 500])).await;
    assert_eq!(refused.status, 503);

    let_go(usize::MAX);
    assert_eq!(running.await.unwrap().status, 200);
    assert_eq!(waiting.await.unwrap().status, 200);
}

// ===== priorities =====

#[tokio::test(flavor = "multi_thread")]
async fn a_higher_priority_goes_first_and_the_oldest_within_one() {
    let _gate = GATE_IN_USE.lock().await;
    let (app, first) = stalled(&format!("{PLAIN}max_batch_size = 1\n")).await;
    let mut sent = vec![first];
    for (index, priority) in ["low", "normal", "high", "LOW", "High"].into_iter().enumerate() {
        sent.push(send(&app, &[("x-priority", priority)], &[2.0 + index as f32]));
        app.metric_becomes(&of("echo_float32", "leeway_queue_depth"), (index + 1) as f64).await;
    }
    let_go(usize::MAX);
    for answer in sent {
        assert_eq!(answer.await.unwrap().status, 200);
    }
    assert_eq!(came(), [4.0, 6.0, 3.0, 2.0, 5.0]);
}

/// A request of low priority gives way only if other requests wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_low_priority_on_an_idle_server_is_as_good_as_any() {
    let app = TestApp::with(Repository::of("echo_float32").config()).await;
    for _ in 0..20 {
        let headers = [("x-priority", "low"), ("x-request-timeout-ms", "60000")];
        assert_eq!(predict_with(&app, "/predict", &headers, rows(&[1.0])).await.status, 200);
    }
}

// ===== batches =====

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_all_sizes_share_batches_and_get_their_own_rows() {
    let _gate = GATE_IN_USE.lock().await;
    let (app, first) = stalled(&format!("{PLAIN}max_batch_size = 4\n")).await;
    let mut sent = vec![(vec![1.0], first)];
    let mut next = 2.0;
    for (index, rows) in [10, 2, 3].into_iter().enumerate() {
        let values: Vec<f32> = (0..rows).map(|row| next + row as f32).collect();
        next += rows as f32;
        sent.push((values.clone(), send(&app, &[], &values)));
        app.metric_becomes(&of("echo_float32", "leeway_queue_depth"), (index + 1) as f64).await;
    }
    let_go(usize::MAX);
    for (values, answer) in sent {
        let expected: Vec<Value> = values.iter().map(|value| json!([value, 0.0])).collect();
        assert_eq!(answer.await.unwrap().predictions(), Value::Array(expected));
    }
    // Runs of 4 and 4 of the ten; then the last 2 of the ten with the two; then the three.
    assert_eq!(came(), [2.0, 6.0, 10.0, 14.0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_waits_for_company_if_it_is_told_to() {
    let model_toml = format!("{PLAIN}max_batch_size = 2\nmax_wait_us = 1000000\n");
    let repository = Repository::new().with("echo_float32", 1, "echo_float32", &model_toml);
    let app = Arc::new(TestApp::with(repository.config()).await);
    let before = app.metric(&of("echo_float32", "leeway_batch_size_count")).await;
    let (first, second) = (send(&app, &[], &[1.0]), send(&app, &[], &[2.0]));
    assert_eq!(first.await.unwrap().predictions(), json!([[1.0, 0.0]]));
    assert_eq!(second.await.unwrap().predictions(), json!([[2.0, 0.0]]));
    assert_eq!(app.metric(&of("echo_float32", "leeway_batch_size_count")).await - before, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_may_be_bounded_by_its_elements() {
    let model_toml = format!("{PLAIN}max_batch_elements = 6\n");
    let app = TestApp::with(Repository::new().with("echo_sequence", 1, "echo_sequence", &model_toml).config()).await;
    let sequences = |length: usize, rows: usize| json!({ "instances": vec![vec![7; length]; rows] }).to_string();
    // Two rows of three elements in a run, so three runs.
    let before = app.metric(&of("echo_sequence", "leeway_batch_size_count")).await;
    assert_eq!(app.predict("/predict", sequences(3, 5)).await.predictions(), json!(vec![vec![7; 3]; 5]));
    assert_eq!(app.metric(&of("echo_sequence", "leeway_batch_size_count")).await - before, 3.0);
    let refused = app.predict("/predict", sequences(7, 1)).await;
    assert_eq!(refused.status, 400);
    assert!(refused.text.contains("each has 7 elements; at most 6 are run at one time"), "{}", refused.text);
}

// ===== heavy stages =====

/// True if the stage may go on.
static RELEASED: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());

/// A preprocessor that blocks until the test releases it.
fn make_slow(_: StageContext<'_>) -> Result<Box<dyn Preprocessor>, SetupError> {
    struct Slow;
    impl Preprocessor for Slow {
        fn transform(&self, _: &RawValue, _: leeway::budget::Deadline) -> Result<Prepared> {
            let mut released = RELEASED.0.lock();
            while !*released {
                assert!(!RELEASED.1.wait_for(&mut released, PATIENCE).timed_out(), "nobody let the stage go");
            }
            let row = Tensor::new(vec![1, 2], Data::F32(vec![1.0, 2.0]))?;
            Ok(Prepared::unwatched([("x".into(), row)].into_iter().collect()))
        }
    }
    Ok(Box::new(Slow))
}

/// One thread serves all connections. If the stage took it, nobody would get an answer before the stage is released.
#[tokio::test(flavor = "multi_thread")]
async fn a_heavy_stage_holds_up_nobody() {
    let model_toml = PLAIN.replacen("\"tensor\"", "\"slow\"", 1);
    let repository = Repository::new().with("echo_float32", 1, "echo_float32", &model_toml);
    let stages = Stages::default().with_preprocessor("slow", make_slow);
    let mut config = repository.config();
    config.http.threads = leeway::config::Count::Fixed(std::num::NonZeroUsize::MIN);
    let app = Arc::new(TestApp::with_parts(config, runtime(), stages).await);
    // Too large to be read at once.
    let heavy = send(&app, &[], &[0.5; 100_000]);
    app.metric_becomes(&of("echo_float32", "leeway_requests_in_flight"), 1.0).await;
    assert_eq!(app.get("/livez").await.status, 200);
    *RELEASED.0.lock() = true;
    RELEASED.1.notify_all();
    assert_eq!(heavy.await.unwrap().predictions(), json!([[1.0, 2.0]]));
}
