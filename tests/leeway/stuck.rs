//! Workers whose run does not end: no caller waits for it any more, and operators can see it.

use std::sync::Arc;
use std::time::Duration;

use leeway::config::Config;
use leeway::pipeline::Stages;
use serde_json::json;

use crate::gate::{GATE_IN_USE, gated, let_go, one_at_the_gate};
use crate::harness::{PLAIN, Repository, TestApp, until};

const ECHO: &str = "{model=\"echo_float32\",version=\"1\"}";

fn body(value: f32) -> String {
    json!({ "instances": [[value, 0.0]] }).to_string()
}

/// A server whose model has this many workers. One of them is in a run that does not end and that no caller waits for.
async fn with_a_stuck_worker(workers: usize, configure: impl Fn(&mut Config)) -> Arc<TestApp> {
    let_go(usize::MAX);
    let model_toml = PLAIN.replace("workers = 1", &format!("workers = {workers}\nintra_op_threads = 1"));
    let repository = Repository::new().with("echo_float32", 1, "echo_float32", &model_toml);
    let mut config = repository.config();
    configure(&mut config);
    let app = Arc::new(TestApp::with_parts(config, gated(), Stages::default()).await);
    let_go(0);
    let request = app.client.post(app.url("/predict")).header("x-request-timeout-ms", "1000").body(body(1.0));
    let given_up = tokio::spawn(async move { request.send().await.unwrap().status().as_u16() });
    one_at_the_gate().await;
    assert_eq!(given_up.await.unwrap(), 504);
    app
}

async fn ready(app: &TestApp) -> (bool, String) {
    let model = app.get("/v1/models/echo_float32").await.json();
    (model["ready"] == json!(true), model["reason"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_worker_shows() {
    let _gate = GATE_IN_USE.lock().await;
    let app = with_a_stuck_worker(1, |config| {
        config.health.stuck_after_ms = Some(1.try_into().unwrap());
        config.health.live_fails_after_ms = Some(1.try_into().unwrap());
    })
    .await;
    // The request had one second, and the run is older than that.
    assert!(app.metric(&format!("leeway_oldest_run_seconds{ECHO}")).await >= 0.9);
    assert_eq!(app.metric(&format!("leeway_requests_in_flight{ECHO}")).await, 1.0);
    let expected = "all workers of version 1 are in runs that do not end";
    assert_eq!(ready(&app).await, (false, expected.to_owned()));
    let live = app.get("/livez").await;
    assert_eq!((live.status, &live.json()["type"]), (503, &json!("urn:leeway:problem:unhealthy")));
    assert!(live.text.contains("model echo_float32 version 1") && live.text.contains("health.live_fails_after_ms"));
    // Other models are served, so the replica still takes their requests.
    assert_eq!(app.get("/readyz").await.status, 200);

    let_go(usize::MAX);
    until(async || ready(&app).await.0.then_some(())).await;
    assert_eq!(app.metric(&format!("leeway_oldest_run_seconds{ECHO}")).await, 0.0);
    assert_eq!(app.metric(&format!("leeway_requests_in_flight{ECHO}")).await, 0.0);
    assert_eq!(app.get("/livez").await.status, 200);
    assert_eq!(app.predict("/predict", body(2.0)).await.status, 200);
}

/// By default, a second is below the limit, and `/livez` does not fail.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_takes_a_little_too_long_is_not_stuck() {
    let _gate = GATE_IN_USE.lock().await;
    let app = with_a_stuck_worker(1, |_| {}).await;
    assert!(app.metric(&format!("leeway_oldest_run_seconds{ECHO}")).await > 0.0);
    assert!(ready(&app).await.0);
    assert_eq!(app.get("/livez").await.status, 200);
    let_go(usize::MAX);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_ready_as_long_as_one_of_its_workers_is_free() {
    let _gate = GATE_IN_USE.lock().await;
    let app = with_a_stuck_worker(2, |config| {
        config.health.stuck_after_ms = Some(1.try_into().unwrap());
        config.health.live_fails_after_ms = Some(1.try_into().unwrap());
    })
    .await;
    assert!(app.metric(&format!("leeway_oldest_run_seconds{ECHO}")).await >= 0.9);
    assert!(ready(&app).await.0);
    assert_eq!(app.get("/livez").await.status, 200);
    // Now the other worker is stuck, too.
    let request = app.client.post(app.url("/predict")).header("x-request-timeout-ms", "500").body(body(2.0));
    assert_eq!(request.timeout(Duration::from_secs(60)).send().await.unwrap().status(), 504);
    assert!(!ready(&app).await.0);
    assert_eq!(app.get("/livez").await.status, 503);
    let_go(usize::MAX);
}
