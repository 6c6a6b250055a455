//! Models with several answers for each row: regressors with several targets, multi-label classifiers, classifiers with
//! several targets, and detectors of anomalies. Their answers are those of scikit-learn, alone and at once.

use serde_json::{Map, Value, json};

use crate::harness::{Repository, TestApp, checkout, is_same, leeway, run};
use crate::independence::ask_at_once;

/// The largest difference between a float32 computation and the framework's own, relative to numbers above 1.
const TOLERANCE: f64 = 2e-5;

/// Number of answers for each of sixteen callers, at least one for each request.
const ANSWERS: usize = 100;

const TARGETS: [&str; 3] = ["a", "b", "c"];

fn golden() -> Map<String, Value> {
    let text = std::fs::read_to_string(checkout().join("tests/data/multi/multi.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Every model that is served, and its `[postprocess]`.
fn served() -> Vec<(&'static str, &'static str)> {
    const REGRESSOR: &str = "kind = \"regressor\"\ntargets = [\"a\", \"b\", \"c\"]";
    const MULTI_LABEL: &str =
        "kind = \"classifier\"\nscores = \"probabilities\"\nmulti_label = true\nlabels = [\"a\", \"b\", \"c\"]";
    // As scikit-learn has them, [labels, rows, 2].
    const ROWS_SECOND: &str = "kind = \"classifier\"\nscores = \"probabilities\"\nmulti_label = true\n\
                               labels = [\"a\", \"b\", \"c\"]\n[model.outputs.probabilities]\nrows = 1";
    const SEVERAL: &str = "kind = \"classifier\"\nscores = \"probabilities\"\ntop_k = 4\ntargets = [\"a\", \"b\"]";
    const ANOMALY: &str = "kind = \"anomaly\"";
    vec![
        ("ridge", REGRESSOR),
        ("forest_regressor", REGRESSOR),
        ("boosted_regressors", REGRESSOR),
        ("heads", "kind = \"regressor\"\noutputs = [\"price\", \"days\"]\ntargets = [\"a\", \"b\"]"),
        ("ovr_multi_label", MULTI_LABEL),
        ("ovr_multi_label_maps", MULTI_LABEL),
        ("mlp_multi_label", MULTI_LABEL),
        ("knn_multi_label", ROWS_SECOND),
        ("forest_multi_label", ROWS_SECOND),
        ("knn_multi_label_rows_first", MULTI_LABEL),
        ("forest_multi_label_rows_first", MULTI_LABEL),
        ("multi_output", SEVERAL),
        ("multi_output_texts", SEVERAL),
        (
            "multi_output_forests",
            "kind = \"classifier\"\nscores = \"probabilities\"\ntop_k = 4\n[[postprocess.targets]]\nname = \"b\"\n\
             output = \"probabilities2\"\n[[postprocess.targets]]\nname = \"a\"\noutput = \"probabilities1\"",
        ),
        ("forest_targets_rows_first", SEVERAL),
        ("isolation_forest", ANOMALY),
        ("isolation_forest_two_scores", "kind = \"anomaly\"\noutput = \"scores\"\nlabel_output = \"label\""),
        ("one_class_svm", ANOMALY),
        ("local_outlier_factor", ANOMALY),
    ]
}

fn toml(postprocess: &str) -> String {
    format!(
        "[model]\nworkers = 1\n[budget]\ntotal_ms = 600000\n[preprocess]\nkind = \"tensor\"\n[postprocess]\n{postprocess}\n"
    )
}

/// Runs `leeway add` in a repository. Returns its exit status and its output.
fn add(repository: &Repository, name: &str, postprocess: &str) -> (i32, String) {
    let folder = repository.0.path().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("model.toml"), toml(postprocess)).unwrap();
    let file = checkout().join(format!("tests/data/multi/{name}.onnx"));
    run(leeway(&["add"]).arg(&folder).args(["--onnx", file.to_str().unwrap()]))
}

/// An object with the scores of labels, whose order among equal scores does not matter.
fn by_label<'a>(scores: impl Iterator<Item = (&'a Value, &'a Value)>) -> Value {
    scores.map(|(label, score)| (label.to_string(), score.clone())).collect::<Map<_, _>>().into()
}

/// The prediction of the framework for a row.
fn expected(model: &Value, row: usize) -> Value {
    let named = |values: &[Value]| -> Value {
        TARGETS
            .iter()
            .zip(values)
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect::<Map<_, _>>()
            .into()
    };
    let of_row = |key: &str| model[key][row].as_array().unwrap().clone();
    if model["values"].is_array() {
        return json!({ "values": named(&of_row("values")) });
    }
    if model["scores"].is_array() {
        return json!({ "label": model["labels"][row], "score": model["scores"][row] });
    }
    if model["classes"].is_null() {
        let (labels, probabilities) = (of_row("labels"), of_row("probabilities"));
        let names = TARGETS.map(Value::from);
        let chosen = labels.iter().zip(names.iter().zip(&probabilities)).filter(|(label, _)| **label == json!(1));
        return json!({ "labels": by_label(chosen.map(|(_, score)| score)) });
    }
    let of_target = |target: usize| {
        let probabilities = model["probabilities"][target][row].as_array().unwrap();
        let most = probabilities.iter().map(|score| score.as_f64().unwrap()).fold(0.0, f64::max);
        let top = by_label(model["classes"][target].as_array().unwrap().iter().zip(probabilities));
        json!({ "label": model["labels"][row][target], "confidence": most, "top": top })
    };
    json!({ "targets": named(&[of_target(0), of_target(1)]) })
}

/// Replaces lists of labels and scores by objects.
fn plain(prediction: &Value) -> Value {
    match prediction {
        Value::Object(object) => {
            let plain = object.iter().map(|(key, value)| (key.clone(), plain(value)));
            plain.collect::<Map<_, _>>().into()
        }
        Value::Array(scores) => by_label(scores.iter().map(|score| (&score["label"], &score["score"]))),
        other => other.clone(),
    }
}

/// Every model is added as it was exported, and answers as its framework: alone, all rows together, and to sixteen
/// callers at once.
#[tokio::test(flavor = "multi_thread")]
async fn answers_are_those_of_the_framework_alone_and_at_once() {
    let (models, repository) = (golden(), Repository::new());
    for (name, postprocess) in served() {
        let (status, said) = add(&repository, name, postprocess);
        assert_eq!(status, 0, "{name}: {said}");
    }
    let app = TestApp::with(repository.config()).await;
    for (name, _) in served() {
        let model = &models[name];
        let instances = model["instances"].as_array().unwrap();
        let expected: Vec<Value> = (0..instances.len()).map(|row| expected(model, row)).collect();
        assert_eq!(expected.len(), 12);
        let path = format!("/v1/models/{name}:predict");
        let together = app.predict(&path, json!({ "instances": instances }).to_string()).await.predictions();
        for (row, (found, expected)) in together.as_array().unwrap().iter().zip(&expected).enumerate() {
            assert!(is_same(&plain(found), expected, TOLERANCE), "{name} {row}: {found}, expected {expected}");
        }
        let requests: Vec<Value> = instances.iter().map(|row| json!([row])).collect();
        ask_at_once(&app, name, &requests, ANSWERS, move |which, found| {
            assert!(is_same(&plain(&found[0]), &expected[which], TOLERANCE), "{which}: {found} {}", expected[which]);
        })
        .await;
    }
}

/// A setting that does not fit the model is found when the version is added, and the message says what to write.
#[test]
fn settings_that_do_not_fit_are_refused_with_the_right_ones() {
    const SINGLE: &str = "kind = \"classifier\"\nscores = \"probabilities\"";
    let several = |targets: &str| format!("{SINGLE}\ntargets = {targets}");
    for (name, postprocess, problem) in [
        ("ovr_multi_label", SINGLE, "multi_label = true"),
        ("ovr_multi_label_maps", SINGLE, "set multi_label = true"),
        ("mlp_multi_label", SINGLE, "set multi_label = true"),
        (
            "ovr_multi_label",
            "kind = \"classifier\"\nscores = \"logits\"\nmulti_label = true",
            "the scores are probabilities; set scores = \"probabilities\"",
        ),
        ("sigmoids", SINGLE, "but those of a row add up to "),
        ("sigmoids", SINGLE, "set multi_label = true; if the scores are no probabilities, set scores = \"logits\""),
        ("knn_multi_label_rows_first", SINGLE, "If they are [rows, labels, 2], set multi_label = true"),
        (
            "wrong_tree_multi_label",
            &format!("{SINGLE}\nmulti_label = true"),
            "of its absence and of its presence; but those of a label add up to 2, not to 1: the export is wrong",
        ),
        ("multi_output", SINGLE, "name as many targets as there are outputs, in their order"),
        (
            "multi_output",
            &several("[\"a\", \"b\", \"c\"]"),
            "the floating-point outputs probabilities1, probabilities2",
        ),
        ("multi_output", &several("[\"a\", \"a\"]"), "targets: \"a\" occurs twice"),
        (
            "multi_output_texts",
            &several("[{ name = \"a\", labels = [\"yes\", \"no\"] }, \"b\"]"),
            "target \"a\": labels: model.toml says [\"yes\", \"no\"], but the model's file says [\"no\", \"yes\"]",
        ),
        (
            "forest_targets_rows_first",
            &several("[{ name = \"a\", labels = [0, 1, 2, 3] }, \"b\"]"),
            "target \"a\": labels: model.toml says [0, 1, 2, 3], but the model's file says [0, 1]",
        ),
        (
            "forest_targets_rows_first",
            &several("[\"a\", \"b\", \"c\"]"),
            "targets: there are 3, but the output \"probabilities\" is float32[rows, 2, 4]",
        ),
        ("ridge", "kind = \"regressor\"", "name them in their order, as in targets = [\"price\", \"days\"]"),
        ("forest_regressor", "kind = \"regressor\"", "has 3 numbers per row, but one number per row was expected"),
        (
            "forest_regressor",
            "kind = \"regressor\"\ntargets = [\"a\", \"b\"]",
            "has 3 numbers per row, but 2 were expected",
        ),
        ("heads", "kind = \"regressor\"", "outputs = [\"price\", \"days\"]"),
        ("isolation_forest_two_scores", "kind = \"anomaly\"", "output: name the one with the score"),
        ("ridge", "kind = \"anomaly\"", "use kind = \"regressor\" to answer the score alone"),
        ("ovr_multi_label", "kind = \"anomaly\"", "but one number per row was expected"),
    ] {
        let (status, said) = add(&Repository::new(), name, postprocess);
        assert!(status != 0 && said.contains(problem), "{name}: {problem}: {said}");
    }
}

/// What the author has to know is said, and what the author has confirmed is not.
#[test]
fn what_is_assumed_is_said_when_a_version_is_added() {
    let check = |name: &str, postprocess: &str, expected: &[&str], not_expected: &str| {
        let (status, said) = add(&Repository::new(), name, postprocess);
        assert_eq!(status, 0, "{name}: {said}");
        expected.iter().for_each(|note| assert!(said.contains(note), "{name}: {note}: {said}"));
        assert!(not_expected.is_empty() || !said.contains(not_expected), "{name}: {said}");
    };
    const MONITORED: &str = "is monitored and compared with feedback";
    check("ridge", "kind = \"regressor\"\ntargets = [\"a\", \"b\", \"c\"]", &["only \"a\" is monitored"], "");
    check("ridge", "kind = \"regressor\"\ntargets = [\"a\", \"b\", \"c\"]\nmonitored = \"a\"", &[], MONITORED);
    check("heads", "kind = \"regressor\"\noutputs = [\"days\", \"price\"]", &["only \"days\" is monitored"], "");
    let classifier = "kind = \"classifier\"\nscores = \"probabilities\"\n";
    check(
        "multi_output_texts",
        &format!("{classifier}targets = [\"colour\", \"size\"]"),
        &[
            "the targets are those of the outputs in their order: \"probabilities1\", \"probabilities2\"",
            "target \"colour\": labels are taken from the model's file: [\"no\", \"yes\"]",
            "target \"size\": labels are taken from the model's file: [\"a\", \"b\", \"c\", \"d\"]",
            "only \"colour\" is monitored",
        ],
        "",
    );
    // Exactly one class is right, although the scores are those of independent classes.
    check("sigmoids", &format!("{classifier}multi_label = false\nlabels = [1, 2, 3]"), &[], "add up");
}

/// Feedback is about the monitored target.
#[tokio::test(flavor = "multi_thread")]
async fn one_target_is_monitored_and_compared_with_feedback() {
    let (models, repository) = (golden(), Repository::new());
    let classifier = "kind = \"classifier\"\nscores = \"probabilities\"\ntargets = [\"a\", \"b\"]\nmonitored = \"b\"";
    for (name, postprocess) in [
        ("ridge", "kind = \"regressor\"\ntargets = [\"a\", \"b\", \"c\"]\nmonitored = \"b\""),
        ("multi_output_texts", classifier),
        ("one_class_svm", "kind = \"anomaly\""),
    ] {
        assert_eq!(add(&repository, name, postprocess).0, 0);
    }
    let app = TestApp::with(repository.config()).await;
    let ids = async |name: &str| {
        let body = json!({ "instances": models[name]["instances"] }).to_string();
        let answer = app.predict(&format!("/v1/models/{name}:predict"), body).await;
        answer.json()["prediction_ids"].as_array().unwrap().clone()
    };
    let (numbers, classes, scores) = (ids("ridge").await, ids("multi_output_texts").await, ids("one_class_svm").await);
    // The label "c" is one of the target "b", and "yes" is one of "a".
    let feedback = json!([
        { "prediction_id": numbers[0], "value": models["ridge"]["values"][0][1].as_f64().unwrap() + 0.5 },
        { "prediction_id": numbers[1], "label": "a" },
        { "prediction_id": classes[0], "label": models["multi_output_texts"]["labels"][0][1] },
        { "prediction_id": classes[1], "label": "yes" },
        { "prediction_id": scores[0], "value": models["one_class_svm"]["scores"][0] },
    ]);
    let taken = app.predict("/feedback", json!({ "feedback": feedback }).to_string()).await.json();
    assert_eq!((&taken["results"]["joined"], &taken["results"]["invalid"]), (&json!(3), &json!(2)), "{taken}");
    let metric = async |name: &str, model: &str| {
        let labels = format!("model=\"{model}\",version=\"1\"");
        app.metric(&format!("{name}{{{labels}}}")).await
    };
    assert!((metric("leeway_outcome_mae", "ridge").await - 0.5).abs() < TOLERANCE);
    assert_eq!(metric("leeway_outcome_accuracy", "multi_output_texts").await, 1.0);
}
