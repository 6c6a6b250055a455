//! Some of ONNX's own node tests, as whole tensors over HTTP, against the outputs of ONNX's reference implementation.
//! `make test-onnx-suites` asks all cases of all suites.

use serde_json::{Map, Value, json};

use crate::harness::{PLAIN, Repository, TestApp, checkout};

/// Tolerances of ONNX's own runner of these cases.
const RELATIVE: f64 = 1e-3;
const ABSOLUTE: f64 = 1e-7;

/// Returns the `model.toml` of whole tensors, with NaN and infinity as texts.
fn whole_tensors() -> String {
    PLAIN.replace("kind = \"tensor\"\n", "kind = \"tensor\"\nnon_finite = \"text\"\n") + "rows = \"none\"\n"
}

fn nodes() -> Map<String, Value> {
    let path = checkout().join("tests/data/onnx_nodes/onnx_nodes.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Returns true if an answer has the form of the expected value, and the same elements within the tolerances.
fn is_close(found: &Value, expected: &Value) -> bool {
    match (found, expected) {
        (Value::Array(found), Value::Array(expected)) => {
            found.len() == expected.len()
                && found.iter().zip(expected).all(|(found, expected)| is_close(found, expected))
        }
        (Value::Number(found), Value::Number(expected)) if expected.is_f64() => {
            let (found, expected) = (found.as_f64().unwrap(), expected.as_f64().unwrap());
            (found - expected).abs() <= ABSOLUTE + RELATIVE * expected.abs()
        }
        (found, expected) => found == expected,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_every_kind_answer_as_the_reference_does() {
    let (nodes, repository) = (nodes(), Repository::new());
    for name in nodes.keys() {
        repository.add_file(name, 1, &checkout().join(format!("tests/data/onnx_nodes/{name}.onnx")));
        std::fs::write(repository.path().join(name).join("model.toml"), whole_tensors()).unwrap();
    }
    let app = TestApp::with(repository.config()).await;
    let mut wrong = Vec::new();
    for (name, node) in &nodes {
        let body = json!({ "instances": [node["instance"]] }).to_string();
        let answer = app.predict(&format!("/v1/models/{name}:predict"), body).await;
        let outputs = node["outputs"].as_object().unwrap();
        // One output is answered without its name.
        let expected = if outputs.len() == 1 { outputs.values().next().unwrap() } else { &node["outputs"] };
        let is_right = answer.status == 200
            && match (&answer.json()["predictions"][0], expected) {
                (Value::Object(found), Value::Object(expected)) => {
                    found.len() == expected.len()
                        && expected.iter().all(|(name, expected)| is_close(&found[name], expected))
                }
                (found, expected) => is_close(found, expected),
            };
        if !is_right {
            wrong.push(format!("{name} ({}): {} {}, expected {expected}", node["kind"], answer.status, answer.text));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), nodes.len(), wrong.join("\n"));
}
