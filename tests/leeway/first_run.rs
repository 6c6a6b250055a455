//! `leeway add` and `leeway check` say that a model runs only if it ran, with which shapes it did not, and if its runs
//! take longer than its budget allows.

use std::path::{Path, PathBuf};

use leeway::app::App;
use leeway::pipeline::Stages;
use serde_json::{Value, json};

use crate::harness::{PLAIN, Repository, TENSOR_STAGES, TestApp, checkout, dependencies, leeway, run, runtime};

fn file(model: &str) -> PathBuf {
    checkout().join(format!("tests/data/first_run/{model}.onnx"))
}

/// Adds a version to a new model with this `model.toml`, and returns the exit code and the output.
fn add(repository: &Repository, name: &str, onnx: &Path, model_toml: &str, more: &[&str]) -> (i32, String) {
    let folder = repository.path().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("model.toml"), model_toml).unwrap();
    let arguments = ["add", folder.to_str().unwrap(), "--onnx", onnx.to_str().unwrap()];
    run(&mut leeway(&[&arguments[..], more].concat()))
}

fn check(repository: &Repository) -> (i32, String) {
    run(&mut leeway(&["check", "--models", repository.path().to_str().unwrap()]))
}

fn image(height: usize, width: usize) -> Value {
    json!([vec![vec![0.5; width]; height]])
}

fn with_lengths(lengths: &str) -> String {
    format!("{PLAIN}[model.warm_up]\nx = {lengths}\n")
}

#[test]
fn a_model_that_did_not_run_is_not_said_to_run() {
    let repository = Repository::new();
    let (code, said) = add(&repository, "a", &file("multiples_of_96"), TENSOR_STAGES, &[]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("It loads, but it did not run, and nothing shows that it fits model.toml"), "{said}");
    for expected in [
        "    x [2, 1, 8, 8]: ",
        "Non-zero status code returned while running Concat node.",
        "for example [model] warm_up = { x = [1, 320, 320] }; or add examples with --golden or --record-golden",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let (code, said) = check(&repository);
    assert!(code == 0 && said.contains("All models load.") && said.contains("    x [2, 1, 8, 8]: "), "{said}");
}

#[test]
fn lengths_in_the_settings_are_run_and_checked() {
    let repository = Repository::new();
    let add = |lengths| add(&repository, "a", &file("multiples_of_96"), &with_lengths(lengths), &[]);
    let (code, said) = add("[1, 96, 192]");
    assert!(code == 0 && said.contains("It loads, runs, and fits model.toml."), "{said}");
    assert!(!said.contains("guessed lengths"), "{said}");
    // A model that runs on guessed lengths is refused all the same, if it does not run with those in the settings.
    let open = checkout().join("tests/data/signatures/open.onnx");
    let (code, said) = self::add(&Repository::new(), "b", &open, &with_lengths("[1, 2, 2]"), &[]);
    assert!(code == 1 && said.contains("model.warm_up: the model does not run on rows of these lengths"), "{said}");
    let (_, said) = check(&repository);
    assert!(said.contains("All models load and run."), "{said}");
    for (lengths, problem) in [
        (
            "[1, 100, 100]",
            "model.toml: model.warm_up: the model does not run on rows of these lengths (x [2, 1, 100, 100]): Non-zero \
             status code returned while running Concat node",
        ),
        (
            "[1, 1, 96, 96]",
            "model.toml: model.warm_up.x: [1, 1, 96, 96] has 4 lengths, but the input is float32[n, 1, height, width]",
        ),
        ("[3, 96, 96]", "model.warm_up.x: [3, 96, 96] does not fit the input, which is float32[n, 1, height, width]"),
    ] {
        let (code, said) = add(lengths);
        assert!(code == 1 && said.contains(problem), "{problem}: {said}");
    }
}

/// The model runs on recorded instances, although it ran on none of the guessed lengths.
#[test]
fn examples_show_lengths_that_the_model_runs_with() {
    let repository = Repository::new();
    let instances = repository.path().join("instances.jsonl");
    std::fs::write(&instances, image(96, 192).to_string()).unwrap();
    let record = ["--record-golden", instances.to_str().unwrap()];
    let (code, said) = add(&repository, "a", &file("multiples_of_96"), PLAIN, &record);
    assert!(
        code == 0 && said.contains("It loads, runs, fits model.toml, and reproduces its 1 golden examples."),
        "{said}"
    );
    assert!(!said.contains("failed"), "{said}");
    std::fs::remove_file(instances).unwrap();
    let (_, said) = check(&repository);
    assert!(said.contains("All models load and run."), "{said}");
}

/// The first request to a version with open dimensions is admitted by a known duration of runs. The lengths are known
/// to be accepted, too: a row of them is within the limit of elements.
#[tokio::test(flavor = "multi_thread")]
async fn the_duration_of_a_run_is_known_for_lengths_that_are_known() {
    for (model_toml, is_known) in [(PLAIN.to_owned(), false), (with_lengths("[1, 192, 96]"), true)] {
        let repository =
            Repository::new().with_version("a", 1, &file("multiples_of_96"), &[]).with_config("a", &model_toml);
        let config = repository.config();
        let parts = dependencies(&config, runtime(), Stages::default()).await;
        let app = App::build_with(config, parts).await.unwrap();
        let snapshot = app.catalog().snapshot();
        let version = snapshot.versions().next().unwrap();
        assert_eq!(version.pipeline().unwrap().model.typical_run(1).is_some(), is_known, "{model_toml}");
    }
    let model_toml = with_lengths("[1, 9600, 960]");
    let repository =
        Repository::new().with_version("a", 1, &file("multiples_of_96"), &[]).with_config("a", &model_toml);
    let app = TestApp::with(repository.config()).await;
    let body = json!({ "instances": [image(96, 192)] }).to_string();
    let predicted = app.predict("/v1/models/a:predict", body).await.predictions();
    assert_eq!(predicted[0][0][95][191], json!(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_without_a_row_per_instance_are_named_with_both_shapes() {
    let (code, said) = add(&Repository::new(), "a", &file("steps_first"), TENSOR_STAGES, &[]);
    let problem = "the model's output \"y\" does not have one row per instance: it has the shape [4, 1, 5] for the inputs \
                   x [1, 32]; name other outputs in model.toml, say that dimension 1 holds the rows ([model.outputs.\"y\"] rows = \
                   1), set rows = \"none\" below [model.outputs.\"y\"]";
    assert!(code == 1 && said.contains(problem), "{said}");

    // Made-up rows do not show that this model drops rows.
    let repository = Repository::new().with_version("a", 1, &file("drops_large"), &[]).with_config("a", PLAIN);
    let app = TestApp::with(repository.config()).await;
    let predict = async |instances: Value| {
        app.predict("/v1/models/a:predict", json!({ "instances": instances }).to_string()).await
    };
    assert_eq!(predict(json!([[1.0, 2.0], [3.0, 4.0]])).await.predictions(), json!([[1.0, 2.0], [3.0, 4.0]]));
    let answer = predict(json!([[1.0, 2.0], [2e6, 4.0]])).await;
    assert_eq!((answer.status, &answer.json()["title"]), (500, &json!("Model failed")), "{}", answer.text);
    let problem = "output \"y\" has the shape [1, 2] for 2 input rows: it must have one row for each of them";
    assert!(answer.text.contains(&problem.replace('"', "\\\"")), "{}", answer.text);
}

/// A model whose runs take long only with values like those of the example.
#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_is_too_short_for_a_run_is_said_with_the_number_to_write() {
    let repository = Repository::new();
    let golden = json!({ "instances": [3000], "predictions": [3000.0] }).to_string();
    let file = repository.path().join("golden.json");
    std::fs::write(&file, &golden).unwrap();
    let onnx = checkout().join("tests/data/models/work.onnx");
    let model_toml = |total_ms: u64| format!("{TENSOR_STAGES}[budget]\ntotal_ms = {total_ms}\n");
    let add = |total_ms| add(&repository, "work", &onnx, &model_toml(total_ms), &["--golden", file.to_str().unwrap()]);
    let (code, said) = add(10);
    assert!(code == 0 && said.contains("WARNING: a run of one row takes "), "{said}");
    assert!(
        said.contains(" ms, and the budget leaves 7 ms for the queue and the run, so that requests are refused"),
        "{said}"
    );
    let (_, suggested) = said.split_once("write in model.toml: [budget] total_ms = ").unwrap();
    let suggested: u64 = suggested.lines().next().unwrap().parse().unwrap();
    // Ten times as much, because the machine of the tests may be busy the next time.
    let (code, said) = add(10 * suggested);
    assert!(code == 0 && !said.contains("a run of one row takes"), "{said}");

    std::fs::remove_file(&file).unwrap();
    std::fs::write(repository.path().join("work/model.toml"), model_toml(10)).unwrap();
    let (_, said) = check(&repository);
    assert!(said.contains("WARNING: a run of one row takes "), "{said}");
    let app = TestApp::with(repository.config()).await;
    let status = app.admin_get("/admin/v1/models").await;
    assert!(
        status.text.contains("a run of one row takes ") && status.text.contains("[budget] total_ms = "),
        "{}",
        status.text
    );
}

/// Each instance is a run of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_runs_with_one_row_only_is_served_row_by_row() {
    let repository = Repository::new();
    let (code, said) = add(&repository, "a", &file("one_row"), PLAIN, &[]);
    assert!(code == 0 && said.contains("It loads, runs, and fits model.toml."), "{said}");
    for expected in [
        "Batching is off: a run has exactly 1 row, of one request",
        "Note: the model declares any number of rows, but runs with one only: each instance is a run of its own",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let app = TestApp::with(repository.config()).await;
    let answer = app.predict("/v1/models/a:predict", r#"{"instances": [[1, 2], [3, 4], [5, 6]]}"#).await;
    assert_eq!(answer.predictions(), json!([[2.0, 4.0], [6.0, 8.0], [10.0, 12.0]]));
}

/// With one row, its only row would be the mean. But the model runs with two rows, so it is no model of one row.
#[test]
fn a_number_for_the_whole_batch_is_no_row() {
    let (code, said) = add(&Repository::new(), "a", &file("mean_of_the_batch"), PLAIN, &[]);
    let problem =
        "the model's output \"y\" does not have one row per instance: it has the shape [1, 2] for the inputs x [2, 2]";
    assert!(code == 1 && said.contains(problem), "{said}");
}

/// Whole tensors can be sizes, which cannot be made up. With an example, the model is seen to run.
#[test]
fn whole_tensors_that_cannot_be_made_up_are_no_reason_to_refuse_a_model() {
    let (repository, model_toml) = (Repository::new(), format!("{PLAIN}rows = \"none\"\n"));
    let (code, said) = add(&repository, "a", &file("sized"), &model_toml, &[]);
    assert!(code == 0 && said.contains("It loads, but it did not run"), "{said}");
    assert!(said.contains("its values may not suit this model; add examples with --golden"), "{said}");
    let golden = repository.path().join("golden.json");
    let rows: Vec<Vec<f32>> = (0..23).map(|row| (0..29).map(|column| (29 * row + column) as f32).collect()).collect();
    let example =
        json!({ "instances": [{ "x": rows.concat(), "shape": [23, 29] }], "predictions": [rows] }).to_string();
    std::fs::write(&golden, example).unwrap();
    let (code, said) = add(&repository, "b", &file("sized"), &model_toml, &["--golden", golden.to_str().unwrap()]);
    assert!(
        code == 0 && said.contains("It loads, runs, fits model.toml, and reproduces its 1 golden examples."),
        "{said}"
    );
}

/// The logarithm of made-up numbers is NaN or infinite.
#[test]
fn infinity_in_the_first_run_is_said_with_the_setting_that_allows_it() {
    let onnx = checkout().join("tests/data/models/log.onnx");
    let (code, said) = add(&Repository::new(), "a", &onnx, TENSOR_STAGES, &[]);
    let expected = "Note: the output \"y\" was NaN or infinity in the first run, on made-up values";
    assert!(code == 0 && said.contains(expected) && said.contains("non_finite = \"null\""), "{said}");
    let (code, said) = add(&Repository::new(), "a", &onnx, &format!("{TENSOR_STAGES}non_finite = \"null\"\n"), &[]);
    assert!(code == 0 && !said.contains("infinity"), "{said}");
}
