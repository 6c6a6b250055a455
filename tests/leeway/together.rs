//! Sixteen clients at once, against every model of the tests: each is answered as if it were alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::harness::{Answer, PLAIN, Repository, TestApp, checkout, is_same};

const CLIENTS: usize = 16;
/// Number of requests of each client.
pub(crate) const TURNS: usize = 6;

/// Sixteen clients send requests at the same time, each another one at any moment. Returns the number of each request
/// and its answer.
pub(crate) async fn sixteen_at_once(
    app: &Arc<TestApp>,
    model: &str,
    requests: &[Value],
    turns: usize,
) -> Vec<(usize, Answer)> {
    let requests: Arc<Vec<String>> =
        Arc::new(requests.iter().map(|instances| json!({ "instances": instances }).to_string()).collect());
    let clients = (0..CLIENTS).map(|client| {
        let (app, requests, path) = (Arc::clone(app), Arc::clone(&requests), format!("/v1/models/{model}:predict"));
        tokio::spawn(async move {
            let mut answers = Vec::with_capacity(turns);
            for turn in 0..turns {
                let which = (client + turn * (client + 1)) % requests.len();
                answers.push((which, app.predict(&path, requests[which].clone()).await));
            }
            answers
        })
    });
    let mut answers = Vec::new();
    for client in clients.collect::<Vec<_>>() {
        answers.extend(client.await.unwrap());
    }
    answers
}

/// Folders with models of the tests.
const FOLDERS: [&str; 6] = ["models", "rows", "independent", "classes", "zipmap", "detectors"];

/// Models that answer the same request with other numbers each time, end the process, take much time or memory, or
/// consist of several files, and models without inputs or with sequences, for which no request is made up.
const NOT_COMPARED: [&str; 11] = [
    "random",
    "crash",
    "bomb",
    "hungry",
    "endless",
    "attention",
    "dense",
    "dense_deep",
    "plus_5_external",
    "no_inputs",
    "echo_list",
];

/// Models whose outputs do not have one row per instance: they are served as whole tensors.
const WHOLE_TENSORS: [&str; 9] = [
    "above",
    "constant_beside",
    "not_per_row",
    "state_beside",
    "rt_detr_paddle",
    "torchvision",
    "torchvision_list",
    "torchvision_nothing",
    "yolov7_end2end",
];

/// Models of rows of 14 elements, which their files do not declare.
const OF_14: [&str; 2] = ["of_14", "of_14_dependent"];

/// Number of elements of an instance above which fewer requests are sent: parsing them takes most of the time.
const LARGE: usize = 1_000;

/// Numbers that look random, the same in each run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: u64) -> u64 {
        // The constants of Knuth's MMIX.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn element(&mut self, datatype: &str, scale: f64) -> Value {
        match datatype {
            "bool" => json!(self.next(2) == 1),
            "string" => json!(format!("w{}", self.next(9))),
            _ if datatype.starts_with("float") || datatype == "bfloat16" => {
                json!((self.next(2001) as f64 - 1000.0) / 400.0 * scale)
            }
            _ => json!(self.next(5)),
        }
    }

    /// Nested arrays of this shape.
    fn tensor(&mut self, shape: &[usize], datatype: &str, scale: f64) -> Value {
        let Some((&length, inner)) = shape.split_first() else { return self.element(datatype, scale) };
        (0..length).map(|_| self.tensor(inner, datatype, scale)).collect()
    }
}

/// An input, as a version declares it.
struct Input {
    name: String,
    datatype: String,
    /// The number of rows, if the model fixes it.
    rows: Option<usize>,
    /// Shape of a row. Open dimensions have a length that the model can run.
    row: Vec<usize>,
}

fn inputs_of(model: &str, version: &Value) -> Vec<Input> {
    let open = if OF_14.contains(&model) { 14 } else { 8 };
    let input = |input: &Value| {
        let shape: Vec<i64> = serde_json::from_value(input["shape"].clone()).unwrap();
        Input {
            name: input["name"].as_str().unwrap().to_owned(),
            datatype: input["datatype"].as_str().unwrap().to_owned(),
            rows: usize::try_from(shape[0]).ok(),
            row: shape[1..].iter().map(|&length| usize::try_from(length).unwrap_or(open)).collect(),
        }
    };
    version["inputs"].as_array().unwrap().iter().map(input).collect()
}

/// Returns different requests of one to three instances, or of the batch that the model fixes, in three magnitudes: a
/// dependence between large and small rows is easy to see.
fn made_up_requests(inputs: &[Input]) -> Vec<Value> {
    let mut numbers = Numbers(7);
    let fixed = inputs.iter().filter_map(|input| input.rows).max();
    let is_large = inputs.iter().map(|input| input.row.iter().product::<usize>()).sum::<usize>() > LARGE;
    let mut request = |which: usize| -> Value {
        let scale = [0.1, 1.0, 10.0][which % 3];
        let mut instance = |_| -> Value {
            let part = |input: &Input| (input.name.clone(), numbers.tensor(&input.row, &input.datatype, scale));
            Value::Object(inputs.iter().map(part).collect())
        };
        let instances = if is_large { 1 } else { 1 + which % 3 };
        (0..fixed.unwrap_or(instances)).map(&mut instance).collect()
    };
    (0..if is_large { 2 } else { CLIENTS }).map(&mut request).collect()
}

fn models_of(folder: &str) -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(checkout().join("tests/data").join(folder)).unwrap();
    let path = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().path();
    let mut files: Vec<PathBuf> =
        entries.map(path).filter(|path| path.extension().is_some_and(|extension| extension == "onnx")).collect();
    files.sort();
    let name = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    files.into_iter().map(|path| (name(&path), path)).filter(|(name, _)| !NOT_COMPARED.contains(&&**name)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_clients_at_once_are_answered_by_every_model_as_each_alone() {
    for folder in FOLDERS {
        let (models, repository) = (models_of(folder), Repository::new());
        for (name, file) in &models {
            let rows = if WHOLE_TENSORS.contains(&&**name) { "rows = \"none\"\n" } else { "" };
            repository.add_file(name, 1, file);
            std::fs::write(repository.path().join(name).join("model.toml"), [PLAIN, rows].concat()).unwrap();
        }
        let app = Arc::new(TestApp::with(repository.config()).await);
        for (name, _) in &models {
            let version = app.get(&format!("/v1/models/{name}/versions/1")).await;
            assert_eq!(version.status, 200, "{folder}/{name}: {}", version.text);
            compare(&app, name, &version.json()).await;
        }
    }
}

/// Compares the answers to clients at the same time with those to the same requests alone.
async fn compare(app: &Arc<TestApp>, model: &str, version: &Value) {
    let requests = made_up_requests(&inputs_of(model, version));
    let mut alone = Vec::new();
    for instances in &requests {
        let body = json!({ "instances": instances }).to_string();
        alone.push(app.predict(&format!("/v1/models/{model}:predict"), body).await);
    }
    assert!(alone.iter().any(|answer| answer.status == 200), "{model}: {}", alone[0].text);
    // In shared runs, sums may be rounded in another order.
    let tolerance = if version["batching"]["on"] == true { 1e-5 } else { 0.0 };
    let turns = if requests.len() < CLIENTS { 1 } else { TURNS };
    for (which, answer) in sixteen_at_once(app, model, &requests, turns).await {
        let expected = &alone[which];
        assert_eq!(answer.status, expected.status, "{model}: {}, expected {}", answer.text, expected.text);
        let (found, expected) = (&answer.json()["predictions"], &expected.json()["predictions"]);
        assert!(is_same(found, expected, tolerance), "{model}: {found}, expected {expected}");
    }
}
