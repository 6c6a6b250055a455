//! Models whose inputs and outputs are not one row for each instance in the first dimension: served by rows in another
//! dimension, beside constant inputs, or as whole tensors. The expected answers are those of ONNX Runtime in Python to
//! each instance alone.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::harness::{PLAIN, Repository, TestApp, checkout};
use crate::together::{is_same, sixteen_at_once};

fn golden() -> Map<String, Value> {
    let path = checkout().join("tests/data/signatures/signatures.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_signature_is_answered_to_sixteen_clients_at_once_as_to_each_alone() {
    let (golden, repository) = (golden(), Repository::new());
    for (name, way) in &golden {
        let model = way["model"].as_str().unwrap();
        repository.add_file(name, 1, &checkout().join(format!("tests/data/signatures/{model}.onnx")));
        let model_toml = [PLAIN, way["settings"].as_str().unwrap()].concat();
        std::fs::write(repository.path().join(name).join("model.toml"), model_toml).unwrap();
    }
    let app = Arc::new(TestApp::with(repository.config()).await);
    for (name, way) in &golden {
        let requests = way["requests"].as_array().unwrap();
        let expected = way["expected"].as_array().unwrap();
        for (which, answer) in sixteen_at_once(&app, name, requests).await {
            assert_eq!(answer.status, 200, "{name}: {} {}", requests[which], answer.text);
            let found = &answer.json()["predictions"];
            assert!(is_same(found, &expected[which], 1e-5), "{name}: {found}, expected {}", expected[which]);
        }
    }
}
