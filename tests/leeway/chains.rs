//! Chains of models: equal to their steps by hand (`tests/data/make_chain_models.py`), one deadline over all steps, errors
//! that name the step, times by step, and chains that cannot be served. `chain_limits.rs` has their limits.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use leeway::pipeline::Stages;
use serde_json::{Value, json};

use crate::harness::{
    Answer, HookedEngine, PLAIN, Repository, TestApp, checkout, copy_folder, is_same, leeway, run, runtime, until,
};

const PATIENT: &str = "[budget]\ntotal_ms = 600000\n";

pub(crate) fn golden() -> Value {
    let text = std::fs::read_to_string(checkout().join("tests/data/chains/chains.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn file(name: &str) -> PathBuf {
    checkout().join(format!("tests/data/chains/{name}.onnx"))
}

/// A chain is a folder with a `model.toml`, and nothing else.
pub(crate) fn with_chain(repository: Repository, name: &str, steps: &str) -> Repository {
    std::fs::create_dir_all(repository.path().join(name)).unwrap();
    repository.with_config(name, &format!("{steps}\n{PATIENT}"))
}

/// A detector of coloured parts of an image, and a classifier of colours.
pub(crate) fn images() -> Repository {
    let (stages, rest) =
        ("[preprocess]\nkind = \"image\"\n[postprocess]\n", format!("{PATIENT}[model]\nworkers = 1\n"));
    let detector = format!("{stages}kind = \"detector\"\nlayout = \"yolov8\"\nlabels = [\"blob\"]\n{rest}");
    let labels = "labels = [\"red\", \"green\", \"blue\"]\ntop_k = 1\n";
    let classifier = format!("{stages}kind = \"classifier\"\nscores = \"logits\"\n{labels}{rest}");
    Repository::new()
        .with_version("blobs", 1, &file("blobs"), &[])
        .with_config("blobs", &detector)
        .with_version("colours", 1, &file("colours"), &[])
        .with_config("colours", &classifier)
}

/// The transformer of the tests, and a classifier on its vectors.
pub(crate) fn texts() -> Repository {
    let repository = Repository::new().with_version("topics", 1, &file("topics"), &[]).with_config(
        "topics",
        &format!(
            "[preprocess]\nkind = \"tensor\"\n[postprocess]\nkind = \"classifier\"\nscores = \"logits\"\ntop_k = 4\n\
             labels = [\"a\", \"b\", \"c\", \"d\"]\n{PATIENT}[model]\nworkers = 1\n"
        ),
    );
    let sentences = checkout().join("tests/data/text/sentences");
    copy_folder(&sentences.join("1"), &repository.version("sentences", 1));
    let settings = std::fs::read_to_string(sentences.join("model.toml")).unwrap();
    repository.with_config("sentences", &settings.replace("total_ms = 1000", "total_ms = 600000"))
}

pub(crate) const LOOK: &str = "[[steps]]\nname = \"detect\"\nmodel = \"blobs\"\n\
    [[steps]]\nname = \"classify\"\nmodel = \"colours\"\ncrop = \"detect\"\n";

pub(crate) const TAG: &str = "[[steps]]\nname = \"embed\"\nmodel = \"sentences\"\n\
    [[steps]]\nmodel = \"topics\"\ninput = \"embed.embedding\"\n";

/// The instances of a request with these images.
pub(crate) fn with_images(images: &[&Value]) -> String {
    let instances: Vec<Value> = images.iter().map(|image| json!({ "b64": image })).collect();
    json!({ "instances": instances }).to_string()
}

/// Returns the objects of an image as the chain answers them, from those of the reference.
fn expected(found: &Value) -> Value {
    let detection = |found: &Value| {
        let crop = &found["crop"];
        let top = json!([{ "label": crop["label"], "score": crop["confidence"] }]);
        json!({
            "label": "blob", "score": found["score"], "box": found["box"],
            "prediction": { "label": crop["label"], "confidence": crop["confidence"], "top": top },
        })
    };
    json!({ "detections": found.as_array().unwrap().iter().map(detection).collect::<Vec<_>>() })
}

fn same(found: &Value, expected: &Value) {
    // Resizing may round a level of 255 differently, and the weights of the classifier multiply the difference.
    assert!(is_same(found, expected, 5e-3), "found {found:#}\nexpected {expected:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn detected_crops_are_classified_as_by_hand() {
    let repository = with_chain(images(), "look", &format!("description = \"Colours of blobs\"\n{LOOK}"));
    let repository = with_chain(repository, "wide", &format!("answer = \"all\"\n{LOOK}margin = 0.25\n"));
    let repository = with_chain(repository, "one", &format!("{LOOK}max_crops = 1\n"));
    let (app, golden) = (TestApp::with(repository.config()).await, golden());
    let (images, found) = (&golden["images"], &golden["detections"]);
    let all = with_images(&[&images[0], &images[1], &images[2]]);

    let answer = app.predict("/v1/models/look:predict", all.clone()).await;
    let predictions = answer.predictions();
    (0..3).for_each(|image| same(&predictions[image], &expected(&found["0.0"][image])));
    assert_eq!((answer.header("x-model-version"), &answer.json()["model"]["name"]), ("1", &json!("look")));

    // The same steps through the server: the detector, and each crop of the reference.
    let detected = app.predict("/v1/models/blobs:predict", all.clone()).await.predictions();
    for image in 0..3 {
        let boxes = |answer: &Value| -> Vec<Value> {
            answer["detections"].as_array().unwrap().iter().map(|found| found["box"].clone()).collect()
        };
        assert_eq!(boxes(&detected[image]), boxes(&predictions[image]));
    }

    // With a margin, and the predictions of all steps.
    let predictions = app.predict("/v1/models/wide:predict", all.clone()).await.predictions();
    for image in 0..3 {
        assert_eq!(predictions[image]["detect"], detected[image]);
        same(&predictions[image]["classify"], &expected(&found["0.25"][image]));
    }
    let first = app.predict("/v1/models/one:predict", all).await.predictions();
    assert_eq!(first[0]["detections"].as_array().unwrap().len(), 1);

    // The bytes of one image.
    let png = STANDARD.decode(images[0].as_str().unwrap()).unwrap();
    let request = app.client.post(app.url("/v1/models/look:predict")).header("content-type", "image/png").body(png);
    let answer = Answer::of(request.send().await.unwrap()).await;
    same(&answer.predictions()[0], &expected(&found["0.0"][0]));

    // An image without objects does not reach the classifier.
    let nothing = app.predict("/v1/models/look:predict", with_images(&[&images[2]])).await;
    assert_eq!(nothing.predictions(), json!([{ "detections": [] }]));
    assert!(nothing.header("server-timing").contains("classify;desc=\"version 1\";dur=0.000"));
    let requests = "leeway_requests_total{model=\"colours\",version=\"1\",outcome=\"ok\"}";
    assert_eq!(app.metric(requests).await, 4.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_texts_are_classified_as_by_hand() {
    let repository = with_chain(texts(), "tag", TAG);
    let mut config = repository.config();
    config.repository.default_model = Some("tag".parse().unwrap());
    let (app, golden) = (TestApp::with(config).await, golden());
    let texts = golden["texts"].as_array().unwrap();
    let instances: Vec<&Value> = texts.iter().map(|text| &text["text"]).collect();
    let answer = app.predict("/predict", json!({ "instances": instances }).to_string()).await;
    let (predictions, labels) = (answer.predictions(), ["a", "b", "c", "d"]);
    for (found, text) in predictions.as_array().unwrap().iter().zip(texts) {
        let topic = text["topic"].as_u64().unwrap() as usize;
        assert_eq!(found["label"], labels[topic], "{text}");
        let score = &text["scores"][topic];
        assert!(is_same(&found["confidence"], score, 1e-3), "{found} {score}");
    }

    // By hand through the server: the same numbers.
    let vectors = app.predict("/v1/models/sentences:predict", json!({ "instances": instances }).to_string()).await;
    let vectors: Vec<Value> =
        vectors.predictions().as_array().unwrap().iter().map(|found| found["embedding"].clone()).collect();
    let by_hand = app.predict("/v1/models/topics:predict", json!({ "instances": vectors }).to_string()).await;
    assert!(is_same(&predictions, &by_hand.predictions(), 1e-5));

    // As a column, over the Open Inference Protocol.
    let metadata = app.get("/v2/models/tag").await.json();
    assert_eq!(metadata["platform"], "ensemble");
    let input =
        json!({ "name": metadata["inputs"][0]["name"], "datatype": "BYTES", "shape": [1], "data": [instances[0]] });
    let answer = app.predict("/v2/models/tag/infer", json!({ "inputs": [input] }).to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let label = answer.json()["outputs"].as_array().unwrap().iter().find(|output| output["name"] == "label").cloned();
    assert_eq!(label.unwrap()["data"], json!([predictions[0]["label"]]));
    let wrong = json!({ "name": "vector", "datatype": "FP32", "shape": [1, 2], "data": [1, 2] });
    let answer = app.predict("/v2/models/tag/infer", json!({ "inputs": [wrong] }).to_string()).await;
    assert_eq!(answer.status, 400, "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_has_its_own_metrics_timings_and_prediction_ids() {
    let app = TestApp::with(with_chain(texts(), "tag", TAG).config()).await;
    let body = json!({ "instances": [golden()["texts"][0]["text"]] }).to_string();
    let answer = app.predict("/v1/models/tag:predict", body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let timing = answer.header("server-timing").to_owned();
    let timing = |name: &str| {
        let entry = timing.split(", ").find(|entry| entry.split(';').next() == Some(name));
        let duration = entry.unwrap_or_else(|| panic!("{timing}: {name}")).rsplit("dur=").next().unwrap();
        duration.parse::<f64>().unwrap()
    };
    for stage in ["pre", "queue", "infer", "post"] {
        // The chain's own part of a stage is not negative; three decimals are rounded.
        let steps = timing(&format!("embed.{stage}")) + timing(&format!("topics.{stage}"));
        assert!(timing(stage) + 0.01 >= steps, "{stage}");
    }
    assert!(timing("embed.infer") > 0.0 && timing("topics") > 0.0);
    for step in ["embed", "topics"] {
        let of_step = format!("model=\"tag\",version=\"1\",step=\"{step}\"");
        assert_eq!(app.metric(&format!("leeway_step_requests_total{{{of_step},outcome=\"answered\"}}")).await, 1.0);
        assert!(app.metric(&format!("leeway_step_seconds_total{{{of_step},stage=\"inference\"}}")).await > 0.0);
    }
    // Each step is a request to its model.
    for model in ["tag", "sentences", "topics"] {
        let of_model = format!("model=\"{model}\",version=\"1\"");
        assert_eq!(app.metric(&format!("leeway_requests_total{{{of_model},outcome=\"ok\"}}")).await, 1.0);
        let runs = format!("leeway_stage_duration_seconds_count{{{of_model},stage=\"inference\"}}");
        assert_eq!(app.metric(&runs).await, 1.0);
    }
    // The outcome belongs to the model that made the prediction.
    let feedback = json!({ "feedback": [{ "prediction_id": answer.json()["prediction_ids"][0], "label": "a" }] });
    let taken = app.predict("/feedback", feedback.to_string()).await.json();
    assert_eq!(taken["results"]["joined"], 1, "{taken}");
    let drift = app.admin_get("/admin/v1/models/topics/drift").await;
    assert_eq!(drift.status, 200, "{}", drift.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_is_described_like_a_model() {
    let repository = with_chain(
        with_chain(texts(), "tag", TAG),
        "parts",
        &TAG.replace("model = \"sentences\"", "model = \"sentences\"\ninput = \"request.text\""),
    );
    let app = TestApp::with(repository.config()).await;
    let text = &golden()["texts"][0]["text"];
    for (model, instance) in [("tag", text.clone()), ("parts", json!({ "text": text }))] {
        let schema = app.get(&format!("/v1/models/{model}/schema")).await.json();
        assert!(jsonschema::is_valid(&schema["instance"], &instance), "{schema}");
        let body = json!({ "instances": [instance] }).to_string();
        let answer = app.predict(&format!("/v1/models/{model}:predict"), body).await;
        let prediction = answer.predictions()[0].clone();
        assert!(jsonschema::is_valid(&schema["prediction"], &prediction), "{schema} {prediction}");
        assert!(!jsonschema::is_valid(&schema["instance"], &json!([1])), "{schema}");
        assert!(!jsonschema::is_valid(&schema["prediction"], &json!({ "embedding": [] })), "{schema}");
    }
    let view = app.get("/v1/models/tag").await.json();
    assert_eq!(view["ready"], true);
    let steps = json!([{ "name": "embed", "model": "sentences" }, { "name": "topics", "model": "topics" }]);
    assert_eq!(view["versions"][0]["steps"], steps);
    let document = app.get("/openapi.json").await.json();
    assert!(document["paths"]["/v1/models/tag:predict"].is_object());
    let status = app.admin_get("/admin/v1/models/tag").await.json();
    assert_eq!(status["versions"][0]["remarks"], json!(["a chain of the steps embed (sentences), topics (topics)"]));
    assert_eq!(app.get("/v1/models/tag/metadata").await.status, 200);
    assert_eq!(app.get("/v2/models/tag/config").await.json()["backend"], "ensemble");
    assert_eq!(app.get("/v2/models/tag/ready").await.status, 200);
    assert_eq!(app.get("/v2/models/tag/stats").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_fails_names_itself() {
    let steps = "[[steps]]\nmodel = \"echo_float32\"\n[[steps]]\nmodel = \"log\"\ninput = \"echo_float32\"\n";
    let repository = Repository::of("echo_float32").with("log", 1, "log", PLAIN);
    let app = TestApp::with(with_chain(repository, "logs", steps).config()).await;
    let ask = |instances: &str| app.predict("/v1/models/logs:predict", format!("{{\"instances\": {instances}}}"));
    same(&ask("[[1.0, 1.0]]").await.predictions(), &json!([[0.0, 0.0]]));
    let failed = ask("[[-1.0, 1.0]]").await;
    assert_eq!((failed.status, &failed.json()["type"]), (500, &json!("urn:leeway:problem:non-finite-output")));
    let detail = failed.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.starts_with("steps[1] (log): the model's output \"y\" is not a finite number"), "{detail}");
    for (instances, detail) in [
        ("[[1.0]]", "steps[0] (echo_float32): instances[0]"),
        ("[[1.0, \"a\"]]", "steps[0] (echo_float32): instances[0][1]"),
        ("[]", "instances: the list is empty"),
        ("{}", "instances: expected an array"),
    ] {
        let refused = ask(instances).await;
        assert_eq!(refused.status, 400, "{}", refused.text);
        assert!(refused.json()["detail"].as_str().unwrap().starts_with(detail), "{}", refused.text);
    }
    let of_step = "model=\"logs\",version=\"1\",step=\"log\"";
    assert_eq!(app.metric(&format!("leeway_step_requests_total{{{of_step},outcome=\"failed\"}}")).await, 1.0);
    for model in ["logs", "log"] {
        let outcome = format!("leeway_requests_total{{model=\"{model}\",version=\"1\",outcome=\"model_error\"}}");
        assert_eq!(app.metric(&outcome).await, 1.0);
    }
}

/// The budgets of the steps are ten minutes each.
#[tokio::test(flavor = "multi_thread")]
async fn one_deadline_is_over_all_steps() {
    let steps = "[[steps]]\nmodel = \"echo_float32\"\ninput = \"request.numbers\"\n\
        [[steps]]\nmodel = \"work\"\ninput = \"request.rounds\"\n[budget]\ntotal_ms = 2000\n";
    let repository = Repository::of("echo_float32").with("work", 1, "work", PLAIN);
    std::fs::create_dir_all(repository.path().join("chain")).unwrap();
    let app = TestApp::with(repository.with_config("chain", steps).config()).await;
    let ask = |rounds: u32| {
        let body = json!({ "instances": [{ "numbers": [1.0, 2.0], "rounds": rounds }] }).to_string();
        app.predict("/v1/models/chain:predict", body)
    };
    assert_eq!(ask(1).await.status, 200);
    let late = ask(100_000_000).await;
    assert_eq!((late.status, &late.json()["type"]), (504, &json!("urn:leeway:problem:expired")), "{}", late.text);
    let detail = late.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.starts_with("steps[1] (work): time ran out during inference"), "{detail}");
    for model in ["chain", "work"] {
        let expired = format!("leeway_requests_total{{model=\"{model}\",version=\"1\",outcome=\"expired\"}}");
        app.metric_becomes(&expired, 1.0).await;
    }
}

/// Number of runs of the slow models.
static RUNS: AtomicUsize = AtomicUsize::new(0);

/// A run takes 60 ms. Two do not fit into 90 ms, which is known before the first one.
#[tokio::test(flavor = "multi_thread")]
async fn a_chain_is_refused_early_if_its_steps_together_take_too_long() {
    let steps = |second: &str, total_ms: u32| {
        format!(
            "[[steps]]\nmodel = \"echo_float32\"\n[[steps]]\nmodel = \"plus\"\ninput = \"{second}\"\n[budget]\n\
             total_ms = {total_ms}\nnetwork_ms = 0\npreprocess_ms = 0\ninference_ms = 50\npostprocess_ms = 0\n"
        )
    };
    let repository = Repository::of("echo_float32").with("plus", 1, "plus_1", PLAIN);
    for (name, total_ms) in [("short", 90), ("long", 60_000)] {
        std::fs::create_dir_all(repository.path().join(name)).unwrap();
        std::fs::write(repository.path().join(name).join("model.toml"), steps("echo_float32", total_ms)).unwrap();
    }
    let engine = HookedEngine {
        engine: runtime(),
        before_run: |_| {
            RUNS.fetch_add(1, Relaxed);
            std::thread::sleep(Duration::from_millis(60));
        },
    };
    let app = TestApp::with_parts(repository.config(), Arc::new(engine), Stages::default()).await;
    let (before, body) = (RUNS.load(Relaxed), json!({ "instances": [[1.0, 2.0]] }).to_string());
    let refused = app.predict("/v1/models/short:predict", body.clone()).await;
    assert_eq!(
        (refused.status, &refused.json()["type"]),
        (503, &json!("urn:leeway:problem:overloaded")),
        "{}",
        refused.text
    );
    assert!(refused.json()["detail"].as_str().unwrap().starts_with("steps[0] (echo_float32): "), "{}", refused.text);
    assert_eq!(RUNS.load(Relaxed), before);
    assert_eq!(app.predict("/v1/models/long:predict", body).await.predictions(), json!([[2.0, 3.0]]));
    assert_eq!(RUNS.load(Relaxed), before + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn chains_that_cannot_run_say_what_to_change() {
    let step = |model: &str, rest: &str| format!("[[steps]]\nmodel = \"{model}\"\n{rest}");
    let (embed, detect) = (step("sentences", ""), step("blobs", ""));
    let chains = [
        ("missing", step("nothing", ""), "steps[0] (nothing): there is no model nothing; served are: "),
        ("itself", step("itself", ""), "steps[0] (itself): a chain cannot run itself"),
        (
            "one_of_two",
            step("other_of_two", ""),
            "steps[0] (other_of_two): model other_of_two is a chain itself, and chains do not run chains; name its steps here",
        ),
        ("other_of_two", step("one_of_two", ""), "steps[0] (one_of_two): model one_of_two is a chain itself"),
        ("version", step("topics", "version = 7\n"), "version 7 of model topics is not loaded (loaded: 1)"),
        (
            "member",
            format!("{embed}{}", step("topics", "input = \"sentences.vector\"\n")),
            "steps[1] (topics): input: sentences.vector: its prediction has no member \"vector\"; it has: embedding",
        ),
        (
            "kind",
            format!("{embed}{}", step("topics", "input = \"sentences\"\n")),
            "steps[1] (topics): input: sentences: it is an object, and an array is expected (model topics version 1)",
        ),
        (
            "length",
            format!("{embed}{}", step("log", "input = \"sentences.embedding\"\n")),
            "steps[1] (log): input: sentences.embedding: it has 32 values, and 2 are expected",
        ),
        (
            "boxes",
            format!("{embed}{}", step("colours", "crop = \"sentences\"\n")),
            "steps[1] (colours): crop: the instances of model sentences version 1 are not images",
        ),
        (
            "crops",
            format!("{detect}{}", step("topics", "crop = \"blobs\"\n")),
            "steps[1] (topics): crop: the instances of this model are not images",
        ),
        (
            "request",
            format!("{detect}{}", step("sentences", "input = \"request\"\n")),
            "steps[1] (sentences): input: request: step blobs takes the same value, and it is an object, and a string is expected",
        ),
    ];
    let mut repository = texts().with("log", 1, "log", PLAIN);
    for model in ["blobs", "colours"] {
        copy_folder(&images().path().join(model).join("1"), &repository.version(model, 1));
        let settings = std::fs::read_to_string(images().path().join(model).join("model.toml")).unwrap();
        repository = repository.with_config(model, &settings);
    }
    for (name, steps, _) in &chains {
        repository = with_chain(repository, name, steps);
    }
    let app = TestApp::with(repository.config()).await;
    for (name, _, problem) in &chains {
        let view = app.get(&format!("/v1/models/{name}")).await.json();
        assert_eq!(view["ready"], false, "{name}: {view}");
        assert!(view["reason"].as_str().unwrap().contains(problem), "{name}: {view}");
        let refused = app.predict(&format!("/v1/models/{name}:predict"), "{\"instances\": [1]}").await;
        assert_eq!(refused.status, 503, "{name}: {}", refused.text);
        let status = app.admin_get(&format!("/admin/v1/models/{name}")).await.json();
        assert!(status["unserved"].as_str().unwrap().contains(problem), "{name}: {status}");
    }
    // The other models are served.
    assert_eq!(app.get("/v1/models/topics").await.json()["ready"], true);
}

/// Steps follow the traffic of their models, and a chain takes all of its versions from one snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_of_a_step_drops_no_request() {
    let step = |model: &str, rest: &str| format!("[[steps]]\nmodel = \"{model}\"\n{rest}");
    let steps = step("echo_float32", "") + &step("plus", "input = \"echo_float32\"\n");
    let repository = Repository::of("echo_float32").with("plus", 1, "plus_1", PLAIN);
    repository.add("plus", 2, "plus_2");
    let pinned = steps.clone() + "version = 1\n";
    let repository = with_chain(with_chain(repository, "chain", &steps), "pinned", &pinned);
    let mut config = repository.config();
    config.repository.newest_versions = 0;
    let app = TestApp::with(config).await;
    let body = json!({ "instances": [[1.0, 2.0]] }).to_string();
    let of = async |chain: &str| app.predict(&format!("/v1/models/{chain}:predict"), body.clone()).await.predictions();
    let with_version = |version: f64| json!([[1.0 + version, 2.0 + version]]);
    // Version 1 has no traffic, and is kept because a chain names it.
    assert_eq!((of("chain").await, of("pinned").await), (with_version(2.0), with_version(1.0)));
    let promote = async |version: u32| {
        let answer = app.admin_post("/admin/v1/models/plus/promote", json!({ "version": version })).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    };
    let changes = async {
        for version in [1, 2, 1, 2, 1] {
            promote(version).await;
        }
    };
    let requests = async {
        for _ in 0..200 {
            let found = of("chain").await;
            assert!(found == with_version(1.0) || found == with_version(2.0), "{found}");
        }
    };
    tokio::join!(changes, requests);
    assert_eq!((of("chain").await, of("pinned").await), (with_version(1.0), with_version(1.0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_is_served_while_its_steps_are() {
    let steps = "[[steps]]\nmodel = \"plus\"\n[[steps]]\nname = \"again\"\nmodel = \"plus\"\ninput = \"plus\"\n";
    let repository = with_chain(Repository::new().with("plus", 1, "plus_1", PLAIN), "chain", steps);
    let app = TestApp::with(repository.config()).await;
    let ask = || app.predict("/v1/models/chain:predict", json!({ "instances": [[1.0, 2.0]] }).to_string());
    assert_eq!(ask().await.predictions(), json!([[3.0, 4.0]]));
    assert_eq!(app.admin_post("/v2/repository/models/plus/unload", json!({})).await.status, 200);
    let refused = ask().await;
    let reason =
        "model chain is not served now: steps[0] (plus): model plus is not served: an operator has unloaded it";
    assert_eq!(refused.status, 503);
    assert!(refused.json()["detail"].as_str().unwrap().starts_with(reason), "{}", refused.text);
    assert_eq!(app.get("/v2/models/chain/ready").await.status, 503);
    assert_eq!(app.admin_post("/v2/repository/models/plus/load", json!({})).await.status, 200);
    assert_eq!(ask().await.predictions(), json!([[3.0, 4.0]]));

    // Changed steps are taken over; their digest is that of the settings.
    let digest = async || app.get("/v1/models/chain").await.json()["versions"][0]["sha256"].clone();
    let before = digest().await;
    let more = format!("{steps}[[steps]]\nname = \"third\"\nmodel = \"plus\"\ninput = \"again\"\n{PATIENT}");
    std::fs::write(repository.path().join("chain/model.toml"), more).unwrap();
    assert_eq!(app.admin_post("/admin/v1/reload", json!({})).await.status, 200);
    until(async || (ask().await.predictions() == json!([[4.0, 5.0]])).then_some(())).await;
    assert_ne!(digest().await, before);
}

#[test]
fn the_command_line_knows_chains() {
    let steps = "[[steps]]\nmodel = \"plus\"\n[[steps]]\nname = \"again\"\nmodel = \"plus\"\ninput = \"plus\"\n";
    let repository = with_chain(Repository::new().with("plus", 1, "plus_1", PLAIN), "chain", steps);
    let models = repository.path().to_str().unwrap().to_owned();
    let check = || run(&mut leeway(&["check", "--models", &models]));
    let (status, said) = check();
    assert_eq!(status, 0, "{said}");
    assert!(said.contains("It is a chain of the steps plus (plus), again (plus)."), "{said}");
    let folder = repository.path().join("chain");
    let onnx = checkout().join("tests/data/models/plus_1.onnx");
    let (status, said) = run(leeway(&["add"]).arg(&folder).args(["--onnx", onnx.to_str().unwrap()]));
    assert!(status != 0 && said.contains("a chain with [[steps]] has no files of its own"), "{said}");
    for (steps, problem) in [
        (
            steps.replace("model = \"plus\"\ninput", "model = \"gone\"\ninput"),
            "steps[1] (again): there is no model gone; served are: plus",
        ),
        (
            steps.replace("input = \"plus\"", "input = \"gone\""),
            "steps[1] (again): input: \"gone\" begins with no earlier step",
        ),
        (format!("{steps}[preprocess]\nkind = \"tensor\"\n"), "a chain has no [preprocess]"),
        (format!("{steps}[model]\nworkers = 2\n"), "a chain has no [model]"),
    ] {
        std::fs::write(folder.join("model.toml"), steps).unwrap();
        let (status, said) = check();
        assert!(status != 0 && said.contains(problem), "{said}");
    }
    // A folder of a version beside the steps.
    std::fs::write(folder.join("model.toml"), steps).unwrap();
    copy_folder(&repository.version("plus", 1), &folder.join("1"));
    let (status, said) = check();
    assert!(
        status != 0 && said.contains("a chain has no files, and is always version 1; move the folder 1 away"),
        "{said}"
    );
}
