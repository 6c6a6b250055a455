//! Every held-out digit, on both versions, compared with scikit-learn's own labels and probabilities.

use serde_json::{Value, json};

use crate::harness::{Repository, TestApp, checkout, config, copy_folder, held_out};

/// Compares predictions with scikit-learn's: the label exactly, the probabilities of `top` within 1e-5.
fn check(predictions: &Value, expected: &Value, rows: std::ops::Range<usize>, top_k: usize) {
    let predictions = predictions.as_array().unwrap();
    assert_eq!(predictions.len(), rows.len());
    for (prediction, row) in predictions.iter().zip(rows) {
        assert_eq!(prediction["label"], expected["labels"][row], "row {row}");
        assert_eq!(prediction["confidence"], prediction["top"][0]["score"], "row {row}");
        let top = prediction["top"].as_array().unwrap();
        assert_eq!(top.len(), top_k);
        for score in top {
            let class = score["label"].as_u64().unwrap() as usize;
            let (ours, theirs) =
                (score["score"].as_f64().unwrap(), expected["probabilities"][row][class].as_f64().unwrap());
            assert!((ours - theirs).abs() <= 1e-5, "row {row} class {class}: {ours}, scikit-learn {theirs}");
        }
    }
}

fn body(instances: &[Value]) -> String {
    json!({ "instances": instances }).to_string()
}

fn path(version: &str) -> String {
    format!("/v1/models/digits/versions/{version}:predict")
}

#[tokio::test(flavor = "multi_thread")]
async fn one_by_one() {
    let app = TestApp::start().await;
    let held_out = held_out("digits");
    let instances = held_out["instances"].as_array().unwrap();
    for version in ["1", "2"] {
        for (row, instance) in instances.iter().enumerate() {
            let answer = app.predict(&path(version), body(std::slice::from_ref(instance))).await;
            check(&answer.predictions(), &held_out["versions"][version], row..row + 1, 3);
        }
    }
}

/// Compares the probabilities of all ten classes, in a copy of the repository that asks for them.
#[tokio::test(flavor = "multi_thread")]
async fn all_in_one_body_with_all_classes() {
    let repository = Repository::new();
    let model_toml = std::fs::read_to_string(checkout().join("models/digits/model.toml")).unwrap();
    for version in ["1", "2"] {
        copy_folder(&checkout().join("models/digits").join(version), &repository.0.path().join("digits").join(version));
    }
    let ten = model_toml.replace("top_k = 3", "top_k = 10");
    assert_ne!(ten, model_toml);
    std::fs::write(repository.0.path().join("digits/model.toml"), ten).unwrap();

    let app = TestApp::with(repository.config()).await;
    let held_out = held_out("digits");
    let instances = held_out["instances"].as_array().unwrap();
    assert!(instances.len() >= 300);
    for version in ["1", "2"] {
        let answer = app.predict(&path(version), body(instances)).await;
        check(&answer.predictions(), &held_out["versions"][version], 0..instances.len(), 10);
        let ids = answer.json()["prediction_ids"].as_array().unwrap().clone();
        let unique: std::collections::BTreeSet<&str> = ids.iter().map(|id| id.as_str().unwrap()).collect();
        assert_eq!(unique.len(), instances.len());
    }
}

/// 64 clients at once, with bodies of different sizes, so that their rows share batches.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_64_clients_at_once() {
    let app = std::sync::Arc::new(TestApp::with(config()).await);
    let held_out = std::sync::Arc::new(held_out("digits"));
    let clients = (0..64usize).map(|client| {
        let (app, held_out) = (std::sync::Arc::clone(&app), std::sync::Arc::clone(&held_out));
        tokio::spawn(async move {
            let instances = held_out["instances"].as_array().unwrap();
            let version = if client % 2 == 0 { "1" } else { "2" };
            let rows_each = 1 + client % 7;
            let mut start = 0;
            while start < instances.len() {
                let rows = start..instances.len().min(start + rows_each);
                let answer = app.predict(&path(version), body(&instances[rows.clone()])).await;
                check(&answer.predictions(), &held_out["versions"][version], rows.clone(), 3);
                start = rows.end;
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    // Requests did share runs: there were fewer runs than requests.
    let count = |name: &str, version: &str| format!("{name}{{model=\"digits\",version=\"{version}\"");
    let requests = app.metric(&format!("{},outcome=\"ok\"}}", count("leeway_requests_total", "1"))).await;
    let runs = app.metric(&format!("{}}}", count("leeway_batch_size_count", "1"))).await;
    assert!(runs < requests, "{runs} runs for {requests} requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_highest_version_answers_where_none_is_named() {
    let app = TestApp::start().await;
    let held_out = held_out("digits");
    let instance = body(&held_out["instances"].as_array().unwrap()[..1]);
    for path in ["/predict", "/v1/models/digits:predict"] {
        let answer = app.predict(path, instance.clone()).await;
        assert_eq!(answer.json()["model"]["version"], 2);
        check(&answer.predictions(), &held_out["versions"]["2"], 0..1, 3);
    }
}
