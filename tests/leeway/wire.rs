//! Requests and answers on the wire, as snapshots.

use serde_json::{Value, json};

use crate::harness::{Repository, TestApp, held_out};

/// Replaces values that differ between requests.
fn without_ids(mut value: Value) -> Value {
    if let Some(ids) = value.get_mut("prediction_ids").and_then(Value::as_array_mut) {
        for (index, id) in ids.iter_mut().enumerate() {
            assert_eq!(id.as_str().unwrap().len(), 72, "{id}");
            *id = json!(format!("<id {index}>"));
        }
    }
    value
}

fn two_digits() -> String {
    json!({ "instances": held_out("digits")["instances"].as_array().unwrap()[..2] }).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer() {
    let app = TestApp::start().await;
    let answer = app.predict("/v1/models/digits/versions/1:predict", two_digits()).await;
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("x-model-version"), "1");
    insta::with_settings!({ sort_maps => false }, {
        // Floating-point results may differ in their last bits from processor to processor.
        insta::assert_json_snapshot!(without_ids(answer.json()), {
            ".predictions[].confidence" => insta::rounded_redaction(4),
            ".predictions[].top[].score" => insta::rounded_redaction(4),
        });
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn server_timing_has_every_stage_in_milliseconds() {
    let app = TestApp::start().await;
    let answer = app.predict("/predict", two_digits()).await;
    let timing = answer.header("server-timing");
    let names: Vec<&str> = timing.split(", ").map(|entry| entry.split_once(";dur=").unwrap().0).collect();
    assert_eq!(names, ["net", "pre", "queue", "infer", "post"]);
    for entry in timing.split(", ") {
        let duration: f64 = entry.split_once(";dur=").unwrap().1.parse().unwrap();
        assert!((0.0..60_000.0).contains(&duration), "{timing}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn models() {
    let app = TestApp::start().await;
    let list = app.get("/v1/models").await.json();
    let model = app.get("/v1/models/digits").await.json();
    assert_eq!(list, json!({ "models": [model] }));
    let version = app.get("/v1/models/digits/versions/1").await.json();
    let mut without_status = version.clone();
    without_status.as_object_mut().unwrap().remove("model_version_status");
    assert_eq!(without_status, model["versions"][1]);
    assert_eq!(version["model_version_status"], json!([model["model_version_status"][1]]));
    // The clients of TensorFlow Serving and KServe read these.
    assert_eq!(model["model_version_status"][0]["state"], "AVAILABLE");
    assert_eq!((&model["name"], &model["ready"]), (&json!("digits"), &json!(true)));
    // Rounding depends on the processor, and the number of workers on its cores.
    insta::assert_json_snapshot!(model, {
        ".versions[].workers" => "[workers]",
        ".versions[].batching.rows.difference" => "[difference]",
        ".versions[].batching.explanation" => "[explanation]",
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn health() {
    let app = TestApp::start().await;
    assert_eq!(app.get("/livez").await.json(), json!({ "live": true }));
    assert_eq!(app.get("/readyz").await.json(), json!({ "ready": true }));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_listener_has_an_index_and_metrics_and_no_predictions() {
    let app = TestApp::start().await;
    let url = |path: &str| format!("http://{}{path}", app.admin);
    let index: Value = app.client.get(url("/")).send().await.unwrap().json().await.unwrap();
    assert_eq!(index["name"], "leeway");
    let metrics = app.client.get(url("/metrics")).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("leeway_ready 1"));
    let predict = app.client.post(url("/predict")).body(two_digits()).send().await.unwrap();
    assert_eq!(predict.status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn request_ids_come_back_if_they_are_sane() {
    let app = TestApp::start().await;
    for (sent, returned) in [
        ("order-17:retry/2", Some("order-17:retry/2")),
        ("", None),
        ("has space", None),
        ("quote\"d", None),
        (&"x".repeat(129), None),
    ] {
        let request = app.client.get(app.url("/livez")).header("x-request-id", sent);
        let response = request.send().await.unwrap();
        let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
        match returned {
            Some(returned) => assert_eq!(id, returned),
            None => assert_eq!((id.len(), id == sent), (36, false), "{id}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v1_routes_have_the_error_member_and_others_do_not() {
    let app = TestApp::start().await;
    let v1 = app.predict("/v1/models/digits:predict", "{}").await.json();
    assert_eq!(v1["error"], v1["detail"]);
    let ours = app.predict("/predict", "{}").await.json();
    assert_eq!(ours["error"], Value::Null);
    assert_eq!(ours["detail"], v1["detail"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_paths_below_v1_have_the_error_member_and_every_error_its_request_id() {
    let app = TestApp::start().await;
    for (path, is_v1) in [
        ("/v1/", true),
        ("/v1/x", true),
        ("/v1/models/", true),
        ("/v1/models/digits/x", true),
        ("/v1/models/digits/versions/1/x", true),
        ("/v1", false),
        ("/x", false),
        ("/v2/", true),
        ("/v2/x", true),
        ("/v2/models/digits/x", true),
    ] {
        let answer = app.get(path).await;
        assert_eq!(answer.status, 404, "{path}");
        let problem = answer.json();
        assert_eq!(problem.get("error").is_some(), is_v1, "{path}: {problem}");
        assert_eq!(problem["request_id"], answer.header("x-request-id"), "{path}");
        assert_eq!(problem["type"], "urn:leeway:problem:unknown-endpoint", "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_models_need_a_default() {
    let repository = Repository::of("echo_float32").with("log", 1, "log", crate::harness::PLAIN);
    let app = TestApp::with(repository.config()).await;
    let body = r#"{"instances": [[1, 1]]}"#;
    let answer = app.predict("/predict", body).await;
    assert_eq!(answer.status, 404);
    assert!(answer.json()["detail"].as_str().unwrap().contains("echo_float32, log"), "{}", answer.text);
    assert_eq!(app.predict("/v1/models/log:predict", body).await.predictions(), json!([[0.0, 0.0]]));

    let mut config = repository.config();
    config.repository.default_model = Some("log".parse().unwrap());
    let app = TestApp::with(config).await;
    assert_eq!(app.predict("/predict", body).await.predictions(), json!([[0.0, 0.0]]));
}
