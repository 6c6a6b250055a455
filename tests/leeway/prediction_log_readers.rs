//! The prediction log as others read it: DuckDB, pandas, the examples of the documentation, and `leeway baseline`.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::documentation::blocks_after;
use crate::harness::{TestApp, checkout, leeway, run};
use crate::prediction_log::{log, logging, penguin, penguins, stop};

fn python(arguments: &[&str], folder: &Path) -> String {
    let program = checkout().join(".clients/module/bin/python");
    assert!(program.exists(), "{} is missing: run `make clients`", program.display());
    let mut command = Command::new(program);
    let output = command.args(arguments).current_dir(folder).env("PYTHONDONTWRITEBYTECODE", "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Logs predictions of both versions, with labels, into the folder `predictions`. Returns the answers.
async fn logged(folder: &tempfile::TempDir) -> Vec<Value> {
    let repository = penguins("");
    let mut config = logging(repository.config(), folder);
    config.prediction_log.path = Some(folder.path().join("predictions"));
    let app = TestApp::with(config).await;
    let mut answers = Vec::new();
    for (version, island) in [(1, "Dream"), (2, "Biscoe"), (2, "Torgersen")] {
        let mut instances = vec![penguin(Some(40.5)), penguin(None)];
        instances.iter_mut().for_each(|instance| instance["island"] = json!(island));
        let path = format!("/v1/models/penguins/versions/{version}:predict");
        let answer = app.predict(&path, json!({ "instances": instances }).to_string()).await.json();
        let feedback = json!([{ "prediction_id": answer["prediction_ids"][0], "label": "Gentoo" }]);
        assert_eq!(app.predict("/feedback", json!({ "feedback": feedback }).to_string()).await.status, 200);
        answers.push(answer);
    }
    stop(app).await;
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn duckdb_and_pandas_read_the_log_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let answers = logged(&folder).await;
    let script = checkout().join("tests/clients/prediction_log.py");
    let read = python(&[script.to_str().unwrap(), "predictions", "penguins"], folder.path());
    let read: Value = serde_json::from_str(&read).unwrap();
    // Two files with predictions and two with outcomes, each with one row group.
    assert_eq!(read["row_groups"], json!([1, 1, 1, 1]));
    for (column, kind) in [
        ("time", "TIMESTAMP WITH TIME ZONE"),
        ("prediction_id", "VARCHAR"),
        ("version", "INTEGER"),
        ("confidence", "FLOAT"),
        ("value", "DOUBLE"),
        ("instance", "VARCHAR"),
        ("feature.body_mass_g", "FLOAT"),
        ("feature.island", "VARCHAR"),
    ] {
        assert_eq!(read["types"][column], kind, "{column}");
    }
    for reader in ["duckdb", "pandas"] {
        let rows = read[reader]["predictions"].as_array().unwrap();
        assert_eq!(rows.len(), 6, "{reader}");
        for answer in &answers {
            for (index, prediction) in answer["predictions"].as_array().unwrap().iter().enumerate() {
                let id = &answer["prediction_ids"][index];
                let row = rows.iter().find(|row| row["prediction_id"] == *id).unwrap();
                let json = |name: &str| serde_json::from_str::<Value>(row[name].as_str().unwrap()).unwrap();
                assert_eq!((&json("answer"), &row["class"]), (prediction, &prediction["label"]), "{reader}");
                assert_eq!((&row["version"], &row["index"]), (&answer["model"]["version"], &json!(index)), "{reader}");
                assert_eq!(row["feature.island"], json("instance")["island"], "{reader}");
                let bill = if index == 0 { json!(40.5) } else { Value::Null };
                assert_eq!((&row["feature.bill_length_mm"], &row["value"]), (&bill, &Value::Null), "{reader}");
                assert!(row["time"].as_str().unwrap().ends_with("+00:00"), "{reader}: {row}");
            }
        }
        let outcomes = read[reader]["outcomes"].as_array().unwrap();
        assert_eq!(outcomes.len(), 3, "{reader}");
        for (outcome, answer) in outcomes.iter().zip(&answers) {
            assert_eq!((&outcome["kind"], &outcome["label"]), (&json!("label"), &json!("Gentoo")), "{reader}");
            assert_eq!(outcome["prediction_id"], answer["prediction_ids"][0], "{reader}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_of_the_documentation_run() {
    let folder = tempfile::tempdir().unwrap();
    logged(&folder).await;
    let page = std::fs::read_to_string(checkout().join("docs/prediction-log.md")).unwrap();
    let blocks = blocks_after(&page, "run: prediction log");
    assert_eq!(blocks.len(), 3);
    let said: Vec<String> = blocks.iter().map(|block| python(&["-c", block], folder.path())).collect();
    for (said, expected) in said.iter().zip(["confidence", "accuracy", "mean"]) {
        assert!(said.contains(expected), "{said}");
    }
}

/// The rows that a server has logged become the baseline of the next version.
#[tokio::test(flavor = "multi_thread")]
async fn a_baseline_is_made_of_the_log() {
    let folder = tempfile::tempdir().unwrap();
    logged(&folder).await;
    let repository = penguins("");
    let path = folder.path().join("predictions");
    let baseline = |more: &[&str]| {
        let models = repository.path().to_str().unwrap();
        run(leeway(&["baseline", "penguins", "2", "--models", models]).args(more).env("LEEWAY_LOADING__TRIAL", "false"))
    };
    let from_log = format!("--from-log={}", path.display());
    let (code, text) = baseline(&[&from_log]);
    assert!(code == 0 && text.contains("Its baseline has 6 rows; features: all 6"), "{text}");
    let (code, text) = baseline(&[&from_log, "--until", "1h"]);
    assert!(code == 1 && text.contains("there are no rows"), "{text}");
    let (code, text) = baseline(&["--from-log"]);
    assert!(code == 1 && text.contains("prediction_log.path is not set"), "{text}");
    let (code, text) = baseline(&[]);
    assert!(code == 2 && text.contains("--data"), "{text}");
    // A new version, with the folder of the model in the log as its data.
    let onnx = repository.version("penguins", 2).join("model.onnx");
    let mut add =
        leeway(&["add", repository.path().join("penguins").to_str().unwrap(), "--onnx", onnx.to_str().unwrap()]);
    add.arg("--baseline-data").arg(path.join("penguins")).env("LEEWAY_LOADING__TRIAL", "false");
    let (code, text) = run(&mut add);
    assert!(code == 0 && text.contains("Its baseline has 6 rows"), "{text}");
    // Files that others wrote there are left out.
    std::fs::write(path.join("penguins/2/notes.txt"), "").unwrap();
    assert_eq!(log(&path, &["penguins"]).len(), 6);
}
