//! Streams whose state the clients carry: `examples/streaming`.

use std::process::Command;

use crate::harness::{Repository, TestApp, checkout};

/// The expected probabilities come from ONNX Runtime in Python.
#[tokio::test(flavor = "multi_thread")]
async fn sixteen_streams_at_one_time_are_answered_like_each_alone() {
    let example = checkout().join("examples/streaming");
    let model_toml = std::fs::read_to_string(example.join("model.toml")).unwrap();
    // A test machine may be busy.
    let model_toml = format!("{model_toml}\n[budget]\ntotal_ms = 600000\n");
    let repository = Repository::new().with_version("detector", 1, &example.join("detector.onnx"), &[]);
    let repository = repository.with_config("detector", &model_toml);
    let app = TestApp::with(repository.config()).await;
    let url = app.url("/v1/models/detector:predict");
    let client = move || Command::new("python3").arg(example.join("client.py")).arg(url).output();
    let client = tokio::task::spawn_blocking(client).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&client.stdout);
    assert!(client.status.success(), "{said}{}", String::from_utf8_lossy(&client.stderr));
    assert!(said.starts_with("16 streams, 96 chunks: largest difference"), "{said}");
    let batching = app.get("/v1/models/detector").await.json()["versions"][0]["batching"].clone();
    assert_eq!((&batching["on"], &batching["rows"]["finding"]), (&true.into(), &"independent".into()), "{batching}");
}
