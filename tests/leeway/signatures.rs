//! Models whose inputs and outputs are not one row for each instance in the first dimension: served by rows in another
//! dimension, beside constant inputs, or as whole tensors. The expected answers are those of ONNX Runtime in Python to
//! each instance alone.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::harness::{PLAIN, Repository, TENSOR_STAGES, TestApp, checkout, is_same, leeway, run};
use crate::together::{TURNS, sixteen_at_once};

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
        for (which, answer) in sixteen_at_once(&app, name, requests, TURNS).await {
            assert_eq!(answer.status, 200, "{name}: {} {}", requests[which], answer.text);
            let found = &answer.json()["predictions"];
            assert!(is_same(found, &expected[which], 1e-5), "{name}: {found}, expected {}", expected[which]);
        }
    }
}

/// Without settings, a model that is not one row per instance is refused, with what to set; it is not served wrongly.
#[test]
fn a_signature_that_needs_settings_is_refused_with_what_to_set() {
    let add = |model: &str, settings: &str| {
        let repository = Repository::new();
        let folder = repository.path().join(model);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("model.toml"), [TENSOR_STAGES, settings].concat()).unwrap();
        let file = checkout().join(format!("tests/data/signatures/{model}.onnx"));
        run(leeway(&["add"]).arg(&folder).args(["--onnx", file.to_str().unwrap()]))
    };
    for (model, settings, expected) in [
        ("scalar", "", "set `value` below [model.inputs.rate]"),
        ("voice", "", "set `value` below [model.inputs.sr]"),
        ("shared", "", "\"w\" is float32[2]; export the model with the batch dimension first"),
        ("state_unnamed", "", "(`rows = 1` below [model.inputs.NAME])"),
        ("ctc_declared_wrongly", "", "the model's output \"logits\" does not have one row per instance"),
        (
            "loss",
            "",
            "set rows = \"none\" below [model.outputs.\"loss\"] if the output as a whole belongs to one instance",
        ),
        ("non_zero", "", "the model's output \"places\" does not have one row per instance"),
        ("no_inputs", "", "the model has no inputs that requests send"),
        ("scalar", "[model.inputs.rate]\nvalue = [1, 2]\n", "model.inputs.rate.value: "),
        ("scalar", "[model.inputs.rate]\nvalue = inf\n", "model.inputs.rate.value: NaN and infinity are not supported"),
        ("scalar", "[model.inputs.rates]\nvalue = 1\n", "model.inputs.rates: the model has no tensor input"),
        ("scalar", "[model.inputs.rate]\nrows = 1\n", "the model's input \"rate\" has no dimensions"),
    ] {
        let (status, said) = add(model, settings);
        assert!(status != 0 && said.contains(expected), "{model} {settings:?}: {said}");
    }
    let (status, said) = add("loss", "outputs = [\"y\"]\n");
    assert_eq!(status, 0, "{said}");
}
