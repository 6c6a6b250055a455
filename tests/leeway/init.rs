//! `leeway init` and `leeway serve FILE`: from a file to an answer, without a `model.toml` by hand.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::{Repository, Server, TestApp, checkout, client, leeway, run, until};

fn data(path: &str) -> PathBuf {
    checkout().join("tests/data").join(path)
}

/// Runs `leeway init` into this repository. Returns its exit status and its output.
fn init(repository: &Repository, given: &Path, more: &[&str]) -> (i32, String) {
    let models = repository.path();
    run(leeway(&["init"]).arg(given).arg("--models").arg(models).args(more))
}

fn model_toml(repository: &Repository, name: &str) -> String {
    std::fs::read_to_string(repository.path().join(name).join("model.toml")).unwrap()
}

/// Returns the files and folders in a folder.
fn entries(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Files of skl2onnx, LightGBM, XGBoost, CatBoost, PyTorch and Ultralytics, with the stages that fit them. Every model
/// answers its own example.
#[tokio::test(flavor = "multi_thread")]
async fn files_of_many_exporters_are_served_without_an_edit() {
    let repository = Repository::new();
    let files = [
        ("classes/logistic_texts", "tensor", "classifier"),
        ("classes/lightgbm_1_2_3", "tensor", "classifier"),
        ("zipmap/catboost_texts", "tensor", "classifier"),
        ("classes/xgboost_binary", "tensor", "classifier"),
        ("independent/xgboost_regressor", "tensor", "regressor"),
        ("independent/data_frame", "tabular", "classifier"),
        ("independent/isolation_forest", "tensor", "anomaly"),
        ("independent/transformer", "tensor", "tensor"),
        ("independent/small_cnn", "tensor", "tensor"),
        ("multi/ovr_multi_label", "tensor", "tensor"),
        ("signatures/voice", "tensor", "tensor"),
    ];
    for (file, preprocess, postprocess) in files {
        let name = file.split('/').next_back().unwrap();
        let (status, output) = init(&repository, &data(&format!("{file}.onnx")), &[]);
        assert_eq!(status, 0, "{file}: {output}");
        assert!(output.contains("Added version 1: ") && output.contains("/v1/models/"), "{file}: {output}");
        let written = model_toml(&repository, name);
        let parsed: toml::Table = written.parse().unwrap();
        let kinds = (parsed["preprocess"]["kind"].as_str(), parsed["postprocess"]["kind"].as_str());
        assert_eq!(kinds, (Some(preprocess), Some(postprocess)), "{file}: {written}");
    }
    let app = TestApp::with(repository.config()).await;
    for (file, ..) in files {
        let name = file.split('/').next_back().unwrap();
        let schema = app.get(&format!("/v1/models/{name}/schema")).await.json();
        let answer = app.predict(&format!("/v1/models/{name}:predict"), schema["example"].to_string()).await;
        assert_eq!(answer.status, 200, "{file}: {}", answer.text);
    }
}

/// Models that answer NaN for zeros, that take exactly three rows, and whose instances have a million characters. The command
/// that `init` prints and the schema have an example that the model answers.
#[tokio::test(flavor = "multi_thread")]
async fn an_example_is_one_that_the_model_has_answered() {
    let repository = Repository::new();
    let files = [("unit_length", 1), ("unit_length_of_three", 3), ("brightness", 1)];
    let mut printed = Vec::new();
    for (name, _) in files {
        let (status, output) = init(&repository, &data(&format!("first_run/{name}.onnx")), &[]);
        assert_eq!(status, 0, "{name}: {output}");
        printed.push(output);
        // A test machine may be busy.
        let text = model_toml(&repository, name);
        let patient = match text.contains("[budget]") {
            true => text,
            false => format!("{text}\n[budget]\ntotal_ms = 60000\n"),
        };
        std::fs::write(repository.0.path().join(name).join("model.toml"), patient).unwrap();
    }
    let app = TestApp::with(repository.config()).await;
    for ((name, instances), output) in files.into_iter().zip(printed) {
        let schema = app.get(&format!("/v1/models/{name}/schema")).await.json();
        let example = &schema["example"];
        assert_eq!(example["instances"].as_array().map(Vec::len), Some(instances), "{name}: {example}");
        let answer = app.predict(&format!("/v1/models/{name}:predict"), example.to_string()).await;
        assert_eq!(answer.status, 200, "{name}: {}", answer.text);
        match output.split_once(" -d '").and_then(|(_, rest)| rest.split_once('\'')) {
            Some((body, _)) => assert_eq!(serde_json::from_str::<Value>(body).unwrap(), *example, "{name}"),
            None => assert!(output.contains(&format!("leeway schema {name} --example")), "{name}: {output}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_answered_no_example_has_none() {
    let repository = Repository::new();
    let (status, output) = init(&repository, &data("first_run/always_nan.onnx"), &[]);
    assert_eq!(status, 0, "{output}");
    assert!(output.contains(r#"-d '{"instances": [...]}'"#), "{output}");
    let app = TestApp::with(repository.config()).await;
    let schema = app.get("/v1/models/always_nan/schema").await.json();
    assert!(schema["example"].is_null(), "{schema}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_labels_are_those_of_the_framework() {
    let golden = std::fs::read_to_string(data("classes/classes.json")).unwrap();
    let golden: Value = serde_json::from_str(&golden).unwrap();
    let repository = Repository::new();
    let names = ["pipeline_texts", "logistic_minus_one", "ovr_texts", "knn_1_2_3"];
    for name in names {
        let (status, output) = init(&repository, &data(&format!("classes/{name}.onnx")), &[]);
        assert_eq!(status, 0, "{name}: {output}");
    }
    let app = TestApp::with(repository.config()).await;
    for name in names {
        let model = &golden[name];
        let body = json!({ "instances": model["instances"] }).to_string();
        let predictions = app.predict(&format!("/v1/models/{name}:predict"), body).await.predictions();
        let labels: Vec<&Value> =
            predictions.as_array().unwrap().iter().map(|prediction| &prediction["label"]).collect();
        assert_eq!(labels, model["labels"].as_array().unwrap().iter().collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn a_model_that_exists_is_not_changed() {
    let repository = Repository::new();
    let file = data("classes/logistic_texts.onnx");
    assert_eq!(init(&repository, &file, &["--name", "iris"]).0, 0);
    let before = model_toml(&repository, "iris");
    let (status, output) = init(&repository, &data("multi/ridge.onnx"), &["--name", "iris"]);
    assert_eq!(status, 1, "{output}");
    assert!(output.contains("this model exists already") && output.contains("--print"), "{output}");
    assert_eq!(model_toml(&repository, "iris"), before);
    let (status, output) = init(&repository, &data("multi/ridge.onnx"), &["--name", "iris", "--print"]);
    assert_eq!(status, 0, "{output}");
    assert!(output.contains("[preprocess]") && output.contains("[postprocess]"), "{output}");
    assert_eq!(entries(repository.path()), ["iris"]);
}

#[test]
fn a_refusal_says_why_and_leaves_nothing_behind() {
    let repository = Repository::new();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("weights.pt"), b"PK\x03\x04").unwrap();
    for (given, problem) in [
        (data("nothing_here.onnx"), "there is no such file or folder"),
        (folder.path().to_owned(), "there is no .onnx file in this folder"),
        (data("classes/classes.json"), "not an ONNX file"),
        (data("operators/add_one.onnx"), "custom_operators"),
    ] {
        let (status, output) = init(&repository, &given, &["--name", "new"]);
        assert_eq!(status, 1, "{}: {output}", given.display());
        assert!(output.contains(problem), "{}: {output}", given.display());
        assert_eq!(entries(repository.path()), Vec::<String>::new(), "{output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn training_data_give_columns_and_a_baseline() {
    let repository = Repository::new();
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("train.csv");
    let rows: String = (0..60).map(|row| format!("{}.1,{}.2,0.{row},1.5,setosa\n", row % 7, row % 5)).collect();
    std::fs::write(&table, format!("length,width,petal,other,species\n{rows}")).unwrap();
    let table = table.to_str().unwrap();
    let file = data("classes/logistic_texts.onnx");
    let (status, output) = init(&repository, &file, &["--data", table]);
    assert_eq!(status, 1, "{output}");
    assert!(output.contains("there are 5 columns, but the model's input"), "{output}");
    let (status, output) = init(&repository, &file, &["--data", table, "--ignore-column", "species"]);
    assert_eq!(status, 0, "{output}");
    assert!(output.contains("Its baseline has 60 rows") && output.contains("CHECK: preprocess.columns"), "{output}");
    let app = TestApp::with(repository.config()).await;
    let body = json!({ "instances": [{ "length": 5.1, "width": 3.5, "petal": 1.4, "other": 0.2 }] }).to_string();
    let predictions = app.predict("/v1/models/logistic_texts:predict", body).await.predictions();
    assert_eq!(predictions[0]["label"], "setosa");
}

/// Writes the folder of a sentence-transformers export: the shipped small model with the files that the library saves.
fn sentences(into: &Path) {
    let from = data("text/sentences/1");
    std::fs::create_dir_all(into.join("onnx")).unwrap();
    std::fs::copy(from.join("model.onnx"), into.join("onnx/model.onnx")).unwrap();
    std::fs::copy(from.join("tokenizer.json"), into.join("tokenizer.json")).unwrap();
    let write = |name: &str, value: Value| {
        let path = into.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, value.to_string()).unwrap();
    };
    write("config.json", json!({ "architectures": ["BertModel"], "model_type": "bert" }));
    write("sentence_bert_config.json", json!({ "max_seq_length": 64, "do_lower_case": false }));
    write("1_Pooling/config.json", json!({ "word_embedding_dimension": 32, "pooling_mode_mean_tokens": true }));
    let module = |kind: &str| json!({ "type": format!("sentence_transformers.models.{kind}") });
    write("modules.json", json!([module("Transformer"), module("Pooling"), module("Normalize")]));
}

/// The vectors are those of sentence-transformers, as for the shipped `model.toml`.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_hugging_face_becomes_a_model_of_texts() {
    let repository = Repository::new();
    let folder = tempfile::tempdir().unwrap();
    let export = folder.path().join("my sentences");
    sentences(&export);
    let (status, output) = init(&repository, &export, &[]);
    assert_eq!(status, 0, "{output}");
    let held_out: Value = serde_json::from_str(&std::fs::read_to_string(data("text/held_out.json")).unwrap()).unwrap();
    let app = TestApp::with(repository.config()).await;
    let text = &held_out["instances"][0];
    let body = json!({ "instances": [text] }).to_string();
    let predictions = app.predict("/v1/models/my-sentences:predict", body).await.predictions();
    let (vector, expected) = (&predictions[0]["embedding"], &held_out["embeddings"][0]);
    let numbers = |value: &Value| value.as_array().unwrap().iter().map(|one| one.as_f64().unwrap()).collect::<Vec<_>>();
    for (one, other) in numbers(vector).into_iter().zip(numbers(expected)) {
        assert!((one - other).abs() < 1e-4, "{vector} {expected}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_mlflow_becomes_a_model_with_its_columns() {
    let repository = Repository::new();
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(data("classes/logistic_texts.onnx"), folder.path().join("model.onnx")).unwrap();
    let mlmodel = "flavors:\n  onnx:\n    data: model.onnx\n    onnx_version: 1.20.0\n  python_function:\n    \
        loader_module: mlflow.onnx\nmlflow_version: 3.6.0\nsignature:\n  inputs: '[{\"type\": \"double\", \"name\": \
        \"sepal length (cm)\", \"required\": true}, {\"type\":\n    \"double\", \"name\": \"sepal width\"}, {\"type\": \
        \"double\", \"name\": \"petal length\"}, {\"type\":\n    \"double\", \"name\": \"petal width\"}]'\n  outputs: null\n";
    std::fs::write(folder.path().join("MLmodel"), mlmodel).unwrap();
    let (status, output) = init(&repository, folder.path(), &["--name", "iris"]);
    assert_eq!(status, 0, "{output}");
    let app = TestApp::with(repository.config()).await;
    let instance = json!({ "sepal length (cm)": 5.1, "sepal width": 3.5, "petal length": 1.4, "petal width": 0.2 });
    let predictions =
        app.predict("/v1/models/iris:predict", json!({ "instances": [instance] }).to_string()).await.predictions();
    assert_eq!(predictions[0]["label"], "setosa");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_file_is_served_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(data("classes/logistic_texts.onnx"), folder.path().join("iris.onnx")).unwrap();
    let server = Server::spawn(leeway(&["serve", "iris.onnx"]).current_dir(folder.path()));
    let client = client();
    let schema: Value = client.get(server.url("/v1/models/iris/schema")).send().await.unwrap().json().await.unwrap();
    let example = schema["example"].clone();
    for path in ["/predict", "/v1/models/iris:predict"] {
        let answer: Value = client.post(server.url(path)).json(&example).send().await.unwrap().json().await.unwrap();
        assert!(answer["predictions"][0]["label"].is_string(), "{answer}");
    }
    let url = server.url("/v1/models/iris:predict");
    server.signal("INT");
    let (status, log) = server.wait();
    assert!(status.success(), "{log}");
    // The log has a command with this request.
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut commands =
        lines.filter_map(|line| line["message"].as_str()?.strip_prefix("send a request: ").map(str::to_owned));
    let command = commands.next().unwrap_or_else(|| panic!("{log}"));
    let (start, body) = command.split_once(" -d '").unwrap();
    assert_eq!(start, format!("curl {url} -H 'content-type: application/json'"));
    let body: Value = serde_json::from_str(body.trim_end_matches('\'')).unwrap();
    assert_eq!(body, example);
    assert_eq!(entries(folder.path()), ["iris.onnx"]);
}

/// A model's own folder is served with its settings and versions, under its own name or another.
#[tokio::test(flavor = "multi_thread")]
async fn the_folder_of_a_model_is_served_under_any_name() {
    let repository = Repository::new().with_shipped("digits", &[1, 2]);
    let folder = repository.path().join("digits");
    for (more, name) in [(&[][..], "digits"), (&["--name", "numbers"], "numbers")] {
        let server = Server::spawn(&mut leeway(&[&["serve", folder.to_str().unwrap()], more].concat()));
        let state = client().get(server.url("/v1/models")).send().await.unwrap().json::<Value>().await.unwrap();
        assert_eq!(state["models"].as_array().unwrap().len(), 1, "{state}");
        assert_eq!(state["models"][0]["name"], name, "{state}");
        for version in [1, 2] {
            let url = server.url(&format!("/v1/models/{name}/versions/{version}:predict"));
            let body = json!({ "instances": [vec![0; 64]] });
            let answered = until(async || {
                let answer = client().post(&url).json(&body).send().await.unwrap();
                // A test machine may be busy.
                (!matches!(answer.status().as_u16(), 503 | 504)).then_some(answer)
            });
            assert_eq!(answered.await.status(), 200);
        }
        server.signal("INT");
        let (status, log) = server.wait();
        assert!(
            status.success() && log.contains("send a request: curl ") && !log.contains("settings were chosen"),
            "{log}"
        );
    }
    assert_eq!(entries(repository.path()), ["digits"]);
    // A folder without a version, and one that holds models.
    std::fs::remove_dir_all(folder.join("1")).unwrap();
    std::fs::remove_dir_all(folder.join("2")).unwrap();
    let (status, output) = run(&mut leeway(&["serve", folder.to_str().unwrap()]));
    assert!(status == 1 && output.contains("the model has no version; add one with `leeway add`"), "{output}");
    let (status, output) = run(&mut leeway(&["serve", repository.path().to_str().unwrap()]));
    assert!(status == 1 && output.contains("this folder holds models: give the folder of one of them"), "{output}");
    let (status, output) = run(&mut leeway(&["serve", "--name", "numbers"]));
    assert!(status == 2 && output.contains("required arguments were not provided"), "{output}");
}

#[test]
fn a_file_that_cannot_be_served_ends_the_server() {
    let (status, output) = run(&mut leeway(&["serve", "classes/classes.json"]));
    assert_eq!(status, 1, "{output}");
    assert!(output.contains("not an ONNX file"), "{output}");
    let (status, output) = run(&mut leeway(&["serve", "iris.onnx", "--models", "models"]));
    assert_eq!(status, 2, "{output}");
    assert!(output.contains("cannot be used with"), "{output}");
}
