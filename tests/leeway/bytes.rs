//! Files as bytes: the features are those that magika's own code makes (`tests/data/make_byte_models.py`), and a
//! classifier of files answers what ONNX Runtime answers in Python.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use leeway::tensor::{DType, Dim, TensorSpec};
use serde_json::{Value, json};

use crate::harness::{Answer, Repository, TestApp, checkout, leeway, preprocessor, run};

pub(crate) const PREPROCESS: &str = r#"
[preprocess]
kind = "bytes"
beginning = 8
end = 8
block_size = 24
strip_whitespace = true
padding = 256
offset = 0
min_bytes = 4
"#;

pub(crate) const REST: &str = r#"
[postprocess]
kind = "classifier"
scores = "probabilities"
labels = ["text", "archive", "program"]
[budget]
total_ms = 600000
[model]
workers = 1
"#;

fn cases() -> Vec<Value> {
    serde_json::from_slice(&std::fs::read(checkout().join("tests/data/bytes/kinds.json")).unwrap()).unwrap()
}

#[test]
fn features_are_those_of_magika() {
    let dims = vec![Dim::Dynamic(None), Dim::Fixed(16)];
    let stage = preprocessor(PREPROCESS, vec![TensorSpec { name: "bytes".into(), dtype: DType::I32, dims }]);
    for case in cases() {
        let file = STANDARD.decode(case["b64"].as_str().unwrap()).unwrap();
        let body = stage.transform_raw("application/octet-stream", &file, leeway::budget::Deadline::never()).unwrap();
        let expected: Vec<i32> = serde_json::from_value(case["features"].clone()).unwrap();
        assert_eq!(body.inputs.get("bytes").unwrap().values::<i32>(), Some(&*expected), "{case}");
    }
}

fn check(prediction: &Value, case: &Value) {
    let labels = ["text", "archive", "program"];
    let top = prediction["top"].as_array().unwrap();
    assert_eq!(top.len(), 3);
    for score in top {
        let class = labels.iter().position(|label| score["label"] == *label).unwrap();
        let difference = score["score"].as_f64().unwrap() - case["probabilities"][class].as_f64().unwrap();
        assert!(difference.abs() < 1e-6, "{prediction}, {case}");
    }
}

/// Added by the command, and asked with all files at once, and with one file as the body.
#[tokio::test(flavor = "multi_thread")]
async fn a_classifier_of_files_answers_as_in_python() {
    let (repository, cases) = (Repository::new(), cases());
    let folder = repository.0.path().join("kinds");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("model.toml"), format!("{PREPROCESS}{REST}")).unwrap();
    let file = checkout().join("tests/data/bytes/kinds.onnx");
    let (status, said) = run(leeway(&["add"]).arg(&folder).args(["--onnx", file.to_str().unwrap()]));
    assert_eq!(status, 0, "{said}");
    let app = TestApp::with(repository.config()).await;
    let instances: Vec<Value> = cases.iter().map(|case| json!({ "b64": case["b64"] })).collect();
    let predictions = app.predict("/predict", json!({ "instances": instances }).to_string()).await.predictions();
    assert_eq!(predictions.as_array().unwrap().len(), cases.len());
    for (prediction, case) in predictions.as_array().unwrap().iter().zip(&cases) {
        check(prediction, case);
        let body = STANDARD.decode(case["b64"].as_str().unwrap()).unwrap();
        check(&post(&app, body).await.predictions()[0], case);
    }
}

async fn post(app: &TestApp, body: Vec<u8>) -> Answer {
    let request = app.client.post(app.url("/predict")).header("content-type", "application/octet-stream");
    Answer::of(request.body(body).send().await.unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_answered_with_what_to_change() {
    let repository = Repository::new();
    repository.add_file("kinds", 1, &checkout().join("tests/data/bytes/kinds.onnx"));
    std::fs::write(repository.0.path().join("kinds/model.toml"), format!("{PREPROCESS}{REST}")).unwrap();
    let app = TestApp::with(repository.config()).await;
    for (instance, problem) in [
        (json!("abc"), "instances[0]: found the string \\\"abc\\\", expected an object with a file, as in"),
        (
            json!({ "b64": "ICE=" }),
            "instances[0]: found a file of 2 bytes, 1 of them in its first block after white space",
        ),
        (json!({ "b64": "%" }), "instances[0].b64: found a string that is not base64"),
        (json!({ "file": "" }), "instances[0]: unknown key \\\"file\\\", expected \\\"b64\\\""),
        (json!({}), "instances[0]: the key \\\"b64\\\" is missing"),
    ] {
        let answer = app.predict("/predict", json!({ "instances": [instance] }).to_string()).await;
        assert_eq!(answer.status, 400, "{}", answer.text);
        assert!(answer.text.contains(problem), "{}", answer.text);
    }
    let answer = post(&app, b"   ".to_vec()).await;
    assert_eq!(answer.status, 400, "{}", answer.text);
    assert!(
        answer.text.contains("the body: found a file of 3 bytes, 0 of them in its first block after white space"),
        "{}",
        answer.text
    );
}
