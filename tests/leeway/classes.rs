//! The names of classes come from the model's file, as the training framework wrote them.

use serde_json::{Map, Value, json};

use crate::harness::{Repository, TestApp, checkout, leeway, run};

fn golden() -> Map<String, Value> {
    let text = std::fs::read_to_string(checkout().join("tests/data/classes/classes.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// A `model.toml` for a classifier of `classes.json`.
fn model_toml(model: &Value, more: &str) -> String {
    format!(
        "[preprocess]\nkind = \"tensor\"\n[postprocess]\nkind = \"classifier\"\noutput = {}\nscores = {}\n{more}\n\
         [model]\nworkers = 1\n[budget]\ntotal_ms = 600000\n",
        model["output"], model["scores"]
    )
}

fn file(name: &str) -> std::path::PathBuf {
    checkout().join(format!("tests/data/classes/{name}.onnx"))
}

/// Runs `leeway add` with this in `[postprocess]`. Returns its exit status and its output.
fn add(name: &str, model: &Value, more: &str) -> (i32, String) {
    let repository = Repository::new();
    let folder = repository.0.path().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("model.toml"), model_toml(model, more)).unwrap();
    run(leeway(&["add"]).arg(&folder).args(["--onnx", file(name).to_str().unwrap()]))
}

/// LogisticRegression, forests, boosting, networks, ensembles, an Ultralytics export: every label is the framework's
/// own, without labels in `model.toml`.
#[tokio::test(flavor = "multi_thread")]
async fn every_label_is_what_the_framework_predicts() {
    let models = golden();
    let repository = Repository::new();
    for (name, model) in &models {
        repository.add_file(name, 1, &file(name));
        std::fs::write(repository.0.path().join(name).join("model.toml"), model_toml(model, "")).unwrap();
    }
    let app = TestApp::with(repository.config()).await;
    assert!(models.len() >= 25);
    for (name, model) in &models {
        let body = json!({ "instances": model["instances"] }).to_string();
        let predictions = app.predict(&format!("/v1/models/{name}:predict"), body).await.predictions();
        let labels: Vec<&Value> =
            predictions.as_array().unwrap().iter().map(|prediction| &prediction["label"]).collect();
        let expected: Vec<Value> = match name.as_str() {
            // These classes have no names.
            "nothing" => {
                model["labels"].as_array().unwrap().iter().map(|class| json!(format!("class {class}"))).collect()
            }
            _ => model["labels"].as_array().unwrap().clone(),
        };
        assert_eq!(labels, expected.iter().collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn labels_that_disagree_with_the_file_are_refused_with_both() {
    let models = golden();
    for (name, labels, file) in [
        (
            "logistic_texts",
            "[0, 1, 2]",
            "says [\"setosa\", \"versicolor\", \"virginica\"] (classlabels_strings of the node LinearClassifier)",
        ),
        ("logistic_texts", "[\"virginica\", \"versicolor\", \"setosa\"]", "says [\"setosa\","),
        ("logistic_1_2_3", "[0, 1, 2]", "says [1, 2, 3]"),
        ("logistic_minus_one", "[0, 1]", "says [-1, 1]"),
        ("ovr_texts", "[\"a\", \"b\", \"c\"]", "in which the label is looked up"),
        (
            "ultralytics_cls",
            "[\"dog\", \"cat\", \"bird\"]",
            "says [\"cat\", \"dog's\", \"bird\"] (\"names\" in the file's metadata)",
        ),
    ] {
        let (status, said) = add(name, &models[name], &format!("labels = {labels}"));
        assert_ne!(status, 0, "{said}");
        assert!(said.contains(&format!("labels: model.toml says {labels}, but the model's file")), "{said}");
        assert!(said.contains(file), "{said}");
    }
    // Names for classes that the file only numbers do not contradict it.
    for (name, labels) in [("logistic_1_2_3", "[\"a\", \"b\", \"c\"]"), ("xgboost_binary", "[\"stays\", \"leaves\"]")] {
        let (status, said) = add(name, &models[name], &format!("labels = {labels}"));
        assert_eq!(status, 0, "{said}");
    }
}

/// Two classifiers in one file, each with its own names; and a model that contradicts its own scores.
#[test]
fn names_are_those_of_the_head_that_the_scores_belong_to() {
    let add = |name: &str, postprocess: &str| {
        let repository = Repository::new();
        let folder = repository.0.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let model_toml = format!(
            "[preprocess]\nkind = \"tensor\"\n[postprocess]\nkind = \"classifier\"\nscores = \"probabilities\"\n{postprocess}\n"
        );
        std::fs::write(folder.join("model.toml"), model_toml).unwrap();
        let file = checkout().join(format!("tests/data/models/{name}.onnx"));
        run(leeway(&["add"]).arg(&folder).args(["--onnx", file.to_str().unwrap()]))
    };
    for (output, names) in [("a_scores", "[\"no\", \"yes\"]"), ("b_scores", "[\"cat\", \"dog\", \"cow\"]")] {
        for labels in [String::new(), format!("labels = {names}")] {
            let (status, said) = add("two_heads", &format!("output = \"{output}\"\n{labels}"));
            assert_eq!(status, 0, "{said}");
            assert_eq!(
                said.contains(&format!("labels are taken from the model's file: {names}")),
                labels.is_empty(),
                "{said}"
            );
        }
    }
    let (status, said) = add("label_contradicts", "");
    assert!(status != 0, "{said}");
    assert!(said.contains("the model's own label is not the class with the highest score"), "{said}");
}

#[test]
fn what_classes_are_called_is_said_when_a_version_is_added() {
    let models = golden();
    let (status, said) = add("svc_texts", &models["svc_texts"], "");
    assert!(status == 0 && said.contains("Note: labels are taken from the model's file: [\"setosa\","), "{said}");
    let (status, said) = add("nothing", &models["nothing"], "");
    assert!(status == 0 && said.contains("so they are answered as \"class 0\""), "{said}");
}
