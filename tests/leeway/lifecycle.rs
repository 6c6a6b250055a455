//! Failures of a worker, of a client and of the server itself.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use leeway::app::Stop;
use leeway::error::{Result, SetupError};
use leeway::pipeline::{Origin, Postprocessor, Prediction, StageContext, Stages};
use leeway::tensor::Tensors;
use serde_json::{Value, json};

use crate::gate::{GATE_IN_USE, gated, let_go, one_at_the_gate};
use crate::harness::{
    HookedEngine, PATIENCE, PLAIN, Repository, Server, TENSOR_STAGES, TestApp, client, runtime, until,
};

const ECHO: &str = "{model=\"echo_float32\",version=\"1\"";

fn series(name: &str) -> String {
    format!("{name}{ECHO}}}")
}

fn outcome(outcome: &str) -> String {
    format!("leeway_requests_total{ECHO},outcome=\"{outcome}\"}}")
}

fn body(value: f32) -> String {
    json!({ "instances": [[value, 0.0]] }).to_string()
}

/// An engine under which a run whose first value is `PANIC` panics.
const PANIC: f32 = 666.0;

fn panicking() -> Arc<HookedEngine> {
    let before_run = |inputs: &Tensors| {
        let values: &[f32] = inputs.at(0).unwrap().values().unwrap();
        assert!(!values.contains(&PANIC), "a test wants this run to panic");
    };
    Arc::new(HookedEngine { engine: runtime(), before_run })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_panics_fails_its_batch_and_is_rebuilt() {
    let repository = Repository::of("echo_float32");
    let app = TestApp::with_parts(repository.config(), panicking(), Stages::default()).await;
    for round in 1..=3 {
        let failed = app.predict("/predict", body(PANIC)).await;
        assert_eq!((failed.status, &failed.json()["type"]), (500, &json!("urn:leeway:problem:worker-panicked")));
        let next = app.predict("/predict", body(1.0)).await;
        assert_eq!(next.predictions(), json!([[1.0, 0.0]]));
        assert_eq!(app.metric(&series("leeway_worker_restarts_total")).await, f64::from(round));
    }
    assert_eq!(app.metric(&outcome("model_error")).await, 3.0);
}

// ===== a model that waits at a gate =====

/// A server whose model waits, with one request at the gate and all later ones in the queue.
async fn stalled(config: leeway::config::Config) -> (Arc<TestApp>, tokio::task::JoinHandle<Value>) {
    let_go(usize::MAX);
    let app = Arc::new(TestApp::with_parts(config, gated(), Stages::default()).await);
    let_go(0);
    let first = tokio::spawn({
        let app = Arc::clone(&app);
        async move { app.predict("/predict", body(1.0)).await.predictions() }
    });
    one_at_the_gate().await;
    (app, first)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_costs_no_run() {
    let _gate = GATE_IN_USE.lock().await;
    let (app, first) = stalled(Repository::of("echo_float32").config()).await;
    let before = app.metric(&series("leeway_batch_size_count")).await;

    let mut gone = TcpStream::connect(app.data).unwrap();
    let body_text = body(2.0);
    write!(
        gone,
        "POST /predict HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body_text}",
        body_text.len()
    )
    .unwrap();
    app.metric_becomes(&series("leeway_queue_depth"), 1.0).await;
    drop(gone);
    app.metric_becomes(&outcome("abandoned"), 1.0).await;

    let_go(usize::MAX);
    assert_eq!(first.await.unwrap(), json!([[1.0, 0.0]]));
    assert_eq!(app.predict("/predict", body(3.0)).await.predictions(), json!([[3.0, 0.0]]));
    // The first and the third request ran; the abandoned one did not.
    assert_eq!(app.metric(&series("leeway_batch_size_count")).await - before, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_a_503_that_says_when_to_come_back() {
    let _gate = GATE_IN_USE.lock().await;
    let model_toml = format!("{PLAIN}queue_capacity = 2\n");
    let repository = Repository::new().with("echo_float32", 1, "echo_float32", &model_toml);
    let (app, first) = stalled(repository.config()).await;
    let waiting: Vec<_> = [2.0, 3.0]
        .map(|value| {
            let app = Arc::clone(&app);
            tokio::spawn(async move { app.predict("/predict", body(value)).await.predictions() })
        })
        .into();
    app.metric_becomes(&series("leeway_queue_depth"), 2.0).await;

    let refused = app.predict("/predict", body(4.0)).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, "1"));
    assert_eq!(refused.json()["type"], "urn:leeway:problem:queue-full");
    assert_eq!(app.metric(&outcome("shed")).await, 1.0);
    // Health answers under any load.
    assert_eq!(app.get("/readyz").await.status, 200);

    let_go(usize::MAX);
    assert_eq!(first.await.unwrap(), json!([[1.0, 0.0]]));
    for (waiting, value) in waiting.into_iter().zip([2.0, 3.0]) {
        assert_eq!(waiting.await.unwrap(), json!([[value, 0.0]]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_whose_time_has_run_out_hold_no_place_in_the_queue() {
    let _gate = GATE_IN_USE.lock().await;
    let model_toml = format!("{PLAIN}queue_capacity = 2\n");
    let repository = Repository::new().with("echo_float32", 1, "echo_float32", &model_toml);
    let (app, first) = stalled(repository.config()).await;
    let impatient = async |value| {
        let request = app.client.post(app.url("/predict")).header("x-request-timeout-ms", "2000").body(body(value));
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(tokio::join!(impatient(2.0), impatient(3.0)), (504, 504));
    // Both places are free again, although the worker has not removed the requests.
    app.metric_becomes(&series("leeway_queue_depth"), 0.0).await;
    let late: Vec<_> = [4.0, 5.0]
        .map(|value| {
            let app = Arc::clone(&app);
            tokio::spawn(async move { app.predict("/predict", body(value)).await.predictions() })
        })
        .into();
    app.metric_becomes(&series("leeway_queue_depth"), 2.0).await;
    let_go(usize::MAX);
    assert_eq!(first.await.unwrap(), json!([[1.0, 0.0]]));
    for (late, value) in late.into_iter().zip([4.0, 5.0]) {
        assert_eq!(late.await.unwrap(), json!([[value, 0.0]]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn time_that_runs_out_names_the_stage() {
    let _gate = GATE_IN_USE.lock().await;
    let model_toml = format!("{TENSOR_STAGES}[model]\nworkers = 1\n[budget]\ntotal_ms = 2000\n");
    let repository = Repository::new().with("echo_float32", 1, "echo_float32", &model_toml);
    let_go(usize::MAX);
    let app = Arc::new(TestApp::with_parts(repository.config(), gated(), Stages::default()).await);
    let_go(0);
    let running = tokio::spawn({
        let app = Arc::clone(&app);
        async move { app.predict("/predict", body(1.0)).await }
    });
    one_at_the_gate().await;
    let queued = app.predict("/predict", body(2.0)).await;
    let running = running.await.unwrap();
    for (answer, stage) in [(&running, "inference"), (&queued, "queue")] {
        assert_eq!((answer.status, &answer.json()["type"]), (504, &json!("urn:leeway:problem:expired")));
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.starts_with(&format!("time ran out during {stage} (network ")), "{detail}");
        let expired = format!("leeway_requests_expired_total{ECHO},stage=\"{stage}\"}}");
        assert_eq!(app.metric(&expired).await, 1.0);
    }
    assert_eq!(app.metric(&outcome("expired")).await, 2.0);
    let_go(usize::MAX);
    until(async || (app.predict("/predict", body(3.0)).await.status == 200).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_finishes_what_is_in_flight_and_ends() {
    let _gate = GATE_IN_USE.lock().await;
    let (app, first) = stalled(Repository::of("echo_float32").config()).await;
    app.stop.send(Stop::Deregister).await.unwrap();
    // No new connections: the listener is closed while the first request is still in flight.
    let begin = Instant::now();
    while TcpStream::connect(app.data).is_ok() {
        assert!(begin.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!app.running.is_finished());
    let_go(usize::MAX);
    assert_eq!(first.await.unwrap(), json!([[1.0, 0.0]]));
    tokio::time::timeout(PATIENCE, Arc::into_inner(app).unwrap().running).await.unwrap().unwrap().unwrap();
}

/// The grace period is longer than the test may take.
#[tokio::test(flavor = "multi_thread")]
async fn connections_without_a_request_do_not_hold_up_the_end() {
    let repository = Repository::of("echo_float32");
    let mut config = repository.config();
    config.shutdown.grace_period_ms = 600_000;
    let app = TestApp::with(config).await;
    let idle = TcpStream::connect(app.data).unwrap();
    let mut half = TcpStream::connect(app.data).unwrap();
    write!(half, "POST /predict HTTP/1.1\r\nhost: a\r\nx-").unwrap();
    app.metric_becomes("leeway_connections_total", 3.0).await;
    app.stop.send(Stop::AtOnce).await.unwrap();
    tokio::time::timeout(PATIENCE, app.running).await.unwrap().unwrap().unwrap();
    drop((idle, half));
}

/// An answer larger than any socket's buffer, to a client that reads it only after the server has begun to stop.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_being_written_is_written_to_its_end() {
    let repository = Repository::of("echo_sequence");
    let mut config = repository.config();
    config.http.body_limit_bytes = (64 << 20).try_into().unwrap();
    let app = TestApp::with(config).await;
    let mut slow = TcpStream::connect(app.data).unwrap();
    let row = vec![1_234_567_890_123_456_789_i64; 1000];
    let body = json!({ "instances": vec![row; 1000] }).to_string();
    let head = format!("POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len());
    let slow = tokio::task::spawn_blocking(move || {
        slow.write_all(head.as_bytes()).unwrap();
        slow.write_all(body.as_bytes()).unwrap();
        slow
    });
    let slow = slow.await.unwrap();
    app.metric_becomes("leeway_requests_total{model=\"echo_sequence\",version=\"1\",outcome=\"ok\"}", 1.0).await;
    app.stop.send(Stop::AtOnce).await.unwrap();
    // Longer than an idle connection may take to end, because this test is about time.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let answer = tokio::task::spawn_blocking(move || read_to_end(&slow)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    assert_eq!(body.len(), length.parse::<usize>().unwrap());
    assert!(body.len() > 16 << 20);
    tokio::time::timeout(PATIENCE, app.running).await.unwrap().unwrap().unwrap();
}

// ===== a stage that panics =====

struct Panics;

impl Postprocessor for Panics {
    fn decode(&self, outputs: &Tensors, _: &Origin) -> Result<Vec<Prediction>> {
        let values: &[f32] = outputs.at(0).unwrap().values().unwrap();
        assert!(!values.contains(&PANIC), "a test wants this stage to panic");
        Ok(values.chunks(2).map(|row| Prediction::Json(json!(row[0]))).collect())
    }
}

fn make_panics(_: StageContext<'_>) -> Result<Box<dyn Postprocessor>, SetupError> {
    Ok(Box::new(Panics))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_that_panics_fails_its_request_only() {
    let model_toml = "[preprocess]\nkind = \"tensor\"\n[postprocess]\nkind = \"panics\"\n";
    let repository = Repository::new().with("echo_float32", 1, "echo_float32", model_toml);
    let stages = Stages::default().with_postprocessor("panics", make_panics);
    let app = TestApp::with_parts(repository.config(), runtime(), stages).await;
    let failed = app.predict("/predict", body(PANIC)).await;
    assert_eq!((failed.status, &failed.json()["type"]), (500, &json!("urn:leeway:problem:internal")));
    assert_eq!(failed.header("x-request-id"), failed.json()["request_id"]);
    assert!(!failed.text.contains("wants"), "{}", failed.text);
    for value in 0..100 {
        assert_eq!(app.predict("/predict", body(value as f32)).await.predictions(), json!([value as f32]));
    }
    assert_eq!(app.metric(&series("leeway_requests_in_flight")).await, 0.0);
    assert_eq!((app.metric(&outcome("server_error")).await, app.metric(&outcome("abandoned")).await), (1.0, 0.0));
}

/// A postprocessor that loses predictions.
fn make_losing(_: StageContext<'_>) -> Result<Box<dyn Postprocessor>, SetupError> {
    struct Losing;
    impl Postprocessor for Losing {
        fn decode(&self, outputs: &Tensors, _: &Origin) -> Result<Vec<Prediction>> {
            Ok((1..outputs.rows()).map(|row| Prediction::Json(json!(row))).collect())
        }
    }
    Ok(Box::new(Losing))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_that_loses_a_prediction_is_an_error() {
    let model_toml = "[preprocess]\nkind = \"tensor\"\n[postprocess]\nkind = \"losing\"\n";
    let repository = Repository::new().with("echo_float32", 1, "echo_float32", model_toml);
    let stages = Stages::default().with_postprocessor("losing", make_losing);
    let app = TestApp::with_parts(repository.config(), runtime(), stages).await;
    assert_eq!(app.predict("/predict", body(1.0)).await.status, 500);
}

// ===== connections =====

/// Reads until the other side closes.
fn read_to_end(mut stream: &TcpStream) -> String {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_sends_no_head_is_closed() {
    let repository = Repository::of("echo_float32");
    let mut config = repository.config();
    config.http.header_timeout_ms = 200.try_into().unwrap();
    let app = TestApp::with(config).await;
    let silent = TcpStream::connect(app.data).unwrap();
    let mut half = TcpStream::connect(app.data).unwrap();
    write!(half, "POST /predict HTTP/1.1\r\nhost: a\r\nx-").unwrap();
    assert_eq!(app.predict("/predict", body(1.0)).await.status, 200);
    let ends = tokio::task::spawn_blocking(move || (read_to_end(&silent), read_to_end(&half))).await.unwrap();
    assert_eq!(ends.0, "");
    assert!(ends.1.is_empty() || ends.1.starts_with("HTTP/1.1 408"), "{}", ends.1);
}

/// Answers accumulate for a client that does not read them. Its connection is closed, and its place is free again.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_is_cut_off() {
    let repository = Repository::of("echo_float32");
    let mut config = repository.config();
    config.http.connection_limit = 1.try_into().unwrap();
    config.http.write_timeout_ms = 300.try_into().unwrap();
    let app = TestApp::with(config).await;
    let mut deaf = TcpStream::connect(app.data).unwrap();
    deaf.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
    let rows = vec![json!([0.125, 0.125]); 4000];
    let body_text = json!({ "instances": rows }).to_string();
    let request =
        format!("POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body_text}", body_text.len());
    // Until no more bytes can be sent in either direction.
    while deaf.write_all(request.as_bytes()).is_ok() {}
    until(async || (app.predict("/predict", body(1.0)).await.status == 200).then_some(())).await;
    drop(deaf);
}

/// A client that sends `Expect: 100-continue` is refused before it sends its body.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_is_refused_before_it_is_sent() {
    let repository = Repository::of("echo_float32");
    let app = TestApp::with(repository.config()).await;
    let mut polite = TcpStream::connect(app.data).unwrap();
    write!(
        polite,
        "POST /predict HTTP/1.1\r\nhost: a\r\nconnection: close\r\nexpect: 100-continue\r\ncontent-length: 99999999\r\n\r\n"
    )
    .unwrap();
    let answer = tokio::task::spawn_blocking(move || read_to_end(&polite)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_arrive_is_a_408() {
    let model_toml = format!("{TENSOR_STAGES}[budget]\ntotal_ms = 200\n");
    let app = TestApp::with(Repository::new().with("echo_float32", 1, "echo_float32", &model_toml).config()).await;
    let mut slow = TcpStream::connect(app.data).unwrap();
    write!(slow, "POST /predict HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 100\r\n\r\n{{").unwrap();
    let answer = tokio::task::spawn_blocking(move || read_to_end(&slow)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("urn:leeway:problem:request-too-slow"), "{answer}");
}

/// At the connection limit, no client hangs in the kernel's backlog, and health and metrics still answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_above_the_limit_serves_everything_but_predictions() {
    let repository = Repository::of("echo_float32");
    let mut config = repository.config();
    config.http.connection_limit = 1.try_into().unwrap();
    let _gate = GATE_IN_USE.lock().await;
    // A request that the server is working on. One that waits for its client would be evicted.
    let (app, first) = stalled(config).await;

    for path in ["/livez", "/readyz", "/metrics", "/v1/models"] {
        let answer = app.get(path).await;
        assert_eq!((answer.status, answer.header("connection")), (200, "close"), "{path}");
    }
    let refused = app.predict("/predict", body(1.0)).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, "1"));
    assert_eq!(refused.json()["type"], "urn:leeway:problem:too-many-connections");
    // A connection above the limit does not wait for a body, because its place is for health checks.
    for head in [
        "POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n",
        "POST /feedback HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n",
        "POST /feedback HTTP/1.1\r\nhost: a\r\ncontent-type: text/plain\r\ncontent-length: 1000\r\n\r\n",
        "POST /v1/models/echo_float32:predict HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n",
    ] {
        let mut silent = TcpStream::connect(app.data).unwrap();
        silent.write_all(head.as_bytes()).unwrap();
        let answer = tokio::task::spawn_blocking(move || read_to_end(&silent)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("connection: close"), "{head}: {answer}");
        assert!(answer.contains("too-many-connections"), "{head}: {answer}");
    }
    assert_eq!(app.metric(&format!("leeway_requests_shed_total{ECHO},reason=\"connections\"}}")).await, 3.0);

    let_go(usize::MAX);
    first.await.unwrap();
    until(async || (app.predict("/predict", body(1.0)).await.status == 200).then_some(())).await;
}

// ===== the real binary =====

/// Returns a request for a run of `work` with this many rounds, which take a few hundred milliseconds.
fn work(rounds: u32) -> String {
    json!({ "instances": [rounds] }).to_string()
}

/// A delay that only a second signal ends.
const LONG: (&str, &str) = ("LEEWAY_SHUTDOWN__DEREGISTRATION_DELAY_MS", "600000");

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_with_100_requests_in_flight_drops_none() {
    let repository = Repository::new().with("work", 1, "work", &format!("{PLAIN}max_batch_size = 4\n"));
    let server = Server::start(repository.0.path(), &[LONG]);
    let client = client();
    let in_flight: Vec<_> = (0..100u32)
        .map(|i| {
            let request = client.post(server.url("/predict")).body(work(10_000 + i));
            tokio::spawn(async move {
                let response = request.send().await.unwrap();
                (i, response.status().as_u16(), response.json::<Value>().await.unwrap())
            })
        })
        .collect();
    // All 100 have arrived: 25 runs of most of a second each come before them.
    let (metrics, ready) = (server.url("/metrics"), server.url("/readyz"));
    let arrived = "leeway_requests_in_flight{model=\"work\",version=\"1\"} ";
    until(async || {
        let text = client.get(&metrics).send().await.unwrap().text().await.unwrap();
        text.lines()
            .any(|line| line.strip_prefix(arrived).is_some_and(|n| n.parse::<f64>().unwrap() >= 80.0))
            .then_some(())
    })
    .await;
    let kept = client.get(&ready).send().await.unwrap();
    assert_eq!((kept.status().as_u16(), kept.headers().get("connection")), (200, None));

    server.signal("TERM");
    let not_ready = until(async || {
        let response = client.get(&ready).send().await.unwrap();
        (response.status() == 503).then_some(response)
    })
    .await;
    assert_eq!(not_ready.headers()["connection"], "close");
    // During the deregistration delay new requests are accepted; then the delay is ended.
    let late = client.post(server.url("/predict")).body(work(1));
    let late = tokio::spawn(async move { late.send().await.unwrap().status().as_u16() });
    let total = until(async || {
        let text = client.get(&metrics).send().await.unwrap().text().await.unwrap();
        text.lines()
            .any(|line| line.strip_prefix(arrived).is_some_and(|n| n.parse::<f64>().unwrap() >= 1.0))
            .then_some(())
    });
    total.await;
    assert_eq!(late.await.unwrap(), 200);
    server.signal("TERM");

    for request in in_flight {
        let (i, status, answer) = request.await.unwrap();
        assert_eq!((status, &answer["predictions"]), (200, &json!([10_000.0 + f64::from(i)])), "{answer}");
    }
    let address = server.data;
    let (status, log) = tokio::task::spawn_blocking(move || server.wait()).await.unwrap();
    assert!(status.success(), "{status}: {log}");
    assert!(log.contains("\"stopped\""), "{log}");
    assert!(TcpStream::connect(address).is_err());
}

/// A run of minutes with a short grace period: the run is ended before its process.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_outlives_the_grace_period_is_ended() {
    let repository = Repository::of("work");
    let server = Server::start(repository.0.path(), &[("LEEWAY_SHUTDOWN__GRACE_PERIOD_MS", "100")]);
    let (client, url, metrics) = (client(), server.url("/predict"), server.url("/metrics"));
    let endless = tokio::spawn(client.post(url).body(work(100_000_000)).send());
    let running = "leeway_batch_size_count{model=\"work\",version=\"1\"} 1";
    until(async || {
        let text = client.get(&metrics).send().await.unwrap().text().await.unwrap();
        text.lines().any(|line| line == running).then_some(())
    })
    .await;
    server.signal("INT");
    let (status, log) = tokio::task::spawn_blocking(move || server.wait()).await.unwrap();
    assert!(status.success(), "{status}: {log}");
    assert!(log.contains("the grace period is over") && !log.contains("could not be ended"), "{log}");
    // The client may or may not get an answer in time; if it does, the answer has the reason.
    if let Ok(answer) = endless.await.unwrap() {
        assert_eq!(answer.status(), 503);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigint_skips_the_delay() {
    let repository = Repository::of("echo_float32");
    let server = Server::start(repository.0.path(), &[LONG]);
    server.signal("INT");
    let (status, log) = tokio::task::spawn_blocking(move || server.wait()).await.unwrap();
    assert!(status.success(), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_cuts_the_delay_short() {
    let repository = Repository::of("echo_float32");
    let server = Server::start(repository.0.path(), &[LONG]);
    server.signal("TERM");
    let (client, ready) = (client(), server.url("/readyz"));
    until(async || (client.get(&ready).send().await.unwrap().status() == 503).then_some(())).await;
    server.signal("TERM");
    let (status, log) = tokio::task::spawn_blocking(move || server.wait()).await.unwrap();
    assert!(status.success(), "{log}");
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn running_out_of_file_descriptors_passes() {
    let repository = Repository::of("echo_float32");
    let server = Server::start(repository.0.path(), &[]);
    // Lowered after the start, so that the server has not reserved descriptors for it.
    let process = rustix::process::Pid::from_raw(server.process().try_into().unwrap());
    let open = std::fs::read_dir(format!("/proc/{}/fd", server.process())).unwrap().count() as u64;
    let limit = rustix::process::Rlimit { current: Some(open + 5), maximum: Some(open + 5) };
    rustix::process::prlimit(process, rustix::process::Resource::Nofile, limit).unwrap();
    let address = server.data;
    let many: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(address).unwrap()).collect();
    // Some of these were accepted. For the rest, idle connections are evicted, a few at a time.
    // Each request has a new connection, and may be sent again: a connection is evicted as long as there are too few
    // descriptors, which can be the one of this client before its head has arrived.
    let live = until(async || client().get(server.url("/livez")).send().await.ok()).await;
    assert_eq!(live.status(), 200);
    drop(many);
    let response = until(async || client().post(server.url("/predict")).body(body(1.0)).send().await.ok()).await;
    assert_eq!(response.status(), 200);
    let metrics = until(async || client().get(server.url("/metrics")).send().await.ok()).await.text().await.unwrap();
    let errors = metrics.lines().find_map(|line| line.strip_prefix("leeway_accept_errors_total ")).unwrap();
    assert_ne!(errors, "0");
}
