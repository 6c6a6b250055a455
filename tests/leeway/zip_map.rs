//! Classifiers whose scores are a list of maps, as skl2onnx and LightGBM export them by default and CatBoost always: they
//! are served as they are.

use serde_json::{Map, Value, json};

use crate::harness::{Answer, Repository, TestApp, checkout, leeway, run};

/// The largest difference between a float32 computation and the framework's own.
const TOLERANCE: f64 = 2e-6;

fn golden() -> Map<String, Value> {
    let text = std::fs::read_to_string(checkout().join("tests/data/zipmap/zipmap.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn file(name: &str) -> std::path::PathBuf {
    checkout().join(format!("tests/data/zipmap/{name}.onnx"))
}

/// A `model.toml` with this in `[postprocess]`.
fn model_toml(postprocess: &str) -> String {
    format!(
        "[preprocess]\nkind = \"tensor\"\n[postprocess]\n{postprocess}\n[model]\nworkers = 1\n[budget]\ntotal_ms = 600000\n"
    )
}

const CLASSIFIER: &str = "kind = \"classifier\"\nscores = \"probabilities\"\n";

/// Runs `leeway add` in a repository. Returns its exit status and its output.
fn add(repository: &Repository, name: &str, postprocess: &str, file: &std::path::Path) -> (i32, String) {
    let folder = repository.0.path().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("model.toml"), model_toml(postprocess)).unwrap();
    run(leeway(&["add"]).arg(&folder).args(["--onnx", file.to_str().unwrap()]))
}

async fn ask(app: &TestApp, name: &str, model: &Value) -> Answer {
    app.predict(&format!("/v1/models/{name}:predict"), json!({ "instances": model["instances"] }).to_string()).await
}

fn assert_close(name: &str, found: &Value, expected: &Value) {
    let (found, expected) = (found.as_f64().unwrap(), expected.as_f64().unwrap());
    assert!((found - expected).abs() <= TOLERANCE, "{name}: {found}, and the framework says {expected}");
}

/// Added and served without a name for the output, without labels, and without another export: label and probabilities
/// are the framework's own.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_with_maps_answers_what_the_framework_predicts() {
    let models = golden();
    let repository = Repository::new();
    for (name, model) in &models {
        let (status, said) = add(&repository, name, CLASSIFIER, &file(name));
        assert_eq!(status, 0, "{name}: {said}");
        let classes: Vec<String> = model["classes"].as_array().unwrap().iter().map(|class| class.to_string()).collect();
        let labels = format!("labels are taken from the model's file: [{}]", classes.join(", "));
        assert!(said.contains(&labels), "{name}: {said}");
        assert!(!said.contains("zipmap"), "{name}: {said}");
    }
    let app = TestApp::with(repository.config()).await;
    assert_eq!(models.len(), 14);
    for (name, model) in &models {
        let predictions = ask(&app, name, model).await.predictions();
        let predictions = predictions.as_array().unwrap();
        assert_eq!(predictions.len(), 12);
        let classes = model["classes"].as_array().unwrap();
        for (row, prediction) in predictions.iter().enumerate() {
            assert_eq!(prediction["label"], model["labels"][row], "{name}");
            let top = prediction["top"].as_array().unwrap();
            assert_eq!(top.len(), classes.len(), "{name}");
            for score in top {
                let class = classes.iter().position(|class| *class == score["label"]).unwrap();
                assert_close(name, &score["score"], &model["probabilities"][row][class]);
            }
        }
    }
}

/// The output keeps the name that the file gives to it, and is a tensor of one row per instance.
#[tokio::test(flavor = "multi_thread")]
async fn the_output_of_maps_is_a_tensor_under_its_own_name() {
    let models = golden();
    let repository = Repository::new();
    for name in ["logistic_texts", "lightgbm_two_texts", "catboost_1_2_3"] {
        let output = &models[name]["output"];
        repository.add_file(name, 1, &file(name));
        let toml = model_toml(&format!("kind = \"tensor\"\noutputs = [{output}]"));
        std::fs::write(repository.0.path().join(name).join("model.toml"), toml).unwrap();
        let classifier = model_toml(&format!("{CLASSIFIER}output = {output}"));
        let classifier_name = format!("{name}_by_name");
        repository.add_file(&classifier_name, 1, &file(name));
        std::fs::write(repository.0.path().join(&classifier_name).join("model.toml"), classifier).unwrap();
    }
    let app = TestApp::with(repository.config()).await;
    for name in ["logistic_texts", "lightgbm_two_texts", "catboost_1_2_3"] {
        let model = &models[name];
        let rows = ask(&app, name, model).await.predictions();
        for (row, expected) in rows.as_array().unwrap().iter().zip(model["probabilities"].as_array().unwrap()) {
            let (row, expected) = (row.as_array().unwrap(), expected.as_array().unwrap());
            assert_eq!(row.len(), expected.len(), "{name}");
            row.iter().zip(expected).for_each(|(found, expected)| assert_close(name, found, expected));
        }
        let predictions = ask(&app, &format!("{name}_by_name"), model).await.predictions();
        for (prediction, label) in predictions.as_array().unwrap().iter().zip(model["labels"].as_array().unwrap()) {
            assert_eq!(prediction["label"], *label, "{name}");
        }
    }
}

/// A file that has both: the maps have nothing to add, so that the tensor is still the only output with scores.
#[test]
fn maps_of_a_tensor_that_is_an_output_are_left_out() {
    let both = checkout().join("tests/data/classes/logistic_zipmap_and_tensor.onnx");
    for postprocess in [CLASSIFIER, "kind = \"tensor\"\n"] {
        let (status, said) = add(&Repository::new(), "both", postprocess, &both);
        assert_eq!(status, 0, "{said}");
    }
    let (status, said) =
        add(&Repository::new(), "both", &format!("{CLASSIFIER}output = \"output_probability\""), &both);
    assert_ne!(status, 0, "{said}");
    assert!(
        said.contains("the model has no tensor output \"output_probability\"; it has: output_label, probabilities"),
        "{said}"
    );
}

/// Three names and two scores: ONNX Runtime runs no such `ZipMap`, so the other output is no answer either.
#[test]
fn maps_without_a_score_for_each_name_are_refused() {
    for postprocess in [CLASSIFIER, "kind = \"tensor\"\n", "kind = \"tensor\"\noutputs = [\"label\"]\n"] {
        let (status, said) = add(
            &Repository::new(),
            "names",
            postprocess,
            &checkout().join("tests/data/zipmap_refused/two_scores_three_names.onnx"),
        );
        assert_ne!(status, 0, "{postprocess}: {said}");
        assert!(said.contains("maps: one score for each of its 3 class names"), "{postprocess}: {said}");
    }
}
