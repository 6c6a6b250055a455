//! The metrics of a server that has been used.

use serde_json::json;

use crate::harness::{TestApp, config, held_out};

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_counted_by_outcome_and_timed_by_stage() {
    let app = TestApp::start().await;
    let good = json!({ "instances": held_out("digits")["instances"].as_array().unwrap()[..3] }).to_string();
    for _ in 0..5 {
        assert_eq!(app.predict("/predict", good.clone()).await.status, 200);
    }
    assert_eq!(app.predict("/predict", "{").await.status, 400);
    assert_eq!(app.predict("/v1/models/nobody:predict", good).await.status, 404);

    let of = |outcome: &str| format!("leeway_requests_total{{model=\"digits\",version=\"2\",outcome=\"{outcome}\"}}");
    assert_eq!(app.metric(&of("ok")).await, 5.0);
    assert_eq!(app.metric(&of("invalid")).await, 1.0);
    assert_eq!(app.metric("leeway_error_responses_total{code=\"invalid-input\"}").await, 1.0);
    assert_eq!(app.metric("leeway_error_responses_total{code=\"unknown-model\"}").await, 1.0);
    assert_eq!(app.metric("leeway_requests_in_flight{model=\"digits\",version=\"2\"}").await, 0.0);
    assert_eq!(app.metric("leeway_batch_size_sum{model=\"digits\",version=\"2\"}").await, 15.0);
    for stage in ["preprocess", "queue", "inference", "postprocess", "total"] {
        let series = |kind: &str| {
            format!("leeway_stage_duration_seconds_{kind}{{model=\"digits\",version=\"2\",stage=\"{stage}\"}}")
        };
        assert_eq!(app.metric(&series("count")).await, 5.0, "{stage}");
        // A run that the thread of its request makes has waited in no queue, and its time there is exactly zero.
        assert!(app.metric(&series("sum")).await > 0.0 || stage == "queue", "{stage}");
    }
}

/// Label values come from closed sets: text of a caller never becomes a label value.
#[tokio::test(flavor = "multi_thread")]
async fn paths_versions_and_ids_make_no_series() {
    let app = TestApp::start().await;
    // The process metrics change; the series do not.
    let series = |text: &str| text.lines().filter(|line| !line.starts_with("process_")).count();
    // The quantiles of failed requests exist once a request has failed.
    for version in [1, 2] {
        app.predict(&format!("/v1/models/digits/versions/{version}:predict"), "{}").await;
    }
    let before = series(&app.get("/metrics").await.text);
    for i in 0..300 {
        app.predict(&format!("/v1/models/m{i}:predict"), "{}").await;
        app.predict(&format!("/v1/models/digits/versions/{i}:predict"), "{}").await;
        app.get(&format!("/p{i}")).await;
    }
    assert_eq!(series(&app.get("/metrics").await.text), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_names_of_all_metrics() {
    let app = TestApp::start().await;
    let text = app.get("/metrics").await.text;
    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    insta::assert_snapshot!(names.join("\n"));
}

/// The names that dashboards of the Triton Inference Server read.
#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_of_triton_are_there_if_they_are_asked_for() {
    let mut config = config();
    let plain = TestApp::with(config.clone()).await;
    assert!(!plain.get("/metrics").await.text.contains("nv_inference"));
    config.monitoring.triton_metrics = true;
    let app = TestApp::with(config).await;
    let body = json!({ "instances": [vec![0; 64], vec![1; 64]] }).to_string();
    assert_eq!(app.predict("/v1/models/digits/versions/2:predict", body).await.status, 200);
    assert_eq!(app.predict("/v1/models/digits/versions/2:predict", "{}").await.status, 400);
    let labels = "{model=\"digits\",version=\"2\"}";
    for (name, value) in [("request_success", 1.0), ("count", 2.0), ("exec_count", 1.0), ("pending_request_count", 0.0)]
    {
        assert_eq!(app.metric(&format!("nv_inference_{name}{labels}")).await, value, "{name}");
    }
    let rejected = "nv_inference_request_failure{model=\"digits\",version=\"2\",reason=\"REJECTED\"}";
    assert_eq!(app.metric(rejected).await, 1.0);
    assert!(app.metric(&format!("nv_inference_request_duration_us{labels}")).await > 0.0);
}
