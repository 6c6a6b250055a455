//! No path in a model reaches a file: all external weights come from the version's own verified bytes.

use std::path::Path;

use leeway::registry::Trial;
use leeway::repository::{Manifest, VerifiedVersion};
use serde_json::json;

use crate::harness::{PLAIN, Repository, Server, TestApp, checkout, client, copy_folder, trial};

/// All places of tensors in a model (`tests/data/make_external_models.py`).
const PLACES: [&str; 12] = [
    "initializer",
    "constant",
    "sparse_initializer",
    "sparse_constant",
    "branch",
    "branch_constant",
    "nested_branch",
    "loop",
    "scan",
    "function_constant",
    "function_branch",
    "fill",
];

/// Adds a version whose weights are in a file with the same name as one in the working directory.
fn add(repository: &Repository, model: &str, weights: &[u8]) {
    let folder = repository.0.path().join(model).join("1");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.with_file_name("model.toml"), PLAIN).unwrap();
    let file = checkout().join(format!("tests/data/external/{model}.onnx"));
    std::fs::copy(file, folder.join("model.onnx")).unwrap();
    std::fs::write(folder.join("Cargo.toml"), weights).unwrap();
    Manifest::write_for(&folder).unwrap();
}

fn weights() -> Vec<u8> {
    std::fs::read(checkout().join("tests/data/external/weights.bin")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_are_those_of_the_version_wherever_they_stand_in_the_model() {
    assert!(Path::new("Cargo.toml").exists(), "the working directory has no file that could be read instead");
    let repository = Repository::new();
    PLACES.iter().for_each(|model| add(&repository, model, &weights()));
    let app = TestApp::with(repository.config()).await;
    for model in PLACES {
        let answer = app.predict(&format!("/v1/models/{model}:predict"), r#"{"instances": [[0, 0], [1, 1]]}"#).await;
        assert_eq!(answer.predictions(), json!([[1.5, -2.0], [2.5, -1.0]]), "{model}");
    }
}

/// A weight with an ambiguous location is refused.
#[test]
fn weights_that_are_not_clearly_in_the_version_are_refused() {
    for (model, problem) in [
        ("wrong_two_locations", "which is not a file of this version"),
        ("wrong_beyond_the_end", "has 8 bytes from 12 on in \"Cargo.toml\", which has 12"),
        ("wrong_length", "has 8 bytes by its shape and type, and 4 by its external data"),
        ("wrong_offset", "has \"-4\" as the offset of its data"),
        ("wrong_no_location", "does not say in which file its data are"),
        ("wrong_texts", "is of a type (8) that cannot be kept in another file"),
        ("wrong_shape", "has an impossible shape: [-1, 2]"),
        ("wrong_huge_shape", "has an impossible shape: [1099511627776, 1099511627776]"),
        ("wrong_outside", "which is not a path within the version"),
        ("wrong_absolute", "which is not a path within the version"),
        ("wrong_address", "which is not a path within the version"),
        ("wrong_long", "www…\", which is not a path within the version"),
        ("wrong_both", "has data both in another file and in the model"),
        ("wrong_part_twice", "a field that may occur only once occurs twice"),
    ] {
        let repository = Repository::new();
        add(&repository, model, &weights());
        let refusal = VerifiedVersion::read(&repository.0.path().join(model).join("1")).unwrap_err();
        assert!(refusal.message.contains(problem), "{model}: {refusal}");
        assert!(refusal.message.len() < 500, "{model}: {refusal}");
    }
    // Two locations, both of which are files of the version.
    let repository = Repository::new();
    add(&repository, "wrong_two_locations", &weights());
    let folder = repository.0.path().join("wrong_two_locations/1");
    std::fs::write(folder.join("other.bin"), weights()).unwrap();
    Manifest::write_for(&folder).unwrap();
    let refusal = VerifiedVersion::read(&folder).unwrap_err();
    assert!(refusal.message.contains("names the location of its data twice"), "{refusal}");
}

/// A model may claim weights larger than any memory, by using the same bytes again and again.
#[test]
fn weights_that_are_used_over_and_over_do_not_take_more_than_a_model_may_have() {
    let repository = Repository::new();
    let folder = repository.0.path().join("bomb/1");
    copy_folder(&checkout().join("tests/data/external"), &folder);
    std::fs::copy(folder.join("repeated.onnx"), folder.join("model.onnx")).unwrap();
    let weights = std::fs::File::create(folder.join("weights.bin")).unwrap();
    weights.set_len(1 << 24).unwrap();
    Manifest::write_for(&folder).unwrap();
    let refusal = VerifiedVersion::read(&folder).unwrap_err();
    assert!(refusal.message.contains("ONNX has a limit of 2147483647"), "{refusal}");
}

/// Without a trial, or if a trial succeeded by chance, the server's own first runs have a limit, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_hangs_in_its_first_run_holds_up_nobody() {
    let repository = Repository::new().with("plus", 1, "plus_1", PLAIN);
    let mut config = repository.config();
    config.loading.trial_timeout_ms = 5_000.try_into().unwrap();
    let app = TestApp::with(config).await;
    for name in ["endless", "endless_too"] {
        repository.add(name, 1, "endless");
        std::fs::write(repository.0.path().join(name).join("model.toml"), PLAIN).unwrap();
    }
    repository.add("plus", 2, "plus_2");
    let overview = app.admin_post("/admin/v1/reload", json!({})).await.json();
    for model in overview["models"].as_array().unwrap() {
        let (name, version) = (model["model"].as_str().unwrap(), &model["versions"][0]);
        match name {
            "plus" => assert_eq!(version["state"], "loaded", "{version}"),
            _ => {
                assert_eq!((&version["state"], &version["fault"]), (&json!("refused"), &json!("trial")), "{version}");
                let problem = version["problem"].as_str().unwrap();
                assert!(problem.contains("did not finish within 5000 ms"), "{problem}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn threads_for_which_there_is_no_room_are_refused_before_one_is_started() {
    let repository = Repository::new().with("plus", 1, "plus_1", PLAIN).with("other", 1, "plus_2", PLAIN);
    let app = TestApp::with(repository.config()).await;
    let many = PLAIN.replace("workers = 1", "workers = 256\nintra_op_threads = 64");
    std::fs::write(repository.0.path().join("plus/model.toml"), many).unwrap();
    repository.add("other", 2, "plus_1");
    let overview = app.admin_post("/admin/v1/reload", json!({})).await.json();
    assert_eq!(overview["models"][0]["versions"][0]["state"], "loaded", "{overview}");
    let text = overview["models"][1].to_string();
    assert!(text.contains("make 16384 threads; at most"), "{text}");
    let answer = app.predict("/v1/models/plus:predict", r#"{"instances": [[0, 0]]}"#).await;
    assert_eq!(answer.predictions(), json!([[1.0, 1.0]]));
}

/// A valid model whose memory grows with the square of the row length: a request of 80 KB would take gigabytes.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_would_take_all_memory_are_refused_by_their_length() {
    let repository = Repository::new().with("attention", 1, "attention", PLAIN);
    let config = repository.config();
    let trial = Trial { memory: Some(700 << 20), ..trial(&config) };
    let app = TestApp::with_trial(config, trial).await;
    let ask =
        async |length: usize| app.predict("/predict", json!({ "instances": [vec![1; length]] }).to_string()).await;
    assert_eq!(ask(64).await.predictions(), json!([[1.0 / 64.0]]));
    assert_eq!(ask(1024).await.predictions(), json!([[1.0 / 1024.0]]));
    let refused = ask(40_000).await;
    assert_eq!(refused.status, 400, "{}", refused.text);
    let detail = refused.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.starts_with("instances: each has 40000 elements, but at most "), "{detail}");
    assert!(detail.contains("model.max_batch_elements sets another limit"), "{detail}");
}

/// Without a trial, the maximum length of rows is not known.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_model_that_was_not_tried_have_a_default_bound() {
    let repository = Repository::new().with("attention", 1, "attention", PLAIN).with(
        "configured",
        1,
        "attention",
        &format!("{PLAIN}max_batch_elements = 5000\n"),
    );
    let app = TestApp::with(repository.config()).await;
    for (model, most) in [("attention", 4096), ("configured", 5000)] {
        let path = format!("/v1/models/{model}:predict");
        let ask = async |length: usize| app.predict(&path, json!({ "instances": [vec![1; length]] }).to_string()).await;
        assert_eq!(ask(most).await.status, 200, "{model}");
        assert_eq!(ask(most + 1).await.status, 400, "{model}");
    }
}

/// A field of a message of Protocol Buffers.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut length = content.len();
    while length > 0x7f {
        bytes.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    [&bytes, content].concat()
}

/// A model that copies its input, floats of a shape `[N, length]`, into outputs of these names. The length is encoded.
fn copies(names: &[String], length: &[u8]) -> Vec<u8> {
    let dims = [field(1, &field(2, b"N")), field(1, &[&[0x08][..], length].concat())].concat();
    let floats = field(2, &field(1, &[vec![0x08, 1], field(2, &dims)].concat()));
    let value = |name: &str| [field(1, name.as_bytes()), floats.clone()].concat();
    let mut graph = [field(2, b"g"), field(11, &value("x"))].concat();
    for name in names {
        let node = [field(1, b"x"), field(2, name.as_bytes()), field(4, b"Identity")].concat();
        graph.extend([field(1, &node), field(12, &value(name))].concat());
    }
    [vec![0x08, 9], field(7, &graph), field(8, &[0x10, 17])].concat()
}

/// Findings of a trial are as long as the names of a model's outputs.
#[tokio::test(flavor = "multi_thread")]
async fn a_model_of_many_outputs_with_long_names_passes_the_trial() {
    let repository = Repository::new();
    let folder = repository.0.path().join("many/1");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.with_file_name("model.toml"), PLAIN).unwrap();
    let names: Vec<String> = (0..140).map(|number| format!("{number:0500}")).collect();
    std::fs::write(folder.join("model.onnx"), copies(&names, &[2])).unwrap();
    Manifest::write_for(&folder).unwrap();
    let config = repository.config();
    let trial = trial(&config);
    let app = TestApp::with_trial(config, trial).await;
    let answer = app.predict("/predict", r#"{"instances": [[1, 2]]}"#).await;
    assert_eq!(answer.predictions()[0][&names[0]], json!([1.0, 2.0]), "{}", answer.text);
}

/// The message gives the reason why a trial was ended, not instructions for finding out.
#[tokio::test(flavor = "multi_thread")]
async fn a_model_of_a_shape_that_nobody_could_send_is_refused_in_words() {
    let repository = Repository::new().with("plus", 1, "plus_1", PLAIN);
    let folder = repository.0.path().join("huge/1");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.with_file_name("model.toml"), PLAIN).unwrap();
    // 2^62.
    let length = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40];
    std::fs::write(folder.join("model.onnx"), copies(&["y".to_owned()], &length)).unwrap();
    Manifest::write_for(&folder).unwrap();
    let config = repository.config();
    let app = TestApp::with(config).await;
    let overview = app.admin_post("/admin/v1/reload", json!({})).await.json();
    let text = overview.to_string();
    assert!(text.contains("at most 268435456 elements can be sent at one time"), "{text}");
}

/// ONNX Runtime warns in every run of an output that does not have the declared shape.
#[tokio::test(flavor = "multi_thread")]
async fn an_output_of_another_shape_than_the_declared_one_is_logged_once() {
    let repository = Repository::of("misdeclared");
    let server = Server::start(repository.0.path(), &[]);
    for _ in 0..10 {
        let request = client().post(server.url("/predict")).json(&json!({ "instances": [[1.0, 2.0]] }));
        let answer: serde_json::Value = request.send().await.unwrap().json().await.unwrap();
        assert_eq!(answer["predictions"], json!([[1.0, 2.0, 3.0]]), "{answer}");
    }
    server.signal("INT");
    let (_, log) = tokio::task::spawn_blocking(move || server.wait()).await.unwrap();
    assert!(log.contains("stopped") && log.matches("Expected shape from model of").count() <= 1, "{log}");
}
